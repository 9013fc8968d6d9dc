//! Which pods a Job makes and which it takes away. Pure.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};

use super::{
    backoff::Failures,
    facts, spec,
    view::{View, completions, indexes_of, is_indexed, is_suspended, limit_per_index, number},
};
use crate::pods;

/// The most pods that one turn makes or takes away.
const BURST: usize = 500;

/// What to do about the pods of a Job that goes on.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// The pods to make: each with its index, if the Job has any.
    pub(super) create: Vec<Option<i32>>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// When pods may be made that have to wait now.
    pub(super) wait: Option<Duration>,
}

/// Compares what there is with what is asked for. Pods are taken away before others are made.
pub(super) fn plan(view: &View<'_>) -> Plan {
    let (job, active) = (view.job, view.active.len());
    if is_suspended(job) {
        return Plan { delete: surplus(view, active), ..Plan::default() };
    }
    let wanted = wanted(view);
    let mut delete = surplus(view, active.saturating_sub(wanted));
    delete.truncate(BURST);
    if !delete.is_empty() {
        return Plan { delete, ..Plan::default() };
    }
    let going =
        if facts::replaces_failed_only(job) { usize::try_from(view.terminating).unwrap_or(0) } else { 0 };
    let missing = wanted.saturating_sub(active + going).min(BURST);
    if missing == 0 {
        return Plan::default();
    }
    if limit_per_index(job).is_none() {
        let wait = view.failures.left(view.now);
        if !wait.is_zero() {
            return Plan { wait: Some(wait), ..Plan::default() };
        }
    }
    if !is_indexed(job) {
        return Plan { create: vec![None; missing], ..Plan::default() };
    }
    let wait = |index: &i32| Failures::left_of_index(view.waiting.get(index), view.now);
    let (now, later): (Vec<i32>, Vec<i32>) =
        pending(view, missing).into_iter().partition(|index| wait(index).is_zero());
    let wait = later.iter().map(wait).min();
    Plan { create: now.into_iter().map(Some).collect(), delete: Vec::new(), wait }
}

/// How many pods are to be active.
fn wanted(view: &View<'_>) -> usize {
    let parallelism = spec(view.job).and_then(|spec| spec.parallelism).unwrap_or(1);
    let wanted = match completions(view.job) {
        // Any success is enough: what runs is left to end by itself.
        None if view.succeeded > 0 => return view.active.len(),
        None => parallelism,
        Some(completions) => (completions - view.succeeded).min(parallelism),
    };
    usize::try_from(wanted).unwrap_or(0)
}

/// The first indexes that nothing has been done about.
fn pending(view: &View<'_>, count: usize) -> Vec<i32> {
    let mut taken = view.succeeded_indexes.with(&indexes_of(view.active.iter()));
    if facts::replaces_failed_only(view.job) {
        let going = view.pods.iter().filter(|pod| pods::is_terminating(pod) && !pods::is_terminal(pod));
        taken = taken.with(&indexes_of(going));
    }
    if let Some(failed) = &view.failed_indexes {
        taken = taken.union(failed);
    }
    taken.first_missing(count, completions(view.job).unwrap_or(0))
}

/// The active pods that go: those without a valid index, all but one of an index, and at least so many.
fn surplus(view: &View<'_>, at_least: usize) -> Vec<Arc<Pod>> {
    let mut ranked = view.active.clone();
    ranked.sort_by_key(|pod| rank(pod));
    let (mut gone, mut left) = (Vec::new(), Vec::new());
    if is_indexed(view.job) {
        let total = completions(view.job).unwrap_or(0);
        let mut by_index: BTreeMap<i32, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in ranked {
            match facts::index(&pod).filter(|index| *index < total) {
                Some(index) => by_index.entry(index).or_default().push(pod),
                None => gone.push(pod),
            }
        }
        for mut same in by_index.into_values() {
            left.extend(same.pop());
            gone.extend(same);
        }
        left.sort_by_key(|pod| rank(pod));
    } else {
        left = ranked;
    }
    let more = at_least.saturating_sub(gone.len());
    gone.extend(left.into_iter().take(more));
    gone
}

/// The order in which pods go: those first that have done the least.
fn rank(pod: &Pod) -> impl Ord + use<> {
    let phase = match pods::phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
    let restarts = statuses.iter().map(|s| s.restart_count).max().unwrap_or(0);
    let created = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
    (
        pods::node(pod).is_some(),
        phase,
        pods::is_ready(pod),
        Reverse(pods::ready_since(pod)),
        Reverse(restarts),
        Reverse(created),
        pod.metadata.name.clone(),
    )
}

/// How many of some pods are ready.
pub(super) fn ready(pods: &[Arc<Pod>]) -> i32 {
    number(pods.iter().filter(|pod| pods::is_ready(pod)).count())
}

/// The pod of a Job, of an index if it has any, in the place of one that failed if there is one.
pub(super) fn new_pod(job: &Job, index: Option<i32>, replaced: Option<&Arc<Pod>>) -> Pod {
    let template = spec(job).map(|spec| spec.template.clone()).unwrap_or_default();
    let owner = windlass::controller_ref(job);
    let mut pod = pods::from_template(&template, owner, job.metadata.namespace.as_deref());
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == facts::FINALIZER) {
        finalizers.push(facts::FINALIZER.to_owned());
    }
    if let Some(index) = index {
        super::indexed::give_index(job, &mut pod, index, replaced);
    }
    pod
}
