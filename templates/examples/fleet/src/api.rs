//! The kind FleetApp: what people ask for, and what they are told.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::{Deserialize, Serialize};
use windlass::{CustomResource, Schema};

/// What people ask for.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "fleet.example.com",
    version = "v1alpha1",
    kind = "FleetApp",
    namespaced,
    doc = "An image that runs on every cluster with these labels.",
    status = "FleetAppStatus",
    shortname = "fa",
    printcolumns(
        ("Clusters", "integer", ".status.selected"),
        ("Ready", "string", ".status.conditions[?(@.type=='Ready')].status")
    )
)]
#[serde(rename_all = "camelCase")]
pub struct FleetAppSpec {
    /// The image that every replica runs.
    #[garde(length(min = 1, max = 500))]
    pub image: String,
    /// How many replicas run on each cluster.
    #[serde(default = "one")]
    #[garde(range(min = 0, max = 50))]
    pub replicas: i32,
    /// The labels of the clusters that it runs on. Every cluster has to have all of them; none means every cluster.
    #[serde(default)]
    pub clusters: BTreeMap<String, String>,
}

/// What people are told.
#[derive(Schema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FleetAppStatus {
    /// The generation of the spec that this status is about.
    pub observed_generation: Option<i64>,
    /// How many clusters are selected.
    #[serde(default)]
    pub selected: usize,
    /// How far it is on each cluster, by name.
    #[serde(default)]
    #[windlass(list = "map", key = "name")]
    pub clusters: Vec<ClusterStatus>,
    /// `Ready` is true when every selected cluster runs what the spec asks for.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// How far an application is on one cluster.
#[derive(Schema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// Which cluster.
    pub name: String,
    /// Whether it runs there as the spec asks for.
    pub ready: bool,
    /// How many replicas are ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Why it is not ready.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

fn one() -> i32 {
    1
}
