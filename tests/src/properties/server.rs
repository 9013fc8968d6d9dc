//! An API server for properties, with a runtime of its own: both live as long as the thread that asks.

use minicluster::TestCluster;
use tokio::runtime::{Builder, Runtime};

/// A server, and the runtime that it lives in.
pub(super) struct Server {
    pub(super) runtime: Runtime,
    pub(super) cluster: TestCluster,
}

impl Server {
    /// Starts one under virtual time, and lets `prepare` fill it.
    pub(super) fn start(prepare: impl AsyncFnOnce(&TestCluster)) -> Self {
        let runtime =
            Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let cluster = runtime.block_on(async {
            let cluster = TestCluster::start().await;
            prepare(&cluster).await;
            cluster
        });
        Self { runtime, cluster }
    }
}
