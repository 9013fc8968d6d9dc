//! Nodes: taints are checked, what a cloud or the server assigned stays, roles come from labels.
//!
//! Source: `pkg/registry/core/node/strategy.go`, `ValidateNode`, `printNode`.

use serde_json::Value;
use windlass_crd::{
    field::{self, Error, ErrorList},
    name,
};

use super::{Column, Part, Strategy, columns, pod_spec::one_of};
use crate::object;

/// Node.
pub(crate) struct Node;

type Fields = &'static [(&'static str, fn(&Value) -> String)];

impl Strategy for Node {
    fn default(&self, obj: &mut Value) {
        if object::at(obj, &["status", "allocatable"]).is_none()
            && let Some(capacity) = object::at(obj, &["status", "capacity"]).cloned()
        {
            object::set(obj, &["status", "allocatable"], capacity);
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = field::root("metadata").child("taints");
        let mut seen = std::collections::BTreeSet::new();
        for (i, taint) in object::list(obj, &["spec", "taints"]).iter().enumerate() {
            let at = field::root("spec").child("taints").index(i);
            let (key, effect) = (object::text(taint, &["key"]), object::text(taint, &["effect"]));
            let faults = name::qualified_name_faults(key).into_iter();
            errors.extend(faults.map(|why| Error::invalid(at.child("key"), key, why)));
            let value = object::text(taint, &["value"]);
            let faults = name::label_value_faults(value).into_iter();
            errors.extend(faults.map(|why| Error::invalid(at.child("value"), value, why)));
            if effect.is_empty() {
                errors.push(Error::required(at.child("effect"), ""));
            }
            one_of(taint, "effect", &["NoSchedule", "PreferNoSchedule", "NoExecute"], &at, &mut errors);
            if !seen.insert((key, effect)) {
                errors.push(Error::duplicate(path.index(i), taint.clone()));
            }
        }
        errors
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value) -> ErrorList {
        if part != Part::Main {
            return ErrorList::new();
        }
        let mut errors = self.validate(obj);
        let (new_id, old_id) =
            (object::text(obj, &["spec", "providerID"]), object::text(old, &["spec", "providerID"]));
        if !old_id.is_empty() && new_id != old_id {
            let detail = "node updates may not change providerID except from \"\" to valid";
            errors.push(Error::forbidden(field::root("spec").child("providerID"), detail));
        }
        let cidrs = ["spec", "podCIDRs"];
        if object::at(old, &cidrs).is_some() && object::at(obj, &cidrs) != object::at(old, &cidrs) {
            let detail = "node updates may not change podCIDR except from \"\" to valid";
            errors.push(Error::forbidden(field::root("spec").child("podCIDRs"), detail));
        }
        errors
    }

    fn columns(&self) -> Option<Vec<Column>> {
        let address = |obj: &Value, kind: &str| {
            let all = object::list(obj, &["status", "addresses"]);
            let found = all.iter().find(|a| object::text(a, &["type"]) == kind);
            columns::or_none(found.map_or("", |a| object::text(a, &["address"])))
        };
        let unknown = |name: &str, path: &'static [&'static str]| {
            Column::new(name, move |obj| match object::text(obj, path) {
                "" => "<unknown>".into(),
                text => text.into(),
            })
        };
        Some(vec![
            columns::made("Status", node_status),
            columns::made("Roles", node_roles),
            columns::age(),
            columns::text("Version", &["status", "nodeInfo", "kubeletVersion"]),
            Column::new("Internal-IP", move |obj| address(obj, "InternalIP").into()).wide(),
            Column::new("External-IP", move |obj| address(obj, "ExternalIP").into()).wide(),
            unknown("OS-Image", &["status", "nodeInfo", "osImage"]).wide(),
            unknown("Kernel-Version", &["status", "nodeInfo", "kernelVersion"]).wide(),
            unknown("Container-Runtime", &["status", "nodeInfo", "containerRuntimeVersion"]).wide(),
        ])
    }

    fn fields(&self) -> Fields {
        &[("spec.unschedulable", |o| {
            (object::at(o, &["spec", "unschedulable"]) == Some(&Value::Bool(true))).to_string()
        })]
    }
}

fn node_status(obj: &Value) -> String {
    let ready =
        object::list(obj, &["status", "conditions"]).iter().find(|c| object::text(c, &["type"]) == "Ready");
    let mut out = match ready.map(|c| object::text(c, &["status"])) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if object::at(obj, &["spec", "unschedulable"]) == Some(&Value::Bool(true)) {
        out.push_str(",SchedulingDisabled");
    }
    out
}

fn node_roles(obj: &Value) -> String {
    let labels = object::at(obj, &["metadata", "labels"]).and_then(Value::as_object);
    let roles = labels.into_iter().flatten().filter_map(|(key, value)| {
        if let Some(role) = key.strip_prefix("node-role.kubernetes.io/") {
            return Some(role).filter(|role| !role.is_empty());
        }
        (key == "kubernetes.io/role").then(|| value.as_str()).flatten()
    });
    let all: std::collections::BTreeSet<&str> = roles.collect();
    columns::or_none(&all.into_iter().collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells_are_upstreams() {
        let node = json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "x"}},
            "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(node_status(&node), "Ready,SchedulingDisabled");
        assert_eq!(node_roles(&node), "control-plane,x");
    }

    #[test]
    fn taints_are_checked_and_ids_stay() {
        let node = json!({"spec": {"taints": [{"key": "a", "effect": "Never"}, {"key": "b"}]}});
        let texts: Vec<String> = Node.validate(&node).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.taints[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
                "spec.taints[1].effect: Required value",
            ]
        );
        let (old, new) = (json!({"spec": {"providerID": "a"}}), json!({"spec": {"providerID": "b"}}));
        assert_eq!(Node.validate_update(Part::Main, &new, &old).len(), 1);
        assert_eq!(Node.validate_update(Part::Main, &new, &json!({"spec": {}})), []);
    }
}
