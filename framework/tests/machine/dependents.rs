//! Children in their order, from the first to be made to the first to be taken away.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use parking_lot::Mutex;
use serde_json::json;
use windlass::{
    Action, Controller, Dependent, Dependents, Error, Finalized, Key, Manager, Reconcile, Request,
    random::Source,
};

use crate::{
    controllers::{Running, run},
    fake::Fake,
};

/// A site is a ConfigMap: a key, a pod that needs it, and, if it is open, a door that needs the pod.
fn children() -> Dependents<ConfigMap> {
    let ready = |pod: &Pod| pod.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running"));
    let is_open = |site: &ConfigMap| site.data.as_ref().is_some_and(|data| data.contains_key("open"));
    Dependents::builder()
        .with(Dependent::new("door", move |site| is_open(site).then(Service::default)).after("web"))
        .with(Dependent::new("web", |_: &ConfigMap| Some(Pod::default())).after("key").ready(ready))
        .with(Dependent::new("key", |_: &ConfigMap| Some(Secret::default())).at(|site: &ConfigMap| {
            Key::new(
                site.metadata.namespace.as_deref(),
                &format!("{}-key", site.metadata.name.as_deref().unwrap()),
            )
        }))
        .build()
        .unwrap()
}

#[derive(Clone)]
struct Sites {
    children: Dependents<ConfigMap>,
    said: Arc<Mutex<String>>,
}

impl Reconcile<ConfigMap> for Sites {
    async fn reconcile(&self, request: Request<ConfigMap>) -> Result<Action, Error> {
        let Some(site) = request.object else { return Ok(Action::Done) };
        let progress = self.children.reconcile(&*site, &request.client).await;
        let ready = progress.condition("Ready");
        *self.said.lock() = format!("{} {} {}", ready.status, ready.reason, ready.message).trim().to_owned();
        progress.result()
    }
}

fn site(fake: &Fake, data: serde_json::Value) {
    let meta = fake.get(SITE).map_or(json!({}), |site| site["metadata"].clone());
    fake.put(SITE, json!({"metadata": meta, "data": data}));
}

fn start(fake: &Fake) -> (Running, Arc<Mutex<String>>) {
    let sites = Sites { children: children(), said: Arc::default() };
    let said = sites.said.clone();
    let cleanup = sites.children.cleanup();
    let mut builder = Manager::seeded(fake.client(), Source::seeded(1));
    let controller = Controller::<ConfigMap>::new("sites").dependents(&sites.children);
    let metrics = builder.metrics().clone();
    builder.add(controller.build(Finalized { name: "x.dev/site", reconcile: sites, cleanup }));
    drop(metrics);
    (run(builder.build()), said)
}

const SITE: &str = "/api/v1/namespaces/default/configmaps/a";
const KEY: &str = "/api/v1/namespaces/default/secrets/a-key";
const WEB: &str = "/api/v1/namespaces/default/pods/a";
const DOOR: &str = "/api/v1/namespaces/default/services/a";

/// Which children there are.
fn there(fake: &Fake) -> String {
    let all = [("key", KEY), ("web", WEB), ("door", DOOR)];
    all.iter()
        .filter(|(_, path)| fake.get(path).is_some())
        .map(|(name, _)| *name)
        .collect::<Vec<_>>()
        .join(" ")
}

fn runs(fake: &Fake, phase: &str) {
    let mut pod = fake.get(WEB).unwrap();
    pod["status"] = json!({"phase": phase});
    fake.put(WEB, pod);
}

async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[tokio::test(start_paused = true)]
async fn children_are_made_in_order_and_taken_away_in_reverse() {
    let fake = Fake::new();
    let (_running, said) = start(&fake);
    site(&fake, json!({"open": "yes"}));
    a_moment().await;
    assert_eq!(there(&fake), "key web");
    assert_eq!(*said.lock(), "False Waiting web is not ready; door waits for web");
    let owner = &fake.get(KEY).unwrap()["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["name"], &owner["controller"]),
        (&json!("ConfigMap"), &json!("a"), &json!(true))
    );

    runs(&fake, "Running");
    a_moment().await;
    assert_eq!((there(&fake).as_str(), said.lock().as_str()), ("key web door", "True Ready"));

    runs(&fake, "Failed");
    a_moment().await;
    assert_eq!(there(&fake), "key web door", "what was made stays");
    assert_eq!(*said.lock(), "False Waiting web is not ready; door waits for web");
    runs(&fake, "Running");

    // A child that is lost comes back.
    fake.remove(KEY);
    a_moment().await;
    assert_eq!((there(&fake).as_str(), said.lock().as_str()), ("key web door", "True Ready"));

    site(&fake, json!({}));
    a_moment().await;
    assert_eq!((there(&fake).as_str(), said.lock().as_str()), ("key web", "True Ready"));
    site(&fake, json!({"open": "again"}));
    a_moment().await;
    assert_eq!(there(&fake), "key web door");

    // The door does not go at once: nothing else goes before it.
    let mut door = fake.get(DOOR).unwrap();
    door["metadata"]["finalizers"] = json!(["x.dev/guest"]);
    fake.put(DOOR, door);
    let mut gone = fake.get(SITE).unwrap();
    gone["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    fake.put(SITE, gone);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(there(&fake), "key web door");
    fake.remove(DOOR);
    a_moment().await;
    assert_eq!((there(&fake).as_str(), fake.get(SITE)), ("", None));
    let deleted: Vec<String> = fake
        .log()
        .iter()
        .filter_map(|line| line.strip_prefix("DELETE /api/v1/namespaces/default/").map(str::to_owned))
        .map(|path| path.trim_end_matches('?').to_owned())
        .collect();
    assert_eq!(deleted, ["services/a", "services/a", "pods/a", "secrets/a-key"]);
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_controls_is_left_alone() {
    let fake = Fake::new();
    let other =
        json!([{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "other", "controller": true}]);
    fake.put(WEB, json!({"metadata": {"ownerReferences": other}}));
    let (_running, said) = start(&fake);
    site(&fake, json!({}));
    a_moment().await;
    assert_eq!(*said.lock(), "False Failed web failed: default/a is controlled by Node n");
    assert_eq!(there(&fake), "key web", "the others do not wait");
    let mut gone = fake.get(SITE).unwrap();
    gone["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    fake.put(SITE, gone);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((there(&fake).as_str(), fake.get(SITE)), ("web", None));
}
