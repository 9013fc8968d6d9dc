//! The phase of a pod, computed from its containers as upstream's `getPhase` does.

use k8s_openapi::api::core::v1::Container;

use super::restart::restarts;
use super::{Role, Seen, containers, restart_policy, terminate};
use crate::runtime::{self, ContainerState};

/// A phase no pod leaves.
pub fn is_terminal(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

/// A running instance has started: its startup probe succeeded, or it has none.
pub fn has_started(seen: Seen<'_>, spec: &Container, c: &runtime::Container) -> bool {
    if c.state != ContainerState::Running {
        return false;
    }
    match seen.memory.health(&spec.name, &c.id) {
        Some(health) => health.started,
        None => spec.startup_probe.is_none(),
    }
}

#[derive(Default)]
struct Count {
    waiting: usize,
    running: usize,
    stopped: usize,
    succeeded: usize,
    pending_init: usize,
    failed_init: usize,
}

fn count(seen: Seen<'_>) -> Count {
    let mut n = Count::default();
    for (role, spec) in containers(seen.pod) {
        let newest = seen.view.newest(&spec.name);
        match role {
            Role::Init => count_init(seen, &spec, newest, &mut n),
            Role::Sidecar => {
                if !newest.is_some_and(|c| has_started(seen, &spec, c)) {
                    n.pending_init += 1;
                }
            }
            Role::App => match newest {
                Some(c) if c.state == ContainerState::Running => n.running += 1,
                Some(c) if matches!(c.state, ContainerState::Exited | ContainerState::Unknown) => {
                    n.stopped += 1;
                    if c.state == ContainerState::Exited && c.exit_code == 0 {
                        n.succeeded += 1;
                    }
                }
                _ => n.waiting += 1,
            },
            Role::Ephemeral => {}
        }
    }
    n
}

fn count_init(seen: Seen<'_>, spec: &Container, newest: Option<&runtime::Container>, n: &mut Count) {
    match newest {
        Some(c) if c.state == ContainerState::Exited && c.exit_code == 0 => {}
        Some(c) if c.state == ContainerState::Exited => {
            if restarts(seen.pod, Role::Init, spec, Some(c)) {
                n.pending_init += 1;
            } else {
                n.failed_init += 1;
            }
        }
        _ => n.pending_init += 1,
    }
}

/// The phase the containers are in; a verdict of the kubelet and a terminal phase already told stand above it.
pub fn phase(seen: Seen<'_>) -> &'static str {
    if let Some(verdict) = &seen.memory.verdict {
        return if verdict.phase == "Succeeded" { "Succeeded" } else { "Failed" };
    }
    match seen.told.phase.as_deref() {
        Some("Failed") => return "Failed",
        Some("Succeeded") => return "Succeeded",
        _ => {}
    }
    let n = count(seen);
    let any_app = n.running + n.stopped > 0;
    if n.failed_init > 0 {
        return "Failed";
    }
    // Once the application has run, a sidecar that restarts does not bring initialization back.
    if n.pending_init > 0 && !any_app {
        return "Pending";
    }
    if n.waiting > 0 {
        return "Pending";
    }
    if n.running > 0 {
        return "Running";
    }
    if n.stopped == 0 {
        return "Pending";
    }
    ended(seen, &n)
}

/// All application containers have ended.
fn ended(seen: Seen<'_>, n: &Count) -> &'static str {
    let all_well = n.stopped == n.succeeded;
    let done = seen.memory.cleaned && seen.pod.metadata.deletion_timestamp.is_some();
    if done || deadline_passed(seen) {
        return if all_well && !deadline_passed(seen) { "Succeeded" } else { "Failed" };
    }
    let again = containers(seen.pod).iter().any(|(role, spec)| {
        *role == Role::App && restarts(seen.pod, *role, spec, seen.view.newest(&spec.name))
    });
    match (again || restart_policy(seen.pod) == "Always", all_well) {
        (true, _) => "Running",
        (false, true) => "Succeeded",
        (false, false) => "Failed",
    }
}

fn deadline_passed(seen: Seen<'_>) -> bool {
    terminate::deadline(seen).is_some_and(|at| at <= seen.now)
}
