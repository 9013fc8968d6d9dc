//! Admission webhooks: programs of the cluster's users that change or judge objects before they are stored.
//!
//! Which hooks a request concerns is decided here, purely; [`call`] asks them. Mutating hooks run one after another in
//! the order of their configurations' names, validating ones at the same time. Source:
//! `k8s.io/apiserver/pkg/admission/plugin/webhook`.

mod call;
mod review;
#[cfg(test)]
mod tests;

use futures::future::join_all;
use minicluster_store::{Snapshot, Store};
use serde_json::Value;
use windlass_crd::{decode as strict, selector::LabelSelector, structural};

use super::Operation;
use crate::{
    context::Context,
    object,
    registry::Resource,
    status::{ApiError, ApiResult},
    view::{self, View},
};
use call::Backend;

const MUTATING: &str = "/registry/mutatingwebhookconfigurations/";
const VALIDATING: &str = "/registry/validatingwebhookconfigurations/";

/// The hooks of all configurations, as of now.
pub struct Webhooks {
    mutating: View<Vec<Hook>>,
    validating: View<Vec<Hook>>,
}

impl Webhooks {
    /// Reads the configurations from the store.
    pub fn new(store: &Store) -> Self {
        Self {
            mutating: View::new(store, &[MUTATING], build),
            validating: View::new(store, &[VALIDATING], build),
        }
    }
}

fn build(snapshot: &Snapshot, prefixes: &'static [&'static str]) -> Vec<Hook> {
    let configurations = prefixes.iter().flat_map(|prefix| view::objects(snapshot, prefix));
    configurations
        .flat_map(|(_, obj)| object::list(&obj, &["webhooks"]).iter().map(Hook::read).collect::<Vec<_>>())
        .collect()
}

/// One webhook of a configuration.
#[derive(Debug)]
struct Hook {
    name: String,
    rules: Vec<Rule>,
    namespaces: LabelSelector,
    objects: LabelSelector,
    backend: Backend,
    ignores_failure: bool,
    reinvoked: bool,
    has_side_effects: bool,
    conditional: bool,
}

#[derive(Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
}

/// What a rule is compared with.
struct Asked<'a> {
    operation: &'static str,
    resource: &'a Resource,
    subresource: &'a str,
}

impl Rule {
    fn read(rule: &Value) -> Self {
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

    fn concerns(&self, asked: &Asked<'_>) -> bool {
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

impl Hook {
    fn read(hook: &Value) -> Self {
        // A selector that does not parse selects everything: a hook that was asked for is rather called than not.
        let selector = |field: &str| {
            LabelSelector::from_json(hook.get(field))
                .unwrap_or_else(|_| LabelSelector::from_requirements(Vec::new()))
        };
        let side_effects = object::text(hook, &["sideEffects"]);
        Self {
            name: object::text(hook, &["name"]).to_owned(),
            rules: object::list(hook, &["rules"]).iter().map(Rule::read).collect(),
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
            backend: Backend::read(hook),
            ignores_failure: object::text(hook, &["failurePolicy"]) == "Ignore",
            reinvoked: object::text(hook, &["reinvocationPolicy"]) == "IfNeeded",
            has_side_effects: !matches!(side_effects, "None" | "NoneOnDryRun"),
            conditional: !object::list(hook, &["matchConditions"]).is_empty(),
        }
    }

    fn concerns(&self, asked: &Asked<'_>, event: &Event<'_>, namespace_labels: Option<&Value>) -> bool {
        let labels = |obj: Option<&Value>| {
            obj.is_some_and(|obj| self.objects.matches_value(object::at(obj, &["metadata", "labels"])))
        };
        self.rules.iter().any(|rule| rule.concerns(asked))
            && (labels(event.obj) || labels(event.old))
            && namespace_labels.is_none_or(|labels| self.namespaces.matches_value(Some(labels)))
    }
}

/// What happens to an object.
#[derive(Clone, Copy)]
struct Event<'a> {
    op: Operation,
    obj: Option<&'a Value>,
    old: Option<&'a Value>,
}

impl Event<'_> {
    fn operation(&self) -> &'static str {
        match self.op {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// Admission's own configuration is out of the hooks' reach, or one bad hook could never be taken away again.
fn is_exempt(resource: &Resource) -> bool {
    resource.group == "admissionregistration.k8s.io"
        || matches!(resource.group.as_ref(), "authentication.k8s.io" | "authorization.k8s.io")
}

/// The hooks that a request concerns.
fn concerned<'h>(cx: &Context, hooks: &'h [Hook], event: &Event<'_>) -> Vec<&'h Hook> {
    if hooks.is_empty() || is_exempt(&cx.resource) {
        return Vec::new();
    }
    let asked =
        Asked { operation: event.operation(), resource: &cx.resource, subresource: &cx.info.subresource };
    let labels = namespace_labels(cx, event);
    hooks.iter().filter(|hook| hook.concerns(&asked, event, labels.as_ref())).collect()
}

/// The labels that a namespace selector looks at; `None` for objects that live in no namespace.
fn namespace_labels(cx: &Context, event: &Event<'_>) -> Option<Value> {
    let labels = |obj: &Value| object::at(obj, &["metadata", "labels"]).cloned().unwrap_or_default();
    if cx.resource.group.is_empty() && cx.resource.plural == "namespaces" {
        return event.obj.or(event.old).map(labels);
    }
    if !cx.resource.namespaced {
        return None;
    }
    let namespaces = cx.api.registry.builtin("", "v1", "namespaces");
    let entry = cx.api.store.get(&namespaces.key("", &cx.info.namespace));
    let namespace = entry.and_then(|entry| serde_json::from_slice::<Value>(&entry.value).ok());
    Some(namespace.as_ref().map(labels).unwrap_or_default())
}

/// Lets the mutating hooks change an object.
///
/// # Errors
/// What a hook refuses with; 500 when one that must answer does not.
pub(super) async fn mutate(
    cx: &Context,
    op: Operation,
    obj: &mut Value,
    old: Option<&Value>,
) -> ApiResult<()> {
    let hooks = cx.api.webhooks.mutating.get();
    let mut seen: Vec<(&Hook, Value)> = Vec::new();
    for hook in concerned(cx, &hooks, &Event { op, obj: Some(obj), old }) {
        // An earlier hook may have taken away the label for which this one would be called.
        let event = Event { op, obj: Some(obj), old };
        if concerned(cx, std::slice::from_ref(hook), &event).is_empty() {
            continue;
        }
        invoke(cx, hook, op, obj, old).await?;
        seen.push((hook, obj.clone()));
    }
    let last = obj.clone();
    for (hook, left) in seen {
        if hook.reinvoked && left != last {
            invoke(cx, hook, op, obj, old).await?;
        }
    }
    Ok(())
}

async fn invoke(
    cx: &Context,
    hook: &Hook,
    op: Operation,
    obj: &mut Value,
    old: Option<&Value>,
) -> ApiResult<()> {
    let Some(answer) = ask(cx, hook, &Event { op, obj: Some(obj), old }).await? else { return Ok(()) };
    let Some(patch) = answer.patch else { return Ok(()) };
    let mut changed = obj.clone();
    windlass_crd::patch::json(&mut changed, &patch)
        .map_err(|error| ApiError::internal(format!("admission webhook \"{}\": {error}", hook.name)))?;
    settle(&cx.resource, &mut changed)?;
    *obj = changed;
    Ok(())
}

/// What a hook wrote is held to the kind's schema, as if the client had written it.
fn settle(resource: &Resource, obj: &mut Value) -> ApiResult<()> {
    let schema = resource.schema();
    if resource.custom.is_some() {
        structural::prune(obj, &schema);
        return Ok(());
    }
    if let Some(error) = strict::check(obj, &schema).type_error {
        return Err(ApiError::internal(error));
    }
    strict::prune_unknown(obj, &schema);
    strict::canonicalise(obj, &schema);
    Ok(())
}

/// Lets the validating hooks judge the final object.
///
/// # Errors
/// What a hook refuses with; 500 when one that must answer does not.
pub(super) async fn validate(
    cx: &Context,
    op: Operation,
    obj: Option<&Value>,
    old: Option<&Value>,
) -> ApiResult<()> {
    let event = Event { op, obj, old };
    if matches!(op, Operation::Delete | Operation::Connect) {
        // There is nothing to change, but the mutating hooks are told, and may refuse.
        for hook in concerned(cx, &cx.api.webhooks.mutating.get(), &event) {
            ask(cx, hook, &event).await?;
        }
    }
    let hooks = cx.api.webhooks.validating.get();
    let answers = concerned(cx, &hooks, &event).into_iter().map(|hook| ask(cx, hook, &event));
    join_all(answers).await.into_iter().try_for_each(|answer| answer.map(drop))
}

/// Asks one hook. `None`: it did not answer, and does not have to.
async fn ask(cx: &Context, hook: &Hook, event: &Event<'_>) -> ApiResult<Option<review::Answer>> {
    let dry_run = cx.dry_run()?;
    if dry_run && hook.has_side_effects {
        let why = format!("admission webhook \"{}\" does not support dry run", hook.name);
        return Err(ApiError::bad_request(why));
    }
    let uid = cx.api.new_uid();
    let request = review::request(cx, event, &uid, dry_run);
    let called = if hook.conditional {
        // Without an engine for its conditions nobody knows whether the hook wants to be asked.
        Err("match conditions are not supported".to_owned())
    } else {
        call::call(cx, &hook.backend, &request).await.and_then(|body| review::read(&body, &uid, &hook.name))
    };
    match called {
        Ok(answer) => {
            answer.warnings.iter().for_each(|warning| cx.warn(warning.clone()));
            answer.verdict(&hook.name).map(Some)
        }
        Err(error) if hook.ignores_failure => {
            tracing::warn!(webhook = hook.name, error, "failed calling webhook, failing open");
            Ok(None)
        }
        Err(error) => Err(ApiError::internal(format!(
            "failed calling webhook \"{}\": failed to call webhook: {error}",
            hook.name
        ))),
    }
}
