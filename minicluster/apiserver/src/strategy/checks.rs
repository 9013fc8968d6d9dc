//! Checks of kinds that are listed: budgets, runtime classes, certificate requests.
//!
//! Source: `pkg/apis/{policy,node,certificates}/validation`.

use serde_json::{Value, json};
use windlass_crd::{
    field::{self, Error, ErrorList, Path},
    name,
    selector::validate_label_selector,
};

use super::{
    apps::{
        checks::{count_or_percent, hundred_at_most},
        immutable,
    },
    conditions,
    container::resources,
    internal,
    pod_spec::{self, one_of, told},
};
use crate::object;

/// A PodDisruptionBudget.
pub(super) fn budget(obj: &Value) -> ErrorList {
    let path = field::root("spec");
    let spec = obj.get("spec").unwrap_or(&Value::Null);
    let mut errors = ErrorList::new();
    let (least, most) = (object::at(spec, &["minAvailable"]), object::at(spec, &["maxUnavailable"]));
    if least.is_some() && most.is_some() {
        let detail = "minAvailable and maxUnavailable cannot be both set";
        errors.push(internal::invalid(&path, "PodDisruptionBudgetSpec", spec, detail));
    }
    for (field, value) in [("minAvailable", least), ("maxUnavailable", most)] {
        count_or_percent(value, &path.child(field), &mut errors);
        hundred_at_most(value, &path.child(field), &mut errors);
    }
    if let Some(selector) = object::at(spec, &["selector"]) {
        errors.extend(validate_label_selector(selector, &path.child("selector")));
    }
    one_of(spec, "unhealthyPodEvictionPolicy", &["AlwaysAllow", "IfHealthyBudget"], &path, &mut errors);
    errors
}

/// The status of a PodDisruptionBudget.
pub(super) fn budget_status(obj: &Value, _old: &Value) -> ErrorList {
    let path = field::root("status");
    let status = obj.get("status").unwrap_or(&Value::Null);
    let mut errors = ErrorList::new();
    conditions::validate(object::list(status, &["conditions"]), &path.child("conditions"), &mut errors);
    for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        pod_spec::not_negative(status, field, &path, &mut errors);
    }
    errors
}

/// What a LimitRange leaves out follows from what it says.
pub(super) fn default_limits(obj: &mut Value) {
    let Some(spec) = obj.get_mut("spec") else { return };
    for item in super::pod_defaults::items(spec, "limits") {
        if object::text(item, &["type"]) != "Container" {
            continue;
        }
        for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
            let Some(Value::Object(values)) = object::at(item, &[from]).cloned() else { continue };
            for (resource, quantity) in values {
                if object::at(item, &[to, &resource]).is_none() {
                    object::set(item, &[to, &resource], quantity);
                }
            }
        }
    }
}

/// A RuntimeClass.
pub(super) fn runtime_class(obj: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    match object::text(obj, &["handler"]) {
        "" => errors.push(Error::required(field::root("handler"), "")),
        given => told(name::dns1123_label_faults(given), &field::root("handler"), given, &mut errors),
    }
    if let Some(fixed) = object::at(obj, &["overhead", "podFixed"]) {
        let limits = json!({"limits": fixed});
        let at = field::root("overhead").child("podFixed");
        resources::of_container(&limits, &Default::default(), &at, &mut errors);
    }
    if let Some(scheduling) = object::at(obj, &["scheduling"]) {
        let path = field::root("scheduling");
        let selector = path.child("nodeSelector");
        pod_spec::labels(object::at(scheduling, &["nodeSelector"]), &selector, &mut errors);
        let at = path.child("tolerations");
        let all = object::list(scheduling, &["tolerations"]);
        pod_spec::placement::tolerations(all, &at, &mut errors);
        for (i, one) in all.iter().enumerate().filter(|(i, one)| all[..*i].contains(one)) {
            let shown = internal::shown("Toleration", one);
            errors.push(Error::duplicate(at.index(i), one.clone()).showing(shown));
        }
    }
    errors
}

/// The handler of a RuntimeClass stays.
pub(super) fn runtime_class_update(obj: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    immutable(obj, old, &["handler"], &mut errors);
    errors
}

/// The name of a signer: `example.com/signer-name`.
pub(super) fn signer_name(given: &str, path: &Path, errors: &mut ErrorList) {
    const DOMAIN_MAX: usize = name::SUBDOMAIN_MAX;
    const PATH_MAX: usize = name::SUBDOMAIN_MAX + name::LABEL_MAX + 1;
    if given.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    let [domain, rest] = given.split('/').collect::<Vec<_>>()[..] else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(Error::invalid(path, given, detail));
        return;
    };
    if domain.len() > DOMAIN_MAX {
        errors.push(Error::too_long(path, DOMAIN_MAX));
    }
    let mut labels = |part: &str, faults: fn(&str) -> Vec<String>| {
        // The first label that is wrong says it all.
        let bad = part.split('.').map(|label| (label, faults(label))).find(|(_, faults)| !faults.is_empty());
        for (label, why) in
            bad.into_iter().flat_map(|(label, faults)| faults.into_iter().map(move |f| (label, f)))
        {
            errors.push(Error::invalid(path, part, format!("validating label {label:?}: {why}")));
        }
    };
    labels(domain, name::dns1123_label_faults);
    labels(rest, name::dns1123_subdomain_faults);
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.push(Error::invalid(path, domain, detail));
    }
    if given.len() > DOMAIN_MAX + PATH_MAX + 1 {
        errors.push(Error::too_long(path, DOMAIN_MAX + PATH_MAX + 1));
    }
}

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// A certificate request.
pub(super) fn signing_request(obj: &Value) -> ErrorList {
    let path = field::root("spec");
    let mut errors = ErrorList::new();
    let request = object::at(obj, &["spec", "request"]);
    if !request.and_then(Value::as_str).is_some_and(is_request) {
        let given = request.cloned().unwrap_or_default();
        let detail = "PEM block type must be CERTIFICATE REQUEST";
        errors.push(Error::invalid(path.child("request"), given, detail));
    }
    let usages: Vec<&str> = object::list(obj, &["spec", "usages"]).iter().filter_map(Value::as_str).collect();
    let at = path.child("usages");
    if usages.is_empty() {
        errors.push(Error::required(&at, ""));
    }
    for (i, usage) in usages.iter().enumerate().filter(|(_, usage)| !USAGES.contains(usage)) {
        errors.push(Error::not_supported(at.index(i), *usage, &USAGES));
    }
    for (i, usage) in usages.iter().enumerate().filter(|(i, usage)| usages[..*i].contains(usage)) {
        errors.push(Error::duplicate(at.index(i), *usage));
    }
    let signer = object::text(obj, &["spec", "signerName"]);
    if signer == "kubernetes.io/legacy-unknown" {
        let detail = "the legacy signerName is not allowed via this API version";
        errors.push(Error::invalid(path.child("signerName"), signer, detail));
    } else {
        signer_name(signer, &path.child("signerName"), &mut errors);
    }
    if let Some(seconds) = object::number(obj, &["spec", "expirationSeconds"]).filter(|s| *s < 600) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(Error::invalid(path.child("expirationSeconds"), seconds, detail));
    }
    request_conditions(obj, &mut errors);
    errors
}

/// Whether a request holds a PEM block of a certificate request, in base 64.
fn is_request(encoded: &str) -> bool {
    use base64::Engine as _;
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default();
    let kind = x509_parser::pem::Pem::iter_from_buffer(&decoded).next();
    kind.is_some_and(|pem| pem.is_ok_and(|pem| pem.label == "CERTIFICATE REQUEST"))
}

fn request_conditions(obj: &Value, errors: &mut ErrorList) {
    let path = field::root("status").child("conditions");
    let (mut seen, mut judged) = (Vec::new(), None);
    for (i, condition) in object::list(obj, &["status", "conditions"]).iter().enumerate() {
        let (kind, status) = (object::text(condition, &["type"]), object::text(condition, &["status"]));
        let at = path.index(i);
        if kind.is_empty() {
            errors.push(Error::required(at.child("type"), ""));
        }
        let allowed: &[&str] = match kind {
            "Approved" | "Denied" | "Failed" => &["True"],
            _ => &["False", "True", "Unknown"],
        };
        if status.is_empty() {
            errors.push(Error::required(at.child("status"), ""));
        } else if !allowed.contains(&status) {
            errors.push(Error::not_supported(at.child("status"), status, allowed));
        }
        if matches!(kind, "Approved" | "Denied") {
            if judged.is_some_and(|other| other != kind) {
                let detail = "Approved and Denied conditions are mutually exclusive";
                errors.push(Error::invalid(&path, kind, detail));
            }
            judged = Some(kind);
        }
        if seen.contains(&kind) {
            errors.push(Error::duplicate(at.child("type"), kind));
        }
        seen.push(kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn texts(errors: &[Error]) -> String {
        errors.iter().map(|e| format!("{e}\n")).collect()
    }

    #[test]
    fn faults_are_upstreams() {
        expect![[r#"
            spec: Invalid value: {"MinAvailable":1,"Selector":null,"MaxUnavailable":"150%","UnhealthyPodEvictionPolicy":null}: minAvailable and maxUnavailable cannot be both set
            spec.maxUnavailable: Invalid value: "150%": must not be greater than 100%
        "#]]
        .assert_eq(&texts(&budget(&json!({"spec": {"minAvailable": 1, "maxUnavailable": "150%"}}))));
        expect![[r#"
            spec.request: Invalid value: "eA==": PEM block type must be CERTIFICATE REQUEST
            spec.usages[0]: Unsupported value: "x": supported values: "any", "cert sign", "client auth", "code signing", "content commitment", "crl sign", "data encipherment", "decipher only", "digital signature", "email protection", "encipher only", "ipsec end system", "ipsec tunnel", "ipsec user", "key agreement", "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime", "server auth", "signing", "timestamping"
            spec.signerName: Invalid value: "a": should be a domain with at least two segments separated by dots
        "#]]
        .assert_eq(&texts(&signing_request(
            &json!({"spec": {"request": "eA==", "usages": ["x"], "signerName": "a/b"}}),
        )));
    }

    #[test]
    fn limit_ranges_complete_themselves() {
        let mut range = json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}}]}});
        default_limits(&mut range);
        let item = &range["spec"]["limits"][0];
        assert_eq!(item["default"], json!({"cpu": "2"}));
        assert_eq!(item["defaultRequest"], json!({"cpu": "2", "memory": "1Mi"}));
    }
}
