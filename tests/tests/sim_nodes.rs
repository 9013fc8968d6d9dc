//! A node is lost: not ready after 50 seconds, its pods evicted after five minutes, replaced and running elsewhere.

use std::time::Duration;

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node, Pod},
};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use minicluster::TestCluster;
use serde_json::json;

fn deployment(replicas: i32) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"terminationGracePeriodSeconds": 5, "containers": [{"name": "c", "image": "x"}]},
            },
        },
    }))
    .unwrap()
}

async fn running(pods: &Api<Pod>, node: Option<&str>) -> usize {
    let list = pods.list(&ListParams::default().labels("app=web")).await.unwrap();
    let on = |pod: &&Pod| node.is_none_or(|n| pod.spec.as_ref().unwrap().node_name.as_deref() == Some(n));
    let runs = |pod: &&Pod| {
        pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running")
            && pod.metadata.deletion_timestamp.is_none()
    };
    list.items.iter().filter(on).filter(runs).count()
}

async fn is_ready(nodes: &Api<Node>, name: &str) -> String {
    let node = nodes.get(name).await.unwrap();
    let conditions = node.status.unwrap().conditions.unwrap();
    conditions.into_iter().find(|c| c.type_ == "Ready").unwrap().status
}

#[tokio::test(start_paused = true)]
async fn a_lost_node_is_noticed_and_its_pods_come_back_elsewhere() {
    let cluster = TestCluster::builder().controllers(&["*"]).scheduler().hollow_nodes(2).start().await;
    let client = cluster.client();
    let (pods, nodes): (Api<Pod>, Api<Node>) =
        (Api::default_namespaced(client.clone()), Api::all(client.clone()));
    let deployments: Api<Deployment> = Api::default_namespaced(client);
    cluster.advance(Duration::from_secs(2)).await;
    deployments.create(&PostParams::default(), &deployment(4)).await.unwrap();
    cluster.advance(Duration::from_secs(10)).await;
    assert_eq!(running(&pods, None).await, 4);
    let lost = running(&pods, Some("hollow-1")).await;
    assert!(lost > 0, "the scheduler used one node only");

    cluster.lose_node("hollow-1");
    // The last renewal of its lease lies up to ten seconds back.
    cluster.advance(Duration::from_secs(39)).await;
    assert_eq!(is_ready(&nodes, "hollow-1").await, "True", "too early");
    cluster.advance(Duration::from_secs(21)).await;
    assert_eq!(is_ready(&nodes, "hollow-1").await, "Unknown");
    assert_eq!(running(&pods, Some("hollow-1")).await, lost, "evicted before five minutes");

    cluster.advance(Duration::from_secs(330)).await;
    assert_eq!(running(&pods, Some("hollow-0")).await, 4, "not replaced on the node that is left");
    assert_eq!(running(&pods, Some("hollow-1")).await, 0);
}
