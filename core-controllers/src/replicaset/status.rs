//! What a ReplicaSet reports about its pods.

use k8s_openapi::api::{
    apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
    core::v1::Pod,
};
use windlass::{CachedClient, Error, clock};

use super::{Failure, View, family::Family, min_ready_seconds};
use crate::pods;

/// Writes the status if it changed.
pub(super) async fn report<K: Family>(
    view: &View<'_>,
    object: &K,
    failure: Option<&Failure>,
    client: &CachedClient,
) -> Result<(), Error> {
    let status = status(view, failure);
    let next = object.with_status(status);
    // Compared in the object's own form, which may be the poorer one.
    if next.as_set().status == view.set.status {
        return Ok(());
    }
    match client.update_status(&next).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

fn status(view: &View<'_>, failure: Option<&Failure>) -> ReplicaSetStatus {
    let template =
        view.set.spec.as_ref().and_then(|s| s.template.as_ref()?.metadata.as_ref()?.labels.clone());
    let template = template.unwrap_or_default();
    let labelled = |pod: &Pod| {
        let labels = pod.metadata.labels.as_ref();
        template.iter().all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value))
    };
    let min_ready = min_ready_seconds(view.set);
    let active = || view.pods.iter().filter(|pod| pods::is_active(pod));
    let going = view.pods.iter().filter(|pod| pods::is_terminating(pod) && !pods::is_terminal(pod));
    let some = |count: usize| Some(number(count)).filter(|n| *n != 0);
    ReplicaSetStatus {
        replicas: number(active().count()),
        fully_labeled_replicas: some(active().filter(|pod| labelled(pod)).count()),
        ready_replicas: some(active().filter(|pod| pods::is_ready(pod)).count()),
        available_replicas: some(active().filter(|pod| pods::is_available(pod, min_ready, view.now)).count()),
        terminating_replicas: Some(number(going.count())),
        observed_generation: view.set.metadata.generation,
        conditions: conditions(view.set, failure),
    }
}

fn conditions(set: &ReplicaSet, failure: Option<&Failure>) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = set.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let present = conditions.iter().any(|c| c.type_ == "ReplicaFailure");
    match failure {
        None => conditions.retain(|c| c.type_ != "ReplicaFailure"),
        // As upstream, the first reason stays until the failure is over.
        Some(_) if present => {}
        Some(failure) => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".to_owned(),
            status: "True".to_owned(),
            reason: Some(failure.reason.to_owned()),
            message: Some(failure.error.to_string()),
            last_transition_time: Some(clock::time()),
        }),
    }
    Some(conditions).filter(|c| !c.is_empty())
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
