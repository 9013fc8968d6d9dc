//! One priority level: its seats, and the queues of those who wait for one.
//!
//! Which queues a flow may use follows from its name (shuffle sharding); which queue is next, from virtual time: each
//! queue is charged for what was served from it, and the one that is charged least has its turn. Source:
//! `k8s.io/apiserver/pkg/util/flowcontrol/fairqueuing`, `…/util/shufflesharding`.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use ring::digest;
use tokio::sync::oneshot;

use super::limits::{Bounds, Demand};

/// What a request is charged with before it is known how long it takes, in seconds, as upstream.
const ESTIMATED_SERVICE: f64 = 0.003;

/// How much of an older demand is remembered in the next period.
const SMOOTHING: f64 = 0.977;

/// The part of a level's seats that one request may take.
const SEATS_PART: f64 = 0.15;

/// The queues of a level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Queuing {
    pub(super) queues: usize,
    pub(super) hand: usize,
    pub(super) length: usize,
}

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The level has no queues.
    ConcurrencyLimit,
    /// The queue is full.
    QueueFull,
    /// It took too long.
    TimeOut,
}

impl Refusal {
    /// As the metric has it.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::ConcurrencyLimit => "concurrency-limit",
            Self::QueueFull => "queue-full",
            Self::TimeOut => "time-out",
        }
    }
}

/// A priority level.
pub(super) struct Level {
    exempt: bool,
    queuing: Option<Queuing>,
    inner: Mutex<Inner>,
}

struct Inner {
    bounds: Bounds,
    /// The seats there are at present, with what was borrowed and lent.
    limit: i64,
    used: i64,
    wanted: i64,
    peak: i64,
    smooth: f64,
    queues: Vec<Queue>,
    waiting: usize,
    /// Virtual time: what the queue served last was charged with.
    now: f64,
    next_id: u64,
}

#[derive(Default)]
struct Queue {
    charged: f64,
    waiters: VecDeque<Waiter>,
    seats: i64,
}

struct Waiter {
    id: u64,
    seats: i64,
    turn: oneshot::Sender<()>,
}

/// Seats that are taken until this is dropped.
pub(super) struct Seated {
    level: Arc<Level>,
    seats: i64,
}

impl Seated {
    pub(super) fn seats(&self) -> i64 {
        self.seats
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.level.stand(self.seats);
    }
}

/// A place in a queue; giving up leaves it.
struct Place<'l> {
    level: &'l Arc<Level>,
    queue: usize,
    id: u64,
    seats: i64,
    served: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.served {
            return;
        }
        let mut inner = self.level.inner.lock();
        let queue = &mut inner.queues[self.queue];
        let before = queue.waiters.len();
        queue.waiters.retain(|waiter| waiter.id != self.id);
        if queue.waiters.len() < before {
            queue.seats -= self.seats;
            inner.waiting -= 1;
            inner.wanted -= self.seats;
            return;
        }
        // Called in the moment of giving up: the seats go to somebody else.
        drop(inner);
        self.level.stand(self.seats);
    }
}

impl Level {
    pub(super) fn new(exempt: bool, queuing: Option<Queuing>) -> Arc<Self> {
        let queues = queuing.as_ref().map_or(0, |queuing| queuing.queues);
        let inner = Inner {
            bounds: Bounds { nominal: 0, min: 0, max: 0 },
            limit: 0,
            used: 0,
            wanted: 0,
            peak: 0,
            smooth: 0.0,
            queues: (0..queues).map(|_| Queue::default()).collect(),
            waiting: 0,
            now: 0.0,
            next_id: 0,
        };
        Arc::new(Self { exempt, queuing, inner: Mutex::new(inner) })
    }

    pub(super) fn is_exempt(&self) -> bool {
        self.exempt
    }

    /// True when a level of this shape can go on in place of one.
    pub(super) fn is_like(&self, exempt: bool, queuing: Option<&Queuing>) -> bool {
        self.exempt == exempt && self.queuing.as_ref() == queuing
    }

    /// Sets how many seats it has by its share; what it borrowed is given back.
    pub(super) fn bound(self: &Arc<Self>, bounds: Bounds) {
        let mut inner = self.inner.lock();
        if inner.bounds != bounds {
            inner.bounds = bounds;
            inner.limit = bounds.nominal;
            inner.dispatch();
        }
    }

    /// Sets how many seats it has for now.
    pub(super) fn lend(self: &Arc<Self>, seats: i64) {
        let mut inner = self.inner.lock();
        inner.limit = seats;
        inner.dispatch();
    }

    /// What was wanted since this was last asked.
    pub(super) fn demand(&self) -> Demand {
        let mut inner = self.inner.lock();
        let peak = inner.peak;
        inner.peak = inner.wanted;
        inner.smooth = (peak as f64).max(SMOOTHING * inner.smooth + (1.0 - SMOOTHING) * peak as f64);
        Demand { bounds: inner.bounds, peak, smooth: inner.smooth }
    }

    /// The most seats that one request may take.
    pub(super) fn seats_max(&self) -> i64 {
        if self.exempt {
            return 1;
        }
        ((self.inner.lock().bounds.nominal as f64 * SEATS_PART).ceil() as i64).max(1)
    }

    /// Seats, when they are free and nobody waits.
    pub(super) fn try_sit(self: &Arc<Self>, seats: i64) -> Option<Seated> {
        let mut inner = self.inner.lock();
        let free = self.exempt || (inner.waiting == 0 && inner.fits(seats));
        if !free {
            return None;
        }
        inner.used += seats;
        inner.want(seats);
        drop(inner);
        Some(Seated { level: Arc::clone(self), seats })
    }

    /// Seats, when it is this request's turn.
    pub(super) async fn sit(self: &Arc<Self>, flow: &str, seats: i64) -> Result<Seated, Refusal> {
        let Some(queuing) = &self.queuing else { return Err(Refusal::ConcurrencyLimit) };
        let (mut place, turn) = {
            let mut inner = self.inner.lock();
            let hand = deal(hash(flow), queuing.queues, queuing.hand);
            let shortest = hand.into_iter().min_by_key(|queue| (inner.queues[*queue].seats, *queue));
            let queue = shortest.unwrap_or(0);
            if inner.queues[queue].waiters.len() >= queuing.length {
                return Err(Refusal::QueueFull);
            }
            let (turn, called) = oneshot::channel();
            let id = inner.next_id;
            inner.next_id += 1;
            inner.enqueue(queue, Waiter { id, seats, turn });
            inner.dispatch();
            (Place { level: self, queue, id, seats, served: false }, called)
        };
        // The sender is dropped only when the level is.
        turn.await.map_err(|_| Refusal::TimeOut)?;
        place.served = true;
        Ok(Seated { level: Arc::clone(self), seats })
    }

    fn stand(&self, seats: i64) {
        let mut inner = self.inner.lock();
        inner.used -= seats;
        inner.wanted -= seats;
        if inner.waiting > 0 {
            inner.dispatch();
        }
    }
}

impl Inner {
    /// A request that is wider than all seats is served alone.
    fn fits(&self, seats: i64) -> bool {
        self.used + seats <= self.limit || self.used == 0
    }

    fn want(&mut self, seats: i64) {
        self.wanted += seats;
        self.peak = self.peak.max(self.wanted);
    }

    fn enqueue(&mut self, at: usize, waiter: Waiter) {
        self.want(waiter.seats);
        self.waiting += 1;
        let now = self.now;
        let queue = &mut self.queues[at];
        if queue.waiters.is_empty() {
            // Who was away has saved nothing up.
            queue.charged = queue.charged.max(now);
        }
        queue.seats += waiter.seats;
        queue.waiters.push_back(waiter);
    }

    /// Serves as many as there are seats for, the queue that is charged least first.
    fn dispatch(&mut self) {
        while self.waiting > 0 {
            let waiting = self.queues.iter().enumerate().filter(|(_, queue)| !queue.waiters.is_empty());
            let finish = |queue: &Queue| queue.charged + queue.waiters[0].seats as f64 * ESTIMATED_SERVICE;
            let next = waiting.min_by(|(i, a), (j, b)| finish(a).total_cmp(&finish(b)).then(i.cmp(j)));
            let Some((at, seats)) = next.map(|(at, queue)| (at, queue.waiters[0].seats)) else { return };
            if !self.fits(seats) {
                return;
            }
            let queue = &mut self.queues[at];
            let waiter = queue.waiters.pop_front().expect("it is the first");
            queue.seats -= seats;
            self.now = self.now.max(queue.charged);
            queue.charged += seats as f64 * ESTIMATED_SERVICE;
            self.waiting -= 1;
            self.used += seats;
            // Who gave up in this moment gives the seats back when its place is dropped.
            let _ = waiter.turn.send(());
        }
    }
}

/// Which flow, as a number.
fn hash(flow: &str) -> u64 {
    let sum = digest::digest(&digest::SHA256, flow.as_bytes());
    u64::from_le_bytes(sum.as_ref()[..8].try_into().expect("eight bytes"))
}

/// Deals a hand of queues: another for each number, and each queue at most once in it.
fn deal(mut number: u64, deck: usize, hand: usize) -> Vec<usize> {
    let hand = hand.min(deck);
    let mut remainders: Vec<usize> = Vec::with_capacity(hand);
    for i in 0..hand {
        let left = (deck - i) as u64;
        remainders.push(usize::try_from(number % left).unwrap_or(0));
        number /= left;
    }
    (0..hand)
        .map(|i| {
            (0..i).rev().fold(remainders[i], |card, j| if card >= remainders[j] { card + 1 } else { card })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn level(seats: i64) -> Arc<Level> {
        let level = Level::new(false, Some(Queuing { queues: 8, hand: 2, length: 50 }));
        level.bound(Bounds { nominal: seats, min: seats, max: seats });
        level
    }

    #[test]
    fn a_hand_has_each_card_once_and_flows_have_different_hands() {
        let mut hands = BTreeSet::new();
        for flow in 0..200 {
            let hand = deal(hash(&format!("flow {flow}")), 64, 6);
            assert_eq!(hand.iter().collect::<BTreeSet<_>>().len(), 6);
            assert!(hand.iter().all(|card| *card < 64));
            hands.insert(hand);
        }
        assert!(hands.len() > 195, "{}", hands.len());
        assert_eq!(deal(0, 8, 3), [0, 1, 2]);
    }

    #[tokio::test]
    async fn an_elephant_does_not_keep_the_mice_waiting() {
        let level = level(1);
        let first = level.try_sit(1).unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        let mut come = |flow: &'static str| {
            let (level, order) = (Arc::clone(&level), Arc::clone(&order));
            tasks.spawn(async move {
                let seat = level.sit(flow, 1).await.unwrap();
                order.lock().push(flow);
                drop(seat);
            });
        };
        for _ in 0..40 {
            come("elephant");
        }
        tokio::task::yield_now().await;
        come("mouse");
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
        drop(first);
        while tasks.join_next().await.is_some() {}
        let at = order.lock().iter().position(|flow| *flow == "mouse").unwrap();
        assert!(at < 4, "the mouse came {at}th of 41");
        assert_eq!(level.inner.lock().used, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_leaves_no_trace_and_full_queues_refuse() {
        let level = level(2);
        let seats = [level.try_sit(1).unwrap(), level.try_sit(1).unwrap()];
        assert!(level.try_sit(1).is_none());
        for _ in 0..3 {
            let waited = tokio::time::timeout(std::time::Duration::from_secs(1), level.sit("a", 1)).await;
            assert!(waited.is_err());
        }
        {
            let inner = level.inner.lock();
            assert_eq!((inner.waiting, inner.used, inner.wanted), (0, 2, 2));
        }
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..101 {
            let level = Arc::clone(&level);
            tasks.spawn(async move { level.sit("a", 1).await.err() });
        }
        let refused = tasks.join_next().await.unwrap().unwrap();
        assert_eq!(refused, Some(Refusal::QueueFull), "two queues of fifty");
        drop(seats);
        while tasks.join_next().await.is_some() {}
        let inner = level.inner.lock();
        assert_eq!((inner.waiting, inner.used, inner.wanted), (0, 0, 0));
    }

    #[tokio::test]
    async fn what_is_wide_is_served_and_seats_follow_the_limit() {
        let level = level(4);
        let wide = level.try_sit(9).unwrap();
        assert!(level.try_sit(1).is_none());
        drop(wide);
        let three = level.try_sit(3).unwrap();
        assert!(level.try_sit(2).is_none() && level.try_sit(1).is_some());
        level.lend(5);
        assert!(level.try_sit(2).is_some());
        drop(three);
        let none = Level::new(false, None);
        none.bound(Bounds { nominal: 1, min: 1, max: 1 });
        let _seat = none.try_sit(1).unwrap();
        assert_eq!(none.sit("a", 1).await.err(), Some(Refusal::ConcurrencyLimit));
    }
}
