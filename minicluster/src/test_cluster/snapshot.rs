//! A cluster kept as it is, to begin from again: a thousand tests start where one preparation ended.
//!
//! What is stored is shared, not copied, until somebody changes it. The parts of a cluster that begins from a snapshot
//! are started anew, as after a crash of every process: informers list, controllers look at everything once, kubelets
//! find their containers running. Programs of scripted pods begin at their first line again.

use std::sync::Arc;

use jiff::Timestamp;
use minicluster_kubelet::runtime::hollow::Frozen;
use minicluster_store as store;
use windlass::{clock, random::Source};

use super::{Builder, Faults, TestCluster, nodes::Scripts};
use crate::pki::Pki;

/// A cluster at one moment. Clones are the same moment.
#[derive(Clone)]
pub struct Snapshot {
    pub(super) wanted: Builder,
    pub(super) pki: Arc<Pki>,
    pub(super) state: store::Snapshot,
    pub(super) at: Timestamp,
    /// Hollow nodes that were alive, and what ran on them.
    pub(super) nodes: Vec<(u32, Frozen)>,
    /// What pods had been told to do.
    pub(super) scripts: Scripts,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("revision", &self.state.revision()).finish_non_exhaustive()
    }
}

impl Snapshot {
    /// Another future: everything random is drawn from this seed from now on.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.wanted.seed = seed;
        self
    }

    /// What goes wrong by chance from now on.
    #[must_use]
    pub fn faults(mut self, faults: Faults) -> Self {
        self.wanted.faults = faults;
        self
    }

    /// A cluster that begins here. On a runtime of its own its wall clock shows the time of the snapshot; beside others
    /// it shows theirs.
    ///
    /// # Panics
    /// As [`Builder::start`].
    pub async fn start(&self) -> TestCluster {
        let mut wanted = self.wanted.clone();
        // A fork must not draw the numbers again that names and uids of its past were made of.
        wanted.seed = Source::seeded(wanted.seed).fork(&format!("from {}", self.state.revision())).seed();
        let seed = self.wanted.seed;
        TestCluster::begin(wanted, seed, Arc::clone(&self.pki), Some(self)).await
    }
}

impl TestCluster {
    /// Keeps this cluster as it is now.
    pub fn snapshot(&self) -> Snapshot {
        let nodes = self.nodes.lock();
        let alive = nodes.values().filter(|node| !node.stop.is_cancelled());
        Snapshot {
            wanted: self.wanted.clone(),
            pki: Arc::clone(&self.pki),
            state: self.store.snapshot(),
            at: clock::now(),
            nodes: alive.map(|node| (node.number, node.runtime.freeze())).collect(),
            scripts: self.scripts.branch(),
        }
    }

    /// A second cluster that begins as this one is now; from then on neither sees the other.
    pub async fn fork(&self) -> Self {
        self.snapshot().start().await
    }
}
