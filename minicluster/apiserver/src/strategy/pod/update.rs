//! What an update of a pod may change: of the pod itself, of its ephemeral containers, of its resources.
//!
//! Source: `ValidatePodUpdate`, `ValidatePodEphemeralContainersUpdate`, `ValidatePodResize`.

use serde_json::Value;
use windlass_crd::{
    field::{self, Error, ErrorList, Path},
    name,
};

use super::{
    super::{
        internal, pod_defaults,
        pod_spec::placement::{added_tolerations, removed_gates},
        template,
    },
    quality_of_service, validate_pod,
};
use crate::object;

const MUTABLE: &str = "pod updates may not change fields other than \
    `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
    `spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` \
    (allow it to be set to 1 if it was previously negative)";

fn spec_of(obj: &Value) -> &Value {
    obj.get("spec").unwrap_or(&Value::Null)
}

fn annotations(obj: &Value, old: &Value, errors: &mut ErrorList) {
    let path = field::root("metadata").child("annotations");
    template::annotation_changes(obj, old, &path, errors);
}

/// An update of a pod as a whole.
pub(super) fn main(obj: &Value, old: &Value) -> ErrorList {
    let path = field::root("spec");
    let mut errors = validate_pod(obj);
    annotations(obj, old, &mut errors);
    let (new, before) = (spec_of(obj), spec_of(old));
    for list in ["containers", "initContainers"] {
        if !same_containers(new, before, list, &path.child(list), &mut errors) {
            return errors;
        }
    }
    if !deadline(new, before, &path.child("activeDeadlineSeconds"), &mut errors) {
        return errors;
    }
    let lists = |field: &str| (object::list(new, &[field]), object::list(before, &[field]));
    let (tolerations, old_tolerations) = lists("tolerations");
    added_tolerations(tolerations, old_tolerations, &path.child("tolerations"), &mut errors);
    let (gates, old_gates) = lists("schedulingGates");
    removed_gates(gates, old_gates, &path.child("schedulingGates"), &mut errors);
    let mut masked = without_mutable(new, before);
    if !old_gates.is_empty() {
        gated(&mut masked, before, &path, &mut errors);
    }
    if !same_spec(&masked, before) {
        let difference = internal::difference("PodSpec", before, &masked);
        errors.push(Error::forbidden(&path, format!("{MUTABLE}\n{difference}")));
    }
    errors
}

/// Equal, but for amounts that are written in other ways and lists that are empty.
fn same_spec(a: &Value, b: &Value) -> bool {
    a == b || internal::shown("PodSpec", a) == internal::shown("PodSpec", b)
}

fn same_containers(new: &Value, old: &Value, list: &str, path: &Path, errors: &mut ErrorList) -> bool {
    let (containers, before) = (object::list(new, &[list]), object::list(old, &[list]));
    if containers.len() != before.len() {
        errors.push(Error::forbidden(path, "pod updates may not add or remove containers"));
        return false;
    }
    for (i, container) in containers.iter().enumerate() {
        let image = object::text(container, &["image"]);
        let at = path.index(i).child("image");
        if image.is_empty() {
            errors.push(Error::required(&at, ""));
        }
        if image.trim() != image {
            errors.push(Error::invalid(at, image, "must not have leading or trailing whitespace"));
        }
    }
    true
}

/// A deadline comes nearer, and does not go away. False: nothing else is to be said.
fn deadline(new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) -> bool {
    const FIELD: [&str; 1] = ["activeDeadlineSeconds"];
    match (object::number(new, &FIELD), object::number(old, &FIELD)) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            errors.push(Error::invalid(path, new, name::range_error(0, i32::MAX.into())));
            false
        }
        (Some(new), Some(old)) if new > old => {
            errors.push(Error::invalid(path, new, "must be less than or equal to previous value"));
            false
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(Error::invalid(path, Value::Null, detail));
            true
        }
        _ => true,
    }
}

fn take_back(spec: &mut Value, old: &Value, field: &str) {
    match old.get(field) {
        Some(value) => spec[field] = value.clone(),
        None => {
            object::remove(spec, &[field]);
        }
    }
}

/// The new spec, with what may change as it was before.
fn without_mutable(new: &Value, old: &Value) -> Value {
    let mut masked = new.clone();
    for list in ["containers", "initContainers"] {
        let before = object::list(old, &[list]).iter();
        for (container, old) in pod_defaults::items(&mut masked, list).zip(before) {
            take_back(container, old, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        take_back(&mut masked, old, field);
    }
    let grace = |spec: &Value| object::number(spec, &["terminationGracePeriodSeconds"]);
    if grace(old).is_some_and(|seconds| seconds < 0) && grace(&masked) == Some(1) {
        take_back(&mut masked, old, "terminationGracePeriodSeconds");
    }
    masked
}

/// Where a pod may run is narrowed as long as it waits at a gate.
fn gated(masked: &mut Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    let empty = serde_json::Map::new();
    let labels = |spec: &Value| {
        object::at(spec, &["nodeSelector"]).and_then(Value::as_object).unwrap_or(&empty).clone()
    };
    let (new, before) = (labels(masked), labels(old));
    if before.iter().any(|(key, value)| new.get(key) != Some(value)) {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        let given = Value::Object(new.clone());
        errors.push(Error::invalid(path.child("nodeSelector"), given, detail));
    }
    take_back(masked, old, "nodeSelector");
    let node = |spec: &Value| object::at(spec, &["affinity", "nodeAffinity"]).cloned();
    let (new, before) = (node(masked), node(old));
    if new == before {
        return;
    }
    narrows(new.as_ref(), before.as_ref(), &path.child("affinity").child("nodeAffinity"), errors);
    match before {
        Some(before) => object::set(masked, &["affinity", "nodeAffinity"], before),
        None => {
            object::remove(masked, &["affinity", "nodeAffinity"]);
            let bare = object::at(masked, &["affinity"])
                .and_then(Value::as_object)
                .is_some_and(serde_json::Map::is_empty);
            if bare && object::at(old, &["affinity"]).is_none() {
                object::remove(masked, &["affinity"]);
            }
        }
    }
}

fn narrows(new: Option<&Value>, old: Option<&Value>, path: &Path, errors: &mut ErrorList) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let required = |affinity: Option<&Value>| affinity.and_then(|a| object::at(a, &[REQUIRED])).cloned();
    let Some(before) = required(old) else { return };
    let at = path.child(REQUIRED).child("nodeSelectorTerms");
    let new = required(new).unwrap_or_default();
    let (terms, old_terms) =
        (object::list(&new, &["nodeSelectorTerms"]), object::list(&before, &["nodeSelectorTerms"]));
    if terms.len() != old_terms.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.push(internal::invalid(&at, "[]NodeSelectorTerm", &Value::from(terms.to_vec()), detail));
        return;
    }
    for (i, (term, old)) in terms.iter().zip(old_terms).enumerate() {
        let only_more = ["matchExpressions", "matchFields"].iter().all(|field| {
            let (new, old) = (object::list(term, &[field]), object::list(old, &[field]));
            new.len() >= old.len() && new.starts_with(old)
        });
        let bare = |term: &Value| {
            ["matchExpressions", "matchFields"].iter().all(|field| object::list(term, &[field]).is_empty())
        };
        if !only_more || (bare(old) && !bare(term)) {
            let detail = "only additions are allowed (no mutations or deletions)";
            errors.push(internal::invalid(&at.index(i), "NodeSelectorTerm", term, detail));
        }
    }
}

/// Ephemeral containers can be added, and nothing else.
pub(super) fn ephemeral(obj: &Value, old: &Value) -> ErrorList {
    if template::is_static(old) {
        let detail = "static pods do not support ephemeral containers";
        return vec![Error::forbidden(field::root(""), detail)];
    }
    let path = field::root("spec").child("ephemeralContainers");
    let mut errors = validate_pod(obj);
    annotations(obj, old, &mut errors);
    let new = object::list(obj, &["spec", "ephemeralContainers"]);
    for container in object::list(old, &["spec", "ephemeralContainers"]) {
        let name = object::text(container, &["name"]);
        let detail = match new.iter().rfind(|one| object::text(one, &["name"]) == name) {
            None => format!("existing ephemeral containers {name:?} may not be removed\n"),
            Some(same) if same == container => continue,
            Some(other) => {
                let difference = internal::difference("EphemeralContainer", container, other);
                format!("existing ephemeral containers {name:?} may not be changed\n{difference}")
            }
        };
        errors.push(Error::forbidden(&path, detail));
    }
    errors
}

/// Only CPU and memory change, and the class of service does not.
pub(super) fn resize(obj: &Value, old: &Value) -> ErrorList {
    let path = field::root("spec");
    let only = |detail: &str| vec![Error::forbidden(field::root(""), detail)];
    if template::is_static(old) {
        return only("static pods cannot be resized");
    }
    if object::text(old, &["spec", "os", "name"]) == "windows" {
        return only("windows pods cannot be resized");
    }
    let mut errors = validate_pod(obj);
    let class = object::text(old, &["status", "qosClass"]);
    let was = if class.is_empty() { quality_of_service(old) } else { class };
    if quality_of_service(obj) != was {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.push(Error::invalid(&path, object::text(obj, &["status", "qosClass"]), detail));
    }
    let running = object::list(old, &["status", "containerStatuses"])
        .iter()
        .find(|status| object::at(status, &["state", "running"]).is_some());
    if running.is_some_and(|status| object::at(status, &["resources"]).is_none()) {
        errors.push(Error::forbidden(&path, "Pod running on node without support for resize"));
    }
    let (new, before) = (spec_of(obj), spec_of(old));
    pod_level(new, before, &path, &mut errors);
    if !in_order(new, before, &path, &mut errors) {
        return errors;
    }
    for list in ["initContainers", "containers"] {
        let pairs = object::list(new, &[list]).iter().zip(object::list(before, &[list]));
        for (i, (container, old)) in pairs.enumerate() {
            let at = path.child(list).index(i).child("resources");
            for (field, what) in [("requests", "requests"), ("limits", "limits")] {
                if removed(container, old, &["resources", field]) {
                    let detail = format!("resource {what} cannot be removed");
                    errors.push(Error::forbidden(at.child(field), detail));
                }
            }
        }
    }
    for list in ["containers", "initContainers"] {
        let pairs = object::list(new, &[list]).iter().zip(object::list(before, &[list]));
        for (i, (container, old)) in pairs.enumerate() {
            let at = if list == "containers" { path.clone() } else { path.child(list).index(i) };
            if without_compute(container, old) != *old {
                let what = if list == "containers" { "" } else { " for init or sidecar containers" };
                let detail = format!("only cpu and memory resources{what} are mutable");
                errors.push(Error::forbidden(&at, detail));
            }
            let sidecar = object::text(container, &["restartPolicy"]) == "Always";
            if list == "initContainers" && !sidecar && container != old {
                for policy in object::list(container, &["resizePolicy"]) {
                    if object::text(policy, &["restartPolicy"]) == "RestartContainer" {
                        let detail = "non-sidecar init containers with a resize policy of RestartContainer cannot be \
                            resized";
                        errors.push(Error::forbidden(&at, detail));
                    }
                }
            }
        }
    }
    if errors.is_empty() {
        let rest = |spec: &Value| {
            let mut spec = spec.clone();
            for field in ["containers", "initContainers", "resources"] {
                object::remove(&mut spec, &[field]);
            }
            spec
        };
        if rest(new) != rest(before) {
            errors.push(Error::forbidden(&path, "only cpu and memory resources are mutable"));
        }
    }
    errors
}

fn amounts<'v>(obj: &'v Value, way: &[&str]) -> impl Iterator<Item = (&'v str, &'v Value)> {
    let map = object::at(obj, way).and_then(Value::as_object);
    map.into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

fn removed(new: &Value, old: &Value, way: &[&str]) -> bool {
    amounts(old, way).any(|(name, _)| !amounts(new, way).any(|(one, _)| one == name))
}

fn pod_level(new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    let set = |spec: &Value| {
        ["requests", "limits"].iter().any(|list| amounts(spec, &["resources", list]).next().is_some())
    };
    if !set(new) && !set(old) {
        return;
    }
    let at = path.child("resources");
    if object::at(old, &["resources"]).is_some() {
        if object::at(new, &["resources"]).is_none() {
            errors.push(Error::forbidden(at, "pod-level resources cannot be removed"));
            return;
        }
        for (field, what) in [("requests", "requests"), ("limits", "limits")] {
            if removed(new, old, &["resources", field]) {
                let detail = format!("pod-level resource {what} cannot be removed");
                errors.push(Error::forbidden(at.child(field), detail));
            }
        }
    }
    let holder =
        |spec: &Value| serde_json::json!({"resources": spec.get("resources").cloned().unwrap_or_default()});
    if others(&holder(new)) != others(&holder(old)) {
        errors.push(Error::forbidden(path, "only cpu and memory resources are mutable at pod-level"));
    }
}

/// What is asked for beside CPU and memory.
fn others(container: &Value) -> Vec<(&'static str, String, Value)> {
    let mut found = Vec::new();
    for list in ["limits", "requests"] {
        for (name, value) in amounts(container, &["resources", list]) {
            if !matches!(name, "cpu" | "memory") {
                found.push((list, name.to_owned(), value.clone()));
            }
        }
    }
    found
}

/// A container with CPU and memory as they were before.
fn without_compute(container: &Value, old: &Value) -> Value {
    let mut container = container.clone();
    if others(&container) == others(old) {
        take_back(&mut container, old, "resources");
    }
    container
}

fn in_order(new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) -> bool {
    let before = errors.len();
    for list in ["containers", "initContainers"] {
        let (containers, were) = (object::list(new, &[list]), object::list(old, &[list]));
        if containers.len() != were.len() {
            let detail = format!("{list} may not be added or removed on resize");
            errors.push(Error::forbidden(path.child(list), detail));
            continue;
        }
        for (i, (container, was)) in containers.iter().zip(were).enumerate() {
            if object::text(container, &["name"]) != object::text(was, &["name"]) {
                let detail = format!("{list} may not be renamed or reordered on resize");
                errors.push(Error::forbidden(path.child(list).index(i).child("name"), detail));
            }
        }
    }
    errors.len() == before
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: Value) -> Value {
        let mut base = json!({"terminationGracePeriodSeconds": 30, "restartPolicy": "Always", "dnsPolicy": "Default",
            "serviceAccountName": "a", "securityContext": {},
            "containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}]});
        for (key, value) in spec.as_object().unwrap() {
            base[key] = value.clone();
        }
        json!({"metadata": {"name": "p", "namespace": "n"}, "spec": base})
    }

    fn told(errors: ErrorList) -> String {
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_few_fields_may_change() {
        let old = pod(json!({}));
        let mut new = old.clone();
        new["spec"]["containers"][0]["image"] = json!("j");
        new["spec"]["tolerations"] = json!([{"key": "a", "operator": "Exists"}]);
        new["spec"]["activeDeadlineSeconds"] = json!(5);
        assert_eq!(told(main(&new, &old)), "");
        new["spec"]["containers"][0]["command"] = json!(["x"]);
        let text = told(main(&new, &old));
        assert!(text.starts_with("spec: Forbidden: pod updates may not change fields other than"), "{text}");
        assert!(text.ends_with("-   \"Command\": null,\n+   \"Command\": [\n+    \"x\"\n+   ],\n    \"Args\": null,\n    \"WorkingDir\": \"\",\n    \"Ports\": null,\n"), "{text}");
    }

    #[test]
    fn deadlines_and_gates_move_one_way() {
        let old = pod(json!({"activeDeadlineSeconds": 5}));
        assert_eq!(
            told(main(&pod(json!({"activeDeadlineSeconds": 6})), &old)),
            "spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value"
        );
        assert_eq!(
            told(main(&pod(json!({})), &old)),
            "spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value"
        );
        let old = pod(json!({"schedulingGates": [{"name": "g"}], "nodeSelector": {"a": "b"}}));
        let new = pod(json!({"nodeSelector": {"a": "b", "c": "d"}}));
        assert_eq!(told(main(&new, &old)), "");
        assert_eq!(
            told(main(&pod(json!({"nodeSelector": {"c": "d"}})), &old)),
            "spec.nodeSelector: Invalid value: {\"c\":\"d\"}: only additions to spec.nodeSelector are allowed (no mutations or \
             deletions)"
        );
    }

    #[test]
    fn a_resize_is_of_cpu_and_memory() {
        let of = |cpu: &str, image: &str| {
            let mut pod = pod(json!({}));
            pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
            pod["spec"]["containers"][0]["image"] = json!(image);
            pod
        };
        assert_eq!(told(resize(&of("2", "i"), &of("1", "i"))), "");
        assert_eq!(
            told(resize(&of("2", "j"), &of("1", "i"))),
            "spec: Forbidden: only cpu and memory resources are mutable"
        );
        assert_eq!(
            told(resize(&pod(json!({})), &of("1", "i"))),
            "spec: Invalid value: \"\": Pod QOS Class may not change as a result of resizing; \
             spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"
        );
    }
}
