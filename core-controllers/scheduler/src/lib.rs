//! The Kubernetes scheduler: which node runs which pod.
//!
//! ```text
//! pods, nodes (informers) ──> Snapshot (columns, updated in place) ──┐
//!            └──> Queue (active, backoff, unschedulable) ──> decide ─┴─> assume, then bind in the background
//! ```
//!
//! [`decide`] is pure: a pod and a snapshot in, a node or the reasons why not out. [`plugins`] are functions of one
//! pod and one node, in one table with upstream's names and weights. The loop in [`run`](Scheduler) is the thin rim.
//! Upstream: `pkg/scheduler`, v1.36.

mod bind;
pub mod cycle;
pub mod plugins;
pub mod pod;
mod preemption;
pub mod queue;
mod resources;
mod run;
pub mod snapshot;

pub use cycle::{Decision, decide};
pub use pod::PodInfo;
pub use run::{LEASE, Scheduler};
pub use snapshot::Snapshot;
