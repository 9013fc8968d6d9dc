//! What a kubelet may write into the status of a pod.
//!
//! Source: `ValidatePodStatusUpdate`.

use std::collections::BTreeSet;

use serde_json::Value;
use windlass_crd::{
    address,
    field::{self, Error, ErrorList, Path},
    name,
};

use super::super::{internal, pod_spec::told, template};
use crate::object;

/// What is wrong with a new status.
pub(super) fn validate(obj: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let annotations = field::root("metadata").child("annotations");
    template::annotation_changes(obj, old, &annotations, &mut errors);
    let path = field::root("status");
    conditions(obj, &path.child("conditions"), &mut errors);
    nominated(obj, old, &path.child("nominatedNodeName"), &mut errors);
    if let Some(number) = object::number(obj, &["status", "observedGeneration"]).filter(|n| *n < 0) {
        let at = path.child("observedGeneration");
        errors.push(Error::invalid(at, number, "must be a non-negative integer"));
    }
    let class = |obj: &Value| object::text(obj, &["status", "qosClass"]).to_owned();
    if class(obj) != class(old) {
        errors.push(Error::invalid(path.child("qosClass"), class(obj), "field is immutable"));
    }
    for (statuses, list) in [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
        ("ephemeralContainerStatuses", ""),
    ] {
        transitions(obj, old, statuses, list, &path.child(statuses), &mut errors);
    }
    claims(obj, &path.child("resourceClaimStatuses"), &mut errors);
    addresses(obj, old, "podIPs", "PodIP", &path, &mut errors);
    let first = obj.pointer("/status/hostIPs/0/ip").and_then(Value::as_str);
    if let Some(first) = first.filter(|first| *first != object::text(obj, &["status", "hostIP"])) {
        let at = path.child("hostIPs").index(0).child("ip");
        errors.push(Error::invalid(at, first, "must be equal to `hostIP`"));
    }
    addresses(obj, old, "hostIPs", "HostIP", &path, &mut errors);
    for statuses in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        users(obj, statuses, &path.child(statuses), &mut errors);
    }
    errors
}

fn conditions(obj: &Value, path: &Path, errors: &mut ErrorList) {
    for (i, condition) in object::list(obj, &["status", "conditions"]).iter().enumerate() {
        let at = path.index(i);
        if let Some(number) = object::number(condition, &["observedGeneration"]).filter(|n| *n < 0) {
            let at = at.child("observedGeneration");
            errors.push(Error::invalid(at, number, "must be a non-negative integer"));
        }
        let kind = object::text(condition, &["type"]);
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            told(name::qualified_name_faults(kind), &at.child("Type"), kind, errors);
        }
    }
}

fn nominated(obj: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    let node = |obj: &Value| object::text(obj, &["status", "nominatedNodeName"]).to_owned();
    let given = node(obj);
    if given.is_empty() || given == node(old) {
        return;
    }
    told(name::dns1123_subdomain_faults(&given), path, &given, errors);
    if !object::text(old, &["spec", "nodeName"]).is_empty() {
        let detail = "may not be set on pods that are already bound to a node";
        errors.push(Error::forbidden(path, detail));
    }
}

/// A container that ended runs again only where its rules say so.
fn transitions(obj: &Value, old: &Value, statuses: &str, list: &str, path: &Path, errors: &mut ErrorList) {
    let spec = old.get("spec").unwrap_or(&Value::Null);
    if !list.is_empty() && all_could_restart(spec) {
        return;
    }
    let new = object::list(obj, &["status", statuses]);
    for (i, was) in object::list(old, &["status", statuses]).iter().enumerate() {
        let Some(end) = object::at(was, &["state", "terminated"]) else { continue };
        let name = object::text(was, &["name"]);
        let again = new.iter().find(|one| {
            object::text(one, &["name"]) == name && object::at(one, &["state", "terminated"]).is_none()
        });
        let container = object::list(spec, &[list]).iter().find(|one| object::text(one, &["name"]) == name);
        let code = object::number(end, &["exitCode"]).unwrap_or(0);
        let restarts = !list.is_empty() && container.is_some_and(|one| should_restart(one, spec, code));
        if again.is_some() && !restarts {
            let detail = "may not be transitioned to non-terminated state";
            errors.push(Error::forbidden(path.index(i).child("state"), detail));
        }
    }
}

/// A rule of one container may start all of them again.
fn all_could_restart(spec: &Value) -> bool {
    ["initContainers", "containers"].iter().flat_map(|list| object::list(spec, &[list])).any(|container| {
        object::list(container, &["restartPolicyRules"])
            .iter()
            .any(|rule| object::text(rule, &["action"]) == "RestartAllContainers")
    })
}

fn should_restart(container: &Value, spec: &Value, code: i64) -> bool {
    for rule in object::list(container, &["restartPolicyRules"]) {
        let Some(codes) = object::at(rule, &["exitCodes"]) else { continue };
        let listed = object::list(codes, &["values"]).iter().any(|value| value.as_i64() == Some(code));
        let hit = match object::text(codes, &["operator"]) {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        if hit && object::text(rule, &["action"]) == "Restart" {
            return true;
        }
    }
    let own = object::text(container, &["restartPolicy"]);
    let policy = if own.is_empty() { object::text(spec, &["restartPolicy"]) } else { own };
    match policy {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => true,
    }
}

fn claims(obj: &Value, path: &Path, errors: &mut ErrorList) {
    let known = object::list(obj, &["spec", "resourceClaims"]);
    let mut seen = BTreeSet::new();
    for (i, status) in object::list(obj, &["status", "resourceClaimStatuses"]).iter().enumerate() {
        let at = path.index(i);
        let given = object::text(status, &["name"]);
        if !known.iter().any(|claim| object::text(claim, &["name"]) == given) {
            let detail = "must match the name of an entry in `spec.resourceClaims`";
            errors.push(Error::invalid(at.child("name"), given, detail));
        }
        if !seen.insert(given) {
            errors.push(Error::duplicate(at.child("name"), given));
        }
        if let Some(claim) = object::at(status, &["resourceClaimName"]).and_then(Value::as_str) {
            told(name::dns1123_subdomain_faults(claim), &at.child("resourceClaimName"), claim, errors);
        }
    }
}

/// Addresses: each is one, and no two are of one family.
fn addresses(
    obj: &Value,
    old: &Value,
    list: &'static str,
    kind: &'static str,
    path: &Path,
    errors: &mut ErrorList,
) {
    let of = |obj: &Value| -> Vec<String> {
        let all = object::list(obj, &["status", list]).iter();
        all.map(|one| object::text(one, &["ip"]).to_owned()).collect()
    };
    let (given, known) = (of(obj), of(old));
    let path = path.child(list);
    for (i, ip) in given.iter().enumerate().filter(|(_, ip)| !known.contains(ip)) {
        told(address::ip_faults(ip), &path.index(i), ip, errors);
    }
    if given.len() < 2 {
        return;
    }
    let texts: Vec<&str> = given.iter().map(String::as_str).collect();
    let dual = address::is_dual_stack(&texts).unwrap_or_else(|why| {
        let detail = format!("failed to check for dual stack with error:{why}");
        errors.push(Error::internal(&path, detail));
        false
    });
    if !dual || given.len() > 2 {
        let detail = "may specify no more than one IP for each IP family";
        let shown: Vec<String> =
            object::list(obj, &["status", list]).iter().map(|one| internal::shown(kind, one)).collect();
        let error = Error::invalid(&path, Value::Null, detail);
        errors.push(error.showing(format!("[{}]", shown.join(","))));
    }
}

fn users(obj: &Value, statuses: &str, path: &Path, errors: &mut ErrorList) {
    let most = i64::from(i32::MAX);
    let windows = object::text(obj, &["spec", "os", "name"]) == "windows";
    for (i, status) in object::list(obj, &["status", statuses]).iter().enumerate() {
        let Some(user) = object::at(status, &["user", "linux"]) else { continue };
        let at = path.index(i).child("user").child("linux");
        if windows {
            errors.push(Error::forbidden(&at, "cannot be set for a windows pod"));
            continue;
        }
        let mut id = |number: Option<i64>, at: &Path| {
            if let Some(id) = number.filter(|id| !(0..=most).contains(id)) {
                errors.push(Error::invalid(at, id, name::range_error(0, most)));
            }
        };
        id(object::number(user, &["uid"]), &at.child("uid"));
        id(object::number(user, &["gid"]), &at.child("gid"));
        for (j, group) in object::list(user, &["supplementalGroups"]).iter().enumerate() {
            id(group.as_i64(), &at.child("supplementalGroups").index(j));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told_of(status: Value, old: Value, spec: Value) -> String {
        let pod = |status: Value| json!({"metadata": {"name": "p"}, "spec": spec, "status": status});
        let errors = validate(&pod(status), &pod(old));
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn addresses_are_one_a_family() {
        let ips = |ips: Value| told_of(json!({ "podIPs": ips }), json!({}), json!({}));
        assert_eq!(ips(json!([{"ip": "10.0.0.1"}, {"ip": "::1"}])), "");
        assert_eq!(
            ips(json!([{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}])),
            "status.podIPs: Invalid value: [{\"IP\":\"10.0.0.1\"},{\"IP\":\"10.0.0.2\"}]: may specify no more than one IP for \
             each IP family"
        );
        assert_eq!(
            told_of(json!({"hostIP": "10.0.0.1", "hostIPs": [{"ip": "10.0.0.2"}]}), json!({}), json!({})),
            "status.hostIPs[0].ip: Invalid value: \"10.0.0.2\": must be equal to `hostIP`"
        );
    }

    #[test]
    fn what_ended_stays_ended() {
        let state = |state: Value| json!({"containerStatuses": [{"name": "c", "state": state}]});
        let ended = state(json!({"terminated": {"exitCode": 1}}));
        let spec = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "c"}]});
        let running = state(json!({"running": {}}));
        assert_eq!(told_of(running.clone(), ended.clone(), spec("OnFailure")), "");
        assert_eq!(
            told_of(running, ended, spec("Never")),
            "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"
        );
    }

    #[test]
    fn classes_and_conditions() {
        assert_eq!(
            told_of(json!({"qosClass": "Burstable"}), json!({"qosClass": "BestEffort"}), json!({})),
            "status.qosClass: Invalid value: \"Burstable\": field is immutable"
        );
        let told = told_of(json!({"conditions": [{"type": "a b"}]}), json!({}), json!({}));
        assert!(
            told.starts_with("status.conditions[0].Type: Invalid value: \"a b\": name part must consist"),
            "{told}"
        );
        assert_eq!(
            told_of(json!({"nominatedNodeName": "n"}), json!({}), json!({"nodeName": "m"})),
            "status.nominatedNodeName: Forbidden: may not be set on pods that are already bound to a node"
        );
    }
}
