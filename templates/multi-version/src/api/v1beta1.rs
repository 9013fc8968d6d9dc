//! TemplateName `v1beta1`: the rollout was one number in the spec, and could not be paused.

use serde::{Deserialize, Serialize};
use windlass::CustomResource;

use super::v1;

/// What people ask for.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "example.com",
    version = "v1beta1",
    kind = "TemplateName",
    namespaced,
    doc = "An image that runs in so many replicas.",
    status = "v1::TemplateNameStatus",
    storage = false,
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.readyReplicas"),
    printcolumns(
        ("Wanted", "integer", ".spec.replicas"),
        ("Ready", "string", ".status.conditions[?(@.type=='Ready')].status")
    )
)]
#[windlass(
    hub = v1::TemplateName,
    added("/spec/rollout"),
    moved("/spec/maxUnavailable" => "/spec/rollout/maxUnavailable")
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
    /// How many replicas may be missing while another image takes over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(range(min = 1, max = 50))]
    pub max_unavailable: Option<i32>,
}

fn one() -> i32 {
    1
}
