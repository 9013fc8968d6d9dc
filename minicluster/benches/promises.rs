//! What a cluster takes: time to start, memory and CPU at rest, pods bound a second, a thousand nodes in memory.
//!
//! `cargo bench -p minicluster --bench promises [-- FILTER]`. Medians where a figure is taken more than once.

#![allow(missing_docs, clippy::disallowed_methods)]

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Node, Pod},
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use minicluster::{TestCluster, test_cluster::Identity};
use serde_json::json;
use windlass::Manager;
use windlass_scheduler::Scheduler;

/// Requests of a bench in flight.
const IN_FLIGHT: usize = 64;
/// How long a server rests before its CPU time is read, and how long it is watched then.
const REST: Duration = Duration::from_secs(5);
const WATCHED: Duration = Duration::from_secs(20);
/// The kernel's unit of CPU time in `/proc`, ticks a second.
const TICKS: f64 = 100.0;

fn main() {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with("--")).unwrap_or_default();
    let benches: [(&str, fn()); 6] = [
        ("start", start),
        ("rest", rest),
        ("test-cluster", test_cluster),
        ("schedule", schedule),
        ("alone", scheduler_alone),
        ("large", large),
    ];
    for (name, bench) in benches.into_iter().filter(|(name, _)| name.contains(&filter)) {
        println!("{name}:");
        bench();
    }
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("a Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

/// A server of its own, ended with its data when it is dropped.
struct Server {
    child: Child,
    dir: std::path::PathBuf,
}

impl Server {
    /// Starts `minicluster up` and returns when it says that its API is ready.
    fn start(components: &str, store: &str) -> (Self, Duration) {
        let dir =
            std::env::temp_dir().join(format!("windlass-bench-{}-{}", std::process::id(), fastrand::u32(..)));
        let begin = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_minicluster"))
            .args([
                "up",
                "--components",
                components,
                "--store",
                store,
                "--secure-port",
                "16443",
                "--data-dir",
            ])
            .arg(&dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("minicluster starts");
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("its output"));
        out.read_line(&mut line).expect("a line");
        let took = begin.elapsed();
        assert!(line.starts_with("API ready"), "{line:?}");
        (Self { child, dir }, took)
    }

    fn field(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with(name)).expect("a known field");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
    }

    fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: f64 = fields[11..13].iter().filter_map(|n| n.parse::<f64>().ok()).sum();
        ticks / TICKS
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// From `exec` to an API that answers.
fn start() {
    for store in ["memory", "durable"] {
        let times = (0..9).map(|_| Server::start("apiserver,controllers,scheduler", store).1).collect();
        println!("  control plane, {store} store, to ready: {:?}", median(times));
    }
}

/// What a control plane takes when nothing happens.
fn rest() {
    let (server, _) = Server::start("apiserver,controllers,scheduler", "durable");
    std::thread::sleep(REST);
    let before = server.cpu_seconds();
    std::thread::sleep(WATCHED);
    let share = (server.cpu_seconds() - before) / WATCHED.as_secs_f64() * 100.0;
    println!("  resident: {} KiB; CPU: {share:.2} % of a core", server.field("VmRSS:"));
}

fn test_cluster() {
    runtime().block_on(async {
        let mut times = Vec::new();
        for _ in 0..51 {
            let begin = Instant::now();
            let cluster = TestCluster::start().await;
            times.push(begin.elapsed());
            drop(cluster);
        }
        println!("  TestCluster::start(): {:?}", median(times));

        let cluster = TestCluster::start().await;
        let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
        let map = |i| object(json!({ "metadata": { "name": format!("m-{i}") }, "data": { "key": "value" } }));
        create_all(&maps, 1000, map).await;
        let mut times = Vec::new();
        for _ in 0..51 {
            let begin = Instant::now();
            let fork = cluster.fork().await;
            times.push(begin.elapsed());
            drop(fork);
        }
        println!("  fork() with 1,000 objects: {:?}", median(times));

        let before = resident();
        let mut clusters = Vec::new();
        for i in 0..1000 {
            let cluster = TestCluster::start().await;
            let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
            maps.create(&PostParams::default(), &map(i)).await.expect("created");
            clusters.push(cluster);
        }
        let each = (resident() - before) / clusters.len() as u64;
        println!("  resident bytes of each of 1,000 clusters: {each}");
    });
}

/// Creates what `make` makes for every index.
async fn create_all<K>(api: &Api<K>, count: usize, make: impl Fn(usize) -> K)
where
    K: kube::Resource + Clone + serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug,
{
    stream::iter((0..count).map(&make))
        .for_each_concurrent(IN_FLIGHT, |object| async move {
            api.create(&PostParams::default(), &object).await.expect("created");
        })
        .await;
}

fn object<K: serde::de::DeserializeOwned>(value: serde_json::Value) -> K {
    serde_json::from_value(value).expect("an object of its kind")
}

async fn make_nodes(client: &Client, count: usize) {
    let nodes: Api<Node> = Api::all(client.clone());
    create_all(&nodes, count, |i| {
        object(json!({"metadata": {"name": format!("node-{i}"), "labels": {"kubernetes.io/hostname": format!("node-{i}")}}}))
    })
    .await;
    let resources = json!({"cpu": "32", "memory": "64Gi", "pods": "110"});
    let status = json!({"status": {"capacity": resources, "allocatable": resources,
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}]}});
    let (nodes, status) = (&nodes, &status);
    stream::iter(0..count)
        .for_each_concurrent(IN_FLIGHT, |i| async move {
            let (name, how) = (format!("node-{i}"), PatchParams::default());
            nodes.patch_status(&name, &how, &Patch::Merge(status)).await.expect("a status");
            let untainted = json!({"spec": {"taints": null}});
            nodes.patch(&name, &how, &Patch::Merge(&untainted)).await.expect("no taints");
        })
        .await;
}

fn pod(i: usize) -> Pod {
    object(json!({"metadata": {"name": format!("pod-{i}"), "labels": {"app": "bench"}},
        "spec": {"containers": [{"name": "c", "image": "bench",
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}}]}}))
}

/// Pods created one by one by a client and bound by the scheduler, all through the API.
fn schedule() {
    for nodes in [1_000, 5_000] {
        runtime().block_on(async move {
            let cluster = TestCluster::builder().controllers(&["serviceaccount"]).scheduler().start().await;
            make_nodes(&cluster.client(), nodes).await;
            let pods: Api<Pod> = Api::namespaced(cluster.client(), "default");
            let count = 10_000;
            let begin = Instant::now();
            create_all(&pods, count, pod).await;
            let created = begin.elapsed();
            all_bound(&pods).await;
            let bound = begin.elapsed();
            let rate = count as f64 / bound.as_secs_f64();
            println!(
                "  {nodes} nodes, {count} pods: created in {created:?}, bound in {bound:?}: {rate:.0} pods/s"
            );
        });
    }
}

/// Pods that are there already, bound by a scheduler that begins: its first look at everything is part of it.
fn scheduler_alone() {
    for nodes in [1_000, 5_000] {
        runtime().block_on(async move {
            let cluster = TestCluster::builder().controllers(&["serviceaccount"]).start().await;
            make_nodes(&cluster.client(), nodes).await;
            let pods: Api<Pod> = Api::namespaced(cluster.client(), "default");
            let count = 10_000;
            create_all(&pods, count, pod).await;
            let client = cluster.component("scheduler", Identity::new("system:kube-scheduler", &[]));
            let mut manager = Manager::builder(client);
            manager.add(Scheduler::default());
            let begin = Instant::now();
            let scheduling = tokio::spawn(manager.build().run(std::future::pending()));
            all_bound(&pods).await;
            let bound = begin.elapsed();
            scheduling.abort();
            let rate = count as f64 / bound.as_secs_f64();
            println!("  {nodes} nodes, {count} pods: bound in {bound:?}: {rate:.0} pods/s");
        });
    }
}

async fn all_bound(pods: &Api<Pod>) {
    let unbound = ListParams::default().fields("spec.nodeName=").limit(1);
    while !pods.list_metadata(&unbound).await.expect("a list").items.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A thousand nodes and thirty thousand pods, from Deployments to Running.
fn large() {
    runtime().block_on(async {
        let begin = Instant::now();
        let cluster =
            TestCluster::builder().controllers(&["*"]).scheduler().hollow_nodes(1_000).start().await;
        let deployments: Api<Deployment> = Api::namespaced(cluster.client(), "default");
        create_all(&deployments, 30, |i| {
            let labels = json!({"app": format!("app-{i}")});
            object(json!({"metadata": {"name": format!("app-{i}")}, "spec": {"replicas": 1000,
                "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
                "spec": {"containers": [{"name": "c", "image": "bench"}]}}}}))
        })
        .await;
        let ready = |d: &Deployment| d.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0);
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let all = deployments.list(&ListParams::default()).await.expect("a list");
            let available: i32 = all.iter().map(ready).sum();
            if available == 30_000 || begin.elapsed() > Duration::from_secs(1_200) {
                println!("  1000 nodes: {available} of 30000 pods available in {:?}", begin.elapsed());
                break;
            }
        }
        println!("  resident: {} kB", resident() / 1024);
    });
}
