//! The node lifecycle controller: notices nodes that fell silent, says so, and taints them.
//!
//! A node is heard through its Lease and its status. What counts is when this process last saw either change, never the
//! time written in them. A node that was silent for the grace period is `Unknown`; taints follow from its conditions,
//! and the `NoExecute` ones, which drive its pods away, are held back while so much is down that the fault is more
//! likely ours ([`zones`]). Each node has a timer of its own. Behaves as upstream's `node-lifecycle-controller`.

mod health;
mod taints;
mod zones;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, Pod},
};
use kube::api::Patch;
use parking_lot::Mutex;
use serde_json::json;
use windlass::{
    Action, Controller, Error, EventType, Indexed, Informers, Key, Lister, ManagerBuilder, Reconcile,
    Request, Scope, clock,
};

use crate::{Options, by_node::ByNode, pods};
use zones::Zones;

/// Where kubelets renew their leases.
const LEASES: &str = "kube-node-lease";

/// Adds the controller to a manager.
pub fn register(manager: &mut ManagerBuilder, options: &Options) {
    let informers = manager.informers().clone();
    let nodes = informers.get::<Node>(Scope::all());
    let pods = informers.get::<Pod>(Scope::all());
    let heard = Arc::new(Heard::default());
    let ears = heard.clone();
    let controller = Controller::<Node>::new("node_lifecycle_controller")
        .component("node-controller")
        .workers(options.workers)
        .reads(&pods)
        .triggered_by::<Lease>(Scope::namespace(LEASES), move |delta, informers, enqueue| {
            let Some(lease) = delta.new() else { return };
            let renewed = lease.spec.as_ref().and_then(|s| s.renew_time.as_ref()).map(|t| t.0);
            let key = Key::new(None, delta.key().name());
            ears.lease(key.name(), renewed);
            let node = informers.get::<Node>(Scope::all()).get(&key);
            if node.is_some_and(|node| health::ready(&node) == "Unknown") {
                enqueue.now(key);
            }
        })
        .watches::<Node, _>(Scope::all(), |delta, informers| {
            let ready = |node: Option<&Arc<Node>>| node.map(|n| health::ready(n).to_owned());
            if delta.is_initial() || ready(delta.old()) == ready(delta.new()) {
                return Vec::new();
            }
            silent_nodes(informers)
        });
    let reconcile = NodeLifecycle {
        grace: options.node_monitor_grace,
        nodes: nodes.lister(),
        pods: pods.index(ByNode),
        heard,
        zones: Mutex::default(),
    };
    manager.add(controller.build(reconcile));
}

/// The nodes that are not ready: how many of them there are decides what happens to each.
fn silent_nodes(informers: &Informers) -> Vec<Key> {
    let mut keys = Vec::new();
    informers.get::<Node>(Scope::all()).lister().for_each(|node| {
        if health::ready(node) != "True" {
            keys.push(Key::of(&**node));
        }
    });
    keys
}

/// When each node was last heard, by our own clock.
#[derive(Default)]
struct Heard(Mutex<BTreeMap<String, Sign>>);

#[derive(Default)]
struct Sign {
    renewed: Option<Timestamp>,
    heartbeat: Option<Timestamp>,
    at: Option<Timestamp>,
    /// Its readiness when it was last looked at.
    ready: Option<String>,
}

impl Heard {
    fn lease(&self, node: &str, renewed: Option<Timestamp>) {
        let mut signs = self.0.lock();
        let sign = signs.entry(node.to_owned()).or_default();
        if sign.renewed != renewed {
            sign.renewed = renewed;
            sign.at = Some(clock::now());
        }
    }

    /// Takes in the status of a node and says when the node was last heard.
    fn status(&self, node: &Node, name: &str) -> Timestamp {
        let heartbeat = health::heartbeat(node);
        let mut signs = self.0.lock();
        let sign = signs.entry(name.to_owned()).or_default();
        if sign.heartbeat != heartbeat {
            sign.heartbeat = heartbeat;
            sign.at = Some(clock::now());
        }
        *sign.at.get_or_insert_with(clock::now)
    }

    /// Whether the node was ready when it was last looked at.
    fn was_ready(&self, name: &str) -> bool {
        self.0.lock().get(name).is_some_and(|sign| sign.ready.as_deref() == Some("True"))
    }

    fn set_ready(&self, name: &str, ready: &str) {
        self.0.lock().entry(name.to_owned()).or_default().ready = Some(ready.to_owned());
    }

    fn forget(&self, name: &str) {
        self.0.lock().remove(name);
    }
}

struct NodeLifecycle {
    grace: Duration,
    nodes: Lister<Node>,
    pods: Indexed<Pod, ByNode>,
    heard: Arc<Heard>,
    zones: Mutex<Zones>,
}

impl Reconcile<Node> for NodeLifecycle {
    async fn reconcile(&self, request: Request<Node>) -> Result<Action, Error> {
        let name = request.key.name();
        let Some(node) = request.object.clone() else {
            self.heard.forget(name);
            return Ok(Action::Done);
        };
        let silent = clock::since(self.heard.status(&node, name));
        let verdict = health::judge(&node, silent, self.grace, clock::now());
        if let Some(conditions) = &verdict.conditions {
            let patch = json!({"metadata": {"uid": node.metadata.uid}, "status": {"conditions": conditions}});
            request.client.patch_status::<Node>(&request.key, &Patch::Strategic(patch)).await?;
        }
        if self.heard.was_ready(name) && verdict.ready != "True" {
            self.tell(&request, &node).await?;
        }
        // Not before everybody was told: what failed is done again.
        self.heard.set_ready(name, &verdict.ready);
        let wait = self.taint(&request, &node, &verdict.ready).await?;
        let next = if verdict.overdue { wait } else { Some(wait.unwrap_or(verdict.left).min(verdict.left)) };
        Ok(next.map_or(Action::Done, Action::RequeueAfter))
    }
}

impl NodeLifecycle {
    /// Brings the taints in line with the conditions; returns how long to wait if a taint is held back for now.
    async fn taint(
        &self,
        request: &Request<Node>,
        node: &Node,
        ready: &str,
    ) -> Result<Option<Duration>, Error> {
        let (evict, wait) = self.may_evict(node, ready);
        let current = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
        let next = taints::bring_up_to_date(node, ready, evict, &current);
        if next != current {
            let meta = json!({"uid": node.metadata.uid});
            let patch = json!({"metadata": meta, "spec": {"taints": next}});
            // The status was patched just now: the revision is not compared, what is written is whole.
            request.client.patch::<Node>(&request.key, &Patch::Merge(patch)).await?;
        }
        Ok(wait)
    }

    /// Whether the pods of the node may be driven away, or when to ask again.
    fn may_evict(&self, node: &Node, ready: &str) -> (bool, Option<Duration>) {
        if ready == "True" {
            return (false, None);
        }
        let mut census = zones::Census::default();
        let name = node.metadata.name.as_deref();
        self.nodes.for_each(|other| {
            let is_this = other.metadata.name.as_deref() == name;
            census.count(other, !is_this && health::ready(other) == "True");
        });
        if taints::drives_away(node) {
            return (!census.all_down(), None);
        }
        match self.zones.lock().ask(&census, &zones::of(node), clock::now()) {
            zones::Answer::Now => (true, None),
            zones::Answer::After(wait) => (false, Some(wait)),
            zones::Answer::NotWhile => (false, None),
        }
    }

    /// Tells people, and marks the node's pods as not ready: nothing is known to serve there.
    async fn tell(&self, request: &Request<Node>, node: &Node) -> Result<(), Error> {
        let name = request.key.name();
        for pod in self.pods.get(name) {
            let Some(conditions) = not_ready(&pod) else { continue };
            request.recorder.event(&*pod, EventType::Warning, "NodeNotReady", "Node is not ready");
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": conditions}});
            let key = Key::of(&*pod);
            match request.client.patch_status::<Pod>(&key, &Patch::Strategic(patch)).await {
                Err(error) if error.is_not_found() => {}
                other => drop(other?),
            }
        }
        let note = format!("Node {name} status is now: NodeNotReady");
        request.recorder.event(node, EventType::Normal, "NodeNotReady", note);
        Ok(())
    }
}

/// The `Ready` condition of a pod, turned false; `None` if it is not ready anyway.
fn not_ready(pod: &Pod) -> Option<[k8s_openapi::api::core::v1::PodCondition; 1]> {
    let mut ready = pods::condition(pod, "Ready").filter(|c| c.status == "True")?.clone();
    ready.status = "False".to_owned();
    ready.last_transition_time = Some(clock::time());
    Some([ready])
}
