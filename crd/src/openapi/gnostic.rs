//! An OpenAPI v2 document in gnostic's protobuf form, which kubectl reads definitions from.
//!
//! A table names the fields of each message; a handful of shapes say how JSON becomes them. What the messages have no
//! field for is left out, as gnostic's own reader would refuse it.
//! Source: `github.com/google/gnostic-models/openapiv2/OpenAPIv2.proto`.

use std::convert::Infallible;

use serde_json::{Map, Value};

use crate::protobuf::wire;

/// How a JSON value stands in a message.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    Texts,
    Bool,
    Double,
    Int,
    /// `Any` with the value as YAML, of which JSON is a part.
    Any,
    Anys,
    Message(&'static [Field]),
    /// Schemas in a schema.
    Schemas,
    /// Security requirements: each a map from names to texts.
    Requirements,
    /// `{name: value}` as a list of pairs in field 1 of a message.
    Named(Pair),
    /// A text or a list of texts in field 1 of a message.
    Type,
    /// One schema in field 1 of a message.
    Items,
    /// A schema in field 1 of a message, or a truth in field 2.
    SchemaOrBool,
    Parameters,
}

/// What the second of a pair is.
#[derive(Clone, Copy)]
enum Pair {
    Schema,
    Path,
    Response,
    Security,
    Texts,
    Parameter,
}

type Field = (&'static str, u32, Shape);

const DOCUMENT: &[Field] = &[
    ("swagger", 1, Shape::Text),
    ("info", 2, Shape::Message(INFO)),
    ("host", 3, Shape::Text),
    ("basePath", 4, Shape::Text),
    ("schemes", 5, Shape::Texts),
    ("consumes", 6, Shape::Texts),
    ("produces", 7, Shape::Texts),
    ("paths", 8, Shape::Named(Pair::Path)),
    ("definitions", 9, Shape::Named(Pair::Schema)),
    ("parameters", 10, Shape::Named(Pair::Parameter)),
    ("security", 12, Shape::Requirements),
    ("securityDefinitions", 13, Shape::Named(Pair::Security)),
];
const INFO: &[Field] =
    &[("title", 1, Shape::Text), ("version", 2, Shape::Text), ("description", 3, Shape::Text)];
const PATH: &[Field] = &[
    ("$ref", 1, Shape::Text),
    ("get", 2, Shape::Message(OPERATION)),
    ("put", 3, Shape::Message(OPERATION)),
    ("post", 4, Shape::Message(OPERATION)),
    ("delete", 5, Shape::Message(OPERATION)),
    ("options", 6, Shape::Message(OPERATION)),
    ("head", 7, Shape::Message(OPERATION)),
    ("patch", 8, Shape::Message(OPERATION)),
    ("parameters", 9, Shape::Parameters),
    ("x-", 10, Shape::Any),
];
const OPERATION: &[Field] = &[
    ("tags", 1, Shape::Texts),
    ("summary", 2, Shape::Text),
    ("description", 3, Shape::Text),
    ("operationId", 5, Shape::Text),
    ("produces", 6, Shape::Texts),
    ("consumes", 7, Shape::Texts),
    ("parameters", 8, Shape::Parameters),
    ("responses", 9, Shape::Named(Pair::Response)),
    ("schemes", 10, Shape::Texts),
    ("deprecated", 11, Shape::Bool),
    ("x-", 13, Shape::Any),
];
const BODY: &[Field] = &[
    ("description", 1, Shape::Text),
    ("name", 2, Shape::Text),
    ("in", 3, Shape::Text),
    ("required", 4, Shape::Bool),
    ("schema", 5, Shape::Message(SCHEMA)),
    ("x-", 6, Shape::Any),
];
const QUERY: &[Field] = &[
    ("required", 1, Shape::Bool),
    ("in", 2, Shape::Text),
    ("description", 3, Shape::Text),
    ("name", 4, Shape::Text),
    ("type", 6, Shape::Text),
    ("format", 7, Shape::Text),
    ("default", 10, Shape::Any),
    ("uniqueItems", 20, Shape::Bool),
    ("enum", 21, Shape::Anys),
    ("x-", 23, Shape::Any),
];
const IN_PATH: &[Field] = &[
    ("required", 1, Shape::Bool),
    ("in", 2, Shape::Text),
    ("description", 3, Shape::Text),
    ("name", 4, Shape::Text),
    ("type", 5, Shape::Text),
    ("format", 6, Shape::Text),
    ("default", 9, Shape::Any),
    ("uniqueItems", 19, Shape::Bool),
    ("enum", 20, Shape::Anys),
    ("x-", 22, Shape::Any),
];
const RESPONSE: &[Field] =
    &[("description", 1, Shape::Text), ("schema", 2, Shape::Items), ("x-", 5, Shape::Any)];
const SCHEMA: &[Field] = &[
    ("$ref", 1, Shape::Text),
    ("format", 2, Shape::Text),
    ("title", 3, Shape::Text),
    ("description", 4, Shape::Text),
    ("default", 5, Shape::Any),
    ("multipleOf", 6, Shape::Double),
    ("maximum", 7, Shape::Double),
    ("exclusiveMaximum", 8, Shape::Bool),
    ("minimum", 9, Shape::Double),
    ("exclusiveMinimum", 10, Shape::Bool),
    ("maxLength", 11, Shape::Int),
    ("minLength", 12, Shape::Int),
    ("pattern", 13, Shape::Text),
    ("maxItems", 14, Shape::Int),
    ("minItems", 15, Shape::Int),
    ("uniqueItems", 16, Shape::Bool),
    ("maxProperties", 17, Shape::Int),
    ("minProperties", 18, Shape::Int),
    ("required", 19, Shape::Texts),
    ("enum", 20, Shape::Anys),
    ("additionalProperties", 21, Shape::SchemaOrBool),
    ("type", 22, Shape::Type),
    ("items", 23, Shape::Items),
    ("allOf", 24, Shape::Schemas),
    ("properties", 25, Shape::Named(Pair::Schema)),
    ("discriminator", 26, Shape::Text),
    ("readOnly", 27, Shape::Bool),
    ("example", 30, Shape::Any),
    ("x-", 31, Shape::Any),
];
const API_KEY: &[Field] = &[
    ("type", 1, Shape::Text),
    ("name", 2, Shape::Text),
    ("in", 3, Shape::Text),
    ("description", 4, Shape::Text),
];

/// The document as a message of gnostic's `Document`.
#[must_use]
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    message(&mut out, DOCUMENT, document);
    out
}

fn nested(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let Ok(()) = wire::nested(out, number, |out| {
        write(out);
        Ok::<(), Infallible>(())
    });
}

fn message(out: &mut Vec<u8>, fields: &[Field], value: &Value) {
    let Some(map) = value.as_object() else { return };
    for (name, number, shape) in fields {
        if *name == "x-" {
            extensions(out, *number, map);
        } else if let Some(value) = map.get(*name) {
            field(out, *number, *shape, value);
        }
    }
}

/// What the standard does not know, each as `NamedAny`.
fn extensions(out: &mut Vec<u8>, number: u32, map: &Map<String, Value>) {
    for (name, value) in map.iter().filter(|(name, _)| name.starts_with("x-")) {
        nested(out, number, |out| {
            wire::bytes(out, 1, name.as_bytes());
            nested(out, 2, |out| any(out, value));
        });
    }
}

fn any(out: &mut Vec<u8>, value: &Value) {
    wire::bytes(out, 2, format!("{value}\n").as_bytes());
}

fn texts<'a>(value: &'a Value) -> Vec<&'a str> {
    match value {
        Value::String(text) => vec![text.as_str()],
        other => other.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<&'a str>>(),
    }
}

fn field(out: &mut Vec<u8>, number: u32, shape: Shape, value: &Value) {
    let list = || value.as_array().into_iter().flatten();
    match shape {
        Shape::Text => wire::bytes(out, number, value.as_str().unwrap_or_default().as_bytes()),
        Shape::Texts => texts(value).into_iter().for_each(|text| wire::bytes(out, number, text.as_bytes())),
        Shape::Bool => flag(out, number, value),
        Shape::Int => wire::integer(out, number, value.as_i64().unwrap_or_default()),
        Shape::Double => wire::double(out, number, value.as_f64().unwrap_or_default()),
        Shape::Any => nested(out, number, |out| any(out, value)),
        Shape::Anys => list().for_each(|one| nested(out, number, |out| any(out, one))),
        Shape::Message(fields) => nested(out, number, |out| message(out, fields, value)),
        Shape::Requirements => list().for_each(|one| nested(out, number, |out| pairs(out, Pair::Texts, one))),
        Shape::Schemas => list().for_each(|one| nested(out, number, |out| message(out, SCHEMA, one))),
        Shape::Named(pair) => nested(out, number, |out| pairs(out, pair, value)),
        Shape::Type => nested(out, number, |out| {
            texts(value).into_iter().for_each(|text| wire::bytes(out, 1, text.as_bytes()));
        }),
        Shape::Items => nested(out, number, |out| nested(out, 1, |out| message(out, SCHEMA, value))),
        Shape::SchemaOrBool => nested(out, number, |out| match value {
            Value::Bool(_) => flag(out, 2, value),
            schema => nested(out, 1, |out| message(out, SCHEMA, schema)),
        }),
        Shape::Parameters => list().for_each(|one| {
            nested(out, number, |out| match one.get("$ref").and_then(Value::as_str) {
                Some(reference) => nested(out, 2, |out| wire::bytes(out, 1, reference.as_bytes())),
                None => nested(out, 1, |out| parameter(out, one)),
            });
        }),
    }
}

fn flag(out: &mut Vec<u8>, number: u32, value: &Value) {
    wire::integer(out, number, i64::from(value == true));
}

fn pairs(out: &mut Vec<u8>, pair: Pair, map: &Value) {
    // The paths of a document and the codes of an answer may be told from extensions; they have no empty name.
    let number = if matches!(pair, Pair::Path) { 2 } else { 1 };
    for (name, value) in map.as_object().into_iter().flatten() {
        nested(out, number, |out| {
            wire::bytes(out, 1, name.as_bytes());
            nested(out, 2, |out| match pair {
                Pair::Schema => message(out, SCHEMA, value),
                Pair::Path => message(out, PATH, value),
                Pair::Response => nested(out, 1, |out| message(out, RESPONSE, value)),
                Pair::Security => nested(out, 2, |out| message(out, API_KEY, value)),
                Pair::Texts => texts(value).into_iter().for_each(|text| wire::bytes(out, 1, text.as_bytes())),
                Pair::Parameter => parameter(out, value),
            });
        });
    }
}

/// A body, or what stands in the query, the path or a header.
fn parameter(out: &mut Vec<u8>, value: &Value) {
    match value.get("in").and_then(Value::as_str) {
        Some("body") => nested(out, 1, |out| message(out, BODY, value)),
        Some("path") => nested(out, 2, |out| nested(out, 4, |out| message(out, IN_PATH, value))),
        _ => nested(out, 2, |out| nested(out, 3, |out| message(out, QUERY, value))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The fields of a message: number and bytes, or number and integer.
    fn fields(mut from: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let mut found = Vec::new();
        let take = |from: &mut &[u8]| {
            let (mut n, mut shift) = (0u64, 0);
            loop {
                let byte = from[0];
                *from = &from[1..];
                n |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    return n;
                }
            }
        };
        while !from.is_empty() {
            let key = take(&mut from);
            let len = match key & 7 {
                2 => take(&mut from) as usize,
                1 => 8,
                _ => {
                    let value = take(&mut from);
                    found.push((key >> 3, vec![value as u8]));
                    continue;
                }
            };
            found.push((key >> 3, from[..len].to_vec()));
            from = &from[len..];
        }
        found
    }

    fn at(message: &[u8], path: &[u64]) -> Vec<u8> {
        path.iter().fold(message.to_vec(), |message, number| {
            fields(&message)
                .into_iter()
                .find(|(n, _)| n == number)
                .map(|(_, bytes)| bytes)
                .unwrap_or_default()
        })
    }

    #[test]
    fn definitions_and_paths_have_their_places() {
        let document = json!({
            "swagger": "2.0", "info": { "title": "Kubernetes", "version": "v1" },
            "paths": { "/api/v1/pods": { "get": {
                "operationId": "listPods", "consumes": ["*/*"],
                "parameters": [{ "in": "query", "name": "limit", "type": "integer" }, { "$ref": "#/parameters/p" }],
                "responses": { "200": { "description": "OK", "schema": { "$ref": "#/definitions/P" } } },
                "x-kubernetes-action": "list",
            } } },
            "definitions": { "P": {
                "type": "object", "required": ["a"],
                "properties": { "a": { "type": "array", "items": { "type": "string" }, "maxItems": 3 } },
                "additionalProperties": { "type": "string" },
                "x-kubernetes-group-version-kind": [{ "group": "", "kind": "P", "version": "v1" }],
            } },
            "security": [{ "BearerToken": [] }],
        });
        let message = encode(&document);
        let text = |path: &[u64]| String::from_utf8(at(&message, path)).unwrap();
        assert_eq!(text(&[1]), "2.0");
        assert_eq!(text(&[2, 1]), "Kubernetes");
        assert_eq!(text(&[8, 2, 1]), "/api/v1/pods");
        let get = [8, 2, 2, 2];
        let of_get = |path: &[u64]| text(&[&get, path].concat());
        assert_eq!(of_get(&[5]), "listPods");
        assert_eq!(of_get(&[8, 1, 2, 3, 4]), "limit");
        assert_eq!(of_get(&[9, 1, 2, 1, 2, 1, 1]), "#/definitions/P");
        assert_eq!(of_get(&[13, 2, 2]), "\"list\"\n");
        let schema = [9, 1, 2];
        let of_schema = |path: &[u64]| text(&[&schema, path].concat());
        assert_eq!(of_schema(&[22, 1]), "object");
        assert_eq!(of_schema(&[19]), "a");
        assert_eq!(of_schema(&[25, 1, 1]), "a");
        assert_eq!(of_schema(&[25, 1, 2, 23, 1, 22, 1]), "string");
        assert_eq!(at(&message, &[9, 1, 2, 25, 1, 2, 14]), [3]);
        assert_eq!(of_schema(&[21, 1, 22, 1]), "string");
        assert_eq!(of_schema(&[31, 1]), "x-kubernetes-group-version-kind");
        assert!(of_schema(&[31, 2, 2]).contains("\"kind\":\"P\""));
        assert_eq!(text(&[12, 1, 1]), "BearerToken");
    }
}
