//! Which pods are missed the least. The order is upstream's: what serves nobody goes before what serves, what is cheap
//! to lose before what is dear, and nodes with many replicas before nodes with few.

use std::{
    cmp::{Ordering, Reverse},
    collections::BTreeMap,
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::pods;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The `count` pods to delete, those that are missed the least first.
pub(super) fn least_missed(
    active: &[&Arc<Pod>],
    related: &[Arc<Pod>],
    now: Timestamp,
    count: usize,
) -> Vec<Arc<Pod>> {
    let mut crowd: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in related.iter().filter(|pod| pods::is_active(pod)) {
        *crowd.entry(pods::node(pod).unwrap_or_default()).or_default() += 1;
    }
    let mut ranked: Vec<(Rank, &Arc<Pod>)> =
        active.iter().map(|pod| (Rank::of(pod, &crowd, now), *pod)).collect();
    ranked.sort_by(|(a, _), (b, _)| a.cmp(b));
    ranked.into_iter().take(count).map(|(_, pod)| pod.clone()).collect()
}

/// How much a pod is missed: the least first. The fields are compared from top to bottom.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    bound: bool,
    phase: u8,
    ready: bool,
    cost: i32,
    neighbours: Reverse<usize>,
    ready_for: Age,
    restarts: Reverse<i32>,
    age: Age,
    uid: Option<String>,
}

impl Rank {
    fn of(pod: &Pod, crowd: &BTreeMap<&str, usize>, now: Timestamp) -> Self {
        let ready = pods::is_ready(pod);
        let since = |then: Option<Timestamp>| Age::of(then, now);
        Self {
            bound: pods::node(pod).is_some(),
            phase: match pods::phase(pod) {
                "Pending" => 0,
                "Unknown" => 1,
                _ => 2,
            },
            ready,
            cost: cost(pod),
            neighbours: Reverse(crowd.get(pods::node(pod).unwrap_or_default()).copied().unwrap_or(0)),
            ready_for: if ready { since(pods::ready_since(pod)) } else { Age::Unknown },
            restarts: Reverse(restarts(pod)),
            age: since(pod.metadata.creation_timestamp.as_ref().map(|t| t.0)),
            uid: pod.metadata.uid.clone(),
        }
    }
}

/// An age in powers of two of seconds: among pods of about the same age the choice is as good as random, so that a
/// rollout does not always end on the same nodes. An unknown age counts as the youngest.
#[derive(Debug, PartialEq, Eq)]
enum Age {
    Unknown,
    Log2(u32),
}

impl Age {
    fn of(then: Option<Timestamp>, now: Timestamp) -> Self {
        let Some(then) = then else { return Self::Unknown };
        let seconds = u64::try_from(now.duration_since(then).as_secs()).unwrap_or(0);
        Self::Log2(seconds.checked_ilog2().map_or(0, |log| log + 1))
    }
}

impl Ord for Age {
    fn cmp(&self, other: &Self) -> Ordering {
        let log = |age: &Self| match age {
            Self::Unknown => None,
            Self::Log2(log) => Some(*log),
        };
        log(self).cmp(&log(other))
    }
}

impl PartialOrd for Age {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|a| a.get(DELETION_COST)).and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    let statuses = status.and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
    statuses.iter().map(|s| s.restart_count).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, pod};

    /// The order in which the pods would be deleted.
    fn order(texts: &[&str]) -> Vec<String> {
        let all: Vec<Arc<Pod>> = texts.iter().map(|text| Arc::new(pod(text))).collect();
        let active: Vec<&Arc<Pod>> = all.iter().collect();
        let ranked = least_missed(&active, &all, at(100_000), texts.len());
        ranked.into_iter().map(|pod| pod.metadata.name.clone().unwrap_or_default()).collect()
    }

    #[test]
    fn what_serves_nobody_goes_first() {
        assert_eq!(
            order(&["ready ready", "running running", "pending pending node=n1", "unbound pending node="]),
            ["unbound", "pending", "running", "ready"]
        );
    }

    #[test]
    fn ties_are_broken_from_the_cheapest_reason_to_the_last() {
        assert_eq!(
            order(&["dear ready cost=10", "cheap ready cost=-5", "plain ready"]),
            ["cheap", "plain", "dear"]
        );
        assert_eq!(
            order(&["a ready node=n1", "b ready node=n2", "c ready node=n2"])[2],
            "a",
            "the crowded node gives first"
        );
        assert_eq!(order(&["old ready since=10", "new ready since=99000"]), ["new", "old"]);
        assert_eq!(order(&["calm ready", "crashes ready restarts=4"]), ["crashes", "calm"]);
        assert_eq!(order(&["old ready created=10", "new ready created=99000"]), ["new", "old"]);
        assert_eq!(
            order(&["b ready created=99000", "a ready created=99001"]),
            ["a", "b"],
            "about the same age"
        );
    }
}
