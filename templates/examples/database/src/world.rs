//! A whole cluster in memory for tests: all controllers, a scheduler, nodes, webhooks over TLS, and virtual time. The operator
//! runs as its own service account with the roles that were derived from it.

use std::{fmt::Debug, time::Duration};

use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Resource,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use minicluster::{
    TestCluster,
    test_cluster::{Builder, RunningOperator},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use windlass::ConditionsExt;

use crate::{Database, DatabaseStatus, children::BACKUP_OF, database, last_backup::Earlier, operator_that};

pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// How long a backup takes.
pub(crate) const BACKUP: Duration = Duration::from_secs(40);

pub(crate) fn control_plane() -> Builder {
    TestCluster::builder().controllers(&["*"]).scheduler()
}

pub(crate) fn builder() -> Builder {
    control_plane().hollow_nodes(2)
}

/// What people do, and see.
pub(crate) struct World<'a> {
    pub(crate) cluster: &'a TestCluster,
    pub(crate) databases: Api<Database>,
    _operator: RunningOperator,
}

/// Runs the operator, and lets backups take their time.
pub(crate) async fn world(cluster: &TestCluster, earlier: Earlier) -> World<'_> {
    cluster.pods(BACKUP_OF).run(|process| async move {
        let stopped = tokio::time::timeout(BACKUP, process.stopped()).await;
        if stopped.is_ok() { 143 } else { 0 }
    });
    let _operator = cluster.run_operator(&operator_that(earlier)).await;
    World { cluster, databases: Api::default_namespaced(cluster.client()), _operator }
}

impl World<'_> {
    pub(crate) async fn create(&self, replicas: i32) -> Database {
        self.databases.create(&PostParams::default(), &database("main", replicas)).await.unwrap()
    }

    /// Creates a database, and waits until it is ready.
    pub(crate) async fn start(&self, replicas: i32) {
        self.create(replicas).await;
        self.ready(10 * MINUTE).await;
    }

    pub(crate) async fn set(&self, spec: Value) -> Result<Database, kube::Error> {
        self.patch(json!({ "spec": spec })).await
    }

    pub(crate) async fn patch(&self, patch: Value) -> Result<Database, kube::Error> {
        self.databases.patch("main", &PatchParams::default(), &Patch::Merge(patch)).await
    }

    pub(crate) async fn status(&self) -> DatabaseStatus {
        self.databases.get("main").await.unwrap().status.unwrap_or_default()
    }

    /// Status, reason and message of a condition.
    pub(crate) async fn condition(&self, type_: &str) -> String {
        let status = self.status().await;
        let found = status.conditions.condition(type_);
        found.map_or_else(String::new, |c| format!("{} {}: {}", c.status, c.reason, c.message))
    }

    /// Waits until what is asked for now is ready.
    pub(crate) async fn ready(&self, within: Duration) {
        let ready = async || {
            let db = self.databases.get("main").await.unwrap();
            let status = db.status.filter(|status| status.observed_generation == db.metadata.generation)?;
            status.conditions.condition("Ready").filter(|ready| ready.status == "True").map(|_| ())
        };
        self.cluster.eventually("the database is ready", within, ready).await;
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::default_namespaced(self.cluster.client())
    }

    pub(crate) async fn all<K>(&self, labels: &str) -> Vec<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
        K::DynamicType: Default,
    {
        self.api::<K>().list(&ListParams::default().labels(labels)).await.unwrap().items
    }
}
