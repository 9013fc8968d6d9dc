//! Which kinds there are: one metadata watch for each that can be listed, watched and deleted. Kinds come and go with
//! custom resource definitions, whose changes are what discovery is asked again for.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    kube_aggregator::pkg::apis::apiregistration::v1::APIService,
};
use kube::core::{DynamicObject, PartialObjectMeta};
use parking_lot::Mutex;
use tokio::sync::Notify;
use windlass::{BoxError, Delta, Informer, Informers, Scope, Subscription};

use super::{
    Heap,
    graph::{Node, Uid},
};
use crate::discovery::{self, Served};

/// The wait for more definitions to change before discovery is asked.
const CALM: Duration = Duration::from_secs(1);
/// The wait before asking again for what could not be discovered.
const AGAIN: Duration = Duration::from_secs(30);
/// The longest wait for the first list of a new kind; later ones catch up by themselves.
const FIRST_LIST: Duration = Duration::from_secs(30);
/// Kinds that nothing owns and that come by the thousand.
const IGNORED: &[(&str, &str)] = &[("", "events"), ("events.k8s.io", "events")];

type Meta = PartialObjectMeta<DynamicObject>;

pub(super) struct Kinds {
    informers: Informers,
    heap: Heap,
    watched: Mutex<BTreeMap<Served, (Informer<Meta>, Subscription)>>,
    changed: Arc<Notify>,
    incomplete: Mutex<bool>,
}

impl Kinds {
    pub(super) fn new(informers: Informers, heap: Heap) -> Self {
        Self {
            informers,
            heap,
            watched: Mutex::default(),
            changed: Arc::default(),
            incomplete: Mutex::new(false),
        }
    }

    /// The kind that an owner reference names, in the version that is watched.
    pub(super) fn find(&self, group: &str, kind: &str) -> Option<Served> {
        let watched = self.watched.lock();
        watched.keys().find(|served| served.group == group && served.kind == kind).cloned()
    }

    /// The kind of this name, such as `deployments.apps`.
    pub(super) fn named(&self, name: &str) -> Option<Served> {
        self.watched.lock().keys().find(|served| served.name() == name).cloned()
    }

    /// Watches what is served now, and waits for the first lists.
    pub(super) async fn refresh(&self) -> Result<(), BoxError> {
        let found = discovery::discover(self.informers.client()).await?;
        *self.incomplete.lock() = !found.failures.is_empty();
        let is_ours = |served: &Served| {
            served.can(&["list", "watch", "delete"])
                && !IGNORED.contains(&(served.group.as_str(), served.plural.as_str()))
        };
        let wanted: Vec<Served> = found.resources.into_iter().filter(is_ours).collect();
        let mut syncing = Vec::new();
        for served in &wanted {
            if !self.watched.lock().contains_key(served) {
                syncing.push(self.watch(served));
            }
        }
        if found.failures.is_empty() {
            // What is no longer served has no objects: their deletes were seen by the watch.
            let gone: Vec<_> =
                self.watched.lock().extract_if(.., |served, _| !wanted.contains(served)).collect();
            drop(gone);
        }
        let all = futures::future::join_all(syncing);
        if tokio::time::timeout(FIRST_LIST, all).await.is_err() {
            tracing::warn!("some kinds could not be listed yet; garbage collection starts without them");
        }
        Ok(())
    }

    fn watch(&self, served: &Served) -> impl Future<Output = ()> + Send + use<> {
        let informer = self.informers.metadata(&served.api_resource(), Scope::all());
        let (heap, kind) = (self.heap.clone(), served.name());
        let subscription = informer.subscribe(move |delta| take_in(&heap, &kind, delta));
        let synced = informer.synced();
        self.watched.lock().insert(served.clone(), (informer, subscription));
        synced
    }

    /// Follows the definitions for ever.
    pub(super) async fn follow(&self) {
        let definitions = self.informers.get::<PartialObjectMeta<CustomResourceDefinition>>(Scope::all());
        let services = self.informers.get::<PartialObjectMeta<APIService>>(Scope::all());
        let (one, two) = (self.changed.clone(), self.changed.clone());
        let _definitions = definitions.subscribe(move |_| one.notify_one());
        let _services = services.subscribe(move |_| two.notify_one());
        loop {
            let again = *self.incomplete.lock();
            tokio::select! {
                biased;
                () = self.changed.notified() => tokio::time::sleep(CALM).await,
                () = tokio::time::sleep(AGAIN), if again => {}
            }
            if let Err(error) = self.refresh().await {
                tracing::warn!(%error, "discovery failed; the kinds stay as they are");
                *self.incomplete.lock() = true;
            }
        }
    }
}

fn take_in(heap: &Heap, kind: &str, delta: &Delta<Meta>) {
    let meta = &delta.object().metadata;
    let Some(uid) = meta.uid.clone().map(Uid) else { return };
    let look = match delta.new() {
        Some(new) => heap.graph.lock().put(uid, Node::new(kind, &new.metadata)),
        None => heap.graph.lock().remove(&uid),
    };
    heap.look_at(look);
}
