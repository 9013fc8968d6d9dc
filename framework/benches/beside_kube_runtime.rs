//! The same work on this framework and on kube-runtime, one after the other in one run: reconciles of nothing, pods kept
//! in memory, watch events taken in. Ratios are what counts; the machine's speed cancels out.
//!
//! `cargo bench -p windlass --bench beside_kube_runtime [-- FILTER]`

use std::{
    collections::BTreeMap,
    convert::Infallible,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{DynamicObject, ObjectMeta},
    client::Body,
    runtime::{self, WatchStreamExt, controller::Action as TheirAction, reflector, watcher},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use windlass::{
    Action, Add, Backoff, ByOwner, Controller, Error, Fair, Informers, Key, Manager, Outcome, Projection,
    Queue, Reconcile, Scope,
};

/// Objects that are reconciled again and again.
const OBJECTS: usize = 10_000;
/// How long each side reconciles.
const SPAN: Duration = Duration::from_secs(3);
/// Objects of a page, as both sides ask for.
const PAGE: usize = 500;
/// Pods kept in memory.
const PODS: usize = 20_000;
/// What an answer takes where reconciles wait for one.
const ANSWER: Duration = Duration::from_millis(5);
/// Lookups in an index.
const LOOKUPS: usize = 200_000;
/// Watch events taken in.
const EVENTS: usize = 60_000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    if let [mode, side] = &args[..]
        && mode == "resident"
    {
        println!("{}", runtime().block_on(resident(side)));
        // Nothing is left to do, and taking a runtime down is not what is measured.
        std::process::exit(0);
    }
    let wanted = |name: &str| args.first().is_none_or(|filter| name.contains(filter.as_str()));
    println!("a pod is {} bytes of JSON", pod(1, 1).to_string().len());
    println!("{:<38}{:>14}{:>14}{:>10}", "", "windlass", "kube-runtime", "ratio");
    for (name, at_once, answer) in [
        ("reconciles of nothing, 1/s", 16, Duration::ZERO),
        ("reconciles of 5 ms, 100 at once, 1/s", 100, ANSWER),
    ] {
        if wanted(name) {
            let ours = runtime().block_on(our_reconciles(at_once.into(), answer));
            let theirs = runtime().block_on(their_reconciles(at_once, answer));
            report(name, ours, theirs, ours / theirs);
        }
    }
    if wanted("lookup") {
        let (ours, theirs) = (runtime().block_on(our_lookups()), runtime().block_on(their_lookups()));
        report("lookup of an owner's pods, ns", ours, theirs, theirs / ours);
    }
    if wanted("queue") {
        println!("{:<38}{:>14.0}", "queue: add, get and done, 1/s", runtime().block_on(queue()));
    }
    if wanted("events") {
        let (ours, theirs) = (runtime().block_on(our_events()), runtime().block_on(their_events()));
        report("watch events taken in, 1/s", ours, theirs, ours / theirs);
    }
    if wanted("resident") {
        for (name, ours, theirs) in [
            ("pod", "ours", "theirs"),
            ("pod's metadata", "ours-meta", "theirs-meta"),
            ("pod's node", "ours-node", "theirs-node"),
        ] {
            let (ours, theirs) = (measured(ours), measured(theirs));
            report(&format!("resident bytes of a cached {name}"), ours, theirs, theirs / ours);
        }
    }
}

fn report(name: &str, ours: f64, theirs: f64, ratio: f64) {
    println!("{name:<38}{ours:>14.0}{theirs:>14.0}{ratio:>9.2}x");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// A pod as a cluster has them: about five kilobytes, nearly half of it managed fields.
fn pod(i: usize, revision: usize) -> Value {
    let fields: BTreeMap<String, Value> = (0..15)
        .map(|f| {
            (
                format!("f:field{f}"),
                json!({"f:a": {}, "f:b": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}}}}),
            )
        })
        .collect();
    let entry = |manager: &str| {
        json!({"manager": manager, "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
               "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:spec": fields}})
    };
    let env: Vec<Value> =
        (0..8).map(|e| json!({"name": format!("VARIABLE_{e}"), "value": format!("value-{e}")})).collect();
    let container = json!({
        "name": "web", "image": "registry.example.com/team/web:1.2.3", "env": env,
        "ports": [{"containerPort": 8080, "name": "http", "protocol": "TCP"}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/config"}, {"name": "token", "mountPath": "/var/run/secrets"}],
        "terminationMessagePath": "/dev/termination-log", "imagePullPolicy": "IfNotPresent",
    });
    let condition =
        |name: &str| json!({"type": name, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("web-{i}"), "namespace": format!("ns-{}", i % 50), "uid": format!("00000000-0000-0000-0000-{i:012}"),
            "resourceVersion": revision.to_string(), "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": "web", "pod-template-hash": "5d4f8c7b9", "team": "platform"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4f8c7b9",
                                 "uid": format!("rs-{}", i % 1000), "controller": true, "blockOwnerDeletion": true}],
            "managedFields": [entry("kube-controller-manager"), entry("kubelet")],
        },
        "spec": {
            "nodeName": format!("node-{}", i % 100), "containers": [container], "restartPolicy": "Always",
            "volumes": [{"name": "config", "configMap": {"name": "web"}}, {"name": "token", "projected": {"sources": []}}],
            "serviceAccountName": "default", "schedulerName": "default-scheduler",
        },
        "status": {
            "phase": "Running", "podIP": "10.244.0.1", "hostIP": "192.168.0.1",
            "conditions": (["Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition)),
        },
    })
}

/// A server of a fixed list and a fixed run of watch events.
fn server(pods: usize, events: usize) -> Client {
    let items: Arc<Vec<Value>> = Arc::new((0..pods).map(|i| pod(i, i + 1)).collect());
    let frames: Arc<Vec<Bytes>> = Arc::new(
        (0..events)
            .map(|i| {
                let object = pod(i % pods, pods + i + 1);
                Bytes::from(format!("{{\"type\":\"MODIFIED\",\"object\":{object}}}\n"))
            })
            .collect(),
    );
    let service = tower::service_fn(move |request: Request<Body>| {
        let (items, frames) = (items.clone(), frames.clone());
        async move { Ok::<_, Infallible>(answer(request.uri().query().unwrap_or_default(), &items, &frames)) }
    });
    Client::new(service, "default")
}

fn answer(
    query: &str,
    items: &Arc<Vec<Value>>,
    frames: &Arc<Vec<Bytes>>,
) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    if query.contains("sendInitialEvents") {
        let refusal = json!({"kind": "Status", "status": "Failure", "code": 422, "reason": "Invalid"});
        return reply(422, stream::iter([Bytes::from(refusal.to_string())]));
    }
    if query.contains("watch=") {
        let frames = frames.clone();
        let events = stream::iter((0..frames.len()).map(move |i| frames[i].clone()));
        return reply(200, events.chain(stream::pending()));
    }
    let number = |name: &str| -> Option<usize> {
        query.split('&').filter_map(|pair| pair.split_once('=')).find(|(k, _)| *k == name)?.1.parse().ok()
    };
    let (skip, limit) = (number("continue").unwrap_or(0), number("limit").unwrap_or(usize::MAX));
    let page = &items[skip..items.len().min(skip.saturating_add(limit))];
    let next = if skip + page.len() < items.len() { (skip + page.len()).to_string() } else { String::new() };
    let list = json!({
        "kind": "PodList", "apiVersion": "v1",
        "metadata": {"resourceVersion": items.len().to_string(), "continue": next},
        "items": page,
    });
    reply(200, stream::iter([Bytes::from(list.to_string())]))
}

fn reply(
    code: u16,
    body: impl futures::Stream<Item = Bytes> + Send + 'static,
) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let body = StreamBody::new(body.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes))));
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = http::StatusCode::from_u16(code).expect("a status code");
    response
}

/// Waits as for an answer, if it takes any time, and asks to be called again at once.
struct Works {
    count: Arc<AtomicU64>,
    answer: Duration,
}

impl Reconcile<Pod> for Works {
    async fn reconcile(&self, _: windlass::Request<Pod>) -> Result<Action, Error> {
        if !self.answer.is_zero() {
            tokio::time::sleep(self.answer).await;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(Action::RequeueAfter(Duration::ZERO))
    }
}

async fn our_reconciles(at_once: usize, answer: Duration) -> f64 {
    let count = Arc::new(AtomicU64::new(0));
    let mut builder = Manager::builder(server(OBJECTS, 0));
    let pods = builder.informers().get::<Pod>(Scope::all());
    let works = Works { count: count.clone(), answer };
    builder.add(Controller::<Pod>::new("works").workers(at_once).build(works));
    let manager = tokio::spawn(builder.build().run(std::future::pending()));
    pods.synced().await;
    let rate = rate(&count).await;
    manager.abort();
    rate
}

async fn their_reconciles(at_once: u16, answer: Duration) -> f64 {
    // Lives as long as the program: nothing is counted against them but the work.
    let count: &'static AtomicU64 = Box::leak(Box::default());
    let config = runtime::controller::Config::default().concurrency(at_once);
    let controller =
        runtime::Controller::new(Api::<Pod>::all(server(OBJECTS, 0)), watcher::Config::default())
            .with_config(config)
            .run(
                move |_, _| async move {
                    if !answer.is_zero() {
                        tokio::time::sleep(answer).await;
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                    Ok::<_, Infallible>(TheirAction::requeue(Duration::ZERO))
                },
                |_, _, _| TheirAction::await_change(),
                Arc::new(()),
            );
    let task = tokio::spawn(controller.for_each(|_| std::future::ready(())));
    while count.load(Ordering::Relaxed) < OBJECTS as u64 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let rate = rate(count).await;
    task.abort();
    rate
}

/// Nanoseconds of one lookup of the ten pods of an owner among ten thousand.
async fn our_lookups() -> f64 {
    let informers = Informers::new(server(OBJECTS, 0));
    let pods = informers.get::<Pod>(Scope::all());
    let by_owner = pods.index(ByOwner);
    pods.synced().await;
    let owners: Vec<String> = (0..1000).map(|i| format!("rs-{i}")).collect();
    let begun = Instant::now();
    let found: usize = owners.iter().cycle().take(LOOKUPS).map(|owner| by_owner.keys(owner).len()).sum();
    assert_eq!(found, LOOKUPS * 10);
    begun.elapsed().as_nanos() as f64 / LOOKUPS as f64
}

/// The same by a scan, which is what kube-runtime's store offers.
async fn their_lookups() -> f64 {
    let (store, writer) = their_store(Api::all(server(OBJECTS, 0))).await;
    let owns = |pod: &Pod, uid: &str| pod.owner_references().iter().any(|o| o.uid == uid);
    let lookups = LOOKUPS / 1000;
    let begun = Instant::now();
    for i in 0..lookups {
        let uid = format!("rs-{}", i % 1000);
        let found = store.state().into_iter().filter(|pod| owns(pod, &uid)).count();
        assert_eq!(found, 10);
    }
    let each = begun.elapsed().as_nanos() as f64 / lookups as f64;
    writer.abort();
    each
}

/// Items that go through a queue one after the other, a thousand at a time.
async fn queue() -> f64 {
    let queue: Fair<Key> = Fair::new(Backoff::default());
    let keys: Vec<Key> =
        (0..1000).map(|i| Key::new(Some(&format!("ns-{}", i % 10)), &format!("web-{i}"))).collect();
    let (begun, rounds) = (Instant::now(), 1000);
    for _ in 0..rounds {
        keys.iter().for_each(|key| queue.add(key.clone(), Add::default()));
        for _ in &keys {
            let work = queue.get().await.expect("it is open");
            queue.done(&work.item, Outcome::Ok);
        }
    }
    (rounds * keys.len()) as f64 / begun.elapsed().as_secs_f64()
}

async fn rate(count: &AtomicU64) -> f64 {
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (before, begun) = (count.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(SPAN).await;
    (count.load(Ordering::Relaxed) - before) as f64 / begun.elapsed().as_secs_f64()
}

async fn our_events() -> f64 {
    let informers = Informers::new(server(1000, EVENTS));
    let begun = Instant::now();
    let pods = informers.get::<Pod>(Scope::all());
    pods.reached(None, (1000 + EVENTS) as u64).await;
    EVENTS as f64 / begun.elapsed().as_secs_f64()
}

async fn their_events() -> f64 {
    let (_store, writer) = reflector::store::<Pod>();
    let last = (1000 + EVENTS).to_string();
    let begun = Instant::now();
    let events = watcher(Api::<Pod>::all(server(1000, EVENTS)), watcher::Config::default()).default_backoff();
    let mut objects = Box::pin(events.reflect(writer).applied_objects());
    while let Some(Ok(pod)) = objects.next().await {
        if pod.resource_version().is_some_and(|revision| revision == last) {
            break;
        }
    }
    EVENTS as f64 / begun.elapsed().as_secs_f64()
}

/// Runs one side in a process of its own, whose memory nobody else has touched.
fn measured(side: &str) -> f64 {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program).args(["resident", side]).output().expect("a child of this program");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number of bytes")
}

async fn resident(side: &str) -> f64 {
    let client = paged_from_bytes();
    let before = resident_bytes();
    let keep: Box<dyn std::any::Any> = match side {
        "ours" => {
            let pods = Informers::new(client).get::<Pod>(Scope::all());
            pods.synced().await;
            assert_eq!(pods.lister().len(), PODS);
            assert!(pods.get(&Key::new(Some("ns-7"), "web-7")).is_some());
            Box::new(pods)
        }
        "ours-meta" => {
            let kind = kube::api::ApiResource::erase::<Pod>(&());
            let pods = Informers::new(client).metadata(&kind, Scope::all());
            pods.synced().await;
            Box::new(pods)
        }
        "ours-node" => {
            let pods = Informers::new(client).projected::<Placement>(Scope::all());
            pods.synced().await;
            let pod = pods.get(&Key::new(Some("ns-7"), "web-7")).expect("a pod");
            assert!(pod.spec.node_name.is_some());
            Box::new(pods)
        }
        "theirs-node" => {
            let (store, writer) = reflector::store();
            let api: Api<PlacedPod> = Api::all(client);
            let events = watcher(api, watcher::Config::default()).default_backoff().modify(|pod| {
                pod.managed_fields_mut().clear();
                pod.annotations_mut().clear();
            });
            let task = tokio::spawn(events.reflect(writer).for_each(|_| std::future::ready(())));
            store.wait_until_ready().await.expect("the list");
            Box::new((store, task))
        }
        "theirs" => Box::new(their_store(Api::<Pod>::all(client)).await),
        _ => {
            let kind = kube::api::ApiResource::erase::<Pod>(&());
            let api: Api<kube::core::PartialObjectMeta<DynamicObject>> = Api::all_with(client, &kind);
            let writer = reflector::store::Writer::new(kind);
            let store = writer.as_reader();
            let events = watcher(api, watcher::Config::default()).default_backoff().reflect(writer);
            let task = tokio::spawn(events.for_each(|_| std::future::ready(())));
            store.wait_until_ready().await.expect("the list");
            Box::new((store, task))
        }
    };
    let bytes = (resident_bytes() - before) / PODS as f64;
    drop(keep);
    bytes
}

/// Where a pod runs, and nothing else of it.
#[derive(Clone, Debug, Deserialize)]
struct Placement {
    spec: PlacementSpec,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PlacementSpec {
    node_name: Option<String>,
}

impl Projection for Placement {
    type Kind = Pod;
}

/// The same, as kube-runtime takes it.
#[derive(Clone, Debug, Deserialize, kube::Resource)]
#[resource(inherit = Pod)]
struct PlacedPod {
    metadata: ObjectMeta,
    #[expect(dead_code, reason = "kept, not read")]
    spec: PlacementSpec,
}

async fn their_store(api: Api<Pod>) -> (reflector::Store<Pod>, tokio::task::JoinHandle<()>) {
    let (store, writer) = reflector::store();
    let events = watcher(api, watcher::Config::default()).default_backoff().reflect(writer);
    let task = tokio::spawn(events.for_each(|_| std::future::ready(())));
    store.wait_until_ready().await.expect("the list");
    (store, task)
}

/// A server of pages that were made before anything is measured.
fn paged_from_bytes() -> Client {
    let page = |skip: usize| {
        let end = PODS.min(skip + PAGE);
        let items: Vec<Value> = (skip..end).map(|i| pod(i, i + 1)).collect();
        let next = if end < PODS { end.to_string() } else { String::new() };
        let list = json!({
            "kind": "PodList", "apiVersion": "v1",
            "metadata": {"resourceVersion": PODS.to_string(), "continue": next},
            "items": items,
        });
        Bytes::from(list.to_string())
    };
    let pages: Arc<Vec<Bytes>> = Arc::new((0..PODS).step_by(PAGE).map(page).collect());
    let service = tower::service_fn(move |request: Request<Body>| {
        let pages = pages.clone();
        async move {
            let query = request.uri().query().unwrap_or_default();
            if query.contains("sendInitialEvents") || query.contains("watch=") {
                return Ok::<_, Infallible>(answer(query, &Arc::default(), &Arc::default()));
            }
            let skip = query.split('&').find_map(|pair| pair.strip_prefix("continue="));
            let skip: usize = skip.and_then(|text| text.parse().ok()).unwrap_or(0);
            Ok(reply(200, stream::iter([pages[skip / PAGE].clone()])))
        }
    });
    Client::new(service, "default")
}

fn resident_bytes() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: f64 = statm.split(' ').nth(1).and_then(|text| text.parse().ok()).expect("a number of pages");
    pages * 4096.0
}
