//! Why a pod does not run: nodes that refuse it, by the scheduler's own plugins; containers that wait or fail; probes.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use windlass::random::Source;
use windlass_scheduler::{DEFAULT_NAME, Decision, PodInfo, Snapshot, decide};

use super::report::{Facts, text};

/// Nodes that are named; of more it is said how many there are.
const NODES: usize = 10;

/// Whether [`reasons`] says what this condition of a pod says, and better.
pub(super) fn tells(condition: &Value) -> bool {
    matches!(
        text(condition, "/type"),
        "PodScheduled" | "Ready" | "ContainersReady" | "Initialized" | "PodReadyToStartContainers"
    )
}

pub(super) fn reasons(facts: &Facts, pod: &Value) -> Vec<String> {
    let phase = text(pod, "/status/phase");
    if phase == "Succeeded" {
        return Vec::new();
    }
    let mut reasons = Vec::new();
    if phase == "Failed" {
        let why = [text(pod, "/status/reason"), text(pod, "/status/message")];
        let why = why.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
        reasons.push(format!("it failed{}", if why.is_empty() { String::new() } else { format!(": {why}") }));
    }
    if text(pod, "/spec/nodeName").is_empty() {
        reasons.extend(unscheduled(facts, pod));
        return reasons;
    }
    for list in ["initContainerStatuses", "containerStatuses"] {
        let containers = pod["status"][list].as_array().into_iter().flatten();
        reasons.extend(containers.filter_map(|status| container(status, list == "initContainerStatuses")));
    }
    let gates = pod["spec"]["readinessGates"].as_array().into_iter().flatten();
    let conditions = || pod["status"]["conditions"].as_array().into_iter().flatten();
    for gate in gates.map(|gate| text(gate, "/conditionType")) {
        if !conditions().any(|c| text(c, "/type") == gate && text(c, "/status") == "True") {
            reasons.push(format!("its readiness gate {gate} is not true"));
        }
    }
    reasons
}

/// Why it has no node: what each of them says, in the scheduler's words.
fn unscheduled(facts: &Facts, pod: &Value) -> Vec<String> {
    let gates: Vec<&str> = pod["spec"]["schedulingGates"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|gate| text(gate, "/name"))
        .collect();
    if !gates.is_empty() {
        return vec![format!("it is not scheduled before its gates are gone: {}", gates.join(", "))];
    }
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let says = conditions.filter(|c| text(c, "/type") == "PodScheduled").map(|c| text(c, "/message")).next();
    let mut reasons = match says.filter(|message| !message.is_empty()) {
        Some(message) => vec![format!("no node was found for it: {message}")],
        None => vec![format!("the scheduler {} has not looked at it yet", scheduler(pod))],
    };
    reasons.extend(by_node(facts, pod));
    reasons
}

fn scheduler(pod: &Value) -> &str {
    Some(text(pod, "/spec/schedulerName")).filter(|name| !name.is_empty()).unwrap_or(DEFAULT_NAME)
}

/// What every node says to this pod now.
fn by_node(facts: &Facts, pod: &Value) -> Vec<String> {
    let known = scheduler(pod) == DEFAULT_NAME;
    let Ok(pod) = serde_json::from_value::<Pod>(pod.clone()) else { return Vec::new() };
    let mut snapshot = Snapshot::default();
    facts.nodes.iter().cloned().for_each(|node| snapshot.set_node(Arc::new(node)));
    for other in &facts.pods {
        let info = PodInfo::new(Arc::new(other.clone()));
        let node = info.node().to_owned();
        if !node.is_empty() && !info.has_ended() {
            snapshot.set_pod(info, &node);
        }
    }
    let pod = PodInfo::new(Arc::new(pod));
    match decide(&pod, &snapshot, &mut 0, &Source::seeded(0)) {
        Decision::Node(at) if known => vec![format!("{} would take it now", snapshot.names[at])],
        // What else its scheduler thinks of, that one tells at --admin.
        Decision::Node(_) => Vec::new(),
        Decision::Unschedulable(refusals) => {
            let mut lines: Vec<String> = refusals
                .by_node
                .iter()
                .map(|(at, refusal)| {
                    format!(
                        "{} refuses it by {}: {}",
                        snapshot.names[*at],
                        refusal.plugin,
                        refusal.reasons.join(", ")
                    )
                })
                .collect();
            lines.sort();
            let more = lines.len().saturating_sub(NODES);
            lines.truncate(NODES);
            if more > 0 {
                lines.push(format!("and {more} nodes more"));
            }
            lines
        }
    }
}

/// Why a container does not run, or is not ready.
fn container(status: &Value, init: bool) -> Option<String> {
    let name = text(status, "/name");
    let what = if init { format!("init container {name}") } else { format!("container {name}") };
    let restarts = status["restartCount"].as_i64().unwrap_or(0);
    let before = ended(&status["lastState"]["terminated"])
        .map(|how| format!(" (restarted {restarts} times; last it {how})"));
    let before = before.unwrap_or_default();
    if let Some(waiting) = status["state"]["waiting"].as_object() {
        let of = |field: &str| waiting.get(field).and_then(Value::as_str).unwrap_or_default();
        let message = if of("message").is_empty() { String::new() } else { format!(": {}", of("message")) };
        return Some(format!("{what} waits: {}{message}{before}", of("reason")));
    }
    if let Some(how) = ended(&status["state"]["terminated"]) {
        let well = status["state"]["terminated"]["exitCode"] == 0;
        return (!(init && well)).then(|| format!("{what} {how}{before}"));
    }
    let runs = status["state"]["running"].is_object();
    (runs && !init && status["ready"] == false).then(|| format!("{what} runs and is not ready{before}"))
}

/// How a container ended.
fn ended(terminated: &Value) -> Option<String> {
    let code = terminated["exitCode"].as_i64()?;
    let reason = text(terminated, "/reason");
    let reason = if reason.is_empty() { String::new() } else { format!(", {reason}") };
    Some(format!("ended with exit code {code}{reason}"))
}
