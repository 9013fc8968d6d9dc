//! The registry of informers: one watch per (kind, scope) in a process, whoever asks.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::{Arc, Weak},
};

use kube::{
    Client,
    api::{ApiResource, DynamicObject},
    core::PartialObjectMeta,
};
use parking_lot::Mutex;

use crate::{
    Informer, Object, Rules, Scope, Strip, Verbs,
    informer::{Feed, Handle, Shared},
    listwatch,
    random::Source,
    wire::Target,
};

/// Hands out shared informers. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Informers {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    random: Source,
    known: Mutex<HashMap<(TypeId, String), Vec<Known>>>,
    /// What everybody who ever asked needs.
    needs: Mutex<Rules>,
}

/// One informer of a kind.
struct Known {
    scope: String,
    /// Whether a written object is sure to come back on its watch: it selects by namespace at most.
    whole: bool,
    /// A `Weak<Handle<K>>`.
    handle: Box<dyn Any + Send>,
    /// Whether it has its first list, or nobody wants it any more.
    synced: Box<dyn Fn() -> bool + Send>,
}

impl Known {
    fn get<K: Object>(&self) -> Option<Informer<K>> {
        self.handle.downcast_ref::<Weak<Handle<K>>>().and_then(Informer::upgrade)
    }
}

impl Informers {
    /// Informers that watch through `client`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self::seeded(client, Source::from_entropy())
    }

    /// Informers whose back-off and timeouts are drawn from `random`.
    #[must_use]
    pub fn seeded(client: Client, random: Source) -> Self {
        Self { inner: Arc::new(Inner { client, random, known: Mutex::default(), needs: Mutex::default() }) }
    }

    /// The client they watch through.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// The informer of a kind known at compile time. Its watch starts at once; needs a tokio runtime.
    #[must_use]
    pub fn get<K: Object>(&self, scope: Scope) -> Informer<K>
    where
        K::DynamicType: Default,
    {
        self.of(&K::DynamicType::default(), &scope)
    }

    /// The informer of a kind known at run time, as whole objects.
    #[must_use]
    pub fn dynamic(&self, kind: &ApiResource, scope: Scope) -> Informer<DynamicObject> {
        self.of(kind, &scope)
    }

    /// The informer of a kind known at run time, metadata alone.
    #[must_use]
    pub fn metadata(&self, kind: &ApiResource, scope: Scope) -> Informer<PartialObjectMeta<DynamicObject>> {
        self.of(kind, &scope)
    }

    /// Whether every informer that is in use has its first list.
    #[must_use]
    pub fn all_synced(&self) -> bool {
        self.inner.known.lock().values().flatten().all(|known| (known.synced)())
    }

    /// What the informers that were asked for so far need.
    #[must_use]
    pub fn rules(&self) -> Rules {
        self.inner.needs.lock().clone()
    }

    /// The running informers in which a written object of this kind is sure to show up.
    pub(crate) fn holding<K: Object>(&self) -> Vec<Informer<K>>
    where
        K::DynamicType: Default,
    {
        let known = self.inner.known.lock();
        let of_kind = known.get(&id::<K>(&K::DynamicType::default()));
        of_kind.into_iter().flatten().filter(|k| k.whole).filter_map(Known::get).collect()
    }

    fn of<K: Object>(&self, dynamic: &K::DynamicType, scope: &Scope) -> Informer<K> {
        self.inner.needs.lock().allow_kind::<K>(dynamic, scope, "", Verbs::READ);
        let scope_id = scope.id();
        let mut known = self.inner.known.lock();
        let of_kind = known.entry(id::<K>(dynamic)).or_default();
        of_kind.retain(|known| known.get::<K>().is_some());
        let same = of_kind.iter().find(|known| known.scope == scope_id);
        if let Some(informer) = same.and_then(Known::get) {
            return informer;
        }
        let whole = scope.labels.is_none() && scope.fields.is_none();
        let informer = self.start::<K>(dynamic, scope);
        let weak = informer.downgrade();
        let synced = move || Informer::upgrade(&weak).is_none_or(|informer| informer.is_synced());
        let handle = Box::new(informer.downgrade());
        of_kind.push(Known { scope: scope_id, whole, handle, synced: Box::new(synced) });
        informer
    }

    fn start<K: Object>(&self, dynamic: &K::DynamicType, scope: &Scope) -> Informer<K> {
        let shared = Arc::new(Shared::<K>::new(&scope.namespaces));
        let namespaces: Vec<Option<&str>> = match &scope.namespaces[..] {
            [] => vec![None],
            some => some.iter().map(|ns| Some(ns.as_str())).collect(),
        };
        let mut tasks = Vec::with_capacity(namespaces.len());
        for (part, namespace) in namespaces.into_iter().enumerate() {
            let target = Target {
                path: K::url_path(dynamic, namespace),
                labels: scope.labels.as_ref().map(ToString::to_string).filter(|s| !s.is_empty()),
                fields: scope.fields.clone(),
                metadata_only: K::metadata_api() || scope.strip == Strip::MetadataOnly,
            };
            let random = self.inner.random.fork(&target.path);
            let client = self.inner.client.clone();
            let mut feed = Feed::new(shared.clone(), part, scope.strip == Strip::Nothing);
            let task = tokio::spawn(async move { listwatch::run(client, target, random, &mut feed).await });
            tasks.push(task.abort_handle());
        }
        Informer::new(shared, tasks)
    }
}

fn id<K: Object>(dynamic: &K::DynamicType) -> (TypeId, String) {
    (TypeId::of::<K>(), K::url_path(dynamic, None))
}
