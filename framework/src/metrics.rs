//! Prometheus metrics, under the names that dashboards already know.
//!
//! Queue metrics are client-go's (`workqueue_*`), reconcile metrics are controller-runtime's (`controller_runtime_*`),
//! leader election and requests are client-go's (`leader_election_*`, `rest_client_*`); what upstream does not count is `windlass_*`. A registry belongs to a manager, never to the process, so that
//! several clusters in one test do not count into each other.

mod merge;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::{Method, StatusCode};
use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::{
    Failure, Key,
    diagnostics::{Board, Diagnostics},
    failing::Failing,
    shards::ShardMetrics,
};

type Refresh = Box<dyn Fn() -> bool + Send>;

/// A set of metrics. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Mutex<Registry>,
    refreshers: Mutex<Vec<Refresh>>,
    /// Those of members, by their names.
    clusters: Mutex<BTreeMap<Arc<str>, Metrics>>,
    queue: QueueFamilies,
    controller: ControllerFamilies,
    leader: Family<Named, Gauge>,
    sources: Family<Sourced, Counter>,
    undecodable: Family<Shaped, Gauge>,
    daemons: Family<Controlled, Gauge>,
    daemon_errors: Family<Controlled, Counter>,
    shard_members: Family<Grouped, Gauge>,
    shard_handovers: Family<Grouped, Counter>,
    shard_keys: Family<Controlled, Gauge>,
    migrated: Family<Shaped, Counter>,
    requests: Family<Requested, Counter>,
    request_seconds: Histograms<Verbed>,
    held_back: Histograms<Verbed>,
    failing: Failing,
    board: Arc<Board>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Named {
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Queued {
    name: String,
    controller: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Controlled {
    controller: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Resulted {
    controller: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Sourced {
    controller: String,
    source: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Requested {
    code: String,
    method: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Verbed {
    verb: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Shaped {
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Grouped {
    group: String,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;
type Seconds = Gauge<f64, std::sync::atomic::AtomicU64>;

struct QueueFamilies {
    adds: Family<Queued, Counter>,
    retries: Family<Queued, Counter>,
    depth: Family<Queued, Gauge>,
    waited: Histograms<Queued>,
    worked: Histograms<Queued>,
    unfinished: Family<Queued, Seconds>,
    longest: Family<Queued, Seconds>,
}

struct ControllerFamilies {
    total: Family<Resulted, Counter>,
    errors: Family<Controlled, Counter>,
    terminal: Family<Controlled, Counter>,
    panics: Family<Controlled, Counter>,
    timeouts: Family<Controlled, Counter>,
    time: Histograms<Controlled>,
    max: Family<Controlled, Gauge>,
    active: Family<Controlled, Gauge>,
    stale: Family<Controlled, Counter>,
    write_loops: Family<Controlled, Counter>,
}

/// The metrics of one queue.
#[derive(Clone, Debug)]
pub(crate) struct QueueMetrics {
    pub(crate) adds: Counter,
    pub(crate) retries: Counter,
    pub(crate) depth: Gauge,
    pub(crate) waited: Histogram,
    pub(crate) worked: Histogram,
    pub(crate) unfinished: Seconds,
    pub(crate) longest: Seconds,
}

/// The metrics of one controller.
#[derive(Clone)]
pub(crate) struct ControllerMetrics {
    pub(crate) success: Counter,
    pub(crate) error: Counter,
    pub(crate) requeue_after: Counter,
    pub(crate) errors: Counter,
    pub(crate) terminal: Counter,
    pub(crate) panics: Counter,
    pub(crate) timeouts: Counter,
    pub(crate) time: Histogram,
    pub(crate) max: Gauge,
    pub(crate) active: Gauge,
    pub(crate) stale: Counter,
    pub(crate) write_loops: Counter,
}

fn queue_seconds() -> Histogram {
    Histogram::new(exponential_buckets(1e-8, 10.0, 10))
}

fn reconcile_seconds() -> Histogram {
    Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0])
}

/// The buckets of client-go's.
fn request_seconds_buckets() -> Histogram {
    Histogram::new([0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0])
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let r = &mut registry;
        let leader = Family::default();
        r.register(
            "leader_election_master_status",
            "1 while this process leads, 0 while it waits",
            Family::clone(&leader),
        );
        let sources = Family::default();
        r.register(
            "windlass_source_errors",
            "Failures of a controller's own sources",
            Family::clone(&sources),
        );
        let undecodable = Family::default();
        r.register(
            "windlass_undecodable_objects",
            "Objects that are skipped because they are not of the shape of their kind",
            Family::clone(&undecodable),
        );
        let (daemons, daemon_errors) = (Family::default(), Family::default());
        r.register("windlass_daemons", "Tasks of objects that run", Family::clone(&daemons));
        r.register("windlass_daemon_errors", "Tasks of objects that failed", Family::clone(&daemon_errors));
        let (shard_members, shard_handovers, shard_keys) =
            (Family::default(), Family::default(), Family::default());
        r.register("windlass_shard_members", "Replicas that share keys", Family::clone(&shard_members));
        r.register(
            "windlass_shard_handovers",
            "Times that this replica began with a share",
            Family::clone(&shard_handovers),
        );
        r.register("windlass_shard_keys", "Objects of this replica's share", Family::clone(&shard_keys));
        let migrated = Family::default();
        r.register(
            "windlass_migrated_objects",
            "Stored objects that were written in the version of today",
            Family::clone(&migrated),
        );
        let requests = Family::default();
        r.register(
            "rest_client_requests",
            "Requests to the API server by code and method",
            Family::clone(&requests),
        );
        let request_seconds = Family::new_with_constructor(request_seconds_buckets as fn() -> Histogram);
        r.register(
            "rest_client_request_duration_seconds",
            "Time to the head of an answer",
            Family::clone(&request_seconds),
        );
        let held_back = Family::new_with_constructor(request_seconds_buckets as fn() -> Histogram);
        r.register(
            "rest_client_rate_limiter_duration_seconds",
            "Time that requests waited for the client's own limit",
            Family::clone(&held_back),
        );
        let (queue, controller) = (QueueFamilies::register(r), ControllerFamilies::register(r));
        let inner = Inner {
            registry: Mutex::new(registry),
            refreshers: Mutex::default(),
            clusters: Mutex::default(),
            queue,
            controller,
            leader,
            sources,
            undecodable,
            daemons,
            daemon_errors,
            shard_members,
            shard_handovers,
            shard_keys,
            migrated,
            requests,
            request_seconds,
            held_back,
            failing: Failing::default(),
            board: Arc::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Adds metrics of the caller's own.
    pub fn register(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.inner.registry.lock());
    }

    /// Everything in OpenMetrics text form.
    #[must_use]
    pub fn render(&self) -> String {
        self.inner.refreshers.lock().retain(|refresh| refresh());
        let mut out = String::new();
        // Writing to a string fails only if a metric's own encoding does; what was written until then is still good.
        let _ = text::encode(&mut out, &self.inner.registry.lock());
        let clusters = self.inner.clusters.lock().clone();
        if clusters.is_empty() {
            return out;
        }
        merge::merge(&out, clusters.iter().map(|(name, metrics)| (&**name, metrics.render())))
    }

    /// What fails to be reconciled right now, by controller and key.
    #[must_use]
    pub fn failures(&self) -> Vec<Failure> {
        let mut all = self.inner.failing.all();
        for (cluster, metrics) in self.inner.clusters.lock().clone() {
            let named = |failure: Failure| {
                let controller = format!("{} in {cluster}", failure.controller);
                Failure { controller, ..failure }
            };
            all.extend(metrics.failures().into_iter().map(named));
        }
        all
    }

    /// Notes that a part of the process fails at an object, for [`Metrics::failures`]. Controllers do so by themselves.
    pub fn failed(&self, part: &str, key: &Key, error: String) {
        self.inner.failing.failed(part.to_owned(), key, error);
    }

    /// Forgets that a part of the process failed at an object.
    pub fn succeeded(&self, part: &str, key: &Key) {
        self.inner.failing.succeeded(part.to_owned(), key);
    }

    pub(crate) fn failing(&self) -> &Failing {
        &self.inner.failing
    }

    /// What the process does at this moment.
    #[must_use]
    pub fn diagnostics(&self) -> Diagnostics {
        let mut now = self.inner.board.read();
        let clusters = self.inner.clusters.lock().clone();
        now.clusters =
            clusters.iter().map(|(name, metrics)| (name.to_string(), metrics.diagnostics())).collect();
        now
    }

    pub(crate) fn board(&self) -> &Arc<Board> {
        &self.inner.board
    }

    /// Calls `refresh` before each rendering, until it returns false.
    pub(crate) fn on_render(&self, refresh: impl Fn() -> bool + Send + 'static) {
        self.inner.refreshers.lock().push(Box::new(refresh));
    }

    pub(crate) fn leading(&self, lease: &str, leading: bool) {
        let labels = Named { name: lease.to_owned() };
        self.inner.leader.get_or_create(&labels).set(i64::from(leading));
    }

    pub(crate) fn source_errors(&self, controller: &str, source: &str) -> Counter {
        let labels = Sourced { controller: controller.to_owned(), source: source.to_owned() };
        self.inner.sources.get_or_create_owned(&labels)
    }

    /// Counts a request to the API server; what had no answer has the code `<error>`, as client-go's.
    pub(crate) fn requested(&self, method: &Method, code: Option<StatusCode>, took: Duration) {
        let method = method.as_str().to_owned();
        let code = code.map_or_else(|| "<error>".to_owned(), |code| code.as_str().to_owned());
        self.inner
            .request_seconds
            .get_or_create(&Verbed { verb: method.clone() })
            .observe(took.as_secs_f64());
        self.inner.requests.get_or_create(&Requested { code, method }).inc();
    }

    /// Notes how long a request waited before it was sent.
    pub(crate) fn held_back(&self, method: &Method, waited: Duration) {
        let verb = Verbed { verb: method.as_str().to_owned() };
        self.inner.held_back.get_or_create(&verb).observe(waited.as_secs_f64());
    }

    pub(crate) fn undecodable(&self, resource: &str) -> Gauge {
        self.inner.undecodable.get_or_create_owned(&Shaped { resource: resource.to_owned() })
    }

    /// How many tasks of objects run, and how often they failed.
    pub(crate) fn daemon(&self, name: &str) -> (Gauge, Counter) {
        let labels = Controlled { controller: name.to_owned() };
        let inner = &self.inner;
        (inner.daemons.get_or_create_owned(&labels), inner.daemon_errors.get_or_create_owned(&labels))
    }

    /// Shows the metrics of a member along with these, with the label `cluster`.
    pub(crate) fn with_cluster(&self, name: &Arc<str>, metrics: &Self) {
        self.inner.clusters.lock().insert(name.clone(), metrics.clone());
    }

    pub(crate) fn without_cluster(&self, name: &str) {
        self.inner.clusters.lock().remove(name);
    }

    pub(crate) fn shards(&self, group: &str) -> ShardMetrics {
        let labels = Grouped { group: group.to_owned() };
        ShardMetrics {
            members: self.inner.shard_members.get_or_create_owned(&labels),
            handovers: self.inner.shard_handovers.get_or_create_owned(&labels),
        }
    }

    pub(crate) fn migrated_objects(&self, resource: &str) -> Counter {
        self.inner.migrated.get_or_create_owned(&Shaped { resource: resource.to_owned() })
    }

    pub(crate) fn sharded_keys(&self, controller: &str) -> Gauge {
        self.inner.shard_keys.get_or_create_owned(&Controlled { controller: controller.to_owned() })
    }

    pub(crate) fn queue(&self, name: &str) -> QueueMetrics {
        let (labels, f) = (Queued { name: name.to_owned(), controller: name.to_owned() }, &self.inner.queue);
        QueueMetrics {
            adds: f.adds.get_or_create_owned(&labels),
            retries: f.retries.get_or_create_owned(&labels),
            depth: f.depth.get_or_create_owned(&labels),
            waited: f.waited.get_or_create_owned(&labels),
            worked: f.worked.get_or_create_owned(&labels),
            unfinished: f.unfinished.get_or_create_owned(&labels),
            longest: f.longest.get_or_create_owned(&labels),
        }
    }

    pub(crate) fn controller(&self, name: &str) -> ControllerMetrics {
        let (labels, f) = (Controlled { controller: name.to_owned() }, &self.inner.controller);
        let result =
            |result| f.total.get_or_create_owned(&Resulted { controller: labels.controller.clone(), result });
        ControllerMetrics {
            success: result("success"),
            error: result("error"),
            requeue_after: result("requeue_after"),
            errors: f.errors.get_or_create_owned(&labels),
            terminal: f.terminal.get_or_create_owned(&labels),
            panics: f.panics.get_or_create_owned(&labels),
            timeouts: f.timeouts.get_or_create_owned(&labels),
            time: f.time.get_or_create_owned(&labels),
            max: f.max.get_or_create_owned(&labels),
            active: f.active.get_or_create_owned(&labels),
            stale: f.stale.get_or_create_owned(&labels),
            write_loops: f.write_loops.get_or_create_owned(&labels),
        }
    }
}

impl QueueFamilies {
    fn register(r: &mut Registry) -> Self {
        let f = Self {
            adds: Family::default(),
            retries: Family::default(),
            depth: Family::default(),
            waited: Family::new_with_constructor(queue_seconds),
            worked: Family::new_with_constructor(queue_seconds),
            unfinished: Family::default(),
            longest: Family::default(),
        };
        r.register("workqueue_adds", "Adds handled by the queue", f.adds.clone());
        r.register("workqueue_retries", "Retries handled by the queue", f.retries.clone());
        r.register("workqueue_depth", "Keys that wait in the queue", f.depth.clone());
        r.register("workqueue_queue_duration_seconds", "Wait before work", f.waited.clone());
        r.register("workqueue_work_duration_seconds", "Time of work", f.worked.clone());
        r.register(
            "workqueue_unfinished_work_seconds",
            "Age of all work in progress, summed",
            f.unfinished.clone(),
        );
        r.register(
            "workqueue_longest_running_processor_seconds",
            "Age of the oldest work in progress",
            f.longest.clone(),
        );
        f
    }
}

impl ControllerFamilies {
    fn register(r: &mut Registry) -> Self {
        let f = Self {
            total: Family::default(),
            errors: Family::default(),
            terminal: Family::default(),
            panics: Family::default(),
            timeouts: Family::default(),
            time: Family::new_with_constructor(reconcile_seconds),
            max: Family::default(),
            active: Family::default(),
            stale: Family::default(),
            write_loops: Family::default(),
        };
        r.register("controller_runtime_reconcile", "Reconciles by result", f.total.clone());
        r.register("controller_runtime_reconcile_errors", "Reconciles that failed", f.errors.clone());
        r.register(
            "controller_runtime_terminal_reconcile_errors",
            "Reconciles that failed for good",
            f.terminal.clone(),
        );
        r.register("controller_runtime_reconcile_panics", "Reconciles that panicked", f.panics.clone());
        r.register("controller_runtime_reconcile_timeouts", "Reconciles that timed out", f.timeouts.clone());
        r.register("controller_runtime_reconcile_time_seconds", "Time of a reconcile", f.time.clone());
        r.register("controller_runtime_max_concurrent_reconciles", "Workers", f.max.clone());
        r.register("controller_runtime_active_workers", "Workers at work", f.active.clone());
        r.register("windlass_write_loops", "Keys found to run in a circle of writes", f.write_loops.clone());
        r.register("stale_sync_skips", "Syncs not held until the cache had own writes", f.stale.clone());
        f
    }
}
