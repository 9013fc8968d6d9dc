//! Kubernetes' protobuf encoding of built-in kinds, decoded into JSON.
//!
//! Typed clients, kubectl's `create` family among them, send request bodies in this encoding. The decoder is driven by
//! a table of tags; a field that the table does not know is skipped, as protobuf demands. Every length, depth and
//! count comes from the network and is checked before it is believed.
//!
//! Source: `k8s.io/apimachinery/pkg/runtime/serializer/protobuf` for the envelope.

use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

const TABLE: &str = include_str!("protobuf/tags.txt");

/// The four bytes before every message.
const MAGIC: &[u8] = b"k8s\0";

/// Why bytes cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The envelope is missing.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    /// The bytes end early or a length is wrong.
    #[error("proto: unexpected EOF")]
    Truncated,
    /// The bytes are no protobuf.
    #[error("proto: illegal wireType {0}")]
    WireType(u8),
    /// Messages are nested too deeply.
    #[error("proto: message nested deeper than {0}")]
    TooDeep(usize),
    /// Text is not UTF-8, or embedded JSON is none.
    #[error("proto: {0}")]
    Content(&'static str),
    /// No message definition for the kind.
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\" in scheme")]
    UnknownKind {
        /// The kind.
        kind: String,
        /// The group and version.
        api_version: String,
    },
}

type Result<T> = std::result::Result<T, DecodeError>;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Text,
    Bytes,
    Integer,
    Bool,
    Double,
    Message(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    One,
    List,
    Map,
}

#[derive(Clone, Copy, Debug)]
struct Field {
    name: &'static str,
    kind: Kind,
    shape: Shape,
    /// A zero, or an empty text, says something: it was written behind a pointer, or JSON has it always.
    keeps_zero: bool,
}

type Message = BTreeMap<u64, Field>;

static MESSAGES: LazyLock<HashMap<&'static str, Message>> = LazyLock::new(|| {
    let mut messages: HashMap<&'static str, Message> = HashMap::new();
    let mut current = "";
    for line in TABLE.lines().filter(|l| !l.starts_with('#')) {
        let Some(row) = line.strip_prefix(' ') else {
            current = line;
            messages.entry(current).or_default();
            continue;
        };
        let mut words = row.split(' ');
        let (Some(tag), Some(name), Some(type_)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let (shape, type_) = match (type_.strip_prefix("[]"), type_.strip_prefix("{}")) {
            (Some(t), _) => (Shape::List, t),
            (_, Some(t)) => (Shape::Map, t),
            _ => (Shape::One, type_),
        };
        let keeps_zero = if type_.starts_with('s') { type_.ends_with('*') } else { !type_.ends_with('?') };
        let kind = match type_.trim_end_matches(['*', '?']) {
            "s" => Kind::Text,
            "y" => Kind::Bytes,
            "i" => Kind::Integer,
            "b" => Kind::Bool,
            "d" => Kind::Double,
            _ => Kind::Message(words.next().unwrap_or("")),
        };
        if let (Ok(tag), Some(message)) = (tag.parse(), messages.get_mut(current)) {
            message.insert(tag, Field { name, kind, shape, keeps_zero });
        }
    }
    messages
});

/// Decodes an enveloped object. `definition` finds the message of a kind: `("apps/v1", "Deployment")` is
/// `apps.v1.Deployment`.
///
/// # Errors
/// [`DecodeError`]; whatever the bytes are, it never panics and never allocates more than a small multiple of them.
pub fn decode(bytes: &[u8], max_depth: usize) -> Result<Value> {
    let body = bytes.strip_prefix(MAGIC).ok_or(DecodeError::NoMagic)?;
    let mut api_version = String::new();
    let mut kind = String::new();
    let mut raw: &[u8] = &[];
    let mut reader = Reader(body);
    while let Some((tag, wire)) = reader.tag()? {
        match (tag, wire) {
            (1, Wire::Bytes(meta)) => {
                let mut reader = Reader(meta);
                while let Some((tag, wire)) = reader.tag()? {
                    match (tag, wire) {
                        (1, Wire::Bytes(text)) => api_version = utf8(text)?.to_owned(),
                        (2, Wire::Bytes(text)) => kind = utf8(text)?.to_owned(),
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let name = definition(&api_version, &kind)
        .ok_or_else(|| DecodeError::UnknownKind { kind: kind.clone(), api_version: api_version.clone() })?;
    let mut object = Map::new();
    message(name, raw, max_depth, &mut object)?;
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    Ok(Value::Object(object))
}

/// The message that stands for a kind.
fn definition(api_version: &str, kind: &str) -> Option<&'static str> {
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    let short = group.split('.').next()?;
    let name = match (short, kind) {
        (
            _,
            "DeleteOptions" | "ListOptions" | "Status" | "CreateOptions" | "PatchOptions" | "UpdateOptions",
        ) => {
            format!("meta.v1.{kind}")
        }
        ("rbac", _) => format!("rbac.{version}.{kind}"),
        _ => format!("{short}.{version}.{kind}"),
    };
    MESSAGES.get_key_value(name.as_str()).map(|(name, _)| *name)
}

fn message(name: &'static str, bytes: &[u8], depth: usize, out: &mut Map<String, Value>) -> Result<()> {
    let depth = depth.checked_sub(1).ok_or(DecodeError::TooDeep(0))?;
    let Some(fields) = MESSAGES.get(name) else { return Ok(()) };
    let mut reader = Reader(bytes);
    while let Some((tag, wire)) = reader.tag()? {
        let Some(field) = fields.get(&tag) else { continue };
        match field.shape {
            Shape::Map => map_entry(field, wire, depth, out)?,
            Shape::List => {
                let list = out.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                let Some(list) = list.as_array_mut() else { continue };
                for wire in packed(field.kind, wire)? {
                    list.push(value(field.kind, wire, depth)?);
                }
            }
            Shape::One if field.name == "-" => {
                if let (Kind::Message(inner), Wire::Bytes(bytes)) = (field.kind, wire) {
                    message(inner, bytes, depth, out)?;
                }
            }
            Shape::One => {
                let value = value(field.kind, wire, depth)?;
                if let Some(value) = present(field, value) {
                    out.insert(field.name.to_owned(), value);
                }
            }
        }
    }
    Ok(())
}

/// Upstream writes fields without a pointer even when they are empty; JSON leaves those out.
fn present(field: &Field, value: Value) -> Option<Value> {
    let empty = match &value {
        Value::Null => true,
        Value::String(text) => text.is_empty() && !(field.keeps_zero && matches!(field.kind, Kind::Text)),
        Value::Bool(false) => !field.keeps_zero,
        Value::Number(number) => number.as_f64() == Some(0.0) && !field.keeps_zero,
        Value::Object(map) => map.is_empty() && matches!(field.name, "metadata" | "status" | "spec"),
        _ => false,
    };
    (!empty).then_some(value)
}

fn map_entry(field: &Field, wire: Wire<'_>, depth: usize, out: &mut Map<String, Value>) -> Result<()> {
    let Wire::Bytes(bytes) = wire else { return Ok(()) };
    let mut key = String::new();
    let mut entry = match field.kind {
        Kind::Text | Kind::Bytes => Value::from(""),
        Kind::Message(_) => json!({}),
        Kind::Bool => false.into(),
        Kind::Integer | Kind::Double => 0.into(),
    };
    let mut reader = Reader(bytes);
    while let Some((tag, wire)) = reader.tag()? {
        match (tag, wire) {
            (1, Wire::Bytes(text)) => key = utf8(text)?.to_owned(),
            (2, wire) => entry = value(field.kind, wire, depth)?,
            _ => {}
        }
    }
    let map = out.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
    if let Some(map) = map.as_object_mut() {
        map.insert(key, entry);
    }
    Ok(())
}

/// The items of a list of numbers may come in one piece.
fn packed(kind: Kind, wire: Wire<'_>) -> Result<Vec<Wire<'_>>> {
    let Wire::Bytes(bytes) = wire else { return Ok(vec![wire]) };
    if !matches!(kind, Kind::Integer | Kind::Bool) {
        return Ok(vec![wire]);
    }
    let mut reader = Reader(bytes);
    let mut items = Vec::new();
    while !reader.0.is_empty() {
        items.push(Wire::Varint(reader.varint()?));
    }
    Ok(items)
}

fn value(kind: Kind, wire: Wire<'_>, depth: usize) -> Result<Value> {
    Ok(match (kind, wire) {
        (Kind::Text, Wire::Bytes(bytes)) => utf8(bytes)?.into(),
        (Kind::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        #[expect(clippy::cast_possible_wrap, reason = "negative numbers are sent as their two's complement")]
        (Kind::Integer, Wire::Varint(n)) => (n as i64).into(),
        (Kind::Bool, Wire::Varint(n)) => (n != 0).into(),
        (Kind::Double, Wire::Fixed64(bits)) => number(f64::from_bits(bits)),
        (Kind::Message(name), Wire::Bytes(bytes)) => special(name, bytes, depth)?,
        _ => return Err(DecodeError::Content("a field has another wire type than its definition")),
    })
}

fn number(n: f64) -> Value {
    // A whole number reads as one, as Go writes it.
    #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and small")]
    if n.fract() == 0.0 && n.abs() < 9e15 { (n as i64).into() } else { n.into() }
}

/// Messages whose JSON is not an object of their fields.
fn special(name: &'static str, bytes: &[u8], depth: usize) -> Result<Value> {
    let fields = || -> Result<BTreeMap<u64, Wire<'_>>> {
        let mut reader = Reader(bytes);
        let mut all = BTreeMap::new();
        while let Some((tag, wire)) = reader.tag()? {
            all.insert(tag, wire);
        }
        Ok(all)
    };
    let text = |wire: Option<&Wire<'_>>| match wire {
        Some(Wire::Bytes(bytes)) => utf8(bytes).map(str::to_owned),
        _ => Ok(String::new()),
    };
    let integer = |wire: Option<&Wire<'_>>| match wire {
        #[expect(clippy::cast_possible_wrap, reason = "negative numbers are sent as their two's complement")]
        Some(Wire::Varint(n)) => *n as i64,
        _ => 0,
    };
    let raw = |wire: Option<&Wire<'_>>| match wire {
        Some(Wire::Bytes([])) | None => Ok(Value::Null),
        Some(Wire::Bytes(bytes)) => {
            let parsed = crate::decode::parse_json(bytes, depth.max(1));
            parsed.map(|(value, _)| value).map_err(|_| DecodeError::Content("embedded JSON does not parse"))
        }
        Some(_) => Ok(Value::Null),
    };
    Ok(match name {
        "meta.v1.Time" | "meta.v1.MicroTime" => {
            let all = fields()?;
            time(integer(all.get(&1)), integer(all.get(&2)), name == "meta.v1.MicroTime")
        }
        "quantity.Quantity" => text(fields()?.get(&1))?.into(),
        "intstr.IntOrString" => {
            let all = fields()?;
            if integer(all.get(&1)) == 0 { integer(all.get(&2)).into() } else { text(all.get(&3))?.into() }
        }
        "runtime.RawExtension" | "meta.v1.FieldsV1" | "apiextensions.v1.Json" => raw(fields()?.get(&1))?,
        "meta.v1.Verbs"
        | "authentication.v1.ExtraValue"
        | "authorization.v1.ExtraValue"
        | "certificates.v1.ExtraValue" => {
            let mut items = Vec::new();
            let mut reader = Reader(bytes);
            while let Some((tag, wire)) = reader.tag()? {
                if tag == 1 {
                    items.push(text(Some(&wire))?.into());
                }
            }
            Value::Array(items)
        }
        "apiextensions.v1.JsonSchemaPropsOrBool" => match fields()?.get(&2) {
            Some(Wire::Bytes(schema)) => object("apiextensions.v1.JSONSchemaProps", schema, depth)?,
            _ => (integer(fields()?.get(&1)) != 0).into(),
        },
        "apiextensions.v1.JsonSchemaPropsOrArray" | "apiextensions.v1.JsonSchemaPropsOrStringArray" => {
            either(name, bytes, depth)?
        }
        _ => object(name, bytes, depth)?,
    })
}

/// A schema, or a list of schemas or of names.
fn either(name: &str, bytes: &[u8], depth: usize) -> Result<Value> {
    const SCHEMA: &str = "apiextensions.v1.JSONSchemaProps";
    let names = name.ends_with("StringArray");
    let mut items = Vec::new();
    let mut reader = Reader(bytes);
    while let Some((tag, wire)) = reader.tag()? {
        match (tag, wire) {
            (1, Wire::Bytes(schema)) => return object(SCHEMA, schema, depth),
            (2, Wire::Bytes(item)) if names => items.push(utf8(item)?.into()),
            (2, Wire::Bytes(item)) => items.push(object(SCHEMA, item, depth)?),
            _ => {}
        }
    }
    Ok(Value::Array(items))
}

fn object(name: &'static str, bytes: &[u8], depth: usize) -> Result<Value> {
    let mut map = Map::new();
    message(name, bytes, depth, &mut map)?;
    Ok(Value::Object(map))
}

/// The zero time of Go stands for "no time".
fn time(seconds: i64, nanos: i64, micro: bool) -> Value {
    const GO_ZERO: i64 = -62_135_596_800;
    if nanos == 0 && matches!(seconds, 0 | GO_ZERO) {
        return Value::Null;
    }
    let nanos = i32::try_from(nanos).unwrap_or(0);
    let Ok(at) = jiff::Timestamp::new(seconds, nanos) else { return Value::Null };
    let format = if micro { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    at.strftime(format).to_string().into()
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| DecodeError::Content("text is not UTF-8"))
}

#[derive(Clone, Copy, Debug)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn tag(&mut self) -> Result<Option<(u64, Wire<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                let bytes = self.take(8)?;
                Wire::Fixed64(u64::from_le_bytes(bytes.try_into().map_err(|_| DecodeError::Truncated)?))
            }
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| DecodeError::Truncated)?;
                Wire::Bytes(self.take(len)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            #[expect(clippy::cast_possible_truncation, reason = "three bits")]
            other => return Err(DecodeError::WireType(other as u8)),
        };
        Ok(Some((key >> 3, wire)))
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(DecodeError::Truncated)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Content("an integer is longer than 64 bits"))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(tag: u64, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![u8::try_from(tag << 3 | 2).unwrap(), u8::try_from(bytes.len()).unwrap()];
        out.extend_from_slice(bytes);
        out
    }

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &meta), field(2, raw)].concat()
    }

    #[test]
    fn a_config_map_reads_as_its_json() {
        let data = [field(1, b"k"), field(2, b"v")].concat();
        let binary = [field(1, b"b"), field(2, &[0, 255])].concat();
        let time = [8, 10, 16, 0];
        let meta = [field(1, b"x"), field(8, &time), field(4, b"")].concat();
        let raw = [field(1, &meta), field(2, &data), field(3, &binary)].concat();
        assert_eq!(
            decode(&envelope("v1", "ConfigMap", &raw), 64),
            Ok(json!({
                "apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "v"}, "binaryData": {"b": "AP8="},
                "metadata": {"name": "x", "creationTimestamp": "1970-01-01T00:00:10Z"},
            }))
        );
    }

    #[test]
    fn inlined_messages_and_special_values_take_their_json_form() {
        // A service port with an int-or-string target; a volume, whose source is inlined.
        let target = [8, 1, 26, 3, b'w', b'e', b'b'];
        let port = [vec![24, 80], field(4, &target)].concat();
        let spec = field(1, &port);
        let service = decode(&envelope("v1", "Service", &field(2, &spec)), 64).unwrap();
        assert_eq!(service["spec"]["ports"], json!([{"port": 80, "targetPort": "web"}]));
        let source = field(2, &field(1, b"Memory"));
        let volume = [field(1, b"tmp"), field(2, &source)].concat();
        let pod = decode(&envelope("v1", "Pod", &field(2, &field(1, &volume))), 64).unwrap();
        assert_eq!(pod["spec"]["volumes"], json!([{"name": "tmp", "emptyDir": {"medium": "Memory"}}]));
    }

    #[test]
    fn zeros_stay_where_they_say_something() {
        // Port 80 by the number, with a node port of 0 that Go writes for "none".
        let port = [24, 80, 40, 0];
        let spec = [field(1, &port), vec![104, 0]].concat();
        let service = decode(&envelope("v1", "Service", &field(2, &spec)), 64).unwrap();
        assert_eq!(service["spec"], json!({"ports": [{"port": 80}]}));
        // "" is a storage class: none at all.
        let claim = decode(&envelope("v1", "PersistentVolumeClaim", &field(2, &field(5, b""))), 64).unwrap();
        assert_eq!(claim["spec"], json!({"storageClassName": ""}));
        let deployment =
            decode(&envelope("apps/v1", "Deployment", &field(2, &[8, 0, 40, 0, 56, 0])), 64).unwrap();
        assert_eq!(deployment["spec"], json!({"replicas": 0}));
    }

    #[test]
    fn whatever_the_bytes_are_the_answer_is_an_error_and_no_panic() {
        assert_eq!(decode(b"{}", 64), Err(DecodeError::NoMagic));
        assert_eq!(decode(b"k8s\0\x0a\xff", 64), Err(DecodeError::Truncated));
        let whole = envelope("v1", "ConfigMap", &field(2, &[field(1, b"k"), field(2, b"v")].concat()));
        for end in 4..whole.len() {
            let _ = decode(&whole[..end], 64);
        }
        assert!(matches!(decode(&envelope("v1", "Nonsense", b""), 64), Err(DecodeError::UnknownKind { .. })));
    }

    #[test]
    fn every_type_that_the_table_names_is_known() {
        let special = [
            "meta.v1.Time",
            "meta.v1.MicroTime",
            "quantity.Quantity",
            "intstr.IntOrString",
            "runtime.RawExtension",
            "meta.v1.FieldsV1",
            "apiextensions.v1.Json",
            "meta.v1.Verbs",
            "authentication.v1.ExtraValue",
            "authorization.v1.ExtraValue",
            "certificates.v1.ExtraValue",
            "apiextensions.v1.JsonSchemaPropsOrBool",
            "apiextensions.v1.JsonSchemaPropsOrArray",
            "apiextensions.v1.JsonSchemaPropsOrStringArray",
        ];
        for (name, fields) in MESSAGES.iter() {
            for field in fields.values() {
                if let Kind::Message(inner) = field.kind {
                    assert!(MESSAGES.contains_key(inner) || special.contains(&inner), "{name}: {inner}");
                }
            }
        }
    }
}
