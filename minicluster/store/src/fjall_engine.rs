//! The durable engine: a log-structured tree whose journal takes each batch with one `fdatasync`.
//!
//! Only the newest state is kept on disk; history lives in memory. So the files do not grow with the number of writes
//! but with the live data: superseded values disappear in the tree's own compaction.
//!
//! With a [`Vault`] the values, not the keys and not the numbers beside them, are sealed in here and nowhere else: the
//! journal and the tables hold the same sealed bytes.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::{
    engine::{Batch, Engine, EngineError, Image},
    model::{Entry, EventKind, LeaseId, Revision},
    vault::Vault,
};

/// Reads are served from memory, so the tree needs hardly any cache.
const CACHE_BYTES: u64 = 1 << 20;
/// Small tables in memory: what is written is already in the store's own map.
const MEMTABLE_BYTES: u64 = 8 << 20;
const JOURNAL_BYTES_MAX: u64 = 64 << 20;
const HEADER_BYTES: usize = 36;
const NO_STAMP: u32 = u32::MAX;

/// An [`Engine`] over the `fjall` crate.
pub struct FjallEngine {
    path: PathBuf,
    vault: Option<Arc<dyn Vault>>,
    /// Closed after it could not be opened again.
    tables: Option<Tables>,
}

struct Tables {
    db: Database,
    entries: Keyspace,
    meta: Keyspace,
    leases: Keyspace,
}

impl std::fmt::Debug for FjallEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FjallEngine").field("path", &self.path).finish_non_exhaustive()
    }
}

impl FjallEngine {
    /// Opens or creates the data directory; repairs what a crash left half-written.
    ///
    /// # Errors
    /// [`EngineError::Directory`], [`EngineError::InUse`] or [`EngineError::Damaged`].
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        fs::create_dir_all(path)
            .map_err(|source| EngineError::Directory { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), vault: None, tables: Some(Tables::open(path)?) })
    }

    /// Seals every value with this vault from now on, and opens what is there with it.
    #[must_use]
    pub fn sealed_by(mut self, vault: Arc<dyn Vault>) -> Self {
        self.vault = Some(vault);
        self
    }

    fn opened(&self, mut entry: Entry) -> Result<Entry, EngineError> {
        let Some(vault) = &self.vault else { return Ok(entry) };
        let opened = vault.open(&entry.key, &entry.value).map_err(|why| EngineError::Sealed {
            path: self.path.clone(),
            key: entry.key.to_string(),
            why,
        })?;
        if let Some(bytes) = opened.bytes {
            entry.value = bytes.into();
        }
        entry.seal = opened.seal.into();
        Ok(entry)
    }

    /// An entry as it is to lie on the disk.
    fn kept(&self, entry: &Entry) -> Result<Vec<u8>, EngineError> {
        let Some(vault) = &self.vault else { return Ok(encode(entry, &entry.value)) };
        let sealed = vault.seal(&entry.key, &entry.value).map_err(EngineError::Other)?;
        entry.seal.store(sealed.seal, Ordering::Relaxed);
        Ok(encode(entry, sealed.bytes.as_deref().unwrap_or(&entry.value)))
    }

    fn tables(&self) -> Result<&Tables, EngineError> {
        self.tables.as_ref().ok_or_else(|| EngineError::Other("the data directory is closed".to_owned()))
    }

    fn damaged(&self, detail: impl Into<String>) -> EngineError {
        EngineError::Damaged { path: self.path.clone(), detail: detail.into() }
    }

    fn number(&self, name: &str) -> Result<u64, EngineError> {
        let kept = self.tables()?.meta.get(name).map_err(|e| self.damaged(e.to_string()))?;
        let Some(bytes) = kept else { return Ok(0) };
        let bytes = bytes.as_ref().try_into().map_err(|_| self.damaged(format!("{name} is no number")))?;
        Ok(u64::from_be_bytes(bytes))
    }
}

impl Tables {
    fn open(path: &Path) -> Result<Self, EngineError> {
        let open = || -> fjall::Result<Self> {
            let db = Database::builder(path)
                .cache_size(CACHE_BYTES)
                .max_journaling_size(JOURNAL_BYTES_MAX)
                .manual_journal_persist(true)
                .worker_threads(1)
                .open()?;
            let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
            Ok(Self {
                entries: db.keyspace("entries", options)?,
                meta: db.keyspace("meta", options)?,
                leases: db.keyspace("leases", options)?,
                db,
            })
        };
        open().map_err(|e| match e {
            fjall::Error::Locked => EngineError::InUse(path.to_owned()),
            fjall::Error::Io(source) if source.kind() != std::io::ErrorKind::InvalidData => {
                EngineError::Directory { path: path.to_owned(), source }
            }
            other => EngineError::Damaged { path: path.to_owned(), detail: other.to_string() },
        })
    }
}

impl Engine for FjallEngine {
    fn load(&mut self) -> Result<Image, EngineError> {
        let mut image = Image {
            revision: self.number("revision")?,
            next_lease: self.number("next_lease")?,
            ..Image::default()
        };
        let tables = self.tables()?;
        for guard in tables.entries.iter() {
            let (key, value) = guard.into_inner().map_err(|e| self.damaged(e.to_string()))?;
            let entry = decode(&key, &value).ok_or_else(|| self.damaged("an entry is too short"))?;
            image.entries.push(self.opened(entry)?);
        }
        for guard in tables.leases.iter() {
            let (id, ttl) = guard.into_inner().map_err(|e| self.damaged(e.to_string()))?;
            let (Ok(id), Ok(ttl)) = (id.as_ref().try_into(), ttl.as_ref().try_into()) else {
                return Err(self.damaged("a lease is no pair of numbers"));
            };
            image.leases.push((u64::from_be_bytes(id), u64::from_be_bytes(ttl)));
        }
        Ok(image)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), EngineError> {
        let tables = self.tables()?;
        let mut write = tables.db.batch().durability(Some(PersistMode::SyncData));
        for event in &batch.events {
            let key = event.entry.key.as_bytes();
            match event.kind {
                EventKind::Put => write.insert(&tables.entries, key, self.kept(&event.entry)?),
                EventKind::Delete => write.remove(&tables.entries, key),
            }
        }
        for (id, ttl) in &batch.granted {
            write.insert(&tables.leases, id.to_be_bytes(), ttl.to_be_bytes());
        }
        for id in &batch.revoked {
            write.remove(&tables.leases, id.to_be_bytes());
        }
        write.insert(&tables.meta, "revision", batch.revision.to_be_bytes());
        write.insert(&tables.meta, "next_lease", batch.next_lease.to_be_bytes());
        write.commit().map_err(|e| EngineError::Other(e.to_string()))
    }

    fn reopen(&mut self) -> Result<(Revision, LeaseId), EngineError> {
        // The lock on the directory goes with the old handles.
        self.tables = None;
        self.tables = Some(Tables::open(&self.path)?);
        Ok((self.number("revision")?, self.number("next_lease")?))
    }

    fn disk_bytes(&self) -> u64 {
        self.tables.as_ref().and_then(|t| t.db.disk_space().ok()).unwrap_or(0)
    }
}

fn encode(entry: &Entry, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + value.len());
    out.extend_from_slice(&entry.create_revision.to_be_bytes());
    out.extend_from_slice(&entry.mod_revision.to_be_bytes());
    out.extend_from_slice(&entry.version.to_be_bytes());
    out.extend_from_slice(&entry.lease.to_be_bytes());
    out.extend_from_slice(&entry.stamp.unwrap_or(NO_STAMP).to_be_bytes());
    out.extend_from_slice(value);
    out
}

fn decode(key: &[u8], bytes: &[u8]) -> Option<Entry> {
    let (header, value) = bytes.split_at_checked(HEADER_BYTES)?;
    let number = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let stamp = u32::from_be_bytes(header[32..36].try_into().expect("four bytes"));
    Some(Entry {
        key: Arc::from(std::str::from_utf8(key).ok()?),
        value: bytes::Bytes::copy_from_slice(value),
        create_revision: number(0),
        mod_revision: number(8),
        version: number(16),
        lease: number(24),
        stamp: (stamp != NO_STAMP).then_some(stamp),
        seal: AtomicU32::new(0),
        tag: OnceLock::new(),
    })
}
