//! What is wrong with a Service, new or changed.
//!
//! Source: `validateService`, `ValidateServiceUpdate` of `pkg/apis/core/validation/validation.go`.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use windlass_crd::{
    address,
    field::{self, Error, ErrorList, Path},
    name,
};

use super::{
    super::{
        container, endpoints, internal, networking,
        pod_spec::{labels, one_of, one_of_required, told},
    },
    is_external, kind,
};
use crate::object;

const AFFINITY_SECONDS_MAX: i64 = 86_400;
const KINDS: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const MODE: &str = "service.kubernetes.io/topology-mode";
const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

fn list<'v>(obj: &'v Value, field: &str) -> Vec<&'v str> {
    object::list(obj, &["spec", field]).iter().filter_map(Value::as_str).collect()
}

fn given(obj: &Value, field: &str) -> Value {
    object::at(obj, &["spec", field]).cloned().unwrap_or_default()
}

fn is_headless(obj: &Value) -> bool {
    list(obj, "clusterIPs") == ["None"]
}

/// What is wrong with a Service, given what stood in its place.
pub(super) fn validate(obj: &Value, old: Option<&Value>) -> ErrorList {
    let path = field::root("spec");
    let spec = obj.get("spec").unwrap_or(&Value::Null);
    let mut errors = ErrorList::new();
    let annotation = |key: &str| object::at(obj, &["metadata", "annotations", key]).and_then(Value::as_str);
    if let (Some(mode), Some(hints)) = (annotation(MODE), annotation(HINTS))
        && mode != hints
    {
        let at = field::root("metadata").child("annotations").key(MODE);
        let detail = format!("must match annotations[{HINTS}] when both are specified");
        errors.push(Error::invalid(at, mode, detail));
    }
    let ports = object::list(spec, &["ports"]);
    if ports.is_empty() && !is_headless(obj) && kind(obj) != "ExternalName" {
        errors.push(Error::required(path.child("ports"), ""));
    }
    match kind(obj) {
        "LoadBalancer" | "NodePort" if is_headless(obj) => {
            let detail = format!("may not be set to 'None' for {} services", kind(obj));
            errors.push(Error::invalid(path.child("clusterIPs").index(0), "None", detail));
        }
        "ExternalName" => external_name(obj, &path, &mut errors),
        _ => {}
    }
    each_port(ports, &path.child("ports"), &mut errors);
    labels(object::at(spec, &["selector"]), &path.child("selector"), &mut errors);
    one_of_required(spec, "sessionAffinity", &["ClientIP", "None"], &path, &mut errors);
    affinity(spec, &path.child("sessionAffinityConfig"), &mut errors);
    cluster_ips(obj, old, &path, &mut errors);
    let known = old.map(|old| list(old, "externalIPs")).unwrap_or_default();
    for (i, ip) in list(obj, "externalIPs").into_iter().enumerate() {
        let at = path.child("externalIPs").index(i);
        match address::ip_faults(ip) {
            faults if !faults.is_empty() && !known.contains(&ip) => told(faults, &at, ip, &mut errors),
            _ => endpoints::endpoint_ip(ip, &at, &mut errors),
        }
    }
    one_of_required(spec, "type", &KINDS, &path, &mut errors);
    unique_ports(obj, ports, &path.child("ports"), &mut errors);
    source_ranges(obj, old, &path, &mut errors);
    let allocates = object::at(spec, &["allocateLoadBalancerNodePorts"]).is_some();
    if allocates && kind(obj) != "LoadBalancer" {
        let at = path.child("allocateLoadBalancerNodePorts");
        errors.push(Error::forbidden(at, "may only be used when `type` is 'LoadBalancer'"));
    }
    if !allocates && kind(obj) == "LoadBalancer" {
        errors.push(Error::required(field::root("allocateLoadBalancerNodePorts"), ""));
    }
    class(obj, &path.child("loadBalancerClass"), &mut errors);
    traffic(obj, spec, &path, &mut errors);
    errors
}

fn external_name(obj: &Value, path: &Path, errors: &mut ErrorList) {
    const DETAIL: &str = "may not be set for ExternalName services";
    for field in ["clusterIPs", "ipFamilies"] {
        if !list(obj, field).is_empty() {
            errors.push(Error::forbidden(path.child(field), DETAIL));
        }
    }
    if !given(obj, "ipFamilyPolicy").is_null() {
        errors.push(Error::forbidden(path.child("ipFamilyPolicy"), DETAIL));
    }
    let host = object::text(obj, &["spec", "externalName"]);
    let host = host.strip_suffix('.').unwrap_or(host);
    let at = path.child("externalName");
    match host {
        "" => errors.push(Error::required(at, "")),
        host => told(name::dns1123_subdomain_faults(host), &at, host, errors),
    }
}

fn each_port(ports: &[Value], path: &Path, errors: &mut ErrorList) {
    let mut names = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        let given = object::text(port, &["name"]);
        if given.is_empty() {
            if ports.len() > 1 {
                errors.push(Error::required(at.child("name"), ""));
            }
        } else {
            told(name::dns1123_label_faults(given), &at.child("name"), given, errors);
            if !names.insert(given) {
                errors.push(Error::duplicate(at.child("name"), given));
            }
        }
        let number = object::number(port, &["port"]).unwrap_or(0);
        errors
            .extend(name::port_number(number).err().map(|why| Error::invalid(at.child("port"), number, why)));
        one_of_required(port, "protocol", &networking::PROTOCOLS, &at, errors);
        container::handler_port(port.get("targetPort"), &at.child("targetPort"), errors);
        endpoints::app_protocol(port, &at, errors);
    }
}

fn affinity(spec: &Value, path: &Path, errors: &mut ErrorList) {
    const WHEN: &str = "when session affinity type is ClientIP";
    let config = object::at(spec, &["sessionAffinityConfig"]);
    match object::text(spec, &["sessionAffinity"]) {
        "None" if config.is_some() => {
            errors.push(Error::forbidden(path, "must not be set when session affinity is None"));
        }
        "ClientIP" => {
            let Some(config) = config else { return errors.push(Error::required(path, WHEN)) };
            let at = path.child("clientIP");
            let Some(client) = object::at(config, &["clientIP"]) else {
                return errors.push(Error::required(at, WHEN));
            };
            let at = at.child("timeoutSeconds");
            match object::number(client, &["timeoutSeconds"]) {
                None => errors.push(Error::required(at, WHEN)),
                Some(seconds) if !(1..=AFFINITY_SECONDS_MAX).contains(&seconds) => {
                    let detail = format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
                    errors.push(Error::invalid(at, seconds, detail));
                }
                Some(_) => {}
            }
        }
        _ => {}
    }
}

fn cluster_ips(obj: &Value, old: Option<&Value>, path: &Path, errors: &mut ErrorList) {
    const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
    if kind(obj) == "ExternalName" {
        return;
    }
    let (first, all) = (object::text(obj, &["spec", "clusterIP"]), list(obj, "clusterIPs"));
    let at = path.child("clusterIPs");
    let wrong = |detail: &str| Error::invalid(&at, given(obj, "clusterIPs"), detail);
    match (first, all.first()) {
        ("", Some(_)) => errors.push(wrong("must be empty when `clusterIP` is not specified")),
        ("", None) => {}
        (_, None) => errors.push(Error::required(&at, "")),
        (first, Some(one)) if first != *one => errors.push(wrong("first value must match `clusterIP`")),
        _ => {}
    }
    let families = list(obj, "ipFamilies");
    for (i, family) in families.iter().enumerate() {
        let at = path.child("ipFamilies").index(i);
        if !FAMILIES.contains(family) {
            errors.push(Error::not_supported(&at, *family, &FAMILIES));
        }
        if families[..i].contains(family) {
            errors.push(Error::duplicate(at, *family));
        }
    }
    let spec = obj.get("spec").unwrap_or(&Value::Null);
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    one_of(spec, "ipFamilyPolicy", &policies, path, errors);
    let known = old.map(|old| list(old, "clusterIPs")).unwrap_or_default();
    let mut bad = false;
    for (i, ip) in all.iter().enumerate() {
        if i == 0 && *ip == "None" {
            if all.len() > 1 {
                bad = true;
                errors.push(wrong("'None' must be the first and only value"));
            }
            continue;
        }
        let faults = if known.contains(ip) { Vec::new() } else { address::ip_faults(ip) };
        bad |= !faults.is_empty();
        told(faults, &at.index(i), ip, errors);
    }
    if all.len() > 2 {
        errors.push(wrong("may only hold up to 2 values"));
    }
    if bad {
        return;
    }
    if all.len() > 1 && !address::is_dual_stack(&all).unwrap_or(false) {
        errors.push(wrong("may specify no more than one IP for each IP family"));
    }
    if is_headless(obj) {
        return;
    }
    for (i, (ip, family)) in all.iter().zip(&families).enumerate() {
        let v6 = address::read(ip).is_some_and(|ip| ip.is_ipv6());
        if (*family == "IPv4" && v6) || (*family == "IPv6" && !v6) {
            let detail = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
            errors.push(Error::invalid(at.index(i), *ip, detail));
        }
    }
}

fn unique_ports(obj: &Value, ports: &[Value], path: &Path, errors: &mut ErrorList) {
    let number = |port: &Value, field: &str| object::number(port, &[field]).unwrap_or(0);
    if kind(obj) == "ClusterIP" {
        for (i, _) in ports.iter().enumerate().filter(|(_, port)| number(port, "nodePort") != 0) {
            let at = path.index(i).child("nodePort");
            errors.push(Error::forbidden(at, "may not be used when `type` is 'ClusterIP'"));
        }
    }
    let (mut nodes, mut seen) = (BTreeSet::new(), BTreeSet::new());
    let protocol = |port: &Value| object::text(port, &["protocol"]).to_owned();
    for (i, port) in ports.iter().enumerate() {
        let node = number(port, "nodePort");
        if node != 0 && !nodes.insert((protocol(port), node)) {
            errors.push(Error::duplicate(path.index(i).child("nodePort"), node));
        }
    }
    for (i, port) in ports.iter().enumerate() {
        if !seen.insert((protocol(port), number(port, "port"))) {
            let key = json!({"protocol": protocol(port), "port": number(port, "port")});
            let shown = internal::shown("ServicePort", &key);
            errors.push(Error::duplicate(path.index(i), key).showing(shown));
        }
    }
}

fn source_ranges(obj: &Value, old: Option<&Value>, path: &Path, errors: &mut ErrorList) {
    const DETAIL: &str = "may only be used when `type` is 'LoadBalancer'";
    let balanced = kind(obj) == "LoadBalancer";
    let annotation = |obj: &Value| {
        let value = object::at(obj, &["metadata", "annotations", RANGES]);
        value.and_then(Value::as_str).map(str::to_owned)
    };
    let ranges = list(obj, "loadBalancerSourceRanges");
    if !ranges.is_empty() {
        // Upstream's name for the field.
        let at = path.child("LoadBalancerSourceRanges");
        if !balanced {
            errors.push(Error::forbidden(&at, DETAIL));
        }
        let known = old.map(|old| list(old, "loadBalancerSourceRanges")).unwrap_or_default();
        for (i, range) in ranges.iter().map(|range| range.trim()).enumerate() {
            if !known.iter().any(|known| known.trim() == range) {
                told(address::cidr_faults(range), &at.index(i), range, errors);
            }
        }
    } else if let Some(value) = annotation(obj) {
        let at = field::root("metadata").child("annotations").key(RANGES);
        if !balanced {
            errors.push(Error::forbidden(&at, DETAIL));
        }
        if old.and_then(annotation).as_ref() != Some(&value) && !value.trim().is_empty() {
            for range in value.split(',').map(str::trim) {
                told(address::cidr_faults(range), &at, range, errors);
            }
        }
    }
}

fn class(obj: &Value, path: &Path, errors: &mut ErrorList) {
    let given = given(obj, "loadBalancerClass");
    let Some(class) = given.as_str() else { return };
    if kind(obj) == "LoadBalancer" {
        told(name::qualified_name_faults(class), path, class, errors);
    } else {
        errors.push(Error::forbidden(path, "may only be used when `type` is 'LoadBalancer'"));
    }
}

fn needs_health_check(obj: &Value) -> bool {
    kind(obj) == "LoadBalancer" && object::text(obj, &["spec", "externalTrafficPolicy"]) == "Local"
}

fn traffic(obj: &Value, spec: &Value, path: &Path, errors: &mut ErrorList) {
    const POLICIES: [&str; 2] = ["Cluster", "Local"];
    const SPREAD: [&str; 3] = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    let external = object::text(spec, &["externalTrafficPolicy"]);
    if is_external(obj) {
        one_of_required(spec, "externalTrafficPolicy", &POLICIES, path, errors);
    } else if !external.is_empty() {
        let detail = "may only be set for externally-accessible services";
        errors.push(Error::invalid(path.child("externalTrafficPolicy"), external, detail));
    }
    let at = path.child("healthCheckNodePort");
    let port = object::number(spec, &["healthCheckNodePort"]).unwrap_or(0);
    match (needs_health_check(obj), port) {
        (true, 0) => errors.push(Error::required(at, "")),
        (true, port) => {
            errors.extend(name::port_number(port).err().map(|why| Error::invalid(at, port, why)));
        }
        (false, 0) => {}
        (false, port) => {
            let detail =
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.push(Error::invalid(at, port, detail));
        }
    }
    let inner = object::at(spec, &["internalTrafficPolicy"]);
    if inner.is_none() && matches!(kind(obj), "NodePort" | "LoadBalancer" | "ClusterIP") {
        errors.push(Error::required(path.child("internalTrafficPolicy"), ""));
    }
    one_of(spec, "internalTrafficPolicy", &POLICIES, path, errors);
    one_of(spec, "trafficDistribution", &SPREAD, path, errors);
}

/// A change of a Service.
pub(super) fn update(obj: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    stays(obj, old, &mut errors);
    let both = kind(obj) == "LoadBalancer" && kind(old) == "LoadBalancer";
    let at = field::root("spec").child("loadBalancerClass");
    if both && given(obj, "loadBalancerClass") != given(old, "loadBalancerClass") {
        errors.push(Error::invalid(&at, given(obj, "loadBalancerClass"), "may not change once set"));
    }
    class(obj, &at, &mut errors);
    let port = |obj: &Value| object::number(obj, &["spec", "healthCheckNodePort"]).unwrap_or(0);
    if needs_health_check(old) && needs_health_check(obj) && port(old) != port(obj) {
        let at = field::root("spec").child("healthCheckNodePort");
        errors.push(Error::forbidden(at, "field is immutable"));
    }
    errors.extend(validate(obj, Some(old)));
    errors
}

/// Addresses and families stay; a second of each may come and go.
fn stays(obj: &Value, old: &Value, errors: &mut ErrorList) {
    const STAYS: &str = "may not change once set";
    if kind(obj) == "ExternalName" || kind(old) == "ExternalName" {
        return;
    }
    let (headless, was_headless) = (is_headless(obj), is_headless(old));
    let path = field::root("spec");
    for (field, what) in [("clusterIPs", "clusterIP"), ("ipFamilies", "ipFamily")] {
        let of_families = field == "ipFamilies";
        if (headless && was_headless) || (of_families && headless != was_headless) {
            continue;
        }
        let (new, before) = (list(obj, field), list(old, field));
        let at = path.child(field);
        // Of families, upstream shows the addresses where their number changed.
        let shown = if of_families && new.len() != before.len() { "clusterIPs" } else { field };
        if new.len() == before.len() {
            for (i, _) in before.iter().zip(&new).enumerate().filter(|(_, (a, b))| a != b) {
                let i = if of_families { 0 } else { i };
                errors.push(Error::invalid(at.index(i), given(obj, field), STAYS));
            }
            continue;
        }
        if new.len() < before.len() && list(obj, "clusterIPs").is_empty() {
            let detail = format!("primary {what} can not be unset");
            errors.push(Error::invalid(at.index(0), given(obj, field), detail));
        }
        if let (Some(new), Some(before)) = (new.first(), before.first())
            && new != before
        {
            errors.push(Error::invalid(at.index(0), given(obj, shown), STAYS));
        }
        let policy = given(obj, "ipFamilyPolicy");
        if new.len() < before.len() && new.len() == 1 && policy != "SingleStack" {
            let detail = format!("must be set to 'SingleStack' when releasing the secondary {what}");
            errors.push(Error::invalid(path.child("ipFamilyPolicy"), policy, detail));
        }
    }
}

/// The status of a Service.
pub(super) fn status(obj: &Value, old: &Value) -> ErrorList {
    const MODES: [&str; 2] = ["Proxy", "VIP"];
    let mut errors = ErrorList::new();
    let path = field::root("status").child("loadBalancer").child("ingress");
    if kind(obj) != "LoadBalancer" {
        if !object::list(obj, &["status", "loadBalancer", "ingress"]).is_empty() {
            let detail = "may only be used when `spec.type` is 'LoadBalancer'";
            errors.push(Error::forbidden(path, detail));
        }
        return errors;
    }
    let mode = |one: &Value, at: &Path, errors: &mut ErrorList| {
        let at = at.child("ipMode");
        let ip = object::text(one, &["ip"]);
        match object::at(one, &["ipMode"]).and_then(Value::as_str) {
            None if !ip.is_empty() => errors.push(Error::required(at, "must be specified when `ip` is set")),
            None => {}
            Some(_) if ip.is_empty() => {
                errors.push(Error::forbidden(at, "may not be specified when `ip` is not set"));
            }
            Some(mode) if !MODES.contains(&mode) => errors.push(Error::not_supported(at, mode, &MODES)),
            Some(_) => {}
        }
    };
    networking::balanced(obj, old, &path, mode, &mut errors);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(errors: &[Error]) -> String {
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    fn service(more: &Value) -> Value {
        let mut spec = json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP"}]});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        json!({"metadata": {"name": "s"}, "spec": spec})
    }

    /// A good Service with these fields, and what is said about it. Cases of upstream's `TestValidateServiceCreate`.
    #[test]
    fn one_fault_at_a_time() {
        let cases = [
            (json!({}), ""),
            (json!({"ports": []}), "spec.ports: Required value"),
            (
                json!({"type": "NodePort", "externalTrafficPolicy": "Cluster", "clusterIP": "None", "clusterIPs": ["None"]}),
                "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
            ),
            (
                json!({"clusterIPs": ["10.0.0.2"]}),
                "spec.clusterIPs: Invalid value: [\"10.0.0.2\"]: first value must match `clusterIP`",
            ),
            (
                json!({"ipFamilies": ["IPv6"]}),
                "spec.clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`",
            ),
            (
                json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}),
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400",
            ),
            (
                json!({"externalIPs": ["127.0.0.1"], "externalTrafficPolicy": "Cluster"}),
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ),
            (
                json!({"loadBalancerSourceRanges": ["10.0.0.0/8"]}),
                "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ),
            (
                json!({"externalTrafficPolicy": "Local"}),
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            ),
            (
                json!({"trafficDistribution": "X"}),
                "spec.trafficDistribution: Unsupported value: \"X\": supported values: \"PreferClose\", \"PreferSameZone\", \"PreferSameNode\"",
            ),
            (
                json!({"ports": [{"name": "a", "port": 80, "targetPort": 80, "protocol": "TCP"}, {"name": "b", "port": 80, "targetPort": 80, "protocol": "TCP"}]}),
                "spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":80,\"TargetPort\":0,\"NodePort\":0}",
            ),
        ];
        for (more, expected) in cases {
            assert_eq!(joined(&validate(&service(&more), None)), expected, "{more}");
        }
    }

    #[test]
    fn addresses_stay() {
        let old = service(&json!({}));
        let new = service(&json!({"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.2"]}));
        assert_eq!(
            joined(&update(&new, &old)),
            "spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"
        );
        let two = service(
            &json!({"clusterIPs": ["10.0.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"}),
        );
        assert_eq!(joined(&update(&two, &old)), "");
        let one = service(&json!({"ipFamilyPolicy": "PreferDualStack"}));
        assert_eq!(
            joined(&update(&one, &two)),
            "spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be set to 'SingleStack' when releasing the \
             secondary clusterIP; spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be set to 'SingleStack' when \
             releasing the secondary ipFamily"
        );
    }

    #[test]
    fn balancers_say_how_their_addresses_behave() {
        let of = |ingress: Value| {
            let mut obj = service(&json!({"type": "LoadBalancer"}));
            obj["status"] = json!({"loadBalancer": {"ingress": [ingress]}});
            joined(&status(&obj, &service(&json!({}))))
        };
        let at = "status.loadBalancer.ingress[0]";
        assert_eq!(of(json!({"ip": "1.2.3.4", "ipMode": "VIP"})), "");
        assert_eq!(
            of(json!({"ip": "1.2.3.4"})),
            format!("{at}.ipMode: Required value: must be specified when `ip` is set")
        );
        assert_eq!(
            of(json!({"hostname": "1.2.3.4"})),
            format!("{at}.hostname: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address")
        );
    }
}
