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

mod door;
#[cfg(feature = "explore")]
mod explore;
mod faults;
mod listen;
mod nodes;
mod operators;
mod snapshot;
mod transcript;
mod waits;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use kube::Client;
pub use minicluster_apiserver::Identity;
use minicluster_apiserver::{
    Api as ApiServer, Config, admission::Settings as AdmissionSettings, authn, authz, bootstrap, pipes::Pipes,
};
use minicluster_kubelet::Pods;
use minicluster_store::Store;
use parking_lot::Mutex;
use tokio::{
    runtime::RuntimeFlavor,
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};
use windlass::{
    CancellationToken, Informers, Manager,
    clock::{self, Simulated},
    random::Source,
    webhook::Connections,
};
use windlass_controllers::RunOptions;
use windlass_scheduler::Scheduler;

#[cfg(feature = "explore")]
pub use explore::{Explorer, explore};
pub use faults::{Fault, Faults, Injected};
pub use listen::Listening;
pub use nodes::{Process, ScriptedPods};
pub use operators::RunningOperator;
pub use snapshot::Snapshot;
pub use transcript::{Asked, Line, Write};

use door::{Door, Server};
use nodes::{Node, Scripts};
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
        let pki = Arc::new(Pki::in_memory().expect("keys can be made"));
        let seed = self.seed;
        TestCluster::begin(self, seed, pki, None).await
    }

    fn api(&self, store: &Store, pki: &Pki, pipes: &Pipes) -> Arc<ApiServer> {
        let config = Config {
            ca_pem: pki.ca_pem().to_owned(),
            git_version: VERSION.to_owned(),
            seed: self.seed,
            admission: self.admission.clone(),
            authorization: self.authorization.clone(),
            authentication: self.authentication.clone(),
            aggregation: pki.aggregation().expect("certificates can be made"),
            pipes: pipes.clone(),
            ..Config::new(pki.token_key())
        };
        ApiServer::new(store.clone(), config).unwrap_or_else(|e| panic!("{e}"))
    }
}

/// A running cluster; it ends when it is dropped.
pub struct TestCluster {
    wanted: Builder,
    seed: u64,
    pki: Arc<Pki>,
    pipes: Pipes,
    api: Arc<ApiServer>,
    server: Arc<Server>,
    store: Store,
    random: Source,
    stop: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
    upkeep: AbortHandle,
    nodes: Mutex<BTreeMap<String, Node>>,
    scripts: Scripts,
    informers: Option<(Informers, Pods)>,
    clock: Option<Simulated>,
}

impl fmt::Debug for TestCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestCluster").field("seed", &self.seed).finish_non_exhaustive()
    }
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

    /// Everything up to the parts, which begin last. `seed` is what the test was told; a cluster from a snapshot draws
    /// from one of its own.
    async fn begin(wanted: Builder, seed: u64, pki: Arc<Pki>, from: Option<&Snapshot>) -> Self {
        let clock = simulated_clock(from.map_or(WALL_START, |from| from.at));
        let (store, transcript) = match from {
            Some(from) => {
                let transcript = Transcript::starting_at(from.state.revision());
                (Store::branch(&from.state, transcript.clone()), transcript)
            }
            None => {
                let transcript = Transcript::default();
                (Store::direct(transcript.clone()).expect("nothing to load"), transcript)
            }
        };
        let pipes = Pipes::default();
        let api = wanted.api(&store, &pki, &pipes);
        match from {
            Some(_) => api.set_bootstrapped(),
            None => bootstrap::run(&api, None).await.expect("a store in memory takes every write"),
        }
        let mut tasks = JoinSet::new();
        let mut cluster = Self {
            server: Server::new(&api, transcript),
            upkeep: upkeep(&mut tasks, &api),
            api,
            store,
            seed,
            random: Source::seeded(wanted.seed),
            stop: CancellationToken::new(),
            tasks: Mutex::new(tasks),
            nodes: Mutex::default(),
            scripts: from.map(|from| from.scripts.branch()).unwrap_or_default(),
            informers: None,
            clock,
            pki,
            pipes,
            wanted,
        };
        cluster.start_parts();
        match from {
            Some(from) => from.nodes.iter().for_each(|(number, frozen)| cluster.thaw_node(*number, frozen)),
            None => (0..cluster.wanted.nodes).for_each(|number| cluster.start_node(number)),
        }
        cluster
    }

    fn door(&self, identity: Option<Identity>) -> Client {
        Client::new(Door { server: Arc::clone(&self.server), identity, line: None }, "default")
    }

    /// A client that may do anything, and that no fault reaches.
    pub fn client(&self) -> Client {
        self.door(Some(Identity::system()))
    }

    /// A client of a user in some groups.
    pub fn client_as(&self, user: &str, groups: &[&str]) -> Client {
        self.door(Some(Identity::new(user, groups)))
    }

    /// A client that nobody vouches for: who it is, the headers of its requests have to say.
    pub fn client_of_stranger(&self) -> Client {
        self.door(None)
    }

    /// A client of exactly this user: no group is added.
    pub fn client_for(&self, identity: Identity) -> Client {
        self.door(Some(identity))
    }

    /// A client for a program under test, an operator for instance: the cluster's faults are in its way, drawn from the
    /// seed and this name.
    pub fn component(&self, name: &str, identity: Identity) -> Client {
        let line = Some((self.wanted.faults.clone(), self.random.fork(name)));
        Client::new(Door { server: Arc::clone(&self.server), identity: Some(identity), line }, "default")
    }

    /// What an API server sends to a Service, webhooks above all, comes in here from now on, without sockets; Endpoints
    /// and pods are not needed. Also for `https://NAME.NAMESPACE.svc` in URLs.
    pub fn serve(&self, namespace: &str, service: &str, port: u16) -> Connections {
        let mut streams = self.pipes.listen(&format!("{service}.{namespace}.svc"), port);
        let (send, receive) = mpsc::channel(1);
        self.tasks.lock().spawn(async move {
            while let Some(stream) = streams.recv().await {
                if send.send(Box::new(stream) as _).await.is_err() {
                    return;
                }
            }
        });
        receive
    }

    /// The seed that everything random was drawn from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Everything that was written so far, in order. Under paused time it depends on the seed alone, and on what the
    /// test did: a failure is replayed by its seed.
    pub fn transcript(&self) -> Vec<Write> {
        self.server.transcript.lines()
    }

    /// The newest 65,536 requests with what came of them, and every write, in order.
    pub fn journal(&self) -> Vec<Line> {
        self.server.transcript.all()
    }

    /// Makes the store's disk refuse every write, as a full one does, until it is told otherwise.
    pub fn fill_disk(&self, full: bool) {
        self.server.transcript.fail(full);
    }

    /// Lets something go wrong from now on.
    pub fn inject(&self, fault: Fault) -> Injected {
        let stale = fault.is_stale().then(|| {
            let past = Store::branch(&self.store.snapshot(), Transcript::default());
            let api = self.wanted.api(&past, &self.pki, &self.pipes);
            api.set_bootstrapped();
            api
        });
        self.server.rules.add(fault, stale)
    }

    /// Breaks the open watches of a resource, `pods` for instance, or all for `*`, of the parts and of
    /// [`TestCluster::component`]s; returns how many.
    pub fn drop_watches(&self, resource: &str) -> usize {
        self.server.drop_watches(resource)
    }

    /// Ends the API server, and starts another over the same store after a while: watches end, connections are refused
    /// in between, and nothing that was acknowledged is lost.
    pub async fn restart_api_server(&mut self, down: Duration) {
        self.api.drain();
        self.upkeep.abort();
        self.server.replace(None);
        self.server.drop_watches("*");
        tokio::time::sleep(down).await;
        let api = self.wanted.api(&self.store, &self.pki, &self.pipes);
        bootstrap::run(&api, None).await.expect("a store in memory takes every write");
        self.upkeep = upkeep(&mut self.tasks.lock(), &api);
        self.server.replace(Some(Arc::clone(&api)));
        self.api = api;
    }

    /// Moves the wall clock of the whole simulation; what waits for time to pass waits as long as before. Does nothing
    /// where time is not simulated.
    pub fn jump_clock(&self, by: SignedDuration) {
        if let Some(clock) = &self.clock {
            clock.step(by);
        }
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

    fn start_parts(&mut self) {
        if !self.wanted.controllers.is_empty() {
            let client = self.component("controllers", Identity::new("system:kube-controller-manager", &[]));
            let run = RunOptions {
                controllers: self.wanted.controllers.clone(),
                seed: Some(self.wanted.seed),
                options: windlass_controllers::Options {
                    root_ca: Some(self.pki.ca_pem().to_owned()),
                    ..Default::default()
                },
                ..RunOptions::default()
            };
            let manager = windlass_controllers::manager(client, &run).unwrap_or_else(|e| panic!("{e}"));
            self.run(manager);
        }
        if self.wanted.scheduler {
            let client = self.component("scheduler", Identity::new("system:kube-scheduler", &[]));
            let mut manager = Manager::seeded(client, self.random.fork("scheduling"));
            manager.add(Scheduler::default());
            self.run(manager.build());
        }
    }

    fn run(&self, manager: Manager) {
        let stop = self.stop.clone();
        self.tasks.lock().spawn(async move {
            if let Err(error) = manager.run(stop.cancelled_owned()).await {
                tracing::error!(%error, "a part of the test cluster stopped");
            }
        });
    }
}

fn upkeep(tasks: &mut JoinSet<()>, api: &Arc<ApiServer>) -> AbortHandle {
    let api = Arc::clone(api);
    tasks.spawn(async move { api.maintain().await })
}

/// On a runtime of one thread, where time can be paused, the wall clock starts at the same moment in each run.
fn simulated_clock(start: Timestamp) -> Option<Simulated> {
    let flavor = tokio::runtime::Handle::current().runtime_flavor();
    (flavor == RuntimeFlavor::CurrentThread).then(|| clock::simulate(start))
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
