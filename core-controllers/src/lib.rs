//! What Kubernetes decides: the built-in controllers, each a pure plan on the Windlass framework.
//!
//! A module a controller: what wakes it, a decision that is a function of what it sees, and a reconcile that carries it
//! out through the API. Names, flags, events, conditions and annotations are those of `kube-controller-manager`, so that
//! each can take over from its upstream twin. Start with [`replicaset`]; [`table`] lists them all.

mod backends;
mod batch;
mod by_node;
mod claim;
mod disruption;
mod history;
mod pod_control;
mod pods;
mod run;

pub mod clusterrole_aggregation;
pub mod cronjob;
pub mod daemonset;
pub mod deployment;
pub mod disruption_budget;
pub mod endpoints;
pub mod endpointslice;
pub mod endpointslice_mirroring;
pub mod garbage;
pub mod job;
pub mod namespace;
pub mod node_lifecycle;
pub mod pod_gc;
pub mod protection;
pub mod replicaset;
pub mod resource_quota;
pub mod root_ca;
pub mod service_account;
pub mod statefulset;
pub mod table;
pub mod taint_eviction;
pub mod ttl_after_finished;

#[cfg(test)]
mod testing;

pub use run::{LEASE, RunOptions, manager, run};

use std::time::Duration;

/// What controllers are told at their start.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many keys each controller works on at a time.
    pub workers: usize,
    /// How long a node may be silent before it is not ready.
    pub node_monitor_grace: Duration,
    /// The CA that pods verify the API server with, in PEM; published to every namespace.
    pub root_ca: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { workers: 5, node_monitor_grace: Duration::from_secs(50), root_ca: None }
    }
}
