//! Nodes that fall silent, and what becomes of their pods.

use std::time::Duration;

use k8s_openapi::api::{
    apps::v1::Deployment,
    coordination::v1::Lease,
    core::v1::{Node, Pod},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::{
    play::{Cluster, pass},
    workloads::deployment,
};

/// A node that renews its lease until it is dropped.
struct Alive(JoinHandle<()>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn node(cluster: &Cluster, name: &str) -> Alive {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), "kube-node-lease");
    let lease = serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"holderIdentity": name}}))
        .unwrap();
    leases.create(&PostParams::default(), &lease).await.unwrap();
    ready(cluster, name).await;
    renewing(cluster, name)
}

/// What a kubelet writes when it starts.
async fn ready(cluster: &Cluster, name: &str) {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let now = windlass::clock::time();
    let conditions = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"].map(|type_| {
        let status = if type_ == "Ready" { "True" } else { "False" };
        json!({"type": type_, "status": status, "lastHeartbeatTime": now, "lastTransitionTime": now})
    });
    let patch = Patch::Merge(json!({"status": {"conditions": conditions}}));
    nodes.patch_status(name, &PatchParams::default(), &patch).await.unwrap();
}

fn renewing(cluster: &Cluster, name: &str) -> Alive {
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), "kube-node-lease");
    let name = name.to_owned();
    Alive(tokio::spawn(async move {
        loop {
            let patch = Patch::Merge(json!({"spec": {"renewTime": windlass::clock::micro_time()}}));
            leases.patch(&name, &PatchParams::default(), &patch).await.unwrap();
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    }))
}

async fn told(cluster: &Cluster, name: &str) -> String {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let node = nodes.get(name).await.unwrap();
    let conditions = node.status.unwrap().conditions.unwrap();
    let ready = conditions.iter().find(|c| c.type_ == "Ready").unwrap().status.clone();
    let taints = node.spec.unwrap_or_default().taints.unwrap_or_default();
    let taints: Vec<String> = taints
        .iter()
        .map(|t| format!("{}:{}", t.key.trim_start_matches("node.kubernetes.io/"), t.effect))
        .collect();
    format!("{ready} {}", taints.join(" "))
}

/// Binds every pod that has no node, as a scheduler would: one after the other, to a node that is not avoided.
async fn schedule(cluster: &Cluster, nodes: &[&str]) {
    for (i, pod) in cluster.list::<Pod>("").await.into_iter().enumerate() {
        if pod.spec.as_ref().unwrap().node_name.is_none() {
            let binding = json!({"metadata": {"name": pod.name_any()}, "target": {"kind": "Node", "name": nodes[i % nodes.len()]}});
            let api = cluster.api::<Pod>();
            let body = serde_json::to_vec(&binding).unwrap();
            let _: serde_json::Value = api
                .create_subresource(
                    "binding",
                    &pod.name_any(),
                    &PostParams::default(),
                    &serde_json::from_slice::<serde_json::Value>(&body).unwrap(),
                )
                .await
                .unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_node_is_tainted_and_its_pods_are_replaced() {
    let cluster = Cluster::start("*").await;
    pass(1).await;
    let _a = node(&cluster, "a").await;
    let b = node(&cluster, "b").await;
    cluster.create::<Deployment>(deployment("web", 4)).await;
    pass(2).await;
    schedule(&cluster, &["a", "b"]).await;
    pass(60).await;
    assert_eq!(
        (told(&cluster, "a").await, told(&cluster, "b").await),
        ("True ".to_owned(), "True ".to_owned())
    );

    drop(b);
    pass(35).await;
    assert_eq!(told(&cluster, "b").await, "True ", "not yet");
    pass(20).await;
    assert_eq!(told(&cluster, "a").await, "True ");
    assert_eq!(told(&cluster, "b").await, "Unknown unreachable:NoSchedule unreachable:NoExecute");
    let on_b = async || {
        let pods = cluster.list::<Pod>("app=web").await;
        pods.into_iter()
            .filter(|p| p.spec.as_ref().unwrap().node_name.as_deref() == Some("b"))
            .collect::<Vec<_>>()
    };
    assert_eq!(on_b().await.len(), 2, "they are tolerated for five minutes");
    assert!(on_b().await.iter().all(|pod| {
        let conditions = pod.status.as_ref().unwrap().conditions.as_ref().unwrap();
        conditions.iter().any(|c| c.type_ == "Ready" && c.status == "False")
    }));
    pass(300).await;
    assert!(on_b().await.is_empty());
    schedule(&cluster, &["a"]).await;
    assert_eq!(cluster.list::<Pod>("app=web").await.len(), 4);

    ready(&cluster, "b").await;
    let _b = renewing(&cluster, "b");
    pass(5).await;
    assert_eq!(told(&cluster, "b").await, "True ");
}

#[tokio::test(start_paused = true)]
async fn when_every_node_is_lost_nobody_is_driven_away() {
    let cluster = Cluster::start("*").await;
    pass(1).await;
    let only = node(&cluster, "only").await;
    cluster.create::<Deployment>(deployment("web", 2)).await;
    pass(2).await;
    schedule(&cluster, &["only"]).await;
    pass(5).await;
    drop(only);
    pass(1000).await;
    assert_eq!(told(&cluster, "only").await, "Unknown unreachable:NoSchedule");
    assert_eq!(cluster.list::<Pod>("app=web").await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_node_that_is_deleted_are_collected() {
    let cluster = Cluster::start("*").await;
    pass(1).await;
    let _a = node(&cluster, "a").await;
    let b = node(&cluster, "b").await;
    cluster.create::<Deployment>(deployment("web", 2)).await;
    pass(2).await;
    schedule(&cluster, &["b"]).await;
    pass(2).await;
    drop(b);
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    nodes.delete("b", &DeleteParams::default()).await.unwrap();
    pass(120).await;
    let pods = cluster.list::<Pod>("app=web").await;
    assert_eq!(pods.len(), 2);
    assert!(
        pods.iter().all(|pod| pod.spec.as_ref().unwrap().node_name.is_none()),
        "replaced, and not bound yet"
    );
}
