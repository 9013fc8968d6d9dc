//! The operator in a cluster in memory, under virtual time. It runs as its own service account with the roles that were
//! derived from it, so that a missing right fails here.

mod controller;
mod webhooks;

use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use minicluster::{
    TestCluster,
    test_cluster::{Builder, RunningOperator},
};
use serde_json::{Value, json};
use template_name::{TemplateName, TemplateNameSpec, operator};

struct World {
    cluster: TestCluster,
    operator: Option<RunningOperator>,
    objects: Api<TemplateName>,
}

/// A cluster with the operator in it.
async fn world(builder: Builder) -> World {
    let cluster = builder.start().await;
    World {
        operator: Some(cluster.run_operator(&operator()).await),
        objects: Api::default_namespaced(cluster.client()),
        cluster,
    }
}

/// All controllers, a scheduler and two nodes: what an object asks for is run.
fn whole() -> Builder {
    TestCluster::builder().controllers(&["*"]).scheduler().hollow_nodes(2)
}

fn object(name: &str, replicas: i32) -> TemplateName {
    TemplateName::new(name, TemplateNameSpec { image: "web:1".to_owned(), replicas, team: None })
}

impl World {
    async fn create(&self, name: &str, replicas: i32) -> kube::Result<TemplateName> {
        self.objects.create(&PostParams::default(), &object(name, replicas)).await
    }

    /// Changes fields of an object.
    async fn change(&self, name: &str, what: Value) -> kube::Result<TemplateName> {
        self.objects.patch(name, &PatchParams::default(), &Patch::Merge(what)).await
    }

    /// The operator goes away; its webhooks with it.
    async fn stop_operator(&mut self) {
        if let Some(operator) = self.operator.take() {
            operator.stop().await;
        }
    }

    async fn set(&self, name: &str, spec: Value) {
        self.change(name, json!({ "spec": spec })).await.unwrap();
    }
}
