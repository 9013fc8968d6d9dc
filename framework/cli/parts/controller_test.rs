//! The controller of PartKinds in a cluster in memory, under virtual time, with the rights that were derived for it.

use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use minicluster::TestCluster;
use part_crate::{PartKind, operator};
use serde_json::json;
use windlass::{ConditionsExt, custom::draw};

#[tokio::test(start_paused = true)]
async fn people_are_told_about_the_newest_generation() {
    let cluster = TestCluster::start().await;
    let _operator = cluster.run_operator(&operator()).await;
    let objects: Api<PartKind> = Api::default_namespaced(cluster.client());
    // Any object that the kind allows.
    let mut object: PartKind = draw(1);
    object.metadata.name = Some("main".to_owned());
    objects.create(&PostParams::default(), &object).await.unwrap();
    assert!(cluster.settle().await);

    let seen = objects.get("main").await.unwrap();
    let status = seen.status.unwrap();
    assert_eq!(status.observed_generation, seen.metadata.generation);
    assert_eq!(status.conditions.condition("Ready").unwrap().status, "True");

    let label = Patch::Merge(json!({ "metadata": { "labels": { "a": "b" } } }));
    objects.patch("main", &PatchParams::default(), &label).await.unwrap();
    assert!(cluster.settle().await);
    let again = objects.get("main").await.unwrap().status.unwrap();
    assert_eq!(again, status, "nothing else to say");
}
