//! Which objects a controller answers for: those that it owns and that match its selector. An orphan that matches is
//! adopted; an owned object that no longer matches is released. As upstream's controller reference manager.

use std::sync::Arc;

use kube::{
    api::Patch,
    core::{Selector, SelectorExt},
};
use serde_json::json;
use windlass::{CachedClient, Error, Index, Indexed, Key, Object, controller_of, controller_ref};

/// An index of objects without a controller, by namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Orphans;

impl<K: Object> Index<K> for Orphans {
    type Value = String;

    fn values(&self, object: &K, emit: &mut dyn FnMut(String)) {
        let meta = object.meta();
        if controller_of(meta).is_none() {
            emit(meta.namespace.clone().unwrap_or_default());
        }
    }

    fn same(&self, _other: &Self) -> bool {
        true
    }
}

/// What belongs to an owner, and what has to change for that.
#[derive(Debug)]
pub(crate) struct Claim<K> {
    /// Owned, and matching.
    pub(crate) owned: Vec<Arc<K>>,
    /// Matching, and without an owner.
    pub(crate) adopt: Vec<Arc<K>>,
    /// Owned, and no longer matching.
    pub(crate) release: Vec<Arc<K>>,
    /// A finalizer that comes with adoption and goes with release.
    pub(crate) finalizer: Option<&'static str>,
}

impl<K: Object> Claim<K> {
    /// Sorts out what an owner has and what it could adopt.
    pub(crate) fn sort_out<O: Object>(
        owner: &O,
        selector: &Selector,
        owned: Vec<Arc<K>>,
        orphans: Vec<Arc<K>>,
    ) -> Self {
        let deleting = owner.meta().deletion_timestamp.is_some();
        let none = std::collections::BTreeMap::new();
        let matches = |object: &Arc<K>| selector.matches(object.meta().labels.as_ref().unwrap_or(&none));
        let (owned, mut release): (Vec<_>, Vec<_>) = owned.into_iter().partition(matches);
        let mut adopt = orphans;
        adopt.retain(|object| !deleting && matches(object) && object.meta().deletion_timestamp.is_none());
        if deleting {
            release.clear();
        }
        Self { owned, adopt, release, finalizer: None }
    }

    /// From the indexes by owner and of orphans.
    pub(crate) fn look_up<O: Object>(
        owner: &O,
        selector: &Selector,
        by_owner: &Indexed<K, windlass::ByOwner>,
        orphans: &Indexed<K, Orphans>,
    ) -> Self {
        let meta = owner.meta();
        let owned = by_owner.get(meta.uid.as_deref().unwrap_or_default());
        let orphans = orphans.get(meta.namespace.as_deref().unwrap_or_default());
        Self::sort_out(owner, selector, owned, orphans)
    }

    /// Adopts and releases, and returns what the owner answers for afterwards, ordered by key.
    pub(crate) async fn settle<O: Object>(
        mut self,
        client: &CachedClient,
        owner: &O,
    ) -> Result<Vec<Arc<K>>, Error>
    where
        K::DynamicType: Default,
        O::DynamicType: Default,
    {
        if !self.adopt.is_empty() && !may_adopt(client, owner).await? {
            self.adopt.clear();
        }
        for object in &self.adopt {
            match client.patch::<K>(&Key::of(&**object), &self.adoption(&**object, owner)).await {
                Ok(adopted) => self.owned.push(adopted),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        for object in &self.release {
            match client.patch::<K>(&Key::of(&**object), &self.release(&**object, owner)).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() || is_invalid(&error) => {}
                Err(error) => return Err(error),
            }
        }
        self.owned.sort_by_key(|object| Key::of(&**object));
        Ok(self.owned)
    }

    fn adoption<O: Object>(&self, object: &K, owner: &O) -> Patch<serde_json::Value>
    where
        O::DynamicType: Default,
    {
        let mut patch = json!({
            "metadata": {"ownerReferences": [controller_ref(owner)], "uid": object.meta().uid}
        });
        if let Some(finalizer) = self.finalizer {
            patch["metadata"]["finalizers"] = json!([finalizer]);
        }
        Patch::Strategic(patch)
    }

    fn release<O: Object>(&self, object: &K, owner: &O) -> Patch<serde_json::Value> {
        let mut patch = json!({
            "metadata": {
                "ownerReferences": [{"$patch": "delete", "uid": owner.meta().uid}],
                "uid": object.meta().uid,
            }
        });
        if let Some(finalizer) = self.finalizer {
            patch["metadata"]["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
        }
        Patch::Strategic(patch)
    }
}

/// Whether the owner still exists and stays: asked of the server, since a cache may not know of its deletion yet.
async fn may_adopt<O: Object>(client: &CachedClient, owner: &O) -> Result<bool, Error>
where
    O::DynamicType: Default,
{
    let live = client.live::<O>(&Key::of(owner)).await?;
    Ok(live
        .is_some_and(|live| live.meta().uid == owner.meta().uid && live.meta().deletion_timestamp.is_none()))
}

/// The object was released already, or is another one by now.
fn is_invalid(error: &Error) -> bool {
    matches!(error, Error::Kube(kube::Error::Api(status)) if status.is_invalid())
}
