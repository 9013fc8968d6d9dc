//! One child: what it should look like, what is there of it, and how it is written.

use std::sync::Arc;

use futures::future::BoxFuture;
use kube::core::ObjectMeta;
use serde::Serialize;

use super::plan::Seen;
use crate::{CachedClient, Controller, Error, Key, Object, controller_of, controller_ref, is_controlled_by};

/// A kind whose objects can be written.
pub trait Writable: Object + Serialize {}

impl<C: Object + Serialize> Writable for C {}

type Desired<K, C> = Box<dyn Fn(&K) -> Option<C> + Send + Sync>;

/// A child of objects of kind `K`, of kind `C`; see [`super::Dependents`].
pub struct Dependent<K, C> {
    name: &'static str,
    after: Vec<&'static str>,
    desired: Desired<K, C>,
    ready: Arc<dyn Fn(&C) -> bool + Send + Sync>,
    key: Option<Box<dyn Fn(&K) -> Key + Send + Sync>>,
}

impl<K: Object, C: Writable> Dependent<K, C> {
    /// A child that looks as `desired` says; `None` when there should be none. Namespace, name and the reference to the
    /// owner are filled in. It is ready as soon as it is there unless [`Dependent::ready`] says otherwise.
    #[must_use]
    pub fn new(name: &'static str, desired: impl Fn(&K) -> Option<C> + Send + Sync + 'static) -> Self {
        Self { name, after: Vec::new(), desired: Box::new(desired), ready: Arc::new(|_| true), key: None }
    }

    /// It is made when this other is ready, and goes before it.
    #[must_use]
    pub fn after(mut self, other: &'static str) -> Self {
        self.after.push(other);
        self
    }

    /// When it is ready, from how it is.
    #[must_use]
    pub fn ready(mut self, ready: impl Fn(&C) -> bool + Send + Sync + 'static) -> Self {
        self.ready = Arc::new(ready);
        self
    }

    /// Its namespace and name, if they are not those of the owner. Must not change: what is at another place is not found.
    #[must_use]
    pub fn at(mut self, key: impl Fn(&K) -> Key + Send + Sync + 'static) -> Self {
        self.key = Some(Box::new(key));
        self
    }
}

/// What is there of a child, and what can be done about it. Nothing is done before it is asked for.
pub(super) struct Look<'a> {
    pub(super) seen: Seen,
    pub(super) apply: Option<BoxFuture<'a, Result<Seen, Error>>>,
    pub(super) delete: Option<BoxFuture<'a, Result<Seen, Error>>>,
}

impl Look<'_> {
    /// Nothing can be said, so nothing is done; it may well be there.
    pub(super) fn failed() -> Self {
        Self {
            seen: Seen { wanted: true, present: true, failed: true, ..Seen::default() },
            apply: None,
            delete: None,
        }
    }
}

/// A child, whatever its kind.
pub(super) trait Child<K: Object>: Send + Sync {
    fn name(&self) -> &'static str;
    fn after(&self) -> &[&'static str];
    fn look<'a>(
        &'a self,
        owner: &'a K,
        client: &'a CachedClient,
        wanted: bool,
    ) -> BoxFuture<'a, Result<Look<'a>, Error>>;
    fn register(&self, controller: Controller<K>) -> Controller<K>;
}

/// Why a child cannot be made.
#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error("it is called {found} where {expected} was said: say `.at(..)` with its namespace and name")]
    Elsewhere { found: Key, expected: Key },
    #[error("{0} cannot be controlled by an object in another namespace")]
    Foreign(Key),
    #[error("{key} is controlled by {owner}")]
    Taken { key: Key, owner: String },
}

impl<K: Object, C: Writable> Child<K> for Dependent<K, C>
where
    K::DynamicType: Default,
    C::DynamicType: Default,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn after(&self) -> &[&'static str] {
        &self.after
    }

    fn register(&self, controller: Controller<K>) -> Controller<K> {
        controller.owns::<C>()
    }

    fn look<'a>(
        &'a self,
        owner: &'a K,
        client: &'a CachedClient,
        wanted: bool,
    ) -> BoxFuture<'a, Result<Look<'a>, Error>> {
        Box::pin(async move {
            let key = self.key_of(owner);
            let desired = if wanted { (self.desired)(owner) } else { None };
            let desired =
                desired.map(|desired| prepared(desired, owner, &key)).transpose().map_err(Error::terminal)?;
            let current = current::<C>(client, &key).await?;
            let ours = current.as_ref().is_some_and(|current| is_controlled_by(current.meta(), owner));
            if desired.is_some()
                && let Some(other) = current.as_ref().filter(|_| !ours).and_then(|c| controller_of(c.meta()))
            {
                let owner = format!("{} {}", other.kind, other.name);
                return Err(Error::Other(Wrong::Taken { key, owner }.into()));
            }
            // What nobody controls is taken over when it is wanted; it is never taken away.
            let present = current.as_ref().filter(|_| ours);
            let seen = Seen {
                wanted: desired.is_some(),
                present: present.is_some(),
                going: present.is_some_and(|c| c.meta().deletion_timestamp.is_some()),
                ready: present.is_some_and(|c| (self.ready)(c)),
                ..Seen::default()
            };
            let apply = desired.map(|desired| -> BoxFuture<'a, _> {
                Box::pin(async move {
                    let now = client.apply(&desired).await?;
                    let going = now.meta().deletion_timestamp.is_some();
                    let ready = !going && (self.ready)(&now);
                    Ok(Seen { wanted: true, present: true, going, applied: true, ready, failed: false })
                })
            });
            let delete = present.cloned().map(|current| -> BoxFuture<'a, _> {
                Box::pin(async move {
                    client.delete(&*current).await?;
                    // It may be held by a finalizer: that it is gone is for the cache to say.
                    Ok(Seen { going: true, ..seen })
                })
            });
            Ok(Look { seen, apply, delete })
        })
    }
}

impl<K: Object, C: Object> Dependent<K, C> {
    fn key_of(&self, owner: &K) -> Key {
        if let Some(key) = &self.key {
            let key = key(owner);
            return Key::for_kind::<C>(key.namespace(), key.name());
        }
        let meta = owner.meta();
        Key::for_kind::<C>(meta.namespace.as_deref(), meta.name.as_deref().unwrap_or_default())
    }
}

/// The child as it is sent: at its place, and under its owner's control.
fn prepared<K: Object, C: Object>(mut child: C, owner: &K, key: &Key) -> Result<C, Wrong>
where
    K::DynamicType: Default,
{
    let meta = child.meta_mut();
    meta.name.get_or_insert_with(|| key.name().to_owned());
    if meta.namespace.is_none() {
        meta.namespace = key.namespace().map(str::to_owned);
    }
    let found = Key::of(&child);
    if found != *key {
        return Err(Wrong::Elsewhere { found, expected: key.clone() });
    }
    let home = owner.meta().namespace.as_deref();
    if home.is_some() && home != key.namespace() {
        return Err(Wrong::Foreign(key.clone()));
    }
    let meta: &mut ObjectMeta = child.meta_mut();
    let owners = meta.owner_references.get_or_insert_default();
    if !owners.iter().any(|reference| reference.controller == Some(true)) {
        owners.push(controller_ref(owner));
    }
    Ok(child)
}

/// The child as a cache has it, or, when none does, as the server has it.
async fn current<C: Object>(client: &CachedClient, key: &Key) -> Result<Option<Arc<C>>, Error>
where
    C::DynamicType: Default,
{
    let caches = client.informers().holding::<C>();
    let covers = |namespaces: Vec<String>| {
        namespaces.is_empty() || namespaces.iter().any(|ns| Some(ns.as_str()) == key.namespace())
    };
    match caches.iter().find(|cache| cache.is_synced() && covers(cache.namespaces())) {
        Some(cache) => Ok(cache.get(key)),
        None => Ok(client.live::<C>(key).await?.map(Arc::new)),
    }
}
