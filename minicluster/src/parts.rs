//! The components behind the API server, each started with a client and its own configuration.

#[cfg(feature = "node")]
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

#[cfg(feature = "node")]
use ipnet::Ipv4Net;

use k8s_openapi::api::core::v1::Node;
#[cfg(feature = "node")]
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
#[cfg(feature = "node")]
use kube::Api;
use kube::Client;
#[cfg(feature = "node")]
use kube::api::{Patch, PatchParams};
use minicluster_apiserver::Identity;
#[cfg(feature = "node")]
use minicluster_dns::Dns;
use minicluster_kubelet::{self as kubelet, Kubelet, Pods, runtime::hollow::HollowRuntime};
#[cfg(feature = "node")]
use minicluster_kubelet::{cri::Cri, server::auth::Delegated};
#[cfg(feature = "node")]
use minicluster_proxy::Proxy;
use tokio::task::JoinSet;
use windlass::{CancellationToken, Informers, Manager, Scope};
use windlass_controllers::RunOptions;
use windlass_scheduler::Scheduler;

use crate::{
    cluster::{self, ClusterError, Door},
    host,
    options::{Component, UpOptions},
};
#[cfg(feature = "node")]
use crate::{
    node::{self, image},
    pki::Pki,
};

/// Where the cluster DNS listens on the node; its Service leads here.
#[cfg(feature = "node")]
const DNS_PORT: u16 = 10_053;

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
    manager.add(Scheduler::default());
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
    ip: IpAddr,
    config: kubelet::Config,
    endpoint: String,
    cni_dir: PathBuf,
    leases: PathBuf,
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
        node::runtime_socket(&endpoint).map_err(fail)?;
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
        let ip = host_ip(options);
        let leases = options.data_dir.join(node::POD_ADDRESSES);
        Ok(Self { name, ip, config, endpoint, cni_dir: options.cni_conf_dir.clone(), leases, pods })
    }
}

/// Runs the kubelet of this host.
#[cfg(feature = "node")]
pub(crate) async fn kubelet(client: Client, node: NodeSetup, pki: Option<Arc<Pki>>, stop: CancellationToken) {
    if let Err(error) = node::write_cni(&node.cni_dir, node.pods, &node.leases) {
        tracing::error!(dir = %node.cni_dir.display(), %error, "the network of pods could not be configured");
    }
    let runtime = Cri::new(&node.endpoint);
    if let Err(error) = provide_sandbox_image(&runtime, &node.endpoint).await {
        tracing::warn!(%error, "the image of pod sandboxes could not be provided; the runtime will try to pull it");
    }
    let informers = Informers::new(client.clone());
    let pods = Pods::of_node(&informers, &node.name);
    let at = SocketAddr::new(node.ip, node.config.server_port);
    let serving = match pki.as_deref().map(|pki| serving_tls(pki, &node.name, node.ip)) {
        Some(Ok(tls)) => Some(tls),
        Some(Err(error)) => {
            tracing::error!(%error, "the node server has no certificate");
            None
        }
        // In a process without the cluster's authority nobody would believe a certificate of ours.
        None => None,
    };
    let kubelet = Kubelet::new(node.config, &informers, pods, Arc::new(runtime));
    let server_stop = stop.clone();
    kubelet
        .run(stop, move |handle| {
            if let Some(tls) = serving {
                tokio::spawn(serve_node(handle, at, tls, Delegated::new(client), server_stop));
            }
        })
        .await;
}

/// The node server's certificate, and whose client certificates it believes.
#[cfg(feature = "node")]
fn serving_tls(pki: &Pki, name: &str, ip: IpAddr) -> Result<rustls::ServerConfig, ClusterError> {
    let addresses = [ip, IpAddr::V4(Ipv4Addr::LOCALHOST)];
    let (chain, key) = pki.server(&format!("system:node:{name}"), &[name.to_owned()], &addresses)?.chain();
    let tls = minicluster_apiserver::server::Tls { chain, key, client_roots: pki.roots() };
    tls.into_config().map_err(|e| ClusterError::Pki(e.into()))
}

/// Serves logs and terminals of this node's containers.
#[cfg(feature = "node")]
async fn serve_node(
    handle: kubelet::Handle,
    at: SocketAddr,
    tls: rustls::ServerConfig,
    authorizer: Delegated,
    stop: CancellationToken,
) {
    match tokio::net::TcpListener::bind(at).await {
        Ok(listener) => {
            kubelet::server::serve(handle, listener, Arc::new(tls), Arc::new(authorizer), stop).await;
        }
        Err(error) => tracing::error!(%at, %error, "the node server cannot listen: no logs, no exec"),
    }
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

/// Runs the Service proxy of this host; its rules go when it goes.
#[cfg(feature = "node")]
pub(crate) async fn proxy(client: Client, node_name: String, pods: Ipv4Net, stop: CancellationToken) {
    let config = minicluster_proxy::Config { node_name, cluster_cidr: Some(pods) };
    let mut manager = Manager::builder(client);
    manager.add(Proxy::new(config));
    if let Err(error) = manager.build().run(stop.cancelled_owned()).await {
        tracing::error!(%error, "the Service proxy stopped");
    }
    if let Err(error) = Proxy::clean_up().await {
        tracing::warn!(%error, "the rules of the Service proxy could not be removed");
    }
}

/// What the cluster DNS of this host needs to know.
#[cfg(feature = "node")]
pub(crate) fn dns_config(options: &UpOptions) -> minicluster_dns::Config {
    let resolvers = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    minicluster_dns::Config {
        listen: vec![SocketAddr::new(host_ip(options), DNS_PORT)],
        domain: options.cluster_domain.clone(),
        forward: Dns::resolvers(&resolvers),
    }
}

/// Runs the cluster DNS.
#[cfg(feature = "node")]
pub(crate) async fn dns(client: Client, config: minicluster_dns::Config, stop: CancellationToken) {
    let dns = match Dns::new(config) {
        Ok(dns) => dns,
        Err(error) => return tracing::error!(%error, "the cluster DNS cannot start"),
    };
    let mut manager = Manager::builder(client);
    manager.add(dns);
    if let Err(error) = manager.build().run(stop.cancelled_owned()).await {
        tracing::error!(%error, "the cluster DNS stopped");
    }
}

/// Gives the cluster DNS its Service: a fixed cluster IP in front of this process.
///
/// # Errors
/// [`ClusterError::Client`].
#[cfg(feature = "node")]
pub(crate) async fn announce_dns(client: Client, options: &UpOptions) -> Result<(), ClusterError> {
    let labels = serde_json::json!({
        "k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS", "kubernetes.io/cluster-service": "true",
    });
    let ports = |port: u16| {
        let one = |name: &str, protocol: &str| serde_json::json!({ "name": name, "protocol": protocol, "port": port });
        vec![one("dns", "UDP"), one("dns-tcp", "TCP")]
    };
    let service = serde_json::json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "kube-dns", "namespace": "kube-system", "labels": labels },
        "spec": { "clusterIP": options.dns_ip().to_string(), "ports": ports(53) },
    });
    let slice = serde_json::json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns", "namespace": "kube-system",
            "labels": { "kubernetes.io/service-name": "kube-dns" },
        },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [host_ip(options).to_string()], "conditions": { "ready": true } }],
        "ports": ports(DNS_PORT),
    });
    let params = PatchParams::apply("minicluster").force();
    let services: Api<Service> = Api::namespaced(client.clone(), "kube-system");
    services.patch("kube-dns", &params, &Patch::Apply(service)).await?;
    let slices: Api<EndpointSlice> = Api::namespaced(client, "kube-system");
    slices.patch("kube-dns", &params, &Patch::Apply(slice)).await?;
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
                biased;
                () = node_ready(client, &name) => println!("Node {name} ready"),
                () = stop.cancelled() => return,
            }
            stop.cancelled().await;
        });
    }
    Ok(())
}

async fn node_ready(client: Client, name: &str) {
    let informers = Informers::new(client);
    let nodes =
        informers.get::<Node>(Scope { fields: Some(format!("metadata.name={name}")), ..Scope::default() });
    let mut deltas = nodes.deltas();
    loop {
        let news = deltas.next().await;
        if news.iter().filter_map(windlass::Delta::new).any(|node| is_ready(node)) {
            return;
        }
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}
