//! A cache of one kind, kept current by one watch however many read it.
//!
//! An [`Informer`] is a handle: the watch runs as long as a handle, a lister, an index or a subscription is left. Each
//! change is first in the cache and its indexes, then told to every subscriber, in order, before the next change is
//! taken in. Subscribers are therefore called on the watch's own task and must be quick; one that is slow takes
//! [`Informer::deltas`], which coalesces.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::{
    Delta, Deltas, Index, Indexed, Key, Lister, Object, WatchError, clock, deltas,
    diagnostics::{Doing, WatchState},
    listwatch::Sink,
    object::parse_revision,
    prune,
    reports::{About, Head},
    shards::Selection,
    signal::Signal,
    store::{Stamp, Store},
    wire,
};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;

/// A shared cache of one kind. Cheap to clone.
pub struct Informer<K: Object> {
    handle: Arc<Handle<K>>,
}

impl<K: Object> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { handle: self.handle.clone() }
    }
}

/// Ends the watches when the last user is gone.
pub(crate) struct Handle<K: Object> {
    shared: Arc<Shared<K>>,
    tasks: Vec<tokio::task::AbortHandle>,
}

impl<K: Object> Drop for Handle<K> {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

/// What the watch fills.
pub(crate) struct Shared<K: Object> {
    store: Arc<Store<K>>,
    fanout: Mutex<Fanout<K>>,
    parts: Vec<Part>,
    synced: Signal<bool>,
    undecodable: AtomicU64,
}

/// One watch of an informer: the whole kind, or one of its namespaces.
struct Part {
    namespace: Option<String>,
    synced: AtomicBool,
    revision: Signal<u64>,
    failure: Mutex<Option<Arc<WatchError>>>,
    /// For people.
    life: Mutex<Life>,
}

/// What a watch has been through.
#[derive(Clone, Copy, Default)]
struct Life {
    /// Lists that were begun.
    lists: u64,
    /// A list is under way.
    listing: bool,
    /// Watches that a server has opened.
    watches: u64,
    /// The last try has led to one.
    open: bool,
    last_event: Option<Instant>,
    last_heard: Option<Instant>,
}

impl Part {
    fn covers(&self, namespace: Option<&str>) -> bool {
        self.namespace.is_none() || self.namespace.as_deref() == namespace
    }
}

type Handler<K> = Box<dyn FnMut(&Delta<K>) + Send>;

struct Fanout<K> {
    subscribers: Vec<Subscriber<K>>,
}

struct Subscriber<K> {
    live: Arc<AtomicBool>,
    handler: Handler<K>,
}

/// A subscriber's hold on an informer; dropping it unsubscribes.
#[must_use = "dropping the subscription unsubscribes"]
pub struct Subscription {
    live: Arc<AtomicBool>,
    tidy: Box<dyn Fn() + Send + Sync>,
    /// The informer, as long as somebody listens.
    _keep: Arc<dyn Any + Send + Sync>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.live.store(false, Ordering::Release);
        (self.tidy)();
    }
}

impl<K: Object> Informer<K> {
    pub(crate) fn new(shared: Arc<Shared<K>>, tasks: Vec<tokio::task::AbortHandle>) -> Self {
        Self { handle: Arc::new(Handle { shared, tasks }) }
    }

    pub(crate) fn downgrade(&self) -> Weak<Handle<K>> {
        Arc::downgrade(&self.handle)
    }

    pub(crate) fn upgrade(weak: &Weak<Handle<K>>) -> Option<Self> {
        Some(Self { handle: weak.upgrade()? })
    }

    fn shared(&self) -> &Shared<K> {
        &self.handle.shared
    }

    /// A reader of the cache.
    #[must_use]
    pub fn lister(&self) -> Lister<K> {
        Lister::new(self.shared().store.clone(), self.handle.clone())
    }

    /// Adds an index, filled from what the cache holds, or finds the same one if it exists.
    pub fn index<I: Index<K>>(&self, index: I) -> Indexed<K, I> {
        Indexed::new(self.lister(), self.shared().store.index(index))
    }

    /// Calls `handler` with an initial add for every object in the cache, and then with each change, in order.
    ///
    /// The handler runs on the task of the watch: it must be quick, must not block, and must not subscribe to the same
    /// informer. A handler that panics is removed.
    pub fn subscribe(&self, mut handler: impl FnMut(&Delta<K>) + Send + 'static) -> Subscription {
        let live = Arc::new(AtomicBool::new(true));
        let mut fanout = self.shared().fanout.lock();
        for new in self.lister().all() {
            handler(&Delta::Added { new, initial: true });
        }
        fanout.subscribers.push(Subscriber { live: live.clone(), handler: Box::new(handler) });
        drop(fanout);
        let shared = Arc::downgrade(&self.handle.shared);
        let tidy = Box::new(move || {
            if let Some(shared) = shared.upgrade() {
                shared.tidy();
            }
        });
        Subscription { live, tidy, _keep: self.handle.clone() }
    }

    /// The changes as a queue that coalesces per object, for consumers that are not quick.
    #[must_use]
    pub fn deltas(&self) -> Deltas<K> {
        let shared = Arc::new(deltas::Shared::new());
        let sink = shared.clone();
        Deltas::new(shared, self.subscribe(move |delta| sink.push(delta)))
    }

    /// Waits until the first list is complete.
    pub fn synced(&self) -> impl Future<Output = ()> + Send + use<K> {
        let keep = self.clone();
        async move { keep.shared().synced.wait_for(|synced| synced).await }
    }

    /// Whether the first list is complete.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.shared().synced.get()
    }

    /// The revision the cache stands at: it reflects every write of this kind up to it. Zero before the first list.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.shared().parts.iter().map(|part| part.revision.get()).min().unwrap_or(0)
    }

    /// The namespaces it watches; none means all.
    #[must_use]
    pub fn namespaces(&self) -> Vec<String> {
        self.shared().parts.iter().filter_map(|part| part.namespace.clone()).collect()
    }

    /// Waits until the cache reflects a write of `revision` to an object in `namespace`.
    pub fn reached(
        &self,
        namespace: Option<&str>,
        revision: u64,
    ) -> impl Future<Output = ()> + Send + use<K> {
        let keep = self.clone();
        let part = self.shared().parts.iter().position(|part| part.covers(namespace));
        async move {
            // What is outside this informer's scope never comes back on its watch: nothing to wait for.
            if let Some(part) = part {
                keep.shared().parts[part].revision.wait_for(|at| at >= revision).await;
            }
        }
    }

    /// Why the watch stands still at present, if it does; of several namespaces, the first that does.
    #[must_use]
    pub fn failure(&self) -> Option<Arc<WatchError>> {
        self.shared().parts.iter().find_map(|part| part.failure.lock().clone())
    }

    /// How many objects were skipped because they could not be decoded as this kind.
    #[must_use]
    pub fn undecodable(&self) -> u64 {
        self.shared().undecodable.load(Ordering::Relaxed)
    }
}

impl<K: Object> Shared<K> {
    pub(crate) fn new(namespaces: &[String]) -> Self {
        let part = |namespace| Part {
            namespace,
            synced: AtomicBool::new(false),
            revision: Signal::new(0),
            failure: Mutex::new(None),
            life: Mutex::default(),
        };
        let parts = match namespaces {
            [] => vec![part(None)],
            some => some.iter().map(|ns| part(Some(ns.clone()))).collect(),
        };
        Self {
            store: Arc::new(Store::new()),
            fanout: Mutex::new(Fanout { subscribers: Vec::new() }),
            parts,
            synced: Signal::new(false),
            undecodable: AtomicU64::new(0),
        }
    }

    /// Changes the cache and tells everybody, as one step that no subscriber can see half of.
    fn change<D: IntoIterator<Item = Delta<K>>>(&self, change: impl FnOnce(&Store<K>) -> D) {
        let mut fanout = self.fanout.lock();
        for delta in change(&self.store) {
            fanout.tell(&delta);
        }
    }

    /// Lets go of the handlers of subscribers that are gone, now or else at the next change.
    fn tidy(&self) {
        let gone: Vec<Subscriber<K>> = match self.fanout.try_lock() {
            Some(mut fanout) => {
                fanout.subscribers.extract_if(.., |s| !s.live.load(Ordering::Acquire)).collect()
            }
            None => Vec::new(),
        };
        // Dropped without the lock: a handler may own other subscriptions.
        drop(gone);
    }
}

impl<K> Fanout<K> {
    fn tell(&mut self, delta: &Delta<K>) {
        let heard = |subscriber: &mut Subscriber<K>| {
            subscriber.live.load(Ordering::Acquire)
                && catch_unwind(AssertUnwindSafe(|| (subscriber.handler)(delta))).is_ok()
        };
        self.subscribers.retain_mut(heard);
    }
}

/// What a write waits for, whatever the informer shows of its kind.
pub(crate) trait Follows: Send + Sync {
    /// Whether the first list is complete.
    fn has_first_list(&self) -> bool;
    /// Whether the cache reflects a write of `revision` to an object in `namespace`.
    fn has_reached(&self, namespace: Option<&str>, revision: u64) -> bool;
    /// Waits until it does.
    fn reaches(&self, namespace: Option<&str>, revision: u64) -> BoxFuture<'static, ()>;
    /// The uid of an object that the cache has.
    fn uid(&self, key: &Key) -> Option<String>;
    /// The revision of an object that the cache has.
    fn revision_at(&self, key: &Key) -> Option<String>;
    /// Waits until the cache knows that the object of this uid is gone, or on its way out.
    fn lets_go(&self, key: Key, uid: Option<String>) -> BoxFuture<'static, ()>;
    /// Where each of its watches stands, but for what it asks for: by namespace.
    fn states(&self) -> Vec<(Option<String>, WatchState)>;
}

impl<K: Object> Follows for Informer<K> {
    fn has_first_list(&self) -> bool {
        self.is_synced()
    }

    fn has_reached(&self, namespace: Option<&str>, revision: u64) -> bool {
        let part = self.shared().parts.iter().find(|part| part.covers(namespace));
        part.is_none_or(|part| part.revision.get() >= revision)
    }

    fn reaches(&self, namespace: Option<&str>, revision: u64) -> BoxFuture<'static, ()> {
        Box::pin(self.reached(namespace, revision))
    }

    fn uid(&self, key: &Key) -> Option<String> {
        self.get(key)?.meta().uid.clone()
    }

    fn revision_at(&self, key: &Key) -> Option<String> {
        self.get(key)?.meta().resource_version.clone()
    }

    fn lets_go(&self, key: Key, uid: Option<String>) -> BoxFuture<'static, ()> {
        let keep = self.clone();
        Box::pin(async move {
            let parts = &keep.shared().parts;
            let Some(part) = parts.iter().find(|part| part.covers(key.namespace())) else { return };
            let gone = |_| {
                keep.get(&key).is_none_or(|object| {
                    let meta = object.meta();
                    meta.uid != uid || meta.deletion_timestamp.is_some()
                })
            };
            part.revision.wait_for(gone).await;
        })
    }

    fn states(&self) -> Vec<(Option<String>, WatchState)> {
        let lister = self.lister();
        let state = |part: &Part| {
            let life = *part.life.lock();
            // A failure is over with the next change; a watch that is open does not stand still until then.
            let failure = part.failure.lock().clone().filter(|_| !life.open);
            let reason = failure.map(|error| crate::sentence(&*error));
            let doing = match (&reason, life.listing || life.lists == 0) {
                (Some(_), _) => Doing::Failing,
                (None, true) => Doing::Listing,
                (None, false) => Doing::Watching,
            };
            let state = WatchState {
                kind: String::new(),
                path: String::new(),
                metadata_only: false,
                state: doing,
                reason,
                revision: part.revision.get(),
                objects: match &part.namespace {
                    Some(namespace) => lister.count_in(namespace),
                    None => lister.len(),
                },
                skipped: self.undecodable(),
                last_event: life.last_event.map(clock::at),
                last_heard: life.last_heard.map(clock::at),
                relists: life.lists.saturating_sub(1),
                restarts: life.watches.saturating_sub(1),
            };
            (part.namespace.clone(), state)
        };
        self.shared().parts.iter().map(state).collect()
    }
}

/// Feeds one watch into the shared cache.
pub(crate) struct Feed<K: Object> {
    shared: Arc<Shared<K>>,
    part: usize,
    generation: u32,
    keep_managed_fields: bool,
    about: About,
    /// What is asked for, and which version of it.
    selection: Option<(Selection, u64)>,
}

impl<K: Object> Feed<K> {
    pub(crate) fn new(shared: Arc<Shared<K>>, part: usize, keep_managed_fields: bool, about: About) -> Self {
        Self { shared, part, generation: 0, keep_managed_fields, about, selection: None }
    }

    pub(crate) fn selecting(self, selection: Option<Selection>) -> Self {
        Self { selection: selection.map(|selection| (selection, 0)), ..self }
    }

    fn part(&self) -> &Part {
        &self.shared.parts[self.part]
    }

    fn stamp(&self) -> Stamp {
        Stamp { part: u32::try_from(self.part).unwrap_or(u32::MAX), generation: self.generation }
    }

    fn decode(&self, raw: &[u8]) -> serde_json::Result<K> {
        if self.keep_managed_fields {
            return serde_json::from_slice(raw);
        }
        serde_json::from_slice(&prune::without_managed_fields(raw))
    }

    /// What is known of an object that cannot be decoded.
    fn head(&self, raw: &[u8]) -> Option<(Head, Key)> {
        let head: Head = serde_json::from_slice(raw).ok()?;
        let key = Key::for_kind::<K>(head.metadata.namespace.as_deref(), &head.metadata.name);
        Some((head, key))
    }

    /// An object is there, but not as this kind. What the cache has of it stays as it was.
    fn skip(&mut self, raw: &[u8], error: &serde_json::Error) {
        self.shared.undecodable.fetch_add(1, Ordering::Relaxed);
        let Some((head, key)) = self.head(raw) else {
            tracing::warn!(kind = self.about.kind(), %error, "skipped an object that cannot be decoded");
            return;
        };
        self.shared.store.touch(&key, self.stamp());
        self.about.undecodable(&head, &key, self.generation, error);
    }
}

impl<K: Object> Sink for Feed<K> {
    fn begin(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        let mut life = self.part().life.lock();
        (life.lists, life.listing) = (life.lists + 1, true);
    }

    fn opened(&mut self) {
        let mut life = self.part().life.lock();
        (life.watches, life.open) = (life.watches + 1, true);
    }

    fn put(&mut self, raw: &[u8]) -> Option<String> {
        self.part().life.lock().last_event = Some(Instant::now());
        let object = match self.decode(raw) {
            Ok(object) => object,
            Err(error) => {
                self.skip(raw, &error);
                return wire::revision(raw);
            }
        };
        if self.about.has_undecodable() {
            self.about.decoded(&Key::of(&object));
        }
        let revision = object.meta().resource_version.clone();
        let (stamp, initial) = (self.stamp(), !self.part().synced.load(Ordering::Acquire));
        self.shared.change(|store| store.put(object, stamp, initial));
        revision
    }

    fn remove(&mut self, raw: &[u8]) -> Option<String> {
        self.part().life.lock().last_event = Some(Instant::now());
        let Ok(object) = self.decode(raw) else {
            // It was decoded once, perhaps: then it is gone as it was.
            if let Some((_, key)) = self.head(raw) {
                self.about.decoded(&key);
                self.shared.change(|store| store.forget(&key));
            }
            return wire::revision(raw);
        };
        if self.about.has_undecodable() {
            self.about.decoded(&Key::of(&object));
        }
        let revision = object.meta().resource_version.clone();
        self.shared.change(|store| store.remove(object));
        revision
    }

    fn finish(&mut self) {
        let stamp = self.stamp();
        self.shared.change(|store| store.sweep(stamp));
        self.about.listed(self.generation);
        self.part().life.lock().listing = false;
        self.part().synced.store(true, Ordering::Release);
        if let Some((selection, version)) = &self.selection {
            selection.listed(self.part, *version);
        }
    }

    fn selects(&mut self, version: u64) {
        if let Some((_, last)) = &mut self.selection {
            *last = version;
        }
    }

    fn reached(&mut self, revision: &str) {
        let revision = parse_revision(revision);
        self.part().revision.set(revision);
        self.part().life.lock().last_heard = Some(Instant::now());
        if self.part().failure.lock().take().is_some() {
            self.about.recovered();
        }
        let synced = &self.shared.synced;
        if !synced.get() && self.shared.parts.iter().all(|part| part.synced.load(Ordering::Acquire)) {
            synced.set(true);
        }
    }

    fn failed(&mut self, error: WatchError, tell: bool) {
        if tell {
            self.about.failed(&error);
        }
        self.part().life.lock().open = false;
        *self.part().failure.lock() = Some(Arc::new(error));
    }
}

impl<K: Object> Informer<K> {
    /// One object of the cache.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.shared().store.read(|objects| objects.get(key))
    }
}
