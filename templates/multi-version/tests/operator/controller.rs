//! What an object asks for is run, whatever happens. The controller knows the hub alone.

use std::time::Duration;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use minicluster::{TestCluster, test_cluster::Faults};
use serde_json::json;
use windlass::ConditionsExt;

use crate::{World, world};

impl World {
    /// Status and message of the condition `Ready`.
    async fn ready(&self, name: &str) -> String {
        let status = self.objects.get(name).await.unwrap().status.unwrap_or_default();
        let ready = status.conditions.condition("Ready");
        ready.map_or_else(String::new, |ready| format!("{}: {}", ready.status, ready.message))
    }

    async fn running(&self) -> usize {
        let pods: Api<Pod> = Api::default_namespaced(self.cluster.client());
        let pods = pods.list(&ListParams::default()).await.unwrap();
        let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone());
        pods.iter().filter(|pod| phase(pod).as_deref() == Some("Running")).count()
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_for_runs() {
    let world = world(TestCluster::builder()).await;
    world.create("main", 3).await;
    assert!(world.cluster.settle().await);
    assert_eq!(world.ready("main").await, "True: 3 of 3 replicas are ready");
    assert_eq!(world.running().await, 3);

    world.set("main", json!({ "replicas": 1, "image": "web:2" })).await;
    assert!(world.cluster.settle().await);
    assert_eq!(world.ready("main").await, "True: 1 of 1 replicas are ready");
    let object = world.objects.get("main").await.unwrap();
    assert_eq!(object.status.unwrap().observed_generation, object.metadata.generation);
}

#[tokio::test(start_paused = true)]
async fn what_was_deleted_comes_back() {
    let world = world(TestCluster::builder()).await;
    world.create("main", 1).await;
    assert!(world.cluster.settle().await);
    let deployments: Api<Deployment> = Api::default_namespaced(world.cluster.client());
    let first = deployments.get("main").await.unwrap();
    deployments.delete("main", &DeleteParams::default()).await.unwrap();
    assert!(world.cluster.settle().await);
    let second = deployments.get("main").await.unwrap();
    assert_ne!(first.uid(), second.uid());
    assert_eq!(world.ready("main").await, "True: 1 of 1 replicas are ready");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_behind() {
    let world = world(TestCluster::builder()).await;
    world.create("main", 2).await;
    assert!(world.cluster.settle().await);
    world.objects.delete("main", &DeleteParams::default()).await.unwrap();
    let deployments: Api<Deployment> = Api::default_namespaced(world.cluster.client());
    // Minutes for the garbage collector and for pods to end in peace, and no time at all.
    world.cluster.advance(Duration::from_secs(120)).await;
    assert!(deployments.get_opt("main").await.unwrap().is_none());
    assert_eq!(world.running().await, 0);
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
        world.create("main", 3).await;
        world.create("other", 1).await;
        world.cluster.advance(Duration::from_secs(60)).await;
        world.set("main", json!({ "replicas": 2 })).await;
        world.cluster.advance(Duration::from_secs(120)).await;
        assert_eq!(world.ready("main").await, "True: 2 of 2 replicas are ready", "seed {seed}");
        assert_eq!(world.ready("other").await, "True: 1 of 1 replicas are ready", "seed {seed}");
        assert_eq!(world.running().await, 3, "seed {seed}");
        let writes = world.cluster.transcript();
        let made = writes.iter().filter(|w| w.verb == "create" && w.key.contains("/deployments/")).count();
        assert_eq!(made, 2, "seed {seed}: one Deployment for each object");
    }
}
