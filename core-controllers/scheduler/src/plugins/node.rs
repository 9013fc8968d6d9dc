//! Plugins that look at the node alone: mark, name, taints, affinity, ports, images.

use k8s_openapi::api::core::v1::{NodeSelectorTerm, Taint, Toleration};

use super::{Refusal, SCORE_MAX, refuse};
use crate::{
    cycle::Cycle,
    node_affinity,
    pod::PodInfo,
    snapshot::{Index, Snapshot},
};

const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";
/// Images smaller or larger than these count as none or as everything.
const IMAGE_BYTES_MIN: i64 = 23 << 20;
const IMAGE_BYTES_MAX_EACH: i64 = 1000 << 20;

pub(super) fn unschedulable(cycle: &Cycle<'_>, at: Index) -> Option<Refusal> {
    if !cycle.snapshot.unschedulable[at] {
        return None;
    }
    let taint =
        Taint { key: UNSCHEDULABLE_TAINT.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
    if cycle.pod.tolerations().iter().any(|t| tolerates(t, &taint)) {
        return None;
    }
    refuse("NodeUnschedulable", "node(s) were unschedulable", true)
}

pub(super) fn name(cycle: &Cycle<'_>, at: Index) -> Option<Refusal> {
    let wanted = cycle.pod.node();
    if wanted.is_empty() || wanted == &*cycle.snapshot.names[at] {
        return None;
    }
    refuse("NodeName", "node(s) didn't match the requested node name", true)
}

/// True when the toleration covers the taint.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or("");
    let key = toleration.key.as_deref().unwrap_or("");
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        _ => toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or(""),
    }
}

/// True when the pod tolerates every taint that keeps pods away.
pub(crate) fn tolerates_all(pod: &PodInfo, taints: &[Taint]) -> bool {
    taints
        .iter()
        .filter(|t| matches!(t.effect.as_str(), "NoSchedule" | "NoExecute"))
        .all(|taint| pod.tolerations().iter().any(|t| tolerates(t, taint)))
}

pub(super) fn taints(cycle: &Cycle<'_>, at: Index) -> Option<Refusal> {
    if tolerates_all(cycle.pod, cycle.snapshot.taints(at)) {
        return None;
    }
    refuse("TaintToleration", "node(s) had untolerated taint(s)", true)
}

/// Taints that only make a node less welcome, and are not tolerated.
pub(super) fn prefer_no_taints(cycle: &Cycle<'_>, at: Index) -> i64 {
    let soft = cycle.snapshot.taints(at).iter().filter(|t| t.effect == "PreferNoSchedule");
    soft.filter(|taint| !cycle.pod.tolerations().iter().any(|t| tolerates(t, taint))).count() as i64
}

/// True when the pod's node selector and required node affinity hold.
pub(crate) fn matches_affinity(pod: &PodInfo, snapshot: &Snapshot, at: Index) -> bool {
    let selected = pod
        .node_selector()
        .is_none_or(|labels| labels.iter().all(|(k, v)| snapshot.label(at, k) == Some(v.as_str())));
    selected
        && pod
            .node_affinity()
            .is_none_or(|n| n.node_selector_terms.iter().any(|t| matches_term(t, snapshot, at)))
}

fn matches_term(term: &NodeSelectorTerm, snapshot: &Snapshot, at: Index) -> bool {
    node_affinity::holds(term, |key| snapshot.label(at, key), Some(&snapshot.names[at]))
}

pub(super) fn affinity(cycle: &Cycle<'_>, at: Index) -> Option<Refusal> {
    if matches_affinity(cycle.pod, cycle.snapshot, at) {
        return None;
    }
    refuse("NodeAffinity", "node(s) didn't match Pod's node affinity/selector", true)
}

/// The weights of the preferences that hold.
pub(super) fn preferred(cycle: &Cycle<'_>, at: Index) -> i64 {
    cycle
        .pod
        .preferred_nodes()
        .filter(|(_, t)| matches_term(t, cycle.snapshot, at))
        .map(|(weight, _)| weight)
        .sum()
}

pub(super) fn ports(cycle: &Cycle<'_>, at: Index) -> Option<Refusal> {
    let wanted = &cycle.pod.ports;
    if wanted.is_empty() {
        return None;
    }
    let taken = cycle.snapshot.pods[at].iter().flat_map(|p| p.ports.iter());
    let conflict = taken.clone().any(|port| wanted.iter().any(|w| w.conflicts(port)));
    if conflict {
        return refuse("NodePorts", "node(s) didn't have free ports for the requested pod ports", false);
    }
    None
}

/// How much of the pod's images is there already; images on many nodes count more, so that pods do not pile up.
pub(super) fn images(cycle: &Cycle<'_>, at: Index) -> i64 {
    let snapshot = cycle.snapshot;
    let containers = cycle.pod.pod.spec.as_ref().map_or(0, |s| s.containers.len()) as i64;
    let total = snapshot.len().max(1) as i64;
    let present: i64 = cycle
        .pod
        .images()
        .filter_map(|name| {
            let size = snapshot.images[at].get(&name)?;
            let spread = *snapshot.image_spread.get(&name).unwrap_or(&0) as i64;
            Some(size * spread / total)
        })
        .sum();
    let max = IMAGE_BYTES_MAX_EACH * containers.max(1);
    let present = present.clamp(IMAGE_BYTES_MIN, max);
    SCORE_MAX * (present - IMAGE_BYTES_MIN) / (max - IMAGE_BYTES_MIN)
}
