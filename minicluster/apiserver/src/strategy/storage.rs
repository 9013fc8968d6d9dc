//! Checks of claims and volumes.
//!
//! Source: `ValidatePersistentVolumeClaim`, `ValidatePersistentVolume` of `pkg/apis/core/validation/validation.go`.

pub(super) mod kinds;

use serde_json::Value;
use windlass_crd::{
    field::{self, Error, ErrorList, Path},
    name,
    quantity::Quantity,
    selector::validate_label_selector,
};

use super::{
    container::resources,
    internal,
    pod_spec::{one_of, placement::node_selector, told},
    volumes,
};
use crate::object;

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

fn access_modes(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let modes: Vec<&str> = object::list(spec, &["accessModes"]).iter().filter_map(Value::as_str).collect();
    let at = path.child("accessModes");
    for mode in modes.iter().filter(|mode| !ACCESS_MODES.contains(mode)) {
        errors.push(Error::not_supported(&at, *mode, &ACCESS_MODES));
    }
    let others = modes.iter().any(|mode| *mode != "ReadWriteOncePod" && ACCESS_MODES.contains(mode));
    if modes.contains(&"ReadWriteOncePod") && others {
        errors.push(Error::forbidden(&at, "may not use ReadWriteOncePod with other access modes"));
    }
}

fn positive(given: &Quantity, path: &Path, errors: &mut ErrorList) {
    if given.signum() <= 0 {
        errors.push(Error::invalid(path, given.to_string(), "must be greater than zero"));
    }
}

fn class_name(spec: &Value, field: &'static str, path: &Path, errors: &mut ErrorList) {
    let given = object::text(spec, &[field]);
    if !given.is_empty() {
        told(name::dns1123_subdomain_faults(given), &path.child(field), given, errors);
    }
}

/// A PersistentVolumeClaim.
pub(super) fn claim(obj: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    claim_spec(obj.get("spec").unwrap_or(&Value::Null), &field::root("spec"), &mut errors);
    errors
}

/// The spec of a claim, or of a template of one.
pub(super) fn claim_spec(spec: &Value, path: &Path, errors: &mut ErrorList) {
    if object::list(spec, &["accessModes"]).is_empty() {
        errors.push(Error::required(path.child("accessModes"), "at least 1 access mode is required"));
    }
    if let Some(selector) = object::at(spec, &["selector"]) {
        errors.extend(validate_label_selector(selector, &path.child("selector")));
    }
    access_modes(spec, path, errors);
    let at = path.child("resources").key("storage");
    match object::at(spec, &["resources", "requests", "storage"]).map(Quantity::from_json) {
        None => errors.push(Error::required(at, "")),
        Some(Ok(size)) => positive(&size, &at, errors),
        Some(Err(_)) => {}
    }
    class_name(spec, "storageClassName", path, errors);
    one_of(spec, "volumeMode", &VOLUME_MODES, path, errors);
    let (source, reference) = (object::at(spec, &["dataSource"]), object::at(spec, &["dataSourceRef"]));
    for (field, given) in [("dataSource", source), ("dataSourceRef", reference)] {
        if let Some(given) = given {
            data_source(given, &path.child(field), errors);
        }
    }
    if let (Some(source), Some(reference)) = (source, reference) {
        let text = |obj: &Value, field: &str| object::at(obj, &[field]).cloned();
        let same = ["apiGroup", "kind", "name"].iter().all(|f| text(source, f) == text(reference, f));
        let detail = if !object::text(reference, &["namespace"]).is_empty() {
            Some("may not be specified when dataSourceRef.namespace is specified")
        } else if !same {
            Some("must match dataSourceRef")
        } else {
            None
        };
        // Upstream shows the path where others show the value, and a path has nothing to show.
        errors.extend(detail.map(|detail| Error::invalid(path, serde_json::json!({}), detail)));
    }
    class_name(spec, "volumeAttributesClassName", path, errors);
}

fn data_source(given: &Value, path: &Path, errors: &mut ErrorList) {
    let text = |field: &str| object::text(given, &[field]);
    for field in ["name", "kind"] {
        if text(field).is_empty() {
            errors.push(Error::required(path.child(field), ""));
        }
    }
    let group = text("apiGroup");
    if group.is_empty() {
        if text("kind") != "PersistentVolumeClaim" {
            let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.push(Error::invalid(path, text("kind"), detail));
        }
    } else {
        told(name::dns1123_subdomain_faults(group), &path.child("apiGroup"), group, errors);
    }
    let namespace = text("namespace");
    if !namespace.is_empty() {
        told(name::dns1123_label_faults(namespace), &path.child("namespace"), namespace, errors);
    }
}

const STAYS: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound \
    claims";

/// A claim's spec stays, but for more storage of a bound claim, its class of attributes, and its binding.
pub(super) fn claim_update(obj: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = |obj: &Value| obj.get("spec").cloned().unwrap_or_default();
    let (mut new, mut before) = (spec(obj), spec(old));
    if object::text(old, &["spec", "volumeName"]).is_empty() {
        take(&mut before, &new, &["volumeName"]);
    }
    class_may_come(obj, old, &mut new, &mut errors);
    if object::text(obj, &["status", "phase"]) == "Bound" {
        let was = spec(old);
        take(&mut new, &was, &["resources", "requests", "storage"]);
        take(&mut new, &was, &["volumeAttributesClassName"]);
    }
    let root = field::root("spec");
    if !same_spec(&new, &before) {
        let difference = internal::difference("PersistentVolumeClaimSpec", &before, &new);
        errors.push(Error::forbidden(&root, format!("{STAYS}\n{difference}")));
    }
    let size =
        |obj: &Value, way: &[&str]| object::at(obj, way).and_then(|value| Quantity::from_json(value).ok());
    let request = ["spec", "resources", "requests", "storage"];
    let (wanted, was) = (size(obj, &request), size(old, &request));
    let there = size(old, &["status", "capacity", "storage"]).unwrap_or_default();
    if let (Some(wanted), Some(was)) = (wanted, was)
        && wanted < was
        && wanted <= there
    {
        let at = root.child("resources").child("requests").child("storage");
        errors.push(Error::forbidden(at, "field can not be less than status.capacity"));
    }
    volume_mode_stays(obj, old, &mut errors);
    let attributes = |obj: &Value| object::at(obj, &["spec", "volumeAttributesClassName"]).cloned();
    if attributes(obj) != attributes(old)
        && object::at(old, &["status", "currentVolumeAttributesClassName"]).is_some()
    {
        let what = match attributes(obj) {
            None => Some("nil"),
            Some(Value::String(text)) if text.is_empty() => Some("empty string"),
            Some(_) => None,
        };
        errors.extend(what.map(|what| {
            let detail = format!(
                "update to {what} is forbidden when status.currentVolumeAttributesClassName is not nil"
            );
            Error::forbidden(root.child("volumeAttributesClassName"), detail)
        }));
    }
    errors
}

/// A class may come later, where none was: by its field, or from the annotation of old.
fn class_may_come(obj: &Value, old: &Value, new: &mut Value, errors: &mut ErrorList) {
    let annotation = |obj: &Value| {
        let value = object::at(obj, &["metadata", "annotations", BETA_CLASS]);
        value.and_then(Value::as_str).map(str::to_owned)
    };
    let class = |obj: &Value| object::at(obj, &["spec", "storageClassName"]).cloned();
    let (is, was) = (class(obj), class(old));
    let annotated = annotation(old);
    let as_annotated = annotated.is_some() && is.as_ref().and_then(Value::as_str) == annotated.as_deref();
    if was.is_none() && as_annotated && annotation(obj).is_none_or(|new| Some(new) == annotated) {
        object::remove(new, &["storageClassName"]);
        return;
    }
    if annotation(obj).unwrap_or_default() != annotated.clone().unwrap_or_default() {
        let at = field::root("metadata").child("annotations").child(BETA_CLASS);
        errors.push(Error::invalid(at, annotation(obj).unwrap_or_default(), "field is immutable"));
    }
    if was.is_none() && is.is_some() && (annotated.is_none() || as_annotated) {
        object::remove(new, &["storageClassName"]);
    }
}

fn take(spec: &mut Value, from: &Value, way: &[&str]) {
    match object::at(from, way) {
        Some(value) => object::set(spec, way, value.clone()),
        None => {
            object::remove(spec, way);
        }
    }
}

/// Equal, amounts that are written in other ways included.
fn same_spec(a: &Value, b: &Value) -> bool {
    a == b
        || internal::shown("PersistentVolumeClaimSpec", a) == internal::shown("PersistentVolumeClaimSpec", b)
}

fn volume_mode_stays(obj: &Value, old: &Value, errors: &mut ErrorList) {
    let mode = |obj: &Value| object::at(obj, &["spec", "volumeMode"]).cloned().unwrap_or_default();
    if mode(obj) != mode(old) {
        errors.push(Error::invalid(field::root("volumeMode"), mode(obj), "field is immutable"));
    }
}

/// The status of a claim.
pub(super) fn claim_status(obj: &Value, _: &Value) -> ErrorList {
    const RESIZES: [&str; 5] = [
        "ControllerResizeInProgress",
        "ControllerResizeInfeasible",
        "NodeResizeInProgress",
        "NodeResizeInfeasible",
        "NodeResizePending",
    ];
    let mut errors = ErrorList::new();
    let path = field::root("status");
    let entries =
        |field: &str| object::at(obj, &["status", field]).and_then(Value::as_object).into_iter().flatten();
    for (resource, value) in entries("capacity") {
        basic(value, &path.child("capacity").key(resource), &mut errors);
    }
    let at = path.child("allocatedResourceStatuses");
    let mut sorted = RESIZES;
    sorted.sort_unstable();
    for (resource, status) in entries("allocatedResourceStatuses") {
        claim_resource(resource, &at, &mut errors);
        if !status.as_str().is_some_and(|status| RESIZES.contains(&status)) {
            errors.push(Error::not_supported(&at, resource.as_str(), &sorted));
        }
    }
    let at = path.child("allocatedResources");
    for (resource, value) in entries("allocatedResources") {
        if claim_resource(resource, &at, &mut errors) {
            basic(value, &at.key(resource), &mut errors);
        }
    }
    errors
}

fn claim_resource(resource: &str, path: &Path, errors: &mut ErrorList) -> bool {
    let before = errors.len();
    told(name::qualified_name_faults(resource), path, resource, errors);
    let native = !resource.contains('/') || resource.contains("kubernetes.io/");
    if errors.len() == before && native && resource != "storage" {
        errors.push(Error::not_supported(path, resource, &["storage"]));
    }
    errors.len() == before
}

fn basic(value: &Value, path: &Path, errors: &mut ErrorList) {
    let given = Quantity::from_json(value).map_or(0, |given| given.value());
    if given < 0 {
        errors.push(Error::invalid(path, given, "must be a valid resource quantity"));
    }
}

/// The sources of PersistentVolumes in upstream's order.
const SOURCES: [&str; 22] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

/// A PersistentVolume.
pub(super) fn volume(obj: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = obj.get("spec").unwrap_or(&Value::Null);
    volume_spec(spec, false, &field::root("spec"), &mut errors);
    errors
}

const INLINE: &str = "in the context of inline volumes";

/// The spec of a volume; one that stands within another object says less.
pub(super) fn volume_spec(spec: &Value, inline: bool, path: &Path, errors: &mut ErrorList) {
    let capacity = object::at(spec, &["capacity"]).and_then(Value::as_object);
    let barred =
        |field: &'static str| Error::forbidden(path.child(field), format!("may not be specified {INLINE}"));
    if inline {
        if object::at(spec, &["claimRef"]).is_some() {
            errors.push(barred("claimRef"));
        }
        if capacity.is_some_and(|map| !map.is_empty()) {
            errors.push(barred("capacity"));
        }
        if object::at(spec, &["csi"]).is_none() {
            errors.push(Error::required(path.child("csi"), format!("has to be specified {INLINE}")));
        }
    }
    if object::list(spec, &["accessModes"]).is_empty() {
        errors.push(Error::required(path.child("accessModes"), ""));
    }
    access_modes(spec, path, errors);
    if !inline {
        volume_capacity(spec, &path.child("capacity"), errors);
    }
    let policy = object::text(spec, &["persistentVolumeReclaimPolicy"]);
    let at = path.child("persistentVolumeReclaimPolicy");
    if inline && !matches!(policy, "" | "Retain") {
        errors.push(Error::forbidden(&at, format!("may only be Retain {INLINE}")));
    } else if !matches!(policy, "" | "Delete" | "Recycle" | "Retain") {
        errors.push(Error::not_supported(&at, policy, &["Delete", "Recycle", "Retain"]));
    }
    match object::at(spec, &["nodeAffinity"]) {
        None => {}
        Some(_) if inline => errors.push(barred("nodeAffinity")),
        Some(affinity) => {
            let at = path.child("nodeAffinity").child("required");
            match object::at(affinity, &["required"]) {
                None => errors.push(Error::required(at, "must specify required node constraints")),
                Some(selector) => node_selector(selector, &at, errors),
            }
        }
    }
    volume_source(spec, path, errors);
    let root = object::text(spec, &["hostPath", "path"]);
    if !root.is_empty() && root.split('/').all(|part| matches!(part, "" | ".")) && policy == "Recycle" {
        errors.push(Error::forbidden(at, "may not be 'recycle' for a hostPath mount of '/'"));
    }
    if inline && !object::text(spec, &["storageClassName"]).is_empty() {
        errors.push(barred("storageClassName"));
    } else {
        class_name(spec, "storageClassName", path, errors);
    }
    if !inline {
        one_of(spec, "volumeMode", &VOLUME_MODES, path, errors);
    } else if !matches!(object::text(spec, &["volumeMode"]), "" | "Filesystem") {
        let detail = format!("may not specify volumeMode other than Filesystem {INLINE}");
        errors.push(Error::forbidden(path.child("volumeMode"), detail));
    }
    if let Some(class) = object::at(spec, &["volumeAttributesClassName"]).and_then(Value::as_str) {
        if class.is_empty() {
            let detail = "an empty string is disallowed";
            errors.push(Error::required(path.child("volumeAttributesClassName"), detail));
        }
        class_name(spec, "volumeAttributesClassName", path, errors);
        if object::at(spec, &["csi"]).is_none() {
            let detail = "has to be specified when using volumeAttributesClassName";
            errors.push(Error::required(path.child("csi"), detail));
        }
    }
}

fn volume_capacity(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let given = object::at(spec, &["capacity"]);
    let capacity = given.and_then(Value::as_object);
    if capacity.is_none_or(serde_json::Map::is_empty) {
        errors.push(Error::required(path, ""));
    }
    if capacity.is_none_or(|map| map.len() > 1 || !map.contains_key("storage")) {
        errors.push(Error::not_supported(path, given.cloned().unwrap_or_default(), &["storage"]));
    }
    for (resource, value) in capacity.into_iter().flatten() {
        let at = path.key(resource);
        basic(value, &at, errors);
        if let Ok(given) = Quantity::from_json(value) {
            positive(&given, &at, errors);
        }
    }
}

fn volume_source(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let mut found = false;
    for kind in SOURCES {
        let Some(source) = object::at(spec, &[kind]) else { continue };
        if found && kind != "flexVolume" {
            let shown = if kind == "cephfs" { "cephFS" } else { kind };
            errors.push(Error::forbidden(path.child(shown), "may not specify more than 1 volume type"));
            continue;
        }
        found = true;
        let at = path.child(if kind == "gcePersistentDisk" { "persistentDisk" } else { kind });
        match kind {
            "local" => {
                match object::text(source, &["path"]) {
                    "" => errors.push(Error::required(at.child("path"), "")),
                    given => volumes::no_backsteps(given, &at.child("path"), errors),
                }
                if object::at(spec, &["nodeAffinity"]).is_none() {
                    let detail = "Local volume requires node affinity";
                    errors.push(Error::required(path.child("nodeAffinity"), detail));
                }
            }
            "csi" => csi(source, &at, errors),
            _ => volumes::shared(kind, source, true, &at, errors),
        }
    }
    if !found {
        errors.push(Error::required(path, "must specify a volume type"));
    }
}

fn csi(source: &Value, path: &Path, errors: &mut ErrorList) {
    volumes::driver_name(object::text(source, &["driver"]), &path.child("driver"), errors);
    if object::text(source, &["volumeHandle"]).is_empty() {
        errors.push(Error::required(path.child("volumeHandle"), ""));
    }
    for field in [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ] {
        let Some(secret) = object::at(source, &[field]) else { continue };
        let at = path.child(field);
        let faults: [(&'static str, fn(&str) -> Vec<String>); 2] =
            [("name", name::dns1123_subdomain_faults), ("namespace", name::dns1123_label_faults)];
        for (field, faults) in faults {
            match object::text(secret, &[field]) {
                "" => errors.push(Error::required(at.child(field), "")),
                given => told(faults(given), &at.child(field), given, errors),
            }
        }
    }
}

/// The place that a volume stands for stays.
pub(super) fn volume_update(obj: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let source = |obj: &Value| {
        let mut spec = obj.get("spec").and_then(Value::as_object).cloned().unwrap_or_default();
        spec.retain(|name, _| SOURCES.contains(&name.as_str()));
        Value::Object(spec)
    };
    let (mut new, before) = (source(obj), source(old));
    let expands = ["csi", "controllerExpandSecretRef"];
    if object::at(&before, &["csi"]).is_some() && object::at(&before, &expands).is_none() {
        object::remove(&mut new, &expands);
    }
    if new != before {
        let difference = internal::difference("PersistentVolumeSource", &before, &new);
        let detail = format!("spec.persistentvolumesource is immutable after creation\n{difference}");
        errors.push(Error::forbidden(field::root("spec").child("persistentvolumesource"), detail));
    }
    volume_mode_stays(obj, old, &mut errors);
    let affinity = |obj: &Value| object::at(obj, &["spec", "nodeAffinity"]).cloned();
    if affinity(old).is_some() && with_stable_labels(affinity(obj)) != with_stable_labels(affinity(old)) {
        let detail = "field is immutable, except for updating from beta label to GA";
        let given = affinity(obj).unwrap_or_default();
        errors.push(internal::invalid(&field::root("nodeAffinity"), "*VolumeNodeAffinity", &given, detail));
    }
    let attributes = |obj: &Value| object::at(obj, &["spec", "volumeAttributesClassName"]).is_some();
    if attributes(old) && !attributes(obj) {
        let at = field::root("spec").child("volumeAttributesClassName");
        errors.push(Error::forbidden(at, "update from non-nil value to nil is forbidden"));
    }
    errors
}

/// Labels of nodes have names of old that mean the same.
fn with_stable_labels(affinity: Option<Value>) -> Option<Value> {
    const RENAMED: [(&str, &str); 5] = [
        ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
        ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
        ("beta.kubernetes.io/os", "kubernetes.io/os"),
        ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
        ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
    ];
    let mut affinity = affinity?;
    let terms = affinity.pointer_mut("/required/nodeSelectorTerms").and_then(Value::as_array_mut);
    for term in terms.into_iter().flatten() {
        for rule in term.get_mut("matchExpressions").and_then(Value::as_array_mut).into_iter().flatten() {
            let key = object::text(rule, &["key"]);
            if let Some((_, stable)) = RENAMED.iter().find(|(beta, _)| *beta == key) {
                object::set(rule, &["key"], *stable);
            }
        }
    }
    Some(affinity)
}

/// An amount of storage that is not below zero.
fn not_negative(value: Option<&Value>, path: &Path, errors: &mut ErrorList) {
    if let Some(Ok(given)) = value.map(Quantity::from_json) {
        resources::amount("storage", &given, path, errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use serde_json::json;

    fn texts(errors: &[Error]) -> String {
        errors.iter().map(|e| format!("{e}\n")).collect()
    }

    #[test]
    fn faults_are_upstreams() {
        expect![[r#"
            spec.accessModes: Required value: at least 1 access mode is required
            spec.resources[storage]: Required value
        "#]]
        .assert_eq(&texts(&claim(&json!({"spec": {}}))));
        expect![[r#"
            spec.accessModes: Required value
            spec.capacity: Required value
            spec.capacity: Unsupported value: null: supported values: "storage"
            spec: Required value: must specify a volume type
        "#]]
        .assert_eq(&texts(&volume(&json!({"spec": {}}))));
    }

    /// A good claim with these fields, and what is said about it. Cases of upstream's `TestValidatePersistentVolumeClaim`.
    #[test]
    fn claims_say_what_is_wrong() {
        let cases = [
            (json!({}), ""),
            (
                json!({"accessModes": ["ReadWriteOncePod", "ReadWriteOnce"]}),
                "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes\n",
            ),
            (
                json!({"accessModes": ["X"]}),
                "spec.accessModes: Unsupported value: \"X\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"\n",
            ),
            (
                json!({"resources": {"requests": {"storage": "0"}}}),
                "spec.resources[storage]: Invalid value: \"0\": must be greater than zero\n",
            ),
            (
                json!({"volumeMode": "X"}),
                "spec.volumeMode: Unsupported value: \"X\": supported values: \"Block\", \"Filesystem\"\n",
            ),
            (
                json!({"dataSource": {"kind": "Pod", "name": "a"}}),
                "spec.dataSource: Invalid value: \"Pod\": must be 'PersistentVolumeClaim' when referencing the default apiGroup\n",
            ),
            (
                json!({"dataSource": {"kind": "PersistentVolumeClaim", "name": "a"}, "dataSourceRef": {"kind": "PersistentVolumeClaim", "name": "b"}}),
                "spec: Invalid value: {}: must match dataSourceRef\n",
            ),
        ];
        for (more, expected) in cases {
            let mut spec =
                json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
            for (key, value) in more.as_object().unwrap() {
                spec[key] = value.clone();
            }
            assert_eq!(texts(&claim(&json!({"spec": spec}))), expected, "{more}");
        }
    }

    /// The same for volumes. Cases of upstream's `TestValidatePersistentVolumes`.
    #[test]
    fn volumes_say_what_is_wrong() {
        let cases = [
            (json!({}), ""),
            (
                json!({"nfs": {"server": "s", "path": "/"}}),
                "spec.nfs: Forbidden: may not specify more than 1 volume type\n",
            ),
            (
                json!({"persistentVolumeReclaimPolicy": "X"}),
                "spec.persistentVolumeReclaimPolicy: Unsupported value: \"X\": supported values: \"Delete\", \"Recycle\", \"Retain\"\n",
            ),
            (
                json!({"hostPath": {"path": "/"}, "persistentVolumeReclaimPolicy": "Recycle"}),
                "spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'\n",
            ),
            (
                json!({"hostPath": null, "local": {"path": "/a"}}),
                "spec.nodeAffinity: Required value: Local volume requires node affinity\n",
            ),
            (
                json!({"nodeAffinity": {}}),
                "spec.nodeAffinity.required: Required value: must specify required node constraints\n",
            ),
            (
                json!({"capacity": {"storage": "-1"}}),
                "spec.capacity[storage]: Invalid value: -1: must be a valid resource quantity\nspec.capacity[storage]: Invalid value: \"-1\": must be greater than zero\n",
            ),
            (
                json!({"hostPath": null, "csi": {"driver": "d", "volumeHandle": "h", "nodePublishSecretRef": {"name": "s"}}}),
                "spec.csi.nodePublishSecretRef.namespace: Required value\n",
            ),
            (
                json!({"volumeAttributesClassName": "c"}),
                "spec.csi: Required value: has to be specified when using volumeAttributesClassName\n",
            ),
        ];
        for (more, expected) in cases {
            let mut spec = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/a"}});
            for (key, value) in more.as_object().unwrap() {
                spec[key] = value.clone();
            }
            assert_eq!(texts(&volume(&json!({"spec": spec}))), expected, "{more}");
        }
    }

    #[test]
    fn claims_grow_when_bound_and_change_nothing_else() {
        let claim = |size: &str, mode: &str| {
            json!({"spec": {"volumeName": "v", "accessModes": [mode], "resources": {"requests": {"storage": size}}},
                   "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}})
        };
        let old = claim("1Gi", "ReadWriteOnce");
        assert_eq!(claim_update(&claim("2Gi", "ReadWriteOnce"), &old), []);
        assert_eq!(
            texts(&claim_update(&claim("1Mi", "ReadWriteOnce"), &old)),
            "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity\n"
        );
        let told = texts(&claim_update(&claim("1Gi", "ReadOnlyMany"), &old));
        assert!(told.starts_with("spec: Forbidden: spec is immutable"), "{told}");
        assert!(told.contains("\n-  \"ReadWriteOnce\"\n+  \"ReadOnlyMany\"\n"), "{told}");
    }
}
