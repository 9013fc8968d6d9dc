//! Counting the ends of pods, each exactly once (KEP-2307). Pure.
//!
//! An ended pod is held by a finalizer. Its uid is first noted in `uncountedTerminatedPods`, then the finalizer goes,
//! then the counter takes it over and the note goes: whenever the process dies in between, nothing is lost and nothing
//! counts twice. An indexed success needs no note, since the index itself is what is counted.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::{
    batch::v1::{JobCondition, JobStatus},
    core::v1::Pod,
};

use super::{
    facts, policy,
    verdict::MET,
    view::{Uncounted, View, has_valid_index, is_indexed},
};

/// The most ends that are noted, or finalizers that are taken away, in one turn: a status stays small.
const UNCOUNTED_MAX: usize = 500;

/// The pods whose finalizers are to go once the status is written.
#[derive(Debug, Default)]
pub(super) struct Tracked {
    pub(super) release: Vec<Arc<Pod>>,
    /// What the policy did about failures that were met here.
    pub(super) actions: Vec<&'static str>,
    /// More are left for another turn.
    pub(super) more: bool,
}

/// Notes new ends in the status.
pub(super) fn note(view: &View<'_>, end: Option<&JobCondition>, status: &mut JobStatus) -> Tracked {
    let known = Uncounted::of(&view.job.status.clone().unwrap_or_default());
    let mut tracked = Tracked::default();
    let mut pods: Vec<&Arc<Pod>> = view.pods.iter().filter(|pod| facts::is_tracked(pod)).collect();
    if is_indexed(view.job) {
        pods.sort_by_key(|pod| facts::index(pod).unwrap_or(-1));
    }
    let fails_rest = end.is_some_and(|end| end.type_ != MET);
    let mut new_indexes = BTreeSet::new();
    for pod in pods {
        let failed = facts::is_failed(view.job, pod);
        if !may_release(view, end, pod, failed) {
            continue;
        }
        tracked.release.push(pod.clone());
        let uid = facts::uid(pod);
        let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
        if facts::is_succeeded(pod) && !known.failed.contains(uid) {
            if is_indexed(view.job) {
                let index = facts::index(pod)
                    .filter(|i| has_valid_index(view.job, pod) && !view.counted_indexes.has(*i));
                new_indexes.extend(index);
            } else if !known.succeeded.contains(uid) {
                uncounted.succeeded.get_or_insert_default().push(uid.to_owned());
            }
        } else if (failed || fails_rest) && !known.failed.contains(uid) && has_valid_index(view.job, pod) {
            let failure = policy::failure(view.job, pod);
            tracked.actions.extend(failure.action());
            if failure.counts() {
                uncounted.failed.get_or_insert_default().push(uid.to_owned());
            }
        }
        let noted = |uids: &Option<Vec<String>>| uids.as_ref().map_or(0, Vec::len);
        let noted = noted(&uncounted.succeeded) + noted(&uncounted.failed);
        if new_indexes.len() + noted >= UNCOUNTED_MAX {
            tracked.more = true;
            break;
        }
    }
    if is_indexed(view.job) {
        status.succeeded = Some(view.succeeded_indexes.total()).filter(|count| *count != 0);
        status.completed_indexes =
            Some(view.succeeded_indexes.to_string()).filter(|indexes| !indexes.is_empty());
        status.failed_indexes = view.failed_indexes.as_ref().map(ToString::to_string);
    }
    tracked
}

/// Whether a pod need not be held any more.
fn may_release(view: &View<'_>, end: Option<&JobCondition>, pod: &Pod, failed: bool) -> bool {
    let over = view.job.metadata.deletion_timestamp.is_some() || end.is_some();
    let waits = || {
        let waiting = facts::index(pod).and_then(|index| view.waiting.get(&index));
        waiting.is_some_and(|waiting| facts::uid(waiting) == facts::uid(pod))
    };
    over || facts::is_succeeded(pod) || (failed && !waits())
}

/// The uids of the pods that are still held.
pub(super) fn held(view: &View<'_>) -> BTreeSet<String> {
    let tracked = view.pods.iter().filter(|pod| facts::is_tracked(pod));
    tracked.map(|pod| facts::uid(pod).to_owned()).collect()
}

/// Moves noted ends whose pods are no longer held to the counters.
pub(super) fn count(status: &mut JobStatus, held: &BTreeSet<String>) {
    let Some(uncounted) = &mut status.uncounted_terminated_pods else { return };
    let take = |uids: &mut Option<Vec<String>>, counter: &mut Option<i32>| {
        let before = uids.as_ref().map_or(0, Vec::len);
        uids.iter_mut().for_each(|uids| uids.retain(|uid| held.contains(uid)));
        let moved = before - uids.as_ref().map_or(0, Vec::len);
        uids.take_if(|uids| uids.is_empty());
        if moved > 0 {
            *counter = Some(counter.unwrap_or(0) + super::view::number(moved));
        }
    };
    take(&mut uncounted.succeeded, &mut status.succeeded);
    take(&mut uncounted.failed, &mut status.failed);
}

/// Whether noted ends wait to be counted.
pub(super) fn has_uncounted(status: &JobStatus) -> bool {
    let uncounted = Uncounted::of(status);
    !uncounted.succeeded.is_empty() || !uncounted.failed.is_empty()
}
