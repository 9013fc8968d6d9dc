//! Where the objects come from that a quota counts: a cache, or the server itself when the cache lags behind.

use std::{collections::BTreeMap, sync::Arc};

use futures::future::BoxFuture;
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::{
    Api, Client,
    api::{ApiResource, ListParams},
};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
use windlass::{Error, Informer, Object, clock};
use windlass_crd::quota::{Measure, Measured};

use super::kinds::Whole;

/// The objects of one kind.
pub(super) trait Source: Send + Sync {
    /// Waits for the first list.
    fn synced(&self) -> BoxFuture<'static, ()>;
    /// The revision that the cache stands at.
    fn revision(&self) -> u64;
    /// What each object of a namespace uses, as the cache has it.
    fn measured(&self, namespace: &str) -> Vec<Arc<Measured>>;
    /// The same as the server has it.
    fn measured_live<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Vec<Arc<Measured>>, Error>>;
    /// Forgets what was measured in a namespace.
    fn leave(&self, _namespace: &str) {}
}

/// A kind whose objects have to be looked at.
pub(super) struct Typed<K: Object> {
    measure: Measure,
    resource: ApiResource,
    objects: Informer<K>,
    client: Client,
    /// What was measured already, by namespace and name, with the object that it was measured on.
    known: Mutex<BTreeMap<String, Known<K>>>,
}

type Known<K> = BTreeMap<String, (Arc<K>, Arc<Measured>)>;

impl<K: Object> Typed<K> {
    pub(super) fn new(measure: Measure, resource: ApiResource, objects: Informer<K>, client: Client) -> Self {
        Self { measure, resource, objects, client, known: Mutex::default() }
    }
}

impl<K: Object + Serialize> Source for Typed<K> {
    fn leave(&self, namespace: &str) {
        self.known.lock().remove(namespace);
    }

    fn synced(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.objects.synced())
    }

    fn revision(&self) -> u64 {
        self.objects.revision()
    }

    fn measured(&self, namespace: &str) -> Vec<Arc<Measured>> {
        let now = clock::now();
        let mut known = self.known.lock().remove(namespace).unwrap_or_default();
        let mut next = Known::new();
        for object in self.objects.lister().in_namespace(namespace) {
            let meta = object.meta();
            let name = meta.name.clone().unwrap_or_default();
            // What is going stops to count by the mere passing of time.
            let before = known
                .remove(&name)
                .filter(|(of, _)| Arc::ptr_eq(of, &object) && meta.deletion_timestamp.is_none());
            let measured = before.map_or_else(
                || Arc::new(self.measure.measure(&serde_json::to_value(&*object).unwrap_or_default(), now)),
                |(_, measured)| measured,
            );
            next.insert(name, (object, measured));
        }
        let all = next.values().map(|(_, measured)| measured.clone()).collect();
        if !next.is_empty() {
            self.known.lock().insert(namespace.to_owned(), next);
        }
        all
    }

    fn measured_live<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Vec<Arc<Measured>>, Error>> {
        Box::pin(async move {
            let api: Api<Whole> = Api::namespaced_with(self.client.clone(), namespace, &self.resource);
            let list = api.list(&ListParams::default()).await?;
            let now = clock::now();
            let measure = |object: &Whole| {
                Arc::new(self.measure.measure(&serde_json::to_value(object).unwrap_or_default(), now))
            };
            Ok(list.items.iter().map(measure).collect())
        })
    }
}

/// A kind whose objects are counted.
pub(super) struct Counted {
    pub(super) measure: Measure,
    pub(super) resource: ApiResource,
    pub(super) objects: Informer<PartialObjectMeta<DynamicObject>>,
    pub(super) client: Client,
}

impl Counted {
    /// One object is like any other.
    fn of(&self, count: usize) -> Vec<Arc<Measured>> {
        let one = Arc::new(self.measure.measure(&Value::Null, clock::now()));
        vec![one; count]
    }
}

impl Source for Counted {
    fn synced(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.objects.synced())
    }

    fn revision(&self) -> u64 {
        self.objects.revision()
    }

    fn measured(&self, namespace: &str) -> Vec<Arc<Measured>> {
        self.of(self.objects.lister().in_namespace(namespace).len())
    }

    fn measured_live<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Vec<Arc<Measured>>, Error>> {
        Box::pin(async move {
            let api: Api<PartialObjectMeta<DynamicObject>> =
                Api::namespaced_with(self.client.clone(), namespace, &self.resource);
            // The server says how many there are beyond the one that is asked for.
            let list = api.list(&ListParams::default().limit(1)).await?;
            let more = list.metadata.remaining_item_count.unwrap_or(0);
            Ok(self.of(list.items.len() + usize::try_from(more).unwrap_or(0)))
        })
    }
}
