//! Volumes that are put together from several sources, and what of a pod is passed down into files.
//!
//! Source: `validateProjectionSources`, `validateDownwardAPIVolumeFile`.

use std::collections::BTreeSet;

use serde_json::Value;
use windlass_crd::{
    field::{Error, ErrorList, Path},
    name,
    selector::validate_label_selector,
};

use super::{
    super::{checks::signer_name, container::env, internal, pod_spec::told},
    file_mode, key_to_path, not_reserved, required,
};
use crate::object;

/// The least and the most seconds that a token lasts.
const TOKEN_SECONDS: (i64, i64) = (600, 1 << 32);
/// The least seconds that a certificate lasts; the most, and the most of Kubernetes' own signers.
const CERTIFICATE_SECONDS: (i64, i64, i64) = (3600, 91 * 24 * 3600, 24 * 3600);

/// A file with a field of the pod or a resource of a container.
pub(super) fn passed_down(file: &Value, path: &Path, errors: &mut ErrorList) {
    required(file, &["path"], path, errors);
    not_reserved(object::text(file, &["path"]), &path.child("path"), errors);
    let (field, resource) = (object::at(file, &["fieldRef"]), object::at(file, &["resourceFieldRef"]));
    match (field, resource) {
        (Some(field), other) => {
            env::field_reference(field, &env::VOLUME_FIELDS, &path.child("fieldRef"), errors);
            if other.is_some() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(Error::invalid(path, "resource", detail));
            }
        }
        (None, Some(resource)) => {
            env::resource_reference(resource, true, &path.child("resourceFieldRef"), errors);
        }
        (None, None) => {
            errors.push(Error::required(path, "one of fieldRef and resourceFieldRef is required"));
        }
    }
    file_mode(file, "mode", path, errors);
}

/// The files of a volume: no two sources write one.
struct Files<'v> {
    taken: BTreeSet<&'v str>,
    path: &'v Path,
}

impl<'v> Files<'v> {
    /// `shown`: what the message shows.
    fn take(&mut self, file: &'v str, shown: &str, errors: &mut ErrorList) {
        if !self.taken.insert(file) {
            errors.push(Error::invalid(self.path, shown, "conflicting duplicate paths"));
        }
    }
}

pub(super) fn validate(value: &Value, path: &Path, errors: &mut ErrorList) {
    file_mode(value, "defaultMode", path, errors);
    let mut files = Files { taken: BTreeSet::new(), path };
    for (i, source) in object::list(value, &["sources"]).iter().enumerate() {
        let at = path.child("sources").index(i);
        let mut found = 0;
        for kind in ["secret", "configMap"] {
            let Some(of) = object::at(source, &[kind]) else { continue };
            found += 1;
            let at = at.child(kind);
            required(of, &["name"], &at, errors);
            for (j, item) in object::list(of, &["items"]).iter().enumerate() {
                key_to_path(item, &at.child("items").index(j), errors);
                let file = object::text(item, &["path"]);
                if !file.is_empty() {
                    files.take(file, object::text(of, &["name"]), errors);
                }
            }
        }
        if let Some(of) = object::at(source, &["downwardAPI"]) {
            found += 1;
            for file in object::list(of, &["items"]) {
                passed_down(file, &at.child("downwardAPI"), errors);
                let given = object::text(file, &["path"]);
                if !given.is_empty() {
                    files.take(given, given, errors);
                }
            }
        }
        if let Some(token) = object::at(source, &["serviceAccountToken"]) {
            found += 1;
            service_account_token(token, path, &at.child("serviceAccountToken"), errors);
        }
        if let Some(bundle) = object::at(source, &["clusterTrustBundle"]) {
            found += 1;
            trust_bundle(bundle, &at.child("clusterTrustBundle"), errors);
            let given = object::text(bundle, &["path"]);
            files.take(given, given, errors);
        }
        if let Some(certificate) = object::at(source, &["podCertificate"]) {
            found += 1;
            pod_certificate(certificate, &mut files, &at.child("podCertificate"), errors);
        }
        if found > 1 {
            errors.push(Error::forbidden(at, "may not specify more than 1 volume type per source"));
        }
    }
}

/// The path of a token is told as one of the volume.
fn service_account_token(token: &Value, volume: &Path, path: &Path, errors: &mut ErrorList) {
    let seconds = object::number(token, &["expirationSeconds"]).unwrap_or(0);
    let at = path.child("expirationSeconds");
    if seconds < TOKEN_SECONDS.0 {
        errors.push(Error::invalid(&at, seconds, "may not specify a duration less than 10 minutes"));
    }
    if seconds > TOKEN_SECONDS.1 {
        errors.push(Error::invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds"));
    }
    match object::text(token, &["path"]) {
        "" => errors.push(Error::required(volume.child("path"), "")),
        given => not_reserved(given, &volume.child("path"), errors),
    }
}

fn trust_bundle(bundle: &Value, path: &Path, errors: &mut ErrorList) {
    let text = |field: &str| object::at(bundle, &[field]).and_then(Value::as_str);
    let selector = object::at(bundle, &["labelSelector"]);
    match (text("name"), text("signerName")) {
        (Some(_), Some(_)) => {
            let detail = "only one of name and signerName may be used";
            errors.push(internal::invalid(path, "ClusterTrustBundleProjection", bundle, detail));
        }
        (Some(given), None) => {
            if given.is_empty() {
                errors.push(Error::required(path.child("name"), "must be a valid object name"));
            }
            let faults = name::dns1123_subdomain_faults(&given.replace(':', ".")).into_iter();
            let faults = faults.map(|why| format!("not a valid clustertrustbundlename: {why}"));
            told(faults.collect(), &path.child("name"), given, errors);
            if let Some(selector) = selector {
                let detail = "labelSelector must be unset if name is specified";
                errors.push(internal::invalid(
                    &path.child("labelSelector"),
                    "LabelSelector",
                    selector,
                    detail,
                ));
            }
        }
        (None, Some(given)) => {
            if given.is_empty() {
                errors.push(Error::required(path.child("signerName"), "must be a valid signer name"));
            }
            signer_name(given, &path.child("signerName"), errors);
            if let Some(selector) = selector {
                errors.extend(validate_label_selector(selector, &path.child("labelSelector")));
            }
        }
        (None, None) => errors.push(Error::required(path, "either name or signerName must be specified")),
    }
    required(bundle, &["path"], path, errors);
    not_reserved(object::text(bundle, &["path"]), &path.child("path"), errors);
}

fn pod_certificate<'v>(certificate: &'v Value, files: &mut Files<'v>, path: &Path, errors: &mut ErrorList) {
    const KEYS: [&str; 6] = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
    let signer = object::text(certificate, &["signerName"]);
    signer_name(signer, &path.child("signerName"), errors);
    let key = object::text(certificate, &["keyType"]);
    if !KEYS.contains(&key) {
        errors.push(Error::not_supported(path.child("keyType"), key, &KEYS));
    }
    if let Some(seconds) = object::number(certificate, &["maxExpirationSeconds"]) {
        let at = path.child("maxExpirationSeconds");
        let (least, most, most_of_own) = CERTIFICATE_SECONDS;
        let most = if signer.starts_with("kubernetes.io/") { most_of_own } else { most };
        if seconds < least {
            let detail = format!("if provided, maxExpirationSeconds must be >= {least}");
            errors.push(Error::invalid(&at, seconds, detail));
        }
        if seconds > most {
            let detail = format!("if provided, maxExpirationSeconds must be <= {most}");
            errors.push(Error::invalid(&at, seconds, detail));
        }
    }
    let mut found = false;
    for field in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
        let given = object::text(certificate, &[field]);
        if !given.is_empty() {
            found = true;
            not_reserved(given, &path.child(field), errors);
            files.take(given, given, errors);
        }
    }
    if !found {
        let detail = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        errors.push(Error::required(path, detail));
    }
}
