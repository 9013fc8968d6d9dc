//! How a Kubernetes controller lives: informers, queues, controllers, leader election and a manager.
//!
//! Windlass hauls the actual state to the desired one, turn by turn. This crate is the machine that turns: it watches
//! each kind once per process ([`Informers`]), keeps what it saw in indexed caches ([`Lister`], [`Index`]) and tells
//! subscribers what changed ([`Delta`]).
//!
//! It knows no built-in kind: whatever is decided about Pods or Nodes is decided by the crates that use it. It never
//! reads the machine's clock but through [`clock`], and never draws a random number but from a seeded
//! [`random::Source`], so that everything here runs under tokio's virtual time and replays from a seed.

pub mod clock;
pub mod random;

mod delta;
mod deltas;
mod index;
mod informer;
mod informers;
mod key;
mod listwatch;
mod object;
mod prune;
mod scope;
mod store;
mod wire;

pub use delta::Delta;
pub use deltas::Deltas;
pub use index::{ByLabel, ByOwner, ByValue, Index, Indexed, by};
pub use informer::{Informer, Subscription};
pub use informers::Informers;
pub use key::Key;
pub use listwatch::WatchError;
pub use object::{BoxError, Object, revision_of};
pub use scope::{Scope, Strip};
pub use store::Lister;
