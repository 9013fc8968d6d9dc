//! Telling a pod why the control plane ends it.

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use windlass::clock;

/// The conditions of a pod with `DisruptionTarget` set.
pub(crate) fn conditions(pod: &Pod, reason: &str, message: &str) -> Vec<PodCondition> {
    let mut conditions = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let set = conditions.iter().position(|c| c.type_ == "DisruptionTarget");
    let before = set.map(|i| conditions.remove(i)).filter(|c| c.status == "True");
    conditions.push(PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: before.and_then(|c| c.last_transition_time).or_else(|| Some(clock::time())),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    });
    conditions
}
