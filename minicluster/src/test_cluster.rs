//! A whole cluster inside one test: the real API server in memory, chosen controllers, the scheduler, hollow nodes.
//!
//! No ports, no files, no downloads. Under `#[tokio::test(start_paused = true)]` time is virtual: five minutes of
//! eviction pass in milliseconds. Everything random comes from one seed.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use k8s_openapi::api::core::v1::Namespace;
//! use kube::Api;
//! use minicluster::TestCluster;
//!
//! let cluster = TestCluster::start().await;
//! let namespaces: Api<Namespace> = Api::all(cluster.client());
//! assert!(namespaces.get_opt("kube-system").await?.is_some());
//! # Ok(())
//! # }
//! ```

mod faults;
mod transcript;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use kube::Client;
pub use minicluster_apiserver::Identity;
use minicluster_apiserver::{
    Api as ApiServer, Config, InProcess, admission::Settings as AdmissionSettings, authn, authz, bootstrap,
};
use minicluster_kubelet::{self as kubelet, Kubelet, Pods, runtime::hollow::HollowRuntime};
use minicluster_store::Store;
use parking_lot::Mutex;
use tokio::{runtime::RuntimeFlavor, task::JoinSet};
use windlass::{
    CancellationToken, Informers, Manager,
    clock::{self, Simulated},
    random::Source,
};
use windlass_controllers::RunOptions;
use windlass_scheduler::Scheduler;

pub use faults::Faults;
pub use transcript::Write;

use transcript::Transcript;

use crate::{cluster::VERSION, pki::Pki};

/// How long nothing may be written until a cluster counts as settled.
const QUIET: Duration = Duration::from_millis(500);
/// How long [`TestCluster::settle`] waits at most.
const SETTLE_MAX: Duration = Duration::from_secs(120);

/// When a simulation begins: the first second of 2026.
const WALL_START: Timestamp = Timestamp::constant(1_767_225_600, 0);

/// What a test's cluster consists of.
#[derive(Clone, Debug)]
pub struct Builder {
    authentication: authn::Settings,
    authorization: authz::Settings,
    controllers: Vec<String>,
    scheduler: bool,
    nodes: u32,
    seed: u64,
    faults: Faults,
    admission: AdmissionSettings,
}

impl Builder {
    /// Runs these controllers, in the syntax of `--controllers`; `["*"]` for all.
    #[must_use]
    pub fn controllers(mut self, names: &[&str]) -> Self {
        self.controllers = names.iter().map(|n| (*n).to_owned()).collect();
        self
    }

    /// Runs the scheduler.
    #[must_use]
    pub fn scheduler(mut self) -> Self {
        self.scheduler = true;
        self
    }

    /// Runs this many hollow nodes, `hollow-0` and so on.
    #[must_use]
    pub fn hollow_nodes(mut self, count: u32) -> Self {
        self.nodes = count;
        self
    }

    /// Draws everything random from this seed.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Tells the API server which admission plugins run, and how.
    #[must_use]
    pub fn admission(mut self, settings: AdmissionSettings) -> Self {
        self.admission = settings;
        self
    }

    /// Who is who.
    #[must_use]
    pub fn authentication(mut self, settings: authn::Settings) -> Self {
        self.authentication = settings;
        self
    }

    /// Who may do what.
    #[must_use]
    pub fn authorization(mut self, settings: authz::Settings) -> Self {
        self.authorization = settings;
        self
    }

    /// Makes the components' requests fail and their watches break now and then.
    #[must_use]
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// Starts the cluster.
    ///
    /// # Panics
    /// When a controller's name is unknown, or a setting is wrong: a test that is wrong should say so at once.
    pub async fn start(self) -> TestCluster {
        let clock = simulated_clock();
        let transcript = Transcript::default();
        let store = Store::direct(transcript.clone()).expect("nothing to load");
        let pki = Pki::in_memory().expect("keys can be made");
        let config = Config {
            ca_pem: pki.ca_pem().to_owned(),
            git_version: VERSION.to_owned(),
            seed: self.seed,
            admission: self.admission.clone(),
            authorization: self.authorization.clone(),
            authentication: self.authentication.clone(),
            aggregation: pki.aggregation().expect("certificates can be made"),
            ..Config::new(pki.token_key())
        };
        let api = ApiServer::new(store.clone(), config).unwrap_or_else(|e| panic!("{e}"));
        bootstrap::run(&api, None).await.expect("a store in memory takes every write");
        let mut cluster = TestCluster {
            api,
            store,
            seed: self.seed,
            random: Source::seeded(self.seed),
            faults: self.faults.clone(),
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
            nodes: Mutex::default(),
            informers: None,
            transcript,
            _clock: clock,
        };
        cluster.start_parts(&self, pki.ca_pem());
        cluster
    }
}

/// A running cluster; it ends when it is dropped.
pub struct TestCluster {
    api: Arc<ApiServer>,
    store: Store,
    seed: u64,
    random: Source,
    faults: Faults,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    nodes: Mutex<BTreeMap<String, (u32, CancellationToken)>>,
    informers: Option<(Informers, Pods)>,
    transcript: Transcript,
    _clock: Option<Simulated>,
}

impl TestCluster {
    /// An API server alone: no controllers, no nodes. See [`TestCluster::builder`] for more.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Chooses what the cluster consists of.
    pub fn builder() -> Builder {
        Builder {
            authentication: authn::Settings::default(),
            authorization: authz::Settings::default(),
            controllers: Vec::new(),
            scheduler: false,
            nodes: 0,
            seed: 1,
            faults: Faults::default(),
            admission: AdmissionSettings::default(),
        }
    }

    /// A client that may do anything, and that no fault reaches.
    pub fn client(&self) -> Client {
        Client::new(InProcess::new(&self.api, Identity::system()), "default")
    }

    /// A client of a user in some groups.
    pub fn client_as(&self, user: &str, groups: &[&str]) -> Client {
        Client::new(InProcess::new(&self.api, Identity::new(user, groups)), "default")
    }

    /// A client that nobody vouches for: who it is, the headers of its requests have to say.
    pub fn client_of_stranger(&self) -> Client {
        Client::new(InProcess::stranger(&self.api), "default")
    }

    /// A client of exactly this user: no group is added.
    pub fn client_for(&self, identity: Identity) -> Client {
        Client::new(InProcess::new(&self.api, identity), "default")
    }

    /// The seed that everything random was drawn from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Everything that was written so far, in order. Under paused time it depends on the seed alone, and on what the
    /// test did: a failure is replayed by its seed.
    pub fn transcript(&self) -> Vec<Write> {
        self.transcript.lines()
    }

    /// Makes the store's disk refuse every write, as a full one does, until it is told otherwise.
    pub fn fill_disk(&self, full: bool) {
        self.transcript.fail(full);
    }

    /// Lets virtual time pass.
    pub async fn advance(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Waits until nothing has been written for half a second. False when writing never ceased for two minutes.
    pub async fn settle(&self) -> bool {
        let until = tokio::time::Instant::now() + SETTLE_MAX;
        while tokio::time::Instant::now() < until {
            let before = self.store.revision();
            tokio::time::sleep(QUIET).await;
            if self.store.revision() == before {
                return true;
            }
        }
        false
    }

    /// Stops a hollow node's kubelet without a word, as a power cut does.
    pub fn lose_node(&self, name: &str) {
        if let Some((_, stop)) = self.nodes.lock().get(name) {
            stop.cancel();
        }
    }

    /// A client for a program under test, an operator for instance: the cluster's faults are in its way, drawn from the
    /// seed and this name.
    pub fn component(&self, name: &str, identity: Identity) -> Client {
        let service = InProcess::new(&self.api, identity);
        Client::new(self.faults.wrap(service, self.random.fork(name)), "default")
    }

    fn start_parts(&mut self, wanted: &Builder, ca_pem: &str) {
        let api = Arc::clone(&self.api);
        self.tasks.spawn(async move { api.maintain().await });
        if !wanted.controllers.is_empty() {
            let client = self.component("controllers", Identity::new("system:kube-controller-manager", &[]));
            let run = RunOptions {
                controllers: wanted.controllers.clone(),
                seed: Some(self.seed),
                options: windlass_controllers::Options {
                    root_ca: Some(ca_pem.to_owned()),
                    ..Default::default()
                },
                ..RunOptions::default()
            };
            let manager = windlass_controllers::manager(client, &run).unwrap_or_else(|e| panic!("{e}"));
            self.run(manager);
        }
        if wanted.scheduler {
            let client = self.component("scheduler", Identity::new("system:kube-scheduler", &[]));
            let mut manager = Manager::seeded(client, self.random.fork("scheduling"));
            manager.add(Scheduler);
            self.run(manager.build());
        }
        if wanted.nodes > 0 {
            let client = self.component("nodes", Identity::system());
            let informers = Informers::seeded(client, self.random.fork("kubelets"));
            let pods = Pods::of_all(&informers);
            self.informers = Some((informers, pods));
            for i in 0..wanted.nodes {
                self.start_node(i);
            }
        }
    }

    fn start_node(&mut self, i: u32) {
        let Some((informers, pods)) = &self.informers else { return };
        let name = format!("hollow-{i}");
        let stop = self.stop.child_token();
        let [_, _, high, low] = i.to_be_bytes();
        let runtime = Arc::new(HollowRuntime::new(Ipv4Addr::new(100, 64 + (high & 63), low, 1)));
        let config = kubelet::Config::hollow(&name, IpAddr::V4(Ipv4Addr::new(10, 0, high, low)));
        let kubelet = Kubelet::new(config, informers, pods.clone(), runtime);
        self.nodes.lock().insert(name, (i, stop.clone()));
        self.tasks.spawn(kubelet.run(stop, |_| {}));
    }

    fn run(&mut self, manager: Manager) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            if let Err(error) = manager.run(stop.cancelled_owned()).await {
                tracing::error!(%error, "a part of the test cluster stopped");
            }
        });
    }
}

/// On a runtime of one thread, where time can be paused, the wall clock starts at the same moment in each run.
fn simulated_clock() -> Option<Simulated> {
    let flavor = tokio::runtime::Handle::current().runtime_flavor();
    (flavor == RuntimeFlavor::CurrentThread).then(|| clock::simulate(WALL_START))
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
