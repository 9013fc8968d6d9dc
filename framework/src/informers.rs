//! The registry of informers: one watch per (kind, scope) in a process, whoever asks.

use std::{
    any::{Any, TypeId},
    collections::BTreeMap,
    sync::{Arc, OnceLock, Weak},
};

use kube::{
    Client,
    api::{ApiResource, DynamicObject},
    core::PartialObjectMeta,
};
use parking_lot::Mutex;

use crate::{
    Informer, Object, Projected, Projection, Rules, Scope, Strip, Verbs,
    definitions::Definitions,
    diagnostics::WatchState,
    informer::{Feed, Follows, Handle, Shared},
    listwatch,
    random::Source,
    reports::{About, Reports},
    scope,
    shards::Selection,
    signal::Signal,
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
    /// By the path of the kind, so that all views of one kind stand together.
    known: Mutex<BTreeMap<String, Vec<Known>>>,
    /// The namespaces that stand for all of them.
    watched: OnceLock<Vec<String>>,
    /// What everybody who ever asked needs.
    needs: Mutex<Rules>,
    /// Counts the changes of definitions that somebody follows.
    redefined: Arc<Signal<u64>>,
    definitions: Mutex<Weak<Definitions>>,
    reports: Arc<OnceLock<Reports>>,
}

/// One informer of a kind.
struct Known {
    type_id: TypeId,
    scope: String,
    /// Whether a written object is sure to come back on its watch: it selects by namespace at most.
    whole: bool,
    /// Whether it shows more than metadata, so that decisions may be made from it.
    shows: bool,
    /// Whether somebody counts on the kind being served.
    required: bool,
    /// A `Weak<Handle<K>>`.
    handle: Box<dyn Any + Send>,
    /// What its watches ask for, by namespace.
    targets: Vec<(Option<String>, Target)>,
    /// The kind.
    kind: String,
    /// The informer, without its type; `None` when nobody wants it any more.
    informer: Box<dyn Fn() -> Option<Box<dyn Follows>> + Send>,
}

impl Known {
    fn get<K: Object>(&self) -> Option<Informer<K>> {
        self.handle.downcast_ref::<Weak<Handle<K>>>().and_then(Informer::upgrade)
    }

    fn lags(&self) -> bool {
        (self.informer)().is_some_and(|informer| !informer.has_first_list())
    }

    fn states(&self) -> Vec<WatchState> {
        let states = (self.informer)().map(|informer| informer.states()).unwrap_or_default();
        let named = |(namespace, state): (Option<String>, WatchState)| {
            let target = self.targets.iter().find(|(of, _)| *of == namespace).map(|(_, target)| target);
            WatchState {
                kind: self.kind.clone(),
                path: target.map(Target::name).unwrap_or_default(),
                metadata_only: target.is_some_and(|target| target.metadata_only),
                ..state
            }
        };
        states.into_iter().map(named).collect()
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
        let inner = Inner {
            client,
            random,
            known: Mutex::default(),
            watched: OnceLock::new(),
            needs: Mutex::default(),
            redefined: Arc::new(Signal::new(0)),
            definitions: Mutex::default(),
            reports: Arc::default(),
        };
        Self { inner: Arc::new(inner) }
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
        self.of(&K::DynamicType::default(), &scope, true)
    }

    /// The informer of some fields of a kind; the others take no memory.
    #[must_use]
    pub fn projected<P: Projection>(&self, scope: Scope) -> Informer<Projected<P>>
    where
        <P::Kind as kube::Resource>::DynamicType: Default,
    {
        self.get::<Projected<P>>(scope)
    }

    /// The informer of a kind known at run time, as whole objects.
    #[must_use]
    pub fn dynamic(&self, kind: &ApiResource, scope: Scope) -> Informer<DynamicObject> {
        self.of(kind, &scope, true)
    }

    /// The informer of a kind known at run time, metadata alone.
    #[must_use]
    pub fn metadata(&self, kind: &ApiResource, scope: Scope) -> Informer<PartialObjectMeta<DynamicObject>> {
        self.of(kind, &scope, true)
    }

    /// From now on these namespaces stand for all of them.
    pub(crate) fn watch_namespaces(&self, namespaces: &[String]) {
        if !namespaces.is_empty() {
            // Said once, before anybody asks for an informer.
            let _ = self.inner.watched.set(namespaces.to_vec());
        }
    }

    /// The namespaces that are watched where nobody says otherwise; none means all of them.
    #[must_use]
    pub fn watched_namespaces(&self) -> &[String] {
        self.inner.watched.get().map_or(&[], Vec::as_slice)
    }

    /// Whether every informer that is in use has its first list. Kinds that are watched once they are served do not
    /// count.
    #[must_use]
    pub fn all_synced(&self) -> bool {
        !self.inner.known.lock().values().flatten().any(|known| known.required && known.lags())
    }

    /// Where every watch stands, as long as somebody holds them.
    pub(crate) fn observer(&self) -> impl Fn() -> Vec<WatchState> + Send + Sync + 'static {
        let inner = Arc::downgrade(&self.inner);
        move || {
            let Some(inner) = inner.upgrade() else { return Vec::new() };
            let known = inner.known.lock();
            known.values().flatten().flat_map(Known::states).collect()
        }
    }

    /// What the informers that were asked for so far need.
    #[must_use]
    pub fn rules(&self) -> Rules {
        self.inner.needs.lock().clone()
    }

    /// The running informers of this type in which a written object is sure to show up.
    pub(crate) fn holding<K: Object>(&self) -> Vec<Informer<K>>
    where
        K::DynamicType: Default,
    {
        let known = self.inner.known.lock();
        let of_kind = known.get(&path::<K>(&K::DynamicType::default()));
        of_kind.into_iter().flatten().filter(|k| k.whole).filter_map(Known::get).collect()
    }

    /// The running informers of this kind, whatever they show of it beyond metadata, in which a written object is sure to
    /// show up. Who sees metadata alone, such as a garbage collector, is not to hold up anybody.
    pub(crate) fn following<K: Object>(&self) -> Vec<Box<dyn Follows>>
    where
        K::DynamicType: Default,
    {
        let known = self.inner.known.lock();
        let of_kind = known.get(&path::<K>(&K::DynamicType::default()));
        // A view of another type that has no list yet is read by nobody, and may never have one.
        let read = |k: &&Known| k.type_id == TypeId::of::<K>() || (k.shows && !k.lags());
        let of_kind = of_kind.into_iter().flatten().filter(|k| k.whole);
        of_kind.filter(read).filter_map(|k| (k.informer)()).collect()
    }

    /// Says that definitions changed: kinds that were not served are asked for again at once.
    pub(crate) fn redefined(&self) -> &Arc<Signal<u64>> {
        &self.inner.redefined
    }

    /// Follows the definitions of kinds, for as long as the answer is held.
    pub(crate) fn definitions(&self) -> Arc<Definitions> {
        if let Some(followed) = self.inner.definitions.lock().upgrade() {
            return followed;
        }
        let followed = Arc::new(Definitions::follow(self));
        *self.inner.definitions.lock() = Arc::downgrade(&followed);
        followed
    }

    /// Tells what goes wrong from now on.
    pub(crate) fn report_to(&self, reports: Reports) {
        // They belong to one manager, which is built once.
        let _ = self.inner.reports.set(reports);
    }

    /// The informer of a kind. `required` says that somebody counts on the kind being served.
    pub(crate) fn of<K: Object>(
        &self,
        dynamic: &K::DynamicType,
        scope: &Scope,
        required: bool,
    ) -> Informer<K> {
        self.select(dynamic, scope, required, None)
    }

    /// As [`Informers::of`], of what is selected alone; for one controller, which is the only one that has the selection.
    pub(crate) fn select<K: Object>(
        &self,
        dynamic: &K::DynamicType,
        scope: &Scope,
        required: bool,
        selection: Option<&Selection>,
    ) -> Informer<K> {
        self.inner.needs.lock().allow_kind::<K>(dynamic, scope, "", Verbs::READ);
        let narrowed = (scope.namespaces.is_empty() && scope::is_narrowed::<K>())
            .then(|| Scope { namespaces: self.watched_namespaces().to_vec(), ..scope.clone() });
        let scope = narrowed.as_ref().unwrap_or(scope);
        let selected = selection.map(|selection| format!("|shard {}", selection.id()));
        let (type_id, scope_id) = (TypeId::of::<K>(), scope.id() + &selected.unwrap_or_default());
        let mut known = self.inner.known.lock();
        let of_kind = known.entry(path::<K>(dynamic)).or_default();
        of_kind.retain(|known| (known.informer)().is_some());
        let same = of_kind.iter_mut().find(|known| known.type_id == type_id && known.scope == scope_id);
        if let Some((informer, known)) = same.and_then(|known| Some((known.get()?, known))) {
            known.required |= required;
            return informer;
        }
        let whole = scope.labels.is_none() && scope.fields.is_none();
        let targets = targets::<K>(dynamic, scope);
        let informer = self.start::<K>(dynamic, scope, &targets, selection);
        let weak = informer.downgrade();
        let untyped = move || -> Option<Box<dyn Follows>> { Some(Box::new(Informer::upgrade(&weak)?)) };
        of_kind.push(Known {
            type_id,
            scope: scope_id,
            whole,
            shows: !K::metadata_api() && scope.strip != Strip::MetadataOnly,
            required,
            targets,
            kind: K::kind(dynamic).into_owned(),
            handle: Box::new(informer.downgrade()),
            informer: Box::new(untyped),
        });
        informer
    }

    fn start<K: Object>(
        &self,
        dynamic: &K::DynamicType,
        scope: &Scope,
        targets: &[(Option<String>, Target)],
        selection: Option<&Selection>,
    ) -> Informer<K> {
        let shared = Arc::new(Shared::<K>::new(&scope.namespaces));
        if let Some(selection) = selection {
            selection.spans(targets.len());
        }
        let mut tasks = Vec::with_capacity(targets.len());
        for (part, (_, target)) in targets.iter().enumerate() {
            let target = target.clone();
            let selection = selection.cloned();
            let random = self.inner.random.fork(&target.path);
            let (client, redefined) = (self.inner.client.clone(), self.inner.redefined.clone());
            let about = About::of::<K>(dynamic, &target, self.inner.reports.clone());
            let feed = Feed::new(shared.clone(), part, scope.strip == Strip::Nothing, about);
            let mut feed = feed.selecting(selection.clone());
            let run = async move {
                listwatch::run(client, target, random, &redefined, selection.as_ref(), &mut feed).await;
            };
            let task = tokio::spawn(run);
            tasks.push(task.abort_handle());
        }
        Informer::new(shared, tasks)
    }
}

/// What the watches of a scope ask for, by namespace.
fn targets<K: Object>(dynamic: &K::DynamicType, scope: &Scope) -> Vec<(Option<String>, Target)> {
    let target = |namespace: Option<&str>| Target {
        path: K::url_path(dynamic, namespace),
        labels: scope.labels.as_ref().map(ToString::to_string).filter(|s| !s.is_empty()),
        fields: scope.fields.clone(),
        metadata_only: K::metadata_api() || scope.strip == Strip::MetadataOnly,
        shards: None,
    };
    match &scope.namespaces[..] {
        [] => vec![(None, target(None))],
        some => some.iter().map(|namespace| (Some(namespace.clone()), target(Some(namespace)))).collect(),
    }
}

fn path<K: Object>(dynamic: &K::DynamicType) -> String {
    K::url_path(dynamic, None)
}
