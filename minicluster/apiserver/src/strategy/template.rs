//! Templates of pods, and the annotations that a pod's fields depend on.
//!
//! Source: `ValidatePodTemplateSpec`, `ValidatePodSpecificAnnotations`, `validateSeccompAnnotationsAndFields`,
//! `validateAppArmorAnnotationsAndFieldsMatchOnCreate`.

use serde_json::{Map, Value};
use windlass_crd::field::{Error, ErrorList, Path};

use super::{
    container::each,
    pod_spec::{self, labels},
    volumes::descending,
};
use crate::{object, validate as metadata_rules};

const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// What is wrong with the template of pods in a field of `holder`.
pub(super) fn validate(holder: &Value, field: &'static str, path: &Path, errors: &mut ErrorList) {
    metadata(holder, field, path, errors);
    let template = holder.get(field).unwrap_or(&Value::Null);
    let spec = template.get("spec").unwrap_or(&Value::Null);
    let path = path.child(field).child("spec");
    errors.extend(pod_spec::validate(spec, &path));
    security_annotations(template, &path, errors);
    if !object::list(spec, &["ephemeralContainers"]).is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        errors.push(Error::forbidden(path.child("ephemeralContainers"), detail));
    }
}

/// Labels and annotations of a template. Upstream names them without `metadata`.
pub(super) fn metadata(holder: &Value, field: &'static str, path: &Path, errors: &mut ErrorList) {
    let template = holder.get(field).unwrap_or(&Value::Null);
    let path = path.child(field);
    labels(object::at(template, &["metadata", "labels"]), &path.child("labels"), errors);
    let at = path.child("annotations");
    metadata_rules::annotations(&at, object::at(template, &["metadata", "annotations"]), errors);
    annotations(template, &at, errors);
}

/// The metadata of a template of claims: labels and annotations, and nothing else.
pub(super) fn object_meta(template: &Value, path: &Path, errors: &mut ErrorList) {
    let given = template.get("metadata").unwrap_or(&Value::Null);
    metadata_rules::annotations(&path.child("annotations"), object::at(given, &["annotations"]), errors);
    labels(object::at(given, &["labels"]), &path.child("labels"), errors);
    for (field, value) in given.as_object().into_iter().flatten() {
        if !matches!(field.as_str(), "labels" | "annotations") && !value.is_null() {
            errors.push(Error::forbidden(path.child(field.clone()), "cannot be set"));
        }
    }
}

fn annotations_of(pod: &Value) -> impl Iterator<Item = (&str, &str)> {
    let map: Option<&Map<String, Value>> =
        object::at(pod, &["metadata", "annotations"]).and_then(Value::as_object);
    map.into_iter().flatten().map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()))
}

/// The annotations that mean something to pods.
pub(super) fn annotations(pod: &Value, path: &Path, errors: &mut ErrorList) {
    let text = |key: &str| annotations_of(pod).find(|(one, _)| *one == key).map(|(_, value)| value);
    if let Some(value) = text(MIRROR)
        && object::text(pod, &["spec", "nodeName"]).is_empty()
    {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        errors.push(Error::invalid(path.key(MIRROR), value, detail));
    }
    if let Some(cost) = text(DELETION_COST) {
        let odd =
            cost.starts_with('+') || (cost.len() > 1 && cost.starts_with('0')) || cost.starts_with("-0");
        if odd || cost.parse::<i32>().is_err() {
            errors.push(Error::invalid(path.key(DELETION_COST), cost, "must be a 32bit integer"));
        }
    }
    if let Some(profile) = text(SECCOMP_POD) {
        seccomp_annotation(profile, &path.child(SECCOMP_POD), errors);
    }
    for (key, profile) in annotations_of(pod).filter(|(key, _)| key.starts_with(SECCOMP_CONTAINER)) {
        seccomp_annotation(profile, &path.child(key.to_owned()), errors);
    }
    for (key, profile) in annotations_of(pod) {
        let Some(container) = key.strip_prefix(APP_ARMOR) else { continue };
        let mut found = false;
        if let Some(spec) = pod.get("spec") {
            each(spec, path, |one, _| found |= object::text(one, &["name"]) == container);
        }
        if !found {
            errors.push(Error::invalid(path.key(key), container, "container not found"));
        }
        let known = matches!(profile, "" | "runtime/default" | "unconfined");
        if !known && !profile.starts_with("localhost/") {
            let detail = format!("invalid AppArmor profile name: {profile:?}");
            errors.push(Error::invalid(path.key(key), profile, detail));
        }
    }
}

fn seccomp_annotation(profile: &str, path: &Path, errors: &mut ErrorList) {
    if matches!(profile, "runtime/default" | "docker/default" | "unconfined") {
        return;
    }
    match profile.strip_prefix("localhost/") {
        Some(file) => descending(file, path, errors),
        None => errors.push(Error::invalid(path, profile, "must be a valid seccomp profile")),
    }
}

/// Where annotations and fields say the same thing, they say the same.
pub(super) fn security_annotations(pod: &Value, path: &Path, errors: &mut ErrorList) {
    let text = |key: &str| annotations_of(pod).find(|(one, _)| *one == key).map(|(_, value)| value);
    let Some(spec) = pod.get("spec") else { return };
    let profile = object::at(spec, &["securityContext", "seccompProfile"]);
    if let (Some(profile), Some(annotation)) = (profile, text(SECCOMP_POD)) {
        let at = path.child("securityContext").child("seccompProfile");
        match_profile(annotation, profile, "seccomp", &at, errors);
    }
    each(spec, path, |container, at| {
        let profile = object::at(container, &["securityContext", "seccompProfile"]);
        let key = format!("{SECCOMP_CONTAINER}{}", object::text(container, &["name"]));
        if let (Some(profile), Some(annotation)) = (profile, text(&key)) {
            let at = at.child("securityContext").child("seccompProfile");
            match_profile(annotation, profile, "seccomp", &at, errors);
        }
    });
    if object::text(spec, &["os", "name"]) == "windows" {
        return;
    }
    let of_pod = object::at(spec, &["securityContext", "appArmorProfile"]);
    each(spec, path, |container, at| {
        let profile = object::at(container, &["securityContext", "appArmorProfile"]).or(of_pod);
        let key = format!("{APP_ARMOR}{}", object::text(container, &["name"]));
        if let (Some(profile), Some(annotation)) = (profile, text(&key)) {
            let at = at.child("securityContext").child("appArmorProfile");
            match_profile(annotation, profile, "apparmor", &at, errors);
        }
    });
}

fn match_profile(annotation: &str, profile: &Value, what: &str, path: &Path, errors: &mut ErrorList) {
    let differs = |part: &'static str, word: &str| {
        let detail = format!("{what} {word} in annotation and field must match");
        Error::forbidden(path.child(part), detail)
    };
    let same = match object::text(profile, &["type"]) {
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => {
            annotation == "runtime/default" || (what == "seccomp" && annotation == "docker/default")
        }
        "Localhost" => match annotation.strip_prefix("localhost/") {
            None => false,
            Some(file) => {
                let local = object::at(profile, &["localhostProfile"]).and_then(Value::as_str);
                if local != Some(file) {
                    errors.push(differs("localhostProfile", "profile"));
                }
                true
            }
        },
        _ => true,
    };
    if !same {
        errors.push(differs("type", "type"));
    }
}

/// What an update may not do with annotations.
pub(super) fn annotation_changes(pod: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    let text = |pod: &Value, key: &str| {
        annotations_of(pod).find(|(one, _)| *one == key).map(|(_, value)| value.to_owned())
    };
    for (key, _) in annotations_of(old).filter(|(key, value)| text(pod, key).as_deref() != Some(*value)) {
        if key.starts_with(APP_ARMOR) {
            let detail = "may not remove or update AppArmor annotations";
            errors.push(Error::forbidden(path.key(key), detail));
        }
        if key == MIRROR {
            let detail = "may not remove or update mirror pod annotation";
            errors.push(Error::forbidden(path.key(key), detail));
        }
    }
    for (key, _) in annotations_of(pod).filter(|(key, _)| text(old, key).is_none()) {
        if key.starts_with(APP_ARMOR) {
            errors.push(Error::forbidden(path.key(key), "may not add AppArmor annotations"));
        }
        if key == MIRROR {
            errors.push(Error::forbidden(path.key(key), "may not add mirror pod annotation"));
        }
    }
    annotations(pod, path, errors);
}

/// True for a pod that a node runs by itself.
pub(super) fn is_static(pod: &Value) -> bool {
    annotations_of(pod).any(|(key, _)| key == MIRROR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use windlass_crd::field;

    fn told_of(check: impl Fn(&mut ErrorList)) -> String {
        let mut errors = ErrorList::new();
        check(&mut errors);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn annotations_mean_something() {
        let told = |annotations: Value| {
            let pod =
                json!({"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "c"}]}});
            told_of(|errors| super::annotations(&pod, &field::root("a"), errors))
        };
        assert_eq!(told(json!({DELETION_COST: "-7", SECCOMP_POD: "localhost/a"})), "");
        assert_eq!(
            told(json!({DELETION_COST: "1.5"})),
            "a[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"1.5\": must be a 32bit integer"
        );
        assert_eq!(
            told(json!({MIRROR: "x"})),
            "a[kubernetes.io/config.mirror]: Invalid value: \"x\": must set spec.nodeName if mirror pod annotation is set"
        );
        assert_eq!(
            told(json!({"container.apparmor.security.beta.kubernetes.io/d": "bad"})),
            "a[container.apparmor.security.beta.kubernetes.io/d]: Invalid value: \"d\": container not found; \
             a[container.apparmor.security.beta.kubernetes.io/d]: Invalid value: \"bad\": invalid AppArmor profile name: \"bad\""
        );
    }

    #[test]
    fn fields_match_annotations() {
        let pod = json!({"metadata": {"annotations": {SECCOMP_POD: "unconfined"}},
            "spec": {"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}}});
        assert_eq!(
            told_of(|errors| security_annotations(&pod, &field::root("spec"), errors)),
            "spec.securityContext.seccompProfile.type: Forbidden: seccomp type in annotation and field must match"
        );
    }

    #[test]
    fn templates_name_their_metadata_shortly() {
        let holder = json!({"template": {"metadata": {"labels": {"a": "!"}, "annotations": {"b c": ""}}}});
        let told = told_of(|errors| metadata(&holder, "template", &field::root("spec"), errors));
        assert!(
            told.starts_with("spec.template.labels: Invalid value: \"!\": a valid label must be"),
            "{told}"
        );
        assert!(
            told.contains("; spec.template.annotations: Invalid value: \"b c\": name part must consist"),
            "{told}"
        );
        assert_eq!(
            told_of(|errors| object_meta(&json!({"metadata": {"name": "x"}}), &field::root("m"), errors)),
            "m.name: Forbidden: cannot be set"
        );
    }
}
