//! Checks of kinds that are listed: budgets, autoscalers, ingresses, policies, limits.
//!
//! Source: `pkg/apis/{core,policy,autoscaling,networking}/validation`.

use serde_json::{Value, json};
use windlass_crd::{
    field::{self, Error, ErrorList, Path},
    name,
    quantity::Quantity,
    selector::validate_label_selector,
};

use super::{
    apps::{count_or_percent, immutable},
    container::handler_port,
    pod_spec::{not_negative, one_of},
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
        errors.push(Error::invalid(&path, spec.clone(), detail));
    }
    for (field, value) in [("minAvailable", least), ("maxUnavailable", most)] {
        let percent = count_or_percent(value, &path.child(field), &mut errors);
        if value.is_some_and(Value::is_string) && percent.is_some_and(|percent| percent > 100) {
            let given = value.cloned().unwrap_or_default();
            errors.push(Error::invalid(path.child(field), given, "must not be greater than 100%"));
        }
    }
    if let Some(selector) = object::at(spec, &["selector"]) {
        errors.extend(validate_label_selector(selector, &path.child("selector")));
    }
    one_of(spec, "unhealthyPodEvictionPolicy", &["AlwaysAllow", "IfHealthyBudget"], &path, &mut errors);
    errors
}

/// A HorizontalPodAutoscaler.
pub(super) fn autoscaler(obj: &Value) -> ErrorList {
    let path = field::root("spec");
    let spec = obj.get("spec").unwrap_or(&Value::Null);
    let mut errors = ErrorList::new();
    let least = object::number(spec, &["minReplicas"]).unwrap_or(1);
    let most = object::number(spec, &["maxReplicas"]).unwrap_or(0);
    if least < 1 {
        errors.push(Error::invalid(path.child("minReplicas"), least, "must be greater than or equal to 1"));
    }
    if most < 1 {
        errors.push(Error::invalid(path.child("maxReplicas"), most, "must be greater than 0"));
    }
    if most < least {
        let detail = "must be greater than or equal to `minReplicas`";
        errors.push(Error::invalid(path.child("maxReplicas"), most, detail));
    }
    for field in ["kind", "name"] {
        if object::text(spec, &["scaleTargetRef", field]).is_empty() {
            errors.push(Error::required(path.child("scaleTargetRef").child(field), ""));
        }
    }
    let kinds = ["ContainerResource", "External", "Object", "Pods", "Resource"];
    for (i, metric) in object::list(spec, &["metrics"]).iter().enumerate() {
        let at = path.child("metrics").index(i);
        if object::text(metric, &["type"]).is_empty() {
            errors.push(Error::required(at.child("type"), "must specify a metric source type"));
        }
        one_of(metric, "type", &kinds, &at, &mut errors);
    }
    errors
}

/// An Ingress.
pub(super) fn ingress(obj: &Value) -> ErrorList {
    let path = field::root("spec");
    let spec = obj.get("spec").unwrap_or(&Value::Null);
    let mut errors = ErrorList::new();
    let rules = object::list(spec, &["rules"]);
    let default = object::at(spec, &["defaultBackend"]);
    if rules.is_empty() && default.is_none() {
        let given = spec.get("rules").cloned().unwrap_or_else(|| json!([]));
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.push(Error::invalid(&path, given, detail));
    }
    if let Some(backend) = default {
        ingress_backend(backend, &path.child("defaultBackend"), &mut errors);
    }
    for (i, rule) in rules.iter().enumerate() {
        ingress_rule(rule, &path.child("rules").index(i), &mut errors);
    }
    let class = object::text(spec, &["ingressClassName"]);
    if !class.is_empty() {
        let faults = name::dns1123_subdomain_faults(class).into_iter();
        errors.extend(faults.map(|why| Error::invalid(path.child("ingressClassName"), class, why)));
    }
    errors
}

fn ingress_rule(rule: &Value, path: &Path, errors: &mut ErrorList) {
    let host = object::text(rule, &["host"]);
    if host.parse::<std::net::IpAddr>().is_ok() {
        let detail = "must be a DNS name, not an IP address";
        errors.push(Error::invalid(path.child("host"), host, detail));
    } else if host.contains('*') {
        errors.extend(
            name::wildcard_dns1123_subdomain(host)
                .err()
                .map(|why| Error::invalid(path.child("host"), host, why)),
        );
    } else if !host.is_empty() {
        errors.extend(
            name::dns1123_subdomain(host).err().map(|why| Error::invalid(path.child("host"), host, why)),
        );
    }
    let Some(http) = object::at(rule, &["http"]) else { return };
    let paths = object::list(http, &["paths"]);
    let at = path.child("http").child("paths");
    if paths.is_empty() {
        errors.push(Error::required(&at, ""));
    }
    for (i, one) in paths.iter().enumerate() {
        let at = at.index(i);
        let (given, kind) = (object::text(one, &["path"]), object::text(one, &["pathType"]));
        let kinds = ["Exact", "ImplementationSpecific", "Prefix"];
        if kind.is_empty() {
            errors.push(Error::required(at.child("pathType"), "pathType must be specified"));
        }
        one_of(one, "pathType", &kinds, &at, errors);
        if matches!(kind, "Exact" | "Prefix") && !given.starts_with('/') {
            errors.push(Error::invalid(at.child("path"), given, "must be an absolute path"));
        }
        ingress_backend(one.get("backend").unwrap_or(&Value::Null), &at.child("backend"), errors);
    }
}

fn ingress_backend(backend: &Value, path: &Path, errors: &mut ErrorList) {
    let (service, resource) = (object::at(backend, &["service"]), object::at(backend, &["resource"]));
    match (service, resource) {
        (Some(_), Some(_)) => {
            let detail = "cannot set both resource and service backends";
            errors.push(Error::invalid(path, "", detail));
        }
        (None, None) => errors.push(Error::required(path, "resource or service backend is required")),
        (Some(service), None) => {
            let at = path.child("service");
            let given = object::text(service, &["name"]);
            if given.is_empty() {
                errors.push(Error::required(at.child("name"), ""));
            } else {
                let faults = name::dns1035_label_faults(given).into_iter();
                errors.extend(faults.map(|why| Error::invalid(at.child("name"), given, why)));
            }
            let port = at.child("port");
            match (object::at(service, &["port", "name"]), object::at(service, &["port", "number"])) {
                (None, None) => errors.push(Error::required(&port, "port name or number is required")),
                (Some(_), Some(_)) => {
                    errors.push(Error::invalid(&port, "", "cannot set both port name & port number"));
                }
                (Some(text), None) => handler_port(Some(text), &port.child("name"), errors),
                (None, Some(number)) => handler_port(Some(number), &port.child("number"), errors),
            }
        }
        (None, Some(_)) => {}
    }
}

/// A NetworkPolicy.
pub(super) fn network_policy(obj: &Value) -> ErrorList {
    let path = field::root("spec");
    let spec = obj.get("spec").unwrap_or(&Value::Null);
    let mut errors = ErrorList::new();
    if let Some(selector) = object::at(spec, &["podSelector"]) {
        errors.extend(validate_label_selector(selector, &path.child("podSelector")));
    }
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in object::list(spec, &[list]).iter().enumerate() {
            let at = path.child(list).index(i);
            for (j, port) in object::list(rule, &["ports"]).iter().enumerate() {
                policy_port(port, &at.child("ports").index(j), &mut errors);
            }
            for (j, peer) in object::list(rule, &[peers]).iter().enumerate() {
                policy_peer(peer, &at.child(peers).index(j), &mut errors);
            }
        }
    }
    let types = object::list(spec, &["policyTypes"]);
    if types.len() > 2 {
        let detail = "may not specify more than two policyTypes";
        errors.push(Error::invalid(path.child("policyTypes"), Value::from(types.to_vec()), detail));
    }
    for (i, kind) in types.iter().enumerate() {
        let text = kind.as_str().unwrap_or_default();
        if !matches!(text, "Egress" | "Ingress") {
            let at = path.child("policyTypes").index(i);
            errors.push(Error::not_supported(at, text, &["Egress", "Ingress"]));
        }
    }
    errors
}

fn policy_port(port: &Value, path: &Path, errors: &mut ErrorList) {
    one_of(port, "protocol", &["SCTP", "TCP", "UDP"], path, errors);
    let value = object::at(port, &["port"]);
    if value.is_some() {
        handler_port(value, &path.child("port"), errors);
    }
    let Some(end) = object::number(port, &["endPort"]) else { return };
    match value {
        None => {
            errors.push(Error::required(path.child("port"), "must be specified when `endPort` is specified"));
        }
        Some(Value::String(_)) => {
            let detail = "may not be specified when `port` is non-numeric";
            errors.push(Error::invalid(path.child("endPort"), end, detail));
        }
        Some(start) if start.as_i64().is_some_and(|start| end < start) => {
            let detail = "must be greater than or equal to `port`";
            errors.push(Error::invalid(path.child("endPort"), end, detail));
        }
        Some(_) => {}
    }
}

fn policy_peer(peer: &Value, path: &Path, errors: &mut ErrorList) {
    let block = object::at(peer, &["ipBlock"]);
    let selectors = ["podSelector", "namespaceSelector"];
    let selects = selectors.iter().any(|field| object::at(peer, &[field]).is_some());
    for field in selectors {
        if let Some(selector) = object::at(peer, &[field]) {
            errors.extend(validate_label_selector(selector, &path.child(field)));
        }
    }
    match block {
        None if !selects => errors.push(Error::required(path, "must specify a peer")),
        Some(_) if selects => {
            errors.push(Error::forbidden(path, "may not specify both ipBlock and another peer"));
        }
        Some(block) => {
            let cidr = object::text(block, &["cidr"]);
            if cidr.parse::<ipnet::IpNet>().is_err() {
                let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
                errors.push(Error::invalid(path.child("ipBlock").child("cidr"), cidr, detail));
            }
        }
        None => {}
    }
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

/// A LimitRange.
pub(super) fn limits(obj: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = field::root("spec").child("limits");
    for (i, item) in object::list(obj, &["spec", "limits"]).iter().enumerate() {
        let at = path.index(i);
        let quantity = |field: &str, resource: &str| {
            object::at(item, &[field, resource]).and_then(|value| Quantity::from_json(value).ok())
        };
        let resources = ["min", "max", "default", "defaultRequest"]
            .iter()
            .filter_map(|field| object::at(item, &[field])?.as_object())
            .flat_map(|map| map.keys());
        let all: std::collections::BTreeSet<&String> = resources.collect();
        let order = [
            ("min", "max"),
            ("min", "defaultRequest"),
            ("min", "default"),
            ("defaultRequest", "default"),
            ("defaultRequest", "max"),
            ("default", "max"),
        ];
        for resource in all {
            for (low, high) in order {
                let (Some(a), Some(b)) = (quantity(low, resource), quantity(high, resource)) else {
                    continue;
                };
                if a > b {
                    let words = |field: &str| match field {
                        "defaultRequest" => "default request".to_owned(),
                        other => other.to_owned(),
                    };
                    let detail =
                        format!("{} value {a} is greater than {} value {b}", words(low), words(high));
                    errors.push(Error::invalid(at.child(low).key(resource), a.to_string(), detail));
                }
            }
        }
    }
    errors
}

/// A RuntimeClass.
pub(super) fn runtime_class(obj: &Value) -> ErrorList {
    let handler = object::text(obj, &["handler"]);
    name::dns1123_label_faults(handler)
        .into_iter()
        .map(|why| Error::invalid(field::root("handler"), handler, why))
        .collect()
}

/// The handler of a RuntimeClass stays.
pub(super) fn runtime_class_update(obj: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    immutable(obj, old, &["handler"], &mut errors);
    errors
}

/// A certificate request.
pub(super) fn signing_request(obj: &Value) -> ErrorList {
    let path = field::root("spec");
    let mut errors = ErrorList::new();
    if object::list(obj, &["spec", "usages"]).is_empty() {
        errors.push(Error::required(path.child("usages"), "usages must be provided"));
    }
    let signer = object::text(obj, &["spec", "signerName"]);
    if signer.is_empty() {
        errors.push(Error::required(path.child("signerName"), ""));
    } else if signer.split('/').count() != 2 {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(Error::invalid(path.child("signerName"), signer, detail));
    }
    if let Some(seconds) =
        object::number(obj, &["spec", "expirationSeconds"]).filter(|seconds| *seconds < 600)
    {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(Error::invalid(path.child("expirationSeconds"), seconds, detail));
    }
    not_negative(obj, "expirationSeconds", &path, &mut errors);
    errors
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
            spec: Invalid value: {"maxUnavailable":"150%","minAvailable":1}: minAvailable and maxUnavailable cannot be both set
            spec.maxUnavailable: Invalid value: "150%": must not be greater than 100%
        "#]]
        .assert_eq(&texts(&budget(&json!({"spec": {"minAvailable": 1, "maxUnavailable": "150%"}}))));
        expect![[r#"
            spec.maxReplicas: Invalid value: 0: must be greater than 0
            spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`
            spec.scaleTargetRef.kind: Required value
            spec.scaleTargetRef.name: Required value
        "#]]
        .assert_eq(&texts(&autoscaler(&json!({"spec": {}}))));
        expect![[r#"
            spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified
            spec.rules[0].http.paths[0].backend: Required value: resource or service backend is required
        "#]]
        .assert_eq(&texts(&ingress(&json!({"spec": {"rules": [{"http": {"paths": [{"path": "/"}]}}]}}))));
        expect![[r#"
            spec.ingress[0].ports[0].endPort: Invalid value: 10: must be greater than or equal to `port`
            spec.ingress[0].from[0]: Required value: must specify a peer
        "#]]
        .assert_eq(&texts(&network_policy(
            &json!({"spec": {"ingress": [{"ports": [{"port": 80, "endPort": 10}], "from": [{}]}]}}),
        )));
    }

    #[test]
    fn limit_ranges_complete_themselves() {
        let mut range = json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}}]}});
        default_limits(&mut range);
        let item = &range["spec"]["limits"][0];
        assert_eq!(item["default"], json!({"cpu": "2"}));
        assert_eq!(item["defaultRequest"], json!({"cpu": "2", "memory": "1Mi"}));
        assert_eq!(limits(&range), []);
        let bad = json!({"spec": {"limits": [{"min": {"cpu": "2"}, "max": {"cpu": "1"}}]}});
        assert_eq!(
            texts(&limits(&bad)),
            "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1\n"
        );
    }
}
