//! Which pod is next: active, waiting out a backoff, or waiting for a change that can help.
//!
//! No clock of its own: the caller says what time it is. Source: `pkg/scheduler/backend/queue`.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    plugins::{self, Change},
    pod::PodInfo,
};

/// The first wait after a failure; it doubles with each.
pub const BACKOFF: Duration = Duration::from_secs(1);
/// The longest wait after a failure.
pub const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A pod that no change has helped is tried again after this long.
pub const UNSCHEDULABLE_MAX: Duration = Duration::from_mins(5);

/// A pod in the queue.
#[derive(Clone, Debug)]
pub struct Queued {
    /// The pod.
    pub pod: Arc<PodInfo>,
    /// How often it was tried.
    pub attempts: u32,
    since: u64,
}

type Rank = (Reverse<i32>, u64, String);

#[derive(Clone, Debug)]
enum Place {
    Active(Rank),
    Backoff(Instant),
    Unschedulable {
        refused_by: Vec<&'static str>,
        at: Instant,
    },
    /// Held by its scheduling gates.
    Gated,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    pods: HashMap<String, (Queued, Place)>,
    active: BTreeSet<Rank>,
    backoff: BTreeSet<(Instant, String)>,
    unschedulable: BTreeMap<String, Instant>,
    sequence: u64,
    /// Counts changes, so that a pod decided on an older state is tried again at once.
    moves: u64,
}

impl Queue {
    /// Adds a pod, or takes over its new state. A gated pod waits until its gates are gone.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        let uid = pod.uid().to_owned();
        let gated = !pod.gates().is_empty();
        let before = self.take(&uid);
        let changed_spec = before.as_ref().is_none_or(|(q, _)| may_fit_now(&q.pod, &pod));
        self.sequence += 1;
        let queued = match &before {
            Some((old, _)) => Queued { pod, ..old.clone() },
            None => Queued { pod, attempts: 0, since: self.sequence },
        };
        let place = match before {
            _ if gated => Place::Gated,
            Some((_, place @ Place::Backoff(_))) => place,
            Some((_, place @ Place::Unschedulable { .. })) if !changed_spec => place,
            _ => Place::Active(rank(&queued)),
        };
        self.put(uid, queued, place);
    }

    /// Forgets a pod.
    pub fn remove(&mut self, uid: &str) {
        self.take(uid);
    }

    /// The next pod, if one is active; its backoff over counts as active.
    pub fn pop(&mut self, now: Instant) -> Option<Queued> {
        self.release(now);
        let (.., uid) = self.active.first()?.clone();
        let (mut queued, _) = self.take(&uid)?;
        queued.attempts += 1;
        Some(queued)
    }

    /// Returns a pod that no node takes: it waits for a change that can help.
    pub fn refused(&mut self, queued: Queued, refused_by: Vec<&'static str>, now: Instant, moves_then: u64) {
        let uid = queued.pod.uid().to_owned();
        let place = if moves_then == self.moves {
            Place::Unschedulable { refused_by, at: now }
        } else {
            Place::Backoff(now + backoff(queued.attempts))
        };
        self.put(uid, queued, place);
    }

    /// Returns a pod that could not be bound: it is tried again after its backoff.
    pub fn failed(&mut self, queued: Queued, now: Instant) {
        let uid = queued.pod.uid().to_owned();
        let place = Place::Backoff(now + backoff(queued.attempts));
        self.put(uid, queued, place);
    }

    /// Tells of a change in the cluster: pods that it may help wait only for their backoff now.
    pub fn changed(&mut self, change: Change, now: Instant) {
        self.moves += 1;
        let helped: Vec<String> = self
            .unschedulable
            .keys()
            .filter(|uid| match self.pods.get(*uid) {
                Some((_, Place::Unschedulable { refused_by, .. })) => plugins::helps(change, refused_by),
                _ => false,
            })
            .cloned()
            .collect();
        for uid in helped {
            self.wake(&uid, now);
        }
    }

    fn wake(&mut self, uid: &str, now: Instant) {
        let Some((queued, place)) = self.take(uid) else { return };
        let Place::Unschedulable { at, .. } = place else { return };
        let until = at + backoff(queued.attempts);
        let place = if until > now { Place::Backoff(until) } else { Place::Active(rank(&queued)) };
        self.put(uid.to_owned(), queued, place);
    }

    /// How many changes there were.
    pub fn moves(&self) -> u64 {
        self.moves
    }

    /// When something will become active by itself.
    pub fn next_deadline(&self) -> Option<Instant> {
        let backoff = self.backoff.first().map(|(at, _)| *at);
        let stale = self.unschedulable.values().min().map(|at| *at + UNSCHEDULABLE_MAX);
        backoff.into_iter().chain(stale).min()
    }

    /// How many pods are active, in backoff, unschedulable and gated.
    pub fn depths(&self) -> [usize; 4] {
        let gated = self.pods.len() - self.active.len() - self.backoff.len() - self.unschedulable.len();
        [self.active.len(), self.backoff.len(), self.unschedulable.len(), gated]
    }

    fn release(&mut self, now: Instant) {
        while let Some((at, uid)) = self.backoff.first().cloned() {
            if at > now {
                break;
            }
            if let Some((queued, _)) = self.take(&uid) {
                let place = Place::Active(rank(&queued));
                self.put(uid, queued, place);
            }
        }
        let stale: Vec<String> = self
            .unschedulable
            .iter()
            .filter(|(_, at)| **at + UNSCHEDULABLE_MAX <= now)
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in stale {
            self.wake(&uid, now);
        }
    }

    fn take(&mut self, uid: &str) -> Option<(Queued, Place)> {
        let (queued, place) = self.pods.remove(uid)?;
        match &place {
            Place::Active(rank) => {
                self.active.remove(rank);
            }
            Place::Backoff(at) => {
                self.backoff.remove(&(*at, uid.to_owned()));
            }
            Place::Unschedulable { .. } => {
                self.unschedulable.remove(uid);
            }
            Place::Gated => {}
        }
        Some((queued, place))
    }

    fn put(&mut self, uid: String, queued: Queued, place: Place) {
        match &place {
            Place::Active(rank) => {
                self.active.insert(rank.clone());
            }
            Place::Backoff(at) => {
                self.backoff.insert((*at, uid.clone()));
            }
            Place::Unschedulable { at, .. } => {
                self.unschedulable.insert(uid.clone(), *at);
            }
            Place::Gated => {}
        }
        self.pods.insert(uid, (queued, place));
    }
}

/// Higher priority first, then first come.
fn rank(queued: &Queued) -> Rank {
    (Reverse(queued.pod.priority()), queued.since, queued.pod.uid().to_owned())
}

fn backoff(attempts: u32) -> Duration {
    BACKOFF.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(BACKOFF_MAX)
}

/// True when an update of a waiting pod may make it fit: anything but its status changed.
fn may_fit_now(old: &PodInfo, new: &PodInfo) -> bool {
    old.pod.spec != new.pod.spec || old.labels() != new.labels()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, priority: i32) -> Arc<PodInfo> {
        let pod = json!({"metadata": {"name": name, "uid": name}, "spec": {"priority": priority, "containers": []}});
        PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap()))
    }

    fn popped(queue: &mut Queue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(now)).map(|q| q.pod.uid().to_owned()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn priority_first_then_first_come() {
        let mut queue = Queue::default();
        for (name, priority) in [("a", 0), ("b", 10), ("c", 0), ("d", 10)] {
            queue.add(pod(name, priority));
        }
        assert_eq!(popped(&mut queue, Instant::now()), ["b", "d", "a", "c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_change_that_helps_wakes_a_refused_pod_and_not_before_its_backoff() {
        let mut queue = Queue::default();
        let start = Instant::now();
        queue.add(pod("a", 0));
        let queued = queue.pop(start).unwrap();
        queue.refused(queued, vec!["NodeResourcesFit"], start, queue.moves());
        queue.changed(Change::PodAssigned, start);
        assert_eq!(queue.depths(), [0, 0, 1, 0]);
        queue.changed(Change::PodGone, start);
        assert_eq!(queue.depths(), [0, 1, 0, 0]);
        assert!(queue.pop(start).is_none());
        assert_eq!(queue.next_deadline(), Some(start + BACKOFF));
        assert_eq!(popped(&mut queue, start + BACKOFF), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_came_before_the_first_node_wakes_with_it() {
        let (mut queue, start) = (Queue::default(), Instant::now());
        queue.add(pod("a", 0));
        let queued = queue.pop(start).unwrap();
        queue.refused(queued, Vec::new(), start, queue.moves());
        queue.changed(Change::NodeAdded, start);
        assert_eq!(queue.depths(), [0, 1, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_during_the_decision_is_not_lost_and_nobody_waits_for_ever() {
        let mut queue = Queue::default();
        let start = Instant::now();
        queue.add(pod("a", 0));
        let (queued, moves) = (queue.pop(start).unwrap(), queue.moves());
        queue.changed(Change::NodeAdded, start);
        queue.refused(queued, vec!["NodeAffinity"], start, moves);
        assert_eq!(queue.depths(), [0, 1, 0, 0]);
        let queued = queue.pop(start + BACKOFF).unwrap();
        queue.refused(queued, vec!["NodeAffinity"], start + BACKOFF, queue.moves());
        assert!(queue.pop(start + UNSCHEDULABLE_MAX).is_none());
        assert_eq!(popped(&mut queue, start + UNSCHEDULABLE_MAX + BACKOFF), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn gates_hold_a_pod_until_they_are_gone() {
        let mut queue = Queue::default();
        let gated = json!({"metadata": {"name": "a", "uid": "a"}, "spec": {"containers": [], "schedulingGates": [{"name": "x"}]}});
        queue.add(PodInfo::new(Arc::new(serde_json::from_value(gated).unwrap())));
        assert_eq!(queue.depths(), [0, 0, 0, 1]);
        queue.add(pod("a", 0));
        assert_eq!(popped(&mut queue, Instant::now()), ["a"]);
    }
}
