//! One schema model for built-in and custom kinds.
//!
//! Whatever follows from a type (decoding checks, pruning, defaulting, validation, patches, server-side apply,
//! OpenAPI) walks this model and does not care where it came from. Built-in kinds are read from a table of facts
//! ([`builtin`]), custom ones from their `openAPIV3Schema` ([`from_crd`]). A built-in field that holds a structure
//! refers to its definition, so definitions are shared and recursive types are no problem; every accessor looks
//! through the reference.

mod builtin;
mod custom;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

pub use builtin::{builtin, definition, kinds};
pub use custom::{from_crd, from_crd_at};

/// What JSON values a node accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Type {
    /// Anything at all.
    #[default]
    Any,
    /// A JSON object: a structure or a map.
    Object,
    /// A list.
    Array,
    /// A string.
    String,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// `true` or `false`.
    Boolean,
}

impl Type {
    /// The name in JSON schemas; empty for [`Type::Any`].
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// How a list merges: as one value, by its items, or by the keys of its items.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// Replaced as a whole.
    #[default]
    Atomic,
    /// Scalars, each once.
    Set,
    /// Objects told apart by these fields.
    Map(Vec<Box<str>>),
}

/// How a map or structure merges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MapType {
    /// Field by field.
    #[default]
    Granular,
    /// Replaced as a whole.
    Atomic,
}

/// How a strategic merge patch treats a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    /// Lists merge item by item instead of being replaced.
    pub merge: bool,
    /// The field that tells list items apart; `None` in a merged list of scalars.
    pub merge_key: Option<Box<str>>,
    /// The value replaces the old one, though its type would merge.
    pub replace: bool,
    /// A patch may say with `$retainKeys` which keys survive.
    pub retain_keys: bool,
}

/// A group, version and kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gvk {
    /// The API group; empty for the core group.
    pub group: Box<str>,
    /// The version.
    pub version: Box<str>,
    /// The kind.
    pub kind: Box<str>,
}

/// Value constraints and documentation, which only custom schemas carry.
#[derive(Clone, Debug, Default)]
pub struct Constraints {
    /// The values allowed.
    pub allowed: Vec<Value>,
    /// A regular expression for strings.
    pub pattern: Option<Pattern>,
    /// Bounds of numbers, with whether they exclude the bound itself.
    pub minimum: Option<(serde_json::Number, bool)>,
    /// See `minimum`.
    pub maximum: Option<(serde_json::Number, bool)>,
    /// Numbers must be multiples of this.
    pub multiple_of: Option<serde_json::Number>,
    /// Bounds of the length of strings, in characters.
    pub min_length: Option<u64>,
    /// See `min_length`.
    pub max_length: Option<u64>,
    /// Bounds of the number of list items.
    pub min_items: Option<u64>,
    /// See `min_items`.
    pub max_items: Option<u64>,
    /// Whether list items must differ.
    pub unique_items: bool,
    /// Bounds of the number of properties.
    pub min_properties: Option<u64>,
    /// See `min_properties`.
    pub max_properties: Option<u64>,
    /// All of these must hold as well.
    pub all_of: Vec<Schema>,
    /// At least one of these must hold as well.
    pub any_of: Vec<Schema>,
    /// Exactly one of these must hold as well.
    pub one_of: Vec<Schema>,
    /// This must not hold.
    pub not: Option<Box<Schema>>,
    /// `x-kubernetes-validations`, as given.
    pub validations: Vec<Value>,
    /// `title`, `externalDocs` and `example`, as given.
    pub annotations: BTreeMap<Box<str>, Value>,
}

/// A compiled regular expression with its text.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// The text.
    pub text: Box<str>,
    /// The machine.
    pub regex: regex::Regex,
}

/// What may stand in an object beside its named properties.
#[derive(Clone, Debug, Default)]
pub enum Additional {
    /// Nothing.
    #[default]
    None,
    /// Anything.
    Any,
    /// Values of this schema.
    Schema(Arc<Schema>),
}

/// A node of a schema. Use the methods for structure: they look through references.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// What values it accepts.
    pub ty: Type,
    /// A refinement of the type: `int32`, `int64`, `double`, `byte`, `date-time`, `micro-time`, `quantity`, …
    pub format: Cow<'static, str>,
    /// A number or a string.
    pub int_or_string: bool,
    /// `null` is a value of its own.
    pub nullable: bool,
    /// Unknown fields are kept.
    pub preserve_unknown: bool,
    /// A whole object with `apiVersion`, `kind` and `metadata`.
    pub embedded_resource: bool,
    /// How a list merges.
    pub list_type: ListType,
    /// How a strategic merge patch treats it.
    pub patch: PatchStrategy,
    /// What an absent field becomes.
    pub default: Option<Value>,
    /// The kinds that it is the whole schema of.
    pub gvks: Vec<Gvk>,
    /// Documentation; built-in nodes have it only in OpenAPI documents.
    pub description: Option<Box<str>>,
    /// The rest, when there is any.
    pub constraints: Option<Box<Constraints>>,
    pub(crate) map_type: Option<MapType>,
    pub(crate) name: Option<&'static str>,
    pub(crate) reference: Option<builtin::Reference>,
    pub(crate) properties: BTreeMap<Box<str>, Arc<Schema>>,
    pub(crate) required: Vec<Box<str>>,
    pub(crate) items: Option<Arc<Schema>>,
    pub(crate) additional: Additional,
}

impl Schema {
    /// The node that holds the structure: itself, or the definition that it refers to.
    fn body(&self) -> &Self {
        match self.reference {
            Some(reference) => reference.get(),
            None => self,
        }
    }

    /// Its named properties, in order.
    #[must_use]
    pub fn properties(&self) -> &BTreeMap<Box<str>, Arc<Self>> {
        &self.body().properties
    }

    /// The schema of a named property.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&Self> {
        self.properties().get(name).map(Arc::as_ref)
    }

    /// The schema that a member of an object has: a property's, or that of all others.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Self> {
        let body = self.body();
        body.properties.get(name).map(Arc::as_ref).or(match &body.additional {
            Additional::Schema(schema) => Some(schema),
            Additional::None | Additional::Any => None,
        })
    }

    /// The properties that must be there.
    #[must_use]
    pub fn required(&self) -> &[Box<str>] {
        &self.body().required
    }

    /// The schema of list items.
    #[must_use]
    pub fn items(&self) -> Option<&Self> {
        self.body().items.as_deref()
    }

    /// What may stand beside the named properties.
    #[must_use]
    pub fn additional(&self) -> &Additional {
        &self.body().additional
    }

    /// How it merges as a map: the field's own word, else its definition's.
    #[must_use]
    pub fn map_type(&self) -> MapType {
        self.map_type.or(self.body().map_type).unwrap_or_default()
    }

    /// Whether unknown members are kept.
    #[must_use]
    pub fn keeps_unknown(&self) -> bool {
        self.preserve_unknown || self.body().preserve_unknown || matches!(self.additional(), Additional::Any)
    }

    /// Whether it is a structure of named fields rather than a map.
    #[must_use]
    pub fn is_struct(&self) -> bool {
        self.ty == Type::Object && matches!(self.additional(), Additional::None)
    }

    /// The short name of its definition, `core.v1.PodSpec`. `None` for custom schemas and plain values.
    #[must_use]
    pub fn definition_name(&self) -> Option<&'static str> {
        self.body().name
    }

    /// The name of the Go structure that upstream decodes it into, `PodSpec`.
    #[must_use]
    pub fn go_name(&self) -> Option<&'static str> {
        self.definition_name().and_then(|name| name.rsplit('.').next())
    }

    /// The value constraints; built-in nodes have none.
    #[must_use]
    pub fn constraints(&self) -> Option<&Constraints> {
        self.constraints.as_deref()
    }
}
