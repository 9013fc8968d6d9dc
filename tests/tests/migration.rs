//! Objects that an older release stored are written anew by the operator that comes after it, through its own conversion
//! webhook, and the old version may go.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use minicluster::{TestCluster, test_cluster::explore};
use serde::{Deserialize, Serialize};
use windlass::{
    Bucket, CustomResource, Operator, StorageMigration,
    custom::Kind,
    webhook::{Certificates, Webhooks},
};

const NAME: &str = "buoys.harbour.dev";
const OBJECTS: usize = 23;

mod v1 {
    use super::*;

    #[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[kube(group = "harbour.dev", version = "v1", kind = "Buoy", namespaced)]
    pub(crate) struct BuoySpec {
        pub(crate) depth: u32,
    }
}

mod v1alpha1 {
    use super::*;

    #[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[kube(group = "harbour.dev", version = "v1alpha1", kind = "Buoy", namespaced, storage = false)]
    #[windlass(hub = v1::Buoy, moved("/spec/fathoms" => "/spec/depth"))]
    pub(crate) struct BuoySpec {
        pub(crate) fathoms: u32,
    }
}

fn kind() -> Kind {
    Kind::of::<v1::Buoy>().version::<v1alpha1::Buoy>()
}

/// The operator, which migrates so many objects a second, if any.
fn operator(rate: Option<f64>) -> Operator {
    Operator::new("buoys").with(move |manager| {
        manager.add(Webhooks::new("buoys-webhooks", Certificates::self_signed()).convert(kind()));
        if let Some(rate) = rate {
            let migration = StorageMigration::new("harbour.dev", "buoys");
            manager.add(migration.page(5).limiter(Bucket::new(rate, 1)));
        }
    })
}

async fn change(cluster: &TestCluster, change: impl Fn(&mut CustomResourceDefinition)) {
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client());
    let mut definition = definitions.get(NAME).await.unwrap();
    change(&mut definition);
    definitions.replace(NAME, &PostParams::default(), &definition).await.unwrap();
}

async fn definition(cluster: &TestCluster) -> CustomResourceDefinition {
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client());
    definitions.get(NAME).await.unwrap()
}

async fn stored(cluster: &TestCluster) -> Vec<String> {
    definition(cluster).await.status.unwrap().stored_versions.unwrap()
}

/// A cluster as the older release left it.
async fn old_release(cluster: &TestCluster) {
    let old = cluster.run_operator(&operator(None)).await;
    change(cluster, |definition| {
        definition.spec.versions.iter_mut().for_each(|version| version.storage = version.name == "v1alpha1");
    })
    .await;
    let buoys: Api<v1alpha1::Buoy> = Api::default_namespaced(cluster.client());
    for n in 0..OBJECTS {
        let spec = v1alpha1::BuoySpec { fathoms: u32::try_from(n).unwrap() };
        let buoy = v1alpha1::Buoy::new(&format!("buoy-{n:02}"), spec);
        buoys.create(&PostParams::default(), &buoy).await.unwrap();
    }
    assert_eq!(stored(cluster).await, ["v1", "v1alpha1"]);
    old.stop().await;
}

/// How often objects were written since.
fn writes(cluster: &TestCluster, from: usize) -> usize {
    let written = cluster.transcript().split_off(from);
    written.iter().filter(|write| write.key.contains("/buoys/")).count()
}

/// Without its old version the kind needs no converter, and everything can be read.
async fn old_version_may_go(cluster: &TestCluster) {
    change(cluster, |definition| {
        definition.spec.versions.retain(|version| version.name == "v1");
        definition.spec.conversion = None;
    })
    .await;
    let buoys: Api<v1::Buoy> = Api::default_namespaced(cluster.client());
    let all = buoys.list(&ListParams::default()).await.unwrap();
    let depths: Vec<u32> = all.iter().map(|buoy| buoy.spec.depth).collect();
    assert_eq!(depths, (0..u32::try_from(OBJECTS).unwrap()).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn every_object_is_written_once_and_the_old_version_may_go() {
    let cluster = TestCluster::start().await;
    old_release(&cluster).await;
    let before = cluster.transcript().len();
    let new = cluster.run_operator(&operator(Some(2.0))).await;
    cluster.advance(Duration::from_secs(5)).await;
    let early = writes(&cluster, before);
    assert!((5..=14).contains(&early), "{early} in five seconds, at two a second");
    assert_eq!(stored(&cluster).await, ["v1", "v1alpha1"]);
    cluster.advance(Duration::from_secs(30)).await;
    assert_eq!(stored(&cluster).await, ["v1"]);
    assert_eq!(writes(&cluster, before), OBJECTS);
    assert!(
        !definition(&cluster)
            .await
            .metadata
            .annotations
            .unwrap_or_default()
            .contains_key("windlass.dev/storage-migration")
    );
    cluster.advance(Duration::from_secs(3600)).await;
    assert_eq!(writes(&cluster, before), OBJECTS, "it is done");
    new.stop().await;
    old_version_may_go(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn another_leader_goes_on_from_where_the_last_one_stopped() {
    let cluster = TestCluster::start().await;
    old_release(&cluster).await;
    let before = cluster.transcript().len();
    let first = cluster.run_operator(&operator(Some(1.0))).await;
    cluster.advance(Duration::from_secs(14)).await;
    first.stop().await;
    let early = writes(&cluster, before);
    assert!((10..20).contains(&early), "{early}");
    let _second = cluster.run_operator(&operator(Some(1.0))).await;
    cluster.advance(Duration::from_secs(60)).await;
    assert_eq!(stored(&cluster).await, ["v1"]);
    let all = writes(&cluster, before);
    assert!(all < OBJECTS + 5, "{all}: what is written already is written again, a page at most");
}

#[test]
fn no_fault_drops_a_version_too_early() {
    explore(1..=15, TestCluster::builder, async |cluster| {
        old_release(cluster).await;
        let new = cluster.run_operator(&operator(Some(5.0))).await;
        let until = tokio::time::Instant::now() + Duration::from_secs(1800);
        while stored(cluster).await != ["v1"] {
            assert!(tokio::time::Instant::now() < until, "it never ended");
            cluster.advance(Duration::from_secs(1)).await;
        }
        new.stop().await;
        old_version_may_go(cluster).await;
    });
}
