//! The end of a pod: who decides it, and how it is taken down.
//!
//! A pod ends when it is deleted, when it has run its course, when its deadline passes or when the kubelet turned it
//! away. Then: application containers first, all at once; sidecars after them, in reverse order; then the sandbox;
//! then volumes and folders; last, when it was deleted, the API object (grace 0, same uid).

use std::time::Duration;

use jiff::Timestamp;

use super::sync::{Action, Plan, grace, stop};
use super::{Role, Seen, containers, phase};
use crate::runtime::ContainerState;

/// The pod is on its way out.
pub fn is_terminating(seen: Seen<'_>) -> bool {
    seen.pod.metadata.deletion_timestamp.is_some()
        || seen.memory.verdict.is_some()
        || seen.memory.terminating.is_some()
        || phase::is_terminal(seen.told.phase.as_deref().unwrap_or_default())
        || phase::is_terminal(phase::phase(seen))
        || deadline(seen).is_some_and(|at| at <= seen.now)
}

/// When the pod's active deadline passes.
pub fn deadline(seen: Seen<'_>) -> Option<Timestamp> {
    let seconds = seen.pod.spec.as_ref()?.active_deadline_seconds?;
    let started = seen.told.start_time.as_ref().map(|t| t.0).or(seen.memory.start_time)?;
    started.checked_add(jiff::SignedDuration::from_secs(seconds)).ok()
}

/// How long this termination may take, from its beginning.
pub fn grace_period(seen: Seen<'_>) -> Duration {
    let asked = seen.pod.metadata.deletion_grace_period_seconds;
    match asked.and_then(|s| u64::try_from(s).ok()) {
        Some(seconds) if seen.pod.metadata.deletion_timestamp.is_some() => {
            Duration::from_secs(seconds.max(1))
        }
        _ => grace(seen.pod).max(Duration::from_secs(1)),
    }
}

/// The moment by which everything is killed.
fn kill_at(seen: Seen<'_>) -> Timestamp {
    let (since, begun_with) =
        seen.memory.terminating.map_or((seen.now, Duration::MAX), |t| (t.since, t.grace));
    since + grace_period(seen).min(begun_with)
}

pub(super) fn plan(seen: Seen<'_>, plan: &mut Plan) {
    if stop_containers(seen, plan) {
        return;
    }
    let mut alive = false;
    for s in seen.view.sandboxes.iter().filter(|s| s.ready) {
        alive = true;
        plan.push(Action::StopSandbox { id: s.id.clone() });
    }
    if alive {
        return;
    }
    if !seen.memory.cleaned {
        plan.push(Action::CleanUp);
        return;
    }
    if seen.pod.metadata.deletion_timestamp.is_none() {
        return;
    }
    for c in &seen.view.containers {
        plan.push(Action::RemoveContainer { id: c.id.clone() });
    }
    for s in &seen.view.sandboxes {
        plan.push(Action::RemoveSandbox { id: s.id.clone() });
    }
    plan.push(Action::Delete);
}

/// Stops what may be stopped now; true while anything runs.
fn stop_containers(seen: Seen<'_>, plan: &mut Plan) -> bool {
    let deadline = kill_at(seen);
    let running = |name: &str| {
        seen.view.containers.iter().find(|c| c.name == name && c.state == ContainerState::Running)
    };
    let specs = containers(seen.pod);
    let mut any = false;
    for (_, spec) in specs.iter().filter(|(role, _)| *role != Role::Sidecar) {
        if let Some(c) = running(&spec.name) {
            any = true;
            stop(seen, plan, c, format!("Stopping container {}", c.name), Some(deadline));
        }
    }
    // A container of which the specification is no longer known still has to go.
    for c in seen.view.containers.iter().filter(|c| c.state == ContainerState::Running) {
        if !specs.iter().any(|(_, spec)| spec.name == c.name) {
            any = true;
            stop(seen, plan, c, format!("Stopping container {}", c.name), Some(deadline));
        }
    }
    if any {
        return true;
    }
    for (_, spec) in specs.iter().rev().filter(|(role, _)| *role == Role::Sidecar) {
        if let Some(c) = running(&spec.name) {
            stop(seen, plan, c, format!("Stopping container {}", c.name), Some(deadline));
            return true;
        }
    }
    false
}
