//! CEL expressions of the cluster's users: conditions of webhooks, rules of custom schemas.
//!
//! Everything that touches the engine is in here. What it lacks is known: types are not checked before an expression
//! runs, and the cost of a run has no bound but the sizes of expression and object.
//! Source: `k8s.io/apiserver/pkg/cel`.

use std::{collections::HashMap, sync::Arc};

use kube_cel::{
    CompiledSchema, ErrorKind, KubeCelExt, RootContext, Validator,
    cel::{
        Context, Program, Value as Cel,
        objects::{Key, Map},
    },
    compile_schema,
};
use serde_json::Value;
use windlass_crd::field::{self, Error, ErrorList, Path};

use crate::{object, registry::Resource};

/// The longest expression, bytes.
const LENGTH_MAX: usize = 100 << 10;

/// An expression, or why it is none.
pub(crate) type Compiled = Result<Expression, String>;

/// A compiled expression.
#[derive(Debug)]
pub(crate) struct Expression(Program);

impl Expression {
    /// Compiles an expression.
    ///
    /// # Errors
    /// Upstream's beginning of the sentence, and what the parser says.
    pub(crate) fn compile(text: &str) -> Result<Self, String> {
        if text.len() > LENGTH_MAX {
            return Err(format!("compilation failed: the expression is longer than {LENGTH_MAX} bytes"));
        }
        Program::compile(text).map(Self).map_err(|error| format!("compilation failed: {error}"))
    }

    /// Evaluates a condition.
    ///
    /// # Errors
    /// What went wrong, or that the result is no truth.
    pub(crate) fn holds(&self, scope: &Scope) -> Result<bool, String> {
        match self.0.execute(&scope.0) {
            Ok(Cel::Bool(holds)) => Ok(holds),
            Ok(_) => Err("cel expression must evaluate to a bool".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Expression {
    /// Evaluates to a text.
    ///
    /// # Errors
    /// What went wrong, or that the result is no text.
    pub(crate) fn text(&self, scope: &Scope) -> Result<String, String> {
        match self.0.execute(&scope.0) {
            Ok(Cel::String(text)) => Ok(text.to_string()),
            Ok(_) => Err("cel expression must evaluate to a string".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Expression {
    /// Evaluates to texts: a list of them, one that is not empty, or none for null.
    ///
    /// # Errors
    /// What went wrong, or that the result is something else.
    pub(crate) fn texts(&self, scope: &Scope) -> Result<Vec<String>, String> {
        let wrong = || "expression must return a string or a list of strings".to_owned();
        let text = |value: &Cel| match value {
            Cel::String(text) => Ok(text.to_string()),
            _ => Err(wrong()),
        };
        match self.0.execute(&scope.0).map_err(|error| error.to_string())? {
            Cel::Null => Ok(Vec::new()),
            Cel::String(one) if one.is_empty() => Ok(Vec::new()),
            Cel::List(items) => {
                let texts: Result<Vec<String>, String> = items.iter().map(text).collect();
                Ok(texts?.into_iter().filter(|text| !text.is_empty()).collect())
            }
            one => Ok(vec![text(&one)?]),
        }
    }
}

/// The variables that an expression sees.
pub(crate) struct Scope(Context<'static>);

impl Scope {
    /// With Kubernetes' libraries, and these variables.
    pub(crate) fn new(variables: &[(&str, &Value)]) -> Self {
        let mut context = Context::default().with_all();
        for (name, value) in variables {
            context.add_variable_from_value(*name, value_of(value));
        }
        Self(context)
    }

    /// Adds a map of variables, each of which the expressions after it see.
    pub(crate) fn define(&mut self, name: &str, variables: &[(String, Compiled)]) {
        let mut known = HashMap::new();
        self.0.add_variable_from_value(name, Cel::Map(Map { map: Arc::default() }));
        for (variable, expression) in variables {
            // One that cannot be evaluated is missed only by those who use it.
            let Some(value) = expression.as_ref().ok().and_then(|e| e.0.execute(&self.0).ok()) else {
                continue;
            };
            known.insert(Key::String(Arc::new(variable.clone())), value);
            self.0.add_variable_from_value(name, Cel::Map(Map { map: Arc::new(known.clone()) }));
        }
    }
}

/// JSON as CEL sees it: whole numbers are `int`.
fn value_of(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(value) => Cel::Bool(*value),
        Value::Number(number) => {
            number.as_i64().map_or_else(|| Cel::Float(number.as_f64().unwrap_or_default()), Cel::Int)
        }
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(value_of).collect())),
        Value::Object(fields) => {
            let entry =
                |(key, value): (&String, &Value)| (Key::String(Arc::new(key.clone())), value_of(value));
            Cel::Map(Map { map: Arc::new(fields.iter().map(entry).collect::<HashMap<_, _>>()) })
        }
    }
}

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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_see_their_variables_and_kubernetes_libraries() {
        let object = json!({"metadata": {"name": "web-1"}, "spec": {"replicas": 3, "cpu": "500m"}});
        let scope = Scope::new(&[("object", &object), ("oldObject", &Value::Null)]);
        let cases = [
            ("object.spec.replicas + 1 == 4", Ok(true)),
            ("object.metadata.name.startsWith('db')", Ok(false)),
            ("oldObject == null && has(object.spec.cpu)", Ok(true)),
            ("quantity(object.spec.cpu).isLessThan(quantity('1'))", Ok(true)),
            ("object.metadata.name", Err("cel expression must evaluate to a bool")),
        ];
        for (text, expected) in cases {
            let result = Expression::compile(text).unwrap().holds(&scope);
            assert_eq!(result.as_ref().map_err(String::as_str), expected.as_ref().map_err(|e| *e), "{text}");
        }
        assert!(Expression::compile("object.spec.absent == 1").unwrap().holds(&scope).is_err());
        assert!(Expression::compile("object.(").unwrap_err().starts_with("compilation failed: "));
    }
}
