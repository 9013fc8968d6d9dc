//! The table as a value, its text, and the difference between two of them as one transaction.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Name of the table; kube-proxy's.
pub const TABLE: &str = "ip kube-proxy";

/// What stands in the table beyond its frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Rules by chain.
    pub chains: BTreeMap<String, Vec<String>>,
    /// Verdicts by map and key.
    pub maps: BTreeMap<&'static str, BTreeMap<String, String>>,
    /// Declarations by set.
    pub sets: BTreeMap<String, String>,
}

/// Services by address, protocol and port.
pub(crate) const SERVICE_IPS: &str = "service-ips";
/// Services by protocol and port on the node.
pub(crate) const NODE_PORTS: &str = "service-nodeports";
/// Services that nobody serves, by address.
pub(crate) const NO_ENDPOINTS: &str = "no-endpoint-services";
/// Services that nobody serves, by port on the node.
pub(crate) const NO_ENDPOINT_PORTS: &str = "no-endpoint-nodeports";

const MAPS: [(&str, &str); 4] = [
    (SERVICE_IPS, "ipv4_addr . inet_proto . inet_service : verdict"),
    (NODE_PORTS, "inet_proto . inet_service : verdict"),
    (NO_ENDPOINTS, "ipv4_addr . inet_proto . inet_service : verdict"),
    (NO_ENDPOINT_PORTS, "inet_proto . inet_service : verdict"),
];

/// What never changes: hooks, lookups, masquerading. Connections that are marked leave with the node's address.
const FRAME: &[(&str, &str, &[&str])] = &[
    ("mark-for-masquerade", "", &["meta mark set meta mark or 0x4000"]),
    ("reject-chain", "", &["reject"]),
    (
        "services",
        "",
        &[
            "ip daddr . meta l4proto . th dport vmap @service-ips",
            "fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @service-nodeports",
        ],
    ),
    (
        "service-endpoints-check",
        "",
        &[
            "ip daddr . meta l4proto . th dport vmap @no-endpoint-services",
            "fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @no-endpoint-nodeports",
        ],
    ),
    ("nat-prerouting", "type nat hook prerouting priority dstnat;", &["jump services"]),
    ("nat-output", "type nat hook output priority -100;", &["jump services"]),
    (
        "nat-postrouting",
        "type nat hook postrouting priority srcnat;",
        &["meta mark & 0x4000 == 0 return", "meta mark set meta mark xor 0x4000", "masquerade fully-random"],
    ),
    ("filter-input", "type filter hook input priority -110;", &["ct state new jump service-endpoints-check"]),
    (
        "filter-forward",
        "type filter hook forward priority -110;",
        &["ct state new jump service-endpoints-check"],
    ),
    (
        "filter-output",
        "type filter hook output priority -110;",
        &["ct state new jump service-endpoints-check"],
    ),
];

impl Ruleset {
    /// Adds a rule to a chain, which is made when missing.
    pub(crate) fn rule(&mut self, chain: &str, rule: impl Into<String>) {
        self.chains.entry(chain.to_owned()).or_default().push(rule.into());
    }

    /// Adds an element to a map; the first of two services that claim the same address keeps it.
    pub(crate) fn element(&mut self, map: &'static str, key: String, verdict: String) {
        self.maps.entry(map).or_default().entry(key).or_insert(verdict);
    }

    /// The transaction that replaces whatever is there by this.
    pub fn whole(&self) -> String {
        let mut text = format!("add table {TABLE}\ndelete table {TABLE}\nadd table {TABLE}\n");
        for (name, kind) in MAPS {
            let _ = writeln!(text, "add map {TABLE} {name} {{ type {kind}; }}");
        }
        for (name, hook, _) in FRAME {
            let hook = if hook.is_empty() { String::new() } else { format!(" {{ {hook} }}") };
            let _ = writeln!(text, "add chain {TABLE} {name}{hook}");
        }
        for (name, _, rules) in FRAME {
            for rule in *rules {
                let _ = writeln!(text, "add rule {TABLE} {name} {rule}");
            }
        }
        text.push_str(&self.changes_from(&Self::default()));
        text
    }

    /// The transaction that turns `old` into this; empty when they agree.
    pub fn changes_from(&self, old: &Self) -> String {
        let mut text = String::new();
        for (name, declaration) in &self.sets {
            match old.sets.get(name) {
                Some(same) if same == declaration => {}
                // A set in use cannot be declared anew: its users are emptied first, below, so it gets a new name.
                _ => {
                    let _ = writeln!(text, "add set {TABLE} {name} {{ {declaration} }}");
                }
            }
        }
        let changed = || self.chains.iter().filter(|(name, rules)| old.chains.get(*name) != Some(*rules));
        for (name, _) in changed() {
            let _ = writeln!(text, "add chain {TABLE} {name}");
            if old.chains.contains_key(name) {
                let _ = writeln!(text, "flush chain {TABLE} {name}");
            }
        }
        for (name, rules) in changed() {
            for rule in rules {
                let _ = writeln!(text, "add rule {TABLE} {name} {rule}");
            }
        }
        self.changed_elements(old, &mut text);
        let gone: Vec<_> = old.chains.keys().filter(|name| !self.chains.contains_key(*name)).collect();
        // Chains refer to each other: all are emptied before the first is deleted.
        for name in &gone {
            let _ = writeln!(text, "flush chain {TABLE} {name}");
        }
        for name in &gone {
            let _ = writeln!(text, "delete chain {TABLE} {name}");
        }
        for name in old.sets.keys().filter(|name| !self.sets.contains_key(*name)) {
            let _ = writeln!(text, "delete set {TABLE} {name}");
        }
        text
    }

    fn changed_elements(&self, old: &Self, text: &mut String) {
        let none = BTreeMap::new();
        for (map, _) in MAPS {
            let (before, after) = (old.maps.get(map).unwrap_or(&none), self.maps.get(map).unwrap_or(&none));
            for (key, verdict) in before.iter().filter(|(k, v)| after.get(*k) != Some(*v)) {
                let _ = writeln!(text, "delete element {TABLE} {map} {{ {key} : {verdict} }}");
            }
            for (key, verdict) in after.iter().filter(|(k, v)| before.get(*k) != Some(*v)) {
                let _ = writeln!(text, "add element {TABLE} {map} {{ {key} : {verdict} }}");
            }
        }
    }
}
