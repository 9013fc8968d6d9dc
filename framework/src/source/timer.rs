//! Keys by the clock.

use std::time::Duration;

use futures::future::BoxFuture;

use super::{Source, SourceCx};
use crate::{
    BoxError, Informers, Key,
    queue::{Add, Priority},
};

/// A source that has the keys that `keys` names reconciled once in every `period`, give or take a tenth.
///
/// ```
/// use std::time::Duration;
///
/// use k8s_openapi::api::core::v1::ConfigMap;
/// use windlass::{Controller, Key, source};
///
/// let nightly = source::every("nightly", Duration::from_secs(24 * 3600), |_| vec![Key::new(Some("a"), "report")]);
/// let controller = Controller::<ConfigMap>::new("reports").source(nightly.jitter(0.0));
/// ```
pub fn every<F>(name: &'static str, period: Duration, keys: F) -> Every<F>
where
    F: Fn(&Informers) -> Vec<Key> + Send + Sync + 'static,
{
    Every { name, period, jitter: 0.1, priority: Priority::NORMAL, keys }
}

/// A timer; see [`every`].
pub struct Every<F> {
    name: &'static str,
    period: Duration,
    jitter: f64,
    priority: Priority,
    keys: F,
}

impl<F> Every<F> {
    /// How much of the period it may come early or late, drawn from the seed. By default a tenth, so that replicas and
    /// timers do not go in step.
    #[must_use]
    pub fn jitter(mut self, part: f64) -> Self {
        self.jitter = part.clamp(0.0, 1.0);
        self
    }

    /// Its keys wait for everything that changed.
    #[must_use]
    pub fn behind(mut self) -> Self {
        self.priority = Priority::INITIAL;
        self
    }
}

impl<F: Fn(&Informers) -> Vec<Key> + Send + Sync + 'static> Source for Every<F> {
    fn name(&self) -> &str {
        self.name
    }

    fn run(&self, cx: SourceCx) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(async move {
            loop {
                tokio::time::sleep(about(self.period, self.jitter, &cx)).await;
                for key in (self.keys)(&cx.informers) {
                    cx.enqueue.add(key, Add { priority: self.priority, ..Add::default() });
                }
                cx.succeeded();
            }
        })
    }
}

/// A period, give or take a part of it. Never nothing: a timer that is always due would leave no time for others.
pub(super) fn about(period: Duration, part: f64, cx: &SourceCx) -> Duration {
    period.mul_f64(1.0 - part + 2.0 * part * cx.random.unit()).max(Duration::from_millis(1))
}
