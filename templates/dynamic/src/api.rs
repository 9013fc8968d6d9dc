//! The kind TemplateName: which objects have to carry what, and what people are told.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use serde::{Deserialize, Serialize};
use windlass::{CustomResource, Schema};

/// Which objects have to carry what.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "example.com",
    version = "v1alpha1",
    kind = "TemplateName",
    doc = "Labels and annotations that objects of many kinds have to carry.",
    status = "TemplateNameStatus",
    // Its name is a part of an annotation, and of a field manager.
    validation("self.metadata.name.size() <= 63", message = "a name has 63 characters at most"),
    printcolumns(
        ("Objects", "integer", ".status.objects"),
        ("Carrying", "integer", ".status.carrying"),
        ("Ready", "string", ".status.conditions[?(@.type=='Ready')].status")
    )
)]
#[windlass(validation("has(self.labels) || has(self.annotations)", message = "asks for nothing"))]
#[serde(rename_all = "camelCase")]
pub struct TemplateNameSpec {
    /// Kinds by the names of their resources, such as `configmaps`, `deployments.apps` or `*.example.com`.
    #[garde(length(min = 1, max = 50))]
    pub kinds: Vec<String>,
    /// Of these kinds, objects with these labels; all objects when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// Labels that they have to carry.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations that they have to carry.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What people are told.
#[derive(Schema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TemplateNameStatus {
    /// The generation of the spec that this status is about.
    pub observed_generation: Option<i64>,
    /// How many objects are selected.
    #[serde(default)]
    pub objects: i64,
    /// How many of them carry what is asked for.
    #[serde(default)]
    pub carrying: i64,
    /// The same by kind, for kinds that have such objects.
    #[serde(default)]
    #[windlass(list = "map", key = "kind")]
    pub kinds: Vec<TemplateNameKind>,
    /// `Ready` is true when every selected object carries what is asked for.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// How far a kind is.
#[derive(Schema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TemplateNameKind {
    /// Such as `deployments.apps`.
    pub kind: String,
    /// How many of its objects are selected.
    pub objects: i64,
    /// How many of them carry what is asked for.
    pub carrying: i64,
}
