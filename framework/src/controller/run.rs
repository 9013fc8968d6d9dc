//! A controller at work: caches, triggers, sources and workers, from start to stop.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::{Controller, Reconcile, Status, Wiring, triggers::Kept};
use crate::{
    BoxError, Delta, Informer, Informers, Key, Object, Place, Rules, RunCx, Runnable, Subscription, Verbs,
    loops::Loops,
    pool::Pool,
    queue::{Fair, SharedQueue},
    shards::{Gate, Selection},
    source::{self, SourceCx},
};

/// How much a resync may come before or after its time. As controller-runtime's.
const RESYNC_JITTER: f64 = 0.1;

pub(super) struct Built<K: Object, R> {
    controller: Controller<K>,
    reconcile: Arc<R>,
    /// The caches of the last run, or of the wait for the lease.
    kept: Mutex<Vec<Kept>>,
    /// What its own watches ask for.
    selection: Option<Selection>,
}

impl<K: Object, R: Reconcile<K>> Built<K, R> {
    pub(super) fn new(controller: Controller<K>, reconcile: R) -> Self {
        let selection = controller.shards.as_ref().and_then(|(shards, by)| shards.selection(*by));
        Self { controller, reconcile: Arc::new(reconcile), kept: Mutex::default(), selection }
    }
}

impl<K: Object, R: Reconcile<K>> Runnable for Built<K, R>
where
    K::DynamicType: Default,
{
    fn name(&self) -> &str {
        self.controller.name
    }

    fn controller(&self) -> Option<&str> {
        Some(self.controller.name)
    }

    fn needs_leader(&self) -> bool {
        self.controller.needs_leader
    }

    fn needs(&self, rules: &mut Rules) {
        let scope = &self.controller.scope;
        rules.allow::<K>(scope, Verbs::READ);
        rules.allow_events(Place::of_events::<K>(scope));
        self.controller.needs.iter().for_each(|needs| needs(scope, rules));
        self.controller.sources.iter().for_each(|source| source.needs(scope, rules));
        self.reconcile.needs(scope, rules);
    }

    fn brings(&self) -> Vec<Arc<dyn Runnable>> {
        self.controller.brings.clone()
    }

    fn warm(&self, cx: &RunCx) {
        let (informers, scope) = (&cx.informers, &self.controller.scope);
        let mut kept: Vec<Kept> = vec![Box::new(informers.get::<K>(scope.clone()))];
        kept.extend(self.controller.triggers.iter().map(|trigger| (trigger.warm)(informers, scope)));
        *self.kept.lock() = kept;
    }

    fn run(&self, cx: RunCx) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(self.turn(cx))
    }
}

impl<K: Object, R: Reconcile<K>> Built<K, R>
where
    K::DynamicType: Default,
{
    async fn turn(&self, cx: RunCx) -> Result<(), BoxError> {
        let (controller, loops) = (&self.controller, Arc::new(Loops::default()));
        let queue = self.open_queue(&cx);
        let status = self.status(&cx, &queue);
        let wiring = Wiring {
            informers: &cx.informers,
            queue: &queue,
            scope: &controller.scope,
            loops: &loops,
            selection: self.selection.as_ref(),
        };
        let informer = wiring.own::<K>();
        let mut wires = vec![controller.primary(&informer, wiring.enqueue())];
        wires.extend(controller.triggers.iter().map(|trigger| (trigger.connect)(&wiring)));
        // The wires hold what is still needed of it.
        self.kept.lock().clear();
        let synced: Vec<_> =
            wires.iter_mut().map(|w| std::mem::replace(&mut w.synced, Box::pin(async {}))).collect();
        tokio::select! {
            biased;
            _ = join_all(synced) => {}
            () = cx.stop.cancelled() => return Ok(()),
        }
        let (gate, _deletes) = self.gate(&cx, &queue, &informer).unzip();
        let pool = Arc::new(Pool {
            name: controller.name,
            reconcile: self.reconcile.clone(),
            lister: informer.lister(),
            queue: queue.clone(),
            client: cx.client.for_request(),
            recorder: cx.recorder(controller.component),
            timeout: controller.timeout,
            hold: controller.hold,
            status: status.clone(),
            loops: loops.clone(),
            gate,
            cluster: cx.cluster.clone(),
            turns: AtomicU64::new(1),
            holds: Mutex::default(),
        });
        status.metrics.max.set(i64::try_from(controller.workers).unwrap_or(i64::MAX));
        status.started.store(true, Ordering::Relaxed);
        // Dropped, and so ended, before the queue is shut.
        let sources = self.start_sources(&cx, &wiring, &informer);
        let mut workers = JoinSet::new();
        for _ in 0..controller.workers {
            workers.spawn(pool.clone().work());
        }
        cx.stop.cancelled().await;
        drop(sources);
        queue.shut_down();
        while workers.join_next().await.is_some() {}
        *self.kept.lock() = wires.into_iter().map(|wire| wire.keep).collect();
        Ok(())
    }

    /// What is told of this run to who asks for diagnostics.
    fn status(&self, cx: &RunCx, queue: &SharedQueue) -> Arc<Status> {
        let status = Arc::new(Status {
            name: self.controller.name,
            workers: self.controller.workers,
            queue: queue.clone(),
            metrics: cx.metrics.controller(self.controller.name),
            failing: cx.metrics.failing().clone(),
            started: AtomicBool::new(false),
            held: Mutex::default(),
        });
        let asked = Arc::downgrade(&status);
        cx.metrics.board().controller(move || asked.upgrade().map(|status| status.state()));
        status
    }

    /// What lets through this replica's keys alone, if keys are shared.
    fn gate(
        &self,
        cx: &RunCx,
        queue: &SharedQueue,
        informer: &Informer<K>,
    ) -> Option<(Arc<Gate>, Subscription)> {
        let (shards, by) = self.controller.shards.as_ref()?;
        let gate = Gate::open(shards, *by, queue, informer.lister(), self.selection.clone());
        let (seen, counted) = (gate.clone(), Arc::downgrade(&gate));
        let deletes = informer.subscribe(move |delta: &Delta<K>| {
            if delta.is_deleted() {
                seen.deleted(delta.key(), delta.object().meta().uid.as_deref());
            }
        });
        let keys = cx.metrics.sharded_keys(self.controller.name);
        cx.metrics.on_render(move || {
            let Some(gate) = counted.upgrade() else { return false };
            keys.set(i64::try_from(gate.held()).unwrap_or(i64::MAX));
            true
        });
        Some((gate, deletes))
    }

    /// What triggers the controller from outside of the API.
    fn start_sources(&self, cx: &RunCx, wiring: &Wiring<'_>, informer: &Informer<K>) -> JoinSet<()> {
        let controller = &self.controller;
        let mut sources = controller.sources.clone();
        if let Some(period) = controller.resync {
            let lister = informer.lister();
            let all = move |_: &Informers| {
                let mut keys = Vec::new();
                lister.for_each(|object| keys.push(Key::of(&**object)));
                keys
            };
            sources.push(Arc::new(source::every("resync", period, all).jitter(RESYNC_JITTER).behind()));
        }
        let random = cx.random.fork(controller.name);
        let mut running = JoinSet::new();
        for source in sources {
            let (enqueue, random) = (wiring.enqueue(), random.fork(source.name()));
            let cx = SourceCx::new(controller.name, source.name(), enqueue, random, cx);
            running.spawn(source::supervise(source, cx));
        }
        running
    }

    fn open_queue(&self, cx: &RunCx) -> SharedQueue {
        if let Some(queue) = &self.controller.queue {
            queue.reopen();
            return queue.clone();
        }
        let metrics = cx.metrics.queue(self.controller.name);
        let queue =
            Arc::new(Fair::measured(self.controller.backoff, self.controller.limits.clone(), Some(metrics)));
        let observed = Arc::downgrade(&queue);
        cx.metrics.on_render(move || Fair::observe(&observed));
        queue
    }
}
