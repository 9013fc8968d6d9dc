//! Admission webhooks: programs of the cluster's users that change or judge objects before they are stored.
//!
//! Which hooks a request concerns is decided here, purely; [`outbound`](crate::outbound) asks them. Mutating hooks run one after another in
//! the order of their configurations' names, validating ones at the same time. Source:
//! `k8s.io/apiserver/pkg/admission/plugin/webhook`.

mod review;
#[cfg(test)]
mod tests;

use std::time::Duration;

use futures::future::join_all;
use minicluster_store::{Snapshot, Store};
use serde_json::Value;
use windlass_crd::{decode as strict, structural};

use super::{
    Operation, Plugin,
    matching::{Asked, Event, Rule, Selectors, namespace_labels},
};
use crate::{
    audit,
    cel::{Compiled, Expression, Scope},
    context::Context,
    object,
    outbound::{self, Backend},
    registry::Resource,
    status::{ApiError, ApiResult},
    view::{self, View},
};

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
        .flat_map(|(_, obj)| {
            let hooks = object::list(&obj, &["webhooks"]).iter();
            hooks.map(|hook| Hook::read(object::name(&obj), hook)).collect::<Vec<_>>()
        })
        .collect()
}

/// How long a hook may take: 10 s unless it says otherwise.
fn timeout_of(hook: &Value) -> Duration {
    let seconds = object::number(hook, &["timeoutSeconds"]).and_then(|n| u64::try_from(n).ok());
    Duration::from_secs(seconds.unwrap_or(10))
}

/// One webhook of a configuration.
#[derive(Debug)]
struct Hook {
    configuration: String,
    name: String,
    rules: Vec<Rule>,
    selectors: Selectors,
    backend: Backend,
    ignores_failure: bool,
    reinvoked: bool,
    has_side_effects: bool,
    conditions: Vec<Compiled>,
}

impl Hook {
    fn read(configuration: &str, hook: &Value) -> Self {
        let side_effects = object::text(hook, &["sideEffects"]);
        Self {
            configuration: configuration.to_owned(),
            name: object::text(hook, &["name"]).to_owned(),
            rules: object::list(hook, &["rules"]).iter().map(Rule::read).collect(),
            selectors: Selectors::read(hook),
            backend: Backend::of_client_config(&hook["clientConfig"], timeout_of(hook)),
            ignores_failure: object::text(hook, &["failurePolicy"]) == "Ignore",
            reinvoked: object::text(hook, &["reinvocationPolicy"]) == "IfNeeded",
            has_side_effects: !matches!(side_effects, "None" | "NoneOnDryRun"),
            conditions: object::list(hook, &["matchConditions"])
                .iter()
                .map(|condition| Expression::compile(object::text(condition, &["expression"])))
                .collect(),
        }
    }

    /// Whether all its match conditions hold. One that fails outweighs those that cannot be evaluated.
    fn wants(&self, request: &Value) -> Result<bool, String> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        let variables = ["object", "oldObject"].map(|name| (name, &request[name]));
        let scope = Scope::new(&[variables[0], variables[1], ("request", request)], None);
        let mut error = None;
        for condition in &self.conditions {
            match condition.as_ref().map_err(Clone::clone).and_then(|condition| condition.holds(&scope)) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(why) => error = error.or(Some(why)),
            }
        }
        error.map_or(Ok(true), Err)
    }

    fn concerns(&self, asked: &Asked<'_>, event: &Event<'_>, namespace_labels: Option<&Value>) -> bool {
        self.rules.iter().any(|rule| rule.concerns(asked)) && self.selectors.select(event, namespace_labels)
    }
}

/// Admission's own configuration is out of the hooks' reach, or one bad hook could never be taken away again.
pub(super) fn is_exempt(resource: &Resource) -> bool {
    resource.group == "admissionregistration.k8s.io"
        || matches!(resource.group.as_ref(), "authentication.k8s.io" | "authorization.k8s.io")
}

/// The request as expressions see it.
pub(super) fn request(cx: &Context, event: &Event<'_>) -> Value {
    review::request(cx, event, "", cx.dry_run())["request"].take()
}

/// The hooks that a request concerns.
fn concerned<'h>(cx: &Context, hooks: &'h [Hook], event: &Event<'_>) -> Vec<&'h Hook> {
    if hooks.is_empty() || is_exempt(&cx.resource) {
        return Vec::new();
    }
    let asked = asked(cx, event);
    let labels = namespace_labels(cx, event);
    hooks.iter().filter(|hook| hook.concerns(&asked, event, labels.as_ref())).collect()
}

fn asked<'a>(cx: &'a Context, event: &Event<'_>) -> Asked<'a> {
    Asked { operation: event.operation(), resource: &cx.resource, subresource: &cx.info.subresource }
}

/// Lets the mutating hooks change an object. True when one did.
///
/// # Errors
/// What a hook refuses with; 500 when one that must answer does not.
pub(super) async fn mutate(
    cx: &Context,
    op: Operation,
    obj: &mut Value,
    old: Option<&Value>,
) -> ApiResult<bool> {
    let hooks = cx.api.webhooks.mutating.get();
    if hooks.is_empty() || is_exempt(&cx.resource) {
        return Ok(false);
    }
    let asked = asked(cx, &Event { op, obj: Some(obj), old });
    let mut labels = namespace_labels(cx, &Event { op, obj: Some(obj), old });
    let mut seen: Vec<(usize, &Hook, Option<Value>)> = Vec::new();
    let mut changed = false;
    // Asked one by one: an earlier hook may have taken away the label for which a later one would be called.
    for (index, hook) in hooks.iter().enumerate() {
        if hook.concerns(&asked, &Event { op, obj: Some(obj), old }, labels.as_ref()) {
            if invoke(cx, hook, op, obj, old, (0, index)).await? {
                changed = true;
                labels = namespace_labels(cx, &Event { op, obj: Some(obj), old });
            }
            seen.push((index, hook, hook.reinvoked.then(|| obj.clone())));
        }
    }
    // Who wants to is asked again, if others changed the object after it.
    for (index, hook, left) in seen {
        if left.is_some_and(|left| left != *obj) {
            changed |= invoke(cx, hook, op, obj, old, (1, index)).await?;
        }
    }
    Ok(changed)
}

async fn invoke(
    cx: &Context,
    hook: &Hook,
    op: Operation,
    obj: &mut Value,
    old: Option<&Value>,
    turn: (usize, usize),
) -> ApiResult<bool> {
    let Some(answer) = ask(cx, hook, &Event { op, obj: Some(obj), old }).await? else { return Ok(false) };
    let Some(patch) = answer.patch else {
        noted(hook, turn, false, None);
        return Ok(false);
    };
    let mut changed = obj.clone();
    windlass_crd::patch::json(&mut changed, &patch)
        .map_err(|error| ApiError::internal(format!("admission webhook \"{}\": {error}", hook.name)))?;
    settle(&cx.resource, &mut changed)?;
    let differs = changed != *obj;
    noted(hook, turn, differs, Some(&patch));
    *obj = changed;
    Ok(differs)
}

/// Tells of what a mutating hook did, for the audit.
fn noted(hook: &Hook, (round, index): (usize, usize), mutated: bool, patch: Option<&Value>) {
    if !audit::is_on() {
        return;
    }
    let (configuration, webhook) = (&hook.configuration, &hook.name);
    let at = format!("webhook.admission.k8s.io/round_{round}_index_{index}");
    let what = serde_json::json!({"configuration": configuration, "webhook": webhook, "mutated": mutated});
    audit::annotate(&format!("mutation.{at}"), &what.to_string());
    if let Some(patch) = patch.filter(|_| mutated && audit::wants_objects()) {
        let what = serde_json::json!({
            "configuration": configuration, "webhook": webhook, "patch": patch, "patchType": "JSONPatch",
        });
        audit::annotate(&format!("patch.{at}"), &what.to_string());
    }
}

/// What a hook wrote is held to the kind's schema, as if the client had written it.
pub(super) fn settle(resource: &Resource, obj: &mut Value) -> ApiResult<()> {
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
    let runs = |plugin| cx.api.config.admission.runs(plugin);
    if matches!(op, Operation::Delete | Operation::Connect) && runs(Plugin::MutatingAdmissionWebhook) {
        // There is nothing to change, but the mutating hooks are told, and may refuse.
        for hook in concerned(cx, &cx.api.webhooks.mutating.get(), &event) {
            ask(cx, hook, &event).await?;
        }
    }
    if !runs(Plugin::ValidatingAdmissionWebhook) {
        return Ok(());
    }
    let hooks = cx.api.webhooks.validating.get();
    let answers = concerned(cx, &hooks, &event).into_iter().map(|hook| ask(cx, hook, &event));
    join_all(answers).await.into_iter().try_for_each(|answer| answer.map(drop))
}

/// Asks one hook. `None`: it did not answer, and does not have to.
async fn ask(cx: &Context, hook: &Hook, event: &Event<'_>) -> ApiResult<Option<review::Answer>> {
    let dry_run = cx.dry_run();
    if dry_run && hook.has_side_effects {
        let why = format!("admission webhook \"{}\" does not support dry run", hook.name);
        return Err(ApiError::bad_request(why));
    }
    let uid = cx.api.new_uid();
    let request = review::request(cx, event, &uid, dry_run);
    let called = match hook.wants(&request["request"]) {
        Ok(false) => return Ok(None),
        Ok(true) => outbound::post(&cx.api, &hook.backend, "kube-apiserver-admission", &request)
            .await
            .map_err(|error| format!("failed to call webhook: {error}"))
            .and_then(|body| review::read(&body, &uid)),
        // A hook that may be missed is not asked on a guess.
        Err(_) if hook.ignores_failure => return Ok(None),
        Err(error) => Err(error),
    };
    match called {
        Ok(answer) => {
            answer.warnings.iter().for_each(|warning| cx.warn(warning.clone()));
            for (key, value) in &answer.annotations {
                audit::annotate(&format!("{}/{key}", hook.name), value);
            }
            answer.verdict(&hook.name).map(Some)
        }
        Err(error) if hook.ignores_failure => {
            tracing::warn!(webhook = hook.name, error, "failed calling webhook, failing open");
            Ok(None)
        }
        Err(error) => Err(ApiError::internal(format!("failed calling webhook \"{}\": {error}", hook.name))),
    }
}
