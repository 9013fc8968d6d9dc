//! Services: defaults, what stays on update, validation, columns. Addresses and ports are given out elsewhere.
//!
//! Source: `pkg/apis/core/v1/defaults.go`, `pkg/registry/core/service/strategy.go`, `ValidateService`.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use windlass_crd::{
    field::{self, Error, ErrorList, Path},
    name,
};

use super::{
    Column, Part, Strategy, columns, container, pod_defaults,
    pod_spec::{not_negative, one_of},
};
use crate::object;

/// Service.
pub(crate) struct Service;

fn kind(obj: &Value) -> &str {
    object::text(obj, &["spec", "type"])
}

fn has_cluster_ip(obj: &Value) -> bool {
    matches!(kind(obj), "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn is_external(obj: &Value) -> bool {
    matches!(kind(obj), "NodePort" | "LoadBalancer")
        || (kind(obj) == "ClusterIP" && !object::list(obj, &["spec", "externalIPs"]).is_empty())
}

fn set_if_absent(obj: &mut Value, path: &[&str], value: impl Into<Value>) {
    if object::at(obj, path).is_none() {
        object::set(obj, path, value);
    }
}

impl Strategy for Service {
    fn default(&self, obj: &mut Value) {
        let Some(spec) = obj.get_mut("spec") else { return };
        for port in pod_defaults::items(spec, "ports") {
            let unset = match object::at(port, &["targetPort"]) {
                None => true,
                Some(target) => target == &json!(0) || target == &json!(""),
            };
            if unset && let Some(number) = object::number(port, &["port"]) {
                object::set(port, &["targetPort"], number);
            }
        }
        if object::text(obj, &["spec", "sessionAffinity"]) == "ClientIP" {
            set_if_absent(obj, &["spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"], 10_800);
        } else {
            object::remove(obj, &["spec", "sessionAffinityConfig"]);
        }
        if is_external(obj) {
            set_if_absent(obj, &["spec", "externalTrafficPolicy"], "Cluster");
        }
        if has_cluster_ip(obj) {
            set_if_absent(obj, &["spec", "internalTrafficPolicy"], "Cluster");
        }
        if kind(obj) == "LoadBalancer" {
            set_if_absent(obj, &["spec", "allocateLoadBalancerNodePorts"], true);
        }
    }

    fn prepare_create(&self, obj: &mut Value) {
        object::set(obj, &["status"], json!({"loadBalancer": {}}));
    }

    fn prepare_update(&self, part: Part, obj: &mut Value, old: &Value) {
        if part != Part::Main {
            return;
        }
        keep_allocated(obj, old);
        drop_what_the_type_has_not(obj, old);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        validate(obj)
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value) -> ErrorList {
        if part != Part::Main {
            return ErrorList::new();
        }
        let mut errors = validate(obj);
        let old_ip = object::text(old, &["spec", "clusterIP"]);
        let new_ip = object::text(obj, &["spec", "clusterIP"]);
        if has_cluster_ip(obj) && has_cluster_ip(old) && !old_ip.is_empty() && new_ip != old_ip {
            let path = field::root("spec").child("clusterIPs").index(0);
            errors.push(Error::invalid(path, json!([new_ip]), "may not change once set"));
        }
        errors
    }

    fn check_name(&self, name: &str) -> Result<(), String> {
        name::dns1035_label(name)
    }

    fn columns(&self) -> Option<Vec<Column>> {
        Some(vec![
            columns::text("Type", &["spec", "type"]),
            columns::made("Cluster-IP", cluster_ip),
            columns::made("External-IP", external_ip),
            columns::made("Port(s)", ports),
            columns::age(),
            columns::made("Selector", |o| columns::selector(object::at(o, &["spec", "selector"]))).wide(),
        ])
    }

    fn fields(&self) -> &'static [(&'static str, fn(&Value) -> String)] {
        &[
            ("spec.clusterIP", |o| object::text(o, &["spec", "clusterIP"]).to_owned()),
            ("spec.type", |o| object::text(o, &["spec", "type"]).to_owned()),
        ]
    }
}

/// An update that leaves out what the server gave keeps it.
fn keep_allocated(obj: &mut Value, old: &Value) {
    if has_cluster_ip(obj) && has_cluster_ip(old) {
        for field in ["clusterIP", "clusterIPs"] {
            let unset = object::text(obj, &["spec", field]).is_empty()
                && object::list(obj, &["spec", field]).is_empty();
            if unset && let Some(value) = object::at(old, &["spec", field]) {
                object::set(obj, &["spec", field], value.clone());
            }
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if let Some(value) = object::at(old, &["spec", field]) {
                set_if_absent(obj, &["spec", field], value.clone());
            }
        }
    }
    let needs_ports = |obj: &Value| matches!(kind(obj), "NodePort" | "LoadBalancer");
    if needs_ports(obj) && needs_ports(old) {
        let before = object::list(old, &["spec", "ports"]).to_vec();
        let key =
            |port: &Value| (object::number(port, &["port"]), object::text(port, &["protocol"]).to_owned());
        let taken: BTreeSet<i64> = object::list(obj, &["spec", "ports"])
            .iter()
            .filter_map(|p| object::number(p, &["nodePort"]))
            .collect();
        let Some(spec) = obj.get_mut("spec") else { return };
        for port in pod_defaults::items(spec, "ports") {
            if object::number(port, &["nodePort"]).unwrap_or(0) != 0 {
                continue;
            }
            let same = before.iter().find(|one| key(one) == key(port));
            let number = same
                .and_then(|one| object::number(one, &["nodePort"]))
                .filter(|n| *n != 0 && !taken.contains(n));
            if let Some(number) = number {
                object::set(port, &["nodePort"], number);
            }
        }
    }
}

/// A change of type takes with it what only the old type had, unless the client set it anew.
fn drop_what_the_type_has_not(obj: &mut Value, old: &Value) {
    let unchanged = |obj: &Value, path: &[&str]| object::at(obj, path) == object::at(old, path);
    if has_cluster_ip(old) && !has_cluster_ip(obj) {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if unchanged(obj, &["spec", field]) {
                object::remove(obj, &["spec", field]);
            }
        }
    }
    let has_ports = |obj: &Value| matches!(kind(obj), "NodePort" | "LoadBalancer");
    if has_ports(old) && !has_ports(obj) {
        let before: Vec<Option<i64>> =
            object::list(old, &["spec", "ports"]).iter().map(|p| object::number(p, &["nodePort"])).collect();
        if let Some(spec) = obj.get_mut("spec") {
            for port in pod_defaults::items(spec, "ports") {
                if before.contains(&object::number(port, &["nodePort"])) {
                    object::remove(port, &["nodePort"]);
                }
            }
        }
    }
    if !is_external(obj) && unchanged(obj, &["spec", "externalTrafficPolicy"]) {
        object::remove(obj, &["spec", "externalTrafficPolicy"]);
    }
    if kind(obj) != "LoadBalancer" {
        if unchanged(obj, &["spec", "allocateLoadBalancerNodePorts"]) {
            object::remove(obj, &["spec", "allocateLoadBalancerNodePorts"]);
        }
        if kind(old) == "LoadBalancer" {
            object::set(obj, &["status", "loadBalancer"], json!({}));
        }
    }
}

fn validate(obj: &Value) -> ErrorList {
    let path = field::root("spec");
    let spec = obj.get("spec").unwrap_or(&Value::Null);
    let mut errors = ErrorList::new();
    let headless = object::text(spec, &["clusterIP"]) == "None";
    let kinds = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    if !kinds.contains(&kind(obj)) {
        errors.push(Error::not_supported(path.child("type"), kind(obj), &kinds));
    }
    match kind(obj) {
        "ExternalName" => external_name(spec, &path, &mut errors),
        "NodePort" | "LoadBalancer" if headless => {
            let detail = format!("may not be set to 'None' for {} services", kind(obj));
            errors.push(Error::invalid(path.child("clusterIPs").index(0), "None", detail));
        }
        _ => {}
    }
    let ports = object::list(spec, &["ports"]);
    if ports.is_empty() && !headless && kind(obj) != "ExternalName" {
        errors.push(Error::required(path.child("ports"), ""));
    }
    validate_ports(ports, &path.child("ports"), &mut errors);
    for (key, value) in object::at(spec, &["selector"]).and_then(Value::as_object).into_iter().flatten() {
        let at = path.child("selector");
        errors.extend(
            name::qualified_name_faults(key).into_iter().map(|why| Error::invalid(&at, key.as_str(), why)),
        );
        let value = value.as_str().unwrap_or_default();
        errors.extend(name::label_value_faults(value).into_iter().map(|why| Error::invalid(&at, value, why)));
    }
    if object::text(spec, &["sessionAffinity"]).is_empty() {
        errors.push(Error::required(path.child("sessionAffinity"), ""));
    }
    one_of(spec, "sessionAffinity", &["ClientIP", "None"], &path, &mut errors);
    affinity_timeout(spec, &path, &mut errors);
    for (i, ip) in object::list(spec, &["externalIPs"]).iter().enumerate() {
        let text = ip.as_str().unwrap_or_default();
        if let Err(why) = name::ip(text) {
            errors.push(Error::invalid(path.child("externalIPs").index(i), text, why));
        }
    }
    policies(obj, spec, &path, &mut errors);
    errors
}

fn external_name(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let cluster_ip = object::text(spec, &["clusterIP"]);
    if !cluster_ip.is_empty() {
        let detail = "may not be set for ExternalName services";
        errors.push(Error::forbidden(path.child("clusterIPs").index(0), detail));
    }
    let host = object::text(spec, &["externalName"]).trim_end_matches('.');
    if host.is_empty() {
        errors.push(Error::required(path.child("externalName"), ""));
    } else if let Err(why) = name::dns1123_subdomain(host) {
        errors.push(Error::invalid(path.child("externalName"), host, why));
    }
}

fn validate_ports(ports: &[Value], path: &Path, errors: &mut ErrorList) {
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    let mut node_ports = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        let given = object::text(port, &["name"]);
        if given.is_empty() && ports.len() > 1 {
            errors.push(Error::required(at.child("name"), ""));
        } else if !given.is_empty() {
            let faults = name::dns1123_label_faults(given);
            errors.extend(faults.into_iter().map(|why| Error::invalid(at.child("name"), given, why)));
            if !names.insert(given) {
                errors.push(Error::duplicate(at.child("name"), given));
            }
        }
        let number = object::number(port, &["port"]).unwrap_or(0);
        if let Err(why) = name::port_number(number) {
            errors.push(Error::invalid(at.child("port"), number, why));
        }
        let protocol = object::text(port, &["protocol"]);
        if protocol.is_empty() {
            errors.push(Error::required(at.child("protocol"), ""));
        }
        one_of(port, "protocol", &["SCTP", "TCP", "UDP"], &at, errors);
        container::handler_port(port.get("targetPort"), &at.child("targetPort"), errors);
        if !numbers.insert((number, protocol)) {
            errors.push(Error::duplicate(&at, json!({"port": number, "protocol": protocol})));
        }
        let node_port = object::number(port, &["nodePort"]).unwrap_or(0);
        if node_port != 0 && !node_ports.insert((node_port, protocol)) {
            errors.push(Error::duplicate(at.child("nodePort"), node_port));
        }
        not_negative(port, "nodePort", &at, errors);
    }
}

fn affinity_timeout(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let way = ["sessionAffinityConfig", "clientIP", "timeoutSeconds"];
    let at = way.iter().fold(path.clone(), |path, name| path.child(*name));
    if object::text(spec, &["sessionAffinity"]) != "ClientIP" {
        return;
    }
    match object::number(spec, &way) {
        Some(seconds) if !(1..=86_400).contains(&seconds) => {
            let detail = "must be greater than 0 and less than 86400";
            errors.push(Error::invalid(at, seconds, detail));
        }
        Some(_) => {}
        None => errors.push(Error::required(at, "")),
    }
}

fn policies(obj: &Value, spec: &Value, path: &Path, errors: &mut ErrorList) {
    one_of(spec, "externalTrafficPolicy", &["Cluster", "Local"], path, errors);
    one_of(spec, "internalTrafficPolicy", &["Cluster", "Local"], path, errors);
    let external = object::text(spec, &["externalTrafficPolicy"]);
    if !external.is_empty() && !is_external(obj) {
        let detail = "may only be set for externally-accessible services";
        errors.push(Error::invalid(path.child("externalTrafficPolicy"), external, detail));
    }
    if !matches!(kind(obj), "NodePort" | "LoadBalancer") {
        for (i, port) in object::list(spec, &["ports"]).iter().enumerate() {
            if object::number(port, &["nodePort"]).unwrap_or(0) != 0 {
                let at = path.child("ports").index(i).child("nodePort");
                errors.push(Error::forbidden(at, format!("may not be used when `type` is '{}'", kind(obj))));
            }
        }
    }
}

fn cluster_ip(obj: &Value) -> String {
    columns::or_none(object::text(obj, &["spec", "clusterIP"]))
}

fn external_ip(obj: &Value) -> String {
    let ips: Vec<&str> =
        object::list(obj, &["spec", "externalIPs"]).iter().filter_map(Value::as_str).collect();
    match kind(obj) {
        "ExternalName" => object::text(obj, &["spec", "externalName"]).to_owned(),
        "LoadBalancer" => {
            let ingress = object::list(obj, &["status", "loadBalancer", "ingress"]).iter();
            let mut all: Vec<&str> = ingress
                .map(|one| match object::text(one, &["ip"]) {
                    "" => object::text(one, &["hostname"]),
                    ip => ip,
                })
                .collect();
            all.extend(ips);
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        _ => columns::or_none(&ips.join(",")),
    }
}

fn ports(obj: &Value) -> String {
    let all: Vec<String> = object::list(obj, &["spec", "ports"])
        .iter()
        .map(|port| {
            let number = |field: &str| object::number(port, &[field]).unwrap_or(0);
            let protocol = object::text(port, &["protocol"]);
            match number("nodePort") {
                0 => format!("{}/{protocol}", number("port")),
                node => format!("{}:{node}/{protocol}", number("port")),
            }
        })
        .collect();
    columns::or_none(&all.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn faults(obj: &Value) -> String {
        Service.validate(obj).iter().map(|e| format!("{e}\n")).collect()
    }

    #[test]
    fn defaults_follow_the_type() {
        let mut obj = json!({"spec": {"type": "NodePort", "sessionAffinity": "ClientIP",
            "ports": [{"port": 80, "protocol": "TCP"}, {"port": 81, "targetPort": "web", "protocol": "TCP", "name": "b"}]}});
        Service.default(&mut obj);
        assert_eq!(
            obj["spec"],
            json!({"type": "NodePort", "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
                "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster",
                "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP"},
                          {"port": 81, "targetPort": "web", "protocol": "TCP", "name": "b"}]})
        );
    }

    #[test]
    fn faults_are_upstreams() {
        expect![[r#"
            spec.ports: Required value
            spec.sessionAffinity: Required value
        "#]]
        .assert_eq(&faults(&json!({"spec": {"type": "ClusterIP"}})));
        expect![[r#"
            spec.type: Unsupported value: "X": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"
            spec.ports[0].name: Required value
            spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive
            spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive
            spec.ports[1].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"
            spec.ports[1].nodePort: Forbidden: may not be used when `type` is 'X'
        "#]]
        .assert_eq(&faults(&json!({"spec": {"type": "X", "sessionAffinity": "None", "ports": [
            {"port": 0, "protocol": "TCP", "targetPort": 0},
            {"name": "b", "port": 1, "protocol": "ICMP", "targetPort": 1, "nodePort": 30000}]}})));
    }

    #[test]
    fn updates_keep_what_was_given_out() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}});
        Service.prepare_update(Part::Main, &mut new, &old);
        assert_eq!(new["spec"]["clusterIP"], "10.96.0.9");
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30080);
        let mut plain = old.clone();
        plain["spec"]["type"] = json!("ClusterIP");
        Service.prepare_update(Part::Main, &mut plain, &old);
        assert_eq!(plain["spec"]["ports"], json!([{"port": 80, "protocol": "TCP"}]));
    }

    #[test]
    fn cells_are_upstreams() {
        let obj = json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1",
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]}});
        assert_eq!(
            (cluster_ip(&obj), external_ip(&obj), ports(&obj)),
            ("10.0.0.1".to_owned(), "<pending>".to_owned(), "80:30080/TCP,53/UDP".to_owned())
        );
    }
}
