//! What `minicluster up` can be told.

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf, str::FromStr};

use clap::{Args, ValueEnum};
use ipnet::Ipv4Net;

mod admission;
mod apiserver;
mod audit;
mod duration;
mod identity;

pub use admission::AdmissionOptions;
pub use apiserver::{ApiserverOptions, PortRange};
pub use audit::AuditOptions;
pub use duration::GoDuration;
pub use identity::IdentityOptions;

/// A part of the cluster that can run in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// The API server with its store.
    Apiserver,
    /// The built-in controllers.
    Controllers,
    /// The scheduler.
    Scheduler,
    /// The node agent.
    Kubelet,
    /// The Service proxy.
    Proxy,
    /// The cluster DNS.
    Dns,
}

impl Component {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Apiserver, Self::Controllers, Self::Scheduler, Self::Kubelet, Self::Proxy, Self::Dns];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Apiserver => "apiserver",
            Self::Controllers => "controllers",
            Self::Scheduler => "scheduler",
            Self::Kubelet => "kubelet",
            Self::Proxy => "proxy",
            Self::Dns => "dns",
        }
    }
}

/// Which parts run in this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Components(pub BTreeSet<Component>);

impl Components {
    /// True when the part runs here.
    pub fn has(&self, component: Component) -> bool {
        self.0.contains(&component)
    }
}

impl FromStr for Components {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut set = BTreeSet::new();
        for name in text.split(',').map(str::trim).filter(|n| !n.is_empty()) {
            if name == "all" {
                set.extend(Component::ALL);
                continue;
            }
            let known = || Component::ALL.map(Component::name).join(", ");
            let found = Component::ALL.into_iter().find(|c| c.name() == name);
            set.insert(
                found.ok_or_else(|| {
                    format!("there is no component \"{name}\"; there are: {}, all", known())
                })?,
            );
        }
        if set.is_empty() {
            return Err("name at least one component".to_owned());
        }
        Ok(Self(set))
    }
}

/// Where the cluster's state lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StoreKind {
    /// In memory: gone with the process.
    Memory,
    /// On disk: an acknowledged write survives anything but the disk.
    Durable,
}

/// The flags of `minicluster up`.
#[derive(Args, Clone, Debug)]
pub struct UpOptions {
    /// Where state, certificates and pod volumes are kept
    #[arg(long, default_value = "/var/lib/minicluster", env = "MINICLUSTER_DATA_DIR")]
    pub data_dir: PathBuf,
    /// The address that the API server listens on
    #[arg(long, default_value = "127.0.0.1")]
    pub bind: IpAddr,
    /// The port that the API server listens on; 0 takes one that is free
    #[arg(long, default_value_t = 6443)]
    pub secure_port: u16,
    /// Where to write the admin's kubeconfig [default: DATA_DIR/admin.kubeconfig]
    #[arg(long, value_name = "FILE")]
    pub write_kubeconfig: Option<PathBuf>,
    /// How to reach an API server in another process, when apiserver is not among the components
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The parts to run, separated by commas: apiserver, controllers, scheduler, kubelet, proxy, dns, or all
    #[arg(long, default_value = "all")]
    pub components: Components,
    /// The socket of the container runtime
    #[arg(long, default_value = "unix:///run/containerd/containerd.sock")]
    pub container_runtime_endpoint: String,
    /// Where the container runtime looks for the network configuration
    #[arg(long, default_value = "/etc/cni/net.d", value_name = "DIR")]
    pub cni_conf_dir: PathBuf,
    /// Cluster IPs of Services come from here
    #[arg(long, default_value = "10.96.0.0/16")]
    pub service_cidr: Ipv4Net,
    /// IPs of pods come from here
    #[arg(long, default_value = "10.244.0.0/16")]
    pub cluster_cidr: Ipv4Net,
    /// The DNS domain of the cluster
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Simulated nodes to run beside the real one
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub hollow_nodes: u32,
    /// Where the state lives
    #[arg(long, value_enum, default_value_t = StoreKind::Durable)]
    pub store: StoreKind,
    /// The name of the node [default: the host's name]
    #[arg(long)]
    pub node_name: Option<String>,
    /// The address under which others reach this node [default: that of the interface with the default route]
    #[arg(long)]
    pub node_ip: Option<IpAddr>,
    /// A folder of pod manifests that the kubelet runs by itself
    #[arg(long, value_name = "DIR")]
    pub pod_manifest_path: Option<PathBuf>,
    /// What only the API server is told
    #[command(flatten)]
    pub apiserver: ApiserverOptions,
    /// Say more; twice for everything
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

impl UpOptions {
    /// The address of the cluster DNS: the tenth of the Service range.
    pub fn dns_ip(&self) -> std::net::Ipv4Addr {
        std::net::Ipv4Addr::from(u32::from(self.service_cidr.network()) + 10)
    }

    /// What is wrong with the flags taken together, in one sentence.
    ///
    /// # Errors
    /// That sentence.
    pub fn check(&self) -> Result<(), String> {
        if self.service_cidr.prefix_len() > 27 {
            return Err(format!(
                "--service-cidr {} is too small: give it at least 32 addresses (/27)",
                self.service_cidr
            ));
        }
        self.apiserver.check()?;
        let (services, pods) = (self.service_cidr, self.cluster_cidr);
        if services.contains(&pods.network()) || pods.contains(&services.network()) {
            return Err(format!("--service-cidr {services} and --cluster-cidr {pods} overlap"));
        }
        if !self.components.has(Component::Apiserver) && self.kubeconfig.is_none() {
            return Err("without apiserver among --components, say with --kubeconfig where one is".to_owned());
        }
        self.apiserver.identity.check()?;
        if let Some(name) = &self.node_name {
            windlass_crd::name::dns1123_subdomain(name)
                .map_err(|why| format!("--node-name {name:?}: {why}"))?;
        }
        if let Err(why) = windlass_crd::name::dns1123_subdomain(&self.cluster_domain) {
            return Err(format!("--cluster-domain {:?}: {why}", self.cluster_domain));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_named_or_all() {
        assert_eq!("all".parse::<Components>().unwrap().0.len(), 6);
        let two: Components = "apiserver, scheduler".parse().unwrap();
        assert!(two.has(Component::Scheduler) && !two.has(Component::Kubelet));
        assert!("apisrver".parse::<Components>().unwrap_err().contains("there is no component \"apisrver\""));
        assert!("".parse::<Components>().is_err());
    }
}
