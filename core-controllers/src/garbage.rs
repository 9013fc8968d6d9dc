//! The garbage collector: what nobody owns any more goes.
//!
//! A graph of all objects of all kinds, custom ones included, fed by metadata alone, says who depends on whom. An object
//! whose owners are all gone is deleted. An owner that is deleted in the foreground waits for the dependents that block
//! it; one that orphans lets its dependents go first. Before anything is deleted the server is asked whether it is so:
//! a cache may lag. Behaves as upstream's `garbage-collector-controller`.

mod act;
mod decide;
mod graph;
mod kinds;

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use windlass::{Add, Backoff, BoxError, Fair, Item, ManagerBuilder, Outcome, Queue, RunCx, Runnable};

use crate::Options;
use act::Actor;
use graph::{Graph, Uid};
use kinds::Kinds;

/// Objects that are looked at at a time.
const WORKERS: usize = 20;

/// Adds the controller to a manager.
pub fn register(manager: &mut ManagerBuilder, _options: &Options) {
    manager.add(GarbageCollector);
}

struct GarbageCollector;

impl Runnable for GarbageCollector {
    fn name(&self) -> &'static str {
        "garbage_collector"
    }

    fn run(&self, cx: RunCx) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(run(cx))
    }
}

impl Item for Uid {}

/// What the watches fill and the workers empty.
#[derive(Clone)]
pub(crate) struct Heap {
    graph: Arc<Mutex<Graph>>,
    queue: Arc<dyn Queue<Uid>>,
}

impl Heap {
    fn new() -> Self {
        let backoff = Backoff { max: Duration::from_mins(5), ..Backoff::default() };
        Self { graph: Arc::default(), queue: Arc::new(Fair::new(backoff)) }
    }

    fn look_at(&self, uids: impl IntoIterator<Item = Uid>) {
        uids.into_iter().for_each(|uid| self.queue.add(uid, Add::default()));
    }
}

async fn run(cx: RunCx) -> Result<(), BoxError> {
    let heap = Heap::new();
    let kinds = Arc::new(Kinds::new(cx.informers.clone(), heap.clone()));
    tokio::select! {
        biased;
        () = cx.stop.cancelled() => return Ok(()),
        first = kinds.refresh() => first?,
    }
    let actor = Arc::new(Actor {
        client: cx.informers.client().clone(),
        kinds: kinds.clone(),
        heap: heap.clone(),
        recorder: cx.recorder("garbage-collector-controller"),
        absent: Mutex::default(),
    });
    let mut tasks = JoinSet::new();
    for _ in 0..WORKERS {
        tasks.spawn(work(actor.clone()));
    }
    tasks.spawn(async move { kinds.follow().await });
    cx.stop.cancelled().await;
    heap.queue.shut_down();
    tasks.shutdown().await;
    Ok(())
}

async fn work(actor: Arc<Actor>) {
    let queue = actor.heap.queue.clone();
    while let Some(work) = queue.get().await {
        let uid = work.item;
        let outcome = match actor.look(&uid).await {
            Ok(()) => Outcome::Ok,
            Err(error) => {
                tracing::debug!(uid = uid.0, %error, "garbage collection of an object is retried");
                Outcome::Backoff
            }
        };
        queue.done(&uid, outcome);
        tokio::task::coop::consume_budget().await;
    }
}
