//! Where a controller stands, read off when somebody asks; see [`crate::diagnostics`].

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;

use crate::{
    Key, clock,
    diagnostics::{ControllerState, InFlight, KEYS_MAX, Retrying, Totals},
    failing::Failing,
    metrics::ControllerMetrics,
    queue::SharedQueue,
};

/// One run of a controller.
pub(crate) struct Status {
    pub(crate) name: &'static str,
    pub(crate) workers: usize,
    pub(crate) queue: SharedQueue,
    pub(crate) metrics: ControllerMetrics,
    pub(crate) failing: Failing,
    /// Its caches have their first list.
    pub(crate) started: AtomicBool,
    /// Keys that wait for their own writes.
    pub(crate) held: Mutex<BTreeSet<Key>>,
}

impl Status {
    pub(crate) fn state(&self) -> ControllerState {
        let mut state = ControllerState {
            name: self.name.to_owned(),
            started: self.started.load(Ordering::Relaxed),
            workers: self.workers,
            totals: Totals {
                succeeded: self.metrics.success.get(),
                requeued: self.metrics.requeue_after.get(),
                failed: self.metrics.errors.get(),
                terminal: self.metrics.terminal.get(),
                panicked: self.metrics.panics.get(),
                timed_out: self.metrics.timeouts.get(),
            },
            ..ControllerState::default()
        };
        let Some(stand) = self.queue.stand(KEYS_MAX) else {
            state.ready.insert(0, self.queue.depth());
            return state;
        };
        state.ready = stand.ready.into_iter().map(|(priority, count)| (priority.0, count)).collect();
        (state.scheduled, state.more_keys) = (stand.scheduled, stand.more);
        let held = self.held.lock();
        let working = stand.working.into_iter().map(|(key, since)| InFlight {
            key: key.to_string(),
            since: clock::at(since),
            held: held.contains(&key),
        });
        state.in_flight = working.collect();
        drop(held);
        let retrying = stand.retrying.into_iter().map(|(key, failures, until)| Retrying {
            key: key.to_string(),
            failures,
            until: clock::at(until),
            error: self.failing.error(self.name, &key),
        });
        state.retrying = retrying.collect();
        state
    }
}
