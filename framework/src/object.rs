//! What the framework asks of a Kubernetes type: what kube's `Resource` gives, plus decoding.

use std::{fmt::Debug, hash::Hash};

use kube::Resource;
use serde::de::DeserializeOwned;

/// Any error, as the seams to user code carry it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A kind that can be cached and reconciled: every k8s-openapi type, kube-derived custom type, `DynamicObject` and
/// `PartialObjectMeta` is one.
pub trait Object:
    Resource<DynamicType: Clone + Eq + Hash + Debug + Send + Sync, Scope: 'static>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Object for K where
    K: Resource<DynamicType: Clone + Eq + Hash + Debug + Send + Sync, Scope: 'static>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// The revision of an object as a number; comparable within one kind (KEP-5504). Zero when it has none.
#[must_use]
pub fn revision_of<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().map_or(0, parse_revision)
}

pub(crate) fn parse_revision(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}
