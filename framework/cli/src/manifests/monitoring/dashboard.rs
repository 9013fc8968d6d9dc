//! A dashboard for Grafana: a row for the controllers, one for webhooks where there are any, one for the API server.

use serde_json::{Value, json};
use windlass::Description;

use super::job;

/// Grafana's columns.
const COLUMNS: u32 = 24;
const WIDTH: u32 = 8;
const HEIGHT: u32 = 7;

/// One panel: its title, unit, query and legend. `$job` is the job; `$controller` is left to Grafana.
type Panel = (&'static str, &'static str, &'static str, &'static str);

const CONTROLLERS: [Panel; 9] = [
    (
        "Reconciles",
        "ops",
        r#"sum by (controller, result) (rate(controller_runtime_reconcile_total{job="$job",controller=~"$controller"}[$__rate_interval]))"#,
        "{{controller}} {{result}}",
    ),
    (
        "Reconciles that fail",
        "ops",
        r#"sum by (controller) (rate(controller_runtime_reconcile_errors_total{job="$job",controller=~"$controller"}[$__rate_interval]))"#,
        "{{controller}}",
    ),
    (
        "Time of a reconcile, 99th percentile",
        "s",
        r#"histogram_quantile(0.99, sum by (controller, le) (rate(controller_runtime_reconcile_time_seconds_bucket{job="$job",controller=~"$controller"}[$__rate_interval])))"#,
        "{{controller}}",
    ),
    (
        "Keys that wait",
        "short",
        r#"sum by (controller) (workqueue_depth{job="$job",controller=~"$controller"})"#,
        "{{controller}}",
    ),
    (
        "Wait before a reconcile, 99th percentile",
        "s",
        r#"histogram_quantile(0.99, sum by (controller, le) (rate(workqueue_queue_duration_seconds_bucket{job="$job",controller=~"$controller"}[$__rate_interval])))"#,
        "{{controller}}",
    ),
    (
        "Retries",
        "ops",
        r#"sum by (controller) (rate(workqueue_retries_total{job="$job",controller=~"$controller"}[$__rate_interval]))"#,
        "{{controller}}",
    ),
    (
        "Workers that are busy",
        "percentunit",
        r#"sum by (controller) (controller_runtime_active_workers{job="$job",controller=~"$controller"}) / sum by (controller) (controller_runtime_max_concurrent_reconciles{job="$job",controller=~"$controller"})"#,
        "{{controller}}",
    ),
    (
        "Oldest work in progress",
        "s",
        r#"max by (controller) (workqueue_longest_running_processor_seconds{job="$job",controller=~"$controller"})"#,
        "{{controller}}",
    ),
    (
        "Replicas that lead",
        "short",
        r#"sum by (name) (leader_election_master_status{job="$job"})"#,
        "{{name}}",
    ),
];

const WEBHOOKS: [Panel; 3] = [
    (
        "Reviews",
        "ops",
        r#"sum by (webhook, code) (rate(controller_runtime_webhook_requests_total{job="$job"}[$__rate_interval]))"#,
        "{{webhook}} {{code}}",
    ),
    (
        "Time of a review, 99th percentile",
        "s",
        r#"histogram_quantile(0.99, sum by (webhook, le) (rate(controller_runtime_webhook_latency_seconds_bucket{job="$job"}[$__rate_interval])))"#,
        "{{webhook}}",
    ),
    (
        "Reviews under way",
        "short",
        r#"sum by (webhook) (controller_runtime_webhook_requests_in_flight{job="$job"})"#,
        "{{webhook}}",
    ),
];

const SERVER: [Panel; 3] = [
    (
        "Requests",
        "ops",
        r#"sum by (method, code) (rate(rest_client_requests_total{job="$job"}[$__rate_interval]))"#,
        "{{method}} {{code}}",
    ),
    (
        "Time to an answer, 99th percentile",
        "s",
        r#"histogram_quantile(0.99, sum by (verb, le) (rate(rest_client_request_duration_seconds_bucket{job="$job"}[$__rate_interval])))"#,
        "{{verb}}",
    ),
    (
        "Objects that cannot be read as their kind",
        "short",
        r#"sum by (resource) (windlass_undecodable_objects{job="$job"})"#,
        "{{resource}}",
    ),
];

/// Panels from left to right and from top to bottom.
struct Layout {
    panels: Vec<Value>,
    job: String,
    x: u32,
    y: u32,
}

impl Layout {
    fn row(&mut self, title: &str, panels: &[Panel]) {
        let place = json!({ "x": 0, "y": self.y, "w": COLUMNS, "h": 1 });
        self.put(
            json!({ "type": "row", "title": title, "collapsed": false, "panels": [], "gridPos": place }),
        );
        self.y += 1;
        for (title, unit, query, legend) in panels {
            if self.x + WIDTH > COLUMNS {
                (self.x, self.y) = (0, self.y + HEIGHT);
            }
            let place = json!({ "x": self.x, "y": self.y, "w": WIDTH, "h": HEIGHT });
            let query = query.replace("$job", &self.job);
            self.put(json!({
                "type": "timeseries",
                "title": title,
                "datasource": { "type": "prometheus", "uid": "${datasource}" },
                "fieldConfig": { "defaults": { "unit": unit, "min": 0 }, "overrides": [] },
                "gridPos": place,
                "targets": [{ "refId": "A", "expr": query, "legendFormat": legend }],
            }));
            self.x += WIDTH;
        }
        (self.x, self.y) = (0, self.y + HEIGHT);
    }

    fn put(&mut self, mut panel: Value) {
        panel["id"] = (self.panels.len() + 1).into();
        self.panels.push(panel);
    }
}

/// The dashboard of an operator.
pub(super) fn dashboard(description: &Description) -> Value {
    let (name, controllers) = (&description.name, &description.controllers);
    let mut layout = Layout { panels: Vec::new(), job: job(description), x: 0, y: 0 };
    let mut variables = vec![json!({
        "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
    })];
    if !controllers.is_empty() {
        layout.row("Controllers", &CONTROLLERS);
        let options = std::iter::once(json!({ "text": "All", "value": "$__all", "selected": true }))
            .chain(controllers.iter().map(|c| json!({ "text": c, "value": c, "selected": false })));
        variables.push(json!({
            "name": "controller",
            "label": "Controller",
            "type": "custom",
            "query": controllers.join(","),
            "options": options.collect::<Vec<_>>(),
            "current": { "text": ["All"], "value": ["$__all"] },
            "includeAll": true,
            "multi": true,
        }));
    }
    if !description.webhooks.is_empty() {
        layout.row("Webhooks", &WEBHOOKS);
    }
    layout.row("API server", &SERVER);
    json!({
        "uid": format!("windlass-{name}"),
        "title": format!("Operator {name}"),
        "tags": ["windlass", "operator"],
        "schemaVersion": 39,
        "editable": true,
        "refresh": "30s",
        "time": { "from": "now-1h", "to": "now" },
        "templating": { "list": variables },
        "panels": layout.panels,
    })
}
