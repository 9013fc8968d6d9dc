//! Leader election between managers that share a server.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use http::Method;
use tokio::{sync::oneshot, task::JoinHandle, time::Instant};
use windlass::{BoxError, Lease, Manager, RunCx, Runnable, random::Source};

use crate::fake::Fake;

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/test";

/// Counts how many run at a time, and how often they were started.
struct Part {
    now: Arc<AtomicUsize>,
    starts: Arc<AtomicUsize>,
}

impl Runnable for Part {
    fn name(&self) -> &'static str {
        "part"
    }

    fn run(&self, cx: RunCx) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(async move {
            assert_eq!(self.now.fetch_add(1, Ordering::SeqCst), 0, "two lead at a time");
            self.starts.fetch_add(1, Ordering::SeqCst);
            cx.stop.cancelled().await;
            self.now.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        })
    }
}

#[derive(Clone, Default)]
struct Counters {
    now: Arc<AtomicUsize>,
    starts: Arc<AtomicUsize>,
}

fn replica(fake: &Fake, id: &str, counters: &Counters) -> (oneshot::Sender<()>, JoinHandle<()>) {
    let seed = id.bytes().map(u64::from).sum();
    let mut builder = Manager::seeded(fake.client(), Source::seeded(seed)).leader_election(Lease::new(
        "kube-system",
        "test",
        id,
    ));
    builder.add(Part { now: counters.now.clone(), starts: counters.starts.clone() });
    let manager = builder.build();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let _ = manager.run(async { drop(stopped.await) }).await;
    });
    (stop, task)
}

fn holder(fake: &Fake) -> String {
    let lease = fake.get(LEASE).unwrap_or_default();
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_given_back_and_taken_at_once() {
    let (fake, counters) = (Fake::new(), Counters::default());
    let (stop, task) = replica(&fake, "a", &counters);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(holder(&fake), "a");
    let _b = replica(&fake, "b", &counters);
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!((holder(&fake), counters.starts.load(Ordering::SeqCst)), ("a".into(), 1));
    drop(stop);
    task.await.unwrap();
    assert_eq!((holder(&fake), counters.now.load(Ordering::SeqCst)), (String::new(), 0));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((holder(&fake), counters.now.load(Ordering::SeqCst)), ("b".into(), 1));
    assert_eq!(fake.get(LEASE).unwrap()["spec"]["leaseTransitions"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_leader_is_replaced_when_its_lease_runs_out() {
    let (fake, counters) = (Fake::new(), Counters::default());
    let (_stop, task) = replica(&fake, "a", &counters);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let _b = replica(&fake, "b", &counters);
    tokio::time::sleep(Duration::from_secs(10)).await;
    task.abort();
    let _ = task.await;
    counters.now.store(0, Ordering::SeqCst);
    let died = Instant::now();
    while holder(&fake) != "b" {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(died.elapsed() < Duration::from_mins(1), "nobody took over");
    }
    assert!(died.elapsed() < Duration::from_secs(20), "{:?}", died.elapsed());
}

#[tokio::test(start_paused = true)]
async fn losing_the_lease_pauses_and_getting_it_back_resumes() {
    let (fake, counters) = (Fake::new(), Counters::default());
    let _a = replica(&fake, "a", &counters);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(counters.now.load(Ordering::SeqCst), 1);
    fake.fail(Method::GET, "leases/test", 500, 8);
    tokio::time::sleep(Duration::from_secs(13)).await;
    assert_eq!(counters.now.load(Ordering::SeqCst), 0, "it could not renew for ten seconds");
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!((counters.now.load(Ordering::SeqCst), counters.starts.load(Ordering::SeqCst)), (1, 2));
}
