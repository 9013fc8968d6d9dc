//! Database `v1`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde::{Deserialize, Serialize};
use windlass::{CustomResource, Schema};

/// What people ask for.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "databases.example.com",
    version = "v1",
    kind = "Database",
    namespaced,
    doc = "A database: a primary, replicas that follow it, and backups.",
    status = "DatabaseStatus",
    shortname = "db",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.readyReplicas",
        label_selector_path = ".status.selector"
    ),
    printcolumns(
        ("Replicas", "integer", ".spec.replicas"),
        ("Version", "string", ".status.version"),
        ("Ready", "string", ".status.conditions[?(@.type=='Ready')].status"),
        ("Last backup", "date", ".status.lastBackup")
    )
)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseSpec {
    /// What runs.
    pub engine: Engine,
    /// How many replicas there are; the first is the primary.
    #[serde(default = "three")]
    #[garde(range(min = 1, max = 9))]
    pub replicas: i32,
    /// How much each replica can store.
    #[windlass(validation("self == oldSelf", message = "is chosen once"))]
    pub storage: String,
    /// When backups are taken.
    #[serde(default)]
    pub backup: Backup,
}

/// What runs.
#[derive(Schema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Engine {
    /// Such as `16.4`.
    #[garde(length(min = 1, max = 20))]
    #[windlass(validation("self.matches('^[0-9]+\\\\.[0-9]+$')", message = "is written as in 16.4"))]
    pub version: String,
}

/// When backups are taken.
#[derive(Schema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backup {
    /// As cron has it; without it only the last backup is taken, before the database goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// How many are kept.
    #[serde(default = "three")]
    #[garde(range(min = 1, max = 100))]
    pub keep: i32,
}

impl Default for Backup {
    fn default() -> Self {
        Self { schedule: None, keep: three() }
    }
}

/// What people are told.
#[derive(Schema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseStatus {
    /// The generation of the spec that this status is about.
    pub observed_generation: Option<i64>,
    /// Which pods are its replicas.
    #[serde(default)]
    pub selector: String,
    /// How many replicas are ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// The pod of the primary, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// What the primary runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The version that all replicas but the primary have reached: what the primary may run, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub followers_run: Option<String>,
    /// When the newest backup was complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<Time>,
    /// `Ready`, `Upgrading`, `BackedUp` and `Complete` (all that belongs to it is there).
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

fn three() -> i32 {
    3
}
