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
/// The reason of disruptions that the pod's own kubelet announces.
const BY_KUBELET: &str = "TerminationByKubelet";

/// Adds the controller to a manager.
pub(super) fn register(manager: &mut ManagerBuilder, options: &Options) {
    let controller = Controller::<Pod>::new("stale_pod_disruption")
        .component("controllermanager")
        .workers(options.workers)
        .filter(|delta| left(delta.object()).is_some());
    manager.add(controller.build(Stale));
}

/// How much longer a pod is given that is to be disrupted. What its kubelet announces may take any time.
fn left(pod: &Pod) -> Option<Duration> {
    if pods::is_terminating(pod) || pods::is_terminal(pod) {
        return None;
    }
    let target = pods::condition(pod, TARGET).filter(|condition| condition.status == "True")?;
    if target.reason.as_deref() == Some(BY_KUBELET) {
        return None;
    }
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

#[cfg(test)]
mod tests {
    use k8s_openapi::{api::core::v1::PodCondition, apimachinery::pkg::apis::meta::v1::Time};

    use super::*;
    use crate::testing::pod;

    #[tokio::test(start_paused = true)]
    async fn what_others_than_the_kubelet_announce_has_two_minutes() {
        let told = |text: &str, reason: &str| {
            let mut pod = pod(text);
            pod.status.as_mut().unwrap().conditions = Some(vec![PodCondition {
                type_: TARGET.to_owned(),
                status: "True".to_owned(),
                reason: Some(reason.to_owned()),
                last_transition_time: Some(Time(clock::now())),
                ..PodCondition::default()
            }]);
            left(&pod).map(|left| left.as_secs())
        };
        assert_eq!(told("a running", "EvictionByEvictionAPI"), Some(120));
        assert_eq!(told("a running", BY_KUBELET), None);
        assert_eq!(told("a running going", "EvictionByEvictionAPI"), None);
        assert_eq!(told("a failed", "EvictionByEvictionAPI"), None);
    }
}
