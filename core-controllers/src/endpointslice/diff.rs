//! From the slices that are there to the slices that are wanted, in as few and as small changes as possible: endpoints
//! stay in the slice they are in, free places are filled before a new slice is made, and a slice that got empty goes.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
};
use kube::api::ObjectMeta;
use windlass::controller_ref;

use super::{HEADLESS, MANAGED_BY, MANAGER, SERVICE_NAME};
use crate::backends;

/// The most endpoints of a slice.
const MAX_ENDPOINTS: usize = 100;

/// Endpoints that are reached on the same ports.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group {
    pub(super) ports: Vec<EndpointPort>,
    pub(super) endpoints: Vec<Endpoint>,
}

/// The changes.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<Arc<EndpointSlice>>,
}

/// What makes an endpoint the same one when its conditions change.
type Id = (Option<String>, Vec<String>);

fn id(endpoint: &Endpoint) -> Id {
    (endpoint.target_ref.as_ref().and_then(|r| r.uid.clone()), endpoint.addresses.clone())
}

/// Plans the changes for one Service and address family.
pub(super) fn diff(
    service: &Service,
    family: &str,
    groups: &[Group],
    existing: &[Arc<EndpointSlice>],
) -> Plan {
    let labels = labels(service);
    let empty = [Group { ports: Vec::new(), endpoints: Vec::new() }];
    // A Service without endpoints has one empty slice, which says that somebody looked.
    let groups = if groups.is_empty() { &empty } else { groups };
    let mut plan = Plan::default();
    let ports_of = |slice: &EndpointSlice| slice.ports.clone().unwrap_or_default();
    let wanted = |slice: &EndpointSlice| groups.iter().any(|group| group.ports == ports_of(slice));
    plan.delete.extend(existing.iter().filter(|slice| !wanted(slice)).cloned());
    for group in groups {
        let slices: Vec<_> = existing.iter().filter(|slice| ports_of(slice) == group.ports).collect();
        fit(service, family, group, &slices, &labels, &mut plan);
    }
    plan
}

/// Fits one group into its slices.
fn fit(
    service: &Service,
    family: &str,
    group: &Group,
    slices: &[&Arc<EndpointSlice>],
    labels: &BTreeMap<String, String>,
    plan: &mut Plan,
) {
    let mut missing: BTreeMap<Id, &Endpoint> = group.endpoints.iter().map(|e| (id(e), e)).collect();
    let mut kept: Vec<Vec<Endpoint>> = Vec::with_capacity(slices.len());
    for slice in slices {
        let stays = |endpoint: &Endpoint| missing.remove(&id(endpoint)).cloned();
        kept.push(slice.endpoints.iter().flatten().filter_map(stays).collect());
    }
    let mut missing: VecDeque<Endpoint> = missing.into_values().cloned().collect();
    for endpoints in kept.iter_mut().filter(|endpoints| !endpoints.is_empty()) {
        let room = MAX_ENDPOINTS.saturating_sub(endpoints.len()).min(missing.len());
        endpoints.extend(missing.drain(..room));
    }
    let nothing = group.endpoints.is_empty();
    let mut placeholder = nothing;
    for (slice, mut endpoints) in slices.iter().zip(kept) {
        if endpoints.is_empty() {
            let room = MAX_ENDPOINTS.min(missing.len());
            endpoints.extend(missing.drain(..room));
        }
        if endpoints.is_empty() && !std::mem::take(&mut placeholder) {
            plan.delete.push((*slice).clone());
            continue;
        }
        let mut next = (***slice).clone();
        next.endpoints = Some(endpoints);
        next.metadata.labels = Some(labels.clone());
        if next != ***slice {
            plan.update.push(next);
        }
    }
    while !missing.is_empty() || placeholder {
        placeholder = false;
        let room = MAX_ENDPOINTS.min(missing.len());
        let endpoints = missing.drain(..room).collect();
        plan.create.push(slice(service, family, group, endpoints, labels.clone()));
    }
}

fn slice(
    service: &Service,
    family: &str,
    group: &Group,
    endpoints: Vec<Endpoint>,
    labels: BTreeMap<String, String>,
) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.metadata.name.as_deref().unwrap_or_default())),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![controller_ref(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(endpoints),
        ports: Some(group.ports.clone()),
    }
}

/// The labels of the slices of a Service: its own, and those that say whose they are.
fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if backends::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{endpointslice::groups, testing::pod};

    fn service() -> Service {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "s"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
        }))
        .unwrap()
    }

    /// The slices, as the server would have them after a turn over these pods.
    fn turn(slices: &mut Vec<Arc<EndpointSlice>>, pods: &[String]) -> String {
        let pods: Vec<_> = pods.iter().map(|text| Arc::new(pod(text))).collect();
        let groups = groups(&service(), &pods, "IPv4", |_| None);
        let plan = diff(&service(), "IPv4", &groups, slices);
        let told = format!("+{} ~{} -{}", plan.create.len(), plan.update.len(), plan.delete.len());
        let gone = |slice: &EndpointSlice| plan.delete.iter().any(|d| d.metadata.name == slice.metadata.name);
        slices.retain(|slice| !gone(slice));
        for next in plan.update {
            let at = slices.iter().position(|slice| slice.metadata.name == next.metadata.name).unwrap();
            slices[at] = Arc::new(next);
        }
        for mut new in plan.create {
            new.metadata.name = Some(format!("web-{}", slices.len()));
            slices.push(Arc::new(new));
        }
        let sizes: Vec<usize> = slices.iter().map(|s| s.endpoints.iter().flatten().count()).collect();
        format!("{told} {sizes:?}")
    }

    fn pods(range: std::ops::Range<u32>) -> Vec<String> {
        range.map(|i| format!("p{i} ready ip=10.0.{}.{}", i / 250, i % 250)).collect()
    }

    #[test]
    fn slices_change_as_little_as_they_can() {
        let mut slices = Vec::new();
        assert_eq!(turn(&mut slices, &[]), "+1 ~0 -0 [0]", "an empty one says that somebody looked");
        assert_eq!(turn(&mut slices, &[]), "+0 ~0 -0 [0]");
        assert_eq!(turn(&mut slices, &pods(0..3)), "+1 ~0 -1 [3]");
        assert_eq!(turn(&mut slices, &pods(0..3)), "+0 ~0 -0 [3]");
        assert_eq!(turn(&mut slices, &pods(1..4)), "+0 ~1 -0 [3]");
        assert_eq!(turn(&mut slices, &pods(0..250)), "+2 ~1 -0 [100, 100, 50]");
        let mut one_not_ready = pods(0..250);
        one_not_ready[7] = one_not_ready[7].replace("ready", "running");
        assert_eq!(turn(&mut slices, &one_not_ready), "+0 ~1 -0 [100, 100, 50]", "one slice of three");
        assert_eq!(turn(&mut slices, &[]), "+1 ~0 -3 [0]");
    }

    #[test]
    fn conditions_tell_who_serves() {
        let pods: Vec<_> =
            ["a ready ip=10.0.0.1", "b running ip=10.0.0.2", "c ready going ip=10.0.0.3", "d ready ip=::1"]
                .map(|text| Arc::new(pod(text)))
                .into();
        let groups = groups(&service(), &pods, "IPv4", |node| Some(format!("zone-of-{node}")));
        let told: Vec<String> = groups[0]
            .endpoints
            .iter()
            .map(|e| {
                let c = e.conditions.as_ref().unwrap();
                let flags = (c.ready.unwrap(), c.serving.unwrap(), c.terminating.unwrap());
                format!("{} {flags:?} {}", e.addresses[0], e.zone.as_deref().unwrap_or_default())
            })
            .collect();
        assert_eq!(
            told,
            [
                "10.0.0.1 (true, true, false) zone-of-n",
                "10.0.0.2 (false, false, false) zone-of-n",
                "10.0.0.3 (false, true, true) zone-of-n",
            ]
        );
        assert_eq!(groups[0].ports[0].port, Some(8080));
    }
}
