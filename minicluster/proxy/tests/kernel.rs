//! The rules in a real kernel: a network namespace as the node, two more as pods on its bridge, no route out.
//! Needs root, `ip`, `nft`, `nsenter` and `busybox`.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use minicluster_proxy::{Ruleset, render, service_ports};
use serde_json::json;

/// The namespaces of one test; they go away with it.
struct Net {
    node: String,
    servers: Vec<std::process::Child>,
}

fn sh(script: &str) -> Output {
    Command::new("sh").args(["-ec", script]).output().unwrap()
}

fn must(script: &str) {
    let out = sh(script);
    assert!(out.status.success(), "{script}\n{}", String::from_utf8_lossy(&out.stderr));
}

impl Net {
    fn new(name: &str) -> Self {
        let node = format!("wp{}{name}", std::process::id() % 10_000);
        must(&format!(
            "ip netns add {node}; ip -n {node} link set lo up
             ip -n {node} link add br0 type bridge; ip -n {node} addr add 10.244.0.1/24 dev br0
             ip -n {node} link set br0 up
             ip -n {node} link add up0 type bridge; ip -n {node} addr add 192.0.2.10/24 dev up0
             ip -n {node} link set up0 up; ip -n {node} route add default dev up0
             nsenter --net=/run/netns/{node} sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'"
        ));
        let mut net = Self { node, servers: Vec::new() };
        for n in [2, 3] {
            net.pod(n);
        }
        net
    }

    fn pod(&mut self, n: u8) {
        let (node, pod) = (&self.node, format!("{}p{n}", self.node));
        must(&format!(
            "ip netns add {pod}; ip -n {pod} link set lo up
             ip -n {node} link add v{n} type veth peer name eth0 netns {pod}
             ip -n {node} link set v{n} master br0 up
             ip -n {node} link set v{n} type bridge_slave hairpin on
             ip -n {pod} addr add 10.244.0.{n}/24 dev eth0; ip -n {pod} link set eth0 up
             ip -n {pod} route add default via 10.244.0.1"
        ));
        // One line to whoever connects: which pod this is.
        let server = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{pod}"))
            .args(["busybox", "nc", "-ll", "-p", "8080", "-e", "echo", &format!("pod{n}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.servers.push(server);
    }

    fn apply(&self, transaction: &str) {
        let mut child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.node))
            .args(["nft", "-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(transaction.as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{}\n{transaction}", String::from_utf8_lossy(&out.stderr));
    }

    /// Who answers at an address, asked from the node or from a pod.
    fn ask(&self, from: &str, address: &str, port: u16) -> String {
        let at = if from == "node" { self.node.clone() } else { format!("{}{from}", self.node) };
        let out = sh(&format!(
            "nsenter --net=/run/netns/{at} busybox timeout 3 busybox nc -w 2 {address} {port} </dev/null 2>&1 || echo refused"
        ));
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
        let node = &self.node;
        for n in [2, 3] {
            sh(&format!("ip netns del {node}p{n}"));
        }
        sh(&format!("ip netns del {node}"));
    }
}

fn rules(spec: &serde_json::Value, pods: &[u8]) -> Ruleset {
    let service: Service =
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec}))
            .unwrap();
    let endpoints: Vec<_> =
        pods.iter().map(|n| json!({"addresses": [format!("10.244.0.{n}")], "nodeName": "n1"})).collect();
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints}))
    .unwrap();
    render(&service_ports([&service], [&slice], "n1"), Some("10.244.0.0/16".parse().unwrap()))
}

#[test]
fn services_are_reached_from_everywhere_and_follow_their_endpoints() {
    let net = Net::new("a");
    let spec = |affinity: &str| json!({"clusterIP": "10.96.0.5", "sessionAffinity": affinity, "ports": [{"port": 80, "nodePort": 30080}]});
    let both = rules(&spec("None"), &[2, 3]);
    net.apply(&both.whole());
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..24 {
        seen.insert(net.ask("node", "10.96.0.5", 80));
    }
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), ["pod2", "pod3"]);
    assert!(net.ask("p2", "10.96.0.5", 80).starts_with("pod"));
    assert!(net.ask("node", "192.0.2.10", 30080).starts_with("pod"));
    assert!(net.ask("p3", "192.0.2.10", 30080).starts_with("pod"));

    // One endpoint left, applied as a difference: everybody lands there, itself included (hairpin).
    let one = rules(&spec("None"), &[3]);
    net.apply(&one.changes_from(&both));
    for from in ["node", "p2", "p3"] {
        assert_eq!(net.ask(from, "10.96.0.5", 80), "pod3", "from {from}");
    }

    // Affinity keeps a client where it was.
    let sticky = rules(&spec("ClientIP"), &[2, 3]);
    net.apply(&sticky.changes_from(&one));
    let first = net.ask("p2", "10.96.0.5", 80);
    for _ in 0..8 {
        assert_eq!(net.ask("p2", "10.96.0.5", 80), first);
    }

    // Nobody serves: refused at once.
    let none = rules(&spec("ClientIP"), &[]);
    net.apply(&none.changes_from(&sticky));
    assert!(net.ask("p2", "10.96.0.5", 80).contains("refused"));
    assert!(net.ask("node", "192.0.2.10", 30080).contains("refused"));
}

#[test]
fn a_thousand_services_are_one_lookup() {
    let net = Net::new("b");
    let service = |n: u16| -> Service {
        let ip = format!("10.96.{}.{}", n / 250, n % 250 + 1);
        let name = format!("s{n}");
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "default"},
            "spec": {"clusterIP": ip, "ports": [{"port": 80}]}}))
        .unwrap()
    };
    let slice = |n: u16| -> EndpointSlice {
        let name = format!("s{n}");
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["10.244.0.2"]}]}))
        .unwrap()
    };
    let services: Vec<_> = (0..1000).map(service).collect();
    let slices: Vec<_> = (0..1000).map(slice).collect();
    let rules = render(&service_ports(&services, &slices, "n1"), None);
    net.apply(&rules.whole());
    assert_eq!(net.ask("p3", "10.96.3.250", 80), "pod2");
    // The chain that every packet passes does not grow.
    let out = sh(&format!("nsenter --net=/run/netns/{} nft list chain ip kube-proxy services", net.node));
    assert_eq!(String::from_utf8_lossy(&out.stdout).lines().filter(|l| l.contains("vmap")).count(), 2);
}
