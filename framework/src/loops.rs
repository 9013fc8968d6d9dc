//! Reconciles that run in a circle: each writes, and what it wrote is all that brings about the next.
//!
//! A turn of a key counts when it was triggered by nothing but what the turn before wrote, and writes again. Chains of a
//! few such turns are how controllers converge; [`TURNS`] in a row are a loop, which is counted and named until a turn
//! writes nothing or something else happens. Nothing is slowed down by this: limits do that.
//!
//! Only keys whose last turn wrote something are remembered, and only what the framework's own client wrote is known.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::{Delta, Key, Object, key::KeyMap, object::revision_of};

/// Turns in a row that are a loop.
const TURNS: u32 = 20;
/// Keys that are remembered; the turns of more are not counted.
const REMEMBERED: usize = 16_384;
/// Triggers and writes of one turn that are remembered; a turn with more is not counted.
const MARKS: usize = 32;

/// A change, as the writer and the watcher both know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// A write made this revision.
    Wrote(u64),
    /// The object of this uid was deleted.
    Deleted(String),
}

impl Mark {
    pub(crate) fn of<K: Object>(delta: &Delta<K>) -> Self {
        match delta {
            Delta::Added { new, .. } | Delta::Updated { new, .. } => Self::Wrote(revision_of(&**new)),
            Delta::Deleted { last, .. } => Self::Deleted(last.meta().uid.clone().unwrap_or_default()),
        }
    }
}

/// What one turn wrote.
#[derive(Default)]
pub(crate) struct Marks(Vec<Mark>);

impl Marks {
    pub(crate) fn add(&mut self, mark: Mark) {
        if self.0.len() <= MARKS {
            self.0.push(mark);
        }
    }

    pub(crate) fn take(&mut self) -> Vec<Mark> {
        std::mem::take(&mut self.0)
    }
}

/// The keys of one controller that may be running in a circle.
#[derive(Default)]
pub(crate) struct Loops {
    known: AtomicUsize,
    keys: Mutex<KeyMap<Streak>>,
}

#[derive(Default)]
struct Streak {
    /// What the last turn wrote.
    wrote: Vec<Mark>,
    /// What has triggered the key since that turn began.
    triggers: SmallVec<[Mark; 4]>,
    /// Something else did, too.
    foreign: bool,
    /// The turn that runs now was triggered by the one before alone.
    own: bool,
    turns: u32,
}

/// Where a key is in its circle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Circle {
    /// In none.
    No,
    /// It is found to be in one.
    Found,
    /// It is still in one.
    Still,
}

impl Loops {
    /// A key is triggered by a change.
    pub(crate) fn triggered<K: Object>(&self, key: &Key, delta: &Delta<K>) {
        if self.known.load(Ordering::Acquire) == 0 {
            return;
        }
        if let Some(streak) = self.keys.lock().get_mut(key) {
            if streak.triggers.len() < MARKS {
                streak.triggers.push(Mark::of(delta));
            } else {
                streak.foreign = true;
            }
        }
    }

    /// A key is triggered by something that the framework does not see.
    pub(crate) fn asked(&self, key: &Key) {
        if self.known.load(Ordering::Acquire) == 0 {
            return;
        }
        if let Some(streak) = self.keys.lock().get_mut(key) {
            streak.foreign = true;
        }
    }

    /// A turn begins.
    pub(crate) fn begin(&self, key: &Key) {
        if self.known.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut keys = self.keys.lock();
        let Some(streak) = keys.get_mut(key) else { return };
        let triggers = std::mem::take(&mut streak.triggers);
        let foreign = std::mem::take(&mut streak.foreign);
        // Without a trigger it was asked for by the turn before, in so many words.
        streak.own =
            !foreign && !triggers.is_empty() && triggers.iter().all(|mark| streak.wrote.contains(mark));
    }

    /// A turn ends that wrote this.
    pub(crate) fn end(&self, key: &Key, wrote: Vec<Mark>) -> Circle {
        if wrote.is_empty() && self.known.load(Ordering::Acquire) == 0 {
            return Circle::No;
        }
        let mut keys = self.keys.lock();
        let full = keys.len() >= REMEMBERED && !keys.contains_key(key);
        if wrote.is_empty() || wrote.len() > MARKS || full {
            keys.remove(key);
            self.known.store(keys.len(), Ordering::Release);
            return Circle::No;
        }
        let streak = keys.entry(key.clone()).or_default();
        streak.turns = if streak.own { streak.turns.saturating_add(1) } else { 1 };
        (streak.wrote, streak.own) = (wrote, false);
        let turns = streak.turns;
        self.known.store(keys.len(), Ordering::Release);
        match turns {
            TURNS => Circle::Found,
            more if more > TURNS => Circle::Still,
            _ => Circle::No,
        }
    }
}

/// What is said of a key in a circle.
pub(crate) fn sentence() -> String {
    format!(
        "it writes in every turn: the last {TURNS} and more were each triggered by what the one before wrote, and by nothing else"
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    fn changed(revision: u64) -> Delta<Pod> {
        let pod = json!({"metadata": {"uid": "u", "resourceVersion": revision.to_string()}});
        Delta::Added { new: Arc::new(serde_json::from_value(pod).unwrap()), initial: false }
    }

    fn turn(loops: &Loops, key: &Key, trigger: u64, wrote: &[u64]) -> Circle {
        loops.triggered(key, &changed(trigger));
        loops.begin(key);
        loops.end(key, wrote.iter().copied().map(Mark::Wrote).collect())
    }

    #[test]
    fn a_circle_is_found_and_left() {
        let (loops, key) = (Loops::default(), Key::new(None, "a"));
        let turns = u64::from(TURNS);
        for n in 1..turns {
            assert_eq!(turn(&loops, &key, n, &[n + 1]), Circle::No, "{n}");
        }
        assert_eq!(turn(&loops, &key, turns, &[turns + 1]), Circle::Found);
        assert_eq!(turn(&loops, &key, turns + 1, &[turns + 2]), Circle::Still);
        assert_eq!(turn(&loops, &key, turns + 2, &[]), Circle::No);
        assert_eq!(loops.known.load(Ordering::Relaxed), 0, "who is in no circle is not remembered");
    }

    #[test]
    fn what_others_do_is_no_circle() {
        let (loops, key) = (Loops::default(), Key::new(None, "a"));
        for n in 1..200 {
            // Somebody else's write came in between.
            if n % 10 == 0 {
                loops.triggered(&key, &changed(10_000 + n));
            }
            assert_eq!(turn(&loops, &key, n, &[n + 1]), Circle::No, "{n}");
        }
        for _ in 0..200 {
            // A beat that the controller asked for: no trigger at all.
            loops.begin(&key);
            assert_eq!(loops.end(&key, vec![Mark::Wrote(1)]), Circle::No);
        }
        for n in 1..200 {
            loops.asked(&key);
            assert_eq!(turn(&loops, &key, n, &[n + 1]), Circle::No, "{n}");
        }
    }

    #[test]
    fn deleting_what_was_made_is_one() {
        let (loops, key) = (Loops::default(), Key::new(None, "a"));
        let last = Arc::new(serde_json::from_value::<Pod>(json!({"metadata": {"uid": "u"}})).unwrap());
        let found = (0..TURNS).map(|_| {
            loops.triggered(&key, &Delta::Deleted { last: last.clone(), observed: true });
            loops.begin(&key);
            loops.end(&key, vec![Mark::Deleted("u".to_owned())])
        });
        assert_eq!(found.last(), Some(Circle::Found));
    }
}
