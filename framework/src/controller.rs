//! A controller: what triggers it, what it reads, and the reconciler it runs for each key.
//!
//! Subscriptions turn changes into keys, the queue orders them, a pool of workers reconciles them. The reconciler is
//! called for deletes, too, with no object. Workers start when every cache that the controller reads has its first
//! list; when the controller is stopped, they finish what they hold and take nothing new. It can be run again: losing a
//! lease is a pause.

mod run;
mod status;
mod triggers;

use std::{sync::Arc, time::Duration};

use crate::{
    Action, CachedClient, Delta, Error, Key, Limits, Object, Recorder, Rules, Runnable, Scope, ShardBy,
    Shards, Verbs,
    queue::{Backoff, Queue, SharedQueue},
    source::Source,
};

pub(crate) use status::Status;
pub use triggers::Enqueue;
pub(crate) use triggers::{Trigger, Wire, Wiring};

/// Keys that are reconciled at a time. Not the number of processors: a seed must replay on any machine.
const WORKERS: usize = 5;
/// A reconcile that takes longer is cancelled and counts as failed.
const TIMEOUT: Duration = Duration::from_mins(2);
/// The longest limit: whatever takes more is a daemon.
const TIMEOUT_MAX: Duration = Duration::from_hours(24);
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
    /// The member that the object is in; `None` in the hub, and where there is one cluster alone. See [`crate::clusters`].
    pub cluster: Option<Arc<str>>,
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
    triggers: Vec<Trigger>,
    sources: Vec<Arc<dyn Source>>,
    resync: Option<Duration>,
    needs: Vec<Need>,
    limits: Limits,
    queue: Option<SharedQueue>,
    shards: Option<(Shards, ShardBy)>,
    /// Parts that it cannot run without.
    brings: Vec<Arc<dyn Runnable>>,
}

type Need = Box<dyn Fn(&Scope, &mut Rules) + Send + Sync>;
type Filter<K> = Arc<dyn Fn(&Delta<K>) -> bool + Send + Sync>;

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
            triggers: Vec::new(),
            sources: Vec::new(),
            resync: None,
            needs: Vec::new(),
            limits: Limits::default(),
            queue: None,
            shards: None,
            brings: Vec::new(),
        }
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

    /// Only changes of `K` that pass are triggers; deletes always pass. [`crate::predicate`] has the usual ones.
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

    /// How long a reconcile may take. By default two minutes, at most a day.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(TIMEOUT_MAX);
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

    /// How fast and how much at once keys are reconciled. Without effect on a queue of the caller's own.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
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

    /// Runs on every replica, each of which reconciles its share of the keys: no key on two of them at a time.
    #[must_use]
    pub fn sharded(self, shards: &Shards) -> Self {
        self.sharded_by(shards, ShardBy::Key)
    }

    /// As [`Controller::sharded`]; says what decides to whom an object belongs.
    #[must_use]
    pub fn sharded_by(mut self, shards: &Shards, by: ShardBy) -> Self {
        self.shards = Some((shards.clone(), by));
        self.brings(shards.part());
        self.without_leader()
    }

    /// Works from another queue.
    #[must_use]
    pub fn queue(mut self, queue: impl Queue<Key>) -> Self {
        self.queue = Some(Arc::new(queue));
        self
    }

    /// Runs along with it.
    pub(crate) fn brings(&mut self, part: Arc<dyn Runnable>) {
        self.brings.push(part);
    }

    /// The controller, ready to be handed to a manager.
    pub fn build(self, reconcile: impl Reconcile<K>) -> impl Runnable {
        run::Built::new(self, reconcile)
    }
}
