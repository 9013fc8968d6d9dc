//! Starts and stops the tasks of objects as [`Posts`] decides.

use std::{any::Any, collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::{
    task::{Id, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Attended, Attending, Task,
    posts::{Order, Posts},
};
use crate::{
    Backoff, BoxError, CachedClient, Error, Key, Lister, Object, Recorder, RunCx, failing::Failing, random,
    sentence, signal::Signal,
};

/// A task that has lived this long does well.
const HEALTHY: Duration = Duration::from_mins(1);

/// The tasks of one run.
struct Tasks<'a, K: Object> {
    attending: &'a Attending<K>,
    lister: Lister<K>,
    client: CachedClient,
    recorder: Recorder,
    random: random::Source,
    failing: Failing,
    running: Gauge,
    errors: Counter,
    stop: CancellationToken,
    posts: Posts,
    hands: BTreeMap<Key, Hand>,
    set: JoinSet<Key>,
    keys: BTreeMap<Id, Key>,
}

/// How a task is reached.
struct Hand {
    stop: CancellationToken,
    changed: Arc<Signal<u64>>,
}

pub(super) async fn attend<K: Object>(attending: &Attending<K>, cx: RunCx) -> Result<(), BoxError>
where
    K::DynamicType: Default,
{
    let daemon = &attending.daemon;
    let informer = cx.informers.get::<K>(daemon.scope.clone());
    tokio::select! {
        biased;
        () = cx.stop.cancelled() => return Ok(()),
        () = informer.synced() => {}
    }
    let mut deltas = informer.deltas();
    let (running, errors) = cx.metrics.daemon(daemon.name);
    let mut tasks = Tasks {
        attending,
        lister: informer.lister(),
        client: cx.client.for_request(),
        recorder: cx.recorder(daemon.component),
        random: cx.random.fork(daemon.name),
        failing: cx.metrics.failing().clone(),
        running,
        errors,
        stop: CancellationToken::new(),
        posts: Posts::default(),
        hands: BTreeMap::new(),
        set: JoinSet::new(),
        keys: BTreeMap::new(),
    };
    loop {
        tokio::select! {
            biased;
            () = cx.stop.cancelled() => break,
            Some(ended) = tasks.set.join_next_with_id() => {
                let id = ended.map_or_else(|error| error.id(), |(id, _)| id);
                tasks.ended(id);
            }
            batch = deltas.next() => {
                if let Some(delta) = batch.last() {
                    tasks.look(&delta.key());
                }
            }
        }
        // Many objects at once are not to keep others from running.
        tokio::task::coop::consume_budget().await;
    }
    // Each has its grace, all at the same time.
    tasks.stop.cancel();
    while tasks.set.join_next().await.is_some() {}
    tasks.running.set(0);
    *attending.kept.lock() = Some(informer);
    Ok(())
}

impl<K: Object> Tasks<'_, K>
where
    K::DynamicType: Default,
{
    /// Does what an object, as it is now, asks for.
    fn look(&mut self, key: &Key) {
        let daemon = &self.attending.daemon;
        let object = self
            .lister
            .get(key)
            .filter(|object| object.meta().deletion_timestamp.is_none() && (daemon.matches)(object));
        let uid = object.as_ref().map(|object| object.meta().uid.clone().unwrap_or_default());
        match self.posts.look(key, uid.as_deref(), daemon.tasks) {
            Order::Nothing => {}
            Order::Start => self.start(key, uid.unwrap_or_default()),
            Order::Stop => self.hands.get(key).into_iter().for_each(|hand| hand.stop.cancel()),
            Order::Nudge => self.hands.get(key).into_iter().for_each(|hand| hand.changed.update(|n| n + 1)),
        }
    }

    fn start(&mut self, key: &Key, uid: String) {
        let daemon = &self.attending.daemon;
        let hand = Hand { stop: self.stop.child_token(), changed: Arc::new(Signal::new(0)) };
        let attended = Attended {
            key: key.clone(),
            random: self.random.fork(&format!("{key} {uid}")),
            uid,
            attempt: 0,
            client: self.client.for_request(),
            recorder: self.recorder.clone(),
            stop: hand.stop.clone(),
            lister: self.lister.clone(),
            changed: hand.changed.clone(),
            seen: Arc::default(),
        };
        let post = Keeper {
            name: daemon.name,
            task: self.attending.task.clone(),
            backoff: daemon.backoff,
            grace: daemon.grace,
            failing: self.failing.clone(),
            errors: self.errors.clone(),
        };
        self.hands.insert(key.clone(), hand);
        let handle = self.set.spawn(async move {
            let key = attended.key.clone();
            post.keep(attended).await;
            key
        });
        self.keys.insert(handle.id(), key.clone());
        self.count();
    }

    fn ended(&mut self, id: Id) {
        let Some(key) = self.keys.remove(&id) else { return };
        self.hands.remove(&key);
        self.posts.ended(&key);
        self.look(&key);
        while let Some(next) = self.posts.next(self.attending.daemon.tasks) {
            self.look(&next);
        }
        self.count();
    }

    fn count(&self) {
        self.running.set(i64::try_from(self.posts.running()).unwrap_or(i64::MAX));
    }
}

/// Keeps the task of one object running.
struct Keeper<K: Object> {
    name: &'static str,
    task: Arc<Task<K>>,
    backoff: Backoff,
    grace: Duration,
    failing: Failing,
    errors: Counter,
}

impl<K: Object> Keeper<K> {
    /// Runs the task until it ends well, cannot be helped, or is told to stop.
    async fn keep(&self, mut attended: Attended<K>) {
        let stop = attended.stop.clone();
        loop {
            let begun = Instant::now();
            let Some(result) = self.once(attended.clone()).await else { break };
            let error = match result {
                Ok(()) => break,
                Err(error) => error,
            };
            if stop.is_cancelled() {
                break;
            }
            attended.attempt = if begun.elapsed() >= HEALTHY { 1 } else { attended.attempt + 1 };
            self.errors.inc();
            self.failing.failed(self.name, &attended.key, sentence(&error));
            if let Error::Terminal(_) = error {
                tracing::error!(daemon = self.name, key = %attended.key, %error, "failed for good");
                return;
            }
            let wait = error.retry_after().unwrap_or_else(|| self.backoff.delay(attended.attempt));
            tracing::warn!(daemon = self.name, key = %attended.key, %error, ?wait, "failed and will be started again");
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.failing.succeeded(self.name, &attended.key);
    }

    /// Runs the task once; `None` when it had to be cut off.
    async fn once(&self, attended: Attended<K>) -> Option<Result<(), Error>> {
        let (stop, key) = (attended.stop.clone(), attended.key.clone());
        let running = AssertUnwindSafe((self.task)(attended)).catch_unwind();
        tokio::pin!(running);
        let mut healthy = std::pin::pin!(tokio::time::sleep(HEALTHY));
        let mut is_healthy = false;
        let ended = loop {
            tokio::select! {
                biased;
                ended = &mut running => break ended,
                () = stop.cancelled() => {
                    let Ok(ended) = tokio::time::timeout(self.grace, &mut running).await else {
                        tracing::warn!(daemon = self.name, %key, grace = ?self.grace, "did not stop, and was cut off");
                        return None;
                    };
                    break ended;
                }
                () = &mut healthy, if !is_healthy => {
                    is_healthy = true;
                    self.failing.succeeded(self.name, &key);
                }
            }
        };
        Some(ended.unwrap_or_else(|panic| Err(Error::Other(message(&*panic).into()))))
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("it panicked: {}", text.unwrap_or_default())
}
