//! What is wrong with a HorizontalPodAutoscaler, in the form of v2.
//!
//! Source: `pkg/apis/autoscaling/validation/validation.go`.

use serde_json::Value;
use windlass_crd::{
    field::{self, Error, ErrorList, Path},
    name,
    quantity::Quantity,
};

use super::super::{
    container::resources,
    pod_spec::{not_negative, one_of, told},
};
use crate::object;

const WINDOW_SECONDS_MAX: i64 = 3600;
const PERIOD_SECONDS_MAX: i64 = 1800;

/// Where a reference may point to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Versions {
    /// To a kind of a group.
    OfGroups,
    /// To a kind of the core group, too.
    All,
    /// It stands already, and is not looked at.
    Any,
}

/// An autoscaler, given what stood in its place.
pub(super) fn validate(obj: &Value, old: Option<&Value>) -> ErrorList {
    let path = field::root("spec");
    let spec = obj.get("spec").unwrap_or(&Value::Null);
    let mut errors = ErrorList::new();
    let least = object::number(spec, &["minReplicas"]);
    let most = object::number(spec, &["maxReplicas"]).unwrap_or(0);
    let bound = i64::from(
        old.and_then(|old| object::number(old, &["spec", "minReplicas"])).is_none_or(|before| before != 0),
    );
    if let Some(least) = least.filter(|least| *least < bound) {
        let detail = format!("must be greater than or equal to {bound}");
        errors.push(Error::invalid(path.child("minReplicas"), least, detail));
    }
    let at = path.child("maxReplicas");
    if most == 0 {
        errors.push(Error::required(&at, "must be set and greater than 0"));
    } else if most < 0 {
        errors.push(Error::invalid(&at, most, "must be greater than or equal to 1"));
    }
    if least.is_some_and(|least| most < least) {
        errors.push(Error::invalid(at, most, "must be greater than or equal to `minReplicas`"));
    }
    let target = |obj: &Value, field: &str| object::text(obj, &["spec", "scaleTargetRef", field]).to_owned();
    let stands = |old: &Value| ["apiVersion", "kind"].iter().all(|f| target(old, f) == target(obj, f));
    let versions = match old {
        Some(old) if stands(old) => Versions::Any,
        _ if target(obj, "kind") == "ReplicationController" => Versions::All,
        _ => Versions::OfGroups,
    };
    let reference = object::at(spec, &["scaleTargetRef"]).unwrap_or(&Value::Null);
    cross_version(reference, versions, &path.child("scaleTargetRef"), &mut errors);
    metrics(spec, least, &path.child("metrics"), &mut errors);
    for rules in ["scaleUp", "scaleDown"] {
        if let Some(given) = object::at(spec, &["behavior", rules]) {
            scaling_rules(given, &path.child("behavior").child(rules), &mut errors);
        }
    }
    errors
}

fn cross_version(reference: &Value, versions: Versions, path: &Path, errors: &mut ErrorList) {
    for field in ["kind", "name"] {
        match object::text(reference, &[field]) {
            "" => errors.push(Error::required(path.child(field), "")),
            given => told(name::path_segment_faults(given), &path.child(field), given, errors),
        }
    }
    let given = object::text(reference, &["apiVersion"]);
    let fault = match given.matches('/').count() {
        _ if versions == Versions::Any => None,
        0 | 1 => {
            let group = given.split_once('/').map_or("", |(group, _)| group);
            let bare = versions == Versions::OfGroups && group.is_empty();
            bare.then(|| "apiVersion must specify API group".to_owned())
        }
        _ => Some(format!("unexpected GroupVersion string: {given}")),
    };
    errors.extend(fault.map(|why| Error::invalid(path.child("apiVersion"), given, why)));
}

const KINDS: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

fn metrics(spec: &Value, least: Option<i64>, path: &Path, errors: &mut ErrorList) {
    let all = object::list(spec, &["metrics"]);
    for (i, metric) in all.iter().enumerate() {
        one_metric(metric, &path.index(i), errors);
    }
    let from_outside = |metric: &Value| matches!(object::text(metric, &["type"]), "Object" | "External");
    if least == Some(0) && !all.iter().any(from_outside) {
        let detail =
            "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.push(Error::forbidden(path, detail));
    }
}

fn one_metric(metric: &Value, path: &Path, errors: &mut ErrorList) {
    const NAMES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];
    let kind = object::text(metric, &["type"]);
    let at = path.child("type");
    if kind.is_empty() {
        errors.push(Error::required(&at, "must specify a metric source type"));
    }
    let unknown = || Error::not_supported(&at, kind, &NAMES);
    let expected = KINDS.iter().find(|(name, _)| *name == kind).map(|(_, field)| *field);
    if expected.is_none() {
        errors.push(unknown());
    }
    let present: Vec<&'static str> = KINDS
        .iter()
        .map(|(_, field)| *field)
        .filter(|field| object::at(metric, &[field]).is_some())
        .collect();
    if let Some(first) = present.first() {
        source(first, &metric[*first], &path.child(*first), errors);
    }
    match expected {
        None => errors.push(unknown()),
        Some(field) if !present.contains(&field) => {
            let detail = "must populate information for the given metric source";
            errors.push(Error::required(path.child(field), detail));
        }
        Some(_) => {}
    }
    if present.len() != 1 {
        for extra in present.into_iter().filter(|field| Some(*field) != expected) {
            errors.push(Error::forbidden(path.child(extra), "must populate the given metric source only"));
        }
    }
}

fn source(kind: &str, source: &Value, path: &Path, errors: &mut ErrorList) {
    let target = object::at(source, &["target"]).unwrap_or(&Value::Null);
    let at = path.child("target");
    let has = |field: &str| object::at(target, &[field]).is_some();
    if kind == "object" {
        let described = object::at(source, &["describedObject"]).unwrap_or(&Value::Null);
        cross_version(described, Versions::All, &path.child("describedObject"), errors);
    }
    if matches!(kind, "object" | "external" | "pods") {
        let at = path.child("metric").child("name");
        match object::text(source, &["metric", "name"]) {
            "" => errors.push(Error::required(at, "must specify a metric name")),
            given => told(name::path_segment_faults(given), &at, given, errors),
        }
    } else {
        let at = path.child("name");
        match object::text(source, &["name"]) {
            "" => errors.push(Error::required(at, "must specify a resource name")),
            given if kind == "containerResource" => resources::container_name(given, &at, errors),
            _ => {}
        }
    }
    if kind == "containerResource" {
        let at = path.child("container");
        match object::text(source, &["container"]) {
            "" => errors.push(Error::required(at, "must specify a container")),
            given => told(name::dns1123_label_faults(given), &at, given, errors),
        }
    }
    metric_target(target, &at, errors);
    let missing = match kind {
        "object" if !has("value") && !has("averageValue") => {
            Some(("averageValue", "must set either a target value or averageValue"))
        }
        "external" if !has("value") && !has("averageValue") => {
            Some(("averageValue", "must set either a target value for metric or a per-pod target"))
        }
        "pods" if !has("averageValue") => {
            Some(("averageValue", "must specify a positive target averageValue"))
        }
        "resource" | "containerResource" if !has("averageUtilization") && !has("averageValue") => {
            Some(("averageUtilization", "must set either a target raw value or a target utilization"))
        }
        _ => None,
    };
    errors.extend(missing.map(|(field, detail)| Error::required(at.child(field), detail)));
    let both = match kind {
        "external" if has("value") && has("averageValue") => {
            Some(("value", "may not set both a target value for metric and a per-pod target"))
        }
        "resource" | "containerResource" if has("averageUtilization") && has("averageValue") => {
            Some(("averageValue", "may not set both a target raw value and a target utilization"))
        }
        _ => None,
    };
    errors.extend(both.map(|(field, detail)| Error::forbidden(at.child(field), detail)));
}

fn metric_target(target: &Value, path: &Path, errors: &mut ErrorList) {
    let kind = object::text(target, &["type"]);
    if kind.is_empty() {
        errors.push(Error::required(path.child("type"), "must specify a metric target type"));
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        let detail = "must be either Utilization, Value, or AverageValue";
        errors.push(Error::invalid(path.child("type"), kind, detail));
    }
    for field in ["value", "averageValue"] {
        if let Some(Ok(given)) = object::at(target, &[field]).map(Quantity::from_json)
            && given.signum() <= 0
        {
            errors.push(Error::invalid(path.child(field), given.to_string(), "must be positive"));
        }
    }
    if let Some(given) = object::number(target, &["averageUtilization"]).filter(|given| *given < 1) {
        errors.push(Error::invalid(path.child("averageUtilization"), given, "must be greater than 0"));
    }
}

fn scaling_rules(rules: &Value, path: &Path, errors: &mut ErrorList) {
    let at = path.child("stabilizationWindowSeconds");
    let window = object::number(rules, &["stabilizationWindowSeconds"]);
    if let Some(given) = window.filter(|given| *given < 0) {
        errors.push(Error::invalid(&at, given, "must be greater than or equal to zero"));
    }
    if let Some(given) = window.filter(|given| *given > WINDOW_SECONDS_MAX) {
        let detail = format!("must be less than or equal to {WINDOW_SECONDS_MAX}");
        errors.push(Error::invalid(&at, given, detail));
    }
    one_of(rules, "selectPolicy", &["Disabled", "Max", "Min"], path, errors);
    let policies = object::list(rules, &["policies"]);
    if policies.is_empty() {
        errors.push(Error::required(path.child("policies"), "must specify at least one Policy"));
    }
    for (i, policy) in policies.iter().enumerate() {
        let at = path.child("policies").index(i);
        let kind = object::text(policy, &["type"]);
        if !matches!(kind, "Pods" | "Percent") {
            errors.push(Error::not_supported(at.child("type"), kind, &["Percent", "Pods"]));
        }
        for field in ["value", "periodSeconds"] {
            let given = object::number(policy, &[field]).unwrap_or(0);
            if given <= 0 {
                errors.push(Error::invalid(at.child(field), given, "must be greater than zero"));
            }
            if field == "periodSeconds" && given > PERIOD_SECONDS_MAX {
                let detail = format!("must be less than or equal to {PERIOD_SECONDS_MAX}");
                errors.push(Error::invalid(at.child(field), given, detail));
            }
        }
    }
    if let Some(Ok(given)) = object::at(rules, &["tolerance"]).map(Quantity::from_json)
        && given.signum() < 0
    {
        let detail = "must be greater than or equal to 0";
        errors.push(Error::invalid(path.child("tolerance"), given.to_string(), detail));
    }
}

/// The status of an autoscaler.
pub(super) fn status(obj: &Value, _: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let status = obj.get("status").unwrap_or(&Value::Null);
    for field in ["currentReplicas", "desiredReplicas"] {
        not_negative(status, field, &field::root("status"), &mut errors);
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told_of(more: Value) -> String {
        let mut spec = json!({"maxReplicas": 5, "minReplicas": 1,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let errors = validate(&json!({ "spec": spec }), None);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    /// A good autoscaler with these fields, and what is said about it. Cases of upstream's
    /// `TestValidateHorizontalPodAutoscaler`.
    #[test]
    fn one_fault_at_a_time() {
        let metric = |metric: Value| json!({"metrics": [metric]});
        let at = "spec.metrics[0]";
        let cases = [
            (json!({}), String::new()),
            (json!({"minReplicas": 0}), "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1; spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas".into()),
            (json!({"maxReplicas": 0}), "spec.maxReplicas: Required value: must be set and greater than 0; spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`".into()),
            (json!({"scaleTargetRef": {"apiVersion": "v1", "kind": "ReplicationController", "name": "a"}}), String::new()),
            (json!({"scaleTargetRef": {"apiVersion": "a/b/c", "kind": "D", "name": ".."}}), "spec.scaleTargetRef.name: Invalid value: \"..\": may not be '..'; spec.scaleTargetRef.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c".into()),
            (metric(json!({"type": "Resource"})), format!("{at}.resource: Required value: must populate information for the given metric source")),
            (
                metric(json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization"}}})),
                format!("{at}.resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization"),
            ),
            (
                metric(json!({"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "-1"}}})),
                format!("{at}.pods.target.averageValue: Invalid value: \"-1\": must be positive"),
            ),
            (
                metric(json!({"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1"}}, "resource": {}})),
                format!("{at}.resource: Forbidden: must populate the given metric source only"),
            ),
            (json!({"behavior": {"scaleUp": {"selectPolicy": "X", "policies": [{"type": "Pods", "value": 1, "periodSeconds": 1801}]}}}),
                "spec.behavior.scaleUp.selectPolicy: Unsupported value: \"X\": supported values: \"Disabled\", \"Max\", \"Min\"; spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800".into()),
        ];
        for (more, expected) in cases {
            assert_eq!(told_of(more.clone()), expected, "{more}");
        }
    }
}
