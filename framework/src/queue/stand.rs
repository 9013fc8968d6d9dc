//! What a queue holds at a moment, for people. Nobody decides anything from it.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::{Fair, Item, Priority};

/// What a queue holds at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stand<T> {
    /// How many items wait for a worker, by priority.
    pub ready: BTreeMap<Priority, usize>,
    /// How many items wait for their time.
    pub scheduled: usize,
    /// Items that are worked on, and since when; the oldest first.
    pub working: Vec<(T, Instant)>,
    /// Items that wait after failures: how many, and until when; the next first.
    pub retrying: Vec<(T, u32, Instant)>,
    /// How many more are worked on, or wait after failures.
    pub more: usize,
}

impl<T: Item> Fair<T> {
    /// Names at most `limit` items of each sort.
    pub(super) fn look(&self, limit: usize) -> Stand<T> {
        let state = self.state.lock();
        let mut ready = BTreeMap::new();
        let mut working = Vec::new();
        for (item, slot) in &state.slots {
            if let Some((priority, _)) = slot.ready {
                *ready.entry(priority).or_insert(0) += 1;
            }
            working.extend(slot.working.map(|since| (since, item)));
        }
        working.sort_by_key(|(since, _)| *since);
        let mut more = working.len().saturating_sub(limit);
        let working = working.into_iter().take(limit).map(|(since, item)| (item.clone(), since)).collect();
        let mut retrying = Vec::new();
        for ((due, _), item) in &state.timers {
            let failures = state.slots.get(item).map_or(0, |slot| slot.failures);
            if failures > 0 && retrying.len() < limit {
                retrying.push((item.clone(), failures, *due));
            } else if failures > 0 {
                more += 1;
            }
        }
        Stand { ready, scheduled: state.timers.len(), working, retrying, more }
    }
}
