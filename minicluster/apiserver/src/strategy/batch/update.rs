//! What may change of a Job.
//!
//! Source: `ValidateJobSpecUpdate`, `validationOptionsForJob` of `pkg/registry/batch/job`, KEP-5440.

use serde_json::Value;
use windlass_crd::field::{self, Error, ErrorList, Path};

use super::{
    super::internal,
    INDEXED,
    checks::{job, spec_of, whole_spec},
    condition,
};
use crate::object;

/// A change of a Job.
pub(super) fn job_update(obj: &Value, old: &Value) -> ErrorList {
    let path = field::root("spec");
    let mut errors = job(obj);
    let (new, before) = (spec_of(obj), spec_of(old));
    whole_spec(new, &path, &mut errors);
    let value = |spec: &Value, field: &str| object::at(spec, &[field]).cloned().unwrap_or_default();
    let completions = value(new, "completions");
    if completions != value(before, "completions") {
        let at = path.child("completions");
        if object::text(new, &["completionMode"]) != INDEXED {
            errors.push(Error::invalid(at, completions, "field is immutable"));
        } else if !completions.is_null() && completions != value(new, "parallelism") {
            let detail = "can only be modified in tandem with spec.parallelism";
            errors.push(Error::invalid(at, completions, detail));
        }
    }
    let fixed = |field: &'static str, kind: &'static str, errors: &mut ErrorList| {
        let given = value(new, field);
        if given != value(before, field) {
            errors.push(internal::invalid(&path.child(field), kind, &given, "field is immutable"));
        }
    };
    fixed("selector", "*LabelSelector", &mut errors);
    template_stays(new, old, &path, &mut errors);
    fixed("completionMode", "v", &mut errors);
    fixed("podFailurePolicy", "*PodFailurePolicy", &mut errors);
    fixed("backoffLimitPerIndex", "v", &mut errors);
    fixed("managedBy", "v", &mut errors);
    fixed("successPolicy", "*SuccessPolicy", &mut errors);
    errors
}

/// The template stays; where pods go and what they ask for may change while a Job is suspended and has no pods of the
/// old one any more.
fn template_stays(new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    const FREE: [&[&str]; 6] = [
        &["spec", "affinity", "nodeAffinity"],
        &["spec", "nodeSelector"],
        &["spec", "tolerations"],
        &["spec", "schedulingGates"],
        &["metadata", "annotations"],
        &["metadata", "labels"],
    ];
    let before = spec_of(old);
    let suspended = object::at(before, &["suspend"]) == Some(&Value::Bool(true));
    let mutable = suspended
        && object::number(old, &["status", "active"]).unwrap_or(0) == 0
        && (object::at(old, &["status", "startTime"]).is_none() || condition(old, "Suspended").is_some());
    let template = new.get("template").cloned().unwrap_or_default();
    let mut was = before.get("template").cloned().unwrap_or_default();
    if mutable {
        for way in FREE {
            match object::at(&template, way) {
                Some(value) => object::set(&mut was, way, value.clone()),
                None => {
                    object::remove(&mut was, way);
                }
            }
        }
        let bare = |template: &Value| {
            object::at(template, &["spec", "affinity"])
                .and_then(Value::as_object)
                .is_some_and(serde_json::Map::is_empty)
        };
        if bare(&was) && !bare(&template) {
            object::remove(&mut was, &["spec", "affinity"]);
        }
        take_resources(&template, &mut was);
        let (spec, kept) = (template.get("spec"), was.get("spec"));
        if spec != kept {
            let at = path.child("template.spec");
            let given = spec.cloned().unwrap_or_default();
            errors.push(internal::invalid(&at, "PodSpec", &given, "field is immutable"));
        }
        return;
    }
    if template != was {
        let at = path.child("template");
        errors.push(internal::invalid(&at, "PodTemplateSpec", &template, "field is immutable"));
    }
}

fn take_resources(template: &Value, was: &mut Value) {
    for list in ["containers", "initContainers"] {
        let new = object::list(template, &["spec", list]).to_vec();
        let Some(Value::Array(old)) = was.pointer_mut(&format!("/spec/{list}")) else { continue };
        if old.len() != new.len() {
            continue;
        }
        for (old, new) in old.iter_mut().zip(&new).filter(|(old, new)| old["name"] == new["name"]) {
            match new.get("resources") {
                Some(resources) => old["resources"] = resources.clone(),
                None => {
                    object::remove(old, &["resources"]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_change_while_nothing_runs_of_them() {
        let changed = |suspend: bool, status: Value, way: &[&str], value: Value| {
            let pod = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]});
            let spec = json!({"suspend": suspend, "template": {"spec": pod}});
            let old = json!({"spec": spec, "status": status});
            let mut new = spec.clone();
            object::set(&mut new, way, value);
            let mut errors = ErrorList::new();
            template_stays(&new, &old, &field::root("s"), &mut errors);
            errors.first().map_or(String::new(), |error| error.path.clone())
        };
        let nodes = ["template", "spec", "nodeSelector"];
        let change = |suspend: bool, status: Value| changed(suspend, status, &nodes, json!({"zone": "a"}));
        let started = |more: Value| {
            let mut status = json!({"startTime": "2026-01-01T00:00:00Z"});
            for (key, value) in more.as_object().unwrap() {
                status[key] = value.clone();
            }
            status
        };
        let suspended = json!([{"type": "Suspended", "status": "True"}]);
        assert_eq!(change(false, json!({})), "s.template");
        assert_eq!(change(true, json!({})), "");
        assert_eq!(change(true, json!({"active": 1})), "s.template");
        assert_eq!(change(true, started(json!({}))), "s.template");
        assert_eq!(change(true, started(json!({"conditions": suspended}))), "");
        assert_eq!(change(true, started(json!({"conditions": suspended, "active": 2}))), "s.template");
        let image = ["template", "spec", "restartPolicy"];
        assert_eq!(changed(true, json!({}), &image, json!("OnFailure")), "s.template.spec");
    }
}
