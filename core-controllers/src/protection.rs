//! Protection of storage: a claim stays while a pod uses it, a volume while it is bound, and a class of attributes while
//! a claim or a volume has it.
//!
//! Each carries a finalizer, given by the server when it is made, or by these controllers when it is missing; they take
//! it away from an object that is being deleted and that nobody uses any more. Behaves as upstream's
//! `persistentvolumeclaim-protection-controller`, `persistentvolume-protection-controller` and
//! `volumeattributesclass-protection-controller`.

use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::VolumeAttributesClass,
};
use windlass::{
    Action, Controller, Delta, Error, Informer, Key, ManagerBuilder, Object, Reconcile, Request, Scope,
    add_finalizer, has_finalizer, remove_finalizer,
};

use crate::Options;

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";
const CLASS: &str = "kubernetes.io/vac-protection";

/// Adds the controller of claims to a manager.
pub fn register_claims(manager: &mut ManagerBuilder, options: &Options) {
    let pods = manager.informers().get::<Pod>(Scope::all());
    let controller = Controller::<PersistentVolumeClaim>::new("pvcprotection")
        .component("persistentvolumeclaim-protection-controller")
        .workers(options.workers)
        .filter(|delta| wants_care(delta, CLAIM))
        .watches::<Pod, _>(Scope::all(), |delta, _| {
            let ended = delta.is_deleted() || crate::pods::is_terminal(delta.object());
            let namespace = delta.object().metadata.namespace.as_deref();
            let names = if ended { claims_of(delta.object()) } else { Vec::new() };
            names.iter().map(|name| Key::new(namespace, name)).collect::<Vec<_>>()
        });
    let in_use = move |claim: &PersistentVolumeClaim| {
        let (namespace, name) = (claim.metadata.namespace.as_deref(), claim.metadata.name.as_deref());
        let all = pods.lister().in_namespace(namespace.unwrap_or_default());
        all.iter().any(|pod| crate::pods::node(pod).is_some() && uses(pod, name.unwrap_or_default()))
    };
    manager.add(controller.build(Guard { finalizer: CLAIM, in_use }));
}

/// Adds the controller of volumes to a manager.
pub fn register_volumes(manager: &mut ManagerBuilder, options: &Options) {
    let controller = Controller::<PersistentVolume>::new("pvprotection")
        .component("persistentvolume-protection-controller")
        .workers(options.workers)
        .filter(|delta| wants_care(delta, VOLUME));
    let in_use = |volume: &PersistentVolume| {
        volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
    };
    manager.add(controller.build(Guard { finalizer: VOLUME, in_use }));
}

/// Adds the controller of volume attributes classes to a manager.
pub fn register_classes(manager: &mut ManagerBuilder, options: &Options) {
    let claims: Informer<PersistentVolumeClaim> = manager.informers().get(Scope::all());
    let volumes: Informer<PersistentVolume> = manager.informers().get(Scope::all());
    let keys = |names: Vec<String>| names.into_iter().map(|name| Key::new(None, &name)).collect::<Vec<_>>();
    let controller = Controller::<VolumeAttributesClass>::new("vacprotection")
        .component("volumeattributesclass-protection-controller")
        .workers(options.workers)
        .filter(|delta| wants_care(delta, CLASS))
        .watches::<PersistentVolumeClaim, _>(Scope::all(), move |delta, _| {
            keys(delta.old().map(|claim| classes_of_claim(claim)).unwrap_or_default())
        })
        .watches::<PersistentVolume, _>(Scope::all(), move |delta, _| {
            keys(delta.old().map(|volume| class_of_volume(volume)).unwrap_or_default())
        });
    let in_use = move |class: &VolumeAttributesClass| {
        let name = class.metadata.name.as_deref().unwrap_or_default();
        let mut used = false;
        volumes.lister().for_each(|volume| used |= class_of_volume(volume).iter().any(|c| c == name));
        claims.lister().for_each(|claim| used |= classes_of_claim(claim).iter().any(|c| c == name));
        used
    };
    manager.add(controller.build(Guard { finalizer: CLASS, in_use }));
}

/// An object without its finalizer wants it; one that is being deleted wants to be rid of it.
fn wants_care<K: Object>(delta: &Delta<K>, finalizer: &str) -> bool {
    let object = &**delta.object();
    object.meta().deletion_timestamp.is_some() == has_finalizer(object, finalizer)
}

fn claims_of(pod: &Pod) -> Vec<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().filter_map(|spec| spec.volumes.as_ref()).flatten();
    volumes
        .filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some(claim.claim_name.clone()),
            (None, Some(_)) => Some(format!("{name}-{}", volume.name)),
            (None, None) => None,
        })
        .collect()
}

/// A pod that the kubelet is done with no longer uses a claim that was made for it alone.
fn uses(pod: &Pod, claim: &str) -> bool {
    let gone =
        pod.metadata.deletion_timestamp.is_some() && pod.metadata.deletion_grace_period_seconds == Some(0);
    let volumes = pod.spec.iter().filter_map(|spec| spec.volumes.as_ref()).flatten();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    volumes.into_iter().any(|volume| {
        let named = volume.persistent_volume_claim.as_ref().is_some_and(|source| source.claim_name == claim);
        named || (!gone && volume.ephemeral.is_some() && format!("{name}-{}", volume.name) == claim)
    })
}

fn classes_of_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    let status = claim.status.as_ref();
    let current = status.and_then(|status| status.current_volume_attributes_class_name.clone());
    let target = status
        .and_then(|status| status.modify_volume_status.as_ref())
        .and_then(|modify| modify.target_volume_attributes_class_name.clone());
    [wanted, current, target].into_iter().flatten().collect()
}

fn class_of_volume(volume: &PersistentVolume) -> Vec<String> {
    volume.spec.iter().filter_map(|spec| spec.volume_attributes_class_name.clone()).collect()
}

struct Guard<F> {
    finalizer: &'static str,
    in_use: F,
}

impl<K: Object, F: Fn(&K) -> bool + Send + Sync + 'static> Reconcile<K> for Guard<F>
where
    K::DynamicType: Default,
{
    async fn reconcile(&self, request: Request<K>) -> Result<Action, Error> {
        let Some(object) = request.object.clone() else { return Ok(Action::Done) };
        let has = has_finalizer(&*object, self.finalizer);
        let done = match object.meta().deletion_timestamp {
            None if !has => add_finalizer(&request.client, &*object, self.finalizer).await,
            Some(_) if has && !(self.in_use)(&object) => {
                remove_finalizer(&request.client, &*object, self.finalizer).await
            }
            _ => Ok(()),
        };
        match done {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(Action::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_uses_the_claims_that_it_names() {
        let pod = |more: serde_json::Value| -> Pod {
            let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [], "volumes": [
                {"name": "a", "persistentVolumeClaim": {"claimName": "own"}}, {"name": "b", "ephemeral": {}},
                {"name": "c", "emptyDir": {}}]}});
            for (field, value) in more.as_object().unwrap() {
                pod["metadata"][field] = value.clone();
            }
            serde_json::from_value(pod).unwrap()
        };
        let running = pod(json!({}));
        assert_eq!(claims_of(&running), ["own", "p-b"]);
        let gone = pod(json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0}));
        for (pod, claim, expected) in [
            (&running, "own", true),
            (&running, "p-b", true),
            (&running, "p-c", false),
            (&gone, "own", true),
            (&gone, "p-b", false),
        ] {
            assert_eq!(uses(pod, claim), expected, "{claim}");
        }
    }
}
