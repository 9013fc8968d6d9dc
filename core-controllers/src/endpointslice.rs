//! The EndpointSlice controller: for each Service, slices that list the pods behind it.
//!
//! Pods that are going are listed, too, as terminating, so that proxies can drain them; whether an endpoint is ready or
//! serving is told by its conditions. A slice holds at most a hundred endpoints with the same ports. Slices are changed
//! as little as possible ([`diff`]): each change is sent to every node. Behaves as upstream's
//! `endpointslice-controller`.

mod diff;

use std::sync::Arc;

use k8s_openapi::api::{
    core::v1::{Node, ObjectReference, Pod, Service},
    discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
};
use windlass::{
    Action, Controller, Error, EventType, Index, Indexed, Informer, Key, Lister, ManagerBuilder, Reconcile,
    Request, Scope,
};

use crate::{
    Options,
    backends::{self, HEADLESS},
    pods,
};
use diff::Group;

pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const ZONE: &str = "topology.kubernetes.io/zone";

/// Adds the controller to a manager.
pub fn register(manager: &mut ManagerBuilder, options: &Options) {
    let informers = manager.informers().clone();
    let pods = informers.get::<Pod>(Scope::all());
    let nodes = informers.get::<Node>(Scope::all());
    let slices = informers.get::<EndpointSlice>(Scope::all());
    let reconcile =
        Slices { pods: pods.lister(), nodes: nodes.clone(), slices: slices.index(ByService(MANAGER)) };
    let controller = Controller::<Service>::new("endpoint_slice")
        .component("endpoint-slice-controller")
        .workers(options.workers)
        .reads(&nodes)
        .watches::<Pod, _>(Scope::all(), backends::services_of)
        .watches::<EndpointSlice, _>(Scope::all(), |delta, _| {
            let meta = &delta.object().metadata;
            let name = slice_of(meta.labels.as_ref()?, MANAGER)?;
            Some(Key::new(meta.namespace.as_deref(), name))
        });
    manager.add(controller.build(reconcile));
}

/// The Service of a slice that is kept by this manager.
fn slice_of<'a>(labels: &'a std::collections::BTreeMap<String, String>, manager: &str) -> Option<&'a str> {
    let managed = labels.get(MANAGED_BY).is_some_and(|by| by == manager);
    labels.get(SERVICE_NAME).filter(|_| managed).map(String::as_str)
}

/// An index of slices by the Service they belong to, as `namespace/name`, among those of one manager.
pub(crate) struct ByService(pub(crate) &'static str);

impl Index<EndpointSlice> for ByService {
    type Value = String;

    fn values(&self, slice: &EndpointSlice, emit: &mut dyn FnMut(String)) {
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        if let Some(name) = slice.metadata.labels.as_ref().and_then(|l| slice_of(l, self.0)) {
            emit(format!("{namespace}/{name}"));
        }
    }

    fn same(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

struct Slices {
    pods: Lister<Pod>,
    nodes: Informer<Node>,
    slices: Indexed<EndpointSlice, ByService>,
}

impl Reconcile<Service> for Slices {
    async fn reconcile(&self, request: Request<Service>) -> Result<Action, Error> {
        // What a Service leaves behind has it as owner and is collected with it.
        let Some(service) = request.object.clone() else { return Ok(Action::Done) };
        let Some(selector) = backends::selector(&service) else { return Ok(Action::Done) };
        let mut pods = self.pods.in_namespace(request.key.namespace().unwrap_or_default());
        pods.retain(|pod| backends::selects(selector, &pod.metadata) && !pods::is_terminal(pod));
        let existing = self.slices.get(request.key.as_str());
        for family in backends::families(&service) {
            let groups = groups(&service, &pods, &family, |node| self.zone(node));
            self.write(&request, &service, &family, &groups, &existing).await?;
        }
        let families = backends::families(&service);
        for stray in existing.iter().filter(|slice| !families.contains(&slice.address_type)) {
            request.client.delete(&**stray).await?;
        }
        Ok(Action::Done)
    }
}

impl Slices {
    fn zone(&self, node: &str) -> Option<String> {
        let node = self.nodes.get(&Key::new(None, node))?;
        node.metadata.labels.as_ref()?.get(ZONE).cloned()
    }

    async fn write(
        &self,
        request: &Request<Service>,
        service: &Service,
        family: &str,
        groups: &[Group],
        existing: &[Arc<EndpointSlice>],
    ) -> Result<(), Error> {
        let ours: Vec<_> = existing.iter().filter(|slice| slice.address_type == family).cloned().collect();
        let plan = diff::diff(service, family, groups, &ours);
        let result = carry_out(&plan, request).await;
        if let Err(error) = &result
            && !error.is_namespace_terminating()
            && !error.is_conflict()
        {
            let name = service.metadata.name.as_deref().unwrap_or_default();
            let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
            let note = format!("Error updating Endpoint Slices for Service {namespace}/{name}: {error}");
            request.recorder.event(service, EventType::Warning, "FailedToUpdateEndpointSlices", note);
        }
        match result {
            Err(error) if error.is_namespace_terminating() => Ok(()),
            other => other,
        }
    }
}

async fn carry_out(plan: &diff::Plan, request: &Request<Service>) -> Result<(), Error> {
    for slice in &plan.create {
        request.client.create(slice).await?;
    }
    for slice in &plan.update {
        request.client.update(slice).await?;
    }
    for slice in &plan.delete {
        request.client.delete(&**slice).await?;
    }
    Ok(())
}

/// The endpoints in a family, by the ports they are reached on.
fn groups(
    service: &Service,
    pods: &[Arc<Pod>],
    family: &str,
    zone: impl Fn(&str) -> Option<String>,
) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for pod in pods {
        let Some(address) = backends::address(pod, family) else { continue };
        let endpoint = endpoint(service, pod, address, pods::node(pod).and_then(&zone));
        let ports = ports(service, pod);
        match groups.iter_mut().find(|group| group.ports == ports) {
            Some(group) => group.endpoints.push(endpoint),
            None => groups.push(Group { ports, endpoints: vec![endpoint] }),
        }
    }
    groups
}

fn endpoint(service: &Service, pod: &Pod, address: &str, zone: Option<String>) -> Endpoint {
    let (serving, terminating) = (pods::is_ready(pod), pods::is_terminating(pod));
    let ready = backends::publishes_not_ready(service) || (serving && !terminating);
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: backends::hostname(pod, service),
        node_name: pods::node(pod).map(str::to_owned),
        zone,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let resolve = |port: &k8s_openapi::api::core::v1::ServicePort| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(backends::target_port(pod, port)?),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            app_protocol: port.app_protocol.clone(),
        })
    };
    ports.iter().filter_map(resolve).collect()
}
