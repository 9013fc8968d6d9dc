//! Which objects of a kind an informer holds, and how much of each.

use std::any::TypeId;

use kube::core::{NamespaceResourceScope, Selector};

use crate::Object;

/// What part of a kind is watched. The default is everything.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Namespaces to watch, one watch each; empty means those that the process watches, by default all in one watch.
    pub namespaces: Vec<String>,
    /// Only objects with these labels.
    pub labels: Option<Selector>,
    /// Only objects that match this field selector, such as `spec.nodeName=n1`.
    pub fields: Option<String>,
    /// What is cut from each object before it is decoded.
    pub strip: Strip,
}

/// What is cut from each object before it is decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strip {
    /// `metadata.managedFields`: half of a typical object, and no controller reads it.
    #[default]
    ManagedFields,
    /// Nothing.
    Nothing,
    /// All but metadata; the server is asked for `PartialObjectMetadata`.
    MetadataOnly,
}

/// Whether the namespaces that a process watches narrow down what it sees of a kind: of kinds without a namespace it sees
/// everything, and of kinds known at run time alone, of which nobody knows it, too.
pub(crate) fn is_narrowed<K: Object>() -> bool {
    TypeId::of::<K::Scope>() == TypeId::of::<NamespaceResourceScope>()
}

impl Scope {
    /// Everything, in all namespaces that the process watches; see [`crate::ManagerBuilder::watch_namespaces`].
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// One namespace.
    #[must_use]
    pub fn namespace(name: impl Into<String>) -> Self {
        Self { namespaces: vec![name.into()], ..Self::default() }
    }

    /// Adds a label selector.
    #[must_use]
    pub fn labels(mut self, selector: Selector) -> Self {
        self.labels = Some(selector);
        self
    }

    /// Adds a field selector, in the API's text form.
    #[must_use]
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.fields = Some(selector.into());
        self
    }

    /// Chooses what is cut from each object.
    #[must_use]
    pub fn strip(mut self, strip: Strip) -> Self {
        self.strip = strip;
        self
    }

    /// Two scopes with the same text share one watch.
    pub(crate) fn id(&self) -> String {
        let labels = self.labels.as_ref().map(ToString::to_string).unwrap_or_default();
        let fields = self.fields.as_deref().unwrap_or_default();
        format!("{}|{labels}|{fields}|{:?}", self.namespaces.join(","), self.strip)
    }
}
