//! The files a pod resolves names with: `/etc/hosts`, written by the kubelet, and the resolver configuration by
//! `dnsPolicy`. Pure text.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::Pod;

use super::{host_network, sandbox};
use crate::runtime::Dns;

/// Name servers a resolver looks at.
const MAX_SERVERS: usize = 3;
/// Search domains Kubernetes allows.
const MAX_SEARCHES: usize = 32;
/// Length of all search domains together.
const MAX_SEARCH_CHARS: usize = 2048;

const HEADER: &str = "# Kubernetes-managed hosts file.\n";
const HOST_HEADER: &str = "# Kubernetes-managed hosts file (host network).\n";
const LOCAL: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";

/// The hosts file of a pod with these addresses. Pods on the node's network get the node's file.
pub fn hosts_file(pod: &Pod, ips: &[String], domain: &str, node_file: &str) -> String {
    let mut text =
        if host_network(pod) { format!("{HOST_HEADER}{node_file}") } else { format!("{HEADER}{LOCAL}") };
    if !host_network(pod) {
        let host = sandbox::hostname(pod, domain);
        let short = host.split('.').next().unwrap_or(&host).to_owned();
        for ip in ips {
            let _ = match sandbox::fqdn(pod, &short, domain) {
                Some(full) => writeln!(text, "{ip}\t{full}\t{short}"),
                None => writeln!(text, "{ip}\t{host}"),
            };
        }
    }
    let aliases = pod.spec.as_ref().and_then(|s| s.host_aliases.as_ref());
    if let Some(aliases) = aliases.filter(|a| !a.is_empty()) {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t");
            let _ = writeln!(text, "{}\t{names}", alias.ip);
        }
    }
    text
}

/// The cluster's side of name resolution.
#[derive(Debug, Clone, Default)]
pub struct ClusterDns {
    /// Addresses of the cluster DNS.
    pub servers: Vec<String>,
    /// The cluster's DNS domain.
    pub domain: String,
    /// The node's own resolver configuration.
    pub node: Dns,
}

/// Reads a `resolv.conf`.
pub fn parse_resolv_conf(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
            Some("search") => dns.searches = words.map(|w| w.trim_end_matches('.').to_owned()).collect(),
            Some("options") => dns.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    dns
}

/// The resolver configuration of a pod.
pub fn resolver(pod: &Pod, cluster: &ClusterDns) -> Dns {
    let spec = pod.spec.as_ref();
    let policy = spec.and_then(|s| s.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let use_cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !host_network(pod),
        _ => false,
    };
    let mut dns = match policy {
        "None" => Dns::default(),
        _ if use_cluster && !cluster.servers.is_empty() => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
            let domain = &cluster.domain;
            let mut searches =
                vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            searches.extend(cluster.node.searches.iter().cloned());
            Dns { servers: cluster.servers.clone(), searches, options: vec!["ndots:5".to_owned()] }
        }
        _ => cluster.node.clone(),
    };
    if let Some(own) = spec.and_then(|s| s.dns_config.as_ref()) {
        dns.servers.extend(own.nameservers.iter().flatten().cloned());
        dns.searches.extend(own.searches.iter().flatten().cloned());
        merge_options(
            &mut dns.options,
            own.options.iter().flatten().filter_map(|o| {
                let name = o.name.clone()?;
                Some(match o.value.as_deref() {
                    Some(value) if !value.is_empty() => format!("{name}:{value}"),
                    _ => name,
                })
            }),
        );
    }
    dedupe(&mut dns.servers);
    dedupe(&mut dns.searches);
    dns.servers.truncate(MAX_SERVERS);
    dns.searches.truncate(MAX_SEARCHES);
    while dns.searches.iter().map(|s| s.len() + 1).sum::<usize>() > MAX_SEARCH_CHARS + 1 {
        dns.searches.pop();
    }
    dns
}

/// An option of the pod replaces the one of the same name.
fn merge_options(options: &mut Vec<String>, own: impl Iterator<Item = String>) {
    let name = |o: &str| o.split(':').next().unwrap_or_default().to_owned();
    for option in own {
        match options.iter_mut().find(|o| name(o) == name(&option)) {
            Some(existing) => *existing = option,
            None => options.push(option),
        }
    }
}

fn dedupe(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|s| seen.insert(s.clone()));
}

/// A `resolv.conf` of this configuration.
pub fn resolv_conf(dns: &Dns) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        let _ = writeln!(text, "search {}", dns.searches.join(" "));
    }
    for server in &dns.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !dns.options.is_empty() {
        let _ = writeln!(text, "options {}", dns.options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn pod(spec: &str) -> Pod {
        serde_json::from_str(&format!(
            r#"{{"metadata":{{"name":"web-0","namespace":"shop"}},"spec":{spec}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn hosts_name_the_pod_its_subdomain_and_aliases() {
        let pod = pod(r#"{"containers":[],"hostname":"web","subdomain":"peers",
                "hostAliases":[{"ip":"10.1.2.3","hostnames":["foo","bar"]}]}"#);
        let text = hosts_file(&pod, &["10.244.0.5".into()], "cluster.local", "");
        expect![[r#"
            # Kubernetes-managed hosts file.
            127.0.0.1	localhost
            ::1	localhost ip6-localhost ip6-loopback
            fe00::0	ip6-localnet
            fe00::0	ip6-mcastprefix
            fe00::1	ip6-allnodes
            fe00::2	ip6-allrouters
            10.244.0.5	web.peers.shop.svc.cluster.local	web

            # Entries added by HostAliases.
            10.1.2.3	foo	bar
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn resolver_follows_the_policy() {
        let cluster = ClusterDns {
            servers: vec!["10.96.0.10".into()],
            domain: "cluster.local".into(),
            node: parse_resolv_conf("nameserver 192.0.2.1 # home\nsearch lan.\noptions edns0\n"),
        };
        let shown = [
            r#"{"containers":[]}"#,
            r#"{"containers":[],"dnsPolicy":"Default"}"#,
            r#"{"containers":[],"hostNetwork":true}"#,
            r#"{"containers":[],"dnsPolicy":"None","dnsConfig":{"nameservers":["1.1.1.1"],"searches":["my.dns"],"options":[{"name":"ndots","value":"2"},{"name":"edns0"}]}}"#,
            r#"{"containers":[],"dnsConfig":{"options":[{"name":"ndots","value":"2"}]}}"#,
        ]
        .map(|spec| resolv_conf(&resolver(&pod(spec), &cluster)))
        .join("--\n");
        expect![[r#"
            search shop.svc.cluster.local svc.cluster.local cluster.local lan
            nameserver 10.96.0.10
            options ndots:5
            --
            search lan
            nameserver 192.0.2.1
            options edns0
            --
            search lan
            nameserver 192.0.2.1
            options edns0
            --
            search my.dns
            nameserver 1.1.1.1
            options ndots:2 edns0
            --
            search shop.svc.cluster.local svc.cluster.local cluster.local lan
            nameserver 10.96.0.10
            options ndots:2
        "#]]
        .assert_eq(&shown);
    }
}
