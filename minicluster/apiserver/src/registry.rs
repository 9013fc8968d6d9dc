//! One table of all kinds that are served, built-in and custom alike.
//!
//! A row says what a kind is called, where it is stored and which verbs and subresources it has; its [`Strategy`]
//! says how it behaves. The handlers know rows, not kinds.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;
use serde_json::Value;
use windlass_crd::schema::{self, Schema};

use crate::{cel::Rules, crds::conversion::Conversion, strategy::Strategy};

/// Text that is static for built-in kinds and owned for custom ones.
pub type Text = Cow<'static, str>;

/// A set of verbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verbs(&'static [&'static str]);

impl Verbs {
    /// Everything.
    pub const ALL: Self =
        Self(&["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]);
    /// Everything but deleting a whole collection.
    pub const NO_COLLECTION: Self = Self(&["create", "delete", "get", "list", "patch", "update", "watch"]);
    /// Everything that makes and changes nothing.
    pub const TERMINATING: Self = Self(&["delete", "deletecollection", "get", "list", "watch"]);
    /// Reviews: a question in, an answer out, nothing stored.
    pub const CREATE: Self = Self(&["create"]);
    /// A subresource that is read and written.
    pub const GET_PATCH_UPDATE: Self = Self(&["get", "patch", "update"]);
    /// A subresource that is only read.
    pub const GET: Self = Self(&["get"]);
    /// A subresource that is only replaced.
    pub const UPDATE: Self = Self(&["update"]);
    /// A connection.
    pub const CONNECT: Self = Self(&["create", "get"]);
    /// A proxy.
    pub const PROXY: Self = Self(&["create", "delete", "get", "patch", "update"]);

    /// The verbs, in alphabetical order.
    pub fn names(self) -> &'static [&'static str] {
        self.0
    }

    /// True when `verb` is among them.
    pub fn has(self, verb: &str) -> bool {
        self.0.contains(&verb)
    }
}

/// A subresource and how it is announced in discovery.
#[derive(Clone, Debug)]
pub struct Subresource {
    /// `status`.
    pub name: &'static str,
    /// Its kind.
    pub kind: Text,
    /// The group and version of its kind where they differ from the resource's.
    pub group_version: Option<(&'static str, &'static str)>,
    /// Its verbs.
    pub verbs: Verbs,
}

/// Where a custom kind keeps what the `scale` subresource shows.
#[derive(Clone, Debug)]
pub struct ScalePaths {
    /// Where the wanted number of replicas is.
    pub spec_replicas: Vec<String>,
    /// Where the observed number is.
    pub status_replicas: Vec<String>,
    /// Where the selector, as text or object, is.
    pub selector: Option<Vec<String>>,
}

/// How an object is turned from one version of its kind into another, in place.
pub type Convert = Arc<dyn Fn(&mut Value, &str) + Send + Sync>;

/// What clients may change of an object's metadata.
pub const METADATA: &[&str] = &["labels", "annotations", "finalizers", "ownerReferences"];

/// One row: a kind in one version.
pub struct Resource {
    /// The API group, empty for the core group.
    pub group: Text,
    /// The version.
    pub version: Text,
    /// `pods`.
    pub plural: Text,
    /// `pod`.
    pub singular: Text,
    /// `Pod`.
    pub kind: Text,
    /// `PodList`.
    pub list_kind: Text,
    /// `po`.
    pub short_names: Vec<Text>,
    /// `all`.
    pub categories: Vec<Text>,
    /// False for cluster-scoped kinds.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: Verbs,
    /// What hangs below it.
    pub subresources: Vec<Subresource>,
    /// Where the store keeps its objects: `/registry/pods/`.
    pub prefix: String,
    /// The `apiVersion` in which objects are stored.
    pub storage_version: String,
    /// The kind in which objects are stored.
    pub convert: Option<Convert>,
    /// True when `metadata.generation` counts changes outside metadata and status.
    pub generation: bool,
    /// The metadata that a write of the status leaves alone.
    pub status_keeps: &'static [&'static str],
    /// What a client of this kind is warned of.
    pub deprecation: Option<String>,
    /// Its behaviour.
    pub strategy: Arc<dyn Strategy>,
    /// For a custom kind, its schema, scale paths and the definition's uid.
    pub custom: Option<Custom>,
    pub(crate) schema: OnceLock<Arc<Schema>>,
}

/// What only custom kinds have.
#[derive(Clone, Debug)]
pub struct Custom {
    /// The uid of the definition.
    pub uid: String,
    /// Changes whenever the definition's spec does.
    pub fingerprint: String,
    /// The same for two definitions that show their objects alike.
    pub spec_digest: u64,
    /// The way between its versions.
    pub conversion: Arc<Conversion>,
    /// Its `openAPIV3Schema` as the definition has it.
    pub schema: Arc<Value>,
    /// The CEL rules of its schema.
    pub(crate) rules: Option<Arc<Rules>>,
    /// True when the definition is no longer the one it was created as.
    pub evolved: bool,
    /// Where the scale subresource looks.
    pub scale: Option<ScalePaths>,
    /// JSON paths without the leading dot that field selectors may name.
    pub selectable_fields: Vec<String>,
    /// Being deleted with its definition: no new objects.
    pub terminating: bool,
}

impl std::fmt::Debug for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.api_version(), self.plural)
    }
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `pods` or `deployments.apps`.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_string()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// True when its definition is being deleted.
    pub fn is_terminating(&self) -> bool {
        self.custom.as_ref().is_some_and(|c| c.terminating)
    }

    /// The verbs that discovery shows. What is coming to an end can still be changed, to remove finalizers, but nobody
    /// should begin to.
    pub fn announced_verbs(&self) -> Verbs {
        if self.is_terminating() { Verbs::TERMINATING } else { self.verbs }
    }

    /// The key of an object.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced {
            format!("{}{namespace}/{name}", self.prefix)
        } else {
            format!("{}{name}", self.prefix)
        }
    }

    /// The prefix of a collection: one namespace, or all when it is empty.
    pub fn collection(&self, namespace: &str) -> String {
        if self.namespaced && !namespace.is_empty() {
            format!("{}{namespace}/", self.prefix)
        } else {
            self.prefix.clone()
        }
    }

    /// Namespace and name, read back from a key.
    pub fn split_key<'k>(&self, key: &'k str) -> (&'k str, &'k str) {
        let rest = key.strip_prefix(self.prefix.as_str()).unwrap_or(key);
        if self.namespaced { rest.split_once('/').unwrap_or(("", rest)) } else { ("", rest) }
    }

    /// True when it has this subresource.
    pub fn has(&self, subresource: &str) -> bool {
        self.subresources.iter().any(|s| s.name == subresource)
    }

    /// True when objects are stored in exactly this version, so that stored bytes are served as they are.
    pub fn is_storage_version(&self) -> bool {
        self.storage_version == self.api_version()
    }

    /// True when stored bytes can be shown as they are.
    ///
    /// A definition that changed since may have got other fields and other defaults than its objects were stored with.
    pub fn is_served_as_stored(&self) -> bool {
        self.is_storage_version() && self.custom.as_ref().is_none_or(|custom| !custom.evolved)
    }

    /// The schema of its objects.
    pub fn schema(&self) -> Arc<Schema> {
        let load = || {
            schema::builtin(&self.api_version(), &self.kind)
                .unwrap_or_else(|| panic!("no schema for the built-in kind {self:?}"))
        };
        Arc::clone(self.schema.get_or_init(load))
    }
}

/// The table at one moment.
#[derive(Debug, Default, Clone)]
pub struct Table {
    rows: BTreeMap<(Text, Text, Text), Arc<Resource>>,
    /// Groups in the order in which discovery shows them, each with its versions, preferred first.
    groups: Vec<(Text, Vec<Text>)>,
}

impl Table {
    /// A table of rows; the first version of a group that appears is its preferred one.
    pub fn new(rows: impl IntoIterator<Item = Arc<Resource>>) -> Self {
        let mut table = Self::default();
        for row in rows {
            table.insert(row);
        }
        table
    }

    /// Adds a row.
    pub fn insert(&mut self, row: Arc<Resource>) {
        let at = self.groups.iter().position(|(g, _)| *g == row.group).unwrap_or_else(|| {
            self.groups.push((row.group.clone(), Vec::new()));
            self.groups.len() - 1
        });
        let versions = &mut self.groups[at].1;
        if !versions.contains(&row.version) {
            versions.push(row.version.clone());
        }
        self.rows.insert((row.group.clone(), row.version.clone(), row.plural.clone()), row);
    }

    /// The row of a resource.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.rows.get(&(
            Text::Owned(group.to_owned()),
            Text::Owned(version.to_owned()),
            Text::Owned(plural.to_owned()),
        ))
    }

    /// The rows of one group and version, by plural name.
    pub fn of_version<'a>(
        &'a self,
        group: &'a str,
        version: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Resource>> {
        self.rows.values().filter(move |r| r.group == group && r.version == version)
    }

    /// All rows.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.rows.values()
    }

    /// Groups with their versions, preferred first.
    pub fn groups(&self) -> &[(Text, Vec<Text>)] {
        &self.groups
    }

    /// Which resource and group a key of the store belongs to, told from the key alone: `secrets` and "". A kind that
    /// has several groups is named by the one in which it is stored.
    pub fn resource_of_keys(&self) -> impl Fn(&str) -> (String, String) + Send + Sync + use<> {
        let stored = self.rows.values().filter(|row| row.is_storage_version());
        let known: BTreeMap<String, (String, String)> =
            stored.map(|row| (row.prefix.clone(), (row.plural.to_string(), row.group.to_string()))).collect();
        move |key| {
            let ends = key.match_indices('/').map(|(at, _)| at + 1).skip(2).take(2);
            let prefixes = ends.map(|end| &key[..end]);
            if let Some(found) = prefixes.filter_map(|prefix| known.get(prefix)).next() {
                return found.clone();
            }
            // Custom kinds: `/registry/GROUP/PLURAL/…`.
            let mut parts = key.split('/').skip(2);
            let (group, plural) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            (plural.to_owned(), group.to_owned())
        }
    }

    /// Puts the versions of a group in order of preference.
    pub fn sort_versions(&mut self, group: &str, order: impl Fn(&str, &str) -> std::cmp::Ordering) {
        if let Some((_, versions)) = self.groups.iter_mut().find(|(g, _)| g == group) {
            versions.sort_by(|a, b| order(a, b));
        }
    }
}

/// The table, replaced as a whole when custom kinds come and go.
#[derive(Debug)]
pub struct Registry {
    builtin: Table,
    current: ArcSwap<Table>,
}

impl Registry {
    /// A registry of the built-in kinds.
    pub fn new(builtin: Table) -> Self {
        Self { current: ArcSwap::from_pointee(builtin.clone()), builtin }
    }

    /// The table now.
    pub fn table(&self) -> Arc<Table> {
        self.current.load_full()
    }

    /// The row of a resource.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.current.load().get(group, version, plural).cloned()
    }

    /// True when this server has something in that group and version by itself.
    pub fn is_builtin(&self, group: &str, version: &str) -> bool {
        self.builtin.groups.iter().any(|(g, versions)| g == group && versions.iter().any(|v| v == version))
    }

    /// True when the group is this server's own, in whatever versions.
    pub fn is_builtin_group(&self, group: &str) -> bool {
        self.builtin.groups.iter().any(|(g, _)| g == group)
    }

    /// The row of a built-in resource that is known to exist.
    ///
    /// # Panics
    /// When the built-in table has no such row.
    pub fn builtin(&self, group: &str, version: &str, plural: &str) -> Arc<Resource> {
        Arc::clone(self.builtin.get(group, version, plural).expect("a built-in kind"))
    }

    /// Replaces all custom kinds.
    pub fn set_custom(&self, rows: Vec<Arc<Resource>>, order: impl Fn(&str, &str) -> std::cmp::Ordering) {
        let mut table = self.builtin.clone();
        let groups: std::collections::BTreeSet<Text> = rows.iter().map(|r| r.group.clone()).collect();
        for row in rows {
            table.insert(row);
        }
        for group in groups {
            table.sort_versions(&group, &order);
        }
        self.current.store(Arc::new(table));
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds;

    #[test]
    fn a_key_says_what_it_belongs_to() {
        let resource_of = kinds::table().resource_of_keys();
        for (key, resource, group) in [
            ("/registry/secrets/default/a", "secrets", ""),
            ("/registry/services/specs/default/a", "services", ""),
            ("/registry/deployments/default/a", "deployments", "apps"),
            ("/registry/namespaces/a", "namespaces", ""),
            ("/registry/events/default/a", "events", ""),
            (
                "/registry/apiextensions.k8s.io/customresourcedefinitions/a",
                "customresourcedefinitions",
                "apiextensions.k8s.io",
            ),
            ("/registry/example.com/hosts/default/a", "hosts", "example.com"),
        ] {
            assert_eq!(resource_of(key), (resource.to_owned(), group.to_owned()), "{key}");
        }
    }
}
