//! One manager for a hub and its members: they come, go, and cannot be reached, each by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::join_all;
use http::Method;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Client, client::Body};
use serde_json::json;
use tokio::{sync::oneshot, task::JoinHandle};
use windlass::{
    Action, Controller, Error, Informers, Key, Lease, Manager, ManagerBuilder, Place, Reconcile, Request,
    Rules, Scope, Verbs,
    clusters::{self, ClusterChange, Clusters, Connect, Secrets},
    random::Source,
};

use crate::fake::Fake;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Copies every ConfigMap of the hub into every member that is ready, and notes what it did.
struct Copier {
    members: Clusters,
    done: Arc<Mutex<Vec<String>>>,
}

impl Reconcile<ConfigMap> for Copier {
    async fn reconcile(&self, request: Request<ConfigMap>) -> Result<Action, Error> {
        let Some(map) = request.object else { return Ok(Action::Done) };
        let ready = self.members.members().into_iter().filter(|member| member.ready().is_ok());
        let copies = ready.map(|member| {
            let mut copy = ConfigMap { data: map.data.clone(), ..ConfigMap::default() };
            copy.metadata.name = map.metadata.name.clone();
            copy.metadata.namespace = map.metadata.namespace.clone();
            async move { member.client.apply(&copy).await.map(|_| member.name) }
        });
        for copied in join_all(copies).await {
            self.done.lock().unwrap().push(format!("{} to {}", request.key, copied?));
        }
        Ok(Action::Done)
    }
}

fn all(hub: &Informers) -> Vec<Key> {
    hub.get::<ConfigMap>(Scope::all()).lister().all().iter().map(|map| Key::of(&**map)).collect()
}

/// A manager that copies.
fn copier(
    hub: Client,
    provider: impl clusters::Provider,
) -> (ManagerBuilder, Clusters, Arc<Mutex<Vec<String>>>) {
    let members = Clusters::new(provider).may::<ConfigMap>(&Scope::all(), Verbs::APPLY);
    let mut manager = Manager::guarded(hub, Source::seeded(7));
    let done = Arc::<Mutex<Vec<String>>>::default();
    let controller = Controller::<ConfigMap>::new("copier")
        .clusters(&members, |change, hub| match change {
            ClusterChange::Ready(_) => all(hub),
            _ => Vec::new(),
        })
        .watches_members::<ConfigMap, _>(&members, Scope::all(), |_, delta, _| Some(delta.key()));
    manager.add(controller.build(Copier { members: members.clone(), done: done.clone() }));
    (manager, members, done)
}

fn run(manager: ManagerBuilder) -> (oneshot::Sender<()>, JoinHandle<()>) {
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let _ = manager.build().run(async { drop(stopped.await) }).await;
    });
    (stop, task)
}

fn data(fake: &Fake, name: &str) -> String {
    let map = fake.get(&format!("{MAPS}/{name}")).unwrap_or_default();
    map["data"]["n"].as_str().unwrap_or("none").to_owned()
}

fn put(fake: &Fake, name: &str, n: &str) {
    fake.put(&format!("{MAPS}/{name}"), json!({"data": {"n": n}}));
}

/// A cluster that takes connections and never answers.
fn silent() -> Client {
    let service = tower::service_fn(|_: http::Request<Body>| {
        std::future::pending::<Result<http::Response<Body>, Infallible>>()
    });
    Client::new(service, "default")
}

fn named() -> ConfigMap {
    let mut map = ConfigMap::default();
    map.metadata.name = Some("a".to_owned());
    map
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn members_come_and_go() {
    let (hub, east, west) = (Fake::new(), Fake::new(), Fake::new());
    put(&hub, "a", "1");
    let (sender, provider) = clusters::channel();
    sender.join("east", east.client(), BTreeMap::new());
    let (manager, members, _) = copier(hub.client(), provider);
    let metrics = manager.metrics().clone();
    let _running = run(manager);
    seconds(5).await;
    assert_eq!((data(&east, "a"), data(&west, "a")), ("1".into(), "none".into()));

    sender.join("west", west.client(), [("tier".to_owned(), "edge".to_owned())].into());
    seconds(5).await;
    assert_eq!(data(&west, "a"), "1");
    assert_eq!(members.get("west").unwrap().labels["tier"], "edge");
    put(&west, "a", "changed by somebody");
    seconds(5).await;
    assert_eq!(data(&west, "a"), "1", "a change in a member is a trigger");
    let text = metrics.render();
    assert!(
        text.contains("rest_client_requests_total{cluster=\"west\",code=\"200\",method=\"PATCH\"}"),
        "{text}"
    );
    assert!(text.ends_with("# EOF\n") && text.matches("# TYPE rest_client_requests ").count() == 1, "{text}");

    sender.leave("east");
    put(&hub, "a", "2");
    seconds(5).await;
    assert_eq!((data(&east, "a"), data(&west, "a")), ("1".into(), "2".into()));
    let asked = east.log().len();
    seconds(3600).await;
    assert_eq!(east.log().len(), asked, "a cluster that left is left alone");
    assert!(!metrics.render().contains("cluster=\"east\""));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_silent_costs_the_others_nothing() {
    let (hub, east) = (Fake::new(), Fake::new());
    let (sender, provider) = clusters::channel();
    sender.join("dead", silent(), BTreeMap::new());
    sender.join("east", east.client(), BTreeMap::new());
    let (manager, members, done) = copier(hub.client(), provider);
    let _running = run(manager);
    seconds(3).await;
    for n in 0..100 {
        put(&hub, &format!("map-{n}"), "1");
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let copied: BTreeSet<String> = done.lock().unwrap().iter().cloned().collect();
    assert_eq!(copied.iter().filter(|line| line.ends_with("to east")).count(), 100);
    seconds(20).await;
    let why = members.get("dead").unwrap().ready().unwrap_err();
    assert_eq!(why, "it did not answer within 10s");

    // A request that is sent all the same ends.
    let begun = tokio::time::Instant::now();
    let error = members.get("dead").unwrap().client.apply(&named()).await.unwrap_err();
    assert!(windlass::sentence(&error).contains("the cluster did not answer within 15s"), "{error}");
    assert_eq!(begun.elapsed(), Duration::from_secs(15));
}

#[tokio::test(start_paused = true)]
async fn one_that_falls_silent_and_answers_again_is_brought_up_to_date() {
    let (hub, east) = (Fake::new(), Fake::new());
    put(&hub, "a", "1");
    let (sender, provider) = clusters::channel();
    sender.join("east", east.client(), BTreeMap::new());
    let (manager, members, _) = copier(hub.client(), provider);
    let _running = run(manager);
    seconds(5).await;
    east.fail(Method::GET, "/", 503, 40);
    east.drop_watches();
    seconds(60).await;
    assert!(members.get("east").unwrap().ready().is_err());
    put(&hub, "a", "2");
    seconds(5).await;
    assert_eq!(data(&east, "a"), "1");
    seconds(1800).await;
    assert_eq!((data(&east, "a"), members.get("east").unwrap().ready()), ("2".into(), Ok(())));
}

/// Notes in which member it was asked.
struct Noting(Arc<Mutex<Vec<String>>>);

impl Reconcile<ConfigMap> for Noting {
    async fn reconcile(&self, request: Request<ConfigMap>) -> Result<Action, Error> {
        let cluster = request.cluster.as_deref().unwrap_or("hub");
        self.0.lock().unwrap().push(format!("{} in {cluster}", request.key));
        if request.key.name() == "secretive" {
            let secret = Secret { metadata: request.object.unwrap().metadata.clone(), ..Secret::default() };
            request.client.create(&secret).await?;
        }
        Ok(Action::Done)
    }
}

#[tokio::test(start_paused = true)]
async fn a_controller_runs_on_each_member_with_rights_of_its_own() {
    let (hub, east, west) = (Fake::new(), Fake::new(), Fake::new());
    put(&east, "a", "1");
    put(&west, "a", "1");
    put(&west, "secretive", "1");
    let done = Arc::<Mutex<Vec<String>>>::default();
    let (sender, provider) = clusters::channel();
    sender.join("east", east.client(), BTreeMap::new());
    sender.join("west", west.client(), BTreeMap::new());
    let noted = done.clone();
    let members = Clusters::new(provider).with(move |manager| {
        manager.add(Controller::<ConfigMap>::new("noting").build(Noting(noted.clone())));
    });
    let mut manager = Manager::guarded(hub.client(), Source::seeded(7));
    manager.add(members.clone());
    let hubs = manager.rules();
    assert_eq!(hubs, Rules::default(), "nothing is done in the hub");
    let verbs = members.description("noting").rules.verbs(Some("x"), "", "configmaps", None);
    assert_eq!(verbs, Verbs::READ);
    assert_eq!(members.description("noting").rbac("fleet").len(), 3);
    let metrics = manager.metrics().clone();
    let _running = run(manager);
    seconds(5).await;
    let mut lines = done.lock().unwrap().clone();
    lines.sort();
    lines.dedup();
    assert_eq!(lines, ["default/a in east", "default/a in west", "default/secretive in west"]);
    let failures = metrics.failures();
    assert_eq!((failures.len(), failures[0].controller.as_str()), (1, "noting in west"));
    assert!(failures[0].error.contains("nothing registered that this operator may create secrets"));
}

#[tokio::test(start_paused = true)]
async fn members_are_found_in_secrets_and_follow_the_leader() {
    let (hub, east) = (Fake::new(), Fake::new());
    let secrets = "/api/v1/namespaces/fleet/secrets";
    let kubeconfig = "YXBpVmVyc2lvbjogdjEKa2luZDogQ29uZmlnCg==";
    hub.put(&format!("{secrets}/broken"), json!({"data": {"kubeconfig": "e3t7"}}));
    hub.put(&format!("{secrets}/east"), json!({"data": {"value": kubeconfig}}));
    put(&hub, "a", "1");
    let cluster = east.clone();
    let connect: Connect = Arc::new(move |_| {
        let client = cluster.client();
        Box::pin(async move { Ok(client) })
    });
    let (manager, members, _) = copier(hub.client(), Secrets::new("fleet").connecting(connect));
    let rules = manager.rules();
    assert_eq!(rules.verbs(Some("fleet"), "", "secrets", None), Verbs::READ);
    assert_eq!(rules.verbs(Some("other"), "", "secrets", None), Verbs::default());
    assert!(!rules.places().contains(&Place::Own), "{rules:?}");
    let (stop, task) = run(manager.leader_election(Lease::new("fleet", "copier", "one")));
    seconds(5).await;
    assert_eq!(members.members().iter().map(|m| m.name.to_string()).collect::<Vec<_>>(), ["east"]);
    assert_eq!(data(&east, "a"), "1");

    hub.fail(Method::GET, "leases/copier", 500, 8);
    seconds(13).await;
    let asked = east.log().len();
    put(&hub, "a", "2");
    seconds(2).await;
    assert_eq!(
        (data(&east, "a"), east.log().len()),
        ("1".into(), asked),
        "who does not lead lets members alone"
    );
    seconds(30).await;
    assert_eq!(data(&east, "a"), "2");

    hub.remove(&format!("{secrets}/east"));
    seconds(5).await;
    assert!(members.members().is_empty());
    drop(stop);
    task.await.unwrap();
}

#[tokio::test]
async fn members_are_found_in_files() {
    let folder = std::env::temp_dir().join(format!("windlass-clusters-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("east.kubeconfig"), "apiVersion: v1\nkind: Config\n").unwrap();
    std::fs::write(folder.join(".hidden"), "not one").unwrap();
    std::fs::write(folder.join("broken.yaml"), "- [").unwrap();
    let (hub, east) = (Fake::new(), Fake::new());
    let connect: Connect = Arc::new(move |_| {
        let client = east.client();
        Box::pin(async move { Ok(client) })
    });
    let (manager, members, _) = copier(hub.client(), clusters::Files::new(&folder).connecting(connect));
    let _running = run(manager);
    for _ in 0..200 {
        if !members.members().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let names: Vec<String> = members.members().iter().map(|member| member.name.to_string()).collect();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(names, ["east"]);
}
