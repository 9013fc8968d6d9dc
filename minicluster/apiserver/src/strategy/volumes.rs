//! Validation of a pod's volumes.
//!
//! Source: `pkg/apis/core/validation/validation.go`, `ValidateVolumes`.

use std::collections::BTreeSet;

use serde_json::Value;
use windlass_crd::{
    field::{Error, ErrorList, Path},
    name,
};

use super::container::relative_path;
use crate::object;

/// Checks the volumes of a pod spec and returns their names.
pub(super) fn validate(spec: &Value, path: &Path, errors: &mut ErrorList) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (i, volume) in object::list(spec, &["volumes"]).iter().enumerate() {
        let at = path.child("volumes").index(i);
        let given = object::text(volume, &["name"]);
        if given.is_empty() {
            errors.push(Error::required(at.child("name"), ""));
        } else {
            let faults = name::dns1123_label_faults(given);
            errors.extend(faults.into_iter().map(|why| Error::invalid(at.child("name"), given, why)));
            if !names.insert(given.to_owned()) {
                errors.push(Error::duplicate(at.child("name"), given));
            }
        }
        source(volume, &at, errors);
    }
    names
}

fn source(volume: &Value, path: &Path, errors: &mut ErrorList) {
    let sources: Vec<(&String, &Value)> = volume
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, value)| *key != "name" && !value.is_null())
        .collect();
    let Some((kind, value)) = sources.first().copied() else {
        errors.push(Error::required(path, "must specify a volume type"));
        return;
    };
    for (extra, _) in sources.iter().skip(1) {
        let at = path.child((*extra).clone());
        errors.push(Error::forbidden(at, "may not specify more than 1 volume type"));
    }
    let at = path.child(kind.clone());
    match kind.as_str() {
        "hostPath" => host_path(value, &at, errors),
        "secret" => {
            required(value, "secretName", &at, errors);
            mode(value, &at, errors);
            items(value, &at, errors);
        }
        "configMap" => {
            required(value, "name", &at, errors);
            mode(value, &at, errors);
            items(value, &at, errors);
        }
        "downwardAPI" => {
            mode(value, &at, errors);
            items(value, &at, errors);
        }
        "persistentVolumeClaim" => required(value, "claimName", &at, errors),
        "projected" => projected(value, &at, errors),
        "emptyDir" => {
            if let Some(limit) = object::at(value, &["sizeLimit"])
                && let Ok(quantity) = windlass_crd::quantity::Quantity::from_json(limit)
                && quantity.signum() < 0
            {
                let detail = "SizeLimit field must be a valid resource quantity";
                errors.push(Error::forbidden(at.child("sizeLimit"), detail));
            }
        }
        "nfs" => {
            required(value, "server", &at, errors);
            required(value, "path", &at, errors);
        }
        "csi" => required(value, "driver", &at, errors),
        _ => {}
    }
}

fn required(value: &Value, field: &'static str, path: &Path, errors: &mut ErrorList) {
    if object::text(value, &[field]).is_empty() {
        errors.push(Error::required(path.child(field), ""));
    }
}

fn host_path(value: &Value, path: &Path, errors: &mut ErrorList) {
    let given = object::text(value, &["path"]);
    if given.is_empty() {
        errors.push(Error::required(path.child("path"), ""));
    } else if given.split('/').any(|part| part == "..") {
        errors.push(Error::invalid(path.child("path"), given, "must not contain '..'"));
    }
    let kinds =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    let kind = object::text(value, &["type"]);
    if !kinds.contains(&kind) {
        errors.push(Error::not_supported(path.child("type"), kind, &kinds));
    }
}

fn file_mode(value: &Value, field: &'static str, path: &Path, errors: &mut ErrorList) {
    if let Some(mode) = object::number(value, &[field])
        && !(0..=0o777).contains(&mode)
    {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(Error::invalid(path.child(field), mode, detail));
    }
}

fn mode(value: &Value, path: &Path, errors: &mut ErrorList) {
    file_mode(value, "defaultMode", path, errors);
}

fn items(value: &Value, path: &Path, errors: &mut ErrorList) {
    for (i, item) in object::list(value, &["items"]).iter().enumerate() {
        let at = path.child("items").index(i);
        if object::at(item, &["fieldRef"]).is_none() && object::at(item, &["resourceFieldRef"]).is_none() {
            required(item, "key", &at, errors);
        }
        let place = object::text(item, &["path"]);
        if place.is_empty() {
            errors.push(Error::required(at.child("path"), ""));
        }
        relative_path(place, &at.child("path"), errors);
        file_mode(item, "mode", &at, errors);
    }
}

fn projected(value: &Value, path: &Path, errors: &mut ErrorList) {
    mode(value, path, errors);
    for (i, source) in object::list(value, &["sources"]).iter().enumerate() {
        let at = path.child("sources").index(i);
        let kinds = source.as_object().map_or(0, |map| map.values().filter(|v| !v.is_null()).count());
        if kinds > 1 {
            errors.push(Error::forbidden(&at, "may not specify more than 1 volume type per source"));
        }
        for (kind, field) in [("secret", "name"), ("configMap", "name"), ("serviceAccountToken", "path")] {
            if let Some(inner) = object::at(source, &[kind]) {
                required(inner, field, &at.child(kind), errors);
                items(inner, &at.child(kind), errors);
            }
        }
        let token = object::at(source, &["serviceAccountToken"]);
        let seconds = token.and_then(|token| object::number(token, &["expirationSeconds"]));
        if let Some(seconds) = seconds.filter(|seconds| *seconds < 600) {
            let at = at.child("serviceAccountToken").child("expirationSeconds");
            errors.push(Error::invalid(at, seconds, "may not specify a duration less than 10 minutes"));
        }
    }
}
