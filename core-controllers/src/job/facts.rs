//! What a Job sees in its pods: whether they failed, which index they are for, and when they ended. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};

use super::spec;
use crate::pods;

/// Holds a pod until its end is counted.
pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label with a pod's index.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often the pods of an index have failed.
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// How often the pods of an index have failed without being counted.
pub(super) const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

pub(super) fn is_tracked(pod: &Pod) -> bool {
    windlass::has_finalizer(pod, FINALIZER)
}

pub(super) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// Whether pods are replaced only once they have failed for good, and not when their end begins.
pub(super) fn replaces_failed_only(job: &Job) -> bool {
    let Some(spec) = spec(job) else { return false };
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

/// Whether a pod counts as failed. One that is being deleted does, unless it may yet end otherwise.
pub(super) fn is_failed(job: &Job, pod: &Pod) -> bool {
    match pods::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        _ => !replaces_failed_only(job) && pods::is_terminating(pod),
    }
}

pub(super) fn is_succeeded(pod: &Pod) -> bool {
    pods::phase(pod) == "Succeeded"
}

/// The index that a pod is for.
pub(super) fn index(pod: &Pod) -> Option<i32> {
    annotation(pod, INDEX).filter(|index| *index >= 0)
}

/// How often the pods of this pod's index had failed before it: counted ones, and all.
pub(super) fn failures(pod: &Pod) -> (i32, i32) {
    let count = |key| annotation(pod, key).filter(|count| *count >= 0).unwrap_or(0);
    (count(FAILURES), count(FAILURES).saturating_add(count(IGNORED)))
}

fn annotation(pod: &Pod, key: &str) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(key)?.parse().ok()
}

/// When a pod ended: its last container, or what comes nearest to that.
pub(super) fn finished_at(pod: &Pod) -> Timestamp {
    let containers = containers_finished_at(pod);
    let not_ready = || {
        let ready = pods::condition(pod, "Ready").filter(|c| c.status == "False")?;
        ready.last_transition_time.as_ref().map(|time| time.0)
    };
    let deleted = || {
        let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
        pod.metadata.deletion_timestamp.as_ref()?.0.checked_sub(grace).ok()
    };
    let created = || pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    containers.or_else(not_ready).or_else(deleted).or_else(created).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// When the last container ended; `None` if one has not.
fn containers_finished_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.as_ref()?.container_statuses.as_deref().filter(|all| !all.is_empty())?;
    let finished = |s: &k8s_openapi::api::core::v1::ContainerStatus| {
        s.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0)
    };
    statuses.iter().map(finished).collect::<Option<Vec<_>>>()?.into_iter().max()
}
