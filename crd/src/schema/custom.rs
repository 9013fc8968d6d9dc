//! The schemas of custom kinds, read from `openAPIV3Schema`, with the rules of structural schemas.
//!
//! A schema that breaks a rule is refused with upstream's field errors; one that is accepted can be pruned,
//! defaulted, validated, merged and published like a built-in one. Rules and texts follow upstream's
//! `apiextensions` validation and KEP-1111 (structural schemas).

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Additional, Constraints, ListType, MapType, Pattern, Schema, Type, definition};
use crate::field::{self, Error, ErrorList, Path};

/// How deep a schema may nest.
const DEPTH_MAX: usize = 100;

/// Reads the schema of a custom kind.
///
/// # Errors
/// What is wrong with it, with paths from `openAPIV3Schema`.
pub fn from_crd(schema: &Value) -> Result<Arc<Schema>, ErrorList> {
    from_crd_at(schema, &field::root("openAPIV3Schema"))
}

/// Reads the schema of a custom kind that stands at `path`.
///
/// # Errors
/// What is wrong with it, with paths below `path`.
pub fn from_crd_at(schema: &Value, path: &Path) -> Result<Arc<Schema>, ErrorList> {
    let mut reader = Reader::default();
    let mut root = reader.read(schema, path, Place::Root, 0);
    if root.ty != Type::Object && !schema.get("type").is_none_or(Value::is_null) {
        let given = schema.get("type").cloned().unwrap_or_default();
        reader.structure.push(Error::invalid(path.child("type"), given, "must be object at the root"));
    }
    let Reader { mut errors, mut structure } = reader;
    structure.sort_by_cached_key(ToString::to_string);
    errors.append(&mut structure);
    if !errors.is_empty() {
        return Err(errors);
    }
    add_object_fields(&mut root);
    Ok(Arc::new(root))
}

/// Every object has these, whatever its schema says.
fn add_object_fields(schema: &mut Schema) {
    for name in ["apiVersion", "kind"] {
        let text = || Arc::new(Schema { ty: Type::String, ..Schema::default() });
        schema.properties.entry(name.into()).or_insert_with(text);
    }
    let meta = definition("meta.v1.ObjectMeta").unwrap_or_default();
    schema.properties.insert("metadata".into(), meta);
    schema.additional = match std::mem::take(&mut schema.additional) {
        Additional::Any => Additional::Any,
        _ => Additional::None,
    };
}

/// Where a node stands decides what it must and may say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    Property,
    Item,
    /// Inside `allOf`, `anyOf`, `oneOf` or `not`: only value constraints.
    Junctor,
}

#[derive(Default)]
struct Reader {
    errors: ErrorList,
    /// What keeps the schema from being structural, which upstream tells last and sorts.
    structure: ErrorList,
}

impl Reader {
    fn read(&mut self, value: &Value, path: &Path, place: Place, depth: usize) -> Schema {
        let empty = Map::new();
        let node = value.as_object().unwrap_or(&empty);
        if depth > DEPTH_MAX {
            self.errors.push(Error::forbidden(path, format!("must not nest deeper than {DEPTH_MAX} levels")));
            return Schema::default();
        }
        let flag = |key: &str| node.get(key).and_then(Value::as_bool).unwrap_or(false);
        let text = |key: &str| node.get(key).and_then(Value::as_str).unwrap_or_default();
        let mut schema = Schema {
            ty: read_type(text("type")),
            format: text("format").to_owned().into(),
            int_or_string: flag("x-kubernetes-int-or-string"),
            nullable: flag("nullable"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded_resource: flag("x-kubernetes-embedded-resource"),
            default: node.get("default").filter(|d| !d.is_null()).cloned(),
            description: node.get("description").and_then(Value::as_str).map(Into::into),
            required: strings(node.get("required")).map(Into::into).collect(),
            map_type: (text("x-kubernetes-map-type") == "atomic").then_some(MapType::Atomic),
            ..Schema::default()
        };
        self.check_words(node, path, place);
        self.check_type(&schema, text("type"), path, place);
        self.read_structure(&mut schema, node, path, place, depth);
        self.read_list_type(&mut schema, node, path);
        schema.constraints = self.read_constraints(node, path, depth);
        if schema.embedded_resource {
            self.check_embedded(&mut schema, path);
        }
        if let Some(default) = &schema.default {
            self.errors.extend(crate::structural::validate(default, &schema, &path.child("default")));
        }
        schema
    }

    fn check_words(&mut self, node: &Map<String, Value>, path: &Path, place: Place) {
        let rules = [
            ("$ref", "$ref is not supported"),
            ("definitions", "definitions is not supported"),
            ("dependencies", "dependencies is not supported"),
            ("id", "id is not supported"),
            ("patternProperties", "patternProperties is not supported"),
            ("additionalItems", "additionalItems is not supported"),
        ];
        for (word, text) in rules {
            if node.contains_key(word) {
                self.errors.push(Error::forbidden(path.child(word), text));
            }
        }
        if node.get("uniqueItems").and_then(Value::as_bool) == Some(true) {
            let text = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            self.errors.push(Error::forbidden(path.child("uniqueItems"), text));
        }
        if node.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
            let path = path.child("x-kubernetes-preserve-unknown-fields");
            self.errors.push(Error::invalid(&path, false, "must be true or undefined"));
        }
        if place != Place::Junctor {
            return;
        }
        let structural = [
            "default",
            "description",
            "title",
            "nullable",
            "type",
            "additionalProperties",
            "x-kubernetes-preserve-unknown-fields",
            "x-kubernetes-embedded-resource",
            "x-kubernetes-int-or-string",
        ];
        for word in structural {
            let set = node.get(word).is_some_and(|v| !v.is_null() && *v != Value::Bool(false) && *v != "");
            if set {
                self.structure.push(Error::forbidden(path.child(word), "must be empty to be structural"));
            }
        }
    }

    fn check_type(&mut self, schema: &Schema, text: &str, path: &Path, place: Place) {
        let path = path.child("type");
        if !text.is_empty() && schema.ty == Type::Any {
            let known = ["array", "boolean", "integer", "number", "object", "string"];
            self.errors.push(Error::not_supported(&path, text, &known));
        }
        if schema.int_or_string && !text.is_empty() {
            let rule = "must be empty if x-kubernetes-int-or-string is true";
            self.structure.push(Error::forbidden(&path, rule));
        }
        if !text.is_empty() || schema.int_or_string {
            return;
        }
        match place {
            Place::Root => self.structure.push(Error::required(&path, "must not be empty at the root")),
            Place::Property if !schema.preserve_unknown => {
                self.structure.push(Error::required(&path, "must not be empty for specified object fields"));
            }
            Place::Item if !schema.preserve_unknown => {
                self.structure.push(Error::required(&path, "must not be empty for specified array items"));
            }
            Place::Property | Place::Item | Place::Junctor => {}
        }
    }

    fn read_structure(
        &mut self,
        schema: &mut Schema,
        node: &Map<String, Value>,
        path: &Path,
        place: Place,
        depth: usize,
    ) {
        let inner = |usual| if place == Place::Junctor { Place::Junctor } else { usual };
        for (name, value) in node.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let at = path.child("properties").key(name);
            let property = self.read(value, &at, inner(Place::Property), depth + 1);
            schema.properties.insert(name.as_str().into(), Arc::new(property));
        }
        schema.additional = match node.get("additionalProperties") {
            None | Some(Value::Null | Value::Bool(false)) => Additional::None,
            Some(Value::Bool(true)) => Additional::Any,
            Some(value) => {
                let at = path.child("additionalProperties");
                Additional::Schema(Arc::new(self.read(value, &at, inner(Place::Property), depth + 1)))
            }
        };
        if !schema.properties.is_empty() && !matches!(schema.additional, Additional::None) {
            let rule = "additionalProperties and properties are mutual exclusive";
            self.errors.push(Error::forbidden(path.child("additionalProperties"), rule));
        }
        match node.get("items") {
            None | Some(Value::Null) => {
                if schema.ty == Type::Array {
                    self.structure.push(Error::required(path.child("items"), "must be specified"));
                }
            }
            Some(Value::Array(_)) => {
                let rule = "items must be a schema object and not an array";
                self.errors.push(Error::forbidden(path.child("items"), rule));
            }
            Some(value) => {
                let items = self.read(value, &path.child("items"), inner(Place::Item), depth + 1);
                schema.items = Some(Arc::new(items));
            }
        }
    }

    fn read_list_type(&mut self, schema: &mut Schema, node: &Map<String, Value>, path: &Path) {
        let keys: Vec<Box<str>> = strings(node.get("x-kubernetes-list-map-keys")).map(Into::into).collect();
        let at = path.child("x-kubernetes-list-type");
        let list_type = node.get("x-kubernetes-list-type").and_then(Value::as_str);
        if list_type.is_some() && schema.ty != Type::Array {
            self.errors.push(Error::invalid(
                path.child("type"),
                schema.ty.name(),
                "must be array if x-kubernetes-list-type is specified",
            ));
        }
        match list_type {
            None | Some("atomic") => {}
            Some("set") => schema.list_type = ListType::Set,
            Some("map") => {
                self.check_list_keys(schema, &keys, path);
                schema.list_type = ListType::Map(keys);
                return;
            }
            Some(other) => {
                self.errors.push(Error::not_supported(&at, other, &["atomic", "set", "map"]));
            }
        }
        if !keys.is_empty() {
            let keys_path = path.child("x-kubernetes-list-map-keys");
            self.errors.push(Error::forbidden(
                &keys_path,
                "must not be specified if x-kubernetes-list-type is not map",
            ));
        }
    }

    fn check_list_keys(&mut self, schema: &Schema, keys: &[Box<str>], path: &Path) {
        let at = path.child("x-kubernetes-list-map-keys");
        if keys.is_empty() {
            self.errors.push(Error::required(&at, "must not be empty if x-kubernetes-list-type is map"));
        }
        let Some(items) = schema.items.as_deref() else { return };
        if items.ty != Type::Object {
            let rule =
                "must only contain a single object schema if parent array's x-kubernetes-list-type is map";
            self.errors.push(Error::invalid(path.child("items").child("type"), items.ty.name(), rule));
        }
        for key in keys {
            match items.properties.get(key) {
                None => self.errors.push(Error::invalid(
                    &at,
                    Value::from(key.as_ref()),
                    "entries must all be names of item properties",
                )),
                Some(property) if !items.required.contains(key) && property.default.is_none() => {
                    let rule = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                    let at = path.child("items").child("properties").key(key.as_ref()).child("default");
                    self.errors.push(Error::required(&at, rule));
                }
                Some(_) => {}
            }
        }
    }

    fn read_constraints(
        &mut self,
        node: &Map<String, Value>,
        path: &Path,
        depth: usize,
    ) -> Option<Box<Constraints>> {
        let number = |key: &str| node.get(key).and_then(Value::as_number).cloned();
        let count = |key: &str| node.get(key).and_then(Value::as_u64);
        let flag = |key: &str| node.get(key).and_then(Value::as_bool).unwrap_or(false);
        let values = |key: &str| node.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        let mut out = Constraints {
            allowed: values("enum"),
            pattern: self.read_pattern(node, path),
            minimum: number("minimum").map(|n| (n, flag("exclusiveMinimum"))),
            maximum: number("maximum").map(|n| (n, flag("exclusiveMaximum"))),
            multiple_of: number("multipleOf"),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            unique_items: flag("uniqueItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            validations: values("x-kubernetes-validations"),
            ..Constraints::default()
        };
        for (key, list) in
            [("allOf", &mut out.all_of), ("anyOf", &mut out.any_of), ("oneOf", &mut out.one_of)]
        {
            for (i, value) in node.get(key).and_then(Value::as_array).into_iter().flatten().enumerate() {
                list.push(self.read_junctor(value, &path.child(key).index(i), node, depth));
            }
        }
        if let Some(value) = node.get("not").filter(|v| !v.is_null()) {
            out.not = Some(Box::new(self.read_junctor(value, &path.child("not"), node, depth)));
        }
        for key in ["title", "externalDocs", "example"] {
            if let Some(value) = node.get(key).filter(|v| !v.is_null()) {
                out.annotations.insert(key.into(), value.clone());
            }
        }
        let has_any = ANY_CONSTRAINT.iter().any(|key| node.get(*key).is_some_and(|v| !v.is_null()));
        has_any.then(|| Box::new(out))
    }

    /// The one junctor that may name types is the pair for int-or-string.
    fn read_junctor(
        &mut self,
        value: &Value,
        path: &Path,
        parent: &Map<String, Value>,
        depth: usize,
    ) -> Schema {
        let int_or_string = parent.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
        let only_type = value.as_object().is_some_and(|o| o.len() == 1 && o.contains_key("type"));
        if int_or_string && only_type {
            let text = value.get("type").and_then(Value::as_str).unwrap_or_default();
            return Schema { ty: read_type(text), ..Schema::default() };
        }
        self.read(value, path, Place::Junctor, depth + 1)
    }

    fn read_pattern(&mut self, node: &Map<String, Value>, path: &Path) -> Option<Pattern> {
        let text = node.get("pattern").and_then(Value::as_str).filter(|text| !text.is_empty())?;
        match regex::Regex::new(text) {
            Ok(regex) => Some(Pattern { text: text.into(), regex }),
            Err(error) => {
                let why = go_fault(text, &error);
                let rule =
                    format!("must be a valid regular expression, but isn't: error parsing regexp{why}");
                self.errors.push(Error::invalid(path.child("pattern"), text, rule));
                None
            }
        }
    }

    fn check_embedded(&mut self, schema: &mut Schema, path: &Path) {
        if schema.ty != Type::Object {
            let rule = "must be object if x-kubernetes-embedded-resource is true";
            self.errors.push(Error::invalid(path.child("type"), schema.ty.name(), rule));
        }
        if schema.properties.is_empty() && !schema.preserve_unknown {
            let rule = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
            self.errors.push(Error::required(path.child("properties"), rule));
        }
        add_object_fields(schema);
    }
}

const ANY_CONSTRAINT: [&str; 20] = [
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minProperties",
    "maxProperties",
    "x-kubernetes-validations",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "title",
    "externalDocs",
    "example",
];

fn read_type(text: &str) -> Type {
    match text {
        "object" => Type::Object,
        "array" => Type::Array,
        "string" => Type::String,
        "integer" => Type::Integer,
        "number" => Type::Number,
        "boolean" => Type::Boolean,
        _ => Type::Any,
    }
}

fn strings(value: Option<&Value>) -> impl Iterator<Item = &str> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// What Go says of the commonest faults of a pattern.
fn go_fault(text: &str, error: &regex::Error) -> String {
    let said = error.to_string();
    let is = |fault: &str| said.contains(&format!("error: {fault}"));
    if is("unclosed group") {
        format!(": missing closing ): `{text}`")
    } else if is("unopened group") {
        format!(": unexpected ): `{text}`")
    } else if is("unclosed character class") {
        let at = text.find('[').unwrap_or(0);
        format!(": missing closing ]: `{}`", &text[at..])
    } else if is("incomplete escape sequence") {
        ": trailing backslash at end of expression: ``".to_owned()
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use serde_json::json;

    fn faults(schema: &Value) -> String {
        from_crd(schema).map_or_else(|e| e.iter().map(|e| format!("{e}\n")).collect(), |_| "ok\n".to_owned())
    }

    #[test]
    fn structural_schemas_are_read() {
        let schema = from_crd(&json!({"type": "object", "properties": {
            "spec": {"type": "object", "required": ["a"], "properties": {
                "a": {"type": "string", "pattern": "^x", "maxLength": 5},
                "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
                "items": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                          "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}}}},
                "any": {"x-kubernetes-preserve-unknown-fields": true},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}}}}}}))
        .unwrap();
        let spec = schema.property("spec").unwrap();
        assert_eq!(spec.property("items").unwrap().list_type, ListType::Map(vec!["k".into()]));
        assert!(spec.property("any").unwrap().keeps_unknown());
        assert_eq!(spec.property("labels").unwrap().member("x").unwrap().ty, Type::String);
        assert_eq!(schema.property("metadata").unwrap().go_name(), Some("ObjectMeta"));
    }

    #[test]
    fn rules_are_upstreams() {
        expect![[r#"
            openAPIV3Schema.properties[c].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive
            openAPIV3Schema.properties[d].$ref: Forbidden: $ref is not supported
            openAPIV3Schema.properties[e].items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property
            openAPIV3Schema.properties[g].type: Unsupported value: "int": supported values: "array", "boolean", "integer", "number", "object", "string"
            openAPIV3Schema.properties[h].pattern: Invalid value: "(": must be a valid regular expression, but isn't: error parsing regexp: missing closing ): `(`
            openAPIV3Schema.properties[i].default: Invalid value: "string": openAPIV3Schema.properties[i].default in body must be of type integer: "string"
            openAPIV3Schema.properties[a].type: Required value: must not be empty for specified object fields
            openAPIV3Schema.properties[b].items: Required value: must be specified
            openAPIV3Schema.properties[f].anyOf[0].type: Forbidden: must be empty to be structural
        "#]]
        .assert_eq(&faults(&json!({"type": "object", "properties": {
            "a": {},
            "b": {"type": "array"},
            "c": {"type": "object", "properties": {"x": {"type": "string"}}, "additionalProperties": {"type": "string"}},
            "d": {"type": "object", "$ref": "#/x"},
            "e": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                  "items": {"type": "object", "properties": {"k": {"type": "string"}}}},
            "f": {"type": "string", "anyOf": [{"type": "string"}]},
            "g": {"type": "int"},
            "h": {"type": "string", "pattern": "("},
            "i": {"type": "integer", "default": "x"}}})));
        expect![[r#"
            openAPIV3Schema.type: Required value: must not be empty at the root
        "#]]
        .assert_eq(&faults(&json!({})));
        expect![[r#"
            openAPIV3Schema.type: Invalid value: "string": must be object at the root
        "#]]
        .assert_eq(&faults(&json!({"type": "string"})));
    }
}
