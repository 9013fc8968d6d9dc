//! What is counted of requests and watches, under upstream's names and labels.
//!
//! Source: `k8s.io/apiserver/pkg/endpoints/metrics/metrics.go`.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::{
    body::Sent,
    negotiate,
    request::{Query, RequestInfo},
};

const DURATIONS: [f64; 22] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 60.0,
];
const FILTERS: [f64; 13] = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 5.0, 10.0, 15.0, 30.0];

/// What was asked, as upstream's labels have it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct What {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    component: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Ended {
    verb: &'static str,
    dry_run: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    component: &'static str,
    code: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Took {
    verb: &'static str,
    dry_run: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    component: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    request_kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Watched {
    group: String,
    version: String,
    resource: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Filter {
    filter: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// All of them.
pub(crate) struct Requests {
    total: Family<Ended, Counter>,
    durations: Histograms<Took>,
    sizes: Histograms<What>,
    longrunning: Family<What, Gauge>,
    /// Requests that change something, and those that do not.
    mutating: Gauge,
    reading: Gauge,
    inflight: Family<Kind, Gauge>,
    events: Family<Watched, Counter>,
    event_sizes: Histograms<Watched>,
    filters: Histograms<Filter>,
    terminated: Family<Ended, Counter>,
    authentication: Histogram,
    authorization: Histogram,
    fairness: Histogram,
}

impl Default for Requests {
    fn default() -> Self {
        let inflight: Family<Kind, Gauge> = Family::default();
        let filters: Histograms<Filter> = Family::new_with_constructor(|| Histogram::new(FILTERS));
        let kind = |request_kind| inflight.get_or_create(&Kind { request_kind }).clone();
        let filter = |filter| filters.get_or_create(&Filter { filter }).clone();
        Self {
            total: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(DURATIONS)),
            sizes: Family::new_with_constructor(|| Histogram::new((3..10).map(|n| 10_f64.powi(n)))),
            longrunning: Family::default(),
            mutating: kind("mutating"),
            reading: kind("readOnly"),
            events: Family::default(),
            event_sizes: Family::new_with_constructor(|| {
                Histogram::new((0..8).map(|n| 1024.0 * f64::from(1 << n)))
            }),
            terminated: Family::default(),
            authentication: filter("authentication"),
            authorization: filter("authorization"),
            fairness: filter("priorityandfairness"),
            inflight,
            filters,
        }
    }
}

/// What a request is counted as.
pub(crate) struct Labels {
    what: What,
    dry_run: &'static str,
    long_running: bool,
}

impl Labels {
    pub(crate) fn of(info: &RequestInfo, query: &Query, headers: &HeaderMap, long_running: bool) -> Self {
        let connects =
            matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy");
        let verb = match info.verb {
            _ if info.is_resource && connects => "CONNECT",
            "patch" if negotiate::media_type(headers) == "application/apply-patch+yaml" => "APPLY",
            verb => UPPER.iter().find(|(lower, _)| *lower == verb).map_or("other", |(_, upper)| upper),
        };
        let scope = match info {
            info if !info.name.is_empty() || info.verb == "create" => "resource",
            info if !info.namespace.is_empty() => "namespace",
            info if info.is_resource => "cluster",
            _ => "",
        };
        // Paths that nobody registered would be labels without end.
        let subresource = match info.is_resource {
            true => info.subresource.clone(),
            false => FIXED
                .iter()
                .find(|path| info.path.starts_with(**path))
                .map_or(String::new(), |p| (*p).to_owned()),
        };
        let what = What {
            verb,
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource,
            scope,
            component: "apiserver",
        };
        Self { what, dry_run: if query.get("dryRun").is_some() { "All" } else { "" }, long_running }
    }

    fn ended(&self, code: u16) -> Ended {
        let What { verb, group, version, resource, subresource, scope, component } = self.what.clone();
        Ended { verb, dry_run: self.dry_run, group, version, resource, subresource, scope, component, code }
    }
}

const FIXED: [&str; 8] =
    ["/healthz", "/livez", "/readyz", "/metrics", "/version", "/openapi/v2", "/openapi/v3", "/apis"];

const UPPER: [(&str, &str); 12] = [
    ("get", "GET"),
    ("list", "LIST"),
    ("watch", "WATCH"),
    ("create", "POST"),
    ("update", "PUT"),
    ("patch", "PATCH"),
    ("delete", "DELETE"),
    ("deletecollection", "DELETECOLLECTION"),
    ("post", "POST"),
    ("put", "PUT"),
    ("head", "GET"),
    ("options", "OPTIONS"),
];

/// A request under way; counted out when this is dropped.
pub(crate) struct Running {
    gauge: Gauge,
    sizes: Option<Histogram>,
}

impl Sent for Running {
    fn sent(&self, bytes: usize) {
        if let Some(sizes) = &self.sizes {
            sizes.observe(bytes as f64);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

/// The counters of one watch.
pub(crate) struct WatchMeters {
    events: Counter,
    sizes: Histogram,
}

impl WatchMeters {
    /// Counts one event.
    pub(crate) fn sent(&self, bytes: usize) {
        self.events.inc();
        self.sizes.observe(bytes as f64);
    }
}

impl Requests {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register("apiserver_request", "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code", self.total.clone());
        r.register("apiserver_request_duration_seconds", "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component", self.durations.clone());
        r.register("apiserver_response_sizes", "Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component", self.sizes.clone());
        r.register("apiserver_longrunning_requests", "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component", self.longrunning.clone());
        r.register("apiserver_current_inflight_requests", "Maximal number of currently used inflight request limit of this apiserver per request kind in last second", self.inflight.clone());
        r.register("apiserver_watch_events", "Number of events sent in watch clients", self.events.clone());
        r.register(
            "apiserver_watch_events_sizes",
            "Watch event size distribution in bytes",
            self.event_sizes.clone(),
        );
        r.register(
            "apiserver_request_filter_duration_seconds",
            "Request filter latency distribution in seconds, for each filter type",
            self.filters.clone(),
        );
        r.register(
            "apiserver_request_terminations",
            "Number of requests which apiserver terminated in self-defense",
            self.terminated.clone(),
        );
    }

    /// Counts a request in.
    pub(crate) fn begin(&self, labels: &Labels, info: &RequestInfo) -> Running {
        let gauge = if labels.long_running {
            self.longrunning.get_or_create(&labels.what).clone()
        } else if matches!(info.verb, "get" | "list" | "head" | "options") {
            self.reading.clone()
        } else {
            self.mutating.clone()
        };
        gauge.inc();
        let sizes = matches!(labels.what.verb, "GET" | "LIST")
            .then(|| self.sizes.get_or_create(&labels.what).clone());
        Running { gauge, sizes }
    }

    /// Counts a request's answer.
    pub(crate) fn end(&self, labels: Labels, code: StatusCode, took: Duration) {
        let ended = labels.ended(code.as_u16());
        if matches!(code, StatusCode::TOO_MANY_REQUESTS | StatusCode::GATEWAY_TIMEOUT) {
            self.terminated.get_or_create(&ended).inc();
        }
        self.total.get_or_create(&ended).inc();
        if labels.long_running {
            return;
        }
        let What { verb, group, version, resource, subresource, scope, component } = labels.what;
        let took_by =
            Took { verb, dry_run: labels.dry_run, group, version, resource, subresource, scope, component };
        self.durations.get_or_create(&took_by).observe(took.as_secs_f64());
    }

    /// The counters of a watch of these objects.
    pub(crate) fn watch(&self, info: &RequestInfo) -> WatchMeters {
        let label = Watched {
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
        };
        WatchMeters {
            events: self.events.get_or_create(&label).clone(),
            sizes: self.event_sizes.get_or_create(&label).clone(),
        }
    }

    /// Notes how long it took to find out who asks.
    pub(crate) fn authenticated(&self, took: Duration) {
        self.authentication.observe(took.as_secs_f64());
    }

    /// Notes how long it took to find out what they may.
    pub(crate) fn authorized(&self, took: Duration) {
        self.authorization.observe(took.as_secs_f64());
    }

    /// Notes how long a request waited for its turn.
    pub(crate) fn admitted(&self, took: Duration) {
        self.fairness.observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    #[test]
    fn requests_are_labelled_as_upstream_does() {
        for (method, url, apply, expected) in [
            (Method::GET, "/api/v1/pods", false, "LIST pods  cluster "),
            (Method::GET, "/api/v1/namespaces/d/pods?watch=1", false, "WATCH pods  namespace "),
            (Method::POST, "/api/v1/namespaces/d/pods?dryRun=All", false, "POST pods  resource All"),
            (Method::PATCH, "/api/v1/namespaces/d/pods/a/status", true, "APPLY pods status resource "),
            (Method::PATCH, "/api/v1/namespaces/d/pods/a", false, "PATCH pods  resource "),
            (Method::GET, "/api/v1/namespaces/d/pods/a/log", false, "CONNECT pods log resource "),
            (Method::DELETE, "/api/v1/namespaces/d/pods", false, "DELETECOLLECTION pods  namespace "),
            (Method::GET, "/livez/ping", false, "GET  /livez  "),
            (Method::GET, "/some/thing", false, "GET    "),
        ] {
            let (path, query) = url.split_once('?').unwrap_or((url, ""));
            let query = Query::parse(query);
            let info = RequestInfo::new(&method, path, &query);
            let mut headers = HeaderMap::new();
            if apply {
                headers.insert("content-type", "application/apply-patch+yaml".parse().unwrap());
            }
            let Labels { what, dry_run, .. } = Labels::of(&info, &query, &headers, false);
            let text =
                format!("{} {} {} {} {dry_run}", what.verb, what.resource, what.subresource, what.scope);
            assert_eq!(text, expected, "{method} {url}");
        }
    }
}
