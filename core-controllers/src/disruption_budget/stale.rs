//! Pods that were told that they would be disrupted and were not: after two minutes they are told so. As the second queue
//! of upstream's `disruption-controller`.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::Patch;
use serde_json::json;
use windlass::{Action, Controller, Error, Key, ManagerBuilder, Reconcile, Request, clock};

use crate::{Options, pods};

/// How long a disruption may be announced before it has to have begun.
const PATIENCE: Duration = Duration::from_mins(2);
const TARGET: &str = "DisruptionTarget";

/// Adds the controller to a manager.
pub(super) fn register(manager: &mut ManagerBuilder, options: &Options) {
    let controller = Controller::<Pod>::new("stale_pod_disruption")
        .component("controllermanager")
        .workers(options.workers)
        .filter(|delta| left(delta.object()).is_some());
    manager.add(controller.build(Stale));
}

/// How much longer a pod is given that is to be disrupted.
fn left(pod: &Pod) -> Option<Duration> {
    if pods::is_terminating(pod) || pods::is_terminal(pod) {
        return None;
    }
    let target = pods::condition(pod, TARGET).filter(|condition| condition.status == "True")?;
    let since = target.last_transition_time.as_ref().map(|time| clock::since(time.0));
    Some(PATIENCE.saturating_sub(since.unwrap_or(PATIENCE)))
}

struct Stale;

impl Reconcile<Pod> for Stale {
    async fn reconcile(&self, request: Request<Pod>) -> Result<Action, Error> {
        let Some(pod) = request.object.clone() else { return Ok(Action::Done) };
        let Some(left) = left(&pod) else { return Ok(Action::Done) };
        if !left.is_zero() {
            return Ok(Action::RequeueAfter(left));
        }
        let condition = json!({
            "type": TARGET,
            "status": "False",
            "lastTransitionTime": clock::time(),
            "observedGeneration": pod.metadata.generation,
            "reason": null,
            "message": null,
        });
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
        match request.client.patch_status::<Pod>(&Key::of(&*pod), &Patch::Strategic(patch)).await {
            Ok(_) => Ok(Action::Done),
            Err(error) if error.is_not_found() => Ok(Action::Done),
            Err(error) => Err(error),
        }
    }
}
