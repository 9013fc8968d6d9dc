//! A hub and its members, each a whole cluster in memory. The operator has in each of them the rights that were derived
//! from it and no more.

mod fleet;
mod simulations;

use std::collections::BTreeMap;

use ::fleet::{FleetApp, FleetAppSpec, Removal, member_account, operator_of};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use minicluster::{
    TestCluster,
    test_cluster::{Builder, Identity, RunningOperator},
};
use serde_json::{Value, json};
use windlass::{
    Operator, Reconcile,
    clusters::{self, ClusterSender, Clusters, FromCode},
};

/// Who the operator is in members.
const USER: &str = "system:serviceaccount:default:fleet";

/// The members of a hub.
struct Members {
    clusters: BTreeMap<String, TestCluster>,
    sender: ClusterSender,
    provider: FromCode,
}

impl Members {
    fn none() -> Self {
        let (sender, provider) = clusters::channel();
        Self { clusters: BTreeMap::new(), sender, provider }
    }

    /// A member of this name and tier joins.
    async fn join(&mut self, name: &str, tier: &str, cluster: Builder) {
        let cluster = cluster.start().await;
        member_account().install(&cluster.client(), "default").await.unwrap();
        self.connect(name, tier, &cluster);
        self.clusters.insert(name.to_owned(), cluster);
    }

    fn connect(&self, name: &str, tier: &str, cluster: &TestCluster) {
        let account = Identity::new(USER, &["system:serviceaccounts"]);
        let labels = [("tier".to_owned(), tier.to_owned())].into();
        self.sender.join(name, cluster.component("fleet", account), labels);
    }

    /// The operator with these members.
    fn operator<C: Reconcile<FleetApp>>(
        &self,
        cleanup: impl Fn(Clusters) -> C + Send + Sync + 'static,
    ) -> Operator {
        let provider = self.provider.clone();
        operator_of(move || provider.clone(), cleanup)
    }

    /// The image that an application has in a member; `None` when it is not there.
    async fn image(&self, member: &str, app: &str) -> Option<String> {
        let deployments: Api<Deployment> = Api::default_namespaced(self.clusters[member].client());
        let pods = deployments.get_opt(app).await.unwrap()?.spec?.template.spec?;
        pods.containers.into_iter().next()?.image
    }
}

/// A hub with the operator in it, and members that run what they are given.
struct World {
    hub: TestCluster,
    members: Members,
    apps: Api<FleetApp>,
    _operator: RunningOperator,
}

fn whole() -> Builder {
    TestCluster::builder().controllers(&["*"]).scheduler().hollow_nodes(1)
}

/// East and west are at the edge, and core is not.
async fn world() -> World {
    let (hub, mut members) = (TestCluster::start().await, Members::none());
    for (name, tier) in [("core", "core"), ("east", "edge"), ("west", "edge")] {
        members.join(name, tier, whole()).await;
    }
    let operator = hub.run_operator(&members.operator(Removal)).await;
    World { apps: Api::default_namespaced(hub.client()), _operator: operator, hub, members }
}

fn edge_app(name: &str) -> FleetApp {
    let clusters = [("tier".to_owned(), "edge".to_owned())].into();
    FleetApp::new(name, FleetAppSpec { image: "web:1".to_owned(), replicas: 2, clusters })
}

impl World {
    async fn create(&self, name: &str) {
        self.apps.create(&PostParams::default(), &edge_app(name)).await.unwrap();
    }

    async fn set(&self, name: &str, spec: Value) {
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.apps.patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// What the status says.
    async fn status(&self, name: &str) -> Vec<String> {
        let status = self.apps.get(name).await.unwrap().status.unwrap();
        let ready = &status.conditions[0];
        let clusters = status.clusters.iter();
        let lines =
            clusters.map(|c| format!("{} {} {}", c.name, c.ready_replicas, c.message).trim().to_owned());
        std::iter::once(format!("{}: {}", ready.status, ready.message)).chain(lines).collect()
    }
}
