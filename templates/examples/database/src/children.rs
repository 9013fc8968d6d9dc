//! What belongs to a database, in its order: names for its replicas, the replicas, ways to reach them, and the nightly
//! backup. Pure: objects come out.

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    batch::v1::{CronJob, JobTemplateSpec},
    core::v1::{PodSpec, Service},
};
use kube::Resource;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use windlass::{Dependent, Dependents, Key};

use crate::Database;

/// The label of pods that says whose replicas they are.
pub(crate) const DATABASE: &str = "databases.example.com/name";
/// The label of Jobs and pods that take backups, which says of what.
pub(crate) const BACKUP_OF: &str = "databases.example.com/backup-of";

const PORT: u16 = 5432;

/// All of them. A last backup is none: it comes when they go.
pub(crate) fn all() -> Dependents<Database> {
    Dependents::builder()
        .with(Dependent::new("members", |db| Some(service(json!({
            "clusterIP": "None", "publishNotReadyAddresses": true, "selector": labels(db), "ports": ports(),
        })))).at(|db| named(db, "members")))
        .with(Dependent::new("engine", |db| Some(engine(db))).after("members").ready(is_ready))
        .with(Dependent::new("primary", |db| Some(service(json!({
            "selector": { "statefulset.kubernetes.io/pod-name": format!("{}-0", name(db)) }, "ports": ports(),
        })))).at(|db| named(db, "primary")))
        .with(Dependent::new("read", |db| {
            Some(service(json!({ "selector": labels(db), "ports": ports() })))
        }).at(|db| named(db, "read")))
        .with(Dependent::new("backup", |db| Some(nightly(db))).after("engine").at(|db| named(db, "backup")))
        .build()
        .expect("an order")
}

/// The database that a pod or a Job belongs to, by this label.
pub(crate) fn database_of<K: Resource>(object: &K, label: &str) -> Option<Key> {
    let name = object.meta().labels.as_ref()?.get(label)?;
    Some(Key::new(object.meta().namespace.as_deref(), name))
}

/// The name of something that belongs to a database.
pub(crate) fn named(db: &Database, what: &str) -> Key {
    Key::new(db.metadata.namespace.as_deref(), &format!("{}-{what}", name(db)))
}

pub(crate) fn name(db: &Database) -> &str {
    db.metadata.name.as_deref().unwrap_or_default()
}

fn labels(db: &Database) -> Value {
    json!({ DATABASE: name(db) })
}

fn ports() -> Value {
    json!([{ "name": "sql", "port": PORT }])
}

fn service(spec: Value) -> Service {
    object(json!({ "spec": spec }))
}

/// The first replica that gets what the spec asks for: those that follow come first when the engine changes; the primary,
/// which has the number 0, when all of them run it.
fn partition(db: &Database) -> i32 {
    let followers_run = db.status.as_ref().and_then(|status| status.followers_run.as_deref());
    i32::from(followers_run != Some(db.spec.engine.version.as_str()))
}

/// The replicas.
fn engine(db: &Database) -> StatefulSet {
    let spec = &db.spec;
    object(json!({ "spec": {
        "replicas": spec.replicas,
        "serviceName": format!("{}-members", name(db)),
        "selector": { "matchLabels": labels(db) },
        "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": partition(db) } },
        // What is stored outlives the database: one that is made again under its name finds it.
        "persistentVolumeClaimRetentionPolicy": { "whenDeleted": "Retain", "whenScaled": "Retain" },
        "volumeClaimTemplates": [{
            "metadata": { "name": "data" },
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": { "requests": { "storage": spec.storage } },
            },
        }],
        "template": {
            "metadata": { "labels": labels(db) },
            "spec": {
                "terminationGracePeriodSeconds": 30,
                "containers": [{
                    "name": "engine",
                    "image": image(&spec.engine.version),
                    "ports": [{ "name": "sql", "containerPort": PORT }],
                    "readinessProbe": { "tcpSocket": { "port": PORT }, "periodSeconds": 5 },
                    "volumeMounts": [{ "name": "data", "mountPath": "/var/lib/database" }],
                }],
            },
        },
    } }))
}

pub(crate) fn image(version: &str) -> String {
    format!("registry.example.com/engine:{version}")
}

/// The version that a pod runs.
pub(crate) fn version_of(spec: Option<&PodSpec>) -> Option<&str> {
    let image = spec?.containers.first()?.image.as_deref()?;
    image.rsplit_once(':').map(|(_, version)| version)
}

/// Whether all replicas are ready, as far as the newest spec is concerned.
fn is_ready(set: &StatefulSet) -> bool {
    let (Some(spec), Some(status)) = (&set.spec, &set.status) else {
        return false;
    };
    status.observed_generation >= set.metadata.generation && status.ready_replicas == spec.replicas
}

/// A CronJob has to have a schedule; where none is asked for it rests.
fn nightly(db: &Database) -> CronJob {
    let backup_of = &db.spec.backup;
    let job: JobTemplateSpec = object(json!({ "metadata": { "labels": backs_up(db) }, "spec": backup(db) }));
    object(json!({ "spec": {
        "schedule": backup_of.schedule.as_deref().unwrap_or("0 0 * * *"),
        "suspend": backup_of.schedule.is_none(),
        "concurrencyPolicy": "Forbid",
        "successfulJobsHistoryLimit": backup_of.keep,
        "failedJobsHistoryLimit": 1,
        "jobTemplate": job,
    } }))
}

/// The labels of what takes a backup of this database.
pub(crate) fn backs_up(db: &Database) -> Value {
    json!({ BACKUP_OF: name(db) })
}

/// The spec of a Job that takes a backup.
pub(crate) fn backup(db: &Database) -> Value {
    json!({
        "backoffLimit": 2,
        "template": {
            "metadata": { "labels": backs_up(db) },
            "spec": {
                "restartPolicy": "Never",
                "containers": [{
                    "name": "backup",
                    "image": "registry.example.com/backup:1",
                    "args": ["--from", format!("{}-primary:{PORT}", name(db))],
                }],
            },
        },
    })
}

pub(crate) fn object<T: DeserializeOwned>(value: Value) -> T {
    let mut value = value;
    if value.get("metadata").is_none() {
        value["metadata"] = json!({});
    }
    serde_json::from_value(value).expect("it is written above")
}
