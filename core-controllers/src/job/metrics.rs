//! What is counted about Jobs, under upstream's names (`job_controller_*`).

use std::time::Duration;

use k8s_openapi::api::{
    batch::v1::{Job, JobStatus},
    core::v1::Pod,
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use windlass::Delta;

use super::{
    facts,
    indexes::Indexes,
    is_ours, spec,
    view::{View, completions, is_indexed, limit_per_index},
};
use crate::pods;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Synced {
    completion_mode: &'static str,
    result: &'static str,
    action: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Finished {
    completion_mode: &'static str,
    result: &'static str,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Pods {
    completion_mode: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
#[allow(non_snake_case, reason = "the label is upstream's")]
struct Indexed {
    status: &'static str,
    backoffLimit: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Created {
    reason: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Acted {
    action: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct External {
    controller_name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Held {
    event: &'static str,
}

/// The metrics of the controller.
#[derive(Clone)]
pub(super) struct Metrics {
    sync_time: Family<Synced, Histogram, fn() -> Histogram>,
    syncs: Family<Synced, Counter>,
    finished: Family<Finished, Counter>,
    pods_finished: Family<Pods, Counter>,
    pods_created: Family<Created, Counter>,
    indexes_finished: Family<Indexed, Counter>,
    policy_actions: Family<Acted, Counter>,
    external: Family<External, Counter>,
    held: Family<Held, Counter>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let seconds: fn() -> Histogram = || Histogram::new(exponential_buckets(0.004, 2.0, 15));
        Self {
            sync_time: Family::new_with_constructor(seconds),
            syncs: Family::default(),
            finished: Family::default(),
            pods_finished: Family::default(),
            pods_created: Family::default(),
            indexes_finished: Family::default(),
            policy_actions: Family::default(),
            external: Family::default(),
            held: Family::default(),
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let name = |name: &str| format!("job_controller_{name}");
        registry.register(
            name("job_sync_duration_seconds"),
            "The time it took to sync a job",
            self.sync_time.clone(),
        );
        registry.register(name("job_syncs"), "The number of job syncs", self.syncs.clone());
        registry.register(name("jobs_finished"), "The number of finished jobs", self.finished.clone());
        registry.register(
            name("job_pods_finished"),
            "The number of finished Pods that are fully tracked",
            self.pods_finished.clone(),
        );
        registry.register(
            name("job_pods_creation"),
            "The number of Pods created by the Job controller, and why",
            self.pods_created.clone(),
        );
        registry.register(
            name("job_finished_indexes"),
            "The number of finished indexes",
            self.indexes_finished.clone(),
        );
        registry.register(
            name("pod_failures_handled_by_failure_policy"),
            "The number of failed Pods handled by failure policy",
            self.policy_actions.clone(),
        );
        registry.register(
            name("jobs_by_external_controller"),
            "The number of Jobs managed by an external controller",
            self.external.clone(),
        );
        registry.register(
            name("terminated_pods_tracking_finalizer"),
            "The number of terminated pods (phase=Failed|Succeeded) that got or lost the finalizer batch.kubernetes.io/job-tracking",
            self.held.clone(),
        );
    }

    /// A Job came that another controller manages.
    pub(super) fn saw_job(&self, delta: &Delta<Job>) {
        let job = delta.object();
        if delta.old().is_none() && !is_ours(job) {
            let controller_name = spec(job).and_then(|spec| spec.managed_by.clone()).unwrap_or_default();
            self.external.get_or_create(&External { controller_name }).inc();
        }
    }

    /// An ended pod is held by the finalizer from now on, or no longer.
    pub(super) fn saw_pod(&self, delta: &Delta<Pod>) {
        let is_held = |pod: &std::sync::Arc<Pod>| pods::is_terminal(pod) && facts::is_tracked(pod);
        let (was, is) = (delta.old().is_some_and(is_held), delta.new().is_some_and(is_held));
        if was != is {
            self.held.get_or_create(&Held { event: if is { "add" } else { "delete" } }).inc();
        }
    }

    /// A turn took so long and did this.
    pub(super) fn synced(&self, job: &Job, ok: bool, action: &'static str, took: Duration) {
        let result = if ok { "success" } else { "error" };
        let labels = Synced { completion_mode: mode(job), result, action };
        self.sync_time.get_or_create(&labels).observe(took.as_secs_f64());
        self.syncs.get_or_create(&labels).inc();
    }

    /// A Job ended: with a reason, if it failed.
    pub(super) fn ended(&self, job: &Job, failed: Option<&str>) {
        let result = if failed.is_some() { "failed" } else { "succeeded" };
        let reason = failed.unwrap_or_default().to_owned();
        self.finished.get_or_create(&Finished { completion_mode: mode(job), result, reason }).inc();
    }

    /// A status that was written counts more ends than the one before it.
    pub(super) fn counted(&self, job: &Job, was: &JobStatus, is: &JobStatus) {
        let more = |is: Option<i32>, was: Option<i32>| {
            u64::try_from(is.unwrap_or(0) - was.unwrap_or(0)).unwrap_or(0)
        };
        let pods = |result, count| {
            if count > 0 {
                self.pods_finished.get_or_create(&Pods { completion_mode: mode(job), result }).inc_by(count);
            }
        };
        let succeeded = more(is.succeeded, was.succeeded);
        pods("succeeded", succeeded);
        pods("failed", more(is.failed, was.failed));
        if !is_indexed(job) {
            return;
        }
        let limit = if limit_per_index(job).is_some() { "perIndex" } else { "global" };
        let indexes = |status, count| {
            if count > 0 {
                self.indexes_finished.get_or_create(&Indexed { status, backoffLimit: limit }).inc_by(count);
            }
        };
        let total = completions(job).unwrap_or(0);
        let failed = |status: &JobStatus| {
            Some(Indexes::parse(status.failed_indexes.as_deref().unwrap_or_default(), total).total())
        };
        indexes("succeeded", succeeded);
        indexes("failed", more(failed(is), failed(was)));
    }

    /// Pods were made, or could not be.
    pub(super) fn created(&self, view: &View<'_>, made: i32, all_made: bool) {
        let only_failed =
            spec(view.job).and_then(|spec| spec.pod_replacement_policy.as_deref()) == Some("Failed");
        let reason = match (only_failed, view.failed > 0, view.terminating > 0) {
            (true, true, _) => "recreate_failed",
            (_, true, _) | (_, _, true) => "recreate_terminating_or_failed",
            _ => "new",
        };
        let made = u64::try_from(made).unwrap_or(0);
        if made > 0 {
            self.pods_created.get_or_create(&Created { reason, status: "succeeded" }).inc_by(made);
        }
        if !all_made {
            self.pods_created.get_or_create(&Created { reason, status: "failed" }).inc();
        }
    }

    /// The policy did this about failed pods.
    pub(super) fn acted(&self, actions: &[&'static str]) {
        for action in actions {
            self.policy_actions.get_or_create(&Acted { action }).inc();
        }
    }
}

fn mode(job: &Job) -> &'static str {
    if is_indexed(job) { "Indexed" } else { "NonIndexed" }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;

    #[test]
    fn names_are_those_of_upstream() {
        let mut registry = Registry::default();
        let metrics = Metrics::new();
        metrics.register(&mut registry);
        let job: Job = serde_json::from_str(
            r#"{"metadata": {}, "spec": {"completionMode": "Indexed", "completions": 9, "template": {}}}"#,
        )
        .unwrap();
        let status = |text: &str| serde_json::from_str::<JobStatus>(text).unwrap();
        let (was, is) =
            (status(r#"{"succeeded": 1, "failed": 2}"#), status(r#"{"succeeded": 3, "failed": 3}"#));
        metrics.counted(&job, &was, &is);
        metrics.ended(&job, Some("BackoffLimitExceeded"));
        metrics.acted(&["Ignore", "Ignore"]);
        metrics.synced(&job, true, "pods_created", Duration::from_millis(3));
        let mut told = String::new();
        text::encode(&mut told, &registry).unwrap();
        for line in [
            r#"job_controller_job_pods_finished_total{completion_mode="Indexed",result="succeeded"} 2"#,
            r#"job_controller_job_pods_finished_total{completion_mode="Indexed",result="failed"} 1"#,
            r#"job_controller_job_finished_indexes_total{status="succeeded",backoffLimit="global"} 2"#,
            r#"job_controller_jobs_finished_total{completion_mode="Indexed",result="failed",reason="BackoffLimitExceeded"} 1"#,
            r#"job_controller_pod_failures_handled_by_failure_policy_total{action="Ignore"} 2"#,
            r#"job_controller_job_syncs_total{completion_mode="Indexed",result="success",action="pods_created"} 1"#,
        ] {
            assert!(told.contains(line), "{line}\n{told}");
        }
    }
}
