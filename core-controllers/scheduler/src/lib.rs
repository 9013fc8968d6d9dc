//! The Kubernetes scheduler: which node runs which pod.
//!
//! ```text
//! pods, nodes (informers) ──> Snapshot (columns, updated in place) ──┐
//!            └──> Queue (active, backoff, unschedulable) ──> decide ─┴─> assume, then bind in the background
//! ```
//!
//! [`decide`] is pure: a pod and a snapshot in, a node or the reasons why not out. [`plugins`] are functions of one
//! pod and one node, in one table with upstream's names and weights; a [`Plugin`] of one's own stands beside them at any of
//! upstream's extension points. A [`Profile`] says which of them decide about whose pods. The loop in [`run`](Scheduler) is
//! the thin rim. Upstream: `pkg/scheduler`, v1.36.

mod bind;
mod binding;
mod builder;
pub mod config;
pub mod cycle;
mod metrics;
pub mod node_affinity;
pub mod plugin;
pub mod plugins;
pub mod pod;
mod preemption;
mod profile;
pub mod queue;
mod resources;
mod run;
pub mod snapshot;
pub mod waiting;

pub use builder::{Builder, ConfigError};
pub use config::Configuration;
pub use cycle::{Cycle, Decision, Refusals, decide};
pub use futures::future::BoxFuture;
pub use plugin::{BindError, Binding, Event, Permit, Plugin, Point, PreFilter, Preemption, Reject, State};
pub use plugins::{Change, Normalize, Refusal};
pub use pod::PodInfo;
pub use profile::{DEFAULT_NAME, Profile};
pub use resources::Amounts;
pub use run::{LEASE, Scheduler};
pub use snapshot::{Index, Snapshot};
pub use waiting::Waiting;
