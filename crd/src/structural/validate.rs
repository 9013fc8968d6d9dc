//! Validation of a custom object against its schema, with the texts of upstream's OpenAPI validator.

use serde_json::{Map, Number, Value};

use crate::field::{Error, ErrorList, Path};
use crate::schema::{Additional, Constraints, ListType, Schema, Type};

/// The most errors that one validation reports.
const ERRORS_MAX: usize = 100;

/// What is wrong with a value. `path` is where it stands; the empty path is the object itself.
#[must_use]
pub fn validate(value: &Value, schema: &Schema, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    check(value, schema, path, &mut errors);
    errors.truncate(ERRORS_MAX);
    errors
}

/// The path as it stands in texts; the object itself has none.
fn name(path: &Path) -> String {
    if path.is_root() { String::new() } else { path.to_string() }
}

fn check(value: &Value, schema: &Schema, path: &Path, errors: &mut ErrorList) {
    if errors.len() > ERRORS_MAX || (value.is_null() && schema.nullable) {
        return;
    }
    if let Some(error) = wrong_type(value, schema, path) {
        errors.push(error);
        return;
    }
    // In upstream's order: items before how many there are, and last what is allowed at all.
    if let Some(constraints) = schema.constraints() {
        check_junctors(value, constraints, path, &name(path), errors);
        check_scalar(value, constraints, path, errors);
    }
    check_format(value, schema, path, errors);
    if let (Value::Array(items), Some(inner)) = (value, schema.items()) {
        for (i, item) in items.iter().enumerate() {
            check(item, inner, &path.index(i), errors);
        }
    }
    if let Some(constraints) = schema.constraints() {
        check_size(value, constraints, path, errors);
        check_allowed(value, constraints, path, errors);
    }
    match value {
        Value::Object(map) => check_object(map, schema, path, errors),
        Value::Array(items) => check_list_type(items, schema, path, errors),
        _ => {}
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if is_whole(number) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_whole(number: &Number) -> bool {
    number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|f| f.fract() == 0.0)
}

fn wrong_type(value: &Value, schema: &Schema, path: &Path) -> Option<Error> {
    let given = kind_of(value);
    let (fits, wanted) = match schema.ty {
        Type::Any if schema.int_or_string => (matches!(given, "integer" | "string"), "integer,string"),
        Type::Any => (true, ""),
        Type::Number => (matches!(given, "integer" | "number"), "number"),
        ty => (given == ty.name(), ty.name()),
    };
    if fits {
        return None;
    }
    let text = format!("{} in body must be of type {wanted}: \"{given}\"", name(path));
    Some(Error::type_invalid(path, given, text.trim_start()))
}

fn check_object(map: &Map<String, Value>, schema: &Schema, path: &Path, errors: &mut ErrorList) {
    for required in schema.required() {
        if !map.contains_key(&**required) {
            errors.push(Error::required(path.child(required.to_string()), ""));
        }
    }
    for (member_name, member) in map {
        // What the server itself keeps in every object is checked elsewhere.
        if path.is_root() && matches!(member_name.as_str(), "metadata" | "apiVersion" | "kind") {
            continue;
        }
        let inner = match (schema.property(member_name), schema.additional()) {
            (Some(inner), _) => inner,
            (None, Additional::Schema(inner)) => inner,
            (None, _) => continue,
        };
        check(member, inner, &path.child(member_name.clone()), errors);
    }
}

fn check_list_type(items: &[Value], schema: &Schema, path: &Path, errors: &mut ErrorList) {
    let identities: Vec<Value> = match &schema.list_type {
        ListType::Atomic => return,
        ListType::Set => items.to_vec(),
        ListType::Map(keys) => items.iter().map(|item| keys_of(item, keys)).collect(),
    };
    for (i, identity) in identities.iter().enumerate() {
        if identities[..i].contains(identity) {
            errors.push(Error::duplicate(path.index(i), identity.clone()));
        }
    }
}

fn keys_of(item: &Value, keys: &[Box<str>]) -> Value {
    let pairs = keys.iter().filter_map(|key| Some((key.to_string(), item.get(&**key)?.clone())));
    Value::Object(pairs.collect())
}

fn check_scalar(value: &Value, rules: &Constraints, path: &Path, errors: &mut ErrorList) {
    let at = name(path);
    match value {
        Value::String(text) => check_string(text, rules, path, &at, errors),
        Value::Number(number) => check_number(number, rules, path, &at, errors),
        _ => {}
    }
}

fn check_allowed(value: &Value, rules: &Constraints, path: &Path, errors: &mut ErrorList) {
    if !rules.allowed.is_empty() && !rules.allowed.contains(value) {
        let allowed: Vec<String> =
            rules.allowed.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
        errors.push(Error::not_supported(path, value.clone(), &allowed));
    }
}

/// How many items or members there may be.
fn check_size(value: &Value, rules: &Constraints, path: &Path, errors: &mut ErrorList) {
    let at = name(path);
    match value {
        Value::Array(items) => {
            if let Some(min) = rules.min_items.filter(|min| (items.len() as u64) < *min) {
                let text = format!("{at} in body should have at least {min} items");
                errors.push(Error::invalid(path, items.len(), text));
            }
            if let Some(max) = rules.max_items.filter(|max| items.len() as u64 > *max) {
                errors.push(Error::too_many(path, items.len(), bound(max)));
            }
            if rules.unique_items && items.iter().enumerate().any(|(i, item)| items[..i].contains(item)) {
                errors.push(Error::invalid(path, "", format!("{at} in body shouldn't contain duplicates")));
            }
        }
        Value::Object(map) => {
            if let Some(min) = rules.min_properties.filter(|min| (map.len() as u64) < *min) {
                let text = format!("{at} in body should have at least {min} properties");
                errors.push(Error::invalid(path, map.len(), text));
            }
            if let Some(max) = rules.max_properties.filter(|max| map.len() as u64 > *max) {
                errors.push(Error::too_many(path, map.len(), bound(max)));
            }
        }
        _ => {}
    }
}

fn bound(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn check_string(text: &str, rules: &Constraints, path: &Path, at: &str, errors: &mut ErrorList) {
    let length = text.chars().count() as u64;
    if let Some(max) = rules.max_length.filter(|max| length > *max) {
        errors.push(Error::too_long(path, bound(max)));
    }
    if let Some(min) = rules.min_length.filter(|min| length < *min) {
        errors.push(Error::invalid(path, text, format!("{at} in body should be at least {min} chars long")));
    }
    if let Some(pattern) = rules.pattern.as_ref().filter(|pattern| !pattern.regex.is_match(text)) {
        errors.push(Error::invalid(path, text, format!("{at} in body should match '{}'", pattern.text)));
    }
}

fn check_number(number: &Number, rules: &Constraints, path: &Path, at: &str, errors: &mut ErrorList) {
    let value = number.as_f64().unwrap_or_default();
    let limit = |bound: &Number| bound.as_f64().unwrap_or_default();
    let mut refuse = |text: String| errors.push(Error::invalid(path, Value::Number(number.clone()), text));
    if let Some((min, exclusive)) = &rules.minimum {
        if *exclusive && value <= limit(min) {
            refuse(format!("{at} in body should be greater than {min}"));
        } else if value < limit(min) {
            refuse(format!("{at} in body should be greater than or equal to {min}"));
        }
    }
    if let Some((max, exclusive)) = &rules.maximum {
        if *exclusive && value >= limit(max) {
            refuse(format!("{at} in body should be less than {max}"));
        } else if value > limit(max) {
            refuse(format!("{at} in body should be less than or equal to {max}"));
        }
    }
    if let Some(factor) = rules.multiple_of.as_ref().filter(|factor| limit(factor) != 0.0) {
        let quotient = value / limit(factor);
        if (quotient - quotient.round()).abs() > 1e-9 {
            refuse(format!("{at} in body should be a multiple of {factor}"));
        }
    }
}

fn check_junctors(value: &Value, rules: &Constraints, path: &Path, at: &str, errors: &mut ErrorList) {
    let holds = |schema: &Schema| validate(value, schema, path).is_empty();
    let mut refuse =
        |text: &str| errors.push(Error::invalid(path, "", format!("{at} in body {text}").trim_start()));
    if !rules.any_of.is_empty() && !rules.any_of.iter().any(holds) {
        refuse("must validate at least one schema (anyOf)");
    }
    if !rules.one_of.is_empty() {
        match rules.one_of.iter().filter(|schema| holds(schema)).count() {
            1 => {}
            0 => refuse("must validate one and only one schema (oneOf). Found none valid"),
            n => refuse(&format!(
                "must validate one and only one schema (oneOf). Found {n} valid alternatives"
            )),
        }
    }
    if rules.not.as_ref().is_some_and(|schema| holds(schema)) {
        refuse("must not validate the schema (not)");
    }
    let broken: Vec<&Schema> = rules.all_of.iter().filter(|schema| !holds(schema)).collect();
    if broken.is_empty() {
        return;
    }
    refuse("must validate all the schemas (allOf)");
    for schema in broken {
        errors.extend(validate(value, schema, path));
    }
}

/// The formats that upstream checks and a client may well get wrong; others are documentation.
fn check_format(value: &Value, schema: &Schema, path: &Path, errors: &mut ErrorList) {
    let format = schema.format.as_ref();
    if format.is_empty() {
        return;
    }
    let fits = match value {
        Value::String(text) => string_fits(text, format),
        Value::Number(number) => match format {
            "int32" => number.as_i64().is_none_or(|n| i32::try_from(n).is_ok()),
            _ => true,
        },
        _ => true,
    };
    if !fits {
        let shown = value.as_str().map_or_else(|| value.to_string(), crate::field::quote);
        let text = format!("{} in body must be of type {format}: {shown}", name(path));
        errors.push(Error::type_invalid(path, value.clone(), text));
    }
}

fn string_fits(text: &str, format: &str) -> bool {
    match format {
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "byte" => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.decode(text).is_ok()
        }
        "uuid" | "uuid3" | "uuid4" | "uuid5" => {
            let digits: String = text.chars().filter(|c| *c != '-').collect();
            digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit())
        }
        "email" => text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty()),
        "cidr" => text.split_once('/').is_some_and(|(ip, bits)| {
            let width = if ip.contains(':') { 128 } else { 32 };
            ip.parse::<std::net::IpAddr>().is_ok() && bits.parse::<u8>().is_ok_and(|b| b <= width)
        }),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::from_crd;
    use expect_test::expect;
    use serde_json::json;

    fn faults(properties: &Value, spec: &Value) -> String {
        let schema = from_crd(&json!({"type": "object", "properties": {
            "spec": {"type": "object", "required": ["x"], "properties": properties}}}))
        .unwrap();
        validate(&json!({"spec": spec}), &schema, &Path::root("")).iter().map(|e| format!("{e}\n")).collect()
    }

    #[test]
    fn texts_are_upstreams() {
        let properties = json!({
            "x": {"type": "string", "enum": ["b", "c"]},
            "n": {"type": "integer", "minimum": 1, "maximum": 9},
            "s": {"type": "string", "pattern": "^a+$", "minLength": 2, "maxLength": 3},
            "l": {"type": "array", "maxItems": 1, "items": {"type": "string"}},
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                    "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}, "v": {"type": "boolean"}}}},
            "ios": {"x-kubernetes-int-or-string": true},
            "t": {"type": "string", "format": "date-time"},
            "o": {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
                  "properties": {"a": {"type": "string"}, "b": {"type": "string"}}},
            "m": {"type": "object", "additionalProperties": {"type": "integer"}}
        });
        expect![[r#"
            spec.x: Required value
            spec.ios: Invalid value: "boolean": spec.ios in body must be of type integer,string: "boolean"
            spec.l[0]: Invalid value: "integer": spec.l[0] in body must be of type string: "integer"
            spec.m.k: Invalid value: "string": spec.m.k in body must be of type integer: "string"
            spec.map[1].v: Invalid value: "string": spec.map[1].v in body must be of type boolean: "string"
            spec.map[1]: Duplicate value: {"k":"a"}
            spec.n: Invalid value: 0: spec.n in body should be greater than or equal to 1
            spec.o: Invalid value: "": spec.o in body must validate one and only one schema (oneOf). Found 2 valid alternatives
            spec.s: Too long: may not be more than 3 bytes
            spec.s: Invalid value: "bbbb": spec.s in body should match '^a+$'
            spec.set[1]: Duplicate value: "a"
            spec.t: Invalid value: "now": spec.t in body must be of type date-time: "now"
        "#]]
        .assert_eq(&faults(&properties, &json!({
            "n": 0, "s": "bbbb", "l": [1], "set": ["a", "a"], "map": [{"k": "a"}, {"k": "a", "v": "x"}], "ios": true,
            "t": "now", "o": {"a": "", "b": ""}, "m": {"k": "v"}})));
        expect![[r#"
            spec.l: Too many: 2: must have at most 1 items
            spec.n: Invalid value: 10: spec.n in body should be less than or equal to 9
            spec.o: Invalid value: "null": spec.o in body must be of type object: "null"
            spec.s: Invalid value: "a": spec.s in body should be at least 2 chars long
            spec.x: Unsupported value: "a": supported values: "b", "c"
        "#]]
        .assert_eq(&faults(&properties, &json!({"x": "a", "n": 10, "s": "a", "l": ["a", "b"], "o": null})));
        assert_eq!(
            faults(&properties, &json!({"x": "b", "n": 5.0, "s": "aa", "ios": "a", "m": {"k": 1}})),
            ""
        );
    }
}
