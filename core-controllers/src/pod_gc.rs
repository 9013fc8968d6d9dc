//! The pod garbage collector: pods that no kubelet will ever finish.
//!
//! A pod whose node is gone, a pod that is deleted before it got a node, and the oldest of the pods that have ended,
//! when too many of those are kept. Each pod waits on its own timer; nothing is scanned. Behaves as upstream's
//! `pod-garbage-collector-controller`.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch};
use serde_json::json;
use windlass::{
    Action, CachedClient, Controller, Error, Index, Indexed, Informer, Key, ManagerBuilder, Reconcile,
    Request, Scope, clock,
};

use crate::{
    Options,
    by_node::ByNode,
    pods::{self, is_terminal, is_terminating},
};

/// A node that is not known may just not be known yet.
const QUARANTINE: Duration = Duration::from_secs(40);
/// The most ended pods that are kept.
const TERMINATED_MAX: usize = 12_500;
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Adds the controller to a manager.
pub fn register(manager: &mut ManagerBuilder, options: &Options) {
    let informers = manager.informers().clone();
    let pods = informers.get::<Pod>(Scope::all());
    let nodes = informers.get::<Node>(Scope::all());
    pods.index(ByNode);
    let controller = Controller::<Pod>::new("pod_gc")
        .workers(options.workers)
        .reads(&nodes)
        .filter(|delta| is_terminating(delta.object()) || is_terminal(delta.object()) || delta.is_initial())
        .watches::<Node, _>(Scope::all(), |delta, informers| {
            let concerns = delta.is_deleted() || is_out_of_service(delta.object());
            let pods = informers.get::<Pod>(Scope::all()).index(ByNode);
            if concerns { pods.keys(delta.key().name()) } else { Vec::new() }
        });
    manager.add(controller.build(PodGc { ended: pods.index(Ended), nodes }));
}

/// An index of the pods that have ended.
struct Ended;

impl Index<Pod> for Ended {
    type Value = ();

    fn values(&self, pod: &Pod, emit: &mut dyn FnMut(())) {
        if is_terminal(pod) && !is_terminating(pod) {
            emit(());
        }
    }

    fn same(&self, _other: &Self) -> bool {
        true
    }
}

struct PodGc {
    ended: Indexed<Pod, Ended>,
    nodes: Informer<Node>,
}

impl Reconcile<Pod> for PodGc {
    async fn reconcile(&self, request: Request<Pod>) -> Result<Action, Error> {
        let Some(pod) = request.object.clone() else { return Ok(Action::Done) };
        let Some(name) = pods::node(&pod) else {
            if is_terminating(&pod) {
                end(&request.client, &pod, None).await?;
            }
            return Ok(Action::Done);
        };
        let Some(node) = self.nodes.get(&Key::new(None, name)) else {
            return self.orphaned(&request, &pod, name).await;
        };
        if is_terminating(&pod) && is_out_of_service(&node) && !is_node_ready(&node) {
            end(&request.client, &pod, None).await?;
        }
        self.thin_out(&request).await
    }
}

impl PodGc {
    /// A pod on a node that is gone. The node may be new: it is looked for again after a while, on the server.
    async fn orphaned(&self, request: &Request<Pod>, pod: &Pod, node: &str) -> Result<Action, Error> {
        let bound = pods::condition(pod, "PodScheduled").and_then(|c| c.last_transition_time.as_ref());
        let since = bound.or(pod.metadata.creation_timestamp.as_ref()).map_or(Timestamp::UNIX_EPOCH, |t| t.0);
        let left = QUARANTINE.saturating_sub(clock::since(since));
        if !left.is_zero() {
            return Ok(Action::RequeueAfter(left));
        }
        if request.client.live::<Node>(&Key::new(None, node)).await?.is_none() {
            end(&request.client, pod, Some("PodGC: node no longer exists")).await?;
        }
        Ok(Action::Done)
    }

    /// Deletes the oldest of the ended pods when there are too many.
    async fn thin_out(&self, request: &Request<Pod>) -> Result<Action, Error> {
        let surplus = self.ended.count(&()).saturating_sub(TERMINATED_MAX);
        if surplus == 0 {
            return Ok(Action::Done);
        }
        let mut ended = self.ended.get(&());
        ended.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|t| t.0));
        for pod in ended.iter().take(surplus) {
            end(&request.client, pod, None).await?;
        }
        Ok(Action::Done)
    }
}

/// Marks a pod as failed, unless it has ended, and deletes it without waiting for a kubelet.
async fn end(client: &CachedClient, pod: &Pod, disrupted: Option<&str>) -> Result<(), Error> {
    if !is_terminal(pod) {
        let mut status = json!({"phase": "Failed"});
        if let Some(message) = disrupted {
            status["conditions"] = json!(crate::disruption::conditions(pod, "DeletionByPodGC", message));
        }
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
        match client.patch_status::<Pod>(&Key::of(pod), &Patch::Merge(patch)).await {
            Err(error) if error.is_not_found() => return Ok(()),
            other => drop(other?),
        }
    }
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    client.delete_with(pod, now).await
}

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    taints.iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

fn is_node_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}
