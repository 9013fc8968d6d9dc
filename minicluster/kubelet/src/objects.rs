//! The ConfigMaps, Secrets and Services that pods refer to, from informers.
//!
//! A node may read the ConfigMaps and Secrets of its own pods only, each by its name: so each is watched by itself, from
//! the first pod that refers to it to the end of the last.
//!
//! Watches of different kinds keep no order among each other: a pod may arrive before the ConfigMap that was made
//! before it. So what is missing from the cache is asked for once, live, before it is called missing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use kube::api::Api;
use parking_lot::Mutex;
use windlass::{Delta, Indexed, Informer, Informers, Key, Scope, Subscription, by};

use crate::pod::env::Objects;
use crate::volumes::references;

/// Objects fetched live before the informer had them, at most.
const FETCHED: usize = 256;

/// How long a pod waits for the first list of an object it refers to.
const FIRST_LIST: Duration = Duration::from_secs(5);

/// What a kubelet reads about the objects of its pods.
#[async_trait]
pub(crate) trait Lookup: Objects {
    /// Makes sure that what the pod refers to is known if it exists.
    async fn prepare(&self, _pod: &Pod) {}

    /// A pod is gone: nothing is kept for it any more.
    fn forget(&self, _uid: &str) {}
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

/// One ConfigMap or Secret that a pod refers to.
struct Followed<K: windlass::Object> {
    informer: Informer<K>,
    _subscription: Subscription,
}

/// Told of each object that changed: whether it is a Secret, and its key.
type Changed = Arc<dyn Fn(bool, Key) + Send + Sync>;

/// What was asked for live, before an informer had it.
type Fetched<K> = Arc<Mutex<BTreeMap<Key, Arc<K>>>>;

/// The ConfigMaps, or the Secrets, of the pods.
type All<K> = Mutex<BTreeMap<Key, Followed<K>>>;

/// Objects from informers: Services from a shared one, each ConfigMap and Secret from one of its own, which is all that a
/// node may watch of them.
pub(crate) struct Watched {
    informers: Informers,
    config_maps: All<ConfigMap>,
    secrets: All<Secret>,
    /// What each pod refers to, by the pod's uid.
    pods: Mutex<BTreeMap<String, BTreeSet<(bool, Key)>>>,
    changed: Mutex<Option<Changed>>,
    services: Indexed<Service, ByNamespace>,
    service_informer: Informer<Service>,
    fetched_maps: Fetched<ConfigMap>,
    fetched_secrets: Fetched<Secret>,
}

impl Watched {
    /// Starts the watches.
    pub(crate) fn new(informers: &Informers) -> Arc<Self> {
        let service_informer = informers.get::<Service>(Scope::all());
        let namespace: fn(&Service) -> Option<String> = |s| s.metadata.namespace.clone();
        Arc::new(Self {
            informers: informers.clone(),
            config_maps: Mutex::default(),
            secrets: Mutex::default(),
            pods: Mutex::default(),
            changed: Mutex::default(),
            services: service_informer.index(by(namespace)),
            service_informer,
            fetched_maps: Fetched::default(),
            fetched_secrets: Fetched::default(),
        })
    }

    /// Waits until the shared caches are filled.
    pub(crate) async fn synced(&self) {
        self.service_informer.synced().await;
    }

    /// Calls `changed(is_secret, key)` for each ConfigMap or Secret that changes from now on.
    pub(crate) fn on_change(&self, changed: impl Fn(bool, Key) + Send + Sync + 'static) {
        *self.changed.lock() = Some(Arc::new(changed));
    }

    /// The informer of one object, which begins when nobody asked for it before.
    fn follow<K: windlass::Object>(
        &self,
        all: &All<K>,
        fetched: &Fetched<K>,
        is_secret: bool,
        key: &Key,
    ) -> Informer<K>
    where
        K::DynamicType: Default,
    {
        let mut all = all.lock();
        if let Some(followed) = all.get(key) {
            return followed.informer.clone();
        }
        let scope = Scope::namespace(key.namespace().unwrap_or_default());
        let informer = self.informers.get::<K>(scope.fields(format!("metadata.name={}", key.name())));
        let (changed, fetched) = (self.changed.lock().clone(), Arc::clone(fetched));
        let subscription = informer.subscribe(move |delta: &Delta<K>| {
            // From now on the watch knows better.
            fetched.lock().remove(&delta.key());
            if let Some(changed) = changed.as_ref().filter(|_| !delta.is_initial()) {
                changed(is_secret, delta.key());
            }
        });
        all.insert(key.clone(), Followed { informer: informer.clone(), _subscription: subscription });
        informer
    }

    /// Ends the watches of objects that no pod refers to any more.
    fn let_go(&self) {
        let wanted: BTreeSet<(bool, Key)> = self.pods.lock().values().flatten().cloned().collect();
        self.config_maps.lock().retain(|key, _| wanted.contains(&(false, key.clone())));
        self.secrets.lock().retain(|key, _| wanted.contains(&(true, key.clone())));
        self.fetched_maps.lock().retain(|key, _| wanted.contains(&(false, key.clone())));
        self.fetched_secrets.lock().retain(|key, _| wanted.contains(&(true, key.clone())));
    }
}

/// The object as the informer has it, or as it was fetched when the informer did not have it yet.
fn known<K: windlass::Object>(
    all: &All<K>,
    fetched: &Mutex<BTreeMap<Key, Arc<K>>>,
    namespace: &str,
    name: &str,
) -> Option<Arc<K>> {
    let key = Key::new(Some(namespace), name);
    let watched = all.lock().get(&key).and_then(|followed| followed.informer.get(&key));
    watched.or_else(|| fetched.lock().get(&key).cloned())
}

impl Objects for Watched {
    fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMap>> {
        known(&self.config_maps, &self.fetched_maps, namespace, name)
    }

    fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Secret>> {
        known(&self.secrets, &self.fetched_secrets, namespace, name)
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
        let wanted: BTreeSet<(bool, Key)> = references(pod)
            .into_iter()
            .map(|(secret, name)| (secret, Key::new(Some(namespace), &name)))
            .collect();
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        self.pods.lock().insert(uid, wanted.clone());
        for (is_secret, key) in wanted {
            if is_secret {
                let informer = self.follow(&self.secrets, &self.fetched_secrets, true, &key);
                ready(&self.informers, &informer, &self.fetched_secrets, key).await;
            } else {
                let informer = self.follow(&self.config_maps, &self.fetched_maps, false, &key);
                ready(&self.informers, &informer, &self.fetched_maps, key).await;
            }
        }
    }

    fn forget(&self, uid: &str) {
        if self.pods.lock().remove(uid).is_some() {
            self.let_go();
        }
    }
}

/// Waits for an object's first list; what that does not show is asked for once more.
async fn ready<K>(
    informers: &Informers,
    informer: &Informer<K>,
    fetched: &Mutex<BTreeMap<Key, Arc<K>>>,
    key: Key,
) where
    K: windlass::Object<Scope = NamespaceResourceScope>,
    K::DynamicType: Default,
{
    let _ = tokio::time::timeout(FIRST_LIST, informer.synced()).await;
    if informer.get(&key).is_some() {
        return;
    }
    let api: Api<K> = Api::namespaced(informers.client().clone(), key.namespace().unwrap_or_default());
    match api.get_opt(key.name()).await {
        Ok(Some(found)) => keep(fetched, key, found),
        // It is gone: what was fetched is not to outlive it.
        Ok(None) => drop(fetched.lock().remove(&key)),
        Err(_) => {}
    }
}

fn keep<T>(fetched: &Mutex<BTreeMap<Key, Arc<T>>>, key: Key, found: T) {
    let mut fetched = fetched.lock();
    if fetched.len() >= FETCHED {
        fetched.clear();
    }
    fetched.insert(key, Arc::new(found));
}
