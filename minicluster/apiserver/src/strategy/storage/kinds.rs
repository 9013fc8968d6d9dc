//! Checks of the kinds of `storage.k8s.io`.
//!
//! Source: `pkg/apis/storage/validation/validation.go`.

use std::collections::BTreeSet;

use serde_json::Value;
use windlass_crd::{
    field::{self, Error, ErrorList, Path},
    name,
    selector::validate_label_selector,
};

use super::super::{
    apps::immutable,
    internal,
    pod_spec::{self, one_of, told},
    volumes::driver_name,
};
use crate::object;

const PARAMETERS_MAX: usize = 512;
const PARAMETERS_BYTES_MAX: usize = 256 << 10;
const NODE_ID_MAX: usize = 256;
const ERROR_MAX: usize = 1024;

fn provisioner(obj: &Value, field: &'static str, errors: &mut ErrorList) {
    let given = object::text(obj, &[field]);
    let path = field::root(field);
    if given.is_empty() {
        errors.push(Error::required(path, ""));
    } else {
        let lower = given.to_lowercase();
        told(name::qualified_name_faults(&lower), &path, &lower, errors);
    }
}

fn parameters(obj: &Value, errors: &mut ErrorList) {
    let path = field::root("parameters");
    let Some(given) = object::at(obj, &["parameters"]).and_then(Value::as_object) else { return };
    if given.len() > PARAMETERS_MAX {
        errors.push(Error::too_long(path, PARAMETERS_MAX));
        return;
    }
    if given.contains_key("") {
        errors.push(Error::invalid(&path, "", "field can not be empty."));
    }
    let size: usize = given.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if size > PARAMETERS_BYTES_MAX {
        errors.push(Error::too_long(path, PARAMETERS_BYTES_MAX));
    }
}

/// A StorageClass.
pub(in super::super) fn storage_class(obj: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    provisioner(obj, "provisioner", &mut errors);
    parameters(obj, &mut errors);
    if !object::text(obj, &["reclaimPolicy"]).is_empty() {
        one_of(obj, "reclaimPolicy", &["Delete", "Retain"], &field::EMPTY, &mut errors);
    }
    match object::at(obj, &["volumeBindingMode"]) {
        None => errors.push(Error::required(field::root("volumeBindingMode"), "")),
        Some(_) => {
            let modes = ["Immediate", "WaitForFirstConsumer"];
            one_of(obj, "volumeBindingMode", &modes, &field::EMPTY, &mut errors);
        }
    }
    let mut seen: Vec<Vec<(String, BTreeSet<String>)>> = Vec::new();
    for (i, term) in object::list(obj, &["allowedTopologies"]).iter().enumerate() {
        let at = field::root("allowedTopologies").index(i).child("matchLabelExpressions");
        let expressions = topology(term, &at, &mut errors);
        if seen.contains(&expressions) {
            errors.push(Error::duplicate(&at, ""));
        }
        seen.push(expressions);
    }
    errors
}

fn topology(term: &Value, path: &Path, errors: &mut ErrorList) -> Vec<(String, BTreeSet<String>)> {
    let mut found: Vec<(String, BTreeSet<String>)> = Vec::new();
    for (i, rule) in object::list(term, &["matchLabelExpressions"]).iter().enumerate() {
        let at = path.index(i);
        let key = object::text(rule, &["key"]);
        let values = object::list(rule, &["values"]);
        if values.is_empty() {
            errors.push(Error::required(at.child("values"), ""));
        }
        let mut set = BTreeSet::new();
        for (j, value) in values.iter().filter_map(Value::as_str).enumerate() {
            if !set.insert(value.to_owned()) {
                errors.push(Error::duplicate(at.child("values").index(j), value));
            }
        }
        told(name::qualified_name_faults(key), &at.child("key"), key, errors);
        if found.iter().any(|(one, _)| one == key) {
            errors.push(Error::duplicate(at.child("key"), key));
        }
        found.push((key.to_owned(), set));
    }
    found.sort();
    found
}

/// How a StorageClass provisions stays.
pub(in super::super) fn storage_class_update(obj: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
        immutable(obj, old, &[field], &mut errors);
    }
    errors
}

/// A VolumeAttributesClass.
pub(in super::super) fn attributes_class(obj: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    provisioner(obj, "driverName", &mut errors);
    parameters(obj, &mut errors);
    let some = object::at(obj, &["parameters"]).and_then(Value::as_object).is_some_and(|map| !map.is_empty());
    if !some {
        let detail = "must contain at least one key/value pair";
        errors.push(Error::required(field::root("parameters"), detail));
    }
    errors
}

/// A CSIDriver.
pub(in super::super) fn driver(obj: &Value) -> ErrorList {
    const MODES: [&str; 2] = ["Persistent", "Ephemeral"];
    let path = field::root("spec");
    let spec = obj.get("spec").unwrap_or(&Value::Null);
    let mut errors = ErrorList::new();
    for (field, shown) in [
        ("attachRequired", "attachedRequired"),
        ("podInfoOnMount", "podInfoOnMount"),
        ("storageCapacity", "storageCapacity"),
    ] {
        if object::at(spec, &[field]).is_none() {
            errors.push(Error::required(path.child(shown), ""));
        }
    }
    one_of(spec, "fsGroupPolicy", &["File", "None", "ReadWriteOnceWithFSType"], &path, &mut errors);
    let tokens = object::list(spec, &["tokenRequests"]);
    token_requests(tokens, &path.child("tokenRequests"), &mut errors);
    for mode in object::list(spec, &["volumeLifecycleModes"]).iter().filter_map(Value::as_str) {
        if !MODES.contains(&mode) {
            errors.push(Error::not_supported(path.child("volumeLifecycleModes"), mode, &MODES));
        }
    }
    if object::at(spec, &["seLinuxMount"]).is_none() {
        errors.push(Error::required(path.child("seLinuxMount"), ""));
    }
    let period = object::number(spec, &["nodeAllocatableUpdatePeriodSeconds"]);
    if let Some(period) = period.filter(|period| *period < 10) {
        let at = path.child("nodeAllocatableUpdatePeriodSeconds");
        errors.push(Error::invalid(at, period, "must be greater than or equal to 10 seconds"));
    }
    if let Some(given) = object::at(spec, &["serviceAccountTokenInSecrets"]).filter(|_| tokens.is_empty()) {
        let detail = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        let at = path.child("serviceAccountTokenInSecrets");
        errors.push(Error::invalid(at, given.clone(), detail));
    }
    errors
}

fn token_requests(tokens: &[Value], path: &Path, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (i, token) in tokens.iter().enumerate() {
        let audience = object::text(token, &["audience"]);
        if !seen.insert(audience) {
            errors.push(Error::duplicate(path.index(i).child("audience"), audience));
            continue;
        }
        let at = path.index(i).child("expirationSeconds");
        let Some(seconds) = object::number(token, &["expirationSeconds"]) else { continue };
        if seconds < 600 {
            errors.push(Error::invalid(&at, seconds, "may not specify a duration less than 10 minutes"));
        }
        if seconds > 1 << 32 {
            errors.push(Error::invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds"));
        }
    }
}

/// How a driver attaches stays, and which volumes it makes.
pub(in super::super) fn driver_update(obj: &Value, old: &Value) -> ErrorList {
    let path = field::root("spec");
    let mut errors = ErrorList::new();
    for (field, shown) in
        [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")]
    {
        let value = |obj: &Value| object::at(obj, &["spec", field]).cloned().unwrap_or_default();
        if value(obj) != value(old) {
            errors.push(Error::invalid(path.child(shown), value(obj), "field is immutable"));
        }
    }
    errors
}

/// A CSINode.
pub(in super::super) fn node(obj: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut seen = BTreeSet::new();
    for (i, driver) in object::list(obj, &["spec", "drivers"]).iter().enumerate() {
        let path = field::root("spec").child("drivers").index(i);
        let (given, id) = (object::text(driver, &["name"]), object::text(driver, &["nodeID"]));
        driver_name(given, &path.child("name"), &mut errors);
        if id.is_empty() {
            errors.push(Error::required(path.child("nodeID"), ""));
        }
        if id.len() > NODE_ID_MAX {
            let detail = format!("must be {NODE_ID_MAX} characters or less");
            errors.push(Error::invalid(path.child("nodeID"), id, detail));
        }
        if let Some(allocatable) = object::at(driver, &["allocatable"]) {
            pod_spec::not_negative(allocatable, "count", &path.child("allocatable"), &mut errors);
        }
        if !seen.insert(given) {
            errors.push(Error::duplicate(path.child("name"), given));
        }
        let mut keys = BTreeSet::new();
        for key in object::list(driver, &["topologyKeys"]).iter().filter_map(Value::as_str) {
            if key.is_empty() {
                errors.push(Error::required(&path, ""));
            }
            if !keys.insert(key) {
                errors.push(Error::duplicate(&path, key));
            }
            told(name::qualified_name_faults(key), &path, key, &mut errors);
        }
    }
    errors
}

/// A driver of a node stays, but for how many volumes it takes.
pub(in super::super) fn node_update(obj: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let drivers = |obj: &Value| {
        let mut drivers = object::list(obj, &["spec", "drivers"]).to_vec();
        for driver in &mut drivers {
            object::remove(driver, &["allocatable"]);
        }
        drivers
    };
    let new = drivers(obj);
    for before in drivers(old) {
        let name = object::text(&before, &["name"]);
        for after in new.iter().filter(|one| object::text(one, &["name"]) == name && **one != before) {
            let at = field::root("spec").child("drivers");
            errors.push(internal::invalid(&at, "CSINodeDriver", after, "field is immutable"));
        }
    }
    errors
}

/// A CSIStorageCapacity.
pub(in super::super) fn capacity(obj: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(selector) = object::at(obj, &["nodeTopology"]) {
        errors.extend(validate_label_selector(selector, &field::root("nodeTopology")));
    }
    let class = object::text(obj, &["storageClassName"]);
    told(name::dns1123_subdomain_faults(class), &field::root("storageClassName"), class, &mut errors);
    super::not_negative(object::at(obj, &["capacity"]), &field::root("capacity"), &mut errors);
    errors
}

/// What a CSIStorageCapacity tells of stays.
pub(in super::super) fn capacity_update(obj: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let topology = |obj: &Value| object::at(obj, &["nodeTopology"]).cloned().unwrap_or_default();
    if topology(obj) != topology(old) {
        let at = field::root("nodeTopology");
        errors.push(internal::invalid(&at, "*LabelSelector", &topology(obj), "field is immutable"));
    }
    let class = object::text(obj, &["storageClassName"]);
    if class != object::text(old, &["storageClassName"]) {
        errors.push(Error::invalid(field::root("storageClassName"), class, "field is immutable"));
    }
    errors
}

/// A VolumeAttachment.
pub(in super::super) fn attachment(obj: &Value) -> ErrorList {
    const ONE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    let path = field::root("spec");
    let spec = obj.get("spec").unwrap_or(&Value::Null);
    let mut errors = ErrorList::new();
    driver_name(object::text(spec, &["attacher"]), &path.child("attacher"), &mut errors);
    let at = path.child("source");
    let volume = object::at(spec, &["source", "persistentVolumeName"]).and_then(Value::as_str);
    match (object::at(spec, &["source", "inlineVolumeSpec"]), volume) {
        (None, None) => errors.push(Error::required(&at, ONE)),
        (Some(_), Some(_)) => errors.push(Error::forbidden(&at, ONE)),
        (None, Some("")) => {
            let detail = "must specify non empty persistentVolumeName";
            errors.push(Error::required(at.child("persistentVolumeName"), detail));
        }
        (None, Some(_)) => {}
        (Some(inline), None) => super::volume_spec(inline, true, &at.child("inlineVolumeSpec"), &mut errors),
    }
    let node = object::text(spec, &["nodeName"]);
    told(name::dns1123_subdomain_faults(node), &path.child("nodeName"), node, &mut errors);
    errors.extend(attachment_status(obj));
    if let Some(volume) = volume {
        let at = field::root("spec.source.persistentVolumeName");
        told(name::dns1123_subdomain_faults(volume), &at, volume, &mut errors);
    }
    errors
}

fn attachment_status(obj: &Value) -> ErrorList {
    const METADATA_BYTES_MAX: usize = 256 << 10;
    let path = field::root("status");
    let mut errors = ErrorList::new();
    let metadata = object::at(obj, &["status", "attachmentMetadata"]).and_then(Value::as_object);
    let size: usize = metadata
        .into_iter()
        .flatten()
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    if size > METADATA_BYTES_MAX {
        errors.push(Error::too_long(path.child("attachmentMetadata"), METADATA_BYTES_MAX));
    }
    for field in ["attachError", "detachError"] {
        let Some(error) = object::at(obj, &["status", field]) else { continue };
        let at = path.child(field);
        if object::text(error, &["message"]).len() > ERROR_MAX {
            // Upstream names the bound of the metadata here.
            errors.push(Error::too_long(at.child("message"), METADATA_BYTES_MAX));
        }
        if let Some(code) = object::number(error, &["errorCode"]).filter(|code| *code < 0) {
            let detail = name::range_error(0, i32::MAX.into());
            errors.push(Error::invalid(at.child("errorCode"), code, detail));
        }
    }
    errors
}

/// What is attached where stays.
pub(in super::super) fn attachment_update(obj: &Value, old: &Value) -> ErrorList {
    let spec = |obj: &Value| obj.get("spec").cloned().unwrap_or_default();
    if spec(obj) == spec(old) {
        return ErrorList::new();
    }
    let at = field::root("spec");
    vec![internal::invalid(&at, "VolumeAttachmentSpec", &spec(obj), "field is immutable")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: &[Error]) -> String {
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn faults_are_upstreams() {
        let cases: [(fn(&Value) -> ErrorList, Value, &str); 7] = [
            (
                storage_class,
                json!({"provisioner": "a/b", "volumeBindingMode": "X", "reclaimPolicy": "Recycle"}),
                "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"; volumeBindingMode: \
                 Unsupported value: \"X\": supported values: \"Immediate\", \"WaitForFirstConsumer\"",
            ),
            (
                storage_class,
                json!({"provisioner": "a/b", "volumeBindingMode": "Immediate",
                    "allowedTopologies": [{"matchLabelExpressions": [{"key": "k"}]}]}),
                "allowedTopologies[0].matchLabelExpressions[0].values: Required value",
            ),
            (
                attributes_class,
                json!({"driverName": "d"}),
                "parameters: Required value: must contain at least one key/value pair",
            ),
            (
                driver,
                json!({"spec": {"attachRequired": true, "podInfoOnMount": true, "storageCapacity": true, "seLinuxMount": false,
                    "tokenRequests": [{"audience": "a"}, {"audience": "a"}]}}),
                "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
            ),
            (
                node,
                json!({"spec": {"drivers": [{"name": "d", "nodeID": "", "allocatable": {"count": -1}}]}}),
                "spec.drivers[0].nodeID: Required value; spec.drivers[0].allocatable.count: Invalid value: -1: must be greater \
                 than or equal to 0",
            ),
            (
                capacity,
                json!({"storageClassName": "c", "capacity": "-1"}),
                "capacity: Invalid value: \"-1\": must be greater than or equal to 0",
            ),
            (
                attachment,
                json!({"spec": {"attacher": "a", "nodeName": "n", "source": {}}}),
                "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            ),
        ];
        for (check, obj, expected) in cases {
            assert_eq!(texts(&check(&obj)), expected, "{obj}");
        }
    }

    #[test]
    fn what_stays_is_told() {
        let driver = |attach: bool| json!({"spec": {"attachRequired": attach}});
        assert_eq!(
            texts(&driver_update(&driver(false), &driver(true))),
            "spec.attachedRequired: Invalid value: false: field is immutable"
        );
        let node =
            |id: &str| json!({"spec": {"drivers": [{"name": "d", "nodeID": id, "topologyKeys": null}]}});
        assert_eq!(
            texts(&node_update(&node("b"), &node("a"))),
            "spec.drivers: Invalid value: {\"Name\":\"d\",\"NodeID\":\"b\",\"TopologyKeys\":null,\"Allocatable\":null}: field \
             is immutable"
        );
        assert_eq!(node_update(&node("a"), &node("a")), []);
    }
}
