//! The operator in a cluster in memory, under virtual time. It runs as its own service account with the roles that were
//! derived from it, so that a missing right fails here.

mod kinds;
mod objects;

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::core::v1::ConfigMap, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
};
use minicluster::{
    TestCluster,
    test_cluster::{Builder, RunningOperator},
};
use serde_json::{Value, json};
use template_name::{TemplateName, operator};
use windlass::ConditionsExt;

/// Longer than it takes to notice that a kind came or went.
const NOTICED: Duration = Duration::from_secs(15);

struct World {
    cluster: TestCluster,
    _operator: RunningOperator,
    policies: Api<TemplateName>,
    maps: Api<ConfigMap>,
}

/// A cluster with the operator in it.
async fn world(builder: Builder) -> World {
    let cluster = builder.start().await;
    World {
        _operator: cluster.run_operator(&operator()).await,
        policies: Api::all(cluster.client()),
        maps: Api::default_namespaced(cluster.client()),
        cluster,
    }
}

impl World {
    async fn ask(&self, name: &str, spec: Value) {
        let policy = TemplateName::new(name, serde_json::from_value(spec).unwrap());
        self.policies
            .create(&PostParams::default(), &policy)
            .await
            .unwrap();
    }

    async fn change(&self, name: &str, spec: Value) {
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.policies
            .patch(name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    async fn map(&self, name: &str, labels: Value) {
        let map = json!({ "metadata": { "name": name, "labels": labels }, "data": { "kept": "yes" } });
        self.maps
            .create(&PostParams::default(), &serde_json::from_value(map).unwrap())
            .await
            .unwrap();
    }

    async fn labels(&self, name: &str) -> BTreeMap<String, String> {
        self.maps
            .get(name)
            .await
            .unwrap()
            .metadata
            .labels
            .unwrap_or_default()
    }

    /// Status, reason and message of the condition `Ready`.
    async fn ready(&self, name: &str) -> String {
        let status = self.policies.get(name).await.unwrap().status.unwrap_or_default();
        let ready = status.conditions.condition("Ready");
        ready.map_or_else(String::new, |ready| {
            format!("{} {}: {}", ready.status, ready.reason, ready.message)
        })
    }

    /// Boats are a kind from now on.
    async fn define(&self) {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.cluster.client());
        let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
        let definition = json!({
            "metadata": { "name": "boats.example.com" },
            "spec": {
                "group": "example.com",
                "scope": "Namespaced",
                "names": { "plural": "boats", "singular": "boat", "kind": "Boat" },
                "versions": [
                    { "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema } },
                ],
            },
        });
        let definition = serde_json::from_value(definition).unwrap();
        definitions
            .create(&PostParams::default(), &definition)
            .await
            .unwrap();
    }

    fn boats(&self) -> Api<DynamicObject> {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v1", "Boat"));
        Api::default_namespaced_with(self.cluster.client(), &kind)
    }

    async fn launch(&self, name: &str) {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v1", "Boat"));
        self.boats()
            .create(&PostParams::default(), &DynamicObject::new(name, &kind))
            .await
            .unwrap();
    }
}

/// The labels of this text: `a=1,b=2`.
fn labels(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}
