//! What is wrong with a workload: its selector, its template, how it rolls out, what its status counts.
//!
//! Source: `pkg/apis/apps/validation/validation.go`, `ValidateReplicationController`.

use serde_json::Value;
use windlass_crd::{
    field::{self, Error, ErrorList, Path},
    int_or_string::IntOrString,
    name,
    selector::{LabelSelector, validate_label_selector},
};

use super::super::{internal, pod_spec::not_negative, storage, template};
use crate::object;

/// How the messages of a kind name it.
struct Names {
    /// In `empty selector is invalid for …`.
    selector: &'static str,
    /// In `activeDeadlineSeconds in … is not Supported`.
    deadline: &'static str,
    /// What is said of a selector that cannot be read; `None`: nothing.
    unreadable: Option<&'static str>,
    /// The selector may not be left out.
    required: bool,
}

const DEPLOYMENT: Names = Names {
    selector: "deployment",
    deadline: "ReplicaSet",
    unreadable: Some("invalid label selector"),
    required: true,
};
const STATEFUL_SET: Names =
    Names { selector: "statefulset", deadline: "StatefulSet", unreadable: Some(""), required: true };
const DAEMON_SET: Names =
    Names { selector: "daemonset", deadline: "DaemonSet", unreadable: None, required: false };

fn selector_errors(spec: &Value, names: &Names, path: &Path, errors: &mut ErrorList) {
    let at = path.child("selector");
    let Some(selector) = object::at(spec, &["selector"]) else {
        if names.required {
            errors.push(Error::required(at, ""));
        }
        return;
    };
    errors.extend(validate_label_selector(selector, &at));
    let empty = LabelSelector::from_json(Some(selector)).is_ok_and(|selector| selector.is_empty());
    if empty {
        let detail = format!("empty selector is invalid for {}", names.selector);
        errors.push(internal::invalid(&at, "LabelSelector", selector, detail));
    }
}

/// The selector must select the template's pods; no selector selects nothing.
fn selects_template(spec: &Value, names: &Names, path: &Path, errors: &mut ErrorList) -> bool {
    let selector = object::at(spec, &["selector"]);
    let parsed = match selector {
        None => LabelSelector::nothing(),
        some => match LabelSelector::from_json(some) {
            Ok(parsed) => parsed,
            Err(_) => {
                if let (Some(detail), Some(selector)) = (names.unreadable, some) {
                    errors.push(internal::invalid(
                        &path.child("selector"),
                        "LabelSelector",
                        selector,
                        detail,
                    ));
                }
                return names.unreadable.is_none();
            }
        },
    };
    matches_template(spec, &parsed, &path.child("template"), errors);
    true
}

/// The labels of the template match this.
pub(in super::super) fn matches_template(
    spec: &Value,
    selector: &LabelSelector,
    path: &Path,
    errors: &mut ErrorList,
) {
    let labels = object::at(spec, &["template", "metadata", "labels"]);
    if !selector.matches_value(labels) {
        let detail = "`selector` does not match template `labels`";
        let at = path.child("metadata").child("labels");
        errors.push(Error::invalid(at, labels.cloned().unwrap_or_default(), detail));
    }
}

/// Pods of a workload run on, and are restarted.
fn runs_always(pod: &Value, names: &Names, path: &Path, errors: &mut ErrorList) {
    let path = path.child("template").child("spec");
    let restart = object::text(pod, &["restartPolicy"]);
    if restart != "Always" {
        errors.push(Error::not_supported(path.child("restartPolicy"), restart, &["Always"]));
    }
    if object::at(pod, &["activeDeadlineSeconds"]).is_some() {
        let detail = format!("activeDeadlineSeconds in {} is not Supported", names.deadline);
        errors.push(Error::forbidden(path.child("activeDeadlineSeconds"), detail));
    }
}

fn pod_of(spec: &Value) -> &Value {
    object::at(spec, &["template", "spec"]).unwrap_or(&Value::Null)
}

fn spec_of(obj: &Value) -> (&Value, Path) {
    (obj.get("spec").unwrap_or(&Value::Null), field::root("spec"))
}

/// A Deployment.
pub(super) fn deployment(obj: &Value) -> ErrorList {
    let (spec, path) = spec_of(obj);
    let mut errors = ErrorList::new();
    not_negative(spec, "replicas", &path, &mut errors);
    replicas_template(spec, &path, &mut errors);
    deployment_strategy(spec, &path.child("strategy"), &mut errors);
    for field in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        not_negative(spec, field, &path, &mut errors);
    }
    let deadline = object::number(spec, &["progressDeadlineSeconds"]);
    let ready = object::number(spec, &["minReadySeconds"]).unwrap_or(0);
    if let Some(deadline) = deadline.filter(|deadline| *deadline <= ready) {
        let detail = "must be greater than minReadySeconds";
        errors.push(Error::invalid(path.child("progressDeadlineSeconds"), deadline, detail));
    }
    errors
}

/// A ReplicaSet.
pub(super) fn replica_set(obj: &Value) -> ErrorList {
    let (spec, path) = spec_of(obj);
    let mut errors = ErrorList::new();
    not_negative(spec, "replicas", &path, &mut errors);
    not_negative(spec, "minReadySeconds", &path, &mut errors);
    replicas_template(spec, &path, &mut errors);
    errors
}

fn replicas_template(spec: &Value, path: &Path, errors: &mut ErrorList) {
    selector_errors(spec, &DEPLOYMENT, path, errors);
    if selects_template(spec, &DEPLOYMENT, path, errors) {
        template::validate(spec, "template", path, errors);
        runs_always(pod_of(spec), &DEPLOYMENT, path, errors);
    }
}

/// A ReplicationController.
pub(super) fn replication_controller(obj: &Value) -> ErrorList {
    let (spec, path) = spec_of(obj);
    let mut errors = ErrorList::new();
    not_negative(spec, "minReadySeconds", &path, &mut errors);
    let selector = LabelSelector::from_map_value(object::at(spec, &["selector"]));
    let empty =
        object::at(spec, &["selector"]).and_then(Value::as_object).is_none_or(serde_json::Map::is_empty);
    if empty {
        errors.push(Error::required(path.child("selector"), ""));
    }
    match object::at(spec, &["replicas"]) {
        None => errors.push(Error::required(path.child("replicas"), "")),
        Some(_) => not_negative(spec, "replicas", &path, &mut errors),
    }
    if object::at(spec, &["template"]).is_none() {
        errors.push(Error::required(path.child("template"), ""));
        return errors;
    }
    if !empty {
        matches_template(spec, &selector, &path.child("template"), &mut errors);
    }
    template::validate(spec, "template", &path, &mut errors);
    let names = Names { deadline: "ReplicationController", ..DEPLOYMENT };
    runs_always(pod_of(spec), &names, &path, &mut errors);
    errors
}

/// A StatefulSet; a change leaves alone what cannot be changed any more.
pub(super) fn stateful_set(obj: &Value, changes: bool) -> ErrorList {
    let (spec, path) = spec_of(obj);
    let mut errors = ErrorList::new();
    match object::text(spec, &["podManagementPolicy"]) {
        "" => errors.push(Error::required(path.child("podManagementPolicy"), "")),
        "OrderedReady" | "Parallel" => {}
        other => {
            let detail = "must be 'OrderedReady' or 'Parallel'";
            errors.push(Error::invalid(path.child("podManagementPolicy"), other, detail));
        }
    }
    stateful_strategy(spec, &path.child("updateStrategy"), &mut errors);
    if let Some(policy) = object::at(spec, &["persistentVolumeClaimRetentionPolicy"]) {
        for field in ["whenDeleted", "whenScaled"] {
            let given = object::text(policy, &[field]);
            if !matches!(given, "Retain" | "Delete") {
                let at = path.child("persistentVolumeClaimRetentionPolicy").child(field);
                errors.push(Error::not_supported(at, given, &["Retain", "Delete"]));
            }
        }
    }
    if !changes {
        for (i, claim) in object::list(spec, &["volumeClaimTemplates"]).iter().enumerate() {
            let at = path.child("volumeClaimTemplates").index(i).child("spec");
            storage::claim_spec(claim.get("spec").unwrap_or(&Value::Null), &at, &mut errors);
        }
    }
    not_negative(spec, "replicas", &path, &mut errors);
    not_negative(spec, "minReadySeconds", &path, &mut errors);
    let start = object::number(spec, &["ordinals", "start"]).unwrap_or(0);
    if start < 0 {
        let detail = "must be greater than or equal to 0";
        errors.push(Error::invalid(path.child("ordinals.start"), start, detail));
    }
    let service = object::text(spec, &["serviceName"]);
    if !changes && !service.is_empty() {
        let faults = name::dns1123_label_faults(service).into_iter();
        errors.extend(faults.map(|why| Error::invalid(path.child("serviceName"), service, why)));
    }
    selector_errors(spec, &STATEFUL_SET, &path, &mut errors);
    if selects_template(spec, &STATEFUL_SET, &path, &mut errors) {
        let completed = with_claims(spec);
        template::validate(&completed, "template", &path, &mut errors);
        // Upstream looks at labels and annotations twice.
        template::metadata(spec, "template", &path, &mut errors);
    }
    runs_always(pod_of(spec), &STATEFUL_SET, &path, &mut errors);
    errors
}

/// The spec as its pods get it: a volume for each claim, no host name of its own.
fn with_claims(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let claims: Vec<String> = object::list(&spec, &["volumeClaimTemplates"])
        .iter()
        .map(|claim| object::name(claim).to_owned())
        .collect();
    for field in ["subdomain", "hostname"] {
        object::remove(&mut spec, &["template", "spec", field]);
    }
    if claims.is_empty() {
        return spec;
    }
    let mut volumes: Vec<Value> = claims
        .iter()
        .map(|claim| serde_json::json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}}))
        .collect();
    let own = object::list(&spec, &["template", "spec", "volumes"]).iter();
    volumes.extend(own.filter(|v| !claims.iter().any(|claim| claim == object::text(v, &["name"]))).cloned());
    object::set(&mut spec, &["template", "spec", "volumes"], volumes);
    spec
}

fn stateful_strategy(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let strategy = spec.get("updateStrategy").unwrap_or(&Value::Null);
    let rolling = object::at(strategy, &["rollingUpdate"]);
    let at = path.child("rollingUpdate");
    match (object::text(strategy, &["type"]), rolling) {
        ("", _) => errors.push(Error::required(path, "")),
        ("OnDelete", Some(rolling)) => {
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            errors.push(internal::invalid(&at, "RollingUpdateStatefulSetStrategy", rolling, detail));
        }
        ("RollingUpdate", Some(rolling)) => {
            not_negative(rolling, "partition", &at, errors);
            let Some(most) = object::at(rolling, &["maxUnavailable"]) else { return };
            let at = at.child("maxUnavailable");
            count_or_percent(Some(most), &at, errors);
            if amount(Some(most)) == 0 {
                errors.push(Error::invalid(&at, most.clone(), "cannot be 0"));
            }
            hundred_at_most(Some(most), &at, errors);
        }
        ("OnDelete" | "RollingUpdate", None) => {}
        _ => {
            let detail = "must be 'RollingUpdate' or 'OnDelete'";
            errors.push(internal::invalid(path, "StatefulSetUpdateStrategy", strategy, detail));
        }
    }
}

/// A DaemonSet.
pub(super) fn daemon_set(obj: &Value) -> ErrorList {
    let (spec, path) = spec_of(obj);
    let mut errors = ErrorList::new();
    let mut empty = ErrorList::new();
    selector_errors(spec, &DAEMON_SET, &path, &mut empty);
    // That a selector is empty is told after what it selects.
    let last =
        empty.len() - usize::from(empty.last().is_some_and(|e| e.detail.starts_with("empty selector")));
    let told = empty.split_off(last);
    errors.extend(empty);
    selects_template(spec, &DAEMON_SET, &path, &mut errors);
    errors.extend(told);
    template::validate(spec, "template", &path, &mut errors);
    runs_always(pod_of(spec), &DAEMON_SET, &path, &mut errors);
    not_negative(spec, "minReadySeconds", &path, &mut errors);
    daemon_strategy(spec, &path.child("updateStrategy"), &mut errors);
    not_negative(spec, "revisionHistoryLimit", &path, &mut errors);
    errors
}

fn daemon_strategy(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let strategy = spec.get("updateStrategy").unwrap_or(&Value::Null);
    match object::text(strategy, &["type"]) {
        "OnDelete" => {}
        "RollingUpdate" => {
            let path = path.child("rollingUpdate");
            let Some(rolling) = object::at(strategy, &["rollingUpdate"]) else {
                errors.push(Error::required(path, ""));
                return;
            };
            let (down, up) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            let (at_down, at_up) = (path.child("maxUnavailable"), path.child("maxSurge"));
            count_or_percent(down, &at_down, errors);
            count_or_percent(up, &at_up, errors);
            hundred_at_most(down, &at_down, errors);
            hundred_at_most(up, &at_up, errors);
            match (amount(down) != 0, amount(up) != 0) {
                (true, true) => {
                    let detail = "may not be set when maxUnavailable is non-zero";
                    errors.push(Error::invalid(at_up, up.cloned().unwrap_or_default(), detail));
                }
                (false, false) => errors.push(Error::required(at_down, "cannot be 0 when maxSurge is 0")),
                _ => {}
            }
        }
        _ => errors.push(internal::not_supported(
            path,
            "DaemonSetUpdateStrategy",
            strategy,
            &["RollingUpdate", "OnDelete"],
        )),
    }
}

fn deployment_strategy(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let strategy = spec.get("strategy").unwrap_or(&Value::Null);
    let rolling = object::at(strategy, &["rollingUpdate"]);
    match (object::text(strategy, &["type"]), rolling) {
        ("Recreate", None) => {}
        ("Recreate", Some(_)) => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(Error::forbidden(path.child("rollingUpdate"), detail));
        }
        ("RollingUpdate", None) => {
            let detail = "this should be defaulted and never be nil";
            errors.push(Error::required(path.child("rollingUpdate"), detail));
        }
        ("RollingUpdate", Some(rolling)) => {
            let at = path.child("rollingUpdate");
            let (up, down) = (rolling.get("maxSurge"), rolling.get("maxUnavailable"));
            count_or_percent(down, &at.child("maxUnavailable"), errors);
            count_or_percent(up, &at.child("maxSurge"), errors);
            if amount(down) == 0 && amount(up) == 0 {
                let detail = "may not be 0 when `maxSurge` is 0";
                let given = down.cloned().unwrap_or(0.into());
                errors.push(Error::invalid(at.child("maxUnavailable"), given, detail));
            }
            hundred_at_most(down, &at.child("maxUnavailable"), errors);
        }
        _ => errors.push(internal::not_supported(
            path,
            "DeploymentStrategy",
            strategy,
            &["Recreate", "RollingUpdate"],
        )),
    }
}

/// A number of pods, or a percentage of them.
pub(in super::super) fn count_or_percent(value: Option<&Value>, path: &Path, errors: &mut ErrorList) {
    let Some(given) = value.and_then(IntOrString::from_json) else { return };
    match given {
        IntOrString::Int(number) if number < 0 => {
            errors.push(Error::invalid(path, number, "must be greater than or equal to 0"));
        }
        IntOrString::Int(_) => {}
        IntOrString::String(text) => {
            if let Err(why) = name::percent(&text) {
                errors.push(Error::invalid(path, text, why));
            }
        }
    }
}

/// The number, of pods or of percents; 0 when it is neither.
fn amount(value: Option<&Value>) -> i64 {
    match value.and_then(IntOrString::from_json) {
        Some(IntOrString::Int(number)) => number.into(),
        Some(IntOrString::String(text)) => text.strip_suffix('%').unwrap_or(&text).parse().unwrap_or(0),
        None => 0,
    }
}

/// A percentage is one of the whole.
pub(in super::super) fn hundred_at_most(value: Option<&Value>, path: &Path, errors: &mut ErrorList) {
    let percent = value.and_then(IntOrString::from_json).and_then(|value| value.percent());
    if percent.is_some_and(|percent| percent > 100) {
        let given = value.cloned().unwrap_or_default();
        errors.push(Error::invalid(path, given, "must not be greater than 100%"));
    }
}

/// What a status may count: not below zero, and no more than another count.
pub(super) struct Counts {
    fields: &'static [&'static str],
    /// What is at most what else, and how it is said.
    at_most: &'static [(&'static str, &'static str, &'static str)],
}

const OF_REPLICAS: &str = "cannot be greater than status.replicas";
const OF_READY: &str = "cannot be greater than readyReplicas";

pub(super) const DEPLOYMENT_COUNTS: Counts = Counts {
    fields: &[
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
        "collisionCount",
    ],
    at_most: &[
        ("updatedReplicas", "replicas", OF_REPLICAS),
        ("readyReplicas", "replicas", OF_REPLICAS),
        ("availableReplicas", "replicas", OF_REPLICAS),
        ("availableReplicas", "readyReplicas", OF_READY),
    ],
};

pub(super) const REPLICA_COUNTS: Counts = Counts {
    fields: &[
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "observedGeneration",
        "terminatingReplicas",
    ],
    at_most: &[
        ("fullyLabeledReplicas", "replicas", OF_REPLICAS),
        ("readyReplicas", "replicas", OF_REPLICAS),
        ("availableReplicas", "replicas", OF_REPLICAS),
        ("availableReplicas", "readyReplicas", OF_READY),
    ],
};

pub(super) const STATEFUL_COUNTS: Counts = Counts {
    fields: &[
        "replicas",
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
        "observedGeneration",
        "collisionCount",
    ],
    at_most: &[
        ("readyReplicas", "replicas", OF_REPLICAS),
        ("currentReplicas", "replicas", OF_REPLICAS),
        ("updatedReplicas", "replicas", OF_REPLICAS),
        ("availableReplicas", "replicas", OF_REPLICAS),
        ("availableReplicas", "readyReplicas", "cannot be greater than status.readyReplicas"),
    ],
};

pub(super) const DAEMON_COUNTS: Counts = Counts {
    fields: &[
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ],
    at_most: &[],
};

/// What is wrong with a new status.
pub(super) fn status(counts: &Counts, obj: &Value, old: &Value) -> ErrorList {
    let path = field::root("status");
    let mut errors = ErrorList::new();
    let number = |obj: &Value, field: &str| object::number(obj, &["status", field]);
    let status = obj.get("status").unwrap_or(&Value::Null);
    for field in counts.fields {
        not_negative(status, field, &path, &mut errors);
    }
    for (low, high, detail) in counts.at_most {
        let given = number(obj, low).unwrap_or(0);
        if given > number(obj, high).unwrap_or(0) {
            errors.push(Error::invalid(path.child(*low), given, *detail));
        }
    }
    let collisions = number(obj, "collisionCount");
    if counts.fields.contains(&"collisionCount")
        && number(old, "collisionCount").is_some_and(|old| collisions.is_none_or(|new| new < old))
    {
        let given = collisions.unwrap_or(0);
        errors.push(Error::invalid(path.child("collisionCount"), given, "cannot be decremented"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn statuses_count_what_there_is() {
        let told = |counts: &Counts, new: Value, old: Value| {
            let errors = status(counts, &json!({ "status": new }), &json!({ "status": old }));
            errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        let cases = [
            (&DEPLOYMENT_COUNTS, json!({"replicas": 1, "readyReplicas": 1}), json!({}), ""),
            (
                &DEPLOYMENT_COUNTS,
                json!({"replicas": 1, "availableReplicas": 2, "readyReplicas": -1, "collisionCount": 1}),
                json!({"collisionCount": 2}),
                "status.readyReplicas: Invalid value: -1: must be greater than or equal to 0; \
                 status.availableReplicas: Invalid value: 2: cannot be greater than status.replicas; \
                 status.availableReplicas: Invalid value: 2: cannot be greater than readyReplicas; \
                 status.collisionCount: Invalid value: 1: cannot be decremented",
            ),
            (
                &STATEFUL_COUNTS,
                json!({"replicas": 2, "availableReplicas": 2, "currentReplicas": 3}),
                json!({}),
                "status.currentReplicas: Invalid value: 3: cannot be greater than status.replicas; \
                 status.availableReplicas: Invalid value: 2: cannot be greater than status.readyReplicas",
            ),
            (
                &DAEMON_COUNTS,
                json!({"numberReady": -1}),
                json!({"collisionCount": 1}),
                "status.numberReady: Invalid value: -1: must be greater than or equal to 0; \
                 status.collisionCount: Invalid value: 0: cannot be decremented",
            ),
        ];
        for (counts, new, old, expected) in cases {
            assert_eq!(told(counts, new, old), expected);
        }
    }

    #[test]
    fn daemon_sets_roll_one_way() {
        let told = |strategy: Value| {
            let mut errors = ErrorList::new();
            daemon_strategy(&json!({ "updateStrategy": strategy }), &field::root("u"), &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        let rolling = |down: Value, up: Value| {
            told(json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": down, "maxSurge": up}}))
        };
        assert_eq!(rolling(json!(1), json!(0)), "");
        assert_eq!(
            rolling(json!(1), json!("5%")),
            "u.rollingUpdate.maxSurge: Invalid value: \"5%\": may not be set when maxUnavailable is non-zero"
        );
        assert_eq!(
            rolling(json!("0%"), json!(0)),
            "u.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0"
        );
        assert_eq!(
            told(json!({"type": "Y"})),
            "u: Unsupported value: {\"Type\":\"Y\",\"RollingUpdate\":null}: supported values: \"RollingUpdate\", \"OnDelete\""
        );
    }
}
