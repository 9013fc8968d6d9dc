//! What Kubernetes decides: the built-in controllers, each a pure plan on the Windlass framework.
//!
//! A module a controller: what wakes it, a decision that is a function of what it sees, and a reconcile that carries it
//! out through the API. Names, flags, events, conditions and annotations are those of `kube-controller-manager`, so that
//! each can take over from its upstream twin. Start with [`replicaset`]; [`table`] lists them all.

mod backends;
mod batch;
mod claim;
mod discovery;
mod pods;

pub mod deployment;
pub mod endpoints;
pub mod endpointslice;
pub mod namespace;
pub mod replicaset;
pub mod root_ca;
mod run;
pub mod service_account;
pub mod table;

#[cfg(test)]
mod testing;

pub use run::{LEASE, RunOptions, manager, run};

/// What controllers are told at their start.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many keys each controller works on at a time.
    pub workers: usize,
    /// The CA that pods verify the API server with, in PEM; published to every namespace.
    pub root_ca: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { workers: 5, root_ca: None }
    }
}
