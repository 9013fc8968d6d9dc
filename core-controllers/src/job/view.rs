//! What a Job's decisions are made from: its pods, sorted and counted. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::{Job, JobStatus, UncountedTerminatedPods},
    core::v1::Pod,
};

use super::{backoff::Failures, facts, indexes::Indexes, policy, spec};
use crate::pods;

/// A Job and what has become of its pods.
pub(super) struct View<'a> {
    pub(super) job: &'a Job,
    pub(super) pods: &'a [Arc<Pod>],
    /// Those that run or may run.
    pub(super) active: Vec<Arc<Pod>>,
    /// How many are on their way out.
    pub(super) terminating: i32,
    /// Successes and counted failures, those that the status does not count yet among them.
    pub(super) succeeded: i32,
    pub(super) failed: i32,
    pub(super) failures: Failures,
    /// Of an indexed Job: the indexes that the status has, and those with what has succeeded since.
    pub(super) counted_indexes: Indexes,
    pub(super) succeeded_indexes: Indexes,
    /// Of a Job with a limit for each index.
    pub(super) failed_indexes: Option<Indexes>,
    /// The failed pod of each index that waits for its next try: it stays until its count is handed on.
    pub(super) waiting: BTreeMap<i32, Arc<Pod>>,
    pub(super) now: Timestamp,
}

impl<'a> View<'a> {
    pub(super) fn new(job: &'a Job, pods: &'a [Arc<Pod>], before: Failures, now: Timestamp) -> Self {
        let status = job.status.clone().unwrap_or_default();
        let uncounted = Uncounted::of(&status);
        let fresh = |pod: &&Arc<Pod>| facts::is_tracked(pod) && has_valid_index(job, pod);
        let of = |known: &BTreeSet<String>, ended: &dyn Fn(&Pod) -> bool| -> Vec<Arc<Pod>> {
            let new = pods.iter().filter(fresh).filter(|pod| !known.contains(facts::uid(pod)) && ended(pod));
            new.cloned().collect()
        };
        let succeeded = of(&uncounted.succeeded, &facts::is_succeeded);
        let failed = of(&uncounted.failed, &|pod| facts::is_failed(job, pod));
        let counted = failed.iter().filter(|pod| policy::failure(job, pod).counts()).count();
        let going = pods.iter().filter(|pod| pods::is_terminating(pod) && !pods::is_terminal(pod)).count();
        let active: Vec<_> = pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
        let mut view = Self {
            job,
            pods,
            active,
            terminating: number(going),
            succeeded: status.succeeded.unwrap_or(0)
                + number(succeeded.len())
                + number(uncounted.succeeded.len()),
            failed: status.failed.unwrap_or(0) + number(counted) + number(uncounted.failed.len()),
            failures: before.after(&succeeded, &failed),
            counted_indexes: Indexes::default(),
            succeeded_indexes: Indexes::default(),
            failed_indexes: None,
            waiting: BTreeMap::new(),
            now,
        };
        if is_indexed(job) {
            view.look_at_indexes(&status);
        }
        view
    }

    fn look_at_indexes(&mut self, status: &JobStatus) {
        let (job, completions) = (self.job, completions(self.job).unwrap_or(0));
        let tracked = || self.pods.iter().filter(|pod| facts::is_tracked(pod) && has_valid_index(job, pod));
        let of = |ended: &dyn Fn(&Pod) -> bool| -> BTreeSet<i32> {
            tracked().filter(|pod| ended(pod)).filter_map(|pod| facts::index(pod)).collect()
        };
        let counted = Indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), completions);
        let succeeded = counted.with(&of(&facts::is_succeeded));
        let (counted_indexes, total) = (counted, succeeded.total());
        if let Some(limit) = limit_per_index(job) {
            let before = Indexes::parse(status.failed_indexes.as_deref().unwrap_or_default(), completions);
            let failed = before.with(&of(&|pod| index_failed(job, pod, limit)));
            let active = indexes_of(self.active.iter());
            let waits = |index: i32| !succeeded.has(index) && !failed.has(index) && !active.contains(&index);
            let mut waiting: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
            for pod in tracked().filter(|pod| facts::is_failed(job, pod)) {
                let Some(index) = facts::index(pod).filter(|index| waits(*index)) else { continue };
                let rank = |pod: &Pod| (facts::failures(pod).1, facts::finished_at(pod));
                if waiting.get(&index).is_none_or(|last| rank(last) <= rank(pod)) {
                    waiting.insert(index, pod.clone());
                }
            }
            (self.failed_indexes, self.waiting) = (Some(failed), waiting);
        }
        (self.counted_indexes, self.succeeded_indexes, self.succeeded) = (counted_indexes, succeeded, total);
    }
}

/// Whether a failed pod has used up the last try of its index.
fn index_failed(job: &Job, pod: &Pod, limit: i32) -> bool {
    if !facts::is_failed(job, pod) {
        return false;
    }
    let failure = policy::failure(job, pod);
    failure == policy::Failure::FailIndex || (failure.counts() && facts::failures(pod).0 >= limit)
}

/// The ends that a status has noted and not counted yet, by the uids of the pods.
pub(super) struct Uncounted {
    pub(super) succeeded: BTreeSet<String>,
    pub(super) failed: BTreeSet<String>,
}

impl Uncounted {
    pub(super) fn of(status: &JobStatus) -> Self {
        let UncountedTerminatedPods { succeeded, failed } =
            status.uncounted_terminated_pods.clone().unwrap_or_default();
        let set = |uids: Option<Vec<String>>| uids.unwrap_or_default().into_iter().collect();
        Self { succeeded: set(succeeded), failed: set(failed) }
    }
}

/// The indexes of some pods.
pub(super) fn indexes_of<'p>(pods: impl Iterator<Item = &'p Arc<Pod>>) -> BTreeSet<i32> {
    pods.filter_map(|pod| facts::index(pod)).collect()
}

/// Whether a pod can be counted for its Job: one of an indexed Job needs an index that the Job has.
pub(super) fn has_valid_index(job: &Job, pod: &Pod) -> bool {
    !is_indexed(job) || facts::index(pod).is_some_and(|index| index < completions(job).unwrap_or(0))
}

pub(super) fn is_indexed(job: &Job) -> bool {
    spec(job).and_then(|spec| spec.completion_mode.as_deref()) == Some("Indexed")
}

pub(super) fn is_suspended(job: &Job) -> bool {
    spec(job).and_then(|spec| spec.suspend).unwrap_or(false)
}

pub(super) fn completions(job: &Job) -> Option<i32> {
    spec(job)?.completions
}

pub(super) fn limit_per_index(job: &Job) -> Option<i32> {
    spec(job)?.backoff_limit_per_index
}

pub(super) fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
