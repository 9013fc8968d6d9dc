//! Checks of volumes, claims and storage classes.
//!
//! Source: `pkg/apis/{core,storage}/validation`.

use serde_json::Value;
use windlass_crd::{
    field::{self, Error, ErrorList, Path},
    name,
    quantity::Quantity,
    selector::validate_label_selector,
};

use super::{
    apps::immutable,
    container::validate_resources,
    pod_spec::{node_selector, one_of},
};
use crate::object;

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

fn access_modes(spec: &Value, path: &Path, detail: &str, errors: &mut ErrorList) {
    let modes = object::list(spec, &["accessModes"]);
    let at = path.child("accessModes");
    if modes.is_empty() {
        errors.push(Error::required(&at, detail));
    }
    let once_pod = modes.iter().any(|mode| mode == "ReadWriteOncePod");
    for mode in modes {
        let text = mode.as_str().unwrap_or_default();
        if !ACCESS_MODES.contains(&text) {
            errors.push(Error::not_supported(&at, text, &ACCESS_MODES));
        }
    }
    if once_pod && modes.len() > 1 {
        errors.push(Error::forbidden(&at, "may not use ReadWriteOncePod with other access modes"));
    }
}

/// A PersistentVolumeClaim.
pub(super) fn claim(obj: &Value) -> ErrorList {
    let path = field::root("spec");
    let spec = obj.get("spec").unwrap_or(&Value::Null);
    let mut errors = ErrorList::new();
    access_modes(spec, &path, "at least 1 access mode is required", &mut errors);
    if let Some(selector) = object::at(spec, &["selector"]) {
        errors.extend(validate_label_selector(selector, &path.child("selector")));
    }
    let resources = path.child("resources");
    match object::at(spec, &["resources", "requests", "storage"]).map(Quantity::from_json) {
        None => errors.push(Error::required(resources.key("storage"), "")),
        Some(Ok(size)) if size.signum() <= 0 => {
            let at = resources.key("storage");
            errors.push(Error::invalid(at, size.to_string(), "must be greater than zero"));
        }
        Some(_) => {
            let given = object::at(spec, &["resources"]).unwrap_or(&Value::Null);
            validate_resources(given, &resources, &mut errors);
        }
    }
    let class = object::text(spec, &["storageClassName"]);
    if !class.is_empty() {
        let faults = name::dns1123_subdomain_faults(class).into_iter();
        errors.extend(faults.map(|why| Error::invalid(path.child("storageClassName"), class, why)));
    }
    one_of(spec, "volumeMode", &["Block", "Filesystem"], &path, &mut errors);
    errors
}

/// A claim's spec stays, but for more storage of a bound claim, its class of attributes, and its binding.
pub(super) fn claim_update(obj: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = |obj: &Value| {
        let mut spec = obj.get("spec").cloned().unwrap_or_default();
        for path in [&["resources", "requests", "storage"][..], &["volumeAttributesClassName"]] {
            object::remove(&mut spec, path);
        }
        spec
    };
    let (mut new, before) = (spec(obj), spec(old));
    if object::text(old, &["spec", "volumeName"]).is_empty() {
        object::remove(&mut new, &["volumeName"]);
    }
    if object::at(old, &["spec", "storageClassName"]).is_none() {
        object::remove(&mut new, &["storageClassName"]);
    }
    if new != before {
        let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for \
            bound claims";
        errors.push(Error::forbidden(field::root("spec"), detail));
    }
    let size = |obj: &Value| {
        let value = object::at(obj, &["spec", "resources", "requests", "storage"])?;
        Quantity::from_json(value).ok()
    };
    if let (Some(new), Some(old_size)) = (size(obj), size(old)) {
        let path = field::root("spec").child("resources").child("requests").child("storage");
        let bound = object::text(old, &["status", "phase"]) == "Bound";
        if new < old_size {
            errors.push(Error::forbidden(path, "field can not be less than previous value"));
        } else if new != old_size && !bound {
            let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName \
                for bound claims";
            errors.push(Error::forbidden(field::root("spec"), detail));
        }
    }
    errors
}

const NOT_SOURCES: [&str; 9] = [
    "capacity",
    "accessModes",
    "claimRef",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "mountOptions",
    "volumeMode",
    "nodeAffinity",
    "volumeAttributesClassName",
];

/// A PersistentVolume.
pub(super) fn volume(obj: &Value) -> ErrorList {
    let path = field::root("spec");
    let spec = obj.get("spec").unwrap_or(&Value::Null);
    let mut errors = ErrorList::new();
    access_modes(spec, &path, "", &mut errors);
    match object::at(spec, &["capacity", "storage"]).map(Quantity::from_json) {
        None => errors.push(Error::required(path.child("capacity"), "")),
        Some(Ok(size)) if size.signum() <= 0 => {
            let at = path.child("capacity").key("storage");
            errors.push(Error::invalid(at, size.to_string(), "must be greater than zero"));
        }
        Some(_) => {}
    }
    one_of(spec, "persistentVolumeReclaimPolicy", &["Delete", "Recycle", "Retain"], &path, &mut errors);
    one_of(spec, "volumeMode", &["Block", "Filesystem"], &path, &mut errors);
    if let Some(required) = object::at(spec, &["nodeAffinity", "required"]) {
        node_selector(required, &path.child("nodeAffinity").child("required"), &mut errors);
    }
    let sources: Vec<&String> = spec
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, value)| !NOT_SOURCES.contains(&name.as_str()) && !value.is_null())
        .map(|(name, _)| name)
        .collect();
    if sources.is_empty() {
        errors.push(Error::required(&path, "must specify a volume type"));
    }
    for extra in sources.iter().skip(1) {
        errors
            .push(Error::forbidden(path.child((*extra).clone()), "may not specify more than 1 volume type"));
    }
    if object::at(spec, &["local"]).is_some() && object::at(spec, &["nodeAffinity"]).is_none() {
        let detail = "Local volume requires node affinity";
        errors.push(Error::required(field::root("metadata").child("annotations"), detail));
    }
    errors
}

/// The place that a volume stands for stays.
pub(super) fn volume_update(obj: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let source = |obj: &Value| {
        let mut spec = obj.get("spec").and_then(Value::as_object).cloned().unwrap_or_default();
        spec.retain(|name, _| !NOT_SOURCES.contains(&name.as_str()));
        spec
    };
    if source(obj) != source(old) {
        let detail = "spec.persistentvolumesource is immutable after creation";
        errors.push(Error::forbidden(field::root("spec").child("persistentvolumesource"), detail));
    }
    immutable(obj, old, &["spec", "volumeMode"], &mut errors);
    errors
}

/// A StorageClass.
pub(super) fn storage_class(obj: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let provisioner = object::text(obj, &["provisioner"]);
    if provisioner.is_empty() {
        errors.push(Error::required(field::root("provisioner"), ""));
    } else {
        let faults = name::qualified_name_faults(&provisioner.to_lowercase()).into_iter();
        errors.extend(faults.map(|why| Error::invalid(field::root("provisioner"), provisioner, why)));
    }
    one_of(obj, "reclaimPolicy", &["Delete", "Retain"], &field::EMPTY, &mut errors);
    one_of(obj, "volumeBindingMode", &["Immediate", "WaitForFirstConsumer"], &field::EMPTY, &mut errors);
    for (key, _) in object::at(obj, &["parameters"]).and_then(Value::as_object).into_iter().flatten() {
        if key.is_empty() {
            errors.push(Error::invalid(field::root("parameters"), key.as_str(), "field can not be empty."));
        }
    }
    errors
}

/// How a StorageClass provisions stays.
pub(super) fn storage_class_update(obj: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    if object::at(obj, &["parameters"]) != object::at(old, &["parameters"]) {
        errors.push(Error::forbidden(field::root("parameters"), "updates to parameters are forbidden."));
    }
    if object::text(obj, &["provisioner"]) != object::text(old, &["provisioner"]) {
        errors.push(Error::forbidden(field::root("provisioner"), "updates to provisioner are forbidden."));
    }
    if object::text(obj, &["reclaimPolicy"]) != object::text(old, &["reclaimPolicy"]) {
        errors
            .push(Error::forbidden(field::root("reclaimPolicy"), "updates to reclaimPolicy are forbidden."));
    }
    immutable(obj, old, &["volumeBindingMode"], &mut errors);
    errors
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
            spec: Required value: must specify a volume type
        "#]]
        .assert_eq(&texts(&volume(&json!({"spec": {}}))));
    }

    #[test]
    fn claims_grow_when_bound_and_change_nothing_else() {
        let claim = |size: &str, mode: &str| {
            json!({"spec": {"volumeName": "v", "accessModes": [mode], "resources": {"requests": {"storage": size}}},
                   "status": {"phase": "Bound"}})
        };
        let old = claim("1Gi", "ReadWriteOnce");
        assert_eq!(claim_update(&claim("2Gi", "ReadWriteOnce"), &old), []);
        assert_eq!(
            texts(&claim_update(&claim("1Mi", "ReadWriteOnce"), &old)),
            "spec.resources.requests.storage: Forbidden: field can not be less than previous value\n"
        );
        assert!(
            texts(&claim_update(&claim("1Gi", "ReadOnlyMany"), &old))
                .starts_with("spec: Forbidden: spec is immutable")
        );
    }
}
