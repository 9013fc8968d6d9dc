//! Deltas for a consumer that takes its time: a queue that holds at most what changed per object, however slow the
//! reader is.
//!
//! Changes of one object that were not read yet are merged: added then updated is added with the newer state; several
//! updates keep the first old and the last new; added then deleted was never seen and is dropped. A delete that was
//! followed by another object of the same name stays a delete and an add, in that order. Deletes are never lost.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Notify;

use crate::{Delta, Key, Object, Subscription, key::KeyMap};

/// A coalescing stream of deltas; see [`crate::Informer::deltas`]. Dropping it unsubscribes.
pub struct Deltas<K: Object> {
    shared: Arc<Shared<K>>,
    _subscription: Subscription,
}

pub(crate) struct Shared<K> {
    pending: Mutex<Pending<K>>,
    ready: Notify,
}

struct Pending<K> {
    order: VecDeque<Key>,
    merged: KeyMap<SmallVec<[Delta<K>; 2]>>,
}

impl<K: Object> Shared<K> {
    pub(crate) fn new() -> Self {
        let pending = Pending { order: VecDeque::new(), merged: KeyMap::default() };
        Self { pending: Mutex::new(pending), ready: Notify::new() }
    }

    pub(crate) fn push(&self, delta: &Delta<K>) {
        let mut pending = self.pending.lock();
        let key = delta.key();
        if let Some(merged) = pending.merged.get_mut(&key) {
            merge(merged, delta.clone());
            return;
        }
        pending.order.push_back(key.clone());
        pending.merged.insert(key, SmallVec::from_iter([delta.clone()]));
        drop(pending);
        self.ready.notify_one();
    }

    /// The changes of the object that waits longest. An object whose changes cancelled out leaves an empty batch.
    fn pop(&self) -> Option<SmallVec<[Delta<K>; 2]>> {
        let mut pending = self.pending.lock();
        loop {
            let key = pending.order.pop_front()?;
            let merged = pending.merged.remove(&key).unwrap_or_default();
            if !merged.is_empty() {
                return Some(merged);
            }
        }
    }
}

impl<K: Object> Deltas<K> {
    pub(crate) fn new(shared: Arc<Shared<K>>, subscription: Subscription) -> Self {
        Self { shared, _subscription: subscription }
    }

    /// Waits for the changes of the next object: one delta, or a delete and an add. Cancel-safe.
    pub async fn next(&mut self) -> SmallVec<[Delta<K>; 2]> {
        loop {
            let ready = self.shared.ready.notified();
            if let Some(batch) = self.shared.pop() {
                return batch;
            }
            ready.await;
        }
    }

    /// The changes of the next object, if any wait.
    pub fn try_next(&mut self) -> Option<SmallVec<[Delta<K>; 2]>> {
        self.shared.pop()
    }
}

fn merge<K>(merged: &mut SmallVec<[Delta<K>; 2]>, next: Delta<K>) {
    let Some(last) = merged.pop() else {
        merged.push(next);
        return;
    };
    match (last, next) {
        (Delta::Added { initial, .. }, Delta::Updated { new, .. }) => {
            merged.push(Delta::Added { new, initial });
        }
        (Delta::Updated { old, .. }, Delta::Updated { new, .. }) => merged.push(Delta::Updated { old, new }),
        (Delta::Added { .. }, Delta::Deleted { .. }) => {}
        (Delta::Deleted { last, observed }, Delta::Added { new, .. }) => {
            merged.push(Delta::Deleted { last, observed });
            merged.push(Delta::Added { new, initial: false });
        }
        (_, next) => merged.push(next),
    }
}
