//! Custom resources on a whole cluster in memory: the operator of `framework/examples` at work, and the end of a
//! definition.

#[allow(dead_code, reason = "an example has a `main`")]
#[path = "../../framework/examples/operator.rs"]
mod operator;

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::{
    api::{
        core::v1::{ConfigMap, Namespace},
        rbac::v1::ClusterRole,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, CustomResourceExt, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use minicluster::TestCluster;
use operator::{Sail, SailSpec};
use serde_json::json;
use windlass::random::Source;

const NAME: &str = "sails.harbour.dev";

/// A cluster in which sails are known.
async fn harbour() -> (TestCluster, Api<CustomResourceDefinition>, Api<Sail>) {
    let cluster = TestCluster::builder().controllers(&["*"]).start().await;
    let (definitions, sails) = (Api::all(cluster.client()), Api::default_namespaced(cluster.client()));
    definitions.create(&PostParams::default(), &Sail::crd()).await.unwrap();
    (cluster, definitions, sails)
}

fn area(area: u32) -> Patch<serde_json::Value> {
    Patch::Merge(json!({ "spec": { "area": area } }))
}

/// A client of the operator's service account, with its kinds installed, and with the roles that were derived from what it registered and no more.
async fn deployed(cluster: &TestCluster) -> Client {
    let description = operator::operator().description();
    description.install(&cluster.client(), "default").await.unwrap();
    cluster.client_as(&description.user("default"), &["system:serviceaccounts"])
}

#[tokio::test(start_paused = true)]
async fn a_child_follows_its_owner() {
    let (cluster, _, sails) = harbour().await;
    let children: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    let account = deployed(&cluster).await;
    let manager = operator::operator().manager(account, Source::seeded(cluster.seed()));
    let running = tokio::spawn(manager.build().run(std::future::pending()));

    sails.create(&PostParams::default(), &Sail::new("main", SailSpec { area: 40 })).await.unwrap();
    assert!(cluster.settle().await);
    let first = children.get("main").await.unwrap();
    assert_eq!(first.data.as_ref().unwrap()["area"], "40");
    assert_eq!(sails.get("main").await.unwrap().status.unwrap().set, 40);

    children.delete("main", &DeleteParams::default()).await.unwrap();
    assert!(cluster.settle().await);
    let second = children.get("main").await.unwrap();
    assert_ne!(first.uid(), second.uid(), "the child was never gone");

    sails.patch("main", &PatchParams::default(), &area(50)).await.unwrap();
    assert!(cluster.settle().await);
    assert_eq!(children.get("main").await.unwrap().data.unwrap()["area"], "50");
    assert_eq!(sails.get("main").await.unwrap().status.unwrap().set, 50);

    sails.delete("main", &DeleteParams::default()).await.unwrap();
    cluster.advance(Duration::from_secs(60)).await;
    assert!(children.get_opt("main").await.unwrap().is_none(), "the child outlived its owner");
    assert!(!running.is_finished());
}

#[tokio::test(start_paused = true)]
async fn an_operator_of_some_namespaces_works_there_with_roles_alone() {
    let cluster = TestCluster::builder().controllers(&["*"]).start().await;
    let namespaces: Api<Namespace> = Api::all(cluster.client());
    for name in ["port", "sea", "lake"] {
        let namespace = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
        namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    }
    let operator = operator::operator().watch_namespaces(["port", "sea"]);
    let _running = cluster.run_operator(&operator).await;
    let roles = Api::<ClusterRole>::all(cluster.client());
    assert!(roles.get_opt("rigger").await.unwrap().is_none(), "nothing is needed everywhere");
    for name in ["port", "sea", "lake"] {
        let sails: Api<Sail> = Api::namespaced(cluster.client(), name);
        sails.create(&PostParams::default(), &Sail::new("main", SailSpec { area: 40 })).await.unwrap();
    }
    assert!(cluster.settle().await);
    for (name, there) in [("port", true), ("sea", true), ("lake", false)] {
        let children: Api<ConfigMap> = Api::namespaced(cluster.client(), name);
        assert_eq!(children.get_opt("main").await.unwrap().is_some(), there, "{name}");
    }
    let asked = cluster.journal();
    let lines =
        asked.iter().map(ToString::to_string).filter(|line| line.contains("serviceaccount:default:rigger"));
    let lines: Vec<String> = lines.collect();
    let inside = |line: &String| line.contains("/namespaces/");
    assert!(lines.len() > 8 && lines.iter().all(inside), "{lines:#?}");
    assert!(lines.iter().all(|line| !line.contains("-> 403")), "{lines:#?}");
}

/// Status, reason and finalizer of a definition that is being deleted.
async fn ending(definitions: &Api<CustomResourceDefinition>) -> Option<String> {
    let definition = definitions.get_opt(NAME).await.unwrap()?;
    let conditions = definition.status.clone()?.conditions?;
    let condition = conditions.into_iter().find(|c| c.type_ == "Terminating")?;
    let finalizers = definition.finalizers().join(",");
    Some(format!("{} {} {finalizers}", condition.status, condition.reason?))
}

#[tokio::test(start_paused = true)]
async fn a_definition_takes_its_instances_along() {
    let (cluster, definitions, sails) = harbour().await;
    let create = PostParams::default();
    let mut held = Sail::new("held", SailSpec { area: 1 });
    held.finalizers_mut().push("harbour.dev/anchor".to_owned());
    sails.create(&create, &held).await.unwrap();
    sails.create(&create, &Sail::new("free", SailSpec { area: 1 })).await.unwrap();

    let answer = definitions.delete(NAME, &DeleteParams::default()).await.unwrap();
    assert!(answer.left().unwrap().metadata.deletion_timestamp.is_some());
    assert!(cluster.settle().await);
    assert_eq!(
        ending(&definitions).await.unwrap(),
        "True InstanceDeletionInProgress customresourcecleanup.apiextensions.k8s.io"
    );
    assert!(sails.get_opt("free").await.unwrap().is_none());
    let refused = sails.create(&create, &Sail::new("late", SailSpec { area: 1 })).await.unwrap_err();
    let why = "sails.harbour.dev \"late\" is forbidden: create not allowed while custom resource definition is terminating";
    assert!(refused.to_string().contains(why), "{refused}");

    let let_go = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    sails.patch("held", &PatchParams::default(), &let_go).await.unwrap();
    assert!(cluster.settle().await);
    assert_eq!(ending(&definitions).await, None);
    // Nothing comes back with a new definition of the same name.
    definitions.create(&create, &Sail::crd()).await.unwrap();
    assert!(sails.list(&Default::default()).await.unwrap().items.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_definition_that_nobody_could_use_goes_at_once() {
    let (cluster, definitions, _) = harbour().await;
    // The kind is taken: never established.
    let mut rival = serde_json::to_value(Sail::crd()).unwrap();
    rival["metadata"]["name"] = json!("boats.harbour.dev");
    rival["spec"]["names"]["plural"] = json!("boats");
    let rival: CustomResourceDefinition = serde_json::from_value(rival).unwrap();
    definitions.create(&PostParams::default(), &rival).await.unwrap();
    definitions.delete("boats.harbour.dev", &DeleteParams::default()).await.unwrap();
    assert!(cluster.settle().await);
    assert!(definitions.get_opt("boats.harbour.dev").await.unwrap().is_none());
    assert!(definitions.get_opt(NAME).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn watches_end_with_their_definition() {
    let (cluster, definitions, sails) = harbour().await;
    sails.create(&PostParams::default(), &Sail::new("main", SailSpec { area: 1 })).await.unwrap();
    let watch = WatchParams::default().timeout(290);
    let mut events = sails.watch(&watch, "0").await.unwrap().boxed();
    definitions.delete(NAME, &DeleteParams::default()).await.unwrap();
    let (begun, mut seen) = (tokio::time::Instant::now(), Vec::new());
    while let Some(event) = events.next().await {
        seen.push(match event.unwrap() {
            WatchEvent::Added(_) => "added",
            WatchEvent::Modified(_) => "modified",
            WatchEvent::Deleted(_) => "deleted",
            _ => "another",
        });
    }
    assert_eq!(seen, ["added", "deleted"]);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    drop(cluster);
}
