//! What server-side apply is given: objects, and configurations that hold no more than what is to be owned.
//!
//! Whoever applies an object owns every field that it sends. A type whose fields are all optional sends what was written;
//! one of k8s-openapi also sends what it requires, empty if need be. Both take the same road through
//! [`CachedClient::apply`](crate::CachedClient::apply).

use kube::core::ObjectMeta;
use serde::Serialize;

use crate::{Key, Object};

/// What can be applied: an object itself, or what `apply_configurations!` makes of its kind. Serialized, it has
/// `apiVersion`, `kind` and a name.
pub trait Apply: Serialize + Send + Sync {
    /// The kind that it is applied to, and that comes back.
    type Kind: Object;

    /// Name, namespace and what else is applied of the metadata.
    fn metadata(&self) -> &ObjectMeta;

    /// Which object it is applied to.
    fn key(&self) -> Key {
        let meta = self.metadata();
        Key::for_kind::<Self::Kind>(meta.namespace.as_deref(), meta.name.as_deref().unwrap_or_default())
    }
}

impl<K: Object + Serialize> Apply for K {
    type Kind = K;

    fn metadata(&self) -> &ObjectMeta {
        self.meta()
    }
}
