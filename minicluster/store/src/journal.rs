//! The state together with the engine that makes it durable: a batch of changes goes into both, or into neither.
//!
//! A commit that fails leaves the engine in doubt: some of the batch may have reached the device. So the engine is opened
//! anew, and what it kept of the batch is taken back, before anything else is written. Until that succeeds every write is
//! refused; reads go on.

use std::{sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use crate::{
    core::State,
    engine::{Batch, Engine, EngineError},
    model::{Event, EventKind, LeaseId, Outcome, StoreError, Txn},
};

/// How long writes are refused unasked after the engine could not be opened anew.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// A change and whom to tell.
pub(crate) struct Request {
    pub(crate) change: Change,
    pub(crate) reply: oneshot::Sender<Result<Reply, StoreError>>,
}

pub(crate) enum Change {
    Txn(Txn),
    Grant(u64),
    Revoke(LeaseId),
}

pub(crate) enum Reply {
    Outcome(Outcome),
    Lease(LeaseId),
}

/// What came of a batch.
pub(crate) struct Written {
    /// For each change, in order.
    pub(crate) replies: Vec<Result<Reply, StoreError>>,
    /// What is to be told to watchers; empty when nothing became durable.
    pub(crate) events: Vec<Event>,
}

/// The newest state and its engine.
pub(crate) struct Journal {
    state: State,
    engine: Box<dyn Engine>,
    doubt: Option<Doubt>,
}

/// The engine failed and is not back yet.
struct Doubt {
    /// Brings an engine that kept the failed batch back to the state before it.
    undo: Batch,
    error: Arc<EngineError>,
    again: Instant,
}

impl Journal {
    pub(crate) fn new(state: State, engine: Box<dyn Engine>) -> Self {
        Self { state, engine, doubt: None }
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        self.engine.disk_bytes()
    }

    /// Why nothing can be written at present.
    pub(crate) fn failure(&self) -> Option<Arc<EngineError>> {
        self.doubt.as_ref().map(|doubt| Arc::clone(&doubt.error))
    }

    /// Carries out a batch of changes: all of them durable, or none.
    pub(crate) fn write<'a>(&mut self, changes: impl ExactSizeIterator<Item = &'a Change>) -> Written {
        if let Some(error) = self.settle() {
            return refused(changes.len(), error);
        }
        let base = self.state.clone();
        let mut batch = Batch::default();
        let writes = changes.len();
        let replies = changes.map(|change| stage(&mut self.state, change, &mut batch)).collect();
        batch.revision = self.state.revision;
        batch.next_lease = self.state.next_lease;
        let committed = if batch.is_empty() { Ok(()) } else { self.engine.commit(&batch) };
        let Err(error) = committed else { return Written { replies, events: batch.events } };
        tracing::error!(%error, writes, "the store could not write a batch; nothing of it is kept");
        let error = Arc::new(error);
        let undo = undo(&base, &batch);
        self.state = base;
        self.doubt = Some(Doubt { undo, error: Arc::clone(&error), again: Instant::now() });
        if let Some(reopening) = self.settle() {
            tracing::error!(error = %reopening, "the store takes no writes until its engine can be opened again");
        }
        refused(writes, error)
    }

    /// Opens an engine anew that is in doubt; the error when it stays so.
    fn settle(&mut self) -> Option<Arc<EngineError>> {
        let doubt = self.doubt.as_mut()?;
        let now = Instant::now();
        if now < doubt.again {
            return Some(Arc::clone(&doubt.error));
        }
        match take_back(self.engine.as_mut(), &doubt.undo) {
            Ok(()) => {
                self.doubt = None;
                tracing::warn!("the store's engine was opened again and takes writes");
                None
            }
            Err(error) => {
                doubt.error = Arc::new(error);
                doubt.again = now + REOPEN_PAUSE;
                Some(Arc::clone(&doubt.error))
            }
        }
    }
}

fn refused(writes: usize, error: Arc<EngineError>) -> Written {
    let replies = (0..writes).map(|_| Err(StoreError::Engine(Arc::clone(&error)))).collect();
    Written { replies, events: Vec::new() }
}

fn take_back(engine: &mut dyn Engine, undo: &Batch) -> Result<(), EngineError> {
    let kept = engine.reopen()?;
    // The end of a lease shows in neither number.
    if kept == (undo.revision, undo.next_lease) && undo.granted.is_empty() {
        return Ok(());
    }
    engine.commit(undo)
}

/// What brings an engine that kept `batch` back to `base`.
fn undo(base: &State, batch: &Batch) -> Batch {
    let before = |event: &Event| {
        let (kind, entry) = match base.entries.get(&event.entry.key) {
            Some(entry) => (EventKind::Put, Arc::clone(entry)),
            None => (EventKind::Delete, Arc::clone(&event.entry)),
        };
        Event { revision: base.revision, kind, entry, prev: None }
    };
    let lease = |id: &LeaseId| Some((*id, base.leases.get(id)?.ttl_seconds));
    Batch {
        revision: base.revision,
        next_lease: base.next_lease,
        events: batch.events.iter().map(before).collect(),
        granted: batch.revoked.iter().filter_map(lease).collect(),
        revoked: batch.granted.iter().map(|(id, _)| *id).collect(),
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
