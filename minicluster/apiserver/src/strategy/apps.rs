//! Workload controllers' objects: Deployment, ReplicaSet, StatefulSet, DaemonSet, ReplicationController,
//! ControllerRevision.
//!
//! Source: `pkg/apis/apps/v1/defaults.go`, `pkg/apis/apps/validation/validation.go`.

use serde_json::{Value, json};
use windlass_crd::{
    field::{self, Error, ErrorList, Path},
    int_or_string::IntOrString,
    name,
    selector::{LabelSelector, validate_label_selector},
};

use super::{
    Column, Part, Strategy, columns, pod_defaults,
    pod_spec::{self, not_negative},
};
use crate::object;

/// Deployment.
pub(crate) struct Deployment;
/// ReplicaSet.
pub(crate) struct ReplicaSet;
/// StatefulSet.
pub(crate) struct StatefulSet;
/// DaemonSet.
pub(crate) struct DaemonSet;
/// ReplicationController.
pub(crate) struct ReplicationController;
/// ControllerRevision.
pub(crate) struct ControllerRevision;

/// Completes the pod template of a workload.
pub(super) fn default_template(obj: &mut Value) {
    if let Some(spec) = obj.pointer_mut("/spec/template/spec") {
        pod_defaults::spec(spec);
    }
}

/// Checks selector and template of a workload whose pods restart always.
fn validate_template(obj: &Value, kind: &str, errors: &mut ErrorList) {
    let path = field::root("spec");
    let spec = obj.get("spec").unwrap_or(&Value::Null);
    let template = path.child("template");
    match object::at(spec, &["selector"]) {
        None => {
            errors.push(Error::required(path.child("selector"), ""));
        }
        Some(selector) => {
            errors.extend(validate_label_selector(selector, &path.child("selector")));
            let parsed = LabelSelector::from_json(Some(selector)).unwrap_or_default();
            if parsed.is_empty() {
                let detail = format!("empty selector is invalid for {kind}");
                errors.push(Error::invalid(path.child("selector"), selector.clone(), detail));
            } else {
                matches_template(spec, &parsed, &template, errors);
            }
        }
    }
    validate_labels(spec, &template, errors);
    let pod = object::at(spec, &["template", "spec"]).unwrap_or(&Value::Null);
    errors.extend(pod_spec::validate(pod, &template.child("spec")));
    let restart = object::text(pod, &["restartPolicy"]);
    if matches!(restart, "OnFailure" | "Never") {
        errors.push(Error::not_supported(
            template.child("spec").child("restartPolicy"),
            restart,
            &["Always"],
        ));
    }
    if object::at(pod, &["activeDeadlineSeconds"]).is_some() {
        let detail = format!("activeDeadlineSeconds in {} is not Supported", capital(kind));
        errors.push(Error::forbidden(template.child("spec").child("activeDeadlineSeconds"), detail));
    }
}

fn capital(kind: &str) -> &str {
    match kind {
        "deployment" | "replicaset" => "ReplicaSet",
        "statefulset" => "StatefulSet",
        "daemonset" => "DaemonSet",
        other => other,
    }
}

fn matches_template(spec: &Value, selector: &LabelSelector, path: &Path, errors: &mut ErrorList) {
    let labels = object::at(spec, &["template", "metadata", "labels"]);
    if !selector.matches_value(labels) {
        let given = labels.cloned().unwrap_or_else(|| json!({}));
        let detail = "`selector` does not match template `labels`";
        errors.push(Error::invalid(path.child("metadata").child("labels"), given, detail));
    }
}

/// Checks the labels of a pod template.
pub(super) fn validate_labels(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let labels = object::at(spec, &["template", "metadata", "labels"]).and_then(Value::as_object);
    for (key, value) in labels.into_iter().flatten() {
        let at = path.child("labels");
        errors.extend(
            name::qualified_name_faults(key).into_iter().map(|why| Error::invalid(&at, key.as_str(), why)),
        );
        let value = value.as_str().unwrap_or_default();
        errors.extend(name::label_value_faults(value).into_iter().map(|why| Error::invalid(&at, value, why)));
    }
}

/// A field that may not change once it is set.
pub(super) fn immutable(obj: &Value, old: &Value, way: &[&'static str], errors: &mut ErrorList) {
    let (new, old) = (object::at(obj, way), object::at(old, way));
    if new != old {
        let path = way.iter().fold(field::EMPTY, |path, name| path.child(*name));
        errors.push(Error::invalid(path, new.cloned().unwrap_or_default(), "field is immutable"));
    }
}

/// A number of pods, or a percentage of them.
pub(super) fn count_or_percent(value: Option<&Value>, path: &Path, errors: &mut ErrorList) -> Option<i64> {
    let value = value.filter(|value| !value.is_null())?;
    match IntOrString::from_json(value) {
        Some(IntOrString::Int(number)) => {
            if number < 0 {
                errors.push(Error::invalid(path, number, "must be greater than or equal to 0"));
            }
            Some(i64::from(number))
        }
        Some(IntOrString::String(text)) => match name::percent(&text) {
            Ok(()) => text.trim_end_matches('%').parse().ok(),
            Err(why) => {
                errors.push(Error::invalid(path, text, why));
                None
            }
        },
        None => None,
    }
}

fn is_hundred_at_most(value: Option<&Value>, path: &Path, errors: &mut ErrorList) {
    let percent = value.and_then(IntOrString::from_json).and_then(|value| value.percent());
    if percent.is_some_and(|percent| percent > 100) {
        let given = value.cloned().unwrap_or_default();
        errors.push(Error::invalid(path, given, "must not be greater than 100%"));
    }
}

impl Strategy for Deployment {
    fn default(&self, obj: &mut Value) {
        default_template(obj);
        let strategy = &["spec", "strategy"];
        if object::text(obj, &["spec", "strategy", "type"]) == "RollingUpdate"
            && object::at(obj, strategy).is_some()
            && object::at(obj, &["spec", "strategy", "rollingUpdate"]).is_none()
        {
            let quarter = json!({"maxSurge": "25%", "maxUnavailable": "25%"});
            object::set(obj, &["spec", "strategy", "rollingUpdate"], quarter);
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let path = field::root("spec");
        let spec = obj.get("spec").unwrap_or(&Value::Null);
        let mut errors = ErrorList::new();
        not_negative(spec, "replicas", &path, &mut errors);
        validate_template(obj, "deployment", &mut errors);
        validate_strategy(spec, &path.child("strategy"), &mut errors);
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

    fn validate_update(&self, part: Part, obj: &Value, old: &Value) -> ErrorList {
        if part != Part::Main {
            return ErrorList::new();
        }
        let mut errors = self.validate(obj);
        immutable(obj, old, &["spec", "selector"], &mut errors);
        errors
    }

    fn columns(&self) -> Option<Vec<Column>> {
        let mut out = vec![
            columns::made("Ready", |o| ready_of(o, &["status", "readyReplicas"])),
            columns::number("Up-to-date", &["status", "updatedReplicas"]).typed("string"),
            columns::number("Available", &["status", "availableReplicas"]).typed("string"),
            columns::age(),
        ];
        out.extend(columns::template(&["spec", "selector"]));
        Some(out)
    }
}

fn ready_of(obj: &Value, ready: &[&str]) -> String {
    let wanted = object::number(obj, &["spec", "replicas"]).unwrap_or(0);
    format!("{}/{wanted}", object::number(obj, ready).unwrap_or(0))
}

fn validate_strategy(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let kind = object::text(spec, &["strategy", "type"]);
    let rolling = object::at(spec, &["strategy", "rollingUpdate"]);
    match kind {
        "Recreate" if rolling.is_some() => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(Error::forbidden(path.child("rollingUpdate"), detail));
        }
        "Recreate" => {}
        "RollingUpdate" => {
            let Some(rolling) = rolling else {
                errors.push(Error::required(
                    path.child("rollingUpdate"),
                    "this should be defaulted and never be nil",
                ));
                return;
            };
            let at = path.child("rollingUpdate");
            let (surge, unavailable) = (rolling.get("maxSurge"), rolling.get("maxUnavailable"));
            let down = count_or_percent(unavailable, &at.child("maxUnavailable"), errors);
            let up = count_or_percent(surge, &at.child("maxSurge"), errors);
            if down == Some(0) && up == Some(0) {
                let given = unavailable.cloned().unwrap_or_default();
                errors.push(Error::invalid(
                    at.child("maxUnavailable"),
                    given,
                    "may not be 0 when `maxSurge` is 0",
                ));
            }
            is_hundred_at_most(unavailable, &at.child("maxUnavailable"), errors);
        }
        "" => errors.push(Error::required(path.child("type"), "")),
        other => errors.push(Error::not_supported(path.child("type"), other, &["Recreate", "RollingUpdate"])),
    }
}

impl Strategy for ReplicaSet {
    fn default(&self, obj: &mut Value) {
        default_template(obj);
    }

    fn prepare_create(&self, obj: &mut Value) {
        object::set(obj, &["status"], json!({"replicas": 0}));
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let path = field::root("spec");
        let spec = obj.get("spec").unwrap_or(&Value::Null);
        let mut errors = ErrorList::new();
        not_negative(spec, "replicas", &path, &mut errors);
        not_negative(spec, "minReadySeconds", &path, &mut errors);
        validate_template(obj, "replicaset", &mut errors);
        errors
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value) -> ErrorList {
        if part != Part::Main {
            return ErrorList::new();
        }
        let mut errors = self.validate(obj);
        immutable(obj, old, &["spec", "selector"], &mut errors);
        errors
    }

    fn columns(&self) -> Option<Vec<Column>> {
        Some(replica_columns())
    }

    fn fields(&self) -> &'static [(&'static str, fn(&Value) -> String)] {
        &[("status.replicas", |o| object::number(o, &["status", "replicas"]).unwrap_or(0).to_string())]
    }
}

fn replica_columns() -> Vec<Column> {
    let mut out = vec![
        columns::number("Desired", &["spec", "replicas"]),
        columns::number("Current", &["status", "replicas"]),
        columns::number("Ready", &["status", "readyReplicas"]),
        columns::age(),
    ];
    out.extend(columns::template(&["spec", "selector"]));
    out
}

impl Strategy for ReplicationController {
    fn default(&self, obj: &mut Value) {
        default_template(obj);
        let Some(labels) = object::at(obj, &["spec", "template", "metadata", "labels"]).cloned() else {
            return;
        };
        if object::at(obj, &["spec", "selector"]).is_none() {
            object::set(obj, &["spec", "selector"], labels.clone());
        }
        if object::at(obj, &["metadata", "labels"]).is_none() {
            object::set(obj, &["metadata", "labels"], labels);
        }
    }

    fn prepare_create(&self, obj: &mut Value) {
        object::set(obj, &["status"], json!({"replicas": 0}));
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let path = field::root("spec");
        let spec = obj.get("spec").unwrap_or(&Value::Null);
        let mut errors = ErrorList::new();
        not_negative(spec, "replicas", &path, &mut errors);
        not_negative(spec, "minReadySeconds", &path, &mut errors);
        let selector = LabelSelector::from_map_value(object::at(spec, &["selector"]));
        let template = path.child("template");
        if selector.is_nothing() || selector.is_empty() {
            errors.push(Error::required(path.child("selector"), ""));
        } else {
            matches_template(spec, &selector, &template, &mut errors);
        }
        validate_labels(spec, &template, &mut errors);
        let pod = object::at(spec, &["template", "spec"]).unwrap_or(&Value::Null);
        errors.extend(pod_spec::validate(pod, &template.child("spec")));
        errors
    }

    fn default_propagation(&self) -> &'static str {
        "Orphan"
    }

    fn columns(&self) -> Option<Vec<Column>> {
        Some(replica_columns())
    }

    fn fields(&self) -> &'static [(&'static str, fn(&Value) -> String)] {
        ReplicaSet.fields()
    }
}

impl Strategy for StatefulSet {
    fn default(&self, obj: &mut Value) {
        default_template(obj);
        if object::text(obj, &["spec", "updateStrategy", "type"]) == "RollingUpdate"
            && object::at(obj, &["spec", "updateStrategy", "rollingUpdate"]).is_none()
        {
            object::set(obj, &["spec", "updateStrategy", "rollingUpdate"], json!({"partition": 0}));
        }
        let Some(spec) = obj.get_mut("spec") else { return };
        for claim in pod_defaults::items(spec, "volumeClaimTemplates") {
            object::set(claim, &["apiVersion"], "v1");
            object::set(claim, &["kind"], "PersistentVolumeClaim");
        }
    }

    fn prepare_create(&self, obj: &mut Value) {
        object::set(obj, &["status"], json!({"replicas": 0, "availableReplicas": 0}));
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let path = field::root("spec");
        let spec = obj.get("spec").unwrap_or(&Value::Null);
        let mut errors = ErrorList::new();
        pod_spec::one_of(spec, "podManagementPolicy", &["OrderedReady", "Parallel"], &path, &mut errors);
        let strategy = spec.get("updateStrategy").unwrap_or(&Value::Null);
        let at = path.child("updateStrategy");
        match object::text(strategy, &["type"]) {
            "" => errors.push(Error::required(&at, "")),
            "OnDelete" if object::at(strategy, &["rollingUpdate"]).is_some() => {
                let given = strategy["rollingUpdate"].clone();
                let detail = "only allowed for updateStrategy 'RollingUpdate'";
                errors.push(Error::invalid(at.child("rollingUpdate"), given, detail));
            }
            "OnDelete" | "RollingUpdate" => {}
            other => {
                let detail = "must be 'RollingUpdate' or 'OnDelete'";
                errors.push(Error::invalid(&at, json!({"type": other}), detail));
            }
        }
        for field in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
            not_negative(spec, field, &path, &mut errors);
        }
        validate_template(obj, "statefulset", &mut errors);
        errors
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value) -> ErrorList {
        const FREE: [&str; 7] = [
            "replicas",
            "ordinals",
            "template",
            "updateStrategy",
            "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
            "minReadySeconds",
        ];
        if part != Part::Main {
            return ErrorList::new();
        }
        let mut errors = self.validate(obj);
        let fixed = |obj: &Value| {
            let mut spec = obj.get("spec").and_then(Value::as_object).cloned().unwrap_or_default();
            spec.retain(|field, _| !FREE.contains(&field.as_str()));
            spec
        };
        if fixed(obj) != fixed(old) {
            let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                'minReadySeconds' are forbidden";
            errors.push(Error::forbidden(field::root("spec"), detail));
        }
        errors
    }

    fn check_name(&self, name: &str) -> Result<(), String> {
        name::dns1123_subdomain(name)
    }

    fn columns(&self) -> Option<Vec<Column>> {
        let mut out =
            vec![columns::made("Ready", |o| ready_of(o, &["status", "readyReplicas"])), columns::age()];
        out.extend(columns::template(&["spec", "selector"]).into_iter().take(2));
        Some(out)
    }
}

impl Strategy for DaemonSet {
    fn default(&self, obj: &mut Value) {
        default_template(obj);
        if object::text(obj, &["spec", "updateStrategy", "type"]) == "RollingUpdate"
            && object::at(obj, &["spec", "updateStrategy", "rollingUpdate"]).is_none()
        {
            let one = json!({"maxSurge": 0, "maxUnavailable": 1});
            object::set(obj, &["spec", "updateStrategy", "rollingUpdate"], one);
        }
    }

    fn prepare_create(&self, obj: &mut Value) {
        let zero = json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0});
        object::set(obj, &["status"], zero);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let path = field::root("spec");
        let spec = obj.get("spec").unwrap_or(&Value::Null);
        let mut errors = ErrorList::new();
        validate_template(obj, "daemonset", &mut errors);
        not_negative(spec, "minReadySeconds", &path, &mut errors);
        not_negative(spec, "revisionHistoryLimit", &path, &mut errors);
        let at = path.child("updateStrategy");
        let kind = object::text(spec, &["updateStrategy", "type"]);
        if !matches!(kind, "OnDelete" | "RollingUpdate") {
            errors.push(Error::not_supported(at.child("type"), kind, &["OnDelete", "RollingUpdate"]));
        }
        let rolling = object::at(spec, &["updateStrategy", "rollingUpdate"]);
        for field in ["maxUnavailable", "maxSurge"] {
            let value = rolling.and_then(|rolling| rolling.get(field));
            count_or_percent(value, &at.child("rollingUpdate").child(field), &mut errors);
        }
        errors
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value) -> ErrorList {
        if part != Part::Main {
            return ErrorList::new();
        }
        let mut errors = self.validate(obj);
        immutable(obj, old, &["spec", "selector"], &mut errors);
        errors
    }

    fn columns(&self) -> Option<Vec<Column>> {
        let mut out = vec![
            columns::number("Desired", &["status", "desiredNumberScheduled"]),
            columns::number("Current", &["status", "currentNumberScheduled"]),
            columns::number("Ready", &["status", "numberReady"]),
            columns::number("Up-to-date", &["status", "updatedNumberScheduled"]),
            columns::number("Available", &["status", "numberAvailable"]),
            columns::made("Node Selector", |o| {
                columns::selector(object::at(o, &["spec", "template", "spec", "nodeSelector"]))
            }),
            columns::age(),
        ];
        out.extend(columns::template(&["spec", "selector"]));
        Some(out)
    }
}

impl Strategy for ControllerRevision {
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        not_negative(obj, "revision", &field::EMPTY, &mut errors);
        if object::at(obj, &["data"]).is_none() {
            errors.push(Error::required(field::root("data"), "data is mandatory"));
        }
        errors
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(obj);
        if part == Part::Main {
            immutable(obj, old, &["data"], &mut errors);
        }
        errors
    }

    fn columns(&self) -> Option<Vec<Column>> {
        let controller = |obj: &Value| {
            let owners = object::list(obj, &["metadata", "ownerReferences"]);
            let Some(owner) =
                owners.iter().find(|o| object::at(o, &["controller"]) == Some(&Value::Bool(true)))
            else {
                return "<none>".to_owned();
            };
            let kind = object::text(owner, &["kind"]).to_lowercase();
            let group =
                object::text(owner, &["apiVersion"]).split_once('/').map(|(group, _)| format!(".{group}"));
            format!("{kind}{}/{}", group.unwrap_or_default(), object::text(owner, &["name"]))
        };
        Some(vec![
            columns::made("Controller", controller),
            columns::number("Revision", &["revision"]).typed("string"),
            columns::age(),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn deployment() -> Value {
        json!({"spec": {"replicas": 1, "progressDeadlineSeconds": 600, "selector": {"matchLabels": {"a": "b"}},
            "strategy": {"type": "RollingUpdate"},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Always",
                "containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always"}]}}}})
    }

    fn faults(strategy: &dyn Strategy, obj: &Value) -> String {
        strategy.validate(obj).iter().map(|e| format!("{e}\n")).collect()
    }

    #[test]
    fn deployments_default_and_pass() {
        let mut obj = deployment();
        Deployment.default(&mut obj);
        assert_eq!(
            obj["spec"]["strategy"]["rollingUpdate"],
            json!({"maxSurge": "25%", "maxUnavailable": "25%"})
        );
        assert_eq!(faults(&Deployment, &obj), "");
    }

    #[test]
    fn faults_are_upstreams() {
        let mut obj = deployment();
        obj["spec"]["replicas"] = json!(-1);
        obj["spec"]["template"]["metadata"]["labels"] = json!({"a": "c"});
        obj["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
        obj["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": 0, "maxUnavailable": "0%"});
        obj["spec"]["minReadySeconds"] = json!(700);
        expect![[r#"
            spec.replicas: Invalid value: -1: must be greater than or equal to 0
            spec.template.metadata.labels: Invalid value: {"a":"c"}: `selector` does not match template `labels`
            spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"
            spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "0%": may not be 0 when `maxSurge` is 0
            spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds
        "#]]
        .assert_eq(&faults(&Deployment, &obj));
        let mut obj = deployment();
        obj["spec"].as_object_mut().unwrap().remove("selector");
        assert_eq!(faults(&ReplicaSet, &obj), "spec.selector: Required value\n");
        obj["spec"]["selector"] = json!({});
        assert_eq!(
            faults(&ReplicaSet, &obj),
            "spec.selector: Invalid value: {}: empty selector is invalid for replicaset\n"
        );
    }

    #[test]
    fn selectors_stay() {
        let mut new = deployment();
        Deployment.default(&mut new);
        let old = new.clone();
        new["spec"]["selector"]["matchLabels"]["a"] = json!("c");
        new["spec"]["template"]["metadata"]["labels"]["a"] = json!("c");
        let errors: Vec<String> =
            Deployment.validate_update(Part::Main, &new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            ["spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"c\"}}: field is immutable"]
        );
    }
}
