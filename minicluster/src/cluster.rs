//! The bring-up of a cluster, top to bottom. Read this file first.
//!
//! ```text
//! certificates → store → API server → bootstrap → front door → kubeconfig
//!              → controllers, scheduler, kubelet, proxy, dns: each with a client and nothing else
//! ```
//!
//! Every component but the API server holds a `kube::Client`. In this process that client is the API server as a
//! `tower` service, under the component's own identity; across processes it is HTTPS. The component cannot tell.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kube::Client;
use minicluster_apiserver::{
    Api, Config, Identity, InProcess, bootstrap,
    health::Probe,
    pipes::Pipes,
    server::{self, Listener, Tls},
};
use minicluster_store::Store;
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use windlass::{CancellationToken, random::Source};

use crate::{
    kubeconfig,
    options::{Component, PortRange, UpOptions},
    parts,
    pki::{self, Pki},
    storage, verbosity,
};

/// The version of Kubernetes that the cluster says it is.
pub const VERSION: &str = "v1.36.0";

/// How long parts may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);

/// How long requests in flight may take when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a cluster did not come up.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The flags do not fit together.
    #[error("{0}")]
    Options(String),
    /// The port is taken, or the address is not ours.
    #[error("cannot listen on {address}: {source}{hint}", hint = bind_hint(source))]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Store(#[from] minicluster_store::EngineError),
    /// The encryption configuration cannot be used.
    #[cfg(feature = "node")]
    #[error(transparent)]
    Encryption(#[from] minicluster_encryption::EncryptionError),
    /// Certificates.
    #[error(transparent)]
    Pki(#[from] pki::PkiError),
    /// The API server cannot be set up.
    #[error(transparent)]
    Setup(#[from] minicluster_apiserver::SetupError),
    /// The first objects could not be written.
    #[error("the cluster could not be bootstrapped: {0}")]
    Bootstrap(#[from] minicluster_apiserver::status::ApiError),
    /// A kubeconfig cannot be read or used.
    #[error("{path}: {source}", path = path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// A client cannot be made.
    #[error("no client could be made: {0}")]
    Client(#[from] kube::Error),
    /// A part cannot start.
    #[error("{part}: {why}")]
    Part {
        /// Its name.
        part: &'static str,
        /// What is wrong, and what to do.
        why: String,
    },
}

fn bind_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (is another cluster running? choose another --secure-port)",
        io::ErrorKind::AddrNotAvailable => " (that address is not on this host: choose another --bind)",
        _ => "",
    }
}

/// Brings a cluster up, keeps it up until `stop` is cancelled, and takes it down again. Containers stay.
///
/// # Errors
/// [`ClusterError`], before anything is left running.
pub async fn up(mut options: UpOptions, stop: CancellationToken) -> Result<(), ClusterError> {
    options.check().map_err(ClusterError::Options)?;
    let mut tasks = JoinSet::new();
    let front = match options.components.has(Component::Apiserver) {
        true => Some(start_apiserver(&mut options, &stop, &mut tasks).await?),
        false => None,
    };
    let door = Door { front: front.clone(), kubeconfig: options.kubeconfig.clone() };
    for component in Component::ALL.into_iter().filter(|c| options.components.has(*c)) {
        let stop = stop.clone();
        match component {
            Component::Apiserver => {}
            Component::Controllers => {
                let client = door.client(Identity::new("system:kube-controller-manager", &[])).await?;
                let ca = front.as_ref().map(|f| f.pki.ca_pem().to_owned());
                tasks.spawn(parts::controllers(client, ca, stop));
            }
            Component::Scheduler => {
                let client = door.client(Identity::new("system:kube-scheduler", &[])).await?;
                tasks.spawn(parts::scheduler(client, stop));
            }
            #[cfg(feature = "node")]
            Component::Kubelet => {
                let node = parts::NodeSetup::new(&options)?;
                let user = format!("system:node:{}", node.name);
                let client = door.client(Identity::new(user, &["system:nodes"])).await?;
                tasks.spawn(parts::kubelet(client, node, front.as_ref().map(|f| Arc::clone(&f.pki)), stop));
            }
            #[cfg(feature = "node")]
            Component::Proxy => {
                let client = door.client(Identity::new("system:kube-proxy", &[])).await?;
                tasks.spawn(parts::proxy(client, parts::node_name(&options), options.cluster_cidr, stop));
            }
            #[cfg(feature = "node")]
            Component::Dns => {
                let client = door.client(Identity::new("system:kube-dns", &[])).await?;
                parts::announce_dns(door.client(Identity::system()).await?, &options).await?;
                tasks.spawn(parts::dns(client, parts::dns_config(&options), stop));
            }
            #[cfg(not(feature = "node"))]
            other => {
                return Err(ClusterError::Part {
                    part: other.name(),
                    why: "was left out of this build".to_owned(),
                });
            }
        }
    }
    if options.hollow_nodes > 0 {
        let client = door.client(Identity::new("system:hollow-nodes", &["system:masters"])).await?;
        tasks.spawn(parts::hollow_nodes(client, options.hollow_nodes, stop.clone()));
    }
    parts::say_when_ready(&door, &options, &stop, &mut tasks).await?;
    wait(tasks, stop, STOP_TIMEOUT + options.apiserver.shutdown_delay_duration.0).await
}

/// The API server, up and serving.
#[derive(Clone)]
pub struct Front {
    /// The server.
    pub api: Arc<Api>,
    /// Its certificates.
    pub pki: Arc<Pki>,
}

/// How components reach the API.
pub struct Door {
    front: Option<Front>,
    kubeconfig: Option<PathBuf>,
}

impl Door {
    /// A client under an identity; across processes the kubeconfig decides who it is.
    ///
    /// # Errors
    /// [`ClusterError::Kubeconfig`] or [`ClusterError::Client`].
    pub async fn client(&self, identity: Identity) -> Result<Client, ClusterError> {
        if let Some(front) = &self.front {
            return Ok(Client::new(InProcess::new(&front.api, identity), "default"));
        }
        let path = self.kubeconfig.clone().unwrap_or_default();
        let config =
            read_kubeconfig(&path).await.map_err(|source| ClusterError::Kubeconfig { path, source })?;
        Ok(Client::try_from(config)?)
    }
}

/// The client configuration in a kubeconfig file.
pub(crate) async fn read_kubeconfig(path: &Path) -> Result<kube::Config, kube::config::KubeconfigError> {
    let file = kube::config::Kubeconfig::read_from(path)?;
    kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default()).await
}

async fn start_apiserver(
    options: &mut UpOptions,
    stop: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<Front, ClusterError> {
    let address = SocketAddr::new(options.bind, options.secure_port);
    let listener = listen(address).await?;
    options.secure_port =
        listener.local_addr().map_err(|source| ClusterError::Listen { address, source })?.port();
    let mut listeners = vec![Listener::open(listener)];
    if let Some(listener) = listener_for_pods(options).await? {
        listeners.push(listener);
    }
    let (store, checks) = storage::open(options, stop, tasks).await?;
    let pki = Arc::new(Pki::open(&options.data_dir.join("pki"))?);
    let api = api(store, &pki, options, Source::from_entropy().next_u64(), checks)?;
    bootstrap::run(&api, Some((advertised(options), options.secure_port))).await?;

    let tls = server_tls(&pki, options, &api)?;
    for listener in listeners {
        let (serving, stopping, tls) = (Arc::clone(&api), stop.clone(), tls.clone());
        tasks.spawn(async move {
            let served =
                server::serve(serving, listener, tls, stopping.cancelled_owned(), DRAIN_TIMEOUT).await;
            if let Err(error) = served {
                tracing::error!(%error, "the API server stopped listening");
            }
        });
    }
    let (maintained, stopping) = (Arc::clone(&api), stop.clone());
    tasks.spawn(async move {
        tokio::select! { biased; () = maintained.maintain() => {}, () = stopping.cancelled() => {} }
    });
    let admin = pki.client("kubernetes-admin", &["system:masters"])?;
    let path = kubeconfig_path(options);
    pki::write_private(&path, &kubeconfig::render(&pki, &server_url(options), "kubernetes-admin", &admin))?;
    Ok(Front { api, pki })
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ClusterError> {
    TcpListener::bind(address).await.map_err(|source| ClusterError::Listen { address, source })
}

/// Pods reach the API at the node's address, which a server bound to loopback does not have. The second door is for
/// them alone: whoever comes from outside the host finds it shut.
async fn listener_for_pods(options: &UpOptions) -> Result<Option<Listener>, ClusterError> {
    let inside = advertised(options);
    let node = [Component::Kubelet, Component::Proxy].iter().any(|part| options.components.has(*part));
    if !node || options.bind.is_unspecified() || inside == options.bind {
        return Ok(None);
    }
    let socket = listen(SocketAddr::new(inside, options.secure_port)).await?;
    let pods = options.cluster_cidr;
    let admits = move |peer: IpAddr| {
        peer == inside || peer.is_loopback() || matches!(peer, IpAddr::V4(peer) if pods.contains(&peer))
    };
    Ok(Some(Listener { socket, admits: Box::new(admits) }))
}

/// An API server over a store, with the cluster's certificates and more health checks.
///
/// # Errors
/// [`ClusterError`].
pub fn api(
    store: Store,
    pki: &Pki,
    options: &UpOptions,
    seed: u64,
    checks: Vec<(&'static str, Probe)>,
) -> Result<Arc<Api>, ClusterError> {
    let to_kubelets = pki.client("kube-apiserver-kubelet-client", &["system:masters"])?;
    let config = Config {
        service_cidr: options.service_cidr,
        node_ports: {
            let PortRange(first, last) = options.apiserver.service_node_port_range;
            (first, last)
        },
        issuer: match options.apiserver.identity.service_account_issuer.first() {
            Some(issuer) => issuer.clone(),
            None => format!("https://kubernetes.default.svc.{}", options.cluster_domain),
        },
        token_key_pkcs8: pki.token_key(),
        token_keys: options.apiserver.identity.token_keys(),
        ca_pem: pki.ca_pem().to_owned(),
        git_version: VERSION.to_owned(),
        kubelet_tls: Some(pki.client_tls(&to_kubelets)?),
        admission: options.apiserver.admission.settings().map_err(ClusterError::Options)?,
        seed,
        audit: options.apiserver.audit.settings(),
        aggregation: pki.aggregation()?,
        serving: minicluster_apiserver::serving::Settings {
            request_timeout: options.apiserver.request_timeout.0,
            min_request_timeout: Duration::from_secs(options.apiserver.min_request_timeout),
            shutdown_delay: options.apiserver.shutdown_delay_duration.0,
            goaway_chance: options.apiserver.goaway_chance,
            verbosity: verbosity::setter(),
        },
        health: minicluster_apiserver::health::Settings { checks },
        flow: minicluster_apiserver::flow::Settings {
            enabled: options.apiserver.enable_priority_and_fairness,
            max_requests_in_flight: options.apiserver.max_requests_inflight,
            max_mutating_requests_in_flight: options.apiserver.max_mutating_requests_inflight,
        },
        token_seconds_max: options.apiserver.identity.token_seconds_max(),
        authorization: options.apiserver.identity.authorization(),
        authentication: options.apiserver.identity.authentication(),
        pipes: Pipes::default(),
    };
    Ok(Api::new(store, config)?)
}

fn server_tls(pki: &Pki, options: &UpOptions, api: &Api) -> Result<rustls::ServerConfig, ClusterError> {
    let domain = &options.cluster_domain;
    let mut dns: Vec<String> = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        .map(str::to_owned)
        .to_vec();
    dns.push(format!("kubernetes.default.svc.{domain}"));
    let host = options.bind;
    let mut addresses =
        vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(api.services.first_ip()), advertised(options)];
    if !host.is_unspecified() && !addresses.contains(&host) {
        addresses.push(host);
    }
    let (chain, key) = pki.server("kube-apiserver", &dns, &addresses)?.chain();
    let tls = Tls { chain, key, client_roots: pki.roots() };
    tls.into_config().map_err(|e| ClusterError::Pki(e.into()))
}

/// The address of the API server that pods are sent to.
fn advertised(options: &UpOptions) -> IpAddr {
    if !options.bind.is_unspecified() && !options.bind.is_loopback() {
        return options.bind;
    }
    parts::host_ip(options)
}

/// Where people reach the API server.
fn server_url(options: &UpOptions) -> String {
    let host = if options.bind.is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { options.bind };
    format!("https://{}", SocketAddr::new(host, options.secure_port))
}

/// Where the admin's kubeconfig is.
pub fn kubeconfig_path(options: &UpOptions) -> PathBuf {
    options.write_kubeconfig.clone().unwrap_or_else(|| options.data_dir.join("admin.kubeconfig"))
}

/// Waits for the end: the wish to stop, or a part that gave up, which ends the others too.
async fn wait(
    mut tasks: JoinSet<()>,
    stop: CancellationToken,
    at_most: Duration,
) -> Result<(), ClusterError> {
    tokio::select! {
        biased;
        () = stop.cancelled() => tracing::info!("stopping; containers go on"),
        ended = tasks.join_next() => {
            if let Some(Err(error)) = ended {
                tracing::error!(%error, "a part of the cluster failed; stopping");
            }
            stop.cancel();
        }
    }
    let drained = timeout(at_most, async { while tasks.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!("some parts did not stop in time and were cut off");
    }
    Ok(())
}
