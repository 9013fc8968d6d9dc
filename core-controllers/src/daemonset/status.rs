//! What a DaemonSet reports about its nodes. Pure.

use k8s_openapi::api::apps::v1::DaemonSetStatus;

use super::{fit::Fit, plan::View};
use crate::pods;

/// The counts; the rest of the status stays as it is.
pub(super) fn status(view: &View<'_>, collisions: i32) -> DaemonSetStatus {
    let was = view.set.status.clone().unwrap_or_default();
    let mut status = DaemonSetStatus {
        observed_generation: view.set.metadata.generation,
        collision_count: Some(collisions).filter(|count| *count != 0).or(was.collision_count),
        conditions: was.conditions,
        ..DaemonSetStatus::default()
    };
    let (mut available, mut updated) = (0, 0);
    for (node, fit) in &view.nodes {
        let oldest = view.pods_on(node).first();
        if *fit != Fit::Wanted {
            status.number_misscheduled += i32::from(oldest.is_some());
            continue;
        }
        status.desired_number_scheduled += 1;
        let Some(pod) = oldest else { continue };
        status.current_number_scheduled += 1;
        status.number_ready += i32::from(pods::is_ready(pod));
        available += i32::from(view.is_available(pod));
        updated += i32::from(view.is_new(pod));
    }
    let some = |count: i32| Some(count).filter(|count| *count != 0);
    status.number_available = some(available);
    status.updated_number_scheduled = some(updated);
    status.number_unavailable = some(status.desired_number_scheduled - available);
    status
}
