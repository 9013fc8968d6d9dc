//! Finalizers: cleaning up before an object goes.
//!
//! [`Finalized`] wraps a reconciler: it adds the finalizer before the first reconcile, runs the clean-up once the object
//! is being deleted, and removes the finalizer when that went well. The patches test the list they change, so that a
//! finalizer that another writer added meanwhile is never lost.

use kube::{Resource, api::Patch};
use serde_json::json;

use crate::{Action, CachedClient, Error, Key, Object, Reconcile, Request, Rules, Scope, Verbs};

/// Whether the object carries this finalizer.
pub fn has_finalizer<K: Resource>(object: &K, name: &str) -> bool {
    object.meta().finalizers.as_deref().unwrap_or_default().iter().any(|f| f == name)
}

/// Adds a finalizer to an object that does not have it.
pub async fn add_finalizer<K: Object>(client: &CachedClient, object: &K, name: &str) -> Result<(), Error>
where
    K::DynamicType: Default,
{
    if has_finalizer(object, name) {
        return Ok(());
    }
    let mut finalizers = object.meta().finalizers.clone().unwrap_or_default();
    finalizers.push(name.to_owned());
    set(client, object, &finalizers).await
}

/// Removes a finalizer from an object that has it.
pub async fn remove_finalizer<K: Object>(client: &CachedClient, object: &K, name: &str) -> Result<(), Error>
where
    K::DynamicType: Default,
{
    if !has_finalizer(object, name) {
        return Ok(());
    }
    let finalizers: Vec<String> =
        object.meta().finalizers.iter().flatten().filter(|f| *f != name).cloned().collect();
    match set(client, object, &finalizers).await {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

/// Replaces the list, provided that the object is still at the revision it was read at.
async fn set<K: Object>(client: &CachedClient, object: &K, finalizers: &[String]) -> Result<(), Error>
where
    K::DynamicType: Default,
{
    let meta = object.meta();
    let patch = json!({
        "metadata": {
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
            "finalizers": finalizers,
        }
    });
    client.patch::<K>(&Key::of(object), &Patch::Merge(patch)).await?;
    Ok(())
}

/// A reconciler with a clean-up that runs before its objects go.
pub struct Finalized<R, C> {
    /// The finalizer, such as `example.com/backup`.
    pub name: &'static str,
    /// Reconciles objects that are not being deleted.
    pub reconcile: R,
    /// Cleans up after objects that are.
    pub cleanup: C,
}

impl<K: Object, R: Reconcile<K>, C: Reconcile<K>> Reconcile<K> for Finalized<R, C>
where
    K::DynamicType: Default,
{
    async fn reconcile(&self, request: Request<K>) -> Result<Action, Error> {
        let Some(object) = request.object.clone() else { return self.reconcile.reconcile(request).await };
        let client = request.client.clone();
        if object.meta().deletion_timestamp.is_none() {
            add_finalizer(&client, &*object, self.name).await?;
            return self.reconcile.reconcile(request).await;
        }
        if !has_finalizer(&*object, self.name) {
            return Ok(Action::Done);
        }
        let action = self.cleanup.reconcile(request).await?;
        if action == Action::Done {
            remove_finalizer(&client, &*object, self.name).await?;
        }
        Ok(action)
    }

    fn needs(&self, scope: &Scope, rules: &mut Rules) {
        rules.allow::<K>(scope, Verbs::PATCH);
        self.reconcile.needs(scope, rules);
        self.cleanup.needs(scope, rules);
    }
}
