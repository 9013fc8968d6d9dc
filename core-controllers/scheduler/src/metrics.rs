//! The scheduler's metrics, under upstream's names (`pkg/scheduler/metrics`).

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};
use tokio::time::Instant;

use crate::plugin::Point;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Pointed {
    extension_point: String,
    profile: String,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempted {
    profile: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Queued {
    queue: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The metrics of a scheduler.
#[derive(Clone)]
pub(crate) struct Metrics {
    points: Histograms<Pointed>,
    attempts: Family<Attempted, Counter>,
    attempt_seconds: Histograms<Attempted>,
    pending: [Gauge; 4],
}

/// What one profile counts, looked up once.
pub(crate) struct Timings {
    points: Vec<[Histogram; 2]>,
    attempts: [(Counter, Histogram); 3],
}

/// How a point ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    Unschedulable,
}

/// How the decision about a pod ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    Scheduled,
    Unschedulable,
    Error,
}

impl Metrics {
    pub(crate) fn new(metrics: &windlass::Metrics) -> Self {
        let points: Histograms<Pointed> =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.0001, 2.0, 12)));
        let attempt_seconds: Histograms<Attempted> =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 15)));
        let (attempts, queues) = (Family::default(), Family::<Queued, Gauge>::default());
        metrics.register(|r| {
            r.register(
                "scheduler_framework_extension_point_duration_seconds",
                "Latency for running all plugins of a specific extension point",
                Family::clone(&points),
            );
            r.register(
                "scheduler_schedule_attempts",
                "Attempts to schedule pods, by the result",
                Family::clone(&attempts),
            );
            r.register(
                "scheduler_scheduling_attempt_duration_seconds",
                "Time from the queue to the decision about a pod",
                Family::clone(&attempt_seconds),
            );
            r.register("scheduler_pending_pods", "Pods that wait, by the queue", Family::clone(&queues));
        });
        let pending = ["active", "backoff", "unschedulable", "gated"]
            .map(|queue| queues.get_or_create(&Queued { queue }).clone());
        Self { points, attempts, attempt_seconds, pending }
    }

    pub(crate) fn timings(&self, profile: &str) -> Timings {
        let point = |point: Point| {
            ["Success", "Unschedulable"].map(|status| {
                let labels =
                    Pointed { extension_point: point.to_string(), profile: profile.to_owned(), status };
                self.points.get_or_create(&labels).clone()
            })
        };
        let attempt = |result| {
            let labels = Attempted { profile: profile.to_owned(), result };
            (
                self.attempts.get_or_create(&labels).clone(),
                self.attempt_seconds.get_or_create(&labels).clone(),
            )
        };
        Timings {
            points: Point::ALL.into_iter().map(point).collect(),
            attempts: ["scheduled", "unschedulable", "error"].map(attempt),
        }
    }

    pub(crate) fn waiting(&self, depths: [usize; 4]) {
        for (gauge, depth) in self.pending.iter().zip(depths) {
            gauge.set(i64::try_from(depth).unwrap_or(i64::MAX));
        }
    }
}

impl Timings {
    pub(crate) fn point(&self, point: Point, since: Instant, outcome: Outcome) {
        self.points[point as usize][outcome as usize].observe(seconds(since.elapsed()));
    }

    pub(crate) fn attempt(&self, attempt: Attempt, since: Instant) {
        let (count, histogram) = &self.attempts[attempt as usize];
        count.inc();
        histogram.observe(seconds(since.elapsed()));
    }
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}
