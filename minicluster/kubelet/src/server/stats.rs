//! What a kubelet tells about itself and its pods: the pods, their use of the node, its metrics.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::kubelet::Handle;
use crate::runtime::{ContainerStats, labels};

/// The pods of the node, as a `PodList`.
pub(super) fn pods(kubelet: &Handle) -> Value {
    let cells: Vec<_> = kubelet.shared.cells.lock().values().cloned().collect();
    let items: Vec<Pod> = cells
        .iter()
        .map(|cell| {
            let mut pod = (*cell.pod()).clone();
            pod.status = cell.status().or(pod.status);
            pod
        })
        .collect();
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

/// Container use by pod.
async fn by_pod(kubelet: &Handle) -> BTreeMap<(String, String, String), Vec<ContainerStats>> {
    let mut pods: BTreeMap<_, Vec<ContainerStats>> = BTreeMap::new();
    for stats in kubelet.shared.runtime.stats().await.unwrap_or_default() {
        if let Some(id) = labels::identity(&stats.labels) {
            pods.entry((id.namespace, id.name, id.uid)).or_default().push(stats);
        }
    }
    pods
}

fn container_name(stats: &ContainerStats) -> &str {
    stats.labels.get(labels::CONTAINER_NAME).map_or("", String::as_str)
}

/// `/stats/summary`: the part that is known without an agent of its own.
pub(super) async fn summary(kubelet: &Handle) -> Value {
    let mut node = (0, 0);
    let pods: Vec<Value> = by_pod(kubelet)
        .await
        .into_iter()
        .map(|((namespace, name, uid), containers)| {
            let cpu: u64 = containers.iter().map(|c| c.cpu_nanos).sum();
            let memory: u64 = containers.iter().map(|c| c.working_set).sum();
            node = (node.0 + cpu, node.1 + memory);
            let at = containers.first().map(|c| Time(c.at));
            let list: Vec<Value> = containers.iter().map(container).collect();
            json!({
                "podRef": {"name": name, "namespace": namespace, "uid": uid},
                "containers": list,
                "cpu": {"time": at, "usageCoreNanoSeconds": cpu},
                "memory": {"time": at, "workingSetBytes": memory},
            })
        })
        .collect();
    json!({
        "node": {
            "nodeName": kubelet.shared.config.node_name,
            "cpu": {"usageCoreNanoSeconds": node.0},
            "memory": {"workingSetBytes": node.1},
        },
        "pods": pods,
    })
}

fn container(c: &ContainerStats) -> Value {
    let at = Time(c.at);
    json!({
        "name": container_name(c),
        "cpu": {"time": at, "usageCoreNanoSeconds": c.cpu_nanos},
        "memory": {"time": at, "usageBytes": c.memory, "workingSetBytes": c.working_set, "rssBytes": c.rss},
        "rootfs": {"time": at, "usedBytes": c.layer_bytes, "inodesUsed": c.layer_inodes},
    })
}

/// `/metrics/resource`, from which autoscaling is fed.
pub(super) async fn resource_metrics(kubelet: &Handle) -> String {
    let mut cpu = String::from("# TYPE container_cpu_usage_seconds_total counter\n");
    let mut memory = String::from("# TYPE container_memory_working_set_bytes gauge\n");
    for ((namespace, pod, _), containers) in by_pod(kubelet).await {
        for c in containers {
            let who =
                format!("{{container=\"{}\",namespace=\"{namespace}\",pod=\"{pod}\"}}", container_name(&c));
            let millis = c.at.as_millisecond();
            let seconds = std::time::Duration::from_nanos(c.cpu_nanos).as_secs_f64();
            let _ = writeln!(cpu, "container_cpu_usage_seconds_total{who} {seconds} {millis}");
            let _ = writeln!(memory, "container_memory_working_set_bytes{who} {} {millis}", c.working_set);
        }
    }
    cpu + &memory
}

/// `/metrics`, with upstream's names.
pub(super) fn metrics(kubelet: &Handle) -> String {
    let cells: Vec<_> = kubelet.shared.cells.lock().values().cloned().collect();
    let running = |cell: &crate::worker::Cell| {
        let view = cell.view();
        view.containers.iter().filter(|c| c.state == crate::runtime::ContainerState::Running).count()
    };
    let containers: usize = cells.iter().map(|c| running(c)).sum();
    let pods = cells.iter().filter(|c| c.view().sandboxes.iter().any(|s| s.ready)).count();
    let mut text = String::new();
    let mut gauge = |name: &str, labels: &str, value: usize| {
        let _ = writeln!(text, "# TYPE {name} gauge\n{name}{labels} {value}");
    };
    gauge("kubelet_running_pods", "", pods);
    gauge("kubelet_running_containers", "{container_state=\"running\"}", containers);
    gauge("kubelet_desired_pods", "{static=\"\"}", cells.len());
    gauge("kubelet_node_name", &format!("{{node=\"{}\"}}", kubelet.shared.config.node_name), 1);
    text
}
