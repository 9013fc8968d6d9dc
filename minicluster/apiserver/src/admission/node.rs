//! TaintNodesByCondition and NodeRestriction: how nodes begin, and what a kubelet may touch.

use serde_json::{Value, json};

use super::Operation;
use crate::{
    context::Context,
    object,
    status::{ApiError, ApiResult},
};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const NODES_GROUP: &str = "system:nodes";
const NODE_USER: &str = "system:node:";

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

/// A kubelet writes its own node, its own lease and the pods bound to it, and nothing else of these kinds.
pub(super) fn restrict(
    cx: &Context,
    op: Operation,
    obj: Option<&Value>,
    old: Option<&Value>,
) -> ApiResult<()> {
    let Some(node) = cx.user.name.strip_prefix(NODE_USER) else { return Ok(()) };
    if !cx.user.is_in(NODES_GROUP) {
        return Ok(());
    }
    let refuse = |why: String| Err(ApiError::forbidden(&cx.resource, &cx.info.name, why));
    match (cx.resource.group.as_ref(), cx.resource.plural.as_ref()) {
        ("", "nodes") => {
            let name = obj.or(old).map_or("", object::name);
            if name != node {
                return refuse(format!("node \"{node}\" is not allowed to modify node \"{name}\""));
            }
            if op == Operation::Update && taints(obj) != taints(old) {
                return refuse(format!("node \"{node}\" is not allowed to modify taints"));
            }
            Ok(())
        }
        ("", "pods") => restrict_pod(cx, node, op, obj, old),
        ("coordination.k8s.io", "leases") => {
            let target = obj.or(old);
            let name = target.map_or("", object::name);
            if cx.info.namespace != "kube-node-lease" {
                return refuse(
                    "can only access leases in the \"kube-node-lease\" system namespace".to_owned(),
                );
            }
            if name != node {
                return refuse(
                    "can only access node lease with the same name as the requesting node".to_owned(),
                );
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn taints(node: Option<&Value>) -> &[Value] {
    node.map_or(&[], |n| object::list(n, &["spec", "taints"]))
}

fn restrict_pod(
    cx: &Context,
    node: &str,
    op: Operation,
    obj: Option<&Value>,
    old: Option<&Value>,
) -> ApiResult<()> {
    let bound_to =
        |pod: Option<&Value>| pod.map_or("", |p| object::text(p, &["spec", "nodeName"])).to_owned();
    let refuse = |why: String| Err(ApiError::forbidden(&cx.resource, &cx.info.name, why));
    match op {
        Operation::Create => {
            let is_mirror = obj.is_some_and(|p| {
                object::at(p, &["metadata", "annotations"])
                    .is_some_and(|a| a.get("kubernetes.io/config.mirror").is_some())
            });
            if !is_mirror {
                return refuse(format!(
                    "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"{node}\" can only create \
                     mirror pods"
                ));
            }
            if bound_to(obj) != node {
                return refuse(format!(
                    "node \"{node}\" can only create pods with spec.nodeName set to itself"
                ));
            }
            Ok(())
        }
        Operation::Update if bound_to(old) != node => refuse(format!(
            "node \"{node}\" can only update pod status for pods with spec.nodeName set to itself"
        )),
        Operation::Delete if bound_to(old) != node => {
            refuse(format!("node \"{node}\" can only delete pods with spec.nodeName set to itself"))
        }
        _ => Ok(()),
    }
}
