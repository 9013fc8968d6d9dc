//! Database `v1beta1`: the first try. The version stood in the spec itself, and nobody chose when backups are taken.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::{Deserialize, Serialize};
use windlass::{CustomResource, Schema};

use super::v1;

/// What people ask for.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "databases.example.com",
    version = "v1beta1",
    kind = "Database",
    namespaced,
    doc = "A database: a primary, replicas that follow it, and backups.",
    status = "DatabaseStatus",
    shortname = "db",
    storage = false,
    deprecated = "databases.example.com/v1beta1 Database is deprecated; use databases.example.com/v1",
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.readyReplicas")
)]
#[windlass(
    hub = v1::Database,
    moved("/spec/version" => "/spec/engine/version"),
    added("/spec/backup"),
    added("/status/selector"),
    added("/status/primary"),
    added("/status/version"),
    added("/status/followersRun"),
    added("/status/lastBackup")
)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseSpec {
    /// What runs, such as `16.4`.
    #[garde(length(min = 1, max = 20))]
    pub version: String,
    /// How many replicas there are.
    #[serde(default = "three")]
    #[garde(range(min = 1, max = 9))]
    pub replicas: i32,
    /// How much each replica can store.
    pub storage: String,
}

/// What people are told.
#[derive(Schema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseStatus {
    /// The generation of the spec that this status is about.
    pub observed_generation: Option<i64>,
    /// How many replicas are ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// As in `v1`.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

fn three() -> i32 {
    3
}
