//! What was written to a test's cluster, in order: two runs of one seed must not differ in a single line.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::Timestamp;
use minicluster_store::{Batch, Engine, EngineError, EventKind, Image, LeaseId, Revision};
use parking_lot::Mutex;
use windlass::clock;

/// One write of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// When, by the wall clock of the simulation.
    pub at: Timestamp,
    /// The revision that it made.
    pub revision: Revision,
    /// `create`, `update` or `delete`.
    pub verb: &'static str,
    /// The key in the store, `/registry/pods/default/web-1`.
    pub key: Arc<str>,
    /// A digest of the object as it was stored; 0 where it holds the cluster's certificate, which is new in each run.
    pub digest: u64,
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} {} {} {} {:016x}", self.at, self.revision, self.verb, self.key, self.digest)
    }
}

/// An engine that keeps nothing but the list of writes, and fails when it is told to.
#[derive(Clone, Debug, Default)]
pub(super) struct Transcript {
    lines: Arc<Mutex<Vec<Write>>>,
    /// The newest revision and lease.
    kept: (Revision, LeaseId),
    fails: Arc<AtomicBool>,
}

impl Transcript {
    pub(super) fn lines(&self) -> Vec<Write> {
        self.lines.lock().clone()
    }

    pub(super) fn fail(&self, fails: bool) {
        self.fails.store(fails, Ordering::Relaxed);
    }

    fn check(&self) -> Result<(), EngineError> {
        let fails = self.fails.load(Ordering::Relaxed);
        if fails { Err(EngineError::Other("No space left on device".to_owned())) } else { Ok(()) }
    }
}

impl Engine for Transcript {
    fn load(&mut self) -> Result<Image, EngineError> {
        Ok(Image::default())
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), EngineError> {
        self.check()?;
        self.kept = (batch.revision, batch.next_lease);
        let lines = batch.events.iter().map(|event| Write {
            at: clock::now(),
            revision: event.revision,
            verb: match (event.kind, &event.prev) {
                (EventKind::Delete, _) => "delete",
                (EventKind::Put, None) => "create",
                (EventKind::Put, Some(_)) => "update",
            },
            key: Arc::clone(&event.entry.key),
            digest: digest(&event.entry.value),
        });
        self.lines.lock().extend(lines);
        Ok(())
    }

    fn reopen(&mut self) -> Result<(Revision, LeaseId), EngineError> {
        self.check().map(|()| self.kept)
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

/// FNV-1a.
fn digest(bytes: &[u8]) -> u64 {
    const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";
    if bytes.windows(CERTIFICATE.len()).any(|w| w == CERTIFICATE) {
        return 0;
    }
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
