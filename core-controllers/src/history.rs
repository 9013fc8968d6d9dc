//! The history of a workload as ControllerRevisions: each holds a template that pods were once made from, so that a
//! rollback finds it again.
//!
//! How a revision is named, numbered and compared is upstream's `pkg/controller/history`. Its data is a patch that puts
//! the template in the place of whatever there is.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{apps::v1::ControllerRevision, core::v1::PodTemplateSpec},
    apimachinery::pkg::runtime::RawExtension,
};
use kube::api::{ObjectMeta, Patch};
use serde_json::{Value, json};
use windlass::{CachedClient, Error, Key, Object, controller_ref};

/// Holds the hash that is part of the name, unless the workload has a label of its own for it.
pub(crate) const HASH: &str = "controller.kubernetes.io/hash";
/// The longest part of the owner's name that a revision's name begins with.
const PREFIX_MAX: usize = 223;

/// Which revision stands for a state.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Found {
    /// The newest one: nothing has changed.
    Newest(Arc<ControllerRevision>),
    /// An older one, which becomes the newest under this number: a rollback.
    Older(Arc<ControllerRevision>, i64),
    /// None yet: one of this number is to be made.
    None(i64),
}

/// Orders revisions by number, the oldest first.
pub(crate) fn sort(revisions: &mut [Arc<ControllerRevision>]) {
    revisions.sort_by_key(|revision| {
        let meta = &revision.metadata;
        (revision.revision, meta.creation_timestamp.as_ref().map(|t| t.0), meta.name.clone())
    });
}

/// Looks for a state among revisions that are in order.
pub(crate) fn find(revisions: &[Arc<ControllerRevision>], data: &Value) -> Found {
    let next = revisions.last().map_or(1, |newest| newest.revision + 1);
    let Some(equal) = revisions.iter().rfind(|revision| holds(revision, data)) else {
        return Found::None(next);
    };
    match revisions.last() {
        Some(newest) if holds(newest, data) => Found::Newest(newest.clone()),
        _ => Found::Older(equal.clone(), next),
    }
}

/// Whether a revision holds this state.
fn holds(revision: &ControllerRevision, data: &Value) -> bool {
    revision.data.as_ref().is_some_and(|held| plain(&held.0) == plain(data))
}

/// The state without what says nothing, which upstream's controllers write and these do not.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let says = |(name, value): &(&String, &Value)| {
                let nothing =
                    value.as_object().is_some_and(serde_json::Map::is_empty) && *name == "resources";
                !value.is_null() && !nothing
            };
            fields.iter().filter(says).map(|(name, value)| (name.clone(), plain(value))).collect()
        }
        Value::Array(items) => items.iter().map(plain).collect(),
        other => other.clone(),
    }
}

/// The other revisions that hold the state of one.
pub(crate) fn doubles(
    revisions: &[Arc<ControllerRevision>],
    of: &ControllerRevision,
) -> Vec<Arc<ControllerRevision>> {
    let Some(data) = &of.data else { return Vec::new() };
    let double = |revision: &&Arc<ControllerRevision>| name(revision) != name(of) && holds(revision, &data.0);
    revisions.iter().filter(double).cloned().collect()
}

/// A template as the data of a revision.
pub(crate) fn data(template: Option<&PodTemplateSpec>) -> Value {
    let mut template = json!(template);
    if let Some(fields) = template.as_object_mut() {
        fields.insert("$patch".to_owned(), json!("replace"));
    }
    json!({"spec": {"template": template}})
}

/// The template that a revision holds.
pub(crate) fn template(revision: &ControllerRevision) -> Result<PodTemplateSpec, Error> {
    let held = revision.data.as_ref().and_then(|data| data.0.pointer("/spec/template")).cloned();
    serde_json::from_value(held.unwrap_or_default()).map_err(Error::terminal)
}

/// The name of a revision.
pub(crate) fn name(revision: &ControllerRevision) -> &str {
    revision.metadata.name.as_deref().unwrap_or_default()
}

/// The labels of a new revision.
#[derive(Debug, Clone)]
pub(crate) struct Labels {
    /// Those of the template.
    pub(crate) template: Option<BTreeMap<String, String>>,
    /// The one that holds the hash.
    pub(crate) hash: &'static str,
}

/// Makes `found` the newest revision. Returns it, and how often its name turned out to be taken so far.
pub(crate) async fn settle<K: Object>(
    client: &CachedClient,
    owner: &K,
    found: Found,
    labels: Labels,
    data: &Value,
    collisions: i32,
) -> Result<(Arc<ControllerRevision>, i32), Error>
where
    K::DynamicType: Default,
{
    match found {
        Found::Newest(revision) => Ok((revision, collisions)),
        Found::Older(revision, number) => {
            let patch = json!({"metadata": {"uid": revision.metadata.uid}, "revision": number});
            let key = Key::of(&*revision);
            Ok((client.patch::<ControllerRevision>(&key, &Patch::Merge(patch)).await?, collisions))
        }
        Found::None(number) => create(client, owner, number, labels, data, collisions).await,
    }
}

async fn create<K: Object>(
    client: &CachedClient,
    owner: &K,
    number: i64,
    labels: Labels,
    data: &Value,
    mut collisions: i32,
) -> Result<(Arc<ControllerRevision>, i32), Error>
where
    K::DynamicType: Default,
{
    loop {
        let revision = new(owner, number, labels.clone(), data, collisions);
        match client.create(&revision).await {
            Ok(created) => return Ok((created, collisions)),
            Err(error) if error.is_already_exists() => {
                let taken = client.live::<ControllerRevision>(&Key::of(&revision)).await?;
                match taken.filter(|taken| holds(taken, data)) {
                    // Our own, which the cache did not have yet: nothing is wrong.
                    Some(taken) => return Ok((Arc::new(taken), collisions)),
                    None => collisions += 1,
                }
            }
            Err(error) => return Err(error),
        }
    }
}

fn new<K: Object>(owner: &K, number: i64, labels: Labels, data: &Value, collisions: i32) -> ControllerRevision
where
    K::DynamicType: Default,
{
    let hash = hash(data, collisions);
    let meta = owner.meta();
    let prefix: String = meta.name.as_deref().unwrap_or_default().chars().take(PREFIX_MAX).collect();
    let mut all = labels.template.unwrap_or_default();
    all.insert(labels.hash.to_owned(), hash.clone());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{prefix}-{hash}")),
            namespace: meta.namespace.clone(),
            labels: Some(all),
            annotations: meta.annotations.clone(),
            owner_references: Some(vec![controller_ref(owner)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data.clone())),
        revision: number,
    }
}

/// A name for a state: its JSON, hashed as upstream hashes it.
fn hash(data: &Value, collisions: i32) -> String {
    let mut bytes = serde_json::to_vec(data).unwrap_or_default();
    bytes.extend(collisions.to_string().bytes());
    let hash =
        bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(*byte));
    spell(hash)
}

/// A number in letters that spell no words.
pub(crate) fn spell(number: u32) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    number.to_string().bytes().map(|digit| char::from(LETTERS[usize::from(digit) % LETTERS.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(number: i64, data: Value) -> Arc<ControllerRevision> {
        let metadata = ObjectMeta { name: Some(format!("r{number}")), ..ObjectMeta::default() };
        Arc::new(ControllerRevision { metadata, data: Some(RawExtension(data)), revision: number })
    }

    #[test]
    fn a_state_is_found_again_whoever_wrote_it() {
        let upstream = json!({"c": [{"image": "v1", "resources": {}}], "creationTimestamp": null});
        let revisions = [revision(1, upstream), revision(2, json!({"c": [{"image": "v2"}]}))];
        let find = |image: &str| find(&revisions, &json!({"c": [{"image": image}]}));
        assert_eq!(find("v2"), Found::Newest(revisions[1].clone()));
        assert_eq!(find("v1"), Found::Older(revisions[0].clone(), 3));
        assert_eq!(find("v3"), Found::None(3));
        assert_eq!(super::find(&[], &json!({})), Found::None(1));
        let again = revision(3, json!({"c": [{"image": "v1"}]}));
        assert_eq!(doubles(&revisions, &again), [revisions[0].clone()]);
        assert!(doubles(&revisions, &revisions[1]).is_empty());
        let volumes = [revision(1, json!({"v": [{"name": "v", "emptyDir": {}}]}))];
        assert_eq!(
            super::find(&volumes, &json!({"v": [{"name": "v"}]})),
            Found::None(2),
            "an empty field may say much"
        );
    }

    #[test]
    fn a_revision_gives_back_its_template() {
        let text = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c"}]}});
        let made: PodTemplateSpec = serde_json::from_value(text).unwrap();
        let held = revision(1, data(Some(&made)));
        assert_eq!(template(&held).unwrap(), made);
        assert_eq!(held.data.as_ref().unwrap().0["spec"]["template"]["$patch"], "replace");
    }

    #[test]
    fn names_follow_the_state_and_the_collisions() {
        let owner = crate::testing::replica_set(&"w".repeat(300), 1);
        let name = |image: &str, collisions| {
            let revision =
                new(&owner, 1, Labels { template: None, hash: HASH }, &json!({"image": image}), collisions);
            let name = revision.metadata.name.unwrap();
            assert_eq!(&name[PREFIX_MAX + 1..], revision.metadata.labels.unwrap()[HASH]);
            name
        };
        assert_eq!(name("a", 0), name("a", 0));
        assert_ne!(name("a", 0), name("b", 0));
        assert_ne!(name("a", 0), name("a", 1));
    }
}
