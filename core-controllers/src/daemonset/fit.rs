//! Which nodes a DaemonSet is for, and how its pods are bound to them: by an affinity to the one node, which the
//! scheduler then obeys, and by tolerations of what is wrong with nodes that daemons have to live with. Pure.

use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
    Taint, Toleration,
};

use windlass_scheduler::node_affinity;

use crate::{pods, taint_eviction::tolerates};

const NAME: &str = "metadata.name";

/// What daemons tolerate: key and effect.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
const OF_HOST_NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// What a node is to a DaemonSet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// It is to have a pod.
    Wanted,
    /// It gets none, but one that it has may stay.
    Spared,
    /// It is to have none.
    Unwanted,
}

/// What a node is to the DaemonSet of these pods, which have their tolerations already.
pub(super) fn fit(spec: &PodSpec, node: &Node) -> Fit {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let elsewhere = spec.node_name.as_deref().is_some_and(|wanted| !wanted.is_empty() && wanted != name);
    if elsewhere || !is_selected(spec, node) {
        return Fit::Unwanted;
    }
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let keeps_away = |taint: &&Taint| {
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
            && !tolerations.iter().any(|t| tolerates(t, taint))
    };
    match taints.iter().filter(keeps_away).map(|taint| taint.effect == "NoExecute").max() {
        None => Fit::Wanted,
        Some(false) => Fit::Spared,
        Some(true) => Fit::Unwanted,
    }
}

/// Whether node selector and required affinity let the pods on the node.
fn is_selected(spec: &PodSpec, node: &Node) -> bool {
    let label =
        |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
    let by_labels = spec.node_selector.iter().flatten().all(|(key, value)| label(key) == Some(value));
    let required = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        required.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let name = node.metadata.name.as_deref();
    let holds_term = |term: &NodeSelectorTerm| node_affinity::holds(term, label, name);
    by_labels && required.is_none_or(|required| required.node_selector_terms.iter().any(holds_term))
}

/// Lets pods tolerate what daemons tolerate.
pub(super) fn add_tolerations(spec: &mut PodSpec) {
    let host = spec.host_network.unwrap_or(false).then_some(OF_HOST_NETWORK);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED.into_iter().chain(host) {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        let same =
            |other: &Toleration| Toleration { toleration_seconds: None, ..other.clone() } == toleration;
        match tolerations.iter_mut().find(|other| same(other)) {
            Some(other) => *other = toleration,
            None => tolerations.push(toleration),
        }
    }
}

/// Lets a pod be for one node alone. What the template requires of nodes is met already.
pub(super) fn bind(spec: &mut PodSpec, node: &str) {
    let by_name = NodeSelectorRequirement {
        key: NAME.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_expressions: None, match_fields: Some(vec![by_name]) };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    let required = &mut affinity.required_during_scheduling_ignored_during_execution;
    *required = Some(NodeSelector { node_selector_terms: vec![term] });
}

/// The node that a pod is on or for.
pub(super) fn target(pod: &Pod) -> Option<&str> {
    if let Some(node) = pods::node(pod) {
        return Some(node);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let named = fields.filter(|field| field.key == NAME && field.operator == "In");
    named.filter_map(|field| field.values.as_deref()).find_map(|values| match values {
        [node] => Some(node.as_str()),
        _ => None,
    })
}
