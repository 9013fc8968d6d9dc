//! Whether a Job is done, and how its conditions tell. Pure.
//!
//! An end is told twice: first that it is certain (`SuccessCriteriaMet`, `FailureTarget`), while pods still end and are
//! counted, then that it is over (`Complete`, `Failed`).

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition, JobStatus},
        core::v1::ContainerStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    facts,
    policy::{self, Failure},
    spec,
    view::{View, completions, is_suspended},
};
use crate::pods;

pub(super) const MET: &str = "SuccessCriteriaMet";
pub(super) const COMPLETE: &str = "Complete";
pub(super) const TARGET: &str = "FailureTarget";
pub(super) const FAILED: &str = "Failed";
const SUSPENDED: &str = "Suspended";

/// The end that is certain for a Job, if one is.
pub(super) fn end(view: &View<'_>) -> Option<JobCondition> {
    let new = |type_: &str, reason: &str, message: &str| Some(condition(type_, reason, message, view.now));
    let fails = |reason: &str, message: &str| new(TARGET, reason, message);
    let job = view.job;
    if let Some(met) = find(job, MET) {
        return Some(met.clone());
    }
    if let Some(target) = find(job, TARGET) {
        return new(
            FAILED,
            target.reason.as_deref().unwrap_or_default(),
            target.message.as_deref().unwrap_or_default(),
        );
    }
    let failed = view.pods.iter().filter(|pod| facts::is_failed(job, pod));
    let mut told = failed.filter_map(|pod| match policy::failure(job, pod) {
        Failure::FailJob(message) => Some(message),
        _ => None,
    });
    if let Some(message) = told.next() {
        return fails("PodFailurePolicy", &message);
    }
    let limit = spec(job).and_then(|spec| spec.backoff_limit).unwrap_or(6);
    if view.failed > limit || restarts_exceed(view, limit) {
        return fails("BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    if deadline_in(job, view.now).is_some_and(|left| left.is_zero()) {
        return fails("DeadlineExceeded", "Job was active longer than specified deadline");
    }
    let total = completions(job).unwrap_or(0);
    if let Some(indexes) = &view.failed_indexes {
        let most = spec(job).and_then(|spec| spec.max_failed_indexes);
        if most.is_some_and(|most| indexes.total() > most) {
            return fails(
                "MaxFailedIndexesExceeded",
                "Job has exceeded the specified maximal number of failed indexes",
            );
        }
        if indexes.total() > 0 && indexes.total() + view.succeeded_indexes.total() >= total {
            return fails("FailedIndexes", "Job has failed indexes");
        }
    }
    policy::success(job, total, &view.succeeded_indexes)
        .and_then(|message| new(MET, "SuccessPolicy", &message))
}

/// The end of a Job that has all it asked for, with this many pods still active.
pub(super) fn success(view: &View<'_>, active: i32) -> Option<JobCondition> {
    let enough = match completions(view.job) {
        None => view.succeeded > 0,
        Some(wanted) => view.succeeded >= wanted,
    };
    let message = "Reached expected number of succeeded pods";
    (enough && active == 0).then(|| condition(MET, "CompletionsReached", message, view.now))
}

/// Containers that are restarted in place count towards the limit, too.
fn restarts_exceed(view: &View<'_>, limit: i32) -> bool {
    let template = spec(view.job).and_then(|spec| spec.template.spec.as_ref());
    if template.and_then(|template| template.restart_policy.as_deref()) != Some("OnFailure") {
        return false;
    }
    let sum =
        |all: &Option<Vec<ContainerStatus>>| -> i32 { all.iter().flatten().map(|s| s.restart_count).sum() };
    let running = view.pods.iter().filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"));
    let statuses = running.filter_map(|pod| pod.status.as_ref());
    let restarts: i32 = statuses.map(|s| sum(&s.init_container_statuses) + sum(&s.container_statuses)).sum();
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

/// How long a Job may still be active; zero if no longer. The time of one that is being resumed starts anew.
pub(super) fn deadline_in(job: &Job, now: Timestamp) -> Option<Duration> {
    let allowed = spec(job)?
        .active_deadline_seconds
        .filter(|_| !is_suspended(job) && find(job, SUSPENDED).is_none())?;
    let start = job.status.as_ref()?.start_time.as_ref()?.0;
    let passed = Duration::try_from(now.duration_since(start)).unwrap_or(Duration::ZERO);
    Some(Duration::from_secs(u64::try_from(allowed).unwrap_or(0)).saturating_sub(passed))
}

/// What a Job is told about being suspended and resumed: the reason of the event, if it is news.
pub(super) fn note_suspension(
    view: &View<'_>,
    status: &mut JobStatus,
) -> Option<(&'static str, &'static str)> {
    if is_suspended(view.job) {
        let news = ensure(status, SUSPENDED, "True", "JobSuspended", "Job suspended", view.now);
        if news {
            // It starts anew one day, perhaps from another template (KEP-5440).
            status.start_time = None;
        }
        return news.then_some(("Suspended", "Job suspended"));
    }
    let news = ensure(status, SUSPENDED, "False", "JobResumed", "Job resumed", view.now);
    if news {
        // Time spent suspended counts for no deadline.
        status.start_time = Some(Time(view.now));
    }
    news.then_some(("Resumed", "Job resumed"))
}

/// Sets a condition; true if that changed something. What never was is not noted as false.
pub(super) fn ensure(
    status: &mut JobStatus,
    type_: &str,
    value: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> bool {
    let conditions = status.conditions.get_or_insert_default();
    let new = JobCondition { status: value.to_owned(), ..condition(type_, reason, message, now) };
    let told = |c: &JobCondition| (c.status.clone(), c.reason.clone(), c.message.clone());
    let changed = match conditions.iter_mut().find(|c| c.type_ == type_) {
        Some(old) if told(old) == told(&new) => false,
        Some(old) => {
            *old = new;
            true
        }
        None if value == "False" => false,
        None => {
            conditions.push(new);
            true
        }
    };
    status.conditions.take_if(|conditions| conditions.is_empty());
    changed
}

pub(super) fn condition(type_: &str, reason: &str, message: &str, now: Timestamp) -> JobCondition {
    JobCondition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
    }
}

/// A condition that holds.
pub(super) fn find<'a>(job: &'a Job, type_: &str) -> Option<&'a JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_deref().unwrap_or_default();
    conditions.iter().find(|c| c.type_ == type_ && c.status == "True")
}

/// How a Job ended, if it did.
pub(crate) fn finished(job: &Job) -> Option<&JobCondition> {
    find(job, COMPLETE).or_else(|| find(job, FAILED))
}
