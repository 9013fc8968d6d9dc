//! The rules of a custom kind, held against an object and what it was before.
//!
//! Each rule has a budget of its own and all of one object have one together; when either is used up, no further rule is
//! asked. Source: `k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/validation.go`.

use std::{collections::BTreeMap, sync::Arc};

use kube_cel::cel::{Value as Cel, objects::OptionalValue};
use serde_json::Value;
use windlass_crd::{
    cel::parse,
    field::{self, Error, ErrorList, Path},
};

use super::{Compiled, Expression, Scope, values::typed};
use crate::object;

/// What all rules of one object may cost together.
const OBJECT_MAX: u64 = 10_000_000;

/// The longest text that a rule may make for its message, bytes.
const MESSAGE_BYTES_MAX: usize = 5 << 10;

/// The `x-kubernetes-validations` of a custom schema.
#[derive(Debug)]
pub(crate) struct Rules(Node);

/// What rules have against an object.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) errors: ErrorList,
    /// What was wrong before, and was not touched.
    pub(crate) warnings: Vec<String>,
}

/// A place in a schema at which, or below which, there are rules.
#[derive(Debug)]
struct Node {
    schema: Arc<Value>,
    rules: Vec<Rule>,
    all_of: Vec<Node>,
    properties: BTreeMap<String, Node>,
    items: Option<Box<Node>>,
    values: Option<Box<Node>>,
    /// The fields by which items of a list are told from each other.
    keys: Vec<String>,
}

#[derive(Debug)]
struct Rule {
    text: String,
    expression: Compiled,
    message: String,
    message_expression: Option<Expression>,
    field_path: String,
    reason: String,
    uses_old: bool,
    optional_old: bool,
}

impl Rule {
    fn of(rule: &Value) -> Self {
        let text = |field: &str| object::text(rule, &[field]).trim().to_owned();
        let source = text("rule");
        let message = text("messageExpression");
        Self {
            expression: Expression::compile(&source),
            uses_old: parse(&source).is_ok_and(|node| node.mentions("oldSelf")),
            message_expression: Some(message)
                .filter(|m| !m.is_empty())
                .and_then(|m| Expression::compile(&m).ok()),
            message: text("message"),
            field_path: text("fieldPath").trim_start_matches('.').to_owned(),
            reason: text("reason"),
            optional_old: rule.get("optionalOldSelf") == Some(&Value::Bool(true)),
            text: source,
        }
    }

    /// The rule as messages name it.
    fn shown(&self) -> &str {
        if self.message.is_empty() { &self.text } else { &self.message }
    }
}

impl Node {
    fn of(schema: &Value) -> Option<Self> {
        let below = |key: &str| schema.get(key).filter(|inner| inner.is_object()).and_then(Self::of);
        let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
        let keyed = object::text(schema, &["x-kubernetes-list-type"]) == "map";
        let keys = object::list(schema, &["x-kubernetes-list-map-keys"]).iter().filter(|_| keyed);
        let node = Self {
            rules: object::list(schema, &["x-kubernetes-validations"]).iter().map(Rule::of).collect(),
            all_of: object::list(schema, &["allOf"]).iter().filter_map(Self::of).collect(),
            properties: properties
                .filter_map(|(name, inner)| Some((name.clone(), Self::of(inner)?)))
                .collect(),
            items: below("items").map(Box::new),
            values: below("additionalProperties").map(Box::new),
            keys: keys.filter_map(Value::as_str).map(str::to_owned).collect(),
            schema: Arc::new(Value::Null),
        };
        let is_empty = node.rules.is_empty()
            && node.all_of.is_empty()
            && node.properties.is_empty()
            && node.items.is_none()
            && node.values.is_none();
        if is_empty {
            return None;
        }
        // Only where there are rules is a value looked at as a whole.
        let schema = if node.rules.is_empty() { Arc::clone(&node.schema) } else { Arc::new(schema.clone()) };
        Some(Self { schema, ..node })
    }

    /// The item of the old list that has the keys of this one.
    fn counterpart<'v>(&self, item: &Value, old: Option<&'v Value>) -> Option<&'v Value> {
        if self.keys.is_empty() {
            return None;
        }
        let alike = |other: &&Value| self.keys.iter().all(|key| other.get(key) == item.get(key));
        old?.as_array()?.iter().find(alike)
    }
}

impl Rules {
    /// Compiles the rules of a schema, if it has any.
    pub(crate) fn of(schema: &Value) -> Option<Self> {
        Node::of(schema).map(Self)
    }

    /// Holds an object to the rules; `old` is what it was before.
    pub(crate) fn validate(&self, obj: &Value, old: Option<&Value>) -> Verdict {
        let mut run = Run { scope: Scope::new(&[], None), left: OBJECT_MAX, verdict: Verdict::default() };
        let place = Place { path: field::EMPTY, old, was: None };
        // Whether the budget held or not, all that was found by then is told.
        let _ = run.node(&self.0, obj, &place);
        run.verdict
    }
}

/// Where in the object a value stands, and what stood there before.
struct Place<'v> {
    path: Path,
    old: Option<&'v Value>,
    /// The nearest value around it that has a counterpart in the old object, with that.
    was: Option<(&'v Value, &'v Value)>,
}

/// The budget is used up: nothing further is asked.
struct Spent;

struct Run {
    scope: Scope<'static>,
    left: u64,
    verdict: Verdict,
}

impl Run {
    fn node<'v>(&mut self, node: &Node, value: &'v Value, place: &Place<'v>) -> Result<(), Spent> {
        if value.is_null() {
            return Ok(());
        }
        self.rules(node, value, place)?;
        for branch in &node.all_of {
            self.node(branch, value, &Place { path: place.path.clone(), ..*place })?;
        }
        let was = place.old.map(|old| (value, old)).or(place.was);
        if let (Some(inner), Some(items)) = (&node.items, value.as_array()) {
            for (i, item) in items.iter().enumerate() {
                let old = node.counterpart(item, place.old);
                self.node(inner, item, &Place { path: place.path.index(i), old, was })?;
            }
        }
        for (name, member) in value.as_object().into_iter().flatten() {
            let old = place.old.and_then(|old| old.get(name));
            let (inner, path) = match (node.properties.get(name), &node.values) {
                (Some(inner), _) => (inner, place.path.child(name.clone())),
                (None, Some(inner)) => (&**inner, place.path.key(name.clone())),
                (None, None) => continue,
            };
            self.node(inner, member, &Place { path, old, was })?;
        }
        Ok(())
    }

    fn rules(&mut self, node: &Node, value: &Value, place: &Place<'_>) -> Result<(), Spent> {
        if node.rules.is_empty() {
            return Ok(());
        }
        let this = typed(value, &node.schema, &self.scope);
        let old = place.old.map(|old| typed(old, &node.schema, &self.scope));
        let maybe = old.clone().map_or_else(OptionalValue::none, OptionalValue::of);
        let maybe = Cel::Opaque(Arc::new(maybe));
        // Unchanged, here or around here: whoever writes now has not brought it about.
        let same = match (place.old, place.was) {
            (Some(old), _) => old == value,
            (None, Some((around, before))) => around == before,
            (None, None) => false,
        };
        for rule in &node.rules {
            if rule.uses_old && old.is_none() && !rule.optional_old {
                continue;
            }
            let mut variables = vec![("self", this.clone())];
            match &old {
                _ if rule.optional_old => variables.push(("oldSelf", maybe.clone())),
                Some(old) => variables.push(("oldSelf", old.clone())),
                None => {}
            }
            let told = self.rule(rule, node, value, place, variables)?;
            match told {
                Some(error) if same && !rule.uses_old => self.verdict.warnings.push(error.to_string()),
                told => self.verdict.errors.extend(told),
            }
        }
        Ok(())
    }

    /// What a rule has against a value that it does not let pass. Errors in the rule are told at once.
    fn rule(
        &mut self,
        rule: &Rule,
        node: &Node,
        value: &Value,
        place: &Place<'_>,
        variables: Vec<(&str, Cel)>,
    ) -> Result<Option<Error>, Spent> {
        let ty = object::text(&node.schema, &["type"]).to_owned();
        let path = &place.path;
        let mut tell = |why: String| self.verdict.errors.push(Error::invalid(path, ty.as_str(), why));
        const OUT: &str =
            "validation failed due to running out of cost budget, no further validation rules will be run";
        if self.left == 0 {
            tell(OUT.to_owned());
            return Err(Spent);
        }
        let expression = match &rule.expression {
            Ok(expression) => expression,
            Err(why) => {
                tell(format!("rule compile error: {why}"));
                return Ok(None);
            }
        };
        let scope = self.scope.child_of(variables);
        self.scope.begin();
        let holds = expression.holds(&scope);
        let spent = self.scope.spent() + expression.weight();
        if spent > self.left {
            tell(OUT.to_owned());
            return Err(Spent);
        }
        self.left -= spent;
        match holds {
            Ok(true) => return Ok(None),
            Ok(false) => {}
            Err(why) if why.starts_with("no such overload") => {
                tell(format!(
                    "'{why}': call arguments did not match a supported operator, function or macro signature for rule: {}",
                    rule.shown()
                ));
                return Ok(None);
            }
            Err(why) if why.starts_with("operation cancelled: actual cost limit exceeded") => {
                tell(format!(
                    "'{why}': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                    rule.shown()
                ));
                return Err(Spent);
            }
            Err(why) => {
                tell(format!("{why} evaluating rule: {}", rule.shown()));
                return Ok(None);
            }
        }
        let detail = match &rule.message_expression {
            Some(message) => {
                self.scope.begin();
                let text = message.text(&scope);
                self.left = self.left.saturating_sub(self.scope.spent() + message.weight());
                text.ok().flatten().and_then(|text| sentence(&text))
            }
            None => None,
        };
        let detail = detail.unwrap_or_else(|| match rule.message.as_str() {
            "" => format!("failed rule: {}", rule.shown()),
            message => message.to_owned(),
        });
        let path = match rule.field_path.as_str() {
            "" => place.path.clone(),
            below => place.path.child(below.to_owned()),
        };
        Ok(Some(told(rule, &path, value, detail)))
    }
}

/// A message that an expression made, if it can be one.
fn sentence(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty() && text.len() <= MESSAGE_BYTES_MAX && !text.contains('\n')).then(|| text.to_owned())
}

/// Objects and lists are not shown, whatever is wrong with them.
fn told(rule: &Rule, path: &Path, value: &Value, detail: String) -> Error {
    let whole = value.is_object() || value.is_array();
    match rule.reason.as_str() {
        "FieldValueForbidden" => Error::forbidden(path, detail),
        "FieldValueRequired" => Error::required(path, detail),
        "FieldValueDuplicate" => Error::duplicate(path, value.clone()),
        _ if whole => Error::invalid_unshown(path, detail),
        _ => Error::invalid(path, value.clone(), detail),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn against(schema: &Value, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let verdict = Rules::of(schema).unwrap().validate(obj, old);
        let warnings = verdict.warnings.iter().map(|warning| format!("warning: {warning}"));
        verdict.errors.iter().map(ToString::to_string).chain(warnings).collect()
    }

    fn with(rule: Value) -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-validations": [rule],
        "properties": {
            "n": {"type": "integer"}, "x-y": {"type": "string"}, "when": {"type": "string", "format": "date-time"},
            "ratio": {"type": "number"}, "any": {"x-kubernetes-preserve-unknown-fields": true},
            "list": {"type": "array", "items": {"type": "integer"}},
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
        }}}})
    }

    #[test]
    fn rules_see_objects_by_their_schema() {
        let obj = json!({"spec": {
            "n": 3, "x-y": "t", "when": "2026-01-02T03:04:05Z", "ratio": 2, "list": [5, 6, 7], "map": {"a-b": "c", "d": "e"},
            "any": {"deep": 5},
        }});
        for rule in [
            "self.n == 3 && self.x__dash__y == 't'",
            "self.when < timestamp('2027-01-01T00:00:00Z')",
            "self.ratio / 4.0 == 0.5",
            "self.list.all(i, v, v == i + 5)",
            "self.list.exists(i, v, i == 2 && v == 7) && !self.list.exists(i, v, i == v)",
            "self.list.existsOne(i, v, v > 6) && self.map.exists_one(k, v, k == 'd')",
            "self.list.transformList(i, v, i > 0, v * i) == [6, 14]",
            "self.list.transformMap(i, v, v + i) == {0: 5, 1: 7, 2: 9}",
            "self.map.transformMap(k, v, k != 'd', v + '!') == {'a-b': 'c!'}",
            "self.map.transformMapEntry(k, v, {v: k}) == {'c': 'a-b', 'e': 'd'}",
            "self.list.all(i, v, self.map.all(i, v, v in ['c', 'e']) && i < 3)",
            "self.list.transformList(i, v, [1].map(v, v + i)) == [[1], [2], [3]]",
            "self.?n.optMap(n, n == 3).orValue(false) && self.?none.optMap(n, n == 3).orValue(true)",
            "self.?n.optFlatMap(n, n > 3 ? optional.of(n) : optional.none()).orValue(7) == 7",
            "self.list.all(i, n, self.?n.optMap(n, n == 3).orValue(false) && i < 3)",
            "!has(self.any.other) && self.any.deep == 5",
        ] {
            assert_eq!(against(&with(json!({"rule": rule})), &obj, None), Vec::<String>::new(), "{rule}");
        }
    }

    #[test]
    fn what_fails_is_told_as_upstream_tells_it() {
        let obj = json!({"spec": {"n": 3, "list": [1, 1], "any": {"deep": 5}}});
        let cases = [
            (json!({"rule": "self.n > 3", "message": "too few"}), "spec: Invalid value: too few"),
            (json!({"rule": "self.n > 3"}), "spec: Invalid value: failed rule: self.n > 3"),
            (
                json!({"rule": "self.n > 3", "messageExpression": "'n is ' + string(self.n)", "fieldPath": ".n"}),
                "spec.n: Invalid value: n is 3",
            ),
            (
                json!({"rule": "self.n > 3", "message": "no", "reason": "FieldValueForbidden"}),
                "spec: Forbidden: no",
            ),
            (
                json!({"rule": "self.any.none == 1"}),
                "spec: Invalid value: \"object\": no such key: none evaluating rule: self.any.none == 1",
            ),
            (
                json!({"rule": "self.any.deep.er == 1"}),
                "spec: Invalid value: \"object\": 'no such overload': call arguments did not match a supported operator, \
                 function or macro signature for rule: self.any.deep.er == 1",
            ),
            (
                json!({"rule": "self.n / 0 == 1", "message": "m"}),
                "spec: Invalid value: \"object\": division by zero evaluating rule: m",
            ),
            (
                json!({"rule": "self.list.transformMapEntry(i, v, {v: i}).size() == 2"}),
                "spec: Invalid value: \"object\": insert failed: key '1' already exists evaluating rule: \
                 self.list.transformMapEntry(i, v, {v: i}).size() == 2",
            ),
        ];
        for (rule, wanted) in cases {
            assert_eq!(against(&with(rule.clone()), &obj, None), [wanted], "{rule}");
        }
    }

    #[test]
    fn rules_that_run_too_long_are_stopped() {
        let items: Vec<Value> = (0..2000).map(Value::from).collect();
        let obj = json!({"spec": {"list": items}});
        let square = "self.list.all(a, self.list.all(b, a + b >= 0))";
        assert_eq!(
            against(&with(json!({"rule": square})), &obj, None),
            [format!(
                "spec: Invalid value: \"object\": 'operation cancelled: actual cost limit exceeded': no further validation \
                 rules will be run due to call cost exceeds limit for rule: {square}"
            )]
        );
        let often = json!({"type": "object", "properties": {"l": {"type": "array", "items": {"type": "integer",
            "x-kubernetes-validations": [{"rule": "[1, 2, 3].all(a, [1, 2, 3].all(b, [1, 2, 3, 4, 5, 6, 7].all(c, a + b + c > 0)))"}]}}}});
        let items: Vec<Value> = (0..40_000).map(Value::from).collect();
        let told = against(&often, &json!({"l": items}), None);
        assert_eq!(told.len(), 1);
        assert!(
            told[0].ends_with(
                ": validation failed due to running out of cost budget, no further validation rules will be run"
            ),
            "{told:?}"
        );
    }

    #[test]
    fn old_values_are_found_where_they_can_be() {
        let list = |kind: Value| {
            let mut list = json!({"type": "array", "items": {"type": "object",
                "x-kubernetes-validations": [{"rule": "self.v >= oldSelf.v", "message": "less"}]}});
            list.as_object_mut().unwrap().extend(kind.as_object().unwrap().clone());
            json!({"type": "object", "properties": {"l": list}})
        };
        let keyed = list(json!({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}));
        let (old, new) = (
            json!({"l": [{"k": "a", "v": 5}, {"k": "b", "v": 1}]}),
            json!({"l": [{"k": "b", "v": 2}, {"k": "a", "v": 4}, {"k": "c", "v": 0}]}),
        );
        assert_eq!(against(&keyed, &new, Some(&old)), ["l[1]: Invalid value: less"]);
        assert_eq!(against(&list(json!({})), &new, Some(&old)), Vec::<String>::new());
        let optional = with(
            json!({"rule": "oldSelf.hasValue() || self.n == 1", "optionalOldSelf": true, "message": "first"}),
        );
        let (one, two) = (json!({"spec": {"n": 1}}), json!({"spec": {"n": 2}}));
        assert_eq!(against(&optional, &one, None), Vec::<String>::new());
        assert_eq!(against(&optional, &two, None), ["spec: Invalid value: first"]);
        assert_eq!(against(&optional, &two, Some(&one)), Vec::<String>::new());
        // What was wrong before and is not touched is only warned of.
        let rule = with(json!({"rule": "self.n > 3", "message": "too few"}));
        assert_eq!(against(&rule, &two, Some(&two)), ["warning: spec: Invalid value: too few"]);
    }
}
