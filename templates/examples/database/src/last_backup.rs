//! Before a database goes, a last backup is taken; nothing of it is touched until that is complete. One that fails holds
//! the database, and people are told; an annotation lets it go without.

use std::time::Duration;

use k8s_openapi::{api::batch::v1::Job, apimachinery::pkg::apis::meta::v1::Condition};
use kube::api::Patch;
use serde_json::json;
use windlass::{
    Action, ConditionsExt, Dependents, Error, EventType, Reconcile, Request, Scope, condition,
    controller_ref, is_controlled_by,
};

use crate::{
    Database,
    backups::{Taken, taken},
    children::{backs_up, backup, named, object},
};

/// The finalizer of databases.
pub const FINALIZER: &str = "databases.example.com/last-backup";

/// The annotation that lets a database go without a last backup where it is `true`.
pub const SKIP: &str = "databases.example.com/skip-last-backup";

/// How long it takes until it is looked at again; its Job tells earlier.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What is thought of the last backup of an earlier database of the same name, which is not collected yet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Earlier {
    /// It is another's, and has to go first.
    Waits,
    /// It passes for this one's. Wrong, and only the simulations know of it.
    #[cfg(test)]
    Counts,
}

/// Cleans up after databases.
pub(crate) struct LastBackup {
    pub(crate) children: Dependents<Database>,
    pub(crate) earlier: Earlier,
}

/// What holds the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Earlier,
    Backup,
    Failure,
}

impl Reconcile<Database> for LastBackup {
    async fn reconcile(&self, request: Request<Database>) -> Result<Action, Error> {
        let Some(db) = request.object.clone() else { return Ok(Action::Done) };
        let job =
            request.client.informers().get::<Job>(Scope::all()).lister().get(&named(&db, "last-backup"));
        if let Some(held) = self.held(&db, job.as_deref()) {
            if job.is_none() {
                begin(&request, &db).await?;
            }
            tell(&request, &db, held).await?;
            return Ok(Action::RequeueAfter(LOOK_AGAIN));
        }
        let progress = self.children.take_away(&db, &request.client).await;
        if progress.is_gone() {
            return Ok(Action::Done);
        }
        progress.result().map(|_| Action::RequeueAfter(LOOK_AGAIN))
    }
}

impl LastBackup {
    /// Whether the database has to stay for now, from what is there under the name of its last backup.
    fn held(&self, db: &Database, job: Option<&Job>) -> Option<Held> {
        let skip = db.metadata.annotations.as_ref().and_then(|all| all.get(SKIP));
        if skip.is_some_and(|skip| skip == "true") {
            return None;
        }
        let Some(job) = job else { return Some(Held::Backup) };
        let its_own = match self.earlier {
            Earlier::Waits => is_controlled_by(&job.metadata, db),
            #[cfg(test)]
            Earlier::Counts => true,
        };
        match taken(job) {
            _ if !its_own => Some(Held::Earlier),
            Taken::Not => Some(Held::Backup),
            Taken::Failed => Some(Held::Failure),
            Taken::Complete => None,
        }
    }
}

/// Begins the last backup. If it is there already, perhaps an answer got lost, or an earlier one is not collected yet: it
/// will be looked at.
async fn begin(request: &Request<Database>, db: &Database) -> Result<(), Error> {
    let key = named(db, "last-backup");
    let job: Job = object(json!({
        "metadata": {
            "name": key.name(), "namespace": key.namespace(), "labels": backs_up(db),
            "ownerReferences": [controller_ref(db)],
        },
        "spec": backup(db),
    }));
    match request.client.create(&job).await {
        Err(error) if !error.is_already_exists() => Err(error),
        _ => Ok(()),
    }
}

/// Says what holds a database, in its status and, when it is new, by an event.
async fn tell(request: &Request<Database>, db: &Database, held: Held) -> Result<(), Error> {
    let mut status = db.status.clone().unwrap_or_default();
    let condition = says(db, held);
    let (reason, message) = (condition.reason.clone(), condition.message.clone());
    if !status.conditions.set_condition(condition) {
        return Ok(());
    }
    if held == Held::Failure {
        request.recorder.event(db, EventType::Warning, &reason, message);
    }
    let patch = Patch::Merge(json!({ "status": { "conditions": status.conditions } }));
    request.client.patch_status::<Database>(&request.key, &patch).await?;
    Ok(())
}

fn says(db: &Database, held: Held) -> Condition {
    let job = named(db, "last-backup");
    let (reason, message) = match held {
        Held::Backup => ("LastBackup", "the last backup is being taken".to_owned()),
        Held::Earlier => ("LastBackup", format!("Job {} is not of this database and has to go", job.name())),
        Held::Failure => (
            "LastBackupFailed",
            format!("Job {} failed: delete it to try again, or annotate with {SKIP}=true", job.name()),
        ),
    };
    condition("BackedUp", false, reason, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{children::all, database};

    #[test]
    fn only_its_own_backup_lets_a_database_go() {
        let mut db = database("main", 1);
        db.metadata.uid = Some("own".to_owned());
        let job = |owner: &str, type_: &str| -> Job {
            object(json!({
                "metadata": { "ownerReferences": [{
                    "apiVersion": "databases.example.com/v1", "kind": "Database", "name": "main", "uid": owner,
                    "controller": true,
                }] },
                "status": { "conditions": [{ "type": type_, "status": "True" }] },
            }))
        };
        let last = LastBackup { children: all(), earlier: Earlier::Waits };
        let table = [
            (None, Some(Held::Backup)),
            (Some(job("own", "Suspended")), Some(Held::Backup)),
            (Some(job("own", "Failed")), Some(Held::Failure)),
            (Some(job("own", "Complete")), None),
            (Some(job("earlier", "Complete")), Some(Held::Earlier)),
        ];
        for (job, held) in &table {
            assert_eq!(last.held(&db, job.as_ref()), *held, "{job:?}");
        }
        db.metadata.annotations = Some([(SKIP.to_owned(), "true".to_owned())].into());
        assert!(table.iter().all(|(job, _)| last.held(&db, job.as_ref()).is_none()));
    }
}
