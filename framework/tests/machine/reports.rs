//! What a process tells when something is wrong that no reconcile can mend, and views of one kind side by side.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ApiResource, ObjectMeta, Patch};
use serde::Deserialize;
use serde_json::{Value, json};
use windlass::{
    Action, ByOwner, Controller, Indexed, Informers, Key, Manager, Metrics, Projected, Projection, Reconcile,
    Request, Scope, controller_ref, random::Source,
};

use crate::{
    controllers::{Each, run},
    fake::Fake,
    triggers::Log,
};

fn cm(name: &str) -> String {
    format!("/api/v1/namespaces/default/configmaps/{name}")
}

fn failing(metrics: &Metrics) -> Vec<String> {
    metrics.failures().iter().map(|f| format!("{} {}: {}", f.controller, f.key, f.error)).collect()
}

async fn a_moment() {
    tokio::time::sleep(Duration::from_secs(2)).await;
}

#[tokio::test(start_paused = true)]
async fn an_object_of_the_wrong_shape_is_told_once_and_skipped() {
    let fake = Fake::new();
    fake.put(&cm("good"), json!({}));
    fake.put(&cm("bad"), json!({"data": "not a map"}));
    let log = Log::default();
    let mut builder = Manager::seeded(fake.client(), Source::seeded(1)).field_manager("keeper");
    let metrics = builder.metrics().clone();
    builder.add(Controller::<ConfigMap>::new("keeper").build(log.reconciler()));
    let _running = run(builder.build());
    a_moment().await;
    assert_eq!(log.take(), ["default/good"], "the kind goes on");
    let told = failing(&metrics);
    let begins = "informer of configmaps default/bad: cannot be read as ConfigMap of v1: invalid type";
    assert!(told.len() == 1 && told[0].starts_with(begins), "{told:?}");
    let gauge = |n: u32| format!("windlass_undecodable_objects{{resource=\"configmaps\"}} {n}\n");
    assert!(metrics.render().contains(&gauge(1)), "{}", metrics.render());

    // Still wrong, in another state, and listed again.
    fake.put(&cm("bad"), json!({"data": 7}));
    fake.compact();
    fake.drop_watches();
    a_moment().await;
    let events = fake.all("/api/v1/events");
    let said: Vec<(&Value, &Value, &Value)> = events
        .iter()
        .map(|e| (&e["reason"], &e["involvedObject"]["name"], &e["source"]["component"]))
        .collect();
    assert_eq!(said, [(&json!("Undecodable"), &json!("bad"), &json!("keeper"))]);
    assert_eq!(events[0]["type"], "Warning");

    // What was right, and is not any more, stays as it was until it goes.
    fake.put(&cm("good"), json!({"data": true}));
    a_moment().await;
    fake.compact();
    fake.drop_watches();
    a_moment().await;
    assert_eq!((log.take(), failing(&metrics).len()), (vec![], 2));
    fake.remove(&cm("good"));
    fake.put(&cm("bad"), json!({"data": {"now": "right"}}));
    a_moment().await;
    let mut seen = log.take();
    seen.sort();
    assert_eq!(seen, ["default/bad", "default/good"]);
    assert_eq!(failing(&metrics), [""; 0]);
    assert!(metrics.render().contains(&gauge(0)), "{}", metrics.render());
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_refused_is_named_until_it_is_not() {
    let fake = Fake::new();
    fake.fail(http::Method::GET, "/api/v1/configmaps", 404, 20);
    let log = Log::default();
    let mut builder = Manager::seeded(fake.client(), Source::seeded(1));
    let metrics = builder.metrics().clone();
    builder.add(Controller::<ConfigMap>::new("keeper").build(log.reconciler()));
    let _running = run(builder.build());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let missing =
        "configmaps is not served in version v1: it is watched as soon as its definition is installed";
    assert_eq!(failing(&metrics), [format!("informer /api/v1/configmaps: {missing}")]);
    fake.put(&cm("a"), json!({}));
    let tries = fake.log().len();
    assert!((3..=10).contains(&tries), "asked for every few seconds: {tries}");
    tokio::time::sleep(Duration::from_secs(80)).await;
    assert_eq!((log.take(), failing(&metrics)), (vec!["default/a".to_owned()], vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_circle_of_writes_is_counted_and_named() {
    let fake = Fake::new();
    fake.put(&cm("calm"), json!({"data": {"n": "5"}}));
    fake.put(&cm("wild"), json!({"data": {"n": "5"}}));
    let mut builder = Manager::seeded(fake.client(), Source::seeded(1));
    let metrics = builder.metrics().clone();
    let enough = Arc::new(AtomicBool::new(false));
    let told_to_end = enough.clone();
    // One counts down to nothing, the other never ends before it is told to.
    let reconcile = Each(move |request: Request<ConfigMap>| {
        let wild = request.key.name() == "wild" && !told_to_end.load(Ordering::SeqCst);
        async move {
            let Some(map) = request.object else { return Ok(Action::Done) };
            let n: u32 = map.data.as_ref().and_then(|data| data.get("n")?.parse().ok()).unwrap_or(0);
            let next = if wild { n + 1 } else { n.min(6).saturating_sub(1) };
            if next != n {
                tokio::time::sleep(Duration::from_millis(10)).await;
                let patch = Patch::Merge(json!({"data": {"n": next.to_string()}}));
                request.client.patch::<ConfigMap>(&request.key, &patch).await?;
            }
            Ok(Action::Done)
        }
    });
    builder.add(Controller::<ConfigMap>::new("wheel").build(reconcile));
    let _running = run(builder.build());
    a_moment().await;
    let told = failing(&metrics);
    assert!(
        told.len() == 1 && told[0].starts_with("wheel default/wild: it writes in every turn"),
        "{told:?}"
    );
    let line = "windlass_write_loops_total{controller=\"wheel\"} 1";
    assert!(metrics.render().contains(line), "{}", metrics.render());
    enough.store(true, Ordering::SeqCst);
    a_moment().await;
    assert_eq!(failing(&metrics), [""; 0]);
}

/// That there is a Secret, and nothing of what is in it.
#[derive(Clone, Debug, Deserialize)]
struct Existence {}

impl Projection for Existence {
    type Kind = Secret;
}

/// Makes one Secret for a ConfigMap that has none yet, as a projection shows it.
struct OneEach(Indexed<Projected<Existence>, ByOwner>);

impl Reconcile<ConfigMap> for OneEach {
    async fn reconcile(&self, request: Request<ConfigMap>) -> Result<Action, windlass::Error> {
        let Some(owner) = request.object else { return Ok(Action::Done) };
        if self.0.get(owner.metadata.uid.as_deref().unwrap_or_default()).is_empty() {
            let metadata = ObjectMeta {
                namespace: owner.metadata.namespace.clone(),
                generate_name: Some("s-".into()),
                owner_references: Some(vec![controller_ref(&*owner)]),
                ..ObjectMeta::default()
            };
            request.client.create(&Secret { metadata, ..Secret::default() }).await?;
        }
        Ok(Action::Done)
    }
}

#[tokio::test(start_paused = true)]
async fn a_projection_sees_own_writes_as_whole_objects_do() {
    let fake = Fake::new();
    let mut builder = Manager::seeded(fake.client(), Source::seeded(1));
    let secrets = builder.informers().projected::<Existence>(Scope::all());
    let controller = Controller::<ConfigMap>::new("one-each").reads(&secrets);
    builder.add(controller.build(OneEach(secrets.index(ByOwner))));
    let _running = run(builder.build());
    fake.put(&cm("a"), json!({}));
    tokio::time::sleep(Duration::from_millis(50)).await;
    fake.stall("/api/v1/secrets", true);
    for i in 0..20 {
        fake.put(&cm("b"), json!({"metadata": {"labels": {"i": i.to_string()}}}));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    fake.stall("/api/v1/secrets", false);
    a_moment().await;
    assert_eq!(fake.all("/api/v1/secrets").len(), 2, "the watch of Secrets lagged");
}

#[tokio::test(start_paused = true)]
async fn a_projection_is_one_watch_however_many_read_it() {
    let fake = Fake::new();
    fake.put(
        "/api/v1/namespaces/a/secrets/s",
        json!({"data": {"k": "aGVhdnk="}, "metadata": {"labels": {"x": "y"}}}),
    );
    let informers = Informers::seeded(fake.client(), Source::seeded(1));
    let (one, two) =
        (informers.projected::<Existence>(Scope::all()), informers.projected::<Existence>(Scope::all()));
    one.synced().await;
    assert_eq!((one.lister().len(), two.lister().len()), (1, 1));
    let whole = informers.get::<Secret>(Scope::all());
    whole.synced().await;
    let watches = || fake.log().iter().filter(|line| line.contains("/api/v1/secrets?watch")).count();
    assert_eq!(watches(), 2, "one for the projection, one for whole objects");
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let dynamic = informers.dynamic(&ApiResource::erase::<Secret>(&()), Scope::all());
    let _subscription = dynamic.subscribe(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
    });
    dynamic.synced().await;
    assert_eq!((watches(), seen.load(Ordering::SeqCst)), (3, 1));
    assert!(two.get(&Key::new(Some("a"), "s")).is_some());
}
