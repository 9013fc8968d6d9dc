//! How a Kubernetes controller lives: informers, queues, controllers, leader election and a manager.
//!
//! Windlass hauls the actual state to the desired one, turn by turn. This crate is the machine that turns: it watches
//! each kind once per process ([`Informers`]), keeps what it saw in indexed caches ([`Lister`], [`Index`]) and tells
//! subscribers what changed ([`Delta`]); it runs a [`Controller`] over them through a fair [`Queue`], lets it write
//! through a [`CachedClient`] whose writes the next turn sees, and a [`Manager`] starts and stops all of it, under a
//! [`Lease`] if there are replicas.
//!
//! A whole operator:
//!
//! ```no_run
//! use k8s_openapi::api::core::v1::ConfigMap;
//! use windlass::{Action, Controller, Error, EventType, Operator, Reconcile, Request};
//!
//! struct Greeter;
//!
//! impl Reconcile<ConfigMap> for Greeter {
//!     async fn reconcile(&self, request: Request<ConfigMap>) -> Result<Action, Error> {
//!         let Some(object) = request.object else { return Ok(Action::Done) };
//!         request.recorder.event(&*object, EventType::Normal, "Greeted", format!("Hello, {}", request.key));
//!         Ok(Action::Done)
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     Operator::new("greeter")
//!         .with(|manager| {
//!             manager.add(Controller::<ConfigMap>::new("greeter").build(Greeter));
//!         })
//!         .main()
//! }
//! ```
//!
//! Changes that do not matter are filtered out by [`predicate`]s, what happens outside of the cluster comes in by a
//! [`source`], kinds known at run time alone by [`DynamicWatches`], and [`Limits`] hold a controller back. Children with an
//! order are [`Dependents`], tasks that live as long as an object are [`Daemon`]s, and caches of a few fields are
//! [`Projection`]s.
//!
//! Replicas share the keys of a controller as [`Shards`], one process looks after many [`clusters`], and what older releases
//! stored is carried over by a [`StorageMigration`].
//!
//! What it may do in a cluster nobody has to write down: RBAC is made from what was registered ([`Rules`]), and requests
//! that were not registered are refused wherever it runs. `examples/operator.rs` is an operator with a custom kind, a
//! child and a status; `minicluster::TestCluster` tests it.
//!
//! It knows no built-in kind: whatever is decided about Pods or Nodes is decided by the crates that use it. It never
//! reads the machine's clock but through [`clock`], and never draws a random number but from a seeded
//! [`random::Source`], so that everything here runs under tokio's virtual time and replays from a seed.

pub mod clock;
#[cfg(feature = "derive")]
pub mod custom;
pub mod random;

mod admin;
mod apply;
#[cfg(feature = "webhook")]
mod certificates;
mod client;
pub mod clusters;
mod conditions;
mod controller;
mod daemon;
mod definitions;
mod delta;
mod deltas;
pub mod dependents;
pub mod diagnostics;
pub mod discovery;
mod dynamic;
mod endpoint;
mod error;
mod failing;
mod finalizers;
mod guard;
#[cfg(feature = "webhook")]
mod https;
mod index;
mod informer;
mod informers;
mod key;
mod kinds;
mod lease;
mod limits;
mod listwatch;
mod loops;
mod manager;
mod metrics;
mod migration;
mod object;
mod operator;
mod owners;
mod pool;
pub mod predicate;
mod projection;
mod prune;
mod queue;
mod recorder;
mod reports;
mod rules;
mod scope;
mod shards;
mod signal;
pub mod source;
mod store;
mod throttle;
#[cfg(feature = "webhook")]
pub mod webhook;
mod wire;

#[cfg(feature = "webhook")]
pub use admin::SecureMetrics;
pub use apply::Apply;
pub use client::CachedClient;
pub use conditions::{ConditionType, ConditionsExt, condition};
pub use controller::{Controller, Enqueue, Reconcile, Request};
pub use daemon::{Attended, Daemon};
pub use delta::Delta;
pub use deltas::Deltas;
pub use dependents::{Dependent, Dependents, DependentsError, Progress};
pub use diagnostics::Diagnostics;
pub use dynamic::DynamicWatches;
pub use endpoint::Endpoint;
pub use error::{Action, Error, sentence};
pub use failing::Failure;
pub use finalizers::{Finalized, add_finalizer, has_finalizer, remove_finalizer};
pub use index::{ByLabel, ByOwner, ByValue, Index, Indexed, by};
pub use informer::{Informer, Subscription};
pub use informers::Informers;
pub use key::Key;
pub use kinds::{Kinds, KindsChange};
pub use lease::Lease;
pub use limits::{Bucket, Limiter, Limits};
pub use listwatch::WatchError;
pub use manager::{Manager, ManagerBuilder, RunCx, Runnable};
pub use metrics::Metrics;
pub use migration::StorageMigration;
pub use object::{BoxError, Object, revision_of};
pub use operator::{Description, Operator, told_to_stop};
pub use owners::{controller_of, controller_ref, is_controlled_by};
pub use projection::{Projected, Projection};
pub use queue::{Add, Backoff, Fair, Item, Outcome, Priority, Queue, Stand, Work};
pub use recorder::{EventType, Recorder, reference};
pub use rules::{Place, Rules, Verbs};
pub use scope::{Scope, Strip};
pub use shards::{ShardBy, Shards};
pub use store::Lister;

/// Tells a process that runs for a while to stop: cloned into every part of it.
pub use tokio_util::sync::CancellationToken;

/// Conversions between versions, as data.
#[cfg(feature = "derive")]
pub use windlass_crd::conversion;

/// The conditions of a kind as an enum: implements [`ConditionType`].
#[cfg(feature = "derive")]
pub use windlass_crd_derive::Condition;

/// A custom resource from the struct that is its spec: the object with metadata and status, its definition, its schema
/// and the check of objects in this process. `#[kube(...)]` is what kube's own derive takes; the schema comes from the
/// same declaration, so nothing else is derived for it.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use windlass::{CustomResource, Schema, custom::CustomResource as _};
///
/// #[derive(CustomResource, Clone, Debug, Serialize, Deserialize)]
/// #[kube(group = "harbour.dev", version = "v1", kind = "Sail", namespaced, status = "SailStatus", shortname = "sl")]
/// #[kube(printcolumns(("Area", "integer", ".spec.area"), ("Color", "string", ".spec.color")), selectable = ".spec.color")]
/// #[windlass(validation("self.reefs <= self.area", message = "more reefs than sail"))]
/// struct SailSpec {
///     /// In square metres.
///     #[garde(range(min = 1, max = 500))]
///     area: u32,
///     #[serde(default)]
///     reefs: u32,
///     #[windlass(validation("self == oldSelf", message = "is dyed once"))]
///     color: String,
///     #[serde(default)]
///     #[windlass(list = "map", key = "name")]
///     lines: Vec<Line>,
/// }
///
/// #[derive(Schema, Clone, Debug, Serialize, Deserialize)]
/// struct Line {
///     #[garde(length(min = 1))]
///     name: String,
/// }
///
/// #[derive(Schema, Clone, Debug, Serialize, Deserialize)]
/// struct SailStatus {
///     set: u32,
/// }
///
/// let spec = SailSpec { area: 40, reefs: 2, color: "red".into(), lines: vec![] };
/// let sail = Sail::new("main", spec);
/// assert!(sail.check(None).is_ok());
///
/// let mut wrong = sail.clone();
/// wrong.spec.area = 501;
/// assert_eq!(wrong.check(None).unwrap_err().to_string(), "spec.area: Invalid value: 501: spec.area in body should be less than or equal to 500");
/// wrong.spec.area = 1;
/// assert_eq!(wrong.check(None).unwrap_err().to_string(), "spec: more reefs than sail");
/// let mut dyed = sail.clone();
/// dyed.spec.color = "blue".into();
/// assert_eq!(dyed.check(Some(&sail)).unwrap_err().to_string(), "spec.color: is dyed once");
/// ```
///
/// Constraints are read from `#[garde(...)]`, `#[validate(...)]` and `#[schemars(...)]` and need none of these crates.
/// `#[windlass(...)]` says what Kubernetes adds: on the struct, a nested type or a field `validation = "CEL"` or
/// `validation("CEL", message, message_expression, reason, field_path, optional_old_self)`, on a list `list = "atomic"`,
/// `"set"` or `"map"` with `key`s, on a map `map = "atomic"` or `"granular"`. `#[kube(validation = ...)]` is about the
/// whole object.
///
/// `#[windlass(apply)]` on the spec makes what server-side apply is given: for `Sail` a `SailApply` whose spec is a
/// `SailSpecApply` with every field optional. What the fields hold is as it is in the spec, and is owned as a whole.
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # use windlass::CustomResource;
/// #[derive(CustomResource, Clone, Debug, Serialize, Deserialize)]
/// #[kube(group = "harbour.dev", version = "v1", kind = "Sail", namespaced)]
/// #[windlass(apply)]
/// #[serde(rename_all = "camelCase")]
/// struct SailSpec {
///     area: u32,
///     main_sheet: Option<String>,
/// }
///
/// let mut sail = SailApply::new("main", "harbour");
/// sail.spec = Some(SailSpecApply { main_sheet: Some("red".into()), ..SailSpecApply::default() });
/// assert_eq!(
///     serde_json::to_value(&sail).unwrap(),
///     serde_json::json!({
///         "apiVersion": "harbour.dev/v1",
///         "kind": "Sail",
///         "metadata": { "name": "main", "namespace": "harbour" },
///         "spec": { "mainSheet": "red" },
///     }),
/// );
/// ```
///
/// A struct that has the name of its kind is the object itself: a kind without a spec, whose fields stand at the top level,
/// as a ConfigMap's do. It has `metadata`, and `status` where there is one, and does not derive `Serialize`, which is made
/// for it. Everything else is as it is for a spec, conversions and apply configurations included.
///
/// ```
/// use serde::Deserialize;
/// use windlass::{CustomResource, custom::CustomResource as _};
///
/// #[derive(CustomResource, Clone, Debug, Deserialize)]
/// #[kube(group = "harbour.dev", version = "v1", kind = "Palette", namespaced)]
/// #[kube(printcolumns(("Main", "string", ".main"), ("Trim", "string", ".trim")))]
/// struct Palette {
///     metadata: kube::api::ObjectMeta,
///     #[garde(length(min = 1))]
///     main: String,
///     #[serde(default)]
///     trim: Option<String>,
/// }
///
/// let mut palette = Palette { metadata: Default::default(), main: "red".into(), trim: None };
/// let json = serde_json::to_value(&palette).unwrap();
/// assert_eq!((&json["kind"], &json["main"]), (&"Palette".into(), &"red".into()));
/// palette.main.clear();
/// assert!(palette.check(None).unwrap_err().to_string().starts_with("main: Invalid value"));
/// ```
///
/// Columns come one by one, as kube's derive takes them, or in one list as here, each with its name, type and path, and
/// perhaps `priority`, `description` and `format`; the list is what clippy's `duplicated_attributes` lets be.
///
/// A version that is not the hub says how it differs: `#[windlass(hub = v1::Sail, moved("/spec/here" => "/spec/there"),
/// added("/spec/only/in/the/hub"), removed("/spec/only/here"))]`. See [`custom::Kind`] and [`conversion`]. With it comes
/// a test that nothing gets lost between the two.
#[cfg(feature = "derive")]
pub use windlass_crd_derive::CustomResource;

/// The schema of a type that is part of a custom resource, with the same attributes as
/// [`CustomResource`](macro@CustomResource).
#[cfg(feature = "derive")]
pub use windlass_crd_derive::Schema;

/// Apply configurations: for each kind that is named, a struct whose fields are all optional, so that server-side apply
/// owns what was written and nothing else. `apps::v1::Deployment` gives `DeploymentApply`, and the types that it reaches
/// `DeploymentSpecApply`, `PodSpecApply` and so on, each once in a call. Kinds are named as in k8s-openapi, fields too;
/// metadata, selectors and values without parts are k8s-openapi's own.
///
/// ```
/// windlass::apply_configurations! { apps::v1::Deployment, core::v1::{ConfigMap, Namespace} }
///
/// // An autoscaler has the replicas; this is about the image alone.
/// let mut web = DeploymentApply::new("web", "shop");
/// let container = ContainerApply {
///     name: Some("web".into()),
///     image: Some("web:2".into()),
///     ..ContainerApply::default()
/// };
/// web.spec = Some(DeploymentSpecApply {
///     template: Some(PodTemplateSpecApply {
///         spec: Some(PodSpecApply { containers: Some(vec![container]), ..PodSpecApply::default() }),
///         ..PodTemplateSpecApply::default()
///     }),
///     ..DeploymentSpecApply::default()
/// });
/// assert_eq!(
///     serde_json::to_value(&web).unwrap(),
///     serde_json::json!({
///         "apiVersion": "apps/v1",
///         "kind": "Deployment",
///         "metadata": { "name": "web", "namespace": "shop" },
///         "spec": { "template": { "spec": { "containers": [{ "name": "web", "image": "web:2" }] } } },
///     }),
/// );
/// let shop = NamespaceApply::new("shop");
/// assert_eq!(windlass::Apply::key(&shop).to_string(), "shop");
/// ```
///
/// [`CachedClient::apply`] takes them. A kind that is not there is told where it stands:
///
/// ```compile_fail
/// windlass::apply_configurations! { apps::v1::Deploymnet }
/// ```
#[cfg(feature = "derive")]
pub use windlass_crd_derive::apply_configurations;

/// What the derives refer to.
#[cfg(feature = "derive")]
#[doc(hidden)]
pub mod private {
    pub use k8s_openapi;
    pub use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    pub use kube::{self, api::ObjectMeta};
    pub use schemars;
    pub use serde;
    pub use serde_json::{Value, json};
}
