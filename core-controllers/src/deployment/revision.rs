//! Revisions: which ReplicaSet has the present template, how a new one is named and marked, and which old ones are
//! kept. The annotations are upstream's, which kubectl's rollout commands read.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentCondition, ReplicaSet, ReplicaSetSpec},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::api::ObjectMeta;
use windlass::controller_ref;

use super::{
    fleet::{Fleet, Member},
    plan::{View, bounds, replicas},
    rolling, status,
};
use crate::history;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";
const HASH: &str = "pod-template-hash";
const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The longest list of past revisions that is kept on a set.
const HISTORY_CHARS: usize = 2000;
/// The default of `revisionHistoryLimit`.
const HISTORY_LIMIT: i32 = 10;

/// The sets of a Deployment, the oldest first, and which of them is the newest.
pub(super) fn fleet(view: &View<'_>) -> Fleet {
    let mut sets = view.sets.to_vec();
    sets.sort_by_key(|set| {
        (set.metadata.creation_timestamp.as_ref().map(|t| t.0), set.metadata.name.clone())
    });
    // In rare cases two sets have the template: the oldest is taken, so that all turns take the same.
    let newest = sets.iter().position(|set| same_template(set, view.deployment));
    let members = sets.into_iter().map(|set| Member { next: (*set).clone(), was: Some(set) }).collect();
    Fleet { members, newest }
}

/// Whether a set was made from the present template of the Deployment.
pub(super) fn same_template(set: &ReplicaSet, deployment: &Deployment) -> bool {
    let theirs = set.spec.as_ref().and_then(|s| s.template.clone()).map(without_hash);
    let ours = deployment.spec.as_ref().map(|s| without_hash(s.template.clone()));
    theirs == ours
}

fn without_hash(mut template: PodTemplateSpec) -> PodTemplateSpec {
    if let Some(meta) = &mut template.metadata {
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH);
        }
        meta.labels.take_if(|labels| labels.is_empty());
        meta.creation_timestamp = None;
    }
    template
}

/// Marks the newest set, or adds it to the fleet if it does not exist and may. Returns the revision that is to be noted
/// on the Deployment, if another is noted there.
pub(super) fn bring_up_to_date(
    view: &View<'_>,
    fleet: &mut Fleet,
    may_create: bool,
    conditions: &mut Vec<DeploymentCondition>,
) -> Option<String> {
    let deployment = view.deployment;
    let revision = fleet.old().map(|m| revision(&m.next.metadata)).max().unwrap_or(0) + 1;
    let tracked = status::has_deadline(deployment);
    if fleet.newest.is_some() {
        let newest = fleet.newest_mut()?;
        mark(&mut newest.next, deployment, revision);
        if let Some(spec) = &mut newest.next.spec {
            spec.min_ready_seconds = deployment.spec.as_ref().and_then(|s| s.min_ready_seconds);
        }
        if tracked && !conditions.iter().any(|c| c.type_ == status::PROGRESSING) {
            let note = format!("Found new replica set {:?}", name(&newest.next));
            status::set(conditions, status::PROGRESSING, "True", "FoundNewReplicaSet", note, view.now);
        }
    } else if may_create {
        let mut set = new_set(deployment);
        mark(&mut set, deployment, revision);
        fleet.newest = Some(fleet.members.len());
        fleet.members.push(Member { was: None, next: set });
        let size = rolling::newest_size(deployment, fleet);
        let newest = fleet.newest_mut()?;
        newest.scale(deployment, size);
        if tracked {
            let note = format!("Created new replica set {:?}", name(&newest.next));
            status::set(conditions, status::PROGRESSING, "True", "NewReplicaSetCreated", note, view.now);
        }
    }
    let newest = annotation(&fleet.newest()?.next.metadata, REVISION)?.to_owned();
    (annotation(&deployment.metadata, REVISION) != Some(&newest)).then_some(newest)
}

/// A set for the present template, without pods yet.
fn new_set(deployment: &Deployment) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let hash = hash(&spec.template, deployment.status.as_ref().and_then(|s| s.collision_count));
    let mut template = spec.template;
    let meta = template.metadata.get_or_insert_default();
    meta.labels.get_or_insert_default().insert(HASH.to_owned(), hash.clone());
    let labels = meta.labels.clone();
    let mut selector: LabelSelector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH.to_owned(), hash.clone());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.metadata.name.as_deref().unwrap_or_default())),
            namespace: deployment.metadata.namespace.clone(),
            owner_references: Some(vec![controller_ref(deployment)]),
            labels,
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

/// A name for a template: its JSON, hashed, in letters that spell no words.
fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let mut bytes = serde_json::to_vec(template).unwrap_or_default();
    bytes.extend(collisions.map(i32::to_le_bytes).into_iter().flatten());
    let hash = bytes.iter().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193));
    history::spell(hash)
}

/// Copies the Deployment's annotations to the set and brings its revision up, keeping the one it had in its history.
fn mark(set: &mut ReplicaSet, deployment: &Deployment, to: i64) {
    let own = [LAST_APPLIED, REVISION, HISTORY, DESIRED, MAX, ROLLBACK_TO];
    let was = revision(&set.metadata);
    let annotations = set.metadata.annotations.get_or_insert_default();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !own.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    if was >= to {
        return;
    }
    let before = annotations.insert(REVISION.to_owned(), to.to_string());
    if let Some(before) = before {
        let mut history = annotations.remove(HISTORY).unwrap_or_default();
        history = if history.is_empty() { before } else { format!("{history},{before}") };
        while history.len() > HISTORY_CHARS {
            history = history.split_once(',').map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        }
        annotations.insert(HISTORY.to_owned(), history);
    }
}

/// Notes on a set how many pods the Deployment asked for, and how many it could have had, when the set was sized.
pub(super) fn note_sizes(set: &mut ReplicaSet, deployment: &Deployment) {
    let wanted = replicas(deployment);
    let annotations: &mut BTreeMap<_, _> = set.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED.to_owned(), wanted.to_string());
    annotations.insert(MAX.to_owned(), wanted.saturating_add(bounds(deployment).surge).to_string());
}

pub(super) fn noted_size(set: &ReplicaSet, key: &str) -> Option<i32> {
    annotation(&set.metadata, key)?.parse().ok()
}

/// The old sets that history does not keep: without pods, and the oldest revisions first.
pub(super) fn beyond_history(deployment: &Deployment, fleet: &Fleet) -> Vec<Arc<ReplicaSet>> {
    let limit = deployment.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(HISTORY_LIMIT);
    let mut old: Vec<&Arc<ReplicaSet>> = fleet.old().filter_map(|m| m.was.as_ref()).collect();
    old.retain(|set| set.metadata.deletion_timestamp.is_none());
    let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    old.sort_by_key(|set| revision(&set.metadata));
    let idle = |set: &&&Arc<ReplicaSet>| {
        let status = set.status.clone().unwrap_or_default();
        status.replicas == 0
            && super::plan::wanted(set) == 0
            && set.metadata.generation.unwrap_or(0) <= status.observed_generation.unwrap_or(0)
    };
    old.iter().take(surplus).filter(idle).map(|set| (*set).clone()).collect()
}

fn revision(meta: &ObjectMeta) -> i64 {
    annotation(meta, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

fn name(set: &ReplicaSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}
