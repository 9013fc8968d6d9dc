//! The work queue: which key is worked on next, and when.
//!
//! A key is in the queue once, however often it is added, and is never handed to two workers at a time: what arrives
//! while it is worked on runs once more afterwards. Higher priorities go first; within a priority the lanes (namespaces)
//! take turns, so that a thousand changes in one do not hold up a single change in another.
//!
//! A failing key waits longer each time. Events do not burn that back-off (kubernetes#132805): a run that an event
//! brought forward, and that fails before its wait was over, leaves the wait as it was.
//!
//! [`Limits`] hold back what is ready: a key that ran just now goes back to the timers, a lane that has its share is
//! parked until one of its keys is done, and while the rate is used up nothing is handed out.

mod lanes;
mod stand;

use std::{
    collections::{BTreeMap, VecDeque},
    hash::Hash,
    ops::Bound,
    sync::{Arc, Weak},
    time::Duration,
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use crate::{Key, Limits, key::FastMap, metrics::QueueMetrics};
use lanes::Lanes;

pub use stand::Stand;

/// The shortest wait for a limiter that has refused.
const SPENT_MIN: Duration = Duration::from_millis(1);

/// Which of two keys is worked on first: the one with the higher priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(pub i16);

impl Priority {
    /// What changed just now.
    pub const NORMAL: Self = Self(0);
    /// What an initial list or a replay brings: it can wait for what changed just now.
    pub const INITIAL: Self = Self(-100);
}

/// How a key is added.
#[derive(Clone, Copy, Debug, Default)]
pub struct Add {
    /// Not before this much time has passed.
    pub after: Duration,
    /// Its place among the others.
    pub priority: Priority,
}

/// How work on a key ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Well: failures are forgotten.
    Ok,
    /// Well, and due again.
    RequeueAfter(Duration),
    /// Badly: due again after a wait that grows with each failure.
    Backoff,
    /// Badly, and no retry would help: wait for a change.
    Drop,
}

/// Something that is queued.
pub trait Item: Clone + Eq + Hash + Send + 'static {
    /// Items of the same lane are served in order; lanes take turns.
    fn lane(&self) -> &str {
        ""
    }
}

impl Item for Key {
    fn lane(&self) -> &str {
        self.namespace().unwrap_or_default()
    }
}

/// An item that is handed to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work<T> {
    /// The item; it is handed to nobody else until [`Queue::done`].
    pub item: T,
    /// The priority it waited with.
    pub priority: Priority,
    /// How often it has failed since it last succeeded.
    pub failures: u32,
}

/// A queue that a worker pool can take work from.
pub trait Queue<T>: Send + Sync + 'static {
    /// Adds an item, or brings forward the one that is there.
    fn add(&self, item: T, add: Add);
    /// Waits for work; `None` when the queue is shut down.
    fn get(&self) -> BoxFuture<'_, Option<Work<T>>>;
    /// Ends the work that [`Queue::get`] handed out.
    fn done(&self, item: &T, outcome: Outcome);
    /// How many items wait for a worker, not counting those that wait for their time.
    fn depth(&self) -> usize;
    /// What it holds at this moment, with at most `limit` items of each sort; `None` where nobody knows.
    fn stand(&self, _limit: usize) -> Option<Stand<T>> {
        None
    }
    /// Wakes all workers and lets them end.
    fn shut_down(&self);
    /// Opens a queue that was shut down.
    fn reopen(&self);
}

/// How long a failing item waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub base: Duration,
    /// At most.
    pub max: Duration,
    /// Whether an event has to wait, too. Otherwise a change is worked on at once, failing key or not.
    pub gate_events: bool,
}

impl Default for Backoff {
    /// As client-go: 5 ms, doubled up to 1000 s.
    fn default() -> Self {
        Self { base: Duration::from_millis(5), max: Duration::from_secs(1000), gate_events: false }
    }
}

impl Backoff {
    pub(crate) fn delay(&self, failures: u32) -> Duration {
        self.base.saturating_mul(1_u32 << failures.saturating_sub(1).min(30)).min(self.max)
    }
}

/// The default queue: first in, first out within priority and lane, lanes in turn.
pub struct Fair<T> {
    state: Mutex<State<T>>,
    backoff: Backoff,
    wake: Notify,
    metrics: Option<QueueMetrics>,
}

struct State<T> {
    slots: FastMap<T, Slot>,
    ready: BTreeMap<std::cmp::Reverse<Priority>, Lanes<T>>,
    depth: usize,
    limits: Limits,
    /// How many items of a lane are worked on, while there is a limit to that.
    busy: FastMap<String, usize>,
    /// The rate is used up until then.
    spent_until: Option<Instant>,
    /// Items that are remembered until they may run again.
    resting: VecDeque<(Instant, T)>,
    timers: BTreeMap<(Instant, u64), T>,
    sequence: u64,
    /// Until when one worker sleeps for the first timer; the others sleep until they are woken.
    timekeeper: Option<Instant>,
    closed: bool,
}

#[derive(Debug)]
struct Slot {
    /// Waits in `ready` with this priority, since then.
    ready: Option<(Priority, Instant)>,
    /// Handed to a worker, since then.
    working: Option<Instant>,
    /// Added while it was worked on.
    again: Option<Priority>,
    /// When it was handed out last, while there is a limit to how soon it may be again.
    last: Option<Instant>,
    /// Waits in `timers`.
    timer: Option<(Instant, u64)>,
    timer_priority: Priority,
    failures: u32,
    /// The end of the wait after the last failure.
    retry_at: Option<Instant>,
}

impl Slot {
    fn new() -> Self {
        Self {
            ready: None,
            working: None,
            again: None,
            last: None,
            timer: None,
            timer_priority: Priority::NORMAL,
            failures: 0,
            retry_at: None,
        }
    }

    fn is_idle(&self) -> bool {
        self.ready.is_none()
            && self.working.is_none()
            && self.timer.is_none()
            && self.again.is_none()
            && self.failures == 0
    }
}

impl<T: Item> Fair<T> {
    /// An empty queue.
    #[must_use]
    pub fn new(backoff: Backoff) -> Self {
        Self::limited(backoff, Limits::default())
    }

    /// An empty queue that hands out no more than these limits allow.
    #[must_use]
    pub fn limited(backoff: Backoff, limits: Limits) -> Self {
        Self::measured(backoff, limits, None)
    }

    pub(crate) fn measured(backoff: Backoff, limits: Limits, metrics: Option<QueueMetrics>) -> Self {
        let state = State {
            slots: FastMap::default(),
            ready: BTreeMap::new(),
            depth: 0,
            limits,
            busy: FastMap::default(),
            spent_until: None,
            resting: VecDeque::new(),
            timers: BTreeMap::new(),
            sequence: 0,
            timekeeper: None,
            closed: false,
        };
        Self { state: Mutex::new(state), backoff, wake: Notify::new(), metrics }
    }

    /// Sets the gauges that say how old the work in progress is; false when the queue is gone.
    pub(crate) fn observe(queue: &Weak<Self>) -> bool {
        let Some(queue) = queue.upgrade() else { return false };
        let Some(metrics) = &queue.metrics else { return true };
        let state = queue.state.lock();
        let ages = state.slots.values().filter_map(|s| s.working).map(|t| t.elapsed().as_secs_f64());
        let (sum, longest) = ages.fold((0.0, 0.0_f64), |(sum, max), age| (sum + age, max.max(age)));
        metrics.unfinished.set(sum);
        metrics.longest.set(longest);
        true
    }

    async fn next(&self) -> Option<Work<T>> {
        loop {
            let woken = self.wake.notified();
            let nap = {
                let mut state = self.state.lock();
                if state.closed {
                    return None;
                }
                let now = Instant::now();
                state.promote(now);
                if let Some((work, since)) = state.pop(now) {
                    let left = Left::of(&state);
                    // What follows takes longer than the queue should be locked.
                    drop(state);
                    self.handed_out(left, now - since);
                    return Some(work);
                }
                state.keep_time().map(|until| Timekeeper { queue: self, until })
            };
            match nap {
                Some(nap) => {
                    tokio::select! {
                        biased;
                        () = woken => {}
                        () = tokio::time::sleep_until(nap.until) => {}
                    }
                    nap.resume();
                }
                None => woken.await,
            }
        }
    }

    fn handed_out(&self, left: Left, waited: Duration) {
        if let Some(metrics) = &self.metrics {
            metrics.waited.observe(waited.as_secs_f64());
            metrics.depth.set(left.depth);
        }
        if left.work {
            self.wake.notify_one();
        }
    }

    fn changed(&self, left: Left) {
        if let Some(metrics) = &self.metrics {
            metrics.depth.set(left.depth);
        }
        self.wake.notify_one();
    }
}

/// What a queue holds at a moment.
#[derive(Clone, Copy)]
struct Left {
    depth: i64,
    /// There is something to do for another worker.
    work: bool,
}

impl Left {
    fn of<T: Item>(state: &State<T>) -> Self {
        Self {
            depth: i64::try_from(state.depth).unwrap_or(i64::MAX),
            work: state.depth > 0 || (state.timekeeper.is_none() && state.first_timer().is_some()),
        }
    }
}

/// The worker that sleeps until the first timer. Hands the office over when it is cancelled.
struct Timekeeper<'a, T: Item> {
    queue: &'a Fair<T>,
    until: Instant,
}

impl<T: Item> Timekeeper<'_, T> {
    /// Gives up the office without waking another: the worker is awake and looks for itself.
    fn resume(self) {
        let mut state = self.queue.state.lock();
        if state.timekeeper == Some(self.until) {
            state.timekeeper = None;
        }
        drop(state);
        std::mem::forget(self);
    }
}

impl<T: Item> Drop for Timekeeper<'_, T> {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        if state.timekeeper == Some(self.until) {
            state.timekeeper = None;
            self.queue.wake.notify_one();
        }
    }
}

impl<T: Item> Queue<T> for Fair<T> {
    fn add(&self, item: T, add: Add) {
        let mut state = self.state.lock();
        if let Some(metrics) = &self.metrics {
            metrics.adds.inc();
        }
        let now = Instant::now();
        let gated = self.backoff.gate_events.then(|| state.slots.get(&item)?.retry_at).flatten();
        let due = gated.map_or(now + add.after, |retry_at| retry_at.max(now + add.after));
        if due > now {
            state.add_later(item, due, add.priority);
        } else {
            state.add_now(item, add.priority, now);
        }
        let left = Left::of(&state);
        drop(state);
        self.changed(left);
    }

    fn get(&self) -> BoxFuture<'_, Option<Work<T>>> {
        Box::pin(self.next())
    }

    fn done(&self, item: &T, outcome: Outcome) {
        let mut state = self.state.lock();
        let now = Instant::now();
        let Some(slot) = state.slots.get_mut(item) else { return };
        let Some(since) = slot.working.take() else { return };
        let again = slot.again.take();
        let mut due = None;
        match outcome {
            Outcome::Ok | Outcome::Drop => slot.forgive(),
            Outcome::RequeueAfter(after) => {
                slot.forgive();
                due = Some(now + after);
            }
            Outcome::Backoff => due = Some(slot.fail(&self.backoff, now)),
        }
        let again = again.filter(|_| !(self.backoff.gate_events && outcome == Outcome::Backoff));
        let last = slot.last;
        if due.is_none() && again.is_none() && slot.is_idle() && last.is_none() {
            state.slots.remove(item);
        }
        state.released(item, last);
        match due {
            Some(due) if due > now => state.add_later(item.clone(), due, Priority::NORMAL),
            Some(_) => state.add_now(item.clone(), Priority::NORMAL, now),
            None => {}
        }
        if let Some(priority) = again {
            state.add_now(item.clone(), priority, now);
        }
        let left = Left::of(&state);
        drop(state);
        if let Some(metrics) = &self.metrics {
            metrics.worked.observe((now - since).as_secs_f64());
            if outcome == Outcome::Backoff {
                metrics.retries.inc();
            }
        }
        self.changed(left);
    }

    fn depth(&self) -> usize {
        self.state.lock().depth
    }

    fn stand(&self, limit: usize) -> Option<Stand<T>> {
        Some(self.look(limit))
    }

    fn shut_down(&self) {
        self.state.lock().closed = true;
        self.wake.notify_waiters();
    }

    fn reopen(&self) {
        self.state.lock().closed = false;
    }
}

impl Slot {
    fn forgive(&mut self) {
        self.failures = 0;
        self.retry_at = None;
    }

    /// Counts a failure, unless the run came before its time, and says when the next run is due.
    fn fail(&mut self, backoff: &Backoff, now: Instant) -> Instant {
        if let Some(retry_at) = self.retry_at.filter(|at| *at > now) {
            return retry_at;
        }
        self.failures = self.failures.saturating_add(1);
        let due = now + backoff.delay(self.failures);
        self.retry_at = Some(due);
        due
    }
}

impl<T: Item> State<T> {
    fn add_now(&mut self, item: T, priority: Priority, now: Instant) {
        let slot = self.slots.entry(item.clone()).or_insert_with(Slot::new);
        if slot.working.is_some() {
            slot.again = slot.again.max(Some(priority));
            return;
        }
        let since = match slot.ready {
            None => {
                self.depth += 1;
                now
            }
            Some((was, since)) if priority > was => since,
            Some(_) => return,
        };
        slot.ready = Some((priority, since));
        self.ready.entry(std::cmp::Reverse(priority)).or_default().push(item);
    }

    fn add_later(&mut self, item: T, due: Instant, priority: Priority) {
        self.sequence += 1;
        let at = (due, self.sequence);
        let slot = self.slots.entry(item.clone()).or_insert_with(Slot::new);
        if slot.timer.is_some_and(|(earlier, _)| earlier <= due) {
            slot.timer_priority = slot.timer_priority.max(priority);
            return;
        }
        let replaced = slot.timer.replace(at);
        slot.timer_priority = if replaced.is_some() { slot.timer_priority.max(priority) } else { priority };
        replaced.map(|was| self.timers.remove(&was));
        self.timers.insert(at, item);
    }

    /// Makes ready what is due.
    fn promote(&mut self, now: Instant) {
        while let Some(first) = self.timers.first_entry() {
            if first.key().0 > now {
                return;
            }
            let item = first.remove();
            let priority = match self.slots.get_mut(&item) {
                Some(slot) => {
                    slot.timer = None;
                    slot.timer_priority
                }
                None => continue,
            };
            self.add_now(item, priority, now);
        }
    }

    fn pop(&mut self, now: Instant) -> Option<(Work<T>, Instant)> {
        self.forget_rested(now);
        self.spent_until = None;
        let mut from = Bound::Unbounded;
        loop {
            let (at, lanes) = self.ready.range_mut((from, Bound::Unbounded)).next()?;
            let at = *at;
            let (busy, share) = (&self.busy, self.limits.per_lane);
            let is_full = |lane: &str| share.is_some_and(|n| busy.get(lane).is_some_and(|busy| *busy >= n));
            let Some(item) = lanes.pop(is_full) else {
                if lanes.is_empty() {
                    self.ready.remove(&at);
                } else {
                    from = Bound::Excluded(at);
                }
                continue;
            };
            if lanes.is_empty() {
                self.ready.remove(&at);
            }
            // An item whose priority was raised left its old place behind.
            let Some((slot, since)) = self.slots.get_mut(&item).and_then(|slot| match slot.ready {
                Some((priority, since)) if priority == at.0 => Some((slot, since)),
                _ => None,
            }) else {
                continue;
            };
            if let Some(due) = self.limits.key_interval.and_then(|rest| Some(slot.last? + rest))
                && due > now
            {
                slot.ready = None;
                self.depth -= 1;
                self.add_later(item, due, at.0);
                continue;
            }
            if let Some(limiter) = &self.limits.limiter
                && let Err(until) = limiter.take(now)
            {
                // A limiter that has no idea is not asked without end.
                self.spent_until = Some(until.max(now + SPENT_MIN));
                self.ready.entry(at).or_default().put_back(item);
                return None;
            }
            slot.ready = None;
            slot.working = Some(now);
            slot.last = self.limits.key_interval.map(|_| now);
            self.depth -= 1;
            if share.is_some() {
                *self.busy.entry(item.lane().to_owned()).or_default() += 1;
            }
            return Some((Work { item, priority: at.0, failures: slot.failures }, since));
        }
    }

    /// An item is no longer worked on: its lane may go on, and it rests.
    fn released(&mut self, item: &T, last: Option<Instant>) {
        if let Some(due) = self.limits.key_interval.and_then(|rest| Some(last? + rest)) {
            self.resting.push_back((due, item.clone()));
        }
        let Some(busy) = self.busy.get_mut(item.lane()) else { return };
        *busy -= 1;
        if *busy == 0 {
            self.busy.remove(item.lane());
        }
        self.ready.values_mut().for_each(|lanes| lanes.unpark(item.lane()));
    }

    fn forget_rested(&mut self, now: Instant) {
        while let Some((_, item)) = self.resting.pop_front_if(|(due, _)| *due <= now) {
            let rest = self.limits.key_interval.unwrap_or_default();
            if self.slots.get(&item).is_some_and(|s| s.is_idle() && s.last.is_none_or(|at| at + rest <= now))
            {
                self.slots.remove(&item);
            }
        }
    }

    /// When there will be something to hand out that waits for its time, or for the rate.
    fn first_timer(&self) -> Option<Instant> {
        let timer = self.timers.first_key_value().map(|((due, _), _)| *due);
        [timer, self.spent_until].into_iter().flatten().min()
    }

    /// Makes the caller the timekeeper, if there is a timer that nobody sleeps for.
    fn keep_time(&mut self) -> Option<Instant> {
        let until = self.first_timer()?;
        if self.timekeeper.is_some_and(|kept| kept <= until) {
            return None;
        }
        self.timekeeper = Some(until);
        Some(until)
    }
}

/// A queue shared by those who add and those who work.
pub(crate) type SharedQueue = Arc<dyn Queue<Key>>;

#[cfg(test)]
mod tests;
