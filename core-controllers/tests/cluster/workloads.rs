//! Namespaces, ReplicaSets and Deployments.

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{ConfigMap, Event, Namespace, Pod, ServiceAccount},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ObjectMeta, PostParams},
};
use serde_json::{Value, json};

use crate::play::{Cluster, pass};

fn template(app: &str, image: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {"containers": [{"name": "c", "image": image}]},
    })
}

pub(crate) fn deployment(name: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": template(name, "v1"),
        },
    })
}

#[tokio::test(start_paused = true)]
async fn a_namespace_gets_what_pods_need_and_goes_with_all_it_holds() {
    let cluster = Cluster::start("*").await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let metadata = ObjectMeta { name: Some("team".into()), ..ObjectMeta::default() };
    namespaces.create(&PostParams::default(), &Namespace { metadata, ..Namespace::default() }).await.unwrap();
    pass(1).await;
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), "team");
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "team");
    accounts.get("default").await.unwrap();
    assert_eq!(maps.get("kube-root-ca.crt").await.unwrap().data.unwrap()["ca.crt"], "the CA");
    accounts.delete("default", &DeleteParams::default()).await.unwrap();
    maps.delete("kube-root-ca.crt", &DeleteParams::default()).await.unwrap();
    pass(1).await;
    accounts.get("default").await.unwrap();
    maps.get("kube-root-ca.crt").await.unwrap();

    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), "team");
    let web = serde_json::from_value(deployment("web", 3)).unwrap();
    deployments.create(&PostParams::default(), &web).await.unwrap();
    pass(5).await;
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "team");
    assert_eq!(pods.list(&Default::default()).await.unwrap().items.len(), 3);
    let held = json!({"metadata": {"name": "held", "finalizers": ["x.dev/keep"]}});
    maps.create(&PostParams::default(), &serde_json::from_value(held).unwrap()).await.unwrap();
    namespaces.delete("team", &DeleteParams::default()).await.unwrap();
    pass(60).await;
    let conditions = namespaces.get("team").await.unwrap().status.unwrap().conditions.unwrap();
    let told: Vec<String> = conditions
        .iter()
        .filter(|c| c.status == "True")
        .map(|c| format!("{}: {}", c.reason.as_deref().unwrap(), c.message.as_deref().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            "SomeResourcesRemain: Some resources are remaining: configmaps. has 1 resource instances",
            "SomeFinalizersRemain: Some content in the namespace has finalizers remaining: x.dev/keep in 1 resource instances",
        ]
    );
    let patch = kube::api::Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps.patch("held", &Default::default(), &patch).await.unwrap();
    pass(60).await;
    assert!(namespaces.get_opt("team").await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_replica_set_adopts_releases_and_replaces() {
    let cluster = Cluster::start("serviceaccount,replicaset").await;
    pass(1).await;
    let orphan =
        json!({"metadata": {"name": "orphan", "labels": {"app": "rs"}}, "spec": template("", "v1")["spec"]});
    cluster.create::<Pod>(orphan).await;
    let set = json!({
        "metadata": {"name": "rs"},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "rs"}},
            "template": template("rs", "v1"),
        },
    });
    cluster.create::<ReplicaSet>(set).await;
    pass(2).await;
    let pods = cluster.list::<Pod>("app=rs").await;
    assert_eq!(pods.len(), 3);
    assert!(pods.iter().all(|pod| pod.owner_references()[0].name == "rs"));
    assert!(pods.iter().any(|pod| pod.name_any() == "orphan"), "adopted");
    let status = cluster.api::<ReplicaSet>().get("rs").await.unwrap().status.unwrap();
    assert_eq!((status.replicas, status.available_replicas, status.ready_replicas), (3, Some(3), Some(3)));

    cluster.patch::<Pod>("orphan", json!({"metadata": {"labels": {"app": "debug"}}})).await;
    pass(2).await;
    assert_eq!(cluster.list::<Pod>("app=rs").await.len(), 3, "replaced");
    assert!(cluster.api::<Pod>().get("orphan").await.unwrap().owner_references().is_empty(), "released");

    cluster.patch::<ReplicaSet>("rs", json!({"spec": {"replicas": 1}})).await;
    pass(2).await;
    assert_eq!(cluster.list::<Pod>("app=rs").await.len(), 1);
    let events = cluster.list::<Event>("").await;
    let count = |reason: &str| events.iter().filter(|e| e.reason.as_deref() == Some(reason)).count();
    assert!(count("SuccessfulCreate") >= 3 && count("SuccessfulDelete") >= 2);
}

#[tokio::test(start_paused = true)]
async fn a_deployment_rolls_out_rolls_back_and_scales() {
    let cluster = Cluster::start("*").await;
    pass(1).await;
    cluster.create::<Deployment>(deployment("web", 4)).await;
    pass(5).await;
    let web = async || cluster.api::<Deployment>().get("web").await.unwrap();
    let status = web().await.status.unwrap();
    assert_eq!(
        (status.available_replicas, status.updated_replicas, status.unavailable_replicas),
        (Some(4), Some(4), None)
    );
    let reasons = |status: k8s_openapi::api::apps::v1::DeploymentStatus| -> Vec<String> {
        status.conditions.unwrap().into_iter().filter_map(|c| c.reason).collect()
    };
    assert_eq!(reasons(status), ["MinimumReplicasAvailable", "NewReplicaSetAvailable"]);

    let image = |image: &str| json!({"spec": {"template": template("web", image)}});
    cluster.patch::<Deployment>("web", image("v2")).await;
    pass(10).await;
    let pods = cluster.list::<Pod>("app=web").await;
    let images: Vec<_> =
        pods.iter().map(|p| p.spec.as_ref().unwrap().containers[0].image.clone().unwrap()).collect();
    assert_eq!(images, ["v2"; 4]);
    let sets = cluster.list::<ReplicaSet>("app=web").await;
    assert_eq!(sets.len(), 2, "the old one stays as history");
    assert_eq!(web().await.annotations()["deployment.kubernetes.io/revision"], "2");

    cluster.patch::<Deployment>("web", image("v1")).await;
    pass(10).await;
    assert_eq!(
        cluster.list::<ReplicaSet>("app=web").await.len(),
        2,
        "a rollback returns to a set that exists"
    );
    assert_eq!(web().await.annotations()["deployment.kubernetes.io/revision"], "3");

    cluster.patch::<Deployment>("web", json!({"spec": {"replicas": 7}})).await;
    pass(5).await;
    assert_eq!(cluster.list::<Pod>("app=web").await.len(), 7);
    let observed = web().await;
    assert_eq!(observed.status.unwrap().observed_generation, observed.metadata.generation);
    let events = cluster.list::<Event>("").await;
    let notes: Vec<_> = events.iter().filter_map(|e| e.message.clone()).collect();
    assert!(
        notes.iter().any(|n| n.starts_with("Scaled up replica set web-") && n.ends_with(" from 0 to 4")),
        "{notes:?}"
    );
}
