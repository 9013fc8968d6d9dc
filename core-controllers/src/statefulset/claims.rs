//! Who owns the claims of a StatefulSet: nobody, so that they outlive it, or the set or the pod, so that they go with
//! one of them, as `persistentVolumeClaimRetentionPolicy` says. Pure.
//!
//! Behaves as upstream since KEP-1847: a claim that another controller has, or that belongs to an earlier set or pod of
//! the same name, is left alone.

use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{PersistentVolumeClaim, Pod},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use windlass::{Object, controller_ref};

use super::identity;

/// Who a claim should go with.
struct Policy {
    /// The claim goes when its set is deleted.
    deleted: bool,
    /// The claim goes when its pod is scaled away.
    scaled: bool,
}

impl Policy {
    fn of(set: &StatefulSet) -> Self {
        let policy =
            set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
        let deletes = |when: Option<&String>| when.is_some_and(|what| what == "Delete");
        Self {
            deleted: deletes(policy.and_then(|policy| policy.when_deleted.as_ref())),
            scaled: deletes(policy.and_then(|policy| policy.when_scaled.as_ref())),
        }
    }

    /// Whether the set and the pod are to own the claim.
    fn owners(&self, set: &StatefulSet, pod: &Pod) -> (bool, bool) {
        let wanted = identity::ordinal(pod).is_some_and(|ordinal| identity::ordinals(set).contains(&ordinal));
        let by_pod = self.scaled && !wanted;
        (self.deleted && !by_pod, by_pod)
    }
}

/// Whether a pod cannot be made yet since a claim still goes with an earlier pod of its name.
pub(super) fn is_stale(set: &StatefulSet, claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    Policy::of(set).scaled && has_stale_owner(claim, pod)
}

/// Whether another controller owns the claim although the policy wants it to go with set or pod.
pub(super) fn has_foreign_controller(set: &StatefulSet, claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    let policy = Policy::of(set);
    if !policy.deleted && !policy.scaled {
        return false;
    }
    owners(claim).iter().any(|owner| match (names(owner, set), names(owner, pod)) {
        (true, _) => Some(&owner.uid) != set.metadata.uid.as_ref(),
        (_, true) => Some(&owner.uid) != pod.metadata.uid.as_ref(),
        _ => owner.controller == Some(true),
    })
}

/// The owners that a claim should have; `None` when it has them.
pub(super) fn due_owners(
    set: &StatefulSet,
    claim: &PersistentVolumeClaim,
    pod: &Pod,
) -> Option<Vec<OwnerReference>> {
    if has_stale_owner(claim, set) || has_stale_owner(claim, pod) {
        return None;
    }
    let ours = |owner: &OwnerReference| is(owner, set) || is(owner, pod);
    let foreign = has_foreign_controller(set, claim, pod);
    let (by_set, by_pod) = if foreign { (false, false) } else { Policy::of(set).owners(set, pod) };
    let has = |wanted: bool, object_is: &dyn Fn(&OwnerReference) -> bool| {
        let found = owners(claim).iter().find(|owner| object_is(owner));
        found.is_some() == wanted && found.is_none_or(|owner| owner.controller == Some(true))
    };
    if has(by_set, &|owner| is(owner, set)) && has(by_pod, &|owner| is(owner, pod)) {
        return None;
    }
    let mut due: Vec<OwnerReference> = owners(claim).iter().filter(|owner| !ours(owner)).cloned().collect();
    due.extend(by_set.then(|| controller_ref(set)));
    due.extend(by_pod.then(|| controller_ref(pod)));
    Some(due)
}

fn owners(claim: &PersistentVolumeClaim) -> &[OwnerReference] {
    claim.metadata.owner_references.as_deref().unwrap_or_default()
}

/// Whether a reference names an object of this kind and name, be it this one or another.
fn names<K: Object>(owner: &OwnerReference, object: &K) -> bool
where
    K::DynamicType: Default,
{
    let us = controller_ref(object);
    owner.kind == us.kind && owner.api_version == us.api_version && owner.name == us.name
}

fn is<K: Object>(owner: &OwnerReference, object: &K) -> bool
where
    K::DynamicType: Default,
{
    names(owner, object) && Some(&owner.uid) == object.meta().uid.as_ref()
}

fn has_stale_owner<K: Object>(claim: &PersistentVolumeClaim, object: &K) -> bool
where
    K::DynamicType: Default,
{
    owners(claim).iter().any(|owner| names(owner, object) && Some(&owner.uid) != object.meta().uid.as_ref())
}
