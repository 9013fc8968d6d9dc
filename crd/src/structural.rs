//! What a schema does to an object: pruning, defaulting, validating.
//!
//! Defaulting serves built-in kinds (their static defaults) and custom ones alike; pruning and validation are for
//! custom kinds, whose whole contract is the schema. Texts are those of upstream's `apiextensions` validation. CEL
//! rules (`x-kubernetes-validations`) are not evaluated here.

mod validate;

use serde_json::{Map, Value};

use crate::schema::{Additional, Schema, Type};

pub use validate::validate;

/// Removes what the schema does not specify, unless it preserves unknown fields.
pub fn prune(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) if schema.ty == Type::Object || !schema.properties().is_empty() => {
            let keeps = schema.keeps_unknown();
            map.retain(|name, member| {
                if let Some(inner) = schema.member(name) {
                    prune(member, inner);
                    return true;
                }
                keeps
            });
        }
        Value::Array(items) => {
            if let Some(inner) = schema.items() {
                items.iter_mut().for_each(|item| prune(item, inner));
            }
        }
        _ => {}
    }
}

/// Fills in defaults. A null where the schema does not allow one counts as absent when there is a default.
pub fn default(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => default_object(map, schema),
        Value::Array(items) => {
            if let Some(inner) = schema.items() {
                items.iter_mut().for_each(|item| default(item, inner));
            }
        }
        _ => {}
    }
}

fn default_object(map: &mut Map<String, Value>, schema: &Schema) {
    for (name, property) in schema.properties() {
        let Some(value) = &property.default else { continue };
        let absent = match map.get(&**name) {
            None => true,
            Some(Value::Null) => !property.nullable,
            Some(_) => false,
        };
        if absent {
            map.insert(name.to_string(), value.clone());
        }
    }
    if schema.properties().is_empty() && !matches!(schema.additional(), Additional::Schema(_)) {
        return;
    }
    for (name, member) in map {
        if let Some(inner) = schema.member(name)
            && (member.is_object() || member.is_array())
        {
            default(member, inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{builtin, from_crd};
    use serde_json::json;

    #[test]
    fn pruning_follows_the_schema() {
        let schema = from_crd(&json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "a": {"type": "string"},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                         "properties": {"known": {"type": "object", "properties": {"x": {"type": "string"}}}}},
                "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"x": {"type": "string"}}}},
                "list": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "string"}}}},
                "embedded": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}}}}}}))
        .unwrap();
        let mut value = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "n"}, "zzz": 1, "spec": {
            "a": "1", "b": 2,
            "free": {"anything": {"goes": 1}, "known": {"x": "1", "y": 2}},
            "map": {"k": {"x": "1", "y": 2}},
            "list": [{"x": "1", "y": 2}],
            "embedded": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"gone": 1}, "other": 1}}});
        prune(&mut value, &schema);
        assert_eq!(
            value,
            json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "n"}, "spec": {
            "a": "1", "free": {"anything": {"goes": 1}, "known": {"x": "1"}}, "map": {"k": {"x": "1"}},
            "list": [{"x": "1"}],
            "embedded": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {}}}})
        );
    }

    #[test]
    fn defaults_reach_what_they_create() {
        let schema = from_crd(&json!({"type": "object", "properties": {"spec": {"type": "object", "default": {}, "properties": {
            "replicas": {"type": "integer", "default": 1},
            "n": {"type": "string", "nullable": true, "default": "x"},
            "list": {"type": "array", "items": {"type": "object", "properties": {"p": {"type": "string", "default": "TCP"}}}}}}}}))
        .unwrap();
        let cases = [
            (json!({}), json!({"spec": {"replicas": 1, "n": "x"}})),
            (json!({"spec": {"replicas": null, "n": null}}), json!({"spec": {"replicas": 1, "n": null}})),
            (
                json!({"spec": {"replicas": 0, "n": "", "list": [{}]}}),
                json!({"spec": {"replicas": 0, "n": "", "list": [{"p": "TCP"}]}}),
            ),
        ];
        for (mut given, expected) in cases {
            default(&mut given, &schema);
            assert_eq!(given, expected);
        }
    }

    #[test]
    fn built_in_kinds_get_their_static_defaults() {
        let mut pod = json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80}],
            "livenessProbe": {"httpGet": {"port": 80}}}], "volumes": [{"secret": {"secretName": "s"}}]}});
        default(&mut pod, &builtin("v1", "Pod").unwrap());
        assert_eq!(
            pod,
            json!({"spec": {
            "containers": [{"name": "a", "resources": {}, "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                    "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
            "volumes": [{"secret": {"secretName": "s", "defaultMode": 420}}],
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
            "securityContext": {}, "terminationGracePeriodSeconds": 30}})
        );
    }
}
