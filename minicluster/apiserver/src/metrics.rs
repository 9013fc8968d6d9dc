//! What the server counts, under upstream's names.

mod conversion;

use std::fmt::Write;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

pub(crate) use conversion::Conversions;

use crate::flow;

/// The labels of `apiserver_request_total`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RequestLabels {
    /// The verb, upper case.
    pub verb: String,
    /// The API group.
    pub group: String,
    /// The API version.
    pub version: String,
    /// The resource.
    pub resource: String,
    /// The subresource.
    pub subresource: String,
    /// The HTTP status code.
    pub code: u16,
}

/// The labels of `apiserver_request_duration_seconds`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct DurationLabels {
    /// The verb, upper case.
    pub verb: String,
    /// The resource.
    pub resource: String,
}

/// All counters of one server.
pub struct Metrics {
    registry: Registry,
    /// Requests by what they asked and how they ended.
    pub requests: Family<RequestLabels, Counter>,
    /// How long they took; watches and connections are left out.
    pub durations: Family<DurationLabels, Histogram, fn() -> Histogram>,
    /// Requests being answered.
    pub in_flight: Gauge,
    /// Watches being served.
    pub watches: Gauge,
    /// Calls of conversion webhooks.
    pub(crate) conversions: Conversions,
    /// Priority and fairness.
    pub(crate) flow: flow::Meters,
}

impl Default for Metrics {
    fn default() -> Self {
        let histogram: fn() -> Histogram =
            || Histogram::new([0.001, 0.005, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]);
        let metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            durations: Family::new_with_constructor(histogram),
            in_flight: Gauge::default(),
            watches: Gauge::default(),
            conversions: Conversions::default(),
            flow: flow::Meters::default(),
        };
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let r = &mut self.registry;
        r.register("apiserver_request", "Requests by verb, resource and code", self.requests.clone());
        r.register("apiserver_request_duration_seconds", "Response latency", self.durations.clone());
        r.register("apiserver_current_inflight_requests", "Requests being served", self.in_flight.clone());
        r.register("apiserver_longrunning_requests", "Watches being served", self.watches.clone());
        self.conversions.register(r);
        self.flow.register(r);
        self
    }

    /// The exposition text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        if encode(&mut out, &self.registry).is_err() {
            out.clear();
            let _ = out.write_str("# the metrics could not be encoded\n");
        }
        out
    }
}
