//! What a StatefulSet reports about its pods. Pure.

use k8s_openapi::api::{
    apps::v1::{StatefulSet, StatefulSetStatus},
    core::v1::Pod,
};

use super::{
    identity,
    plan::{Plan, View, min_ready_seconds},
};
use crate::pods;

/// The status after a turn, of which the last stage was reached or not.
pub(super) fn status(view: &View<'_>, plan: &Plan, collisions: i32, finished: bool) -> StatefulSetStatus {
    let exist = || view.pods.iter().filter(|pod| !pods::phase(pod).is_empty());
    let of = |revision: &str| {
        exist().filter(|pod| !pods::is_terminating(pod) && identity::revision(pod) == revision).count()
    };
    let ready = |pod: &Pod| pods::phase(pod) == "Running" && pods::is_ready(pod);
    let min_ready = min_ready_seconds(view.set);
    let available = |pod: &Pod| ready(pod) && pods::is_available(pod, min_ready, view.now);
    let some = |count: usize| Some(number(count)).filter(|count| *count != 0);
    let gone = if finished { plan.outdated } else { 0 };
    let status = StatefulSetStatus {
        observed_generation: view.set.metadata.generation,
        replicas: number(exist().count()),
        ready_replicas: some(exist().filter(|pod| ready(pod)).count()),
        available_replicas: Some(number(exist().filter(|pod| available(pod)).count())),
        current_replicas: some(of(&view.current.name).saturating_sub(gone)),
        updated_replicas: some(of(&view.update.name)),
        current_revision: Some(view.current.name.clone()),
        update_revision: Some(view.update.name.clone()),
        collision_count: Some(collisions),
        conditions: None,
    };
    completed(view.set, status)
}

/// An update that is through makes its revision the current one.
fn completed(set: &StatefulSet, mut status: StatefulSetStatus) -> StatefulSetStatus {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref()?.type_.as_deref());
    let wanted = identity::replicas(set);
    let counts = [Some(status.replicas), status.ready_replicas, status.updated_replicas];
    if strategy != Some("OnDelete") && counts.iter().all(|count| count.unwrap_or(0) == wanted) {
        status.current_replicas = status.updated_replicas;
        status.current_revision.clone_from(&status.update_revision);
    }
    status
}

/// Whether a status says something that the object does not say yet. Conditions are not the controller's.
pub(super) fn differs(set: &StatefulSet, status: &StatefulSetStatus) -> bool {
    let was = set.status.clone().unwrap_or_default();
    let plain = |status: &StatefulSetStatus| {
        let count = |count: Option<i32>| count.unwrap_or(0);
        (
            status.replicas,
            [status.ready_replicas, status.available_replicas].map(count),
            [status.current_replicas, status.updated_replicas].map(count),
            [status.current_revision.clone(), status.update_revision.clone()].map(Option::unwrap_or_default),
        )
    };
    status.observed_generation > was.observed_generation || plain(status) != plain(&was)
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
