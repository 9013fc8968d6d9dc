//! The sandbox of a pod: host name, host ports, cgroup, kernel parameters, namespaces.

use k8s_openapi::api::core::v1::Pod;

use super::{host_network, identity, qos, security};
use crate::runtime::{Dns, PortMapping, Protocol, SandboxConfig, labels};

/// Longest host name Linux takes.
const HOSTNAME_MAX: usize = 63;

/// Folder of all container logs; tools expect it there.
pub const LOG_ROOT: &str = "/var/log/pods";

/// What the node adds to a sandbox.
#[derive(Debug, Clone, Default)]
pub struct SandboxSite<'a> {
    /// Folder of all container logs, usually [`LOG_ROOT`].
    pub log_root: &'a str,
    /// Resolver configuration.
    pub dns: Option<Dns>,
    /// The cluster's DNS domain.
    pub domain: &'a str,
    /// Cgroup under which pods live; empty leaves it to the runtime.
    pub cgroup_root: &'a str,
    /// Runtime handler.
    pub handler: String,
}

/// The host name of a pod inside, cut to what Linux takes.
pub fn hostname(pod: &Pod, domain: &str) -> String {
    let spec = pod.spec.as_ref();
    let asked = spec.and_then(|s| s.hostname_override.as_ref().or(s.hostname.as_ref()));
    let name = asked.filter(|h| !h.is_empty()).or(pod.metadata.name.as_ref()).cloned().unwrap_or_default();
    let cut: String = name.chars().take(HOSTNAME_MAX).collect();
    let cut = cut.trim_end_matches(['-', '.']).to_owned();
    match fqdn(pod, &cut, domain) {
        Some(full) if spec.and_then(|s| s.set_hostname_as_fqdn) == Some(true) => full,
        _ => cut,
    }
}

/// `host.subdomain.namespace.svc.domain`, for pods with a subdomain.
pub fn fqdn(pod: &Pod, hostname: &str, domain: &str) -> Option<String> {
    let subdomain = pod.spec.as_ref()?.subdomain.as_deref().filter(|s| !s.is_empty())?;
    let namespace = pod.metadata.namespace.as_deref()?;
    Some(format!("{hostname}.{subdomain}.{namespace}.svc.{domain}"))
}

/// `<root>/<namespace>_<name>_<uid>`: the folder of a pod's logs.
pub fn log_directory(root: &str, pod: &Pod) -> String {
    let id = identity(pod);
    format!("{root}/{}_{}_{}", id.namespace, id.name, id.uid)
}

/// The cgroup of a pod: `<root>/[burstable|besteffort]/pod<uid>`, upstream's layout.
pub fn cgroup(root: &str, pod: &Pod) -> String {
    if root.is_empty() {
        return String::new();
    }
    let class = match qos::class(pod) {
        qos::Class::Guaranteed => "",
        qos::Class::Burstable => "/burstable",
        qos::Class::BestEffort => "/besteffort",
    };
    format!("{root}{class}/pod{}", super::uid(pod))
}

fn ports(pod: &Pod) -> Vec<PortMapping> {
    if host_network(pod) {
        return Vec::new();
    }
    let spec = pod.spec.as_ref();
    let all = spec.into_iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    let all = all.flat_map(|c| c.ports.iter().flatten());
    all.filter(|p| p.host_port.is_some_and(|h| h != 0))
        .map(|p| PortMapping {
            protocol: match p.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            },
            container_port: p.container_port,
            host_port: p.host_port.unwrap_or_default(),
            host_ip: p.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

/// The whole configuration of a pod's sandbox.
pub fn config(pod: &Pod, attempt: u32, site: &SandboxSite<'_>) -> SandboxConfig {
    let id = identity(pod);
    let mut all_labels = pod.metadata.labels.clone().unwrap_or_default();
    all_labels.extend(labels::of_pod(&id));
    let context = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let sysctls = context.and_then(|c| c.sysctls.as_ref());
    SandboxConfig {
        hostname: if host_network(pod) { String::new() } else { hostname(pod, site.domain) },
        log_directory: log_directory(site.log_root, pod),
        dns: site.dns.clone(),
        ports: ports(pod),
        labels: all_labels,
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        cgroup_parent: cgroup(site.cgroup_root, pod),
        sysctls: sysctls.into_iter().flatten().map(|s| (s.name.replace('/', "."), s.value.clone())).collect(),
        security: security::of_sandbox(pod),
        handler: site.handler.clone(),
        attempt,
        uid: id.uid,
        namespace: id.namespace,
        name: id.name,
    }
}
