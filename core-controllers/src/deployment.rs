//! The Deployment controller: moves pods from one template to the next, through ReplicaSets.
//!
//! Each template has a ReplicaSet of its own, named by a hash of the template. A rollout scales the newest one up and
//! the others down, never going below what may be missing nor above what may be surplus. Old ReplicaSets stay, scaled
//! to nothing, as the history that a rollback returns to. It never touches a pod.
//!
//! [`plan`](plan::plan) decides, purely; here is what wakes it, what it sees, and how it is carried out. Behaves as
//! upstream's `deployment-controller`.

mod fleet;
mod plan;
mod revision;
mod rolling;
mod scale;
mod status;

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::{
    apps::v1::{Deployment, DeploymentStatus, ReplicaSet},
    core::v1::Pod,
};
use kube::{
    api::Patch,
    core::{Selector, SelectorExt},
};
use serde_json::json;
use windlass::{
    Action, ByOwner, Controller, Delta, Error, EventType, Indexed, Informers, Key, ManagerBuilder, Reconcile,
    Request, Scope, clock, controller_of,
};

use crate::{
    Options,
    claim::{Claim, Orphans},
    pods,
};
use plan::{Plan, Update, View};

/// Adds the controller to a manager.
pub fn register(manager: &mut ManagerBuilder, options: &Options) {
    let informers = manager.informers().clone();
    let sets = informers.get::<ReplicaSet>(Scope::all());
    let pods = informers.get::<Pod>(Scope::all());
    let reconcile =
        Deployments { sets: sets.index(ByOwner), orphans: sets.index(Orphans), pods: pods.index(ByOwner) };
    let controller = Controller::<Deployment>::new("deployment")
        .component("deployment-controller")
        .workers(options.workers)
        .owns::<ReplicaSet>()
        .watches::<ReplicaSet, _>(Scope::all(), deployments_that_may_adopt)
        .watches::<Pod, _>(Scope::all(), deployment_that_waits_for_pods);
    manager.add(controller.build(reconcile));
}

/// An orphan wakes every Deployment that would have it.
fn deployments_that_may_adopt(delta: &Delta<ReplicaSet>, informers: &Informers) -> Vec<Key> {
    let meta = &delta.object().metadata;
    let (None, Some(namespace)) = (controller_of(meta), meta.namespace.as_deref()) else { return Vec::new() };
    let labels = meta.labels.clone().unwrap_or_default();
    let mut all = informers.get::<Deployment>(Scope::all()).lister().in_namespace(namespace);
    all.retain(|deployment| selector(deployment).is_some_and(|selector| selector.matches(&labels)));
    all.iter().map(|deployment| Key::of(&**deployment)).collect()
}

/// The last pod of an old revision is what a Recreate waits for.
fn deployment_that_waits_for_pods(delta: &Delta<Pod>, informers: &Informers) -> Option<Key> {
    let ended = delta.is_deleted() || pods::is_terminal(delta.object());
    let meta = &delta.object().metadata;
    let owner = controller_of(meta).filter(|owner| ended && owner.kind == "ReplicaSet")?;
    let sets = informers.get::<ReplicaSet>(Scope::all());
    let set = sets.lister().find(meta.namespace.as_deref(), &owner.name)?;
    let owner = controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment")?;
    let key = Key::new(meta.namespace.as_deref(), &owner.name);
    let deployment = informers.get::<Deployment>(Scope::all()).get(&key)?;
    plan::is_recreate(&deployment).then_some(key)
}

struct Deployments {
    sets: Indexed<ReplicaSet, ByOwner>,
    orphans: Indexed<ReplicaSet, Orphans>,
    pods: Indexed<Pod, ByOwner>,
}

impl Reconcile<Deployment> for Deployments {
    async fn reconcile(&self, request: Request<Deployment>) -> Result<Action, Error> {
        let Some(deployment) = request.object.clone() else { return Ok(Action::Done) };
        let Some(selector) = selector(&deployment) else {
            return Err(Error::terminal("the selector is not valid"));
        };
        if selector.selects_all() {
            let note = "This deployment is selecting all pods. A non-empty selector is required.";
            request.recorder.event(&*deployment, EventType::Warning, "SelectingAll", note);
            return Ok(Action::Done);
        }
        let claim = Claim::look_up(&*deployment, &selector, &self.sets, &self.orphans);
        let sets = claim.settle(&request.client, &*deployment).await?;
        let running = self.with_pods(&sets);
        let view = View { deployment: &deployment, sets: &sets, running: &running, now: clock::now() };
        let plan = plan::plan(&view);
        let carried_out = carry_out(&plan, &request, &deployment).await;
        let status = match &carried_out {
            Err(Stop::Collision) => Some(status::with_collision(&deployment)),
            Err(Stop::NotCreated(error)) => Some(status::with_create_error(&deployment, error, view.now)),
            _ => plan.status.clone(),
        };
        report(&deployment, status, &request).await?;
        carried_out.map_err(Stop::into_error)?;
        Ok(plan.again.map_or(Action::Done, Action::RequeueAfter))
    }
}

impl Deployments {
    /// The uids of the sets that still have a pod that runs or may run.
    fn with_pods(&self, sets: &[Arc<ReplicaSet>]) -> BTreeSet<String> {
        let uids = sets.iter().filter_map(|set| set.metadata.uid.clone());
        uids.filter(|uid| self.pods.get(uid).iter().any(|pod| !pods::is_terminal(pod))).collect()
    }
}

/// Why a plan was not carried out in full.
enum Stop {
    /// Another ReplicaSet has the name: another hash is needed.
    Collision,
    NotCreated(Error),
    Other(Error),
}

impl Stop {
    fn into_error(self) -> Error {
        match self {
            Self::Collision => Error::Other("the name of the new ReplicaSet is taken".into()),
            Self::NotCreated(error) | Self::Other(error) => error,
        }
    }
}

async fn carry_out(plan: &Plan, request: &Request<Deployment>, deployment: &Deployment) -> Result<(), Stop> {
    if let Some(set) = &plan.create {
        create(set, request, deployment).await?;
    }
    for update in &plan.update {
        scale(update, request, deployment).await.map_err(Stop::Other)?;
    }
    for set in &plan.delete {
        request.client.delete(&**set).await.map_err(Stop::Other)?;
    }
    if let Some(revision) = &plan.revision {
        let patch = json!({"metadata": {"annotations": {revision::REVISION: revision}}});
        let patched = request.client.patch::<Deployment>(&request.key, &Patch::Merge(patch)).await;
        patched.map_err(Stop::Other)?;
    }
    Ok(())
}

async fn create(
    set: &ReplicaSet,
    request: &Request<Deployment>,
    deployment: &Deployment,
) -> Result<(), Stop> {
    match request.client.create(set).await {
        Ok(_) => {
            announce(set, 0, plan::wanted(set), request, deployment);
            Ok(())
        }
        Err(error) if error.is_already_exists() => {
            let live = request.client.live::<ReplicaSet>(&Key::of(set)).await.map_err(Stop::Other)?;
            // Our own, which the cache did not have yet: nothing is wrong.
            let ours = |live: &ReplicaSet| {
                windlass::is_controlled_by(&live.metadata, deployment)
                    && revision::same_template(live, deployment)
            };
            if live.as_ref().is_some_and(ours) { Ok(()) } else { Err(Stop::Collision) }
        }
        Err(error) if error.is_namespace_terminating() => Ok(()),
        Err(error) => Err(Stop::NotCreated(error)),
    }
}

async fn scale(update: &Update, request: &Request<Deployment>, deployment: &Deployment) -> Result<(), Error> {
    request.client.update(&update.next).await?;
    let (from, to) = (plan::wanted(&update.was), plan::wanted(&update.next));
    announce(&update.next, from, to, request, deployment);
    Ok(())
}

fn announce(set: &ReplicaSet, from: i32, to: i32, request: &Request<Deployment>, deployment: &Deployment) {
    if from != to {
        let way = if to > from { "up" } else { "down" };
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let note = format!("Scaled {way} replica set {name} from {from} to {to}");
        request.recorder.event(deployment, EventType::Normal, "ScalingReplicaSet", note);
    }
}

/// Writes the status if it changed.
async fn report(
    deployment: &Deployment,
    status: Option<DeploymentStatus>,
    request: &Request<Deployment>,
) -> Result<(), Error> {
    let Some(status) = status.filter(|status| deployment.status.as_ref() != Some(status)) else {
        return Ok(());
    };
    // A patch, since writing the revision may just have moved the object to a newer version of itself.
    let patch = json!({"metadata": {"uid": deployment.metadata.uid}, "status": status::as_patch(deployment, &status)});
    match request.client.patch_status::<Deployment>(&request.key, &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

fn selector(deployment: &Deployment) -> Option<Selector> {
    Selector::try_from(deployment.spec.as_ref()?.selector.clone()).ok()
}

#[cfg(test)]
mod tests;
