//! Custom resources: what [`CustomResource`](macro@crate::CustomResource) declares, and what follows from it.
//!
//! A declaration reaches the definition ([`definition`]), the check in this process ([`CustomResource::check`]), the
//! webhook, and the conversion between versions ([`Version`], [`Kind`]). Nothing here talks to a server.

mod check;
mod definition;
mod kind;

use kube::api::ObjectMeta;
use schemars::JsonSchema;
use serde::{Serialize, Serializer, de::DeserializeOwned, ser::SerializeStruct};

use windlass_crd::conversion;

pub use check::Invalid;
pub use definition::{Extend, definition};
pub use kind::{Kind, check_round_trips, draw};

/// A custom kind whose declaration is known: what `#[derive(windlass::CustomResource)]` implements.
pub trait CustomResource:
    kube::CustomResourceExt
    + kube::Resource<DynamicType = ()>
    + JsonSchema
    + Serialize
    + DeserializeOwned
    + Clone
    + Send
    + Sync
    + 'static
{
    /// What was declared.
    const DECLARED: Declared;

    /// Holds an object to its schema and CEL rules, in the words of an API server; `old` is what it was before, for
    /// rules about changes. Rules that ask for more than the object are left to the server.
    ///
    /// # Errors
    /// [`Invalid`], with every field that is wrong.
    fn check(&self, old: Option<&Self>) -> Result<(), Invalid> {
        check::check(self, old)
    }
}

/// A version of a kind that differs from another, its hub, in known steps.
pub trait Version: CustomResource {
    /// The version that all others are converted to and from.
    type Hub: CustomResource;

    /// The differences.
    const SPOKE: conversion::Spoke;
}

/// What a derive knows about a kind.
#[derive(Clone, Copy, Debug)]
pub struct Declared {
    /// The group.
    pub group: &'static str,
    /// The version.
    pub version: &'static str,
    /// `group/version`.
    pub api_version: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// The plural, as in paths.
    pub plural: &'static str,
    /// The singular.
    pub singular: &'static str,
    /// Objects live in namespaces.
    pub namespaced: bool,
    /// What kubectl takes for it, too.
    pub short_names: &'static [&'static str],
    /// Groups of kinds that kubectl knows it by, `all` for instance.
    pub categories: &'static [&'static str],
    /// What kubectl shows of it.
    pub columns: &'static [Column],
    /// Where its scale is.
    pub scale: Option<Scale>,
    /// JSON paths of fields that field selectors may name.
    pub selectable: &'static [&'static str],
    /// Labels of the definition and of new objects.
    pub labels: &'static [(&'static str, &'static str)],
    /// Annotations of the definition and of new objects.
    pub annotations: &'static [(&'static str, &'static str)],
    /// Its objects have a spec; without one their fields stand at the top level.
    pub spec: bool,
    /// It has a status subresource.
    pub status: bool,
    /// This version is what is stored.
    pub storage: bool,
    /// This version is served.
    pub served: bool,
    /// What users of this version are warned of; empty for upstream's words.
    pub deprecated: Option<&'static str>,
}

/// A column of kubectl's table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// The heading.
    pub name: &'static str,
    /// `integer`, `number`, `string`, `boolean` or `date`.
    pub type_: &'static str,
    /// Where the value is, `.spec.area`.
    pub json_path: &'static str,
    /// What it means; may be empty.
    pub description: &'static str,
    /// A refinement of the type; may be empty.
    pub format: &'static str,
    /// Above 0 it is shown in the wide table alone.
    pub priority: i32,
}

/// Where the scale subresource finds its numbers.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// The number wanted.
    pub spec_replicas: &'static str,
    /// The number seen.
    pub status_replicas: &'static str,
    /// A label selector as text; may be empty.
    pub label_selector: &'static str,
}

/// Metadata of a new object.
#[doc(hidden)]
#[must_use]
pub fn metadata(name: &str, labels: &[(&str, &str)], annotations: &[(&str, &str)]) -> ObjectMeta {
    let map = |pairs: &[(&str, &str)]| {
        let all = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        (!pairs.is_empty()).then(|| all.collect())
    };
    let (labels, annotations) = (map(labels), map(annotations));
    ObjectMeta { name: Some(name.to_owned()), labels, annotations, ..ObjectMeta::default() }
}

/// An object as JSON, with its type.
#[doc(hidden)]
pub fn serialize<K: CustomResource, Spec: Serialize, Status: Serialize, S: Serializer>(
    to: S,
    metadata: &ObjectMeta,
    spec: &Spec,
    status: Option<&Status>,
) -> Result<S::Ok, S::Error> {
    let mut object = to.serialize_struct(K::DECLARED.kind, 4 + usize::from(status.is_some()))?;
    object.serialize_field("apiVersion", K::DECLARED.api_version)?;
    object.serialize_field("kind", K::DECLARED.kind)?;
    object.serialize_field("metadata", metadata)?;
    object.serialize_field("spec", spec)?;
    if let Some(status) = status {
        object.serialize_field("status", status)?;
    }
    object.end()
}

/// An object without a spec as JSON, with its type.
#[doc(hidden)]
pub fn serialize_whole<S: Serializer>(
    to: S,
    api_version: &'static str,
    kind: &'static str,
    body: &impl Serialize,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Whole<'a, T> {
        api_version: &'static str,
        kind: &'static str,
        #[serde(flatten)]
        body: &'a T,
    }
    Whole { api_version, kind, body }.serialize(to)
}
