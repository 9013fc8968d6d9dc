//! The EndpointSlice mirroring controller: Endpoints that somebody wrote by hand, for a Service without selector, are
//! copied to EndpointSlices, which is where proxies and DNS look.
//!
//! Endpoints that a controller keeps, or that ask not to be, are left alone. Behaves as upstream's
//! `endpointslice-mirroring-controller`.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::{
    core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service},
    discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
};
use kube::api::ObjectMeta;
use windlass::{
    Action, Controller, Error, Indexed, Informer, Key, ManagerBuilder, Reconcile, Request, Scope,
    controller_ref,
};

use crate::{
    Options, backends,
    endpointslice::{ByService, MANAGED_BY, SERVICE_NAME},
};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Set on Endpoints that are a lock, not addresses.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// The most addresses of one subset that are mirrored.
const MAX_ADDRESSES: usize = 1000;

/// Adds the controller to a manager.
pub fn register(manager: &mut ManagerBuilder, options: &Options) {
    let informers = manager.informers().clone();
    let services = informers.get::<Service>(Scope::all());
    let slices = informers.get::<EndpointSlice>(Scope::all());
    let reconcile = Mirror { services: services.clone(), slices: slices.index(ByService(MANAGER)) };
    let controller = Controller::<Endpoints>::new("endpoint_slice_mirroring")
        .component("endpoint-slice-mirroring-controller")
        .workers(options.workers)
        .watches::<Service, _>(Scope::all(), |delta, _| Some(delta.key()))
        .watches::<EndpointSlice, _>(Scope::all(), |delta, _| {
            let meta = &delta.object().metadata;
            let labels = meta.labels.as_ref()?;
            let ours = labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER);
            let name = labels.get(SERVICE_NAME).filter(|_| ours)?;
            Some(Key::new(meta.namespace.as_deref(), name))
        });
    manager.add(controller.build(reconcile));
}

struct Mirror {
    services: Informer<Service>,
    slices: Indexed<EndpointSlice, ByService>,
}

impl Reconcile<Endpoints> for Mirror {
    async fn reconcile(&self, request: Request<Endpoints>) -> Result<Action, Error> {
        let existing = self.slices.get(request.key.as_str());
        let wanted = match (&request.object, self.services.get(&request.key)) {
            (Some(endpoints), Some(service)) if is_mirrored(endpoints, &service) => mirror(endpoints),
            _ => Vec::new(),
        };
        let mut spare: Vec<Arc<EndpointSlice>> = existing;
        for slice in wanted {
            // A slice of this kind of address with these ports is reused.
            let reused =
                spare.iter().position(|s| s.address_type == slice.address_type && s.ports == slice.ports);
            let written = match reused.map(|i| spare.remove(i)) {
                Some(old) if is_same(&old, &slice) => continue,
                Some(old) => {
                    let mut next = (*old).clone();
                    next.endpoints = slice.endpoints;
                    next.metadata.labels = slice.metadata.labels;
                    next.metadata.annotations = slice.metadata.annotations;
                    request.client.update(&next).await
                }
                None => request.client.create(&slice).await,
            };
            match written {
                Err(error) if !error.is_namespace_terminating() => return Err(error),
                _ => {}
            }
        }
        for old in spare {
            request.client.delete(&*old).await?;
        }
        Ok(Action::Done)
    }
}

fn is_mirrored(endpoints: &Endpoints, service: &Service) -> bool {
    let labelled = |key: &str| endpoints.metadata.labels.as_ref().and_then(|l| l.get(key));
    let locked = endpoints.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(LEADER));
    let external = service.spec.as_ref().and_then(|s| s.type_.as_deref()) == Some("ExternalName");
    let skipped = labelled(SKIP).is_some_and(|v| v == "true");
    !locked && !skipped && !external && backends::selector(service).is_none()
}

fn is_same(old: &EndpointSlice, new: &EndpointSlice) -> bool {
    old.endpoints == new.endpoints
        && old.metadata.labels == new.metadata.labels
        && old.metadata.annotations == new.metadata.annotations
}

/// The slices for Endpoints: one for each set of ports and kind of address.
fn mirror(endpoints: &Endpoints) -> Vec<EndpointSlice> {
    let subsets = endpoints.subsets.as_deref().unwrap_or_default();
    subsets
        .iter()
        .flat_map(|subset| ["IPv4", "IPv6"].map(|family| slice(endpoints, subset, family)))
        .flatten()
        .collect()
}

fn slice(endpoints: &Endpoints, subset: &EndpointSubset, family: &str) -> Option<EndpointSlice> {
    let of = |list: &Option<Vec<EndpointAddress>>, ready: bool| -> Vec<Endpoint> {
        let list = list.iter().flatten().filter(|address| is_of(&address.ip, family));
        list.map(|address| endpoint(address, ready)).collect()
    };
    let mut all = of(&subset.addresses, true);
    all.extend(of(&subset.not_ready_addresses, false));
    all.truncate(MAX_ADDRESSES);
    if all.is_empty() {
        return None;
    }
    let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    });
    Some(EndpointSlice {
        metadata: meta(endpoints),
        address_type: family.to_owned(),
        endpoints: Some(all),
        ports: Some(ports.collect()),
    })
}

fn is_of(ip: &str, family: &str) -> bool {
    matches!(
        (ip.parse(), family),
        (Ok(std::net::IpAddr::V4(_)), "IPv4") | (Ok(std::net::IpAddr::V6(_)), "IPv6")
    )
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn meta(endpoints: &Endpoints) -> ObjectMeta {
    let name = endpoints.metadata.name.clone().unwrap_or_default();
    let mut labels: BTreeMap<String, String> = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name.clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.remove(TRIGGER_TIME);
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    ObjectMeta {
        generate_name: Some(format!("{name}-")),
        namespace: endpoints.metadata.namespace.clone(),
        labels: Some(labels),
        annotations: Some(annotations).filter(|a| !a.is_empty()),
        owner_references: Some(vec![controller_ref(endpoints)]),
        ..ObjectMeta::default()
    }
}
