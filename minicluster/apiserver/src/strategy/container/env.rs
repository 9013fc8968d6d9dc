//! The environment of containers, and the fields of pods that are passed down to them.
//!
//! Source: `ValidateEnv`, `ValidateEnvFrom`, `validateObjectFieldSelector`, `validateContainerResourceFieldSelector`.

use serde_json::Value;
use windlass_crd::{
    field::{Error, ErrorList, Path},
    name,
    quantity::Quantity,
};

use super::{super::pod_spec::told, each};
use crate::object;

const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// What volumes pass down.
pub(in super::super) const VOLUME_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// What can be passed down at all.
const KNOWN: [&str; 14] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

pub(super) fn validate(container: &Value, path: &Path, errors: &mut ErrorList) {
    for (i, variable) in object::list(container, &["env"]).iter().enumerate() {
        let at = path.child("env").index(i);
        let given = object::text(variable, &["name"]);
        if given.is_empty() {
            errors.push(Error::required(at.child("name"), ""));
        } else if let Err(why) = name::env_name(given) {
            errors.push(Error::invalid(at.child("name"), given, why));
        }
        if let Some(source) = object::at(variable, &["valueFrom"]) {
            value_from(variable, source, &at.child("valueFrom"), errors);
        }
    }
    let path = path.child("envFrom");
    for (i, source) in object::list(container, &["envFrom"]).iter().enumerate() {
        let at = path.index(i);
        let prefix = object::text(source, &["prefix"]);
        if !prefix.is_empty()
            && let Err(why) = name::env_name(prefix)
        {
            errors.push(Error::invalid(at.child("prefix"), prefix, why));
        }
        let mut found = 0;
        for field in ["configMapRef", "secretRef"] {
            let Some(reference) = object::at(source, &[field]) else { continue };
            found += 1;
            let at = at.child(field).child("name");
            match object::text(reference, &["name"]) {
                "" => errors.push(Error::required(at, "")),
                given => told(name::dns1123_subdomain_faults(given), &at, given, errors),
            }
        }
        match found {
            0 => {
                let detail = "must specify one of: `configMapRef` or `secretRef`";
                errors.push(Error::invalid(&path, "", detail));
            }
            1 => {}
            _ => {
                errors.push(Error::invalid(
                    &path,
                    "",
                    "may not have more than one field specified at a time",
                ));
            }
        }
    }
}

fn value_from(variable: &Value, source: &Value, path: &Path, errors: &mut ErrorList) {
    let mut found = 0;
    let mut of = |field: &'static str| {
        let given = object::at(source, &[field]);
        found += usize::from(given.is_some());
        given.map(|given| (given, path.child(field)))
    };
    if let Some((reference, at)) = of("fieldRef") {
        field_reference(reference, &FIELDS, &at, errors);
    }
    if let Some((reference, at)) = of("resourceFieldRef") {
        resource_reference(reference, false, &at, errors);
    }
    for kind in ["configMapKeyRef", "secretKeyRef"] {
        let Some((reference, at)) = of(kind) else { continue };
        let given = object::text(reference, &["name"]);
        told(name::dns1123_subdomain_faults(given), &at.child("name"), given, errors);
        let key = object::text(reference, &["key"]);
        if key.is_empty() {
            errors.push(Error::required(at.child("key"), ""));
        } else if let Err(why) = name::config_map_key(key) {
            errors.push(Error::invalid(at.child("key"), key, why));
        }
    }
    if let Some((reference, at)) = of("fileKeyRef") {
        file_key(reference, &at, errors);
    }
    if found == 0 {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or \
            `fileKeyRef`";
        errors.push(Error::invalid(path, "", detail));
    } else if !object::text(variable, &["value"]).is_empty() {
        errors.push(Error::invalid(path, "", "may not be specified when `value` is not empty"));
    } else if found > 1 {
        errors.push(Error::invalid(path, "", "may not have more than one field specified at a time"));
    }
}

/// `metadata.labels['a']`: the path and what stands in brackets.
fn subscripted(path: &str) -> Option<(&str, &str)> {
    let (path, subscript) = path.strip_suffix("']")?.split_once("['")?;
    (!path.is_empty()).then_some((path, subscript))
}

/// A field of the pod, by its path.
pub(in super::super) fn field_reference(
    reference: &Value,
    allowed: &[&str],
    path: &Path,
    errors: &mut ErrorList,
) {
    let (version, given) =
        (object::text(reference, &["apiVersion"]), object::text(reference, &["fieldPath"]));
    if version.is_empty() {
        errors.push(Error::required(path.child("apiVersion"), ""));
        return;
    }
    let at = path.child("fieldPath");
    if given.is_empty() {
        errors.push(Error::required(at, ""));
        return;
    }
    let cannot = |why: String| Error::invalid(&at, given, format!("error converting fieldPath: {why}"));
    if version != "v1" {
        errors.push(cannot(format!("unsupported pod version: {version}")));
        return;
    }
    match subscripted(given) {
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            told(name::qualified_name_faults(&key), path, &key, errors);
        }
        Some(("metadata.labels", key)) => told(name::qualified_name_faults(key), path, key, errors),
        Some(_) => errors.push(cannot(format!("field label does not support subscript: {given}"))),
        None if given != "spec.host" && !KNOWN.contains(&given) => {
            errors.push(cannot(format!("field label not supported: {given}")));
        }
        None => {
            let path = if given == "spec.host" { "spec.nodeName" } else { given };
            if !allowed.contains(&path) {
                errors.push(Error::not_supported(at, path, allowed));
            }
        }
    }
}

/// A resource of a container.
pub(in super::super) fn resource_reference(
    reference: &Value,
    of_volume: bool,
    path: &Path,
    errors: &mut ErrorList,
) {
    const RESOURCES: [&str; 6] = [
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    let resource = object::text(reference, &["resource"]);
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if of_volume && object::text(reference, &["containerName"]).is_empty() {
        errors.push(Error::required(path.child("containerName"), ""));
    } else if resource.is_empty() {
        errors.push(Error::required(path.child("resource"), ""));
    } else if !RESOURCES.contains(&resource) && !huge {
        errors.push(Error::not_supported(path.child("resource"), resource, &RESOURCES));
    }
    let divisor = object::at(reference, &["divisor"]).and_then(|value| Quantity::from_json(value).ok());
    let Some(divisor) = divisor.filter(|divisor| !divisor.is_zero()) else { return };
    const BYTES: [&str; 13] =
        ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let (allowed, listed, what): (&[&str], _, _) = match resource.split_once('.').map_or("", |(_, name)| name)
    {
        "cpu" => (&["1m", "1"], "1m and 1".to_owned(), "cpu"),
        "memory" => (&BYTES, BYTES.join(", "), "memory"),
        "ephemeral-storage" => (&BYTES, BYTES.join(", "), "local ephemeral storage"),
        _ if huge => (&BYTES, BYTES.join(", "), "hugepages"),
        _ => return,
    };
    if !allowed.contains(&divisor.to_string().as_str()) {
        let detail = format!("only divisor's values {listed} are supported with the {what} resource");
        errors.push(Error::invalid(path.child("divisor"), resource, detail));
    }
}

fn file_key(reference: &Value, path: &Path, errors: &mut ErrorList) {
    let text = |field: &str| object::text(reference, &[field]);
    match text("key") {
        "" => errors.push(Error::required(path.child("key"), "")),
        key => {
            errors.extend(name::env_name(key).err().map(|why| Error::invalid(path.child("key"), key, why)));
        }
    }
    match text("volumeName") {
        "" => errors.push(Error::required(path.child("volumeName"), "")),
        given => told(name::dns1123_label_faults(given), &path.child("volumeName"), given, errors),
    }
    match text("path") {
        "" => errors.push(Error::required(path.child("path"), "")),
        given => super::super::volumes::no_backsteps(given, &path.child("path"), errors),
    }
}

/// Files that variables are read from are in volumes of the pod that begin empty.
pub(in super::super) fn files(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let volumes = object::list(spec, &["volumes"]);
    each(spec, path, |container, at| {
        for (i, variable) in object::list(container, &["env"]).iter().enumerate() {
            let Some(reference) = object::at(variable, &["valueFrom", "fileKeyRef"]) else { continue };
            let wanted = object::text(reference, &["volumeName"]);
            let at = at.child("env").index(i).child("valueFrom").child("fileKeyRef").child("volumeName");
            match volumes.iter().rfind(|volume| object::text(volume, &["name"]) == wanted) {
                None => errors.push(Error::not_found(at, wanted)),
                Some(volume) if object::at(volume, &["emptyDir"]).is_none() => {
                    errors.push(Error::invalid(at, wanted, "referenced volume must be of type emptyDir"));
                }
                Some(_) => {}
            }
        }
    });
}
