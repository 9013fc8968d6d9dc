//! ResourceQuota: what may be limited, by which scopes, and what of it may change.
//!
//! Source: `pkg/apis/core/validation` (`ValidateResourceQuota`), `pkg/apis/core/helper`.

use std::collections::BTreeSet;

use serde_json::Value;
use windlass_crd::{
    field::{self, Error, ErrorList, Path},
    name,
    quantity::Quantity,
    quota,
};

use super::{Column, Part, Strategy, columns, container::resources::counts_things};
use crate::object;

const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "VolumeAttributesClass",
    "CrossNamespacePodAffinity",
];
/// Scopes that exclude each other.
const CONFLICTS: [(&str, &str); 2] = [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")];
/// ResourceQuota.
pub(crate) struct ResourceQuota;

impl Strategy for ResourceQuota {
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = spec(obj);
        status(obj, &mut errors);
        errors
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        match part {
            Part::Main => {
                errors = spec(obj);
                let scopes = |quota: &Value| -> BTreeSet<String> {
                    let scopes = object::list(quota, &["spec", "scopes"]).iter();
                    scopes.filter_map(Value::as_str).map(str::to_owned).collect()
                };
                if scopes(obj) != scopes(old) {
                    let path = field::root("spec").child("scopes");
                    errors.push(Error::invalid(path, all_scopes(obj), "field is immutable"));
                }
            }
            Part::Status => status(obj, &mut errors),
            _ => {}
        }
        errors
    }

    fn columns(&self) -> Option<Vec<Column>> {
        Some(vec![
            Column::new("Request", |obj| used(obj, false).into()),
            Column::new("Limit", |obj| used(obj, true).into()),
            columns::age(),
        ])
    }
}

/// `pods: 1/2, cpu: 100m/1`: what is used of each limit.
fn used(obj: &Value, limits: bool) -> String {
    let hard = object::at(obj, &["status", "hard"]).and_then(Value::as_object);
    let shown = hard.into_iter().flatten().filter(|(name, _)| name.starts_with("limits.") == limits);
    let texts: Vec<String> = shown
        .map(|(name, hard)| {
            let used = object::at(obj, &["status", "used", name]).and_then(|v| Quantity::from_json(v).ok());
            let used = used.map_or_else(|| "0".to_owned(), |quantity| quantity.to_string());
            format!("{name}: {used}/{}", hard.as_str().unwrap_or_default())
        })
        .collect();
    texts.join(", ")
}

fn all_scopes(obj: &Value) -> Value {
    object::at(obj, &["spec", "scopes"]).cloned().unwrap_or_default()
}

fn spec(obj: &Value) -> ErrorList {
    let path = field::root("spec");
    let mut errors = ErrorList::new();
    amounts(obj, "spec", "hard", &mut errors);
    let limits: Vec<&str> = object::at(obj, &["spec", "hard"])
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|map| map.keys().map(String::as_str))
        .collect();
    scopes(obj, &limits, &path, &mut errors);
    if object::at(obj, &["spec", "scopeSelector"]).is_some() {
        let at = path.child("scopeSelector").child("matchExpressions");
        selector(obj, &limits, &at, &mut errors);
    }
    errors
}

fn status(obj: &Value, errors: &mut ErrorList) {
    amounts(obj, "status", "hard", errors);
    amounts(obj, "status", "used", errors);
}

fn amounts(obj: &Value, part: &'static str, list: &'static str, errors: &mut ErrorList) {
    let path = field::root(part).child(list);
    for (resource, value) in object::at(obj, &[part, list]).and_then(Value::as_object).into_iter().flatten() {
        let at = path.key(resource);
        resource_name(resource, &at, errors);
        let Ok(quantity) = Quantity::from_json(value) else { continue };
        if quantity.signum() < 0 {
            errors.push(Error::invalid(&at, value.clone(), "must be greater than or equal to 0"));
        }
        if counts_things(resource) && !quantity.is_integer() {
            errors.push(Error::invalid(&at, value.clone(), "must be an integer"));
        }
    }
}

fn resource_name(resource: &str, at: &Path, errors: &mut ErrorList) {
    let faults = name::qualified_name_faults(resource);
    let qualified = faults.is_empty();
    errors.extend(faults.into_iter().map(|why| Error::invalid(at, resource, why)));
    if resource.contains('/') || quota::is_standard(resource) {
        return;
    }
    if qualified && resource != "storage" {
        let why = "must be a standard resource type or fully qualified";
        errors.push(Error::invalid(at, resource, why));
    }
    errors.push(Error::invalid(at, resource, "must be a standard resource for quota"));
}

fn scopes(obj: &Value, limits: &[&str], path: &Path, errors: &mut ErrorList) {
    let path = path.child("scopes");
    let all: Vec<&str> = object::list(obj, &["spec", "scopes"]).iter().filter_map(Value::as_str).collect();
    for scope in &all {
        if !SCOPES.contains(scope) {
            errors.push(Error::invalid(&path, all_scopes(obj), "unsupported scope"));
        }
        for limit in limits.iter().filter(|limit| quota::is_standard(limit)) {
            if !quota::scope_fits(scope, limit) {
                errors.push(Error::invalid(&path, all_scopes(obj), "unsupported scope applied to resource"));
            }
        }
    }
    conflicts(obj, &all, &path, errors);
}

fn conflicts(obj: &Value, all: &[&str], path: &Path, errors: &mut ErrorList) {
    for (one, other) in CONFLICTS {
        if all.contains(&one) && all.contains(&other) {
            errors.push(Error::invalid(path, all_scopes(obj), "conflicting scopes"));
        }
    }
}

fn selector(obj: &Value, limits: &[&str], path: &Path, errors: &mut ErrorList) {
    let whole = object::at(obj, &["spec", "scopeSelector"]).cloned().unwrap_or_default();
    let mut all = Vec::new();
    for requirement in object::list(&whole, &["matchExpressions"]) {
        let scope = object::text(requirement, &["scopeName"]);
        let operator = object::text(requirement, &["operator"]);
        let values = object::list(requirement, &["values"]);
        if !SCOPES.contains(&scope) {
            errors.push(Error::invalid(path.child("scopeName"), scope, "unsupported scope"));
        }
        for limit in limits.iter().filter(|limit| quota::is_standard(limit)) {
            if !quota::scope_fits(scope, limit) {
                errors.push(Error::invalid(path, whole.clone(), "unsupported scope applied to resource"));
            }
        }
        let takes_values = matches!(scope, "PriorityClass" | "VolumeAttributesClass");
        if SCOPES.contains(&scope) && !takes_values && operator != "Exists" {
            let why = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
                       ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or \
                       ResourceQuotaScopeCrossNamespacePodAffinity";
            errors.push(Error::invalid(path.child("operator"), operator, why));
        }
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.push(Error::required(path.child("values"), why));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.push(Error::invalid(path.child("values"), values.to_vec(), why));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                errors.push(Error::invalid(path.child("operator"), other, "not a valid selector operator"));
            }
        }
        all.push(scope);
    }
    conflicts(obj, &all, path, errors);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn faults_are_told_in_upstreams_words() {
        let selects = |scope: &str, operator: &str, values: Value| {
            json!({"hard": {"pods": "1"}, "scopeSelector": {"matchExpressions": [
                {"scopeName": scope, "operator": operator, "values": values}]}})
        };
        let at = "spec.scopeSelector.matchExpressions";
        let cases = [
            (json!({"hard": {"pods": "1", "requests.x.dev/gpu": "1", "hugepages-2Mi": "1Gi"}}), String::new()),
            (json!({"hard": {"pods": "-1"}}), "spec.hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0".into()),
            (json!({"hard": {"pods": "500m"}}), "spec.hard[pods]: Invalid value: \"500m\": must be an integer".into()),
            (
                json!({"hard": {"nonsense": "1"}}),
                "spec.hard[nonsense]: Invalid value: \"nonsense\": must be a standard resource type or fully qualified; \
                 spec.hard[nonsense]: Invalid value: \"nonsense\": must be a standard resource for quota".into(),
            ),
            (json!({"hard": {"cpu": "1"}, "scopes": ["BestEffort"]}), "spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource".into()),
            (json!({"scopes": ["Odd"]}), "spec.scopes: Invalid value: [\"Odd\"]: unsupported scope".into()),
            (
                json!({"scopes": ["Terminating", "NotTerminating"]}),
                "spec.scopes: Invalid value: [\"Terminating\",\"NotTerminating\"]: conflicting scopes".into(),
            ),
            (selects("PriorityClass", "In", json!(["a"])), String::new()),
            (
                selects("PriorityClass", "In", json!([])),
                format!("{at}.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"),
            ),
            (
                selects("PriorityClass", "Exists", json!(["a"])),
                format!("{at}.values: Invalid value: [\"a\"]: must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"),
            ),
            (
                selects("PriorityClass", "Like", json!([])),
                format!("{at}.operator: Invalid value: \"Like\": not a valid selector operator"),
            ),
        ];
        for (spec, expected) in cases {
            let errors = ResourceQuota.validate(&json!({"spec": spec}));
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(texts.join("; "), expected, "{spec}");
        }
    }

    #[test]
    fn scopes_stay_as_they_are() {
        let quota = |scopes: Value| json!({"spec": {"hard": {"pods": "1"}, "scopes": scopes}});
        let (old, new) =
            (quota(json!(["Terminating", "BestEffort"])), quota(json!(["BestEffort", "Terminating"])));
        assert!(ResourceQuota.validate_update(Part::Main, &new, &old).is_empty());
        let errors = ResourceQuota.validate_update(Part::Main, &quota(json!(["BestEffort"])), &old);
        assert_eq!(errors[0].to_string(), "spec.scopes: Invalid value: [\"BestEffort\"]: field is immutable");
    }
}
