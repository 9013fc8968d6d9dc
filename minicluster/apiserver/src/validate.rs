//! The rules that the metadata of every object follows.
//!
//! Source: `k8s.io/apimachinery/pkg/api/validation/objectmeta.go`.

use serde_json::Value;
use windlass_crd::{
    field::{self, Error, ErrorList, Path},
    name,
};

use crate::{object, registry::Resource};

/// The most bytes of all annotations together.
const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;

/// What is wrong with the metadata of a new object.
pub fn metadata(resource: &Resource, obj: &Value) -> ErrorList {
    let path = field::root("metadata");
    let mut errors = ErrorList::new();
    let given = object::name(obj);
    if given.is_empty() {
        errors.push(Error::required(path.child("name"), "name or generateName is required"));
    } else if let Err(why) = resource.strategy.check_name(given) {
        errors.push(Error::invalid(path.child("name"), given, why));
    }
    if resource.namespaced
        && let Err(why) = name::dns1123_label(object::namespace(obj))
    {
        errors.push(Error::invalid(path.child("namespace"), object::namespace(obj), why));
    }
    common(&path, obj, &mut errors);
    errors
}

/// What is wrong with the metadata of a changed object.
pub fn metadata_update(resource: &Resource, obj: &Value, old: &Value) -> ErrorList {
    let path = field::root("metadata");
    let mut errors = ErrorList::new();
    let immutable =
        |field: &'static str, new: &str| Error::invalid(path.child(field), new, "field is immutable");
    if object::name(obj) != object::name(old) {
        errors.push(immutable("name", object::name(obj)));
    }
    if resource.namespaced && object::namespace(obj) != object::namespace(old) {
        errors.push(immutable("namespace", object::namespace(obj)));
    }
    if object::is_deleting(old) {
        let before = object::finalizers(old);
        for finalizer in object::finalizers(obj) {
            if !before.contains(&finalizer) {
                errors.push(Error::forbidden(
                    path.child("finalizers"),
                    format!(
                        "no new finalizers can be added if the object is being deleted, found new finalizers \
                         []string{{\"{finalizer}\"}}"
                    ),
                ));
            }
        }
    }
    common(&path, obj, &mut errors);
    errors
}

fn common(path: &Path, obj: &Value, errors: &mut ErrorList) {
    labels(&path.child("labels"), object::at(obj, &["metadata", "labels"]), errors);
    annotations(&path.child("annotations"), object::at(obj, &["metadata", "annotations"]), errors);
    for finalizer in object::finalizers(obj) {
        if let Err(why) = name::qualified_name(&finalizer) {
            errors.push(Error::invalid(path.child("finalizers"), finalizer, why));
        }
    }
    owner_references(
        &path.child("ownerReferences"),
        object::list(obj, &["metadata", "ownerReferences"]),
        errors,
    );
}

/// What is wrong with a map of labels.
pub fn labels(path: &Path, labels: Option<&Value>, errors: &mut ErrorList) {
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        if let Err(why) = name::qualified_name(key) {
            errors.push(Error::invalid(path, key.as_str(), why));
        }
        if let Err(why) = name::label_value(value.as_str().unwrap_or("")) {
            errors.push(Error::invalid(path, value.clone(), why));
        }
    }
}

pub(crate) fn annotations(path: &Path, annotations: Option<&Value>, errors: &mut ErrorList) {
    let mut total = 0;
    for (key, value) in annotations.and_then(Value::as_object).into_iter().flatten() {
        if let Err(why) = name::qualified_name(&key.to_lowercase()) {
            errors.push(Error::invalid(path, key.as_str(), why));
        }
        total += key.len() + value.as_str().map_or(0, str::len);
    }
    if total > ANNOTATIONS_BYTES_MAX {
        errors.push(Error::too_long(path, ANNOTATIONS_BYTES_MAX));
    }
}

fn owner_references(path: &Path, owners: &[Value], errors: &mut ErrorList) {
    let mut controllers = Vec::new();
    for (i, owner) in owners.iter().enumerate() {
        let path = path.index(i);
        for field in ["apiVersion", "kind", "name", "uid"] {
            if object::text(owner, &[field]).is_empty() {
                errors.push(Error::invalid(path.child(field), "", "must not be empty"));
            }
        }
        if owner.get("controller").and_then(Value::as_bool) == Some(true) {
            controllers.push(object::text(owner, &["name"]));
        }
    }
    if let [first, second, ..] = controllers.as_slice() {
        errors.push(Error::invalid(
            path,
            owners.to_vec(),
            format!(
                "Only one reference can have Controller set to true. Found \"true\" in references for {first} and \
                 {second}"
            ),
        ));
    }
}
