//! What makes a batch durable.

use std::{io, path::PathBuf};

use crate::model::{Entry, Event, LeaseId, Revision};

/// Everything an engine had kept when it was opened.
#[derive(Debug, Default)]
pub struct Image {
    /// The newest durable revision.
    pub revision: Revision,
    /// The highest lease id ever given.
    pub next_lease: LeaseId,
    /// Leases and their time to live in seconds.
    pub leases: Vec<(LeaseId, u64)>,
    /// The live entries, in any order.
    pub entries: Vec<Entry>,
}

/// Changes that become durable together.
#[derive(Debug, Default)]
pub struct Batch {
    /// The store's revision after the batch.
    pub revision: Revision,
    /// The highest lease id ever given.
    pub next_lease: LeaseId,
    /// What changed, in order of revision.
    pub events: Vec<Event>,
    /// Leases granted, with their time to live in seconds.
    pub granted: Vec<(LeaseId, u64)>,
    /// Leases that ended.
    pub revoked: Vec<LeaseId>,
}

impl Batch {
    /// True when there is nothing to keep.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.granted.is_empty() && self.revoked.is_empty()
    }
}

/// Keeps batches. All calls come from one thread.
pub trait Engine: Send + 'static {
    /// Reads everything kept so far.
    ///
    /// # Errors
    /// When the files cannot be read or do not make sense.
    fn load(&mut self) -> Result<Image, EngineError>;

    /// Returns when the whole batch is on stable storage; on an error none of it is, nor ever will be.
    ///
    /// # Errors
    /// When the device refuses the write, a full disk for instance.
    fn commit(&mut self, batch: &Batch) -> Result<(), EngineError>;

    /// Bytes used on disk.
    fn disk_bytes(&self) -> u64;
}

/// Why an engine failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The directory cannot be used.
    #[error("data directory {path}: {source}", path = path.display())]
    Directory {
        /// Where the data should be.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("data directory {path} is in use by another process: stop it, or choose another --data-dir", path = .0.display())]
    InUse(PathBuf),
    /// The files are there but damaged.
    #[error("data directory {path} is damaged ({detail}): restore a backup, or move it away and start empty", path = path.display())]
    Damaged {
        /// Where the data is.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The engine reported something else.
    #[error("{0}")]
    Other(String),
}
