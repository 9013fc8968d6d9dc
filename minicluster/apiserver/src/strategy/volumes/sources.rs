//! Where a volume comes from: the sources of pods' volumes and of PersistentVolumes.
//!
//! The order in which sources are looked at is upstream's: the first that is there is checked, the others are too many.
//! Source: `validateVolumeSource` and what it calls, `ValidatePersistentVolumeSpec`.

use serde_json::Value;
use windlass_crd::{
    field::{Error, ErrorList, Path},
    name,
    quantity::Quantity,
};

use super::{
    super::{
        pod_spec::{one_of, told},
        storage,
    },
    driver_name, file_mode, keys_to_paths, no_backsteps, projected, required,
};
use crate::object;

/// The sources of pods' volumes in upstream's order.
const ORDER: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

/// Checks the source of a pod's volume; `pod` is the pod's name, if it has one.
pub(super) fn validate(volume: &Value, pod: &str, path: &Path, errors: &mut ErrorList) {
    let mut found = false;
    for kind in ORDER {
        let Some(source) = object::at(volume, &[kind]) else { continue };
        if found && kind != "emptyDir" {
            let shown = match kind {
                "cephfs" => "cephFS",
                "downwardAPI" => "downwarAPI",
                other => other,
            };
            errors.push(Error::forbidden(path.child(shown), "may not specify more than 1 volume type"));
            continue;
        }
        found = true;
        let shown = if kind == "gcePersistentDisk" { "persistentDisk" } else { kind };
        of_pod(kind, source, &path.child(shown), errors);
        let name = object::text(volume, &["name"]);
        match kind {
            "iscsi" => portal_fits(source, name, &path.child("name"), errors),
            "ephemeral" if !pod.is_empty() && !name.is_empty() => {
                let claim = format!("{pod}-{name}");
                let faults = name::dns1123_subdomain_faults(&claim).into_iter();
                let faults = faults.map(|why| format!("PVC name \"{claim}\": {why}"));
                told(faults.collect(), &path.child("name"), name, errors);
            }
            _ => {}
        }
    }
    if !found {
        errors.push(Error::required(path, "must specify a volume type"));
    }
}

/// An initiator's portal and the volume's name make one name together.
fn portal_fits(source: &Value, volume: &str, path: &Path, errors: &mut ErrorList) {
    const MAX: usize = 64;
    let portal = object::text(source, &["targetPortal"]);
    if object::at(source, &["initiatorName"]).is_some() && volume.len() + 1 + portal.len() > MAX {
        let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if \
            iscsi.initiatorName is specified.";
        errors.push(Error::invalid(path, volume, detail));
    }
}

fn of_pod(kind: &str, source: &Value, path: &Path, errors: &mut ErrorList) {
    match kind {
        "emptyDir" => {
            let limit = object::at(source, &["sizeLimit"]).and_then(|limit| Quantity::from_json(limit).ok());
            if limit.is_some_and(|limit| limit.signum() < 0) {
                let detail = "SizeLimit field must be a valid resource quantity";
                errors.push(Error::forbidden(path.child("sizeLimit"), detail));
            }
        }
        "gitRepo" => {
            required(source, &["repository"], path, errors);
            super::descending(object::text(source, &["directory"]), &path.child("directory"), errors);
        }
        "secret" => {
            required(source, &["secretName"], path, errors);
            file_mode(source, "defaultMode", path, errors);
            keys_to_paths(source, path, errors);
        }
        "configMap" => {
            required(source, &["name"], path, errors);
            file_mode(source, "defaultMode", path, errors);
            keys_to_paths(source, path, errors);
        }
        "persistentVolumeClaim" => required(source, &["claimName"], path, errors),
        "downwardAPI" => {
            file_mode(source, "defaultMode", path, errors);
            for file in object::list(source, &["items"]) {
                projected::passed_down(file, path, errors);
            }
        }
        "projected" => projected::validate(source, path, errors),
        "csi" => {
            driver_name(object::text(source, &["driver"]), &path.child("driver"), errors);
            if let Some(secret) = object::at(source, &["nodePublishSecretRef"]) {
                match object::text(secret, &["name"]) {
                    "" => errors.push(Error::required(path.child("nodePublishSecretRef").child("name"), "")),
                    given => told(name::dns1123_subdomain_faults(given), &path.child("name"), given, errors),
                }
            }
        }
        "ephemeral" => {
            let path = path.child("volumeClaimTemplate");
            let Some(template) = object::at(source, &["volumeClaimTemplate"]) else {
                errors.push(Error::required(path, ""));
                return;
            };
            super::super::template::object_meta(template, &path.child("metadata"), errors);
            storage::claim_spec(template.get("spec").unwrap_or(&Value::Null), &path.child("spec"), errors);
        }
        "image" => {
            required(source, &["reference"], path, errors);
            let policies = ["Always", "IfNotPresent", "Never"];
            super::super::pod_spec::one_of_required(source, "pullPolicy", &policies, path, errors);
        }
        _ => shared(kind, source, false, path, errors),
    }
}

/// Sources that PersistentVolumes have, too; these name the namespaces of what they refer to.
pub(in super::super) fn shared(
    kind: &str,
    source: &Value,
    of_volume: bool,
    path: &Path,
    errors: &mut ErrorList,
) {
    let text = |field: &str| object::text(source, &[field]);
    match kind {
        "hostPath" => host_path(source, path, errors),
        "gcePersistentDisk" => disk(source, "pdName", path, errors),
        "awsElasticBlockStore" => disk(source, "volumeID", path, errors),
        "nfs" => {
            required(source, &["server", "path"], path, errors);
            if !text("path").starts_with('/') {
                errors.push(Error::invalid(path.child("path"), text("path"), "must be an absolute path"));
            }
        }
        "iscsi" => iscsi(source, of_volume, path, errors),
        "glusterfs" => required(source, &["endpoints", "path"], path, errors),
        "flocker" => flocker(source, path, errors),
        "rbd" => {
            if object::list(source, &["monitors"]).is_empty() {
                errors.push(Error::required(path.child("monitors"), ""));
            }
            required(source, &["image"], path, errors);
        }
        "cephfs" if object::list(source, &["monitors"]).is_empty() => {
            errors.push(Error::required(path.child("monitors"), ""));
        }
        "cinder" => {
            required(source, &["volumeID"], path, errors);
            secret_reference(source, of_volume, path, errors);
        }
        "quobyte" => quobyte(source, path, errors),
        "fc" => fibre_channel(source, path, errors),
        "flexVolume" => flex(source, path, errors),
        "azureFile" => required(source, &["secretName", "shareName"], path, errors),
        "vsphereVolume" => required(source, &["volumePath"], path, errors),
        "photonPersistentDisk" => required(source, &["pdID"], path, errors),
        "portworxVolume" => required(source, &["volumeID"], path, errors),
        "azureDisk" => azure_disk(source, path, errors),
        "scaleIO" => required(source, &["gateway", "system", "volumeName"], path, errors),
        "storageos" => {
            required(source, &["volumeName"], path, errors);
            for field in ["volumeName", "volumeNamespace"] {
                if !text(field).is_empty() {
                    told(name::dns1123_label_faults(text(field)), &path.child(field), text(field), errors);
                }
            }
            secret_reference(source, of_volume, path, errors);
        }
        _ => {}
    }
}

fn secret_reference(source: &Value, of_volume: bool, path: &Path, errors: &mut ErrorList) {
    let Some(secret) = object::at(source, &["secretRef"]) else { return };
    let fields: &[&'static str] = if of_volume { &["name", "namespace"] } else { &["name"] };
    required(secret, fields, &path.child("secretRef"), errors);
}

fn host_path(source: &Value, path: &Path, errors: &mut ErrorList) {
    const KINDS: [&str; 8] =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    let given = object::text(source, &["path"]);
    if given.is_empty() {
        errors.push(Error::required(path.child("path"), ""));
        return;
    }
    no_backsteps(given, &path.child("path"), errors);
    one_of(source, "type", &KINDS, path, errors);
}

fn disk(source: &Value, field: &'static str, path: &Path, errors: &mut ErrorList) {
    required(source, &[field], path, errors);
    let partition = object::number(source, &["partition"]).unwrap_or(0);
    if !(0..=255).contains(&partition) {
        // The words leave out that 0 is no partition at all.
        errors.push(Error::invalid(path.child("partition"), partition, name::range_error(1, 255)));
    }
}

fn iscsi(source: &Value, of_volume: bool, path: &Path, errors: &mut ErrorList) {
    required(source, &["targetPortal"], path, errors);
    let iqn = object::text(source, &["iqn"]);
    if iqn.is_empty() {
        errors.push(Error::required(path.child("iqn"), ""));
    } else {
        errors.extend(
            qualified_name_fault(iqn, of_volume).map(|why| Error::invalid(path.child("iqn"), iqn, why)),
        );
    }
    let lun = object::number(source, &["lun"]).unwrap_or(0);
    if !(0..=255).contains(&lun) {
        errors.push(Error::invalid(path.child("lun"), lun, name::range_error(0, 255)));
    }
    let set = |field: &str| object::at(source, &[field]) == Some(&Value::Bool(true));
    let secret = object::at(source, &["secretRef"]);
    if (set("chapAuthDiscovery") || set("chapAuthSession")) && secret.is_none() {
        errors.push(Error::required(path.child("secretRef"), ""));
    }
    if of_volume && secret.is_some_and(|secret| object::text(secret, &["name"]).is_empty()) {
        errors.push(Error::required(path.child("secretRef").child("name"), ""));
    }
    if let Some(given) = object::at(source, &["initiatorName"]).and_then(Value::as_str) {
        let fault = qualified_name_fault(given, of_volume);
        errors.extend(fault.map(|why| Error::invalid(path.child("initiatorname"), given, why)));
    }
}

/// What is wrong with a name of an iSCSI node.
fn qualified_name_fault(given: &str, of_volume: bool) -> Option<&'static str> {
    const FORM: &str = "must be valid format";
    let alphanumeric =
        |text: &str, len: usize| text.len() == len && text.bytes().all(|b| b.is_ascii_alphanumeric());
    // `eui.` and `naa.`, whose point may be any character.
    let tail =
        |given: &str| given.char_indices().nth(4).map(|(at, _)| given[at..].to_owned()).unwrap_or_default();
    let good = match given.get(..3) {
        Some("iqn") => is_iqn(given),
        Some("eui") => alphanumeric(&tail(given), 16),
        Some("naa") => alphanumeric(&tail(given), 32),
        _ if of_volume => return Some(FORM),
        _ => return Some("must be valid format starting with iqn, eui, or naa"),
    };
    (!good).then_some(FORM)
}

/// `iqn.2024-01.dev.example:target`.
fn is_iqn(given: &str) -> bool {
    let Some(rest) = given.strip_prefix("iqn.") else { return false };
    let (date, rest) = rest.split_at_checked(7).unwrap_or_default();
    let dated = date.bytes().enumerate().all(|(i, b)| if i == 4 { b == b'-' } else { b.is_ascii_digit() });
    let Some((authority, target)) = rest.strip_prefix('.').and_then(|rest| rest.split_once(':')) else {
        return false;
    };
    let authority_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    let barred = |c: char| matches!(c, ',' | ';' | '*' | '&' | '$' | '|') || c.is_whitespace();
    date.len() == 7
        && dated
        && !authority.is_empty()
        && authority.bytes().all(authority_byte)
        && !target.is_empty()
        && !target.contains(barred)
}

fn flocker(source: &Value, path: &Path, errors: &mut ErrorList) {
    let (name, uuid) = (object::text(source, &["datasetName"]), object::text(source, &["datasetUUID"]));
    if name.is_empty() && uuid.is_empty() {
        errors.push(Error::required(path, "one of datasetName and datasetUUID is required"));
    }
    if !name.is_empty() && !uuid.is_empty() {
        let detail = "datasetName and datasetUUID can not be specified simultaneously";
        errors.push(Error::invalid(path, "resource", detail));
    }
    if name.contains('/') {
        errors.push(Error::invalid(path.child("datasetName"), name, "must not contain '/'"));
    }
}

fn quobyte(source: &Value, path: &Path, errors: &mut ErrorList) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    const TENANT_MAX: usize = 64;
    let registry = object::text(source, &["registry"]);
    if registry.is_empty() {
        errors.push(Error::required(path.child("registry"), PAIRS));
    } else if object::text(source, &["tenant"]).len() > TENANT_MAX {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        errors.push(Error::required(path.child("tenant"), detail));
    } else {
        let is_pair = |pair: &&str| {
            pair.rsplit_once(':').is_some_and(|(host, _)| {
                !host.contains(':') || (host.starts_with('[') && host.ends_with(']'))
            })
        };
        let bad = registry.split(',').filter(|pair| !is_pair(pair));
        errors.extend(bad.map(|_| Error::invalid(path.child("registry"), registry, PAIRS)));
    }
    required(source, &["volume"], path, errors);
}

fn fibre_channel(source: &Value, path: &Path, errors: &mut ErrorList) {
    let (names, ids) = (object::list(source, &["targetWWNs"]), object::list(source, &["wwids"]));
    if names.is_empty() && ids.is_empty() {
        let detail = "must specify either targetWWNs or wwids, but not both";
        errors.push(Error::required(path.child("targetWWNs"), detail));
    }
    if !names.is_empty() && !ids.is_empty() {
        let detail = "targetWWNs and wwids can not be specified simultaneously";
        errors.push(Error::invalid(path.child("targetWWNs"), names.to_vec(), detail));
    }
    if names.is_empty() {
        return;
    }
    match object::number(source, &["lun"]) {
        None => errors.push(Error::required(path.child("lun"), "lun is required if targetWWNs is specified")),
        Some(lun) if !(0..=255).contains(&lun) => {
            errors.push(Error::invalid(path.child("lun"), lun, name::range_error(0, 255)));
        }
        Some(_) => {}
    }
}

fn flex(source: &Value, path: &Path, errors: &mut ErrorList) {
    required(source, &["driver"], path, errors);
    for (key, _) in object::at(source, &["options"]).and_then(Value::as_object).into_iter().flatten() {
        let namespace = key.split_once('/').map_or(key.as_str(), |(namespace, _)| namespace);
        let normalized = format!(".{}", namespace.to_lowercase());
        if normalized.ends_with(".kubernetes.io") || normalized.ends_with(".k8s.io") {
            let detail = "kubernetes.io and k8s.io namespaces are reserved";
            errors.push(Error::invalid(path.child("options").key(key), key.as_str(), detail));
        }
    }
}

fn azure_disk(source: &Value, path: &Path, errors: &mut ErrorList) {
    required(source, &["diskName", "diskURI"], path, errors);
    one_of(source, "cachingMode", &["None", "ReadOnly", "ReadWrite"], path, errors);
    one_of(source, "kind", &["Dedicated", "Managed", "Shared"], path, errors);
    let uri = object::text(source, &["diskURI"]);
    let at = path.child("diskURI");
    match object::at(source, &["kind"]).and_then(Value::as_str) {
        Some("Managed") if !uri.starts_with("/subscriptions/") => {
            let form = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
            errors.push(Error::not_supported(at, uri, &[form]));
        }
        Some(kind) if kind != "Managed" && !uri.starts_with("https://") => {
            let form = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
            errors.push(Error::not_supported(at, uri, &[form]));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_iscsi_nodes() {
        for good in
            ["iqn.2015-02.example.com:test", "eui.0123456789ABCDEF", "naa.62004567BA64678D0123456789ABCDEF"]
        {
            assert_eq!(qualified_name_fault(good, false), None, "{good}");
        }
        for bad in ["iqn.2015.example:a", "iqn.2015-02.example.com", "eui.0123", "naa.1", "iqn.2015-02.e:a b"]
        {
            assert_eq!(qualified_name_fault(bad, false), Some("must be valid format"), "{bad}");
        }
    }
}
