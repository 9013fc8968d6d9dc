//! TemplateName `v1`: the hub, and what is stored.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::{Deserialize, Serialize};
use windlass::{CustomResource, Schema};

/// What people ask for.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "example.com",
    version = "v1",
    kind = "TemplateName",
    namespaced,
    doc = "An image that runs in so many replicas.",
    status = "TemplateNameStatus",
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.readyReplicas"),
    printcolumns(
        ("Wanted", "integer", ".spec.replicas"),
        ("Ready", "string", ".status.conditions[?(@.type=='Ready')].status")
    )
)]
#[serde(rename_all = "camelCase")]
pub struct TemplateNameSpec {
    /// The image that every replica runs.
    #[garde(length(min = 1, max = 500))]
    pub image: String,
    /// How many replicas run.
    #[serde(default = "one")]
    #[garde(range(min = 0, max = 50))]
    pub replicas: i32,
    /// How another image takes the place of the one that runs.
    #[serde(default)]
    pub rollout: Rollout,
}

/// How another image takes the place of the one that runs.
#[derive(Schema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// How many replicas may be missing meanwhile.
    #[serde(default = "one")]
    #[garde(range(min = 1, max = 50))]
    pub max_unavailable: i32,
    /// Nothing is replaced as long as this is true.
    #[serde(default)]
    pub paused: bool,
}

impl Default for Rollout {
    fn default() -> Self {
        Self { max_unavailable: 1, paused: false }
    }
}

/// What people are told.
#[derive(Schema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TemplateNameStatus {
    /// The generation of the spec that this status is about.
    pub observed_generation: Option<i64>,
    /// How many replicas are ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// `Ready` is true when every replica runs what the spec asks for.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

fn one() -> i32 {
    1
}
