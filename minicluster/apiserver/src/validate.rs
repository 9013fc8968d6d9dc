//! The rules that the metadata of every object follows.
//!
//! Source: `k8s.io/apimachinery/pkg/api/validation/objectmeta.go`.

use serde_json::Value;
use windlass_crd::{
    field::{self, Error, ErrorList, Path},
    name,
    protobuf::metadata_in_order,
};

use crate::{object, registry::Resource};

/// The most bytes of all annotations together.
const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;

/// What is wrong with the metadata of a new object.
pub fn metadata(resource: &Resource, obj: &Value) -> ErrorList {
    let path = field::root("metadata");
    let mut errors = ErrorList::new();
    let prefix = object::text(obj, &["metadata", "generateName"]);
    if !prefix.is_empty()
        && let Err(why) = resource.strategy.check_name(&as_name(prefix))
    {
        errors.push(Error::invalid(path.child("generateName"), prefix, why));
    }
    let given = object::name(obj);
    if given.is_empty() {
        errors.push(Error::required(path.child("name"), "name or generateName is required"));
    } else if let Err(why) = resource.strategy.check_name(given) {
        errors.push(Error::invalid(path.child("name"), given, why));
    }
    whole(resource, &path, obj, &mut errors);
    if resource.custom.is_none() {
        standard_finalizers(&path, obj, &mut errors);
    }
    errors
}

/// A prefix as the name that it may become: what ends with a dash goes on.
fn as_name(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => {
            let mut name = rest.to_owned();
            name.pop();
            name.push('a');
            name
        }
        _ => prefix.to_owned(),
    }
}

/// What is wrong with the metadata of a changed object.
///
/// Upstream looks at it for all kinds alike, and once more for each kind; so it says most things twice.
pub fn metadata_update(resource: &Resource, obj: &Value, old: &Value) -> ErrorList {
    let path = field::root("metadata");
    let mut errors = ErrorList::new();
    whole(resource, &path, obj, &mut errors);
    changed(&path, obj, old, &mut errors);
    changed(&path, obj, old, &mut errors);
    if resource.custom.is_none() {
        standard_finalizers(&path, obj, &mut errors);
    }
    if WHOLE_ON_UPDATE.contains(&&*resource.group_resource()) {
        errors.extend(metadata(resource, obj));
    }
    errors
}

/// Kinds whose rules for updates hold the changed object to all rules for new ones as well.
const WHOLE_ON_UPDATE: [&str; 31] = [
    "clusterrolebindings.rbac.authorization.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
    "certificatesigningrequests.certificates.k8s.io",
    "configmaps",
    "controllerrevisions.apps",
    "csinodes.storage.k8s.io",
    "deviceclasses.resource.k8s.io",
    "endpoints",
    "endpointslices.discovery.k8s.io",
    "flowschemas.flowcontrol.apiserver.k8s.io",
    "ingressclasses.networking.k8s.io",
    "ingresses.networking.k8s.io",
    "limitranges",
    "mutatingadmissionpolicies.admissionregistration.k8s.io",
    "mutatingadmissionpolicybindings.admissionregistration.k8s.io",
    "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    "nodes",
    "persistentvolumeclaims",
    "persistentvolumes",
    "pods",
    "resourceclaims.resource.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
    "roles.rbac.authorization.k8s.io",
    "secrets",
    "serviceaccounts",
    "statefulsets.apps",
    "validatingadmissionpolicies.admissionregistration.k8s.io",
    "validatingadmissionpolicybindings.admissionregistration.k8s.io",
    "validatingwebhookconfigurations.admissionregistration.k8s.io",
    "volumeattachments.storage.k8s.io",
    "volumeattributesclasses.storage.k8s.io",
];

/// What must not be changed, and what must be well formed if it is.
fn changed(path: &Path, obj: &Value, old: &Value, errors: &mut ErrorList) {
    if object::is_deleting(old) {
        new_finalizers(path, obj, old, errors);
    }
    const IMMUTABLE: [&str; 6] =
        ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"];
    for key in IMMUTABLE {
        let (new, before) = (object::at(obj, &["metadata", key]), object::at(old, &["metadata", key]));
        if new != before {
            let new = new.cloned().unwrap_or_default();
            errors.push(Error::invalid(path.child(key), new, "field is immutable"));
        }
    }
    labels(&path.child("labels"), object::at(obj, &["metadata", "labels"]), errors);
    annotations(&path.child("annotations"), object::at(obj, &["metadata", "annotations"]), errors);
    owner_references(
        &path.child("ownerReferences"),
        object::list(obj, &["metadata", "ownerReferences"]),
        errors,
    );
}

fn new_finalizers(path: &Path, obj: &Value, old: &Value, errors: &mut ErrorList) {
    let before = object::finalizers(old);
    let mut new: Vec<String> =
        object::finalizers(obj).into_iter().filter(|finalizer| !before.contains(finalizer)).collect();
    if new.is_empty() {
        return;
    }
    new.sort();
    new.dedup();
    let new: Vec<String> = new.iter().map(|finalizer| field::quote(finalizer)).collect();
    let why = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        new.join(", ")
    );
    errors.push(Error::forbidden(path.child("finalizers"), why));
}

/// What is looked at whether the object is new or not.
fn whole(resource: &Resource, path: &Path, obj: &Value, errors: &mut ErrorList) {
    if resource.namespaced
        && let Err(why) = name::dns1123_label(object::namespace(obj))
    {
        errors.push(Error::invalid(path.child("namespace"), object::namespace(obj), why));
    }
    if let Some(generation) = object::number(obj, &["metadata", "generation"]).filter(|number| *number < 0) {
        errors.push(Error::invalid(
            path.child("generation"),
            generation,
            "must be greater than or equal to 0",
        ));
    }
    labels(&path.child("labels"), object::at(obj, &["metadata", "labels"]), errors);
    annotations(&path.child("annotations"), object::at(obj, &["metadata", "annotations"]), errors);
    owner_references(
        &path.child("ownerReferences"),
        object::list(obj, &["metadata", "ownerReferences"]),
        errors,
    );
    finalizers(&path.child("finalizers"), obj, errors);
}

fn finalizers(path: &Path, obj: &Value, errors: &mut ErrorList) {
    let all = object::finalizers(obj);
    for finalizer in &all {
        for why in name::qualified_name_faults(finalizer) {
            errors.push(Error::invalid(path, finalizer.as_str(), why));
        }
    }
    if ["orphan", "foregroundDeletion"].iter().all(|one| all.iter().any(|other| other == one)) {
        let why = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(Error::invalid(path, all, why));
    }
}

/// Names without a domain are upstream's own.
fn standard_finalizers(path: &Path, obj: &Value, errors: &mut ErrorList) {
    for (i, finalizer) in object::finalizers(obj).into_iter().enumerate() {
        if !finalizer.contains('/')
            && !matches!(finalizer.as_str(), "kubernetes" | "orphan" | "foregroundDeletion")
        {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(Error::invalid(path.child("finalizers").index(i), finalizer, why));
        }
    }
}

/// What is wrong with a map of labels.
pub fn labels(path: &Path, labels: Option<&Value>, errors: &mut ErrorList) {
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        for why in name::qualified_name_faults(key) {
            errors.push(Error::invalid(path, key.as_str(), why));
        }
        for why in name::label_value_faults(value.as_str().unwrap_or("")) {
            errors.push(Error::invalid(path, value.clone(), why));
        }
    }
}

pub(crate) fn annotations(path: &Path, annotations: Option<&Value>, errors: &mut ErrorList) {
    let mut total = 0;
    for (key, value) in annotations.and_then(Value::as_object).into_iter().flatten() {
        for why in name::qualified_name_faults(&key.to_lowercase()) {
            errors.push(Error::invalid(path, key.as_str(), why));
        }
        total += key.len() + value.as_str().map_or(0, str::len);
    }
    if total > ANNOTATIONS_BYTES_MAX {
        errors.push(Error::too_long(path, ANNOTATIONS_BYTES_MAX));
    }
}

/// Owners as messages show them.
fn shown(owners: &[Value]) -> String {
    metadata_in_order("ownerReferences", &Value::from(owners.to_vec()))
}

fn owner_references(path: &Path, owners: &[Value], errors: &mut ErrorList) {
    let mut controller = None;
    for owner in owners {
        let text = |field: &str| object::text(owner, &[field]);
        let version = text("apiVersion").rsplit('/').next().unwrap_or_default();
        if version.is_empty() {
            let why = "version must not be empty";
            errors.push(Error::invalid(path.child("apiVersion"), text("apiVersion"), why));
        }
        for field in ["kind", "name", "uid"] {
            if text(field).is_empty() {
                errors.push(Error::invalid(path.child(field), "", "must not be empty"));
            }
        }
        if text("apiVersion") == "v1" && text("kind") == "Event" {
            let why = "/v1, Kind=Event is disallowed from being an owner";
            let shown = shown(std::slice::from_ref(owner));
            errors.push(Error::invalid_shown(path, &shown[1..shown.len() - 1], why));
        }
        if owner.get("controller").and_then(Value::as_bool) != Some(true) {
            continue;
        }
        let this = format!("{}/{}", text("kind"), text("name"));
        match &controller {
            None => controller = Some(this),
            Some(first) => {
                let why = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and \
                     {this}"
                );
                errors.push(Error::invalid_shown(path, &shown(owners), &why));
            }
        }
    }
}
