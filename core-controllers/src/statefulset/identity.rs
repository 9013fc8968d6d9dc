//! Who the pods of a StatefulSet are: ordinals, names, labels, the volumes that their claims stand for, and how one is
//! made. Pure.

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume},
};
use windlass::controller_ref;

use crate::pods;

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
const REVISION: &str = "controller-revision-hash";

/// The ordinals that a StatefulSet asks for.
pub(super) fn ordinals(set: &StatefulSet) -> std::ops::Range<i64> {
    let spec = set.spec.as_ref();
    let start = spec.and_then(|spec| spec.ordinals.as_ref()?.start).map_or(0, i64::from);
    start..start + i64::from(replicas(set).max(0))
}

pub(super) fn replicas(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// The set and the ordinal that a pod's name speaks of.
pub(super) fn parent_and_ordinal(name: &str) -> Option<(&str, i64)> {
    let (parent, ordinal) = name.rsplit_once('-')?;
    let digits = !ordinal.is_empty() && ordinal.bytes().all(|byte| byte.is_ascii_digit());
    let ordinal: i32 = ordinal.parse().ok().filter(|_| digits)?;
    Some((parent, i64::from(ordinal)))
}

/// The ordinal of a pod.
pub(super) fn ordinal(pod: &Pod) -> Option<i64> {
    parent_and_ordinal(pod.metadata.name.as_deref()?).map(|(_, ordinal)| ordinal)
}

/// Whether a pod's name makes it one of the set's.
pub(super) fn is_member(set: &StatefulSet, pod: &Pod) -> bool {
    let parent = pod.metadata.name.as_deref().and_then(parent_and_ordinal).map(|(parent, _)| parent);
    parent.is_some() && parent == set.metadata.name.as_deref()
}

/// The revision that a pod was made from; empty if it does not say.
pub(super) fn revision(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION)).map_or("", String::as_str)
}

/// The pod of an ordinal, from a template and the revision that holds it.
pub(super) fn new_pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i64) -> Pod {
    let mut pod = pods::from_template(template, controller_ref(set), set.metadata.namespace.as_deref());
    let name = pod_name(set, ordinal);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(REVISION.to_owned(), revision.to_owned());
    labels.insert(POD_NAME.to_owned(), name.clone());
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    pod.metadata.name = Some(name.clone());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone());
    mount_claims(set, ordinal, spec.volumes.get_or_insert_default());
    spec.volumes.take_if(|volumes| volumes.is_empty());
    pod
}

/// Puts the set's claims in the place of volumes of the same names.
fn mount_claims(set: &StatefulSet, ordinal: i64, volumes: &mut Vec<Volume>) {
    let claims = claims(set, ordinal);
    volumes.retain(|volume| !claims.iter().any(|(template, _)| *template == volume.name));
    let mounted = claims.into_iter().map(|(template, claim_name)| Volume {
        name: template,
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource { claim_name, read_only: None }),
        ..Volume::default()
    });
    volumes.splice(0..0, mounted);
}

/// Whether a pod carries the labels that name it.
pub(super) fn is_labelled(pod: &Pod) -> bool {
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(POD_NAME));
    label.is_some() && label == pod.metadata.name.as_ref()
}

/// Whether a pod has the volumes of its claims.
pub(super) fn has_storage(set: &StatefulSet, pod: &Pod) -> bool {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let mounted = |(template, claim): &(String, String)| {
        let volume = volumes.iter().find(|volume| volume.name == *template);
        let source = volume.and_then(|volume| volume.persistent_volume_claim.as_ref());
        source.is_some_and(|source| source.claim_name == *claim)
    };
    ordinal(pod).is_some_and(|ordinal| claims(set, ordinal).iter().all(mounted))
}

/// The pod with the labels and volumes that it ought to have.
pub(super) fn corrected(set: &StatefulSet, pod: &Pod) -> Pod {
    let (mut pod, Some(ordinal)) = (pod.clone(), ordinal(pod)) else { return pod.clone() };
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), pod_name(set, ordinal));
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    if !has_storage(set, &pod) {
        mount_claims(set, ordinal, pod.spec.get_or_insert_default().volumes.get_or_insert_default());
    }
    pod
}

fn pod_name(set: &StatefulSet, ordinal: i64) -> String {
    format!("{}-{ordinal}", set.metadata.name.as_deref().unwrap_or_default())
}

fn templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    set.spec.as_ref().and_then(|spec| spec.volume_claim_templates.as_deref()).unwrap_or_default()
}

/// The claims of an ordinal: the name of the template and the name of the claim.
pub(super) fn claims(set: &StatefulSet, ordinal: i64) -> Vec<(String, String)> {
    let pod = pod_name(set, ordinal);
    let names = templates(set).iter().filter_map(|template| template.metadata.name.clone());
    names.map(|template| (template.clone(), format!("{template}-{pod}"))).collect()
}

/// The claims of an ordinal as they are made.
pub(super) fn new_claims(set: &StatefulSet, ordinal: i64) -> Vec<PersistentVolumeClaim> {
    let selector = set.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone()).unwrap_or_default();
    let claim = |(template, (_, name)): (&PersistentVolumeClaim, (String, String))| {
        let mut claim = template.clone();
        claim.metadata.name = Some(name);
        claim.metadata.namespace.clone_from(&set.metadata.namespace);
        claim.metadata.labels.get_or_insert_default().extend(selector.clone());
        claim.metadata.labels.take_if(|labels| labels.is_empty());
        claim.status = None;
        claim
    };
    templates(set).iter().zip(claims(set, ordinal)).map(claim).collect()
}

/// Whether a claim of this name is one that the set makes.
pub(super) fn makes_claim(set: &StatefulSet, name: &str) -> bool {
    let of_template = |template: &PersistentVolumeClaim| {
        let rest = name.strip_prefix(template.metadata.name.as_deref()?)?.strip_prefix('-')?;
        parent_and_ordinal(rest).map(|(parent, _)| parent == set.metadata.name.as_deref().unwrap_or_default())
    };
    templates(set).iter().any(|template| of_template(template) == Some(true))
}
