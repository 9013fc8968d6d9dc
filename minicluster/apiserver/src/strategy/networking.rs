//! Checks of what brings traffic to pods: ingresses, network policies, addresses.
//!
//! Source: `pkg/apis/networking/validation`.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde_json::Value;
use windlass_crd::{
    address,
    field::{self, Error, ErrorList, Path},
    name,
    selector::validate_label_selector,
};

use super::{
    batch::domain_prefixed_path,
    internal,
    pod_spec::{one_of, told},
};
use crate::object;

pub(super) const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

fn spec_of(obj: &Value) -> &Value {
    obj.get("spec").unwrap_or(&Value::Null)
}

/// A name that stands in a path: of a kind, of an object elsewhere.
fn segment(obj: &Value, field: &'static str, required: bool, path: &Path, errors: &mut ErrorList) {
    match object::text(obj, &[field]) {
        "" if required => errors.push(Error::required(path.child(field), "")),
        given => told(name::path_segment_faults(given), &path.child(field), given, errors),
    }
}

/// An Ingress.
pub(super) fn ingress(obj: &Value) -> ErrorList {
    let path = field::root("spec");
    let spec = spec_of(obj);
    let mut errors = ErrorList::new();
    let rules = object::list(spec, &["rules"]);
    let default = object::at(spec, &["defaultBackend"]);
    if rules.is_empty() && default.is_none() {
        let given = spec.get("rules").cloned().unwrap_or_default();
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.push(Error::invalid(&path, given, detail));
    }
    if let Some(backend) = default {
        ingress_backend(backend, &path.child("defaultBackend"), &mut errors);
    }
    for (i, rule) in rules.iter().enumerate() {
        ingress_rule(rule, &path.child("rules").index(i), &mut errors);
    }
    for (i, tls) in object::list(spec, &["tls"]).iter().enumerate() {
        let at = path.child("tls").index(i);
        for (j, host) in object::list(tls, &["hosts"]).iter().filter_map(Value::as_str).enumerate() {
            host_name(host, &at.child("hosts").index(j), &mut errors);
        }
        let secret = object::text(tls, &["secretName"]);
        if !secret.is_empty() {
            told(name::dns1123_subdomain_faults(secret), &at.child("secretName"), secret, &mut errors);
        }
    }
    if let Some(class) = object::at(spec, &["ingressClassName"]).and_then(Value::as_str) {
        told(name::dns1123_subdomain_faults(class), &path.child("ingressClassName"), class, &mut errors);
    }
    errors
}

const CLASS: &str = "kubernetes.io/ingress.class";

/// A new Ingress: the annotation of old and the field say the same.
pub(super) fn new_ingress(obj: &Value) -> ErrorList {
    let mut errors = ingress(obj);
    let annotation = object::at(obj, &["metadata", "annotations", CLASS]).and_then(Value::as_str);
    let class = object::at(obj, &["spec", "ingressClassName"]).and_then(Value::as_str);
    if let (Some(annotation), Some(class)) = (annotation, class)
        && annotation != class
    {
        let at = field::root("annotations").child(CLASS);
        let detail = "must match `ingressClassName` when both are specified";
        errors.push(Error::invalid(at, annotation, detail));
    }
    errors
}

fn host_name(host: &str, path: &Path, errors: &mut ErrorList) {
    if host.contains('*') {
        errors
            .extend(name::wildcard_dns1123_subdomain(host).err().map(|why| Error::invalid(path, host, why)));
    } else {
        told(name::dns1123_subdomain_faults(host), path, host, errors);
    }
}

fn ingress_rule(rule: &Value, path: &Path, errors: &mut ErrorList) {
    let host = object::text(rule, &["host"]);
    if !host.is_empty() {
        let at = path.child("host");
        if address::is_address(host) {
            errors.push(Error::invalid(&at, host, "must be a DNS name, not an IP address"));
        }
        host_name(host, &at, errors);
    }
    let Some(http) = object::at(rule, &["http"]) else { return };
    let paths = object::list(http, &["paths"]);
    let at = path.child("http").child("paths");
    if paths.is_empty() {
        errors.push(Error::required(&at, ""));
    }
    for (i, one) in paths.iter().enumerate() {
        http_path(one, &at.index(i), errors);
    }
}

fn http_path(one: &Value, path: &Path, errors: &mut ErrorList) {
    const KINDS: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];
    let Some(kind) = object::at(one, &["pathType"]).and_then(Value::as_str) else {
        errors.push(Error::required(path.child("pathType"), "pathType must be specified"));
        return;
    };
    let given = object::text(one, &["path"]);
    let at = path.child("path");
    let mut wrong = |why: String| errors.push(Error::invalid(&at, given, why));
    match kind {
        "Exact" | "Prefix" => {
            if !given.starts_with('/') {
                wrong("must be an absolute path".to_owned());
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"].into_iter().filter(|part| given.contains(part)) {
                wrong(format!("must not contain '{part}'"));
            }
            for end in ["/..", "/."].into_iter().filter(|end| given.ends_with(end)) {
                wrong(format!("cannot end with '{end}'"));
            }
        }
        "ImplementationSpecific" => {
            if !given.is_empty() && !given.starts_with('/') {
                wrong("must be an absolute path".to_owned());
            }
        }
        other => errors.push(Error::not_supported(path.child("pathType"), other, &KINDS)),
    }
    ingress_backend(one.get("backend").unwrap_or(&Value::Null), &path.child("backend"), errors);
}

fn ingress_backend(backend: &Value, path: &Path, errors: &mut ErrorList) {
    match (object::at(backend, &["service"]), object::at(backend, &["resource"])) {
        (Some(_), Some(_)) => {
            errors.push(Error::invalid(path, "", "cannot set both resource and service backends"));
        }
        (None, None) => errors.push(Error::invalid(path, "", "resource or service backend is required")),
        (None, Some(resource)) => reference(resource, &path.child("resource"), errors),
        (Some(service), None) => {
            let at = path.child("service");
            match object::text(service, &["name"]) {
                "" => errors.push(Error::required(at.child("name"), "")),
                given => told(name::dns1123_label_faults(given), &at.child("name"), given, errors),
            }
            let at = at.child("port");
            let name = object::text(service, &["port", "name"]);
            let number = object::number(service, &["port", "number"]).unwrap_or(0);
            match (name, number) {
                ("", 0) => errors.push(Error::required(path, "port name or number is required")),
                ("", number) => {
                    let fault = name::port_number(number).err();
                    errors.extend(fault.map(|why| Error::invalid(at.child("number"), number, why)));
                }
                (name, 0) => told(name::port_name_faults(name), &at.child("name"), name, errors),
                _ => errors.push(Error::invalid(path, "", "cannot set both port name & port number")),
            }
        }
    }
}

fn reference(given: &Value, path: &Path, errors: &mut ErrorList) {
    if let Some(group) = object::at(given, &["apiGroup"]).and_then(Value::as_str) {
        told(name::dns1123_subdomain_faults(group), &path.child("apiGroup"), group, errors);
    }
    segment(given, "kind", true, path, errors);
    segment(given, "name", true, path, errors);
}

/// The status of an Ingress.
pub(super) fn ingress_status(obj: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = field::root("status").child("loadBalancer").child("ingress");
    balanced(obj, old, &path, |_, _, _| {}, &mut errors);
    errors
}

/// What a load balancer says of itself; `more` is checked after each address.
pub(super) fn balanced(
    obj: &Value,
    old: &Value,
    path: &Path,
    more: impl Fn(&Value, &Path, &mut ErrorList),
    errors: &mut ErrorList,
) {
    let of = |obj| object::list(obj, &["status", "loadBalancer", "ingress"]);
    let known: BTreeSet<&str> = of(old).iter().map(|one| object::text(one, &["ip"])).collect();
    for (i, one) in of(obj).iter().enumerate() {
        let at = path.index(i);
        let (ip, host) = (object::text(one, &["ip"]), object::text(one, &["hostname"]));
        if !ip.is_empty() && !known.contains(ip) {
            told(address::ip_faults(ip), &at.child("ip"), ip, errors);
        }
        more(one, &at, errors);
        if !host.is_empty() {
            let at = at.child("hostname");
            told(name::dns1123_subdomain_faults(host), &at, host, errors);
            if address::is_address(host) {
                errors.push(Error::invalid(at, host, "must be a DNS name, not an IP address"));
            }
        }
    }
}

/// An IngressClass.
pub(super) fn ingress_class(obj: &Value) -> ErrorList {
    const CONTROLLER_MAX: usize = 250;
    const SCOPES: [&str; 2] = ["Cluster", "Namespace"];
    let mut errors = ErrorList::new();
    let path = field::root("spec");
    let controller = object::text(obj, &["spec", "controller"]);
    if controller.len() > CONTROLLER_MAX {
        errors.push(Error::too_long(path.child("controller"), CONTROLLER_MAX));
    }
    domain_prefixed_path(controller, &path.child("controller"), &mut errors);
    let Some(given) = object::at(obj, &["spec", "parameters"]) else { return errors };
    let at = path.child("parameters");
    reference(given, &at, &mut errors);
    let namespace = object::at(given, &["namespace"]).and_then(Value::as_str);
    match (object::at(given, &["scope"]).and_then(Value::as_str), namespace) {
        (None, _) => errors.push(Error::required(at.child("scope"), "")),
        (Some("Namespace"), None) => {
            let detail = "`parameters.scope` is set to 'Namespace'";
            errors.push(Error::required(at.child("namespace"), detail));
        }
        (Some("Namespace"), Some(given)) => {
            told(name::dns1123_label_faults(given), &at.child("namespace"), given, &mut errors);
        }
        (Some("Cluster"), Some(_)) => {
            let detail = "`parameters.scope` is set to 'Cluster'";
            errors.push(Error::forbidden(at.child("namespace"), detail));
        }
        (Some("Cluster"), None) => {}
        (Some(scope), _) => errors.push(Error::not_supported(at.child("scope"), scope, &SCOPES)),
    }
    errors
}

/// A NetworkPolicy, given what stood in its place: networks that stand already are tolerated.
pub(super) fn network_policy(obj: &Value, old: Option<&Value>) -> ErrorList {
    let path = field::root("spec");
    let spec = spec_of(obj);
    let mut errors = ErrorList::new();
    if let Some(selector) = object::at(spec, &["podSelector"]) {
        errors.extend(validate_label_selector(selector, &path.child("podSelector")));
    }
    let known = old.map(networks).unwrap_or_default();
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in object::list(spec, &[list]).iter().enumerate() {
            let at = path.child(list).index(i);
            for (j, port) in object::list(rule, &["ports"]).iter().enumerate() {
                policy_port(port, &at.child("ports").index(j), &mut errors);
            }
            for (j, peer) in object::list(rule, &[peers]).iter().enumerate() {
                policy_peer(peer, &known, &at.child(peers).index(j), &mut errors);
            }
        }
    }
    let types = object::list(spec, &["policyTypes"]);
    if types.len() > 2 {
        let detail = "may not specify more than two policyTypes";
        errors.push(Error::invalid(path.child("policyTypes"), types.to_vec(), detail));
        return errors;
    }
    for (i, kind) in types.iter().filter_map(Value::as_str).enumerate() {
        if !matches!(kind, "Egress" | "Ingress") {
            let at = path.child("policyTypes").index(i);
            errors.push(Error::not_supported(at, kind, &["Ingress", "Egress"]));
        }
    }
    errors
}

fn networks(policy: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        for peer in object::list(policy, &["spec", list]).iter().flat_map(|rule| object::list(rule, &[peers]))
        {
            let except = object::list(peer, &["ipBlock", "except"]).iter().filter_map(Value::as_str);
            found.extend(except.map(str::to_owned));
            found.insert(object::text(peer, &["ipBlock", "cidr"]).to_owned());
        }
    }
    found
}

fn policy_port(port: &Value, path: &Path, errors: &mut ErrorList) {
    one_of(port, "protocol", &["TCP", "UDP", "SCTP"], path, errors);
    let (at, at_end) = (path.child("port"), path.child("endPort"));
    let end = object::number(port, &["endPort"]);
    match (object::at(port, &["port"]), end) {
        (None, Some(end)) => {
            errors.push(Error::invalid(at_end, end, "may not be specified when `port` is not specified"));
        }
        (None, None) => {}
        (Some(Value::String(given)), end) => {
            if let Some(end) = end {
                errors.push(Error::invalid(at_end, end, "may not be specified when `port` is non-numeric"));
            }
            told(name::port_name_faults(given), &at, given, errors);
        }
        (Some(given), end) => {
            let start = given.as_i64().unwrap_or(0);
            errors.extend(name::port_number(start).err().map(|why| Error::invalid(&at, start, why)));
            let Some(end) = end else { return };
            if end < start {
                // The value that upstream shows is the other one.
                errors.push(Error::invalid(&at_end, start, "must be greater than or equal to `port`"));
            }
            errors.extend(name::port_number(end).err().map(|why| Error::invalid(&at_end, end, why)));
        }
    }
}

fn policy_peer(peer: &Value, known: &BTreeSet<String>, path: &Path, errors: &mut ErrorList) {
    let mut found = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if let Some(selector) = object::at(peer, &[field]) {
            found += 1;
            errors.extend(validate_label_selector(selector, &path.child(field)));
        }
    }
    let block = object::at(peer, &["ipBlock"]);
    if let Some(block) = block {
        ip_block(block, known, &path.child("ipBlock"), errors);
    }
    match (found, block.is_some()) {
        (0, false) => errors.push(Error::required(path, "must specify a peer")),
        (1.., true) => errors.push(Error::forbidden(path, "may not specify both ipBlock and another peer")),
        _ => {}
    }
}

fn ip_block(block: &Value, known: &BTreeSet<String>, path: &Path, errors: &mut ErrorList) {
    let cidr = object::text(block, &["cidr"]);
    let at = path.child("cidr");
    if cidr.is_empty() {
        errors.push(Error::required(at, ""));
        return;
    }
    if !known.contains(cidr) {
        told(address::cidr_faults(cidr), &at, cidr, errors);
    }
    let Ok(whole) = cidr.parse::<IpNet>() else { return };
    for (i, except) in object::list(block, &["except"]).iter().filter_map(Value::as_str).enumerate() {
        let at = path.child("except").index(i);
        if !known.contains(except) {
            told(address::cidr_faults(except), &at, except, errors);
        }
        let Ok(part) = except.parse::<IpNet>() else { continue };
        if !whole.contains(&part.network()) || whole.prefix_len() >= part.prefix_len() {
            errors.push(Error::invalid(at, except, "must be a strict subset of `cidr`"));
        }
    }
}

/// An IPAddress.
pub(super) fn ip_address(obj: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let at = field::root("spec").child("parentRef");
    let Some(parent) = object::at(obj, &["spec", "parentRef"]) else {
        errors.push(Error::required(at, ""));
        return errors;
    };
    let group = object::text(parent, &["group"]);
    if !group.is_empty() {
        told(name::dns1123_subdomain_faults(group), &at.child("group"), group, &mut errors);
    }
    segment(parent, "resource", true, &at, &mut errors);
    segment(parent, "name", true, &at, &mut errors);
    segment(parent, "namespace", false, &at, &mut errors);
    errors
}

/// Whose address it is stays.
pub(super) fn ip_address_update(obj: &Value, old: &Value) -> ErrorList {
    let parent = |obj: &Value| object::at(obj, &["spec", "parentRef"]).cloned().unwrap_or_default();
    if parent(obj) == parent(old) {
        return ErrorList::new();
    }
    let at = field::root("spec").child("parentRef");
    vec![internal::invalid(&at, "*ParentReference", &parent(obj), "field is immutable")]
}

fn cidrs_of(obj: &Value) -> Vec<&str> {
    object::list(obj, &["spec", "cidrs"]).iter().filter_map(Value::as_str).collect()
}

/// A ServiceCIDR.
pub(super) fn service_cidr(obj: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let at = field::root("spec").child("cidrs");
    let cidrs = cidrs_of(obj);
    match cidrs.len() {
        0 => errors.push(Error::required(&at, "at least one CIDR required")),
        1 | 2 => {
            for (i, cidr) in cidrs.iter().enumerate() {
                told(address::canonical_cidr_faults(cidr), &at.index(i), cidr, &mut errors);
            }
            let family = |cidr: &str| cidr.parse::<IpNet>().ok().map(|net| net.addr().is_ipv4());
            if let [a, b] = cidrs[..]
                && family(a).is_some()
                && family(a) == family(b)
            {
                let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
                errors.push(Error::invalid(&at, object::list(obj, &["spec", "cidrs"]).to_vec(), detail));
            }
        }
        _ => {
            let shown = internal::shown("ServiceCIDRSpec", spec_of(obj));
            errors.push(Error::invalid(&at, Value::Null, "may only hold up to 2 values").showing(shown));
        }
    }
    errors
}

/// The networks of Services stay; a second one may come.
pub(super) fn service_cidr_update(obj: &Value, old: &Value) -> ErrorList {
    const STAYS: &str = "field is immutable";
    let mut errors = ErrorList::new();
    let at = field::root("spec").child("cidrs");
    let (new, before) = (cidrs_of(obj), cidrs_of(old));
    if new.len() == before.len() || (before.len() == 1 && new.len() == 2) {
        for (i, (new, _)) in new.iter().zip(&before).enumerate().filter(|(_, (new, old))| new != old) {
            errors.push(Error::invalid(at.index(i), *new, STAYS));
        }
        if new.len() != before.len() {
            errors.extend(service_cidr(obj));
        }
    } else {
        let given = object::at(obj, &["spec", "cidrs"]).cloned().unwrap_or_default();
        errors.push(Error::invalid(at, given, STAYS));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn joined(errors: &[Error]) -> String {
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    /// Cases of upstream's `TestValidateIngress`.
    #[test]
    fn ingresses_say_what_is_wrong() {
        let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
        let with = |more: Value| {
            let mut path = json!({"path": "/", "pathType": "Prefix", "backend": backend});
            for (key, value) in more.as_object().unwrap() {
                path[key] = value.clone();
            }
            joined(&ingress(&json!({"spec": {"rules": [{"host": "a.b", "http": {"paths": [path]}}]}})))
        };
        let at = "spec.rules[0].http.paths[0]";
        let cases = [
            (json!({}), String::new()),
            (json!({"pathType": null}), format!("{at}.pathType: Required value: pathType must be specified")),
            (
                json!({"pathType": "X"}),
                format!(
                    "{at}.pathType: Unsupported value: \"X\": supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\""
                ),
            ),
            (json!({"path": "a"}), format!("{at}.path: Invalid value: \"a\": must be an absolute path")),
            (
                json!({"path": "/a//b/.."}),
                format!(
                    "{at}.path: Invalid value: \"/a//b/..\": must not contain '//'; {at}.path: Invalid value: \"/a//b/..\": cannot end with '/..'"
                ),
            ),
            (
                json!({"backend": {}}),
                format!("{at}.backend: Invalid value: \"\": resource or service backend is required"),
            ),
            (
                json!({"backend": {"service": {"name": "s"}}}),
                format!("{at}.backend: Required value: port name or number is required"),
            ),
            (
                json!({"backend": {"service": {"name": "s", "port": {"name": "a", "number": 1}}}}),
                format!("{at}.backend: Invalid value: \"\": cannot set both port name & port number"),
            ),
            (
                json!({"backend": {"resource": {"name": "a"}}}),
                format!("{at}.backend.resource.kind: Required value"),
            ),
        ];
        for (more, expected) in cases {
            assert_eq!(with(more.clone()), expected, "{more}");
        }
        let tls = json!({"spec": {"defaultBackend": backend, "tls": [{"secretName": "_"}]}});
        assert!(
            joined(&ingress(&tls))
                .starts_with("spec.tls[0].secretName: Invalid value: \"_\": a lowercase RFC 1123")
        );
    }

    /// Cases of upstream's `TestValidateNetworkPolicy`.
    #[test]
    fn policies_say_what_is_wrong() {
        let rule = |rule: Value| {
            joined(&network_policy(&json!({"spec": {"podSelector": {}, "ingress": [rule]}}), None))
        };
        let block = |block: Value| rule(json!({"from": [{"ipBlock": block}]}));
        assert_eq!(block(json!({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]})), "");
        assert_eq!(
            block(json!({"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]})),
            "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`"
        );
        assert_eq!(block(json!({})), "spec.ingress[0].from[0].ipBlock.cidr: Required value");
        assert_eq!(
            rule(json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]})),
            "spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer"
        );
        assert_eq!(
            rule(
                json!({"ports": [{"port": 80, "endPort": 10}, {"port": "a", "endPort": 10}, {"endPort": 10}]})
            ),
            "spec.ingress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`; \
             spec.ingress[0].ports[1].endPort: Invalid value: 10: may not be specified when `port` is non-numeric; \
             spec.ingress[0].ports[2].endPort: Invalid value: 10: may not be specified when `port` is not specified"
        );
        let old = json!({"spec": {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.1/8"}}]}]}});
        assert_eq!(joined(&network_policy(&old, Some(&old))), "");
        assert!(
            joined(&network_policy(&old, None)).contains("must not have bits set beyond the prefix length")
        );
    }

    #[test]
    fn cidrs_say_what_is_wrong() {
        let cidr = |cidrs: Value| json!({"spec": {"cidrs": cidrs}});
        assert_eq!(joined(&service_cidr(&cidr(json!(["10.0.0.0/8", "2001:db8::/64"])))), "");
        assert_eq!(
            joined(&service_cidr_update(&cidr(json!([])), &cidr(json!(["10.0.0.0/8"])))),
            "spec.cidrs: Invalid value: []: field is immutable"
        );
        assert_eq!(
            joined(&service_cidr(&cidr(json!(["a", "b", "c"])))),
            "spec.cidrs: Invalid value: {\"CIDRs\":[\"a\",\"b\",\"c\"]}: may only hold up to 2 values"
        );
    }
}
