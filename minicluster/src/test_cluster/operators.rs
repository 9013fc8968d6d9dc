//! Operators in a test's cluster: what their manifests would bring, their own account, and their webhooks over TLS.

use std::time::Duration;

use tokio::{task::JoinHandle, time::Instant};
use windlass::{CancellationToken, Operator, random::Source};

use super::{Identity, TestCluster};

/// Where operators run.
const NAMESPACE: &str = "default";
/// How long caches and webhooks may take to be ready, and how often that is looked at.
const READY_WITHIN: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(10);

/// An operator that runs in a test's cluster. It is stopped when this is dropped.
#[derive(Debug)]
pub struct RunningOperator {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl RunningOperator {
    /// Stops it, and waits until it has ended. What it installed stays.
    pub async fn stop(mut self) {
        self.stop.cancel();
        // A panic in it has been told by now.
        let _ = (&mut self.task).await;
    }
}

impl Drop for RunningOperator {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl TestCluster {
    /// Installs an operator in the namespace `default` and runs it until it is ready: as its own service account, with the
    /// roles that were derived from what it registered and no more, the cluster's faults in its way. API servers reach its
    /// webhooks without sockets, TLS included. One replica at a time.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// use minicluster::TestCluster;
    /// use windlass::Operator;
    ///
    /// let cluster = TestCluster::start().await;
    /// let running = cluster.run_operator(&Operator::new("idler")).await;
    /// running.stop().await;
    /// # }
    /// ```
    ///
    /// # Panics
    /// When the cluster does not take what it brings, or it is not ready within 120 s.
    pub async fn run_operator(&self, operator: &Operator) -> RunningOperator {
        let description = operator.description();
        let installed = description.install(&self.client(), NAMESPACE).await;
        installed.unwrap_or_else(|error| panic!("{} cannot be installed: {error}", description.name));
        let account = Identity::new(description.user(NAMESPACE), &["system:serviceaccounts"]);
        let client = self.component(&description.name, account);
        let mut manager = operator.manager(client, Source::seeded(self.seed()));
        for endpoint in &description.webhooks {
            let connections = self.serve(NAMESPACE, &endpoint.service, endpoint.port);
            manager = manager.connections(&endpoint.service, connections);
        }
        let manager = manager.build();
        let (ready, stop) = (manager.readiness(), CancellationToken::new());
        let stopped = stop.clone().cancelled_owned();
        let name = description.name;
        let called = name.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = manager.run(stopped).await {
                tracing::error!(%error, "the operator {called} stopped");
            }
        });
        let until = Instant::now() + READY_WITHIN;
        while !ready() {
            assert!(Instant::now() < until, "{name} is not ready within {READY_WITHIN:?}");
            tokio::time::sleep(LOOK).await;
        }
        RunningOperator { stop, task }
    }
}
