//! What a Deployment reports: counts from its sets, whether it is available, and whether its rollout gets on.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::{Value, json};

use super::{
    fleet::{Fleet, Member},
    plan::{bounds, replicas},
};

pub(super) const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";
/// What an API server defaults a Deployment without deadline to; it means none.
const NO_DEADLINE: i32 = i32::MAX;

/// Sets a condition. One of the same status and reason stays as it is, with its message and times.
pub(super) fn set(
    conditions: &mut Vec<DeploymentCondition>,
    type_: &str,
    status: &str,
    reason: &str,
    message: impl Into<String>,
    now: Timestamp,
) {
    let now = Some(whole(now));
    let current = conditions.iter().position(|c| c.type_ == type_);
    let current = current.map(|i| (i, conditions[i].clone()));
    let mut next = DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.into()),
        last_update_time: now.clone(),
        last_transition_time: now,
    };
    if let Some((i, was)) = current {
        if was.status == next.status && was.reason == next.reason {
            return;
        }
        if was.status == next.status {
            next.last_transition_time = was.last_transition_time;
        }
        conditions.remove(i);
    }
    conditions.push(next);
}

fn whole(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

fn find<'a>(conditions: &'a [DeploymentCondition], type_: &str) -> Option<&'a DeploymentCondition> {
    conditions.iter().find(|c| c.type_ == type_)
}

fn conditions(deployment: &Deployment) -> Vec<DeploymentCondition> {
    deployment.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default()
}

fn deadline(deployment: &Deployment) -> Option<i32> {
    deployment.spec.as_ref()?.progress_deadline_seconds.filter(|seconds| *seconds != NO_DEADLINE)
}

/// Whether somebody wants to know how the rollout gets on.
pub(super) fn has_deadline(deployment: &Deployment) -> bool {
    deadline(deployment).is_some()
}

/// The conditions, with pausing and resuming noted, so that time spent in a pause counts for no deadline.
pub(super) fn pause_noted(deployment: &Deployment, paused: bool, now: Timestamp) -> Vec<DeploymentCondition> {
    let mut conditions = conditions(deployment);
    let reason = find(&conditions, PROGRESSING).and_then(|c| c.reason.clone());
    let noted = reason.as_deref() == Some(PAUSED);
    if !has_deadline(deployment) || reason.as_deref() == Some(TIMED_OUT) || paused == noted {
        return conditions;
    }
    let (reason, message) = match paused {
        true => (PAUSED, "Deployment is paused"),
        false => ("DeploymentResumed", "Deployment is resumed"),
    };
    set(&mut conditions, PROGRESSING, "Unknown", reason, message, now);
    conditions
}

/// The counts, and whether the Deployment is available.
pub(super) fn counted(deployment: &Deployment, fleet: &Fleet, now: Timestamp) -> DeploymentStatus {
    counted_with(deployment, fleet, conditions(deployment), now)
}

/// The counts, and whether the Deployment is available, on top of these conditions.
pub(super) fn counted_with(
    deployment: &Deployment,
    fleet: &Fleet,
    mut conditions: Vec<DeploymentCondition>,
    now: Timestamp,
) -> DeploymentStatus {
    let sum = |count: fn(&Member) -> i32| fleet.members.iter().map(count).sum::<i32>();
    let total = sum(|m| m.next.status.as_ref().map_or(0, |s| s.replicas));
    let available = fleet.available();
    if available >= bounds(deployment).fewest(deployment) {
        let message = "Deployment has minimum availability.";
        set(&mut conditions, AVAILABLE, "True", "MinimumReplicasAvailable", message, now);
    } else {
        let message = "Deployment does not have minimum availability.";
        set(&mut conditions, AVAILABLE, "False", "MinimumReplicasUnavailable", message, now);
    }
    let some = |count: i32| Some(count).filter(|count| *count != 0);
    let updated = fleet.newest().and_then(|m| m.next.status.as_ref()).map_or(0, |s| s.replicas);
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(total),
        updated_replicas: some(updated),
        ready_replicas: some(sum(|m| m.next.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some((sum(Member::wanted) - available).max(0)),
        terminating_replicas: Some(sum(|m| {
            m.next.status.as_ref().and_then(|s| s.terminating_replicas).unwrap_or(0)
        })),
        collision_count: deployment.status.as_ref().and_then(|s| s.collision_count),
        conditions: Some(conditions),
    }
}

/// Whether every pod that is asked for is there, new and available, and no other.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = replicas(deployment);
    let all = [status.updated_replicas, status.replicas, status.available_replicas];
    all.iter().all(|count| count.unwrap_or(0) == wanted)
        && status.observed_generation >= deployment.metadata.generation
}

/// The status during a rollout, and when its deadline is to be looked at.
pub(super) fn progressed(
    deployment: &Deployment,
    fleet: &Fleet,
    conditions: Vec<DeploymentCondition>,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let before = find(&conditions, PROGRESSING).cloned();
    let mut status = counted_with(deployment, fleet, conditions, now);
    let mut conditions = status.conditions.take().unwrap_or_default();
    let done_before = before.as_ref().is_some_and(|c| c.reason.as_deref() == Some(COMPLETE));
    let was_complete = done_before && status.replicas == status.updated_replicas;
    if !has_deadline(deployment) {
        conditions.retain(|c| c.type_ != PROGRESSING);
    } else if !was_complete {
        note_progress(deployment, fleet, &status, &mut conditions, now);
    }
    note_failures(fleet, &mut conditions);
    let again = look_again(deployment, &status, &conditions, now);
    status.conditions = Some(conditions);
    (status, again)
}

fn note_progress(
    deployment: &Deployment,
    fleet: &Fleet,
    status: &DeploymentStatus,
    conditions: &mut Vec<DeploymentCondition>,
    now: Timestamp,
) {
    let what = match fleet.newest().and_then(|m| m.next.metadata.name.as_deref()) {
        Some(set) => format!("ReplicaSet {set:?}"),
        None => format!("Deployment {:?}", deployment.metadata.name.as_deref().unwrap_or_default()),
    };
    if is_complete(deployment, status) {
        set(conditions, PROGRESSING, "True", COMPLETE, format!("{what} has successfully progressed."), now);
    } else if has_moved(deployment, status) {
        let kept = find(conditions, PROGRESSING).filter(|c| c.status == "True").cloned();
        conditions.retain(|c| c.type_ != PROGRESSING);
        set(conditions, PROGRESSING, "True", "ReplicaSetUpdated", format!("{what} is progressing."), now);
        // Each step moves the deadline; the condition itself has not changed.
        if let (Some(kept), Some(set)) = (kept, conditions.last_mut()) {
            set.last_transition_time = kept.last_transition_time;
        }
    } else if has_timed_out(deployment, conditions, now) {
        set(conditions, PROGRESSING, "False", TIMED_OUT, format!("{what} has timed out progressing."), now);
    }
}

/// Whether more new pods, fewer old ones, or more ready or available ones are there than when last reported.
fn has_moved(deployment: &Deployment, now: &DeploymentStatus) -> bool {
    let was = deployment.status.clone().unwrap_or_default();
    let old = |s: &DeploymentStatus| s.replicas.unwrap_or(0) - s.updated_replicas.unwrap_or(0);
    now.updated_replicas > was.updated_replicas
        || old(now) < old(&was)
        || now.ready_replicas > was.ready_replicas
        || now.available_replicas > was.available_replicas
}

fn has_timed_out(deployment: &Deployment, conditions: &[DeploymentCondition], now: Timestamp) -> bool {
    let Some(condition) = find(conditions, PROGRESSING) else { return false };
    match condition.reason.as_deref() {
        Some(COMPLETE) => false,
        Some(TIMED_OUT) => true,
        _ => deadline_at(deployment, condition).is_some_and(|at| at < now),
    }
}

fn deadline_at(deployment: &Deployment, condition: &DeploymentCondition) -> Option<Timestamp> {
    let span = SignedDuration::from_secs(i64::from(deadline(deployment)?));
    condition.last_update_time.as_ref()?.0.checked_add(span).ok()
}

/// A rollout that stands still changes nothing when its deadline passes: look at it then.
fn look_again(
    deployment: &Deployment,
    status: &DeploymentStatus,
    conditions: &[DeploymentCondition],
    now: Timestamp,
) -> Option<Duration> {
    let condition = find(conditions, PROGRESSING)?;
    if is_complete(deployment, status) || condition.reason.as_deref() == Some(TIMED_OUT) {
        return None;
    }
    let left = deadline_at(deployment, condition)?.duration_since(now);
    Some(Duration::try_from(left).unwrap_or(Duration::ZERO) + Duration::from_secs(1))
}

/// Copies the failure of a set to make pods: the newest's, or else that of the first other.
fn note_failures(fleet: &Fleet, conditions: &mut Vec<DeploymentCondition>) {
    let failure = |m: &Member| {
        let all = m.next.status.as_ref()?.conditions.as_ref()?;
        all.iter().find(|c| c.type_ == REPLICA_FAILURE).cloned()
    };
    conditions.retain(|c| c.type_ != REPLICA_FAILURE);
    let Some(failure) = fleet.newest().and_then(failure).or_else(|| fleet.old().find_map(failure)) else {
        return;
    };
    conditions.push(DeploymentCondition {
        type_: failure.type_,
        status: failure.status,
        reason: failure.reason,
        message: failure.message,
        last_update_time: failure.last_transition_time.clone(),
        last_transition_time: failure.last_transition_time,
    });
}

/// The status after the name of the new set turned out to be taken.
pub(super) fn with_collision(deployment: &Deployment) -> DeploymentStatus {
    let mut status = deployment.status.clone().unwrap_or_default();
    status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
    status
}

/// The status after the new set could not be made.
pub(super) fn with_create_error(
    deployment: &Deployment,
    error: &windlass::Error,
    now: Timestamp,
) -> DeploymentStatus {
    let mut status = deployment.status.clone().unwrap_or_default();
    if has_deadline(deployment) {
        let name = deployment.metadata.name.as_deref().unwrap_or_default();
        let message = format!("Failed to create new replica set for {name:?}: {error}");
        let conditions = status.conditions.get_or_insert_default();
        set(conditions, PROGRESSING, "False", "ReplicaSetCreateError", message, now);
    }
    status
}

/// The status as a merge patch: what is no longer there is null.
pub(super) fn as_patch(deployment: &Deployment, status: &DeploymentStatus) -> Value {
    let mut patch = json!(status);
    let was = deployment.status.as_ref().map(|was| json!(was)).unwrap_or_default();
    if let (Some(fields), Some(was)) = (patch.as_object_mut(), was.as_object()) {
        for name in was.keys() {
            fields.entry(name.clone()).or_insert(Value::Null);
        }
    }
    patch
}
