//! What the zone knows of the cluster, from the informers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use windlass::{ByValue, Indexed, Informer, Informers, Key, Scope, by};

/// Label of a slice that names its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// One endpoint of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address.
    pub ip: IpAddr,
    /// Host name, when its pod has one.
    pub hostname: Option<String>,
    /// Ports: name, protocol in lower case, number.
    pub ports: Vec<(String, String, u16)>,
}

/// The cluster, as far as names go.
pub trait View: Send + Sync {
    /// A service.
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>>;
    /// The endpoints of a service that may be told, ordered.
    fn endpoints(&self, namespace: &str, service: &str) -> Vec<Endpoint>;
    /// The namespace exists.
    fn namespace(&self, name: &str) -> bool;
    /// The service with this cluster address.
    fn service_at(&self, ip: IpAddr) -> Option<Arc<Service>>;
    /// Namespace, service and endpoint of headless services with this address.
    fn endpoint_at(&self, ip: IpAddr) -> Option<(String, String, Endpoint)>;
}

type SlicesByService = ByValue<fn(&EndpointSlice) -> Option<String>, Option<String>>;
type SlicesByAddress = ByValue<fn(&EndpointSlice) -> Vec<String>, Vec<String>>;
type ServicesByAddress = ByValue<fn(&Service) -> Vec<String>, Vec<String>>;

/// The view of the shared informers.
pub struct Informed {
    services: Informer<Service>,
    namespaces: Informer<Namespace>,
    slices: Informer<EndpointSlice>,
    slices_of: Indexed<EndpointSlice, SlicesByService>,
    slices_at: Indexed<EndpointSlice, SlicesByAddress>,
    services_at: Indexed<Service, ServicesByAddress>,
}

fn service_of(slice: &EndpointSlice) -> Option<String> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(format!("{}/{name}", slice.metadata.namespace.as_deref()?))
}

fn addresses_of(slice: &EndpointSlice) -> Vec<String> {
    slice.endpoints.iter().flatten().flat_map(|e| e.addresses.iter().cloned()).collect()
}

fn cluster_ips(service: &Service) -> Vec<String> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let mut ips: Vec<_> = all.filter(|ip| !ip.is_empty() && *ip != "None").cloned().collect();
    ips.sort();
    ips.dedup();
    ips
}

impl Informed {
    /// Starts the watches.
    pub fn new(informers: &Informers) -> Self {
        let services = informers.get::<Service>(Scope::all());
        let slices = informers.get::<EndpointSlice>(Scope::all());
        let of: fn(&EndpointSlice) -> Option<String> = service_of;
        let at: fn(&EndpointSlice) -> Vec<String> = addresses_of;
        let service_at: fn(&Service) -> Vec<String> = cluster_ips;
        Self {
            namespaces: informers.get(Scope::all()),
            slices_of: slices.index(by(of)),
            slices_at: slices.index(by(at)),
            services_at: services.index(by(service_at)),
            services,
            slices,
        }
    }

    /// Waits until the caches are filled.
    pub async fn synced(&self) {
        tokio::join!(self.services.synced(), self.namespaces.synced(), self.slices.synced());
    }
}

/// The endpoints of some slices that may be told, merged by address and ordered.
pub(crate) fn merge<'a>(slices: impl IntoIterator<Item = &'a EndpointSlice>) -> Vec<Endpoint> {
    let mut found: BTreeMap<IpAddr, Endpoint> = BTreeMap::new();
    for slice in slices {
        let ports: Vec<_> = slice
            .ports
            .iter()
            .flatten()
            .filter_map(|p| {
                let protocol = p.protocol.as_deref().unwrap_or("TCP").to_lowercase();
                Some((p.name.clone().unwrap_or_default(), protocol, u16::try_from(p.port?).ok()?))
            })
            .collect();
        for e in slice.endpoints.iter().flatten() {
            if e.conditions.as_ref().and_then(|c| c.ready) == Some(false) {
                continue;
            }
            for ip in e.addresses.iter().filter_map(|a| a.parse().ok()) {
                let entry = found.entry(ip).or_insert_with(|| Endpoint {
                    ip,
                    hostname: e.hostname.clone().filter(|h| !h.is_empty()),
                    ports: Vec::new(),
                });
                entry
                    .ports
                    .extend(ports.iter().filter(|p| !entry.ports.contains(p)).cloned().collect::<Vec<_>>());
            }
        }
    }
    found.into_values().collect()
}

impl View for Informed {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(&Key::new(Some(namespace), name))
    }

    fn endpoints(&self, namespace: &str, service: &str) -> Vec<Endpoint> {
        let slices = self.slices_of.get(&format!("{namespace}/{service}"));
        merge(slices.iter().map(|s| &**s))
    }

    fn namespace(&self, name: &str) -> bool {
        self.namespaces.get(&Key::new(None, name)).is_some()
    }

    fn service_at(&self, ip: IpAddr) -> Option<Arc<Service>> {
        self.services_at.get(&ip.to_string()).into_iter().next()
    }

    fn endpoint_at(&self, ip: IpAddr) -> Option<(String, String, Endpoint)> {
        let mut slices = self.slices_at.get(&ip.to_string());
        slices.sort_by(|a, b| {
            (&a.metadata.namespace, &a.metadata.name).cmp(&(&b.metadata.namespace, &b.metadata.name))
        });
        slices.iter().find_map(|slice| {
            let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?.clone();
            let namespace = slice.metadata.namespace.clone()?;
            let service = self.service(&namespace, &name)?;
            crate::zone::is_headless(&service).then_some(())?;
            let endpoint = merge([&**slice]).into_iter().find(|e| e.ip == ip)?;
            Some((namespace, name, endpoint))
        })
    }
}
