//! The server's shared state: the store, the table of kinds and what the stages of the pipeline remember.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ipnet::Ipv4Net;
use minicluster_store::{LeaseId, Store};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use crate::{
    admission::{self, Classes, EventRates, Namespaces, Policies, Webhooks, quota::Quotas},
    aggregation::{self, Aggregation},
    audit::{self, Audit},
    authn::{self, Authenticator},
    authz::{self, Authorizer},
    crds::{Definitions, ending},
    discovery::Discovery,
    encodings::Encodings,
    files,
    flow::{self, FlowControl},
    health, kinds,
    metrics::Metrics,
    nodes::NodeClient,
    openapi::Documents,
    pipes::Pipes,
    read::{self, Indexes},
    registry::{Registry, Resource},
    services::Services,
    serving,
    status::ApiResult,
    token::{self, Tokens},
};

/// How long events live, as upstream's `--event-ttl`.
const EVENT_TTL_SECONDS: u64 = 3600;

/// Events written within this time share a lease.
const EVENT_LEASE_SHARED: Duration = Duration::from_secs(60);

/// What a server is told at its start.
pub struct Config {
    /// Service cluster IPs come from here.
    pub service_cidr: Ipv4Net,
    /// Node ports come from here, both ends included.
    pub node_ports: (u16, u16),
    /// The `iss` of service account tokens.
    pub issuer: String,
    /// The key that signs service account tokens: PKCS#8, ECDSA P-256.
    pub token_key_pkcs8: Vec<u8>,
    /// Which keys sign and verify those tokens, beside that one.
    pub token_keys: token::Settings,
    /// The CA that clients may verify the server with; published to pods.
    pub ca_pem: String,
    /// Shown in `/version`.
    pub git_version: String,
    /// How the server reaches kubelets; `None` in tests without nodes.
    pub kubelet_tls: Option<Arc<rustls::ClientConfig>>,
    /// What admission holds requests to.
    pub admission: admission::Settings,
    /// The first of all random numbers.
    pub seed: u64,
    /// What is told of requests, and to whom.
    pub audit: audit::Settings,
    /// How many requests are served at once, and whose first.
    pub flow: flow::Settings,
    /// How long requests may take, and how the server goes down.
    pub serving: serving::Settings,
    /// Health checks besides the server's own.
    pub health: health::Settings,
    /// How other servers of the cluster are spoken to.
    pub aggregation: aggregation::Settings,
    /// The longest life of a service account token, in seconds; 0 for any that is asked for.
    pub token_seconds_max: i64,
    /// Who may do what.
    pub authorization: authz::Settings,
    /// Who is who.
    pub authentication: authn::Settings,
    /// Servers of this process that are reached without a socket.
    pub pipes: Pipes,
}

impl Config {
    /// A server that is told nothing but the key of its tokens: everything else is as upstream's defaults have it.
    pub fn new(token_key_pkcs8: Vec<u8>) -> Self {
        Self {
            service_cidr: Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 96, 0, 0), 16),
            node_ports: (30_000, 32_767),
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            token_key_pkcs8,
            token_keys: token::Settings::default(),
            ca_pem: String::new(),
            git_version: "v1.36.0".to_owned(),
            kubelet_tls: None,
            admission: admission::Settings::default(),
            seed: 1,
            audit: audit::Settings::default(),
            flow: flow::Settings::default(),
            serving: serving::Settings::default(),
            health: health::Settings::default(),
            aggregation: aggregation::Settings::default(),
            token_seconds_max: 0,
            authorization: authz::Settings::default(),
            authentication: authn::Settings::default(),
            pipes: Pipes::default(),
        }
    }
}

/// One API server.
pub struct Api {
    /// Where everything is.
    pub store: Store,
    /// The table of kinds.
    pub registry: Registry,
    /// What it was told.
    pub config: Config,
    /// True when the server is going down: watches end, `/readyz` fails.
    pub draining: watch::Receiver<bool>,
    /// Cluster IPs and node ports.
    pub services: Services,
    /// Who is who.
    pub authenticator: Authenticator,
    /// Who may do what.
    pub authorizer: Authorizer,
    /// Service account tokens.
    pub tokens: Tokens,
    /// Custom resource definitions.
    pub definitions: Definitions,
    /// Discovery documents.
    pub discovery: Discovery,
    /// OpenAPI documents.
    pub documents: Mutex<Documents>,
    /// Namespaces as admission looks at them.
    pub namespaces: Namespaces,
    /// Storage, ingress and priority classes.
    pub classes: Classes,
    /// What is left of the limits on events.
    pub event_rates: EventRates,
    /// Whose turn it is to take from quotas.
    pub quotas: Quotas,
    /// The policies that admission holds objects to.
    pub policies: Policies,
    /// The webhooks that admission asks.
    pub webhooks: Webhooks,
    /// Encodings of recent states.
    pub encodings: Encodings,
    /// Entries by what selectors ask for.
    pub indexes: Indexes,
    /// The servers that answer for groups and versions of their own.
    pub aggregation: Aggregation,
    /// Tells of requests; `None` when nobody wants to know.
    pub audit: Option<Arc<Audit>>,
    /// Decides who is served.
    pub flow: FlowControl,
    /// Counters.
    pub metrics: Metrics,
    /// The way to the kubelets.
    pub nodes: NodeClient,
    drain: watch::Sender<bool>,
    bootstrapped: AtomicBool,
    stopping: AtomicBool,
    random: Mutex<fastrand::Rng>,
    event_lease: tokio::sync::Mutex<Option<(LeaseId, Instant)>>,
}

/// A server could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The token key is unusable.
    #[error("service account signing key: {0}")]
    TokenKey(String),
    /// Audit cannot be set up.
    #[error("audit: {0}")]
    Audit(String),
    /// A flag or a file that says who may do what, or who is who, is wrong.
    #[error("{0}")]
    Access(String),
}

impl Api {
    /// A server over a store; nothing is written yet (see [`crate::bootstrap`]).
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn new(store: Store, config: Config) -> Result<Arc<Self>, SetupError> {
        let (drain, draining) = watch::channel(false);
        let random = Mutex::new(fastrand::Rng::with_seed(config.seed));
        let metrics = Metrics::default();
        let api = Self {
            flow: FlowControl::new(&store, &config.flow, &metrics.flow),
            registry: Registry::new(kinds::table()),
            services: Services::new(&store, config.service_cidr, config.node_ports),
            authenticator: Authenticator::new(&config).map_err(SetupError::Access)?,
            authorizer: Authorizer::new(&store, &config.authorization).map_err(SetupError::Access)?,
            tokens: Tokens::new(&config.token_key_pkcs8, &config.issuer, &config.token_keys)?,
            definitions: Definitions::new(&store),
            discovery: Discovery::default(),
            documents: Mutex::default(),
            namespaces: Namespaces::default(),
            classes: Classes::new(&store),
            event_rates: EventRates::default(),
            quotas: Quotas::default(),
            policies: Policies::new(&store),
            webhooks: Webhooks::new(&store),
            aggregation: Aggregation::new(&store, &config.aggregation),
            audit: Audit::new(&config.audit).map_err(SetupError::Audit)?,
            encodings: Encodings::default(),
            indexes: Indexes::default(),
            metrics,
            nodes: NodeClient::new(config.kubelet_tls.clone()),
            store,
            config,
            draining,
            drain,
            bootstrapped: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            random,
            event_lease: tokio::sync::Mutex::default(),
        };
        Ok(Arc::new(api))
    }

    /// Turns `/readyz` red; everything else goes on.
    pub fn stop_being_ready(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// True once the server is about to go down.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// What every cluster has is there: said by [`crate::bootstrap`], or by who starts a server over a store that was
    /// bootstrapped before.
    pub fn set_bootstrapped(&self) {
        self.bootstrapped.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_bootstrapped(&self) -> bool {
        self.bootstrapped.load(Ordering::Relaxed)
    }

    /// Ends all watches and turns `/readyz` red.
    pub fn drain(&self) {
        self.stop_being_ready();
        self.drain.send_replace(true);
    }

    /// What the server does by itself, for ever: the upkeep of its store, and the ends of definitions. Its owner runs
    /// this once.
    pub async fn maintain(self: &Arc<Self>) {
        let audit = async {
            if let Some(audit) = &self.audit {
                audit.run(self).await;
            }
        };
        let files = self.watch_files();
        tokio::join!(
            self.store.maintain(),
            ending::run(self),
            aggregation::run(self),
            flow::run(self),
            read::run_indexes(self),
            authn::fill_secrets(self),
            files,
            audit
        );
    }

    /// True in this part of all cases.
    pub(crate) fn happens(&self, chance: f64) -> bool {
        self.random.lock().f64() < chance
    }

    /// Reads configuration files again when they change. Without such files nothing is ever looked at.
    async fn watch_files(&self) {
        if !self.authorizer.has_file() && !self.authenticator.has_file() {
            return;
        }
        let mut look = tokio::time::interval(files::LOOK_EVERY);
        loop {
            look.tick().await;
            self.authorizer.reload();
            self.authenticator.reload(&self.config.authentication);
        }
    }

    /// A number below `bound` from the seeded source.
    pub fn random(&self, bound: u64) -> u64 {
        self.random.lock().u64(0..bound.max(1))
    }

    /// Five characters for a generated name, from upstream's alphabet without vowels and look-alikes.
    pub fn random_suffix(&self) -> String {
        const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        let mut random = self.random.lock();
        (0..5).map(|_| char::from(ALPHABET[random.usize(0..ALPHABET.len())])).collect()
    }

    /// A fresh uid.
    pub fn new_uid(&self) -> String {
        let bits: u128 = self.random.lock().u128(..);
        uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid().to_string()
    }

    /// The lease that a new object of this kind lives on: events end after an hour.
    ///
    /// # Errors
    /// 500 when the store fails.
    pub async fn lease_for(&self, resource: &Resource) -> ApiResult<Option<LeaseId>> {
        if resource.prefix != "/registry/events/" {
            return Ok(None);
        }
        let mut shared = self.event_lease.lock().await;
        if let Some((id, since)) = *shared
            && since.elapsed() < EVENT_LEASE_SHARED
        {
            return Ok(Some(id));
        }
        let id = self.store.grant(EVENT_TTL_SECONDS + EVENT_LEASE_SHARED.as_secs()).await?;
        *shared = Some((id, Instant::now()));
        Ok(Some(id))
    }
}
