//! One test under many seeds: what goes wrong, and in which order things happen, is another each time.
//!
//! Each seed is played on a runtime of its own, with time paused, on as many threads as there are processors. A seed at
//! which the test panics is played again with less and less going wrong, until nothing more can be left out; the report
//! shows the shortest transcript that was found and the line that replays it.

use std::{
    any::Any,
    fmt::Write as _,
    num::NonZeroUsize,
    ops::RangeInclusive,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use futures::FutureExt;
use parking_lot::Mutex;
use tokio::runtime::Runtime;

use super::{Builder, Faults, Snapshot, TestCluster};

/// The variable that plays one seed alone.
const SEED: &str = "WINDLASS_SEED";

/// The variable that says how many seeds are played wherever a test plays more than one.
const SEEDS: &str = "WINDLASS_SEEDS";

/// Seeds that may fail until no more are played.
const FAILURES_MAX: usize = 16;

/// Lines of the shortest transcript that a report shows.
const SHOWN_MAX: usize = 60;

/// Plays a test under many seeds, each with faults of its own ([`Faults::drawn`]).
///
/// With `WINDLASS_SEED=n` in the environment it plays that seed alone: that is what a report says to do. With
/// `WINDLASS_SEEDS=n` it plays as many from the first of `seeds` on, unless that is the only one: a few at each change, and
/// a thousand over night.
///
/// ```
/// use minicluster::{TestCluster, test_cluster::explore};
///
/// explore(1..=10, TestCluster::builder, async |cluster| {
///     assert!(cluster.settle().await);
/// });
/// ```
///
/// # Panics
/// When the test panics under one of the seeds.
pub fn explore(
    seeds: RangeInclusive<u64>,
    cluster: impl Fn() -> Builder,
    test: impl AsyncFn(&mut TestCluster) + Sync,
) {
    Explorer::new(seeds).run(cluster, test);
}

/// How seeds are explored, where [`explore`] is not enough.
#[derive(Clone, Debug)]
pub struct Explorer {
    seeds: RangeInclusive<u64>,
    faults: fn(u64) -> Faults,
    threads: usize,
}

/// One run that failed.
struct Failure {
    seed: u64,
    faults: Faults,
    message: String,
    journal: Vec<String>,
}

impl Explorer {
    /// These seeds, with [`Faults::drawn`] for each.
    #[must_use]
    pub fn new(seeds: RangeInclusive<u64>) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self { seeds, faults: Faults::drawn, threads }
    }

    /// What goes wrong under a seed.
    #[must_use]
    pub fn faults(mut self, faults: fn(u64) -> Faults) -> Self {
        self.faults = faults;
        self
    }

    /// How many seeds are played at once; as many as there are processors at first.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Plays the seeds, each in a cluster of its own. It is prepared once, and every seed begins from there.
    ///
    /// # Panics
    /// When the test panics under one of them, with a report.
    pub fn run(self, cluster: impl Fn() -> Builder, test: impl AsyncFn(&mut TestCluster) + Sync) {
        let prepared = runtime().block_on(async { cluster().start().await.snapshot() });
        self.run_from(&prepared, test);
    }

    /// Plays the seeds from a moment that a test has prepared.
    ///
    /// # Panics
    /// When the test panics under one of them, with a report.
    pub fn run_from(self, cluster: &Snapshot, test: impl AsyncFn(&mut TestCluster) + Sync) {
        let seeds = asked(&self.seeds, number(SEED), number(SEEDS));
        let failures = self.failures(&seeds, cluster, &test);
        let Some(first) = failures.first() else { return };
        let count = failures.len();
        let shortest = failures.iter().min_by_key(|f| (f.journal.len(), f.seed)).unwrap_or(first);
        let shrunk = shrink(shortest, cluster, &test);
        let found = shrunk.as_ref().unwrap_or(shortest);
        panic!("{}", report(found, count, shrunk.is_some()));
    }

    /// Every failure, by seed.
    fn failures(
        &self,
        seeds: &RangeInclusive<u64>,
        cluster: &Snapshot,
        test: &(impl AsyncFn(&mut TestCluster) + Sync),
    ) -> Vec<Failure> {
        let (next, failed) = (AtomicU64::new(*seeds.start()), AtomicUsize::new(0));
        let failures = Mutex::new(Vec::new());
        let work = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed > *seeds.end() || failed.load(Ordering::Relaxed) >= FAILURES_MAX {
                    return;
                }
                if let Some(failure) = play(seed, (self.faults)(seed), cluster, test) {
                    failed.fetch_add(1, Ordering::Relaxed);
                    failures.lock().push(failure);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.threads {
                scope.spawn(work);
            }
            work();
        });
        let mut failures = failures.into_inner();
        failures.sort_by_key(|failure| failure.seed);
        failures
    }
}

/// The number that a variable of the environment holds.
///
/// # Panics
/// When it holds something else.
fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|error| panic!("{variable}={value}: {error}")))
}

/// The seeds to play of those a test names, where somebody asks for `one`, or for `count` of them.
fn asked(seeds: &RangeInclusive<u64>, one: Option<u64>, count: Option<u64>) -> RangeInclusive<u64> {
    let (first, last) = (*seeds.start(), *seeds.end());
    match (one, count) {
        (Some(seed), _) => seed..=seed,
        (None, Some(count)) if first < last => first..=first.saturating_add(count.max(1) - 1),
        _ => seeds.clone(),
    }
}

/// One thread, and time that jumps to whatever is waited for.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime needs nothing but memory")
}

/// Plays one seed.
fn play(
    seed: u64,
    faults: Faults,
    cluster: &Snapshot,
    test: &impl AsyncFn(&mut TestCluster),
) -> Option<Failure> {
    let played = catch_unwind(AssertUnwindSafe(|| {
        runtime().block_on(async {
            let mut cluster = cluster.clone().seed(seed).faults(faults.clone()).start().await;
            let ended = AssertUnwindSafe(test(&mut cluster)).catch_unwind().await;
            let panicked = ended.err()?;
            let journal = cluster.journal().iter().map(ToString::to_string).collect();
            Some(Failure { seed, faults: faults.clone(), message: said(&*panicked), journal })
        })
    }));
    played.unwrap_or_else(|panicked| {
        Some(Failure { seed, faults: faults.clone(), message: said(&*panicked), journal: Vec::new() })
    })
}

/// The same seed with less going wrong, as long as it still fails; `None` when everything is needed.
fn shrink(failure: &Failure, cluster: &Snapshot, test: &impl AsyncFn(&mut TestCluster)) -> Option<Failure> {
    let without: [fn(&mut Faults); 5] = [
        |faults| faults.delay = std::time::Duration::ZERO,
        |faults| faults.broken_watches = 0.0,
        |faults| faults.lost_answers = 0.0,
        |faults| faults.errors = 0.0,
        |faults| faults.conflicts = 0.0,
    ];
    let mut found: Option<Failure> = None;
    for leave_out in without {
        let mut faults = found.as_ref().unwrap_or(failure).faults.clone();
        let before = faults.clone();
        leave_out(&mut faults);
        if faults != before
            && let Some(failure) = play(failure.seed, faults, cluster, test)
        {
            found = Some(failure);
        }
    }
    found
}

fn report(failure: &Failure, count: usize, shrunk: bool) -> String {
    let Failure { seed, faults, message, journal } = failure;
    let test = std::thread::current().name().unwrap_or("TEST").to_owned();
    let mut report = format!("seed {seed}: {message}\n");
    let more = if count >= FAILURES_MAX { " or more" } else { "" };
    let _ = writeln!(report, "\n{count}{more} of the seeds fail; this is the shortest. To play it again:");
    let _ = writeln!(report, "\n  {SEED}={seed} cargo test {test}\n");
    let needed = if shrunk { "it is enough that this goes wrong" } else { "what goes wrong" };
    let _ = writeln!(report, "{needed}: {faults:?}");
    let from = journal.len().saturating_sub(SHOWN_MAX);
    let _ = writeln!(report, "the last {} of {} lines:", journal.len() - from, journal.len());
    for line in &journal[from..] {
        let _ = writeln!(report, "  {line}");
    }
    report
}

fn said(panicked: &(dyn Any + Send)) -> String {
    let text = panicked.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panicked.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_says_which_seeds_are_played() {
        assert_eq!(asked(&(5..=20), None, None), 5..=20);
        assert_eq!(asked(&(5..=20), None, Some(1000)), 5..=1004);
        assert_eq!(asked(&(5..=20), None, Some(0)), 5..=5);
        assert_eq!(asked(&(7..=7), None, Some(1000)), 7..=7, "a test that plays one seed means that one");
        assert_eq!(asked(&(5..=20), Some(99), Some(1000)), 99..=99);
    }
}
