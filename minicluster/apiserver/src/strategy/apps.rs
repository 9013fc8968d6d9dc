//! Workload controllers' objects: Deployment, ReplicaSet, StatefulSet, DaemonSet, ReplicationController,
//! ControllerRevision.
//!
//! Source: `pkg/apis/apps/v1/defaults.go`, `pkg/apis/apps/validation/validation.go`.

pub(super) mod checks;

use serde_json::{Value, json};
use windlass_crd::{
    field::{self, Error, ErrorList},
    name,
};

use super::{Column, Part, Strategy, columns, internal, pod_defaults, pod_spec::not_negative, warnings};
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

/// A field that may not change once it is set.
pub(super) fn immutable(obj: &Value, old: &Value, way: &[&'static str], errors: &mut ErrorList) {
    let (new, old) = (object::at(obj, way), object::at(old, way));
    if new != old {
        let path = way.iter().fold(field::EMPTY, |path, name| path.child(*name));
        errors.push(Error::invalid(path, new.cloned().unwrap_or_default(), "field is immutable"));
    }
}

impl Strategy for Deployment {
    fn warnings(&self, obj: &Value) -> Vec<String> {
        warnings::workload(obj)
    }

    fn update_warnings(&self, part: Part, obj: &Value, old: &Value) -> Vec<String> {
        warnings::changed_workload(part, obj, old)
    }

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
        checks::deployment(obj)
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value) -> ErrorList {
        match part {
            Part::Main => {
                let mut errors = self.validate(obj);
                selector_stays(obj, old, &mut errors);
                errors
            }
            Part::Status => checks::status(&checks::DEPLOYMENT_COUNTS, obj, old),
            _ => ErrorList::new(),
        }
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

/// The selector of a workload stays as it was created.
fn selector_stays(obj: &Value, old: &Value, errors: &mut ErrorList) {
    let selector = object::at(obj, &["spec", "selector"]).unwrap_or(&Value::Null);
    if selector != object::at(old, &["spec", "selector"]).unwrap_or(&Value::Null) {
        let at = field::root("spec").child("selector");
        errors.push(internal::invalid(&at, "*LabelSelector", selector, "field is immutable"));
    }
}

/// Where DaemonSets count the changes of their template: a field once, an annotation today.
const TEMPLATE_GENERATION: [&str; 3] =
    ["metadata", "annotations", "deprecated.daemonset.template.generation"];

fn ready_of(obj: &Value, ready: &[&str]) -> String {
    let wanted = object::number(obj, &["spec", "replicas"]).unwrap_or(0);
    format!("{}/{wanted}", object::number(obj, ready).unwrap_or(0))
}

impl Strategy for ReplicaSet {
    fn warnings(&self, obj: &Value) -> Vec<String> {
        warnings::workload(obj)
    }

    fn update_warnings(&self, part: Part, obj: &Value, old: &Value) -> Vec<String> {
        warnings::changed_workload(part, obj, old)
    }

    fn default(&self, obj: &mut Value) {
        default_template(obj);
    }

    fn prepare_create(&self, obj: &mut Value) {
        object::set(obj, &["status"], json!({"replicas": 0}));
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        checks::replica_set(obj)
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value) -> ErrorList {
        match part {
            Part::Main => {
                let mut errors = self.validate(obj);
                selector_stays(obj, old, &mut errors);
                errors
            }
            Part::Status => checks::status(&checks::REPLICA_COUNTS, obj, old),
            _ => ErrorList::new(),
        }
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
    fn warnings(&self, obj: &Value) -> Vec<String> {
        warnings::workload(obj)
    }

    fn update_warnings(&self, part: Part, obj: &Value, old: &Value) -> Vec<String> {
        warnings::changed_workload(part, obj, old)
    }

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
        checks::replication_controller(obj)
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value) -> ErrorList {
        match part {
            Part::Main => self.validate(obj),
            Part::Status => checks::status(&checks::REPLICA_COUNTS, obj, old),
            _ => ErrorList::new(),
        }
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
    fn warnings(&self, obj: &Value) -> Vec<String> {
        let mut out = warnings::template(obj, &["spec", "template"]);
        if object::number(obj, &["spec", "revisionHistoryLimit"]).is_some_and(|limit| limit < 0) {
            let why = "a negative value retains all historical revisions; a value >= 0 is recommended";
            out.push(format!("spec.revisionHistoryLimit: {why}"));
        }
        out
    }

    fn update_warnings(&self, part: Part, obj: &Value, old: &Value) -> Vec<String> {
        if part == Part::Main && !warnings::is_same(obj, old) { self.warnings(obj) } else { Vec::new() }
    }

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
        checks::stateful_set(obj, false)
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
        match part {
            Part::Main => {}
            Part::Status => return checks::status(&checks::STATEFUL_COUNTS, obj, old),
            _ => return ErrorList::new(),
        }
        let mut errors = checks::stateful_set(obj, true);
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
        name::dns1123_label(name)
    }

    fn columns(&self) -> Option<Vec<Column>> {
        let mut out =
            vec![columns::made("Ready", |o| ready_of(o, &["status", "readyReplicas"])), columns::age()];
        out.extend(columns::template(&["spec", "selector"]).into_iter().take(2));
        Some(out)
    }
}

impl Strategy for DaemonSet {
    fn warnings(&self, obj: &Value) -> Vec<String> {
        warnings::template(obj, &["spec", "template"])
    }

    fn update_warnings(&self, part: Part, obj: &Value, old: &Value) -> Vec<String> {
        warnings::changed_workload(part, obj, old)
    }

    fn hidden_annotation(&self) -> Option<&'static str> {
        Some(TEMPLATE_GENERATION[2])
    }

    fn default(&self, obj: &mut Value) {
        default_template(obj);
        if object::text(obj, &["spec", "updateStrategy", "type"]) == "RollingUpdate"
            && object::at(obj, &["spec", "updateStrategy", "rollingUpdate"]).is_none()
        {
            let one = json!({"maxSurge": 0, "maxUnavailable": 1});
            object::set(obj, &["spec", "updateStrategy", "rollingUpdate"], one);
        }
        if object::text(obj, &TEMPLATE_GENERATION).is_empty() {
            object::set(obj, &TEMPLATE_GENERATION, "0");
        }
    }

    fn prepare_update(&self, part: Part, obj: &mut Value, old: &Value) {
        let before: i64 = object::text(old, &TEMPLATE_GENERATION).parse().unwrap_or(0);
        let changed = part == Part::Main && obj.pointer("/spec/template") != old.pointer("/spec/template");
        object::set(obj, &TEMPLATE_GENERATION, (before + i64::from(changed)).to_string());
    }

    fn prepare_create(&self, obj: &mut Value) {
        let zero = json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0});
        object::set(obj, &["status"], zero);
        object::set(obj, &TEMPLATE_GENERATION, "1");
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        checks::daemon_set(obj)
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value) -> ErrorList {
        match part {
            Part::Main => {
                let mut errors = ErrorList::new();
                selector_stays(obj, old, &mut errors);
                errors.extend(self.validate(obj));
                errors
            }
            Part::Status => checks::status(&checks::DAEMON_COUNTS, obj, old),
            _ => ErrorList::new(),
        }
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
        match object::at(obj, &["data"]) {
            None => errors.push(Error::required(field::root("data"), "data is mandatory")),
            Some(Value::Object(_)) => {}
            Some(_) => {
                errors.push(Error::required(field::root("data"), "data must be a valid JSON object"));
            }
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
                "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30, "containers": [{"name": "c", "image": "i",
                "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}]}}}})
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
        let text = faults(&ReplicaSet, &obj);
        assert!(
            text.starts_with("spec.selector: Required value\nspec.template.metadata.labels: Invalid value"),
            "{text}"
        );
        obj["spec"]["selector"] = json!({});
        assert_eq!(
            faults(&ReplicaSet, &obj),
            "spec.selector: Invalid value: {}: empty selector is invalid for deployment\n"
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
