//! Storage-version migration: objects that are stored in an old version of their kind are written anew, and the old
//! version is dropped from `status.storedVersions`, so that it may leave the definition.
//!
//! As upstream's storage-version-migrator (KEP-2339, KEP-4192): each object is written as it was read, by its revision;
//! the server stores it in the version of today. One that was seen to change or to go meanwhile needs nothing more. How far it is
//! stands in an annotation of the definition, so that another leader goes on from there. A definition that changes under
//! way starts it over. It never drops a version while an object could not be written.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams, TypeMeta},
};
use prometheus_client::metrics::counter::Counter;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    Bucket, Error, EventType, Informer, Key, Limiter, Place, Recorder, Rules, RunCx, Runnable, Scope, Verbs,
    revision_of, sentence,
};

/// Where it is written down how far a migration is.
const PROGRESS: &str = "windlass.dev/storage-migration";
/// Objects that are read at a time.
const PAGE: u32 = 100;
/// Writes a second, and in one go.
const RATE: f64 = 10.0;
const BURST: u32 = 10;
/// The wait after a failure; doubled each time up to [`AGAIN_MAX`].
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_mins(5);
/// How often one object is tried in a round.
const TRIES: u32 = 5;
/// How it is called in `/failing`.
const NAME: &str = "storage-migration";
/// The longest name of a cause that is told in one event.
const TOLD: usize = 900;

/// Migrates the stored objects of one definition whenever that is due. Only the leader does.
///
/// ```
/// # use std::convert::Infallible;
/// # use kube::{Client, client::Body};
/// use windlass::{Manager, StorageMigration};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # let nobody = tower::service_fn(|_: http::Request<Body>| std::future::pending::<Result<http::Response<Body>, Infallible>>());
/// # let client = Client::new(nobody, "default");
/// let mut manager = Manager::builder(client);
/// manager.add(StorageMigration::new("harbour.dev", "sails"));
/// # }
/// ```
pub struct StorageMigration {
    group: String,
    plural: String,
    /// The name of the definition.
    name: String,
    page: u32,
    limiter: Arc<dyn Limiter>,
}

/// How far a migration is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    /// The generation of the definition that it belongs to.
    generation: i64,
    /// Everything up to this object is done; they are listed in this order.
    after: String,
}

/// How a round ended.
enum Ended {
    Done,
    /// The definition is another by now.
    Changed,
}

impl StorageMigration {
    /// Of the kind with this group and plural, such as `harbour.dev` and `sails`.
    #[must_use]
    pub fn new(group: &str, plural: &str) -> Self {
        Self {
            group: group.to_owned(),
            plural: plural.to_owned(),
            name: format!("{plural}.{group}"),
            page: PAGE,
            limiter: Arc::new(Bucket::new(RATE, BURST)),
        }
    }

    /// How many objects are read at a time. By default 100.
    #[must_use]
    pub fn page(mut self, objects: u32) -> Self {
        self.page = objects.max(1);
        self
    }

    /// How fast objects are written. By default ten a second.
    #[must_use]
    pub fn limiter(mut self, limiter: impl Limiter) -> Self {
        self.limiter = Arc::new(limiter);
        self
    }

    async fn follow(&self, cx: &RunCx) {
        let scope = Scope::all().fields(format!("metadata.name={}", self.name));
        let definitions = cx.informers.get::<CustomResourceDefinition>(scope);
        definitions.synced().await;
        let mut changes = definitions.deltas();
        let random = cx.random.fork(&self.name);
        let work = Work {
            migration: self,
            cx,
            definitions,
            recorder: cx.recorder(NAME),
            key: Key::new(None, &self.name),
            migrated: OnceLock::new(),
            moved: AtomicBool::new(false),
        };
        let mut wait = AGAIN;
        loop {
            match work.round().await {
                Ok(Ended::Done) => {
                    cx.metrics.failing().succeeded(NAME, &work.key);
                    wait = AGAIN;
                    // Whatever changed is looked at, and nothing else.
                    changes.next().await;
                }
                Ok(Ended::Changed) => tokio::time::sleep(random.jitter(AGAIN, 0.1)).await,
                Err(error) => {
                    let why = sentence(&error);
                    tracing::warn!(definition = self.name, why, ?wait, "stored objects were not migrated");
                    cx.metrics.failing().failed(NAME, &work.key, why);
                    if work.moved.swap(false, Ordering::Relaxed) {
                        wait = AGAIN;
                    }
                    tokio::time::sleep(random.jitter(wait, 0.1)).await;
                    wait = (wait * 2).min(AGAIN_MAX);
                }
            }
        }
    }
}

impl Runnable for StorageMigration {
    fn name(&self) -> &str {
        NAME
    }

    fn needs(&self, rules: &mut Rules) {
        let (everywhere, group) = (|| Place::Everywhere, "apiextensions.k8s.io");
        let verbs = Verbs::READ | Verbs::PATCH;
        rules.allow_named(everywhere(), group, "customresourcedefinitions", &self.name, verbs);
        rules.allow_named(everywhere(), group, "customresourcedefinitions/status", &self.name, Verbs::PATCH);
        let verbs = Verbs::GET | Verbs::LIST | Verbs::UPDATE;
        rules.allow_resource(everywhere(), &self.group, &self.plural, verbs);
        rules.allow_events(vec![Place::Namespace("default".to_owned())]);
    }

    fn run(&self, cx: RunCx) -> BoxFuture<'_, Result<(), crate::BoxError>> {
        Box::pin(async move {
            tokio::select! {
                biased;
                () = cx.stop.cancelled() => {}
                () = self.follow(&cx) => {}
            }
            Ok(())
        })
    }
}

/// One run of a migration.
struct Work<'a> {
    migration: &'a StorageMigration,
    cx: &'a RunCx,
    definitions: Informer<CustomResourceDefinition>,
    recorder: Recorder,
    key: Key,
    migrated: OnceLock<Counter>,
    /// It is further than it was before.
    moved: AtomicBool,
}

impl Work<'_> {
    /// Brings everything to the version of today, if anything may be stored in another.
    async fn round(&self) -> Result<Ended, Error> {
        let Some(definition) = self.definitions.get(&self.key) else { return Ok(Ended::Done) };
        let Some(kind) = due(&definition) else { return Ok(Ended::Done) };
        let generation = definition.metadata.generation.unwrap_or(0);
        let after = progress(&definition, generation).map(|progress| progress.after);
        tracing::info!(
            definition = self.migration.name,
            version = kind.version,
            after,
            "stored objects are migrated"
        );
        match self.walk(&kind, generation, after).await? {
            Ended::Changed => Ok(Ended::Changed),
            Ended::Done => self.finish(&kind, generation).await,
        }
    }

    /// Writes every object anew that comes after this one.
    async fn walk(&self, kind: &ApiResource, generation: i64, after: Option<String>) -> Result<Ended, Error> {
        let all: Api<DynamicObject> = Api::all_with(self.cx.informers.client().clone(), kind);
        let mut params = ListParams::default().limit(self.migration.page);
        let mut after = after.unwrap_or_default();
        let mut refused = Vec::new();
        loop {
            let page = match all.list(&params).await {
                // The list is too old to be gone on with: what is done is known all the same.
                Err(kube::Error::Api(status)) if status.code == 410 => {
                    params.continue_token = None;
                    continue;
                }
                page => page?,
            };
            for object in page.items {
                let key = Key::new(object.namespace().as_deref(), &object.name_any());
                if key.as_str() <= after.as_str() {
                    continue;
                }
                if let Err(error) = self.rewrite(kind, object).await? {
                    refused.push(format!("{key}: {}", sentence(&error)));
                }
                key.as_str().clone_into(&mut after);
            }
            if self.definitions.get(&self.key).and_then(|now| now.metadata.generation) != Some(generation) {
                return Ok(Ended::Changed);
            }
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                break;
            }
            // What was refused has to be tried again, so it is not counted as done.
            if refused.is_empty() {
                self.note(Some(&Progress { generation, after: after.clone() })).await?;
                self.moved.store(true, Ordering::Relaxed);
            }
        }
        if refused.is_empty() {
            return Ok(Ended::Done);
        }
        self.note(None).await?;
        let mut note = format!("{} objects are refused, such as {}", refused.len(), refused[0]);
        note.truncate(note.floor_char_boundary(TOLD));
        if let Some(definition) = self.definitions.get(&self.key) {
            self.recorder.event(&*definition, EventType::Warning, "StorageMigrationFailed", note.clone());
        }
        Err(Error::Other(note.into()))
    }

    /// Writes an object as it is. The inner error is about this object alone: the server will not have it.
    async fn rewrite(
        &self,
        kind: &ApiResource,
        mut object: DynamicObject,
    ) -> Result<Result<(), Error>, Error> {
        let client = self.cx.informers.client().clone();
        let api: Api<DynamicObject> = match object.namespace() {
            Some(namespace) => Api::namespaced_with(client, &namespace, kind),
            None => Api::all_with(client, kind),
        };
        let (name, mut tries) = (object.name_any(), 0);
        loop {
            while let Err(at) = self.migration.limiter.take(Instant::now()) {
                tokio::time::sleep_until(at).await;
            }
            object.types = Some(TypeMeta { api_version: kind.api_version.clone(), kind: kind.kind.clone() });
            let error = match api.replace(&name, &PostParams::default(), &object).await {
                Ok(_) => {
                    self.count();
                    return Ok(Ok(()));
                }
                Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(Ok(())),
                Err(kube::Error::Api(status)) if status.code == 422 || status.code == 403 => {
                    return Ok(Err(Error::Kube(kube::Error::Api(status))));
                }
                Err(error) => error,
            };
            tries += 1;
            if tries == TRIES {
                return Err(Error::Kube(error));
            }
            tokio::time::sleep(AGAIN * tries).await;
            // An answer is no proof: who wrote it last, if anybody did, shows in the object itself.
            match api.get_opt(&name).await {
                Ok(None) => return Ok(Ok(())),
                Ok(Some(now)) if now.metadata.resource_version != object.metadata.resource_version => {
                    return Ok(Ok(()));
                }
                Ok(Some(_)) | Err(_) => {}
            }
        }
    }

    fn count(&self) {
        let counter = || self.cx.metrics.migrated_objects(&self.migration.name);
        self.migrated.get_or_init(counter).inc();
    }

    fn api(&self) -> Api<CustomResourceDefinition> {
        Api::all(self.cx.informers.client().clone())
    }

    /// Writes down how far it is.
    async fn note(&self, progress: Option<&Progress>) -> Result<(), Error> {
        let text = progress.map(|progress| serde_json::to_string(progress).unwrap_or_default());
        let patch = Patch::Merge(json!({ "metadata": { "annotations": { PROGRESS: text } } }));
        self.api().patch_metadata(&self.migration.name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Nothing is stored in another version any more.
    async fn finish(&self, kind: &ApiResource, generation: i64) -> Result<Ended, Error> {
        let Some(now) = self.api().get_opt(&self.migration.name).await? else { return Ok(Ended::Changed) };
        if now.metadata.generation != Some(generation) {
            return Ok(Ended::Changed);
        }
        let patch = Patch::Merge(json!({
            "metadata": { "resourceVersion": now.metadata.resource_version },
            "status": { "storedVersions": [kind.version] },
        }));
        let params = PatchParams::default();
        let written = match self.api().patch_status(&self.migration.name, &params, &patch).await {
            Err(kube::Error::Api(status)) if status.is_conflict() => return Ok(Ended::Changed),
            written => written?,
        };
        if written.annotations().contains_key(PROGRESS) {
            self.note(None).await?;
        }
        // What is in the cache still says that it is due.
        self.definitions.reached(None, revision_of(&written)).await;
        let note = format!("every stored object is of version {}", kind.version);
        self.recorder.event(&written, EventType::Normal, "StorageMigrated", note);
        Ok(Ended::Done)
    }
}

/// The kind in its storage version, if objects may be stored in another.
fn due(definition: &CustomResourceDefinition) -> Option<ApiResource> {
    let storage = definition.spec.versions.iter().find(|version| version.storage)?;
    let stored = definition.status.as_ref()?.stored_versions.clone().unwrap_or_default();
    if stored.iter().all(|version| *version == storage.name) {
        return None;
    }
    let (group, names) = (definition.spec.group.clone(), &definition.spec.names);
    Some(ApiResource {
        api_version: format!("{group}/{}", storage.name),
        group,
        version: storage.name.clone(),
        kind: names.kind.clone(),
        plural: names.plural.clone(),
    })
}

/// What was done before, of the same definition.
fn progress(definition: &CustomResourceDefinition, generation: i64) -> Option<Progress> {
    let text = definition.annotations().get(PROGRESS)?;
    serde_json::from_str(text).ok().filter(|progress: &Progress| progress.generation == generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(stored: &[&str], note: Option<&str>) -> CustomResourceDefinition {
        serde_json::from_value(json!({
            "metadata": {
                "name": "sails.harbour.dev", "generation": 4,
                "annotations": note.map(|note| json!({ PROGRESS: note })),
            },
            "spec": {
                "group": "harbour.dev", "scope": "Namespaced",
                "names": { "kind": "Sail", "plural": "sails" },
                "versions": [
                    { "name": "v1alpha1", "served": true, "storage": false },
                    { "name": "v1", "served": true, "storage": true },
                ],
            },
            "status": { "storedVersions": stored },
        }))
        .unwrap()
    }

    #[test]
    fn it_is_due_while_another_version_may_be_stored() {
        let version = |stored: &[&str]| due(&definition(stored, None)).map(|kind| kind.api_version);
        assert_eq!(version(&["v1alpha1", "v1"]).as_deref(), Some("harbour.dev/v1"));
        assert_eq!(version(&["v1alpha1"]).as_deref(), Some("harbour.dev/v1"));
        assert_eq!(version(&["v1"]), None);
        assert_eq!(version(&[]), None, "never served");
    }

    #[test]
    fn progress_is_of_one_definition() {
        let note = r#"{"generation":4,"after":"default/main"}"#;
        let definition = definition(&["v1"], Some(note));
        assert_eq!(progress(&definition, 4).unwrap().after, "default/main");
        assert_eq!(progress(&definition, 5), None);
        assert_eq!(progress(&self::definition(&["v1"], Some("{")), 4), None);
    }
}
