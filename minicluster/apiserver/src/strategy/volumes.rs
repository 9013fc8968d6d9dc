//! Validation of a pod's volumes.
//!
//! Source: `pkg/apis/core/validation/validation.go`, `ValidateVolumes`.

mod projected;
mod sources;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use windlass_crd::{
    field::{Error, ErrorList, Path},
    name,
};

pub(super) use self::sources::shared;
use super::pod_spec::told;
use crate::object;

/// The volumes that are as they should be, by name: whether they may be used as devices.
pub(super) type Volumes = BTreeMap<String, bool>;

/// Checks the volumes of a pod spec.
pub(super) fn validate(
    spec: &Value,
    metadata: Option<&Value>,
    path: &Path,
    errors: &mut ErrorList,
) -> Volumes {
    let pod = metadata.map_or("", |meta| object::text(meta, &["name"]));
    let volumes = object::list(spec, &["volumes"]);
    let created: BTreeSet<String> = volumes
        .iter()
        .filter(|volume| !pod.is_empty() && object::at(volume, &["ephemeral"]).is_some())
        .map(|volume| format!("{pod}-{}", object::text(volume, &["name"])))
        .collect();
    let mut good = Volumes::new();
    for (i, volume) in volumes.iter().enumerate() {
        let at = path.child("volumes").index(i);
        let given = object::text(volume, &["name"]);
        let before = errors.len();
        sources::validate(volume, pod, &at, errors);
        if given.is_empty() {
            errors.push(Error::required(at.child("name"), ""));
        } else {
            told(name::dns1123_label_faults(given), &at.child("name"), given, errors);
        }
        if good.contains_key(given) {
            errors.push(Error::duplicate(at.child("name"), given));
        }
        if errors.len() == before {
            let of_claim = ["persistentVolumeClaim", "ephemeral"];
            let block = of_claim.iter().any(|kind| object::at(volume, &[kind]).is_some());
            good.insert(given.to_owned(), block);
        }
        let claim = object::text(volume, &["persistentVolumeClaim", "claimName"]);
        if created.contains(claim) {
            let at = at.child("persistentVolumeClaim").child("claimName");
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            errors.push(Error::invalid(at, claim, detail));
        }
    }
    good
}

/// Whether a path goes up.
pub(super) fn has_backsteps(given: &str) -> bool {
    given.split('/').any(|part| part == "..")
}

/// A path that does not go up.
pub(super) fn no_backsteps(given: &str, path: &Path, errors: &mut ErrorList) {
    if has_backsteps(given) {
        errors.push(Error::invalid(path, given, "must not contain '..'"));
    }
}

/// A path that stays below where it starts.
pub(super) fn descending(given: &str, path: &Path, errors: &mut ErrorList) {
    if given.starts_with('/') {
        errors.push(Error::invalid(path, given, "must be a relative path"));
    }
    no_backsteps(given, path, errors);
}

/// The same, and none of the names that begin with two dots.
fn not_reserved(given: &str, path: &Path, errors: &mut ErrorList) {
    descending(given, path, errors);
    if given.starts_with("..") && !given.starts_with("../") {
        errors.push(Error::invalid(path, given, "must not start with '..'"));
    }
}

fn required(value: &Value, fields: &[&'static str], path: &Path, errors: &mut ErrorList) {
    for field in fields {
        if object::text(value, &[field]).is_empty() {
            errors.push(Error::required(path.child(*field), ""));
        }
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

/// A key of a ConfigMap or a Secret, and the file it becomes.
fn key_to_path(item: &Value, path: &Path, errors: &mut ErrorList) {
    required(item, &["key", "path"], path, errors);
    not_reserved(object::text(item, &["path"]), &path.child("path"), errors);
    file_mode(item, "mode", path, errors);
}

fn keys_to_paths(value: &Value, path: &Path, errors: &mut ErrorList) {
    for (i, item) in object::list(value, &["items"]).iter().enumerate() {
        key_to_path(item, &path.child("items").index(i), errors);
    }
}

/// The name of a storage driver.
pub(super) fn driver_name(given: &str, path: &Path, errors: &mut ErrorList) {
    const MAX: usize = 63;
    if given.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    if given.len() > MAX {
        errors.push(Error::too_long(path, MAX));
    }
    told(name::dns1123_subdomain_faults(&given.to_lowercase()), path, given, errors);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use windlass_crd::field;

    /// A volume with this source, and what is said about it. Cases of upstream's `TestValidateVolumes`.
    #[test]
    fn one_fault_at_a_time() {
        let at = "spec.volumes[0]";
        let cases = [
            (json!({}), format!("{at}: Required value: must specify a volume type")),
            (
                json!({"emptyDir": {}, "hostPath": {"path": "/a"}}),
                format!("{at}.hostPath: Forbidden: may not specify more than 1 volume type"),
            ),
            (
                json!({"emptyDir": {"sizeLimit": "-1"}}),
                format!(
                    "{at}.emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity"
                ),
            ),
            (json!({"hostPath": {"path": ""}}), format!("{at}.hostPath.path: Required value")),
            (
                json!({"hostPath": {"path": "/a/../b", "type": "X"}}),
                format!(
                    "{at}.hostPath.path: Invalid value: \"/a/../b\": must not contain '..'; {at}.hostPath.type: Unsupported value: \"X\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\""
                ),
            ),
            (
                json!({"secret": {"secretName": "s", "defaultMode": 512}}),
                format!(
                    "{at}.secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive"
                ),
            ),
            (
                json!({"configMap": {"name": "c", "items": [{"key": "k", "path": "..x"}]}}),
                format!("{at}.configMap.items[0].path: Invalid value: \"..x\": must not start with '..'"),
            ),
            (
                json!({"nfs": {"server": "s", "path": "a"}}),
                format!("{at}.nfs.path: Invalid value: \"a\": must be an absolute path"),
            ),
            (
                json!({"iscsi": {"targetPortal": "p", "iqn": "x"}}),
                format!(
                    "{at}.iscsi.iqn: Invalid value: \"x\": must be valid format starting with iqn, eui, or naa"
                ),
            ),
            (
                json!({"fc": {"lun": 1}}),
                format!(
                    "{at}.fc.targetWWNs: Required value: must specify either targetWWNs or wwids, but not both"
                ),
            ),
            (
                json!({"gcePersistentDisk": {"pdName": "d", "partition": 300}}),
                format!(
                    "{at}.persistentDisk.partition: Invalid value: 300: must be between 1 and 255, inclusive"
                ),
            ),
            (
                json!({"csi": {"driver": "a_b"}}),
                format!(
                    "{at}.csi.driver: Invalid value: \"a_b\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
                ),
            ),
            (json!({"ephemeral": {}}), format!("{at}.ephemeral.volumeClaimTemplate: Required value")),
            (
                json!({"downwardAPI": {"items": [{"path": "a"}]}}),
                format!("{at}.downwardAPI: Required value: one of fieldRef and resourceFieldRef is required"),
            ),
            (
                json!({"projected": {"sources": [{"serviceAccountToken": {"expirationSeconds": 1}}]}}),
                format!(
                    "{at}.projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes; {at}.projected.path: Required value"
                ),
            ),
            (
                json!({"projected": {"sources": [{"secret": {"name": "s", "items": [{"key": "k", "path": "p"}]}}, {"configMap": {"name": "c", "items": [{"key": "k", "path": "p"}]}}]}}),
                format!("{at}.projected: Invalid value: \"c\": conflicting duplicate paths"),
            ),
            (
                json!({"projected": {"sources": [{"clusterTrustBundle": {"path": "p"}}]}}),
                format!(
                    "{at}.projected.sources[0].clusterTrustBundle: Required value: either name or signerName must be specified"
                ),
            ),
        ];
        for (source, expected) in cases {
            let mut volume = source.clone();
            volume["name"] = json!("v");
            let mut errors = ErrorList::new();
            validate(&json!({"volumes": [volume]}), None, &field::root("spec"), &mut errors);
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(texts.join("; "), expected, "{source}");
        }
    }

    #[test]
    fn volumes_have_names_of_their_own() {
        let mut errors = ErrorList::new();
        let spec = json!({"volumes": [{"name": "a", "emptyDir": {}}, {"name": "a", "emptyDir": {}}, {"emptyDir": {}},
            {"name": "e", "ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1"}}}}}},
            {"name": "p", "persistentVolumeClaim": {"claimName": "pod-e"}}]});
        let good = validate(&spec, Some(&json!({"name": "pod"})), &field::root("spec"), &mut errors);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.volumes[1].name: Duplicate value: \"a\"",
                "spec.volumes[2].name: Required value",
                "spec.volumes[4].persistentVolumeClaim.claimName: Invalid value: \"pod-e\": must not reference a PVC that \
                 gets created for an ephemeral volume",
            ]
        );
        assert_eq!(
            good,
            Volumes::from([("a".to_owned(), false), ("e".to_owned(), true), ("p".to_owned(), true)])
        );
    }
}
