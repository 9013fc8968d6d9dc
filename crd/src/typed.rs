//! What upstream's typed form of an object has even when nobody wrote it: structures that are held by value, and
//! scalars that are shown when they are zero.
//!
//! Every object of a built-in kind passes through that form upstream, so clients see those fields, and nobody owns
//! them. Source: the published Go types, as a table.

use std::{collections::HashMap, sync::LazyLock};

use serde_json::{Map, Value};

use crate::schema::{Schema, Type};

const TABLE: &str = include_str!("schema/typed.txt");

/// What a field is when nobody wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Zero {
    Structure,
    Text,
    Number,
    False,
    Null,
}

impl Zero {
    fn value(self) -> &'static Value {
        static VALUES: LazyLock<[Value; 5]> = LazyLock::new(|| {
            [Value::Object(Map::new()), Value::from(""), Value::from(0), Value::Bool(false), Value::Null]
        });
        &VALUES[self as usize]
    }
}

type Fields = Vec<(&'static str, Zero)>;

static FIELDS: LazyLock<HashMap<&'static str, Fields>> = LazyLock::new(|| {
    let lines = TABLE.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let (message, fields) = line.split_once(' ')?;
            Some((message, fields.split(' ').filter_map(field).collect()))
        })
        .collect()
});

fn field(text: &'static str) -> Option<(&'static str, Zero)> {
    let (name, zero) = text.split_once(':')?;
    let zero = match zero {
        "{}" => Zero::Structure,
        "s" => Zero::Text,
        "i" => Zero::Number,
        "b" => Zero::False,
        "n" => Zero::Null,
        _ => return None,
    };
    Some((name, zero))
}

/// The fields that objects of this schema always have.
fn fields(schema: &Schema) -> &'static [(&'static str, Zero)] {
    schema.definition_name().and_then(|name| FIELDS.get(name)).map_or(&[], Vec::as_slice)
}

/// What the typed form has for a field that is absent, if it has the field always.
pub(crate) fn implied(name: &str, parent: &Schema) -> Option<&'static Value> {
    let (_, zero) = fields(parent).iter().find(|(field, _)| *field == name)?;
    Some(zero.value())
}

/// The fields that are never left out, and are `null` when nobody wrote them.
pub(crate) fn nulls(schema: &Schema) -> impl Iterator<Item = &'static str> {
    fields(schema).iter().filter(|(_, zero)| *zero == Zero::Null).map(|(name, _)| *name)
}

/// Adds what the typed form always has. Lists and maps that are absent stay so: upstream shows them as `null`, and
/// what requires them says so.
pub fn complete(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) if schema.is_struct() => {
            for (name, zero) in fields(schema) {
                if *zero != Zero::Null && map.get(*name).is_none_or(Value::is_null) {
                    map.insert((*name).to_owned(), zero.value().clone());
                }
            }
            for (name, member) in map.iter_mut() {
                if let Some(schema) = schema.member(name) {
                    complete(member, schema);
                }
            }
        }
        Value::Object(map) => {
            for (name, member) in map.iter_mut() {
                if let Some(schema) = schema.member(name) {
                    complete(member, schema);
                }
            }
        }
        Value::Array(items) if schema.ty == Type::Array => {
            if let Some(schema) = schema.items() {
                items.iter_mut().for_each(|item| complete(item, schema));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn completed(kind: &str, version: &str, mut object: Value) -> Value {
        complete(&mut object, &crate::schema::builtin(version, kind).unwrap());
        object
    }

    #[test]
    fn every_row_of_the_table_is_understood() {
        for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
            let fields = line.split(' ').skip(1);
            assert!(fields.clone().count() > 0 && fields.clone().all(|f| field(f).is_some()), "{line}");
        }
    }

    #[test]
    fn structures_and_scalars_are_there_lists_are_not() {
        assert_eq!(
            completed("Event", "v1", json!({"involvedObject": {"name": "a"}})),
            json!({
                "metadata": {}, "involvedObject": {"name": "a"}, "source": {}, "reportingComponent": "",
                "reportingInstance": "",
            })
        );
        let budget = completed("PodDisruptionBudget", "policy/v1", json!({}));
        assert_eq!(budget["status"]["expectedPods"], 0);
        let role = completed("Role", "rbac.authorization.k8s.io/v1", json!({}));
        assert_eq!(role.get("rules"), None);
    }
}
