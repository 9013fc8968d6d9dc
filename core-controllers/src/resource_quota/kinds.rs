//! The kinds that quotas count: found by discovery when a quota first names them, watched from then on.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use kube::api::{ApiResource, DynamicObject};
use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use windlass::{
    BoxError, Delta, Enqueue, Error, Informer, Informers, Key, Object, Scope, Subscription, clock,
};
use windlass_crd::quota::{self, Measure};

use super::source::{Counted, Source, Typed};

/// By group and plural.
type Kind = (String, String);

pub(super) struct Kinds {
    informers: Informers,
    watched: Mutex<BTreeMap<Kind, (Arc<dyn Source>, Subscription)>>,
    enqueue: Arc<RwLock<Option<Enqueue>>>,
}

impl Kinds {
    pub(super) fn new(informers: &Informers) -> Self {
        Self { informers: informers.clone(), watched: Mutex::default(), enqueue: Arc::default() }
    }

    /// From now on quotas that have to be counted again are put here.
    pub(super) fn replenish_with(&self, enqueue: Enqueue) {
        *self.enqueue.write() = Some(enqueue);
    }

    /// Stops to watch the kind of a definition, `plural.group`, that is gone.
    pub(super) fn forget(&self, definition: &str) {
        if let Some((plural, group)) = definition.split_once('.') {
            self.watched.lock().remove(&(group.to_owned(), plural.to_owned()));
        }
    }

    /// Lets go of what was remembered for a namespace.
    pub(super) fn leave(&self, namespace: &str) {
        self.watched.lock().values().for_each(|(source, _)| source.leave(namespace));
    }

    /// The objects of a kind; `None` when the server does not serve it.
    pub(super) async fn source(&self, measure: &Measure) -> Result<Option<Arc<dyn Source>>, Error> {
        let (group, plural) = measure.kind();
        let kind = (group.to_owned(), plural.to_owned());
        let known = self.watched.lock().get(&kind).map(|(source, _)| source.clone());
        let source = match known {
            Some(source) => source,
            None => {
                let Some(resource) = self.discover(&kind).await.map_err(Error::Other)? else {
                    return Ok(None);
                };
                self.watch(kind, measure, &resource)
            }
        };
        source.synced().await;
        Ok(Some(source))
    }

    async fn discover(&self, kind: &Kind) -> Result<Option<ApiResource>, BoxError> {
        let found = windlass::discovery::discover(self.informers.client()).await?;
        let served = found.resources.into_iter().find(|served| {
            (&served.group, &served.plural) == (&kind.0, &kind.1)
                && served.namespaced
                && served.can(&["create", "list", "watch", "delete"])
        });
        Ok(served.map(|served| served.api_resource()))
    }

    fn watch(&self, kind: Kind, measure: &Measure, resource: &ApiResource) -> Arc<dyn Source> {
        let informers = &self.informers;
        match measure {
            Measure::Pods => self.typed(kind, measure, resource, informers.get::<Pod>(Scope::all())),
            Measure::Services => self.typed(kind, measure, resource, informers.get::<Service>(Scope::all())),
            Measure::Claims => {
                self.typed(kind, measure, resource, informers.get::<PersistentVolumeClaim>(Scope::all()))
            }
            Measure::Devices => {
                self.typed(kind, measure, resource, informers.dynamic(resource, Scope::all()))
            }
            Measure::Count { .. } => {
                let objects = informers.metadata(resource, Scope::all());
                let subscription = self.replenish(measure, &objects, |_, _| false);
                let client = informers.client().clone();
                let source =
                    Counted { measure: measure.clone(), resource: resource.clone(), objects, client };
                self.keep(kind, Arc::new(source), subscription)
            }
        }
    }

    fn typed<K: Object + Serialize>(
        &self,
        kind: Kind,
        measure: &Measure,
        resource: &ApiResource,
        objects: Informer<K>,
    ) -> Arc<dyn Source> {
        let of = measure.clone();
        let gives_back = move |old: &K, new: &K| {
            let json = |object: &K| serde_json::to_value(object).unwrap_or_default();
            quota::requires_recount(&of, &json(old), &json(new), clock::now())
        };
        let subscription = self.replenish(measure, &objects, gives_back);
        let client = self.informers.client().clone();
        let source = Typed::new(measure.clone(), resource.clone(), objects, client);
        self.keep(kind, Arc::new(source), subscription)
    }

    fn keep(&self, kind: Kind, source: Arc<dyn Source>, subscription: Subscription) -> Arc<dyn Source> {
        self.watched.lock().entry(kind).or_insert((source, subscription)).0.clone()
    }

    /// Has the quotas counted again that an object was counted in, when it goes or gives something back.
    fn replenish<K: Object>(
        &self,
        measure: &Measure,
        objects: &Informer<K>,
        gives_back: impl Fn(&K, &K) -> bool + Send + 'static,
    ) -> Subscription {
        let quotas = self.informers.get::<ResourceQuota>(Scope::all());
        let (enqueue, measure) = (self.enqueue.clone(), measure.clone());
        objects.subscribe(move |delta| {
            let namespace = delta.object().meta().namespace.as_deref().unwrap_or_default();
            let counting = || counting(&quotas, &measure, namespace);
            let due = match delta {
                Delta::Added { .. } => Vec::new(),
                Delta::Deleted { .. } => counting(),
                // A namespace without a quota does not pay for the comparison.
                Delta::Updated { old, new } => {
                    let keys = counting();
                    if keys.is_empty() || !gives_back(old, new) { Vec::new() } else { keys }
                }
            };
            if let Some(enqueue) = enqueue.read().as_ref() {
                due.into_iter().for_each(|key| enqueue.now(key));
            }
        })
    }
}

/// The quotas of a namespace that count a kind.
fn counting(quotas: &Informer<ResourceQuota>, measure: &Measure, namespace: &str) -> Vec<Key> {
    let counts = |quota: &ResourceQuota| {
        let hard = quota.status.iter().filter_map(|status| status.hard.as_ref()).flatten();
        hard.into_iter().any(|(name, _)| measure.tracks(name))
    };
    let all = quotas.lister().in_namespace(namespace);
    all.iter().filter(|quota| counts(quota)).map(|quota| Key::of(&**quota)).collect()
}

/// Objects of a kind known at run time, whole.
pub(super) type Whole = DynamicObject;
