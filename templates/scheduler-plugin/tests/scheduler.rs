//! The scheduler in a whole cluster in memory, beside the cluster's own: all controllers, four nodes in two racks, and
//! virtual time. It runs as its own service account with the roles that were derived from it, so that a missing right
//! fails here.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use minicluster::{
    TestCluster,
    test_cluster::{Builder, Faults, RunningOperator},
};
use serde_json::json;
use template_name::{WATTS, operator};

const RACK: &str = "example.com/rack";

struct World {
    cluster: TestCluster,
    _operator: RunningOperator,
    nodes: Api<Node>,
    pods: Api<Pod>,
}

/// A cluster with the scheduler in it. Two nodes are in each of the racks `a` and `b`.
async fn world(builder: Builder) -> World {
    let cluster = builder
        .controllers(&["*"])
        .scheduler()
        .hollow_nodes(4)
        .start()
        .await;
    let nodes = Api::all(cluster.client());
    for (i, rack) in ["a", "a", "b", "b"].into_iter().enumerate() {
        let patch = Patch::Merge(json!({ "metadata": { "labels": { RACK: rack } } }));
        let name = format!("hollow-{i}");
        let labelled = async || {
            nodes
                .patch_metadata(&name, &PatchParams::default(), &patch)
                .await
                .ok()
        };
        cluster
            .eventually("the node is there", Duration::from_secs(60), labelled)
            .await;
    }
    World {
        _operator: cluster.run_operator(&operator()).await,
        nodes,
        pods: Api::default_namespaced(cluster.client()),
        cluster,
    }
}

impl World {
    async fn create(&self, name: &str, scheduler: &str, watts: &str) {
        let pod = json!({
            "metadata": { "name": name, "labels": { WATTS: watts } },
            "spec": { "schedulerName": scheduler, "containers": [{ "name": "main", "image": "main" }] },
        });
        self.pods
            .create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
            .await
            .unwrap();
    }

    /// How many watts are drawn in each rack by pods that have a node.
    async fn drawn(&self) -> BTreeMap<String, u64> {
        let nodes = self.nodes.list(&ListParams::default()).await.unwrap();
        let racks: BTreeMap<String, String> = nodes
            .iter()
            .map(|node| (node.name_any(), node.labels()[RACK].clone()))
            .collect();
        let mut drawn = BTreeMap::new();
        for pod in self.pods.list(&ListParams::default()).await.unwrap() {
            if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) {
                *drawn.entry(racks[node].clone()).or_default() += pod.labels()[WATTS].parse::<u64>().unwrap();
            }
        }
        drawn
    }

    /// Why a pod has no node, as it is told.
    async fn told(&self, name: &str) -> String {
        let status = self.pods.get(name).await.unwrap().status.unwrap_or_default();
        let mut conditions = status.conditions.unwrap_or_default().into_iter();
        conditions
            .find(|c| c.type_ == "PodScheduled")
            .and_then(|c| c.message)
            .unwrap_or_default()
    }
}

fn drawn(a: u64, b: u64) -> BTreeMap<String, u64> {
    [("a".to_owned(), a), ("b".to_owned(), b)].into()
}

#[tokio::test(start_paused = true)]
async fn racks_are_loaded_evenly_and_never_beyond_their_power() {
    let world = world(TestCluster::builder()).await;
    for i in 0..4 {
        world.create(&format!("pod-{i}"), "template-name", "3500").await;
    }
    world.cluster.advance(Duration::from_secs(10)).await;
    assert_eq!(world.drawn().await, drawn(7000, 7000));

    world.create("late", "template-name", "2000").await;
    world.cluster.advance(Duration::from_secs(10)).await;
    assert_eq!(world.drawn().await, drawn(7000, 7000));
    let why = "0/4 nodes are available: 4 node(s) in racks without enough power left.";
    assert!(
        world.told("late").await.starts_with(why),
        "{}",
        world.told("late").await
    );

    // The place of the first that goes is taken at once.
    world
        .pods
        .delete("pod-0", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    world.cluster.advance(Duration::from_secs(10)).await;
    assert_eq!(world.drawn().await.values().sum::<u64>(), 3 * 3500 + 2000);
}

#[tokio::test(start_paused = true)]
async fn what_can_never_run_is_told_so() {
    let world = world(TestCluster::builder()).await;
    world.create("huge", "template-name", "9000").await;
    world.create("odd", "template-name", "many").await;
    world.cluster.advance(Duration::from_secs(10)).await;
    let huge = world.told("huge").await;
    assert!(
        huge.starts_with("0/4 nodes are available: 4 node(s) in racks with too little power for the pod."),
        "{huge}"
    );
    let odd = world.told("odd").await;
    assert!(
        odd.starts_with(&format!(
            "0/4 nodes are available: the label {WATTS} is no number."
        )),
        "{odd}"
    );
}

#[tokio::test(start_paused = true)]
async fn pods_of_others_are_left_alone() {
    let world = world(TestCluster::builder()).await;
    world.create("theirs", "default-scheduler", "9000").await;
    world.create("nobodys", "somebody-else", "100").await;
    world.cluster.advance(Duration::from_secs(10)).await;
    assert_eq!(world.drawn().await.values().sum::<u64>(), 9000);
    assert_eq!(world.told("nobodys").await, "");
}

#[tokio::test(start_paused = true)]
async fn a_bad_line_delays_and_does_no_harm() {
    for seed in 0..5 {
        let faults = Faults {
            conflicts: 0.2,
            errors: 0.1,
            lost_answers: 0.1,
            broken_watches: 0.1,
            delay: Duration::from_millis(50),
        };
        let world = world(TestCluster::builder().seed(seed).faults(faults)).await;
        for i in 0..10 {
            world.create(&format!("pod-{i}"), "template-name", "2500").await;
        }
        world.cluster.advance(Duration::from_secs(120)).await;
        // Three fit into each rack, and four do not fit at all.
        assert_eq!(world.drawn().await, drawn(7500, 7500), "seed {seed}");
    }
}
