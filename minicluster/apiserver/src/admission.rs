//! Admission: what the cluster adds to an object, or refuses, beyond what its kind allows.
//!
//! The plugins run in upstream's order: first those that change the object, then, on the final object, those that only
//! judge. Source: `pkg/kubeapiserver/options/plugins.go`.

mod limits;
mod matching;
mod namespace;
mod node;
mod pod;
mod policy;
pub mod quota;
mod service_account;
mod webhook;

use serde_json::Value;

use crate::{context::Context, status::ApiResult};

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

pub use policy::Policies;
pub use webhook::Webhooks;

/// Lets the plugins change an object.
///
/// # Errors
/// 403, 404 or 422 when a plugin refuses; what a webhook says.
pub async fn mutate(cx: &Context, op: Operation, obj: &mut Value, old: Option<&Value>) -> ApiResult<()> {
    if op == Operation::Create {
        namespace::exists_and_lives(cx)?;
    }
    if is_pod(cx) && cx.info.subresource.is_empty() {
        if op == Operation::Create {
            limits::default(cx, obj);
            service_account::assign(cx, obj)?;
            pod::priority(cx, obj)?;
            pod::runtime_class(cx, obj)?;
        }
        pod::default_tolerations(obj);
    }
    if cx.resource.group.is_empty() && cx.resource.plural == "nodes" && op == Operation::Create {
        node::taint_not_ready(obj);
    }
    webhook::mutate(cx, op, obj, old).await
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
    if op == Operation::Delete {
        namespace::may_be_deleted(cx)?;
    }
    if let Some(obj) = obj.filter(|_| is_limited(cx, op)) {
        limits::check(cx, obj)?;
    }
    node::restrict(cx, op, obj, old)?;
    policy::validate(cx, op, obj, old)?;
    webhook::validate(cx, op, obj, old).await
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
