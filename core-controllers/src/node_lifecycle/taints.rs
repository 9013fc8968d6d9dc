//! The taints of a node, from its conditions. Pure.

use k8s_openapi::api::core::v1::{Node, Taint};
use windlass::clock;

use super::health;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// The `NoSchedule` taints that follow from a condition of this status.
const FOLLOWS: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// The taints a node shall have: those that are not ours as they are, and ours as its conditions say. The `NoExecute`
/// ones only if its pods may be driven away.
pub(super) fn bring_up_to_date(node: &Node, ready: &str, evict: bool, current: &[Taint]) -> Vec<Taint> {
    let wanted = wanted(node, ready, evict);
    let is_ours = |taint: &Taint| {
        let schedules = taint.effect == "NoSchedule"
            && (taint.key == UNSCHEDULABLE || FOLLOWS.iter().any(|(.., key)| *key == taint.key));
        let drives = taint.effect == "NoExecute" && [NOT_READY, UNREACHABLE].contains(&taint.key.as_str());
        schedules || drives
    };
    let is = |taint: &Taint, (key, effect): &(&str, &str)| taint.key == *key && taint.effect == *effect;
    let mut next: Vec<Taint> = current.to_vec();
    next.retain(|taint| !is_ours(taint) || wanted.iter().any(|w| is(taint, w)));
    for want in &wanted {
        if !next.iter().any(|taint| is(taint, want)) {
            next.push(Taint {
                key: want.0.to_owned(),
                effect: want.1.to_owned(),
                time_added: Some(clock::time()),
                value: None,
            });
        }
    }
    next
}

fn wanted(node: &Node, ready: &str, evict: bool) -> Vec<(&'static str, &'static str)> {
    let status = |type_: &str| match type_ {
        "Ready" => Some(ready),
        other => health::condition(node, other).map(|c| c.status.as_str()),
    };
    let mut wanted: Vec<(&str, &str)> = FOLLOWS
        .iter()
        .filter(|(type_, when, _)| status(type_) == Some(when))
        .map(|(.., key)| (*key, "NoSchedule"))
        .collect();
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    match ready {
        "False" if evict => wanted.push((NOT_READY, "NoExecute")),
        "Unknown" if evict => wanted.push((UNREACHABLE, "NoExecute")),
        _ => {}
    }
    wanted
}

/// Whether the node drives its pods away already.
pub(super) fn drives_away(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    taints.iter().any(|t| t.effect == "NoExecute" && [NOT_READY, UNREACHABLE].contains(&t.key.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(node: &Node, ready: &str, evict: bool) -> Vec<String> {
        let current = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
        let next = bring_up_to_date(node, ready, evict, &current);
        next.iter()
            .map(|t| format!("{}:{}", t.key.trim_start_matches("node.kubernetes.io/"), t.effect))
            .collect()
    }

    #[test]
    fn taints_follow_conditions_and_leave_others_alone() {
        let node = |taints: serde_json::Value, unschedulable: bool| -> Node {
            serde_json::from_value(serde_json::json!({
                "spec": {"taints": taints, "unschedulable": unschedulable},
                "status": {"conditions": [{"type": "DiskPressure", "status": "True"}]},
            }))
            .unwrap()
        };
        let mine = serde_json::json!([
            {"key": "team", "effect": "NoExecute"},
            {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"},
            {"key": "node.kubernetes.io/memory-pressure", "effect": "NoSchedule"},
        ]);
        assert_eq!(
            keys(&node(mine.clone(), false), "True", false),
            ["team:NoExecute", "disk-pressure:NoSchedule"]
        );
        assert_eq!(
            keys(&node(mine, true), "Unknown", true),
            [
                "team:NoExecute",
                "unreachable:NoSchedule",
                "disk-pressure:NoSchedule",
                "unschedulable:NoSchedule",
                "unreachable:NoExecute",
            ]
        );
        let none = serde_json::json!([]);
        assert_eq!(
            keys(&node(none, false), "False", false),
            ["not-ready:NoSchedule", "disk-pressure:NoSchedule"],
            "held back"
        );
    }
}
