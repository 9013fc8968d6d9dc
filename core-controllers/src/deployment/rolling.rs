//! The rolling update: the newest set grows as far as the surplus allows, then the old ones shrink as far as
//! availability allows, those of their pods first that serve nobody anyway.

use k8s_openapi::api::apps::v1::Deployment;

use super::{
    fleet::{Fleet, Member},
    plan::{self, bounds, replicas},
};

/// One step of a rolling update. Growing comes first: nothing shrinks in a turn in which something grew.
pub(super) fn roll(deployment: &Deployment, fleet: &mut Fleet) {
    if resize_newest(deployment, fleet) {
        return;
    }
    let old: i32 = fleet.old().map(Member::wanted).sum();
    if old == 0 {
        return;
    }
    let fewest = bounds(deployment).fewest(deployment);
    let spare = spare(fleet, fewest);
    if spare <= 0 {
        return;
    }
    shed_unhealthy(deployment, fleet, spare);
    shed_available(deployment, fleet, fewest);
}

/// How many pods could go if all old ones that are wanted were available, and no more new ones than are known to be.
fn spare(fleet: &Fleet, fewest: i32) -> i32 {
    let coming = fleet.newest().map_or(0, |newest| newest.wanted() - newest.available());
    fleet.wanted() - fewest - coming
}

/// Brings the newest set to its size for now; true if that changed it.
fn resize_newest(deployment: &Deployment, fleet: &mut Fleet) -> bool {
    let (Some(newest), wanted) = (fleet.newest(), replicas(deployment)) else { return false };
    let size = if newest.wanted() > wanted { wanted } else { newest_size(deployment, fleet) };
    if newest.was.is_none() || newest.wanted() == size {
        return false;
    }
    if let Some(newest) = fleet.newest_mut() {
        newest.scale(deployment, size);
    }
    true
}

/// How large the newest set may be now.
pub(super) fn newest_size(deployment: &Deployment, fleet: &Fleet) -> i32 {
    let wanted = replicas(deployment);
    if plan::is_recreate(deployment) {
        return wanted;
    }
    let size = fleet.newest().map_or(0, Member::wanted);
    let room = wanted.saturating_add(bounds(deployment).surge) - fleet.wanted();
    if room <= 0 {
        return size;
    }
    size + room.min(wanted - size)
}

/// Takes away old pods that are not available, at most `most`, from the oldest set first.
fn shed_unhealthy(deployment: &Deployment, fleet: &mut Fleet, most: i32) {
    let mut left = most;
    for old in fleet.old_mut() {
        let unhealthy = old.wanted() - old.available();
        if left > 0 && old.is_active() && unhealthy > 0 {
            let shed = left.min(unhealthy);
            old.scale(deployment, old.wanted() - shed);
            left -= shed;
        }
    }
}

/// Takes away old pods that are available but not needed to stay above `fewest`, from the oldest set first.
fn shed_available(deployment: &Deployment, fleet: &mut Fleet, fewest: i32) {
    // A status may lag behind and count pods that are on their way out: what is wanted bounds what can be there.
    let mut left = (fleet.available() - fewest).min(spare(fleet, fewest));
    for old in fleet.old_mut() {
        if left > 0 && old.is_active() {
            let shed = left.min(old.wanted());
            old.scale(deployment, old.wanted() - shed);
            left -= shed;
        }
    }
}
