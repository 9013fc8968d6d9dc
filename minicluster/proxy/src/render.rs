//! Services into rules. Pure.
//!
//! Each service port has a chain that picks an endpoint, each endpoint a chain that rewrites the destination, and a
//! port reached from outside a chain that first decides about the source address:
//!
//! - from outside with policy `Cluster`, the source becomes the node's, so that answers come back this way;
//! - with policy `Local` the source stays, and only this node's endpoints are used;
//! - an endpoint that talks to itself through its service gets the node's address too (hairpin).

use ipnet::Ipv4Net;

use crate::ruleset::{NO_ENDPOINT_PORTS, NO_ENDPOINTS, NODE_PORTS, Ruleset, SERVICE_IPS};
use crate::service::{Endpoint, ServicePort};

/// Longest name of a chain.
const NAME_MAX: usize = 120;
const MARK: &str = "jump mark-for-masquerade";

/// The rules of all service ports. Without `cluster_cidr` nobody counts as inside, and only hairpins are masqueraded.
pub fn render(ports: &[ServicePort], cluster_cidr: Option<Ipv4Net>) -> Ruleset {
    let mut rules = Ruleset::default();
    for port in ports {
        one(port, cluster_cidr, &mut rules);
    }
    rules
}

/// A chain name that is readable and, by its hash, unique.
fn name(kind: &str, port: &ServicePort, more: &str) -> String {
    let full = format!("{}/{}/{}{more}", port.service, port.protocol, port.name);
    let hash = full
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let mut name = format!("{kind}-{:08X}-{full}", hash >> 32);
    name.truncate(NAME_MAX);
    name
}

fn endpoint_chain(port: &ServicePort, e: &Endpoint) -> String {
    name("endpoint", port, &format!("__{}/{}", e.ip, e.port))
}

fn affinity_set(port: &ServicePort, e: &Endpoint, seconds: u32) -> String {
    name("affinity", port, &format!("__{}/{}_{seconds}", e.ip, e.port))
}

fn one(port: &ServicePort, cidr: Option<Ipv4Net>, out: &mut Ruleset) {
    let inside: Vec<&Endpoint> = port.endpoints.iter().filter(|e| !port.internal_local || e.local).collect();
    let outside: Vec<&Endpoint> = port.endpoints.iter().filter(|e| !port.external_local || e.local).collect();
    let proto = &port.protocol;
    let address = |ip| format!("{ip} . {proto} . {}", port.port);
    // Nobody serves anywhere: refuse. Somebody serves, but not here where policy demands it: drop in silence.
    let refuse = if port.endpoints.is_empty() { "goto reject-chain" } else { "drop" };

    for e in &port.endpoints {
        endpoint(port, e, out);
    }
    let service = name("service", port, "");
    if inside.is_empty() {
        for ip in &port.cluster_ips {
            out.element(NO_ENDPOINTS, address(*ip), refuse.to_owned());
        }
    } else {
        let from_outside = cidr.filter(|_| !port.internal_local);
        if let Some(cidr) = from_outside {
            for ip in &port.cluster_ips {
                out.rule(
                    &service,
                    format!("ip daddr {ip} {proto} dport {} ip saddr != {cidr} {MARK}", port.port),
                );
            }
        }
        choose(port, &inside, &service, out);
        for ip in &port.cluster_ips {
            out.element(SERVICE_IPS, address(*ip), format!("goto {service}"));
        }
    }

    let has_outside = port.node_port != 0 || !port.external_ips.is_empty();
    if !has_outside {
        return;
    }
    let node_key = format!("{proto} . {}", port.node_port);
    if outside.is_empty() {
        for ip in &port.external_ips {
            out.element(NO_ENDPOINTS, address(*ip), refuse.to_owned());
        }
        if port.node_port != 0 {
            out.element(NO_ENDPOINT_PORTS, node_key, refuse.to_owned());
        }
        return;
    }
    let external = name("external", port, "");
    if port.external_local {
        // Pods and the node itself may use every endpoint: the policy is about traffic from outside.
        if let Some(cidr) = cidr.filter(|_| !inside.is_empty()) {
            out.rule(&external, format!("ip saddr {cidr} goto {service}"));
        }
        if !inside.is_empty() {
            out.rule(&external, format!("fib saddr type local {MARK}"));
            out.rule(&external, format!("fib saddr type local goto {service}"));
        }
        choose(port, &outside, &external, out);
    } else {
        out.rule(&external, MARK);
        choose(port, &outside, &external, out);
    }
    for ip in &port.external_ips {
        out.element(SERVICE_IPS, address(*ip), format!("goto {external}"));
    }
    if port.node_port != 0 {
        out.element(NODE_PORTS, node_key, format!("goto {external}"));
    }
}

/// Rules that send a connection to one of the endpoints, its former one first.
fn choose(port: &ServicePort, endpoints: &[&Endpoint], chain: &str, out: &mut Ruleset) {
    if let Some(seconds) = port.affinity {
        for e in endpoints {
            let set = affinity_set(port, e, seconds);
            out.rule(chain, format!("ip saddr @{set} goto {}", endpoint_chain(port, e)));
        }
    }
    let verdicts: Vec<_> = endpoints
        .iter()
        .enumerate()
        .map(|(n, e)| format!("{n} : goto {}", endpoint_chain(port, e)))
        .collect();
    out.rule(chain, format!("numgen random mod {} vmap {{ {} }}", endpoints.len(), verdicts.join(", ")));
}

fn endpoint(port: &ServicePort, e: &Endpoint, out: &mut Ruleset) {
    let chain = endpoint_chain(port, e);
    out.rule(&chain, format!("ip saddr {} {MARK}", e.ip));
    if let Some(seconds) = port.affinity {
        let set = affinity_set(port, e, seconds);
        out.rule(&chain, format!("update @{set} {{ ip saddr }}"));
        out.sets.insert(set, format!("type ipv4_addr; flags dynamic,timeout; timeout {seconds}s;"));
    }
    out.rule(&chain, format!("meta l4proto {} dnat to {}:{}", port.protocol, e.ip, e.port));
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use k8s_openapi::api::core::v1::Service;
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use serde_json::json;

    use super::*;
    use crate::service_ports;

    fn service(spec: &serde_json::Value) -> Service {
        let object = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec});
        serde_json::from_value(object).unwrap()
    }

    fn slice(endpoints: &serde_json::Value) -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints}))
        .unwrap()
    }

    fn rules(spec: &serde_json::Value, endpoints: &serde_json::Value) -> Ruleset {
        let ports = service_ports([&service(spec)], [&slice(endpoints)], "n1");
        render(&ports, Some("10.244.0.0/16".parse().unwrap()))
    }

    fn changes(rules: &Ruleset, old: &Ruleset) -> String {
        rules.changes_from(old).replace("ip kube-proxy ", "")
    }

    #[test]
    fn a_service_with_two_endpoints() {
        let rules = rules(
            &json!({"clusterIP": "10.96.0.5", "ports": [{"port": 80, "nodePort": 30080}]}),
            &json!([{"addresses": ["10.244.0.2"], "nodeName": "n1"}, {"addresses": ["10.244.0.3"]},
                   {"addresses": ["10.244.0.4"], "conditions": {"ready": false}}]),
        );
        expect![[r#"
            add chain endpoint-0C1386FC-shop/web/tcp/__10.244.0.2/8080
            add chain endpoint-9CB1E9EC-shop/web/tcp/__10.244.0.3/8080
            add chain external-6EA6EF22-shop/web/tcp/
            add chain service-6EA6EF22-shop/web/tcp/
            add rule endpoint-0C1386FC-shop/web/tcp/__10.244.0.2/8080 ip saddr 10.244.0.2 jump mark-for-masquerade
            add rule endpoint-0C1386FC-shop/web/tcp/__10.244.0.2/8080 meta l4proto tcp dnat to 10.244.0.2:8080
            add rule endpoint-9CB1E9EC-shop/web/tcp/__10.244.0.3/8080 ip saddr 10.244.0.3 jump mark-for-masquerade
            add rule endpoint-9CB1E9EC-shop/web/tcp/__10.244.0.3/8080 meta l4proto tcp dnat to 10.244.0.3:8080
            add rule external-6EA6EF22-shop/web/tcp/ jump mark-for-masquerade
            add rule external-6EA6EF22-shop/web/tcp/ numgen random mod 2 vmap { 0 : goto endpoint-0C1386FC-shop/web/tcp/__10.244.0.2/8080, 1 : goto endpoint-9CB1E9EC-shop/web/tcp/__10.244.0.3/8080 }
            add rule service-6EA6EF22-shop/web/tcp/ ip daddr 10.96.0.5 tcp dport 80 ip saddr != 10.244.0.0/16 jump mark-for-masquerade
            add rule service-6EA6EF22-shop/web/tcp/ numgen random mod 2 vmap { 0 : goto endpoint-0C1386FC-shop/web/tcp/__10.244.0.2/8080, 1 : goto endpoint-9CB1E9EC-shop/web/tcp/__10.244.0.3/8080 }
            add element service-ips { 10.96.0.5 . tcp . 80 : goto service-6EA6EF22-shop/web/tcp/ }
            add element service-nodeports { tcp . 30080 : goto external-6EA6EF22-shop/web/tcp/ }
        "#]]
        .assert_eq(&changes(&rules, &Ruleset::default()));
    }

    #[test]
    fn nobody_serves() {
        let rules =
            rules(&json!({"clusterIP": "10.96.0.5", "ports": [{"port": 80, "nodePort": 30080}]}), &json!([]));
        expect![[r#"
            add element no-endpoint-services { 10.96.0.5 . tcp . 80 : goto reject-chain }
            add element no-endpoint-nodeports { tcp . 30080 : goto reject-chain }
        "#]]
        .assert_eq(&changes(&rules, &Ruleset::default()));
    }

    #[test]
    fn local_policy_and_affinity() {
        let rules = rules(
            &json!({"clusterIP": "10.96.0.5", "ports": [{"port": 80, "nodePort": 30080}],
                "externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP"}),
            &json!([{"addresses": ["10.244.0.2"], "nodeName": "n1"}, {"addresses": ["10.244.1.3"], "nodeName": "n2"}]),
        );
        expect![[r#"
            add set affinity-191500B5-shop/web/tcp/__10.244.0.2/8080_10800 { type ipv4_addr; flags dynamic,timeout; timeout 10800s; }
            add set affinity-B7B6A6DE-shop/web/tcp/__10.244.1.3/8080_10800 { type ipv4_addr; flags dynamic,timeout; timeout 10800s; }
            add chain endpoint-0C1386FC-shop/web/tcp/__10.244.0.2/8080
            add chain endpoint-A69209E1-shop/web/tcp/__10.244.1.3/8080
            add chain external-6EA6EF22-shop/web/tcp/
            add chain service-6EA6EF22-shop/web/tcp/
            add rule endpoint-0C1386FC-shop/web/tcp/__10.244.0.2/8080 ip saddr 10.244.0.2 jump mark-for-masquerade
            add rule endpoint-0C1386FC-shop/web/tcp/__10.244.0.2/8080 update @affinity-191500B5-shop/web/tcp/__10.244.0.2/8080_10800 { ip saddr }
            add rule endpoint-0C1386FC-shop/web/tcp/__10.244.0.2/8080 meta l4proto tcp dnat to 10.244.0.2:8080
            add rule endpoint-A69209E1-shop/web/tcp/__10.244.1.3/8080 ip saddr 10.244.1.3 jump mark-for-masquerade
            add rule endpoint-A69209E1-shop/web/tcp/__10.244.1.3/8080 update @affinity-B7B6A6DE-shop/web/tcp/__10.244.1.3/8080_10800 { ip saddr }
            add rule endpoint-A69209E1-shop/web/tcp/__10.244.1.3/8080 meta l4proto tcp dnat to 10.244.1.3:8080
            add rule external-6EA6EF22-shop/web/tcp/ ip saddr 10.244.0.0/16 goto service-6EA6EF22-shop/web/tcp/
            add rule external-6EA6EF22-shop/web/tcp/ fib saddr type local jump mark-for-masquerade
            add rule external-6EA6EF22-shop/web/tcp/ fib saddr type local goto service-6EA6EF22-shop/web/tcp/
            add rule external-6EA6EF22-shop/web/tcp/ ip saddr @affinity-191500B5-shop/web/tcp/__10.244.0.2/8080_10800 goto endpoint-0C1386FC-shop/web/tcp/__10.244.0.2/8080
            add rule external-6EA6EF22-shop/web/tcp/ numgen random mod 1 vmap { 0 : goto endpoint-0C1386FC-shop/web/tcp/__10.244.0.2/8080 }
            add rule service-6EA6EF22-shop/web/tcp/ ip daddr 10.96.0.5 tcp dport 80 ip saddr != 10.244.0.0/16 jump mark-for-masquerade
            add rule service-6EA6EF22-shop/web/tcp/ ip saddr @affinity-191500B5-shop/web/tcp/__10.244.0.2/8080_10800 goto endpoint-0C1386FC-shop/web/tcp/__10.244.0.2/8080
            add rule service-6EA6EF22-shop/web/tcp/ ip saddr @affinity-B7B6A6DE-shop/web/tcp/__10.244.1.3/8080_10800 goto endpoint-A69209E1-shop/web/tcp/__10.244.1.3/8080
            add rule service-6EA6EF22-shop/web/tcp/ numgen random mod 2 vmap { 0 : goto endpoint-0C1386FC-shop/web/tcp/__10.244.0.2/8080, 1 : goto endpoint-A69209E1-shop/web/tcp/__10.244.1.3/8080 }
            add element service-ips { 10.96.0.5 . tcp . 80 : goto service-6EA6EF22-shop/web/tcp/ }
            add element service-nodeports { tcp . 30080 : goto external-6EA6EF22-shop/web/tcp/ }
        "#]].assert_eq(&changes(&rules, &Ruleset::default()));
    }

    #[test]
    fn a_change_touches_only_what_differs() {
        let spec = || json!({"clusterIP": "10.96.0.5", "ports": [{"port": 80}]});
        let two = json!([{"addresses": ["10.244.0.2"]}, {"addresses": ["10.244.0.3"]}]);
        let before = rules(&spec(), &two);
        let after = rules(&spec(), &json!([{"addresses": ["10.244.0.3"]}]));
        expect![[r#"
            add chain service-6EA6EF22-shop/web/tcp/
            flush chain service-6EA6EF22-shop/web/tcp/
            add rule service-6EA6EF22-shop/web/tcp/ ip daddr 10.96.0.5 tcp dport 80 ip saddr != 10.244.0.0/16 jump mark-for-masquerade
            add rule service-6EA6EF22-shop/web/tcp/ numgen random mod 1 vmap { 0 : goto endpoint-9CB1E9EC-shop/web/tcp/__10.244.0.3/8080 }
            flush chain endpoint-0C1386FC-shop/web/tcp/__10.244.0.2/8080
            delete chain endpoint-0C1386FC-shop/web/tcp/__10.244.0.2/8080
        "#]].assert_eq(&changes(&after, &before));
        assert_eq!(after.changes_from(&after), "");
    }
}
