//! The DaemonSet controller: a pod on every node that it is for.
//!
//! Its pods are bound to their nodes by an affinity, which the scheduler obeys, and tolerate what daemons have to live
//! with. Templates are kept as ControllerRevisions; a rolling update goes node by node.
//!
//! [`plan`](plan::plan) decides, purely; here is what wakes it and how it is carried out. Behaves as upstream's
//! `daemonset-controller`.

mod backoff;
mod fit;
mod plan;
mod rolling;
mod status;

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus},
    core::v1::{Node, Pod, PodTemplateSpec},
};
use kube::{
    api::Patch,
    core::{Selector, SelectorExt},
};
use serde_json::json;
use windlass::{
    Action, ByOwner, Controller, Delta, Error, EventType, Indexed, Informer, Informers, Key, ManagerBuilder,
    Object, Reconcile, Request, Scope, clock, controller_of, controller_ref,
};

use crate::{
    Options, batch,
    claim::{Claim, Orphans},
    history, pod_control, pods,
};
use backoff::Backoff;
use plan::{Plan, View};

/// The most pods that one turn creates or deletes.
const BURST: usize = 250;
/// The default of `revisionHistoryLimit`.
const HISTORY_LIMIT: i32 = 10;

/// Adds the controller to a manager.
pub fn register(manager: &mut ManagerBuilder, options: &Options) {
    let informers = manager.informers().clone();
    let pods = informers.get::<Pod>(Scope::all());
    let revisions = informers.get::<ControllerRevision>(Scope::all());
    let nodes = informers.get::<Node>(Scope::all());
    let controller = Controller::<DaemonSet>::new("daemonset")
        .component("daemonset-controller")
        .workers(options.workers)
        .owns::<Pod>()
        .watches::<Pod, _>(Scope::all(), sets_that_may_adopt)
        .watches::<ControllerRevision, _>(Scope::all(), sets_that_may_adopt)
        .watches::<Node, _>(Scope::all(), sets_for_which_a_node_changed);
    let reconcile = DaemonSets {
        pods: pods.index(ByOwner),
        orphans: pods.index(Orphans),
        revisions: revisions.index(ByOwner),
        orphan_revisions: revisions.index(Orphans),
        nodes,
        backoff: Backoff::default(),
    };
    manager.add(controller.build(reconcile));
}

/// An orphan wakes every set that would have it.
fn sets_that_may_adopt<K: Object>(delta: &Delta<K>, informers: &Informers) -> Vec<Key> {
    let meta = delta.object().meta();
    let (None, Some(namespace)) = (controller_of(meta), meta.namespace.as_deref()) else { return Vec::new() };
    let labels = meta.labels.clone().unwrap_or_default();
    let mut sets = informers.get::<DaemonSet>(Scope::all()).lister().in_namespace(namespace);
    sets.retain(|set| selector(set).is_some_and(|selector| selector.matches(&labels)));
    sets.iter().map(|set| Key::of(&**set)).collect()
}

/// A node that comes, goes, or is something else to a set than before wakes that set.
fn sets_for_which_a_node_changed(delta: &Delta<Node>, informers: &Informers) -> Vec<Key> {
    let shape =
        |node: &Arc<Node>| (node.metadata.labels.clone(), node.spec.as_ref().and_then(|s| s.taints.clone()));
    let (old, new) = (delta.old(), delta.new());
    if old.is_some() && old.map(shape) == new.map(shape) {
        return Vec::new();
    }
    let mut sets = informers.get::<DaemonSet>(Scope::all()).lister().all();
    sets.retain(|set| {
        let spec = plan::tolerant(set);
        let fit = |node: Option<&Arc<Node>>| node.map(|node| fit::fit(&spec, node));
        fit(old) != fit(new)
    });
    sets.iter().map(|set| Key::of(&**set)).collect()
}

struct DaemonSets {
    pods: Indexed<Pod, ByOwner>,
    orphans: Indexed<Pod, Orphans>,
    revisions: Indexed<ControllerRevision, ByOwner>,
    orphan_revisions: Indexed<ControllerRevision, Orphans>,
    nodes: Informer<Node>,
    backoff: Backoff,
}

impl Reconcile<DaemonSet> for DaemonSets {
    async fn reconcile(&self, request: Request<DaemonSet>) -> Result<Action, Error> {
        let Some(set) = request.object.clone() else { return Ok(Action::Done) };
        let Some(selector) = selector(&set) else { return Err(Error::terminal("the selector is not valid")) };
        if selector.selects_all() {
            let note = "This daemon set is selecting all pods. A non-empty selector is required.";
            request.recorder.event(&*set, EventType::Warning, "SelectingAll", note);
            return Ok(Action::Done);
        }
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Action::Done);
        }
        let mut claim = Claim::look_up(&*set, &selector, &self.revisions, &self.orphan_revisions);
        claim.release.clear();
        let mut revisions = claim.settle(&request.client, &*set).await?;
        history::sort(&mut revisions);
        let claim = Claim::look_up(&*set, &selector, &self.pods, &self.orphans);
        let pods = claim.settle(&request.client, &*set).await?;
        let (revision, collisions) = present(&set, &revisions, &request).await?;
        let hash = hash_of(&revision).to_owned();
        if join_doubles(&revision, &revisions, &pods, &request).await? {
            // What was written wakes nobody, and the caches have it by then.
            return Ok(Action::RequeueAfter(std::time::Duration::ZERO));
        }

        let of = (set.metadata.uid.as_deref().unwrap_or_default(), set.metadata.generation.unwrap_or(0));
        let (nodes, now) = (self.nodes.lister().all(), clock::now());
        let backoff = |node: &str| self.backoff.left(of, node, now);
        let view = View::new(&set, &hash, &pods, &nodes, &backoff, now);
        let plan = plan::plan(&view);
        for (type_, reason, note) in &plan.events {
            request.recorder.event(&*set, *type_, reason, note.clone());
        }
        plan.failed.iter().for_each(|node| self.backoff.note(of, node, now));
        let failure = carry_out(&plan, &set, &hash, &request).await;
        report(&set, status::status(&view, collisions), &request).await?;
        failure.map_or(Ok(()), Err)?;
        forget(&set, &hash, &pods, &revisions, &request).await?;
        let again = [plan.wait, plan::next_turn(&view)].into_iter().flatten().min();
        Ok(again.map_or(Action::Done, Action::RequeueAfter))
    }
}

/// The revision of the present template, which is made if there is none, and how often names were taken.
async fn present(
    set: &DaemonSet,
    revisions: &[Arc<ControllerRevision>],
    request: &Request<DaemonSet>,
) -> Result<(Arc<ControllerRevision>, i32), Error> {
    let template = set.spec.as_ref().map(|spec| &spec.template);
    let data = history::data(template);
    let labels = history::Labels {
        template: template.and_then(|template| template.metadata.as_ref()?.labels.clone()),
        hash: plan::HASH,
    };
    let collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let found = history::find(revisions, &data);
    history::settle(&request.client, set, found, labels, &data, collisions).await
}

/// Lets one revision stand for a template where several do: pods of the others are its own from now on, so that they
/// need not be replaced. True if there was anything to do.
async fn join_doubles(
    revision: &ControllerRevision,
    revisions: &[Arc<ControllerRevision>],
    pods: &[Arc<Pod>],
    request: &Request<DaemonSet>,
) -> Result<bool, Error> {
    let doubles = history::doubles(revisions, revision);
    let hash = |pod: &Pod| pod.metadata.labels.as_ref().and_then(|labels| labels.get(plan::HASH).cloned());
    for double in &doubles {
        let of_double = |pod: &&Arc<Pod>| hash(pod).is_some_and(|hash| hash == hash_of(double));
        for pod in pods.iter().filter(of_double).filter(|pod| hash(pod).as_deref() != Some(hash_of(revision)))
        {
            let patch =
                json!({"metadata": {"uid": pod.metadata.uid, "labels": {plan::HASH: hash_of(revision)}}});
            match request.client.patch::<Pod>(&Key::of(&**pod), &Patch::Merge(patch)).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        request.client.delete(&**double).await?;
    }
    Ok(!doubles.is_empty())
}

fn hash_of(revision: &ControllerRevision) -> &str {
    revision.metadata.labels.as_ref().and_then(|labels| labels.get(plan::HASH)).map_or("", String::as_str)
}

async fn carry_out(plan: &Plan, set: &DaemonSet, hash: &str, request: &Request<DaemonSet>) -> Option<Error> {
    let create =
        async |i: usize| pod_control::create(&new_pod(set, hash, &plan.create[i]), set, request).await;
    let failure = batch::slow_start(plan.create.len().min(BURST), 1, create).await.1;
    let failure = failure.filter(|error| !error.is_namespace_terminating());
    let count = plan.delete.len().min(BURST);
    let deleted =
        batch::slow_start(count, count, |i| pod_control::delete(&plan.delete[i], set, request)).await;
    failure.or(deleted.1)
}

/// The pod of a node.
fn new_pod(set: &DaemonSet, hash: &str, node: &str) -> Pod {
    let template: PodTemplateSpec = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut pod = pods::from_template(&template, controller_ref(set), set.metadata.namespace.as_deref());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(plan::HASH.to_owned(), hash.to_owned());
    labels.extend(plan::generation(set).map(|count| (plan::GENERATION.to_owned(), count.clone())));
    let mut spec = plan::tolerant(set);
    fit::bind(&mut spec, node);
    pod.spec = Some(spec);
    pod
}

/// Deletes the oldest revisions that no pod has, until history has its limit. Those that pods have count, too.
async fn forget(
    set: &DaemonSet,
    hash: &str,
    pods: &[Arc<Pod>],
    revisions: &[Arc<ControllerRevision>],
    request: &Request<DaemonSet>,
) -> Result<(), Error> {
    let limit = set.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(HISTORY_LIMIT);
    let Ok(limit) = usize::try_from(limit) else { return Ok(()) };
    let of_pod =
        |pod: &Arc<Pod>| pod.metadata.labels.as_ref().and_then(|labels| labels.get(plan::HASH).cloned());
    let live: BTreeSet<String> = pods.iter().filter_map(of_pod).collect();
    let old: Vec<_> = revisions.iter().filter(|revision| hash_of(revision) != hash).collect();
    let unused = old.iter().filter(|revision| !live.contains(hash_of(revision)));
    for revision in unused.take(old.len().saturating_sub(limit)) {
        request.client.delete(&***revision).await?;
    }
    Ok(())
}

/// Writes the status if it changed.
async fn report(set: &DaemonSet, status: DaemonSetStatus, request: &Request<DaemonSet>) -> Result<(), Error> {
    if set.status.as_ref() == Some(&status) {
        return Ok(());
    }
    match request.client.update_status(&DaemonSet { status: Some(status), ..set.clone() }).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

fn selector(set: &DaemonSet) -> Option<Selector> {
    Selector::try_from(set.spec.as_ref()?.selector.clone()).ok()
}

#[cfg(test)]
mod tests;
