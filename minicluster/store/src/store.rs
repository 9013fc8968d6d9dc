//! The handle: group commit, publication, reads at a revision, leases and compaction over time.

use std::{
    collections::BTreeMap,
    ops::Bound,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::{
    core::State,
    engine::{Engine, EngineError, InMemory},
    fjall_engine::FjallEngine,
    history::{History, topic_of},
    journal::{Change, Journal, Reply, Request},
    lease::Deadlines,
    model::{Entry, Event, EventKind, LeaseId, Op, Outcome, RangeError, Revision, StoreError, Txn},
    vault::Vault,
    watch::Watcher,
};

/// The most writes made durable together. More wait for the next batch; nothing is refused.
pub const BATCH_MAX: usize = 1024;

/// History older than one to two of these is forgotten.
pub const COMPACTION_INTERVAL: Duration = Duration::from_secs(300);

const QUEUE_MAX: usize = 4096;

/// The size on disk is asked for once in so many batches: it walks the files.
const DISK_BYTES_EVERY: u64 = 1024;

/// A shared handle to one store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("revision", &self.revision()).finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    pub(crate) published: ArcSwap<State>,
    topics: RwLock<Topics>,
    writer: Writer,
    deadlines: Deadlines,
    disk_bytes: AtomicU64,
    failure: ArcSwapOption<EngineError>,
    vault: Option<Arc<dyn Vault>>,
}

#[derive(Default)]
struct Topics {
    by_name: BTreeMap<Box<str>, Arc<Topic>>,
    floor: Revision,
}

pub(crate) struct Topic {
    pub(crate) history: RwLock<History>,
    /// Wakes watchers, in the order in which they began to wait.
    pub(crate) wake: Notify,
}

enum Writer {
    /// Nothing to wait for: the caller carries its own write out.
    Direct(Mutex<Journal>),
    /// One thread batches the writes of all callers.
    Thread(mpsc::Sender<Request>),
}

/// What the store holds, for status pages and metrics.
#[derive(Clone, Copy, Debug)]
pub struct Stats {
    /// The newest revision.
    pub revision: Revision,
    /// Live keys.
    pub keys: usize,
    /// Bytes of live values.
    pub value_bytes: u64,
    /// Events kept for watches.
    pub history_events: usize,
    /// Bytes on disk; 0 for a store in memory.
    pub disk_bytes: u64,
}

impl Store {
    /// A store in memory: it ends with the process.
    pub fn memory() -> Self {
        Self::direct(InMemory).expect("there is nothing to load")
    }

    /// A store over an engine, each write carried out by its caller: no thread, so that a simulation replays.
    ///
    /// # Errors
    /// What [`Engine::load`] says.
    pub fn direct(mut engine: impl Engine) -> Result<Self, EngineError> {
        let state = State::restore(engine.load()?);
        let journal = Journal::new(state.clone(), Box::new(engine));
        Ok(Self::assemble(state, Writer::Direct(Mutex::new(journal)), None))
    }

    /// A store that begins with what another held, each write carried out by its caller. Nothing is copied: the two
    /// share what neither has changed. History before the snapshot's revision is not there, as after a restart.
    pub fn branch(from: &Snapshot, engine: impl Engine) -> Self {
        let state = State::clone(&from.state);
        let journal = Journal::new(state.clone(), Box::new(engine));
        Self::assemble(state, Writer::Direct(Mutex::new(journal)), None)
    }

    /// Opens a durable store in a directory with the shipped engine.
    ///
    /// # Errors
    /// What [`FjallEngine::open`] and [`Engine::load`] say.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        Self::with_engine(FjallEngine::open(path)?)
    }

    /// Opens a durable store whose values a vault seals. What was written without one, or with another of its keys, is
    /// read as long as the vault knows how. Blocks as long as the vault does.
    ///
    /// # Errors
    /// As [`Store::open`], and [`EngineError::Sealed`].
    pub fn open_sealed(path: &Path, vault: Arc<dyn Vault>) -> Result<Self, EngineError> {
        Self::start(FjallEngine::open(path)?.sealed_by(Arc::clone(&vault)), Some(vault))
    }

    /// Opens a durable store over any engine.
    ///
    /// # Errors
    /// What [`Engine::load`] says, or that no thread could be started.
    pub fn with_engine(engine: impl Engine) -> Result<Self, EngineError> {
        Self::start(engine, None)
    }

    fn start(mut engine: impl Engine, vault: Option<Arc<dyn Vault>>) -> Result<Self, EngineError> {
        let state = State::restore(engine.load()?);
        let (send, receive) = mpsc::channel(QUEUE_MAX);
        let store = Self::assemble(state.clone(), Writer::Thread(send), vault);
        let weak = Arc::downgrade(&store.inner);
        std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || write_loop(Journal::new(state, Box::new(engine)), receive, &weak))
            .map_err(|e| EngineError::Other(e.to_string()))?;
        Ok(store)
    }

    fn assemble(state: State, writer: Writer, vault: Option<Arc<dyn Vault>>) -> Self {
        let topics = Topics { floor: state.revision, ..Topics::default() };
        let deadlines = Deadlines::default();
        for (id, lease) in &state.leases {
            deadlines.set(*id, lease.ttl_seconds);
        }
        Self {
            inner: Arc::new(Inner {
                published: ArcSwap::from_pointee(state),
                topics: RwLock::new(topics),
                writer,
                deadlines,
                disk_bytes: AtomicU64::new(0),
                failure: ArcSwapOption::empty(),
                vault,
            }),
        }
    }

    /// The newest revision that readers can see.
    pub fn revision(&self) -> Revision {
        self.inner.published.load().revision
    }

    /// Why nothing can be written at present: the engine failed and could not be opened again yet. Reads go on.
    pub fn failure(&self) -> Option<Arc<EngineError>> {
        self.inner.failure.load_full()
    }

    /// True when an entry lies on the disk under another seal than it would get today: the next write of its object
    /// should be one, even if it changes nothing.
    pub fn is_stale(&self, entry: &Entry) -> bool {
        let current =
            |vault: &Arc<dyn Vault>| vault.is_current(&entry.key, entry.seal.load(Ordering::Relaxed));
        self.inner.vault.as_ref().is_some_and(|vault| !current(vault))
    }

    /// The whole state as it is now, unchanging.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { state: self.inner.published.load_full() }
    }

    /// One key as it is now.
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.inner.published.load().entries.get(key).cloned()
    }

    /// The entries under `prefix` as they were at `revision`, in key order.
    ///
    /// # Errors
    /// [`RangeError`] when that revision is compacted or has not happened yet.
    pub fn range_at(&self, prefix: &str, revision: Revision) -> Result<Vec<Arc<Entry>>, RangeError> {
        let now = self.inner.published.load_full();
        if revision > now.revision {
            return Err(RangeError::Future { current: now.revision });
        }
        let mut range: BTreeMap<Arc<str>, Arc<Entry>> =
            range(&now, prefix).map(|e| (Arc::clone(&e.key), Arc::clone(e))).collect();
        for topic in self.inner.topics_under(prefix) {
            let history = topic.history.read();
            for event in history.after(revision)?.rev() {
                if event.revision > now.revision || !event.entry.key.starts_with(prefix) {
                    continue;
                }
                match &event.prev {
                    Some(prev) => range.insert(Arc::clone(&prev.key), Arc::clone(prev)),
                    None => range.remove(&event.entry.key),
                };
            }
        }
        Ok(range.into_values().collect())
    }

    /// Carries out a transaction. When it returns `Committed`, the change is durable and every later read sees it.
    ///
    /// # Errors
    /// [`StoreError`]; nothing has changed then.
    pub async fn txn(&self, txn: Txn) -> Result<Outcome, StoreError> {
        if let Some(vault) = &self.inner.vault {
            let puts = txn.ops.iter().filter(|op| matches!(op, Op::Put { .. }));
            puts.map(Op::key).try_for_each(|key| vault.check(key)).map_err(StoreError::Sealing)?;
        }
        match self.inner.submit(Change::Txn(txn)).await? {
            Reply::Outcome(outcome) => Ok(outcome),
            Reply::Lease(_) => Err(StoreError::Closed),
        }
    }

    /// Makes a lease that runs out after `ttl_seconds` unless it is renewed.
    ///
    /// # Errors
    /// [`StoreError`] when it could not be kept.
    pub async fn grant(&self, ttl_seconds: u64) -> Result<LeaseId, StoreError> {
        match self.inner.submit(Change::Grant(ttl_seconds)).await? {
            Reply::Lease(id) => {
                self.inner.deadlines.set(id, ttl_seconds);
                Ok(id)
            }
            Reply::Outcome(_) => Err(StoreError::Closed),
        }
    }

    /// Gives a lease its full time again.
    ///
    /// # Errors
    /// [`StoreError::LeaseNotFound`].
    pub fn renew(&self, id: LeaseId) -> Result<(), StoreError> {
        let ttl = self.inner.published.load().leases.get(&id).map(|l| l.ttl_seconds);
        let ttl = ttl.ok_or(StoreError::LeaseNotFound(id))?;
        self.inner.deadlines.set(id, ttl);
        Ok(())
    }

    /// Ends a lease now and deletes its keys.
    ///
    /// # Errors
    /// [`StoreError`] when it could not be kept.
    pub async fn revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        self.inner.deadlines.remove(id);
        self.inner.submit(Change::Revoke(id)).await.map(drop)
    }

    /// Watches the keys under `prefix` for changes after revision `after`.
    ///
    /// # Errors
    /// [`RangeError`] when that revision is compacted or has not happened yet.
    pub fn watch(&self, prefix: &str, after: Revision) -> Result<Watcher, RangeError> {
        Watcher::new(Arc::clone(&self.inner), prefix, after)
    }

    /// Forgets the history up to and including `revision`.
    pub fn compact(&self, revision: Revision) {
        let mut topics = self.inner.topics.write();
        topics.floor = topics.floor.max(revision);
        for topic in topics.by_name.values() {
            topic.history.write().compact(revision);
        }
    }

    /// What the store holds.
    pub fn stats(&self) -> Stats {
        let state = self.inner.published.load();
        let topics = self.inner.topics.read();
        Stats {
            revision: state.revision,
            keys: state.entries.len(),
            value_bytes: state.value_bytes,
            history_events: topics.by_name.values().map(|t| t.history.read().len()).sum(),
            disk_bytes: self.inner.disk_bytes.load(Ordering::Relaxed),
        }
    }

    /// Ends leases that run out and compacts history, for ever. The owner of the store runs this once.
    pub async fn maintain(&self) {
        let mut compact_to = self.revision();
        let mut tick = tokio::time::interval(COMPACTION_INTERVAL);
        tick.tick().await;
        loop {
            tokio::select! {
                biased;
                _ = tick.tick() => {
                    self.compact(compact_to);
                    compact_to = self.revision();
                }
                id = self.inner.deadlines.next() => {
                    if let Err(error) = self.revoke(id).await {
                        tracing::warn!(lease = id, %error, "a lease that ran out could not be ended; trying again");
                        self.inner.deadlines.set(id, 1);
                    }
                }
            }
        }
    }
}

/// The whole state at one revision. Holding it blocks nobody.
#[derive(Clone)]
pub struct Snapshot {
    state: Arc<State>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("revision", &self.state.revision).finish_non_exhaustive()
    }
}

impl Snapshot {
    /// The revision of this state.
    pub fn revision(&self) -> Revision {
        self.state.revision
    }

    /// One key.
    pub fn get(&self, key: &str) -> Option<&Arc<Entry>> {
        self.state.entries.get(key)
    }

    /// The entries under `prefix`, in key order.
    pub fn range<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<Entry>> {
        range(&self.state, prefix)
    }

    /// The entries under `prefix` whose key is not before `start`, in key order.
    pub fn range_from<'a>(&'a self, prefix: &'a str, start: &str) -> impl Iterator<Item = &'a Arc<Entry>> {
        range_from(&self.state, prefix, start)
    }
}

fn range<'a>(state: &'a State, prefix: &'a str) -> impl Iterator<Item = &'a Arc<Entry>> {
    range_from(state, prefix, prefix)
}

fn range_from<'a>(state: &'a State, prefix: &'a str, start: &str) -> impl Iterator<Item = &'a Arc<Entry>> {
    let bounds = (Bound::Included(start.max(prefix)), Bound::Unbounded);
    state
        .entries
        .range::<_, str>(bounds)
        .take_while(move |(key, _)| key.starts_with(prefix))
        .map(|(_, entry)| entry)
}

impl Inner {
    pub(crate) fn topic(&self, name: &str) -> Arc<Topic> {
        if let Some(topic) = self.topics.read().by_name.get(name) {
            return Arc::clone(topic);
        }
        let mut topics = self.topics.write();
        let floor = topics.floor;
        let topic = topics.by_name.entry(name.into()).or_insert_with(|| {
            Arc::new(Topic { history: RwLock::new(History::starting_at(floor)), wake: Notify::new() })
        });
        Arc::clone(topic)
    }

    fn topics_under(&self, prefix: &str) -> Vec<Arc<Topic>> {
        match topic_of(prefix) {
            Some(name) => vec![self.topic(name)],
            None => {
                let topics = self.topics.read();
                topics
                    .by_name
                    .iter()
                    .filter(|(n, _)| n.starts_with(prefix))
                    .map(|(_, t)| Arc::clone(t))
                    .collect()
            }
        }
    }

    async fn submit(&self, change: Change) -> Result<Reply, StoreError> {
        match &self.writer {
            Writer::Direct(journal) => {
                let mut journal = journal.lock();
                let written = journal.write([&change].into_iter());
                self.publish(&journal, written.events);
                written.replies.into_iter().next().unwrap_or(Err(StoreError::Closed))
            }
            Writer::Thread(queue) => {
                let (reply, answer) = oneshot::channel();
                queue.send(Request { change, reply }).await.map_err(|_| StoreError::Closed)?;
                answer.await.map_err(|_| StoreError::Closed)?
            }
        }
    }

    /// Shows a state to readers: history first, so that a watcher never sees a revision without its events.
    fn publish(&self, journal: &Journal, events: Vec<Event>) {
        self.failure.store(journal.failure());
        let mut woken: Vec<Arc<Topic>> = Vec::new();
        for event in events {
            let topic = self.topic(topic_of(&event.entry.key).unwrap_or(&event.entry.key));
            topic.history.write().push(event);
            if !woken.iter().any(|t| Arc::ptr_eq(t, &topic)) {
                woken.push(topic);
            }
        }
        self.published.store(Arc::new(journal.state().clone()));
        for topic in woken {
            topic.wake.notify_waiters();
        }
    }
}

fn write_loop(mut journal: Journal, mut queue: mpsc::Receiver<Request>, inner: &std::sync::Weak<Inner>) {
    let mut requests = Vec::with_capacity(BATCH_MAX);
    let mut batches = 0_u64;
    while queue.blocking_recv_many(&mut requests, BATCH_MAX) > 0 {
        let written = journal.write(requests.iter().map(|r| &r.change));
        let Some(inner) = inner.upgrade() else { return };
        inner.publish(&journal, written.events);
        if batches.is_multiple_of(DISK_BYTES_EVERY) {
            inner.disk_bytes.store(journal.disk_bytes(), Ordering::Relaxed);
        }
        batches += 1;
        for (request, reply) in requests.drain(..).zip(written.replies) {
            let _ = request.reply.send(reply);
        }
    }
}

impl Event {
    /// The bytes a watcher is shown: the new value, or the last value stamped with the revision of its deletion.
    pub fn value(&self) -> bytes::Bytes {
        match self.kind {
            EventKind::Put => self.entry.value.clone(),
            EventKind::Delete => self.entry.restamped(self.revision),
        }
    }
}
