//! A value that tasks wait on.
//!
//! Tokio's `watch` channel wakes its waiters in an order drawn from the process's own randomness; here they wake in the
//! order in which they began to wait, so that a simulation replays from its seed.

use parking_lot::Mutex;
use tokio::sync::Notify;

/// A value that is set by some and waited for by others.
#[derive(Debug, Default)]
pub(crate) struct Signal<T> {
    value: Mutex<T>,
    changed: Notify,
}

impl<T: Copy> Signal<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { value: Mutex::new(value), changed: Notify::new() }
    }

    pub(crate) fn get(&self) -> T {
        *self.value.lock()
    }

    /// Sets the value and lets everybody look, even when it is the same as before.
    pub(crate) fn set(&self, value: T) {
        *self.value.lock() = value;
        self.changed.notify_waiters();
    }

    /// Makes the value another, and lets everybody look.
    pub(crate) fn update(&self, next: impl FnOnce(T) -> T) {
        {
            let mut value = self.value.lock();
            *value = next(*value);
        }
        self.changed.notify_waiters();
    }

    /// Waits until the value is one that `wanted` takes.
    pub(crate) async fn wait_for(&self, mut wanted: impl FnMut(T) -> bool) {
        loop {
            // Taken before the look, so that a change in between is not missed.
            let changed = self.changed.notified();
            if wanted(self.get()) {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waiters_wake_in_the_order_in_which_they_came() {
        let (signal, woken) = (Arc::new(Signal::new(0)), Arc::new(Mutex::new(Vec::new())));
        let mut tasks = tokio::task::JoinSet::new();
        for waiter in 0..32 {
            let (signal, woken) = (signal.clone(), woken.clone());
            tasks.spawn(async move {
                signal.wait_for(|at| at >= 7).await;
                woken.lock().push(waiter);
            });
        }
        tokio::task::yield_now().await;
        signal.set(3);
        tokio::task::yield_now().await;
        assert!(woken.lock().is_empty());
        signal.set(7);
        tasks.join_all().await;
        assert!(woken.lock().is_sorted(), "{:?}", woken.lock());
    }
}
