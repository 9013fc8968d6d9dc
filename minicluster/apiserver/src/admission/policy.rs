//! Admission policies: what the cluster's users change and refuse, in CEL, without a server of their own.
//!
//! A policy says what has to hold or what is changed, a binding where and with which parameters. Which policies a request
//! concerns is decided here; [`validating`] and [`mutating`] carry them out. Expressions are compiled once, when the
//! policies or bindings change, and see variables that are made once for each request.
//! Source: `k8s.io/apiserver/pkg/admission/plugin/policy`.

mod mutating;
mod parameters;
mod typecheck;
mod validating;

use std::sync::Arc;

use minicluster_store::{Snapshot, Store};
use serde_json::Value;

use super::matching::{Asked, Event, Rule, Selectors, namespace, namespace_labels};
use crate::{
    authn::Identity,
    authz::Attributes,
    cel::{Authorizer, Compiled, Expression, Question, Scope},
    context::Context,
    object,
    view::{self, View},
};

pub(super) use mutating::{mutate, reinvoke};
pub(crate) use typecheck::settle_written;
pub(super) use validating::validate;

const VALIDATING: [&str; 2] =
    ["/registry/validatingadmissionpolicies/", "/registry/validatingadmissionpolicybindings/"];
const MUTATING: [&str; 2] =
    ["/registry/mutatingadmissionpolicies/", "/registry/mutatingadmissionpolicybindings/"];

/// The policies that are bound, as of now.
pub struct Policies {
    validating: View<Vec<Bound>>,
    mutating: View<Vec<Bound>>,
}

impl Policies {
    /// Reads policies and bindings from the store.
    pub fn new(store: &Store) -> Self {
        Self {
            validating: View::new(store, &VALIDATING, build),
            mutating: View::new(store, &MUTATING, build),
        }
    }
}

fn build(snapshot: &Snapshot, prefixes: &'static [&'static str]) -> Vec<Bound> {
    let policies: Vec<Arc<Policy>> =
        view::objects(snapshot, prefixes[0]).map(|(_, obj)| Arc::new(Policy::read(&obj))).collect();
    let bound = |binding: &Value| {
        let wanted = object::text(binding, &["spec", "policyName"]);
        let policy = policies.iter().find(|policy| policy.name == wanted)?;
        Some(Bound { policy: Arc::clone(policy), binding: Binding::read(binding) })
    };
    let mut all: Vec<Bound> =
        view::objects(snapshot, prefixes[1]).filter_map(|(_, binding)| bound(&binding)).collect();
    all.sort_by(|a, b| (&a.policy.name, &a.binding.name).cmp(&(&b.policy.name, &b.binding.name)));
    all
}

/// A policy under one of its bindings.
#[derive(Debug)]
struct Bound {
    policy: Arc<Policy>,
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
    validations: Vec<validating::Validation>,
    /// Keys and values of what is noted for the audit log.
    annotations: Vec<(String, Compiled)>,
    mutations: Vec<mutating::Mutation>,
    reinvoked: bool,
    ignores_failure: bool,
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

fn compile(item: &Value, field: &str) -> Compiled {
    Expression::compile(object::text(item, &[field]))
}

impl Policy {
    fn read(obj: &Value) -> Self {
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
            validations: list("validations").map(validating::Validation::read).collect(),
            annotations: list("auditAnnotations")
                .map(|a| (text(a, "key"), compile(a, "valueExpression")))
                .collect(),
            mutations: list("mutations").map(mutating::Mutation::read).collect(),
            reinvoked: object::text(spec, &["reinvocationPolicy"]) == "IfNeeded",
            ignores_failure: object::text(spec, &["failurePolicy"]) == "Ignore",
        }
    }

    /// Whether all its match conditions hold. One that fails outweighs those that cannot be evaluated.
    fn wants(&self, scope: &Scope<'_>) -> Result<bool, String> {
        let mut error = None;
        for condition in &self.conditions {
            match condition.as_ref().map_err(Clone::clone).and_then(|condition| condition.holds(scope)) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(why) => error = error.or(Some(why)),
            }
        }
        error.map_or(Ok(true), Err)
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

/// What all policies see of a request.
struct Seen {
    namespace: Value,
    authorizer: Authorizer,
}

impl Seen {
    fn of(cx: &Context, event: &Event<'_>) -> Self {
        let facts = namespace(cx);
        let object = facts.map(|facts| visible_namespace(&facts.object)).unwrap_or_default();
        Self { namespace: object, authorizer: authorizer(cx, event) }
    }

    /// The variables of a request; those of parameters and policies come below.
    fn scope(&self, request: &Value) -> Scope<'static> {
        Scope::new(
            &[
                ("object", &request["object"]),
                ("oldObject", &request["oldObject"]),
                ("request", request),
                ("namespaceObject", &self.namespace),
            ],
            Some(&self.authorizer),
        )
    }
}

/// What expressions see of a namespace: no managed fields, no owners.
fn visible_namespace(namespace: &Value) -> Value {
    const META: [&str; 7] =
        ["name", "generateName", "labels", "annotations", "uid", "creationTimestamp", "deletionTimestamp"];
    let mut shown = serde_json::json!({"metadata": {}});
    for field in
        META.into_iter().chain(["deletionGracePeriodSeconds", "resourceVersion", "generation", "finalizers"])
    {
        if let Some(value) = object::at(namespace, &["metadata", field]) {
            shown["metadata"][field] = value.clone();
        }
    }
    for part in ["spec", "status"] {
        shown[part] = namespace.get(part).cloned().unwrap_or_else(|| serde_json::json!({}));
    }
    shown
}

fn authorizer(cx: &Context, event: &Event<'_>) -> Authorizer {
    let name = event.obj.or(event.old).map(object::name).filter(|n| !n.is_empty()).unwrap_or(&cx.info.name);
    let request = Question {
        group: cx.resource.group.to_string(),
        resource: cx.resource.plural.to_string(),
        subresource: cx.info.subresource.clone(),
        namespace: cx.info.namespace.clone(),
        name: name.to_owned(),
        ..Question::default()
    };
    let (api, user) = (Arc::clone(&cx.api), cx.user.clone());
    Authorizer::new(request, move |asked| {
        let user = match &asked.account {
            None => user.clone(),
            Some((namespace, name)) => {
                let of_namespace = format!("system:serviceaccounts:{namespace}");
                let groups = ["system:serviceaccounts", &of_namespace, "system:authenticated"];
                Identity::new(format!("system:serviceaccount:{namespace}:{name}"), &groups)
            }
        };
        let attributes = Attributes {
            verb: &asked.verb,
            group: &asked.group,
            version: "*",
            resource: &asked.resource,
            subresource: &asked.subresource,
            namespace: &asked.namespace,
            name: &asked.name,
            path: &asked.path,
            is_resource: asked.path.is_empty(),
        };
        let allowed = api.rbac.allows(&user, &attributes);
        (allowed.is_some(), allowed.unwrap_or_default())
    })
}

/// The policies that a request concerns, in the order of their names.
fn concerned<'p>(
    cx: &Context,
    all: &'p [Bound],
    event: &Event<'_>,
) -> impl Iterator<Item = &'p Bound> + use<'p> {
    let exempt = all.is_empty() || super::webhook::is_exempt(&cx.resource);
    let asked =
        Asked { operation: event.operation(), resource: &cx.resource, subresource: &cx.info.subresource };
    let labels = if exempt { None } else { namespace_labels(cx, event) };
    let name = event.obj.or(event.old).map(object::name).filter(|n| !n.is_empty()).unwrap_or(&cx.info.name);
    let concerns = |bound: &Bound| {
        let labels = labels.as_ref();
        let narrowed = |m: &Matching| m.concerns(&asked, event, name, labels, true);
        bound.policy.matching.concerns(&asked, event, name, labels, false)
            && bound.binding.matching.as_ref().is_none_or(narrowed)
    };
    let found: Vec<&Bound> = all.iter().filter(|bound| !exempt && concerns(bound)).collect();
    found.into_iter()
}
