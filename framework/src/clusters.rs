//! Several clusters in one process: a hub that the manager talks to, and members that come and go while it runs.
//!
//! A [`Provider`] says which members there are: from kubeconfigs in Secrets of the hub, from a folder, or from code. Each
//! member is a whole manager of its own: client, caches, metrics and the parts that run on it; one that cannot be reached
//! holds up nobody else, and a request to it is given up after 15 s. A controller of the hub sees members come, go and
//! fall silent ([`Controller::clusters`](crate::Controller::clusters)), is told of what happens in them
//! ([`Controller::watches_members`](crate::Controller::watches_members)), and writes to them through [`Member::client`].
//!
//! What is needed in a member is registered here, apart from what is needed in the hub. Leases are the hub's alone: who
//! leads there, leads everywhere. The shape is multicluster-runtime's, with members as data rather than as managers to
//! be handed around.

mod files;
mod member;
mod provider;
mod secrets;
mod trigger;

use std::{collections::BTreeMap, sync::Arc};

use futures::future::BoxFuture;
use kube::Client;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::{
    BoxError, Description, Manager, ManagerBuilder, Object, Rules, RunCx, Runnable, Scope, Verbs, operator,
    random, signal::Signal,
};

pub use files::Files;
pub use member::{ClusterChange, Member};
pub use provider::{ClusterSender, FromCode, Provider, ProviderCx, channel};
pub use secrets::{Connect, Secrets, connect};

use member::Running;

/// Members at a time; more are left out, and told in the log.
const MEMBERS_MAX: usize = 1000;

/// The members, and what runs on each. Cheap to clone; clones share everything. Belongs to one manager.
///
/// ```
/// use std::collections::BTreeMap;
/// # use std::convert::Infallible;
///
/// use k8s_openapi::api::core::v1::ConfigMap;
/// # use kube::{Client, client::Body};
/// use windlass::{
///     Action, Controller, Error, Key, Manager, Reconcile, Request, Scope, Verbs,
///     clusters::{self, Clusters},
/// };
///
/// /// Copies a ConfigMap into every member.
/// struct Copier(Clusters);
///
/// impl Reconcile<ConfigMap> for Copier {
///     async fn reconcile(&self, request: Request<ConfigMap>) -> Result<Action, Error> {
///         let Some(map) = request.object else { return Ok(Action::Done) };
///         for member in self.0.members().into_iter().filter(|member| member.ready().is_ok()) {
///             let mut copy = ConfigMap { data: map.data.clone(), ..ConfigMap::default() };
///             copy.metadata.name = map.metadata.name.clone();
///             copy.metadata.namespace = map.metadata.namespace.clone();
///             member.client.apply(&copy).await?;
///         }
///         Ok(Action::Done)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # let nobody = || tower::service_fn(|_: http::Request<Body>| std::future::pending::<Result<http::Response<Body>, Infallible>>());
/// # let (hub, east) = (Client::new(nobody(), "default"), Client::new(nobody(), "default"));
/// let (sender, provider) = clusters::channel();
/// sender.join("east", east, BTreeMap::new());
/// let members = Clusters::new(provider).may::<ConfigMap>(&Scope::all(), Verbs::APPLY);
///
/// let mut manager = Manager::builder(hub);
/// let controller = Controller::<ConfigMap>::new("copier")
///     .clusters(&members, |_change, hub| {
///         hub.get::<ConfigMap>(Scope::all()).lister().all().iter().map(|map| Key::of(&**map)).collect::<Vec<_>>()
///     })
///     .watches_members::<ConfigMap, _>(&members, Scope::all(), |_member, delta, _hub| Some(delta.key()));
/// manager.add(controller.build(Copier(members)));
/// # }
/// ```
#[derive(Clone)]
pub struct Clusters {
    inner: Arc<Inner>,
    part: Arc<Part>,
}

type Parts = Box<dyn Fn(&mut ManagerBuilder) + Send + Sync>;
type Follower = Arc<dyn Fn(&ClusterChange) + Send + Sync>;

struct Inner {
    provider: Box<dyn Provider>,
    settings: Mutex<Settings>,
    members: Mutex<BTreeMap<Arc<str>, Member>>,
    /// By number, so that they are told in the order in which they came.
    followers: Mutex<(u64, BTreeMap<u64, Follower>)>,
    /// The provider has told all that there are.
    listed: Signal<bool>,
    running: Mutex<Option<Here>>,
}

#[derive(Default)]
struct Settings {
    everywhere: bool,
    rules: Rules,
    parts: Vec<Parts>,
}

/// What runs while the hub's manager does.
struct Here {
    cx: RunCx,
    tasks: JoinSet<()>,
    running: BTreeMap<Arc<str>, Running>,
}

impl Clusters {
    /// The members that a provider tells of.
    #[must_use]
    pub fn new(provider: impl Provider) -> Self {
        let inner = Inner {
            provider: Box::new(provider),
            settings: Mutex::default(),
            members: Mutex::default(),
            followers: Mutex::default(),
            listed: Signal::new(false),
            running: Mutex::default(),
        };
        let inner = Arc::new(inner);
        Self { part: Arc::new(Part(inner.clone())), inner }
    }

    /// Adds parts, such as controllers, to what runs on each member. Called for each that joins, and to describe. What a
    /// controller there is asked for says of which member ([`crate::Request::cluster`]).
    #[must_use]
    pub fn with(self, parts: impl Fn(&mut ManagerBuilder) + Send + Sync + 'static) -> Self {
        self.inner.settings.lock().parts.push(Box::new(parts));
        self
    }

    /// This is done to objects of kind `C` in members.
    #[must_use]
    pub fn may<C: Object>(self, scope: &Scope, verbs: Verbs) -> Self
    where
        C::DynamicType: Default,
    {
        self.inner.settings.lock().rules.allow::<C>(scope, verbs);
        self
    }

    /// What these rules say is done in members.
    #[must_use]
    pub fn needs(self, rules: &Rules) -> Self {
        self.inner.settings.lock().rules.extend(rules);
        self
    }

    /// Members are joined by every replica, leader or not: for controllers that are sharded or need no leader.
    #[must_use]
    pub fn without_leader(self) -> Self {
        self.inner.settings.lock().everywhere = true;
        self
    }

    /// A member by its name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Member> {
        self.inner.members.lock().get(name).cloned()
    }

    /// The members at present, by name.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        self.inner.members.lock().values().cloned().collect()
    }

    /// What has to be installed in a member: the definitions of what runs there, and the rights of an account of this
    /// name. Needs a tokio runtime, and talks to nobody.
    #[must_use]
    pub fn description(&self, name: &str) -> Description {
        let builder = self.inner.staff(Manager::guarded(operator::nobody(), random::Source::seeded(0)));
        Description {
            windlass: operator::DESCRIPTION,
            name: name.to_owned(),
            crds: builder.definitions(),
            rules: builder.rules(),
            watch_namespaces: Vec::new(),
            controllers: builder.controllers(),
            webhooks: Vec::new(),
            metrics: None,
            objects: Vec::new(),
        }
    }

    pub(crate) fn part(&self) -> Arc<dyn Runnable> {
        self.part.clone()
    }

    /// Waits until the provider has told all that there are.
    fn listed(&self) -> BoxFuture<'static, ()> {
        let inner = self.inner.clone();
        Box::pin(async move { inner.listed.wait_for(|listed| listed).await })
    }

    /// Tells of every change from now on, and of the members that there are already, until the answer is dropped.
    fn follow(&self, tell: impl Fn(&ClusterChange) + Send + Sync + 'static) -> Following {
        let tell: Follower = Arc::new(tell);
        let mut followers = self.inner.followers.lock();
        followers.0 += 1;
        let id = followers.0;
        followers.1.insert(id, tell.clone());
        drop(followers);
        self.members().into_iter().for_each(|member| tell(&ClusterChange::Joined(member)));
        Following { inner: self.inner.clone(), id }
    }
}

/// Somebody is told of changes, until this is dropped.
struct Following {
    inner: Arc<Inner>,
    id: u64,
}

impl Drop for Following {
    fn drop(&mut self) {
        let gone = self.inner.followers.lock().1.remove(&self.id);
        // Dropped without the lock: it may own subscriptions.
        drop(gone);
    }
}

impl Inner {
    fn staff(&self, mut builder: ManagerBuilder) -> ManagerBuilder {
        let settings = self.settings.lock();
        settings.parts.iter().for_each(|parts| parts(&mut builder));
        builder.needs(&settings.rules);
        drop(settings);
        builder
    }

    fn tell(&self, change: &ClusterChange) {
        let followers: Vec<Follower> = self.followers.lock().1.values().cloned().collect();
        followers.iter().for_each(|tell| tell(change));
    }

    /// A member is there from now on. One of the same name is replaced.
    fn join(self: &Arc<Self>, name: &str, client: Client, labels: BTreeMap<String, String>) {
        self.leave(name);
        let name: Arc<str> = name.into();
        let Some(cx) = self.running.lock().as_ref().map(|here| here.cx.clone()) else { return };
        if self.members.lock().len() >= MEMBERS_MAX {
            tracing::warn!(cluster = &*name, most = MEMBERS_MAX, "too many clusters: this one is left out");
            return;
        }
        let random = cx.random.fork(&format!("cluster {name}"));
        let builder = Manager::guarded(member::bounded(client), random.clone());
        let builder = builder.field_manager(cx.client.field_manager()).in_cluster(name.clone());
        let manager = self.staff(builder).build();
        cx.metrics.with_cluster(&name, manager.metrics());
        let member = Member::new(name.clone(), labels, &manager);
        let running = Running::start(self, manager, &member, random);
        {
            let mut here = self.running.lock();
            let Some(here) = here.as_mut() else { return };
            here.running.insert(name.clone(), running);
            self.members.lock().insert(name.clone(), member.clone());
        }
        tracing::info!(cluster = &*name, "a cluster joined");
        self.tell(&ClusterChange::Joined(member));
    }

    /// A member is there no longer.
    fn leave(&self, name: &str) {
        let Some(member) = self.members.lock().remove(name) else { return };
        if let Some(here) = self.running.lock().as_mut() {
            while here.tasks.try_join_next().is_some() {}
            if let Some(running) = here.running.remove(name) {
                here.tasks.spawn(running.stop());
            }
            here.cx.metrics.without_cluster(name);
        }
        tracing::info!(cluster = name, "a cluster left");
        self.tell(&ClusterChange::Left(member));
    }

    async fn serve(self: Arc<Self>, cx: RunCx) {
        // Whoever was known before a pause has to be told anew.
        self.members.lock().clear();
        let here = Here { cx: cx.clone(), tasks: JoinSet::new(), running: BTreeMap::new() };
        *self.running.lock() = Some(here);
        let _ends = Ends(&self);
        let provider = provider::supervise(&self, &cx);
        tokio::select! {
            biased;
            () = cx.stop.cancelled() => {}
            () = provider => cx.stop.cancelled().await,
        }
        let Some(mut here) = self.running.lock().take() else { return };
        for running in std::mem::take(&mut here.running).into_values() {
            here.tasks.spawn(running.stop());
        }
        while here.tasks.join_next().await.is_some() {}
    }
}

/// What runs on members ends with the run of the hub, however that ends.
struct Ends<'a>(&'a Inner);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.listed.set(false);
        let here = self.0.running.lock().take();
        drop(here);
    }
}

/// To be added to the hub's manager where no controller of the hub uses it; one that does brings it along.
impl Runnable for Clusters {
    fn name(&self) -> &str {
        self.inner.provider.name()
    }

    fn needs_leader(&self) -> bool {
        false
    }

    fn brings(&self) -> Vec<Arc<dyn Runnable>> {
        vec![self.part()]
    }

    fn run(&self, cx: RunCx) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(async move {
            cx.stop.cancelled().await;
            Ok(())
        })
    }
}

/// The members as a part of the hub's manager. Not `Inner` itself, since what is told needs a handle of its own.
pub(crate) struct Part(Arc<Inner>);

impl Runnable for Part {
    fn name(&self) -> &str {
        self.0.provider.name()
    }

    fn needs_leader(&self) -> bool {
        !self.0.settings.lock().everywhere
    }

    fn needs(&self, rules: &mut Rules) {
        self.0.provider.needs(rules);
    }

    fn run(&self, cx: RunCx) -> BoxFuture<'_, Result<(), BoxError>> {
        let inner = self.0.clone();
        Box::pin(async move {
            inner.serve(cx).await;
            Ok(())
        })
    }
}
