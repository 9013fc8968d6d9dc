//! Controllers from trigger to write.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Method;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::ObjectMeta;
use parking_lot::Mutex;
use serde_json::json;
use tokio::{sync::oneshot, time::Instant};
use windlass::{
    Action, ByOwner, Controller, Error, EventType, Finalized, Indexed, Manager, Object, Reconcile, Request,
    Scope, controller_ref, random::Source,
};

use crate::fake::Fake;

/// Runs a manager until the test drops the handle.
pub(crate) struct Running {
    _stop: oneshot::Sender<()>,
}

pub(crate) fn run(manager: Manager) -> Running {
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let _ = manager.run(async { drop(stopped.await) }).await;
    });
    Running { _stop: stop }
}

/// A reconciler from a function.
pub(crate) struct Each<F>(pub(crate) F);

impl<K, F, T> Reconcile<K> for Each<F>
where
    K: Object,
    F: Fn(Request<K>) -> T + Send + Sync + 'static,
    T: Future<Output = Result<Action, Error>> + Send,
{
    fn reconcile(&self, request: Request<K>) -> impl Future<Output = Result<Action, Error>> + Send {
        (self.0)(request)
    }
}

fn cm(ns: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{ns}/configmaps/{name}")
}

/// Keeps as many Secrets as a ConfigMap asks for, and counts how often it ran.
struct Replicas {
    secrets: Indexed<Secret, ByOwner>,
    runs: Arc<AtomicUsize>,
}

impl Reconcile<ConfigMap> for Replicas {
    async fn reconcile(&self, request: Request<ConfigMap>) -> Result<Action, Error> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let Some(owner) = request.object else { return Ok(Action::Done) };
        let wanted: usize = owner.data.as_ref().and_then(|d| d.get("replicas")?.parse().ok()).unwrap_or(0);
        let have = self.secrets.get(owner.metadata.uid.as_deref().unwrap_or_default());
        for _ in have.len()..wanted {
            let metadata = ObjectMeta {
                namespace: owner.metadata.namespace.clone(),
                generate_name: Some("s-".into()),
                owner_references: Some(vec![controller_ref(&*owner)]),
                ..ObjectMeta::default()
            };
            request.client.create(&Secret { metadata, ..Secret::default() }).await?;
        }
        for extra in have.iter().skip(wanted) {
            request.client.delete(&**extra).await?;
        }
        Ok(Action::Done)
    }
}

fn replicas(fake: &Fake) -> (Running, Arc<AtomicUsize>) {
    let mut builder = Manager::seeded(fake.client(), Source::seeded(1));
    let secrets = builder.informers().get::<Secret>(Scope::all()).index(ByOwner);
    let runs = Arc::new(AtomicUsize::new(0));
    let reconcile = Replicas { secrets, runs: runs.clone() };
    builder.add(Controller::<ConfigMap>::new("replicas").owns::<Secret>().workers(4).build(reconcile));
    (run(builder.build()), runs)
}

#[tokio::test(start_paused = true)]
async fn own_writes_are_seen_by_the_next_reconcile() {
    let fake = Fake::new();
    let (_running, _) = replicas(&fake);
    // The watch of what the controller creates lags for seconds while its own object keeps changing.
    for round in 0..10 {
        fake.stall("/api/v1/secrets", true);
        for i in 0..20 {
            let labels = json!({"round": round.to_string(), "i": i.to_string()});
            fake.put(&cm("default", "a"), json!({"metadata": {"labels": labels}, "data": {"replicas": "3"}}));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        fake.stall("/api/v1/secrets", false);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(fake.all("/api/v1/secrets").len(), 3, "round {round}");
    }
    fake.put(&cm("default", "a"), json!({"data": {"replicas": "1"}}));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fake.all("/api/v1/secrets").len(), 1);
    let name = fake.all("/api/v1/secrets")[0]["metadata"]["name"].as_str().unwrap().to_owned();
    fake.remove(&format!("/api/v1/namespaces/default/secrets/{name}"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fake.all("/api/v1/secrets").len(), 1, "a lost child is made again");
}

#[tokio::test(start_paused = true)]
async fn an_idle_controller_does_nothing() {
    let fake = Fake::new();
    fake.put(&cm("default", "a"), json!({"data": {"replicas": "2"}}));
    let (_running, runs) = replicas(&fake);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let before = runs.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(runs.load(Ordering::SeqCst), before);
}

#[tokio::test(start_paused = true)]
async fn failures_panics_and_timeouts_stay_with_their_key() {
    let fake = Fake::new();
    for name in ["good", "fails", "panics", "hangs", "terminal", "later"] {
        fake.put(&cm("default", name), json!({}));
    }
    let runs: Arc<Mutex<BTreeMap<String, Vec<Instant>>>> = Arc::default();
    let log = runs.clone();
    let mut builder = Manager::seeded(fake.client(), Source::seeded(1));
    let metrics = builder.metrics().clone();
    let reconcile = Each(move |request: Request<ConfigMap>| {
        let log = log.clone();
        async move {
            let name = request.key.name().to_owned();
            log.lock().entry(name.clone()).or_default().push(Instant::now());
            match name.as_str() {
                "fails" => Err(Error::Other("broken".into())),
                "panics" => panic!("a bug"),
                "hangs" => std::future::pending().await,
                "terminal" => Err(Error::terminal("hopeless")),
                "later" => Ok(Action::RequeueAfter(Duration::from_secs(10))),
                _ => Ok(Action::Done),
            }
        }
    });
    let controller = Controller::<ConfigMap>::new("isolated").workers(2).timeout(Duration::from_secs(5));
    builder.add(controller.build(reconcile));
    let _running = run(builder.build());
    tokio::time::sleep(Duration::from_millis(60_500)).await;
    let count = |name: &str| runs.lock()[name].len();
    assert_eq!((count("good"), count("terminal")), (1, 1));
    assert_eq!(count("later"), 7);
    assert!((10..=15).contains(&count("fails")) && (10..=15).contains(&count("panics")), "{:?}", runs.lock());
    assert!((8..=12).contains(&count("hangs")), "each try takes five seconds: {}", count("hangs"));
    fake.put(&cm("default", "terminal"), json!({"data": {"x": "1"}}));
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(count("terminal"), 2, "a change is a new chance");
    let failing: Vec<String> =
        metrics.failures().iter().map(|f| format!("{} {}: {}", f.controller, f.key, f.error)).collect();
    assert_eq!(
        failing,
        [
            "isolated default/fails: broken",
            "isolated default/hangs: it did not end within 5s",
            "isolated default/panics: it panicked: a bug",
            "isolated default/terminal: terminal: hopeless",
        ]
    );
    let text = metrics.render();
    for line in [
        "controller_runtime_terminal_reconcile_errors_total{controller=\"isolated\"} 2",
        "controller_runtime_max_concurrent_reconciles{controller=\"isolated\"} 2",
        "workqueue_depth{name=\"isolated\",controller=\"isolated\"} 0",
    ] {
        assert!(text.contains(line), "{line} is missing:\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn finalizers_hold_an_object_until_it_is_cleaned_up() {
    let fake = Fake::new();
    fake.put(&cm("default", "a"), json!({"metadata": {"finalizers": ["other/one"]}}));
    let cleaned = Arc::new(AtomicUsize::new(0));
    let count = cleaned.clone();
    let cleanup = Each(move |_: Request<ConfigMap>| {
        let again = count.fetch_add(1, Ordering::SeqCst) == 0;
        async move { Ok(if again { Action::RequeueAfter(Duration::from_secs(5)) } else { Action::Done }) }
    });
    let reconcile = Each(|_: Request<ConfigMap>| async { Ok(Action::Done) });
    let mut builder = Manager::seeded(fake.client(), Source::seeded(1));
    let finalized = Finalized { name: "x.dev/clean", reconcile, cleanup };
    builder.add(Controller::<ConfigMap>::new("finalized").build(finalized));
    let _running = run(builder.build());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let finalizers = || fake.get(&cm("default", "a")).map(|o| o["metadata"]["finalizers"].clone());
    assert_eq!(finalizers(), Some(json!(["other/one", "x.dev/clean"])));
    let mut object = fake.get(&cm("default", "a")).unwrap();
    object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    fake.put(&cm("default", "a"), object);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(finalizers(), Some(json!(["other/one", "x.dev/clean"])), "not clean yet");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(finalizers(), Some(json!(["other/one"])));
    assert_eq!(cleaned.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn applies_that_change_nothing_are_not_sent() {
    let fake = Fake::new();
    fake.put(&cm("default", "a"), json!({"data": {"v": "1"}}));
    let mut builder = Manager::seeded(fake.client(), Source::seeded(1));
    let secrets = builder.informers().get::<Secret>(Scope::all());
    let reconcile = Each(|request: Request<ConfigMap>| async move {
        let metadata = ObjectMeta {
            name: Some("copy".into()),
            namespace: Some("default".into()),
            ..ObjectMeta::default()
        };
        let string_data = request.object.as_ref().and_then(|cm| cm.data.clone());
        request.client.apply(&Secret { metadata, string_data, ..Secret::default() }).await?;
        Ok(Action::RequeueAfter(Duration::from_secs(1)))
    });
    builder.add(Controller::<ConfigMap>::new("applies").reads(&secrets).build(reconcile));
    let _running = run(builder.build());
    tokio::time::sleep(Duration::from_secs(20)).await;
    let applies = || fake.log().iter().filter(|l| l.starts_with("PATCH")).count();
    assert_eq!(applies(), 1);
    fake.put(&cm("default", "a"), json!({"data": {"v": "2"}}));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(applies(), 2, "other content");
    fake.put("/api/v1/namespaces/default/secrets/copy", json!({"data": {"by": "hand"}}));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(applies(), 3, "somebody else changed it");
}

#[tokio::test(start_paused = true)]
async fn the_queue_takes_namespaces_in_turn_and_new_changes_before_old_ones() {
    let fake = Fake::new();
    for i in 0..50 {
        fake.put(&cm("crowded", &format!("c{i:02}")), json!({}));
    }
    fake.put(&cm("quiet", "q"), json!({}));
    let order: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = order.clone();
    let reconcile = Each(move |request: Request<ConfigMap>| {
        let log = log.clone();
        async move {
            log.lock().push(request.key.to_string());
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(Action::Done)
        }
    });
    let mut builder = Manager::seeded(fake.client(), Source::seeded(1));
    builder.add(Controller::<ConfigMap>::new("fair").workers(1).build(reconcile));
    let _running = run(builder.build());
    tokio::time::sleep(Duration::from_millis(5500)).await;
    fake.put(&cm("crowded", "c40"), json!({"data": {"now": "1"}}));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let order = order.lock().clone();
    assert!(order[..2].contains(&"quiet/q".to_owned()), "{order:?}");
    assert_eq!(order[6], "crowded/c40", "{order:?}");
}

#[tokio::test(start_paused = true)]
async fn events_are_written_and_counted() {
    let fake = Fake::new();
    fake.put(&cm("default", "a"), json!({}));
    let mut builder = Manager::seeded(fake.client(), Source::seeded(1));
    let reconcile = Each(|request: Request<ConfigMap>| async move {
        if let Some(object) = &request.object {
            request.recorder.event(&**object, EventType::Normal, "Seen", "it is there");
        }
        Ok(Action::RequeueAfter(Duration::from_secs(10)))
    });
    builder.add(Controller::<ConfigMap>::new("tells").component("tells-controller").build(reconcile));
    let _running = run(builder.build());
    tokio::time::sleep(Duration::from_secs(25)).await;
    let events = fake.all("/api/v1/events");
    assert_eq!(events.len(), 1);
    let event = &events[0];
    assert_eq!((&event["count"], &event["reason"]), (&json!(3), &json!("Seen")));
    assert_eq!(event["involvedObject"]["name"], "a");
    assert_eq!(event["source"]["component"], "tells-controller");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_conflicts_is_repeated_on_the_newer_object() {
    let fake = Fake::new();
    fake.put(&cm("default", "a"), json!({}));
    fake.fail(Method::PUT, "configmaps/a", 409, 3);
    let mut builder = Manager::seeded(fake.client(), Source::seeded(1));
    let reconcile = Each(|request: Request<ConfigMap>| async move {
        let Some(object) = request.object else { return Ok(Action::Done) };
        if object.data.is_none() {
            let mut next = (*object).clone();
            next.data = Some([("done".to_owned(), "yes".to_owned())].into());
            request.client.update(&next).await?;
        }
        Ok(Action::Done)
    });
    builder.add(Controller::<ConfigMap>::new("conflicts").build(reconcile));
    let _running = run(builder.build());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fake.get(&cm("default", "a")).unwrap()["data"]["done"], "yes");
    assert_eq!(fake.log().iter().filter(|l| l.starts_with("PUT")).count(), 4);
}
