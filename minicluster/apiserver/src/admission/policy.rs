//! ValidatingAdmissionPolicy: what the cluster's users refuse, in CEL, without a server of their own.
//!
//! A policy says what has to hold, a binding where and with which parameters. `authorizer` is not among the variables
//! yet, and types are not checked before an expression runs.
//! Source: `k8s.io/apiserver/pkg/admission/plugin/policy/validating`.

use minicluster_store::{Snapshot, Store};
use serde_json::Value;
use windlass_crd::selector::LabelSelector;

use super::{
    Operation,
    matching::{Asked, Event, Rule, Selectors, namespace, namespace_labels},
    webhook::is_exempt,
};
use crate::{
    cel::{Compiled, Expression, Scope},
    context::Context,
    object,
    status::{ApiError, ApiResult},
    view::{self, View},
};

const POLICIES: &str = "/registry/validatingadmissionpolicies/";
const BINDINGS: &str = "/registry/validatingadmissionpolicybindings/";

/// The policies that are bound, as of now.
pub struct Policies(View<Vec<Bound>>);

impl Policies {
    /// Reads policies and bindings from the store.
    pub fn new(store: &Store) -> Self {
        Self(View::new(store, &[POLICIES, BINDINGS], build))
    }
}

fn build(snapshot: &Snapshot, _: &'static [&'static str]) -> Vec<Bound> {
    let policies: Vec<(String, Value)> =
        view::objects(snapshot, POLICIES).map(|(_, obj)| (object::name(&obj).to_owned(), obj)).collect();
    let bound = |binding: &Value| {
        let wanted = object::text(binding, &["spec", "policyName"]);
        let (_, policy) = policies.iter().find(|(name, _)| name == wanted)?;
        Some(Bound { policy: Policy::read(policy), binding: Binding::read(binding) })
    };
    view::objects(snapshot, BINDINGS).filter_map(|(_, binding)| bound(&binding)).collect()
}

/// A policy under one of its bindings.
#[derive(Debug)]
struct Bound {
    policy: Policy,
    binding: Binding,
}

#[derive(Debug)]
struct Policy {
    name: String,
    matching: Matching,
    /// `apiVersion` and `kind` of the parameters.
    parameters: Option<(String, String)>,
    conditions: Vec<Compiled>,
    variables: Vec<(String, Compiled)>,
    validations: Vec<Validation>,
    ignores_failure: bool,
}

#[derive(Debug)]
struct Validation {
    text: String,
    holds: Compiled,
    message: String,
    message_expression: Option<Compiled>,
    reason: String,
}

#[derive(Debug)]
struct Binding {
    name: String,
    matching: Option<Matching>,
    parameters: Option<Value>,
    actions: Vec<String>,
}

/// `matchConstraints` of a policy, `matchResources` of a binding.
#[derive(Debug)]
struct Matching {
    selectors: Selectors,
    rules: Vec<(Rule, Vec<String>)>,
    but: Vec<(Rule, Vec<String>)>,
}

impl Matching {
    fn read(obj: &Value) -> Self {
        let rules = |field: &str| {
            let names = |rule: &Value| {
                let names = object::list(rule, &["resourceNames"]).iter();
                names.filter_map(Value::as_str).map(str::to_owned).collect()
            };
            object::list(obj, &[field]).iter().map(|rule| (Rule::read(rule), names(rule))).collect()
        };
        Self {
            selectors: Selectors::read(obj),
            rules: rules("resourceRules"),
            but: rules("excludeResourceRules"),
        }
    }

    /// `narrows`: without rules a binding means what its policy means, and a policy nothing.
    fn concerns(
        &self,
        asked: &Asked<'_>,
        event: &Event<'_>,
        name: &str,
        labels: Option<&Value>,
        narrows: bool,
    ) -> bool {
        let any = |rules: &[(Rule, Vec<String>)]| {
            let named = |names: &[String]| names.is_empty() || names.iter().any(|n| n == name);
            rules.iter().any(|(rule, names)| rule.concerns(asked) && named(names))
        };
        ((narrows && self.rules.is_empty()) || any(&self.rules))
            && !any(&self.but)
            && self.selectors.select(event, labels)
    }
}

impl Policy {
    fn read(obj: &Value) -> Self {
        let compile = |item: &Value, field: &str| Expression::compile(object::text(item, &[field]));
        let spec = obj.get("spec").unwrap_or(&Value::Null);
        let list = |field: &str| object::list(spec, &[field]).iter();
        let text = |item: &Value, field: &str| object::text(item, &[field]).to_owned();
        let kind =
            object::at(spec, &["paramKind"]).map(|kind| (text(kind, "apiVersion"), text(kind, "kind")));
        Self {
            name: object::name(obj).to_owned(),
            matching: Matching::read(spec.get("matchConstraints").unwrap_or(&Value::Null)),
            parameters: kind,
            conditions: list("matchConditions").map(|c| compile(c, "expression")).collect(),
            variables: list("variables").map(|v| (text(v, "name"), compile(v, "expression"))).collect(),
            validations: list("validations")
                .map(|v| Validation {
                    text: text(v, "expression").trim().to_owned(),
                    holds: compile(v, "expression"),
                    message: text(v, "message").trim().to_owned(),
                    message_expression: object::at(v, &["messageExpression"])
                        .map(|_| compile(v, "messageExpression")),
                    reason: text(v, "reason"),
                })
                .collect(),
            ignores_failure: object::text(spec, &["failurePolicy"]) == "Ignore",
        }
    }
}

impl Binding {
    fn read(obj: &Value) -> Self {
        let actions = object::list(obj, &["spec", "validationActions"]).iter();
        Self {
            name: object::name(obj).to_owned(),
            matching: object::at(obj, &["spec", "matchResources"]).map(Matching::read),
            parameters: object::at(obj, &["spec", "paramRef"]).cloned(),
            actions: actions.filter_map(Value::as_str).map(str::to_owned).collect(),
        }
    }
}

/// Why a policy refuses.
struct Refusal {
    message: String,
    reason: String,
}

/// Lets the bound policies judge the final object.
///
/// # Errors
/// The first refusal, in the order of the bindings' names.
pub(super) fn validate(
    cx: &Context,
    op: Operation,
    obj: Option<&Value>,
    old: Option<&Value>,
) -> ApiResult<()> {
    let all = cx.api.policies.0.get();
    if all.is_empty() || is_exempt(&cx.resource) {
        return Ok(());
    }
    let event = Event { op, obj, old };
    let asked =
        Asked { operation: event.operation(), resource: &cx.resource, subresource: &cx.info.subresource };
    let labels = namespace_labels(cx, &event);
    let name = event.obj.or(event.old).map(object::name).filter(|n| !n.is_empty()).unwrap_or(&cx.info.name);
    let mut request = None;
    for Bound { policy, binding } in all.iter() {
        let labels = labels.as_ref();
        let narrowed = |m: &Matching| m.concerns(&asked, &event, name, labels, true);
        if !policy.matching.concerns(&asked, &event, name, labels, false)
            || !binding.matching.as_ref().is_none_or(narrowed)
        {
            continue;
        }
        let request = request.get_or_insert_with(|| super::webhook::request(cx, &event));
        for refusal in judge(cx, policy, binding, request) {
            act(cx, policy, binding, name, refusal)?;
        }
    }
    Ok(())
}

fn act(cx: &Context, policy: &Policy, binding: &Binding, name: &str, refusal: Refusal) -> ApiResult<()> {
    let does = |action: &str| binding.actions.iter().any(|a| a == action);
    let (policy, bound) = (&policy.name, &binding.name);
    if does("Warn") {
        cx.warn(format!(
            "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{bound}': {}",
            refusal.message
        ));
    }
    if !does("Deny") {
        return Ok(());
    }
    let message = format!(
        "ValidatingAdmissionPolicy '{policy}' with binding '{bound}' denied request: {}",
        refusal.message
    );
    let (code, reason) = match refusal.reason.as_str() {
        "" | "Invalid" => (422, "Invalid".to_owned()),
        "Unauthorized" => (401, refusal.reason),
        "RequestEntityTooLarge" => (413, refusal.reason),
        _ => (403, refusal.reason),
    };
    Err(ApiError::forbidden(&cx.resource, name, &message).because(code, reason, message))
}

/// All refusals of a policy, for each of its parameters.
fn judge(cx: &Context, policy: &Policy, binding: &Binding, request: &Value) -> Vec<Refusal> {
    let failed = |message: String| match policy.ignores_failure {
        true => Vec::new(),
        false => vec![Refusal { message, reason: String::new() }],
    };
    let parameters = match parameters(cx, policy, binding) {
        Ok(parameters) => parameters,
        Err(why) => return failed(why),
    };
    parameters
        .iter()
        .flat_map(|params| judge_with(cx, policy, params, request).unwrap_or_else(failed))
        .collect()
}

fn judge_with(
    cx: &Context,
    policy: &Policy,
    params: &Value,
    request: &Value,
) -> Result<Vec<Refusal>, String> {
    let namespace = namespace(cx).map(|facts| facts.object.clone()).unwrap_or_default();
    let mut scope = Scope::new(&[
        ("object", &request["object"]),
        ("oldObject", &request["oldObject"]),
        ("request", request),
        ("params", params),
        ("namespaceObject", &namespace),
    ]);
    for condition in &policy.conditions {
        if !condition.as_ref().map_err(Clone::clone)?.holds(&scope)? {
            return Ok(Vec::new());
        }
    }
    scope.define("variables", &policy.variables);
    let mut refusals = Vec::new();
    for validation in &policy.validations {
        let held = validation.holds.as_ref().map_err(Clone::clone).and_then(|e| e.holds(&scope));
        let message = match held {
            Ok(true) => continue,
            Ok(false) => validation.message(&scope),
            Err(_) if policy.ignores_failure => continue,
            Err(why) => format!("expression '{}' resulted in error: {why}", validation.text),
        };
        refusals.push(Refusal { message, reason: validation.reason.clone() });
    }
    Ok(refusals)
}

impl Validation {
    fn message(&self, scope: &Scope) -> String {
        let made = self.message_expression.as_ref().and_then(|e| e.as_ref().ok()?.text(scope).ok());
        match made.filter(|text| !text.trim().is_empty()) {
            Some(text) => text.trim().to_owned(),
            None if self.message.is_empty() => format!("failed expression: {}", self.text),
            None => self.message.clone(),
        }
    }
}

/// The parameters to judge with; one `null` for a policy without.
fn parameters(cx: &Context, policy: &Policy, binding: &Binding) -> Result<Vec<Value>, String> {
    let (Some((api_version, kind)), Some(reference)) = (&policy.parameters, &binding.parameters) else {
        return Ok(vec![Value::Null]);
    };
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = cx
        .api
        .registry
        .table()
        .of_version(group, version)
        .find(|resource| resource.kind == *kind)
        .cloned()
        .ok_or_else(|| {
            format!("failed to find resource referenced by paramKind: '{api_version}, Kind={kind}'")
        })?;
    let namespace = match (resource.namespaced, object::text(reference, &["namespace"])) {
        (false, _) => "",
        (true, "") => &cx.info.namespace,
        (true, namespace) => namespace,
    };
    let name = object::text(reference, &["name"]);
    let found: Vec<Value> = if name.is_empty() {
        let selector = LabelSelector::from_json(reference.get("selector")).map_err(|e| e.to_string())?;
        let prefix = match namespace {
            "" => resource.prefix.clone(),
            namespace => format!("{}{namespace}/", resource.prefix),
        };
        let snapshot = cx.api.store.snapshot();
        let all = view::objects(&snapshot, &prefix).map(|(_, obj)| obj);
        all.filter(|obj| selector.matches_value(object::at(obj, &["metadata", "labels"]))).collect()
    } else {
        let entry = cx.api.store.get(&resource.key(namespace, name));
        entry.map(|entry| object::decode(&resource, &entry.value)).into_iter().collect()
    };
    if found.is_empty() && object::text(reference, &["parameterNotFoundAction"]) != "Allow" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    Ok(found)
}
