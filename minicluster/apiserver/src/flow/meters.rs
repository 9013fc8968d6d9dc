//! What priority and fairness counts, under upstream's names.
//!
//! Counters of a schema are looked up once, when the configuration changes, not for each request.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::{limits::Bounds, queues::Refusal};

const SECONDS: [f64; 14] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByLevel {
    priority_level: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BySchema {
    priority_level: String,
    flow_schema: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Rejected {
    priority_level: String,
    flow_schema: String,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Waited {
    priority_level: String,
    flow_schema: String,
    execute: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// All of them.
#[derive(Clone)]
pub(crate) struct Meters {
    dispatched: Family<BySchema, Counter>,
    rejected: Family<Rejected, Counter>,
    inqueue: Family<BySchema, Gauge>,
    executing: Family<BySchema, Gauge>,
    seats: Family<BySchema, Gauge>,
    waited: Histograms<Waited>,
    executed: Histograms<BySchema>,
    nominal: Family<ByLevel, Gauge>,
    lower: Family<ByLevel, Gauge>,
    upper: Family<ByLevel, Gauge>,
    current: Family<ByLevel, Gauge>,
}

impl Default for Meters {
    fn default() -> Self {
        let seconds: fn() -> Histogram = || Histogram::new(SECONDS);
        Self {
            dispatched: Family::default(),
            rejected: Family::default(),
            inqueue: Family::default(),
            executing: Family::default(),
            seats: Family::default(),
            waited: Family::new_with_constructor(seconds),
            executed: Family::new_with_constructor(seconds),
            nominal: Family::default(),
            lower: Family::default(),
            upper: Family::default(),
            current: Family::default(),
        }
    }
}

impl Meters {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("apiserver_flowcontrol");
        r.register(
            "dispatched_requests",
            "Number of requests executed by API Priority and Fairness subsystem",
            self.dispatched.clone(),
        );
        r.register(
            "rejected_requests",
            "Number of requests rejected by API Priority and Fairness subsystem",
            self.rejected.clone(),
        );
        r.register(
            "current_inqueue_requests",
            "Number of requests currently pending in queues of the API Priority and Fairness subsystem",
            self.inqueue.clone(),
        );
        r.register("current_executing_requests", "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem", self.executing.clone());
        r.register("current_executing_seats", "Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem", self.seats.clone());
        r.register(
            "request_wait_duration_seconds",
            "Length of time a request spent waiting in its queue",
            self.waited.clone(),
        );
        r.register("request_execution_seconds", "Duration of initial stage (for a WATCH) or any (for a non-WATCH) stage of request execution in the API Priority and Fairness subsystem", self.executed.clone());
        r.register(
            "nominal_limit_seats",
            "Nominal number of execution seats configured for each priority level",
            self.nominal.clone(),
        );
        r.register(
            "lower_limit_seats",
            "Configured lower bound on number of execution seats available to each priority level",
            self.lower.clone(),
        );
        r.register(
            "upper_limit_seats",
            "Configured upper bound on number of execution seats available to each priority level",
            self.upper.clone(),
        );
        r.register(
            "current_limit_seats",
            "current derived number of execution seats available to each priority level",
            self.current.clone(),
        );
    }

    pub(super) fn limits(&self, level: &str, bounds: Bounds) {
        let label = ByLevel { priority_level: level.to_owned() };
        for (family, value) in [
            (&self.nominal, bounds.nominal),
            (&self.lower, bounds.min),
            (&self.upper, bounds.max),
            (&self.current, bounds.nominal),
        ] {
            family.get_or_create(&label).set(value);
        }
    }

    pub(super) fn current_limit(&self, level: &str, seats: i64) {
        self.current.get_or_create(&ByLevel { priority_level: level.to_owned() }).set(seats);
    }

    pub(super) fn of(&self, level: &str, schema: &str) -> Arc<SchemaMeters> {
        let (priority_level, flow_schema) = (level.to_owned(), schema.to_owned());
        let label = BySchema { priority_level: priority_level.clone(), flow_schema: flow_schema.clone() };
        let waited = |execute| {
            let label =
                Waited { priority_level: priority_level.clone(), flow_schema: flow_schema.clone(), execute };
            self.waited.get_or_create(&label).clone()
        };
        Arc::new(SchemaMeters {
            dispatched: self.dispatched.get_or_create(&label).clone(),
            inqueue: self.inqueue.get_or_create(&label).clone(),
            executing: self.executing.get_or_create(&label).clone(),
            seats: self.seats.get_or_create(&label).clone(),
            executed: self.executed.get_or_create(&label).clone(),
            served: waited("true"),
            given_up: waited("false"),
            rejected: self.rejected.clone(),
            label,
        })
    }
}

/// Those of one schema.
pub(super) struct SchemaMeters {
    label: BySchema,
    dispatched: Counter,
    rejected: Family<Rejected, Counter>,
    inqueue: Gauge,
    executing: Gauge,
    seats: Gauge,
    served: Histogram,
    given_up: Histogram,
    executed: Histogram,
}

impl SchemaMeters {
    pub(super) fn waiting(&self, change: i64) {
        self.inqueue.inc_by(change);
    }

    pub(super) fn began(&self, seats: i64, waited: Duration) {
        self.dispatched.inc();
        self.executing.inc();
        self.seats.inc_by(seats);
        self.served.observe(waited.as_secs_f64());
    }

    pub(super) fn ended(&self, seats: i64, took: Duration) {
        self.executing.dec();
        self.seats.dec_by(seats);
        self.executed.observe(took.as_secs_f64());
    }

    pub(super) fn refused(&self, refusal: Refusal, waited: Duration) {
        let BySchema { priority_level, flow_schema } = self.label.clone();
        let label = Rejected { priority_level, flow_schema, reason: refusal.label() };
        self.rejected.get_or_create(&label).inc();
        self.given_up.observe(waited.as_secs_f64());
    }
}
