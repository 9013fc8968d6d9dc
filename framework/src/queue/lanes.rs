//! The lanes of a priority: each is served in order, and they take turns. Knows no time and no limit but that a lane may be
//! full.

use std::collections::{BTreeSet, VecDeque};

use super::Item;
use crate::key::FastMap;

/// Items of one priority, by lane.
pub(super) struct Lanes<T> {
    turn: VecDeque<String>,
    /// Lanes whose share is used up; they are out of turn.
    parked: BTreeSet<String>,
    lanes: FastMap<String, VecDeque<T>>,
}

impl<T: Item> Lanes<T> {
    pub(super) fn push(&mut self, item: T) {
        if let Some(lane) = self.lanes.get_mut(item.lane()) {
            lane.push_back(item);
            return;
        }
        let name = item.lane().to_owned();
        self.turn.push_back(name.clone());
        self.lanes.insert(name, VecDeque::from([item]));
    }

    /// The next item of the lane whose turn it is, and that is not full.
    pub(super) fn pop(&mut self, is_full: impl Fn(&str) -> bool) -> Option<T> {
        loop {
            let name = self.turn.pop_front()?;
            if is_full(&name) {
                self.parked.insert(name);
                continue;
            }
            let lane = self.lanes.get_mut(&name)?;
            let item = lane.pop_front();
            if lane.is_empty() {
                self.lanes.remove(&name);
            } else {
                self.turn.push_back(name);
            }
            return item;
        }
    }

    /// Whether there is nothing in any lane, parked or not.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Puts the item that came last back to where it was.
    pub(super) fn put_back(&mut self, item: T) {
        let name = item.lane().to_owned();
        if self.turn.back() == Some(&name) {
            self.turn.pop_back();
        }
        self.lanes.entry(name.clone()).or_default().push_front(item);
        self.turn.push_front(name);
    }

    pub(super) fn unpark(&mut self, name: &str) {
        if let Some(name) = self.parked.take(name) {
            self.turn.push_back(name);
        }
    }
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { turn: VecDeque::new(), parked: BTreeSet::new(), lanes: FastMap::default() }
    }
}
