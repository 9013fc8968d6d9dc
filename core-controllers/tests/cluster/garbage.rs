//! Garbage collection: background, foreground, orphans, circles, custom kinds.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::{ConfigMap, Pod},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, PostParams, PropagationPolicy},
};
use serde_json::{Value, json};

use crate::{
    play::{Cluster, pass},
    workloads::deployment,
};

fn policy(policy: PropagationPolicy) -> DeleteParams {
    DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() }
}

fn owned(name: &str, owner: &ConfigMap, block: bool) -> Value {
    json!({"metadata": {"name": name, "ownerReferences": [{
        "apiVersion": "v1", "kind": "ConfigMap", "name": owner.name_any(), "uid": owner.uid(),
        "blockOwnerDeletion": block,
    }]}})
}

async fn names(cluster: &Cluster) -> Vec<String> {
    let mut names: Vec<String> =
        cluster.list::<ConfigMap>("").await.iter().map(ResourceExt::name_any).collect();
    names.retain(|name| name != "kube-root-ca.crt");
    names
}

#[tokio::test(start_paused = true)]
async fn what_a_deployment_made_goes_with_it() {
    let cluster = Cluster::start("*").await;
    pass(1).await;
    let deployments = cluster.api::<Deployment>();
    for (name, policy) in [
        ("back", policy(PropagationPolicy::Background)),
        ("front", policy(PropagationPolicy::Foreground)),
        ("plain", DeleteParams::default()),
    ] {
        cluster.create::<Deployment>(deployment(name, 2)).await;
        pass(3).await;
        let selector = format!("app={name}");
        assert_eq!(cluster.list::<Pod>(&selector).await.len(), 2);
        deployments.delete(name, &policy).await.unwrap();
        pass(10).await;
        assert!(deployments.get_opt(name).await.unwrap().is_none(), "{name}");
        assert!(cluster.list::<ReplicaSet>(&selector).await.is_empty(), "{name}");
        assert!(cluster.list::<Pod>(&selector).await.is_empty(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn orphans_stay_and_are_adopted_again() {
    let cluster = Cluster::start("*").await;
    pass(1).await;
    cluster.create::<Deployment>(deployment("web", 2)).await;
    pass(3).await;
    let pods = cluster.list::<Pod>("app=web").await;
    cluster.api::<Deployment>().delete("web", &policy(PropagationPolicy::Orphan)).await.unwrap();
    pass(5).await;
    assert!(cluster.api::<Deployment>().get_opt("web").await.unwrap().is_none());
    let sets = cluster.list::<ReplicaSet>("app=web").await;
    assert!(sets.len() == 1 && sets[0].owner_references().is_empty());
    cluster.create::<Deployment>(deployment("web", 2)).await;
    pass(3).await;
    let again = cluster.list::<ReplicaSet>("app=web").await;
    assert!(again.len() == 1 && again[0].uid() == sets[0].uid() && again[0].owner_references().len() == 1);
    let uids = |pods: &[Pod]| -> Vec<_> { pods.iter().map(ResourceExt::uid).collect() };
    assert_eq!(uids(&cluster.list::<Pod>("app=web").await), uids(&pods), "not one pod was touched");
}

#[tokio::test(start_paused = true)]
async fn an_object_lives_as_long_as_one_of_its_owners() {
    let cluster = Cluster::start("garbagecollector").await;
    pass(1).await;
    let (a, b): (ConfigMap, ConfigMap) = (
        cluster.create(json!({"metadata": {"name": "a"}})).await,
        cluster.create(json!({"metadata": {"name": "b"}})).await,
    );
    let mut both = owned("both", &a, true);
    let second = owned("", &b, true)["metadata"]["ownerReferences"][0].clone();
    both["metadata"]["ownerReferences"].as_array_mut().unwrap().push(second);
    cluster.create::<ConfigMap>(both).await;
    pass(1).await;
    let maps = cluster.api::<ConfigMap>();
    maps.delete("a", &policy(PropagationPolicy::Foreground)).await.unwrap();
    pass(5).await;
    assert_eq!(names(&cluster).await, ["b", "both"]);
    assert_eq!(
        maps.get("both").await.unwrap().owner_references().len(),
        1,
        "the owner that went is forgotten"
    );
    maps.delete("b", &DeleteParams::default()).await.unwrap();
    pass(5).await;
    assert!(names(&cluster).await.is_empty());
    cluster.create::<ConfigMap>(owned("late", &a, true)).await;
    pass(5).await;
    assert!(names(&cluster).await.is_empty(), "its owner never was");
}

#[tokio::test(start_paused = true)]
async fn foreground_waits_for_those_that_block_and_a_circle_is_broken() {
    let cluster = Cluster::start("garbagecollector").await;
    pass(1).await;
    let owner: ConfigMap = cluster.create(json!({"metadata": {"name": "owner"}})).await;
    let mut blocks = owned("blocks", &owner, true);
    blocks["metadata"]["finalizers"] = json!(["x.dev/slow"]);
    cluster.create::<ConfigMap>(blocks).await;
    let mut free = owned("free", &owner, false);
    free["metadata"]["finalizers"] = json!(["x.dev/slow"]);
    cluster.create::<ConfigMap>(free).await;
    pass(1).await;
    let maps = cluster.api::<ConfigMap>();
    maps.delete("owner", &policy(PropagationPolicy::Foreground)).await.unwrap();
    pass(30).await;
    assert_eq!(names(&cluster).await, ["blocks", "free", "owner"], "it waits");
    cluster.patch::<ConfigMap>("blocks", json!({"metadata": {"finalizers": null}})).await;
    pass(5).await;
    assert_eq!(names(&cluster).await, ["free"], "and does not wait for what does not block");
    cluster.patch::<ConfigMap>("free", json!({"metadata": {"finalizers": null}})).await;

    let a: ConfigMap = cluster.create(json!({"metadata": {"name": "a"}})).await;
    let b: ConfigMap = cluster.create(owned("b", &a, true)).await;
    let c: ConfigMap = cluster.create(owned("c", &b, true)).await;
    let back = owned("", &c, true)["metadata"]["ownerReferences"].clone();
    cluster.patch::<ConfigMap>("a", json!({"metadata": {"ownerReferences": back}})).await;
    pass(1).await;
    maps.delete("a", &policy(PropagationPolicy::Foreground)).await.unwrap();
    pass(60).await;
    assert!(names(&cluster).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn custom_kinds_own_and_are_owned() {
    let cluster = Cluster::start("garbagecollector,namespace").await;
    pass(1).await;
    let definition: CustomResourceDefinition = serde_json::from_value(json!({
        "metadata": {"name": "backups.x.dev"},
        "spec": {
            "group": "x.dev",
            "scope": "Namespaced",
            "names": {"plural": "backups", "singular": "backup", "kind": "Backup", "listKind": "BackupList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true,
            }}}],
        },
    }))
    .unwrap();
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    definitions.create(&PostParams::default(), &definition).await.unwrap();
    pass(5).await;
    let kind = ApiResource {
        group: "x.dev".into(),
        version: "v1".into(),
        api_version: "x.dev/v1".into(),
        kind: "Backup".into(),
        plural: "backups".into(),
    };
    let backups: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), "default", &kind);
    let make = |name: &str, owner: Option<&DynamicObject>| {
        let mut object = DynamicObject::new(name, &kind).within("default");
        object.metadata.owner_references = owner.map(|owner| {
            let reference = json!([{"apiVersion": "x.dev/v1", "kind": "Backup", "name": owner.name_any(), "uid": owner.uid()}]);
            serde_json::from_value(reference).unwrap()
        });
        object
    };
    let parent = backups.create(&PostParams::default(), &make("parent", None)).await.unwrap();
    backups.create(&PostParams::default(), &make("child", Some(&parent))).await.unwrap();
    let reference =
        json!([{"apiVersion": "x.dev/v1", "kind": "Backup", "name": "parent", "uid": parent.uid()}]);
    cluster.create::<ConfigMap>(json!({"metadata": {"name": "data", "ownerReferences": reference}})).await;
    pass(5).await;
    assert_eq!(names(&cluster).await, ["data"]);
    backups.delete("parent", &DeleteParams::default()).await.unwrap();
    pass(10).await;
    assert!(backups.get_opt("child").await.unwrap().is_none());
    assert!(names(&cluster).await.is_empty());
}
