//! The ReplicaSet controller: as many pods as asked for, no more, no fewer.
//!
//! A ReplicaSet counts the pods that match its selector and that it owns. Too few: it makes more from its template. Too
//! many: it deletes those that are missed the least. It never changes a pod, but to adopt or release it.
//!
//! Read top to bottom, this is what every controller here looks like: what it reads and what wakes it ([`register`]), a
//! pure decision ([`plan`]), and a reconcile that carries it out. Behaves as upstream's `replicaset-controller`, and, for
//! the older kind, as its `replicationcontroller-controller` ([`Family`]).

mod family;
mod rank;
mod status;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    core::v1::{Pod, ReplicationController},
};
use kube::core::{Selector, SelectorExt};
use windlass::{
    Action, ByOwner, Controller, Delta, Error, Indexed, Informers, Key, ManagerBuilder, Reconcile, Request,
    Scope, clock, controller_of, controller_ref,
};

use crate::{
    Options, batch,
    claim::{Claim, Orphans},
    pod_control, pods,
};
use family::Family;

/// The most pods that one turn creates or deletes.
const BURST: usize = 500;

/// Adds the controller of ReplicaSets to a manager.
pub fn register(manager: &mut ManagerBuilder, options: &Options) {
    register_family::<ReplicaSet>(manager, options);
}

/// Adds the controller of ReplicationControllers to a manager.
pub fn register_replication(manager: &mut ManagerBuilder, options: &Options) {
    register_family::<ReplicationController>(manager, options);
}

fn register_family<K: Family>(manager: &mut ManagerBuilder, options: &Options) {
    let informers = manager.informers().clone();
    let pods = informers.get::<Pod>(Scope::all());
    let sets = informers.get::<K>(Scope::all());
    let reconcile =
        Replicas { sets: sets.index(ByOwner), pods: pods.index(ByOwner), orphans: pods.index(Orphans) };
    let controller = Controller::<K>::new(K::NAME)
        .component(K::COMPONENT)
        .workers(options.workers)
        .owns::<Pod>()
        .watches::<Pod, _>(Scope::all(), sets_that_may_adopt::<K>);
    manager.add(controller.build(reconcile));
}

/// An orphan wakes every set that would have it.
fn sets_that_may_adopt<K: Family>(delta: &Delta<Pod>, informers: &Informers) -> Vec<Key> {
    let pod = delta.object();
    let (None, Some(namespace)) = (controller_of(&pod.metadata), pod.metadata.namespace.as_deref()) else {
        return Vec::new();
    };
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let mut sets = informers.get::<K>(Scope::all()).lister().in_namespace(namespace);
    sets.retain(|set| selector(&set.as_set()).is_some_and(|selector| selector.matches(&labels)));
    sets.iter().map(|set| Key::of(&**set)).collect()
}

/// What a decision is made from.
struct View<'a> {
    set: &'a ReplicaSet,
    /// The pods it owns, including those that have ended or are going.
    pods: &'a [Arc<Pod>],
    /// The pods of all ReplicaSets of the same owner, such as all revisions of one Deployment.
    related: &'a [Arc<Pod>],
    now: Timestamp,
}

/// What to do about it.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    create: usize,
    delete: Vec<Arc<Pod>>,
}

/// Compares what there is with what is asked for.
fn plan(view: &View<'_>) -> Plan {
    if view.set.metadata.deletion_timestamp.is_some() {
        return Plan::default();
    }
    let active: Vec<&Arc<Pod>> = view.pods.iter().filter(|pod| pods::is_active(pod)).collect();
    let wanted = usize::try_from(replicas(view.set)).unwrap_or(0);
    if active.len() <= wanted {
        return Plan { create: (wanted - active.len()).min(BURST), delete: Vec::new() };
    }
    let surplus = (active.len() - wanted).min(BURST);
    Plan { create: 0, delete: rank::least_missed(&active, view.related, view.now, surplus) }
}

struct Replicas<K: Family> {
    sets: Indexed<K, ByOwner>,
    pods: Indexed<Pod, ByOwner>,
    orphans: Indexed<Pod, Orphans>,
}

impl<K: Family> Reconcile<K> for Replicas<K> {
    async fn reconcile(&self, request: Request<K>) -> Result<Action, Error> {
        let Some(object) = request.object.clone() else { return Ok(Action::Done) };
        let set = object.as_set();
        let Some(selector) = selector(&set) else { return Err(Error::terminal("the selector is not valid")) };
        let claim = Claim::look_up(&*object, &selector, &self.pods, &self.orphans);
        let pods = claim.settle(&request.client, &*object).await?;
        let view = View { set: &set, pods: &pods, related: &self.related(&object), now: clock::now() };
        let failure = carry_out(&plan(&view), &*object, &request).await;
        status::report(&view, &*object, failure.as_ref(), &request.client).await?;
        match failure {
            Some(failure) => Err(failure.error),
            None => Ok(next_turn(&view)),
        }
    }
}

impl<K: Family> Replicas<K> {
    fn related(&self, set: &K) -> Vec<Arc<Pod>> {
        let siblings = controller_of(set.meta()).map(|owner| self.sets.get(&owner.uid)).unwrap_or_default();
        let uids = siblings.iter().filter_map(|sibling| sibling.meta().uid.as_deref());
        uids.flat_map(|uid| self.pods.get(uid)).collect()
    }
}

/// Why a plan was not carried out in full.
struct Failure {
    reason: &'static str,
    error: Error,
}

async fn carry_out<K: Family>(plan: &Plan, set: &K, request: &Request<K>) -> Option<Failure> {
    let create = batch::slow_start(plan.create, 1, |_| create(set, request)).await.1;
    if let Some(error) = create.filter(|error| !error.is_namespace_terminating()) {
        return Some(Failure { reason: "FailedCreate", error });
    }
    let all = plan.delete.len();
    let delete = batch::slow_start(all, all, |i| pod_control::delete(&plan.delete[i], set, request)).await.1;
    delete.map(|error| Failure { reason: "FailedDelete", error })
}

async fn create<K: Family>(set: &K, request: &Request<K>) -> Result<(), Error> {
    let template = set.as_set().spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
    let pod = pods::from_template(&template, controller_ref(set), set.meta().namespace.as_deref());
    pod_control::create(&pod, set, request).await
}

/// A ready pod becomes available by the mere passing of time: look again when the first one does.
fn next_turn(view: &View<'_>) -> Action {
    let min_ready = min_ready_seconds(view.set);
    let waits = view.pods.iter().filter_map(|pod| pods::available_in(pod, min_ready, view.now));
    waits
        .filter(|wait| !wait.is_zero())
        .min()
        .map_or(Action::Done, |wait| Action::RequeueAfter(wait + Duration::from_millis(1)))
}

fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn min_ready_seconds(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
}

fn selector(set: &ReplicaSet) -> Option<Selector> {
    Selector::try_from(set.spec.as_ref()?.selector.clone()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{pod, replica_set};

    fn planned(replicas: i32, pods: &[&str]) -> String {
        let set = replica_set("web", replicas);
        let pods: Vec<Arc<Pod>> = pods.iter().map(|text| Arc::new(pod(text))).collect();
        let view = View { set: &set, pods: &pods, related: &[], now: Timestamp::UNIX_EPOCH };
        let plan = plan(&view);
        let names: Vec<&str> = plan.delete.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect();
        format!("create {}, delete {names:?}", plan.create)
    }

    #[test]
    fn the_difference_is_made_up_or_taken_away() {
        let cases = [
            (3, vec![], "create 3, delete []"),
            (1, vec!["a ready", "b ready"], "create 0, delete [\"a\"]"),
            (2, vec!["a ready", "b ready"], "create 0, delete []"),
            (2, vec!["a ready", "b going"], "create 1, delete []"),
            (2, vec!["a ready", "b failed", "c succeeded"], "create 1, delete []"),
            (0, vec!["a ready", "b pending"], "create 0, delete [\"b\", \"a\"]"),
            (600, vec![], "create 500, delete []"),
        ];
        for (replicas, pods, expected) in cases {
            assert_eq!(planned(replicas, &pods), expected, "{replicas} {pods:?}");
        }
    }
}
