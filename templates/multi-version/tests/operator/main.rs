//! The operator in a cluster in memory, under virtual time. It runs as its own service account with the roles that were
//! derived from it, so that a missing right fails here; versions are converted over TLS, as in any cluster.

mod controller;
mod upgrade;
mod versions;

use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use minicluster::{
    TestCluster,
    test_cluster::{Builder, RunningOperator},
};
use serde_json::{Value, json};
use template_name::{
    Rollout, TemplateName, TemplateNameSpec,
    api::{v1alpha1, v1beta1},
    operator,
};

struct World {
    cluster: TestCluster,
    operator: RunningOperator,
    objects: Api<TemplateName>,
    betas: Api<v1beta1::TemplateName>,
    alphas: Api<v1alpha1::TemplateName>,
}

/// A cluster with the operator in it.
async fn world(builder: Builder) -> World {
    let cluster = builder.controllers(&["*"]).scheduler().hollow_nodes(2).start().await;
    World {
        operator: cluster.run_operator(&operator()).await,
        objects: Api::default_namespaced(cluster.client()),
        betas: Api::default_namespaced(cluster.client()),
        alphas: Api::default_namespaced(cluster.client()),
        cluster,
    }
}

impl World {
    async fn create(&self, name: &str, replicas: i32) {
        let spec = TemplateNameSpec { image: "web:1".to_owned(), replicas, rollout: Rollout::default() };
        self.objects.create(&PostParams::default(), &TemplateName::new(name, spec)).await.unwrap();
    }

    async fn set(&self, name: &str, spec: Value) {
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.objects.patch(name, &PatchParams::default(), &patch).await.unwrap();
    }
}
