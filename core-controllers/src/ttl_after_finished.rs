//! The TTL controller: Jobs that have finished go after `ttlSecondsAfterFinished`, with all that they own.
//!
//! Each Job waits on its own timer. Behaves as upstream's `ttl-after-finished-controller` (KEP-592).

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, PropagationPolicy};
use windlass::{Action, Controller, Error, Key, ManagerBuilder, Reconcile, Request, clock};

use crate::{Options, job::finished};

/// Adds the controller to a manager.
pub fn register(manager: &mut ManagerBuilder, options: &Options) {
    let controller = Controller::<Job>::new("ttl_jobs_to_delete")
        .component("ttl-after-finished-controller")
        .workers(options.workers)
        .filter(|delta| left(delta.object()).is_some());
    manager.add(controller.build(Ttl));
}

/// How much longer a finished Job is kept; `None` for ever.
fn left(job: &Job) -> Option<Duration> {
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let ended = finished(job)?.last_transition_time.as_ref()?.0;
    let kept = Duration::from_secs(u64::try_from(ttl).unwrap_or(0));
    Some(kept.saturating_sub(clock::since(ended)))
}

struct Ttl;

impl Reconcile<Job> for Ttl {
    async fn reconcile(&self, request: Request<Job>) -> Result<Action, Error> {
        let Some(left) = request.object.as_deref().and_then(left) else { return Ok(Action::Done) };
        if !left.is_zero() {
            return Ok(Action::RequeueAfter(left));
        }
        // What is deleted is what the server has: its TTL may have been raised just now.
        let key: &Key = &request.key;
        let Some(live) = request.client.live::<Job>(key).await? else { return Ok(Action::Done) };
        if self::left(&live) != Some(Duration::ZERO) {
            return Ok(Action::Done);
        }
        let whole = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Foreground),
            ..DeleteParams::default()
        };
        request.client.delete_with(&live, whole).await?;
        Ok(Action::Done)
    }
}
