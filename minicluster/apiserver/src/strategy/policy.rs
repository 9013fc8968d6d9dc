//! Admission policies, their bindings, and the conditions of webhooks: their words, and their expressions with types.
//!
//! Source: `pkg/apis/admissionregistration/validation`.

use std::collections::BTreeSet;

use serde_json::Value;
use windlass_crd::{
    cel::{Env, Fields, Type, is_reserved},
    field::{self, Error, ErrorList, Path},
    name,
    selector::validate_label_selector,
};

use crate::{
    cel::{Wanted, environment, type_of, with_variables},
    object,
};

/// The most match conditions of a webhook or policy.
const CONDITIONS_MAX: usize = 64;
/// The most audit annotations of a policy.
const ANNOTATIONS_MAX: usize = 20;
/// The longest expression of an audit annotation, bytes.
const ANNOTATION_BYTES_MAX: usize = 5 * 1024;

/// The conditions of webhooks.
pub(super) fn webhooks(obj: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let env = environment(Type::Dyn, None, true);
    for (i, hook) in object::list(obj, &["webhooks"]).iter().enumerate() {
        let path = field::root("webhooks").index(i).child("matchConditions");
        conditions(object::list(hook, &["matchConditions"]), &env, &path, &mut errors);
    }
    errors
}

fn conditions(all: &[Value], env: &Env, path: &Path, errors: &mut ErrorList) {
    if all.len() > CONDITIONS_MAX {
        errors.push(Error::too_many(path, all.len(), CONDITIONS_MAX));
    }
    let mut names = BTreeSet::new();
    for (i, condition) in all.iter().enumerate() {
        let path = path.index(i);
        let (name, text) =
            (object::text(condition, &["name"]), object::text(condition, &["expression"]).trim());
        expression(text, env, Wanted::Bool, "", &path.child("expression"), errors);
        if name.is_empty() {
            errors.push(Error::required(path.child("name"), ""));
            continue;
        }
        let faults = name::qualified_name_faults(name);
        errors.extend(faults.into_iter().map(|why| Error::invalid(path.child("name"), name, why)));
        if !names.insert(name) {
            errors.push(Error::duplicate(path.child("name"), name));
        }
    }
}

/// `missing`: what is said of an expression that is not there.
fn expression(text: &str, env: &Env, wanted: Wanted, missing: &str, path: &Path, errors: &mut ErrorList) {
    if text.trim().is_empty() {
        errors.push(Error::required(path, missing));
    } else if let Err(why) = type_of(text, env, wanted) {
        errors.push(Error::invalid(path, text, why));
    }
}

/// What both kinds of policy have, and the variables that their expressions see.
fn common(spec: &Value, path: &Path, errors: &mut ErrorList) -> Env {
    const POLICIES: [&str; 2] = ["Fail", "Ignore"];
    let given = object::text(spec, &["failurePolicy"]);
    if given.is_empty() {
        errors.push(Error::required(path.child("failurePolicy"), ""));
    } else if !POLICIES.contains(&given) {
        errors.push(Error::not_supported(path.child("failurePolicy"), given, &POLICIES));
    }
    let kind = object::at(spec, &["paramKind"]);
    if let Some(kind) = kind {
        parameter_kind(kind, &path.child("paramKind"), errors);
    }
    let at = path.child("matchConstraints");
    match object::at(spec, &["matchConstraints"]) {
        None => errors.push(Error::required(&at, "")),
        Some(constraints) => {
            resources(constraints, &at, errors);
            if object::list(constraints, &["resourceRules"]).is_empty() {
                errors.push(Error::required(at.child("resourceRules"), ""));
            }
        }
    }
    let env = environment(Type::Dyn, kind.map(|_| Type::Dyn), true);
    let at = path.child("matchConditions");
    conditions(object::list(spec, &["matchConditions"]), &env, &at, errors);
    variables(spec, &env, path, errors)
}

/// The variables that are composed, each of which sees those before it.
fn variables(spec: &Value, env: &Env, path: &Path, errors: &mut ErrorList) -> Env {
    let mut known = Fields { name: "kubernetes.variables".to_owned(), ..Fields::default() };
    let mut env = with_variables(env, &known);
    for (i, variable) in object::list(spec, &["variables"]).iter().enumerate() {
        let path = path.child("variables").index(i);
        let (name, text) = (object::text(variable, &["name"]), object::text(variable, &["expression"]));
        if name.trim().is_empty() {
            errors.push(Error::required(path.child("name"), "name is not specified"));
        } else if !is_identifier(name) {
            errors.push(Error::invalid(path.child("name"), name, "must be a valid CEL identifier"));
        }
        if text.trim().is_empty() {
            errors.push(Error::required(path.child("expression"), "expression is not specified"));
            continue;
        }
        let ty = type_of(text, &env, Wanted::Any).unwrap_or_else(|why| {
            errors.push(Error::invalid(path.child("expression"), text, why));
            Type::Dyn
        });
        known.fields.insert(name.to_owned(), (ty, true));
        env = with_variables(&env, &known);
    }
    env
}

fn is_identifier(name: &str) -> bool {
    let starts = name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic());
    starts && name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric()) && !is_reserved(name)
}

fn parameter_kind(kind: &Value, path: &Path, errors: &mut ErrorList) {
    let (api_version, name) = (object::text(kind, &["apiVersion"]), object::text(kind, &["kind"]));
    let at = path.child("apiVersion");
    if api_version.is_empty() {
        errors.push(Error::required(&at, ""));
    } else if api_version.matches('/').count() > 1 {
        errors.push(Error::invalid(
            &at,
            api_version,
            format!("unexpected GroupVersion string: {api_version}"),
        ));
    } else {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        if !group.is_empty() {
            let faults = name::dns1123_subdomain_faults(group);
            errors.extend(faults.into_iter().map(|why| Error::invalid(&at, group, why)));
        }
        if version.is_empty() {
            errors.push(Error::invalid(&at, api_version, "version must be specified"));
        } else {
            let faults = name::dns1035_label_faults(version);
            errors.extend(faults.into_iter().map(|why| Error::invalid(&at, version, why)));
        }
    }
    if name.is_empty() {
        errors.push(Error::required(path.child("kind"), ""));
    } else {
        let faults = name::dns1035_label_faults(&name.to_lowercase());
        let said = |why| format!("may have mixed case, but should otherwise match: {why}");
        errors.extend(faults.into_iter().map(|why| Error::invalid(path.child("kind"), name, said(why))));
    }
}

fn resources(constraints: &Value, path: &Path, errors: &mut ErrorList) {
    const POLICIES: [&str; 2] = ["Equivalent", "Exact"];
    let given = object::text(constraints, &["matchPolicy"]);
    if !given.is_empty() && !POLICIES.contains(&given) {
        errors.push(Error::not_supported(path.child("matchPolicy"), given, &POLICIES));
    }
    for field in ["namespaceSelector", "objectSelector"] {
        if let Some(selector) = object::at(constraints, &[field]) {
            errors.extend(validate_label_selector(selector, &path.child(field)));
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        for (i, rule) in object::list(constraints, &[field]).iter().enumerate() {
            let path = path.child(field).index(i);
            for part in ["operations", "apiGroups", "apiVersions", "resources"] {
                if object::list(rule, &[part]).is_empty() {
                    errors.push(Error::required(path.child(part), ""));
                }
            }
        }
    }
}

/// A ValidatingAdmissionPolicy.
pub(super) fn validating(obj: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = field::root("spec");
    let empty = Value::Null;
    let spec = obj.get("spec").unwrap_or(&empty);
    let env = common(spec, &path, &mut errors);
    let (validations, annotations) =
        (object::list(spec, &["validations"]), object::list(spec, &["auditAnnotations"]));
    if validations.is_empty() && annotations.is_empty() {
        let why = "validations or auditAnnotations must contain at least one item";
        errors.push(Error::required(path.child("validations"), why));
        errors.push(Error::required(path.child("auditAnnotations"), why));
    }
    for (i, one) in validations.iter().enumerate() {
        validation(one, &env, &path.child("validations").index(i), &mut errors);
    }
    let at = path.child("auditAnnotations");
    if annotations.len() > ANNOTATIONS_MAX {
        let why = format!("must not have more than {ANNOTATIONS_MAX} auditAnnotations");
        errors.push(Error::invalid(&at, annotations.to_vec(), why));
    }
    let mut keys = BTreeSet::new();
    for (i, annotation) in annotations.iter().enumerate() {
        let at = at.index(i);
        let (key, text) =
            (object::text(annotation, &["key"]), object::text(annotation, &["valueExpression"]).trim());
        let whole = format!("{}/{key}", object::name(obj));
        let faults = name::qualified_name_faults(&whole);
        errors.extend(faults.into_iter().map(|why| Error::invalid(at.child("key"), whole.as_str(), why)));
        let value = at.child("valueExpression");
        if text.len() > ANNOTATION_BYTES_MAX {
            let why = format!("must not exceed {ANNOTATION_BYTES_MAX} bytes in length");
            errors.push(Error::required(value, why));
        } else {
            let missing = "valueExpression is not specified";
            expression(text, &env, Wanted::TextOrNull, missing, &value, &mut errors);
        }
        if !keys.insert(key) {
            errors.push(Error::duplicate(at.child("key"), key));
        }
    }
    errors
}

fn validation(one: &Value, env: &Env, path: &Path, errors: &mut ErrorList) {
    const REASONS: [&str; 4] = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
    let text = |field: &str| object::text(one, &[field]);
    let missing = "expression is not specified";
    expression(text("expression"), env, Wanted::Bool, missing, &path.child("expression"), errors);
    let (made, message) = (text("messageExpression"), text("message"));
    if !made.is_empty() && made.trim().is_empty() {
        let at = path.child("messageExpression");
        errors.push(Error::invalid(at, made, "must be non-empty if specified"));
    } else if !made.is_empty() {
        // Who may do what is nothing to be put into messages.
        let mut env = env.clone();
        env.variables.retain(|name, _| !name.starts_with("authorizer"));
        expression(made, &env, Wanted::Text, "", &path.child("messageExpression"), errors);
    }
    if !message.is_empty() && message.trim().is_empty() {
        errors.push(Error::invalid(path.child("message"), message, "must be non-empty if specified"));
    } else if message.trim().contains(['\n', '\r']) {
        errors.push(Error::invalid(path.child("message"), message, "must not contain line breaks"));
    }
    if !text("reason").is_empty() && !REASONS.contains(&text("reason")) {
        errors.push(Error::not_supported(path.child("reason"), text("reason"), &REASONS));
    }
}

/// Only what is written can be changed.
const MUTABLE: [&str; 2] = ["CREATE", "UPDATE"];

fn mutable_operations(constraints: Option<&Value>, path: &Path, errors: &mut ErrorList) {
    let path = path.child("resourceRules").child("operations");
    for rule in constraints.map_or(&[][..], |c| object::list(c, &["resourceRules"])) {
        for operation in object::list(rule, &["operations"]).iter().filter_map(Value::as_str) {
            if !MUTABLE.contains(&operation) {
                errors.push(Error::not_supported(&path, operation, &MUTABLE));
            }
        }
    }
}

/// A MutatingAdmissionPolicy.
pub(super) fn mutating(obj: &Value) -> ErrorList {
    const KINDS: [&str; 2] = ["ApplyConfiguration", "JSONPatch"];
    const AGAIN: [&str; 2] = ["IfNeeded", "Never"];
    let mut errors = ErrorList::new();
    let path = field::root("spec");
    let empty = Value::Null;
    let spec = obj.get("spec").unwrap_or(&empty);
    let env = Env { constructs: true, ..common(spec, &path, &mut errors) };
    let constraints = object::at(spec, &["matchConstraints"]);
    mutable_operations(constraints, &path.child("matchConstraints"), &mut errors);
    let mutations = object::list(spec, &["mutations"]);
    if mutations.is_empty() {
        errors.push(Error::required(path.child("mutations"), "mutations must contain at least one item"));
    }
    for (i, mutation) in mutations.iter().enumerate() {
        let path = path.child("mutations").index(i);
        let kind = object::text(mutation, &["patchType"]);
        let (own, other, wanted) = match kind {
            "" => {
                errors.push(Error::required(path.child("patchType"), ""));
                continue;
            }
            "JSONPatch" => ("jsonPatch", "applyConfiguration", Wanted::Patches),
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch", Wanted::Object),
            _ => {
                errors.push(Error::not_supported(path.child("patchType"), kind, &KINDS));
                continue;
            }
        };
        match object::at(mutation, &[own]) {
            None => {
                let why = format!("must be specified when patchType is {kind}");
                errors.push(Error::required(path.child(own), why));
            }
            Some(holder) => {
                let text = object::text(holder, &["expression"]).trim();
                expression(text, &env, wanted, "", &path.child(own).child("expression"), &mut errors);
            }
        }
        if object::at(mutation, &[other]).is_some() {
            let why = format!("must not be specified when patchType is {kind}");
            errors.push(Error::invalid(path.child(other), format!("{{{other}}}"), why));
        }
    }
    let again = object::text(spec, &["reinvocationPolicy"]);
    if again.is_empty() {
        errors.push(Error::required(path.child("reinvocationPolicy"), ""));
    } else if !AGAIN.contains(&again) {
        errors.push(Error::not_supported(path.child("reinvocationPolicy"), again, &AGAIN));
    }
    errors
}

fn binding(obj: &Value, errors: &mut ErrorList) -> Path {
    let path = field::root("spec");
    let policy = object::text(obj, &["spec", "policyName"]);
    if policy.is_empty() {
        errors.push(Error::required(path.child("policyName"), ""));
    } else {
        let faults = name::dns1123_subdomain_faults(policy);
        errors.extend(faults.into_iter().map(|why| Error::invalid(path.child("policyName"), policy, why)));
    }
    if let Some(reference) = object::at(obj, &["spec", "paramRef"]) {
        parameter_reference(reference, &path.child("paramRef"), errors);
    }
    if let Some(constraints) = object::at(obj, &["spec", "matchResources"]) {
        resources(constraints, &path.child("matchResources"), errors);
    }
    path
}

fn parameter_reference(reference: &Value, path: &Path, errors: &mut ErrorList) {
    const ACTIONS: [&str; 2] = ["Deny", "Allow"];
    const BOTH: &str = "name and selector are mutually exclusive";
    let (name, selector) = (object::text(reference, &["name"]), object::at(reference, &["selector"]));
    if !name.is_empty() {
        let faults = name::path_segment_faults(name);
        errors.extend(faults.into_iter().map(|why| Error::invalid(path.child("name"), name, why)));
        if selector.is_some() {
            errors.push(Error::forbidden(path.child("name"), BOTH));
        }
    }
    if let Some(selector) = selector {
        errors.extend(validate_label_selector(selector, &path.child("selector")));
        if !name.is_empty() {
            errors.push(Error::forbidden(path.child("selector"), BOTH));
        }
    } else if name.is_empty() {
        errors.push(Error::required(path, "one of name or selector must be specified"));
    }
    let action = object::text(reference, &["parameterNotFoundAction"]);
    let at = path.child("parameterNotFoundAction");
    if action.is_empty() {
        errors.push(Error::required(at, ""));
    } else if !ACTIONS.contains(&action) {
        errors.push(Error::not_supported(at, action, &ACTIONS));
    }
}

/// A ValidatingAdmissionPolicyBinding.
pub(super) fn validating_binding(obj: &Value) -> ErrorList {
    const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];
    let mut errors = ErrorList::new();
    let path = binding(obj, &mut errors).child("validationActions");
    let actions = object::list(obj, &["spec", "validationActions"]);
    if actions.is_empty() {
        errors.push(Error::required(&path, ""));
    }
    let mut seen = BTreeSet::new();
    for (i, action) in actions.iter().filter_map(Value::as_str).enumerate() {
        if !ACTIONS.contains(&action) {
            errors.push(Error::not_supported(path.index(i), action, &ACTIONS));
        }
        if !seen.insert(action) {
            errors.push(Error::duplicate(path.index(i), action));
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API \
                   response and headers serves no purpose)";
        errors.push(Error::invalid(&path, actions.to_vec(), why));
    }
    errors
}

/// A MutatingAdmissionPolicyBinding.
pub(super) fn mutating_binding(obj: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = binding(obj, &mut errors).child("matchResources");
    mutable_operations(object::at(obj, &["spec", "matchResources"]), &path, &mut errors);
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(errors: &ErrorList) -> String {
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    fn spec(more: &Value) -> Value {
        let mut spec = json!({"failurePolicy": "Fail", "matchConstraints": {"resourceRules": [{"operations": ["CREATE"],
            "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}});
        for (field, value) in more.as_object().unwrap() {
            spec[field] = value.clone();
        }
        json!({"metadata": {"name": "p"}, "spec": spec})
    }

    #[test]
    fn validating_policies_say_what_is_wrong() {
        let at = "spec.validations[0]";
        let cases = [
            (json!({"validations": [{"expression": "object.x == 1"}]}), String::new()),
            (
                json!({"validations": [{"expression": "variables.n > params.max", "messageExpression": "string(variables.n)"}],
                    "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}, "variables": [{"name": "n", "expression": "1"}]}),
                String::new(),
            ),
            (
                json!({}),
                "spec.validations: Required value: validations or auditAnnotations must contain at least one item; \
                 spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item"
                    .to_owned(),
            ),
            (
                json!({"validations": [{"expression": "1"}]}),
                format!("{at}.expression: Invalid value: \"1\": must evaluate to bool but got int"),
            ),
            (
                json!({"validations": [{"expression": "params.x"}]}),
                format!(
                    "{at}.expression: Invalid value: \"params.x\": compilation failed: ERROR: <input>:1:1: undeclared \
                     reference to 'params' (in container '')\n | params.x\n | ^"
                ),
            ),
            (
                json!({"validations": [{"expression": "variables.none == 1", "reason": "Odd", "message": " "}]}),
                format!(
                    "{at}.expression: Invalid value: \"variables.none == 1\": compilation failed: ERROR: <input>:1:10: \
                     undefined field 'none'\n | variables.none == 1\n | .........^; {at}.message: Invalid value: \" \": must \
                     be non-empty if specified; {at}.reason: Unsupported value: \"Odd\": supported values: \"Forbidden\", \
                     \"Invalid\", \"RequestEntityTooLarge\", \"Unauthorized\""
                ),
            ),
            (
                json!({"auditAnnotations": [{"key": "a", "valueExpression": "null"}, {"key": "a", "valueExpression": "1"}]}),
                "spec.auditAnnotations[1].valueExpression: Invalid value: \"1\": must evaluate to one of [string null_type] \
                 but got int; spec.auditAnnotations[1].key: Duplicate value: \"a\""
                    .to_owned(),
            ),
            (
                json!({"validations": [{"expression": "authorizer.requestResource.check('get').allowed()",
                    "messageExpression": "authorizer.path('/').check('get').reason()"}]}),
                format!(
                    "{at}.messageExpression: Invalid value: \"authorizer.path('/').check('get').reason()\": compilation \
                     failed: ERROR: <input>:1:1: undeclared reference to 'authorizer' (in container '')\n | \
                     authorizer.path('/').check('get').reason()\n | ^"
                ),
            ),
            (
                json!({"validations": [{"expression": "true"}], "variables": [{"name": "if", "expression": "1"}],
                    "paramKind": {"apiVersion": "a/b/c"}}),
                "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c; \
                 spec.paramKind.kind: Required value; spec.variables[0].name: Invalid value: \"if\": must be a valid CEL \
                 identifier"
                    .to_owned(),
            ),
        ];
        for (more, expected) in cases {
            assert_eq!(told(&validating(&spec(&more))), expected, "{more}");
        }
    }

    #[test]
    fn mutating_policies_say_what_is_wrong() {
        let at = "spec.mutations[0]";
        let cases = [
            (
                json!({"reinvocationPolicy": "Never", "mutations": [{"patchType": "ApplyConfiguration",
                    "applyConfiguration": {"expression": "Object{spec: Object.spec{replicas: 1}}"}}]}),
                String::new(),
            ),
            (
                json!({"reinvocationPolicy": "Odd", "mutations": [{"patchType": "JSONPatch",
                    "jsonPatch": {"expression": "Object{}"}, "applyConfiguration": {}}]}),
                format!(
                    "{at}.jsonPatch.expression: Invalid value: \"Object{{}}\": must evaluate to list(JSONPatch) but got \
                     Object; {at}.applyConfiguration: Invalid value: \"{{applyConfiguration}}\": must not be specified when \
                     patchType is JSONPatch; spec.reinvocationPolicy: Unsupported value: \"Odd\": supported values: \
                     \"IfNeeded\", \"Never\""
                ),
            ),
            (
                json!({"reinvocationPolicy": "Never", "mutations": [{"patchType": "ApplyConfiguration"}]}),
                format!(
                    "{at}.applyConfiguration: Required value: must be specified when patchType is ApplyConfiguration"
                ),
            ),
        ];
        for (more, expected) in cases {
            assert_eq!(told(&mutating(&spec(&more))), expected, "{more}");
        }
    }

    #[test]
    fn bindings_say_what_is_wrong() {
        let binding = |spec: Value| told(&validating_binding(&json!({"spec": spec})));
        assert_eq!(binding(json!({"policyName": "p", "validationActions": ["Deny", "Audit"]})), "");
        assert_eq!(
            binding(json!({"validationActions": ["Odd", "Odd"], "paramRef": {"name": "n", "selector": {}}})),
            "spec.policyName: Required value; spec.paramRef.name: Forbidden: name and selector are mutually exclusive; \
             spec.paramRef.selector: Forbidden: name and selector are mutually exclusive; \
             spec.paramRef.parameterNotFoundAction: Required value; spec.validationActions[0]: Unsupported value: \"Odd\": \
             supported values: \"Audit\", \"Deny\", \"Warn\"; spec.validationActions[1]: Unsupported value: \"Odd\": \
             supported values: \"Audit\", \"Deny\", \"Warn\"; spec.validationActions[1]: Duplicate value: \"Odd\""
        );
        let rules = json!({"resourceRules": [{"operations": ["DELETE"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]}]});
        assert_eq!(
            told(&mutating_binding(&json!({"spec": {"policyName": "p", "matchResources": rules}}))),
            "spec.matchResources.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"CREATE\", \
             \"UPDATE\""
        );
    }
}
