//! The Endpoints controller: the old, single list of the pods behind a Service, for clients that still read it.
//!
//! Ready pods are addresses, others are not-ready addresses; pods that are going are left out. A list of more than a
//! thousand is cut, and says so. Behaves as upstream's `endpoints-controller`.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use windlass::{
    Action, Controller, Error, EventType, Informer, Lister, ManagerBuilder, Reconcile, Request, Scope,
};

use crate::{
    Options,
    backends::{self, HEADLESS},
    pods,
};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// The most addresses of one Endpoints.
const CAPACITY: usize = 1000;

/// Adds the controller to a manager.
pub fn register(manager: &mut ManagerBuilder, options: &Options) {
    let informers = manager.informers().clone();
    let pods = informers.get::<Pod>(Scope::all());
    let endpoints = informers.get::<Endpoints>(Scope::all());
    let controller = Controller::<Service>::new("endpoint")
        .component("endpoint-controller")
        .workers(options.workers)
        .watches::<Pod, _>(Scope::all(), backends::services_of)
        .watches::<Endpoints, _>(Scope::all(), |delta, _| delta.is_deleted().then(|| delta.key()))
        .reads(&endpoints);
    manager.add(controller.build(AllEndpoints { pods: pods.lister(), endpoints }));
}

struct AllEndpoints {
    pods: Lister<Pod>,
    endpoints: Informer<Endpoints>,
}

impl Reconcile<Service> for AllEndpoints {
    async fn reconcile(&self, request: Request<Service>) -> Result<Action, Error> {
        let existing = self.endpoints.get(&request.key);
        let Some(service) = request.object.clone() else {
            // Endpoints have no owner: they go with the Service of their name.
            if let Some(existing) = existing {
                request.client.delete(&*existing).await?;
            }
            return Ok(Action::Done);
        };
        let Some(selector) = backends::selector(&service) else { return Ok(Action::Done) };
        let mut pods = self.pods.in_namespace(request.key.namespace().unwrap_or_default());
        pods.retain(|pod| backends::selects(selector, &pod.metadata));
        let next = endpoints(&service, &pods, existing.as_deref());
        let written = match existing {
            Some(existing) if *existing == next => return Ok(Action::Done),
            Some(_) => request.client.update(&next).await,
            None => request.client.create(&next).await,
        };
        match written {
            Err(error) if error.is_namespace_terminating() => Ok(Action::Done),
            Err(error) => {
                tell(&request, &service, &error);
                Err(error)
            }
            Ok(_) => Ok(Action::Done),
        }
    }
}

fn tell(request: &Request<Service>, service: &Service, error: &Error) {
    if !error.is_conflict() {
        let note = format!("Failed to update endpoint {}: {error}", request.key);
        request.recorder.event(service, EventType::Warning, "FailedToUpdateEndpoint", note);
    }
}

/// The Endpoints of a Service.
fn endpoints(service: &Service, pods: &[Arc<Pod>], existing: Option<&Endpoints>) -> Endpoints {
    let (subsets, cut) = subsets(service, pods);
    let mut metadata = existing.map(|e| e.metadata.clone()).unwrap_or_default();
    metadata.name.clone_from(&service.metadata.name);
    metadata.namespace.clone_from(&service.metadata.namespace);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels.remove(HEADLESS);
    if backends::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    metadata.labels = Some(labels);
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.remove(OVER_CAPACITY);
    if cut {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
    metadata.annotations.take_if(|annotations| annotations.is_empty());
    Endpoints { metadata, subsets: Some(subsets).filter(|s| !s.is_empty()) }
}

/// Addresses by the ports they are reached on, and whether there were too many of them.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let family = backends::families(service).remove(0);
    let early = backends::publishes_not_ready(service);
    let mut candidates: Vec<(bool, &Arc<Pod>, &str)> = pods
        .iter()
        .filter(|pod| !pods::is_terminal(pod) && (early || !pods::is_terminating(pod)))
        .filter_map(|pod| Some((early || pods::is_ready(pod), pod, backends::address(pod, &family)?)))
        .collect();
    let cut = candidates.len() > CAPACITY;
    if cut {
        candidates.sort_by_key(|(ready, ..)| !*ready);
        candidates.truncate(CAPACITY);
    }
    let mut by_ports: BTreeMap<String, EndpointSubset> = BTreeMap::new();
    for (ready, pod, ip) in candidates {
        let ports = ports(service, pod);
        let key = serde_json::to_string(&ports).unwrap_or_default();
        let ports = Some(ports).filter(|p| !p.is_empty());
        let subset =
            by_ports.entry(key).or_insert_with(|| EndpointSubset { ports, ..EndpointSubset::default() });
        let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.get_or_insert_default().push(address(service, pod, ip));
    }
    let mut subsets: Vec<EndpointSubset> = by_ports.into_values().collect();
    for subset in &mut subsets {
        for list in [&mut subset.addresses, &mut subset.not_ready_addresses].into_iter().flatten() {
            list.sort_by(|a, b| a.ip.cmp(&b.ip));
        }
    }
    (subsets, cut)
}

fn address(service: &Service, pod: &Pod, ip: &str) -> EndpointAddress {
    EndpointAddress {
        ip: ip.to_owned(),
        hostname: backends::hostname(pod, service),
        node_name: pods::node(pod).map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
    }
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let resolve = |port: &k8s_openapi::api::core::v1::ServicePort| {
        Some(EndpointPort {
            name: port.name.clone().filter(|name| !name.is_empty()),
            port: backends::target_port(pod, port)?,
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            app_protocol: port.app_protocol.clone(),
        })
    };
    ports.iter().filter_map(resolve).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn ready_and_not_ready_are_told_apart_and_sorted() {
        let service: Service = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "default", "labels": {"a": "b"}},
            "spec": {"selector": {"app": "web"}, "clusterIP": "None", "ports": [{"name": "http", "port": 80}]},
        }))
        .unwrap();
        let texts = [
            "b ready ip=10.0.0.2",
            "a ready ip=10.0.0.1",
            "c running ip=10.0.0.3",
            "d ready going ip=10.0.0.4",
            "e ready",
        ];
        let pods: Vec<_> = texts.iter().map(|text| Arc::new(pod(text))).collect();
        let made = endpoints(&service, &pods, None);
        let subset = &made.subsets.as_ref().unwrap()[0];
        let ips = |list: &Option<Vec<EndpointAddress>>| -> Vec<String> {
            list.iter().flatten().map(|a| a.ip.clone()).collect()
        };
        assert_eq!(ips(&subset.addresses), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(ips(&subset.not_ready_addresses), ["10.0.0.3"]);
        assert_eq!(subset.ports.as_ref().unwrap()[0].port, 80);
        let labels = made.metadata.labels.clone().unwrap();
        assert_eq!(labels.keys().collect::<Vec<_>>(), ["a", MANAGED_BY, HEADLESS]);
        assert_eq!(endpoints(&service, &pods, Some(&made)), made, "nothing changes the second time");
        let none = endpoints(&service, &[], Some(&made));
        assert!(none.subsets.is_none());
    }
}
