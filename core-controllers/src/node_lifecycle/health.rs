//! Whether a node is alive, from how long it has been silent. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Node, NodeCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};

/// A node that never reported gets this long to start.
const STARTUP_GRACE: Duration = Duration::from_secs(60);
/// The conditions that a kubelet keeps.
const KEPT: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// What is known of a node.
#[derive(Debug)]
pub(super) struct Verdict {
    /// The status of its `Ready` condition, with silence taken into account.
    pub(super) ready: String,
    /// The conditions to be written, if silence changes them.
    pub(super) conditions: Option<Vec<NodeCondition>>,
    /// It was silent for too long.
    pub(super) overdue: bool,
    /// How long until it would have been.
    pub(super) left: Duration,
}

/// Judges a node that has been silent for so long.
pub(super) fn judge(node: &Node, silent: Duration, grace: Duration, now: Timestamp) -> Verdict {
    let grace = if condition(node, "Ready").is_some() { grace } else { grace.max(STARTUP_GRACE) };
    if silent <= grace {
        let left = grace - silent + Duration::from_millis(1);
        return Verdict { ready: ready(node).to_owned(), conditions: None, overdue: false, left };
    }
    let unknown: Vec<NodeCondition> = KEPT
        .iter()
        .filter(|type_| condition(node, type_).is_none_or(|c| c.status != "Unknown"))
        .map(|type_| silence(node, type_, now))
        .collect();
    let conditions = Some(unknown).filter(|changed| !changed.is_empty());
    Verdict { ready: "Unknown".to_owned(), conditions, overdue: true, left: Duration::ZERO }
}

/// A condition of a node that says nothing any more.
fn silence(node: &Node, type_: &str, now: Timestamp) -> NodeCondition {
    let now = Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now)));
    let (was, created) = (condition(node, type_), node.metadata.creation_timestamp.clone());
    let (reason, message) = match was {
        Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
        None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
    };
    NodeCondition {
        type_: type_.to_owned(),
        status: "Unknown".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_heartbeat_time: was.map_or(created, |c| c.last_heartbeat_time.clone()),
        last_transition_time: now,
    }
}

pub(super) fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == type_)
}

/// The status of the `Ready` condition; a node without one is `Unknown`.
pub(super) fn ready(node: &Node) -> &str {
    condition(node, "Ready").map_or("Unknown", |c| &c.status)
}

/// The time that the kubelet last wrote its status, by its own clock.
pub(super) fn heartbeat(node: &Node) -> Option<Timestamp> {
    // What this controller writes itself is no sign of life.
    condition(node, "Ready").and_then(|c| c.last_heartbeat_time.as_ref()).map(|t| t.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    fn node(conditions: &serde_json::Value) -> Node {
        serde_json::from_value(
            serde_json::json!({"metadata": {"name": "n"}, "status": {"conditions": conditions}}),
        )
        .unwrap()
    }

    fn told(node: &Node, silent: u64) -> String {
        let verdict = judge(node, Duration::from_secs(silent), Duration::from_secs(40), at(1000));
        let changed: Vec<String> = verdict
            .conditions
            .iter()
            .flatten()
            .map(|c| format!("{}={} ({})", c.type_, c.status, c.reason.as_deref().unwrap_or_default()))
            .collect();
        format!("{} {changed:?} {}", verdict.ready, verdict.left.as_secs())
    }

    #[test]
    fn silence_beyond_the_grace_period_is_unknown() {
        let alive = node(&serde_json::json!([
            {"type": "Ready", "status": "True"},
            {"type": "MemoryPressure", "status": "False"},
            {"type": "NetworkUnavailable", "status": "False"},
        ]));
        assert_eq!(told(&alive, 30), "True [] 10");
        assert_eq!(
            told(&alive, 41),
            "Unknown [\"Ready=Unknown (NodeStatusUnknown)\", \"MemoryPressure=Unknown (NodeStatusUnknown)\", \
             \"DiskPressure=Unknown (NodeStatusNeverUpdated)\", \"PIDPressure=Unknown (NodeStatusNeverUpdated)\"] 0"
        );
        let new = node(&serde_json::json!([]));
        assert_eq!(told(&new, 50), "Unknown [] 10", "a new node has longer");
        let known = node(&serde_json::json!(
            KEPT.map(|type_| serde_json::json!({"type": type_, "status": "Unknown"}))
        ));
        assert_eq!(told(&known, 100), "Unknown [] 0", "said once");
    }
}
