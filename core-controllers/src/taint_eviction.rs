//! The taint eviction controller: a pod leaves a node whose `NoExecute` taints it does not tolerate, or tolerates only
//! for a while.
//!
//! Each pod has a timer of its own, which ends with the taint. Behaves as upstream's `taint-eviction-controller`.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kube::api::Patch;
use serde_json::json;
use windlass::{
    Action, Controller, Delta, Error, EventType, Informer, Informers, Key, ManagerBuilder, Reconcile,
    Request, Scope, clock,
};

use crate::{Options, by_node::ByNode, pods};

/// Adds the controller to a manager.
pub fn register(manager: &mut ManagerBuilder, options: &Options) {
    let informers = manager.informers().clone();
    let nodes = informers.get::<Node>(Scope::all());
    informers.get::<Pod>(Scope::all()).index(ByNode);
    let controller = Controller::<Pod>::new("taint_eviction_controller")
        .component("taint-eviction-controller")
        .workers(options.workers)
        .reads(&nodes)
        .filter(|delta| {
            delta.old().is_none_or(|old| stays_as_it_does(old) != stays_as_it_does(delta.object()))
        })
        .watches::<Node, _>(Scope::all(), pods_of_node_with_other_taints);
    manager.add(controller.build(TaintEviction { nodes }));
}

/// What of a pod decides how long it stays: where it is, and what it tolerates.
fn stays_as_it_does(pod: &Pod) -> (Option<&str>, Option<&[Toleration]>) {
    (pods::node(pod), pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()))
}

fn pods_of_node_with_other_taints(delta: &Delta<Node>, informers: &Informers) -> Vec<Key> {
    let of = |node: Option<&std::sync::Arc<Node>>| node.map(|n| no_execute(n)).unwrap_or_default();
    let (old, new) = (of(delta.old()), of(delta.new()));
    if old == new {
        return Vec::new();
    }
    informers.get::<Pod>(Scope::all()).index(ByNode).keys(delta.key().name())
}

struct TaintEviction {
    nodes: Informer<Node>,
}

impl Reconcile<Pod> for TaintEviction {
    async fn reconcile(&self, request: Request<Pod>) -> Result<Action, Error> {
        let Some(pod) = request.object.clone() else { return Ok(Action::Done) };
        let node = pods::node(&pod).and_then(|name| self.nodes.get(&Key::new(None, name)));
        let Some(node) = node.filter(|_| !pods::is_terminating(&pod)) else { return Ok(Action::Done) };
        let Some(at) = evicted_at(&pod, &no_execute(&node)) else { return Ok(Action::Done) };
        let left = clock::until(at);
        if !left.is_zero() {
            return Ok(Action::RequeueAfter(left));
        }
        evict(&request, &pod).await?;
        Ok(Action::Done)
    }
}

async fn evict(request: &Request<Pod>, pod: &Pod) -> Result<(), Error> {
    let note = format!("Marking for deletion Pod {}", request.key);
    request.recorder.event(pod, EventType::Normal, "TaintManagerEviction", note);
    let message = "Taint manager: deleting due to NoExecute taint";
    let conditions = crate::disruption::conditions(pod, "DeletionByTaintManager", message);
    let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": conditions}});
    match request.client.patch_status::<Pod>(&request.key, &Patch::Merge(patch)).await {
        Err(error) if error.is_not_found() => return Ok(()),
        other => drop(other?),
    }
    request.client.delete(pod).await
}

fn no_execute(node: &Node) -> Vec<Taint> {
    let taints = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    taints.into_iter().filter(|taint| taint.effect == "NoExecute").collect()
}

/// When the pod has to leave: `None` if it may stay.
fn evicted_at(pod: &Pod, taints: &[Taint]) -> Option<Timestamp> {
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let ends = taints.iter().filter_map(|taint| tolerated_until(pod, taint, tolerations));
    ends.min()
}

/// Until when the pod tolerates a taint: `None` for ever, and the beginning of time if not at all.
fn tolerated_until(pod: &Pod, taint: &Taint, tolerations: &[Toleration]) -> Option<Timestamp> {
    let mut spans =
        tolerations.iter().filter(|t| tolerates(t, taint)).map(|t| t.toleration_seconds).peekable();
    if spans.peek().is_none() {
        return Some(Timestamp::UNIX_EPOCH);
    }
    // The shortest of those that end; tolerations without end do not lengthen it.
    let seconds = spans.flatten().min()?;
    let bound = pods::condition(pod, "PodScheduled").and_then(|c| c.last_transition_time.as_ref());
    let bound = bound.or(pod.metadata.creation_timestamp.as_ref()).map(|t| t.0);
    let since = taint.time_added.as_ref().map(|t| t.0).max(bound).unwrap_or_else(clock::now);
    let span = SignedDuration::try_from(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
    since.checked_add(span.unwrap_or(SignedDuration::ZERO)).ok()
}

pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let set = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    let (key, effect) = (set(&toleration.key), set(&toleration.effect));
    let exists = toleration.operator.as_deref() == Some("Exists");
    effect.is_none_or(|effect| effect == taint.effect)
        && key.as_ref().is_none_or(|key| *key == taint.key)
        && (exists || (key.is_some() && set(&toleration.value) == set(&taint.value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, pod};

    #[test]
    fn a_pod_stays_as_long_as_it_tolerates_every_taint() {
        let taint: Vec<Taint> = serde_json::from_value(json!([
            {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": "1970-01-01T00:01:40Z"}
        ]))
        .unwrap();
        let unreachable = "node.kubernetes.io/unreachable";
        let cases = [
            (json!([]), Some(0)),
            (json!([{"operator": "Exists"}]), None),
            (
                json!([{"key": unreachable, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]),
                Some(400),
            ),
            (json!([{"key": unreachable, "operator": "Exists", "effect": "NoSchedule"}]), Some(0)),
            (json!([{"key": unreachable, "operator": "Equal", "value": "x"}]), Some(0)),
            (json!([{"key": unreachable}]), None),
            (
                json!([{"operator": "Exists", "tolerationSeconds": 5}, {"key": unreachable, "operator": "Exists"}]),
                Some(105),
            ),
            (json!([{"key": unreachable, "operator": "Exists", "tolerationSeconds": -1}]), Some(100)),
        ];
        for (tolerations, expected) in cases {
            let mut pod = pod("a ready created=10");
            pod.spec.as_mut().unwrap().tolerations = serde_json::from_value(tolerations.clone()).unwrap();
            assert_eq!(evicted_at(&pod, &taint), expected.map(at), "{tolerations}");
            assert_eq!(evicted_at(&pod, &[]), None);
        }
    }
}
