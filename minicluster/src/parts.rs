//! The components behind the API server, each started with a client and its own configuration.

#[cfg(feature = "node")]
use std::path::{Path, PathBuf};
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

#[cfg(feature = "node")]
use ipnet::Ipv4Net;

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use minicluster_apiserver::Identity;
#[cfg(feature = "node")]
use minicluster_kubelet::cri::Cri;
use minicluster_kubelet::{self as kubelet, Kubelet, Pods, runtime::hollow::HollowRuntime};
use tokio::task::JoinSet;
use windlass::{CancellationToken, Informers, Manager};
use windlass_controllers::RunOptions;
use windlass_scheduler::Scheduler;

#[cfg(feature = "node")]
use crate::{
    node::{self, image},
    pki::Pki,
};
use crate::{
    cluster::{self, ClusterError, Door},
    host,
    options::{Component, UpOptions},
};

/// Runs the built-in controllers.
pub(crate) async fn controllers(client: Client, ca_pem: Option<String>, stop: CancellationToken) {
    let run = RunOptions {
        options: windlass_controllers::Options { root_ca: ca_pem, ..Default::default() },
        ..RunOptions::default()
    };
    if let Err(error) = windlass_controllers::run(client, run, stop.cancelled_owned()).await {
        tracing::error!(%error, "the controllers stopped");
    }
}

/// Runs the scheduler.
pub(crate) async fn scheduler(client: Client, stop: CancellationToken) {
    let mut manager = Manager::builder(client).field_manager("kube-scheduler");
    manager.add(Scheduler);
    if let Err(error) = manager.build().run(stop.cancelled_owned()).await {
        tracing::error!(%error, "the scheduler stopped");
    }
}

/// Runs simulated nodes: the same kubelet over a runtime in memory, all fed by one pod informer.
pub(crate) async fn hollow_nodes(client: Client, count: u32, stop: CancellationToken) {
    let informers = Informers::new(client);
    let pods = Pods::of_all(&informers);
    let mut nodes = JoinSet::new();
    for i in 0..count {
        let [_, _, high, low] = i.to_be_bytes();
        let ip = IpAddr::V4(Ipv4Addr::new(10, 0, high, low));
        let runtime = Arc::new(HollowRuntime::new(Ipv4Addr::new(100, 64 + (high & 63), low, 1)));
        let config = kubelet::Config::hollow(&format!("hollow-{i}"), ip);
        let kubelet = Kubelet::new(config, &informers, pods.clone(), runtime);
        nodes.spawn(kubelet.run(stop.clone(), |_| {}));
    }
    while nodes.join_next().await.is_some() {}
}

/// What the kubelet of this host needs to know.
#[cfg(feature = "node")]
pub(crate) struct NodeSetup {
    /// The node's name.
    pub(crate) name: String,
    config: kubelet::Config,
    endpoint: String,
    cni_dir: PathBuf,
    pods: Ipv4Net,
}

#[cfg(feature = "node")]
impl NodeSetup {
    /// Reads the flags and the machine.
    ///
    /// # Errors
    /// [`ClusterError::Part`] when the machine cannot be read or the runtime's socket is missing.
    pub(crate) fn new(options: &UpOptions) -> Result<Self, ClusterError> {
        let fail = |why: String| ClusterError::Part { part: "kubelet", why };
        let endpoint = options.container_runtime_endpoint.clone();
        let socket = Path::new(endpoint.strip_prefix("unix://").unwrap_or(&endpoint));
        if !socket.exists() {
            return Err(fail(format!(
                "there is no container runtime at {}: start containerd, or say with --container-runtime-endpoint where \
                 it is",
                socket.display()
            )));
        }
        let name = node_name(options);
        let root = options.data_dir.join("kubelet");
        let mut config = kubelet::Config::local(&name, host_ip(options), root)
            .map_err(|e| fail(format!("this machine cannot be read: {e}")))?;
        config.version = cluster::VERSION.to_owned();
        config.dns.servers = vec![options.dns_ip().to_string()];
        config.dns.domain.clone_from(&options.cluster_domain);
        config.manifests.clone_from(&options.pod_manifest_path);
        let pods = node::pod_cidr(options.cluster_cidr);
        config.pod_cidr = Some(pods.to_string());
        Ok(Self { name, config, endpoint, cni_dir: options.cni_conf_dir.clone(), pods })
    }
}

/// Runs the kubelet of this host.
#[cfg(feature = "node")]
pub(crate) async fn kubelet(client: Client, node: NodeSetup, pki: Option<Arc<Pki>>, stop: CancellationToken) {
    if let Err(error) = node::write_cni(&node.cni_dir, node.pods) {
        tracing::error!(dir = %node.cni_dir.display(), %error, "the network of pods could not be configured");
    }
    let runtime = Cri::new(&node.endpoint);
    if let Err(error) = provide_sandbox_image(&runtime, &node.endpoint).await {
        tracing::warn!(%error, "the image of pod sandboxes could not be provided; the runtime will try to pull it");
    }
    let informers = Informers::new(client);
    let pods = Pods::of_node(&informers, &node.name);
    let kubelet = Kubelet::new(node.config, &informers, pods, Arc::new(runtime));
    let _ = pki;
    kubelet.run(stop, |_| {}).await;
}

/// Pods need a sandbox image, and there may be no registry to have it from.
#[cfg(feature = "node")]
async fn provide_sandbox_image(runtime: &Cri, endpoint: &str) -> anyhow::Result<()> {
    use minicluster_kubelet::runtime::Runtime;
    let Some(name) = runtime.sandbox_image().await? else { return Ok(()) };
    if runtime.image(&name).await?.is_some() {
        return Ok(());
    }
    let archive = image::Builder::pause(Path::new(image::BUSYBOX))?.archive(&name)?;
    image::import(endpoint, &archive).await?;
    Ok(())
}

/// The name of this node.
pub(crate) fn node_name(options: &UpOptions) -> String {
    options.node_name.clone().unwrap_or_else(host::name)
}

/// The address of this node, or loopback on a host without one.
pub(crate) fn host_ip(options: &UpOptions) -> IpAddr {
    options.node_ip.or_else(host::ip).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Prints one line when the API is ready and one when the node is.
///
/// # Errors
/// [`ClusterError::Client`].
pub(crate) async fn say_when_ready(
    door: &Door,
    options: &UpOptions,
    stop: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<(), ClusterError> {
    if options.components.has(Component::Apiserver) {
        println!(
            "API ready at https://{}:{} (kubeconfig: {})",
            options.bind,
            options.secure_port,
            cluster::kubeconfig_path(options).display()
        );
    }
    if options.components.has(Component::Kubelet) {
        let client = door.client(Identity::system()).await?;
        let (name, stop) = (node_name(options), stop.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = node_ready(client, &name) => println!("Node {name} ready"),
                () = stop.cancelled() => return,
            }
            stop.cancelled().await;
        });
    }
    Ok(())
}

async fn node_ready(client: Client, name: &str) {
    let nodes: Api<Node> = Api::all(client);
    let ready = |node: Option<&Node>| {
        node.and_then(|n| n.status.as_ref()).and_then(|s| s.conditions.as_ref()).is_some_and(|conditions| {
            conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
        })
    };
    loop {
        match nodes.get_opt(name).await {
            Ok(node) if ready(node.as_ref()) => return,
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
