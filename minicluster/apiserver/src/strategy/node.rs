//! Nodes: taints are checked, what a cloud or the server assigned stays, roles come from labels.
//!
//! Source: `pkg/registry/core/node/strategy.go`, `ValidateNode`, `printNode`.

use serde_json::Value;
use windlass_crd::{
    address,
    field::{self, Error, ErrorList},
    name,
    quantity::Quantity,
};

use super::{
    Column, Part, Strategy, columns, container, internal,
    pod_spec::{placement::taint_effect, told},
};
use crate::object;

/// Node.
pub(crate) struct Node;

type Fields = &'static [(&'static str, fn(&Value) -> String)];

impl Strategy for Node {
    fn default(&self, obj: &mut Value) {
        // Of the two forms of one field the single one wins, as it does where upstream converts.
        let first = object::text(obj, &["spec", "podCIDR"]).to_owned();
        if !first.is_empty()
            && object::list(obj, &["spec", "podCIDRs"]).first() != Some(&first.as_str().into())
        {
            object::set(obj, &["spec", "podCIDRs"], vec![Value::from(first)]);
        }
        if object::at(obj, &["status", "allocatable"]).is_none()
            && let Some(capacity) = object::at(obj, &["status", "capacity"]).cloned()
        {
            object::set(obj, &["status", "allocatable"], capacity);
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        taints(obj, &mut errors);
        resources(obj, &mut errors);
        features(obj, &mut errors);
        networks(obj, &mut errors);
        errors
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if !matches!(part, Part::Main | Part::Status) {
            return errors;
        }
        resources(obj, &mut errors);
        features(obj, &mut errors);
        let path = field::root("status").child("addresses");
        let addresses = object::list(obj, &["status", "addresses"]);
        for (i, one) in addresses.iter().enumerate().filter(|(i, one)| addresses[..*i].contains(one)) {
            let shown = internal::shown("NodeAddress", one);
            errors.push(Error::duplicate(path.index(i), one.clone()).showing(shown));
        }
        stays(obj, old, &mut errors);
        taints(obj, &mut errors);
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

/// Upstream names taints by the place where they once stood.
fn taints(obj: &Value, errors: &mut ErrorList) {
    let path = field::root("metadata").child("taints");
    let mut seen = std::collections::BTreeSet::new();
    for (i, taint) in object::list(obj, &["spec", "taints"]).iter().enumerate() {
        let at = path.index(i);
        let text = |field: &str| object::text(taint, &[field]);
        let (key, value, effect) = (text("key"), text("value"), text("effect"));
        told(name::qualified_name_faults(key), &at.child("key"), key, errors);
        let faults = name::label_value_faults(value);
        if !faults.is_empty() {
            errors.push(Error::invalid(at.child("value"), value, faults.join(";")));
        }
        match effect {
            "" => errors.push(Error::required(at.child("effect"), "")),
            effect => taint_effect(effect, &at.child("effect"), errors),
        }
        if !seen.insert((key, effect)) {
            let mut error = Error::duplicate(at, taint.clone()).showing(internal::shown("Taint", taint));
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        }
    }
}

fn resources(obj: &Value, errors: &mut ErrorList) {
    for list in ["capacity", "allocatable"] {
        let amounts = object::at(obj, &["status", list]).and_then(Value::as_object);
        for (resource, value) in amounts.into_iter().flatten() {
            let Ok(given) = Quantity::from_json(value) else { continue };
            let at = field::root("status").child(list).child(resource.clone());
            container::resources::amount(resource, &given, &at, errors);
        }
    }
}

/// The features that a node says it has: words put together in one case, in order.
fn features(obj: &Value, errors: &mut ErrorList) {
    const MAX: usize = 253;
    let path = field::root("status").child("declaredFeatures");
    let all: Vec<&str> =
        object::list(obj, &["status", "declaredFeatures"]).iter().filter_map(Value::as_str).collect();
    let named = |feature: &str| {
        let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
        feature.starts_with(|c: char| c.is_ascii_uppercase()) && feature.split('/').all(word)
    };
    for (i, feature) in all.iter().enumerate() {
        let fault = if feature.len() > MAX {
            Some(format!("invalid feature name {feature:?}: must be no more than {MAX} characters"))
        } else if !named(feature) {
            Some(format!(
                "invalid feature name {feature:?}: must start with an UpperCamelCase segment, with subsequent segments \
                 separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters \
                 and slashes"
            ))
        } else {
            None
        };
        errors.extend(fault.map(|why| Error::invalid(path.index(i), *feature, why)));
        match all.get(i + 1) {
            Some(next) if next == feature => errors.push(Error::duplicate(path.index(i + 1), *next)),
            Some(next) if next < feature => {
                errors.push(Error::invalid(path.index(i + 1), *next, "list must be sorted alphabetically"));
            }
            _ => {}
        }
    }
}

fn networks(obj: &Value, errors: &mut ErrorList) {
    let path = field::root("spec").child("podCIDRs");
    let cidrs: Vec<&str> =
        object::list(obj, &["spec", "podCIDRs"]).iter().filter_map(Value::as_str).collect();
    for (i, cidr) in cidrs.iter().enumerate() {
        told(address::cidr_faults(cidr), &path.index(i), cidr, errors);
    }
    if cidrs.len() < 2 {
        return;
    }
    let addresses: Vec<&str> = cidrs.iter().map(|cidr| cidr.split('/').next().unwrap_or_default()).collect();
    let dual = address::is_dual_stack(&addresses).unwrap_or_else(|_| {
        let bad = cidrs.iter().position(|cidr| !address::cidr_faults(cidr).is_empty()).unwrap_or(0);
        let detail = format!(
            "invalid PodCIDRs. failed to check with dual stack with error:invalid CIDR[{bad}]: <nil> (invalid CIDR \
             address: {})",
            cidrs[bad]
        );
        errors.push(Error::internal(&path, detail));
        false
    });
    if !dual || cidrs.len() > 2 {
        let given = object::list(obj, &["spec", "podCIDRs"]).to_vec();
        let detail = "may specify no more than one CIDR for each IP family";
        errors.push(Error::invalid(path, given, detail));
    }
}

/// What a cloud or the server assigned stays.
fn stays(obj: &Value, old: &Value, errors: &mut ErrorList) {
    let path = field::root("spec");
    let (new, before) = (object::list(obj, &["spec", "podCIDRs"]), object::list(old, &["spec", "podCIDRs"]));
    let changed = match before.len() {
        0 => 0,
        len if len != new.len() => 1,
        _ => before.iter().zip(new).filter(|(before, new)| before != new).count(),
    };
    for _ in 0..changed {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(Error::forbidden(path.child("podCIDRs"), detail));
    }
    let id = |obj: &Value| object::text(obj, &["spec", "providerID"]).to_owned();
    if !id(old).is_empty() && id(obj) != id(old) {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.push(Error::forbidden(path.child("providerID"), detail));
    }
    let external = |obj: &Value| object::text(obj, &["spec", "externalID"]).to_owned();
    if external(obj) != external(old) {
        errors.push(Error::forbidden(path.child("externalID"), "may not be updated"));
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
                "metadata.taints[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
                "metadata.taints[1].effect: Required value",
            ]
        );
        let (old, new) = (json!({"spec": {"providerID": "a"}}), json!({"spec": {"providerID": "b"}}));
        assert_eq!(Node.validate_update(Part::Main, &new, &old).len(), 1);
        assert_eq!(Node.validate_update(Part::Main, &new, &json!({"spec": {}})), []);
    }
}
