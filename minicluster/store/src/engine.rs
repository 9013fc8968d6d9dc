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

    /// Returns when the whole batch is on stable storage. After an error any part of it may be; the next call is
    /// [`Engine::reopen`] then.
    ///
    /// # Errors
    /// When the device refuses the write, a full disk for instance.
    fn commit(&mut self, batch: &Batch) -> Result<(), EngineError>;

    /// Opens what is kept anew, after a commit that failed, and returns the revision and the highest lease id found.
    ///
    /// # Errors
    /// When the files cannot be opened; the engine is asked again later.
    fn reopen(&mut self) -> Result<(Revision, LeaseId), EngineError>;

    /// Bytes used on disk.
    fn disk_bytes(&self) -> u64;
}

/// Keeps nothing.
#[derive(Debug)]
pub(crate) struct InMemory;

impl Engine for InMemory {
    fn load(&mut self) -> Result<Image, EngineError> {
        Ok(Image::default())
    }

    fn commit(&mut self, _: &Batch) -> Result<(), EngineError> {
        Ok(())
    }

    fn reopen(&mut self) -> Result<(Revision, LeaseId), EngineError> {
        Err(EngineError::Other("a store in memory has nothing to open again".to_owned()))
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
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
    /// A value on the disk cannot be opened.
    #[error("data directory {path}: {key} cannot be decrypted: {why}", path = path.display())]
    Sealed {
        /// Where the data is.
        path: PathBuf,
        /// The key of the value.
        key: String,
        /// What the vault said.
        why: String,
    },
    /// The engine reported something else.
    #[error("{0}")]
    Other(String),
}
