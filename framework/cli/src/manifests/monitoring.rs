//! What watches over an operator: the Service of its metrics, and, where they are asked for, a ServiceMonitor and a
//! PrometheusRule of the Prometheus operator and a dashboard for Grafana. Queries are about the metrics that the operator
//! exports, by the job that the Service's name makes; a test holds them to those of one that runs.

mod alerts;
mod dashboard;

use clap::ValueEnum;
use serde_json::{Value, json};
use windlass::Description;

use super::{ADMIN, Shipment};

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Extra {
    /// A ServiceMonitor, from which the Prometheus operator learns where metrics are
    ServiceMonitor,
    /// A Grafana dashboard in a ConfigMap with the label `grafana_dashboard: "1"`
    Dashboard,
    /// A PrometheusRule with alerts
    Alerts,
}

/// Where a token of the pod that scrapes is.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// The Service's name, which is also the `job` of the metrics.
fn job(description: &Description) -> String {
    match &description.metrics {
        Some(endpoint) => endpoint.service.clone(),
        None => format!("{}-metrics", description.name),
    }
}

impl Shipment {
    /// The Service of the metrics, where they are protected or somebody is to read them, and what was asked for.
    pub(super) fn monitoring(&self) -> Vec<Value> {
        if self.description.metrics.is_none() && self.extras.is_empty() {
            return Vec::new();
        }
        let mut all = vec![self.metrics_service()];
        let wanted = |extra| self.extras.contains(&extra);
        all.extend(wanted(Extra::ServiceMonitor).then(|| self.service_monitor()));
        all.extend(wanted(Extra::Dashboard).then(|| self.dashboard()));
        all.extend(wanted(Extra::Alerts).then(|| self.alerts()));
        all
    }

    fn metrics_labels(&self) -> Value {
        json!({ "app.kubernetes.io/name": self.description.name, "app.kubernetes.io/component": "metrics" })
    }

    fn metrics_service(&self) -> Value {
        let port = match &self.description.metrics {
            Some(endpoint) => {
                json!({ "name": "https", "port": endpoint.port, "targetPort": endpoint.listens })
            }
            None => json!({ "name": "http", "port": ADMIN, "targetPort": ADMIN }),
        };
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": job(&self.description), "namespace": self.namespace, "labels": self.metrics_labels(),
            },
            "spec": { "selector": self.labels(), "ports": [port] },
        })
    }

    fn service_monitor(&self) -> Value {
        let scraped = match &self.description.metrics {
            None => json!({ "path": "/metrics", "port": "http" }),
            Some(endpoint) => {
                // As cert-manager would write it, where it is not the operator's own.
                let secret = endpoint.authority.clone().unwrap_or(format!("{}-tls", endpoint.service));
                json!({
                    "path": "/metrics",
                    "port": "https",
                    "scheme": "https",
                    "bearerTokenFile": TOKEN,
                    "tlsConfig": {
                        "serverName": format!("{}.{}.svc", endpoint.service, self.namespace),
                        "ca": { "secret": { "name": secret, "key": "ca.crt" } },
                    },
                })
            }
        };
        json!({
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "ServiceMonitor",
            "metadata": {
                "name": self.description.name, "namespace": self.namespace, "labels": self.labels(),
            },
            "spec": { "selector": { "matchLabels": self.metrics_labels() }, "endpoints": [scraped] },
        })
    }

    fn dashboard(&self) -> Value {
        let name = &self.description.name;
        let text = serde_json::to_string_pretty(&dashboard::dashboard(&self.description)).unwrap_or_default();
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": format!("{name}-dashboard"),
                "namespace": self.namespace,
                "labels": { "app.kubernetes.io/name": name, "grafana_dashboard": "1" },
            },
            "data": { format!("{name}.json"): text },
        })
    }

    fn alerts(&self) -> Value {
        json!({
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {
                "name": self.description.name, "namespace": self.namespace, "labels": self.labels(),
            },
            "spec": { "groups": [{ "name": self.description.name, "rules": alerts::rules(&self.description) }] },
        })
    }
}
