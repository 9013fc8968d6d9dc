//! YAML bodies: the tree, and the keys that stood twice in one map, with their lines.

pub(crate) mod emit;

use std::{cell::RefCell, collections::BTreeSet, fmt};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{DuplicateKeyPolicy, Error, Options, Spanned};

/// Reads a document. Of a key that stands twice the last value counts, and the second string tells of it as
/// upstream's parser does.
pub(crate) fn parse(text: &str) -> Result<(Value, Option<String>), Error> {
    // The strict way is the common and the fast one.
    let strict = match serde_saphyr::from_str(text) {
        Ok(value) => return Ok((value, None)),
        Err(error) => error,
    };
    let mut options = Options::default();
    options.duplicate_keys = DuplicateKeyPolicy::LastWins;
    let twice = RefCell::new(Vec::new());
    let read =
        serde_saphyr::with_deserializer_from_str_with_options(text, options, |d| Tree(&twice).deserialize(d));
    match (read, twice.into_inner()) {
        (Ok(value), lines) if !lines.is_empty() => {
            Ok((value, Some(format!("yaml: unmarshal errors:\n  {}", lines.join("\n  ")))))
        }
        _ => Err(strict),
    }
}

struct Tree<'a>(&'a RefCell<Vec<String>>);

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
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

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that JSON cannot hold"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Tree(self.0))? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        let mut seen = BTreeSet::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            let line = key.referenced.line();
            if !seen.insert(key.value.clone()) {
                self.0.borrow_mut().push(format!("line {line}: key {:?} already set in map", key.value));
            }
            let value = entries.next_value_seed(Tree(self.0))?;
            map.insert(key.value, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_that_stand_twice_are_told_with_their_lines() {
        let (value, told) = parse("a: 1\nb:\n  c: x\n  c: 2.5\n  d: [~, true]\na: 3\n").unwrap();
        assert_eq!(value, json!({"a": 3, "b": {"c": 2.5, "d": [null, true]}}));
        assert_eq!(
            told.unwrap(),
            "yaml: unmarshal errors:\n  line 4: key \"c\" already set in map\n  line 6: key \"a\" already set in map"
        );
        assert_eq!(parse("a: 1\n").unwrap(), (json!({"a": 1}), None));
        assert!(parse("a: [1\n").is_err());
    }
}
