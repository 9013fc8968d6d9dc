//! Whom a rule of the cluster's users concerns: webhooks and policies say it in the same words.

use std::sync::Arc;

use serde_json::Value;
use windlass_crd::selector::LabelSelector;

use super::{
    Operation,
    namespace::{Facts, facts},
};
use crate::{context::Context, object, registry::Resource};

#[derive(Debug)]
pub(super) struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
}

/// What a rule is compared with.
pub(super) struct Asked<'a> {
    pub(super) operation: &'static str,
    pub(super) resource: &'a Resource,
    pub(super) subresource: &'a str,
}

impl Rule {
    pub(super) fn read(rule: &Value) -> Self {
        let texts = |field: &str| {
            object::list(rule, &[field]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self {
            operations: texts("operations"),
            groups: texts("apiGroups"),
            versions: texts("apiVersions"),
            resources: texts("resources"),
            scope: object::text(rule, &["scope"]).to_owned(),
        }
    }

    pub(super) fn concerns(&self, asked: &Asked<'_>) -> bool {
        let any = |list: &[String], wanted: &str| list.iter().any(|entry| entry == "*" || entry == wanted);
        let scope = match self.scope.as_str() {
            "Namespaced" => asked.resource.namespaced,
            // A Namespace is as wide as the cluster.
            "Cluster" => !asked.resource.namespaced,
            _ => true,
        };
        let plural = asked.resource.plural.as_ref();
        let resource = self.resources.iter().any(|entry| {
            let (resource, sub) = entry.split_once('/').unwrap_or((entry, ""));
            (resource == "*" || resource == plural) && (sub == "*" || sub == asked.subresource)
        });
        scope
            && resource
            && any(&self.operations, asked.operation)
            && any(&self.groups, &asked.resource.group)
            && any(&self.versions, &asked.resource.version)
    }
}

/// What happens to an object.
#[derive(Clone, Copy)]
pub(super) struct Event<'a> {
    pub(super) op: Operation,
    pub(super) obj: Option<&'a Value>,
    pub(super) old: Option<&'a Value>,
}

impl Event<'_> {
    pub(super) fn operation(&self) -> &'static str {
        match self.op {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// The namespaces and the objects that are meant.
#[derive(Debug)]
pub(super) struct Selectors {
    namespaces: LabelSelector,
    objects: LabelSelector,
}

impl Selectors {
    /// From `namespaceSelector` and `objectSelector`.
    pub(super) fn read(holder: &Value) -> Self {
        // A selector that does not parse selects everything: what was asked for is rather done than not.
        let selector = |field: &str| {
            LabelSelector::from_json(holder.get(field))
                .unwrap_or_else(|_| LabelSelector::from_requirements(Vec::new()))
        };
        // Absent means everything here, unlike elsewhere.
        let all = |field: &str| match object::at(holder, &[field]) {
            Some(_) => selector(field),
            None => LabelSelector::from_requirements(Vec::new()),
        };
        Self { namespaces: all("namespaceSelector"), objects: all("objectSelector") }
    }

    /// Whether they select what happens; `namespace` holds the labels of its namespace, if it lives in one.
    pub(super) fn select(&self, event: &Event<'_>, namespace: Option<&Value>) -> bool {
        let labels = |obj: Option<&Value>| {
            obj.is_some_and(|obj| self.objects.matches_value(object::at(obj, &["metadata", "labels"])))
        };
        (labels(event.obj) || labels(event.old))
            && namespace.is_none_or(|labels| self.namespaces.matches_value(Some(labels)))
    }
}

/// The labels that a namespace selector looks at; `None` for objects that live in no namespace.
pub(super) fn namespace_labels(cx: &Context, event: &Event<'_>) -> Option<Value> {
    let labels = |obj: &Value| object::at(obj, &["metadata", "labels"]).cloned().unwrap_or_default();
    if cx.resource.group.is_empty() && cx.resource.plural == "namespaces" {
        return event.obj.or(event.old).map(labels);
    }
    if !cx.resource.namespaced {
        return None;
    }
    let namespace = namespace(cx);
    Some(namespace.map(|facts| labels(&facts.object)).unwrap_or_default())
}

/// The namespace that the request is in, if it is in one that exists.
pub(super) fn namespace(cx: &Context) -> Option<Arc<Facts>> {
    if cx.resource.namespaced { facts(cx, &cx.info.namespace) } else { None }
}
