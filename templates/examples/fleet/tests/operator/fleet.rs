//! Applications follow the fleet: selected, moved, cleaned up, whoever joins, leaves or cannot be reached.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use minicluster::test_cluster::Fault;
use serde_json::json;

use crate::{USER, whole, world};

#[tokio::test(start_paused = true)]
async fn an_application_runs_where_it_is_selected() {
    let world = world().await;
    world.create("web").await;
    world.hub.advance(Duration::from_secs(30)).await;
    assert_eq!(world.status("web").await, ["True: ready on 2 of 2 clusters", "east 2", "west 2"]);
    assert_eq!(world.members.image("core", "web").await, None);

    world.set("web", json!({ "image": "web:2", "clusters": { "tier": "core" } })).await;
    world.hub.advance(Duration::from_secs(30)).await;
    assert_eq!(world.status("web").await, ["True: ready on 1 of 1 clusters", "core 2"]);
    assert_eq!(world.members.image("core", "web").await.as_deref(), Some("web:2"));
    assert_eq!(world.members.image("east", "web").await, None);
}

#[tokio::test(start_paused = true)]
async fn what_somebody_changes_or_deletes_in_a_member_comes_back() {
    let world = world().await;
    world.create("web").await;
    world.hub.advance(Duration::from_secs(30)).await;
    let deployments: Api<Deployment> = Api::default_namespaced(world.members.clusters["east"].client());
    deployments.delete("web", &DeleteParams::default()).await.unwrap();
    world.hub.advance(Duration::from_secs(30)).await;
    assert_eq!(world.status("web").await[0], "True: ready on 2 of 2 clusters");
    assert_eq!(world.members.image("east", "web").await.as_deref(), Some("web:1"));
}

#[tokio::test(start_paused = true)]
async fn what_is_somebody_elses_is_left_alone() {
    let world = world().await;
    let deployments: Api<Deployment> = Api::default_namespaced(world.members.clusters["east"].client());
    let mut theirs = fleet::deployment(&crate::edge_app("web"));
    theirs.metadata.namespace = None;
    theirs.metadata.labels = None;
    theirs.spec.as_mut().unwrap().replicas = Some(0);
    deployments.create(&PostParams::default(), &theirs).await.unwrap();
    world.create("web").await;
    world.hub.advance(Duration::from_secs(30)).await;
    assert_eq!(
        world.status("web").await,
        ["False: ready on 1 of 2 clusters", "east 0 the Deployment default/web is somebody else's", "west 2"]
    );
    world.apps.delete("web", &DeleteParams::default()).await.unwrap();
    world.hub.advance(Duration::from_secs(30)).await;
    assert!(world.apps.get_opt("web").await.unwrap().is_none());
    assert_eq!(deployments.get("web").await.unwrap().spec.unwrap().replicas, Some(0));
}

#[tokio::test(start_paused = true)]
async fn members_join_and_leave() {
    let mut world = world().await;
    world.create("web").await;
    world.hub.advance(Duration::from_secs(30)).await;
    world.members.join("south", "edge", whole()).await;
    world.hub.advance(Duration::from_secs(30)).await;
    assert_eq!(world.status("web").await[0], "True: ready on 3 of 3 clusters");

    // Who leaves takes along what runs there.
    world.members.sender.leave("east");
    world.hub.advance(Duration::from_secs(30)).await;
    assert_eq!(world.status("web").await, ["True: ready on 2 of 2 clusters", "south 2", "west 2"]);
    assert_eq!(world.members.image("east", "web").await.as_deref(), Some("web:1"));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_cut_off_for_an_hour_is_waited_for_and_costs_the_others_nothing() {
    let world = world().await;
    world.create("web").await;
    world.create("shop").await;
    world.hub.advance(Duration::from_secs(30)).await;
    let east = &world.members.clusters["east"];
    let cut = east.inject(Fault::cut().of(USER));
    east.drop_watches("*");
    world.hub.advance(Duration::from_secs(60)).await;

    world.set("web", json!({ "image": "web:2" })).await;
    world.apps.delete("shop", &DeleteParams::default()).await.unwrap();
    world.hub.advance(Duration::from_secs(30)).await;
    assert_eq!(world.members.image("west", "web").await.as_deref(), Some("web:2"));
    assert_eq!(world.members.image("west", "shop").await, None);
    assert_eq!(world.status("web").await[0], "False: ready on 1 of 2 clusters");
    world.hub.advance(Duration::from_secs(3600)).await;
    assert!(world.apps.get_opt("shop").await.unwrap().is_some(), "it may still run in east");

    cut.lift();
    world.hub.advance(Duration::from_secs(120)).await;
    assert!(world.apps.get_opt("shop").await.unwrap().is_none());
    assert_eq!(world.members.image("east", "shop").await, None);
    assert_eq!(world.members.image("east", "web").await.as_deref(), Some("web:2"));
    assert_eq!(world.status("web").await[0], "True: ready on 2 of 2 clusters");
}
