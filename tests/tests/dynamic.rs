//! Kinds that are known at run time alone, on a whole cluster in memory: watched before they are served, gone quiet with
//! their definition, back with it, and let go of.

#[allow(dead_code, reason = "an example has a `main`")]
#[path = "../../framework/examples/operator.rs"]
mod operator;

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::ConfigMap, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, CustomResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams},
};
use minicluster::{
    TestCluster,
    test_cluster::{Fault, Identity},
};
use operator::{Sail, SailSpec};
use serde_json::json;
use windlass::{
    Action, Controller, Delta, DynamicWatches, Error, Key, Lease, Manager, ManagerBuilder, Metrics, Place,
    Reconcile, Request, Rules, Scope, random::Source,
};

const NAME: &str = "sails.harbour.dev";

/// Which changes were told, in order.
type Told = Arc<std::sync::Mutex<Vec<String>>>;

fn take(told: &Told) -> Vec<String> {
    std::mem::take(&mut *told.lock().unwrap())
}

fn noted(told: &Told, kind: &ApiResource, delta: &Delta<DynamicObject>) -> Vec<Key> {
    let what = if delta.is_deleted() { "gone" } else { "there" };
    told.lock().unwrap().push(format!("{} {} {what}", kind.plural, delta.key()));
    vec![Key::new(Some("default"), "watchman")]
}

/// Watches sails for as long as its ConfigMap wants it.
struct Watchman(DynamicWatches);

impl Reconcile<ConfigMap> for Watchman {
    async fn reconcile(&self, request: Request<ConfigMap>) -> Result<Action, Error> {
        if request.key.name() != "watchman" {
            return Ok(Action::Done);
        }
        let wants =
            request.object.is_some_and(|map| map.data.iter().flatten().any(|(key, _)| key == "sails"));
        let sails = Sail::api_resource();
        if wants {
            self.0.add(&sails, Scope::all())?;
            self.0.add(&sails, Scope::all())?;
        } else {
            self.0.remove(&sails, &Scope::all());
        }
        Ok(Action::Done)
    }
}

/// Runs a controller with these watches, held to what it registered.
fn run(
    cluster: &TestCluster,
    watches: impl FnOnce(&ManagerBuilder) -> DynamicWatches,
) -> (DynamicWatches, Metrics, Rules) {
    let mut manager = Manager::guarded(cluster.client(), Source::seeded(cluster.seed()));
    let watches = watches(&manager);
    let metrics = manager.metrics().clone();
    let controller = Controller::<ConfigMap>::new("watchman").dynamic(&watches);
    manager.add(controller.build(Watchman(watches.clone())));
    let rules = manager.rules();
    tokio::spawn(manager.build().run(std::future::pending()));
    (watches, metrics, rules)
}

fn failing(metrics: &Metrics) -> Vec<String> {
    metrics.failures().iter().map(|failure| failure.error.clone()).collect()
}

async fn wants(cluster: &TestCluster, data: serde_json::Value) {
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    let _ = maps
        .create(
            &PostParams::default(),
            &ConfigMap {
                metadata: ObjectMeta { name: Some("watchman".into()), ..ObjectMeta::default() },
                ..ConfigMap::default()
            },
        )
        .await;
    maps.patch("watchman", &PatchParams::default(), &Patch::Merge(json!({ "data": data }))).await.unwrap();
}

/// Sails are defined, or not any more.
async fn define(cluster: &TestCluster, defined: bool) {
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client());
    if defined {
        definitions.create(&PostParams::default(), &Sail::crd()).await.unwrap();
    } else {
        definitions.delete(NAME, &DeleteParams::default()).await.unwrap();
    }
}

async fn hoist(cluster: &TestCluster, name: &str) {
    let sails: Api<Sail> = Api::default_namespaced(cluster.client());
    sails.create(&PostParams::default(), &Sail::new(name, SailSpec { area: 1 })).await.unwrap();
}

async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_outlives_the_definition_of_its_kind() {
    let cluster = TestCluster::builder().controllers(&["*"]).start().await;
    let told = Told::default();
    let log = told.clone();
    let (watches, metrics, rules) = run(&cluster, move |manager| {
        let map = move |kind: &ApiResource, delta: &Delta<DynamicObject>, _: &_| noted(&log, kind, delta);
        DynamicWatches::new(manager.informers(), map).may_watch(Place::Everywhere, "harbour.dev", "*")
    });
    assert_eq!(rules.verbs(None, "harbour.dev", "sails", None).to_string(), "get, list, watch");
    wants(&cluster, json!({ "sails": "all" })).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let missing = "sails.harbour.dev is not served in version harbour.dev/v1: it is watched as soon as its definition is installed";
    assert_eq!(failing(&metrics), [missing]);
    assert_eq!(watches.kinds().len(), 1, "adding it twice is one watch");

    for (round, away) in [("first", 60), ("second", 700), ("third", 60)] {
        define(&cluster, true).await;
        hoist(&cluster, round).await;
        a_moment().await;
        assert_eq!(take(&told), [format!("sails default/{round} there")], "seen at once");
        assert_eq!(failing(&metrics), [""; 0]);
        define(&cluster, false).await;
        tokio::time::sleep(Duration::from_secs(away)).await;
        assert_eq!(take(&told), [format!("sails default/{round} gone")]);
        // A server may keep a watch open that it was asked for before; none lasts longer than ten minutes.
        assert!(away < 600 || failing(&metrics) == [missing], "{:?}", metrics.failures());
    }

    wants(&cluster, json!({ "sails": null })).await;
    a_moment().await;
    assert_eq!((watches.kinds().len(), failing(&metrics)), (0, vec![]), "nobody watches, so nothing fails");
    define(&cluster, true).await;
    hoist(&cluster, "last").await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(take(&told), [""; 0]);
    wants(&cluster, json!({ "sails": "again" })).await;
    a_moment().await;
    assert_eq!(take(&told), ["sails default/last there"]);
}

#[tokio::test(start_paused = true)]
async fn kinds_are_followed_as_they_come_and_go() {
    let cluster = TestCluster::builder().controllers(&["*"]).start().await;
    let told = Told::default();
    let log = told.clone();
    let (watches, _, _) = run(&cluster, move |manager| {
        let map = move |kind: &ApiResource, delta: &Delta<DynamicObject>, _: &_| noted(&log, kind, delta);
        DynamicWatches::new(manager.informers(), map)
            .may_watch(Place::Everywhere, "harbour.dev", "*")
            .following(|served| served.group == "harbour.dev" && served.can(&["list", "watch"]))
    });
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(watches.kinds().is_empty());
    for round in 0..2 {
        define(&cluster, true).await;
        hoist(&cluster, "a").await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(take(&told), ["sails default/a there"], "round {round}");
        assert_eq!(watches.kinds(), [Sail::api_resource()]);
        define(&cluster, false).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(take(&told), ["sails default/a gone"], "round {round}");
        assert!(watches.kinds().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_controller_of_a_kind_that_is_not_there_waits_for_it() {
    let cluster = TestCluster::builder().controllers(&["*"]).start().await;
    let manager = operator::operator().manager(cluster.client(), Source::seeded(cluster.seed()));
    let metrics = manager.metrics().clone();
    tokio::spawn(manager.build().run(std::future::pending()));
    tokio::time::sleep(Duration::from_secs(600)).await;
    let missing = "sails.harbour.dev is not served in version harbour.dev/v1: it is watched as soon as its definition is installed";
    assert_eq!(failing(&metrics), [missing]);
    let children: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    for round in ["first", "second"] {
        define(&cluster, true).await;
        hoist(&cluster, round).await;
        // Nobody follows definitions here: it is asked for again every few seconds.
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(children.get_opt(round).await.unwrap().is_some(), "{round}");
        assert_eq!(failing(&metrics), [""; 0]);
        define(&cluster, false).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(failing(&metrics), [missing]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_went_while_another_led_is_let_go_of() {
    let cluster = TestCluster::builder().controllers(&["*"]).start().await;
    define(&cluster, true).await;
    hoist(&cluster, "a").await;
    let told = Told::default();
    let log = told.clone();
    let lease = Lease { release_on_exit: false, ..Lease::new("default", "watchman", "one") };
    let client = cluster.component("watchman", Identity::new("watchman", &["system:masters"]));
    let mut manager = Manager::seeded(client, Source::seeded(cluster.seed())).leader_election(lease);
    let map = move |kind: &ApiResource, delta: &Delta<DynamicObject>, _: &_| noted(&log, kind, delta);
    let watches = DynamicWatches::new(manager.informers(), map)
        .may_watch(Place::Everywhere, "harbour.dev", "*")
        .following(|served| served.group == "harbour.dev" && served.can(&["list", "watch"]));
    let controller = Controller::<ConfigMap>::new("watchman").dynamic(&watches);
    manager.add(controller.build(Watchman(watches.clone())));
    tokio::spawn(manager.build().run(std::future::pending()));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((take(&told), watches.kinds().len()), (vec!["sails default/a there".to_owned()], 1));

    // The lease cannot be renewed for a while.
    let away = cluster.inject(Fault::unavailable().resource("leases").times(1000));
    tokio::time::sleep(Duration::from_secs(20)).await;
    define(&cluster, false).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(take(&told), [""; 0], "nobody leads, so nobody is told");
    away.lift();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(watches.kinds().is_empty(), "{:?}", watches.kinds());
    define(&cluster, true).await;
    hoist(&cluster, "b").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(take(&told), ["sails default/b there"]);
}
