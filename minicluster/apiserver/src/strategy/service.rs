//! Services: defaults, what stays on update, validation, columns. Addresses and ports are given out elsewhere.
//!
//! Source: `pkg/apis/core/v1/defaults.go`, `pkg/registry/core/service/strategy.go`, `ValidateService`.

mod checks;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use windlass_crd::{field::ErrorList, name};

use super::{Column, Part, Strategy, columns, pod_defaults};
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
            let ingress = obj.pointer_mut("/status/loadBalancer/ingress").and_then(Value::as_array_mut);
            for one in ingress.into_iter().flatten().filter(|one| !object::text(one, &["ip"]).is_empty()) {
                set_if_absent(one, &["ipMode"], "VIP");
            }
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
        checks::validate(obj, None)
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value) -> ErrorList {
        match part {
            Part::Main => checks::update(obj, old),
            Part::Status => checks::status(obj, old),
            _ => ErrorList::new(),
        }
    }

    fn check_name(&self, name: &str) -> Result<(), String> {
        name::dns1123_label(name)
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
    fn addresses_of_load_balancers_have_a_mode() {
        let ingress =
            json!([{"ip": "203.0.113.1"}, {"hostname": "a.b"}, {"ip": "203.0.113.2", "ipMode": "Proxy"}]);
        let mut obj =
            json!({"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": ingress}}});
        Service.default(&mut obj);
        assert_eq!(
            obj["status"]["loadBalancer"]["ingress"],
            json!([{"ip": "203.0.113.1", "ipMode": "VIP"}, {"hostname": "a.b"}, {"ip": "203.0.113.2", "ipMode": "Proxy"}])
        );
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
