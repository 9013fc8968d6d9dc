//! PodTopologySpread: pods of a kind even among the domains of a topology. Source: KEP-895.

use std::collections::HashMap;

use super::{Refusal, node, refuse};
use crate::{
    cycle::Cycle,
    pod::{PodInfo, Spread},
    snapshot::{Index, Snapshot},
};

const NAME: &str = "PodTopologySpread";

/// How many matching pods there are in each domain, for each constraint of the pod.
#[derive(Debug, Default)]
pub struct Counts {
    hard: Vec<Domains>,
    soft: Vec<Domains>,
}

#[derive(Debug)]
struct Domains {
    spread: Spread,
    counts: HashMap<String, i64>,
    min: i64,
    matches_self: bool,
}

impl Counts {
    /// Counts.
    pub fn new(pod: &PodInfo, snapshot: &Snapshot) -> Self {
        let (hard, soft) =
            pod.spread.iter().map(|s| domains(pod, s, snapshot)).partition(|d: &Domains| d.spread.hard);
        Self { hard, soft }
    }
}

fn domains(pod: &PodInfo, spread: &Spread, snapshot: &Snapshot) -> Domains {
    let mut counts: HashMap<String, i64> = HashMap::new();
    for at in 0..snapshot.len() {
        let Some(value) = snapshot.label(at, &spread.topology_key) else { continue };
        if spread.honors_affinity && !node::matches_affinity(pod, snapshot, at)
            || spread.honors_taints && !node::tolerates_all(pod, snapshot.taints(at))
        {
            continue;
        }
        let matching = snapshot.pods[at].iter().filter(|p| {
            p.namespace() == pod.namespace() && !p.is_deleting() && spread.selector.matches(p.labels())
        });
        *counts.entry(value.to_owned()).or_default() += matching.count() as i64;
    }
    let enough = counts.len() as i64 >= spread.min_domains;
    let min = if enough { counts.values().copied().min().unwrap_or(0) } else { 0 };
    Domains { matches_self: spread.selector.matches(pod.labels()), spread: spread.clone(), counts, min }
}

pub(super) fn filter(cycle: &Cycle<'_>, at: Index) -> Option<Refusal> {
    for domains in &cycle.spread().hard {
        let Some(value) = cycle.snapshot.label(at, &domains.spread.topology_key) else {
            return refuse(
                NAME,
                "node(s) didn't match pod topology spread constraints (missing required label)",
                true,
            );
        };
        let count = domains.counts.get(value).copied().unwrap_or(0);
        if count + i64::from(domains.matches_self) - domains.min > domains.spread.max_skew {
            return refuse(NAME, "node(s) didn't match pod topology spread constraints", false);
        }
    }
    None
}

/// The fewer in the node's domains, the better.
pub(super) fn score(cycle: &Cycle<'_>, at: Index) -> i64 {
    let soft = cycle.spread().soft.iter();
    soft.map(|d| {
        let value = cycle.snapshot.label(at, &d.spread.topology_key);
        value.and_then(|v| d.counts.get(v)).copied().unwrap_or(0) + d.spread.max_skew - 1
    })
    .sum()
}
