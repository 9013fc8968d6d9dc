//! The operator in a cluster in memory, under virtual time. It runs as its own service account with the roles that were
//! derived from it, so that a missing right fails here.

mod behaviour;
mod simulations;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use labels::{Planted, Standard, StandardStatus, with};
use minicluster::{TestCluster, test_cluster::RunningOperator};
use serde_json::{Value, json};
use windlass::ConditionsExt;

/// What people do, and see.
struct People {
    namespaces: Api<Namespace>,
    standards: Api<Standard>,
    maps: Api<ConfigMap>,
}

/// The operator in a cluster that has a namespace `shop`.
async fn begin(cluster: &TestCluster, planted: Planted) -> (People, RunningOperator) {
    let operator = cluster.run_operator(&with(planted)).await;
    let people = People {
        namespaces: Api::all(cluster.client()),
        standards: Api::all(cluster.client()),
        maps: Api::namespaced(cluster.client(), "shop"),
    };
    let shop = json!({ "metadata": { "name": "shop", "labels": { "cost-centre": "a" } } });
    people
        .namespaces
        .create(&PostParams::default(), &serde_json::from_value(shop).unwrap())
        .await
        .unwrap();
    (people, operator)
}

impl People {
    async fn ask(&self, more: Value) {
        let mut spec = json!({ "label": "cost-centre", "kinds": ["configmaps"], "exemptNamespaces": ["kube-*", "default"] });
        spec.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let standard = Standard::new("costs", serde_json::from_value(spec).unwrap());
        self.standards
            .create(&PostParams::default(), &standard)
            .await
            .unwrap();
    }

    async fn change(&self, spec: Value) {
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.standards
            .patch("costs", &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    async fn map(&self, name: &str, labels: Value, annotations: Value) -> kube::Result<ConfigMap> {
        let map = json!({ "metadata": { "name": name, "labels": labels, "annotations": annotations } });
        self.maps
            .create(&PostParams::default(), &serde_json::from_value(map).unwrap())
            .await
    }

    async fn centre(&self, value: Value) {
        let patch = Patch::Merge(json!({ "metadata": { "labels": { "cost-centre": value } } }));
        self.namespaces
            .patch("shop", &PatchParams::default(), &patch)
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

    async fn status(&self) -> StandardStatus {
        self.standards
            .get("costs")
            .await
            .unwrap()
            .status
            .unwrap_or_default()
    }

    /// Status, reason and message of the condition `Compliant`.
    async fn compliant(&self) -> String {
        let status = self.status().await;
        let found = status.conditions.condition("Compliant");
        found.map_or_else(String::new, |found| {
            format!("{} {}: {}", found.status, found.reason, found.message)
        })
    }
}

/// The labels of a cost centre.
fn centre(value: &str) -> BTreeMap<String, String> {
    [("cost-centre".to_owned(), value.to_owned())].into()
}
