//! Scaling in the middle of a rollout: what is added or taken away is shared among the sets in proportion to their
//! sizes, so that a rollout that is stuck on a bad template risks no more than before.

use std::cmp::Reverse;

use k8s_openapi::api::apps::v1::Deployment;

use super::{
    fleet::{Fleet, Member},
    plan::{self, bounds, replicas},
    revision,
};

/// Whether the Deployment was scaled since its sets were last sized.
pub(super) fn is_due(deployment: &Deployment, fleet: &Fleet) -> bool {
    let wanted = replicas(deployment);
    let noted = |m: &Member| revision::noted_size(&m.next, revision::DESIRED);
    fleet.members.iter().filter(|m| m.is_active()).filter_map(noted).any(|noted| noted != wanted)
}

/// Sizes the sets.
pub(super) fn scale(deployment: &Deployment, fleet: &mut Fleet) {
    let wanted = replicas(deployment);
    if let Some(only) = only_active(fleet) {
        return fleet.members[only].scale(deployment, wanted);
    }
    if is_saturated(deployment, fleet) {
        fleet.old_mut().filter(|old| old.is_active()).for_each(|old| old.scale(deployment, 0));
        return;
    }
    if !plan::is_recreate(deployment) {
        share(deployment, fleet);
    }
}

/// The one set that has pods; if none has, the newest, or else the youngest.
fn only_active(fleet: &Fleet) -> Option<usize> {
    let mut active = fleet.members.iter().enumerate().filter(|(_, m)| m.is_active()).map(|(i, _)| i);
    match (active.next(), active.next()) {
        (None, _) => fleet.newest.or(fleet.members.len().checked_sub(1)),
        (Some(only), None) => Some(only),
        _ => None,
    }
}

/// Whether the newest set has all pods that are asked for, and they are available.
fn is_saturated(deployment: &Deployment, fleet: &Fleet) -> bool {
    let wanted = replicas(deployment);
    fleet.newest().is_some_and(|newest| {
        newest.wanted() == wanted
            && revision::noted_size(&newest.next, revision::DESIRED) == Some(wanted)
            && newest.available() == wanted
    })
}

fn share(deployment: &Deployment, fleet: &mut Fleet) {
    let wanted = replicas(deployment);
    let allowed = if wanted > 0 { wanted.saturating_add(bounds(deployment).surge) } else { 0 };
    let to_add = allowed - fleet.wanted();
    let mut order: Vec<usize> = (0..fleet.members.len()).filter(|i| fleet.members[*i].is_active()).collect();
    // The largest takes most; among equals the youngest grows first and the oldest shrinks first.
    if to_add > 0 {
        order.sort_by_key(|i| (Reverse(fleet.members[*i].wanted()), Reverse(*i)));
    } else {
        order.sort_by_key(|i| (Reverse(fleet.members[*i].wanted()), *i));
    }
    let mut sizes: Vec<i32> = order.iter().map(|i| fleet.members[*i].wanted()).collect();
    let mut added = 0;
    for (size, i) in sizes.iter_mut().zip(&order) {
        let part = proportion(deployment, &fleet.members[*i], to_add, added);
        *size += part;
        added += part;
    }
    if let Some(first) = sizes.first_mut() {
        // What rounding has left over goes to the largest.
        *first = (*first + to_add - added).max(0);
    }
    for (i, size) in order.into_iter().zip(sizes) {
        fleet.members[i].scale(deployment, size);
    }
}

/// The part of `to_add` that falls to one set, given what the others have been given already.
fn proportion(deployment: &Deployment, member: &Member, to_add: i32, added: i32) -> i32 {
    if to_add == 0 || member.wanted() == 0 || added == to_add {
        return 0;
    }
    let left = to_add - added;
    let part = fraction(deployment, member);
    if to_add > 0 { part.min(left) } else { part.max(left) }
}

fn fraction(deployment: &Deployment, member: &Member) -> i32 {
    let (wanted, size) = (replicas(deployment), i64::from(member.wanted()));
    if wanted == 0 {
        return -member.wanted();
    }
    let most = i64::from(wanted) + i64::from(bounds(deployment).surge);
    // Of how many pods the set was a part when it was last sized.
    let noted = revision::noted_size(&member.next, revision::MAX).filter(|noted| *noted > 0);
    let status = || deployment.status.as_ref().and_then(|s| s.replicas).filter(|replicas| *replicas > 0);
    let Some(whole) = noted.or_else(status).map(i64::from) else { return 0 };
    let rounded = (2 * size * most + whole) / (2 * whole);
    i32::try_from(rounded - size).unwrap_or(0)
}
