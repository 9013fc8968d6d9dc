//! Watches that come and go while a controller runs, of kinds that are known at run time alone.
//!
//! A reconciler holds a [`DynamicWatches`] and adds what the objects that it looks at refer to, or has it follow every
//! kind of a sort. A kind need not be served yet: it is watched from the moment on in which its definition is installed,
//! goes quiet when the definition is deleted, and comes back with it. A watch is shared with whoever else reads the same
//! kind and ends when nobody does.
//!
//! What may be watched is registered beforehand, as everything else, so that rights can be derived from it.

use std::{collections::BTreeMap, sync::Arc};

use futures::FutureExt;
use kube::api::{ApiResource, DynamicObject};
use parking_lot::{Mutex, RwLock};
use tokio::task::AbortHandle;

use crate::{
    Controller, Delta, Enqueue, Error, Informer, Informers, Key, Kinds, Object, Place, Rules, Scope,
    Subscription, Verbs,
    controller::{Trigger, Wire, Wiring},
    definitions::Definitions,
    discovery::Served,
};

/// Watches that are added and removed at run time. Cheap to clone; clones share everything. Belongs to one controller.
///
/// ```
/// use std::{convert::Infallible, sync::Arc};
///
/// use http::{Request as HttpRequest, Response};
/// use k8s_openapi::api::core::v1::ConfigMap;
/// use kube::{
///     Client,
///     api::{ApiResource, DynamicObject, GroupVersionKind},
///     client::Body,
/// };
/// use windlass::{
///     Action, Controller, DynamicWatches, Error, Key, Manager, Place, Reconcile, Request, Scope,
///     random::Source,
/// };
///
/// /// Watches the kinds that its ConfigMaps name.
/// struct Watchman {
///     watches: DynamicWatches,
/// }
///
/// impl Reconcile<ConfigMap> for Watchman {
///     async fn reconcile(&self, request: Request<ConfigMap>) -> Result<Action, Error> {
///         let Some(map) = request.object else { return Ok(Action::Done) };
///         for kind in map.data.iter().flatten().map(|(kind, _)| kind) {
///             let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("harbour.dev", "v1", kind));
///             let boats = self.watches.add(&kind, Scope::all())?;
///             let _moored = boats.lister().len();
///         }
///         Ok(Action::Done)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # let nobody = tower::service_fn(|_: HttpRequest<Body>| std::future::pending::<Result<Response<Body>, Infallible>>());
/// # let client = Client::new(nobody, "default");
/// let mut manager = Manager::guarded(client, Source::seeded(1));
/// let watches = DynamicWatches::new(manager.informers(), |_kind, _delta, _informers| {
///     vec![Key::new(Some("harbour"), "watchman")]
/// })
/// .may_watch(Place::Everywhere, "harbour.dev", "*");
/// let controller = Controller::<ConfigMap>::new("watchman").dynamic(&watches);
/// manager.add(controller.build(Watchman { watches: watches.clone() }));
///
/// let pods = ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&());
/// assert_eq!(
///     watches.add(&pods, Scope::all()).err().unwrap().to_string(),
///     "terminal: nothing registered that this controller may watch pods: \
///      add `.may_watch(Place::Everywhere, \"\", \"pods\")` to its dynamic watches"
/// );
/// # }
/// ```
pub struct DynamicWatches<O: Object<DynamicType = ApiResource> = DynamicObject> {
    inner: Arc<Inner<O>>,
}

impl<O: Object<DynamicType = ApiResource>> Clone for DynamicWatches<O> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

type Map<O> = dyn Fn(&ApiResource, &Delta<O>, &Informers) -> Vec<Key> + Send + Sync;
type Wanted = Arc<dyn Fn(&Served) -> bool + Send + Sync>;

struct Inner<O: Object<DynamicType = ApiResource>> {
    informers: Informers,
    map: Box<Map<O>>,
    rules: Mutex<Rules>,
    followed: Mutex<Option<Wanted>>,
    watches: Mutex<BTreeMap<Id, Watch<O>>>,
    queue: RwLock<Option<Enqueue>>,
}

/// Path of the kind, and scope.
type Id = (String, String);

struct Watch<O: Object> {
    kind: ApiResource,
    informer: Informer<O>,
    /// While the controller runs.
    subscription: Option<Subscription>,
    by_hand: bool,
    followed: bool,
}

/// A refusal that names what is missing.
#[derive(Debug, thiserror::Error)]
#[error(
    "nothing registered that this controller may watch {resource}: \
     add `.may_watch({place}, {group:?}, {plural:?})` to its dynamic watches"
)]
struct NotRegistered {
    resource: String,
    place: String,
    group: String,
    plural: String,
}

impl<O: Object<DynamicType = ApiResource>> DynamicWatches<O> {
    /// No watches yet; `map` says which keys of the controller a change is a trigger for. As whole objects, or, for
    /// `DynamicWatches::<PartialObjectMeta<DynamicObject>>`, metadata alone.
    #[must_use]
    pub fn new<I: IntoIterator<Item = Key>>(
        informers: &Informers,
        map: impl Fn(&ApiResource, &Delta<O>, &Informers) -> I + Send + Sync + 'static,
    ) -> Self {
        let inner = Inner {
            informers: informers.clone(),
            map: Box::new(move |kind, delta, informers| map(kind, delta, informers).into_iter().collect()),
            rules: Mutex::default(),
            followed: Mutex::default(),
            watches: Mutex::default(),
            queue: RwLock::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Allows to watch a resource there; `*` is any group, or any resource of a group.
    #[must_use]
    pub fn may_watch(self, place: Place, group: &str, resource: &str) -> Self {
        self.inner.rules.lock().allow_resource(place, group, resource, Verbs::READ);
        self
    }

    /// While the controller runs, watches every kind that `wanted` picks, in all namespaces, from when it is served and for
    /// as long as it is. Kinds that [`DynamicWatches::may_watch`] does not cover are left out, and told in the log.
    #[must_use]
    pub fn following(self, wanted: impl Fn(&Served) -> bool + Send + Sync + 'static) -> Self {
        *self.inner.followed.lock() = Some(Arc::new(wanted));
        self
    }

    /// Watches a kind from now on, and hands out its cache. What is watched already, or is not served yet, is fine. Fails
    /// for good if it was not registered.
    pub fn add(&self, kind: &ApiResource, scope: Scope) -> Result<Informer<O>, Error> {
        self.watch(kind, scope, true)
    }

    /// Ends what [`DynamicWatches::add`] began; false if there was no such watch.
    pub fn remove(&self, kind: &ApiResource, scope: &Scope) -> bool {
        let mut watches = self.inner.watches.lock();
        let id = id::<O>(kind, scope);
        let Some(watch) = watches.get_mut(&id).filter(|watch| watch.by_hand) else { return false };
        watch.by_hand = false;
        let ended = if watch.followed { None } else { watches.remove(&id) };
        drop(watches);
        // Dropped without the lock: a handler that runs at this moment may want it.
        drop(ended);
        true
    }

    /// What is watched at present.
    #[must_use]
    pub fn kinds(&self) -> Vec<ApiResource> {
        self.inner.watches.lock().values().map(|watch| watch.kind.clone()).collect()
    }

    /// The cache of a kind that is watched.
    #[must_use]
    pub fn informer(&self, kind: &ApiResource, scope: &Scope) -> Option<Informer<O>> {
        self.inner.watches.lock().get(&id::<O>(kind, scope)).map(|watch| watch.informer.clone())
    }

    fn watch(&self, kind: &ApiResource, scope: Scope, by_hand: bool) -> Result<Informer<O>, Error> {
        self.inner.check(kind, &scope).map_err(Error::terminal)?;
        let id = id::<O>(kind, &scope);
        if let Some(watch) = self.inner.watches.lock().get_mut(&id) {
            (watch.by_hand, watch.followed) = (watch.by_hand || by_hand, watch.followed || !by_hand);
            return Ok(watch.informer.clone());
        }
        let informer = self.inner.informers.of::<O>(kind, &scope, false);
        // Outside of the lock: it calls back with what the cache holds.
        let subscription = self.inner.subscribe(kind, &informer);
        let watch = Watch {
            kind: kind.clone(),
            informer: informer.clone(),
            subscription,
            by_hand,
            followed: !by_hand,
        };
        let connected = watch.subscription.is_some();
        self.inner.watches.lock().entry(id).or_insert(watch);
        if !connected && self.inner.queue.read().is_some() {
            // The controller started in between.
            self.inner.connect();
        }
        Ok(informer)
    }

    /// Follows kinds for ever.
    async fn follow(self, kinds: Kinds) {
        // What was followed before a pause may have gone meanwhile.
        let mut before: Vec<ApiResource> = {
            let watches = self.inner.watches.lock();
            watches.values().filter(|watch| watch.followed).map(|watch| watch.kind.clone()).collect()
        };
        loop {
            let change = kinds.changed().await;
            let is_back =
                |kind: &ApiResource| change.came.iter().any(|served| served.api_resource() == *kind);
            before.drain(..).filter(|kind| !is_back(kind)).for_each(|kind| self.went(&kind));
            change.went.iter().for_each(|served| self.went(&served.api_resource()));
            for served in change.came {
                if let Err(error) = self.watch(&served.api_resource(), Scope::all(), false) {
                    tracing::warn!(kind = served.name(), %error, "a kind is not followed");
                }
            }
        }
    }

    /// A kind that was followed is no longer served: what its watch has not told is gone, too.
    fn went(&self, kind: &ApiResource) {
        let mut watches = self.inner.watches.lock();
        let id = id::<O>(kind, &Scope::all());
        let Some(watch) = watches.get_mut(&id) else { return };
        watch.followed = false;
        if watch.by_hand {
            return;
        }
        let ended = watches.remove(&id);
        drop(watches);
        let Some(Watch { informer, subscription, .. }) = ended else { return };
        drop(subscription);
        for last in informer.lister().all() {
            self.inner.tell(kind, &Delta::Deleted { last, observed: false });
        }
    }
}

impl<O: Object<DynamicType = ApiResource>> Inner<O> {
    fn check(&self, kind: &ApiResource, scope: &Scope) -> Result<(), NotRegistered> {
        let rules = self.rules.lock();
        for place in Place::of(scope) {
            let namespace = match &place {
                Place::Namespace(name) => Some(name.as_str()),
                _ => None,
            };
            if rules.verbs(namespace, &kind.group, &kind.plural, None).contains(Verbs::READ) {
                continue;
            }
            let group = if kind.group.is_empty() { String::new() } else { format!(".{}", kind.group) };
            return Err(NotRegistered {
                resource: format!("{}{group}", kind.plural),
                place: namespace.map_or("Place::Everywhere".to_owned(), |name| {
                    format!("Place::Namespace({name:?}.into())")
                }),
                group: kind.group.clone(),
                plural: kind.plural.clone(),
            });
        }
        Ok(())
    }

    /// Connects an informer with the queue, if the controller runs.
    fn subscribe(self: &Arc<Self>, kind: &ApiResource, informer: &Informer<O>) -> Option<Subscription> {
        self.queue.read().as_ref()?;
        let (inner, kind) = (Arc::downgrade(self), kind.clone());
        Some(informer.subscribe(move |delta| {
            if let Some(inner) = inner.upgrade() {
                inner.tell(&kind, delta);
            }
        }))
    }

    fn tell(&self, kind: &ApiResource, delta: &Delta<O>) {
        let Some(queue) = self.queue.read().clone() else { return };
        for key in (self.map)(kind, delta, &self.informers) {
            queue.because(key, delta);
        }
    }

    /// Connects everything that was added while the controller did not run.
    fn connect(self: &Arc<Self>) {
        let waiting: Vec<(Id, ApiResource, Informer<O>)> = {
            let watches = self.watches.lock();
            let waiting = watches.iter().filter(|(_, watch)| watch.subscription.is_none());
            waiting.map(|(id, watch)| (id.clone(), watch.kind.clone(), watch.informer.clone())).collect()
        };
        for (id, kind, informer) in waiting {
            let subscription = self.subscribe(&kind, &informer);
            if let Some(watch) = self.watches.lock().get_mut(&id) {
                watch.subscription = subscription;
            }
        }
    }

    /// The caches stay, for the next start.
    fn disconnect(&self) {
        *self.queue.write() = None;
        let ended: Vec<_> = self.watches.lock().values_mut().map(|watch| watch.subscription.take()).collect();
        drop(ended);
    }
}

/// Watches that tell a queue, for as long as this is held.
struct Connected<O: Object<DynamicType = ApiResource>> {
    inner: Arc<Inner<O>>,
    following: Option<AbortHandle>,
    _definitions: Arc<Definitions>,
}

impl<O: Object<DynamicType = ApiResource>> Drop for Connected<O> {
    fn drop(&mut self) {
        self.following.iter().for_each(AbortHandle::abort);
        self.inner.disconnect();
    }
}

impl<K: Object> Controller<K>
where
    K::DynamicType: Default,
{
    /// Also triggered by what these watches see. They see definitions, too, so that a kind is watched from the moment on in
    /// which it is served.
    #[must_use]
    pub fn dynamic<O: Object<DynamicType = ApiResource>>(mut self, watches: &DynamicWatches<O>) -> Self {
        let (connected, needed) = (watches.clone(), watches.clone());
        let connect = move |wiring: &Wiring<'_>| {
            let watches = &connected;
            *watches.inner.queue.write() = Some(wiring.enqueue());
            watches.inner.connect();
            let wanted = watches.inner.followed.lock().clone();
            let following = wanted.map(|wanted| {
                let kinds = Kinds::new(wiring.informers, move |served| wanted(served));
                tokio::spawn(watches.clone().follow(kinds).boxed()).abort_handle()
            });
            let inner = watches.inner.clone();
            Wire::guarded(Connected { inner, following, _definitions: wiring.informers.definitions() })
        };
        let warm = |informers: &Informers, _: &Scope| -> Box<dyn std::any::Any + Send> {
            Box::new(informers.definitions())
        };
        self.trigger(Trigger { connect: Box::new(connect), warm: Box::new(warm) });
        self.needs(move |_, rules| {
            Definitions::needs(rules);
            rules.extend(&needed.inner.rules.lock());
        })
    }
}

fn id<O: Object<DynamicType = ApiResource>>(kind: &ApiResource, scope: &Scope) -> Id {
    (O::url_path(kind, None), scope.id())
}
