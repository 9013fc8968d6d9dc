//! Whole kubelets on a runtime in memory, against the real API server in memory, under virtual time.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::{Client, ResourceExt as _};
use minicluster_apiserver::{Config as ApiConfig, Identity, InProcess, bootstrap};
use minicluster_kubelet::runtime::hollow::{Behaviour, HollowRuntime};
use minicluster_kubelet::{Config, Kubelet, Pods};
use minicluster_store::Store;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use windlass::{Informers, random};

const NODE: &str = "n1";

struct World {
    client: Client,
    _api: Arc<minicluster_apiserver::Api>,
    runtime: HollowRuntime,
    stop: CancellationToken,
}

async fn world(script: impl Fn(&str) -> Behaviour + Send + Sync + 'static) -> World {
    let key = rcgen::KeyPair::generate().unwrap();
    let config = ApiConfig { seed: 7, ..ApiConfig::new(key.serialize_der()) };
    let api = minicluster_apiserver::Api::new(Store::memory(), config).unwrap();
    bootstrap::run(&api, None).await.unwrap();
    let client = Client::new(InProcess::new(&api, Identity::system()), "default");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
        Api::namespaced(client.clone(), "default");
    accounts.create(&PostParams::default(), &serde_json::from_value(account).unwrap()).await.unwrap();
    let runtime = HollowRuntime::scripted(Ipv4Addr::new(10, 244, 0, 2), move |_, container| {
        script(&container.user_image)
    });
    let world = World { client, _api: api, runtime, stop: CancellationToken::new() };
    world.kubelet(world.stop.clone());
    world
}

impl World {
    fn kubelet(&self, stop: CancellationToken) -> tokio::task::JoinHandle<()> {
        let informers = Informers::seeded(self.client.clone(), random::Source::seeded(1));
        let config = Config::hollow(NODE, IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
        let kubelet =
            Kubelet::new(config, &informers, Pods::of_all(&informers), Arc::new(self.runtime.clone()));
        tokio::spawn(async move { kubelet.run(stop, drop).await })
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn create(&self, spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        spec["nodeName"] = json!(NODE);
        let name = "p";
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        self.pods().create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap()
    }

    async fn pod(&self) -> Option<Pod> {
        self.pods().get_opt("p").await.unwrap()
    }

    /// Waits, in virtual time, until the pod is as wanted.
    async fn until(&self, what: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
        for _ in 0..20_000 {
            if let Some(pod) = self.pod().await.filter(&wanted) {
                return pod;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{what}: never; the pod is {:#?}", self.pod().await.map(|p| p.status));
    }

    async fn reasons(&self) -> Vec<String> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let mut list = events.list(&ListParams::default()).await.unwrap().items;
        list.retain(|e| e.involved_object.kind.as_deref() == Some("Pod"));
        list.sort_by_key(|e| e.metadata.resource_version.as_deref().and_then(|v| v.parse::<u64>().ok()));
        list.iter().map(|e| e.reason.clone().unwrap_or_default()).collect()
    }
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

fn is(pod: &Pod, kind: &str) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == kind && c.status == "True")
}

fn restarts(pod: &Pod) -> i32 {
    pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten()).map(|s| s.restart_count).sum()
}

fn waiting(pod: &Pod) -> String {
    let states = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let reasons = states.filter_map(|s| s.state.as_ref()?.waiting.as_ref()?.reason.clone());
    reasons.collect::<Vec<_>>().join(",")
}

#[tokio::test(start_paused = true)]
async fn a_pod_runs_and_leaves() {
    let world = world(|_| Behaviour::default()).await;
    world.create(json!({"containers": [{"name": "c", "image": "app:1"}]})).await;
    let pod = world.until("running", |p| phase(p) == "Running" && is(p, "Ready")).await;
    let status = pod.status.unwrap();
    assert_eq!(status.pod_ip.as_deref(), Some("10.244.0.2"));
    assert_eq!(status.host_ip.as_deref(), Some("192.0.2.1"));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));

    world.pods().delete("p", &DeleteParams::default()).await.unwrap();
    for _ in 0..1000 {
        if world.pod().await.is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(world.pod().await.is_none(), "the pod leaves the API");
    assert!(world.runtime.running(&pod.metadata.uid.unwrap()).is_empty());
    assert_eq!(world.reasons().await, ["Pulled", "Created", "Started", "Killing"]);
}

#[tokio::test(start_paused = true)]
async fn a_crashing_container_backs_off_and_counts() {
    let world = world(|_| Behaviour::exits(Duration::from_secs(1), 3)).await;
    world.create(json!({"containers": [{"name": "c", "image": "crash:1"}]})).await;
    let pod = world.until("three restarts", |p| restarts(p) == 3).await;
    let started = pod.status.as_ref().unwrap().start_time.as_ref().unwrap().0;
    let pod = world.until("backing off", |p| waiting(p) == "CrashLoopBackOff").await;
    // Ends at 1 s, again at 2 s (no pause), then after 10 s and 20 s of pause.
    let now = windlass::clock::now().duration_since(started).as_secs();
    assert!((33..37).contains(&now), "{now}");
    let last =
        pod.status.unwrap().container_statuses.unwrap()[0].last_state.clone().unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (3, Some("Error")));
}

#[tokio::test(start_paused = true)]
async fn init_containers_go_first_and_sidecars_stay() {
    let world = world(|image| match image {
        "init:1" => Behaviour::exits(Duration::from_secs(2), 0),
        "job:1" => Behaviour::exits(Duration::from_secs(5), 0),
        _ => Behaviour::default(),
    })
    .await;
    world
        .create(json!({"restartPolicy": "Never",
            "initContainers": [{"name": "i", "image": "init:1"},
                               {"name": "s", "image": "side:1", "restartPolicy": "Always"}],
            "containers": [{"name": "c", "image": "job:1"}]}))
        .await;
    let early = world.until("initializing", |p| waiting(p) == "PodInitializing").await;
    assert!(!is(&early, "Initialized"));
    let pod = world.until("done", |p| phase(p) == "Succeeded").await;
    let side = &pod.status.as_ref().unwrap().init_container_statuses.as_ref().unwrap()[1];
    assert!(side.state.as_ref().unwrap().terminated.is_some(), "the sidecar is stopped at the end");
    assert!(!is(&pod, "Ready"));
}

#[tokio::test(start_paused = true)]
async fn a_restarted_kubelet_adopts_what_runs() {
    let world = world(|_| Behaviour::default()).await;
    world.create(json!({"containers": [{"name": "c", "image": "app:1"}]})).await;
    let before = world.until("running", |p| is(p, "Ready")).await;
    let id = world.runtime.running(&before.uid().unwrap());
    world.stop.cancel();
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.kubelet(CancellationToken::new());
    tokio::time::sleep(Duration::from_secs(30)).await;
    let after = world.pod().await.unwrap();
    assert_eq!(world.runtime.running(&after.uid().unwrap()), id, "the same container");
    assert_eq!(restarts(&after), 0);
    assert!(is(&after, "Ready"));
}

#[tokio::test(start_paused = true)]
async fn probes_gate_readiness_and_restart_the_sick() {
    let world = world(|_| Behaviour {
        ready_after: Duration::from_secs(20),
        sick_after: Some(Duration::from_secs(60)),
        ..Behaviour::default()
    })
    .await;
    let probe = json!({"exec": {"command": ["true"]}, "periodSeconds": 2});
    world
        .create(json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "app:1",
            "readinessProbe": probe, "livenessProbe": probe}]}))
        .await;
    let early = world.until("running", |p| phase(p) == "Running").await;
    assert!(!is(&early, "Ready"));
    world.until("ready", |p| is(p, "Ready")).await;
    let pod = world.until("restarted", |p| restarts(p) == 1).await;
    assert_eq!(phase(&pod), "Running");
    assert!(world.reasons().await.contains(&"Unhealthy".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_failing_pull_backs_off() {
    let world = world(|image| Behaviour {
        pull_error: (image == "gone:1").then(|| "no such image".to_owned()),
        ..Behaviour::default()
    })
    .await;
    world.create(json!({"containers": [{"name": "c", "image": "gone:1"}]})).await;
    world.until("failed to pull", |p| waiting(p) == "ErrImagePull").await;
    world.until("backing off", |p| waiting(p) == "ImagePullBackOff").await;
    world.until("tried again", |p| waiting(p) == "ErrImagePull").await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_a_pod() {
    let world = world(|_| Behaviour::default()).await;
    world
        .create(json!({"activeDeadlineSeconds": 5, "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "app:1"}]}))
        .await;
    let pod = world.until("failed", |p| phase(p) == "Failed").await;
    assert_eq!(pod.status.unwrap().reason.as_deref(), Some("DeadlineExceeded"));
}

#[tokio::test(start_paused = true)]
async fn the_node_registers_and_stays_ready() {
    let world = world(|_| Behaviour::default()).await;
    let nodes: Api<Node> = Api::all(world.client.clone());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let node = nodes.get(NODE).await.unwrap();
    let status = node.status.unwrap();
    assert!(status.conditions.unwrap().iter().any(|c| c.type_ == "Ready" && c.status == "True"));
    assert_eq!(node.metadata.labels.unwrap()["kubernetes.io/hostname"], NODE);
    let leases: Api<k8s_openapi::api::coordination::v1::Lease> =
        Api::namespaced(world.client.clone(), "kube-node-lease");
    let renewed = leases.get(NODE).await.unwrap().spec.unwrap().renew_time.unwrap().0;
    assert!(windlass::clock::since(renewed) <= Duration::from_secs(10));
}
