//! The webhooks of PartKinds, which an API server in memory asks over TLS.

use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use minicluster::TestCluster;
use part_crate::{PartKind, operator};
use serde_json::json;
use windlass::custom::draw;

#[tokio::test(start_paused = true)]
async fn who_made_an_object_is_written_down_for_good() {
    let cluster = TestCluster::start().await;
    let _operator = cluster.run_operator(&operator()).await;
    let objects: Api<PartKind> = Api::default_namespaced(cluster.client_as("ann", &["system:masters"]));
    // Any object that the kind allows.
    let mut object: PartKind = draw(1);
    object.metadata.name = Some("main".to_owned());
    let made = objects.create(&PostParams::default(), &object).await.unwrap();
    assert_eq!(made.metadata.annotations.unwrap()["part.group/made-by"], "ann");

    let claim = Patch::Merge(json!({ "metadata": { "annotations": { "part.group/made-by": "bob" } } }));
    let refused = objects.patch("main", &PatchParams::default(), &claim).await.unwrap_err().to_string();
    assert!(refused.contains("the annotation part.group/made-by stays as it is"), "{refused}");
    let label = Patch::Merge(json!({ "metadata": { "labels": { "a": "b" } } }));
    objects.patch("main", &PatchParams::default(), &label).await.unwrap();
}
