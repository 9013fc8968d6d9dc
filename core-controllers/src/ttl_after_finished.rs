//! The TTL controller: Jobs that have finished go after `ttlSecondsAfterFinished`, with all that they own.
//!
//! Each Job waits on its own timer. Behaves as upstream's `ttl-after-finished-controller` (KEP-592).

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, PropagationPolicy};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use windlass::{Action, Controller, Error, ManagerBuilder, Reconcile, Request, clock};

use crate::{Options, job::finished};

/// Adds the controller to a manager.
pub fn register(manager: &mut ManagerBuilder, options: &Options) {
    let controller = Controller::<Job>::new("ttl_jobs_to_delete")
        .component("ttl-after-finished-controller")
        .workers(options.workers)
        .filter(|delta| kept_until(delta.object()).is_some());
    let late = Histogram::new(exponential_buckets(0.1, 2.0, 14));
    let help = "The time it took to delete the job since it became eligible for deletion";
    let name = "ttl_after_finished_controller_job_deletion_duration_seconds";
    manager.metrics().register(|registry| registry.register(name, help, late.clone()));
    manager.add(controller.build(Ttl { late }));
}

/// Until when a finished Job is kept; `None` for ever.
fn kept_until(job: &Job) -> Option<Timestamp> {
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let ended = finished(job)?.last_transition_time.as_ref()?.0;
    ended.checked_add(SignedDuration::from_secs(i64::from(ttl))).ok()
}

struct Ttl {
    /// How long after their time Jobs are deleted, in seconds.
    late: Histogram,
}

impl Reconcile<Job> for Ttl {
    async fn reconcile(&self, request: Request<Job>) -> Result<Action, Error> {
        let Some(until) = request.object.as_deref().and_then(kept_until) else { return Ok(Action::Done) };
        let left = clock::until(until);
        if !left.is_zero() {
            return Ok(Action::RequeueAfter(left));
        }
        // What is deleted is what the server has: its TTL may have been raised just now.
        let Some(live) = request.client.live::<Job>(&request.key).await? else { return Ok(Action::Done) };
        let Some(until) = kept_until(&live).filter(|until| *until <= clock::now()) else {
            return Ok(Action::Done);
        };
        let whole = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Foreground),
            ..DeleteParams::default()
        };
        request.client.delete_with(&live, whole).await?;
        self.late.observe(clock::since(until).as_secs_f64());
        Ok(Action::Done)
    }
}
