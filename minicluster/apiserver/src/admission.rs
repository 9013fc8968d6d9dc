//! Admission: what the cluster adds to an object, or refuses, beyond what its kind allows.
//!
//! The plugins run in upstream's order: first those that change the object, then, on the final object, those that only
//! judge. [`settings`] is the table of them. Source: `pkg/kubeapiserver/options/plugins.go`.

mod certificates;
pub mod classes;
pub mod event_rate;
mod limits;
mod matching;
mod namespace;
mod node;
mod node_restriction;
mod owner;
mod pod;
mod policy;
pub mod quota;
pub mod security;
mod service_account;
pub mod settings;
mod tolerations;
mod webhook;

use serde_json::Value;

use crate::{
    context::Context,
    object,
    status::{ApiError, ApiResult},
};

pub use classes::Classes;
pub use event_rate::EventRates;
pub use namespace::Namespaces;
pub use policy::Policies;
pub(crate) use policy::settle_written;
pub use settings::{Plugin, Settings};
pub use webhook::Webhooks;

/// What happens to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It begins.
    Create,
    /// It changes.
    Update,
    /// It ends.
    Delete,
    /// Somebody connects to it: a terminal, a proxy.
    Connect,
}

/// Lets the plugins change an object. True when any did, so that defaults have to be filled in again.
///
/// # Errors
/// 403, 404 or 422 when a plugin refuses; what a webhook says.
pub async fn mutate(cx: &Context, op: Operation, obj: &mut Value, old: Option<&Value>) -> ApiResult<bool> {
    let runs = |plugin| cx.api.config.admission.runs(plugin);
    let creates = op == Operation::Create;
    if creates && runs(Plugin::NamespaceLifecycle) {
        namespace::exists_and_lives(cx, obj)?;
    }
    if runs(Plugin::NamespaceExists) {
        namespace::exists(cx)?;
    }
    let mut changed = mutate_kind(cx, op, obj, old).await?;
    let mut invoked = Vec::new();
    let mut by_users = false;
    if runs(Plugin::MutatingAdmissionPolicy) && matches!(op, Operation::Create | Operation::Update) {
        (by_users, invoked) = policy::mutate(cx, op, obj, old)?;
    }
    if runs(Plugin::MutatingAdmissionWebhook) {
        by_users |= webhook::mutate(cx, op, obj, old).await?;
    }
    if by_users {
        // What the cluster's users changed is looked at once more: a new container wants its token, too.
        changed |= mutate_kind(cx, op, obj, old).await?;
        policy::reinvoke(cx, op, obj, old, &mut invoked)?;
    }
    Ok(changed | by_users)
}

/// The plugins that know what kind of object it is. True when one concerned it.
async fn mutate_kind(cx: &Context, op: Operation, obj: &mut Value, old: Option<&Value>) -> ApiResult<bool> {
    let runs = |plugin| cx.api.config.admission.runs(plugin);
    let (creates, main) = (op == Operation::Create, cx.info.subresource.is_empty());
    if creates {
        certificates::stamp(cx, obj);
    }
    if !(is_pod(cx) && main) {
        node_restriction::restrict(cx, op, Some(obj), old).await?;
    }
    let changed = match (cx.resource.group.as_ref(), cx.resource.plural.as_ref()) {
        ("", "pods") => mutate_pod(cx, op, obj, old).await?,
        ("", "nodes") if creates && main && runs(Plugin::TaintNodesByCondition) => {
            node::taint_not_ready(obj);
            true
        }
        ("", "persistentvolumeclaims") if creates && main && runs(Plugin::DefaultStorageClass) => {
            classes::default_storage(cx, obj)
        }
        ("networking.k8s.io", "ingresses") if creates && main && runs(Plugin::DefaultIngressClass) => {
            classes::default_ingress(cx, obj)
        }
        _ => false,
    };
    if creates
        && main
        && runs(Plugin::StorageObjectInUseProtection)
        && let Some(finalizer) = classes::protection(&cx.resource.group, &cx.resource.plural)
    {
        classes::protect(obj, finalizer);
    }
    Ok(changed)
}

async fn mutate_pod(cx: &Context, op: Operation, pod: &mut Value, old: Option<&Value>) -> ApiResult<bool> {
    let settings = &cx.api.config.admission;
    let runs = |plugin| settings.runs(plugin);
    let creates = op == Operation::Create;
    if !cx.info.subresource.is_empty() {
        let resizes = op == Operation::Update && cx.info.subresource == "resize";
        if resizes && runs(Plugin::LimitRanger) {
            limits::default(cx, pod);
        }
        return Ok(resizes);
    }
    if creates && runs(Plugin::LimitRanger) {
        limits::default(cx, pod);
    }
    if creates && runs(Plugin::ServiceAccount) {
        service_account::assign(cx, pod).await?;
    }
    node_restriction::restrict(cx, op, Some(pod), old).await?;
    if runs(Plugin::AlwaysPullImages) && pod::has_new_image(pod, old) {
        pod::always_pull(pod);
    }
    if runs(Plugin::Priority) {
        match old {
            None => classes::priority(cx, pod)?,
            Some(old) => classes::keep_priority(pod, old),
        }
    }
    if runs(Plugin::DefaultTolerationSeconds) {
        tolerations::default_seconds(pod, settings.not_ready_seconds, settings.unreachable_seconds);
    }
    if runs(Plugin::PodTolerationRestriction) {
        tolerations::restrict(cx, pod, creates)?;
    }
    if runs(Plugin::ExtendedResourceToleration) {
        tolerations::of_extended_resources(pod);
    }
    if creates && runs(Plugin::RuntimeClass) {
        pod::runtime_class(cx, pod)?;
    }
    Ok(true)
}

/// Lets the plugins judge the final object; a deletion shows only the old one.
///
/// # Errors
/// 403 when a plugin refuses.
pub async fn validate(
    cx: &Context,
    op: Operation,
    obj: Option<&Value>,
    old: Option<&Value>,
) -> ApiResult<()> {
    let runs = |plugin| cx.api.config.admission.runs(plugin);
    if op == Operation::Delete {
        if runs(Plugin::NamespaceLifecycle) {
            namespace::may_be_deleted(cx)?;
        }
        if runs(Plugin::NamespaceExists) {
            namespace::exists(cx)?;
        }
        node_restriction::restrict(cx, op, None, old).await?;
    }
    if let Some(obj) = obj.filter(|_| matches!(op, Operation::Create | Operation::Update)) {
        validate_written(cx, op, obj, old).await?;
    }
    certificates::validate(cx, op, obj, old).await?;
    if runs(Plugin::ValidatingAdmissionPolicy) {
        policy::validate(cx, op, obj, old)?;
    }
    webhook::validate(cx, op, obj, old).await
}

async fn validate_written(cx: &Context, op: Operation, obj: &Value, old: Option<&Value>) -> ApiResult<()> {
    let runs = |plugin| cx.api.config.admission.runs(plugin);
    let (group, plural) = (cx.resource.group.as_ref(), cx.resource.plural.as_ref());
    let (creates, main) = (op == Operation::Create, cx.info.subresource.is_empty());
    if runs(Plugin::LimitRanger) && is_limited(cx, op) && !old.is_some_and(object::is_deleting) {
        limits::check(cx, obj)?;
    }
    if (group, plural) == ("", "pods") {
        let ephemeral = !creates && cx.info.subresource == "ephemeralcontainers";
        if runs(Plugin::ServiceAccount) && ((creates && main) || ephemeral) {
            service_account::check(cx, obj)?;
        }
        if runs(Plugin::AlwaysPullImages) && main && pod::has_new_image(obj, old) {
            pod::check_pull(cx, obj)?;
        }
    }
    if runs(Plugin::PodSecurity) {
        security::validate(cx, op, Some(obj), old)?;
    }
    if (group, plural) == ("scheduling.k8s.io", "priorityclasses") && main && runs(Plugin::Priority) {
        classes::one_default(cx, obj, creates)?;
    }
    if runs(Plugin::EventRateLimit) {
        cx.api.event_rates.take(cx, obj)?;
    }
    if runs(Plugin::OwnerReferencesPermissionEnforcement) {
        owner::enforce(cx, obj, old).await?;
    }
    if let Some(old) = old.filter(|_| (group, plural) == ("", "persistentvolumeclaims") && main)
        && runs(Plugin::PersistentVolumeClaimResize)
    {
        classes::check_growth(cx, obj, old)?;
    }
    Ok(())
}

/// Lets the plugins judge what is asked of a subresource that stores nothing: a token, an eviction.
///
/// # Errors
/// 403 when a plugin refuses, 404 when what it looks at is not there.
pub async fn ask(cx: &Context, request: &Value) -> ApiResult<()> {
    node_restriction::restrict(cx, Operation::Create, Some(request), None).await
}

/// 403 with upstream's idea of what the request is about: the name in the URL, or the new object's.
fn refuse(cx: &Context, obj: Option<&Value>, why: impl std::fmt::Display) -> ApiError {
    let given = |path: &[&str]| obj.map_or("", |obj| object::text(obj, path));
    let names = [cx.info.name.as_str(), given(&["metadata", "name"]), given(&["metadata", "generateName"])];
    let name = names.into_iter().find(|name| !name.is_empty()).unwrap_or("Unknown!");
    ApiError::forbidden(&cx.resource, name, why)
}

/// A pod may ask for something else only where it is resized.
fn is_limited(cx: &Context, op: Operation) -> bool {
    let resized = op == Operation::Update && cx.info.subresource == "resize";
    match cx.resource.plural.as_ref() {
        "pods" => is_pod(cx) && ((op == Operation::Create && cx.info.subresource.is_empty()) || resized),
        "persistentvolumeclaims" => cx.resource.group.is_empty() && cx.info.subresource.is_empty(),
        _ => false,
    }
}

fn is_pod(cx: &Context) -> bool {
    cx.resource.group.is_empty() && cx.resource.plural == "pods"
}
