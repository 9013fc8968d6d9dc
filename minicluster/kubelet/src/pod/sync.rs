//! The next steps for a pod: which sandbox, init container, sidecar or container to start, stop or change.
//!
//! Follows upstream's order: one live sandbox; ephemeral containers; init containers one after another, sidecars in
//! their place, each waited for until it has started; then the application containers side by side. Steps come out
//! in the order to take them, and an unchanged world yields none: the worker asks again after each change.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::restart::{go_duration, restarts};
use super::{FailedProbe, Role, Seen, containers, full_name, host_network, phase, terminate};
use crate::runtime::{self, ContainerState, Resources, Sandbox, labels};

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Put the volumes in place.
    MountVolumes,
    /// Make a sandbox.
    CreateSandbox {
        /// Number of sandboxes that came before.
        attempt: u32,
    },
    /// Make and start a container.
    Start {
        /// Container name.
        name: String,
        /// What it is.
        role: Role,
        /// Restart count of the new instance.
        attempt: u32,
        /// When the instance before it ended.
        after: Option<Timestamp>,
    },
    /// A container is not started yet: say why.
    Hold {
        /// Container name.
        name: String,
        /// Reason and message of the waiting state.
        waiting: super::Waiting,
    },
    /// Stop a container, hooks first. Runs aside; its end comes as a runtime event.
    Stop {
        /// Runtime id.
        id: String,
        /// Container name.
        name: String,
        /// When it is killed at the latest.
        deadline: Timestamp,
        /// The sentence of the `Killing` event.
        message: String,
    },
    /// Change the cgroup limits of a running container.
    Resize {
        /// Runtime id.
        id: String,
        /// Container name.
        name: String,
        /// New limits.
        resources: Resources,
    },
    /// Stop a sandbox.
    StopSandbox {
        /// Runtime id.
        id: String,
    },
    /// Remove a dead container that is no longer worth keeping.
    RemoveContainer {
        /// Runtime id.
        id: String,
    },
    /// Remove a stopped sandbox.
    RemoveSandbox {
        /// Runtime id.
        id: String,
    },
    /// Take volumes, cgroup and folders down.
    CleanUp,
    /// Everything is down: the pod may leave the API.
    Delete,
}

/// The next steps, and when to look again though nothing happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Steps in order.
    pub actions: Vec<Action>,
    /// Look again at this moment.
    pub wake: Option<Timestamp>,
}

impl Plan {
    pub(super) fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub(super) fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }
}

/// Decides the next steps for a pod.
pub fn sync(seen: Seen<'_>) -> Plan {
    let mut plan = Plan::default();
    if terminate::is_terminating(seen) {
        terminate::plan(seen, &mut plan);
        return plan;
    }
    if let Some(deadline) = terminate::deadline(seen) {
        plan.wake_at(deadline);
    }
    let live = seen.view.sandboxes.first().filter(|s| usable(s, seen.pod));
    match live {
        None => replace_sandbox(seen, &mut plan),
        Some(sandbox) => containers_of(seen, sandbox, &mut plan),
    }
    prune(seen, &mut plan);
    plan
}

/// A sandbox containers can be started in.
fn usable(sandbox: &Sandbox, pod: &Pod) -> bool {
    sandbox.ready
        && sandbox.host_network == host_network(pod)
        && (host_network(pod) || !sandbox.ips.is_empty())
}

/// Stops what is left of the old sandbox, then makes a new one.
fn replace_sandbox(seen: Seen<'_>, plan: &mut Plan) {
    let mut waits = false;
    for c in seen.view.containers.iter().filter(|c| c.state == ContainerState::Running) {
        waits = true;
        stop(seen, plan, c, format!("Stopping container {}", c.name), None);
    }
    if waits {
        return;
    }
    for s in seen.view.sandboxes.iter().filter(|s| s.ready) {
        plan.push(Action::StopSandbox { id: s.id.clone() });
    }
    if let Some(at) = later(seen.memory.volumes_not_before, seen.now) {
        plan.wake_at(at);
        return;
    }
    if !seen.memory.volumes_ready {
        plan.push(Action::MountVolumes);
    }
    if let Some(at) = later(seen.memory.sandbox_not_before, seen.now) {
        plan.wake_at(at);
        return;
    }
    let attempt = seen.view.sandboxes.first().map_or(0, |s| s.attempt + 1);
    plan.push(Action::CreateSandbox { attempt });
}

fn later(at: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
    at.filter(|at| *at > now)
}

fn containers_of(seen: Seen<'_>, sandbox: &Sandbox, plan: &mut Plan) {
    if !seen.memory.volumes_ready {
        if let Some(at) = later(seen.memory.volumes_not_before, seen.now) {
            plan.wake_at(at);
            return;
        }
        plan.push(Action::MountVolumes);
    }
    let specs = containers(seen.pod);
    for (role, spec) in specs.iter().filter(|(role, _)| *role == Role::Ephemeral) {
        if seen.view.newest(&spec.name).is_none() {
            start(seen, plan, *role, spec, None);
        }
    }
    if !init_containers(seen, sandbox, &specs, plan) {
        return;
    }
    for (role, spec) in specs.iter().filter(|(role, _)| *role == Role::App) {
        let last = seen.view.newest(&spec.name).filter(|c| c.sandbox_id == sandbox.id);
        steady(seen, plan, *role, spec, last);
    }
}

type Specs<'a> = [(Role, std::borrow::Cow<'a, Container>)];

/// Walks the init containers; true when the application containers may run.
fn init_containers(seen: Seen<'_>, sandbox: &Sandbox, specs: &Specs<'_>, plan: &mut Plan) -> bool {
    let in_sandbox = |name: &str| seen.view.newest(name).filter(|c| c.sandbox_id == sandbox.id);
    let past_init = specs.iter().any(|(role, spec)| *role == Role::App && in_sandbox(&spec.name).is_some());
    for (role, spec) in specs.iter().filter(|(role, _)| matches!(role, Role::Init | Role::Sidecar)) {
        let last = in_sandbox(&spec.name);
        if *role == Role::Sidecar {
            let started = last.is_some_and(|c| phase::has_started(seen, spec, c));
            steady(seen, plan, *role, spec, last);
            if !started && !past_init {
                return false;
            }
            continue;
        }
        if past_init {
            continue;
        }
        match last {
            Some(c) if c.state == ContainerState::Running => {
                steady(seen, plan, *role, spec, last);
                return false;
            }
            Some(c) if c.state == ContainerState::Exited && c.exit_code == 0 => {}
            _ => {
                steady(seen, plan, *role, spec, last);
                return false;
            }
        }
    }
    true
}

/// Keeps one container as it should be: starts it, replaces it, resizes it, or leaves it alone.
fn steady(seen: Seen<'_>, plan: &mut Plan, role: Role, spec: &Container, last: Option<&runtime::Container>) {
    let Some(c) = last.filter(|c| c.state == ContainerState::Running) else {
        if restarts(seen.pod, role, spec, last) {
            start(seen, plan, role, spec, last);
        }
        return;
    };
    if let Some(message) = replacement(seen, spec, c) {
        stop(seen, plan, c, message, None);
        return;
    }
    let wanted = super::resources::limits(seen.pod, spec);
    let resized = seen.memory.resized.get(&c.id);
    if let Some(have) = resized.or(c.resources.as_ref())
        && super::resources::differ(have, &wanted)
    {
        plan.push(Action::Resize { id: c.id.clone(), name: c.name.clone(), resources: wanted });
    }
}

/// Why a running instance has to make room for a new one.
fn replacement(seen: Seen<'_>, spec: &Container, c: &runtime::Container) -> Option<String> {
    let name = &spec.name;
    let made_from = c.annotations.get(labels::CONTAINER_HASH);
    if made_from.is_some_and(|hash| *hash != spec_hash(spec)) {
        return Some(format!("Container {name} definition changed, will be restarted"));
    }
    match seen.memory.health(name, &c.id)?.failed? {
        FailedProbe::Liveness => Some(format!("Container {name} failed liveness probe, will be restarted")),
        FailedProbe::Startup => Some(format!("Container {name} failed startup probe, will be restarted")),
    }
}

/// Identifies what a running container cannot change: its name and image.
pub fn spec_hash(spec: &Container) -> String {
    let text = [spec.name.as_bytes(), b"\0", spec.image.as_deref().unwrap_or_default().as_bytes()].concat();
    let fnv = text.iter().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193));
    format!("{fnv:x}")
}

/// Starts a container, or holds it while a back-off lasts.
fn start(seen: Seen<'_>, plan: &mut Plan, role: Role, spec: &Container, last: Option<&runtime::Container>) {
    let memory = seen.memory.containers.get(&spec.name);
    let ended = last.and_then(|c| c.finished_at);
    if let (Some(ended), Some(crash)) = (ended, memory.and_then(|m| m.crash))
        && let Some(until) = crash.holds(ended, seen.now)
    {
        let message = format!(
            "back-off {} restarting failed container={} pod={}",
            go_duration(crash.delay),
            spec.name,
            full_name(seen.pod)
        );
        hold(seen, plan, &spec.name, "CrashLoopBackOff", message);
        plan.wake_at(until);
        return;
    }
    if let Some(at) = later(memory.and_then(|m| m.not_before), seen.now) {
        plan.wake_at(at);
        return;
    }
    let attempt = next_attempt(seen, &spec.name);
    plan.push(Action::Start { name: spec.name.clone(), role, attempt, after: ended });
}

/// The restart count of the next instance: one more than the newest in the runtime, or than the API remembers when
/// the runtime has forgotten.
fn next_attempt(seen: Seen<'_>, name: &str) -> u32 {
    if let Some(newest) = seen.view.newest(name) {
        return newest.attempt + 1;
    }
    let known = seen.told.container_statuses.iter().chain(&seen.told.init_container_statuses).flatten();
    let known = known.into_iter().find(|s| s.name == name && s.container_id.is_some());
    known.map_or(0, |s| u32::try_from(s.restart_count).unwrap_or(0) + 1)
}

fn hold(seen: Seen<'_>, plan: &mut Plan, name: &str, reason: &str, message: String) {
    let waiting = super::Waiting { reason: reason.to_owned(), message };
    let told = seen.memory.containers.get(name).and_then(|m| m.waiting.as_ref());
    if told != Some(&waiting) {
        plan.push(Action::Hold { name: name.to_owned(), waiting });
    }
}

/// Stops a running container once, or again when the time left has become shorter.
pub(super) fn stop(
    seen: Seen<'_>,
    plan: &mut Plan,
    c: &runtime::Container,
    message: String,
    deadline: Option<Timestamp>,
) {
    let deadline = deadline.unwrap_or_else(|| seen.now + grace(seen.pod));
    if seen.memory.stopping.get(&c.id).is_some_and(|under_way| *under_way <= deadline) {
        return;
    }
    plan.push(Action::Stop { id: c.id.clone(), name: c.name.clone(), deadline, message });
}

/// The pod's own grace period.
pub fn grace(pod: &Pod) -> Duration {
    let seconds = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Of each container the running instance and the one before are kept (for `logs --previous`), of sandboxes only the
/// newest.
fn prune(seen: Seen<'_>, plan: &mut Plan) {
    let mut kept = std::collections::BTreeMap::<&str, usize>::new();
    for c in &seen.view.containers {
        let count = kept.entry(&c.name).or_default();
        *count += 1;
        if *count > 2 && c.state != ContainerState::Running {
            plan.push(Action::RemoveContainer { id: c.id.clone() });
        }
    }
    for old in seen.view.sandboxes.iter().skip(1).filter(|s| !s.ready) {
        let used = seen.view.containers.iter().any(|c| c.sandbox_id == old.id);
        if !used {
            plan.push(Action::RemoveSandbox { id: old.id.clone() });
        }
    }
}
