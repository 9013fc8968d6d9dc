//! Which pod is next: active, waiting out a backoff, or waiting for a change that can help.
//!
//! No clock of its own: the caller says what time it is. Source: `pkg/scheduler/backend/queue`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::pod::PodInfo;

/// The first wait after a failure; it doubles with each.
pub const BACKOFF: Duration = Duration::from_secs(1);
/// The longest wait after a failure.
pub const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A pod that no change has helped is tried again after this long.
pub const UNSCHEDULABLE_MAX: Duration = Duration::from_mins(5);

/// How long pods wait after failures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoffs {
    pub(crate) first: Duration,
    pub(crate) max: Duration,
}

impl Default for Backoffs {
    fn default() -> Self {
        Self { first: BACKOFF, max: BACKOFF_MAX }
    }
}

impl Backoffs {
    fn after(self, attempts: u32) -> Duration {
        self.first.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(self.max)
    }
}

/// A pod in the queue.
#[derive(Clone, Debug)]
pub struct Queued {
    /// The pod.
    pub pod: Arc<PodInfo>,
    /// How often it was tried.
    pub attempts: u32,
    since: u64,
    /// What it is sorted by, the lowest first.
    rank: i64,
}

type Rank = (i64, u64, String);

#[derive(Clone, Debug)]
enum Place {
    Active(Rank),
    Backoff(Instant),
    Unschedulable {
        refused_by: Vec<&'static str>,
        at: Instant,
    },
    /// Held by its scheduling gates, or by another plugin that does not let it in yet.
    Gated(&'static str),
}

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    pods: HashMap<String, (Queued, Place)>,
    active: BTreeSet<Rank>,
    backoff: BTreeSet<(Instant, String)>,
    unschedulable: BTreeMap<String, Instant>,
    /// Pods that are held, by uid, and by whom.
    gated: BTreeMap<String, &'static str>,
    backoffs: Backoffs,
    sequence: u64,
    /// Counts changes, so that a pod decided on an older state is tried again at once.
    moves: u64,
}

impl Queue {
    pub(crate) fn new(backoffs: Backoffs) -> Self {
        Self { backoffs, ..Self::default() }
    }

    /// Adds a pod, or takes over its new state, sorted by its priority. A gated pod waits until its gates are gone.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        let gated = (!pod.gates().is_empty()).then_some("SchedulingGates");
        let rank = -i64::from(pod.priority());
        self.add_ranked(pod, rank, gated);
    }

    /// Adds a pod, or takes over its new state. The lowest rank comes first; a pod that a plugin holds waits for
    /// [`Queue::release_held`], or until it is added anew.
    pub fn add_ranked(&mut self, pod: Arc<PodInfo>, rank: i64, held_by: Option<&'static str>) {
        let uid = pod.uid().to_owned();
        let before = self.take(&uid);
        let changed_spec = before.as_ref().is_none_or(|(q, _)| may_fit_now(&q.pod, &pod));
        self.sequence += 1;
        let queued = match &before {
            Some((old, _)) => Queued { pod, rank, ..old.clone() },
            None => Queued { pod, attempts: 0, since: self.sequence, rank },
        };
        let place = match (held_by, before) {
            (Some(plugin), _) => Place::Gated(plugin),
            (None, before) => Self::place(&queued, before, changed_spec),
        };
        self.put(uid, queued, place);
    }

    fn place(queued: &Queued, before: Option<(Queued, Place)>, changed_spec: bool) -> Place {
        match before {
            Some((_, place @ Place::Backoff(_))) => place,
            Some((_, place @ Place::Unschedulable { .. })) if !changed_spec => place,
            _ => Place::Active(rank(queued)),
        }
    }

    /// Lets in pods that a plugin held and nobody holds any more; `held` says by whom a pod is held now.
    pub(crate) fn release_held(&mut self, held: impl Fn(&PodInfo, &'static str) -> Option<&'static str>) {
        let pods = &self.pods;
        let now = self.gated.iter().filter_map(|(uid, by)| {
            let after = held(&pods.get(uid)?.0.pod, by);
            (after != Some(*by)).then(|| (uid.clone(), after))
        });
        for (uid, after) in now.collect::<Vec<_>>() {
            let Some((queued, _)) = self.take(&uid) else { continue };
            let place = after.map_or_else(|| Place::Active(rank(&queued)), Place::Gated);
            self.put(uid, queued, place);
        }
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
            Place::Backoff(now + self.backoffs.after(queued.attempts))
        };
        self.put(uid, queued, place);
    }

    /// Returns a pod that could not be bound: it is tried again after its backoff.
    pub fn failed(&mut self, queued: Queued, now: Instant) {
        let uid = queued.pod.uid().to_owned();
        let place = Place::Backoff(now + self.backoffs.after(queued.attempts));
        self.put(uid, queued, place);
    }

    /// Tells of a change in the cluster: pods that it may help wait only for their backoff now. `helps` is asked about a
    /// pod and the plugins that refused it.
    pub fn changed(&mut self, now: Instant, helps: impl Fn(&PodInfo, &[&'static str]) -> bool) {
        self.moves += 1;
        let helped: Vec<String> = self
            .unschedulable
            .keys()
            .filter(|uid| match self.pods.get(*uid) {
                Some((queued, Place::Unschedulable { refused_by, .. })) => helps(&queued.pod, refused_by),
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
        let until = at + self.backoffs.after(queued.attempts);
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
        [self.active.len(), self.backoff.len(), self.unschedulable.len(), self.gated.len()]
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
            Place::Gated(_) => {
                self.gated.remove(uid);
            }
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
            Place::Gated(by) => {
                self.gated.insert(uid.clone(), by);
            }
        }
        self.pods.insert(uid, (queued, place));
    }
}

/// By rank, then first come.
fn rank(queued: &Queued) -> Rank {
    (queued.rank, queued.since, queued.pod.uid().to_owned())
}

/// True when an update of a waiting pod may make it fit: anything but its status changed.
fn may_fit_now(old: &PodInfo, new: &PodInfo) -> bool {
    old.pod.spec != new.pod.spec || old.labels() != new.labels()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Profile, plugin::Event, plugins::Change};

    fn helps(change: Change) -> impl Fn(&PodInfo, &[&'static str]) -> bool {
        move |pod, refused_by| Profile::standard().helps(pod, refused_by, &Event::of(change))
    }

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
        queue.changed(start, helps(Change::PodAssigned));
        assert_eq!(queue.depths(), [0, 0, 1, 0]);
        queue.changed(start, helps(Change::PodGone));
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
        queue.changed(start, helps(Change::NodeAdded));
        assert_eq!(queue.depths(), [0, 1, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_during_the_decision_is_not_lost_and_nobody_waits_for_ever() {
        let mut queue = Queue::default();
        let start = Instant::now();
        queue.add(pod("a", 0));
        let (queued, moves) = (queue.pop(start).unwrap(), queue.moves());
        queue.changed(start, helps(Change::NodeAdded));
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
