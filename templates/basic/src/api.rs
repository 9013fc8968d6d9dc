//! The kind TemplateName: what people ask for, and what they are told.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What people ask for.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "example.com",
    version = "v1alpha1",
    kind = "TemplateName",
    namespaced,
    doc = "An image that runs in so many replicas.",
    status = "TemplateNameStatus",
    printcolumn = r#"{"name": "Image", "type": "string", "jsonPath": ".spec.image"}"#,
    printcolumn = r#"{"name": "Wanted", "type": "integer", "jsonPath": ".spec.replicas"}"#,
    printcolumn = r#"{"name": "Ready", "type": "integer", "jsonPath": ".status.readyReplicas"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct TemplateNameSpec {
    /// The image that every replica runs.
    #[schemars(length(min = 1))]
    pub image: String,
    /// How many replicas run.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 50))]
    pub replicas: i32,
}

/// What people are told.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
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
