//! From JSON into protobuf, in one pass over the text: no tree is built on the way.
//!
//! A message's length stands before it and is known after it, so one byte is kept free for it; longer messages move
//! up a little. Fields of inlined messages, which JSON may scatter, are written as pieces that readers merge.

use std::{borrow::Cow, fmt};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    table::{self, Field, Id, Kind, Shape, Special},
    wire::{bytes, double, integer, nested},
};

/// A field inside the inlined messages on the way to it.
fn within<E>(
    out: &mut Vec<u8>,
    path: &[u32],
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    match path {
        [] => write(out),
        [tag] => nested(out, *tag, write),
        [tag, inner] => nested(out, *tag, |out| nested(out, *inner, write)),
        // The table has none; its test says so.
        _ => Ok(()),
    }
}

/// Appends the fields of a JSON object as those of a message.
pub(super) struct Message<'o> {
    pub(super) id: Id,
    pub(super) out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Message<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Message<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { id, out } = self;
        let message = table::message(id);
        while let Some(Name(name)) = map.next_key()? {
            match message.by_name(&name) {
                Some((path, field)) if path.is_empty() => {
                    map.next_value_seed(Content { field, out: &mut *out })?;
                }
                Some((path, field)) => {
                    within(out, path, |out| map.next_value_seed(Content { field, out }))?;
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// A key, borrowed where the text has no escapes.
struct Name<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        json.deserialize_str(Visit)
    }
}

/// All values of a field: one, a list or a map.
struct Content<'o> {
    field: &'static Field,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Content<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        match self.field.shape {
            Shape::One => One { tag: self.field.tag, kind: self.field.kind, out: self.out }.deserialize(json),
            Shape::List | Shape::Map => json.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Content<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.field.shape == Shape::Map { "an object" } else { "a list" })
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self { field, out } = self;
        while seq.next_element_seed(One { tag: field.tag, kind: field.kind, out: &mut *out })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { field, out } = self;
        while let Some(Name(name)) = map.next_key()? {
            nested(out, field.tag, |out| {
                bytes(out, 1, name.as_bytes());
                map.next_value_seed(One { tag: 2, kind: field.kind, out })
            })?;
        }
        Ok(())
    }
}

/// One value under one tag.
struct One<'o> {
    tag: u32,
    kind: Kind,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for One<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        if self.kind != Kind::Special(Special::Raw) {
            return json.deserialize_any(self);
        }
        let raw = <&RawValue>::deserialize(json)?.get();
        if raw != "null" {
            nested(self.out, self.tag, |out| {
                bytes(out, 1, raw.as_bytes());
                Ok(())
            })?;
        }
        Ok(())
    }
}

impl One<'_> {
    fn number<E: Error>(self, n: i64) -> Result<(), E> {
        if self.kind == Kind::Special(Special::Quantity) {
            return self.text(&n.to_string());
        }
        let Self { tag, kind, out } = self;
        match kind {
            Kind::Integer => integer(out, tag, n),
            #[expect(clippy::cast_precision_loss, reason = "the field is a double")]
            Kind::Double => double(out, tag, n as f64),
            Kind::Special(Special::IntOrString) => nested(out, tag, |out| {
                integer(out, 1, 0);
                integer(out, 2, n);
                Ok(())
            })?,
            _ => return Err(E::custom("a number where the definition has none")),
        }
        Ok(())
    }

    fn text<E: Error>(self, text: &str) -> Result<(), E> {
        let Self { tag, kind, out } = self;
        match kind {
            Kind::Text => bytes(out, tag, text.as_bytes()),
            Kind::Bytes => bytes(out, tag, &STANDARD.decode(text).map_err(E::custom)?),
            Kind::Special(Special::Quantity) => nested(out, tag, |out| {
                bytes(out, 1, text.as_bytes());
                Ok(())
            })?,
            Kind::Special(Special::IntOrString) => nested(out, tag, |out| {
                integer(out, 1, 1);
                bytes(out, 3, text.as_bytes());
                Ok(())
            })?,
            Kind::Special(Special::Time { .. }) => {
                let at: jiff::Timestamp = text.parse().map_err(E::custom)?;
                nested(out, tag, |out| {
                    integer(out, 1, at.as_second());
                    integer(out, 2, at.subsec_nanosecond().into());
                    Ok(())
                })?;
            }
            _ => return Err(E::custom("a text where the definition has none")),
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for One<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value of {:?}", self.kind)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        let Self { tag, kind, out } = self;
        match kind {
            Kind::Bool => integer(out, tag, value.into()),
            Kind::Special(Special::SchemaOrBool) => nested(out, tag, |out| {
                integer(out, 1, value.into());
                Ok(())
            })?,
            _ => return Err(E::custom("a truth where the definition has none")),
        }
        Ok(())
    }

    fn visit_i64<E: Error>(self, n: i64) -> Result<(), E> {
        self.number(n)
    }

    fn visit_u64<E: Error>(self, n: u64) -> Result<(), E> {
        self.number(i64::try_from(n).map_err(E::custom)?)
    }

    fn visit_f64<E: Error>(self, n: f64) -> Result<(), E> {
        match self.kind {
            Kind::Double => {
                double(self.out, self.tag, n);
                Ok(())
            }
            Kind::Special(Special::Quantity) => self.text(&n.to_string()),
            #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and small")]
            _ if n.fract() == 0.0 && n.abs() < 9e15 => self.number(n as i64),
            _ => Err(E::custom("a fraction where the definition has none")),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.text(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self { tag, kind, out } = self;
        let (inner, kind) = match kind {
            Kind::Special(Special::Texts) => (1, Kind::Text),
            Kind::Special(Special::SchemaOrNames) => (2, Kind::Text),
            Kind::Special(Special::SchemaOrSchemas) => (2, schema()),
            _ => return Err(A::Error::custom("a list where the definition has none")),
        };
        nested(out, tag, |out| {
            while seq.next_element_seed(One { tag: inner, kind, out: &mut *out })?.is_some() {}
            Ok(())
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let Self { tag, kind, out } = self;
        nested(out, tag, |out| match kind {
            Kind::Message(_, id) => Message { id, out }.visit_map(map),
            Kind::Special(
                kind @ (Special::SchemaOrBool | Special::SchemaOrSchemas | Special::SchemaOrNames),
            ) => {
                let at = if kind == Special::SchemaOrBool { 2 } else { 1 };
                if kind == Special::SchemaOrBool {
                    integer(out, 1, 1);
                }
                One { tag: at, kind: schema(), out }.visit_map(map)
            }
            _ => Err(A::Error::custom("an object where the definition has none")),
        })
    }
}

/// The type of schemas within definitions.
fn schema() -> Kind {
    table::find(super::SCHEMA).map_or(Kind::Special(Special::Raw), |id| Kind::Message(super::SCHEMA, id))
}
