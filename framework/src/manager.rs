//! The manager: starts what a process runs, in order, and ends it in reverse.
//!
//! First the admin server, then what every replica runs, then, once the lease is held, what only the leader runs. A
//! lease that is lost stops the leader's part and goes back to waiting: a pause, not an exit. A part that fails or
//! panics is started again after a while; no part can take the process down.

use std::{net::SocketAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    BoxError, Bucket, CachedClient, Endpoint, Informers, Lease, Metrics, Recorder, Rules,
    admin::{Admin, Checks, Shows},
    diagnostics::LeaseSight,
    guard::Guard,
    random::Source,
    reports::Reports,
    throttle,
};

#[cfg(feature = "webhook")]
use crate::SecureMetrics;

/// How long parts may take to stop before they are cut off.
const DRAIN: Duration = Duration::from_secs(8);
/// The wait before a failed part is started again.
const RESTART: Duration = Duration::from_secs(1);
const RESTART_MAX: Duration = Duration::from_secs(30);

/// A part of a process that runs until it is told to stop, and that can be run again afterwards.
pub trait Runnable: Send + Sync + 'static {
    /// Shows in logs.
    fn name(&self) -> &str;

    /// Whether only the leader runs it.
    fn needs_leader(&self) -> bool {
        true
    }

    /// What it needs from the API. A part that does not say is not restricted, unless its manager is
    /// [guarded](Manager::guarded).
    fn needs(&self, _rules: &mut Rules) {}

    /// Fills the caches it will run with, on a replica that waits for the lease; see
    /// [`ManagerBuilder::warm_standby`].
    fn warm(&self, _cx: &RunCx) {}

    /// Other parts that it cannot run without. A part that several bring runs once.
    fn brings(&self) -> Vec<Arc<dyn Runnable>> {
        Vec::new()
    }

    /// The name that its metrics carry, if it is a controller.
    fn controller(&self) -> Option<&str> {
        None
    }

    /// Where an API server asks it, if one does.
    fn endpoint(&self) -> Option<Endpoint> {
        None
    }

    /// The definitions that it keeps in place.
    fn definitions(&self) -> Vec<CustomResourceDefinition> {
        Vec::new()
    }

    /// Whether it can be asked by now; an error is the reason why not.
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    /// Runs until `cx.stop` is cancelled.
    fn run(&self, cx: RunCx) -> BoxFuture<'_, Result<(), BoxError>>;
}

/// What a part is given to run with.
#[derive(Clone)]
pub struct RunCx {
    /// The caches of the process.
    pub informers: Informers,
    /// The client of the process.
    pub client: CachedClient,
    /// The metrics of the process.
    pub metrics: Metrics,
    /// The randomness of the process.
    pub random: Source,
    /// The member that it runs on; see [`crate::clusters`].
    pub cluster: Option<Arc<str>>,
    /// Cancelled when the part has to stop.
    pub stop: CancellationToken,
    /// Connections that come otherwise than by sockets.
    #[cfg(feature = "webhook")]
    pub(crate) doors: crate::https::Doors,
}

impl RunCx {
    /// Records events as this component.
    #[must_use]
    pub fn recorder(&self, component: &str) -> Recorder {
        Recorder::new(self.informers.client().clone(), component)
    }
}

/// Runs the parts of a process.
pub struct Manager {
    parts: Vec<Arc<dyn Runnable>>,
    cx: RunCx,
    lease: Option<Lease>,
    warm_standby: bool,
    admin: Option<SocketAddr>,
    /// What its admin server shows.
    shows: Shows,
    checks: Checks,
}

/// Where a process lives, and who it is.
#[derive(Clone)]
struct Home {
    namespace: String,
    identity: String,
}

/// Describes a manager.
pub struct ManagerBuilder {
    parts: Vec<Arc<dyn Runnable>>,
    informers: Informers,
    metrics: Metrics,
    random: Source,
    field_manager: String,
    home: Home,
    cluster: Option<Arc<str>>,
    lease: Option<Lease>,
    warm_standby: bool,
    admin: Option<SocketAddr>,
    checks: Checks,
    guard: Option<Guard>,
    rules: Rules,
    #[cfg(feature = "webhook")]
    secure_metrics: Option<SecureMetrics>,
    #[cfg(feature = "webhook")]
    doors: crate::https::Doors,
}

impl Manager {
    /// Describes a manager whose parts talk through `client`.
    #[must_use]
    pub fn builder(client: Client) -> ManagerBuilder {
        Self::seeded(client, Source::from_entropy())
    }

    /// Describes a manager whose every random choice is drawn from `random`.
    #[must_use]
    pub fn seeded(client: Client, random: Source) -> ManagerBuilder {
        Self::counting(client, random, Metrics::new())
    }

    fn counting(client: Client, random: Source, metrics: Metrics) -> ManagerBuilder {
        let home = Home {
            namespace: client.default_namespace().to_owned(),
            identity: format!("{:016x}", random.fork("identity").next_u64()),
        };
        ManagerBuilder {
            parts: Vec::new(),
            home,
            cluster: None,
            informers: Informers::seeded(client, random.fork("informers")),
            metrics,
            random,
            field_manager: "windlass".to_owned(),
            lease: None,
            warm_standby: false,
            admin: None,
            checks: Checks::default(),
            guard: None,
            rules: Rules::default(),
            #[cfg(feature = "webhook")]
            secure_metrics: None,
            #[cfg(feature = "webhook")]
            doors: crate::https::Doors::default(),
        }
    }

    /// As [`Manager::seeded`], and every request of its parts that none of them registered is refused with a sentence
    /// that names the missing call. What informers were asked for before [`ManagerBuilder::build`] counts as registered.
    /// Requests that are sent are counted in the metrics.
    #[must_use]
    pub fn guarded(client: Client, random: Source) -> ManagerBuilder {
        let (guard, metrics) = (Guard::default(), Metrics::new());
        let client = guard.client(client, &metrics);
        ManagerBuilder { guard: Some(guard), ..Self::counting(client, random, metrics) }
    }

    /// The caches.
    #[must_use]
    pub fn informers(&self) -> &Informers {
        &self.cx.informers
    }

    /// The client that parts are given.
    #[must_use]
    pub fn client(&self) -> &CachedClient {
        &self.cx.client
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.cx.metrics
    }

    /// Says whether everything is ready, as `/readyz` does; may be asked while the manager runs.
    pub fn readiness(&self) -> impl Fn() -> bool + Send + Sync + use<> {
        let checks = self.checks.clone();
        move || checks.report().0
    }

    /// Runs everything until `shutdown` resolves, then stops it in reverse order.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), BoxError> {
        let admin = match self.admin {
            Some(address) => {
                let (metrics, checks) = (self.cx.metrics.clone(), self.checks.clone());
                Some(Admin::start(address, metrics, checks, self.shows).await?)
            }
            None => None,
        };
        let everywhere = Group::start(&self.parts, &self.cx, |part| !part.needs_leader());
        tokio::pin!(shutdown);
        match &self.lease {
            None => {
                let led = Group::start(&self.parts, &self.cx, Runnable::needs_leader);
                shutdown.await;
                led.stop(DRAIN).await;
            }
            Some(lease) => self.lead(lease, shutdown.as_mut()).await,
        }
        everywhere.stop(DRAIN).await;
        if let Some(admin) = admin {
            admin.stop().await;
        }
        Ok(())
    }

    /// Runs the leader's part whenever the lease is held.
    async fn lead(&self, lease: &Lease, mut shutdown: impl Future<Output = ()> + Unpin) {
        let (tell, mut leading) = watch::channel(false);
        if self.warm_standby {
            self.parts.iter().filter(|part| part.needs_leader()).for_each(|part| part.warm(&self.cx));
        }
        let stop = CancellationToken::new();
        let random = self.cx.random.fork("lease");
        let sight = LeaseSight {
            board: self.cx.metrics.board().clone(),
            lease: format!("{}/{}", lease.namespace, lease.name),
            identity: lease.identity.clone(),
        };
        let client = self.cx.informers.client().clone();
        let elector = lease.clone().elect(client, random, sight, tell, stop.clone());
        // Owned, so that a manager that is dropped does not go on holding the lease.
        let mut electing = JoinSet::new();
        electing.spawn(elector);
        let mut led: Option<Group> = None;
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                changed = leading.changed() => if changed.is_err() { break },
            }
            let leads = *leading.borrow_and_update();
            self.cx.metrics.leading(&lease.name, leads);
            if let Some(group) = led.take() {
                // Another may lead as soon as the lease runs out: be gone by then.
                group.stop(lease.margin()).await;
            }
            if leads {
                led = Some(Group::start(&self.parts, &self.cx, Runnable::needs_leader));
            }
        }
        if let Some(group) = led.take() {
            group.stop(DRAIN).await;
        }
        stop.cancel();
        while electing.join_next().await.is_some() {}
        self.cx.metrics.leading(&lease.name, false);
    }
}

impl ManagerBuilder {
    /// The caches, to build controllers with.
    #[must_use]
    pub fn informers(&self) -> &Informers {
        &self.informers
    }

    /// The metrics, to register more.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The randomness, to fork streams from.
    #[must_use]
    pub fn random(&self) -> &Source {
        &self.random
    }

    /// The namespace that the process lives in: that of its client if nothing else was said.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.home.namespace
    }

    /// Who the process is among its replicas: something drawn at random if nothing else was said.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.home.identity
    }

    /// Says where the process lives and who it is, before parts are added that want to know.
    #[must_use]
    pub fn at(mut self, namespace: &str, identity: &str) -> Self {
        self.home = Home { namespace: namespace.to_owned(), identity: identity.to_owned() };
        self
    }

    /// Watches these namespaces where nobody names others, instead of all of them: one watch for each and kind. Kinds
    /// without a namespace are not touched by it, nor are those known at run time alone. Said before parts are added.
    ///
    /// ```no_run
    /// use windlass::{Manager, Scope};
    /// # use k8s_openapi::api::core::v1::ConfigMap;
    ///
    /// # fn manager(client: kube::Client) {
    /// let manager = Manager::builder(client).watch_namespaces(&["port".to_owned(), "sea".to_owned()]);
    /// let maps = manager.informers().get::<ConfigMap>(Scope::all());
    /// assert_eq!(maps.namespaces(), ["port", "sea"]);
    /// # }
    /// ```
    #[must_use]
    pub fn watch_namespaces(self, namespaces: &[String]) -> Self {
        self.informers.watch_namespaces(namespaces);
        self
    }

    /// Sends at most this many requests a second on average, and `burst` at once after a rest; more wait for their turn.
    /// Watches count when they begin, and leases never. By default there is no limit but the server's own. Said before
    /// parts are added; `burst` should be above the number of kinds that are watched.
    ///
    /// ```no_run
    /// # fn manager(client: kube::Client) {
    /// let manager = windlass::Manager::builder(client).qps(20.0, 30);
    /// # }
    /// ```
    #[must_use]
    pub fn qps(mut self, qps: f64, burst: u32) -> Self {
        let watched = self.informers.watched_namespaces().to_vec();
        let client =
            throttle::client(self.informers.client().clone(), Bucket::new(qps, burst), &self.metrics);
        self.informers = Informers::seeded(client, self.random.fork("informers"));
        self.watch_namespaces(&watched)
    }

    pub(crate) fn in_cluster(mut self, name: Arc<str>) -> Self {
        self.cluster = Some(name);
        self
    }

    /// The name that writes carry in managed fields.
    #[must_use]
    pub fn field_manager(mut self, name: impl Into<String>) -> Self {
        self.field_manager = name.into();
        self
    }

    /// Only the holder of this lease runs the parts that need a leader.
    #[must_use]
    pub fn leader_election(mut self, lease: Lease) -> Self {
        self.lease = Some(lease);
        self
    }

    /// A replica that waits for the lease fills the caches of what it would run, so that it takes over without a list.
    /// It is ready when they are filled. Costs the memory and the watches of a leader on every replica.
    #[must_use]
    pub fn warm_standby(mut self) -> Self {
        self.warm_standby = true;
        self
    }

    /// Serves `/healthz`, `/livez`, `/readyz`, `/metrics` and `/failing` on this address, to everybody who reaches it:
    /// where that is too much, [`ManagerBuilder::secure_metrics`] leaves health alone here.
    #[must_use]
    pub fn admin(mut self, address: SocketAddr) -> Self {
        self.admin = Some(address);
        self
    }

    /// Serves metrics, and what else tells of objects, over HTTPS and to those alone who may read them.
    #[cfg(feature = "webhook")]
    #[must_use]
    pub fn secure_metrics(mut self, settings: SecureMetrics) -> Self {
        self.secure_metrics = Some(settings);
        self
    }

    /// Where protected metrics are served, if [`ManagerBuilder::secure_metrics`] was told of any.
    #[cfg(feature = "webhook")]
    #[must_use]
    pub fn metrics_address(mut self, address: SocketAddr) -> Self {
        self.secure_metrics = self.secure_metrics.map(|settings| settings.listen(address));
        self
    }

    /// Adds a readiness check; an error is the reason why the process is not ready.
    #[must_use]
    pub fn ready_check(
        mut self,
        name: &'static str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.checks.add(name, check);
        self
    }

    /// Parts need what these rules allow, too; for parts that are no controllers.
    pub fn needs(&mut self, rules: &Rules) -> &mut Self {
        self.rules.extend(rules);
        self
    }

    /// What everything that was added so far needs from the API.
    #[must_use]
    pub fn rules(&self) -> Rules {
        let mut rules = self.rules.clone();
        self.parts.iter().for_each(|part| part.needs(&mut rules));
        rules.extend(&self.informers.rules());
        if let Some(lease) = &self.lease {
            rules.allow_lease(&lease.name);
        }
        #[cfg(feature = "webhook")]
        if let Some(settings) = &self.secure_metrics {
            settings.needs(&mut rules);
        }
        rules
    }

    /// The controllers that were added so far, by the names that their metrics carry.
    #[must_use]
    pub fn controllers(&self) -> Vec<String> {
        self.parts.iter().filter_map(|part| part.controller().map(str::to_owned)).collect()
    }

    /// Where API servers ask the parts that were added so far.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.parts.iter().filter_map(|part| part.endpoint()).collect()
    }

    /// The definitions that the parts that were added so far keep in place.
    #[must_use]
    pub fn definitions(&self) -> Vec<CustomResourceDefinition> {
        self.parts.iter().flat_map(|part| part.definitions()).collect()
    }

    /// Lets the webhooks behind a Service, or protected metrics, take their connections from here, not from a socket: as a
    /// test's cluster hands them over.
    #[cfg(feature = "webhook")]
    #[must_use]
    pub fn connections(self, service: &str, connections: crate::webhook::Connections) -> Self {
        self.doors.put(service, connections);
        self
    }

    /// Adds a part. Parts start in the order in which they were added.
    pub fn add(&mut self, part: impl Runnable) -> &mut Self {
        for brought in part.brings() {
            let known =
                |part: &Arc<dyn Runnable>| std::ptr::addr_eq(Arc::as_ptr(part), Arc::as_ptr(&brought));
            if !self.parts.iter().any(known) {
                self.parts.push(brought);
            }
        }
        self.parts.push(Arc::new(part));
        self
    }

    /// The manager.
    #[must_use]
    pub fn build(mut self) -> Manager {
        let rules = self.guard.as_ref().map(|guard| {
            let own = self.lease.as_ref().map(|lease| lease.namespace.as_str());
            let rules = self.rules().at_home(own.unwrap_or(&self.home.namespace));
            let rules = rules.within(self.informers.watched_namespaces());
            guard.seal(rules.clone());
            rules
        });
        let reports = Reports::new(&self.metrics, &self.informers, &self.field_manager, rules);
        self.informers.report_to(reports);
        self.metrics.board().watches(self.informers.observer());
        let informers = self.informers.clone();
        let synced =
            move || informers.all_synced().then_some(()).ok_or("some caches are not filled yet".to_owned());
        self.checks.add("informer-sync", synced);
        let asked: Vec<_> = self.parts.iter().filter(|part| part.endpoint().is_some()).cloned().collect();
        if !asked.is_empty() {
            self.checks.add("webhooks", move || asked.iter().try_for_each(|part| part.ready()));
        }
        #[cfg(feature = "webhook")]
        let shows = match self.secure_metrics.take() {
            Some(settings) => {
                self.parts.insert(0, Arc::new(settings.serving(self.checks.clone())));
                Shows::Health
            }
            None => Shows::Everything,
        };
        #[cfg(not(feature = "webhook"))]
        let shows = Shows::Everything;
        let cx = RunCx {
            client: CachedClient::new(&self.informers, &self.field_manager),
            informers: self.informers,
            metrics: self.metrics,
            random: self.random,
            cluster: self.cluster,
            stop: CancellationToken::new(),
            #[cfg(feature = "webhook")]
            doors: self.doors,
        };
        Manager {
            parts: self.parts,
            cx,
            lease: self.lease,
            warm_standby: self.warm_standby,
            admin: self.admin,
            shows,
            checks: self.checks,
        }
    }
}

/// Parts that run and stop together.
struct Group {
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Group {
    fn start(parts: &[Arc<dyn Runnable>], cx: &RunCx, wanted: impl Fn(&dyn Runnable) -> bool) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for part in parts.iter().filter(|part| wanted(&***part)) {
            tasks.spawn(supervise(part.clone(), RunCx { stop: stop.clone(), ..cx.clone() }));
        }
        Self { tasks, stop }
    }

    /// Tells all to stop and cuts off those that take longer than `limit`.
    async fn stop(mut self, limit: Duration) {
        self.stop.cancel();
        let drained = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(limit, drained).await.is_err() {
            tracing::warn!(?limit, "parts that did not stop in time are cut off");
        }
        self.tasks.shutdown().await;
    }
}

/// Runs a part until it ends well, starting it again whenever it does not.
async fn supervise(part: Arc<dyn Runnable>, cx: RunCx) {
    let mut wait = RESTART;
    loop {
        let failure = match AssertUnwindSafe(part.run(cx.clone())).catch_unwind().await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it panicked".to_owned(),
        };
        if cx.stop.is_cancelled() {
            return;
        }
        tracing::error!(part = part.name(), failure, ?wait, "a part failed and will be started again");
        tokio::select! {
            biased;
            () = cx.stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(RESTART_MAX);
    }
}
