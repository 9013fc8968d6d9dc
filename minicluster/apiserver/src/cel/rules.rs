//! `x-kubernetes-validations`: the rules of custom schemas.

use kube_cel::{CompiledSchema, ErrorKind, RootContext, Validator, compile_schema};
use serde_json::Value;
use windlass_crd::field::{self, Error, ErrorList, Path};

use super::Expression;
use crate::{object, registry::Resource};

/// The `x-kubernetes-validations` of a custom schema.
#[derive(Debug)]
pub(crate) struct Rules(CompiledSchema);

impl Rules {
    /// Compiles the rules of a schema, if it has any.
    pub(crate) fn of(schema: &Value) -> Option<Self> {
        has_rules(schema).then(|| Self(compile_schema(schema)))
    }

    /// Holds an object to the rules; `old` is what it was before.
    pub(crate) fn validate(&self, resource: &Resource, obj: &Value, old: Option<&Value>) -> ErrorList {
        let root = RootContext {
            api_version: resource.api_version(),
            api_group: resource.group.to_string(),
            kind: resource.kind.to_string(),
        };
        let checked = Validator::new().validate_compiled_with_context(&self.0, obj, old, Some(&root));
        let Err(errors) = checked else { return ErrorList::new() };
        errors.into_vec().into_iter().map(|error| told(obj, error)).collect()
    }
}

/// An error as upstream tells it: with the kind of value where the rule stands.
fn told(obj: &Value, error: kube_cel::ValidationError) -> Error {
    let steps: Vec<&str> = error.field_path.split('.').filter(|step| !step.is_empty()).collect();
    let path = match steps.as_slice() {
        [] => field::EMPTY.clone(),
        _ => field::root(error.field_path.clone()),
    };
    let value = object::at(obj, &steps);
    let shown = match value {
        Some(Value::Object(_)) => "object".into(),
        Some(Value::Array(_)) => "array".into(),
        Some(other) => other.clone(),
        None => "object".into(),
    };
    match (error.kind, error.reason.as_deref()) {
        (ErrorKind::ValidationFailure, Some("FieldValueForbidden")) => Error::forbidden(path, error.message),
        (ErrorKind::ValidationFailure, Some("FieldValueRequired")) => Error::required(path, error.message),
        (ErrorKind::ValidationFailure, Some("FieldValueDuplicate")) => Error::duplicate(path, shown),
        _ => Error::invalid(path, shown, error.message),
    }
}

/// The rules of a schema have to be expressions.
pub(crate) fn check_rules(schema: &Value, path: &Path, errors: &mut ErrorList) {
    let rules = object::list(schema, &["x-kubernetes-validations"]);
    for (i, rule) in rules.iter().enumerate() {
        let path = path.child("x-kubernetes-validations").index(i);
        for (field, required) in [("rule", true), ("messageExpression", false)] {
            let text = object::text(rule, &[field]);
            if text.trim().is_empty() {
                if required {
                    errors.push(Error::required(path.child(field), "rule is not specified"));
                }
            } else if let Err(why) = Expression::compile(text) {
                errors.push(Error::invalid(path.child(field), text, why));
            }
        }
    }
    for field in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(field) {
            check_rules(inner, &path.child(field), errors);
        }
    }
    for (name, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        check_rules(inner, &path.child("properties").key(name), errors);
    }
}

fn has_rules(schema: &Value) -> bool {
    match schema {
        Value::Object(map) => map.contains_key("x-kubernetes-validations") || map.values().any(has_rules),
        Value::Array(items) => items.iter().any(has_rules),
        _ => false,
    }
}
