//! Tasks a kubelet waits for when it stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts running tasks. Each is bounded by what it works for: a pod has at most one drive, one writer and one stop
/// per container.
#[derive(Clone, Default)]
pub(crate) struct Tasks {
    inner: Arc<(AtomicUsize, Notify)>,
}

struct Running(Tasks);

impl Drop for Running {
    fn drop(&mut self) {
        let (count, idle) = &*self.0.inner;
        if count.fetch_sub(1, Ordering::AcqRel) == 1 {
            idle.notify_waiters();
        }
    }
}

impl Tasks {
    /// Runs a task and counts it until its end, however it ends.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.inner.0.fetch_add(1, Ordering::AcqRel);
        let running = Running(self.clone());
        tokio::spawn(async move {
            work.await;
            drop(running);
        });
    }

    /// Waits until none runs.
    pub(crate) async fn idle(&self) {
        loop {
            let notified = self.inner.1.notified();
            if self.inner.0.load(Ordering::Acquire) == 0 {
                return;
            }
            notified.await;
        }
    }
}
