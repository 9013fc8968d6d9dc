//! A pod as the scheduler sees it: what it asks for, worked out once.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{Affinity, NodeSelector, NodeSelectorTerm, Pod, PodAffinityTerm, Toleration},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use windlass::Key;
use windlass_crd::selector::LabelSelector as Selector;

use crate::resources::{self, Amounts};

/// A port of the node that a pod occupies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The address, empty or `0.0.0.0` for all.
    pub ip: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The number.
    pub port: i32,
}

impl HostPort {
    /// True when both cannot be on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.ip) || any(&other.ip) || self.ip == other.ip)
    }
}

/// A term of pod affinity or anti-affinity.
#[derive(Clone, Debug)]
pub struct AffinityTerm {
    /// Which pods it is about.
    pub selector: Selector,
    /// In which namespaces; empty for all.
    pub namespaces: Vec<String>,
    /// The node label that says what "together" means.
    pub topology_key: String,
    /// How much it counts, when preferred.
    pub weight: i64,
}

impl AffinityTerm {
    /// True when the term is about this pod.
    pub fn selects(&self, pod: &PodInfo) -> bool {
        (self.namespaces.is_empty() || self.namespaces.iter().any(|n| n == pod.namespace()))
            && self.selector.matches(pod.labels())
    }
}

/// A topology spread constraint.
#[derive(Clone, Debug)]
pub struct Spread {
    /// How uneven it may be.
    pub max_skew: i64,
    /// The node label whose values are the domains.
    pub topology_key: String,
    /// True for `DoNotSchedule`.
    pub hard: bool,
    /// Which pods are counted.
    pub selector: Selector,
    /// Domains that there have to be before the smallest counts.
    pub min_domains: i64,
    /// True when only nodes that match the pod's node affinity count.
    pub honors_affinity: bool,
    /// True when only nodes whose taints the pod tolerates count.
    pub honors_taints: bool,
}

/// A pod with everything the plugins ask about.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its namespace and name.
    pub key: Key,
    /// What it needs.
    pub requests: Amounts,
    /// What it counts as when nodes are scored.
    pub scored: Amounts,
    /// The ports of the node that it occupies.
    pub ports: Vec<HostPort>,
    /// Required pod affinity.
    pub affinity: Vec<AffinityTerm>,
    /// Required pod anti-affinity.
    pub anti_affinity: Vec<AffinityTerm>,
    /// Preferred affinity with positive weights, anti-affinity with negative ones.
    pub preferences: Vec<AffinityTerm>,
    /// Its spread constraints.
    pub spread: Vec<Spread>,
    labels: BTreeMap<String, String>,
}

impl PodInfo {
    /// Works out what a pod asks for.
    pub fn new(pod: Arc<Pod>) -> Arc<Self> {
        let spec = pod.spec.clone().unwrap_or_default();
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let affinity = spec.affinity.clone().unwrap_or_default();
        Arc::new(Self {
            key: Key::of(&*pod),
            requests: resources::requests(&spec),
            scored: resources::scored_requests(&spec),
            ports: host_ports(&spec),
            affinity: required(&affinity, false, &namespace, &labels),
            anti_affinity: required(&affinity, true, &namespace, &labels),
            preferences: preferred(&affinity, &namespace, &labels),
            spread: spread(&spec, &labels),
            labels,
            pod,
        })
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.key.namespace().unwrap_or("")
    }

    /// The labels.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// The uid.
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or("")
    }

    /// The priority.
    pub fn priority(&self) -> i32 {
        self.pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0)
    }

    /// The node it is bound to, or empty.
    pub fn node(&self) -> &str {
        self.pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or("")
    }

    /// True when it has ended and occupies nothing.
    pub fn has_ended(&self) -> bool {
        let phase = self.pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("");
        matches!(phase, "Succeeded" | "Failed")
    }

    /// True when it is being deleted.
    pub fn is_deleting(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    /// The names of its scheduling gates.
    pub fn gates(&self) -> Vec<&str> {
        let gates = self.pod.spec.as_ref().and_then(|s| s.scheduling_gates.as_ref());
        gates.into_iter().flatten().map(|g| g.name.as_str()).collect()
    }

    /// What it tolerates.
    pub fn tolerations(&self) -> &[Toleration] {
        self.pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or(&[])
    }

    /// Its node selector.
    pub fn node_selector(&self) -> Option<&BTreeMap<String, String>> {
        self.pod.spec.as_ref()?.node_selector.as_ref()
    }

    /// Its required node affinity.
    pub fn node_affinity(&self) -> Option<&NodeSelector> {
        let affinity = self.pod.spec.as_ref()?.affinity.as_ref()?;
        affinity.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()
    }

    /// Its preferred node affinity: weights and terms.
    pub fn preferred_nodes(&self) -> impl Iterator<Item = (i64, &NodeSelectorTerm)> {
        let affinity =
            self.pod.spec.as_ref().and_then(|s| s.affinity.as_ref()).and_then(|a| a.node_affinity.as_ref());
        affinity
            .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())
            .into_iter()
            .flatten()
            .map(|p| (i64::from(p.weight), &p.preference))
    }

    /// The images of its containers, normalised as nodes report them.
    pub fn images(&self) -> impl Iterator<Item = String> {
        let containers = self.pod.spec.iter().flat_map(|s| s.containers.iter());
        containers.filter_map(|c| c.image.as_deref()).map(normal_image)
    }
}

fn normal_image(name: &str) -> String {
    let tail = name.rsplit('/').next().unwrap_or(name);
    if tail.contains(':') || tail.contains('@') { name.to_owned() } else { format!("{name}:latest") }
}

fn host_ports(spec: &k8s_openapi::api::core::v1::PodSpec) -> Vec<HostPort> {
    let host_network = spec.host_network.unwrap_or(false);
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    (spec.containers.iter().chain(sidecars))
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            let port = p.host_port.filter(|n| *n > 0).or_else(|| host_network.then_some(p.container_port))?;
            Some(HostPort {
                ip: p.host_ip.clone().unwrap_or_default(),
                protocol: p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port,
            })
        })
        .collect()
}

fn selector(
    selector: Option<&LabelSelector>,
    keys: Option<&Vec<String>>,
    labels: &BTreeMap<String, String>,
) -> Selector {
    let Some(selector) = selector else { return nothing() };
    let mut selector = selector.clone();
    for key in keys.into_iter().flatten() {
        if let Some(value) = labels.get(key) {
            selector.match_labels.get_or_insert_default().insert(key.clone(), value.clone());
        }
    }
    let json = serde_json::to_value(&selector).unwrap_or_default();
    Selector::from_json(Some(&json)).unwrap_or_else(|_| nothing())
}

/// A missing selector selects nothing, and so does one that makes no sense.
fn nothing() -> Selector {
    Selector::from_json(None).expect("no selector is a valid one")
}

fn term(
    term: &PodAffinityTerm,
    weight: i64,
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> AffinityTerm {
    let own = || vec![namespace.to_owned()];
    // A namespace selector that is empty means every namespace.
    let namespaces = match (&term.namespaces, &term.namespace_selector) {
        (Some(names), _) if !names.is_empty() => names.clone(),
        (_, Some(_)) => Vec::new(),
        _ => own(),
    };
    AffinityTerm {
        selector: selector(term.label_selector.as_ref(), term.match_label_keys.as_ref(), labels),
        namespaces,
        topology_key: term.topology_key.clone(),
        weight,
    }
}

fn required(
    affinity: &Affinity,
    anti: bool,
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> Vec<AffinityTerm> {
    let terms = if anti {
        affinity
            .pod_anti_affinity
            .as_ref()
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
    } else {
        affinity
            .pod_affinity
            .as_ref()
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
    };
    terms.into_iter().flatten().map(|t| term(t, 0, namespace, labels)).collect()
}

fn preferred(affinity: &Affinity, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<AffinityTerm> {
    let towards = affinity
        .pod_affinity
        .as_ref()
        .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let away = affinity
        .pod_anti_affinity
        .as_ref()
        .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let weighted = |sign: i64| {
        move |t: &k8s_openapi::api::core::v1::WeightedPodAffinityTerm| {
            term(&t.pod_affinity_term, sign * i64::from(t.weight), namespace, labels)
        }
    };
    let towards = towards.into_iter().flatten().map(weighted(1));
    towards.chain(away.into_iter().flatten().map(weighted(-1))).collect()
}

fn spread(spec: &k8s_openapi::api::core::v1::PodSpec, labels: &BTreeMap<String, String>) -> Vec<Spread> {
    let constraints = spec.topology_spread_constraints.iter().flatten();
    constraints
        .map(|c| Spread {
            max_skew: i64::from(c.max_skew),
            topology_key: c.topology_key.clone(),
            hard: c.when_unsatisfiable == "DoNotSchedule",
            selector: selector(c.label_selector.as_ref(), c.match_label_keys.as_ref(), labels),
            min_domains: i64::from(c.min_domains.unwrap_or(1)),
            honors_affinity: c.node_affinity_policy.as_deref() != Some("Ignore"),
            honors_taints: c.node_taints_policy.as_deref() == Some("Honor"),
        })
        .collect()
}
