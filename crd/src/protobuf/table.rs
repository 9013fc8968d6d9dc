//! The table of tags: which number and type a field of a message has, in both directions.

use std::{collections::HashMap, sync::LazyLock};

const TABLE: &str = include_str!("tags.txt");

/// The type of a field's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Bytes,
    Integer,
    Bool,
    Double,
    Message(&'static str, Id),
    Special(Special),
}

/// The number of a message in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id(u16);

/// Messages whose JSON is not an object of their fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Special {
    /// A text in RFC 3339; seconds and nanoseconds on the wire.
    Time { micro: bool },
    /// A text or a number in JSON, a text on the wire.
    Quantity,
    /// A number or a text.
    IntOrString,
    /// JSON within protobuf.
    Raw,
    /// A list of texts in a message of its own.
    Texts,
    /// A schema or a truth.
    SchemaOrBool,
    /// A schema or a list of schemas.
    SchemaOrSchemas,
    /// A schema or a list of names.
    SchemaOrNames,
}

/// How often a field stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    One,
    List,
    Map,
}

/// A field of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    /// The tag on the wire.
    pub(super) tag: u32,
    /// The name in JSON; [`INLINED`] when the fields of its message stand in JSON's place of it.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) shape: Shape,
    /// A zero, or an empty text, says something: it was written behind a pointer, or JSON has it always.
    pub(super) keeps_zero: bool,
}

/// The name of fields whose own fields stand in their parent's JSON.
pub(super) const INLINED: &str = "-";

/// A message: its fields by tag, and by the names that JSON gives them.
#[derive(Debug, Default)]
pub(super) struct Message {
    fields: Vec<Field>,
    /// A name leads to the field, and to the tags of the inlined messages on the way to it.
    names: HashMap<&'static str, (Vec<u32>, Field)>,
}

impl Message {
    pub(super) fn by_tag(&self, tag: u64) -> Option<&Field> {
        let at = self.fields.binary_search_by_key(&tag, |field| u64::from(field.tag)).ok()?;
        self.fields.get(at)
    }

    /// The field behind a name of JSON, with the tags of the inlined messages around it, outermost first.
    pub(super) fn by_name(&self, name: &str) -> Option<&(Vec<u32>, Field)> {
        self.names.get(name)
    }
}

struct Table {
    ids: HashMap<&'static str, Id>,
    messages: Vec<Message>,
}

static MESSAGES: LazyLock<Table> = LazyLock::new(Table::read);

/// The message of this name.
pub(super) fn find(name: &str) -> Option<Id> {
    MESSAGES.ids.get(name).copied()
}

/// The message behind a number.
pub(super) fn message(id: Id) -> &'static Message {
    &MESSAGES.messages[usize::from(id.0)]
}

impl Table {
    fn read() -> Self {
        let lines = || TABLE.lines().filter(|line| !line.starts_with('#'));
        let headings = lines().filter(|line| !line.starts_with(' '));
        let ids: HashMap<&str, Id> = headings.zip(0..).map(|(name, id)| (name, Id(id))).collect();
        let mut messages: Vec<Message> = Vec::with_capacity(ids.len());
        for line in lines() {
            match (line.strip_prefix(' '), messages.last_mut()) {
                (Some(row), Some(message)) => message.fields.extend(field(row, &ids)),
                _ => messages.push(Message::default()),
            }
        }
        for message in &mut messages {
            message.fields.sort_by_key(|field| field.tag);
        }
        let names: Vec<_> = messages.iter().map(|message| names(&messages, message, &[])).collect();
        for (message, names) in messages.iter_mut().zip(names) {
            message.names = names.into_iter().collect();
        }
        Self { ids, messages }
    }
}

/// The names that JSON gives to the fields of a message, inlined ones included.
fn names(all: &[Message], message: &Message, path: &[u32]) -> Vec<(&'static str, (Vec<u32>, Field))> {
    let mut found = Vec::new();
    for field in &message.fields {
        match field.kind {
            Kind::Message(_, Id(inner)) if field.name == INLINED => {
                let path: Vec<u32> = path.iter().copied().chain([field.tag]).collect();
                found.extend(names(all, &all[usize::from(inner)], &path));
            }
            _ => found.push((field.name, (path.to_vec(), *field))),
        }
    }
    found
}

/// Reads `tag name type [message]`.
fn field(row: &'static str, ids: &HashMap<&'static str, Id>) -> Option<Field> {
    let mut words = row.split(' ');
    let (tag, name, type_) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
    let (shape, type_) = match (type_.strip_prefix("[]"), type_.strip_prefix("{}")) {
        (Some(rest), _) => (Shape::List, rest),
        (_, Some(rest)) => (Shape::Map, rest),
        _ => (Shape::One, type_),
    };
    let keeps_zero = if type_.starts_with('s') { type_.ends_with('*') } else { !type_.ends_with('?') };
    let kind = match type_.trim_end_matches(['*', '?']) {
        "s" => Kind::Text,
        "y" => Kind::Bytes,
        "i" => Kind::Integer,
        "b" => Kind::Bool,
        "d" => Kind::Double,
        _ => {
            let name = words.next()?;
            match special(name) {
                Some(special) => Kind::Special(special),
                None => Kind::Message(name, *ids.get(name)?),
            }
        }
    };
    Some(Field { tag, name, kind, shape, keeps_zero })
}

fn special(name: &str) -> Option<Special> {
    Some(match name {
        "meta.v1.Time" => Special::Time { micro: false },
        "meta.v1.MicroTime" => Special::Time { micro: true },
        "quantity.Quantity" => Special::Quantity,
        "intstr.IntOrString" => Special::IntOrString,
        "runtime.RawExtension" | "meta.v1.FieldsV1" | "apiextensions.v1.Json" => Special::Raw,
        "meta.v1.Verbs"
        | "authentication.v1.ExtraValue"
        | "authorization.v1.ExtraValue"
        | "certificates.v1.ExtraValue" => Special::Texts,
        "apiextensions.v1.JsonSchemaPropsOrBool" => Special::SchemaOrBool,
        "apiextensions.v1.JsonSchemaPropsOrArray" => Special::SchemaOrSchemas,
        "apiextensions.v1.JsonSchemaPropsOrStringArray" => Special::SchemaOrNames,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_is_understood() {
        let ids = &MESSAGES.ids;
        let mut heading = "";
        for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
            match line.strip_prefix(' ') {
                Some(row) => assert!(field(row, ids).is_some(), "{heading}: {row}"),
                None => heading = line,
            }
        }
        assert_eq!(ids.len(), MESSAGES.messages.len());
    }

    #[test]
    fn inlined_fields_are_found_by_name() {
        let volume = message(find("core.v1.Volume").unwrap());
        let (path, field) = volume.by_name("emptyDir").unwrap();
        assert_eq!((path.as_slice(), field.tag), ([2].as_slice(), 2));
        assert!(volume.by_name(INLINED).is_none());
    }
}
