//! The kind PartKind: what people ask for, and what they are told.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::{Deserialize, Serialize};
use windlass::{CustomResource, Schema};

/// What people ask for.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "part.group",
    version = "part-version",
    kind = "PartKind",
    namespaced,
    status = "PartKindStatus",
    printcolumns(("Ready", "string", ".status.conditions[?(@.type=='Ready')].status"))
)]
#[serde(rename_all = "camelCase")]
pub struct PartKindSpec {
    /// What it is about.
    #[serde(default)]
    #[garde(length(max = 500))]
    pub about: String,
}

/// What people are told.
#[derive(Schema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PartKindStatus {
    /// The generation of the spec that this status is about.
    pub observed_generation: Option<i64>,
    /// `Ready` is true when what the spec asks for is so.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}
