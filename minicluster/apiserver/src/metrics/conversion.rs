//! What calls of conversion webhooks took, and how they ended.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

const LATENCY: [f64; 15] =
    [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Result {
    result: &'static str,
    failure_type: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Versions {
    crd_name: String,
    from_version: String,
    to_version: String,
    succeeded: &'static str,
}

/// The counters of conversion webhooks.
pub(crate) struct Conversions {
    requests: Family<Result, Counter>,
    latency: Family<Result, Histogram, fn() -> Histogram>,
    durations: Family<Versions, Histogram, fn() -> Histogram>,
}

impl Default for Conversions {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            latency: Family::new_with_constructor(|| Histogram::new(LATENCY)),
            durations: Family::new_with_constructor(|| {
                Histogram::new((0..15).map(|n| 0.001 * f64::from(1 << n)))
            }),
        }
    }
}

impl Conversions {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register(
            "apiserver_conversion_webhook_request",
            "Counter for conversion webhook requests with success/failure and failure error type",
            self.requests.clone(),
        );
        r.register(
            "apiserver_conversion_webhook_duration_seconds",
            "Conversion webhook request latency",
            self.latency.clone(),
        );
        r.register(
            "apiserver_crd_conversion_webhook_duration_seconds",
            "CRD webhook conversion duration in seconds",
            self.durations.clone(),
        );
    }

    /// Counts one call, from and to `group/version`.
    pub(crate) fn observe(
        &self,
        crd: &str,
        from: &str,
        to: &str,
        failure: Option<&'static str>,
        took: Duration,
    ) {
        let result = if failure.is_none() { "success" } else { "failure" };
        let labels = Result { result, failure_type: failure.unwrap_or("") };
        let version = |text: &str| text.rsplit('/').next().unwrap_or(text).to_owned();
        self.requests.get_or_create(&labels).inc();
        self.latency.get_or_create(&labels).observe(took.as_secs_f64());
        let labels = Versions {
            crd_name: crd.to_owned(),
            from_version: version(from),
            to_version: version(to),
            succeeded: if failure.is_none() { "true" } else { "false" },
        };
        self.durations.get_or_create(&labels).observe(took.as_secs_f64());
    }
}
