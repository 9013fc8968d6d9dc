//! The queue against a model of what it owes, under virtual time.

use std::collections::BTreeSet;

use futures::FutureExt;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Add { key: u8, after: u64, priority: i16 },
    Get,
    Done { outcome: u8 },
    Pass { millis: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..6_u8, prop_oneof![Just(0_u64), 1..50_u64], prop_oneof![Just(0_i16), Just(-100), Just(10)])
            .prop_map(|(key, after, priority)| Op::Add { key, after, priority }),
        Just(Op::Get),
        (0..4_u8).prop_map(|outcome| Op::Done { outcome }),
        (1..100_u64).prop_map(|millis| Op::Pass { millis }),
    ]
}

fn key(n: u8) -> Key {
    Key::new(Some(if n.is_multiple_of(2) { "even" } else { "odd" }), &n.to_string())
}

/// What a queue owes, and nothing about how it does it.
#[derive(Default)]
struct Model {
    due: BTreeSet<Key>,
    timers: BTreeMap<Key, Instant>,
    working: Vec<Key>,
}

impl Model {
    fn owe(&mut self, key: &Key, at: Instant, now: Instant) {
        if at <= now {
            self.due.insert(key.clone());
            return;
        }
        let timer = self.timers.entry(key.clone()).or_insert(at);
        *timer = at.min(*timer);
    }

    /// The keys that may be handed out.
    fn ready(&mut self, now: Instant) -> BTreeSet<Key> {
        let passed = self.timers.extract_if(.., |_, at| *at <= now).map(|(key, _)| key);
        self.due.extend(passed);
        self.due.iter().filter(|key| !self.working.contains(key)).cloned().collect()
    }
}

async fn play(ops: Vec<Op>) {
    let backoff =
        Backoff { base: Duration::from_millis(10), max: Duration::from_millis(40), gate_events: false };
    let (queue, mut model) = (Fair::new(backoff), Model::default());
    for op in ops {
        let now = Instant::now();
        match op {
            Op::Add { key: n, after, priority } => {
                let after = Duration::from_millis(after);
                queue.add(key(n), Add { after, priority: Priority(priority) });
                model.owe(&key(n), now + after, now);
            }
            Op::Get => {
                let work = queue.next().now_or_never().flatten();
                let ready = model.ready(now);
                assert_eq!(work.is_some(), !ready.is_empty(), "what is due is handed out, and nothing else");
                if let Some(work) = work {
                    assert!(ready.contains(&work.item), "{} is not due, or is worked on", work.item);
                    model.due.remove(&work.item);
                    model.working.push(work.item);
                }
            }
            Op::Done { outcome } => {
                let Some(item) = model.working.pop() else { continue };
                let (outcome, due) = match outcome {
                    0 => (Outcome::Ok, None),
                    1 => (
                        Outcome::RequeueAfter(Duration::from_millis(5)),
                        Some(now + Duration::from_millis(5)),
                    ),
                    2 => (Outcome::RequeueAfter(Duration::ZERO), Some(now)),
                    _ => (Outcome::Drop, None),
                };
                queue.done(&item, outcome);
                if let Some(due) = due {
                    model.owe(&item, due, now);
                }
            }
            Op::Pass { millis } => tokio::time::advance(Duration::from_millis(millis)).await,
        }
    }
}

proptest! {
    #[test]
    fn every_key_is_worked_on_when_it_is_due_and_by_one_at_a_time(ops in prop::collection::vec(op(), 1..60)) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(play(ops));
    }
}

#[tokio::test(start_paused = true)]
async fn failures_wait_longer_each_time_and_gated_events_wait_with_them() {
    let backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(4), gate_events: true };
    let queue = Fair::new(backoff);
    let item = key(1);
    queue.add(item.clone(), Add::default());
    let begun = Instant::now();
    let mut at = Vec::new();
    for _ in 0..5 {
        let work = queue.next().await.unwrap();
        at.push((begun.elapsed().as_secs(), work.failures));
        queue.done(&item, Outcome::Backoff);
        // An event in the middle of the wait brings nothing forward.
        queue.add(item.clone(), Add::default());
    }
    assert_eq!(at, [(0, 0), (1, 1), (3, 2), (7, 3), (11, 4)]);
}

#[tokio::test(start_paused = true)]
async fn shutting_down_wakes_every_worker() {
    let queue = Arc::new(Fair::<Key>::new(Backoff::default()));
    let worker = |queue: Arc<Fair<Key>>| tokio::spawn(async move { queue.next().await.is_none() });
    let workers: Vec<_> = (0..4).map(|_| worker(queue.clone())).collect();
    tokio::task::yield_now().await;
    queue.shut_down();
    for worker in workers {
        assert!(worker.await.unwrap());
    }
}
