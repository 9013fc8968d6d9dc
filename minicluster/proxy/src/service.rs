//! Services and their endpoints as the proxy sees them: one entry per port, with the endpoints that may get traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// Label of a slice that names its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// A service some other proxy takes care of.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// How long a client stays with an endpoint when nothing else is said: three hours.
const AFFINITY_SECONDS: i32 = 10_800;

/// One address behind a service port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address.
    pub ip: Ipv4Addr,
    /// Port.
    pub port: u16,
    /// It runs on this node.
    pub local: bool,
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// `namespace/name`.
    pub service: String,
    /// Name of the port; empty for a service with one.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Port of the service.
    pub port: u16,
    /// Port on every node; 0 when there is none.
    pub node_port: u16,
    /// Addresses inside the cluster.
    pub cluster_ips: Vec<Ipv4Addr>,
    /// Addresses from outside: external ones and the load balancer's.
    pub external_ips: Vec<Ipv4Addr>,
    /// Seconds a client stays with its endpoint; `None` without affinity.
    pub affinity: Option<u32>,
    /// Traffic from inside goes to this node's endpoints only.
    pub internal_local: bool,
    /// Traffic from outside goes to this node's endpoints only, with its source kept.
    pub external_local: bool,
    /// Endpoints, ordered.
    pub endpoints: Vec<Endpoint>,
}

/// The ports of all services, ordered by service, port name and protocol.
pub fn service_ports<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    node: &str,
) -> Vec<ServicePort> {
    let mut by_service: BTreeMap<String, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices {
        let labels = slice.metadata.labels.as_ref();
        let Some(name) = labels.and_then(|l| l.get(SERVICE_NAME)) else { continue };
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        by_service.entry(format!("{namespace}/{name}")).or_default().push(slice);
    }
    let mut out = Vec::new();
    for service in services {
        let key = key(service);
        out.extend(ports_of(service, by_service.get(&key).map(Vec::as_slice).unwrap_or_default(), node));
    }
    out.sort_by(|a, b| {
        (&a.service, &a.name, &a.protocol, a.port).cmp(&(&b.service, &b.name, &b.protocol, b.port))
    });
    out
}

fn key(service: &Service) -> String {
    let meta = &service.metadata;
    format!("{}/{}", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

fn ports_of(service: &Service, slices: &[&EndpointSlice], node: &str) -> Vec<ServicePort> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let cluster_ips: Vec<Ipv4Addr> = match &spec.cluster_ips {
        Some(ips) if !ips.is_empty() => ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
        _ => spec.cluster_ip.iter().filter_map(|ip| ip.parse().ok()).collect(),
    };
    let labels = service.metadata.labels.as_ref();
    let foreign = labels.is_some_and(|l| l.contains_key(OTHER_PROXY));
    if cluster_ips.is_empty() || foreign || spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let balancer =
        service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|b| b.ingress.as_ref());
    let balancer = balancer.into_iter().flatten().filter(|i| i.ip_mode.as_deref() != Some("Proxy"));
    let balancer = balancer.filter_map(|i| i.ip.as_ref());
    let external: BTreeSet<Ipv4Addr> =
        spec.external_ips.iter().flatten().chain(balancer).filter_map(|ip| ip.parse().ok()).collect();
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
        config.and_then(|c| c.timeout_seconds).unwrap_or(AFFINITY_SECONDS).unsigned_abs()
    });
    let number = |n: i32| u16::try_from(n).unwrap_or(0);
    let ports = spec.ports.iter().flatten();
    ports
        .map(|p| {
            let name = p.name.clone().unwrap_or_default();
            let protocol = p.protocol.as_deref().unwrap_or("TCP").to_lowercase();
            ServicePort {
                endpoints: endpoints(slices, &name, &protocol, node),
                service: key(service),
                port: number(p.port),
                node_port: p.node_port.map_or(0, number),
                cluster_ips: cluster_ips.clone(),
                external_ips: external.iter().copied().collect(),
                affinity,
                internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
                external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
                name,
                protocol,
            }
        })
        .collect()
}

/// The endpoints of a port that may get traffic: the ready ones, or, when there are none, those that end but serve.
fn endpoints(slices: &[&EndpointSlice], name: &str, protocol: &str, node: &str) -> Vec<Endpoint> {
    let mut ready = BTreeSet::new();
    let mut ending = BTreeSet::new();
    for slice in slices.iter().filter(|s| s.address_type == "IPv4") {
        let same = |p: &&k8s_openapi::api::discovery::v1::EndpointPort| {
            p.name.as_deref().unwrap_or_default() == name
                && p.protocol.as_deref().unwrap_or("TCP").eq_ignore_ascii_case(protocol)
        };
        let Some(port) = slice.ports.iter().flatten().find(same).and_then(|p| p.port) else { continue };
        let Ok(port) = u16::try_from(port) else { continue };
        for e in slice.endpoints.iter().flatten() {
            let local = e.node_name.as_deref() == Some(node);
            let conditions = e.conditions.clone().unwrap_or_default();
            let addresses = e.addresses.iter().filter_map(|a| a.parse().ok());
            let found = addresses.map(|ip| Endpoint { ip, port, local });
            if conditions.ready != Some(false) {
                ready.extend(found);
            } else if conditions.serving == Some(true) && conditions.terminating == Some(true) {
                ending.extend(found);
            }
        }
    }
    if ready.is_empty() { ending.into_iter().collect() } else { ready.into_iter().collect() }
}
