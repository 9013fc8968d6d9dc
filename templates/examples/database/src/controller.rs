//! Brings a database to what it asks for. What that is is decided in `children` and `status`; this only reads and writes.

use std::sync::Arc;

use k8s_openapi::api::{apps::v1::StatefulSet, batch::v1::Job, core::v1::Pod};
use kube::{Resource, api::Patch};
use serde_json::json;
use windlass::{Action, ConditionsExt, Dependents, Error, EventType, Lister, Reconcile, Request, Scope};

use crate::{
    Database, DatabaseStatus,
    children::{BACKUP_OF, DATABASE, database_of},
    status::{Seen, status},
};

/// The controller of databases that are not going.
pub(crate) struct Databases {
    pub(crate) children: Dependents<Database>,
}

impl Reconcile<Database> for Databases {
    async fn reconcile(&self, request: Request<Database>) -> Result<Action, Error> {
        let Some(db) = request.object.clone() else { return Ok(Action::Done) };
        let progress = self.children.reconcile(&db, &request.client).await;
        let informers = request.client.informers();
        let set = informers.get::<StatefulSet>(Scope::all()).lister().get(&request.key);
        let pods = of(&request, &informers.get::<Pod>(Scope::all()).lister(), DATABASE);
        let jobs = of(&request, &informers.get::<Job>(Scope::all()).lister(), BACKUP_OF);
        let seen = Seen { set: set.as_deref(), pods: &pods, jobs: &jobs };
        let status = status(&db, &seen, progress.condition("Complete"));
        if db.status.as_ref() != Some(&status) {
            let patch = Patch::Merge(json!({ "status": status }));
            request.client.patch_status::<Database>(&request.key, &patch).await?;
            tell(&request, &db, &status);
        }
        progress.result()
    }
}

/// What belongs to a database by this label.
fn of<K>(request: &Request<Database>, lister: &Lister<K>, label: &str) -> Vec<Arc<K>>
where
    K: windlass::Object + Resource,
{
    let mut all = lister.in_namespace(request.key.namespace().unwrap_or_default());
    all.retain(|object| database_of(&**object, label).as_ref() == Some(&request.key));
    all
}

/// Events at what people wait for.
fn tell(request: &Request<Database>, db: &Database, status: &DatabaseStatus) {
    let before = db.status.clone().unwrap_or_default();
    let turned = |type_: &str, to: &str, reason: &str| {
        let is = |status: &DatabaseStatus| {
            status.conditions.condition(type_).is_some_and(|c| c.status == to && c.reason == reason)
        };
        is(status) && !is(&before)
    };
    let event = |type_, reason: &str, note: String| request.recorder.event(db, type_, reason, note);
    let version = &db.spec.engine.version;
    if turned("Ready", "True", "AllReady") {
        let note = format!("{} replicas are ready and run {version}", status.ready_replicas);
        event(EventType::Normal, "Ready", note);
    }
    if before.followers_run.is_some() && before.followers_run != status.followers_run {
        let note = format!("All replicas that follow run {version}; the primary is next");
        event(EventType::Normal, "FollowersUpgraded", note);
    }
    if turned("BackedUp", "False", "BackupFailed") {
        let why = status.conditions.condition("BackedUp").map(|c| c.message.clone()).unwrap_or_default();
        event(EventType::Warning, "BackupFailed", why);
    }
}
