//! The decision of one turn: which pods to make, to correct and to delete, and in which order.
//!
//! A set in order (`OrderedReady`) does one thing at a time, from the lowest ordinal up, and waits for each pod to be
//! available before it looks at the next; it shrinks and updates from the highest down. A parallel set makes and deletes
//! all at once, and updates as many at a time as may be unavailable.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{RollingUpdateStatefulSetStrategy, StatefulSet},
        core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec},
    },
    apimachinery::pkg::util::intstr::IntOrString as ApiIntOrString,
};
use windlass_crd::int_or_string::{IntOrString, Round};

use super::{claims, identity};
use crate::pods;

/// A template and the name of the ControllerRevision that holds it.
#[derive(Debug, Clone, Default)]
pub(super) struct Revision {
    pub(super) name: String,
    pub(super) template: PodTemplateSpec,
}

/// What a decision is made from.
pub(super) struct View<'a> {
    pub(super) set: &'a StatefulSet,
    /// What the pods were made from before the update that is under way; equal to `update` when none is.
    pub(super) current: &'a Revision,
    /// What the set asks for now.
    pub(super) update: &'a Revision,
    /// The pods it owns, including those that have ended or are going.
    pub(super) pods: &'a [Arc<Pod>],
    /// A claim of the set's namespace, by its name.
    pub(super) claim: &'a (dyn Fn(&str) -> Option<Arc<PersistentVolumeClaim>> + Sync),
    pub(super) now: Timestamp,
}

/// One thing to do.
#[derive(Debug)]
pub(super) enum Step {
    /// Make the claims of a pod that are missing, then the pod.
    Create(Box<Pod>),
    /// Make the claims that a waiting pod misses.
    Supply(Arc<Pod>),
    /// Give a pod the labels and volumes that it ought to have.
    Correct(Arc<Pod>),
    /// Give the claims of a pod the owners that they ought to have.
    Own(Arc<Pod>),
    /// Delete a pod.
    Delete(Arc<Pod>),
}

/// What to do: stage after stage, none before the one in front of it went well.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) stages: Vec<Vec<Step>>,
    /// Whether the steps of a stage may be done at the same time.
    pub(super) parallel: bool,
    /// How many pods of the current revision the last stage takes away.
    pub(super) outdated: usize,
}

/// Compares what there is with what is asked for.
pub(super) fn plan(view: &View<'_>) -> Plan {
    let spec = view.set.spec.as_ref();
    let parallel = spec.and_then(|spec| spec.pod_management_policy.as_deref()) == Some("Parallel");
    let mut plan = Plan { parallel, ..Plan::default() };
    if view.set.metadata.deletion_timestamp.is_none() {
        // Stops where an ordered set has to wait.
        let _ = fill(view, &mut plan);
    }
    plan.stages.retain(|stage| !stage.is_empty());
    plan
}

fn fill(view: &View<'_>, plan: &mut Plan) -> Option<()> {
    let ordinals = identity::ordinals(view.set);
    let of = |pod: &Arc<Pod>| identity::ordinal(pod);
    let slots: Vec<(i64, Option<&Arc<Pod>>)> = ordinals
        .clone()
        .map(|ordinal| (ordinal, view.pods.iter().find(|pod| of(pod) == Some(ordinal))))
        .collect();
    let mut condemned: Vec<&Arc<Pod>> = view.pods.iter().filter(|pod| of(pod).is_some()).collect();
    condemned.retain(|pod| of(pod).is_some_and(|ordinal| !ordinals.contains(&ordinal)));
    condemned.sort_by_key(|pod| std::cmp::Reverse(of(pod)));

    plan.stages.push(Vec::new());
    for (ordinal, slot) in &slots {
        let stage = plan.stages.last_mut()?;
        let waits = match slot {
            Some(pod) => keep(view, pod, plan.parallel, stage),
            None => make(view, *ordinal, stage),
        };
        if waits && !plan.parallel {
            return None;
        }
    }
    let owned = condemned.iter().filter(|pod| owners_due(view, pod));
    plan.stages.push(owned.map(|pod| Step::Own(Arc::clone(pod))).collect());
    plan.stages.push(shrink(view, &condemned, plan.parallel));
    if !plan.parallel && !condemned.is_empty() {
        return None;
    }
    let replaced = replace(view, &slots);
    let outdated = replaced.iter().filter(|pod| identity::revision(pod) == view.current.name);
    plan.outdated = outdated.count();
    plan.stages.push(replaced.into_iter().map(Step::Delete).collect());
    Some(())
}

/// Makes the pod of an ordinal that has none. An ordered set always waits for it.
fn make(view: &View<'_>, ordinal: i64, stage: &mut Vec<Step>) -> bool {
    let revision = if keeps_current(view, ordinal) { view.current } else { view.update };
    let pod = identity::new_pod(view.set, &revision.template, &revision.name, ordinal);
    let stale = |claim: Arc<PersistentVolumeClaim>| claims::is_stale(view.set, &claim, &pod);
    if !claims_of(view, &pod).into_iter().flatten().any(stale) {
        stage.push(Step::Create(Box::new(pod)));
    }
    true
}

/// Looks after the pod of an ordinal; true if an ordered set has to wait for it.
fn keep(view: &View<'_>, pod: &Arc<Pod>, parallel: bool, stage: &mut Vec<Step>) -> bool {
    // Whatever the exit code: a pod that has ended is made anew, once it has gone.
    if pods::is_terminal(pod) {
        if !pods::is_terminating(pod) {
            stage.push(Step::Delete(pod.clone()));
        }
        return true;
    }
    let pending = pods::phase(pod) == "Pending";
    let supply = pending && claims_of(view, pod).iter().any(Option::is_none);
    if supply {
        stage.push(Step::Supply(pod.clone()));
    }
    if !parallel && !is_available(view, pod) {
        return true;
    }
    if !identity::is_labelled(pod) || !identity::has_storage(view.set, pod) {
        stage.push(Step::Correct(pod.clone()));
    }
    if !supply && owners_due(view, pod) {
        stage.push(Step::Own(pod.clone()));
    }
    false
}

/// The pods beyond the wanted ordinals that go now, the highest first.
fn shrink(view: &View<'_>, condemned: &[&Arc<Pod>], parallel: bool) -> Vec<Step> {
    let stays = |pod: &&&Arc<Pod>| !pods::is_terminating(pod);
    if parallel {
        return condemned.iter().filter(stays).map(|pod| Step::Delete(Arc::clone(pod))).collect();
    }
    let Some(highest) = condemned.first().filter(stays) else { return Vec::new() };
    // What is not available goes only if it is the lowest that is ill: a lower one may need it. What is ready and not
    // available yet is not ill; it is waited for.
    let lowest_ill = condemned.iter().rfind(|pod| !is_healthy(pod));
    let is_lowest_ill = lowest_ill.is_some_and(|pod| Arc::ptr_eq(pod, highest));
    if !is_available(view, highest) && !is_lowest_ill {
        return Vec::new();
    }
    vec![Step::Delete(Arc::clone(highest))]
}

/// The pods that make room for the new revision, the highest first.
fn replace(view: &View<'_>, slots: &[(i64, Option<&Arc<Pod>>)]) -> Vec<Arc<Pod>> {
    let strategy = view.set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
        return Vec::new();
    }
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let first = usize::try_from(partition(rolling).unwrap_or(0)).unwrap_or(0);
    let is_old = |pod: &Arc<Pod>| {
        let ends = pods::is_terminating(pod) || pods::is_terminal(pod);
        !ends && identity::revision(pod) != view.update.name
    };
    let from_above = slots.iter().skip(first).rev().map(|(_, slot)| *slot);
    let most = max_unavailable(rolling, slots.len());
    if most == 1 {
        // One at a time: the highest old one, unless one above it is still on its way.
        for slot in from_above {
            match slot {
                Some(pod) if is_old(pod) => return vec![pod.clone()],
                Some(pod) if is_available(view, pod) => {}
                _ => return Vec::new(),
            }
        }
        return Vec::new();
    }
    // An old pod that serves nobody costs nothing: to count it would hold up the update that mends it.
    let ill = |slot: &Option<&Arc<Pod>>| slot.is_none_or(|pod| !is_available(view, pod));
    let mends = |i: usize, slot: &Option<&Arc<Pod>>| i >= first && slot.is_some_and(is_old);
    let missing = slots.iter().enumerate().filter(|(i, (_, slot))| ill(slot) && !mends(*i, slot)).count();
    let mut room = most.saturating_sub(missing);
    let mut replaced = Vec::new();
    for pod in from_above.flatten().filter(|pod| is_old(pod)) {
        if is_available(view, pod) {
            if room == 0 {
                break;
            }
            room -= 1;
        }
        replaced.push(pod.clone());
    }
    replaced
}

/// Whether the pod of an ordinal is to be made from the current revision rather than from the update.
fn keeps_current(view: &View<'_>, ordinal: i64) -> bool {
    let Some(spec) = &view.set.spec else { return false };
    let strategy = spec.update_strategy.as_ref();
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let kept = match (strategy.and_then(|strategy| strategy.type_.as_deref()), rolling) {
        (Some("OnDelete"), None) => 0,
        (_, Some(_)) => partition(rolling).unwrap_or(0),
        (_, None) => view.set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0),
    };
    ordinal < identity::ordinals(view.set).start + i64::from(kept)
}

fn partition(rolling: Option<&RollingUpdateStatefulSetStrategy>) -> Option<i32> {
    rolling?.partition
}

/// How many pods may be unavailable during an update: at least one.
fn max_unavailable(rolling: Option<&RollingUpdateStatefulSetStrategy>, replicas: usize) -> usize {
    let value = match rolling.and_then(|rolling| rolling.max_unavailable.as_ref()) {
        Some(ApiIntOrString::Int(number)) => IntOrString::Int(*number),
        Some(ApiIntOrString::String(text)) => IntOrString::String(text.clone()),
        None => return 1,
    };
    let total = i64::try_from(replicas).unwrap_or(i64::MAX);
    usize::try_from(value.scaled(total, Round::Down).unwrap_or(1)).unwrap_or(1).max(1)
}

/// The claims of a pod, as far as they are there.
fn claims_of(view: &View<'_>, pod: &Pod) -> Vec<Option<Arc<PersistentVolumeClaim>>> {
    let ordinal = identity::ordinal(pod);
    let names = ordinal.map(|ordinal| identity::claims(view.set, ordinal)).unwrap_or_default();
    names.iter().map(|(_, name)| (view.claim)(name)).collect()
}

fn owners_due(view: &View<'_>, pod: &Pod) -> bool {
    let due = |claim: Arc<PersistentVolumeClaim>| claims::due_owners(view.set, &claim, pod).is_some();
    claims_of(view, pod).into_iter().flatten().any(due)
}

/// Whether a pod runs, is ready, and stays.
fn is_healthy(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && !pods::is_terminating(pod) && pods::is_ready(pod)
}

/// Whether a pod runs, has been ready for long enough, and stays.
fn is_available(view: &View<'_>, pod: &Pod) -> bool {
    is_healthy(pod) && pods::is_available(pod, min_ready_seconds(view.set), view.now)
}

pub(super) fn min_ready_seconds(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
}

/// A ready pod becomes available by the mere passing of time: when the first one does.
pub(super) fn next_turn(view: &View<'_>) -> Option<Duration> {
    let min_ready = min_ready_seconds(view.set);
    let waits = view.pods.iter().filter_map(|pod| pods::available_in(pod, min_ready, view.now));
    waits.filter(|wait| !wait.is_zero()).min().map(|wait| wait + Duration::from_millis(1))
}
