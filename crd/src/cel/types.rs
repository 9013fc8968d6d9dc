//! Types, and which of them a schema declares.
//!
//! Source: `k8s.io/apiserver/pkg/cel/common/schemas.go`, `k8s.io/apiserver/pkg/cel/escaping.go`.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::schema::{Additional, Schema, Type as JsonType};

/// The longest request body, bytes: nothing in an object is longer.
const BYTES_MAX: u64 = 3 << 20;

/// The type of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Anything; nothing is known before it runs.
    Dyn,
    /// `null`.
    Null,
    /// `bool`.
    Bool,
    /// `int`.
    Int,
    /// `uint`.
    Uint,
    /// `double`.
    Double,
    /// `string`, with the most characters it can have, if that is known.
    String(Option<u64>),
    /// `bytes`, likewise.
    Bytes(Option<u64>),
    /// A span of time.
    Duration,
    /// A point in time.
    Timestamp,
    /// A list, with the most items it can have.
    List(Arc<Type>, Option<u64>),
    /// A map, with the most entries it can have.
    Map(Arc<Type>, Arc<Type>, Option<u64>),
    /// A structure with known fields.
    Object(Arc<Fields>),
    /// A type of a library, such as `kubernetes.Quantity`.
    Opaque(&'static str),
    /// What may be missing.
    Optional(Arc<Type>),
    /// The name of a type.
    Type(Arc<Type>),
    /// A type that a signature leaves open.
    Open(char),
}

/// The fields of a structure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields {
    /// Its name.
    pub name: String,
    /// The fields that expressions can name, as they name them, with whether each has to be there.
    pub fields: BTreeMap<String, (Type, bool)>,
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String(_) => f.write_str("string"),
            Self::Bytes(_) => f.write_str("bytes"),
            Self::Duration => f.write_str("google.protobuf.Duration"),
            Self::Timestamp => f.write_str("google.protobuf.Timestamp"),
            Self::List(item, _) => write!(f, "list({item})"),
            Self::Map(key, value, _) => write!(f, "map({key}, {value})"),
            Self::Object(fields) => f.write_str(&fields.name),
            Self::Opaque(name) => f.write_str(name),
            Self::Optional(inner) => write!(f, "optional_type({inner})"),
            Self::Type(inner) => write!(f, "type({inner})"),
            Self::Open(name) => write!(f, "{name}"),
        }
    }
}

impl Type {
    /// `string` of any length.
    pub const STRING: Self = Self::String(None);

    /// A list of any length.
    #[must_use]
    pub fn list(item: Self) -> Self {
        Self::List(Arc::new(item), None)
    }

    /// A map of any size.
    #[must_use]
    pub fn map(key: Self, value: Self) -> Self {
        Self::Map(Arc::new(key), Arc::new(value), None)
    }

    /// What may be missing.
    #[must_use]
    pub fn optional(inner: Self) -> Self {
        Self::Optional(Arc::new(inner))
    }

    /// A structure.
    #[must_use]
    pub fn object(name: &str, fields: &[(&str, Self)]) -> Self {
        let fields = fields.iter().map(|(name, ty)| ((*name).to_owned(), (ty.clone(), false))).collect();
        Self::Object(Arc::new(Fields { name: name.to_owned(), fields }))
    }

    /// The most characters, items or entries that a value can have.
    #[must_use]
    pub fn size_max(&self) -> Option<u64> {
        match self {
            Self::String(max) | Self::Bytes(max) | Self::List(_, max) | Self::Map(_, _, max) => *max,
            Self::Optional(inner) => inner.size_max(),
            _ => Some(1),
        }
    }
}

/// The type that a schema declares; `root`: it is that of a whole object, whose metadata is known in part alone.
#[must_use]
pub fn of_schema(schema: &Schema, name: &str, root: bool) -> Type {
    typed(schema, name, root, 0)
}

/// How deep types are followed: built-in ones refer to themselves.
const DEPTH_MAX: usize = 24;

fn typed(schema: &Schema, name: &str, root: bool, depth: usize) -> Type {
    if schema.int_or_string || depth > DEPTH_MAX {
        return Type::Dyn;
    }
    let limits = schema.constraints();
    match schema.ty {
        JsonType::Any => Type::Dyn,
        JsonType::Boolean => Type::Bool,
        JsonType::Integer => Type::Int,
        JsonType::Number => Type::Double,
        JsonType::String => string(schema),
        JsonType::Array => {
            let Some(items) = schema.items() else { return Type::list(Type::Dyn) };
            let item = typed(items, &format!("{name}.@items"), false, depth + 1);
            let max = limits.and_then(|limits| limits.max_items).unwrap_or_else(|| {
                // A comma and the shortest item: more do not fit in a request.
                BYTES_MAX.saturating_sub(2) / (shortest(items, 0) + 1)
            });
            Type::List(Arc::new(item), Some(max))
        }
        JsonType::Object => object(schema, name, root, depth),
    }
}

fn string(schema: &Schema) -> Type {
    let limits = schema.constraints();
    match &*schema.format {
        "byte" => Type::Bytes(Some(limits.and_then(|l| l.max_length).unwrap_or(BYTES_MAX - 2))),
        "duration" => Type::Duration,
        "date" | "date-time" => Type::Timestamp,
        _ => {
            let longest = limits.map(|l| &l.allowed).filter(|allowed| !allowed.is_empty()).map(|allowed| {
                allowed.iter().filter_map(|v| v.as_str()).map(str::len).max().unwrap_or(0) as u64
            });
            let max = limits.and_then(|l| l.max_length).or(longest).unwrap_or(BYTES_MAX - 2);
            Type::String(Some(max))
        }
    }
}

fn object(schema: &Schema, name: &str, root: bool, depth: usize) -> Type {
    if let Additional::Schema(values) = schema.additional() {
        let value = typed(values, &format!("{name}.@values"), false, depth + 1);
        let max = schema.constraints().and_then(|l| l.max_properties);
        let max = max.unwrap_or_else(|| BYTES_MAX.saturating_sub(2) / (shortest(values, 0) + 6));
        return Type::Map(Arc::new(Type::String(Some(BYTES_MAX))), Arc::new(value), Some(max));
    }
    if schema.properties().is_empty() && !schema.is_struct() && !root {
        return Type::Dyn;
    }
    if schema.preserve_unknown && schema.properties().is_empty() {
        return Type::Dyn;
    }
    let mut fields = BTreeMap::new();
    for (field, inner) in schema.properties() {
        let Some(escaped) = escape(field) else { continue };
        let ty = typed(inner, &format!("{name}.{field}"), false, depth + 1);
        fields.insert(escaped, (ty, schema.required().contains(field)));
    }
    if root || schema.embedded_resource {
        let text = || Type::String(Some(BYTES_MAX));
        for field in ["apiVersion", "kind"] {
            fields.insert(field.to_owned(), (text(), true));
        }
        let known = fields
            .get("metadata")
            .is_some_and(|(ty, _)| matches!(ty, Type::Object(f) if !f.fields.is_empty()));
        if !known {
            let meta =
                Type::object(&format!("{name}.metadata"), &[("name", text()), ("generateName", text())]);
            fields.insert("metadata".to_owned(), (meta, true));
        }
    }
    Type::Object(Arc::new(Fields { name: name.to_owned(), fields }))
}

/// The fewest bytes that a value of a schema takes as JSON.
fn shortest(schema: &Schema, depth: usize) -> u64 {
    if depth > DEPTH_MAX || schema.int_or_string {
        return 1;
    }
    match schema.ty {
        JsonType::Any | JsonType::Integer | JsonType::Number => 1,
        JsonType::Boolean => 4,
        JsonType::Array => 2,
        JsonType::String => match &*schema.format {
            "duration" => 4,
            "date" => 12,
            "date-time" => 22,
            _ => {
                let allowed = schema.constraints().map(|l| &l.allowed).into_iter().flatten();
                2 + allowed.filter_map(|v| v.as_str()).map(str::len).min().unwrap_or(0) as u64
            }
        },
        JsonType::Object => {
            let required = schema.required().iter();
            let each = required.filter_map(|name| {
                let inner = schema.property(name)?;
                let has_default = inner.default.is_some();
                (!has_default).then(|| name.len() as u64 + 3 + shortest(inner, depth + 1) + 1)
            });
            2 + each.sum::<u64>()
        }
    }
}

/// How an expression names a property; `None` for one that it cannot name.
#[must_use]
pub fn escape(name: &str) -> Option<String> {
    if super::CONSTANTS.contains(&name) || super::GRAMMAR.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let first = name.chars().next()?;
    if !(first == '_' || first.is_ascii_alphabetic()) {
        return None;
    }
    let mut escaped = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("__") {
            escaped.push_str("__underscores__");
            rest = after;
            continue;
        }
        match c {
            '.' => escaped.push_str("__dot__"),
            '-' => escaped.push_str("__dash__"),
            '/' => escaped.push_str("__slash__"),
            c if c == '_' || c.is_ascii_alphanumeric() => escaped.push(c),
            _ => return None,
        }
        rest = &rest[c.len_utf8()..];
    }
    Some(escaped)
}
