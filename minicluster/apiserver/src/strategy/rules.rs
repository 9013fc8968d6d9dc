//! Validation as data: what the fields of a kind have to be, as a list that reads like the API's documentation.
//!
//! Rules say, in upstream's words and order, what is wrong; they change nothing. A kind that needs more than lists can
//! say has functions of its own (`checks.rs`, `storage.rs`). Source: `pkg/apis/*/validation`.

use std::collections::BTreeSet;

use serde_json::Value;
use windlass_crd::{
    field::{Error, ErrorList, Path},
    name,
};

use crate::object;

/// What one field, or a group of fields, has to be. Names are dotted paths.
pub(super) enum Rule {
    /// It is there, and no empty text or list; with what upstream adds.
    Required(&'static str, &'static str),
    /// One of these texts, when it is there.
    OneOf(&'static str, &'static [&'static str]),
    /// Each text of a list is one of these.
    AllOf(&'static str, &'static [&'static str]),
    /// A text that passes, even when it is empty.
    Named(&'static str, fn(&str) -> Result<(), String>),
    /// A number between two, when it is there; with what upstream says.
    Between(&'static str, i64, i64, &'static str),
    /// Exactly one of these fields of an object is there.
    ExactlyOne(&'static str, &'static [&'static str], &'static str),
    /// The same for every item of a list.
    Each(&'static str, &'static [Rule]),
    /// More, when a text is this one.
    When(&'static str, &'static str, &'static [Rule]),
    /// More, when the field is there.
    If(&'static str, &'static [Rule]),
    /// No two items of a list have this text in common.
    Unique(&'static str, &'static str),
    /// What takes a function, given the value at the path.
    Check(&'static str, fn(&Value, &Path, &mut ErrorList)),
    /// It stays as it was created.
    Fixed(&'static str),
    /// The same, told as upstream's older kinds tell it: `updates to X are forbidden.`
    Forbidden(&'static str),
}

/// The value at a dotted path, and the path with its base.
fn at<'v>(value: &'v Value, base: Option<&Path>, path: &'static str) -> (&'v Value, Path) {
    static NULL: Value = Value::Null;
    let mut place: Option<Path> = base.cloned();
    let mut found = value;
    for name in path.split('.').filter(|name| !name.is_empty()) {
        place = Some(place.map_or_else(|| Path::root(name), |place| place.child(name)));
        found = found.get(name).unwrap_or(&NULL);
    }
    (found, place.unwrap_or_else(|| Path::root("")))
}

/// What Go would leave out as empty.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// What is wrong with an object by these rules.
pub(super) fn faults(rules: &[Rule], object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    check(rules, object, None, &mut errors);
    errors
}

fn check(rules: &[Rule], object: &Value, base: Option<&Path>, errors: &mut ErrorList) {
    for rule in rules {
        check_one(rule, object, base, errors);
    }
}

fn check_one(rule: &Rule, object: &Value, base: Option<&Path>, errors: &mut ErrorList) {
    match *rule {
        Rule::Required(path, detail) => {
            let (value, path) = at(object, base, path);
            if is_empty(value) {
                errors.push(Error::required(path, detail));
            }
        }
        Rule::OneOf(path, allowed) => {
            let (value, path) = at(object, base, path);
            if let Some(text) = value.as_str().filter(|text| !allowed.contains(text)) {
                errors.push(Error::not_supported(path, text, allowed));
            }
        }
        Rule::AllOf(path, allowed) => {
            let (value, path) = at(object, base, path);
            for (i, text) in value.as_array().into_iter().flatten().filter_map(Value::as_str).enumerate() {
                if !allowed.contains(&text) {
                    errors.push(Error::not_supported(path.index(i), text, allowed));
                }
            }
        }
        Rule::Named(path, passes) => {
            let (value, path) = at(object, base, path);
            let text = value.as_str().unwrap_or_default();
            if let Err(why) = passes(text) {
                errors.push(Error::invalid(path, text, why));
            }
        }
        Rule::Between(path, low, high, detail) => {
            let (value, path) = at(object, base, path);
            if let Some(number) = value.as_i64().filter(|number| !(low..=high).contains(number)) {
                errors.push(Error::invalid(path, number, detail));
            }
        }
        Rule::ExactlyOne(path, fields, detail) => {
            let (value, path) = at(object, base, path);
            let given = fields.iter().filter(|field| !is_absent(value.get(**field))).count();
            if given == 0 {
                errors.push(Error::required(path, detail));
            } else if given > 1 {
                errors.push(Error::invalid(path, value.clone(), detail));
            }
        }
        Rule::Each(path, rules) => {
            let (value, path) = at(object, base, path);
            for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                check(rules, item, Some(&path.index(i)), errors);
            }
        }
        Rule::When(path, text, rules) => {
            if at(object, base, path).0 == text {
                check(rules, object, base, errors);
            }
        }
        Rule::If(path, rules) => {
            if !at(object, base, path).0.is_null() {
                check(rules, object, base, errors);
            }
        }
        Rule::Unique(path, key) => {
            let (value, path) = at(object, base, path);
            let mut seen = BTreeSet::new();
            for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                let text = object::text(item, &[key]);
                if !text.is_empty() && !seen.insert(text) {
                    errors.push(Error::duplicate(path.index(i).child(key), text));
                }
            }
        }
        Rule::Check(path, function) => {
            let (value, path) = at(object, base, path);
            function(value, &path, errors);
        }
        Rule::Fixed(_) | Rule::Forbidden(_) => {}
    }
}

/// Structures held by value are there even when nothing was written into them.
fn is_absent(value: Option<&Value>) -> bool {
    matches!(value, None | Some(Value::Null)) || matches!(value, Some(Value::String(text)) if text.is_empty())
}

/// What an update may not have changed.
pub(super) fn changes(rules: &[Rule], object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    for rule in rules {
        let (path, forbidden) = match *rule {
            Rule::Fixed(path) => (path, false),
            Rule::Forbidden(path) => (path, true),
            _ => continue,
        };
        let ((new, place), (old, _)) = (at(object, None, path), at(old, None, path));
        if new == old || (is_empty(new) && is_empty(old)) {
            continue;
        }
        errors.push(if forbidden {
            Error::forbidden(&place, format!("updates to {place} are forbidden."))
        } else {
            Error::invalid(&place, new.clone(), "field is immutable")
        });
    }
    errors
}

/// IngressClass.
pub(super) const INGRESS_CLASS: &[Rule] = &[Rule::Fixed("spec.controller")];

/// VolumeAttributesClass.
pub(super) const VOLUME_ATTRIBUTES_CLASS: &[Rule] =
    &[Rule::Forbidden("driverName"), Rule::Forbidden("parameters")];

/// FlowSchema.
pub(super) const FLOW_SCHEMA: &[Rule] = &[
    Rule::Between("spec.matchingPrecedence", 1, 10_000, "must be in the range of 1 to 10000, inclusive"),
    Rule::Required("spec.priorityLevelConfiguration.name", "must reference a priority level"),
    Rule::If(
        "spec.distinguisherMethod",
        &[Rule::OneOf("spec.distinguisherMethod.type", &["ByNamespace", "ByUser"])],
    ),
    Rule::Each(
        "spec.rules",
        &[
            Rule::Required("subjects", "subjects must contain at least one value"),
            Rule::Each("subjects", &[Rule::OneOf("kind", &["Group", "ServiceAccount", "User"])]),
            Rule::Each(
                "resourceRules",
                &[
                    Rule::Required("verbs", "verbs must contain at least one value"),
                    Rule::Required("apiGroups", "resource rules must supply at least one api group"),
                    Rule::Required("resources", "resource rules must supply at least one resource"),
                ],
            ),
            Rule::Each(
                "nonResourceRules",
                &[
                    Rule::Required("verbs", "verbs must contain at least one value"),
                    Rule::Required("nonResourceURLs", "nonResourceURLs must contain at least one value"),
                ],
            ),
        ],
    ),
];

/// PriorityLevelConfiguration.
pub(super) const PRIORITY_LEVEL: &[Rule] = &[
    Rule::OneOf("spec.type", &["Exempt", "Limited"]),
    Rule::When(
        "spec.type",
        "Limited",
        &[Rule::Required("spec.limited", "must not be empty when type is Limited")],
    ),
    Rule::Between("spec.limited.nominalConcurrencyShares", 0, i64::MAX, "must be a non-negative integer"),
    Rule::Between("spec.limited.lendablePercent", 0, 100, "must be between 0 and 100, inclusive"),
    Rule::If(
        "spec.limited.limitResponse.type",
        &[Rule::OneOf("spec.limited.limitResponse.type", &["Queue", "Reject"])],
    ),
];

const SELECTORS: Rule = Rule::Each("selectors", &[Rule::Required("cel", "")]);

const ALLOCATION: &[&str] = &["All", "ExactCount"];

const REQUEST: &[Rule] = &[
    Rule::Named("name", name::dns1123_label),
    Rule::ExactlyOne(
        "",
        &["exactly", "firstAvailable"],
        "exactly one of `exactly` or `firstAvailable` is required",
    ),
    Rule::If(
        "exactly",
        &[Rule::Required("exactly.deviceClassName", ""), Rule::OneOf("exactly.allocationMode", ALLOCATION)],
    ),
    Rule::Each(
        "firstAvailable",
        &[
            Rule::Named("name", name::dns1123_label),
            Rule::Required("deviceClassName", ""),
            SELECTORS,
            Rule::OneOf("allocationMode", ALLOCATION),
        ],
    ),
];

/// DeviceClass.
pub(super) const DEVICE_CLASS: &[Rule] = &[
    Rule::Each("spec.selectors", &[Rule::Required("cel", "")]),
    Rule::Each("spec.config", &[Rule::Required("opaque", "")]),
];

/// ResourceClaim.
pub(super) const RESOURCE_CLAIM: &[Rule] =
    &[Rule::Each("spec.devices.requests", REQUEST), Rule::Unique("spec.devices.requests", "name")];

/// ResourceClaimTemplate.
pub(super) const RESOURCE_CLAIM_TEMPLATE: &[Rule] =
    &[Rule::Each("spec.spec.devices.requests", REQUEST), Rule::Unique("spec.spec.devices.requests", "name")];

/// ResourceSlice.
pub(super) const RESOURCE_SLICE: &[Rule] = &[
    Rule::Required("spec.driver", ""),
    Rule::Required("spec.pool.name", ""),
    Rule::Between("spec.pool.resourceSliceCount", 1, i64::MAX, "must be greater than zero"),
    Rule::Between("spec.pool.generation", 0, i64::MAX, "must be greater than or equal to zero"),
    Rule::ExactlyOne(
        "spec",
        &["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"],
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
    ),
    Rule::Each("spec.devices", &[Rule::Named("name", name::dns1123_label)]),
    Rule::Unique("spec.devices", "name"),
    Rule::Fixed("spec.nodeName"),
    Rule::Fixed("spec.driver"),
    Rule::Fixed("spec.pool.name"),
];

fn hook_name(text: &str) -> Result<(), String> {
    if text.is_empty() || name::dns1123_subdomain(text).is_err() {
        return name::dns1123_subdomain(text);
    }
    let why = "should be a domain with at least three segments separated by dots";
    if text.split('.').count() < 3 { Err(why.to_owned()) } else { Ok(()) }
}

/// Where a webhook is, by URL or by Service.
fn client_config(config: &Value, path: &Path, errors: &mut ErrorList) {
    match (config.get("url"), config.get("service")) {
        (None, None) | (Some(_), Some(_)) => {
            errors.push(Error::required(path, "exactly one of url or service is required"));
        }
        (Some(url), None) => {
            let url = url.as_str().unwrap_or_default();
            let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
            let form = "; desired format: https://host[/path]";
            if scheme != "https" {
                let why = format!("'https' is the only allowed URL scheme{form}");
                errors.push(Error::invalid(path.child("url"), scheme, why));
            }
            if rest.split('/').next().unwrap_or_default().is_empty() {
                errors.push(Error::invalid(path.child("url"), "", format!("host must be specified{form}")));
            }
            for (mark, what) in [('@', "user information"), ('#', "fragments"), ('?', "query parameters")] {
                if let Some((_, after)) = rest.split_once(mark) {
                    let why = format!("{what} are not permitted in the URL");
                    errors.push(Error::invalid(path.child("url"), after, why));
                }
            }
        }
        (None, Some(service)) => {
            let path = path.child("service");
            check(
                &[
                    Rule::Required("name", "service name is required"),
                    Rule::Required("namespace", "service namespace is required"),
                ],
                service,
                Some(&path),
                errors,
            );
            if let Some(port) = service.get("port").and_then(Value::as_i64)
                && !(1..=65_535).contains(&port)
            {
                let why = "port is not valid: must be between 1 and 65535, inclusive";
                errors.push(Error::invalid(path.child("port"), port, why));
            }
        }
    }
}

const HOOK_RULE: &[Rule] = &[
    Rule::Required("operations", ""),
    Rule::AllOf("operations", &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"]),
    Rule::Required("apiGroups", ""),
    Rule::Required("apiVersions", ""),
    Rule::Required("resources", ""),
    Rule::OneOf("scope", &["*", "Cluster", "Namespaced"]),
];

/// MutatingWebhookConfiguration and ValidatingWebhookConfiguration, but for the conditions.
pub(super) const WEBHOOKS: &[Rule] = &[
    Rule::Each(
        "webhooks",
        &[
            Rule::Named("name", hook_name),
            Rule::Each("rules", HOOK_RULE),
            Rule::OneOf("failurePolicy", &["Fail", "Ignore"]),
            Rule::OneOf("matchPolicy", &["Equivalent", "Exact"]),
            Rule::OneOf("reinvocationPolicy", &["IfNeeded", "Never"]),
            Rule::Check("sideEffects", |value, path, errors| match value.as_str() {
                None => {
                    errors.push(Error::required(path, "must specify one of None, NoneOnDryRun"));
                }
                Some("None" | "NoneOnDryRun") => {}
                Some(other) => {
                    errors.push(Error::not_supported(path, other, &["None", "NoneOnDryRun"]));
                }
            }),
            Rule::Between("timeoutSeconds", 1, 30, "the timeout value must be between 1 and 30 seconds"),
            Rule::Check("clientConfig", client_config),
            Rule::Check("admissionReviewVersions", |value, path, errors| {
                let versions = value.as_array().map_or(&[][..], Vec::as_slice);
                if versions.is_empty() {
                    let why = "must specify one of v1, v1beta1";
                    errors.push(Error::required(path, why));
                } else if !versions.iter().any(|v| v == "v1" || v == "v1beta1") {
                    errors.push(Error::invalid(
                        path,
                        value.clone(),
                        "must include at least one of v1, v1beta1",
                    ));
                }
            }),
        ],
    ),
    Rule::Unique("webhooks", "name"),
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_tell_what_is_wrong_in_upstreams_words() {
        for (rules, object, expected) in [
            (
                PRIORITY_LEVEL,
                json!({"spec": {"type": "X"}}),
                vec!["spec.type: Unsupported value: \"X\": supported values: \"Exempt\", \"Limited\""],
            ),
            (
                PRIORITY_LEVEL,
                json!({"spec": {"type": "Limited"}}),
                vec!["spec.limited: Required value: must not be empty when type is Limited"],
            ),
            (
                RESOURCE_CLAIM,
                json!({"spec": {"devices": {"requests": [{"name": "a"}]}}}),
                vec![
                    "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
                ],
            ),
        ] {
            assert_eq!(texts(&faults(rules, &object)), expected);
        }
        let hook = |config: Value| {
            json!({"webhooks": [{
                "name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"], "clientConfig": config,
            }]})
        };
        assert_eq!(texts(&faults(WEBHOOKS, &hook(json!({"url": "https://a/b"})))), Vec::<String>::new());
        assert_eq!(
            texts(&faults(WEBHOOKS, &hook(json!({"url": "http://a"})))),
            [
                "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]"
            ]
        );
    }

    #[test]
    fn what_is_fixed_stays() {
        let (old, new) = (json!({"driverName": "a", "parameters": {"x": "y"}}), json!({"driverName": "b"}));
        assert_eq!(
            texts(&changes(VOLUME_ATTRIBUTES_CLASS, &new, &old)),
            [
                "driverName: Forbidden: updates to driverName are forbidden.",
                "parameters: Forbidden: updates to parameters are forbidden."
            ]
        );
        assert!(changes(INGRESS_CLASS, &json!({}), &json!({"spec": {}})).is_empty());
    }
}
