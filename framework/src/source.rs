//! Triggers from outside of the API: a channel, a timer, or what another system answers.
//!
//! A [`Source`] runs while its controller does, on the leader alone unless the controller says otherwise, and adds keys
//! to the queue. It decides nothing: what is to be done is found out by the reconcile, as with every other trigger. One
//! that fails is run again after a wait that grows; until it does well again it stands in `/failing`, as
//! `source NAME`.

mod channel;
mod poll;
mod timer;

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use prometheus_client::metrics::counter::Counter;

use crate::{BoxError, Enqueue, Informers, Key, Rules, RunCx, Scope, failing::Failing, random};

pub use channel::{Channel, Sender, channel};
pub use poll::{Answers, Poll, poll};
pub use timer::{Every, every};

/// The wait after the first failure; doubled with each up to [`BACKOFF_MAX`].
const BACKOFF_BASE: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_mins(5);

/// Finds triggers outside of the API.
///
/// ```
/// use std::time::Duration;
///
/// use futures::future::BoxFuture;
/// use k8s_openapi::api::core::v1::ConfigMap;
/// use windlass::{
///     BoxError, Controller, Key,
///     source::{self, Source, SourceCx},
/// };
///
/// /// Has one object looked at whenever a line of it may have changed.
/// struct Tides;
///
/// impl Source for Tides {
///     fn name(&self) -> &str {
///         "tides"
///     }
///
///     fn run(&self, cx: SourceCx) -> BoxFuture<'_, Result<(), BoxError>> {
///         Box::pin(async move {
///             loop {
///                 tokio::time::sleep(Duration::from_secs(6 * 3600)).await;
///                 cx.enqueue.now(Key::new(Some("harbour"), "tides"));
///             }
///         })
///     }
/// }
///
/// let (sender, channel) = source::channel("signals");
/// let controller = Controller::<ConfigMap>::new("harbour").source(Tides).source(channel);
/// sender.send(Key::new(Some("harbour"), "beacon"));
/// ```
pub trait Source: Send + Sync + 'static {
    /// Shows in metrics, in logs and in `/failing`.
    fn name(&self) -> &str;

    /// What it needs from the API; the scope is the controller's.
    fn needs(&self, _scope: &Scope, _rules: &mut Rules) {}

    /// Runs until the controller stops, which drops the future. A source that ends well has nothing more to tell until
    /// the controller starts again; one that fails is run again after a while.
    fn run(&self, cx: SourceCx) -> BoxFuture<'_, Result<(), BoxError>>;
}

/// What a source runs with.
#[derive(Clone)]
pub struct SourceCx {
    /// The queue of the controller.
    pub enqueue: Enqueue,
    /// The caches of the process.
    pub informers: Informers,
    /// Randomness of its own.
    pub random: random::Source,
    health: Arc<Health>,
}

/// How a source is doing.
struct Health {
    controller: &'static str,
    key: Key,
    failures: AtomicU32,
    failing: Failing,
    errors: Counter,
}

impl SourceCx {
    pub(crate) fn new(
        controller: &'static str,
        name: &str,
        enqueue: Enqueue,
        random: random::Source,
        cx: &RunCx,
    ) -> Self {
        let health = Health {
            controller,
            key: Key::new(None, &format!("source {name}")),
            failures: AtomicU32::new(0),
            failing: cx.metrics.failing().clone(),
            errors: cx.metrics.source_errors(controller, name),
        };
        Self { enqueue, informers: cx.informers.clone(), random, health: Arc::new(health) }
    }

    /// Says that it does well: earlier failures are forgotten.
    pub fn succeeded(&self) {
        let health = &self.health;
        health.failures.store(0, Ordering::Relaxed);
        health.failing.succeeded(health.controller, &health.key);
    }

    /// Counts a failure and says how long to wait.
    fn failed(&self, error: String) -> Duration {
        let health = &self.health;
        let before = health.failures.fetch_add(1, Ordering::Relaxed);
        health.errors.inc();
        let wait = self.random.jitter(BACKOFF_BASE.saturating_mul(1 << before.min(16)).min(BACKOFF_MAX), 0.1);
        tracing::warn!(
            controller = health.controller,
            source = health.key.name(),
            error,
            ?wait,
            "a source failed"
        );
        health.failing.failed(health.controller, &health.key, error);
        wait
    }
}

/// Runs a source until it ends well, again and again.
pub(crate) async fn supervise(source: Arc<dyn Source>, cx: SourceCx) {
    loop {
        let failure = match AssertUnwindSafe(source.run(cx.clone())).catch_unwind().await {
            Ok(Ok(())) => return cx.succeeded(),
            Ok(Err(error)) => crate::sentence(&*error),
            Err(_) => "it panicked".to_owned(),
        };
        tokio::time::sleep(cx.failed(failure)).await;
    }
}
