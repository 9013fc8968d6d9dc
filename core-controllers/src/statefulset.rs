//! The StatefulSet controller: pods that have names and keep them, with their storage, through every replacement.
//!
//! Each ordinal has one pod, `NAME-ORDINAL`, and its claims. They come up from the lowest ordinal and go down from the
//! highest, one at a time unless the set is parallel. Templates are kept as ControllerRevisions; an update replaces pods
//! from the highest ordinal down to the partition. It never deletes a claim: who owns a claim decides what it goes with.
//!
//! [`plan`](plan::plan) decides, purely; here is what wakes it and how it is carried out. Behaves as upstream's
//! `statefulset-controller`, with `maxUnavailable` (KEP-961) counted as upstream counts it since #137666: an old pod that
//! serves nobody does not hold up the update that mends it.

mod act;
mod claims;
mod identity;
mod plan;
mod status;

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus},
    core::v1::{PersistentVolumeClaim, Pod},
};
use kube::core::{Selector, SelectorExt};
use windlass::{
    Action, ByOwner, Controller, Delta, Error, Indexed, Informer, Informers, Key, ManagerBuilder, Reconcile,
    Request, Scope, clock, controller_of,
};

use crate::{
    Options,
    claim::{Claim, Orphans},
    history,
};
use plan::{Revision, View};

/// The default of `revisionHistoryLimit`.
const HISTORY_LIMIT: i32 = 10;

/// Adds the controller to a manager.
pub fn register(manager: &mut ManagerBuilder, options: &Options) {
    let informers = manager.informers().clone();
    let pods = informers.get::<Pod>(Scope::all());
    let revisions = informers.get::<ControllerRevision>(Scope::all());
    let volume_claims = informers.get::<PersistentVolumeClaim>(Scope::all());
    let controller = Controller::<StatefulSet>::new("statefulset")
        .component("statefulset-controller")
        .workers(options.workers)
        .reads(&revisions)
        .owns::<Pod>()
        .watches::<Pod, _>(Scope::all(), sets_that_may_adopt)
        .watches::<PersistentVolumeClaim, _>(Scope::all(), set_that_lost_a_claim);
    let reconcile = StatefulSets {
        pods: pods.index(ByOwner),
        orphans: pods.index(Orphans),
        revisions: revisions.index(ByOwner),
        orphan_revisions: revisions.index(Orphans),
        volume_claims,
    };
    manager.add(controller.build(reconcile));
}

/// An orphan wakes every set that would have it.
fn sets_that_may_adopt(delta: &Delta<Pod>, informers: &Informers) -> Vec<Key> {
    let pod = delta.object();
    let (None, Some(namespace)) = (controller_of(&pod.metadata), pod.metadata.namespace.as_deref()) else {
        return Vec::new();
    };
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let mut sets = informers.get::<StatefulSet>(Scope::all()).lister().in_namespace(namespace);
    sets.retain(|set| identity::is_member(set, pod) && selector(set).is_some_and(|s| s.matches(&labels)));
    sets.iter().map(|set| Key::of(&**set)).collect()
}

/// A claim that is gone is made anew for the pod that needs it, or lets a pod be made that could not have it.
fn set_that_lost_a_claim(delta: &Delta<PersistentVolumeClaim>, informers: &Informers) -> Vec<Key> {
    let meta = &delta.object().metadata;
    let (true, Some(namespace), Some(name)) = (delta.is_deleted(), &meta.namespace, &meta.name) else {
        return Vec::new();
    };
    let mut sets = informers.get::<StatefulSet>(Scope::all()).lister().in_namespace(namespace);
    sets.retain(|set| identity::makes_claim(set, name));
    sets.iter().map(|set| Key::of(&**set)).collect()
}

struct StatefulSets {
    pods: Indexed<Pod, ByOwner>,
    orphans: Indexed<Pod, Orphans>,
    revisions: Indexed<ControllerRevision, ByOwner>,
    orphan_revisions: Indexed<ControllerRevision, Orphans>,
    volume_claims: Informer<PersistentVolumeClaim>,
}

impl Reconcile<StatefulSet> for StatefulSets {
    async fn reconcile(&self, request: Request<StatefulSet>) -> Result<Action, Error> {
        let Some(set) = request.object.clone() else { return Ok(Action::Done) };
        let Some(selector) = selector(&set) else { return Err(Error::terminal("the selector is not valid")) };
        let mut revisions = self.claim_revisions(&set, &selector, &request).await?;
        let pods = self.claim_pods(&set, &selector, &request).await?;
        history::sort(&mut revisions);
        let Some((current, update, collisions)) = versions(&set, &revisions, &request).await? else {
            return Ok(Action::Done);
        };
        let claim = |name: &str| self.volume_claims.get(&Key::new(set.metadata.namespace.as_deref(), name));
        let view = View {
            set: &set,
            current: &current,
            update: &update,
            pods: &pods,
            claim: &claim,
            now: clock::now(),
        };
        let plan = plan::plan(&view);
        let carried_out = self.carry_out(&plan, &set, &request).await;
        report(&set, status::status(&view, &plan, collisions, carried_out.is_ok()), &request).await?;
        carried_out?;
        forget(&view, &revisions, &request).await?;
        Ok(plan::next_turn(&view).map_or(Action::Done, Action::RequeueAfter))
    }
}

impl StatefulSets {
    /// The revisions it answers for. Those that no longer match stay with it, unused.
    async fn claim_revisions(
        &self,
        set: &StatefulSet,
        selector: &Selector,
        request: &Request<StatefulSet>,
    ) -> Result<Vec<Arc<ControllerRevision>>, Error> {
        let mut claim = Claim::look_up(set, selector, &self.revisions, &self.orphan_revisions);
        claim.release.clear();
        claim.settle(&request.client, set).await
    }

    /// The pods it answers for: by their names, too.
    async fn claim_pods(
        &self,
        set: &StatefulSet,
        selector: &Selector,
        request: &Request<StatefulSet>,
    ) -> Result<Vec<Arc<Pod>>, Error> {
        let mut claim = Claim::look_up(set, selector, &self.pods, &self.orphans);
        claim.adopt.retain(|pod| identity::is_member(set, pod));
        let (members, others) = claim.owned.into_iter().partition(|pod| identity::is_member(set, pod));
        claim.owned = members;
        if set.metadata.deletion_timestamp.is_none() {
            claim.release.extend::<Vec<Arc<Pod>>>(others);
        }
        claim.settle(&request.client, set).await
    }
}

/// The current revision and the one that is asked for, which is made if there is none, and how often names of revisions
/// were taken. `None` when the set is going and has no history any more.
async fn versions(
    set: &StatefulSet,
    revisions: &[Arc<ControllerRevision>],
    request: &Request<StatefulSet>,
) -> Result<Option<(Revision, Revision, i32)>, Error> {
    let template = set.spec.as_ref().map(|spec| &spec.template);
    let data = history::data(template);
    let found = history::find(revisions, &data);
    if set.metadata.deletion_timestamp.is_some() && !matches!(found, history::Found::Newest(_)) {
        return Ok(None);
    }
    let status = set.status.clone().unwrap_or_default();
    let labels = history::Labels {
        template: template.and_then(|template| template.metadata.as_ref()?.labels.clone()),
        hash: history::HASH,
    };
    let collisions = status.collision_count.unwrap_or(0);
    let (update, collisions) =
        history::settle(&request.client, set, found, labels, &data, collisions).await?;
    let is_current = |revision: &&Arc<ControllerRevision>| {
        Some(history::name(revision)) == status.current_revision.as_deref()
    };
    let current = revisions.iter().find(is_current).unwrap_or(&update);
    Ok(Some((revision(current)?, revision(&update)?, collisions)))
}

/// What a revision holds.
fn revision(revision: &ControllerRevision) -> Result<Revision, Error> {
    Ok(Revision { name: history::name(revision).to_owned(), template: history::template(revision)? })
}

/// Deletes the oldest revisions that nothing uses and that history does not keep.
async fn forget(
    view: &View<'_>,
    revisions: &[Arc<ControllerRevision>],
    request: &Request<StatefulSet>,
) -> Result<(), Error> {
    let limit = view.set.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(HISTORY_LIMIT);
    let Ok(limit) = usize::try_from(limit) else { return Ok(()) };
    let mut live: BTreeSet<&str> = view.pods.iter().map(|pod| identity::revision(pod)).collect();
    live.extend([view.current.name.as_str(), &view.update.name]);
    let unused: Vec<_> =
        revisions.iter().filter(|revision| !live.contains(history::name(revision))).collect();
    for revision in unused.iter().take(unused.len().saturating_sub(limit)) {
        request.client.delete(&***revision).await?;
    }
    Ok(())
}

/// Writes the status if it changed.
async fn report(
    set: &StatefulSet,
    status: StatefulSetStatus,
    request: &Request<StatefulSet>,
) -> Result<(), Error> {
    if !status::differs(set, &status) {
        return Ok(());
    }
    match request.client.update_status(&StatefulSet { status: Some(status), ..set.clone() }).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

fn name_of(meta: &kube::api::ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

fn selector(set: &StatefulSet) -> Option<Selector> {
    Selector::try_from(set.spec.as_ref()?.selector.clone()).ok()
}

#[cfg(test)]
mod tests;
