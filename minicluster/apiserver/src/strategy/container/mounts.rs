//! Where containers see volumes: mounted, or as devices.
//!
//! Paths without an index are upstream's. Source: `ValidateVolumeMounts`, `ValidateVolumeDevices`.

use std::collections::BTreeSet;

use serde_json::Value;
use windlass_crd::field::{Error, ErrorList, Path};

use super::super::{
    pod_spec::one_of,
    volumes::{Volumes, descending, has_backsteps},
};
use crate::object;

pub(super) fn validate(container: &Value, volumes: &Volumes, path: &Path, errors: &mut ErrorList) {
    mounts(container, volumes, &path.child("volumeMounts"), errors);
    devices(container, volumes, &path.child("volumeDevices"), errors);
}

fn mounts(container: &Value, volumes: &Volumes, path: &Path, errors: &mut ErrorList) {
    let devices = object::list(container, &["volumeDevices"]);
    let taken = |field: &str, given: &str| devices.iter().any(|one| object::text(one, &[field]) == given);
    let mut places = BTreeSet::new();
    for (i, mount) in object::list(container, &["volumeMounts"]).iter().enumerate() {
        let at = path.index(i);
        let text = |field: &str| object::text(mount, &[field]);
        let (given, place) = (text("name"), text("mountPath"));
        if given.is_empty() {
            errors.push(Error::required(at.child("name"), ""));
        }
        if !volumes.contains_key(given) {
            errors.push(Error::not_found(at.child("name"), given));
        }
        if place.is_empty() {
            errors.push(Error::required(at.child("mountPath"), ""));
        }
        if !places.insert(place) {
            errors.push(Error::invalid(at.child("mountPath"), place, "must be unique"));
        }
        if taken("name", given) {
            errors.push(Error::invalid(at.child("name"), given, "must not already exist in volumeDevices"));
        }
        if taken("devicePath", place) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.push(Error::invalid(at.child("mountPath"), place, detail));
        }
        let (sub, expression) = (text("subPath"), text("subPathExpr"));
        if !sub.is_empty() {
            descending(sub, &path.child("subPath"), errors);
        }
        if !expression.is_empty() {
            if !sub.is_empty() {
                let detail = "subPathExpr and subPath are mutually exclusive";
                errors.push(Error::invalid(at.child("subPathExpr"), expression, detail));
            }
            descending(expression, &path.child("subPathExpr"), errors);
        }
        one_of(mount, "mountPropagation", &["Bidirectional", "HostToContainer", "None"], path, errors);
        let privileged =
            object::at(container, &["securityContext", "privileged"]) == Some(&Value::Bool(true));
        if text("mountPropagation") == "Bidirectional" && !privileged {
            let detail = "Bidirectional mount propagation is available only to privileged containers";
            errors.push(Error::forbidden(path.child("mountPropagation"), detail));
        }
        read_only(mount, path, errors);
    }
}

fn read_only(mount: &Value, path: &Path, errors: &mut ErrorList) {
    one_of(mount, "recursiveReadOnly", &["Disabled", "Enabled", "IfPossible"], path, errors);
    if !matches!(object::text(mount, &["recursiveReadOnly"]), "Enabled" | "IfPossible") {
        return;
    }
    let at = path.child("recursiveReadOnly");
    if object::at(mount, &["readOnly"]) != Some(&Value::Bool(true)) {
        errors.push(Error::forbidden(&at, "may only be specified when readOnly is true"));
    }
    if !matches!(object::text(mount, &["mountPropagation"]), "" | "None") {
        let detail = "may only be specified when mountPropagation is None or not specified";
        errors.push(Error::forbidden(at, detail));
    }
}

fn devices(container: &Value, volumes: &Volumes, path: &Path, errors: &mut ErrorList) {
    let mounts = object::list(container, &["volumeMounts"]);
    let taken = |field: &str, given: &str| mounts.iter().any(|one| object::text(one, &[field]) == given);
    let (mut names, mut places) = (BTreeSet::new(), BTreeSet::new());
    for (i, device) in object::list(container, &["volumeDevices"]).iter().enumerate() {
        let (at_name, at_path) = (path.index(i).child("name"), path.index(i).child("devicePath"));
        let (given, place) = (object::text(device, &["name"]), object::text(device, &["devicePath"]));
        if given.is_empty() {
            errors.push(Error::required(&at_name, ""));
        }
        if names.contains(given) {
            errors.push(Error::invalid(&at_name, given, "must be unique"));
        }
        match volumes.get(given) {
            Some(true) => {}
            Some(false) => {
                let detail =
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.push(Error::invalid(&at_name, given, detail));
            }
            None => errors.push(Error::not_found(&at_name, given)),
        }
        if place.is_empty() {
            errors.push(Error::required(&at_path, ""));
        }
        if places.contains(place) {
            errors.push(Error::invalid(&at_path, place, "must be unique"));
        }
        if has_backsteps(place) {
            errors.push(Error::invalid(&at_path, place, "can not contain backsteps ('..')"));
        } else {
            places.insert(place);
        }
        if taken("name", given) {
            errors.push(Error::invalid(&at_name, given, "must not already exist in volumeMounts"));
        }
        if taken("mountPath", place) {
            let detail = "must not already exist as a path in volumeMounts";
            errors.push(Error::invalid(&at_path, place, detail));
        }
        if !given.is_empty() {
            names.insert(given);
        }
    }
}
