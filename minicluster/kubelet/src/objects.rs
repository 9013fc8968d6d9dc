//! The ConfigMaps, Secrets and Services that pods refer to, from the shared informers.
//!
//! Watches of different kinds keep no order among each other: a pod may arrive before the ConfigMap that was made
//! before it. So what is missing from the cache is asked for once, live, before it is called missing.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use kube::Client;
use kube::api::Api;
use parking_lot::Mutex;
use windlass::{Delta, Indexed, Informer, Informers, Key, Scope, Subscription, by};

use crate::pod::env::Objects;
use crate::volumes::references;

/// Objects fetched live before the informer had them, at most.
const FETCHED: usize = 256;

/// What a kubelet reads about the objects of its pods.
#[async_trait]
pub(crate) trait Lookup: Objects {
    /// Makes sure that what the pod refers to is known if it exists.
    async fn prepare(&self, _pod: &Pod) {}
}

/// No objects at all: for hollow nodes, whose pods are not made of anything.
pub(crate) struct Nothing;

impl Objects for Nothing {
    fn config_map(&self, _: &str, _: &str) -> Option<Arc<ConfigMap>> {
        Some(Arc::default())
    }
    fn secret(&self, _: &str, _: &str) -> Option<Arc<Secret>> {
        Some(Arc::default())
    }
    fn services(&self, _: &str) -> Vec<Arc<Service>> {
        Vec::new()
    }
}

#[async_trait]
impl Lookup for Nothing {}

type ByNamespace = windlass::ByValue<fn(&Service) -> Option<String>, Option<String>>;

/// Objects from the shared informers.
pub(crate) struct Watched {
    client: Client,
    config_maps: Informer<ConfigMap>,
    secrets: Informer<Secret>,
    services: Indexed<Service, ByNamespace>,
    service_informer: Informer<Service>,
    fetched_maps: Mutex<BTreeMap<Key, Arc<ConfigMap>>>,
    fetched_secrets: Mutex<BTreeMap<Key, Arc<Secret>>>,
}

impl Watched {
    /// Starts the watches.
    pub(crate) fn new(informers: &Informers) -> Arc<Self> {
        let service_informer = informers.get::<Service>(Scope::all());
        let namespace: fn(&Service) -> Option<String> = |s| s.metadata.namespace.clone();
        Arc::new(Self {
            client: informers.client().clone(),
            config_maps: informers.get(Scope::all()),
            secrets: informers.get(Scope::all()),
            services: service_informer.index(by(namespace)),
            service_informer,
            fetched_maps: Mutex::default(),
            fetched_secrets: Mutex::default(),
        })
    }

    /// Waits until all caches are filled.
    pub(crate) async fn synced(&self) {
        tokio::join!(self.config_maps.synced(), self.secrets.synced(), self.service_informer.synced());
    }

    /// Calls `changed(is_secret, key)` for each ConfigMap or Secret that changed.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        changed: impl Fn(bool, Key) + Send + Clone + 'static,
    ) -> [Subscription; 2] {
        let (maps, secrets) = (Arc::downgrade(self), Arc::downgrade(self));
        let also = changed.clone();
        [
            self.config_maps.subscribe(move |delta: &Delta<ConfigMap>| {
                if let Some(this) = maps.upgrade() {
                    this.fetched_maps.lock().remove(&delta.key());
                }
                if !delta.is_initial() {
                    changed(false, delta.key());
                }
            }),
            self.secrets.subscribe(move |delta: &Delta<Secret>| {
                if let Some(this) = secrets.upgrade() {
                    this.fetched_secrets.lock().remove(&delta.key());
                }
                if !delta.is_initial() {
                    also(true, delta.key());
                }
            }),
        ]
    }
}

impl Objects for Watched {
    fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMap>> {
        let key = Key::new(Some(namespace), name);
        self.config_maps.get(&key).or_else(|| self.fetched_maps.lock().get(&key).cloned())
    }

    fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Secret>> {
        let key = Key::new(Some(namespace), name);
        self.secrets.get(&key).or_else(|| self.fetched_secrets.lock().get(&key).cloned())
    }

    fn services(&self, namespace: &str) -> Vec<Arc<Service>> {
        let mut services = self.services.get(namespace);
        services.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        services
    }
}

#[async_trait]
impl Lookup for Watched {
    async fn prepare(&self, pod: &Pod) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        for (is_secret, name) in references(pod) {
            let key = Key::new(Some(namespace), &name);
            if is_secret && self.secret(namespace, &name).is_none() {
                let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
                if let Ok(Some(found)) = api.get_opt(&name).await {
                    keep(&self.fetched_secrets, key, found);
                }
            } else if !is_secret && self.config_map(namespace, &name).is_none() {
                let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
                if let Ok(Some(found)) = api.get_opt(&name).await {
                    keep(&self.fetched_maps, key, found);
                }
            }
        }
    }
}

fn keep<T>(fetched: &Mutex<BTreeMap<Key, Arc<T>>>, key: Key, found: T) {
    let mut fetched = fetched.lock();
    if fetched.len() >= FETCHED {
        fetched.clear();
    }
    fetched.insert(key, Arc::new(found));
}
