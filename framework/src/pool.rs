//! The workers of a controller: one reconcile per worker at a time, one per key ever.
//!
//! A panic or a timeout of one reconcile is that key's failure and nobody else's. A key whose reconcile wrote something
//! is held, without holding a worker, until the caches have what it wrote.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use parking_lot::Mutex;
use tokio::{task::JoinSet, time::Instant};
use tracing::Instrument;

use crate::{
    Action, CachedClient, Error, Key, Lister, Object, Reconcile, Recorder, Request,
    controller::Status,
    loops::{self, Circle, Loops},
    queue::{Outcome, SharedQueue, Work},
    shards::{Gate, Pass},
};

pub(crate) struct Pool<K: Object, R> {
    pub(crate) name: &'static str,
    pub(crate) reconcile: Arc<R>,
    pub(crate) lister: Lister<K>,
    pub(crate) queue: SharedQueue,
    pub(crate) client: CachedClient,
    pub(crate) recorder: Recorder,
    pub(crate) timeout: Duration,
    pub(crate) hold: Duration,
    pub(crate) status: Arc<Status>,
    pub(crate) loops: Arc<Loops>,
    /// Lets through the keys of this replica alone.
    pub(crate) gate: Option<Arc<Gate>>,
    /// The member that it runs on.
    pub(crate) cluster: Option<Arc<str>>,
    /// Reconciles that were begun.
    pub(crate) turns: AtomicU64,
    /// Keys that wait for their own writes.
    pub(crate) holds: Mutex<JoinSet<()>>,
}

/// Why a reconcile did not return.
enum Cut {
    TimedOut,
    Panicked(String),
    /// Another replica takes over.
    Lost,
}

impl<K: Object, R: Reconcile<K>> Pool<K, R> {
    pub(crate) async fn work(self: Arc<Self>) {
        while let Some(work) = self.queue.get().await {
            self.turn(work).await;
            // A queue that is never empty would otherwise never let other tasks run.
            tokio::task::coop::consume_budget().await;
        }
    }

    async fn turn(&self, work: Work<Key>) {
        let key = work.item;
        let ticket = Ticket { queue: self.queue.clone(), key: key.clone(), outcome: Outcome::Backoff };
        let pass = self.gate.as_ref().map(|gate| gate.enter(&key));
        if let Some(None) = pass {
            return ticket.punch(Outcome::Drop);
        }
        let pass = pass.flatten();
        self.loops.begin(&key);
        let client = self.client.for_request();
        let request = Request {
            object: self.lister.get(&key),
            attempt: work.failures,
            client: client.clone(),
            recorder: self.recorder.clone(),
            cluster: self.cluster.clone(),
            key,
        };
        let begun = Instant::now();
        self.status.metrics.active.inc();
        // What is logged in a reconcile says of which one.
        let id = self.turns.fetch_add(1, Ordering::Relaxed);
        let span = tracing::info_span!("reconcile", controller = self.name, key = %ticket.key, id);
        let limited = self.reconcile.reconcile(request);
        let limited = tokio::time::timeout_at(begun + self.timeout, limited).instrument(span);
        let ended = tokio::select! {
            biased;
            ended = AssertUnwindSafe(limited).catch_unwind() => Some(ended),
            () = cut(pass.as_ref()) => None,
        };
        let result = match ended {
            Some(Ok(Ok(result))) => Ok(result),
            Some(Ok(Err(_))) => Err(Cut::TimedOut),
            Some(Err(panic)) => Err(Cut::Panicked(message(&*panic))),
            None => Err(Cut::Lost),
        };
        drop(pass);
        self.status.metrics.active.dec();
        let took = begun.elapsed();
        self.status.metrics.time.observe(took.as_secs_f64());
        let circle = self.loops.end(&ticket.key, client.wrote());
        let outcome = match result {
            Ok(Ok(action)) => {
                tracing::debug!(controller = self.name, key = %ticket.key, ?action, ?took, "reconciled");
                self.went_well(&ticket.key, circle);
                self.succeeded(action)
            }
            Ok(Err(error)) => self.failed(&ticket.key, &error),
            Err(cut) => self.was_cut(&ticket.key, &cut),
        };
        if client.has_unseen() {
            self.hold(ticket, client, outcome);
        } else {
            ticket.punch(outcome);
        }
    }

    /// Keeps the key out of the queue until the caches have what its reconcile wrote.
    fn hold(&self, ticket: Ticket, client: CachedClient, outcome: Outcome) {
        let (limit, status) = (self.hold, self.status.clone());
        let mut holds = self.holds.lock();
        while holds.try_join_next().is_some() {}
        status.held.lock().insert(ticket.key.clone());
        holds.spawn(async move {
            if !client.seen(limit).await {
                status.metrics.stale.inc();
            }
            status.held.lock().remove(&ticket.key);
            ticket.punch(outcome);
        });
    }

    /// A reconcile that went well, unless it goes on for ever.
    fn went_well(&self, key: &Key, circle: Circle) {
        match circle {
            Circle::No => return self.status.failing.succeeded(self.name, key),
            Circle::Still => {}
            Circle::Found => {
                self.status.metrics.write_loops.inc();
                tracing::warn!(controller = self.name, %key, "reconcile runs in a circle: {}", loops::sentence());
            }
        }
        self.status.failing.failed(self.name, key, loops::sentence());
    }

    fn succeeded(&self, action: Action) -> Outcome {
        match action {
            Action::Done => {
                self.status.metrics.success.inc();
                Outcome::Ok
            }
            Action::RequeueAfter(after) => {
                self.status.metrics.requeue_after.inc();
                Outcome::RequeueAfter(after)
            }
        }
    }

    fn failed(&self, key: &Key, error: &Error) -> Outcome {
        if let Error::RetryAfter(after) = error {
            self.status.metrics.requeue_after.inc();
            return Outcome::RequeueAfter(*after);
        }
        self.status.metrics.error.inc();
        self.status.metrics.errors.inc();
        self.status.failing.failed(self.name, key, crate::sentence(error));
        if let Error::Terminal(_) = error {
            self.status.metrics.terminal.inc();
            tracing::error!(controller = self.name, %key, %error, "reconcile failed for good");
            return Outcome::Drop;
        }
        if error.is_conflict() {
            tracing::debug!(controller = self.name, %key, %error, "reconcile met a newer object");
        } else {
            tracing::warn!(controller = self.name, %key, %error, "reconcile failed");
        }
        error.retry_after().map_or(Outcome::Backoff, Outcome::RequeueAfter)
    }

    fn was_cut(&self, key: &Key, cut: &Cut) -> Outcome {
        self.status.metrics.error.inc();
        self.status.metrics.errors.inc();
        match cut {
            Cut::TimedOut => {
                self.status.metrics.timeouts.inc();
                self.status.failing.failed(
                    self.name,
                    key,
                    format!("it did not end within {:?}", self.timeout),
                );
                tracing::error!(controller = self.name, %key, limit = ?self.timeout, "reconcile timed out");
            }
            Cut::Panicked(message) => {
                self.status.metrics.panics.inc();
                self.status.failing.failed(self.name, key, format!("it panicked: {message}"));
                tracing::error!(controller = self.name, %key, message, "reconcile panicked");
            }
            Cut::Lost => {
                tracing::warn!(controller = self.name, %key, "reconcile was cut off: its shard was lost");
                return Outcome::Drop;
            }
        }
        Outcome::Backoff
    }
}

/// Waits until work that was let through has to be cut off.
async fn cut(pass: Option<&Pass>) {
    match pass {
        Some(pass) => pass.cut().await,
        None => std::future::pending().await,
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// Gives a key back to the queue, even when its worker is cancelled.
struct Ticket {
    queue: SharedQueue,
    key: Key,
    outcome: Outcome,
}

impl Ticket {
    fn punch(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.queue.done(&self.key, self.outcome);
    }
}
