//! What is counted of webhooks, under controller-runtime's names.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};

use crate::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    webhook: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    webhook: String,
    code: u16,
}

/// The metrics of one server.
#[derive(Clone, Default)]
pub(super) struct Counts(Arc<Families>);

struct Families {
    total: Family<Answered, Counter>,
    latency: Family<Asked, Histogram, fn() -> Histogram>,
    running: Family<Asked, Gauge>,
}

impl Default for Families {
    fn default() -> Self {
        let latency = Family::new_with_constructor(buckets as fn() -> Histogram);
        Self { total: Family::default(), latency, running: Family::default() }
    }
}

fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 14))
}

impl Counts {
    pub(super) fn register(metrics: &Metrics) -> Self {
        let counts = Self::default();
        let families = Arc::clone(&counts.0);
        metrics.register(|registry| {
            let text = "Admission and conversion requests by path and HTTP status";
            registry.register("controller_runtime_webhook_requests", text, families.total.clone());
            let text = "Seconds that requests took, by path";
            registry.register("controller_runtime_webhook_latency_seconds", text, families.latency.clone());
            let text = "Requests that are being answered, by path";
            registry.register(
                "controller_runtime_webhook_requests_in_flight",
                text,
                families.running.clone(),
            );
        });
        counts
    }

    /// A request came in.
    pub(super) fn started(&self, webhook: &str) {
        self.0.running.get_or_create(&Asked { webhook: webhook.to_owned() }).inc();
    }

    /// It was answered.
    pub(super) fn ended(&self, webhook: &str, code: u16, took: Duration) {
        let asked = Asked { webhook: webhook.to_owned() };
        self.0.running.get_or_create(&asked).dec();
        self.0.latency.get_or_create(&asked).observe(took.as_secs_f64());
        self.0.total.get_or_create(&Answered { webhook: asked.webhook, code }).inc();
    }
}
