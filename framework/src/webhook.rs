//! Admission and conversion webhooks as a part of the manager.
//!
//! [`Webhooks`] is an HTTPS server that every replica runs. It answers in types: a [`Validate`] sees objects before and
//! after, a [`Mutate`] changes one and the patch is computed, a [`Kind`] converts. It writes the configuration objects
//! that make an API server ask it, and keeps their `caBundle` what its [`Certificates`] say. Source: the
//! AdmissionReview and ConversionReview APIs, v1.

mod answer;
mod configuration;
mod metrics;
mod policy;
mod review;
mod server;

use std::{
    net::SocketAddr,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    BoxError, Endpoint, Place, Rules, RunCx, Runnable, Verbs,
    custom::{CustomResource, Kind},
    https::Listen,
};
use futures::future::BoxFuture;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use answer::Handler;

pub use crate::{
    certificates::Certificates,
    https::{Connections, Io},
};
pub use policy::Policy;
pub use review::{Denied, Mutate, Operation, Review, User, Validate};

/// Where an API server sends AdmissionReviews and ConversionReviews unless it is told otherwise.
const PORT: u16 = 9443;

/// How an API server is to ask a hook.
#[derive(Clone, Debug)]
pub struct Hook {
    operations: Vec<Operation>,
    fails_open: bool,
    pub(crate) timeout: Duration,
    selector: Option<Value>,
    namespaces: Option<Value>,
    conditions: Vec<(String, String)>,
}

impl Default for Hook {
    /// Asked at creations and changes, for 10 s at most, and what cannot be asked is refused.
    fn default() -> Self {
        Self {
            operations: vec![Operation::Create, Operation::Update],
            fails_open: false,
            timeout: Duration::from_secs(10),
            selector: None,
            namespaces: None,
            conditions: Vec::new(),
        }
    }
}

impl Hook {
    /// Asked at these operations.
    #[must_use]
    pub fn at(mut self, operations: &[Operation]) -> Self {
        self.operations = operations.to_vec();
        self
    }

    /// When it cannot be asked, the request goes on.
    #[must_use]
    pub fn fails_open(mut self) -> Self {
        self.fails_open = true;
        self
    }

    /// Waited for this long, between one and thirty seconds.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.clamp(Duration::from_secs(1), Duration::from_secs(30));
        self
    }

    /// Asked about objects whose labels this LabelSelector matches.
    #[must_use]
    pub fn objects(mut self, selector: Value) -> Self {
        self.selector = Some(selector);
        self
    }

    /// Asked about objects in namespaces whose labels this LabelSelector matches.
    #[must_use]
    pub fn namespaces(mut self, selector: Value) -> Self {
        self.namespaces = Some(selector);
        self
    }

    /// Where and when it is asked, as configurations and policies write it.
    pub(crate) fn operations(&self) -> Vec<&'static str> {
        self.operations.iter().map(|operation| operation.name()).collect()
    }

    pub(crate) fn failure_policy(&self) -> &'static str {
        if self.fails_open { "Ignore" } else { "Fail" }
    }

    /// Adds the selectors that it has.
    pub(crate) fn select(&self, to: &mut Value) {
        for (name, selector) in [("objectSelector", &self.selector), ("namespaceSelector", &self.namespaces)]
        {
            if let Some(selector) = selector {
                to[name] = selector.clone();
            }
        }
    }

    pub(crate) fn match_conditions(&self) -> Vec<Value> {
        let all = self.conditions.iter();
        all.map(|(name, when)| json!({ "name": name, "expression": when })).collect()
    }

    /// Asked when this CEL expression holds, too.
    #[must_use]
    pub fn when(mut self, name: &str, expression: &str) -> Self {
        self.conditions.push((name.to_owned(), expression.to_owned()));
        self
    }
}

/// The webhooks of a process.
///
/// ```no_run
/// use k8s_openapi::api::core::v1::ConfigMap;
/// use windlass::webhook::{Certificates, Denied, Hook, Review, Validate, Webhooks};
///
/// struct Small;
///
/// impl Validate<ConfigMap> for Small {
///     async fn validate(&self, review: &Review<ConfigMap>) -> Result<(), Denied> {
///         let keys = review.object.as_ref().and_then(|map| map.data.as_ref()).map_or(0, |data| data.len());
///         if keys > 10 {
///             return Err(Denied::invalid(format!("has {keys} keys, and 10 are enough")));
///         }
///         Ok(())
///     }
/// }
///
/// # fn add(manager: &mut windlass::ManagerBuilder) {
/// let webhooks = Webhooks::new("small-webhooks", Certificates::self_signed());
/// manager.add(webhooks.validate(Small, Hook::default()));
/// # }
/// ```
pub struct Webhooks {
    service: String,
    port: u16,
    certificates: Certificates,
    listen: Listen,
    pub(crate) handlers: Vec<Handler>,
    pub(crate) kinds: Vec<Kind>,
    /// Registered at the first start.
    counts: OnceLock<metrics::Counts>,
    /// Certificates and configurations have been in order once.
    ready: AtomicBool,
}

impl Webhooks {
    /// Webhooks behind a Service of this name, in the namespace that the process runs in; also the name of the
    /// configuration objects.
    #[must_use]
    pub fn new(service: impl Into<String>, certificates: Certificates) -> Self {
        Self {
            service: service.into(),
            port: 443,
            certificates,
            listen: Listen::Address(SocketAddr::from(([0, 0, 0, 0], PORT))),
            handlers: Vec::new(),
            kinds: Vec::new(),
            counts: OnceLock::new(),
            ready: AtomicBool::new(false),
        }
    }

    /// Listens here; on port 9443 of every address at first.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Listen::Address(address);
        self
    }

    /// Takes its connections from here, not from a socket.
    #[must_use]
    pub fn connections(mut self, connections: Connections) -> Self {
        self.listen = Listen::to(connections);
        self
    }

    /// The port of the Service; 443 at first.
    #[must_use]
    pub fn service_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Lets a validator judge the objects of a kind.
    #[must_use]
    pub fn validate<K: crate::Object>(mut self, validator: impl Validate<K>, hook: Hook) -> Self
    where
        K::DynamicType: Default,
    {
        self.push(Handler::validating(validator, hook));
        self
    }

    /// Lets a mutator change the objects of a kind.
    #[must_use]
    pub fn mutate<K: crate::Object + serde::Serialize>(mut self, mutator: impl Mutate<K>, hook: Hook) -> Self
    where
        K::DynamicType: Default,
    {
        self.push(Handler::mutating(mutator, hook));
        self
    }

    /// Several of a sort may judge one kind.
    fn push(&mut self, mut handler: Handler) {
        handler.nth = self.handlers.iter().filter(|other| other.is_like(&handler)).count();
        self.handlers.push(handler);
    }

    /// Refuses objects of a custom kind that are not as their declaration says. API servers hold them to it themselves;
    /// this is for rules that they cannot know, of another version for instance.
    #[must_use]
    pub fn checked<K: CustomResource + crate::Object>(self) -> Self {
        self.validate::<K>(review::Checked, Hook::default())
    }

    /// Converts between the versions of a kind, and writes their common definition.
    #[must_use]
    pub fn convert(mut self, kind: Kind) -> Self {
        self.kinds.push(kind);
        self
    }
}

impl Runnable for Webhooks {
    fn name(&self) -> &str {
        &self.service
    }

    /// Every replica answers.
    fn needs_leader(&self) -> bool {
        false
    }

    fn needs(&self, rules: &mut Rules) {
        self.certificates.needs(&self.service, rules);
        let write = Verbs::GET | Verbs::PATCH;
        for resource in ["validatingwebhookconfigurations", "mutatingwebhookconfigurations"] {
            let group = "admissionregistration.k8s.io";
            rules.allow_named(Place::Everywhere, group, resource, &self.service, write);
            rules.allow_resource(Place::Everywhere, group, resource, Verbs::CREATE);
        }
        for kind in &self.kinds {
            let name = kind.name();
            let (group, resource) = ("apiextensions.k8s.io", "customresourcedefinitions");
            rules.allow_named(Place::Everywhere, group, resource, name, write);
            rules.allow_resource(Place::Everywhere, group, resource, Verbs::CREATE);
        }
    }

    fn endpoint(&self) -> Option<Endpoint> {
        let listens = match &self.listen {
            Listen::Address(address) => address.port(),
            Listen::Connections(_) => PORT,
        };
        let mut configurations = self.configurations("");
        configurations.retain(|object| object["kind"] != "CustomResourceDefinition");
        let path = |kind: &Kind| (kind.name().to_owned(), configuration::convert_path(kind.name()));
        Some(Endpoint {
            certificates: self.certificates.dir().map(|dir| dir.to_string_lossy().into_owned()),
            configurations,
            conversions: self.kinds.iter().map(path).collect(),
            ..Endpoint::new(&self.service, self.port, listens)
        })
    }

    fn definitions(&self) -> Vec<CustomResourceDefinition> {
        self.kinds.iter().map(Kind::definition).collect()
    }

    fn ready(&self) -> Result<(), String> {
        let ready = self.ready.load(Ordering::Relaxed);
        ready.then_some(()).ok_or_else(|| format!("{} has no certificate yet", self.service))
    }

    fn run(&self, cx: RunCx) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(server::run(self, cx))
    }
}
