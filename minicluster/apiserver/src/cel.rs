//! CEL expressions of the cluster's users: conditions of webhooks, admission policies, rules of custom schemas.
//!
//! Everything that touches the engine is in here. What the engine does not know is put into words that it does
//! ([`rewrite`]): objects that are constructed, and a count of all steps, so that no expression runs without end.
//! Source: `k8s.io/apiserver/pkg/cel`.

mod authorizer;
mod objects;
mod optionals;
mod pairs;
mod rewrite;
mod rules;
mod types;
mod values;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use kube_cel::{
    KubeCelExt,
    cel::{
        Context, ExecutionError, IdedExpr, Value as Cel,
        objects::{Key, Map},
        parser::Parser,
    },
};
use serde_json::{Map as JsonMap, Number, Value};

pub(crate) use authorizer::{Authorizer, Question};
pub(crate) use objects::Rules;
pub(crate) use rules::check_rules;
pub(crate) use types::{Wanted, environment, type_of, with_variables};

/// The longest expression, bytes.
const LENGTH_MAX: usize = 100 << 10;

/// How many parts all loops of the expressions of one scope may run together.
const STEPS_MAX: u64 = 1_000_000;

/// An expression, or why it is none.
pub(crate) type Compiled = Result<Expression, String>;

/// A compiled expression.
#[derive(Debug)]
pub(crate) struct Expression {
    expr: IdedExpr,
    /// How many parts it has: what it costs to run each of them once.
    weight: u64,
}

impl Expression {
    /// Compiles an expression.
    ///
    /// # Errors
    /// Upstream's beginning of the sentence, and what the parser says.
    pub(crate) fn compile(text: &str) -> Result<Self, String> {
        if text.len() > LENGTH_MAX {
            return Err(format!("compilation failed: the expression is longer than {LENGTH_MAX} bytes"));
        }
        let parser = Parser::new().enable_optional_syntax(true);
        let parsed = parser.parse(text).map_err(|error| format!("compilation failed: {error}"))?;
        let expr = rewrite::rewrite(parsed).map_err(|why| format!("compilation failed: {why}"))?;
        Ok(Self { weight: rewrite::weight(&expr), expr })
    }

    /// What it costs at least.
    fn weight(&self) -> u64 {
        self.weight
    }

    fn evaluate(&self, scope: &Scope<'_>) -> Result<Cel, String> {
        Cel::resolve(&self.expr, &scope.context).map_err(|error| scope.told(&error))
    }

    /// Evaluates a condition.
    ///
    /// # Errors
    /// What went wrong, or that the result is no truth.
    pub(crate) fn holds(&self, scope: &Scope<'_>) -> Result<bool, String> {
        match self.evaluate(scope)? {
            Cel::Bool(holds) => Ok(holds),
            _ => Err("cel expression must evaluate to a bool".to_owned()),
        }
    }

    /// Evaluates to a text, or to nothing.
    ///
    /// # Errors
    /// What went wrong, or that the result is no text.
    pub(crate) fn text(&self, scope: &Scope<'_>) -> Result<Option<String>, String> {
        match self.evaluate(scope)? {
            Cel::String(text) => Ok(Some(text.to_string())),
            Cel::Null => Ok(None),
            _ => Err("cel expression must evaluate to a string".to_owned()),
        }
    }

    /// Evaluates to anything that JSON can say.
    ///
    /// # Errors
    /// What went wrong, or what JSON cannot say.
    pub(crate) fn json(&self, scope: &Scope<'_>) -> Result<Value, String> {
        json_of(&self.evaluate(scope)?)
    }

    /// Evaluates to texts: a list of them, one that is not empty, or none for null.
    ///
    /// # Errors
    /// What went wrong, or that the result is something else.
    pub(crate) fn texts(&self, scope: &Scope<'_>) -> Result<Vec<String>, String> {
        let wrong = || "expression must return a string or a list of strings".to_owned();
        let text = |value: &Cel| match value {
            Cel::String(text) => Ok(text.to_string()),
            _ => Err(wrong()),
        };
        match self.evaluate(scope)? {
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
pub(crate) struct Scope<'a> {
    context: Context<'a>,
    /// Variables that could not be evaluated, and why.
    failed: Vec<(String, String)>,
    steps: Arc<AtomicU64>,
}

impl Scope<'static> {
    /// With Kubernetes' libraries, and these variables. All scopes below share one count of steps.
    pub(crate) fn new(variables: &[(&str, &Value)], authorizer: Option<&Authorizer>) -> Self {
        let mut context = Context::default().with_all();
        let steps = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&steps);
        context.add_function(rewrite::STEP, move |parts: i64| -> Result<bool, ExecutionError> {
            match counted.fetch_add(parts.unsigned_abs(), Ordering::Relaxed) {
                taken if taken < STEPS_MAX => Ok(true),
                _ => Err(ExecutionError::function_error("loop", BUDGET)),
            }
        });
        pairs::add_to(&mut context);
        for (name, value) in variables {
            context.add_variable_from_value(*name, value_of(value));
        }
        if let Some(authorizer) = authorizer {
            authorizer.add_to(&mut context);
        }
        Self { context, failed: Vec::new(), steps }
    }
}

/// Upstream's words for an expression that runs too long.
const BUDGET: &str = "operation cancelled: actual cost limit exceeded";

impl Scope<'_> {
    /// A scope below this one, whose variables hide those of the same name above.
    pub(crate) fn child(&self, variables: &[(&str, &Value)]) -> Scope<'_> {
        let mut context = self.context.new_inner_scope();
        for (name, value) in variables {
            context.add_variable_from_value(*name, value_of(value));
        }
        Scope { context, failed: Vec::new(), steps: Arc::clone(&self.steps) }
    }

    /// The same with values that are CEL's already.
    fn child_of(&self, variables: Vec<(&str, Cel)>) -> Scope<'_> {
        let mut context = self.context.new_inner_scope();
        for (name, value) in variables {
            context.add_variable_from_value(name, value);
        }
        Scope { context, failed: Vec::new(), steps: Arc::clone(&self.steps) }
    }

    /// Counts anew.
    fn begin(&self) {
        self.steps.store(0, Ordering::Relaxed);
    }

    /// What loops have taken since.
    fn spent(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Adds a map of variables, each of which the expressions after it see.
    pub(crate) fn define(&mut self, name: &str, variables: &[(String, Compiled)]) {
        let mut known = HashMap::new();
        self.context.add_variable_from_value(name, Cel::Map(Map { map: Arc::default() }));
        for (variable, expression) in variables {
            let value = expression.as_ref().map_err(Clone::clone).and_then(|e| e.evaluate(self));
            match value {
                Ok(value) => {
                    known.insert(Key::String(Arc::new(variable.clone())), value);
                    self.context
                        .add_variable_from_value(name, Cel::Map(Map { map: Arc::new(known.clone()) }));
                }
                // One that cannot be evaluated is missed only by those who use it.
                Err(why) => self.failed.push((variable.clone(), why)),
            }
        }
    }

    /// What a client is told of an error.
    fn told(&self, error: &ExecutionError) -> String {
        match error {
            ExecutionError::NoSuchKey(key) => match self.failed.iter().find(|(name, _)| *name == **key) {
                Some((name, why)) => format!("composited variable \"{name}\" fails to evaluate: {why}"),
                None => format!("no such key: {key}"),
            },
            // Theirs are said in one breath with the name of a function; ours are whole.
            ExecutionError::FunctionError { message, function }
                if message == BUDGET || function.starts_with('@') =>
            {
                message.clone()
            }
            ExecutionError::NoSuchOverload
            | ExecutionError::UnsupportedListIndex(_)
            | ExecutionError::UnsupportedMapIndex(_)
            | ExecutionError::UnsupportedIndex(..)
            | ExecutionError::UnsupportedBinaryOperator(..)
            | ExecutionError::UnsupportedUnaryOperator(..)
            | ExecutionError::ValuesNotComparable(..) => "no such overload".to_owned(),
            ExecutionError::DivisionByZero(_) => "division by zero".to_owned(),
            ExecutionError::RemainderByZero(_) => "modulus by zero".to_owned(),
            ExecutionError::Overflow(..) => "integer overflow".to_owned(),
            ExecutionError::IndexOutOfBounds(Cel::Int(at)) => format!("index out of bounds: {at}"),
            other => other.to_string(),
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

/// What an expression made, as JSON.
fn json_of(value: &Cel) -> Result<Value, String> {
    let cannot = |what: &str| format!("a {what} cannot be written as JSON");
    Ok(match value {
        Cel::Null => Value::Null,
        Cel::Bool(value) => Value::Bool(*value),
        Cel::Int(number) => Value::from(*number),
        Cel::UInt(number) => Value::from(*number),
        Cel::Float(number) => Value::Number(Number::from_f64(*number).ok_or_else(|| cannot("number"))?),
        Cel::String(text) => Value::String(text.to_string()),
        Cel::List(items) => Value::Array(items.iter().map(json_of).collect::<Result<_, _>>()?),
        Cel::Map(map) => {
            let mut fields: Vec<(String, Value)> = Vec::with_capacity(map.map.len());
            for (key, value) in map.map.iter() {
                let Key::String(key) = key else { return Err(cannot("map key that is no string")) };
                fields.push((key.to_string(), json_of(value)?));
            }
            // A map has no order of its own, and what is stored needs one.
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(fields.into_iter().collect::<JsonMap<_, _>>())
        }
        other => return Err(cannot(&other.type_of().to_string())),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_see_their_variables_and_kubernetes_libraries() {
        let object = json!({"metadata": {"name": "web-1"}, "spec": {"replicas": 3, "cpu": "500m"}});
        let scope = Scope::new(&[("object", &object), ("oldObject", &Value::Null)], None);
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
