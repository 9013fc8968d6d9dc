//! The decision of one turn, and the strategy that applies: scaling, pausing, Recreate, or a rolling update.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet},
    apimachinery::pkg::util::intstr::IntOrString as ApiIntOrString,
};
use windlass_crd::int_or_string::{IntOrString, Round};

use super::{fleet::Fleet, revision, rolling, scale, status};

/// What a decision is made from.
pub(super) struct View<'a> {
    pub(super) deployment: &'a Deployment,
    /// The ReplicaSets it owns.
    pub(super) sets: &'a [Arc<ReplicaSet>],
    /// The uids of those that still have pods.
    pub(super) running: &'a BTreeSet<String>,
    pub(super) now: Timestamp,
}

/// What to do about it.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Option<ReplicaSet>,
    pub(super) update: Vec<Update>,
    pub(super) delete: Vec<Arc<ReplicaSet>>,
    /// The revision to note on the Deployment.
    pub(super) revision: Option<String>,
    pub(super) status: Option<DeploymentStatus>,
    /// When to look again even if nothing happens.
    pub(super) again: Option<Duration>,
}

/// A ReplicaSet that changes.
#[derive(Debug)]
pub(super) struct Update {
    pub(super) was: Arc<ReplicaSet>,
    pub(super) next: ReplicaSet,
}

/// Compares what there is with what is asked for.
pub(super) fn plan(view: &View<'_>) -> Plan {
    let deployment = view.deployment;
    let mut fleet = revision::fleet(view);
    if deployment.metadata.deletion_timestamp.is_some() {
        let status = status::counted(deployment, &fleet, view.now);
        return Plan { status: Some(status), ..Plan::default() };
    }
    let paused = deployment.spec.as_ref().and_then(|s| s.paused).unwrap_or(false);
    let mut conditions = status::pause_noted(deployment, paused, view.now);
    let rolls = !paused && !scale::is_due(deployment, &fleet);
    let may_create = rolls && (!is_recreate(deployment) || !old_pods_run(view, &fleet));
    let revision = revision::bring_up_to_date(view, &mut fleet, may_create, &mut conditions);
    let mut delete = Vec::new();
    if !rolls {
        scale::scale(deployment, &mut fleet);
        if paused {
            delete = revision::beyond_history(deployment, &fleet);
        }
    } else if is_recreate(deployment) {
        recreate(deployment, &mut fleet, may_create);
    } else {
        rolling::roll(deployment, &mut fleet);
    }
    let (status, again) = match rolls {
        true => status::progressed(deployment, &fleet, conditions, view.now),
        false => (status::counted_with(deployment, &fleet, conditions, view.now), None),
    };
    if rolls && status::is_complete(deployment, &status) {
        delete = revision::beyond_history(deployment, &fleet);
    }
    let (create, update) = fleet.changes();
    Plan { create, update, delete, revision, status: Some(status), again }
}

/// First all old pods go, and only then the new ones come.
fn recreate(deployment: &Deployment, fleet: &mut Fleet, old_are_gone: bool) {
    let mut scaled = false;
    for old in fleet.old_mut().filter(|old| old.is_active()) {
        old.scale(deployment, 0);
        scaled = true;
    }
    let wanted = replicas(deployment);
    if let Some(newest) = fleet.newest_mut()
        && !scaled
        && old_are_gone
        && newest.wanted() != wanted
    {
        newest.scale(deployment, wanted);
    }
}

fn old_pods_run(view: &View<'_>, fleet: &Fleet) -> bool {
    fleet.old().any(|old| {
        let uid = old.next.metadata.uid.as_deref().unwrap_or_default();
        old.is_active() || view.running.contains(uid)
    })
}

pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref());
    strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

/// How many pods the Deployment asks for.
pub(super) fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// How many pods a set asks for.
pub(super) fn wanted(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0)
}

/// How far a rolling update may go over and under the number asked for; never neither.
pub(super) struct Bounds {
    pub(super) surge: i32,
    pub(super) unavailable: i32,
}

pub(super) fn bounds(deployment: &Deployment) -> Bounds {
    let total = replicas(deployment);
    let strategy = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref());
    let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
    if is_recreate(deployment) {
        return Bounds { surge: 0, unavailable: 0 };
    }
    let share = |value: Option<&ApiIntOrString>, round| {
        let value = match value {
            Some(ApiIntOrString::Int(n)) => IntOrString::Int(*n),
            Some(ApiIntOrString::String(text)) => IntOrString::String(text.clone()),
            None => IntOrString::String("25%".to_owned()),
        };
        let scaled = value.scaled(i64::from(total), round).unwrap_or(0);
        i32::try_from(scaled.max(0)).unwrap_or(i32::MAX)
    };
    let surge = share(rolling.and_then(|r| r.max_surge.as_ref()), Round::Up);
    let unavailable = share(rolling.and_then(|r| r.max_unavailable.as_ref()), Round::Down);
    if surge == 0 && unavailable == 0 {
        return Bounds { surge, unavailable: 1 };
    }
    Bounds { surge, unavailable }
}

impl Bounds {
    /// The fewest pods that have to be available.
    pub(super) fn fewest(&self, deployment: &Deployment) -> i32 {
        replicas(deployment) - self.unavailable.min(replicas(deployment))
    }
}
