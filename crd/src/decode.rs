//! From bytes to a checked value: duplicate keys, unknown fields, wrong types.
//!
//! Objects stay JSON values; no typed structure is ever built. Messages are those of upstream's strict decoder and
//! of Go's JSON package, because clients show them. Bounds: nesting depth is limited by the caller.

mod syntax;

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::quantity::Quantity;
use crate::schema::{Additional, Schema, Type};

/// The most duplicate or unknown fields that one request reports.
const REPORTED_MAX: usize = 100;

/// Why bytes are no JSON document.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Not JSON, in the words of Go's parser.
    #[error("{0}")]
    Syntax(String),
}

/// Reads JSON; the second part lists the paths of keys that stand twice (the last one wins, as in Go).
///
/// # Errors
/// When the bytes are not one JSON document, or nest deeper than `max_depth` (at most 128).
pub fn parse_json(bytes: &[u8], max_depth: usize) -> Result<(Value, Vec<String>), ParseError> {
    let mut duplicates = Vec::new();
    let value = read(bytes, max_depth, &mut duplicates)
        .map_err(|error| ParseError::Syntax(syntax::fault(bytes).unwrap_or_else(|| error.to_string())))?;
    Ok((value, duplicates))
}

fn read(bytes: &[u8], max_depth: usize, duplicates: &mut Vec<String>) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value =
        Reader { place: &Place::Root, duplicates, depth_left: max_depth }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Where the reader is, as a list of frames on the stack; rendered only when there is something to tell.
enum Place<'a> {
    Root,
    Member(&'a Place<'a>, &'a str),
    Item(&'a Place<'a>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Member(Self::Root, name) => f.write_str(name),
            Self::Member(parent, name) => write!(f, "{parent}.{name}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

struct Reader<'a> {
    place: &'a Place<'a>,
    duplicates: &'a mut Vec<String>,
    depth_left: usize,
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let depth_left = self.depth_left.checked_sub(1).ok_or_else(too_deep)?;
        let mut out = Vec::new();
        loop {
            let place = Place::Item(self.place, out.len());
            let seed = Reader { place: &place, duplicates: &mut *self.duplicates, depth_left };
            let Some(value) = access.next_element_seed(seed)? else { return Ok(Value::Array(out)) };
            out.push(value);
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let depth_left = self.depth_left.checked_sub(1).ok_or_else(too_deep)?;
        let mut out = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let place = Place::Member(self.place, &key);
            let seed = Reader { place: &place, duplicates: &mut *self.duplicates, depth_left };
            let value = access.next_value_seed(seed)?;
            if out.contains_key(&key) && self.duplicates.len() < REPORTED_MAX {
                let path = Place::Member(self.place, &key).to_string();
                if !self.duplicates.contains(&path) {
                    self.duplicates.push(path);
                }
            }
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

fn too_deep<E: serde::de::Error>() -> E {
    E::custom("exceeded max depth")
}

/// What a value has that its schema does not allow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Paths of fields that the schema does not know, `spec.foo`, `spec.containers[0].x`.
    pub unknown: Vec<String>,
    /// The first value of a wrong type, in Go's words.
    pub type_error: Option<String>,
}

/// Checks field names and types of a built-in object. Null is a value of every type, as in Go.
#[must_use]
pub fn check(value: &Value, schema: &Schema) -> Checked {
    let mut walk = Walk { out: Checked::default(), structure: schema.go_name().unwrap_or_default() };
    walk.value(value, schema, &mut String::new(), &mut String::new());
    walk.out
}

/// Removes the fields that a built-in schema does not know, and nulls, which mean absent.
pub fn prune_unknown(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            let keeps = schema.keeps_unknown() || schema.ty == Type::Any;
            map.retain(|name, member| match schema.member(name) {
                Some(inner) => {
                    prune_unknown(member, inner);
                    !member.is_null() || !schema.is_struct()
                }
                None => keeps,
            });
        }
        Value::Array(items) => {
            if let Some(inner) = schema.items() {
                items.iter_mut().for_each(|item| prune_unknown(item, inner));
            }
        }
        _ => {}
    }
}

/// Brings the values of a built-in object into the form that upstream stores: quantities canonical, times in UTC
/// without fractions, micro times with six digits, and no empty lists or maps in optional fields.
pub fn canonicalise(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) if schema.ty == Type::Object => {
            map.retain(|name, member| {
                let Some(inner) = schema.member(name) else { return true };
                canonicalise(member, inner);
                !(schema.is_struct() && is_dropped_when_empty(member, inner) && !is_required(schema, name))
            });
        }
        Value::Array(items) => {
            if let Some(inner) = schema.items() {
                items.iter_mut().for_each(|item| canonicalise(item, inner));
            }
        }
        Value::String(_) | Value::Number(_) if schema.format == "quantity" => {
            if let Ok(quantity) = Quantity::from_json(value) {
                *value = quantity.to_string().into();
            }
        }
        Value::String(text) if schema.format == "date-time" || schema.format == "micro-time" => {
            if let Some(canonical) = canonical_time(text, schema.format == "micro-time") {
                *text = canonical;
            }
        }
        _ => {}
    }
}

/// A value as Go's `%#v` shows it.
pub(crate) fn go_literal(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::String(text) => crate::field::quote(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_literal).collect();
            format!("[]interface {{}}{{{}}}", items.join(", "))
        }
        Value::Object(map) => {
            let quote = crate::field::quote;
            let fields: Vec<String> =
                map.iter().map(|(k, v)| format!("{}:{}", quote(k), go_literal(v))).collect();
            format!("map[string]interface {{}}{{{}}}", fields.join(", "))
        }
        other => other.to_string(),
    }
}

fn is_required(schema: &Schema, name: &str) -> bool {
    schema.required().iter().any(|one| &**one == name)
}

/// Go leaves out empty lists and maps of optional fields; structures are pointers as often as not, and stay.
fn is_dropped_when_empty(value: &Value, schema: &Schema) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty() && matches!(schema.additional(), Additional::Schema(_)),
        _ => false,
    }
}

fn canonical_time(text: &str, micro: bool) -> Option<String> {
    let time: jiff::Timestamp = text.parse().ok()?;
    let form = if micro { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Some(time.strftime(form).to_string())
}

struct Walk {
    out: Checked,
    structure: &'static str,
}

impl Walk {
    /// `shown` is the path with indexes (unknown fields), `go` the path as Go's errors give it, without.
    fn value(&mut self, value: &Value, schema: &Schema, shown: &mut String, go: &mut String) {
        if value.is_null() {
            return;
        }
        if let Some(error) = type_error(value, schema, self.structure, go) {
            self.out.type_error.get_or_insert(error);
            return;
        }
        match value {
            Value::Object(map) if schema.ty == Type::Object => self.object(map, schema, shown, go),
            Value::Array(items) => {
                let Some(inner) = schema.items() else { return };
                for (i, item) in items.iter().enumerate() {
                    let length = shown.len();
                    shown.push_str(&format!("[{i}]"));
                    self.value(item, inner, shown, go);
                    shown.truncate(length);
                }
            }
            _ => {}
        }
    }

    fn object(&mut self, map: &Map<String, Value>, schema: &Schema, shown: &mut String, go: &mut String) {
        let outer = self.structure;
        if let Some(name) = schema.go_name() {
            self.structure = name;
        }
        for (name, member) in map {
            let lengths = (shown.len(), go.len());
            let is_field = schema.is_struct();
            for (path, named) in [(&mut *shown, true), (&mut *go, is_field)] {
                if !path.is_empty() && named {
                    path.push('.');
                }
                path.push_str(if named { name } else { "" });
            }
            match schema.member(name) {
                Some(inner) => self.value(member, inner, shown, go),
                None if schema.keeps_unknown() => {}
                None if self.out.unknown.len() < REPORTED_MAX => self.out.unknown.push(shown.clone()),
                None => {}
            }
            shown.truncate(lengths.0);
            go.truncate(lengths.1);
        }
        self.structure = outer;
    }
}

fn type_error(value: &Value, schema: &Schema, structure: &str, path: &str) -> Option<String> {
    let wrong = |expected: &str| {
        let given = go_kind(value);
        let place = if path.is_empty() {
            format!("Go value of type {expected}")
        } else {
            format!("Go struct field {structure}.{path} of type {expected}")
        };
        Some(format!("json: cannot unmarshal {given} into {place}"))
    };
    match (schema.format.as_ref(), value) {
        ("quantity", Value::String(_) | Value::Number(_)) => {
            return Quantity::from_json(value).err().map(|error| error.to_string());
        }
        ("quantity", _) => return Some(crate::quantity::ParseError::Format.to_string()),
        ("int-or-string", Value::Number(n)) => {
            let fits = n.as_i64().is_some_and(|n| i32::try_from(n).is_ok());
            return if fits { None } else { number_error(n, "int32", structure, path) };
        }
        ("int-or-string", Value::String(_)) => return None,
        ("int-or-string", _) => return wrong("int32"),
        ("date-time" | "micro-time", Value::String(text)) => return time_error(text),
        ("byte", Value::String(text)) => return bytes_error(text),
        _ => {}
    }
    match (schema.ty, value) {
        (Type::Any, _)
        | (Type::Object, Value::Object(_))
        | (Type::Array, Value::Array(_))
        | (Type::String, Value::String(_))
        | (Type::Number, Value::Number(_))
        | (Type::Boolean, Value::Bool(_)) => None,
        (Type::Integer, Value::Number(number)) => {
            let fits = match schema.format.as_ref() {
                "int32" => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
                _ => number.as_i64().is_some(),
            };
            if fits { None } else { number_error(number, &schema.format, structure, path) }
        }
        (ty, _) => wrong(&go_type(schema, ty)),
    }
}

fn number_error(number: &Number, ty: &str, structure: &str, path: &str) -> Option<String> {
    Some(format!(
        "json: cannot unmarshal number {number} into Go struct field {structure}.{path} of type {ty}"
    ))
}

fn time_error(text: &str) -> Option<String> {
    if text.parse::<jiff::Timestamp>().is_ok() {
        return None;
    }
    let quoted = crate::field::quote(text);
    Some(format!("parsing time {quoted} as \"2006-01-02T15:04:05Z07:00\": cannot parse {quoted} as \"2006\""))
}

fn bytes_error(text: &str) -> Option<String> {
    use base64::Engine as _;
    let broken = base64::engine::general_purpose::STANDARD.decode(text).err()?;
    let at = match broken {
        base64::DecodeError::InvalidByte(at, _) => at,
        base64::DecodeError::InvalidLastSymbol { offset, .. } => offset,
        _ => text.len() / 4 * 4,
    };
    Some(format!("illegal base64 data at input byte {at}"))
}

fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The Go type that upstream decodes a node into.
fn go_type(schema: &Schema, ty: Type) -> String {
    match ty {
        Type::String if schema.format == "date-time" => "v1.Time".to_owned(),
        Type::String if schema.format == "micro-time" => "v1.MicroTime".to_owned(),
        Type::String if schema.format == "byte" => "[]uint8".to_owned(),
        Type::String | Type::Any => "string".to_owned(),
        Type::Boolean => "bool".to_owned(),
        Type::Number => "float64".to_owned(),
        Type::Integer if schema.format.is_empty() => "int64".to_owned(),
        Type::Integer => schema.format.to_string(),
        Type::Array => {
            let inner = schema.items().map_or_else(|| "interface {}".to_owned(), |i| go_type(i, i.ty));
            format!("[]{inner}")
        }
        Type::Object => match (schema.definition_name(), schema.additional()) {
            (Some(name), _) => {
                // `core.v1.PodSpec` is `v1.PodSpec` in Go.
                name.split_once('.').map_or(name, |(_, rest)| rest).to_owned()
            }
            (None, Additional::Schema(inner)) => format!("map[string]{}", go_type(inner, inner.ty)),
            (None, _) => "map[string]interface {}".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::builtin;
    use serde_json::json;

    #[test]
    fn duplicates_are_found_at_every_level() {
        let text = br#"{"a":1,"a":2,"b":{"c":1,"c":2},"d":[{"e":1,"e":2,"e":3}]}"#;
        let (value, duplicates) = parse_json(text, 100).unwrap();
        assert_eq!(duplicates, ["a", "b.c", "d[0].e"]);
        assert_eq!(value, json!({"a": 2, "b": {"c": 2}, "d": [{"e": 3}]}));
    }

    #[test]
    fn depth_and_syntax_are_bounded() {
        let deep = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
        assert!(parse_json(deep(10).as_bytes(), 10).is_ok());
        assert!(parse_json(deep(11).as_bytes(), 10).is_err());
        assert!(parse_json(deep(100_000).as_bytes(), 1_000_000).is_err());
        for bad in ["", "{", "{}x", "nul", "{\"a\":}", "\u{feff}{}"] {
            assert!(parse_json(bad.as_bytes(), 10).is_err(), "{bad}");
        }
    }

    #[test]
    fn unknown_fields_and_types_are_told_in_gos_words() {
        let schema = builtin("apps/v1", "Deployment").unwrap();
        let checked = |value: Value| check(&value, &schema);
        assert_eq!(
            checked(
                json!({"spec": {"foo": 1, "template": {"spec": {"containers": [{"name": "a", "x": 1}]}}}})
            )
            .unknown,
            ["spec.foo", "spec.template.spec.containers[0].x"]
        );
        let cases = [
            (
                json!({"spec": {"replicas": "1"}}),
                "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                json!({"spec": {"replicas": 1.5}}),
                "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": {}}}}}),
                "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
            ),
            (
                json!({"metadata": {"labels": {"a": 1}}}),
                "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
            ),
            (
                json!({"spec": []}),
                "json: cannot unmarshal array into Go struct field Deployment.spec of type v1.DeploymentSpec",
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": [{"resources": {"limits": {"cpu": "x"}}}]}}}}),
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ),
        ];
        for (value, text) in cases {
            assert_eq!(checked(value.clone()).type_error.as_deref(), Some(text), "{value}");
        }
        assert_eq!(checked(json!({"spec": {"replicas": null}, "metadata": null})), Checked::default());
    }

    #[test]
    fn pruning_keeps_what_is_known() {
        let schema = builtin("v1", "ConfigMap").unwrap();
        let mut value =
            json!({"data": {"a": "b"}, "nope": 1, "metadata": {"name": "x", "labels": null, "zzz": 1}});
        prune_unknown(&mut value, &schema);
        assert_eq!(value, json!({"data": {"a": "b"}, "metadata": {"name": "x"}}));
    }

    #[test]
    fn stored_form_is_upstreams() {
        let schema = builtin("v1", "Pod").unwrap();
        let mut value = json!({
            "metadata": {"creationTimestamp": "2024-01-01T02:00:00.5+01:00", "labels": {}},
            "spec": {"containers": [{"name": "a", "ports": [], "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}}],
                     "volumes": [{"name": "v", "emptyDir": {}}]}});
        canonicalise(&mut value, &schema);
        assert_eq!(
            value,
            json!({
            "metadata": {"creationTimestamp": "2024-01-01T01:00:00Z"},
            "spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}}],
                     "volumes": [{"name": "v", "emptyDir": {}}]}})
        );
    }
}
