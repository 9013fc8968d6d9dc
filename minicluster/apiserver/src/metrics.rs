//! What the server counts, under upstream's names.

mod conversion;
mod requests;

use std::fmt::Write;

use prometheus_client::{encoding::text::encode, registry::Registry};

pub(crate) use conversion::Conversions;
pub(crate) use requests::{Labels, Requests, WatchMeters};

use crate::flow;

/// All counters of one server.
pub struct Metrics {
    registry: Registry,
    /// Requests and watches.
    pub(crate) requests: Requests,
    /// Calls of conversion webhooks.
    pub(crate) conversions: Conversions,
    /// Priority and fairness.
    pub(crate) flow: flow::Meters,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::default(),
            requests: Requests::default(),
            conversions: Conversions::default(),
            flow: flow::Meters::default(),
        };
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let r = &mut self.registry;
        self.requests.register(r);
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
