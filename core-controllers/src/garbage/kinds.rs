//! Which kinds there are: one metadata watch for each that can be listed, watched and deleted, for as long as it is served.

use std::{collections::BTreeMap, time::Duration};

use kube::core::{DynamicObject, PartialObjectMeta};
use parking_lot::Mutex;
use windlass::{BoxError, Delta, Informer, Informers, KindsChange, Scope, Subscription, discovery::Served};

use super::{
    Heap,
    graph::{Node, Uid},
};

/// The longest wait for the first list of a new kind; later ones catch up by themselves.
const FIRST_LIST: Duration = Duration::from_secs(30);
/// Kinds that nothing owns and that come by the thousand.
const IGNORED: &[(&str, &str)] = &[("", "events"), ("events.k8s.io", "events")];

type Meta = PartialObjectMeta<DynamicObject>;

pub(super) struct Kinds {
    informers: Informers,
    heap: Heap,
    served: windlass::Kinds,
    watched: Mutex<BTreeMap<Served, (Informer<Meta>, Subscription)>>,
}

impl Kinds {
    pub(super) fn new(informers: Informers, heap: Heap) -> Self {
        let served = windlass::Kinds::new(&informers, |served| {
            served.can(&["list", "watch", "delete"])
                && !IGNORED.contains(&(served.group.as_str(), served.plural.as_str()))
        });
        Self { informers, heap, served, watched: Mutex::default() }
    }

    /// The kind that an owner reference names, in the version that is watched.
    pub(super) fn find(&self, group: &str, kind: &str) -> Option<Served> {
        self.served.find(group, kind)
    }

    /// The kind of this name, such as `deployments.apps`.
    pub(super) fn named(&self, name: &str) -> Option<Served> {
        self.served.named(name)
    }

    /// Watches what is served now, and waits for the first lists.
    pub(super) async fn refresh(&self) -> Result<(), BoxError> {
        let change = self.served.refresh().await?;
        self.follow_up(change).await;
        Ok(())
    }

    /// Follows the definitions for ever.
    pub(super) async fn follow(&self) {
        loop {
            let change = self.served.changed().await;
            self.follow_up(change).await;
        }
    }

    async fn follow_up(&self, change: KindsChange) {
        let syncing: Vec<_> = change.came.iter().map(|served| self.watch(served)).collect();
        // What is no longer served has no objects: their deletes were seen by the watch.
        let gone: Vec<_> =
            self.watched.lock().extract_if(.., |served, _| change.went.contains(served)).collect();
        drop(gone);
        let all = futures::future::join_all(syncing);
        if tokio::time::timeout(FIRST_LIST, all).await.is_err() {
            tracing::warn!("some kinds could not be listed yet; garbage collection goes on without them");
        }
    }

    fn watch(&self, served: &Served) -> impl Future<Output = ()> + Send + use<> {
        let informer = self.informers.metadata(&served.api_resource(), Scope::all());
        let (heap, kind) = (self.heap.clone(), served.name());
        let subscription = informer.subscribe(move |delta| take_in(&heap, &kind, delta));
        let synced = informer.synced();
        self.watched.lock().insert(served.clone(), (informer, subscription));
        synced
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
