//! The vocabulary of the store: entries, events, transactions and errors.

use std::{
    any::Any,
    sync::{Arc, OnceLock, atomic::AtomicU32},
};

use bytes::{Bytes, BytesMut};

/// A point in the store's history. 0 means "before everything"; the first write makes 1.
pub type Revision = u64;

/// The name of a lease; 0 means "no lease".
pub type LeaseId = u64;

/// A value on its way into the store.
#[derive(Clone, Debug)]
pub struct Payload {
    pub(crate) bytes: Bytes,
    pub(crate) stamp: Option<u32>,
}

impl Payload {
    /// A value stored as it is.
    pub fn plain(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), stamp: None }
    }

    /// A value into which the revision of its write is inserted, in decimal digits, at byte offset `at`.
    ///
    /// # Panics
    /// When `at` lies outside `bytes` or beyond 4 GiB: the caller computed it from the same buffer.
    pub fn stamped(bytes: impl Into<Bytes>, at: usize) -> Self {
        let bytes = bytes.into();
        assert!(at <= bytes.len(), "stamp offset {at} lies outside a value of {} bytes", bytes.len());
        Self { bytes, stamp: Some(u32::try_from(at).expect("values are far smaller than 4 GiB")) }
    }

    /// The bytes as they look when written at `revision`.
    pub(crate) fn at(&self, revision: Revision) -> Bytes {
        let Some(at) = self.stamp else { return self.bytes.clone() };
        splice(&self.bytes[..at as usize], revision, &self.bytes[at as usize..])
    }
}

fn splice(head: &[u8], revision: Revision, tail: &[u8]) -> Bytes {
    let digits = revision.to_string();
    let mut out = BytesMut::with_capacity(head.len() + digits.len() + tail.len());
    out.extend_from_slice(head);
    out.extend_from_slice(digits.as_bytes());
    out.extend_from_slice(tail);
    out.freeze()
}

/// One key as it was at one revision. Immutable and shared.
#[derive(Debug)]
pub struct Entry {
    /// The full key, `/registry/pods/default/web-1`.
    pub key: Arc<str>,
    /// The stored bytes, the revision already stamped in.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: Revision,
    /// The revision that wrote this value.
    pub mod_revision: Revision,
    /// How many times the key has been written since its creation, from 1.
    pub version: u64,
    /// The lease the key belongs to, or 0.
    pub lease: LeaseId,
    pub(crate) stamp: Option<u32>,
    /// What sealed it on the disk.
    pub(crate) seal: AtomicU32,
    pub(crate) tag: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl Entry {
    /// The value with another revision in the stamped place: what a delete at `revision` shows its watchers.
    pub fn restamped(&self, revision: Revision) -> Bytes {
        let Some(at) = self.stamp else { return self.value.clone() };
        let at = at as usize;
        let digits = decimal_len(self.mod_revision);
        splice(&self.value[..at], revision, &self.value[at + digits..])
    }

    /// What the reader once derived from these bytes, computed at most once for each entry.
    ///
    /// The store does not look at it; a second call with another type computes anew and keeps nothing.
    pub fn derived<T: Send + Sync + 'static>(&self, derive: impl Fn(&[u8]) -> T) -> Arc<T> {
        let tag = self.tag.get_or_init(|| Arc::new(derive(&self.value)));
        Arc::clone(tag).downcast().unwrap_or_else(|_| Arc::new(derive(&self.value)))
    }
}

fn decimal_len(n: u64) -> usize {
    n.checked_ilog10().map_or(1, |digits| digits as usize + 1)
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Created or changed.
    Put,
    /// Deleted, by a transaction or by a lease that ran out.
    Delete,
}

/// One change of one key.
#[derive(Clone, Debug)]
pub struct Event {
    /// The revision of the change.
    pub revision: Revision,
    /// What happened.
    pub kind: EventKind,
    /// The new state after a put; the last state before a delete.
    pub entry: Arc<Entry>,
    /// The state before, when the key existed.
    pub prev: Option<Arc<Entry>>,
}

/// A precondition of a transaction: the key's mod revision, 0 for "does not exist".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: Arc<str>,
    /// Its expected mod revision.
    pub mod_revision: Revision,
}

/// One change of a transaction.
#[derive(Clone, Debug)]
pub enum Op {
    /// Create or replace.
    Put {
        /// The key.
        key: Arc<str>,
        /// The new value.
        payload: Payload,
        /// The lease to attach the key to, or 0.
        lease: LeaseId,
    },
    /// Delete; a key that does not exist is left alone.
    Delete {
        /// The key.
        key: Arc<str>,
    },
}

impl Op {
    pub(crate) fn key(&self) -> &Arc<str> {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// Changes that happen together, at one revision, when every precondition holds.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// The preconditions.
    pub compares: Vec<Compare>,
    /// The changes, in order; a key appears at most once.
    pub ops: Vec<Op>,
}

impl Txn {
    /// Writes `key` if its mod revision is `expected` (0: only if it does not exist).
    pub fn put(key: impl Into<Arc<str>>, payload: Payload, expected: Revision) -> Self {
        let key = key.into();
        Self {
            compares: vec![Compare { key: Arc::clone(&key), mod_revision: expected }],
            ops: vec![Op::Put { key, payload, lease: 0 }],
        }
    }

    /// Deletes `key` if its mod revision is `expected`.
    pub fn delete(key: impl Into<Arc<str>>, expected: Revision) -> Self {
        let key = key.into();
        Self {
            compares: vec![Compare { key: Arc::clone(&key), mod_revision: expected }],
            ops: vec![Op::Delete { key }],
        }
    }

    /// Attaches every key that this transaction writes to `lease`.
    #[must_use]
    pub fn with_lease(mut self, id: LeaseId) -> Self {
        for op in &mut self.ops {
            if let Op::Put { lease, .. } = op {
                *lease = id;
            }
        }
        self
    }
}

/// What became of a transaction.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It happened, durably.
    Committed {
        /// Its revision; the store's current one when nothing was to change.
        revision: Revision,
        /// For each operation, in order, the entry written or deleted.
        entries: Vec<Option<Arc<Entry>>>,
    },
    /// A precondition did not hold and nothing changed.
    Conflict {
        /// For each comparison, in order, the entry as it is.
        current: Vec<Option<Arc<Entry>>>,
    },
}

/// Why a read at a revision, or a watch from one, cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// History before this revision is gone.
    #[error("the required revision has been compacted: the oldest kept is {floor}")]
    Compacted {
        /// The oldest revision that can still be read.
        floor: Revision,
    },
    /// The revision has not happened yet.
    #[error("the required revision is in the future: the current one is {current}")]
    Future {
        /// The newest revision.
        current: Revision,
    },
}

/// Why a write failed without a verdict on its preconditions.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The engine could not make the write durable; nothing changed.
    #[error("the store could not write: {0}")]
    Engine(Arc<crate::EngineError>),
    /// The value cannot be sealed at present; nothing changed.
    #[error("{0}")]
    Sealing(String),
    /// The named lease does not exist or has run out.
    #[error("requested lease not found: {0}")]
    LeaseNotFound(LeaseId),
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}
