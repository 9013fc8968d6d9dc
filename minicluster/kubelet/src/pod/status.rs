//! The status of a pod, as upstream tells it: phase, conditions, a status per container, addresses.
//!
//! Pure. Never goes back from a terminal phase, and never tells a terminal phase while a container runs: whoever
//! reads "Succeeded" or "Failed" may rely on nothing being left.

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, PodIP, PodStatus, ResourceRequirements, VolumeMountStatus,
};

use super::conditions::{Told, conditions, whole_seconds};
use super::restart::restarts;
use super::{Role, Seen, containers, host_network, phase, qos, terminate};
use crate::runtime;

/// What a status needs to know of the node.
#[derive(Debug, Clone, Default)]
pub struct Node<'a> {
    /// Addresses of the node, first is the primary.
    pub host_ips: &'a [String],
    /// Name of the runtime, the scheme of container ids.
    pub runtime: &'a str,
}

/// The status to tell.
pub fn status(seen: Seen<'_>, node: &Node<'_>) -> PodStatus {
    let old = seen.told.clone();
    let mut init = Vec::new();
    let mut app = Vec::new();
    let mut ephemeral = Vec::new();
    for (role, spec) in containers(seen.pod) {
        let status = container_status(seen, node, role, &spec);
        match role {
            Role::Init | Role::Sidecar => init.push(status),
            Role::App => app.push(status),
            Role::Ephemeral => ephemeral.push(status),
        }
    }
    let phase = told_phase(seen, old.phase.as_deref());
    let told = Told { phase, init: &init, app: &app };
    let ips = pod_ips(seen, node, &old);
    let (reason, message) = why(seen, &old);
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions(seen, told)),
        reason,
        message,
        host_ip: node.host_ips.first().cloned(),
        host_ips: Some(node.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect()),
        start_time: old.start_time.clone().or_else(|| seen.memory.start_time.map(whole_seconds)),
        init_container_statuses: (!init.is_empty()).then_some(init),
        container_statuses: Some(app),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        qos_class: old.qos_class.clone().or_else(|| Some(qos::class(seen.pod).as_str().to_owned())),
        observed_generation: seen.pod.metadata.generation,
        ..old
    }
}

/// A terminal phase waits until nothing runs.
fn told_phase<'a>(seen: Seen<'_>, old: Option<&'a str>) -> &'a str {
    let phase = phase::phase(seen);
    let running = seen.view.containers.iter().any(|c| c.state == runtime::ContainerState::Running);
    if phase::is_terminal(phase) && running {
        return match old {
            Some(old) if !old.is_empty() => old,
            _ => "Pending",
        };
    }
    phase
}

fn why(seen: Seen<'_>, old: &PodStatus) -> (Option<String>, Option<String>) {
    if let Some(verdict) = &seen.memory.verdict {
        return (Some(verdict.reason.clone()), Some(verdict.message.clone()));
    }
    if terminate::deadline(seen).is_some_and(|at| at <= seen.now) {
        let message = "Pod was active on the node longer than the specified deadline";
        return (Some("DeadlineExceeded".into()), Some(message.into()));
    }
    (old.reason.clone(), old.message.clone())
}

/// Addresses of the newest live sandbox; those told before stay while the pod goes down.
fn pod_ips(seen: Seen<'_>, node: &Node<'_>, old: &PodStatus) -> Vec<String> {
    if host_network(seen.pod) {
        return node.host_ips.to_vec();
    }
    match seen.view.sandboxes.first() {
        Some(sandbox) if !sandbox.ips.is_empty() => sandbox.ips.clone(),
        _ => old.pod_ips.iter().flatten().map(|i| i.ip.clone()).collect(),
    }
}

fn old_status<'a>(seen: Seen<'a>, name: &str) -> Option<&'a ContainerStatus> {
    let s = seen.told;
    let all = [&s.container_statuses, &s.init_container_statuses, &s.ephemeral_container_statuses];
    all.into_iter().flatten().flatten().find(|c| c.name == name)
}

fn container_status(seen: Seen<'_>, node: &Node<'_>, role: Role, spec: &Container) -> ContainerStatus {
    let newest = seen.view.newest(&spec.name);
    let mut status = match newest {
        Some(c) => of_instance(seen, node, role, spec, c),
        None => without_instance(seen, spec),
    };
    let again = !terminate::is_terminating(seen) && restarts(seen.pod, role, spec, newest);
    let waiting = seen.memory.containers.get(&spec.name).and_then(|m| m.waiting.as_ref());
    if let Some(waiting) = waiting.filter(|_| again) {
        if let Some(state) = status.state.take().filter(|s| s.terminated.is_some()) {
            status.last_state = Some(state);
        }
        status.state = Some(waits(&waiting.reason, &waiting.message));
    }
    status.volume_mounts = volume_mounts(spec);
    status
}

fn waits(reason: &str, message: &str) -> ContainerState {
    let message = (!message.is_empty()).then(|| message.to_owned());
    let waiting = ContainerStateWaiting { reason: Some(reason.to_owned()), message };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn terminated(node: &Node<'_>, c: &runtime::Container) -> ContainerState {
    let unknown = c.state == runtime::ContainerState::Unknown;
    let reason = match (unknown, c.reason.is_empty(), c.exit_code) {
        (true, ..) => "ContainerStatusUnknown".to_owned(),
        (_, false, _) => c.reason.clone(),
        (_, _, 0) => "Completed".to_owned(),
        _ => "Error".to_owned(),
    };
    let terminated = ContainerStateTerminated {
        container_id: Some(format!("{}://{}", node.runtime, c.id)),
        exit_code: if unknown { 137 } else { c.exit_code },
        finished_at: c.finished_at.map(whole_seconds),
        started_at: c.started_at.map(whole_seconds),
        message: (!c.message.is_empty()).then(|| c.message.clone()),
        reason: Some(reason),
        signal: None,
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

fn of_instance(
    seen: Seen<'_>,
    node: &Node<'_>,
    role: Role,
    spec: &Container,
    c: &runtime::Container,
) -> ContainerStatus {
    let running = c.state == runtime::ContainerState::Running;
    let state = match c.state {
        runtime::ContainerState::Created => waits("ContainerCreating", ""),
        runtime::ContainerState::Running => ContainerState {
            running: Some(ContainerStateRunning { started_at: c.started_at.map(whole_seconds) }),
            ..ContainerState::default()
        },
        runtime::ContainerState::Exited | runtime::ContainerState::Unknown => terminated(node, c),
    };
    let before = seen.view.previous(&spec.name).filter(|p| p.state == runtime::ContainerState::Exited);
    let old = old_status(seen, &spec.name);
    let last_state = match before {
        Some(p) => Some(terminated(node, p)),
        None => old.filter(|o| o.restart_count > 0).and_then(|o| o.last_state.clone()),
    };
    let started = phase::has_started(seen, spec, c);
    let ready = match role {
        Role::Init => c.state == runtime::ContainerState::Exited && c.exit_code == 0,
        Role::Ephemeral => false,
        Role::App | Role::Sidecar => running && started && is_ready(seen, spec, c),
    };
    ContainerStatus {
        name: spec.name.clone(),
        state: Some(state),
        last_state,
        ready,
        started: Some(if role == Role::Ephemeral { false } else { started }),
        restart_count: i32::try_from(c.attempt).unwrap_or(i32::MAX),
        image: c.image.clone(),
        image_id: c.image_id.clone(),
        container_id: Some(format!("{}://{}", node.runtime, c.id)),
        resources: running
            .then(|| spec.resources.clone().unwrap_or_default())
            .filter(|_| role != Role::Ephemeral),
        allocated_resources: allocated(spec.resources.as_ref()).filter(|_| role != Role::Ephemeral),
        ..ContainerStatus::default()
    }
}

fn allocated(resources: Option<&ResourceRequirements>) -> Option<super::amount::Amounts> {
    resources.and_then(|r| r.requests.clone()).filter(|r| !r.is_empty())
}

fn is_ready(seen: Seen<'_>, spec: &Container, c: &runtime::Container) -> bool {
    if terminate::is_terminating(seen) && seen.memory.verdict.is_some() {
        return false;
    }
    match seen.memory.health(&spec.name, &c.id) {
        Some(health) => health.ready,
        None => spec.readiness_probe.is_none(),
    }
}

/// The runtime has no instance: not made yet, or lost after the API knew of one.
fn without_instance(seen: Seen<'_>, spec: &Container) -> ContainerStatus {
    let has_init =
        seen.pod.spec.as_ref().is_some_and(|s| s.init_containers.as_ref().is_some_and(|i| !i.is_empty()));
    let reason = if has_init { "PodInitializing" } else { "ContainerCreating" };
    let fresh = ContainerStatus {
        name: spec.name.clone(),
        image: spec.image.clone().unwrap_or_default(),
        state: Some(waits(reason, "")),
        started: Some(false),
        ..ContainerStatus::default()
    };
    let Some(old) = old_status(seen, &spec.name) else { return fresh };
    let old_state = old.state.clone().unwrap_or_default();
    let kept =
        ContainerStatus { restart_count: old.restart_count, last_state: old.last_state.clone(), ..fresh };
    if old_state.terminated.is_some() {
        return ContainerStatus { ready: false, started: Some(false), ..old.clone() };
    }
    if old_state.running.is_none() && !terminate::is_terminating(seen) {
        return kept;
    }
    if old_state.running.is_none() && old.container_id.is_none() {
        return kept;
    }
    // It ran, and nobody can say how it ended.
    let lost = ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".into()),
        message: Some(
            "The container could not be located when the pod was deleted.  The container used to be Running"
                .into(),
        ),
        container_id: old.container_id.clone(),
        ..ContainerStateTerminated::default()
    };
    let lost = ContainerState { terminated: Some(lost), ..ContainerState::default() };
    if terminate::is_terminating(seen) {
        return ContainerStatus { state: Some(lost), ready: false, started: Some(false), ..old.clone() };
    }
    ContainerStatus { restart_count: old.restart_count + 1, last_state: Some(lost), ..kept }
}

fn volume_mounts(spec: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = spec.volume_mounts.as_ref().filter(|m| !m.is_empty())?;
    let status = |m: &k8s_openapi::api::core::v1::VolumeMount| VolumeMountStatus {
        name: m.name.clone(),
        mount_path: m.mount_path.clone(),
        read_only: m.read_only,
        recursive_read_only: m.read_only.filter(|r| *r).map(|_| "Disabled".to_owned()),
        ..VolumeMountStatus::default()
    };
    Some(mounts.iter().map(status).collect())
}
