//! Custom objects as expressions see them: by the types of their schema, under names that CEL can say.
//!
//! Source: `k8s.io/apiserver/pkg/cel/common/values.go`.

use std::{collections::HashMap, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use kube_cel::cel::{
    Value as Cel,
    objects::{Key, Map},
};
use serde_json::Value;
use windlass_crd::cel::escape;

use super::{Expression, Scope, value_of};
use crate::object;

/// A value of a schema. `scope` knows the functions that read times.
pub(super) fn typed(value: &Value, schema: &Value, scope: &Scope<'_>) -> Cel {
    if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        return value_of(value);
    }
    match value {
        Value::Object(fields) => {
            let properties = schema.get("properties");
            let rest = schema.get("additionalProperties").filter(|rest| rest.is_object());
            let entry = |(name, value): (&String, &Value)| {
                let own = properties.and_then(|all| all.get(name));
                let value = match own.or(rest) {
                    Some(schema) => typed(value, schema, scope),
                    None => value_of(value),
                };
                // Keys of maps are the users' own; names of fields have to be names in CEL.
                let key = if own.is_some() || rest.is_none() { escape(name) } else { None };
                (Key::String(Arc::new(key.unwrap_or_else(|| name.clone()))), value)
            };
            Cel::Map(Map { map: Arc::new(fields.iter().map(entry).collect::<HashMap<_, _>>()) })
        }
        Value::Array(items) => {
            let of_items = schema.get("items").unwrap_or(&Value::Null);
            Cel::List(Arc::new(items.iter().map(|item| typed(item, of_items, scope)).collect()))
        }
        // A number that happens to be whole is a number still.
        Value::Number(number) if object::text(schema, &["type"]) == "number" => {
            Cel::Float(number.as_f64().unwrap_or_default())
        }
        Value::String(text) => formatted(text, object::text(schema, &["format"]), scope),
        other => value_of(other),
    }
}

fn formatted(text: &str, format: &str, scope: &Scope<'_>) -> Cel {
    let plain = || Cel::String(Arc::new(text.to_owned()));
    let read = |function: &str, text: &str| {
        let expression = Expression::compile(&format!("{function}(text)")).ok()?;
        expression.evaluate(&scope.child(&[("text", &Value::from(text))])).ok()
    };
    match format {
        "byte" => STANDARD.decode(text).map_or_else(|_| plain(), |bytes| Cel::Bytes(Arc::new(bytes))),
        "date-time" => read("timestamp", text).unwrap_or_else(plain),
        "date" => read("timestamp", &format!("{text}T00:00:00Z")).unwrap_or_else(plain),
        "duration" => read("duration", text).unwrap_or_else(plain),
        _ => plain(),
    }
}
