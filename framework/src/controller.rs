//! A controller: what triggers it, what it reads, and the reconciler it runs for each key.
//!
//! Subscriptions turn changes into keys, the queue orders them, a pool of workers reconciles them. The reconciler is
//! called for deletes, too, with no object. Workers start when every cache that the controller reads has its first
//! list; when the controller is stopped, they finish what they hold and take nothing new. It can be run again: losing a
//! lease is a pause.

use std::{any::Any, sync::Arc, time::Duration};

use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::{
    Action, BoxError, CachedClient, Delta, Error, Informer, Informers, Key, Object, Place, Recorder, Rules,
    RunCx, Runnable, Scope, Subscription, Verbs, owners,
    pool::Pool,
    queue::{Add, Backoff, Fair, Priority, Queue, SharedQueue},
};

/// Keys that are reconciled at a time. Not the number of processors: a seed must replay on any machine.
const WORKERS: usize = 5;
/// A reconcile that takes longer is cancelled and counts as failed.
const TIMEOUT: Duration = Duration::from_mins(2);
/// The longest a key is held until its own writes are in the caches; as long as upstream's expectations last.
const HOLD: Duration = Duration::from_mins(5);

/// Brings one object to its desired state.
pub trait Reconcile<K: Object>: Send + Sync + 'static {
    /// Called for each key that may need work; must be idempotent.
    fn reconcile(&self, request: Request<K>) -> impl Future<Output = Result<Action, Error>> + Send;

    /// What it needs from the API beyond what its controller is told; for reconcilers that wrap others, such as
    /// [`crate::Finalized`]. The scope is the controller's.
    fn needs(&self, _scope: &Scope, _rules: &mut Rules) {}
}

/// What a reconcile is about.
pub struct Request<K: Object> {
    /// Which object.
    pub key: Key,
    /// The object as the cache has it; `None` when it is gone.
    pub object: Option<Arc<K>>,
    /// How often this key has failed since it last succeeded.
    pub attempt: u32,
    /// Whose writes the next reconcile of this key will see.
    pub client: CachedClient,
    /// Tells people.
    pub recorder: Recorder,
}

/// Describes a controller; [`Controller::build`] makes it run.
pub struct Controller<K: Object> {
    name: &'static str,
    component: &'static str,
    scope: Scope,
    workers: usize,
    timeout: Duration,
    hold: Duration,
    backoff: Backoff,
    needs_leader: bool,
    filter: Option<Filter<K>>,
    wires: Vec<Connect>,
    needs: Vec<Need>,
    queue: Option<SharedQueue>,
}

type Need = Box<dyn Fn(&Scope, &mut Rules) + Send + Sync>;
type Connect = Box<dyn Fn(&Wiring<'_>) -> Wire + Send + Sync>;
type Filter<K> = Arc<dyn Fn(&Delta<K>) -> bool + Send + Sync>;

/// What a trigger is connected with.
struct Wiring<'a> {
    informers: &'a Informers,
    queue: &'a SharedQueue,
    scope: &'a Scope,
}

/// A trigger that is connected.
struct Wire {
    _subscription: Option<Subscription>,
    synced: BoxFuture<'static, ()>,
    /// The informer, kept while the controller pauses so that its cache stays warm.
    keep: Box<dyn Any + Send>,
}

/// Adds keys to the queue of a controller from elsewhere.
#[derive(Clone)]
pub struct Enqueue(SharedQueue);

impl Enqueue {
    /// Adds a key to be reconciled now.
    pub fn now(&self, key: Key) {
        self.0.add(key, Add::default());
    }

    /// Adds a key to be reconciled after a while.
    pub fn after(&self, key: Key, after: Duration) {
        self.0.add(key, Add { after, ..Add::default() });
    }
}

impl<K: Object> Controller<K>
where
    K::DynamicType: Default,
{
    /// A controller of kind `K`; the name shows in metrics and logs.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            component: name,
            scope: Scope::all(),
            workers: WORKERS,
            timeout: TIMEOUT,
            hold: HOLD,
            backoff: Backoff::default(),
            needs_leader: true,
            filter: None,
            wires: Vec::new(),
            needs: Vec::new(),
            queue: None,
        }
    }

    /// Also triggered by objects of kind `C` that an object of kind `K` controls, for that object. The reconciler may
    /// read and write them.
    #[must_use]
    pub fn owns<C: Object>(mut self) -> Self
    where
        C::DynamicType: Default,
    {
        self.wires.push(Box::new(|wiring| {
            let owners = wiring.informers.get::<K>(wiring.scope.clone());
            let children = wiring.informers.get::<C>(wiring.scope.clone());
            let queue = wiring.queue.clone();
            let subscription = children.subscribe(move |delta: &Delta<C>| {
                let priority = priority(delta);
                for key in owner_keys::<K, C>(delta, &owners) {
                    queue.add(key, Add { priority, ..Add::default() });
                }
            });
            Wire::new(children, Some(subscription))
        }));
        self.needs(|scope, rules| {
            rules.allow::<C>(scope, Verbs::ALL);
            // A reference that holds up the owner's deletion may be set by who may set the owner's finalizers.
            rules.allow_sub::<K>(scope, "finalizers", Verbs::UPDATE);
        })
    }

    /// Also triggered by changes of kind `C`, for the keys that `map` names.
    #[must_use]
    pub fn watches<C: Object, I>(
        self,
        scope: Scope,
        map: impl Fn(&Delta<C>, &Informers) -> I + Send + Sync + 'static,
    ) -> Self
    where
        C::DynamicType: Default,
        I: IntoIterator<Item = Key>,
    {
        self.triggered_by::<C>(scope, move |delta, informers, enqueue| {
            let priority = priority(delta);
            for key in map(delta, informers) {
                enqueue.0.add(key, Add { priority, ..Add::default() });
            }
        })
    }

    /// Also triggered by changes of kind `C`, however `trigger` decides: now, after a while, or not at all.
    #[must_use]
    pub fn triggered_by<C: Object>(
        mut self,
        scope: Scope,
        trigger: impl Fn(&Delta<C>, &Informers, &Enqueue) + Send + Sync + 'static,
    ) -> Self
    where
        C::DynamicType: Default,
    {
        let (trigger, watched) = (Arc::new(trigger), scope.clone());
        self = self.needs(move |_, rules| rules.allow::<C>(&watched, Verbs::READ));
        self.wires.push(Box::new(move |wiring| {
            let informer = wiring.informers.get::<C>(scope.clone());
            let (informers, trigger) = (wiring.informers.clone(), trigger.clone());
            let enqueue = Enqueue(wiring.queue.clone());
            let subscription = informer.subscribe(move |delta| trigger(delta, &informers, &enqueue));
            Wire::new(informer, Some(subscription))
        }));
        self
    }

    /// Lends its queue to whoever finds triggers of its own while the controller runs; called at each start.
    #[must_use]
    pub fn lends_queue(mut self, lend: impl Fn(Enqueue) + Send + Sync + 'static) -> Self {
        self.wires.push(Box::new(move |wiring| {
            lend(Enqueue(wiring.queue.clone()));
            Wire { _subscription: None, synced: Box::pin(std::future::ready(())), keep: Box::new(()) }
        }));
        self
    }

    /// Reads this informer: no reconcile before its first list is complete.
    #[must_use]
    pub fn reads<C: Object>(mut self, informer: &Informer<C>) -> Self {
        let informer = informer.clone();
        self.wires.push(Box::new(move |_| Wire::new(informer.clone(), None)));
        self
    }

    /// The reconciler writes the status of `K`.
    #[must_use]
    pub fn writes_status(self) -> Self {
        self.may_sub::<K>("status", Verbs::UPDATE | Verbs::PATCH)
    }

    /// The reconciler does this to objects of kind `C` in the controller's namespaces, beyond what `owns` and `watches`
    /// imply.
    #[must_use]
    pub fn may<C: Object>(self, verbs: Verbs) -> Self
    where
        C::DynamicType: Default,
    {
        self.needs(move |scope, rules| rules.allow::<C>(scope, verbs))
    }

    /// The reconciler does this to a subresource of objects of kind `C`, such as `eviction`.
    #[must_use]
    pub fn may_sub<C: Object>(self, sub: &'static str, verbs: Verbs) -> Self
    where
        C::DynamicType: Default,
    {
        self.needs(move |scope, rules| rules.allow_sub::<C>(scope, sub, verbs))
    }

    /// The reconciler needs what these rules say, such as kinds known by name, or other namespaces than the
    /// controller's, whose scope `needs` is given.
    #[must_use]
    pub fn needs(mut self, needs: impl Fn(&Scope, &mut Rules) + Send + Sync + 'static) -> Self {
        self.needs.push(Box::new(needs));
        self
    }

    /// Changes of `K` that are no trigger. Deletes always are.
    #[must_use]
    pub fn filter(mut self, filter: impl Fn(&Delta<K>) -> bool + Send + Sync + 'static) -> Self {
        self.filter = Some(Arc::new(filter));
        self
    }

    /// Which objects of `K`, and of what it owns, are looked after.
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// How many keys are reconciled at a time. By default five, as upstream's controllers.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers.max(1);
        self
    }

    /// How long a reconcile may take. By default two minutes.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long a key is held at most until its own writes are in the caches. By default five minutes.
    #[must_use]
    pub fn hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }

    /// How long a failing key waits.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// The component that its events name, such as `replicaset-controller`. By default the controller's name.
    #[must_use]
    pub fn component(mut self, component: &'static str) -> Self {
        self.component = component;
        self
    }

    /// Runs on every replica, leader or not.
    #[must_use]
    pub fn without_leader(mut self) -> Self {
        self.needs_leader = false;
        self
    }

    /// Works from another queue.
    #[must_use]
    pub fn queue(mut self, queue: impl Queue<Key>) -> Self {
        self.queue = Some(Arc::new(queue));
        self
    }

    /// The controller, ready to be handed to a manager.
    pub fn build(self, reconcile: impl Reconcile<K>) -> impl Runnable {
        Built { controller: self, reconcile: Arc::new(reconcile), kept: Mutex::default() }
    }

    fn primary(&self, informer: &Informer<K>, queue: &SharedQueue) -> Wire {
        let (queue, filter) = (queue.clone(), self.filter.clone());
        let subscription = informer.subscribe(move |delta| {
            let wanted = delta.is_deleted() || filter.as_ref().is_none_or(|filter| filter(delta));
            if wanted {
                queue.add(delta.key(), Add { priority: priority(delta), ..Add::default() });
            }
        });
        Wire::new(informer.clone(), Some(subscription))
    }
}

impl Wire {
    fn new<C: Object>(informer: Informer<C>, subscription: Option<Subscription>) -> Self {
        Self { _subscription: subscription, synced: Box::pin(informer.synced()), keep: Box::new(informer) }
    }
}

fn priority<C: Object>(delta: &Delta<C>) -> Priority {
    if delta.is_initial() { Priority::INITIAL } else { Priority::NORMAL }
}

/// The objects that control, or controlled, what changed. A reference to another object of the same name is skipped.
fn owner_keys<K: Object, C: Object>(delta: &Delta<C>, known: &Informer<K>) -> Vec<Key>
where
    K::DynamicType: Default,
{
    let kind = K::DynamicType::default();
    let mut keys = Vec::with_capacity(1);
    for object in [delta.new(), delta.old()].into_iter().flatten() {
        let meta = object.meta();
        let Some(owner) = owners::controller_of(meta).filter(|o| owners::refers_to::<K>(o, &kind)) else {
            continue;
        };
        let key = Key::for_kind::<K>(meta.namespace.as_deref(), &owner.name);
        let another = known.get(&key).is_some_and(|k| k.meta().uid.as_deref() != Some(&owner.uid));
        if !another && !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

struct Built<K: Object, R> {
    controller: Controller<K>,
    reconcile: Arc<R>,
    /// Informers of the last run.
    kept: Mutex<Vec<Box<dyn Any + Send>>>,
}

impl<K: Object, R: Reconcile<K>> Runnable for Built<K, R>
where
    K::DynamicType: Default,
{
    fn name(&self) -> &str {
        self.controller.name
    }

    fn needs_leader(&self) -> bool {
        self.controller.needs_leader
    }

    fn needs(&self, rules: &mut Rules) {
        let scope = &self.controller.scope;
        rules.allow::<K>(scope, Verbs::READ);
        rules.allow_events(self.event_places());
        self.controller.needs.iter().for_each(|needs| needs(scope, rules));
        self.reconcile.needs(scope, rules);
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
        let controller = &self.controller;
        let queue = self.open_queue(&cx);
        let informer = cx.informers.get::<K>(controller.scope.clone());
        let wiring = Wiring { informers: &cx.informers, queue: &queue, scope: &controller.scope };
        let mut wires = vec![controller.primary(&informer, &queue)];
        wires.extend(controller.wires.iter().map(|wire| wire(&wiring)));
        let synced: Vec<_> =
            wires.iter_mut().map(|w| std::mem::replace(&mut w.synced, Box::pin(async {}))).collect();
        tokio::select! {
            biased;
            _ = join_all(synced) => {}
            () = cx.stop.cancelled() => return Ok(()),
        }
        let pool = Arc::new(Pool {
            name: controller.name,
            reconcile: self.reconcile.clone(),
            lister: informer.lister(),
            queue: queue.clone(),
            client: cx.client.for_request(),
            recorder: cx.recorder(controller.component),
            timeout: controller.timeout,
            hold: controller.hold,
            metrics: cx.metrics.controller(controller.name),
            failing: cx.metrics.failing().clone(),
            holds: Mutex::default(),
        });
        pool.metrics.max.set(i64::try_from(controller.workers).unwrap_or(i64::MAX));
        let mut workers = JoinSet::new();
        for _ in 0..controller.workers {
            workers.spawn(pool.clone().work());
        }
        cx.stop.cancelled().await;
        queue.shut_down();
        while workers.join_next().await.is_some() {}
        *self.kept.lock() = wires.into_iter().map(|wire| wire.keep).collect();
        Ok(())
    }

    /// Where events about the primary kind are: beside the object, or in `default` when it has no namespace.
    fn event_places(&self) -> Vec<Place> {
        let cluster = Key::for_kind::<K>(Some("a"), "a").namespace().is_none();
        if cluster {
            return vec![Place::Namespace("default".to_owned())];
        }
        Place::of(&self.controller.scope)
    }

    fn open_queue(&self, cx: &RunCx) -> SharedQueue {
        if let Some(queue) = &self.controller.queue {
            queue.reopen();
            return queue.clone();
        }
        let metrics = cx.metrics.queue(self.controller.name);
        let queue = Arc::new(Fair::measured(self.controller.backoff, Some(metrics)));
        let observed = Arc::downgrade(&queue);
        cx.metrics.on_render(move || Fair::observe(&observed));
        queue
    }
}
