//! TaintNodesByCondition: how nodes begin.

use serde_json::{Value, json};

use crate::object;

const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// A new node takes no pods until its kubelet says it is ready.
pub(super) fn taint_not_ready(node: &mut Value) {
    let taints = object::list(node, &["spec", "taints"]);
    if taints.iter().any(|t| object::text(t, &["key"]) == NOT_READY) {
        return;
    }
    let mut taints = taints.to_vec();
    taints.push(json!({ "key": NOT_READY, "effect": "NoSchedule" }));
    object::set(node, &["spec", "taints"], taints);
}
