//! Which pods stand behind a Service, and on which port. What Endpoints and EndpointSlices have in common. Pure.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::core::v1::{ContainerPort, Pod, Service, ServicePort},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::core::ObjectMeta;
use windlass::{Delta, Informers, Key, Scope};

use crate::pods;

/// Set on what belongs to a Service without cluster IP.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// The selector of a Service whose endpoints are ours to keep.
pub(crate) fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    let external = spec.type_.as_deref() == Some("ExternalName");
    spec.selector.as_ref().filter(|selector| !external && !selector.is_empty())
}

pub(crate) fn selects(selector: &BTreeMap<String, String>, meta: &ObjectMeta) -> bool {
    let labels = meta.labels.as_ref();
    selector.iter().all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value))
}

/// The Services that a change of a pod concerns: those that selected it, and those that do.
pub(crate) fn services_of(delta: &Delta<Pod>, informers: &Informers) -> Vec<Key> {
    let (old, new) = (delta.old(), delta.new());
    if let (Some(old), Some(new)) = (old, new)
        && !delta.is_deleted()
        && is_same_backend(old, new)
    {
        return Vec::new();
    }
    let Some(namespace) = delta.object().metadata.namespace.as_deref() else { return Vec::new() };
    let mut services = informers.get::<Service>(Scope::all()).lister().in_namespace(namespace);
    services.retain(|service| {
        let Some(selector) = selector(service) else { return false };
        [old, new].into_iter().flatten().any(|pod| selects(selector, &pod.metadata))
    });
    services.iter().map(|service| Key::of(&**service)).collect()
}

/// Whether a change of the pod leaves its endpoints as they are.
fn is_same_backend(old: &Pod, new: &Pod) -> bool {
    let spec = |pod: &Pod| {
        let spec = pod.spec.as_ref();
        spec.map(|s| (s.node_name.clone(), s.hostname.clone(), s.subdomain.clone()))
    };
    old.metadata.uid == new.metadata.uid
        && old.metadata.labels == new.metadata.labels
        && old.metadata.deletion_timestamp.is_some() == new.metadata.deletion_timestamp.is_some()
        && pods::is_terminal(old) == pods::is_terminal(new)
        && pods::is_ready(old) == pods::is_ready(new)
        && spec(old) == spec(new)
        && addresses(old) == addresses(new)
}

/// All addresses of a pod.
pub(crate) fn addresses(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all: Vec<&str> = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    if all.is_empty() { status.pod_ip.iter().map(String::as_str).collect() } else { all }
}

/// The address of a pod in an IP family, `IPv4` or `IPv6`.
pub(crate) fn address<'a>(pod: &'a Pod, family: &str) -> Option<&'a str> {
    addresses(pod).into_iter().find(|ip| match ip.parse() {
        Ok(IpAddr::V4(_)) => family == "IPv4",
        Ok(IpAddr::V6(_)) => family == "IPv6",
        Err(_) => false,
    })
}

/// The IP families of a Service.
pub(crate) fn families(service: &Service) -> Vec<String> {
    let families = service.spec.as_ref().and_then(|s| s.ip_families.clone()).unwrap_or_default();
    if families.is_empty() { vec!["IPv4".to_owned()] } else { families }
}

pub(crate) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

/// Whether pods are published before they are ready.
pub(crate) fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false)
}

/// The name by which DNS knows a pod behind this Service, if it has one.
pub(crate) fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let ours =
        spec.subdomain == service.metadata.name && pod.metadata.namespace == service.metadata.namespace;
    spec.hostname.clone().filter(|name| ours && !name.is_empty())
}

/// The port of a pod that a Service port leads to; `None` if the pod has no port of that name.
pub(crate) fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match &port.target_port {
        None | Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let is_meant = |p: &&ContainerPort| {
        p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol
    };
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports.into_iter().find(is_meant).map(|p| p.container_port)
}
