//! What a definition may say of its versions' conversion, and of the versions in which objects are stored.
//!
//! Field paths are those of upstream's internal type, which keeps the webhook's configuration directly below
//! `conversion`.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Uri;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::Value;
use windlass_crd::{
    field::{self, Error, ErrorList, Path},
    name,
};

use crate::{crds::conversion::review, object};

/// Checks `spec.conversion`; `old` is what stood there before an update.
pub(super) fn validate(spec: &Value, old: Option<&Value>, path: &Path, errors: &mut ErrorList) {
    let Some(conversion) = object::at(spec, &["conversion"]) else { return };
    let strategy = object::text(conversion, &["strategy"]);
    let config = object::at(conversion, &["webhook", "clientConfig"]);
    let versions = object::list(conversion, &["webhook", "conversionReviewVersions"]);
    let (at_config, at_versions) =
        (path.child("webhookClientConfig"), path.child("conversionReviewVersions"));
    match strategy {
        "Webhook" => {
            if spec.get("preserveUnknownFields") == Some(&Value::Bool(true)) {
                let detail = "must be None if spec.preserveUnknownFields is true";
                errors.push(Error::invalid(path.child("strategy"), strategy, detail));
            }
            match config {
                None => errors.push(Error::required(&at_config, "required when strategy is set to Webhook")),
                Some(config) => client_config(config, old, &at_config, errors),
            }
            review_versions(versions, old, &at_versions, errors);
        }
        "None" => {
            let detail = "should not be set when strategy is not set to Webhook";
            if config.is_some() {
                errors.push(Error::forbidden(&at_config, detail));
            }
            if !versions.is_empty() {
                errors.push(Error::forbidden(&at_versions, detail));
            }
        }
        "" => errors.push(Error::required(path.child("strategy"), "")),
        other => errors.push(Error::not_supported(path.child("strategy"), other, &["None", "Webhook"])),
    }
}

fn client_config(config: &Value, old: Option<&Value>, path: &Path, errors: &mut ErrorList) {
    match (object::at(config, &["url"]), object::at(config, &["service"])) {
        (Some(_), None) => url(object::text(config, &["url"]), &path.child("url"), errors),
        (None, Some(target)) => service(target, &path.child("service"), errors),
        _ => errors.push(Error::required(path, "exactly one of url or service is required")),
    }
    let bundle = object::text(config, &["caBundle"]);
    let before = old.map_or("", |old| object::text(old, &["webhook", "clientConfig", "caBundle"]));
    // A bundle that was let in before its contents were looked at does not stand in the way of other changes.
    let tolerated = !before.is_empty() && bundle_fault(before).is_some();
    if let Some(why) = bundle_fault(bundle).filter(|_| !tolerated) {
        errors.push(Error::invalid(path.child("caBundle"), bundle, why));
    }
}

fn bundle_fault(bundle: &str) -> Option<String> {
    let pem = STANDARD.decode(bundle).ok()?;
    if pem.trim_ascii().is_empty() {
        return None;
    }
    let fault = "unable to load root certificates: unable to parse bytes as PEM block";
    let mut certificates = CertificateDer::pem_slice_iter(&pem);
    let readable = certificates.next().is_some_and(|first| first.is_ok()) && certificates.all(|c| c.is_ok());
    (!readable).then(|| fault.to_owned())
}

fn url(text: &str, path: &Path, errors: &mut ErrorList) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (text, fragment) = text.split_once('#').unwrap_or((text, ""));
    let uri: Uri = match text.parse() {
        Ok(uri) => uri,
        Err(why) => {
            errors.push(Error::required(path, format!("url must be a valid URL: {why}{FORM}")));
            return;
        }
    };
    let scheme = uri.scheme_str().unwrap_or_default();
    if scheme != "https" {
        errors.push(Error::invalid(path, scheme, format!("'https' is the only allowed URL scheme{FORM}")));
    }
    if uri.host().is_none_or(str::is_empty) {
        errors.push(Error::invalid(path, "", format!("host must be specified{FORM}")));
    }
    if let Some((user, _)) = uri.authority().and_then(|authority| authority.as_str().split_once('@')) {
        errors.push(Error::invalid(path, user, "user information is not permitted in the URL"));
    }
    if !fragment.is_empty() {
        errors.push(Error::invalid(path, fragment, "fragments are not permitted in the URL"));
    }
    if let Some(query) = uri.query().filter(|query| !query.is_empty()) {
        errors.push(Error::invalid(path, query, "query parameters are not permitted in the URL"));
    }
}

fn service(service: &Value, path: &Path, errors: &mut ErrorList) {
    for key in ["name", "namespace"] {
        if object::text(service, &[key]).is_empty() {
            errors.push(Error::required(path.child(key), ""));
        }
    }
    let port = object::number(service, &["port"]).unwrap_or(443);
    if let Err(why) = name::port_number(port) {
        errors.push(Error::invalid(path.child("port"), port, format!("port is not valid: {why}")));
    }
    let given = object::text(service, &["path"]);
    let at = path.child("path");
    match given {
        "" | "/" => return,
        "//" => return errors.push(Error::invalid(at, given, "segment[0] may not be empty")),
        _ => {}
    }
    if !given.starts_with('/') {
        errors.push(Error::invalid(&at, given, "must start with a '/'"));
    }
    let steps = given.get(1..).unwrap_or_default();
    for (i, step) in steps.strip_suffix('/').unwrap_or(steps).split('/').enumerate() {
        if step.is_empty() {
            errors.push(Error::invalid(&at, given, format!("segment[{i}] may not be empty")));
            continue;
        }
        for why in name::dns1123_subdomain_faults(step) {
            errors.push(Error::invalid(&at, given, format!("segment[{i}]: {why}")));
        }
    }
}

fn review_versions(versions: &[Value], old: Option<&Value>, path: &Path, errors: &mut ErrorList) {
    if versions.is_empty() {
        return errors.push(Error::required(path, ""));
    }
    let spoken =
        |versions: &[Value]| versions.iter().any(|v| review::VERSIONS.iter().any(|known| v == known));
    let mut seen = BTreeSet::new();
    for (i, version) in versions.iter().enumerate() {
        let text = version.as_str().unwrap_or_default();
        if !seen.insert(text) {
            errors.push(Error::invalid(path.index(i), text, "duplicate version"));
            continue;
        }
        let faults = name::dns1035_label_faults(text);
        errors.extend(faults.into_iter().map(|why| Error::invalid(path.index(i), text, why)));
    }
    let before = old.map_or(&[][..], |old| object::list(old, &["webhook", "conversionReviewVersions"]));
    let was_unspoken = !before.is_empty() && !spoken(before);
    if !spoken(versions) && !was_unspoken {
        let detail = format!("must include at least one of {}", review::VERSIONS.join(", "));
        errors.push(Error::invalid(path, Value::from(versions.to_vec()), detail));
    }
}

/// Checks that every version in which objects may be stored is still there.
pub(super) fn stored_versions(obj: &Value, errors: &mut ErrorList) {
    let path = field::root("status").child("storedVersions");
    let stored = object::list(obj, &["status", "storedVersions"]);
    if stored.is_empty() {
        return errors.push(Error::invalid(
            path,
            Value::from(stored.to_vec()),
            "must have at least one stored version",
        ));
    }
    let versions = object::list(obj, &["spec", "versions"]);
    for version in versions.iter().filter(|v| v.get("storage") == Some(&Value::Bool(true))) {
        if !stored.contains(&version["name"]) {
            let detail = format!("must have the storage version {}", object::text(version, &["name"]));
            errors.push(Error::invalid(&path, Value::from(stored.to_vec()), detail));
        }
    }
    for (i, name) in stored.iter().enumerate() {
        if versions.iter().any(|version| version["name"] == *name) {
            continue;
        }
        let v = name.as_str().unwrap_or_default();
        let detail = format!(
            "missing from spec.versions; {v} was previously a storage version, and must remain in spec.versions until \
             a storage migration ensures no data remains persisted in {v} and removes {v} from status.storedVersions"
        );
        errors.push(Error::invalid(path.index(i), v, detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use serde_json::json;

    fn faults(conversion: &Value, old: Option<&Value>) -> String {
        let mut errors = ErrorList::new();
        let spec = json!({"conversion": conversion});
        validate(&spec, old, &field::root("spec").child("conversion"), &mut errors);
        errors.iter().map(|e| format!("{e}\n")).collect()
    }

    fn webhook(config: Value, versions: Value) -> Value {
        json!({"strategy": "Webhook", "webhook": {"clientConfig": config, "conversionReviewVersions": versions}})
    }

    #[test]
    fn faults_are_upstreams() {
        let url = |url: &str| webhook(json!({"url": url}), json!(["v1"]));
        let path = |path: &str| {
            webhook(json!({"service": {"name": "n", "namespace": "d", "path": path}}), json!(["v1"]))
        };
        let cases = [
            json!({"strategy": "None"}),
            json!({"strategy": "Other"}),
            json!({"strategy": "None", "webhook": {"clientConfig": {}, "conversionReviewVersions": ["v1"]}}),
            json!({"strategy": "Webhook"}),
            webhook(json!({}), json!([])),
            webhook(json!({"url": "https://h", "service": {}}), json!(["v1", "v1"])),
            url("https://host/path"),
            url("http://u:p@host/path?a=b#f"),
            webhook(json!({"url": "https://h", "caBundle": STANDARD.encode("no pem")}), json!(["v7", "V8"])),
            webhook(json!({"service": {"port": 0}}), json!(["v1beta1"])),
            path("/convert/x/"),
            path("//"),
            path("convert"),
            path("/a//B"),
        ];
        let mut all = String::new();
        for case in cases {
            all.push_str(&format!("--\n{}", faults(&case, None)));
        }
        expect![[r#"
            --
            --
            spec.conversion.strategy: Unsupported value: "Other": supported values: "None", "Webhook"
            --
            spec.conversion.webhookClientConfig: Forbidden: should not be set when strategy is not set to Webhook
            spec.conversion.conversionReviewVersions: Forbidden: should not be set when strategy is not set to Webhook
            --
            spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook
            spec.conversion.conversionReviewVersions: Required value
            --
            spec.conversion.webhookClientConfig: Required value: exactly one of url or service is required
            spec.conversion.conversionReviewVersions: Required value
            --
            spec.conversion.webhookClientConfig: Required value: exactly one of url or service is required
            spec.conversion.conversionReviewVersions[1]: Invalid value: "v1": duplicate version
            --
            --
            spec.conversion.webhookClientConfig.url: Invalid value: "http": 'https' is the only allowed URL scheme; desired format: https://host[/path]
            spec.conversion.webhookClientConfig.url: Invalid value: "u:p": user information is not permitted in the URL
            spec.conversion.webhookClientConfig.url: Invalid value: "f": fragments are not permitted in the URL
            spec.conversion.webhookClientConfig.url: Invalid value: "a=b": query parameters are not permitted in the URL
            --
            spec.conversion.webhookClientConfig.caBundle: Invalid value: "bm8gcGVt": unable to load root certificates: unable to parse bytes as PEM block
            spec.conversion.conversionReviewVersions[1]: Invalid value: "V8": a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')
            spec.conversion.conversionReviewVersions: Invalid value: ["v7","V8"]: must include at least one of v1, v1beta1
            --
            spec.conversion.webhookClientConfig.service.name: Required value
            spec.conversion.webhookClientConfig.service.namespace: Required value
            spec.conversion.webhookClientConfig.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive
            --
            --
            spec.conversion.webhookClientConfig.service.path: Invalid value: "//": segment[0] may not be empty
            --
            spec.conversion.webhookClientConfig.service.path: Invalid value: "convert": must start with a '/'
            --
            spec.conversion.webhookClientConfig.service.path: Invalid value: "/a//B": segment[1] may not be empty
            spec.conversion.webhookClientConfig.service.path: Invalid value: "/a//B": segment[2]: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
        "#]].assert_eq(&all);
    }

    #[test]
    fn what_was_let_in_before_may_stay() {
        let old = webhook(json!({"url": "https://h", "caBundle": STANDARD.encode("no pem")}), json!(["v7"]));
        assert_eq!(faults(&old, Some(&old)), "");
        assert_ne!(faults(&old, None), "");
    }

    #[test]
    fn a_version_that_objects_are_stored_in_has_to_stay() {
        let faults = |stored: Value| {
            let mut errors = ErrorList::new();
            let versions = json!([{"name": "v2", "storage": true}, {"name": "v3", "storage": false}]);
            stored_versions(
                &json!({"spec": {"versions": versions}, "status": {"storedVersions": stored}}),
                &mut errors,
            );
            errors.iter().map(|e| format!("{e}\n")).collect::<String>()
        };
        assert_eq!(faults(json!(["v2"])) + &faults(json!(["v3", "v2"])), "");
        expect![[r#"
            status.storedVersions: Invalid value: []: must have at least one stored version
            status.storedVersions: Invalid value: ["v3"]: must have the storage version v2
            status.storedVersions[0]: Invalid value: "v1": missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v1 and removes v1 from status.storedVersions
        "#]].assert_eq(&(faults(json!([])) + &faults(json!(["v3"])) + &faults(json!(["v1", "v2"]))));
    }
}
