//! Checks of LimitRanges.
//!
//! Source: `ValidateLimitRange` of `pkg/apis/core/validation/validation.go`.

use std::collections::BTreeSet;

use serde_json::Value;
use windlass_crd::{
    field::{self, Error, ErrorList, Path},
    name,
    quantity::Quantity,
};

use super::{container::resources, pod_spec::told};
use crate::object;

/// The largest number that can be told in thousandths.
const MILLI_MAX: i64 = i64::MAX / 1000;

/// A LimitRange.
pub(super) fn validate(obj: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut seen = BTreeSet::new();
    for (i, limit) in object::list(obj, &["spec", "limits"]).iter().enumerate() {
        let path = field::root("spec").child("limits").index(i);
        let kind = object::text(limit, &["type"]);
        type_name(kind, &path.child("type"), &mut errors);
        if !seen.insert(kind) {
            errors.push(Error::duplicate(path.child("type"), kind));
        }
        one(limit, kind, &path, &mut errors);
    }
    errors
}

fn type_name(kind: &str, path: &Path, errors: &mut ErrorList) {
    let faults = name::qualified_name_faults(kind);
    let standard = matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim");
    if faults.is_empty() && !kind.contains('/') && !standard {
        errors.push(Error::invalid(path, kind, "must be a standard limit type or fully qualified"));
    }
    told(faults, path, kind, errors);
}

fn names<'v>(limit: &'v Value, list: &str) -> impl Iterator<Item = &'v str> {
    let map = object::at(limit, &[list]).and_then(Value::as_object);
    map.into_iter().flatten().map(|(name, _)| name.as_str())
}

fn one(limit: &Value, kind: &str, path: &Path, errors: &mut ErrorList) {
    let mut keys = BTreeSet::new();
    let mut collect = |list: &'static str, errors: &mut ErrorList| {
        for resource in names(limit, list) {
            let at = path.child(list).key(resource);
            if matches!(kind, "Pod" | "Container") {
                resources::container_name(resource, &at, errors);
            } else {
                resources::known_name(resource, &at, errors);
            }
            keys.insert(resource);
        }
    };
    collect("max", errors);
    collect("min", errors);
    for list in ["default", "defaultRequest"] {
        if kind != "Pod" {
            collect(list, errors);
        } else if names(limit, list).next().is_some() {
            errors.push(Error::forbidden(path.child(list), "may not be specified when `type` is 'Pod'"));
        }
    }
    let bounded = ["min", "max"].iter().any(|list| object::at(limit, &[list, "storage"]).is_some());
    if kind == "PersistentVolumeClaim" && !bounded {
        let detail = "either minimum or maximum storage value is required, but neither was provided";
        errors.push(Error::required(path.child("limits"), detail));
    }
    collect("maxLimitRequestRatio", errors);
    for resource in keys {
        compare(limit, kind, resource, path, errors);
    }
}

fn compare(limit: &Value, kind: &str, resource: &str, path: &Path, errors: &mut ErrorList) {
    // What is greater than what, at which place, showing which of both, in which words.
    const ORDER: [(&str, &str, &str, bool, &str, &str); 6] = [
        ("min", "max", "min", true, "min", "max"),
        ("min", "defaultRequest", "defaultRequest", false, "min", "default request"),
        ("defaultRequest", "max", "defaultRequest", true, "default request", "max"),
        ("defaultRequest", "default", "defaultRequest", true, "default request", "default limit"),
        ("min", "default", "default", true, "min", "default"),
        ("default", "max", "default", false, "default", "max"),
    ];
    let quantity = |list: &str| {
        let hidden = kind == "Pod" && matches!(list, "default" | "defaultRequest");
        let value = object::at(limit, &[list, resource]).filter(|_| !hidden)?;
        Quantity::from_json(value).ok()
    };
    for (low, high, at, shows_low, low_words, high_words) in ORDER {
        let (Some(a), Some(b)) = (quantity(low), quantity(high)) else { continue };
        if a > b {
            let shown = if shows_low { a.to_string() } else { b.to_string() };
            let detail = format!("{low_words} value {a} is greater than {high_words} value {b}");
            errors.push(Error::invalid(path.child(at).key(resource), shown, detail));
        }
    }
    if let Some(ratio) = quantity("maxLimitRequestRatio") {
        let at = path.child("maxLimitRequestRatio").key(resource);
        if ratio.milli_value() < 1000 {
            errors.push(Error::invalid(&at, ratio.to_string(), format!("ratio {ratio} is less than 1")));
        }
        if let (Some(min), Some(max)) = (quantity("min"), quantity("max")) {
            let small = [&ratio, &min, &max].iter().all(|one| one.value() < MILLI_MAX);
            let number = |one: &Quantity| if small { one.milli_value() as f64 } else { one.value() as f64 };
            let given = if small { ratio.milli_value() as f64 / 1000.0 } else { ratio.value() as f64 };
            let most = number(&max) / number(&min);
            if given > most {
                let detail = format!("ratio {ratio} is greater than max/min = {most:.6}");
                errors.push(Error::invalid(&at, ratio.to_string(), detail));
            }
        }
    }
    if let (Some(default), Some(request)) = (quantity("default"), quantity("defaultRequest"))
        && default != request
        && !resources::may_overcommit(resource)
    {
        let at = path.child("defaultRequest").key(resource);
        let detail =
            format!("default value {default} must equal to defaultRequest value {request} in {resource}");
        errors.push(Error::invalid(at, request.to_string(), detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Cases of upstream's `TestValidateLimitRange`.
    #[test]
    fn faults_are_upstreams() {
        let told = |limit: Value| {
            let errors = validate(&json!({"spec": {"limits": [limit]}}));
            errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        let at = "spec.limits[0]";
        let cases = [
            (
                json!({"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "2"}}),
                String::new(),
            ),
            (
                json!({"type": "X"}),
                format!("{at}.type: Invalid value: \"X\": must be a standard limit type or fully qualified"),
            ),
            (
                json!({"type": "Pod", "default": {"cpu": "1"}}),
                format!("{at}.default: Forbidden: may not be specified when `type` is 'Pod'"),
            ),
            (
                json!({"type": "PersistentVolumeClaim"}),
                format!(
                    "{at}.limits: Required value: either minimum or maximum storage value is required, but neither was provided"
                ),
            ),
            (
                json!({"type": "Container", "default": {"cpu": "3"}, "max": {"cpu": "2"}}),
                format!(
                    "{at}.default[cpu]: Invalid value: \"2\": default value 3 is greater than max value 2"
                ),
            ),
            (
                json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "800m"}}),
                format!("{at}.maxLimitRequestRatio[cpu]: Invalid value: \"800m\": ratio 800m is less than 1"),
            ),
            (
                json!({"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "10"}}),
                format!(
                    "{at}.maxLimitRequestRatio[cpu]: Invalid value: \"10\": ratio 10 is greater than max/min = 2.000000"
                ),
            ),
        ];
        for (limit, expected) in cases {
            assert_eq!(told(limit.clone()), expected, "{limit}");
        }
    }
}
