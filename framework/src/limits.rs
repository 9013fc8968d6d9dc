//! How fast and how much at once a queue hands out: a rate, a rest for each key, and a share for each namespace.
//!
//! A limit only delays. Nothing is dropped, keys that wait still collapse into one, and the order among those that are
//! free to go stays as it was.

use std::{fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Limits of a queue. By default there are none: namespaces take turns, and failing keys back off.
///
/// ```
/// use std::time::Duration;
///
/// use k8s_openapi::api::core::v1::ConfigMap;
/// use windlass::{Controller, Limits};
///
/// let limits = Limits::default()
///     .rate(10.0, 50)
///     .key_interval(Duration::from_secs(5))
///     .per_namespace(2);
/// let controller = Controller::<ConfigMap>::new("bill").workers(8).limits(limits);
/// ```
#[derive(Clone, Default)]
pub struct Limits {
    pub(crate) limiter: Option<Arc<dyn Limiter>>,
    pub(crate) key_interval: Option<Duration>,
    pub(crate) per_lane: Option<usize>,
}

impl Limits {
    /// At most this many reconciles a second on average, and `burst` at once after a rest.
    #[must_use]
    pub fn rate(self, per_second: f64, burst: u32) -> Self {
        self.limiter(Arc::new(Bucket::new(per_second, burst)))
    }

    /// Asks a limiter before each reconcile; several controllers may share one, such as the budget of a cloud's API.
    #[must_use]
    pub fn limiter(mut self, limiter: Arc<dyn Limiter>) -> Self {
        self.limiter = Some(limiter);
        self
    }

    /// A key is not reconciled again before this much time has passed since its last reconcile began.
    #[must_use]
    pub fn key_interval(mut self, interval: Duration) -> Self {
        self.key_interval = Some(interval);
        self
    }

    /// At most this many keys of one namespace at a time, so that slow work in one does not take all workers. Keys that
    /// wait until their own writes are seen count. Keys without a namespace are one of their own.
    #[must_use]
    pub fn per_namespace(mut self, keys: usize) -> Self {
        self.per_lane = Some(keys.max(1));
        self
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits")
            .field("limiter", &self.limiter.is_some())
            .field("key_interval", &self.key_interval)
            .field("per_namespace", &self.per_lane)
            .finish()
    }
}

/// Says when work may begin.
pub trait Limiter: Send + Sync + 'static {
    /// Takes leave for one piece of work now, or says when to ask again. Must be quick.
    fn take(&self, now: Instant) -> Result<(), Instant>;
}

/// A token bucket: filled at a steady rate, and never more than full.
pub struct Bucket {
    /// The time in which one token comes.
    each: Duration,
    /// How long a full bucket takes to fill, but for its last token.
    depth: Duration,
    /// When the bucket will be full again.
    full: Mutex<Option<Instant>>,
}

impl Bucket {
    /// A bucket that is full. A rate of zero or less is once an hour.
    #[must_use]
    pub fn new(per_second: f64, burst: u32) -> Self {
        let rate = if per_second > 0.0 { per_second } else { 1.0 / 3600.0 };
        let each = Duration::try_from_secs_f64(1.0 / rate).unwrap_or(Duration::from_hours(1));
        Self { each, depth: each.saturating_mul(burst.max(1) - 1), full: Mutex::new(None) }
    }

    /// Takes a token that may be to come, and says when it will be there. Who comes later has to wait longer.
    pub(crate) fn reserve(&self, now: Instant) -> Instant {
        let mut full = self.full.lock();
        let was = full.map_or(now, |at| at.max(now));
        *full = Some(was + self.each);
        (was.checked_sub(self.depth).unwrap_or(now)).max(now)
    }
}

impl Limiter for Bucket {
    fn take(&self, now: Instant) -> Result<(), Instant> {
        let mut full = self.full.lock();
        let was = full.map_or(now, |at| at.max(now));
        // Tokens are missing for as long as the bucket takes to fill.
        if was - now > self.depth {
            return Err(was - self.depth);
        }
        *full = Some(was + self.each);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bucket_gives_its_burst_and_then_its_rate() {
        let bucket = Bucket::new(10.0, 3);
        let begun = Instant::now();
        let mut given = Vec::new();
        for _ in 0..6 {
            while let Err(at) = bucket.take(Instant::now()) {
                tokio::time::sleep_until(at).await;
            }
            given.push(begun.elapsed().as_millis());
        }
        assert_eq!(given, [0, 0, 0, 100, 200, 300]);
        tokio::time::advance(Duration::from_secs(60)).await;
        let now = Instant::now();
        assert_eq!((0..10).filter(|_| bucket.take(now).is_ok()).count(), 3, "never more than full");
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_taken_in_order() {
        let (bucket, now) = (Bucket::new(10.0, 3), Instant::now());
        let turns: Vec<u128> = (0..6).map(|_| (bucket.reserve(now) - now).as_millis()).collect();
        assert_eq!(turns, [0, 0, 0, 100, 200, 300]);
        tokio::time::advance(Duration::from_millis(350)).await;
        let now = Instant::now();
        assert_eq!((bucket.reserve(now) - now).as_millis(), 50);
    }
}
