//! One decision: the filters, the scores, the choice. Pure.

use std::{cell::OnceCell, collections::BTreeMap};

use windlass::random::Source;

use crate::{
    plugins::{self, Refusal, TABLE, inter_pod_affinity::Places, topology_spread::Counts},
    pod::PodInfo,
    snapshot::{Index, Snapshot},
};

/// Clusters up to this size are looked at whole.
const NODES_ALL: usize = 100;

/// One pod against one snapshot, with what plugins work out once for all nodes.
pub struct Cycle<'a> {
    /// The pod.
    pub pod: &'a PodInfo,
    /// The nodes.
    pub snapshot: &'a Snapshot,
    places: OnceCell<Places>,
    spread: OnceCell<Counts>,
}

impl<'a> Cycle<'a> {
    /// Begins a decision.
    pub fn new(pod: &'a PodInfo, snapshot: &'a Snapshot) -> Self {
        Self { pod, snapshot, places: OnceCell::new(), spread: OnceCell::new() }
    }

    pub(crate) fn places(&self) -> &Places {
        self.places.get_or_init(|| Places::new(self.pod, self.snapshot))
    }

    pub(crate) fn spread(&self) -> &Counts {
        self.spread.get_or_init(|| Counts::new(self.pod, self.snapshot))
    }

    /// The first plugin that refuses a node for this pod.
    pub fn refusal(&self, at: Index) -> Option<Refusal> {
        TABLE.iter().filter_map(|p| p.filter).find_map(|filter| filter(self, at))
    }
}

/// Where a pod goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// To this node.
    Node(Index),
    /// Nowhere, for these reasons.
    Unschedulable(Refusals),
}

/// Why each node refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// How many nodes there are.
    pub nodes: usize,
    /// The refusals by node.
    pub by_node: Vec<(Index, Refusal)>,
}

impl Refusals {
    /// The plugins that refused, each once.
    pub fn plugins(&self) -> Vec<&'static str> {
        let mut names: Vec<&'static str> = self.by_node.iter().map(|(_, r)| r.plugin).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Upstream's sentence: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s).`
    pub fn message(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for reason in self.by_node.iter().flat_map(|(_, r)| r.reasons.iter()) {
            *counts.entry(reason).or_default() += 1;
        }
        let mut texts: Vec<String> = counts.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        texts.sort();
        if texts.is_empty() {
            return format!("0/{} nodes are available", self.nodes);
        }
        format!("0/{} nodes are available: {}.", self.nodes, texts.join(", "))
    }
}

/// Decides where a pod goes. `start` is where to begin looking, so that large clusters are used evenly.
pub fn decide(pod: &PodInfo, snapshot: &Snapshot, start: &mut usize, random: &Source) -> Decision {
    let cycle = Cycle::new(pod, snapshot);
    let total = snapshot.len();
    let wanted = enough(total);
    let mut feasible = Vec::new();
    let mut refusals = Refusals { nodes: total, by_node: Vec::new() };
    let mut looked_at = 0;
    while looked_at < total && feasible.len() < wanted {
        let at = (*start + looked_at) % total;
        match cycle.refusal(at) {
            None => feasible.push(at),
            Some(refusal) => refusals.by_node.push((at, refusal)),
        }
        looked_at += 1;
    }
    if total > 0 {
        *start = (*start + looked_at) % total;
    }
    match feasible.as_slice() {
        [] => Decision::Unschedulable(refusals),
        [only] => Decision::Node(*only),
        many => Decision::Node(best(&cycle, many, random)),
    }
}

/// How many feasible nodes are enough to choose among: the larger the cluster, the smaller the share.
fn enough(total: usize) -> usize {
    if total < NODES_ALL {
        return total;
    }
    let percent = 50_usize.saturating_sub(total / 125).max(5);
    (total * percent / 100).max(NODES_ALL)
}

fn best(cycle: &Cycle<'_>, feasible: &[Index], random: &Source) -> Index {
    let mut totals = vec![0_i64; feasible.len()];
    for plugin in TABLE {
        let Some((score, how)) = plugin.score else { continue };
        let mut scores: Vec<i64> = feasible.iter().map(|at| score(cycle, *at)).collect();
        plugins::normalize(how, &mut scores);
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += score * plugin.weight;
        }
    }
    let max = totals.iter().max().copied().unwrap_or(0);
    let best: Vec<Index> =
        feasible.iter().zip(&totals).filter(|(_, t)| **t == max).map(|(at, _)| *at).collect();
    best[random.below(best.len() as u64) as usize]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use expect_test::{Expect, expect};
    use k8s_openapi::api::core::v1::{Node, Pod};
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, cpu: &str, extra: &Value) -> Arc<Node> {
        let mut node = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "10"}},
        });
        merge(&mut node, extra);
        Arc::new(serde_json::from_value(node).unwrap())
    }

    fn pod(name: &str, extra: &Value) -> Arc<PodInfo> {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "d", "uid": name, "labels": {"app": "a"}},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "500m"}}}]},
        });
        merge(&mut pod, extra);
        PodInfo::new(Arc::new(serde_json::from_value::<Pod>(pod).unwrap()))
    }

    fn merge(into: &mut Value, from: &Value) {
        match (into, from) {
            (Value::Object(a), Value::Object(b)) => {
                for (k, v) in b {
                    merge(a.entry(k.clone()).or_insert(Value::Null), v);
                }
            }
            (a, b) => *a = b.clone(),
        }
    }

    fn check(nodes: &[Arc<Node>], running: &[(Arc<PodInfo>, &str)], pod: &PodInfo, expected: &Expect) {
        let mut snapshot = Snapshot::default();
        for node in nodes {
            snapshot.set_node(Arc::clone(node));
        }
        for (pod, node) in running {
            snapshot.set_pod(Arc::clone(pod), node);
        }
        let text = match decide(pod, &snapshot, &mut 0, &Source::seeded(1)) {
            Decision::Node(at) => snapshot.names[at].to_string(),
            Decision::Unschedulable(refusals) => refusals.message(),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn the_emptier_node_wins() {
        let nodes = [node("a", "4", &json!({})), node("b", "4", &json!({}))];
        let running = [(pod("x", &json!({})), "a")];
        check(&nodes, &running, &pod("p", &json!({})), &expect![["b"]]);
    }

    #[test]
    fn every_reason_is_counted() {
        let nodes = [
            node("a", "100m", &json!({})),
            node("b", "4", &json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}})),
            node("c", "4", &json!({"spec": {"unschedulable": true}})),
            node("d", "4", &json!({"metadata": {"labels": {"disk": "hdd"}}})),
        ];
        let wants = json!({"spec": {"nodeSelector": {"disk": "ssd"}}});
        check(
            &nodes,
            &[],
            &pod("p", &wants),
            &expect![[
                "0/4 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable, 2 node(s) didn't match Pod's node affinity/selector."
            ]],
        );
        check(
            &nodes[..1],
            &[],
            &pod("p", &json!({})),
            &expect![["0/1 nodes are available: 1 Insufficient cpu."]],
        );
        check(&[], &[], &pod("p", &json!({})), &expect![["0/0 nodes are available"]]);
    }

    #[test]
    fn tolerations_affinity_and_ports_are_honoured() {
        let tainted =
            node("a", "4", &json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoExecute"}]}}));
        let tolerant = json!({"spec": {"tolerations": [{"key": "k", "operator": "Exists"}]}});
        check(&[Arc::clone(&tainted)], &[], &pod("p", &tolerant), &expect![["a"]]);
        let fields = json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["c"]}]}]}}}}});
        let nodes = [node("b", "4", &json!({})), node("c", "4", &json!({}))];
        check(&nodes, &[], &pod("p", &fields), &expect![["c"]]);
        let port = |ip: &str| json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": ip}]}]}});
        let running = [(pod("x", &port("10.0.0.1")), "b")];
        check(&nodes[..1], &running, &pod("p", &port("10.0.0.2")), &expect![["b"]]);
        check(
            &nodes[..1],
            &running,
            &pod("p", &port("")),
            &expect![[
                "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."
            ]],
        );
    }

    #[test]
    fn pods_keep_apart_together_and_even() {
        let nodes = [node("a", "4", &json!({})), node("b", "4", &json!({}))];
        let rule = |kind: &str| {
            json!({"spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": "a"}}, "topologyKey": "kubernetes.io/hostname"}]}}}})
        };
        let (apart, together) = (rule("podAntiAffinity"), rule("podAffinity"));
        check(&nodes, &[(pod("x", &json!({})), "a")], &pod("p", &apart), &expect![["b"]]);
        check(&nodes, &[(pod("x", &apart), "a")], &pod("p", &json!({})), &expect![["b"]]);
        check(
            &nodes[..1],
            &[(pod("x", &apart), "a")],
            &pod("p", &json!({})),
            &expect![[
                "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."
            ]],
        );
        check(
            &nodes,
            &[(pod("x", &json!({})), "a"), (pod("y", &json!({})), "a")],
            &pod("p", &together),
            &expect![["a"]],
        );
        let other = json!({"metadata": {"labels": {"app": "b"}}});
        check(&nodes[..1], &[(pod("x", &other), "a")], &pod("p", &together), &expect![["a"]]);
        let even = json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "a"}}}]}});
        check(&nodes, &[(pod("x", &json!({})), "b")], &pod("p", &even), &expect![["a"]]);
    }
}
