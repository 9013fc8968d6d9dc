//! The decision of one turn: which nodes get a pod and which pods go. Pure.
//!
//! First each node has what it should have; only when nothing is left to do about that, the rolling update goes on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Node, Pod, PodSpec},
};
use windlass::EventType;

use super::{
    fit::{self, Fit},
    rolling::{self, surges},
};
use crate::pods;

/// The label of a pod with the hash of its template.
pub(super) const HASH: &str = "controller-revision-hash";
/// The label and the annotation that counted templates before there were hashes.
pub(super) const GENERATION: &str = "pod-template-generation";
const GENERATION_OF: &str = "deprecated.daemonset.template.generation";

/// What a decision is made from.
pub(super) struct View<'a> {
    pub(super) set: &'a DaemonSet,
    /// The hash of the present template.
    pub(super) hash: &'a str,
    /// The pods of each node that there is, or that pods are for.
    pub(super) by_node: BTreeMap<&'a str, Vec<&'a Arc<Pod>>>,
    /// Each node, and what it is to the set.
    pub(super) nodes: BTreeMap<&'a str, Fit>,
    /// How much longer a node whose pod failed has to wait.
    pub(super) backoff: &'a (dyn Fn(&str) -> Duration + Sync),
    pub(super) now: Timestamp,
}

/// What to do about it.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The nodes that get a pod.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// The nodes whose failed pods are replaced now.
    pub(super) failed: Vec<String>,
    pub(super) events: Vec<(EventType, &'static str, String)>,
    /// When the next failed pod may be replaced.
    pub(super) wait: Option<Duration>,
}

impl<'a> View<'a> {
    pub(super) fn new(
        set: &'a DaemonSet,
        hash: &'a str,
        pods: &'a [Arc<Pod>],
        nodes: &'a [Arc<Node>],
        backoff: &'a (dyn Fn(&str) -> Duration + Sync),
        now: Timestamp,
    ) -> Self {
        let spec = tolerant(set);
        let mut by_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
        // One that has ended and is going is as good as gone: its place is free.
        for pod in pods.iter().filter(|pod| !(pods::is_terminal(pod) && pods::is_terminating(pod))) {
            if let Some(node) = fit::target(pod) {
                by_node.entry(node).or_default().push(pod);
            }
        }
        by_node.values_mut().for_each(|pods| pods.sort_by_key(|pod| age(pod)));
        let name = |node: &'a Arc<Node>| node.metadata.name.as_deref().unwrap_or_default();
        let nodes = nodes.iter().map(|node| (name(node), fit::fit(&spec, node))).collect();
        Self { set, hash, by_node, nodes, backoff, now }
    }

    pub(super) fn pods_on(&self, node: &str) -> &[&'a Arc<Pod>] {
        self.by_node.get(node).map_or(&[], Vec::as_slice)
    }

    pub(super) fn is_available(&self, pod: &Pod) -> bool {
        pods::is_available(pod, min_ready_seconds(self.set), self.now)
    }

    /// Whether a pod is of the present template.
    pub(super) fn is_new(&self, pod: &Pod) -> bool {
        let label = |key: &str| pod.metadata.labels.as_ref().and_then(|labels| labels.get(key));
        let generation = generation(self.set);
        label(HASH).is_some_and(|hash| !hash.is_empty() && hash == self.hash)
            || (generation.is_some() && label(GENERATION) == generation)
    }
}

/// The order of pods of one node: bound ones first, then the oldest.
fn age(pod: &Pod) -> (bool, Option<Timestamp>, Option<String>) {
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (pods::node(pod).is_none(), created, pod.metadata.name.clone())
}

/// What the pods of a set are made of, with the tolerations of daemons.
pub(super) fn tolerant(set: &DaemonSet) -> PodSpec {
    let mut spec = set.spec.as_ref().and_then(|spec| spec.template.spec.clone()).unwrap_or_default();
    fit::add_tolerations(&mut spec);
    spec
}

/// The count of templates, of sets that were made when there was one.
pub(super) fn generation(set: &DaemonSet) -> Option<&String> {
    set.metadata.annotations.as_ref()?.get(GENERATION_OF)
}

pub(super) fn min_ready_seconds(set: &DaemonSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
}

/// Compares what there is with what is asked for.
pub(super) fn plan(view: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    for (node, fit) in &view.nodes {
        tend(view, node, *fit, &mut plan);
    }
    // Pods that wait for a node that is gone. Those that ran on one are the pod garbage collector's.
    for (_, pods) in view.by_node.iter().filter(|(node, _)| !view.nodes.contains_key(*node)) {
        let lost = pods.iter().filter(|pod| pods::node(pod).is_none() && !pods::is_terminating(pod));
        plan.delete.extend(lost.map(|pod| Arc::clone(pod)));
    }
    if plan.create.is_empty() && plan.delete.is_empty() && rolling::rolls(view.set) {
        (plan.create, plan.delete) = rolling::roll(view);
    }
    plan
}

/// What one node lacks or has too much of.
fn tend(view: &View<'_>, node: &str, fit: Fit, plan: &mut Plan) {
    let all = view.pods_on(node);
    let staying = all.iter().filter(|pod| !pods::is_terminating(pod));
    match fit {
        Fit::Wanted if all.is_empty() => return plan.create.push(node.to_owned()),
        Fit::Unwanted => return plan.delete.extend(staying.map(|pod| Arc::clone(pod))),
        Fit::Wanted | Fit::Spared => {}
    }
    let mut running = Vec::new();
    for pod in staying {
        let what = || {
            let (namespace, name) = (pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref());
            format!(
                "daemon pod {}/{} on node {node}",
                namespace.unwrap_or_default(),
                name.unwrap_or_default()
            )
        };
        match pods::phase(pod) {
            "Failed" => {
                let wait = (view.backoff)(node);
                if !wait.is_zero() {
                    plan.wait = Some(plan.wait.map_or(wait, |other| other.min(wait)));
                    continue;
                }
                let note = format!("Found failed {}, will try to kill it", what());
                plan.events.push((EventType::Warning, "FailedDaemonPod", note));
                plan.failed.push(node.to_owned());
                plan.delete.push(Arc::clone(pod));
            }
            "Succeeded" => {
                let note = format!("Found succeeded {}, will try to delete it", what());
                plan.events.push((EventType::Normal, "SucceededDaemonPod", note));
                plan.delete.push(Arc::clone(pod));
            }
            _ => running.push(*pod),
        }
    }
    // A set that surges does not wait for the old pod to go.
    if running.is_empty() && fit == Fit::Wanted && surges(view.set) {
        plan.create.push(node.to_owned());
    }
    plan.delete.extend(surplus(view, &running).into_iter().cloned());
}

/// The running pods of a node that are too many: all but the oldest, or, in a set that surges, all but the oldest of the
/// present template and the oldest before it, which goes once it is not needed.
fn surplus<'p>(view: &View<'_>, running: &[&'p Arc<Pod>]) -> Vec<&'p Arc<Pod>> {
    if !surges(view.set) {
        return running.iter().skip(1).copied().collect();
    }
    let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) =
        running.iter().copied().partition(|pod| view.is_new(pod));
    let mut surplus: Vec<&Arc<Pod>> = new.iter().skip(1).chain(old.iter().skip(1)).copied().collect();
    if let (Some(new), Some(old)) = (new.first(), old.first())
        && (!pods::is_ready(old) || view.is_available(new))
    {
        surplus.push(old);
    }
    surplus
}

/// A ready pod becomes available by the mere passing of time: when the first one does.
pub(super) fn next_turn(view: &View<'_>) -> Option<Duration> {
    let min_ready = min_ready_seconds(view.set);
    let waits =
        view.by_node.values().flatten().filter_map(|pod| pods::available_in(pod, min_ready, view.now));
    waits.filter(|wait| !wait.is_zero()).min().map(|wait| wait + Duration::from_millis(1))
}
