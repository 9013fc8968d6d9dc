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

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    core::State,
    engine::{Batch, Engine, EngineError},
    fjall_engine::FjallEngine,
    history::{History, topic_of},
    lease::Deadlines,
    model::{Entry, Event, EventKind, LeaseId, Outcome, RangeError, Revision, StoreError, Txn},
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
}

#[derive(Default)]
struct Topics {
    by_name: BTreeMap<Box<str>, Arc<Topic>>,
    floor: Revision,
}

pub(crate) struct Topic {
    pub(crate) history: RwLock<History>,
    pub(crate) wake: watch::Sender<()>,
}

enum Writer {
    /// Nothing to wait for: the caller applies its own write.
    Direct(Mutex<State>),
    /// One thread batches the writes of all callers.
    Thread(mpsc::Sender<Request>),
}

struct Request {
    change: Change,
    reply: oneshot::Sender<Result<Reply, StoreError>>,
}

enum Change {
    Txn(Txn),
    Grant(u64),
    Revoke(LeaseId),
}

enum Reply {
    Outcome(Outcome),
    Lease(LeaseId),
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
        let state = State::default();
        Self::assemble(state.clone(), Writer::Direct(Mutex::new(state)))
    }

    /// Opens a durable store in a directory with the shipped engine.
    ///
    /// # Errors
    /// What [`FjallEngine::open`] and [`Engine::load`] say.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        Self::with_engine(FjallEngine::open(path)?)
    }

    /// Opens a durable store over any engine.
    ///
    /// # Errors
    /// What [`Engine::load`] says, or that no thread could be started.
    pub fn with_engine(mut engine: impl Engine) -> Result<Self, EngineError> {
        let state = State::restore(engine.load()?);
        let (send, receive) = mpsc::channel(QUEUE_MAX);
        let store = Self::assemble(state.clone(), Writer::Thread(send));
        for (id, lease) in &state.leases {
            store.inner.deadlines.set(*id, lease.ttl_seconds);
        }
        let weak = Arc::downgrade(&store.inner);
        std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || write_loop(state, Box::new(engine), receive, &weak))
            .map_err(|e| EngineError::Other(e.to_string()))?;
        Ok(store)
    }

    fn assemble(state: State, writer: Writer) -> Self {
        let topics = Topics { floor: state.revision, ..Topics::default() };
        Self {
            inner: Arc::new(Inner {
                published: ArcSwap::from_pointee(state),
                topics: RwLock::new(topics),
                writer,
                deadlines: Deadlines::default(),
                disk_bytes: AtomicU64::new(0),
            }),
        }
    }

    /// The newest revision that readers can see.
    pub fn revision(&self) -> Revision {
        self.inner.published.load().revision
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
                id = self.inner.deadlines.next() => {
                    if let Err(error) = self.revoke(id).await {
                        tracing::warn!(lease = id, %error, "a lease that ran out could not be ended; trying again");
                        self.inner.deadlines.set(id, 1);
                    }
                }
                _ = tick.tick() => {
                    self.compact(compact_to);
                    compact_to = self.revision();
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
            Arc::new(Topic {
                history: RwLock::new(History::starting_at(floor)),
                wake: watch::Sender::new(()),
            })
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
            Writer::Direct(state) => {
                let mut state = state.lock();
                let mut batch = Batch::default();
                let reply = stage(&mut state, &change, &mut batch);
                self.publish(&state, batch.events);
                reply
            }
            Writer::Thread(queue) => {
                let (reply, answer) = oneshot::channel();
                queue.send(Request { change, reply }).await.map_err(|_| StoreError::Closed)?;
                answer.await.map_err(|_| StoreError::Closed)?
            }
        }
    }

    /// Shows a state to readers: history first, so that a watcher never sees a revision without its events.
    fn publish(&self, state: &State, events: Vec<Event>) {
        let mut woken: Vec<Arc<Topic>> = Vec::new();
        for event in events {
            let topic = self.topic(topic_of(&event.entry.key).unwrap_or(&event.entry.key));
            topic.history.write().push(event);
            if !woken.iter().any(|t| Arc::ptr_eq(t, &topic)) {
                woken.push(topic);
            }
        }
        self.published.store(Arc::new(state.clone()));
        for topic in woken {
            topic.wake.send_replace(());
        }
    }
}

fn stage(state: &mut State, change: &Change, batch: &mut Batch) -> Result<Reply, StoreError> {
    match change {
        Change::Txn(txn) => state.stage(txn, &mut batch.events).map(Reply::Outcome),
        Change::Grant(ttl) => {
            let id = state.grant(*ttl);
            batch.granted.push((id, *ttl));
            Ok(Reply::Lease(id))
        }
        Change::Revoke(id) => {
            state.revoke(*id, &mut batch.events);
            batch.revoked.push(*id);
            Ok(Reply::Lease(*id))
        }
    }
}

fn write_loop(
    mut state: State,
    mut engine: Box<dyn Engine>,
    mut queue: mpsc::Receiver<Request>,
    inner: &std::sync::Weak<Inner>,
) {
    let mut requests = Vec::with_capacity(BATCH_MAX);
    let mut batches = 0_u64;
    while queue.blocking_recv_many(&mut requests, BATCH_MAX) > 0 {
        let base = state.clone();
        let mut batch = Batch::default();
        let replies: Vec<_> = requests.iter().map(|r| stage(&mut state, &r.change, &mut batch)).collect();
        batch.revision = state.revision;
        batch.next_lease = state.next_lease;
        let committed = if batch.is_empty() { Ok(()) } else { engine.commit(&batch) };
        let Some(inner) = inner.upgrade() else { return };
        match committed {
            Ok(()) => {
                inner.publish(&state, batch.events);
                if batches.is_multiple_of(DISK_BYTES_EVERY) {
                    inner.disk_bytes.store(engine.disk_bytes(), Ordering::Relaxed);
                }
                batches += 1;
                for (request, reply) in requests.drain(..).zip(replies) {
                    let _ = request.reply.send(reply);
                }
            }
            Err(error) => {
                tracing::error!(%error, writes = requests.len(), "the store could not write a batch");
                state = base;
                let error = StoreError::Engine(Arc::new(error));
                for request in requests.drain(..) {
                    let _ = request.reply.send(Err(error.clone()));
                }
            }
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
