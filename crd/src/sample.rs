//! Objects of a schema, drawn at random: what property tests of custom kinds are made of.
//!
//! What is drawn holds to types, bounds, enumerations, formats, required fields and list keys. Patterns, `allOf` and its
//! like, and CEL rules it does not know: a test that needs these draws until [`crate::structural::validate`] agrees.

use serde_json::{Map, Value, json};

use crate::schema::{Additional, Constraints, ListType, Schema, Type};

/// Items of a list and members of a map at most.
const WIDTH_MAX: u64 = 3;
/// Deeper than this only what is required is drawn.
const DEPTH_MAX: usize = 6;

/// A source of objects that repeats for the same seed.
#[derive(Clone, Debug)]
pub struct Sampler(u64);

impl Sampler {
    /// A source from a seed.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// A value of a schema.
    pub fn draw(&mut self, schema: &Schema) -> Value {
        self.value(schema, 0)
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    fn value(&mut self, schema: &Schema, depth: usize) -> Value {
        let none = Constraints::default();
        let constraints = schema.constraints().unwrap_or(&none);
        if !constraints.allowed.is_empty() {
            let which = self.below(constraints.allowed.len() as u64);
            return constraints.allowed[usize::try_from(which).unwrap_or(0)].clone();
        }
        if schema.nullable && self.below(8) == 0 {
            return Value::Null;
        }
        match schema.ty {
            Type::Any if schema.int_or_string && self.below(2) == 0 => json!(self.below(100)),
            Type::Any => json!(self.word(constraints)),
            Type::Boolean => json!(self.below(2) == 0),
            Type::Integer => json!(self.integer(constraints)),
            Type::Number => json!(self.integer(constraints)),
            Type::String => json!(self.string(schema, constraints)),
            Type::Array => self.list(schema, constraints, depth),
            Type::Object => self.object(schema, constraints, depth),
        }
    }

    fn integer(&mut self, constraints: &Constraints) -> i64 {
        let bound = |bound: &Option<(serde_json::Number, bool)>, inward: i64| {
            let (number, exclusive) = bound.as_ref()?;
            #[expect(clippy::cast_possible_truncation, reason = "bounds beyond 64 bits are cut to them")]
            let whole = number.as_i64().unwrap_or_else(|| number.as_f64().unwrap_or_default() as i64);
            Some(if *exclusive { whole + inward } else { whole })
        };
        let min = bound(&constraints.minimum, 1).unwrap_or(-50);
        let max = bound(&constraints.maximum, -1).unwrap_or(min.saturating_add(100)).max(min);
        let span = u64::try_from(max.saturating_sub(min)).unwrap_or(0).saturating_add(1);
        min + i64::try_from(self.below(span)).unwrap_or(0)
    }

    fn string(&mut self, schema: &Schema, constraints: &Constraints) -> String {
        match &*schema.format {
            "date-time" => format!("2026-01-{:02}T00:00:{:02}Z", 1 + self.below(28), self.below(60)),
            "date" => format!("2026-01-{:02}", 1 + self.below(28)),
            "duration" => format!("{}s", self.below(1000)),
            "ipv4" => format!("10.0.0.{}", self.below(256)),
            "uri" => format!("https://example.com/{}", self.below(1000)),
            "byte" => "aGk=".to_owned(),
            "uuid" => format!("{:08x}-0000-4000-8000-000000000000", self.below(1 << 32)),
            _ => self.word(constraints),
        }
    }

    fn word(&mut self, constraints: &Constraints) -> String {
        let min = constraints.min_length.unwrap_or(0);
        let max = constraints.max_length.unwrap_or(min + 8).max(min);
        let len = min + self.below((max - min).min(8) + 1);
        (0..len).map(|_| char::from(b'a' + u8::try_from(self.below(26)).unwrap_or(0))).collect()
    }

    fn list(&mut self, schema: &Schema, constraints: &Constraints, depth: usize) -> Value {
        let Some(items) = schema.items() else { return json!([]) };
        let min = constraints.min_items.unwrap_or(0);
        let max = constraints.max_items.unwrap_or(min + WIDTH_MAX).clamp(min, min + WIDTH_MAX);
        let len = if depth > DEPTH_MAX { min } else { min + self.below(max - min + 1) };
        let mut list: Vec<Value> = Vec::new();
        for _ in 0..len {
            let item = self.value(items, depth + 1);
            let same = |other: &Value| match &schema.list_type {
                ListType::Map(keys) => keys.iter().all(|key| other.get(&**key) == item.get(&**key)),
                ListType::Set => *other == item,
                ListType::Atomic => constraints.unique_items && *other == item,
            };
            if !list.iter().any(same) {
                list.push(item);
            }
        }
        Value::Array(list)
    }

    fn object(&mut self, schema: &Schema, constraints: &Constraints, depth: usize) -> Value {
        let mut map = Map::new();
        for (name, inner) in schema.properties() {
            let required = schema.required().contains(name);
            if required || (depth <= DEPTH_MAX && self.below(2) == 0) {
                map.insert(name.to_string(), self.value(inner, depth + 1));
            }
        }
        if let Additional::Schema(inner) = schema.additional() {
            let min = constraints.min_properties.unwrap_or(0);
            for i in 0..min + self.below(WIDTH_MAX) {
                map.insert(format!("key-{i}"), self.value(inner, depth + 1));
            }
        }
        Value::Object(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{field, schema, structural};

    #[test]
    fn what_is_drawn_is_valid_and_repeats() {
        let schema = schema::from_crd(&json!({
            "type": "object", "required": ["name", "mode"],
            "properties": {
                "name": { "type": "string", "minLength": 3, "maxLength": 5 },
                "mode": { "type": "string", "enum": ["a", "b"] },
                "count": { "type": "integer", "minimum": 1, "maximum": 9 },
                "share": { "type": "number", "exclusiveMinimum": true, "minimum": 0, "maximum": 2 },
                "when": { "type": "string", "format": "date-time" },
                "port": { "x-kubernetes-int-or-string": true },
                "list": {
                    "type": "array", "maxItems": 2, "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["id"],
                    "items": {
                        "type": "object", "required": ["id"], "properties": { "id": { "type": "integer" } },
                    },
                },
                "labels": { "type": "object", "additionalProperties": { "type": "string" } },
                "maybe": { "type": "boolean", "nullable": true },
            },
        }))
        .unwrap();
        let mut sampler = Sampler::seeded(1);
        let drawn: Vec<Value> = (0..500).map(|_| sampler.draw(&schema)).collect();
        for value in &drawn {
            let wrong = structural::validate(value, &schema, &field::EMPTY);
            assert!(wrong.is_empty(), "{value}: {wrong:?}");
        }
        assert!(
            drawn.iter().any(|v| v["list"].as_array().is_some_and(|l| l.len() == 2)),
            "nothing is ever long"
        );
        let mut again = Sampler::seeded(1);
        assert!(drawn.iter().all(|value| *value == again.draw(&schema)));
    }
}
