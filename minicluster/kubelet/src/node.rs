//! The node's own objects: registration, status with its conditions, and the Lease that says it lives.
//!
//! The Lease is renewed every 10 s and lasts 40 s. The status is looked at as often and written when something other
//! than a heartbeat changed, or after five minutes; it is a strategic merge patch of what the kubelet owns, so that
//! capacities and conditions of others stay.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec,
    NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use windlass::clock;

use crate::config::Config;
use crate::events::Kind;
use crate::runtime::RuntimeInfo;
use crate::worker::Shared;

/// Time between two renewals of the Lease.
const RENEW: Duration = Duration::from_secs(10);
/// How long a Lease lasts.
const LEASE_SECONDS: i32 = 40;
/// A status without changes is written this often.
const HEARTBEAT: Duration = Duration::from_secs(300);
/// Pause after a failed registration; doubles to [`MAX_RETRY`].
const RETRY: Duration = Duration::from_millis(100);
const MAX_RETRY: Duration = Duration::from_secs(7);
/// Images told in the node's status, largest first.
const IMAGES: usize = 50;

const LEASES: &str = "kube-node-lease";

/// Keeps the node's objects until the kubelet stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    tokio::select! {
        biased;
        () = keep(&shared) => {}
        () = shared.stop.cancelled() => {}
    }
}

async fn keep(shared: &Arc<Shared>) {
    let node = register(shared).await;
    let message = "Starting kubelet.".to_owned();
    shared.events.node(&node, Kind::Normal, "Starting", message);
    tokio::join!(keep_status(shared, node.clone()), keep_lease(shared, node));
}

/// Makes the Node, or takes the one that is there; tries for ever.
async fn register(shared: &Shared) -> Node {
    let nodes: Api<Node> = Api::all(shared.client.clone());
    let mut pause = RETRY;
    loop {
        match try_register(shared, &nodes).await {
            Ok(node) => return node,
            Err(error) => tracing::debug!(%error, "the node could not be registered yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_RETRY);
    }
}

async fn try_register(shared: &Shared, nodes: &Api<Node>) -> Result<Node, kube::Error> {
    let name = &shared.config.node_name;
    if let Some(known) = nodes.get_opt(name).await? {
        // Labels that every node carries are put right; the rest belongs to whoever set it.
        let labels = standard_labels(&shared.config);
        let have = known.metadata.labels.clone().unwrap_or_default();
        if labels.iter().all(|(k, v)| have.get(k) == Some(v)) {
            return Ok(known);
        }
        let patch = json!({"metadata": {"labels": labels}});
        return nodes.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await;
    }
    let info = shared.runtime.info().await.ok();
    let mut status = status(&shared.config, info.as_ref(), Vec::new());
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_transition_time = Some(clock::time());
    }
    let node = Node {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            labels: Some(labels(&shared.config)),
            annotations: Some(
                [("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned())]
                    .into(),
            ),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: shared.config.pod_cidr.clone(),
            pod_cidrs: shared.config.pod_cidr.clone().map(|c| vec![c]),
            taints: (!shared.config.taints.is_empty()).then(|| shared.config.taints.clone()),
            ..NodeSpec::default()
        }),
        status: Some(status),
    };
    nodes.create(&PostParams::default(), &node).await
}

fn standard_labels(config: &Config) -> BTreeMap<String, String> {
    let (arch, os) = (&config.machine.arch, &config.machine.os);
    [
        ("beta.kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", os),
        ("kubernetes.io/arch", arch),
        ("kubernetes.io/hostname", &config.hostname),
        ("kubernetes.io/os", os),
    ]
    .map(|(k, v)| (k.to_owned(), v.clone()))
    .into()
}

fn labels(config: &Config) -> BTreeMap<String, String> {
    let mut labels = standard_labels(config);
    labels.extend(config.labels.clone());
    labels
}

/// The node's status as the kubelet sees it; moments of conditions are filled in by the writer.
fn status(config: &Config, info: Option<&RuntimeInfo>, images: Vec<ContainerImage>) -> NodeStatus {
    let mut addresses: Vec<_> = config
        .host_ips()
        .into_iter()
        .map(|address| NodeAddress { type_: "InternalIP".into(), address })
        .collect();
    addresses.push(NodeAddress { type_: "Hostname".into(), address: config.hostname.clone() });
    let machine = &config.machine;
    let runtime = info.map_or_else(|| "unknown://".into(), |i| format!("{}://{}", i.name, i.version));
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(config.capacity.clone()),
        allocatable: Some(config.allocatable.clone()),
        conditions: Some(conditions(info)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(config.server_port) }),
        }),
        images: (!images.is_empty()).then_some(images),
        node_info: Some(NodeSystemInfo {
            architecture: machine.arch.clone(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: runtime,
            kernel_version: machine.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: config.version.clone(),
            machine_id: machine.machine_id.clone(),
            operating_system: machine.os.clone(),
            os_image: machine.os_image.clone(),
            system_uuid: machine.system_uuid.clone(),
            ..NodeSystemInfo::default()
        }),
        ..NodeStatus::default()
    }
}

/// The conditions, without moments.
fn conditions(info: Option<&RuntimeInfo>) -> Vec<NodeCondition> {
    let condition = |kind: &str, status: bool, reason: &str, message: String| NodeCondition {
        type_: kind.into(),
        status: if status { "True" } else { "False" }.into(),
        reason: Some(reason.into()),
        message: Some(message),
        ..NodeCondition::default()
    };
    let enough =
        |kind, reason, what: &str| condition(kind, false, reason, format!("kubelet has {what} available"));
    let trouble: Vec<String> = match info {
        None => vec!["container runtime is down".into()],
        Some(info) => {
            let network =
                info.network_not_ready.iter().map(|n| format!("container runtime network not ready: {n}"));
            info.not_ready
                .iter()
                .map(|r| format!("container runtime not ready: {r}"))
                .chain(network)
                .collect()
        }
    };
    let ready = match trouble.is_empty() {
        true => condition("Ready", true, "KubeletReady", "kubelet is posting ready status".into()),
        false => condition("Ready", false, "KubeletNotReady", trouble.join(", ")),
    };
    vec![
        enough("MemoryPressure", "KubeletHasSufficientMemory", "sufficient memory"),
        condition("DiskPressure", false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure".into()),
        enough("PIDPressure", "KubeletHasSufficientPID", "sufficient PID"),
        ready,
    ]
}

/// Puts the moments in: the last change stays while the status stays.
fn with_moments(mut conditions: Vec<NodeCondition>, before: &[NodeCondition]) -> Vec<NodeCondition> {
    for c in &mut conditions {
        let same = before.iter().find(|b| b.type_ == c.type_ && b.status == c.status);
        c.last_heartbeat_time = Some(clock::time());
        c.last_transition_time =
            same.and_then(|b| b.last_transition_time.clone()).or_else(|| Some(clock::time()));
    }
    conditions
}

async fn images(shared: &Shared) -> Vec<ContainerImage> {
    let mut images = shared.runtime.images().await.unwrap_or_default();
    images.sort_by(|a, b| (b.size, &a.id).cmp(&(a.size, &b.id)));
    let names = |i: &crate::runtime::Image| i.digests.iter().chain(&i.tags).cloned().collect::<Vec<_>>();
    let told = images.iter().filter(|i| !i.tags.is_empty() || !i.digests.is_empty()).take(IMAGES);
    told.map(|i| ContainerImage { names: Some(names(i)), size_bytes: i64::try_from(i.size).ok() }).collect()
}

async fn keep_status(shared: &Arc<Shared>, node: Node) {
    let nodes: Api<Node> = Api::all(shared.client.clone());
    let mut told: Option<(NodeStatus, jiff::Timestamp)> = None;
    let mut before = node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let mut was_ready = None;
    loop {
        let info = shared.runtime.info().await.ok();
        let mut wanted = status(&shared.config, info.as_ref(), images(shared).await);
        shared.config.lies.node(&mut wanted);
        let due = told.as_ref().is_none_or(|(s, at)| *s != wanted || clock::since(*at) >= HEARTBEAT);
        if due {
            let mut sent = wanted.clone();
            let conditions = with_moments(sent.conditions.take().unwrap_or_default(), &before);
            sent.conditions = Some(conditions.clone());
            let patch = Patch::Strategic(json!({"status": sent}));
            match nodes.patch_status(&shared.config.node_name, &PatchParams::default(), &patch).await {
                Ok(_) => {
                    before = conditions;
                    told = Some((wanted, clock::now()));
                    say_ready(shared, &node, &before, &mut was_ready);
                }
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    register(shared).await;
                }
                Err(error) => tracing::debug!(%error, "the node's status could not be told yet"),
            }
        }
        tokio::time::sleep(RENEW).await;
    }
}

fn say_ready(shared: &Shared, node: &Node, conditions: &[NodeCondition], was: &mut Option<bool>) {
    let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
    if was.replace(ready) == Some(ready) {
        return;
    }
    let name = &shared.config.node_name;
    let reason = if ready { "NodeReady" } else { "NodeNotReady" };
    shared.events.node(node, Kind::Normal, reason, format!("Node {name} status is now: {reason}"));
}

async fn keep_lease(shared: &Arc<Shared>, node: Node) {
    let leases: Api<Lease> = Api::namespaced(shared.client.clone(), LEASES);
    let name = &shared.config.node_name;
    let mut pause = RETRY;
    loop {
        let renewed = renew(&leases, name, &node).await;
        match renewed {
            Ok(()) => {
                pause = RETRY;
                tokio::time::sleep(RENEW).await;
            }
            Err(error) => {
                tracing::debug!(%error, "the lease could not be renewed yet");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MAX_RETRY);
            }
        }
    }
}

async fn renew(leases: &Api<Lease>, name: &str, node: &Node) -> Result<(), kube::Error> {
    let patch = Patch::Merge(json!({"spec": {
        "holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": clock::micro_time()}}));
    match leases.patch(name, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => return other.map(drop),
    }
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: name.to_owned(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    };
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(LEASES.into()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.to_owned()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(clock::micro_time()),
            ..LeaseSpec::default()
        }),
    };
    leases.create(&PostParams::default(), &lease).await.map(drop)
}
