//! The operator in a whole cluster in memory: all controllers, a scheduler, two nodes, and virtual time. It runs as its
//! own service account with the roles that were derived from it, so that a missing right fails here.

use std::time::Duration;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use minicluster::{
    TestCluster,
    test_cluster::{Builder, Faults, RunningOperator},
};
use serde_json::json;
use template_name::{TemplateName, TemplateNameSpec, operator};
use windlass::ConditionsExt;

struct World {
    cluster: TestCluster,
    _operator: RunningOperator,
    objects: Api<TemplateName>,
    deployments: Api<Deployment>,
    pods: Api<Pod>,
}

/// A cluster with the operator in it.
async fn world(builder: Builder) -> World {
    let cluster = builder.controllers(&["*"]).scheduler().hollow_nodes(2).start().await;
    World {
        _operator: cluster.run_operator(&operator()).await,
        objects: Api::default_namespaced(cluster.client()),
        deployments: Api::default_namespaced(cluster.client()),
        pods: Api::default_namespaced(cluster.client()),
        cluster,
    }
}

impl World {
    async fn create(&self, name: &str, replicas: i32) {
        let spec = TemplateNameSpec { image: "web:1".to_owned(), replicas };
        self.objects.create(&PostParams::default(), &TemplateName::new(name, spec)).await.unwrap();
    }

    async fn set(&self, name: &str, spec: serde_json::Value) {
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.objects.patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// Status and message of the condition `Ready`.
    async fn ready(&self, name: &str) -> String {
        let status = self.objects.get(name).await.unwrap().status.unwrap_or_default();
        let ready = status.conditions.condition("Ready");
        ready.map_or_else(String::new, |ready| format!("{}: {}", ready.status, ready.message))
    }

    async fn running(&self) -> usize {
        let pods = self.pods.list(&ListParams::default()).await.unwrap();
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
    let first = world.deployments.get("main").await.unwrap();
    world.deployments.delete("main", &DeleteParams::default()).await.unwrap();
    assert!(world.cluster.settle().await);
    let second = world.deployments.get("main").await.unwrap();
    assert_ne!(first.uid(), second.uid());
    assert_eq!(world.ready("main").await, "True: 1 of 1 replicas are ready");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_behind() {
    let world = world(TestCluster::builder()).await;
    world.create("main", 2).await;
    assert!(world.cluster.settle().await);
    world.objects.delete("main", &DeleteParams::default()).await.unwrap();
    // Minutes for the garbage collector and for pods to end in peace, and no time at all.
    world.cluster.advance(Duration::from_secs(120)).await;
    assert!(world.deployments.get_opt("main").await.unwrap().is_none());
    assert_eq!(world.running().await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_is_refused() {
    let world = world(TestCluster::builder()).await;
    let table = [
        ("", 1, "spec.image: Invalid value"),
        ("web:latest", 1, "has to say which version"),
        ("web:1", 51, "spec.replicas: Invalid value: 51: spec.replicas in body should be less than or equal to 50"),
    ];
    for (image, replicas, why) in table {
        let object = TemplateName::new("main", TemplateNameSpec { image: image.to_owned(), replicas });
        let refused = world.objects.create(&PostParams::default(), &object).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
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
