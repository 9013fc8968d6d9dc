//! What was asked of a test's cluster and what was written to it, in order: two runs of one seed must not differ in a
//! single line.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::Timestamp;
use minicluster_store::{Batch, Engine, EngineError, EventKind, Image, LeaseId, Revision};
use parking_lot::Mutex;
use tokio::sync::{Notify, futures::Notified};
use windlass::clock;

/// Requests that are remembered; the oldest are forgotten first.
const ASKED_MAX: usize = 1 << 16;

/// One request, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// When it was answered, by the wall clock of the simulation.
    pub at: Timestamp,
    /// The store's newest revision then.
    pub revision: Revision,
    /// Who asked; empty for a stranger.
    pub user: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or a method.
    pub verb: &'static str,
    /// The path, with its query.
    pub path: String,
    /// The status, or what went wrong instead of an answer.
    pub outcome: String,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, revision, user, verb, path, outcome } = self;
        write!(f, "{at:.3} {revision} {user}: {verb} {path} -> {outcome}")
    }
}

/// One line of what happened in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// Somebody asked.
    Asked(Asked),
    /// Something was written, which all who watch are told.
    Written(Write),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked(asked) => asked.fmt(f),
            Self::Written(write) => write.fmt(f),
        }
    }
}

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
    asked: Arc<Mutex<VecDeque<Asked>>>,
    wake: Arc<Notify>,
    /// The newest revision and lease.
    kept: (Revision, LeaseId),
    fails: Arc<AtomicBool>,
}

impl Transcript {
    pub(super) fn lines(&self) -> Vec<Write> {
        self.lines.lock().clone()
    }

    /// A transcript of what follows, for a store that begins at this revision.
    pub(super) fn starting_at(revision: Revision) -> Self {
        Self { kept: (revision, 0), ..Self::default() }
    }

    /// Notes a request.
    pub(super) fn asked(&self, user: &str, verb: &'static str, path: &str, outcome: &str) {
        let revision = self.lines.lock().last().map_or(self.kept.0, |write| write.revision);
        let mut asked = self.asked.lock();
        if asked.len() == ASKED_MAX {
            asked.pop_front();
        }
        let (user, path, outcome) = (user.to_owned(), path.to_owned(), outcome.to_owned());
        asked.push_back(Asked { at: clock::now(), revision, user, verb, path, outcome });
    }

    /// Resolves at the next write.
    pub(super) fn written(&self) -> Notified<'_> {
        self.wake.notified()
    }

    /// Requests and writes. A write comes before the answer to whoever asked for it.
    pub(super) fn all(&self) -> Vec<Line> {
        let writes = self.lines();
        let mut writes = writes.into_iter().peekable();
        let mut lines = Vec::new();
        for asked in self.asked.lock().iter() {
            while let Some(write) = writes.next_if(|w| w.revision <= asked.revision) {
                lines.push(Line::Written(write));
            }
            lines.push(Line::Asked(asked.clone()));
        }
        lines.extend(writes.map(Line::Written));
        lines
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
        self.wake.notify_waiters();
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
