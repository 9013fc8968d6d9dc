//! From protobuf into JSON.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::{
    DecodeError, Result,
    table::{self, Field, INLINED, Id, Kind, Shape, Special},
};

/// Reads the fields of a message into an object.
pub(super) fn message(id: Id, bytes: &[u8], depth: usize, out: &mut Map<String, Value>) -> Result<()> {
    let depth = depth.checked_sub(1).ok_or(DecodeError::TooDeep(0))?;
    let fields = table::message(id);
    let mut reader = Reader(bytes);
    while let Some((tag, wire)) = reader.tag()? {
        let Some(field) = fields.by_tag(tag) else { continue };
        match field.shape {
            Shape::Map => map_entry(field, wire, depth, out)?,
            Shape::List => {
                let list = out.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                let Some(list) = list.as_array_mut() else { continue };
                for wire in packed(field.kind, wire)? {
                    list.push(value(field.kind, wire, depth)?);
                }
            }
            Shape::One if field.name == INLINED => {
                if let (Kind::Message(_, inner), Wire::Bytes(bytes)) = (field.kind, wire) {
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
        Value::String(text) => text.is_empty() && !(field.keeps_zero && field.kind == Kind::Text),
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
        Kind::Message(..) | Kind::Special(_) => json!({}),
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
        (Kind::Message(_, id), Wire::Bytes(bytes)) => object(id, bytes, depth)?,
        (Kind::Special(kind), Wire::Bytes(bytes)) => special(kind, bytes, depth)?,
        _ => return Err(DecodeError::Content("a field has another wire type than its definition")),
    })
}

fn number(n: f64) -> Value {
    // A whole number reads as one, as Go writes it.
    #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and small")]
    if n.fract() == 0.0 && n.abs() < 9e15 { (n as i64).into() } else { n.into() }
}

fn object(id: Id, bytes: &[u8], depth: usize) -> Result<Value> {
    let mut map = Map::new();
    message(id, bytes, depth, &mut map)?;
    Ok(Value::Object(map))
}

fn special(kind: Special, bytes: &[u8], depth: usize) -> Result<Value> {
    if let Special::SchemaOrSchemas | Special::SchemaOrNames = kind {
        return either(kind, bytes, depth);
    }
    if kind == Special::Texts {
        return texts(bytes);
    }
    let mut fields = [None; 3];
    let mut reader = Reader(bytes);
    while let Some((tag, wire)) = reader.tag()? {
        if let Some(field) = usize::try_from(tag).ok().and_then(|tag| fields.get_mut(tag.checked_sub(1)?)) {
            *field = Some(wire);
        }
    }
    let [first, second, third] = fields;
    Ok(match kind {
        Special::Time { micro } => time(integer(first), integer(second), micro),
        Special::Quantity => text(first)?.into(),
        Special::IntOrString if integer(first) == 0 => integer(second).into(),
        Special::IntOrString => text(third)?.into(),
        Special::SchemaOrBool => match second {
            Some(Wire::Bytes(bytes)) => schema(bytes, depth)?,
            _ => (integer(first) != 0).into(),
        },
        _ => raw(first, depth)?,
    })
}

fn text(wire: Option<Wire<'_>>) -> Result<&str> {
    match wire {
        Some(Wire::Bytes(bytes)) => utf8(bytes),
        _ => Ok(""),
    }
}

fn integer(wire: Option<Wire<'_>>) -> i64 {
    match wire {
        #[expect(clippy::cast_possible_wrap, reason = "negative numbers are sent as their two's complement")]
        Some(Wire::Varint(n)) => n as i64,
        _ => 0,
    }
}

fn raw(wire: Option<Wire<'_>>, depth: usize) -> Result<Value> {
    match wire {
        Some(Wire::Bytes(bytes)) if !bytes.is_empty() => {
            let parsed = crate::decode::parse_json(bytes, depth.max(1));
            parsed.map(|(value, _)| value).map_err(|_| DecodeError::Content("embedded JSON does not parse"))
        }
        _ => Ok(Value::Null),
    }
}

fn texts(bytes: &[u8]) -> Result<Value> {
    let mut items = Vec::new();
    let mut reader = Reader(bytes);
    while let Some((tag, wire)) = reader.tag()? {
        if tag == 1 {
            items.push(text(Some(wire))?.into());
        }
    }
    Ok(Value::Array(items))
}

fn schema(bytes: &[u8], depth: usize) -> Result<Value> {
    match table::find(super::SCHEMA) {
        Some(id) => object(id, bytes, depth),
        None => Ok(Value::Null),
    }
}

/// A schema, or a list of schemas or of names.
fn either(kind: Special, bytes: &[u8], depth: usize) -> Result<Value> {
    let mut items = Vec::new();
    let mut reader = Reader(bytes);
    while let Some((tag, wire)) = reader.tag()? {
        match (tag, wire) {
            (1, Wire::Bytes(bytes)) => return schema(bytes, depth),
            (2, Wire::Bytes(item)) if kind == Special::SchemaOrNames => items.push(utf8(item)?.into()),
            (2, Wire::Bytes(item)) => items.push(schema(item, depth)?),
            _ => {}
        }
    }
    Ok(Value::Array(items))
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

pub(super) fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| DecodeError::Content("text is not UTF-8"))
}

/// One value as the wire has it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn tag(&mut self) -> Result<Option<(u64, Wire<'a>)>> {
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
