//! Runs databases: replicas with storage of their own, of which the first is the primary; backups by a schedule, and one
//! last before everything goes; upgrades of the engine that reach the primary last. The kind is served in two versions.

pub mod api;
mod backups;
mod children;
mod controller;
mod last_backup;
mod status;
mod webhooks;

#[cfg(test)]
mod behaviour;
#[cfg(test)]
mod simulations;
#[cfg(test)]
mod world;

pub use api::{
    kind,
    v1::{Backup, Database, DatabaseSpec, DatabaseStatus, Engine},
};
pub use last_backup::{FINALIZER, SKIP};

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use windlass::{
    Controller, Finalized, Operator, Scope, Verbs,
    webhook::{Certificates, Hook, Webhooks},
};

use children::{BACKUP_OF, DATABASE, database_of};
use last_backup::{Earlier, LastBackup};

/// The operator: its kinds, and what runs. What it may do in a cluster follows from this.
pub fn operator() -> Operator {
    operator_that(Earlier::Waits)
}

fn operator_that(earlier: Earlier) -> Operator {
    Operator::new("database-operator").with(move |manager| {
        let children = children::all();
        let reconcile = Finalized {
            name: FINALIZER,
            reconcile: controller::Databases { children: children.clone() },
            cleanup: LastBackup { children: children.clone(), earlier },
        };
        let controller = Controller::<Database>::new("database")
            .dependents(&children)
            // Pods belong to the StatefulSet, and most Jobs to the CronJob: a label says whose they are.
            .watches::<Pod, _>(Scope::all(), |delta, _| database_of(&**delta.object(), DATABASE))
            .watches::<Job, _>(Scope::all(), |delta, _| database_of(&**delta.object(), BACKUP_OF))
            .may::<Job>(Verbs::CREATE)
            .writes_status();
        manager.add(controller.build(reconcile));
        let of_the_spec =
            || Hook::default().when("spec", "request.operation == 'UPDATE' && object.spec != oldObject.spec");
        // The definition comes with whoever converts.
        let webhooks = Webhooks::new("database-operator-webhooks", Certificates::self_signed());
        manager.add(webhooks.convert(kind()).validate(webhooks::Rules, of_the_spec()));
    })
}

/// A database for tests.
#[cfg(test)]
fn database(name: &str, replicas: i32) -> Database {
    let engine = Engine { version: "16.4".to_owned() };
    let backup = Backup::default();
    Database::new(name, DatabaseSpec { engine, replicas, storage: "1Gi".to_owned(), backup })
}
