//! The conditions a kubelet keeps on a pod, with upstream's reasons and messages. Conditions of others stay.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Role, Seen, containers};
use crate::pod::host_network;

/// A condition before it is compared with the one already told.
struct Found {
    kind: &'static str,
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Found {
    fn yes(kind: &'static str) -> Self {
        Self { kind, status: true, reason: None, message: None }
    }

    fn no(kind: &'static str, reason: &'static str, message: Option<String>) -> Self {
        Self { kind, status: false, reason: Some(reason), message }
    }
}

/// The statuses the conditions are judged by.
#[derive(Clone, Copy)]
pub(super) struct Told<'a> {
    pub(super) phase: &'a str,
    pub(super) init: &'a [ContainerStatus],
    pub(super) app: &'a [ContainerStatus],
}

/// All conditions of the pod: the kubelet's own, then those of others as they were.
pub(super) fn conditions(seen: Seen<'_>, told: Told<'_>) -> Vec<PodCondition> {
    let old = seen.told.conditions.as_deref().unwrap_or_default();
    let in_api = seen.pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let containers_ready = containers_ready(told);
    let ready = ready(seen.pod, in_api, &containers_ready);
    let own =
        [sandbox_ready(seen), initialized(seen, told), ready, containers_ready, Found::yes("PodScheduled")];
    let generation = seen.pod.metadata.generation;
    let mut out: Vec<_> = own.iter().map(|found| settle(found, old, generation, seen.now)).collect();
    out.extend(in_api.iter().filter(|c| !own.iter().any(|f| f.kind == c.type_)).cloned());
    out
}

/// The moment of the last change stays while the status stays.
fn settle(found: &Found, old: &[PodCondition], generation: Option<i64>, now: Timestamp) -> PodCondition {
    let status = if found.status { "True" } else { "False" };
    let before = old.iter().find(|c| c.type_ == found.kind && c.status == status);
    PodCondition {
        type_: found.kind.to_owned(),
        status: status.to_owned(),
        reason: found.reason.map(str::to_owned),
        message: found.message.clone(),
        last_probe_time: None,
        last_transition_time: before
            .and_then(|c| c.last_transition_time.clone())
            .or_else(|| Some(whole_seconds(now))),
        observed_generation: generation,
    }
}

/// The API keeps times in whole seconds; anything finer would look like a change for ever.
pub(super) fn whole_seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

fn sandbox_ready(seen: Seen<'_>) -> Found {
    let kind = "PodReadyToStartContainers";
    let ready =
        seen.view.sandboxes.first().is_some_and(|s| s.ready && (host_network(seen.pod) || !s.ips.is_empty()));
    Found { kind, status: ready, reason: None, message: None }
}

fn initialized(seen: Seen<'_>, told: Told<'_>) -> Found {
    let kind = "Initialized";
    if told.phase == "Succeeded" {
        return Found { reason: Some("PodCompleted"), ..Found::yes(kind) };
    }
    let done = |name: &str, role: Role| {
        told.init.iter().find(|s| s.name == name).is_some_and(|s| match role {
            Role::Sidecar => s.started == Some(true),
            _ => s.ready,
        })
    };
    let all = containers(seen.pod);
    let begun = told
        .app
        .iter()
        .any(|s| s.state.as_ref().is_some_and(|t| t.running.is_some() || t.terminated.is_some()));
    if begun {
        return Found::yes(kind);
    }
    let open: Vec<_> = all
        .iter()
        .filter(|(role, c)| matches!(role, Role::Init | Role::Sidecar) && !done(&c.name, *role))
        .map(|(_, c)| c.name.as_str())
        .collect();
    if open.is_empty() {
        return Found::yes(kind);
    }
    let message = format!("containers with incomplete status: [{}]", open.join(" "));
    Found::no(kind, "ContainersNotInitialized", Some(message))
}

fn containers_ready(told: Told<'_>) -> Found {
    let kind = "ContainersReady";
    match told.phase {
        "Succeeded" => return Found::no(kind, "PodCompleted", None),
        "Failed" => return Found::no(kind, "PodFailed", None),
        _ => {}
    }
    let sidecars = told.init.iter().filter(|s| s.started.is_some() && sidecar(s));
    let unready: Vec<_> =
        told.app.iter().chain(sidecars).filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    if unready.is_empty() {
        return Found::yes(kind);
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    Found::no(kind, "ContainersNotReady", Some(message))
}

/// A running init container that has started and is still there counts for readiness.
fn sidecar(s: &ContainerStatus) -> bool {
    s.started == Some(true) && s.state.as_ref().is_some_and(|t| t.running.is_some())
}

fn ready(pod: &Pod, old: &[PodCondition], containers_ready: &Found) -> Found {
    let kind = "Ready";
    if !containers_ready.status {
        return Found {
            kind,
            status: false,
            reason: containers_ready.reason,
            message: containers_ready.message.clone(),
        };
    }
    let gates = pod.spec.as_ref().and_then(|s| s.readiness_gates.as_ref());
    let mut closed = Vec::new();
    for gate in gates.into_iter().flatten() {
        let name = &gate.condition_type;
        match old.iter().find(|c| c.type_ == *name) {
            None => closed
                .push(format!("corresponding condition of pod readiness gate \"{name}\" does not exist.")),
            Some(c) if c.status != "True" => closed.push(format!(
                "the status of pod readiness gate \"{name}\" is not \"True\", but {}",
                c.status
            )),
            Some(_) => {}
        }
    }
    if closed.is_empty() {
        return Found::yes(kind);
    }
    Found::no(kind, "ReadinessGatesNotReady", Some(closed.join(", ")))
}
