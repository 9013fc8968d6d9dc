//! Schemas of custom kinds as documents show them: what the definition says, not what the server makes of it.
//!
//! Swagger 2 knows neither alternatives nor `nullable`, and kubectl takes a listed property for the only one there is;
//! what it would misread is left out. Source: apiextensions-apiserver `pkg/controller/openapi`.

use serde_json::{Map, Value, json};

use super::{Dialect, definitions::put_standard_text};

const METADATA: &str = "Standard object's metadata. More info: \
     https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";

/// The published form of a definition's `openAPIV3Schema`.
pub(super) fn publish(schema: &Value, dialect: Dialect) -> Value {
    if dialect == Dialect::V2 && is(schema, PRESERVE) {
        // Properties would make kubectl refuse all others.
        return json!({"type": "object"});
    }
    let mut out = schema.clone();
    walk(&mut out, dialect);
    put_object_fields(&mut out, dialect);
    out
}

fn is(node: &Value, flag: &str) -> bool {
    node.get(flag).and_then(Value::as_bool) == Some(true)
}

fn walk(node: &mut Value, dialect: Dialect) {
    if dialect == Dialect::V2
        && let Value::Object(map) = node
    {
        simplify(map);
    }
    for key in ["items", "additionalProperties", "not"] {
        if let Some(inner) = node.get_mut(key) {
            walk(inner, dialect);
        }
    }
    if let Some(Value::Object(properties)) = node.get_mut("properties") {
        properties.values_mut().for_each(|inner| walk(inner, dialect));
    }
    let open = dialect == Dialect::V2 && is(node, PRESERVE);
    if is(node, "x-kubernetes-embedded-resource") && !open {
        put_object_fields(node, dialect);
        require(node, &["kind", "apiVersion"]);
    }
}

/// Takes out what Swagger 2 has no word for.
fn simplify(map: &mut Map<String, Value>) {
    for key in ["allOf", "oneOf", "anyOf", "not"] {
        map.remove(key);
    }
    let flag = |map: &Map<String, Value>, name: &str| map.get(name).and_then(Value::as_bool) == Some(true);
    let open = flag(map, PRESERVE);
    let nullable = flag(map, "nullable");
    if nullable || open {
        map.remove("items");
        map.remove("properties");
    }
    let untyped = nullable
        || match map.get("type").and_then(Value::as_str) {
            Some("array") => !map.contains_key("items"),
            Some("object") => open,
            _ => false,
        };
    if untyped {
        map.remove("type");
    }
    map.remove("nullable");
    let null: Vec<String> = map
        .get("properties")
        .and_then(Value::as_object)
        .map(|all| {
            all.iter().filter(|(_, field)| is(field, "nullable")).map(|(name, _)| name.clone()).collect()
        })
        .unwrap_or_default();
    if map.get("additionalProperties").is_some_and(|inner| is(inner, "nullable")) {
        map.remove("required");
    }
    if let Some(Value::Array(required)) = map.get_mut("required") {
        required.retain(|name| name.as_str().is_none_or(|name| null.iter().all(|n| n != name)));
        if required.is_empty() {
            map.remove("required");
        }
    }
}

fn put_object_fields(node: &mut Value, dialect: Dialect) {
    let Value::Object(map) = node else { return };
    let properties = map.entry("properties").or_insert_with(|| Value::Object(Map::new()));
    for field in ["apiVersion", "kind"] {
        let mut value = json!({"type": "string"});
        put_standard_text(&mut value, field);
        properties[field] = value;
    }
    let reference = dialect.reference(OBJECT_META);
    properties["metadata"] = if dialect == Dialect::V3 {
        json!({"description": METADATA, "allOf": [reference]})
    } else {
        json!({"description": METADATA, "$ref": reference["$ref"]})
    };
}

fn require(node: &mut Value, fields: &[&str]) {
    let Value::Object(map) = node else { return };
    let Value::Array(required) = map.entry("required").or_insert_with(|| json!([])) else { return };
    for field in fields {
        if required.iter().all(|r| r != field) {
            required.push((*field).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swagger_2_leaves_out_what_it_cannot_say() {
        let schema = json!({"type": "object", "required": ["maybe", "sure"], "properties": {
            "maybe": {"type": "object", "nullable": true, "properties": {"a": {"type": "string"}}},
            "sure": {"type": "integer", "anyOf": [{"minimum": 1}, {"maximum": 5}]},
            "open": {"type": "object", PRESERVE: true, "properties": {"a": {"type": "string"}}},
            "list": {"type": "array", "items": {"type": "string"}}}});
        let v2 = publish(&schema, Dialect::V2);
        assert_eq!(v2["required"], json!(["sure"]));
        assert_eq!(v2["properties"]["maybe"], json!({}));
        assert_eq!(v2["properties"]["sure"], json!({"type": "integer"}));
        assert_eq!(v2["properties"]["open"], json!({PRESERVE: true}));
        assert_eq!(v2["properties"]["list"], schema["properties"]["list"]);
        let v3 = publish(&schema, Dialect::V3);
        for field in ["maybe", "sure", "open", "list"] {
            assert_eq!(v3["properties"][field], schema["properties"][field]);
        }
    }

    #[test]
    fn embedded_objects_say_what_every_object_has() {
        let schema = json!({"type": "object", "properties": {
            "template": {"type": "object", "x-kubernetes-embedded-resource": true, PRESERVE: true},
            "other": {"type": "object", "x-kubernetes-embedded-resource": true}}});
        let v2 = publish(&schema, Dialect::V2);
        assert!(v2["properties"]["template"].get("properties").is_none());
        assert_eq!(v2["properties"]["other"]["required"], json!(["kind", "apiVersion"]));
        assert_eq!(v2["properties"]["other"]["properties"]["kind"]["type"], "string");
        let v3 = publish(&schema, Dialect::V3);
        assert!(v3["properties"]["template"]["properties"]["metadata"]["allOf"].is_array());
        assert_eq!(
            publish(&json!({"type": "object", PRESERVE: true}), Dialect::V2),
            json!({"type": "object"})
        );
    }
}
