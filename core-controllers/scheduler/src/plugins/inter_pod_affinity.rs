//! InterPodAffinity: pods that want to be near others, or far from them.

use std::collections::HashMap;

use super::{Refusal, refuse};
use crate::{
    cycle::Cycle,
    pod::{AffinityTerm, PodInfo},
    snapshot::{Index, Snapshot},
};

const NAME: &str = "InterPodAffinity";

/// A topology key and its value.
type Place = (String, String);

/// What holds in each place of the cluster, for one pod.
#[derive(Debug, Default)]
pub struct Places {
    /// Pods that match all of the pod's affinity terms, by each term's place.
    affinity: Vec<HashMap<String, i64>>,
    /// Pods that match one of its anti-affinity terms.
    anti_affinity: Vec<HashMap<String, i64>>,
    /// Places that pods already there keep this pod away from.
    keep_away: HashMap<Place, i64>,
    /// Sums of weights of preferences, ours and theirs.
    scores: HashMap<Place, i64>,
    /// True when no pod matches yet and the pod itself would.
    may_be_first: bool,
}

impl Places {
    /// Looks at all pods once.
    pub fn new(pod: &PodInfo, snapshot: &Snapshot) -> Self {
        let mut places = Self {
            affinity: vec![HashMap::new(); pod.affinity.len()],
            anti_affinity: vec![HashMap::new(); pod.anti_affinity.len()],
            ..Self::default()
        };
        let asks = !pod.affinity.is_empty() || !pod.anti_affinity.is_empty() || !pod.preferences.is_empty();
        for at in 0..snapshot.len() {
            // Most pods and most nodes have nothing to do with each other.
            if !asks
                && snapshot.with_anti_affinity[at] == 0
                && snapshot.pods[at].iter().all(|p| p.preferences.is_empty())
            {
                continue;
            }
            for existing in &snapshot.pods[at] {
                places.meet(pod, existing, snapshot, at);
            }
        }
        places.may_be_first = places.affinity.iter().all(HashMap::is_empty)
            && pod.affinity.iter().all(|term| term.selects(pod));
        places
    }

    fn meet(&mut self, pod: &PodInfo, existing: &PodInfo, snapshot: &Snapshot, at: Index) {
        let place = |term: &AffinityTerm| snapshot.label(at, &term.topology_key);
        let all = !pod.affinity.is_empty() && pod.affinity.iter().all(|t| t.selects(existing));
        for (i, term) in pod.affinity.iter().enumerate().filter(|_| all) {
            if let Some(value) = place(term) {
                *self.affinity[i].entry(value.to_owned()).or_default() += 1;
            }
        }
        for (i, term) in pod.anti_affinity.iter().enumerate().filter(|(_, t)| t.selects(existing)) {
            if let Some(value) = place(term) {
                *self.anti_affinity[i].entry(value.to_owned()).or_default() += 1;
            }
        }
        for term in existing.anti_affinity.iter().filter(|t| t.selects(pod)) {
            if let Some(value) = place(term) {
                *self.keep_away.entry((term.topology_key.clone(), value.to_owned())).or_default() += 1;
            }
        }
        let ours = pod.preferences.iter().filter(|t| t.selects(existing));
        let theirs = existing.preferences.iter().filter(|t| t.selects(pod));
        for term in ours.chain(theirs) {
            if let Some(value) = place(term) {
                *self.scores.entry((term.topology_key.clone(), value.to_owned())).or_default() += term.weight;
            }
        }
    }
}

pub(super) fn filter(cycle: &Cycle<'_>, at: Index) -> Option<Refusal> {
    let places = cycle.places();
    let label = |key: &str| cycle.snapshot.label(at, key);
    for (i, term) in cycle.pod.affinity.iter().enumerate() {
        let Some(value) = label(&term.topology_key) else {
            return refuse(NAME, "node(s) didn't match pod affinity rules", true);
        };
        if !places.may_be_first && !places.affinity[i].contains_key(value) {
            return refuse(NAME, "node(s) didn't match pod affinity rules", true);
        }
    }
    for (i, term) in cycle.pod.anti_affinity.iter().enumerate() {
        if label(&term.topology_key).is_some_and(|value| places.anti_affinity[i].contains_key(value)) {
            return refuse(NAME, "node(s) didn't match pod anti-affinity rules", false);
        }
    }
    let kept_away = places.keep_away.keys().any(|(key, value)| label(key) == Some(value.as_str()));
    if kept_away {
        return refuse(NAME, "node(s) didn't satisfy existing pods anti-affinity rules", false);
    }
    None
}

pub(super) fn score(cycle: &Cycle<'_>, at: Index) -> i64 {
    let scores = cycle.places().scores.iter();
    scores
        .filter(|((key, value), _)| cycle.snapshot.label(at, key) == Some(value.as_str()))
        .map(|(_, s)| s)
        .sum()
}
