//! A cluster for a test: API server, chosen controllers, and a kubelet that makes every pod ready at once.

use std::{fmt::Debug, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    core::NamespaceResourceScope,
};
use minicluster_apiserver::{Api as Server, Config, Identity, InProcess, bootstrap};
use minicluster_store::Store;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinHandle};
use windlass::{Action, Controller, Error, Key, Manager, Reconcile, Request, random::Source};
use windlass_controllers::{Options, RunOptions};

use crate::faults::Faulty;

/// A running cluster; it ends when dropped.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    _stops: Vec<oneshot::Sender<()>>,
}

impl Cluster {
    /// An API server, these controllers (as in `--controllers`) and the kubelet.
    pub(crate) async fn start(controllers: &str) -> Self {
        Self::start_with(controllers, None).await
    }

    /// The same, with faults between the controllers and the server, drawn from a seed.
    pub(crate) async fn start_with(controllers: &str, faults: Option<u64>) -> Self {
        let server = server().await;
        let client = Client::new(InProcess::new(&server, Identity::system()), "default");
        let mut cluster = Self { client, _stops: Vec::new() };
        let run = RunOptions {
            controllers: controllers.split(',').map(str::to_owned).collect(),
            seed: Some(faults.unwrap_or(1)),
            options: Options { root_ca: Some("the CA".into()), ..Options::default() },
            ..RunOptions::default()
        };
        let identity = Identity::new("system:kube-controller-manager", &[]);
        let door = InProcess::new(&server, identity);
        let own = match faults {
            None => Client::new(door, "default"),
            Some(seed) => Client::new(Faulty::new(door, Source::seeded(seed)), "default"),
        };
        let manager = windlass_controllers::manager(own, &run).unwrap();
        cluster.run(manager);
        let mut kubelet = Manager::seeded(cluster.client.clone(), Source::seeded(2));
        kubelet.add(Controller::<Pod>::new("kubelet").workers(1).build(Kubelet));
        cluster.run(kubelet.build());
        cluster
    }

    fn run(&mut self, manager: Manager) -> JoinHandle<()> {
        let (stop, stopped) = oneshot::channel::<()>();
        self._stops.push(stop);
        tokio::spawn(async move {
            let _ = manager.run(async { drop(stopped.await) }).await;
        })
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    pub(crate) async fn create<K>(&self, object: Value) -> K
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + DeserializeOwned
            + Serialize
            + Clone
            + Debug,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api().create(&PostParams::default(), &object).await.unwrap()
    }

    pub(crate) async fn patch<K>(&self, name: &str, patch: Value) -> K
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + DeserializeOwned
            + Clone
            + Debug,
    {
        self.api().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap()
    }

    pub(crate) async fn list<K>(&self, selector: &str) -> Vec<K>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + DeserializeOwned
            + Clone
            + Debug,
    {
        self.api().list(&ListParams::default().labels(selector)).await.unwrap().items
    }
}

/// Lets the cluster work for a while of virtual time.
pub(crate) async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

async fn server() -> std::sync::Arc<Server> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let config = Config::new(key.serialize_der());
    let server = Server::new(Store::memory(), config).unwrap();
    bootstrap::run(&server, None).await.unwrap();
    server
}

/// Makes every pod ready, and lets every pod that is being deleted go.
struct Kubelet;

impl Reconcile<Pod> for Kubelet {
    async fn reconcile(&self, request: Request<Pod>) -> Result<Action, Error> {
        let Some(pod) = request.object else { return Ok(Action::Done) };
        if pod.metadata.deletion_timestamp.is_some() {
            let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
            request.client.delete_with(&*pod, now).await?;
            return Ok(Action::Done);
        }
        let held = pod.metadata.labels.as_ref().is_some_and(|l| l.contains_key("never-ready"));
        let ready = pod.status.as_ref().is_some_and(|s| s.pod_ip.is_some());
        if !ready && !held {
            let now = windlass::clock::time();
            let ip = address(&request.key);
            let condition = json!({"type": "Ready", "status": "True", "lastTransitionTime": now});
            let status = json!({
                "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "startTime": now, "conditions": [condition],
            });
            request
                .client
                .patch_status::<Pod>(&request.key, &Patch::Merge(json!({"status": status})))
                .await?;
        }
        Ok(Action::Done)
    }
}

fn address(key: &Key) -> String {
    let hash = key.as_str().bytes().fold(7_u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
    format!("10.244.{}.{}", hash / 251 % 251, hash % 251)
}
