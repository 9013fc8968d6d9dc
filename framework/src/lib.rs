//! How a Kubernetes controller lives: informers, queues, controllers, leader election and a manager.
//!
//! Windlass hauls the actual state to the desired one, turn by turn. This crate is the machine that turns: it watches
//! each kind once per process ([`Informers`]), keeps what it saw in indexed caches ([`Lister`], [`Index`]) and tells
//! subscribers what changed ([`Delta`]); it runs a [`Controller`] over them through a fair [`Queue`], lets it write
//! through a [`CachedClient`] whose writes the next turn sees, and a [`Manager`] starts and stops all of it, under a
//! [`Lease`] if there are replicas.
//!
//! A whole operator:
//!
//! ```no_run
//! use k8s_openapi::api::core::v1::ConfigMap;
//! use windlass::{Action, Controller, Error, EventType, Operator, Reconcile, Request};
//!
//! struct Greeter;
//!
//! impl Reconcile<ConfigMap> for Greeter {
//!     async fn reconcile(&self, request: Request<ConfigMap>) -> Result<Action, Error> {
//!         let Some(object) = request.object else { return Ok(Action::Done) };
//!         request.recorder.event(&*object, EventType::Normal, "Greeted", format!("Hello, {}", request.key));
//!         Ok(Action::Done)
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     Operator::new("greeter")
//!         .with(|manager| {
//!             manager.add(Controller::<ConfigMap>::new("greeter").build(Greeter));
//!         })
//!         .main()
//! }
//! ```
//!
//! What it may do in a cluster nobody has to write down: RBAC is made from what was registered ([`Rules`]), and requests
//! that were not registered are refused wherever it runs. `examples/operator.rs` is an operator with a custom kind, a
//! child and a status; `minicluster::TestCluster` tests it.
//!
//! It knows no built-in kind: whatever is decided about Pods or Nodes is decided by the crates that use it. It never
//! reads the machine's clock but through [`clock`], and never draws a random number but from a seeded
//! [`random::Source`], so that everything here runs under tokio's virtual time and replays from a seed.

pub mod clock;
pub mod random;

mod admin;
mod client;
mod conditions;
mod controller;
mod delta;
mod deltas;
mod error;
mod finalizers;
mod guard;
mod index;
mod informer;
mod informers;
mod key;
mod lease;
mod listwatch;
mod manager;
mod metrics;
mod object;
mod operator;
mod owners;
mod pool;
mod prune;
mod queue;
mod recorder;
mod rules;
mod scope;
mod signal;
mod store;
mod wire;

pub use client::CachedClient;
pub use conditions::{ConditionsExt, condition};
pub use controller::{Controller, Enqueue, Reconcile, Request};
pub use delta::Delta;
pub use deltas::Deltas;
pub use error::{Action, Error, sentence};
pub use finalizers::{Finalized, add_finalizer, has_finalizer, remove_finalizer};
pub use index::{ByLabel, ByOwner, ByValue, Index, Indexed, by};
pub use informer::{Informer, Subscription};
pub use informers::Informers;
pub use key::Key;
pub use lease::Lease;
pub use listwatch::WatchError;
pub use manager::{Manager, ManagerBuilder, RunCx, Runnable};
pub use metrics::Metrics;
pub use object::{BoxError, Object, revision_of};
pub use operator::{Description, Operator};
pub use owners::{controller_of, controller_ref, is_controlled_by};
pub use queue::{Add, Backoff, Fair, Item, Outcome, Priority, Queue, Work};
pub use recorder::{EventType, Recorder, reference};
pub use rules::{Place, Rules, Verbs};
pub use scope::{Scope, Strip};
pub use store::Lister;

/// Tells a process that runs for a while to stop: cloned into every part of it.
pub use tokio_util::sync::CancellationToken;
