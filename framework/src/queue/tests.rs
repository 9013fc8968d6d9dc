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

/// Hands out until nothing is left at present, and says what.
fn rush(queue: &Fair<Key>) -> Vec<String> {
    std::iter::from_fn(|| queue.get().now_or_never().flatten()).map(|work| work.item.to_string()).collect()
}

fn limited(limits: Limits) -> Fair<Key> {
    Fair::limited(Backoff::default(), limits)
}

#[tokio::test(start_paused = true)]
async fn a_namespace_has_its_share_and_no_more() {
    let queue = limited(Limits::default().per_namespace(2));
    for i in 0..10_000 {
        queue.add(Key::new(Some("big"), &i.to_string()), Add::default());
    }
    queue.add(Key::new(Some("small"), "0"), Add { priority: Priority::INITIAL, ..Add::default() });
    assert_eq!(rush(&queue), ["big/0", "big/1", "small/0"], "a lower priority goes on behind a full lane");
    queue.done(&Key::new(Some("small"), "0"), Outcome::Ok);
    assert_eq!(rush(&queue), [""; 0]);
    queue.done(&Key::new(Some("big"), "0"), Outcome::Ok);
    assert_eq!(rush(&queue), ["big/2"]);
    assert_eq!(queue.depth(), 9_997);
    for n in 1..10_000 {
        queue.done(&Key::new(Some("big"), &n.to_string()), Outcome::Ok);
        let next = rush(&queue);
        assert!(next.len() <= 1 && queue.state.lock().busy.values().all(|busy| *busy <= 2), "{next:?}");
    }
    let state = queue.state.lock();
    assert!(state.slots.is_empty() && state.ready.is_empty() && state.busy.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_rate_holds_back_without_losing_order() {
    let queue = Arc::new(limited(Limits::default().rate(2.0, 3)));
    for i in 0..6 {
        queue.add(Key::new(Some(if i % 2 == 0 { "a" } else { "b" }), &i.to_string()), Add::default());
    }
    let (begun, seen) = (Instant::now(), Arc::new(Mutex::new(Vec::new())));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let (queue, seen) = (queue.clone(), seen.clone());
        workers.spawn(async move {
            while let Some(work) = queue.get().await {
                seen.lock().push((work.item.name().to_owned(), begun.elapsed().as_millis()));
                queue.done(&work.item, Outcome::Ok);
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    queue.shut_down();
    workers.join_all().await;
    let expected = [("0", 0), ("1", 0), ("2", 0), ("3", 500), ("4", 1000), ("5", 1500)];
    let seen = seen.lock();
    assert_eq!(seen.iter().map(|(key, at)| (key.as_str(), *at)).collect::<Vec<_>>(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_key_rests_between_runs() {
    let queue = limited(Limits::default().key_interval(Duration::from_secs(5)));
    let key = Key::new(Some("a"), "b");
    let begun = Instant::now();
    let mut runs = Vec::new();
    queue.add(key.clone(), Add::default());
    for _ in 0..3 {
        let work = queue.get().await.unwrap();
        runs.push(begun.elapsed().as_millis());
        tokio::time::advance(Duration::from_secs(1)).await;
        queue.add(key.clone(), Add::default());
        queue.done(&work.item, Outcome::Ok);
        queue.add(Key::new(Some("a"), "other"), Add::default());
        let other = queue.get().await.unwrap();
        assert_eq!(other.item.name(), "other", "others do not wait for it");
        queue.done(&other.item, Outcome::Drop);
        tokio::time::advance(Duration::from_secs(3)).await;
    }
    assert_eq!(runs, [0, 5000, 10_000]);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(rush(&queue), ["a/b"]);
    queue.done(&key, Outcome::Ok);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(rush(&queue), [""; 0]);
    assert!(queue.state.lock().slots.is_empty(), "who has rested is forgotten");
}
