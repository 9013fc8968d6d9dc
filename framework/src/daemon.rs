//! Tasks that live as long as an object: one for each that is looked after, from when it appears until it goes.
//!
//! For what a reconcile cannot do, such as following a log or keeping a connection; kopf's daemons and timers. A task that
//! fails is started again after a wait that grows; one that ends well has done its work, and is not started again for the
//! same object. It is told to stop when the object goes, when it no longer matches, and when this replica no longer
//! leads, and is cut off if it does not. It does not hold up the deletion of its object: what has to happen before is for
//! [`crate::Finalized`].

mod attend;
mod posts;

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    Backoff, BoxError, CachedClient, Error, Key, Lister, Object, Place, Recorder, Rules, RunCx, Runnable,
    Scope, Verbs, random, signal::Signal,
};

/// The longest a task may take to stop.
const GRACE: Duration = Duration::from_secs(5);
/// Tasks at a time; the objects of more wait for one to end.
const TASKS: usize = 10_000;
/// How much a timer may be early or late.
const JITTER: f64 = 0.1;

/// Describes a task for each object of kind `K`; [`Daemon::build`] and [`Daemon::every`] make it run.
///
/// ```
/// use std::time::Duration;
///
/// use k8s_openapi::api::core::v1::ConfigMap;
/// use windlass::{Attended, Daemon, EventType};
///
/// let watchman = Daemon::<ConfigMap>::new("watchman")
///     .matching(|map| map.data.as_ref().is_some_and(|data| data.contains_key("watch")))
///     .build(|beat: Attended<ConfigMap>| async move {
///         while let Some(map) = beat.object() {
///             beat.recorder.event(&*map, EventType::Normal, "Watched", "all is well");
///             tokio::select! {
///                 biased;
///                 () = beat.stop.cancelled() => break,
///                 () = beat.changed() => {}
///             }
///         }
///         Ok(())
///     });
/// let bell = Daemon::<ConfigMap>::new("bell").every(Duration::from_secs(1800), |watch: Attended<ConfigMap>| async move {
///     println!("{} is struck", watch.key);
///     Ok(())
/// });
/// ```
pub struct Daemon<K: Object> {
    name: &'static str,
    component: &'static str,
    scope: Scope,
    matches: Arc<dyn Fn(&K) -> bool + Send + Sync>,
    backoff: Backoff,
    grace: Duration,
    tasks: usize,
    needs_leader: bool,
    needs: Vec<Box<dyn Fn(&Scope, &mut Rules) + Send + Sync>>,
}

/// What the task of an object is given.
pub struct Attended<K: Object> {
    /// Which object.
    pub key: Key,
    /// This very object: another of the same name has a task of its own.
    pub uid: String,
    /// How often it has failed since it last did well.
    pub attempt: u32,
    /// Reads caches and writes.
    pub client: CachedClient,
    /// Tells people.
    pub recorder: Recorder,
    /// Randomness of its own.
    pub random: random::Source,
    /// Cancelled when the task has to stop.
    pub stop: CancellationToken,
    lister: Lister<K>,
    changed: Arc<Signal<u64>>,
    seen: Arc<Mutex<u64>>,
}

impl<K: Object> Clone for Attended<K> {
    fn clone(&self) -> Self {
        Self {
            key: self.key.clone(),
            uid: self.uid.clone(),
            attempt: self.attempt,
            client: self.client.clone(),
            recorder: self.recorder.clone(),
            random: self.random.clone(),
            stop: self.stop.clone(),
            lister: self.lister.clone(),
            changed: self.changed.clone(),
            seen: self.seen.clone(),
        }
    }
}

impl<K: Object> Attended<K> {
    /// The object as the cache has it now; `None` when it is gone.
    #[must_use]
    pub fn object(&self) -> Option<Arc<K>> {
        self.lister.get(&self.key).filter(|object| object.meta().uid.as_deref() == Some(&self.uid))
    }

    /// Waits until the object has changed since this was last waited for, or since the task began.
    pub async fn changed(&self) {
        let seen = *self.seen.lock();
        self.changed.wait_for(|now| now != seen).await;
        *self.seen.lock() = self.changed.get();
    }
}

type Task<K> = dyn Fn(Attended<K>) -> BoxFuture<'static, Result<(), Error>> + Send + Sync;

impl<K: Object> Daemon<K>
where
    K::DynamicType: Default,
{
    /// A task for each object of kind `K`; the name shows in metrics, logs and `/failing`.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            component: name,
            scope: Scope::all(),
            matches: Arc::new(|_| true),
            backoff: Backoff {
                base: Duration::from_secs(1),
                max: Duration::from_mins(5),
                gate_events: false,
            },
            grace: GRACE,
            tasks: TASKS,
            needs_leader: true,
            needs: Vec::new(),
        }
    }

    /// Which objects are looked after.
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// Only objects that match have a task, for as long as they do. Objects that are being deleted have none.
    #[must_use]
    pub fn matching(mut self, matches: impl Fn(&K) -> bool + Send + Sync + 'static) -> Self {
        self.matches = Arc::new(matches);
        self
    }

    /// How long a task that failed waits. By default a second, doubled up to five minutes.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// How long a task may take to stop before it is cut off. By default five seconds.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// How many tasks run at a time, 10,000 by default. The objects of more wait for one to end.
    #[must_use]
    pub fn at_most(mut self, tasks: usize) -> Self {
        self.tasks = tasks.max(1);
        self
    }

    /// The component that its events name. By default the name.
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

    /// The tasks do this to objects of kind `C`.
    #[must_use]
    pub fn may<C: Object>(self, verbs: Verbs) -> Self
    where
        C::DynamicType: Default,
    {
        self.needs(move |scope, rules| rules.allow::<C>(scope, verbs))
    }

    /// The tasks need what these rules say.
    #[must_use]
    pub fn needs(mut self, needs: impl Fn(&Scope, &mut Rules) + Send + Sync + 'static) -> Self {
        self.needs.push(Box::new(needs));
        self
    }

    /// The tasks, ready to be handed to a manager.
    pub fn build<T>(self, task: impl Fn(Attended<K>) -> T + Send + Sync + 'static) -> impl Runnable
    where
        T: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let task = move |attended| -> BoxFuture<'static, Result<(), Error>> { Box::pin(task(attended)) };
        Attending { daemon: self, task: Arc::new(task), kept: Mutex::default() }
    }

    /// A timer for each object: `tick` is called when the object appears and once in every period from then on, give or
    /// take a tenth. One that fails is called again after a wait that grows.
    pub fn every<T>(
        self,
        period: Duration,
        tick: impl Fn(Attended<K>) -> T + Send + Sync + 'static,
    ) -> impl Runnable
    where
        T: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let (tick, name) = (Arc::new(tick), self.name);
        self.build(move |attended: Attended<K>| {
            let tick = tick.clone();
            async move {
                loop {
                    tick(attended.clone()).await?;
                    tracing::trace!(timer = name, key = %attended.key, "ticked");
                    let about = period.mul_f64(1.0 - JITTER + 2.0 * JITTER * attended.random.unit());
                    tokio::select! {
                        biased;
                        () = attended.stop.cancelled() => return Ok(()),
                        () = tokio::time::sleep(about) => {}
                    }
                }
            }
        })
    }
}

/// Tasks for the objects of a kind.
struct Attending<K: Object> {
    daemon: Daemon<K>,
    task: Arc<Task<K>>,
    /// The cache, while this replica waits for the lease.
    kept: Mutex<Option<crate::Informer<K>>>,
}

impl<K: Object> Runnable for Attending<K>
where
    K::DynamicType: Default,
{
    fn name(&self) -> &str {
        self.daemon.name
    }

    fn needs_leader(&self) -> bool {
        self.daemon.needs_leader
    }

    fn needs(&self, rules: &mut Rules) {
        let scope = &self.daemon.scope;
        rules.allow::<K>(scope, Verbs::READ);
        rules.allow_events(Place::of_events::<K>(scope));
        self.daemon.needs.iter().for_each(|needs| needs(scope, rules));
    }

    fn warm(&self, cx: &RunCx) {
        *self.kept.lock() = Some(cx.informers.get::<K>(self.daemon.scope.clone()));
    }

    fn run(&self, cx: RunCx) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(attend::attend(self, cx))
    }
}
