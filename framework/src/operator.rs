//! An operator: a name, its kinds, and the parts that run. It knows how to run itself, and what it needs.
//!
//! [`Operator::main`] is a whole program. `run` (or nothing) runs it, on a kubeconfig or inside a cluster; `describe`
//! prints a [`Description`] as JSON, from which `windlass` makes definitions, RBAC and manifests. Nothing is declared
//! twice: the description is what the same code registers when it runs.

mod args;
mod install;
mod namespaces;
mod roles;

use std::{convert::Infallible, net::SocketAddr, path::Path, process::ExitCode};

use http::{Request, Response};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Client, Config, CustomResourceExt,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{BoxError, Endpoint, Lease, Manager, ManagerBuilder, Rules, random::Source};

#[cfg(feature = "webhook")]
use crate::{SecureMetrics, webhook::Certificates};

use args::{Command, Flags};

/// The version of [`Description`] that this library writes.
pub(crate) const DESCRIPTION: u32 = 1;

/// An operator: its name, its kinds, and the parts that run.
///
/// ```
/// use k8s_openapi::api::core::v1::{ConfigMap, Secret};
/// use windlass::{Action, Controller, Error, Operator, Reconcile, Request, Verbs};
///
/// struct Sealer;
///
/// impl Reconcile<ConfigMap> for Sealer {
///     async fn reconcile(&self, _: Request<ConfigMap>) -> Result<Action, Error> {
///         Ok(Action::Done)
///     }
/// }
///
/// fn operator() -> Operator {
///     Operator::new("sealer").with(|manager| {
///         manager.add(Controller::<ConfigMap>::new("sealer").may::<Secret>(Verbs::APPLY).build(Sealer));
///     })
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let rules = operator().description().rules;
/// assert_eq!(rules.verbs(Some("a"), "", "secrets", None), Verbs::APPLY);
/// assert_eq!(rules.verbs(Some("a"), "", "configmaps", None), Verbs::READ);
/// # }
/// ```
pub struct Operator {
    name: &'static str,
    crds: Vec<CustomResourceDefinition>,
    objects: Vec<Value>,
    parts: Vec<Box<dyn Fn(&mut ManagerBuilder) + Send + Sync>>,
    warm_standby: bool,
    watch_namespaces: Vec<String>,
    qps: Option<(f64, u32)>,
    #[cfg(feature = "webhook")]
    secure_metrics: Option<SecureMetrics>,
}

/// What an operator brings and what it needs, for tools.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// The version of this document: 1.
    pub windlass: u32,
    /// The operator's name; also that of its lease and its field manager.
    pub name: String,
    /// The definitions of its kinds.
    pub crds: Vec<CustomResourceDefinition>,
    /// What it needs from the API, leader election included.
    pub rules: Rules,
    /// The namespaces that it watches, unless others are chosen when it starts; none means all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub watch_namespaces: Vec<String>,
    /// Its controllers, by the names that their metrics carry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controllers: Vec<String>,
    /// Where API servers ask it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub webhooks: Vec<Endpoint>,
    /// Where its metrics are read, if they are protected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Endpoint>,
    /// What else it brings, of no namespace: policies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<Value>,
}

impl Operator {
    /// An operator of this name, which has to be one that a Kubernetes object can have.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            crds: Vec::new(),
            objects: Vec::new(),
            parts: Vec::new(),
            warm_standby: false,
            watch_namespaces: Vec::new(),
            qps: None,
            #[cfg(feature = "webhook")]
            secure_metrics: None,
        }
    }

    /// Brings the definition of a kind.
    #[must_use]
    pub fn crd<K: CustomResourceExt>(self) -> Self {
        self.definition(K::crd())
    }

    /// Brings a definition, such as one that several versions were merged into.
    #[must_use]
    pub fn definition(mut self, definition: CustomResourceDefinition) -> Self {
        self.crds.push(definition);
        self
    }

    /// Brings rules that API servers hold objects to by themselves.
    #[cfg(feature = "webhook")]
    #[must_use]
    pub fn policy(mut self, policy: &crate::webhook::Policy) -> Self {
        self.objects.extend(policy.objects());
        self
    }

    /// Adds parts, such as controllers, to the manager that will run. Called for each manager anew, and to describe.
    #[must_use]
    pub fn with(mut self, parts: impl Fn(&mut ManagerBuilder) + Send + Sync + 'static) -> Self {
        self.parts.push(Box::new(parts));
        self
    }

    /// Replicas that do not lead fill their caches all the same; see [`ManagerBuilder::warm_standby`].
    #[must_use]
    pub fn warm_standby(mut self) -> Self {
        self.warm_standby = true;
        self
    }

    /// Watches these namespaces where no other is named, instead of all of them; its rights are Roles there, then. Who
    /// starts it chooses others by `--watch-namespace`, or by `WATCH_NAMESPACE` in the environment: names with commas
    /// between them, or nothing for all namespaces. See [`ManagerBuilder::watch_namespaces`].
    ///
    /// ```
    /// use windlass::Operator;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let operator = Operator::new("rigger").watch_namespaces(["port", "sea"]);
    /// assert_eq!(operator.description().watch_namespaces, ["port", "sea"]);
    /// # }
    /// ```
    #[must_use]
    pub fn watch_namespaces(mut self, namespaces: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.watch_namespaces = namespaces.into_iter().map(Into::into).collect();
        self
    }

    /// Sends at most this many requests a second on average, and `burst` at once; see [`ManagerBuilder::qps`]. Who starts
    /// it says otherwise by `--kube-api-qps` and `--kube-api-burst`.
    #[must_use]
    pub fn qps(mut self, qps: f64, burst: u32) -> Self {
        self.qps = Some((qps, burst));
        self
    }

    /// Serves metrics over HTTPS and to those alone who may read them, where `--metrics` says; see [`SecureMetrics`]. Its
    /// Service is named `NAME-metrics`. The rights that this takes are among those of its description, and so are the
    /// ClusterRoles of who reads: `NAME-metrics-reader` and `NAME-diagnostics-reader`.
    ///
    /// ```
    /// use windlass::{Operator, webhook::Certificates};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let operator = Operator::new("rigger").secure_metrics(Certificates::self_signed());
    /// assert_eq!(operator.description().metrics.unwrap().service, "rigger-metrics");
    /// # }
    /// ```
    #[cfg(feature = "webhook")]
    #[must_use]
    pub fn secure_metrics(mut self, certificates: Certificates) -> Self {
        self.secure_metrics = Some(SecureMetrics::new(format!("{}-metrics", self.name), certificates));
        self
    }

    /// The definitions that it brings; those that its webhooks convert are in its description.
    #[must_use]
    pub fn crds(&self) -> &[CustomResourceDefinition] {
        &self.crds
    }

    /// A manager with all its parts: what [`Operator::main`] runs, and what a test runs on a cluster in memory. Requests
    /// that nothing registered are refused ([`Manager::guarded`]). Needs a tokio runtime.
    #[must_use]
    pub fn manager(&self, client: Client, random: Source) -> ManagerBuilder {
        self.staff(Manager::guarded(client, random))
    }

    /// As [`Operator::manager`], for a process of this namespace and identity among its replicas.
    #[must_use]
    pub fn manager_at(
        &self,
        client: Client,
        random: Source,
        namespace: &str,
        identity: &str,
    ) -> ManagerBuilder {
        self.staff(Manager::guarded(client, random).at(namespace, identity))
    }

    fn staff(&self, manager: ManagerBuilder) -> ManagerBuilder {
        let mut manager = manager.field_manager(self.name).watch_namespaces(&self.watch_namespaces);
        if let Some((qps, burst)) = self.qps {
            manager = manager.qps(qps, burst);
        }
        if self.warm_standby {
            manager = manager.warm_standby();
        }
        #[cfg(feature = "webhook")]
        if let Some(settings) = &self.secure_metrics {
            manager = manager.secure_metrics(settings.clone());
        }
        self.parts.iter().for_each(|add| add(&mut manager));
        manager
    }

    /// What it brings and needs. Needs a tokio runtime, and talks to nobody.
    #[must_use]
    pub fn description(&self) -> Description {
        let manager = self.manager(nobody(), Source::seeded(0));
        let mut rules = manager.rules();
        rules.allow_lease(self.name);
        let mut crds = self.crds.clone();
        let known =
            |crds: &[CustomResourceDefinition], name| crds.iter().any(|crd| crd.metadata.name == name);
        for definition in manager.definitions() {
            if !known(&crds, definition.metadata.name.clone()) {
                crds.push(definition);
            }
        }
        Description {
            windlass: DESCRIPTION,
            name: self.name.to_owned(),
            crds,
            rules,
            watch_namespaces: self.watch_namespaces.clone(),
            controllers: manager.controllers(),
            webhooks: manager.endpoints(),
            #[cfg(feature = "webhook")]
            metrics: self.secure_metrics.as_ref().map(SecureMetrics::endpoint),
            #[cfg(not(feature = "webhook"))]
            metrics: None,
            objects: self.objects.clone(),
        }
    }

    /// The operator as a program: does what the arguments of the process say. Logs are the caller's to set up, and
    /// belong on standard error.
    #[must_use]
    pub fn main(mut self) -> ExitCode {
        let command = match args::parse(std::env::args().skip(1)) {
            Ok(command) => command,
            Err(wrong) => {
                eprintln!("{}: {wrong}", self.name);
                return ExitCode::from(2);
            }
        };
        let done = tokio::runtime::Runtime::new().map_err(BoxError::from).and_then(|runtime| {
            runtime.block_on(async {
                match command {
                    Command::Help => print!("{}", args::help(self.name)),
                    Command::Describe => println!("{}", serde_json::to_string_pretty(&self.description())?),
                    Command::Run(flags) => self.run(flags).await?,
                }
                Ok(())
            })
        });
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{}: {}", self.name, crate::sentence(error.as_ref()));
                ExitCode::FAILURE
            }
        }
    }

    async fn run(&mut self, flags: Flags) -> Result<(), BoxError> {
        let environment = std::env::var(namespaces::VARIABLE).ok();
        self.watch_namespaces = namespaces::chosen(
            flags.watch_namespace.as_deref(),
            environment.as_deref(),
            &self.watch_namespaces,
        )?;
        self.qps = flags.limit(self.qps);
        let client = Client::try_from(config(&flags).await?)?;
        let namespace = flags.namespace.unwrap_or_else(|| client.default_namespace().to_owned());
        let identity = identity();
        let mut manager = self.manager_at(client, Source::from_entropy(), &namespace, &identity);
        if flags.leader_elect {
            manager = manager.leader_election(Lease::new(&namespace, self.name, &identity));
        }
        if let Some(address) = flags.admin {
            manager = manager.admin(address);
        }
        if let Some(address) = flags.metrics {
            manager = self.serve_metrics(manager, address)?;
        }
        manager.build().run(told_to_stop()).await
    }
}

/// What is said to who wants protected metrics of an operator that has none.
const UNPROTECTED: &str =
    "--metrics says where protected metrics are served, and those of this operator are served at --admin";

impl Operator {
    #[cfg(feature = "webhook")]
    fn serve_metrics(
        &self,
        manager: ManagerBuilder,
        address: SocketAddr,
    ) -> Result<ManagerBuilder, BoxError> {
        match self.secure_metrics {
            Some(_) => Ok(manager.metrics_address(address)),
            None => Err(UNPROTECTED.into()),
        }
    }

    #[cfg(not(feature = "webhook"))]
    fn serve_metrics(&self, _: ManagerBuilder, _: SocketAddr) -> Result<ManagerBuilder, BoxError> {
        Err(UNPROTECTED.into())
    }
}

/// A client that nobody answers: for managers that are only described.
pub(crate) fn nobody() -> Client {
    let nobody =
        tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Infallible>>());
    Client::new(nobody, "default")
}

/// The cluster that was named, or that the environment or the pod names.
async fn config(flags: &Flags) -> Result<Config, BoxError> {
    let options = KubeConfigOptions { context: flags.context.clone(), ..KubeConfigOptions::default() };
    let mut config = match &flags.kubeconfig {
        Some(file) => Config::from_custom_kubeconfig(read(file)?, &options).await?,
        None if flags.context.is_some() => Config::from_kubeconfig(&options).await?,
        None => Config::infer()
            .await
            .map_err(|error| format!("no cluster was named (use --kubeconfig): {error}"))?,
    };
    // A watch is silent for minutes; informers have limits of their own.
    config.read_timeout = None;
    Ok(config)
}

fn read(file: &Path) -> Result<Kubeconfig, BoxError> {
    let read = Kubeconfig::read_from(file);
    read.map_err(|error| format!("{} cannot be read as a kubeconfig: {error}", file.display()).into())
}

/// Who holds the lease: this host and process, and something that no other has.
fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = std::env::var("HOSTNAME").ok().filter(|name| !name.is_empty()).unwrap_or(host);
    format!("{}_{}-{:016x}", host.trim(), std::process::id(), Source::from_entropy().next_u64())
}

/// Waits until the process is told to stop: by Ctrl-C, or by a supervisor with SIGTERM.
pub async fn told_to_stop() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                biased;
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
