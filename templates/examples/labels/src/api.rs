//! The kind Standard: which label is inherited, how much there may be, and what people are told.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::{Deserialize, Serialize};
use windlass::{CustomResource, Schema};

/// Which label is inherited, and how much there may be.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "labels.dev",
    version = "v1",
    kind = "Standard",
    doc = "A label that objects have from their namespace, and how many objects a namespace may have.",
    status = "StandardStatus",
    validation(
        "self.metadata.name.size() <= 63",
        message = "a name has 63 characters at most"
    ),
    printcolumns(
        ("Objects", "integer", ".status.objects"),
        ("Violations", "integer", ".status.violationCount"),
        ("Compliant", "string", ".status.conditions[?(@.type=='Compliant')].status")
    )
)]
#[serde(rename_all = "camelCase")]
pub struct StandardSpec {
    /// The label, such as `cost-centre`.
    #[garde(length(min = 1, max = 63))]
    #[windlass(validation(
        "self.matches('^[a-z0-9]([-a-z0-9./]*[a-z0-9])?$')",
        message = "is no name of a label"
    ))]
    pub label: String,
    /// Kinds by the names of their resources, such as `configmaps` or `*.apps`.
    #[garde(length(min = 1, max = 50))]
    pub kinds: Vec<String>,
    /// Namespaces that it is not about, such as `kube-*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exempt_namespaces: Vec<String>,
    /// How many objects a namespace may have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[windlass(list = "map", key = "kind")]
    pub quotas: Vec<Quota>,
    /// Whether other values are refused when somebody writes them.
    #[serde(default)]
    pub enforce: bool,
}

/// How many objects of a kind a namespace may have.
#[derive(Schema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Quota {
    /// The name of the resource, such as `configmaps`.
    pub kind: String,
    /// The most there may be.
    #[garde(range(min = 0))]
    pub limit: i64,
}

/// What people are told.
#[derive(Schema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StandardStatus {
    /// The generation of the spec that this status is about.
    pub observed_generation: Option<i64>,
    /// How many objects it is about.
    #[serde(default)]
    pub objects: i64,
    /// How many are exempt.
    #[serde(default)]
    pub exempt: i64,
    /// How much of each quota is used.
    #[serde(default)]
    pub usage: Vec<Usage>,
    /// How many violations there are.
    #[serde(default)]
    pub violation_count: i64,
    /// The first of them.
    #[serde(default)]
    pub violations: Vec<Violation>,
    /// `Compliant` is true when every object carries its label and no quota is exceeded.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// How much of a quota is used.
#[derive(Schema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Usage {
    /// The namespace.
    pub namespace: String,
    /// The name of the resource.
    pub kind: String,
    /// How many there are.
    pub objects: i64,
    /// The most there may be.
    pub limit: i64,
}

/// What is wrong, and cannot be put right by the operator.
#[derive(Schema, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub struct Violation {
    /// Where.
    pub namespace: String,
    /// A word: `NoLabel` or `OverQuota`.
    pub reason: String,
    /// A sentence.
    pub message: String,
}
