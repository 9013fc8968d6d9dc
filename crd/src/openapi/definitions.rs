//! Schemas in OpenAPI form, each definition once.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Dialect, Row, custom};
use crate::schema::{Additional, Constraints, Gvk, ListType, MapType, Schema, Type, builtin, definition};

/// The definitions that the given kinds need.
pub(super) struct Definitions {
    dialect: Dialect,
    done: BTreeMap<String, Value>,
    waiting: Vec<&'static str>,
    texts: Texts,
}

/// The full name of a definition: `core.v1.Pod` is `io.k8s.api.core.v1.Pod`.
pub(super) fn full_name(short: &str) -> String {
    let prefix = match short.split('.').next().unwrap_or_default() {
        "meta" => "io.k8s.apimachinery.pkg.apis.",
        "apiextensions" => "io.k8s.apiextensions-apiserver.pkg.apis.",
        "apiregistration" => "io.k8s.kube-aggregator.pkg.apis.",
        _ => "io.k8s.api.",
    };
    format!("{prefix}{short}")
}

/// The name of a row's definition. Custom kinds have their group's domain reversed.
pub(super) fn row_name(row: &Row) -> String {
    match row.schema.definition_name() {
        Some(short) if row.custom.is_none() => full_name(short),
        _ => custom_name(row, &row.kind),
    }
}

/// The name of the definition of a row's list.
pub(super) fn list_name(row: &Row) -> String {
    let name = row_name(row);
    let prefix = name.strip_suffix(row.kind.as_str()).unwrap_or_default();
    format!("{prefix}{}", row.list_kind)
}

fn custom_name(row: &Row, kind: &str) -> String {
    let labels: Vec<&str> = row.group.rsplit('.').collect();
    format!("{}.{}.{kind}", labels.join("."), row.version)
}

const VALUES: [(&str, &str); 7] = [
    ("quantity", "io.k8s.apimachinery.pkg.api.resource.Quantity"),
    ("int-or-string", "io.k8s.apimachinery.pkg.util.intstr.IntOrString"),
    ("date-time", "io.k8s.apimachinery.pkg.apis.meta.v1.Time"),
    ("micro-time", "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime"),
    ("raw", "io.k8s.apimachinery.pkg.runtime.RawExtension"),
    ("fields", "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1"),
    ("patch", "io.k8s.apimachinery.pkg.apis.meta.v1.Patch"),
];

/// The definitions of values that built-in fields share.
fn value_definition(format: &str, dialect: Dialect) -> Value {
    match (format, dialect) {
        ("quantity", Dialect::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        ("quantity", Dialect::V2) => json!({"type": "string"}),
        ("int-or-string", Dialect::V3) => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        ("int-or-string", Dialect::V2) => json!({"type": "string", "format": "int-or-string"}),
        ("date-time" | "micro-time", _) => json!({"type": "string", "format": "date-time"}),
        _ => json!({"type": "object"}),
    }
}

impl Definitions {
    pub(super) fn collect(rows: &[Row], dialect: Dialect) -> Self {
        let mut this = Self { dialect, done: BTreeMap::new(), waiting: Vec::new(), texts: Texts::of(rows) };
        for (format, name) in VALUES {
            let mut value = value_definition(format, dialect);
            this.texts.put(&mut value, name, None);
            this.done.insert(name.to_owned(), value);
        }
        this.waiting.extend([
            "meta.v1.ListMeta",
            "meta.v1.DeleteOptions",
            "meta.v1.Status",
            "meta.v1.APIResourceList",
        ]);
        for row in rows {
            this.add_row(row);
        }
        while let Some(short) = this.waiting.pop() {
            this.add_definition(short);
        }
        this
    }

    pub(super) fn into_json(self) -> Value {
        Value::Object(self.done.into_iter().collect())
    }

    fn add_row(&mut self, row: &Row) {
        match (&row.custom, row.schema.definition_name()) {
            (None, Some(short)) => self.waiting.push(short),
            (custom, _) => {
                let mut schema = match custom {
                    Some(written) => {
                        self.waiting.push("meta.v1.ObjectMeta");
                        custom::publish(written, self.dialect)
                    }
                    None => self.structure(&row.schema, None),
                };
                schema["x-kubernetes-group-version-kind"] = json!([gvk(&row.group, &row.version, &row.kind)]);
                self.done.insert(row_name(row), schema);
            }
        }
        if row.verbs.iter().any(|verb| verb == "list") {
            self.add_list(row);
        }
        for sub in &row.subresources {
            let (group, version) = sub
                .group_version
                .as_ref()
                .map_or((&row.group, &row.version), |(group, version)| (group, version));
            let api_version = if group.is_empty() { version.clone() } else { format!("{group}/{version}") };
            self.waiting.extend(builtin(&api_version, &sub.kind).and_then(|schema| schema.definition_name()));
        }
    }

    fn add_list(&mut self, row: &Row) {
        let name = list_name(row);
        let known = row.schema.definition_name().filter(|_| row.custom.is_none());
        let known =
            known.and_then(|short| definition(&format!("{short}List"))).and_then(|s| s.definition_name());
        if let Some(short) = known {
            self.waiting.push(short);
            return;
        }
        let reference = |name: &str, text: &str| {
            let mut out = self.dialect.reference(name);
            out["description"] = text.into();
            out
        };
        let list = json!({
            "description": format!("{} is a list of {}", row.list_kind, row.kind),
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": {"description": API_VERSION, "type": "string"},
                "kind": {"description": KIND, "type": "string"},
                "metadata": reference("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta", "Standard list metadata."),
                "items": {
                    "description": format!("List of {}.", row.plural),
                    "type": "array",
                    "items": self.dialect.reference(&row_name(row)),
                },
            },
            "x-kubernetes-group-version-kind": [gvk(&row.group, &row.version, &row.list_kind)],
        });
        self.done.insert(name, list);
    }

    fn add_definition(&mut self, short: &'static str) {
        let name = full_name(short);
        if self.done.contains_key(&name) {
            return;
        }
        let Some(schema) = definition(short) else { return };
        // Held at once, so that recursive definitions end.
        self.done.insert(name.clone(), Value::Null);
        let mut value = self.structure(&schema, Some(&name));
        if !schema.gvks.is_empty() {
            let rows: Vec<Value> =
                schema.gvks.iter().map(|Gvk { group, version, kind }| gvk(group, version, kind)).collect();
            value["x-kubernetes-group-version-kind"] = Value::Array(rows);
        }
        self.texts.put(&mut value, &name, None);
        self.done.insert(name, value);
    }

    /// A node written out; `owner` is the built-in definition that it is, for the descriptions of its fields.
    fn structure(&mut self, schema: &Schema, owner: Option<&str>) -> Value {
        let mut out = Map::new();
        if schema.ty != Type::Any {
            out.insert("type".into(), schema.ty.name().into());
        }
        if !schema.format.is_empty() {
            out.insert("format".into(), schema.format.as_ref().into());
        }
        if let Some(text) = &schema.description {
            out.insert("description".into(), text.as_ref().into());
        }
        let mut properties = Map::new();
        for (name, field) in schema.properties() {
            let mut value = self.field(field);
            match owner {
                Some(owner) => self.texts.put(&mut value, owner, Some(name)),
                None => put_standard_text(&mut value, name),
            }
            properties.insert(name.to_string(), value);
        }
        if !properties.is_empty() {
            out.insert("properties".into(), Value::Object(properties));
        }
        if !schema.required().is_empty() {
            out.insert(
                "required".into(),
                schema.required().iter().map(|r| r.as_ref().into()).collect::<Vec<Value>>().into(),
            );
        }
        match schema.additional() {
            Additional::Schema(inner) => {
                let inner = self.field(inner);
                out.insert("additionalProperties".into(), inner);
            }
            Additional::Any if self.dialect == Dialect::V3 => {
                out.insert("additionalProperties".into(), true.into());
            }
            Additional::Any | Additional::None => {}
        }
        if let Some(inner) = schema.items() {
            let inner = self.field(inner);
            out.insert("items".into(), inner);
        }
        self.put_extensions(&mut out, schema);
        if let Some(constraints) = schema.constraints() {
            self.put_constraints(&mut out, constraints);
        }
        Value::Object(out)
    }

    fn field(&mut self, schema: &Schema) -> Value {
        let shared = if schema.reference.is_some() || schema.name.is_some() {
            schema.definition_name().map(|short| {
                self.waiting.push(short);
                full_name(short)
            })
        } else {
            let value = VALUES.iter().find(|(format, _)| schema.format == *format && is_shared(schema));
            value.map(|(_, name)| (*name).to_owned())
        };
        let Some(name) = shared else { return self.structure(schema, None) };
        let mut out = Map::new();
        self.put_extensions(&mut out, schema);
        let reference = self.dialect.reference(&name);
        if self.dialect == Dialect::V3 {
            out.insert("allOf".into(), json!([reference]));
        } else if let Value::Object(reference) = reference {
            out.extend(reference);
        }
        Value::Object(out)
    }

    fn put_extensions(&self, out: &mut Map<String, Value>, schema: &Schema) {
        match &schema.list_type {
            ListType::Map(keys) => {
                out.insert("x-kubernetes-list-type".into(), "map".into());
                let keys: Vec<Value> = keys.iter().map(|key| key.as_ref().into()).collect();
                out.insert("x-kubernetes-list-map-keys".into(), keys.into());
            }
            ListType::Set => {
                out.insert("x-kubernetes-list-type".into(), "set".into());
            }
            ListType::Atomic if schema.ty == Type::Array => {
                out.insert("x-kubernetes-list-type".into(), "atomic".into());
            }
            ListType::Atomic => {}
        }
        if schema.ty == Type::Object && schema.map_type() == MapType::Atomic && schema.format.is_empty() {
            out.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        let patch = &schema.patch;
        let words = [("merge", patch.merge), ("replace", patch.replace), ("retainKeys", patch.retain_keys)];
        let strategy: Vec<&str> = words.iter().filter(|(_, set)| *set).map(|(word, _)| *word).collect();
        if !strategy.is_empty() {
            out.insert("x-kubernetes-patch-strategy".into(), strategy.join(",").into());
        }
        if let Some(key) = &patch.merge_key {
            out.insert("x-kubernetes-patch-merge-key".into(), key.as_ref().into());
        }
        let flags = [
            ("x-kubernetes-preserve-unknown-fields", schema.preserve_unknown && schema.map_type.is_none()),
            ("x-kubernetes-embedded-resource", schema.embedded_resource),
            ("x-kubernetes-int-or-string", schema.int_or_string && schema.format.is_empty()),
            ("nullable", schema.nullable && self.dialect == Dialect::V3),
        ];
        for (name, set) in flags {
            if set {
                out.insert(name.into(), true.into());
            }
        }
        if let Some(default) = &schema.default {
            out.insert("default".into(), default.clone());
        }
    }

    fn put_constraints(&mut self, out: &mut Map<String, Value>, rules: &Constraints) {
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                out.insert(name.to_owned(), value);
            }
        };
        put("enum", (!rules.allowed.is_empty()).then(|| Value::Array(rules.allowed.clone())));
        put("pattern", rules.pattern.as_ref().map(|pattern| pattern.text.as_ref().into()));
        for (name, exclusive, bound) in
            [("minimum", "exclusiveMinimum", &rules.minimum), ("maximum", "exclusiveMaximum", &rules.maximum)]
        {
            put(name, bound.as_ref().map(|(number, _)| Value::Number(number.clone())));
            put(exclusive, bound.as_ref().filter(|(_, exclusive)| *exclusive).map(|_| true.into()));
        }
        put("multipleOf", rules.multiple_of.clone().map(Value::Number));
        put("minLength", rules.min_length.map(Value::from));
        put("maxLength", rules.max_length.map(Value::from));
        put("minItems", rules.min_items.map(Value::from));
        put("maxItems", rules.max_items.map(Value::from));
        put("minProperties", rules.min_properties.map(Value::from));
        put("maxProperties", rules.max_properties.map(Value::from));
        put("uniqueItems", rules.unique_items.then(|| true.into()));
        put(
            "x-kubernetes-validations",
            (!rules.validations.is_empty()).then(|| rules.validations.clone().into()),
        );
        for (name, value) in &rules.annotations {
            put(name, Some(value.clone()));
        }
        if self.dialect == Dialect::V2 {
            // Swagger 2 knows no alternatives.
            return;
        }
        for (name, list) in [("allOf", &rules.all_of), ("anyOf", &rules.any_of), ("oneOf", &rules.one_of)] {
            if !list.is_empty() {
                let list: Vec<Value> = list.iter().map(|schema| self.structure(schema, None)).collect();
                out.insert(name.to_owned(), list.into());
            }
        }
        if let Some(schema) = &rules.not {
            let schema = self.structure(schema, None);
            out.insert("not".to_owned(), schema);
        }
    }
}

/// Custom schemas write their own formats; built-in ones share the definition of the value.
fn is_shared(schema: &Schema) -> bool {
    matches!(schema.format, std::borrow::Cow::Borrowed(_)) && schema.description.is_none()
}

fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should \
     convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: \
     https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer \
     this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: \
     https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// Custom schemas seldom describe the fields that every object has.
pub(super) fn put_standard_text(value: &mut Value, field: &str) {
    let text = match field {
        "apiVersion" => API_VERSION,
        "kind" => KIND,
        _ => return,
    };
    if let Some(map) = value.as_object_mut() {
        map.entry("description").or_insert_with(|| text.into());
    }
}

/// Descriptions of built-in definitions.
struct Texts {
    #[cfg(feature = "descriptions")]
    by_definition: BTreeMap<String, Value>,
}

impl Texts {
    #[cfg(feature = "descriptions")]
    fn of(rows: &[Row]) -> Self {
        Self { by_definition: super::descriptions::of(rows) }
    }

    #[cfg(not(feature = "descriptions"))]
    fn of(_rows: &[Row]) -> Self {
        Self {}
    }

    #[cfg(feature = "descriptions")]
    fn put(&self, value: &mut Value, definition: &str, field: Option<&str>) {
        let Some(known) = self.by_definition.get(definition) else { return };
        let known = field.map_or(Some(known), |field| known.get("properties")?.get(field));
        let text = known.and_then(|known| known.get("description")).cloned();
        if let (Some(map), Some(text)) = (value.as_object_mut(), text) {
            map.insert("description".to_owned(), text);
        }
    }

    #[cfg(not(feature = "descriptions"))]
    fn put(&self, value: &mut Value, _definition: &str, field: Option<&str>) {
        if let Some(field) = field {
            put_standard_text(value, field);
        }
    }
}
