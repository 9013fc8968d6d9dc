//! Where a pod may run: affinity, tolerations, spreading, gates.
//!
//! Source: `validateAffinity`, `ValidateTolerations`, `validateTopologySpreadConstraints` of
//! `pkg/apis/core/validation/validation.go`.

use std::collections::BTreeSet;

use serde_json::Value;
use windlass_crd::{
    field::{Error, ErrorList, Path},
    name,
    selector::validate_label_selector,
};

use super::{one_of, told};
use crate::object;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) fn affinity(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let Some(affinity) = object::at(spec, &["affinity"]) else { return };
    let at = path.child("nodeAffinity");
    if let Some(selector) = object::at(affinity, &["nodeAffinity", REQUIRED]) {
        node_selector(selector, &at.child(REQUIRED), errors);
    }
    for (i, term) in object::list(affinity, &["nodeAffinity", PREFERRED]).iter().enumerate() {
        let at = at.child(PREFERRED).index(i);
        weight(term, &at, errors);
        let preference = term.get("preference").unwrap_or(&Value::Null);
        node_term(preference, false, &at.child("preference"), errors);
    }
    for field in ["podAffinity", "podAntiAffinity"] {
        let at = path.child(field);
        for (i, term) in object::list(affinity, &[field, REQUIRED]).iter().enumerate() {
            pod_term(term, &at.child(REQUIRED).index(i), errors);
        }
        for (i, weighted) in object::list(affinity, &[field, PREFERRED]).iter().enumerate() {
            let at = at.child(PREFERRED).index(i);
            weight(weighted, &at, errors);
            let term = weighted.get("podAffinityTerm").unwrap_or(&Value::Null);
            pod_term(term, &at.child("podAffinityTerm"), errors);
        }
    }
}

fn weight(term: &Value, path: &Path, errors: &mut ErrorList) {
    let given = object::number(term, &["weight"]).unwrap_or(0);
    if !(1..=100).contains(&given) {
        errors.push(Error::invalid(path.child("weight"), given, "must be in the range 1-100"));
    }
}

fn selector_of(obj: &Value, field: &'static str, path: &Path, errors: &mut ErrorList) {
    if let Some(value) = object::at(obj, &[field]) {
        errors.extend(validate_label_selector(value, &path.child(field)));
    }
}

fn pod_term(term: &Value, path: &Path, errors: &mut ErrorList) {
    selector_of(term, "labelSelector", path, errors);
    selector_of(term, "namespaceSelector", path, errors);
    for namespace in object::list(term, &["namespaces"]).iter().filter_map(Value::as_str) {
        told(name::dns1123_label_faults(namespace), &path.child("namespace"), namespace, errors);
    }
    label_keys(term, path, errors);
    let key = object::text(term, &["topologyKey"]);
    let at = path.child("topologyKey");
    if key.is_empty() {
        errors.push(Error::required(&at, "can not be empty"));
    }
    told(name::qualified_name_faults(key), &at, key, errors);
}

/// The keys whose values are taken from the pod itself.
fn label_keys(term: &Value, path: &Path, errors: &mut ErrorList) {
    let keys = |field: &str| -> Vec<&str> {
        object::list(term, &[field]).iter().filter_map(Value::as_str).collect()
    };
    let selector = object::at(term, &["labelSelector"]);
    let (matching, other) = (keys("matchLabelKeys"), keys("mismatchLabelKeys"));
    for (field, keys) in [("matchLabelKeys", &matching), ("mismatchLabelKeys", &other)] {
        if !keys.is_empty() && selector.is_none() {
            let detail = "must not be specified when labelSelector is not set";
            errors.push(Error::forbidden(path.child(field), detail));
            continue;
        }
        for (i, key) in keys.iter().enumerate() {
            told(name::qualified_name_faults(key), &path.child(field).index(i), key, errors);
        }
    }
    if let Some(selector) = selector {
        let labels = object::at(selector, &["matchLabels"]).and_then(Value::as_object);
        let mut seen: BTreeSet<&str> =
            labels.into_iter().flat_map(|map| map.keys().map(String::as_str)).collect();
        for rule in object::list(selector, &["matchExpressions"]) {
            let key = object::text(rule, &["key"]);
            let at = matching.iter().rposition(|one| *one == key);
            if let Some(i) = at.filter(|_| seen.contains(key)) {
                let detail = "exists in both matchLabelKeys and labelSelector";
                errors.push(Error::invalid(path.index(i), key, detail));
            }
            seen.insert(key);
        }
    }
    for (i, key) in matching.iter().enumerate().filter(|(_, key)| other.contains(key)) {
        let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
        errors.push(Error::invalid(path.child("matchLabelKeys").index(i), *key, detail));
    }
}

/// A `NodeSelector`, of pods and of volumes.
pub(crate) fn node_selector(selector: &Value, path: &Path, errors: &mut ErrorList) {
    let terms = object::list(selector, &["nodeSelectorTerms"]);
    let path = path.child("nodeSelectorTerms");
    if terms.is_empty() {
        errors.push(Error::required(&path, "must have at least one node selector term"));
    }
    for (i, term) in terms.iter().enumerate() {
        node_term(term, true, &path.index(i), errors);
    }
}

fn node_term(term: &Value, checks_values: bool, path: &Path, errors: &mut ErrorList) {
    for (i, rule) in object::list(term, &["matchExpressions"]).iter().enumerate() {
        node_labels(rule, checks_values, &path.child("matchExpressions").index(i), errors);
    }
    for (i, rule) in object::list(term, &["matchFields"]).iter().enumerate() {
        node_fields(rule, &path.child("matchFields").index(i), errors);
    }
}

fn node_labels(rule: &Value, checks_values: bool, path: &Path, errors: &mut ErrorList) {
    let (key, operator) = (object::text(rule, &["key"]), object::text(rule, &["operator"]));
    let values = object::list(rule, &["values"]);
    let at = path.child("values");
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            errors.push(Error::required(&at, "must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(Error::forbidden(&at, detail));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.push(Error::required(&at, detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => {
            errors.push(Error::invalid(path.child("operator"), other, "not a valid selector operator"));
        }
    }
    told(name::qualified_name_faults(key), &path.child("key"), key, errors);
    if checks_values {
        for (i, value) in values.iter().filter_map(Value::as_str).enumerate() {
            told(name::label_value_faults(value), &at.index(i), value, errors);
        }
    }
}

fn node_fields(rule: &Value, path: &Path, errors: &mut ErrorList) {
    let values = object::list(rule, &["values"]);
    match object::text(rule, &["operator"]) {
        "In" | "NotIn" => {
            if values.len() != 1 {
                let detail =
                    "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.push(Error::required(path.child("values"), detail));
            }
        }
        other => {
            errors.push(Error::invalid(path.child("operator"), other, "not a valid selector operator"));
        }
    }
    let key = object::text(rule, &["key"]);
    if key != "metadata.name" {
        errors.push(Error::invalid(path.child("key"), key, "not a valid field selector key"));
        return;
    }
    for (i, value) in values.iter().filter_map(Value::as_str).enumerate() {
        told(name::dns1123_subdomain_faults(value), &path.child("values").index(i), value, errors);
    }
}

/// Tolerations, of pods and of runtime classes.
pub(crate) fn tolerations(list: &[Value], path: &Path, errors: &mut ErrorList) {
    for (i, toleration) in list.iter().enumerate() {
        let at = path.index(i);
        let text = |field: &str| object::text(toleration, &[field]);
        let (key, operator, value, effect) = (text("key"), text("operator"), text("value"), text("effect"));
        if !key.is_empty() {
            told(name::qualified_name_faults(key), &at.child("key"), key, errors);
        } else if operator != "Exists" {
            let detail =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(Error::invalid(at.child("operator"), operator, detail));
        }
        if object::number(toleration, &["tolerationSeconds"]).is_some() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(Error::invalid(at.child("effect"), effect, detail));
        }
        match operator {
            "Equal" | "" => {
                let faults = name::label_value_faults(value);
                if !faults.is_empty() {
                    errors.push(Error::invalid(at.child("operator"), value, faults.join(";")));
                }
            }
            "Exists" if !value.is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.push(Error::invalid(at.child("operator"), value, detail));
            }
            "Exists" => {}
            "Gt" | "Lt" => {
                let allowed = ["Equal", "Exists", "Lt", "Gt"];
                errors.push(Error::not_supported(at.child("operator"), operator, &allowed));
            }
            other => errors.push(Error::not_supported(at.child("operator"), other, &["Equal", "Exists"])),
        }
        if !effect.is_empty() {
            taint_effect(effect, &at.child("effect"), errors);
        }
    }
}

/// What a taint does.
pub(crate) fn taint_effect(effect: &str, path: &Path, errors: &mut ErrorList) {
    const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    if !EFFECTS.contains(&effect) {
        errors.push(Error::not_supported(path, effect, &EFFECTS));
    }
}

/// Tolerations are only added; how long one holds may change.
pub(crate) fn added_tolerations(new: &[Value], old: &[Value], path: &Path, errors: &mut ErrorList) {
    let timeless = |toleration: &Value| {
        let mut toleration = toleration.clone();
        object::remove(&mut toleration, &["tolerationSeconds"]);
        toleration
    };
    let kept = |one: &Value| new.iter().any(|other| timeless(other) == timeless(one));
    if !old.iter().all(kept) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(Error::forbidden(path, detail));
        return;
    }
    tolerations(new, path, errors);
}

pub(super) fn gates(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (i, gate) in object::list(spec, &["schedulingGates"]).iter().enumerate() {
        let given = object::text(gate, &["name"]);
        told(name::qualified_name_faults(given), &path.index(i), given, errors);
        if !seen.insert(given) {
            errors.push(Error::duplicate(path.index(i), given));
        }
    }
}

/// Gates are only taken away.
pub(crate) fn removed_gates(new: &[Value], old: &[Value], path: &Path, errors: &mut ErrorList) {
    let names: BTreeSet<&str> = old.iter().map(|gate| object::text(gate, &["name"])).collect();
    for (i, gate) in new.iter().map(|gate| object::text(gate, &["name"])).enumerate() {
        if !names.contains(gate) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{gate}'");
            errors.push(Error::forbidden(path.index(i).child("name"), detail));
        }
    }
}

fn positive(number: i64, path: &Path, errors: &mut ErrorList) {
    if number <= 0 {
        errors.push(Error::invalid(path, number, "must be greater than zero"));
    }
}

pub(super) fn spread(spec: &Value, path: &Path, errors: &mut ErrorList) {
    const ACTIONS: [&str; 2] = ["DoNotSchedule", "ScheduleAnyway"];
    let constraints = object::list(spec, &["topologySpreadConstraints"]);
    for (i, one) in constraints.iter().enumerate() {
        let at = path.index(i);
        positive(object::number(one, &["maxSkew"]).unwrap_or(0), &at.child("maxSkew"), errors);
        let key = object::text(one, &["topologyKey"]);
        if key.is_empty() {
            errors.push(Error::required(at.child("topologyKey"), "can not be empty"));
        }
        let action = object::text(one, &["whenUnsatisfiable"]);
        if !ACTIONS.contains(&action) {
            errors.push(Error::not_supported(at.child("whenUnsatisfiable"), action, &ACTIONS));
        }
        let again = constraints[i + 1..].iter().any(|other| {
            object::text(other, &["topologyKey"]) == key
                && object::text(other, &["whenUnsatisfiable"]) == action
        });
        if again {
            let pair = format!("{{{key}, {action}}}");
            errors.push(Error::duplicate(at.child("{topologyKey, whenUnsatisfiable}"), pair));
        }
        if let Some(domains) = object::number(one, &["minDomains"]) {
            positive(domains, &at.child("minDomains"), errors);
            if action != "DoNotSchedule" {
                let detail =
                    format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.push(Error::invalid(at.child("minDomains"), domains, detail));
            }
        }
        one_of(one, "nodeAffinityPolicy", &["Honor", "Ignore"], &at, errors);
        one_of(one, "nodeTaintsPolicy", &["Honor", "Ignore"], &at, errors);
        label_keys(one, &at, errors);
        selector_of(one, "labelSelector", &at, errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use windlass_crd::field;

    fn of(check: impl Fn(&Path, &mut ErrorList)) -> String {
        let mut errors = ErrorList::new();
        check(&field::root("p"), &mut errors);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn tolerations_say_what_is_wrong() {
        let told = |one: Value| of(|path, errors| tolerations(std::slice::from_ref(&one), path, errors));
        assert_eq!(told(json!({"key": "a", "operator": "Exists"})), "");
        assert_eq!(
            told(json!({"key": "a", "operator": "Exists", "value": "b"})),
            "p[0].operator: Invalid value: \"b\": value must be empty when `operator` is 'Exists'"
        );
        assert_eq!(
            told(json!({"key": "a", "operator": "Gt", "value": "1"})),
            "p[0].operator: Unsupported value: \"Gt\": supported values: \"Equal\", \"Exists\", \"Lt\", \"Gt\""
        );
        assert_eq!(
            told(json!({"key": "a", "tolerationSeconds": 1, "effect": "NoSchedule"})),
            "p[0].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when `tolerationSeconds` is set"
        );
    }

    #[test]
    fn node_selectors_say_what_is_wrong() {
        let told = |rule: Value| {
            let selector = json!({"nodeSelectorTerms": [rule]});
            of(|path, errors| node_selector(&selector, path, errors))
        };
        let rule = |rule: Value| told(json!({"matchExpressions": [rule]}));
        assert_eq!(rule(json!({"key": "a", "operator": "In", "values": ["b"]})), "");
        assert_eq!(
            rule(json!({"key": "a", "operator": "Gt", "values": ["1", "2"]})),
            "p.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified single value when \
             `operator` is 'Lt' or 'Gt'"
        );
        assert_eq!(
            rule(json!({"key": "a", "operator": "X"})),
            "p.nodeSelectorTerms[0].matchExpressions[0].operator: Invalid value: \"X\": not a valid selector operator"
        );
        assert_eq!(
            told(json!({"matchFields": [{"key": "metadata.uid", "operator": "In", "values": ["a"]}]})),
            "p.nodeSelectorTerms[0].matchFields[0].key: Invalid value: \"metadata.uid\": not a valid field selector key"
        );
    }

    #[test]
    fn keys_taken_from_the_pod_need_a_selector() {
        let term = json!({"topologyKey": "k", "matchLabelKeys": ["a"]});
        assert_eq!(
            of(|path, errors| pod_term(&term, path, errors)),
            "p.matchLabelKeys: Forbidden: must not be specified when labelSelector is not set"
        );
        let term = json!({"topologyKey": "k", "matchLabelKeys": ["a"], "mismatchLabelKeys": ["a"], "labelSelector": {}});
        assert_eq!(
            of(|path, errors| pod_term(&term, path, errors)),
            "p.matchLabelKeys[0]: Invalid value: \"a\": exists in both matchLabelKeys and mismatchLabelKeys"
        );
    }

    #[test]
    fn tolerations_and_gates_move_one_way() {
        let (old, new) =
            (json!([{"key": "a", "operator": "Exists"}]), json!([{"key": "b", "operator": "Exists"}]));
        let lists = |a: &Value, b: &Value| (a.as_array().unwrap().clone(), b.as_array().unwrap().clone());
        let (was, is) = lists(&old, &new);
        assert_eq!(
            of(|path, errors| added_tolerations(&is, &was, path, errors)),
            "p: Forbidden: existing toleration can not be modified except its tolerationSeconds"
        );
        let (was, is) = lists(&json!([{"name": "a"}]), &json!([{"name": "b"}]));
        assert_eq!(
            of(|path, errors| removed_gates(&is, &was, path, errors)),
            "p[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'b'"
        );
    }
}
