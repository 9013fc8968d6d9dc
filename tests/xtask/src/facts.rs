//! Turns the published schema definitions of Kubernetes into `crd/src/schema/builtin.txt`.
//!
//! The input is `_definitions.json` of the version wanted, from the PyPI package `kubernetes-validate`. Only facts
//! pass: names, types, which fields are required, list and map types with their keys, patch strategies. Descriptions
//! are never copied. Only stable API versions pass.

use std::fmt::Write as _;

use serde_json::{Map, Value};

const HEAD: &str = "\
# The built-in kinds of Kubernetes v1.36: facts about structure, one definition a block.
# Written by `cargo xtask facts`; not edited by hand. Defaults stand in defaults.txt.
# Definition:  name [= group/version/Kind]     Field (indented):  name[!] type [list=..] [map=..] [patch=..]
# `!` marks a required field; `[]` and `{}` before a type mark lists and maps.
";

/// The facts table of a definitions document.
pub(crate) fn render(document: &Value) -> String {
    let definitions = ["$defs", "definitions"].iter().find_map(|key| document.get(key)?.as_object());
    let mut out = HEAD.to_owned();
    for (full, definition) in definitions.into_iter().flatten() {
        let Some(name) = short(full) else { continue };
        if scalar(&name).is_some() || !stable(&name) {
            continue;
        }
        write_definition(&mut out, &name, definition);
    }
    out
}

/// `io.k8s.api.core.v1.Pod` as `core.v1.Pod`.
fn short(full: &str) -> Option<String> {
    let prefixes = [
        ("io.k8s.api.", ""),
        ("io.k8s.apimachinery.pkg.apis.meta.", "meta."),
        ("io.k8s.apimachinery.pkg.api.resource.", ""),
        ("io.k8s.apimachinery.pkg.runtime.", ""),
        ("io.k8s.apimachinery.pkg.util.intstr.", ""),
        ("io.k8s.apiextensions-apiserver.pkg.apis.", ""),
        ("io.k8s.kube-aggregator.pkg.apis.", ""),
    ];
    prefixes.iter().find_map(|(prefix, new)| Some(format!("{new}{}", full.strip_prefix(prefix)?)))
}

/// Definitions that are values rather than structures.
fn scalar(name: &str) -> Option<&'static str> {
    Some(match name {
        "Quantity" => "quantity",
        "IntOrString" => "intstr",
        "RawExtension" => "raw",
        "meta.v1.Time" => "time",
        "meta.v1.MicroTime" => "microtime",
        "meta.v1.FieldsV1" => "fields",
        "meta.v1.Patch" => "object",
        "apiextensions.v1.JSON"
        | "apiextensions.v1.JSONSchemaPropsOrArray"
        | "apiextensions.v1.JSONSchemaPropsOrBool"
        | "apiextensions.v1.JSONSchemaPropsOrStringArray" => "any",
        _ => return None,
    })
}

fn stable(name: &str) -> bool {
    let version = name.split('.').nth(1).unwrap_or("");
    version.starts_with('v') && !version.contains("alpha") && !version.contains("beta")
}

fn write_definition(out: &mut String, name: &str, definition: &Value) {
    out.push_str(name);
    // Options and watch events are registered in every group; their first row is enough.
    let kinds = definition.get("x-kubernetes-group-version-kind").and_then(Value::as_array);
    if let Some(kind) = kinds.and_then(|rows| rows.first()) {
        let text = |key: &str| kind.get(key).and_then(Value::as_str).unwrap_or_default();
        let _ = write!(out, " = {}/{}/{}", text("group"), text("version"), text("kind"));
    }
    if definition.get("x-kubernetes-map-type").and_then(Value::as_str) == Some("atomic") {
        out.push_str(" map=atomic");
    }
    out.push('\n');
    let required: Vec<&str> = strings(definition.get("required")).collect();
    let fields = definition.get("properties").and_then(Value::as_object);
    for (field, schema) in fields.into_iter().flatten() {
        let Some(schema) = schema.as_object() else { continue };
        let mark = if required.contains(&field.as_str()) { "!" } else { "" };
        let _ = write!(out, " {field}{mark} {}", type_of(schema));
        write_markers(out, schema);
        out.push('\n');
    }
}

fn strings(value: Option<&Value>) -> impl Iterator<Item = &str> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn type_of(schema: &Map<String, Value>) -> String {
    if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
        let name = short(target.rsplit('/').next().unwrap_or_default()).unwrap_or_default();
        return scalar(&name).map_or(name, str::to_owned);
    }
    let inner = |key: &str| schema.get(key).and_then(Value::as_object).map_or("any".to_owned(), type_of);
    let kinds = schema.get("type");
    let kind = kinds.and_then(Value::as_str).or_else(|| strings(kinds).find(|kind| *kind != "null"));
    let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
    match (kind.unwrap_or("any"), format) {
        ("array", _) => format!("[]{}", inner("items")),
        ("object", _) if schema.contains_key("additionalProperties") => {
            format!("{{}}{}", inner("additionalProperties"))
        }
        ("integer", "") => "int64".to_owned(),
        ("integer" | "number", format) if !format.is_empty() => format.to_owned(),
        ("number", _) => "double".to_owned(),
        ("string", "byte") => "bytes".to_owned(),
        ("string", "date-time") => "time".to_owned(),
        ("boolean", _) => "bool".to_owned(),
        (kind, _) => kind.to_owned(),
    }
}

fn write_markers(out: &mut String, schema: &Map<String, Value>) {
    let text = |key: &str| schema.get(key).and_then(Value::as_str);
    if let Some(list) = text("x-kubernetes-list-type") {
        let keys: Vec<&str> = strings(schema.get("x-kubernetes-list-map-keys")).collect();
        let _ = write!(out, " list={list}");
        if !keys.is_empty() {
            let _ = write!(out, "({})", keys.join(","));
        }
    }
    if let Some(map) = text("x-kubernetes-map-type") {
        let _ = write!(out, " map={map}");
    }
    if let Some(strategy) = text("x-kubernetes-patch-strategy") {
        let _ = write!(out, " patch={strategy}");
        if let Some(key) = text("x-kubernetes-patch-merge-key") {
            let _ = write!(out, "({key})");
        }
    }
}
