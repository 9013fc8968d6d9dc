//! Assertions that wait, on virtual time: that something comes to hold, goes on holding, or never does.
//!
//! A check runs at first, a millisecond after every write to the cluster, and at the end of its time; nothing is polled
//! in between. A failure says what was waited for, and the last lines of what happened.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::TestCluster;

/// How much of the transcript a failure shows.
const SHOWN: usize = 20;

/// Time for those who follow a write to take note of it: what changes besides the store is looked at again then.
const AFTERWARDS: Duration = Duration::from_millis(1);

impl TestCluster {
    /// Waits until a check holds, or gives something.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// # use std::time::Duration;
    /// # use k8s_openapi::api::core::v1::ServiceAccount;
    /// # let cluster = minicluster::TestCluster::builder().controllers(&["*"]).start().await;
    /// let accounts = kube::Api::<ServiceAccount>::default_namespaced(cluster.client());
    /// let found = cluster
    ///     .eventually("the default service account", Duration::from_secs(10), async || {
    ///         accounts.get_opt("default").await.unwrap()
    ///     })
    ///     .await;
    /// assert_eq!(found.metadata.name.as_deref(), Some("default"));
    /// # }
    /// ```
    ///
    /// # Panics
    /// When it does not hold in time.
    #[track_caller]
    pub fn eventually<T>(
        &self,
        what: &str,
        within: Duration,
        mut check: impl AsyncFnMut() -> Option<T>,
    ) -> impl Future<Output = T> {
        let caller = std::panic::Location::caller();
        async move {
            let mut held = None;
            let ended = self.watched(within, async || {
                held = check().await;
                held.is_some()
            });
            ended.await;
            held.unwrap_or_else(|| panic!("{caller}: {what}: not within {within:?}{}", self.shown()))
        }
    }

    /// Checks that something holds now and goes on holding for a while.
    ///
    /// # Panics
    /// When it once does not.
    #[track_caller]
    pub fn stays(
        &self,
        what: &str,
        time: Duration,
        mut check: impl AsyncFnMut() -> bool,
    ) -> impl Future<Output = ()> {
        let (caller, start) = (std::panic::Location::caller(), Instant::now());
        async move {
            if self.watched(time, async || !check().await).await {
                let after = start.elapsed();
                panic!("{caller}: {what}: no longer after {after:?}{}", self.shown());
            }
        }
    }

    /// Checks that something does not hold now and does not come to hold for a while.
    ///
    /// # Panics
    /// When it once does.
    #[track_caller]
    pub fn never(
        &self,
        what: &str,
        time: Duration,
        mut check: impl AsyncFnMut() -> bool,
    ) -> impl Future<Output = ()> {
        let (caller, start) = (std::panic::Location::caller(), Instant::now());
        async move {
            if self.watched(time, async || check().await).await {
                let after = start.elapsed();
                panic!("{caller}: {what}: after {after:?} it was so{}", self.shown());
            }
        }
    }

    /// Runs a check after each write until it holds or the time is over; says which.
    async fn watched(&self, time: Duration, mut check: impl AsyncFnMut() -> bool) -> bool {
        let until = Instant::now() + time;
        loop {
            // Taken before the look, so that a write in between is not missed.
            let written = self.server.transcript.written();
            tokio::pin!(written);
            written.as_mut().enable();
            if check().await {
                return true;
            }
            if timeout_at(until, written).await.is_err() {
                return check().await;
            }
            tokio::time::sleep(AFTERWARDS).await;
        }
    }

    fn shown(&self) -> String {
        let lines = self.journal();
        let from = lines.len().saturating_sub(SHOWN);
        let mut shown = format!("\nseed {}; what happened last:\n", self.seed());
        lines[from..].iter().for_each(|line| shown.push_str(&format!("  {line}\n")));
        shown
    }
}
