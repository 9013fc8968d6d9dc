//! Kinds that come and go while the operator runs.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, ResourceExt, api::DeleteParams};
use minicluster::TestCluster;
use serde_json::json;

use crate::{NOTICED, labels, world};

#[tokio::test(start_paused = true)]
async fn a_kind_that_appears_later_is_covered_and_so_is_one_that_comes_back() {
    let world = world(TestCluster::builder()).await;
    world
        .ask(
            "main",
            json!({ "kinds": ["*.example.com"], "labels": { "team": "harbour" } }),
        )
        .await;
    world.cluster.advance(NOTICED).await;
    assert_eq!(
        world.ready("main").await,
        "True AllCarry: 0 of 0 objects carry what is asked for"
    );
    for round in ["first", "second"] {
        world.define().await;
        world.launch(round).await;
        world.cluster.advance(NOTICED).await;
        assert_eq!(
            world.boats().get(round).await.unwrap().labels(),
            &labels("team=harbour")
        );
        assert_eq!(
            world.ready("main").await,
            "True AllCarry: 1 of 1 objects carry what is asked for"
        );
        let status = world.policies.get("main").await.unwrap().status.unwrap();
        assert_eq!(status.kinds[0].kind, "boats.example.com");

        let definitions: Api<CustomResourceDefinition> = Api::all(world.cluster.client());
        definitions
            .delete("boats.example.com", &DeleteParams::default())
            .await
            .unwrap();
        world.cluster.advance(NOTICED).await;
        assert_eq!(
            world.ready("main").await,
            "True AllCarry: 0 of 0 objects carry what is asked for"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_out_of_reach_is_left_alone() {
    let world = world(TestCluster::builder()).await;
    world
        .ask("main", json!({ "kinds": ["*"], "labels": { "team": "harbour" } }))
        .await;
    world.cluster.advance(NOTICED).await;
    let status = world.policies.get("main").await.unwrap().status.unwrap();
    let kinds: Vec<&str> = status.kinds.iter().map(|kind| kind.kind.as_str()).collect();
    // There are namespaces, service accounts and roles as well.
    assert_eq!(kinds, ["configmaps"]);
    assert_eq!(status.objects, status.carrying);
}
