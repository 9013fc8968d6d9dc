//! Alerts about an operator: few, each about something that somebody has to look at, with what to look at in its text.

use serde_json::{Value, json};
use windlass::Description;

use super::job;

/// One alert. In `expr` and `text`, `$job` is the job, and `$name` the operator's name.
struct Alert {
    name: &'static str,
    expr: &'static str,
    lasts: &'static str,
    severity: &'static str,
    text: &'static str,
    about: About,
}

/// Which operators an alert is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum About {
    All,
    Controllers,
    Webhooks,
}

const ALERTS: [Alert; 8] = [
    Alert {
        name: "NoLeader",
        expr: r#"absent(leader_election_master_status{job="$job"} == 1)"#,
        lasts: "5m",
        severity: "critical",
        text: "No replica of $name leads: nothing is reconciled.",
        about: About::Controllers,
    },
    Alert {
        name: "ReconcileErrors",
        expr: r#"sum by (namespace, controller) (rate(controller_runtime_reconcile_errors_total{job="$job"}[10m])) / sum by (namespace, controller) (rate(controller_runtime_reconcile_total{job="$job"}[10m])) > 0.1"#,
        lasts: "15m",
        severity: "warning",
        text: "More than a tenth of the reconciles of {{ $labels.controller }} fail; /failing of the operator says which and why.",
        about: About::Controllers,
    },
    Alert {
        name: "ReconcilesPanic",
        expr: r#"sum by (namespace, controller) (increase(controller_runtime_reconcile_panics_total{job="$job"}[15m])) > 0"#,
        lasts: "0m",
        severity: "warning",
        text: "Reconciles of {{ $labels.controller }} panic; the operator's log says where.",
        about: About::Controllers,
    },
    Alert {
        name: "WorkStuck",
        expr: r#"max by (namespace, controller) (workqueue_longest_running_processor_seconds{job="$job"}) > 300"#,
        lasts: "5m",
        severity: "warning",
        text: "{{ $labels.controller }} has worked on one object for more than five minutes; /diagnostics of the operator says on which.",
        about: About::Controllers,
    },
    Alert {
        name: "QueueGrows",
        expr: r#"sum by (namespace, controller) (workqueue_depth{job="$job"}) > 100 and sum by (namespace, controller) (deriv(workqueue_depth{job="$job"}[15m])) > 0"#,
        lasts: "15m",
        severity: "warning",
        text: "The queue of {{ $labels.controller }} is long and gets longer: more workers, or quicker reconciles, are needed.",
        about: About::Controllers,
    },
    Alert {
        name: "WriteLoop",
        expr: r#"sum by (namespace, controller) (increase(windlass_write_loops_total{job="$job"}[1h])) > 0"#,
        lasts: "0m",
        severity: "warning",
        text: "{{ $labels.controller }} runs in a circle of writes; /failing of the operator says at which objects.",
        about: About::Controllers,
    },
    Alert {
        name: "ApiErrors",
        expr: r#"sum by (namespace) (rate(rest_client_requests_total{job="$job",code=~"5..|<error>"}[10m])) / sum by (namespace) (rate(rest_client_requests_total{job="$job"}[10m])) > 0.05"#,
        lasts: "15m",
        severity: "warning",
        text: "More than one in twenty requests of $name to the API server fail.",
        about: About::All,
    },
    Alert {
        name: "WebhookErrors",
        expr: r#"sum by (namespace, webhook) (rate(controller_runtime_webhook_requests_total{job="$job",code!="200"}[10m])) > 0"#,
        lasts: "10m",
        severity: "warning",
        text: "{{ $labels.webhook }} of $name does not answer reviews: what fails closed is refused.",
        about: About::Webhooks,
    },
];

/// The alerts of an operator.
pub(super) fn rules(description: &Description) -> Vec<Value> {
    let fits = |alert: &&Alert| match alert.about {
        About::All => true,
        About::Controllers => !description.controllers.is_empty(),
        About::Webhooks => !description.webhooks.is_empty(),
    };
    let (name, job) = (&description.name, job(description));
    let filled = |text: &str| text.replace("$job", &job).replace("$name", name);
    let rule = |alert: &Alert| {
        json!({
            "alert": format!("{}{}", camel(name), alert.name),
            "expr": filled(alert.expr),
            "for": alert.lasts,
            "labels": { "severity": alert.severity },
            "annotations": { "summary": filled(alert.text) },
        })
    };
    ALERTS.iter().filter(fits).map(rule).collect()
}

/// `guest-book` as alerts are named: `GuestBook`.
fn camel(name: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_uppercase().chain(letters).collect::<String>())
    };
    name.split(['-', '.']).filter_map(word).collect()
}
