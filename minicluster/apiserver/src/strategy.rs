//! What differs from kind to kind: small functions beside each other in a table, never a handler.
//!
//! The generic handler calls them in a fixed order. On create: schema defaults, [`Strategy::default`], mutating
//! admission, defaults again, [`Strategy::prepare_create`], [`Strategy::validate`]. On update the same with the old
//! object at hand. A kind that needs nothing of its own uses [`Plain`].

pub(crate) mod access;
pub(crate) mod api_service;
pub(crate) mod apps;
pub(crate) mod autoscaler;
pub(crate) mod batch;
mod checks;
pub(crate) mod columns;
mod conditions;
mod container;
pub(crate) mod core;
pub(crate) mod definition;
mod endpoints;
pub(crate) mod event;
mod internal;
mod limits;
pub(crate) mod listed;
pub(crate) mod namespace;
mod networking;
pub(crate) mod node;
pub(crate) mod pod;
mod pod_columns;
pub(crate) mod pod_defaults;
pub(crate) mod pod_spec;
mod policy;
pub(crate) mod quota;
mod rules;
pub(crate) mod service;
mod storage;
mod template;
mod volumes;
mod warnings;

use serde_json::Value;
use windlass_crd::field::ErrorList;

/// One column of a `Table`.
#[derive(Clone)]
pub struct Column {
    /// The heading.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub type_: &'static str,
    /// `name` for the column that holds the name, else empty.
    pub format: &'static str,
    /// One sentence.
    pub description: String,
    /// 0: always shown; 1: only with `-o wide`.
    pub priority: i32,
    /// The cell for an object.
    pub cell: std::sync::Arc<dyn Fn(&Value) -> Value + Send + Sync>,
}

impl std::fmt::Debug for Column {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Column").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Column {
    /// A string column that is always shown.
    pub fn new(name: &str, cell: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Self {
        Self {
            name: name.to_owned(),
            type_: "string",
            format: "",
            description: String::new(),
            priority: 0,
            cell: std::sync::Arc::new(cell),
        }
    }

    /// Sets the type.
    #[must_use]
    pub fn typed(mut self, type_: &'static str) -> Self {
        self.type_ = type_;
        self
    }

    /// Shows the column only with `-o wide`.
    #[must_use]
    pub fn wide(mut self) -> Self {
        self.priority = 1;
        self
    }
}

/// Which part of an object a write is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The object without its status (where the kind has a status subresource).
    Main,
    /// The `status` subresource.
    Status,
    /// The `pods/ephemeralcontainers` subresource.
    EphemeralContainers,
    /// The `pods/resize` subresource.
    Resize,
    /// A change the server itself makes (binding, eviction, finalize): nothing is reset.
    Server,
}

/// A field that field selectors may name, and how it is read.
pub type Field = (&'static str, fn(&Value) -> String);

/// The behaviour of one kind beyond what all kinds share.
///
/// All functions are pure: object in, object or complaints out. `name` and `namespace` are set and valid when they are
/// called, except in [`Strategy::default`], which also sees objects before admission.
#[allow(unused_variables)]
pub trait Strategy: Send + Sync + 'static {
    /// Fills in what a client may leave out and the schema's static defaults cannot say.
    fn default(&self, obj: &mut Value) {}

    /// Sets or clears what only the server decides when an object is created. The status of kinds with a status
    /// subresource is already cleared, and `metadata.generation` set.
    fn prepare_create(&self, obj: &mut Value) {}

    /// Carries over from `old` what an update of `part` may not change. For kinds with a status subresource the
    /// generic handler has already kept the status (main) or everything else (status).
    fn prepare_update(&self, part: Part, obj: &mut Value, old: &Value) {}

    /// What is wrong with a new object.
    fn validate(&self, obj: &Value) -> ErrorList {
        ErrorList::new()
    }

    /// What is wrong with an update of `part`, beyond [`Strategy::validate`] of the new object, which the
    /// implementation calls itself where upstream does.
    fn validate_update(&self, part: Part, obj: &Value, old: &Value) -> ErrorList {
        if part == Part::Main { self.validate(obj) } else { ErrorList::new() }
    }

    /// `Warning` headers for a written object.
    fn warnings(&self, obj: &Value) -> Vec<String> {
        Vec::new()
    }

    /// `Warning` headers for an update of `part`.
    fn update_warnings(&self, part: Part, obj: &Value, old: &Value) -> Vec<String> {
        self.warnings(obj)
    }

    /// What becomes of the objects that this one owns, when whoever deletes it does not say.
    fn default_propagation(&self) -> &'static str {
        "Background"
    }

    /// `Warning` header for a deletion that does not say what becomes of the objects that this one owns.
    fn deletion_warning(&self) -> Option<&'static str> {
        None
    }

    /// What else changes in an object when its deletion begins, such as a finalizer that comes with it.
    fn begin_deletion(&self, obj: &mut Value) {}

    /// The columns of its `Table`, after the name. `None`: name and age, as for kinds without a printer.
    fn columns(&self) -> Option<Vec<Column>> {
        None
    }

    /// An annotation that is a field of its own upstream, so that objects in a `Table` lack it.
    fn hidden_annotation(&self) -> Option<&'static str> {
        None
    }

    /// The selectable fields besides `metadata.name` and `metadata.namespace`, with the text that a selector compares.
    fn fields(&self) -> &'static [Field] {
        &[]
    }

    /// Which names are legal; the text upstream gives when not.
    fn check_name(&self, name: &str) -> Result<(), String> {
        windlass_crd::name::dns1123_subdomain(name)
    }

    /// True when a PUT to a name that does not exist creates the object.
    fn creates_on_update(&self) -> bool {
        false
    }

    /// True when an update without `resourceVersion` is allowed to overwrite.
    fn allows_unconditional_update(&self) -> bool {
        true
    }

    /// Seconds that a deletion of this object waits for somebody to finish (pods), given what the client asked for.
    /// `None`: the object is deleted at once.
    fn grace_period(&self, obj: &Value, asked: Option<i64>) -> Option<i64> {
        None
    }
}

/// A kind with nothing of its own.
#[derive(Debug)]
pub struct Plain;

impl Strategy for Plain {}
