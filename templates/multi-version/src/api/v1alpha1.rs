//! TemplateName `v1alpha1`: the first try, which is served to those who still have it. Replicas were called size, and
//! whom to ask stood in the spec.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::{Deserialize, Serialize};
use windlass::{CustomResource, Schema};

use super::v1;

/// What people ask for.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "example.com",
    version = "v1alpha1",
    kind = "TemplateName",
    namespaced,
    doc = "An image that runs in so many replicas.",
    status = "TemplateNameStatus",
    storage = false,
    deprecated = "example.com/v1alpha1 TemplateName is deprecated; use example.com/v1",
    printcolumns(("Size", "integer", ".spec.size"))
)]
#[windlass(
    hub = v1::TemplateName,
    moved("/spec/size" => "/spec/replicas"),
    moved("/status/ready" => "/status/readyReplicas"),
    added("/spec/rollout"),
    removed("/spec/contact")
)]
#[serde(rename_all = "camelCase")]
pub struct TemplateNameSpec {
    /// The image that every replica runs.
    #[garde(length(min = 1, max = 500))]
    pub image: String,
    /// How many replicas run.
    #[serde(default = "one")]
    #[garde(range(min = 0, max = 50))]
    pub size: i32,
    /// Whom to ask. Later versions have labels for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,
}

/// What people are told.
#[derive(Schema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TemplateNameStatus {
    /// The generation of the spec that this status is about.
    pub observed_generation: Option<i64>,
    /// How many replicas are ready.
    #[serde(default)]
    pub ready: i32,
    /// `Ready` is true when every replica runs what the spec asks for.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

fn one() -> i32 {
    1
}
