//! One decision: the filters, the scores, the choice. Pure.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    mem,
};

use tokio::time::Instant;
use windlass::random::Source;

use crate::{
    metrics::{Outcome, Timings},
    plugin::{Point, PreFilter, State},
    plugins::{self, Refusal, SCORE_MAX, inter_pod_affinity::Places, topology_spread::Counts},
    pod::PodInfo,
    profile::{Part, Profile},
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
    profile: &'a Profile,
    places: OnceCell<Places>,
    spread: OnceCell<Counts>,
    state: State,
    /// Plugins whose filters have nothing to say about this pod.
    skipped: Vec<&'static str>,
    /// Plugins that leave only these nodes.
    only: Vec<(&'static str, BTreeSet<Index>)>,
}

impl<'a> Cycle<'a> {
    /// Begins a decision with the built-in plugins.
    pub fn new(pod: &'a PodInfo, snapshot: &'a Snapshot) -> Self {
        Self::bare(pod, snapshot, Profile::standard())
    }

    fn bare(pod: &'a PodInfo, snapshot: &'a Snapshot, profile: &'a Profile) -> Self {
        Self {
            pod,
            snapshot,
            profile,
            places: OnceCell::new(),
            spread: OnceCell::new(),
            state: State::default(),
            skipped: Vec::new(),
            only: Vec::new(),
        }
    }

    /// Begins a decision with the plugins of a profile: asks those that look at all nodes first.
    ///
    /// # Errors
    /// When one of them says that no node takes the pod.
    pub fn begin(pod: &'a PodInfo, snapshot: &'a Snapshot, profile: &'a Profile) -> Result<Self, Refusal> {
        let mut cycle = Self::bare(pod, snapshot, profile);
        cycle.pre_filter().map(|()| cycle)
    }

    /// As [`Cycle::begin`], with as much as was found out until somebody refused.
    pub(crate) fn begun(pod: &'a PodInfo, snapshot: &'a Snapshot, profile: &'a Profile) -> Self {
        let mut cycle = Self::bare(pod, snapshot, profile);
        // Who refused is known to who asks for this.
        let _ = cycle.pre_filter();
        cycle
    }

    fn pre_filter(&mut self) -> Result<(), Refusal> {
        let profile = self.profile;
        let cycle = self;
        let mut state = State::default();
        for plugin in profile.own(Point::PreFilter) {
            match plugin.pre_filter(cycle, &mut state) {
                Ok(PreFilter::All) => {}
                Ok(PreFilter::Skip) => cycle.skipped.push(plugin.name()),
                Ok(PreFilter::Only(nodes)) => cycle.only.push((plugin.name(), nodes.into_iter().collect())),
                Err(reject) => {
                    cycle.state = state;
                    return Err(Refusal::of(plugin.name(), reject));
                }
            }
        }
        cycle.state = state;
        Ok(())
    }

    /// What a plugin has kept in this decision.
    pub fn state<T: 'static>(&self) -> Option<&T> {
        self.state.get()
    }

    pub(crate) fn places(&self) -> &Places {
        self.places.get_or_init(|| Places::new(self.pod, self.snapshot))
    }

    pub(crate) fn spread(&self) -> &Counts {
        self.spread.get_or_init(|| Counts::new(self.pod, self.snapshot))
    }

    /// The first plugin that refuses a node for this pod.
    pub fn refusal(&self, at: Index) -> Option<Refusal> {
        if let Some((plugin, _)) = self.only.iter().find(|(_, nodes)| !nodes.contains(&at)) {
            let reason = format!("node(s) didn't satisfy plugin(s) [{plugin}]");
            return Some(Refusal { plugin, reasons: vec![reason.into()], final_: true });
        }
        self.profile.at(Point::Filter).iter().find_map(|enabled| match &enabled.part {
            Part::Builtin(builtin) => builtin.filter.and_then(|filter| filter(self, at)),
            Part::Own(plugin) if self.skipped.contains(&plugin.name()) => None,
            Part::Own(plugin) => plugin.filter(self, at).err().map(|no| Refusal::of(plugin.name(), no)),
        })
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
    /// The refusal of all of them at once, before any was looked at.
    pub all: Option<Refusal>,
}

impl Refusals {
    /// One node that was chosen and refused after all.
    pub fn after_all(at: Index, refusal: Refusal) -> Self {
        Self { nodes: 1, by_node: vec![(at, refusal)], all: None }
    }

    /// The plugins that refused, each once.
    pub fn plugins(&self) -> Vec<&'static str> {
        let by_node = self.by_node.iter().map(|(_, refusal)| refusal);
        let mut names: Vec<&'static str> = by_node.chain(&self.all).map(|refusal| refusal.plugin).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Who refused how many nodes, and why: what upstream's sentence leaves out.
    pub fn by_plugin(&self) -> String {
        let line =
            |(plugin, reasons, n): (&str, String, usize)| format!("{plugin} refuses {n} node(s): {reasons}");
        let mut counts: BTreeMap<(&str, String), usize> = BTreeMap::new();
        for (_, refusal) in &self.by_node {
            *counts.entry((refusal.plugin, refusal.reasons.join(", "))).or_default() += 1;
        }
        let all = self.all.iter().map(|no| (no.plugin, no.reasons.join(", "), self.nodes));
        let lines =
            counts.into_iter().map(|((plugin, reasons), n)| (plugin, reasons, n)).chain(all).map(line);
        lines.collect::<Vec<_>>().join("; ")
    }

    /// Upstream's sentence: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s).`
    pub fn message(&self) -> String {
        if let Some(refusal) = &self.all {
            return format!("0/{} nodes are available: {}.", self.nodes, refusal.reasons.join(", "));
        }
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

/// Decides where a pod goes, by the built-in plugins. `start` is where to begin looking, so that large clusters are used
/// evenly.
pub fn decide(pod: &PodInfo, snapshot: &Snapshot, start: &mut usize, random: &Source) -> Decision {
    Profile::standard().decide(pod, snapshot, start, random)
}

impl Profile {
    /// Decides where a pod goes. `start` is where to begin looking, so that large clusters are used evenly.
    pub fn decide(&self, pod: &PodInfo, snapshot: &Snapshot, start: &mut usize, random: &Source) -> Decision {
        self.decide_timed(pod, snapshot, start, random, None)
    }

    pub(crate) fn decide_timed(
        &self,
        pod: &PodInfo,
        snapshot: &Snapshot,
        start: &mut usize,
        random: &Source,
        timings: Option<&Timings>,
    ) -> Decision {
        let took = |point, since: Instant, well: bool| {
            let outcome = if well { Outcome::Success } else { Outcome::Unschedulable };
            timings.inspect(|timings| timings.point(point, since, outcome));
        };
        let total = snapshot.len();
        let begin = Instant::now();
        let begun = Cycle::begin(pod, snapshot, self);
        took(Point::PreFilter, begin, begun.is_ok());
        let mut cycle = match begun {
            Ok(cycle) => cycle,
            Err(refusal) => {
                let all = Some(refusal);
                return Decision::Unschedulable(Refusals { nodes: total, by_node: Vec::new(), all });
            }
        };
        let begin = Instant::now();
        let wanted = self.enough(total);
        let mut feasible = Vec::new();
        let mut refusals = Refusals { nodes: total, ..Refusals::default() };
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
        took(Point::Filter, begin, !feasible.is_empty());
        match feasible.as_slice() {
            [] => Decision::Unschedulable(refusals),
            [only] => Decision::Node(*only),
            many => {
                let begin = Instant::now();
                cycle.pre_score(many);
                took(Point::PreScore, begin, true);
                let begin = Instant::now();
                let best = cycle.best(many, random);
                took(Point::Score, begin, true);
                Decision::Node(best)
            }
        }
    }

    /// How many feasible nodes are enough to choose among: the larger the cluster, the smaller the share.
    fn enough(&self, total: usize) -> usize {
        if total < NODES_ALL {
            return total;
        }
        let adaptive = || 50_usize.saturating_sub(total / 125).max(5);
        let percent = self.percentage_of_nodes_to_score().map_or_else(adaptive, |percent| percent as usize);
        (total * percent / 100).max(NODES_ALL)
    }

    /// What each node says to a pod that none takes, in words: `n1 refuses it by NodeAffinity: ...`, by name.
    pub fn explain(&self, pod: &PodInfo, snapshot: &Snapshot) -> Vec<String> {
        let cycle = match Cycle::begin(pod, snapshot, self) {
            Ok(cycle) => cycle,
            Err(no) => {
                return vec![format!("all nodes refuse it by {}: {}", no.plugin, no.reasons.join(", "))];
            }
        };
        let line = |at| {
            let no: Refusal = cycle.refusal(at)?;
            Some(format!("{} refuses it by {}: {}", snapshot.names[at], no.plugin, no.reasons.join(", ")))
        };
        let mut lines: Vec<String> = (0..snapshot.len()).filter_map(line).collect();
        lines.sort();
        lines
    }
}

impl Cycle<'_> {
    fn pre_score(&mut self, feasible: &[Index]) {
        let mut state = mem::take(&mut self.state);
        for plugin in self.profile.own(Point::PreScore) {
            plugin.pre_score(self, feasible, &mut state);
        }
        self.state = state;
    }

    fn best(&self, feasible: &[Index], random: &Source) -> Index {
        let mut totals = vec![0_i64; feasible.len()];
        for enabled in self.profile.at(Point::Score) {
            let (mut scores, how): (Vec<i64>, _) = match &enabled.part {
                Part::Builtin(builtin) => {
                    let Some((score, how)) = builtin.score else { continue };
                    (feasible.iter().map(|at| score(self, *at)).collect(), how)
                }
                Part::Own(plugin) => {
                    (feasible.iter().map(|at| plugin.score(self, *at)).collect(), plugin.normalize())
                }
            };
            plugins::normalize(how, &mut scores);
            for (total, score) in totals.iter_mut().zip(scores) {
                *total += score.clamp(0, SCORE_MAX) * enabled.weight;
            }
        }
        let max = totals.iter().max().copied().unwrap_or(0);
        let best: Vec<Index> =
            feasible.iter().zip(&totals).filter(|(_, t)| **t == max).map(|(at, _)| *at).collect();
        best[random.below(best.len() as u64) as usize]
    }
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
