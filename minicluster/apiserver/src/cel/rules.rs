//! `x-kubernetes-validations`: what the rules of custom schemas have to be. They are asked in [`super::objects`].

use serde_json::Value;
use windlass_crd::{
    cel::{Env, Node, Type, check, cost, of_schema, parse, shown},
    field::{self, Error, ErrorList, Path},
    schema::{self, Additional, Schema},
};

use crate::object;

/// The rules of a schema have to be expressions of the right types, and not too dear.
pub(crate) fn check_rules(schema: &Value, path: &Path, errors: &mut ErrorList) {
    let mut check = Check { total: 0, dearest: Vec::new(), errors };
    // A schema that is none is told elsewhere.
    let model = schema::from_crd(schema).ok();
    let place = Place { model: model.as_deref(), root: true, times: 1, uncorrelated: None };
    check.node(schema, path, &place);
    check.sum(path);
}

/// A rule as upstream's errors show it.
fn internal(rule: &Value) -> String {
    let text = |field: &str| field::json(&object::text(rule, &[field]).into());
    let given = |field: &str| field::json(&rule.get(field).cloned().unwrap_or_default());
    format!(
        "{{\"Rule\":{},\"Message\":{},\"MessageExpression\":{},\"Reason\":{},\"FieldPath\":{},\"OptionalOldSelf\":{}}}",
        text("rule"),
        text("message"),
        text("messageExpression"),
        given("reason"),
        text("fieldPath"),
        given("optionalOldSelf"),
    )
}

/// Where in a schema a rule stands.
struct Place<'s> {
    model: Option<&'s Schema>,
    root: bool,
    /// How often the rule runs at most for one object.
    times: u64,
    /// The list whose items cannot be told from those of the old object.
    uncorrelated: Option<Path>,
}

impl Place<'_> {
    fn below<'s>(&self, model: Option<&'s Schema>, turns: u64, uncorrelated: Option<Path>) -> Place<'s> {
        Place { model, root: false, times: self.times.saturating_mul(turns), uncorrelated }
    }
}

/// How many of the dearest rules are told when all together are too dear.
const DEAREST: usize = 4;

struct Check<'e> {
    total: u64,
    dearest: Vec<(u64, Path)>,
    errors: &'e mut ErrorList,
}

impl Check<'_> {
    fn node(&mut self, schema: &Value, path: &Path, place: &Place<'_>) {
        let rules = object::list(schema, &["x-kubernetes-validations"]);
        if !rules.is_empty() {
            let ty = place.model.map(|model| of_schema(model, "self", place.root));
            for (i, rule) in rules.iter().enumerate() {
                let path = path.child("x-kubernetes-validations").index(i);
                self.words(rule, &path);
                if let Some(ty) = &ty {
                    self.rule(rule, ty, &path, place);
                }
            }
        }
        let turns = || place.model.and_then(|model| of_schema(model, "self", false).size_max()).unwrap_or(1);
        let uncorrelated = || place.uncorrelated.clone();
        if let Some(items) = schema.get("items").filter(|items| has_rules(items)) {
            let keyed = object::text(schema, &["x-kubernetes-list-type"]) == "map";
            let lost = uncorrelated().or_else(|| (!keyed).then(|| path.child("items")));
            let model = place.model.and_then(Schema::items);
            self.node(items, &path.child("items"), &place.below(model, turns(), lost));
        }
        if let Some(values) = schema.get("additionalProperties").filter(|values| has_rules(values)) {
            let model = place.model.and_then(|model| match model.additional() {
                Additional::Schema(values) => Some(&**values),
                _ => None,
            });
            let below = place.below(model, turns(), uncorrelated());
            self.node(values, &path.child("additionalProperties"), &below);
        }
        for (name, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            if has_rules(inner) {
                let model = place.model.and_then(|model| model.property(name));
                let below = place.below(model, 1, uncorrelated());
                self.node(inner, &path.child("properties").key(name), &below);
            }
        }
    }

    /// What is wrong with a rule before it is looked at as an expression.
    fn words(&mut self, rule: &Value, path: &Path) {
        const REASONS: [&str; 4] =
            ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
        let text = |field: &str| object::text(rule, &[field]);
        let given = |field: &str| !text(field).is_empty();
        let blank = |field: &str| given(field) && text(field).trim().is_empty();
        let broken = |field: &str| text(field).trim().contains(['\n', '\r']);
        let message = path.child("message");
        if text("rule").trim().is_empty() {
            self.errors.push(Error::required(path.child("rule"), "rule is not specified"));
        } else if blank("message") {
            self.errors.push(Error::invalid(message, text("message"), "must be non-empty if specified"));
        } else if broken("message") {
            self.errors.push(Error::invalid(message, text("message"), "must not contain line breaks"));
        } else if broken("rule") && text("message").trim().is_empty() {
            let why = "message must be specified if rule contains line breaks";
            self.errors.push(Error::required(message, why));
        }
        if blank("messageExpression") {
            let why = "messageExpression must be non-empty if specified";
            self.errors.push(Error::required(path.child("messageExpression"), why));
        }
        if given("reason") && !REASONS.contains(&text("reason")) {
            self.errors.push(Error::not_supported(path.child("reason"), text("reason"), &REASONS));
        }
    }

    fn rule(&mut self, rule: &Value, ty: &Type, path: &Path, place: &Place<'_>) {
        let flag = rule.get("optionalOldSelf");
        let old = if flag == Some(&Value::Bool(true)) { Type::optional(ty.clone()) } else { ty.clone() };
        let env = Env::new(&[("self", ty.clone()), ("oldSelf", old)]);
        let text = object::text(rule, &["rule"]);
        let message = object::text(rule, &["messageExpression"]);
        if text.trim().is_empty() {
            return;
        }
        let before = self.errors.len();
        let found = self.expression(text, &env, "", &Type::Bool, &path.child("rule"));
        for error in &mut self.errors[before..] {
            error.shown = Some(internal(rule));
        }
        let Some(node) = found else { return };
        let spent = cost::estimate(&node, &env).saturating_mul(place.times);
        self.observe(spent, "estimated rule cost", path.child("rule"));
        if node.mentions("oldSelf") {
            if let Some(lost) = &place.uncorrelated {
                let why = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {lost}"
                );
                self.errors.push(Error::invalid(path.child("rule"), text, why));
            }
        } else if let Some(flag) = flag {
            let why = "may not be set if oldSelf is not used in rule";
            self.errors.push(Error::invalid(path.child("optionalOldSelf"), flag.clone(), why));
        }
        if !message.trim().is_empty() {
            let at = path.child("messageExpression");
            if let Some(node) = self.expression(message, &env, "messageExpression ", &Type::STRING, &at) {
                let spent = cost::estimate(&node, &env).saturating_mul(place.times);
                self.observe(spent, "estimated messageExpression cost", at);
            }
        }
    }

    fn expression(&mut self, text: &str, env: &Env, what: &str, wanted: &Type, at: &Path) -> Option<Node> {
        let found = parse(text).and_then(|node| check(&node, env).map(|ty| (node, ty)));
        match found {
            Ok((node, ty)) if std::mem::discriminant(&ty) == std::mem::discriminant(wanted) => {
                return Some(node);
            }
            Ok(_) if what.is_empty() => {
                self.errors.push(Error::invalid(at, text, "cel expression must evaluate to a bool"));
            }
            Ok(_) => self.errors.push(Error::invalid(at, text, format!("{what}must evaluate to a string"))),
            Err(issues) => {
                let why = format!("{what}compilation failed: {}", shown(text, &issues));
                self.errors.push(Error::invalid(at, text, why));
            }
        }
        None
    }

    fn observe(&mut self, spent: u64, what: &str, at: Path) {
        if spent > cost::EXPRESSION_MAX {
            self.errors.push(Error::forbidden(&at, exceeds(what, spent, cost::EXPRESSION_MAX)));
        }
        self.total = self.total.saturating_add(spent);
        self.dearest.push((spent, at));
        self.dearest.sort_by_key(|(spent, _)| std::cmp::Reverse(*spent));
        self.dearest.truncate(DEAREST);
    }

    fn sum(&mut self, path: &Path) {
        if self.total <= cost::DEFINITION_MAX {
            return;
        }
        for (_, at) in &self.dearest {
            let why =
                "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            self.errors.push(Error::forbidden(at, why));
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        self.errors.push(Error::forbidden(path, exceeds(what, self.total, cost::DEFINITION_MAX)));
    }
}

fn exceeds(what: &str, spent: u64, allowed: u64) -> String {
    let factor = cost::factor(spent, allowed);
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
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
    use windlass_crd::field;

    use super::*;

    fn told(schema: &Value) -> String {
        let mut errors = ErrorList::new();
        check_rules(schema, &field::root("s"), &mut errors);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn rules_are_held_to_their_schema() {
        let shown = |rule: &str| {
            format!(
                "{{\"Rule\":\"{rule}\",\"Message\":\"\",\"MessageExpression\":\"\",\"Reason\":null,\"FieldPath\":\"\",\
                 \"OptionalOldSelf\":null}}"
            )
        };
        let with = |rule: Value| {
            json!({"type": "object", "properties": {"n": {"type": "integer"}, "s": {"type": "string", "maxLength": 9}},
                "x-kubernetes-validations": [rule]})
        };
        let at = "s.x-kubernetes-validations[0]";
        let cases = [
            (
                json!({"rule": "self.n > 1 && self.s != oldSelf.s", "messageExpression": "self.s"}),
                String::new(),
            ),
            (json!({"rule": " "}), format!("{at}.rule: Required value: rule is not specified")),
            (
                json!({"rule": "self.absent"}),
                format!(
                    "{at}.rule: Invalid value: {}: compilation failed: ERROR: <input>:1:5: undefined field 'absent'\n | \
                     self.absent\n | ....^",
                    shown("self.absent")
                ),
            ),
            (
                json!({"rule": "self.n"}),
                format!(
                    "{at}.rule: Invalid value: {}: cel expression must evaluate to a bool",
                    shown("self.n")
                ),
            ),
            (
                json!({"rule": "true", "messageExpression": "1"}),
                format!(
                    "{at}.messageExpression: Invalid value: \"1\": messageExpression must evaluate to a string"
                ),
            ),
            (
                json!({"rule": "true", "optionalOldSelf": true}),
                format!(
                    "{at}.optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule"
                ),
            ),
            (
                json!({"rule": "true", "reason": "Odd"}),
                format!(
                    "{at}.reason: Unsupported value: \"Odd\": supported values: \"FieldValueDuplicate\", \
                     \"FieldValueForbidden\", \"FieldValueInvalid\", \"FieldValueRequired\""
                ),
            ),
        ];
        for (rule, expected) in cases {
            assert_eq!(told(&with(rule.clone())), expected, "{rule}");
        }
    }

    #[test]
    fn rules_that_could_run_without_end_are_refused() {
        let list = |more: Value, rule: &str| {
            let mut list = json!({"type": "array", "items": {"type": "string"},
                "x-kubernetes-validations": [{"rule": rule}]});
            for (field, value) in more.as_object().unwrap() {
                list[field] = value.clone();
            }
            json!({"type": "object", "properties": {"l": list}})
        };
        let square = "self.all(a, self.all(b, a == b))";
        assert!(told(&list(json!({}), square)).starts_with(
            "s.properties[l].x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of \
             more than 100x (try simplifying the rule"
        ));
        let small = json!({"maxItems": 10, "items": {"type": "string", "maxLength": 10}});
        assert_eq!(told(&list(small, square)), "");
        let items = json!({"type": "array", "items": {"type": "string", "maxLength": 3,
            "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}, "maxItems": 5});
        assert_eq!(
            told(&json!({"type": "object", "properties": {"l": items}})),
            "s.properties[l].items.x-kubernetes-validations[0].rule: Invalid value: \"self == oldSelf\": oldSelf cannot be \
             used on the uncorrelatable portion of the schema within s.properties[l].items"
        );
    }
}
