//! A revisioned key-value store, the only place where a cluster's state lives.
//!
//! The data model is etcd's: every transaction that changes something takes the next revision of the whole store, and
//! each key knows the revision that created it, the one that last changed it and how often it was changed. On top of
//! that there are consistent reads at the newest or an older revision, watches that resume from any revision still in
//! history, leases that delete their keys when they run out, and compaction that bounds the history.
//!
//! The store knows nothing of Kubernetes kinds, of JSON or of networks. It has one notion of its own: a value may ask
//! for the revision of its own write to be stamped into its bytes ([`Payload::stamped`]), so that an API server can
//! keep `metadata.resourceVersion` in the encoded object and hand the same bytes to every reader.
//!
//! ```text
//!            txn ──> Core::stage (preconditions, new revision)     reads, never blocked by writers
//!                        │                                              ▲
//!   memory: at once      ▼           durable: one fdatasync a batch     │
//!                  Engine::commit ──────────> publish ──> Snapshot (immutable map) + History (per topic)
//! ```
//!
//! * `core` decides: a state machine without I/O.
//! * [`Engine`] keeps: it makes a batch of changes durable. [`FjallEngine`] is the one that ships.
//! * [`Vault`] seals what reaches the disk, where that is wanted.
//! * [`Store`] is the handle: group commit, publication, watches, lease timers, compaction.

mod core;
mod engine;
mod fjall_engine;
mod history;
mod journal;
mod lease;
mod model;
mod store;
mod vault;
mod watch;

pub use engine::{Batch, Engine, EngineError, Image};
pub use fjall_engine::FjallEngine;
pub use history::{HISTORY_EVENTS_MAX, HISTORY_SUPERSEDED_BYTES_MAX};
pub use model::{
    Compare, Entry, Event, EventKind, LeaseId, Op, Outcome, Payload, RangeError, Revision, StoreError, Txn,
};
pub use store::{BATCH_MAX, COMPACTION_INTERVAL, Snapshot, Stats, Store};
pub use vault::{Opened, Seal, Sealed, Vault};
pub use watch::Watcher;
