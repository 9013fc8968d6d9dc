//! What goes wrong in kube-runtime's controllers, each as a test that holds here: a shared stream that stalls, an object
//! reconciled concurrently with itself, one failing watch that starves a controller, and deletes that a relist loses.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Method;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret};
use kube::ResourceExt;
use parking_lot::Mutex;
use serde_json::json;
use windlass::{Action, Controller, Error, Informers, Manager, Reconcile, Request, Scope, random::Source};

use crate::{controllers::run, fake::Fake};

fn cm(name: &str) -> String {
    format!("/api/v1/namespaces/default/configmaps/{name}")
}

/// An object that is created and deleted in one burst must not stop what comes after it.
#[tokio::test(start_paused = true)]
async fn a_burst_of_create_delete_create_does_not_stall() {
    let fake = Fake::new();
    fake.put(&cm("c1"), json!({}));
    let informer = Informers::seeded(fake.client(), Source::seeded(1)).get::<ConfigMap>(Scope::all());
    informer.synced().await;
    let mut deltas = informer.deltas();
    assert_eq!(deltas.next().await[0].object().name_any(), "c1");
    fake.put(&cm("c2"), json!({}));
    fake.remove(&cm("c2"));
    fake.put(&cm("c3"), json!({}));
    let next = tokio::time::timeout(Duration::from_secs(3), async {
        loop {
            let batch = deltas.next().await;
            if batch.iter().any(|d| d.object().name_any() == "c3") {
                return;
            }
        }
    });
    next.await.expect("c3 is delivered");
}

/// Counts how many run at a time.
#[derive(Clone, Default)]
struct Counter {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    runs: Arc<AtomicUsize>,
}

impl<K: windlass::Object> Reconcile<K> for Counter {
    async fn reconcile(&self, _: Request<K>) -> Result<Action, Error> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(200)).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        Ok(Action::Done)
    }
}

/// A cluster-scoped owner of objects in many namespaces is one key.
#[tokio::test(start_paused = true)]
async fn an_owner_is_never_reconciled_concurrently_with_itself() {
    let fake = Fake::new();
    let node = fake.put("/api/v1/nodes/n1", json!({}));
    let uid = node["metadata"]["uid"].as_str().unwrap().to_owned();
    let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": uid, "controller": true}]);
    let counter = Counter::default();
    let mut builder = Manager::seeded(fake.client(), Source::seeded(1));
    builder.add(Controller::<Node>::new("nodes").owns::<Pod>().workers(8).build(counter.clone()));
    let _running = run(builder.build());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = counter.runs.load(Ordering::SeqCst);
    for i in 0..5 {
        let pod = format!("/api/v1/namespaces/ns{i}/pods/p");
        fake.put(&pod, json!({"metadata": {"ownerReferences": owner}}));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(counter.most.load(Ordering::SeqCst), 1);
    assert_eq!(counter.runs.load(Ordering::SeqCst) - before, 2, "once for the first, once for all the rest");
    let other =
        json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "another", "controller": true}]);
    fake.put("/api/v1/namespaces/ns9/pods/p", json!({"metadata": {"ownerReferences": other}}));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(counter.runs.load(Ordering::SeqCst) - before, 2, "a child of another node of that name");
}

/// A watch that fails for a while costs the others nothing.
#[tokio::test(start_paused = true)]
async fn a_failing_watch_does_not_starve_the_controller() {
    let fake = Fake::new();
    fake.put(&cm("a"), json!({}));
    let counter = Counter::default();
    let mut builder = Manager::seeded(fake.client(), Source::seeded(1));
    builder.add(Controller::<ConfigMap>::new("cms").owns::<Secret>().build(counter.clone()));
    let _running = run(builder.build());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = counter.runs.load(Ordering::SeqCst);
    fake.fail(Method::GET, "/secrets", 500, 1000);
    fake.drop_watches();
    tokio::time::sleep(Duration::from_secs(5)).await;
    for i in 0..30 {
        fake.put(&cm("a"), json!({"data": {"i": i.to_string()}}));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let runs = counter.runs.load(Ordering::SeqCst) - before;
    assert!(runs >= 30, "{runs} reconciles of 30 changes");
}

struct Gone(Arc<Mutex<Vec<String>>>);

impl Reconcile<ConfigMap> for Gone {
    async fn reconcile(&self, request: Request<ConfigMap>) -> Result<Action, Error> {
        if request.object.is_none() {
            self.0.lock().push(request.key.name().to_owned());
        }
        Ok(Action::Done)
    }
}

/// A delete that happened while the watch was down reaches the reconciler all the same.
#[tokio::test(start_paused = true)]
async fn a_delete_that_a_relist_hides_is_reconciled() {
    let fake = Fake::new();
    fake.put(&cm("stays"), json!({}));
    fake.put(&cm("goes"), json!({}));
    let gone = Arc::new(Mutex::new(Vec::new()));
    let mut builder = Manager::seeded(fake.client(), Source::seeded(1));
    builder.add(Controller::<ConfigMap>::new("gone").build(Gone(gone.clone())));
    let _running = run(builder.build());
    tokio::time::sleep(Duration::from_secs(1)).await;
    fake.stall("/api/v1/configmaps", true);
    fake.remove(&cm("goes"));
    fake.compact();
    fake.drop_watches();
    fake.stall("/api/v1/configmaps", false);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(*gone.lock(), ["goes"]);
}

/// Events about a failing key leave its back-off as it is (kubernetes#132805).
#[tokio::test(start_paused = true)]
async fn events_do_not_inflate_the_backoff_of_a_failing_key() {
    struct Fails(Arc<Mutex<Vec<u32>>>);
    impl Reconcile<ConfigMap> for Fails {
        async fn reconcile(&self, request: Request<ConfigMap>) -> Result<Action, Error> {
            self.0.lock().push(request.attempt);
            Err(Error::Other("no".into()))
        }
    }
    let fake = Fake::new();
    fake.put(&cm("a"), json!({}));
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let mut builder = Manager::seeded(fake.client(), Source::seeded(1));
    builder.add(Controller::<ConfigMap>::new("fails").workers(1).build(Fails(attempts.clone())));
    let _running = run(builder.build());
    for i in 0..500 {
        fake.put(&cm("a"), json!({"data": {"i": i.to_string()}}));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let attempts = attempts.lock().clone();
    let last = *attempts.last().unwrap();
    assert!(attempts.len() > 300, "events are worked on at once: {}", attempts.len());
    assert!(last <= 12, "five seconds hold ten doublings of 5 ms, not {last}");
}
