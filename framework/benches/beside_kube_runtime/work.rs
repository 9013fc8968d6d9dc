//! What is done in a second: reconciles, lookups, turns of the queue, events.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    runtime::{self, WatchStreamExt, controller::Action as TheirAction, reflector, watcher},
};
use tokio::time::Instant;
use windlass::{
    Action, Add, Backoff, ByOwner, Controller, Error, Fair, Informers, Key, Manager, Outcome, Queue,
    Reconcile, Scope,
};

use crate::{memory::their_store, server};

/// Objects that are reconciled again and again.
const OBJECTS: usize = 10_000;
/// How long each side reconciles.
const SPAN: Duration = Duration::from_secs(3);
/// Lookups in an index.
const LOOKUPS: usize = 200_000;
/// Watch events taken in.
const EVENTS: usize = 60_000;

/// Waits as for an answer, if it takes any time, and asks to be called again at once.
struct Works {
    count: Arc<AtomicU64>,
    answer: Duration,
}

impl Reconcile<Pod> for Works {
    async fn reconcile(&self, _: windlass::Request<Pod>) -> Result<Action, Error> {
        if !self.answer.is_zero() {
            tokio::time::sleep(self.answer).await;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(Action::RequeueAfter(Duration::ZERO))
    }
}

pub(crate) async fn our_reconciles(at_once: usize, answer: Duration) -> f64 {
    let count = Arc::new(AtomicU64::new(0));
    let mut builder = Manager::builder(server::fixed(OBJECTS, 0));
    let pods = builder.informers().get::<Pod>(Scope::all());
    let works = Works { count: count.clone(), answer };
    builder.add(Controller::<Pod>::new("works").workers(at_once).build(works));
    let manager = tokio::spawn(builder.build().run(std::future::pending()));
    pods.synced().await;
    let rate = rate(&count).await;
    manager.abort();
    rate
}

pub(crate) async fn their_reconciles(at_once: u16, answer: Duration) -> f64 {
    // Lives as long as the program: nothing is counted against them but the work.
    let count: &'static AtomicU64 = Box::leak(Box::default());
    let config = runtime::controller::Config::default().concurrency(at_once);
    let controller =
        runtime::Controller::new(Api::<Pod>::all(server::fixed(OBJECTS, 0)), watcher::Config::default())
            .with_config(config)
            .run(
                move |_, _| async move {
                    if !answer.is_zero() {
                        tokio::time::sleep(answer).await;
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                    Ok::<_, Infallible>(TheirAction::requeue(Duration::ZERO))
                },
                |_, _, _| TheirAction::await_change(),
                Arc::new(()),
            );
    let task = tokio::spawn(controller.for_each(|_| std::future::ready(())));
    while count.load(Ordering::Relaxed) < OBJECTS as u64 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let rate = rate(count).await;
    task.abort();
    rate
}

/// Nanoseconds of one lookup of the ten pods of an owner among ten thousand.
pub(crate) async fn our_lookups() -> f64 {
    let informers = Informers::new(server::fixed(OBJECTS, 0));
    let pods = informers.get::<Pod>(Scope::all());
    let by_owner = pods.index(ByOwner);
    pods.synced().await;
    let owners: Vec<String> = (0..1000).map(|i| format!("rs-{i}")).collect();
    let begun = Instant::now();
    let found: usize = owners.iter().cycle().take(LOOKUPS).map(|owner| by_owner.keys(owner).len()).sum();
    assert_eq!(found, LOOKUPS * 10);
    begun.elapsed().as_nanos() as f64 / LOOKUPS as f64
}

/// The same by a scan, which is what kube-runtime's store offers.
pub(crate) async fn their_lookups() -> f64 {
    let (store, writer) = their_store(Api::all(server::fixed(OBJECTS, 0))).await;
    let owns = |pod: &Pod, uid: &str| pod.owner_references().iter().any(|o| o.uid == uid);
    let lookups = LOOKUPS / 1000;
    let begun = Instant::now();
    for i in 0..lookups {
        let uid = format!("rs-{}", i % 1000);
        let found = store.state().into_iter().filter(|pod| owns(pod, &uid)).count();
        assert_eq!(found, 10);
    }
    let each = begun.elapsed().as_nanos() as f64 / lookups as f64;
    writer.abort();
    each
}

/// Items that go through a queue one after the other, a thousand at a time.
pub(crate) async fn queue() -> f64 {
    let queue: Fair<Key> = Fair::new(Backoff::default());
    let keys: Vec<Key> =
        (0..1000).map(|i| Key::new(Some(&format!("ns-{}", i % 10)), &format!("web-{i}"))).collect();
    let (begun, rounds) = (Instant::now(), 1000);
    for _ in 0..rounds {
        keys.iter().for_each(|key| queue.add(key.clone(), Add::default()));
        for _ in &keys {
            let work = queue.get().await.expect("it is open");
            queue.done(&work.item, Outcome::Ok);
        }
    }
    (rounds * keys.len()) as f64 / begun.elapsed().as_secs_f64()
}

async fn rate(count: &AtomicU64) -> f64 {
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (before, begun) = (count.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(SPAN).await;
    (count.load(Ordering::Relaxed) - before) as f64 / begun.elapsed().as_secs_f64()
}

pub(crate) async fn our_events() -> f64 {
    let informers = Informers::new(server::fixed(1000, EVENTS));
    let begun = Instant::now();
    let pods = informers.get::<Pod>(Scope::all());
    pods.reached(None, (1000 + EVENTS) as u64).await;
    EVENTS as f64 / begun.elapsed().as_secs_f64()
}

pub(crate) async fn their_events() -> f64 {
    let (_store, writer) = reflector::store::<Pod>();
    let last = (1000 + EVENTS).to_string();
    let begun = Instant::now();
    let events =
        watcher(Api::<Pod>::all(server::fixed(1000, EVENTS)), watcher::Config::default()).default_backoff();
    let mut objects = Box::pin(events.reflect(writer).applied_objects());
    while let Some(Ok(pod)) = objects.next().await {
        if pod.resource_version().is_some_and(|revision| revision == last) {
            break;
        }
    }
    EVENTS as f64 / begun.elapsed().as_secs_f64()
}
