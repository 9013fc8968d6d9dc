//! The kind TemplateName: what people ask for, and what they are told. It has no scale: what is changed by way of a scale, no
//! webhook of the kind is asked about.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::{Deserialize, Serialize};
use windlass::{CustomResource, Schema};

/// What people ask for.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "example.com",
    version = "v1alpha1",
    kind = "TemplateName",
    namespaced,
    doc = "An image that runs in so many replicas.",
    status = "TemplateNameStatus",
    printcolumns(
        ("Wanted", "integer", ".spec.replicas"),
        ("Ready", "string", ".status.conditions[?(@.type=='Ready')].status")
    )
)]
#[serde(rename_all = "camelCase")]
pub struct TemplateNameSpec {
    /// The image that every replica runs.
    #[garde(length(min = 1, max = 500))]
    #[windlass(validation("!self.endsWith(':latest')", message = "has to say which version"))]
    pub image: String,
    /// How many replicas run.
    #[serde(default = "one")]
    #[garde(range(min = 0, max = 50))]
    pub replicas: i32,
    /// Whose it is; by default the namespace's label `example.com/team` says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(length(min = 1, max = 63))]
    pub team: Option<String>,
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
