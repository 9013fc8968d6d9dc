//! What lets a controller work on its replica's keys and on no others.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Inner, Selection, ShardBy, Shards, Slots, roster};
use crate::{
    CancellationToken, Key, Lister, Object,
    queue::{Add, Priority, SharedQueue},
};

/// Deletes that are remembered in case their keys are gained: a replica may learn of a delete before it owns the key, and
/// its last owner after it has let go of it.
const GONE_MAX: usize = 8192;
/// For so long; longer than a hand-over takes.
const GONE_FOR: Duration = Duration::from_mins(5);

/// Where keys are let through, for one run of a controller.
pub(crate) struct Gate {
    shards: Arc<Inner>,
    by: ShardBy,
    queue: SharedQueue,
    cache: Box<dyn Cache>,
    /// What the controller's own watches ask for.
    selection: Option<Selection>,
    gone: Mutex<VecDeque<Gone>>,
}

/// A delete that was seen.
struct Gone {
    at: Instant,
    key: Key,
    slot: u8,
}

/// What is known of the objects of the controller.
trait Cache: Send + Sync {
    fn uid(&self, key: &Key) -> Option<String>;
    fn each(&self, visit: &mut dyn FnMut(Key, Option<&str>));
}

impl<K: Object> Cache for Lister<K> {
    fn uid(&self, key: &Key) -> Option<String> {
        self.get(key)?.meta().uid.clone()
    }

    fn each(&self, visit: &mut dyn FnMut(Key, Option<&str>)) {
        self.for_each(|object| visit(Key::of(&**object), object.meta().uid.as_deref()));
    }
}

/// A key is worked on, until this is dropped.
pub(crate) struct Pass {
    shards: Arc<Inner>,
    slot: u8,
    cut: CancellationToken,
}

impl Pass {
    /// Waits until work has to be cut off.
    pub(crate) async fn cut(&self) {
        self.cut.cancelled().await;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut core = self.shards.core.lock();
        core.busy[usize::from(self.slot)] -= 1;
        if core.held.contains(self.slot) {
            return;
        }
        drop(core);
        // Somebody waits for it to be let go of.
        self.shards.drained.notify_one();
        self.shards.changed.notify_one();
    }
}

impl Gate {
    pub(crate) fn open<K: Object>(
        shards: &Shards,
        by: ShardBy,
        queue: &SharedQueue,
        lister: Lister<K>,
        selection: Option<Selection>,
    ) -> Arc<Self> {
        let gate = Arc::new(Self {
            shards: shards.inner.clone(),
            by,
            queue: queue.clone(),
            cache: Box::new(lister),
            selection,
            gone: Mutex::default(),
        });
        let mut core = shards.inner.core.lock();
        core.gates.retain(|gate| gate.strong_count() > 0);
        core.gates.push(Arc::downgrade(&gate));
        gate.select(core.owned);
        drop(core);
        gate
    }

    /// Lets a key through, if it is this replica's.
    pub(crate) fn enter(&self, key: &Key) -> Option<Pass> {
        let slot = self.slot(key)?;
        let mut core = self.shards.core.lock();
        if !core.held.contains(slot) {
            return None;
        }
        core.busy[usize::from(slot)] += 1;
        Some(Pass { shards: self.shards.clone(), slot, cut: core.cut.clone() })
    }

    pub(super) fn select(&self, slots: Slots) {
        if let Some(selection) = &self.selection {
            selection.select(slots);
        }
    }

    /// Whether the cache has everything that is this replica's.
    pub(super) fn is_listed(&self) -> bool {
        self.selection.as_ref().is_none_or(Selection::is_listed)
    }

    /// How many objects are this replica's.
    pub(crate) fn held(&self) -> usize {
        let held = self.shards.core.lock().held;
        let mut count = 0;
        self.cache.each(&mut |key, uid| {
            count += usize::from(self.slot_with(&key, uid).is_some_and(|slot| held.contains(slot)));
        });
        count
    }

    /// Remembers a delete.
    pub(crate) fn deleted(&self, key: Key, uid: Option<&str>) {
        let Some(slot) = self.slot_with(&key, uid) else { return };
        let (mut gone, now) = (self.gone.lock(), Instant::now());
        while gone.len() >= GONE_MAX || gone.front().is_some_and(|first| first.at + GONE_FOR < now) {
            gone.pop_front();
        }
        gone.push_back(Gone { at: now, key, slot });
    }

    /// Has everything looked at that came with these slots.
    pub(super) fn gained(&self, slots: Slots) {
        let mut keys = Vec::new();
        self.cache.each(&mut |key, uid| {
            if self.slot_with(&key, uid).is_some_and(|slot| slots.contains(slot)) {
                keys.push(key);
            }
        });
        keys.extend(self.gone.lock().iter().filter(|g| slots.contains(g.slot)).map(|g| g.key.clone()));
        let add = Add { priority: Priority::INITIAL, ..Add::default() };
        keys.into_iter().for_each(|key| self.queue.add(key, add));
    }

    fn slot(&self, key: &Key) -> Option<u8> {
        if self.by != ShardBy::Uid {
            return self.slot_with(key, None);
        }
        if let Some(uid) = self.cache.uid(key) {
            return Some(roster::slot_of_uid(&uid));
        }
        self.gone.lock().iter().rev().find(|gone| gone.key == *key).map(|gone| gone.slot)
    }

    fn slot_with(&self, key: &Key, uid: Option<&str>) -> Option<u8> {
        match self.by {
            ShardBy::Key => Some(roster::slot(key.as_str())),
            ShardBy::Namespace => Some(roster::slot(key.namespace().unwrap_or(key.name()))),
            ShardBy::Uid => uid.map(roster::slot_of_uid),
        }
    }
}
