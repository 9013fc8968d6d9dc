//! When leases run out: one timer for the earliest, none when there is no lease.
//!
//! As in etcd, time to live counts from the grant (or the last renewal) on this process's clock; after a restart each
//! lease gets its full time again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::model::LeaseId;

/// The deadlines of all leases.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    state: Mutex<(BTreeSet<(Instant, LeaseId)>, BTreeMap<LeaseId, Instant>)>,
    changed: Notify,
}

impl Deadlines {
    /// Sets or moves the deadline of a lease to `ttl_seconds` from now.
    pub(crate) fn set(&self, id: LeaseId, ttl_seconds: u64) {
        let at = Instant::now() + Duration::from_secs(ttl_seconds);
        let mut state = self.state.lock();
        if let Some(old) = state.1.insert(id, at) {
            state.0.remove(&(old, id));
        }
        state.0.insert((at, id));
        drop(state);
        self.changed.notify_one();
    }

    /// Forgets a lease.
    pub(crate) fn remove(&self, id: LeaseId) {
        let mut state = self.state.lock();
        if let Some(at) = state.1.remove(&id) {
            state.0.remove(&(at, id));
        }
    }

    /// Waits for the next lease to run out and takes it.
    pub(crate) async fn next(&self) -> LeaseId {
        loop {
            let earliest = self.state.lock().0.first().copied();
            match earliest {
                None => self.changed.notified().await,
                Some((at, id)) if at <= Instant::now() => {
                    self.remove(id);
                    return id;
                }
                Some((at, _)) => {
                    tokio::select! {
                        biased;
                        () = sleep_until(at) => {}
                        () = self.changed.notified() => {}
                    }
                }
            }
        }
    }
}
