//! What a kubelet is told by whoever starts it. There are no files and no flags here: the binary above reads those.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::Lies;
use crate::pod::amount::Amounts;
use crate::pod::hosts::ClusterDns;
use crate::pod::sandbox::LOG_ROOT;

/// The configuration of one kubelet.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name.
    pub node_name: String,
    /// The version the node reports, such as `v1.36.0`.
    pub version: String,
    /// Addresses of the node, first is the primary.
    pub node_ips: Vec<IpAddr>,
    /// The node's host name.
    pub hostname: String,
    /// Labels beside the ones every node carries.
    pub labels: BTreeMap<String, String>,
    /// Taints the node registers with.
    pub taints: Vec<Taint>,
    /// Folder of pods' volumes and files; `None` for a hollow node, which writes nothing.
    pub root_dir: Option<PathBuf>,
    /// Folder of container logs.
    pub log_root: String,
    /// Folder of static pods.
    pub manifests: Option<PathBuf>,
    /// Name resolution of pods.
    pub dns: ClusterDns,
    /// Cgroup under which pods live; empty leaves it to the runtime.
    pub cgroup_root: String,
    /// What the node has.
    pub capacity: Amounts,
    /// What pods may use of it.
    pub allocatable: Amounts,
    /// Facts about the machine.
    pub machine: Machine,
    /// The address range of the node's pods, when the node chooses it itself.
    pub pod_cidr: Option<String>,
    /// Port of the node server, as reported in the node's status.
    pub server_port: u16,
    /// Images pulled side by side.
    pub parallel_pulls: usize,
    /// Sandboxes and containers started side by side.
    pub parallel_starts: usize,
    /// What it says that is not so.
    pub lies: Lies,
}

impl Config {
    /// The configuration of a hollow node: it takes pods and writes nothing.
    pub fn hollow(node_name: &str, ip: IpAddr) -> Self {
        let amounts = |pairs: &[(&str, &str)]| -> Amounts {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), Quantity((*v).to_owned()))).collect()
        };
        let capacity =
            amounts(&[("cpu", "32"), ("memory", "256Gi"), ("pods", "110"), ("ephemeral-storage", "1Ti")]);
        Self {
            node_name: node_name.to_owned(),
            version: "v1.36.0".to_owned(),
            node_ips: vec![ip],
            hostname: node_name.to_owned(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            root_dir: None,
            log_root: LOG_ROOT.to_owned(),
            manifests: None,
            dns: ClusterDns::default(),
            cgroup_root: String::new(),
            allocatable: capacity.clone(),
            capacity,
            machine: Machine::default(),
            pod_cidr: None,
            server_port: 10250,
            parallel_pulls: 16,
            parallel_starts: 16,
            lies: Lies::default(),
        }
    }

    /// The configuration of a real node: this machine, with its files under `root_dir`.
    ///
    /// # Errors
    /// What could not be read about the machine.
    pub fn local(node_name: &str, ip: IpAddr, root_dir: PathBuf) -> std::io::Result<Self> {
        let machine = Machine::local()?;
        let capacity = machine.capacity();
        let node_resolver = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        Ok(Self {
            hostname: node_name.to_owned(),
            root_dir: Some(root_dir),
            dns: ClusterDns {
                servers: Vec::new(),
                domain: "cluster.local".into(),
                node: crate::pod::hosts::parse_resolv_conf(&node_resolver),
            },
            allocatable: capacity.clone(),
            capacity,
            machine,
            parallel_pulls: 3,
            parallel_starts: 8,
            lies: Lies::default(),
            ..Self::hollow(node_name, ip)
        })
    }

    /// The node's addresses as text.
    pub fn host_ips(&self) -> Vec<String> {
        self.node_ips.iter().map(ToString::to_string).collect()
    }
}

/// Facts about the machine for `status.nodeInfo`.
#[derive(Debug, Clone)]
pub struct Machine {
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// Firmware's id of the machine.
    pub system_uuid: String,
    /// Id of this boot.
    pub boot_id: String,
    /// Kernel release.
    pub kernel: String,
    /// Name of the operating system.
    pub os_image: String,
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`.
    pub arch: String,
    /// CPUs.
    pub cpus: usize,
    /// Memory in bytes.
    pub memory: i64,
    /// Disk in bytes.
    pub disk: i64,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            machine_id: String::new(),
            system_uuid: String::new(),
            boot_id: String::new(),
            kernel: String::new(),
            os_image: "Hollow".into(),
            os: "linux".into(),
            arch: go_arch(std::env::consts::ARCH).into(),
            cpus: 32,
            memory: 256 << 30,
            disk: 1 << 40,
        }
    }
}

/// Go's name of an architecture, which the API uses.
fn go_arch(arch: &'static str) -> &'static str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

impl Machine {
    /// This machine.
    ///
    /// # Errors
    /// What could not be read.
    pub fn local() -> std::io::Result<Self> {
        let read = |path: &str| std::fs::read_to_string(path).map(|s| s.trim().to_owned());
        let meminfo = read("/proc/meminfo")?;
        let total = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:")).unwrap_or_default();
        let kib: i64 = total.trim().trim_end_matches(" kB").parse().unwrap_or_default();
        let release = read("/etc/os-release").unwrap_or_default();
        let pretty = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
        Ok(Self {
            machine_id: read("/etc/machine-id").unwrap_or_default(),
            system_uuid: read("/sys/class/dmi/id/product_uuid")
                .or_else(|_| read("/etc/machine-id"))
                .unwrap_or_default(),
            boot_id: read("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
            os_image: pretty.trim_matches('"').to_owned(),
            os: "linux".into(),
            arch: go_arch(std::env::consts::ARCH).into(),
            cpus: std::thread::available_parallelism()?.get(),
            memory: kib * 1024,
            disk: disk_bytes(),
        })
    }

    /// Resources of this machine as the API counts them.
    pub fn capacity(&self) -> Amounts {
        [
            ("cpu", self.cpus.to_string()),
            ("memory", format!("{}Ki", self.memory / 1024)),
            ("ephemeral-storage", format!("{}Ki", self.disk / 1024)),
            ("hugepages-1Gi", "0".to_owned()),
            ("hugepages-2Mi", "0".to_owned()),
            ("pods", "110".to_owned()),
        ]
        .map(|(name, amount)| (name.to_owned(), Quantity(amount)))
        .into()
    }
}

/// Size of the root file system.
#[cfg(feature = "cri")]
fn disk_bytes() -> i64 {
    rustix::fs::statvfs("/").map_or(0, |s| i64::try_from(s.f_blocks * s.f_frsize).unwrap_or(i64::MAX))
}

#[cfg(not(feature = "cri"))]
fn disk_bytes() -> i64 {
    1 << 40
}
