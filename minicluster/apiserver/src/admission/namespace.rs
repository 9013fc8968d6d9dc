//! NamespaceLifecycle: nothing begins in a namespace that is missing or ending, and some namespaces never end.

use serde_json::Value;

use crate::{
    context::Context,
    object,
    status::{ApiError, ApiResult, Cause},
};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Refuses creations in a namespace that does not exist or is being deleted.
pub(super) fn exists_and_lives(cx: &Context) -> ApiResult<()> {
    let namespace = &cx.info.namespace;
    if !cx.resource.namespaced || namespace.is_empty() {
        return Ok(());
    }
    // Reviews say something about a namespace; they put nothing into it.
    if cx.resource.group == "authorization.k8s.io" {
        return Ok(());
    }
    let namespaces = cx.api.registry.builtin("", "v1", "namespaces");
    let Some(entry) = cx.api.store.get(&namespaces.key("", namespace)) else {
        return Err(ApiError::not_found(&namespaces, namespace));
    };
    let obj: Value = serde_json::from_slice(&entry.value).unwrap_or_default();
    if object::text(&obj, &["status", "phase"]) != "Terminating" && !object::is_deleting(&obj) {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    Err(ApiError::forbidden(&cx.resource, &cx.info.name, why).with_causes(vec![Cause {
        reason: "NamespaceTerminating".to_owned(),
        message: format!("namespace {namespace} is being terminated"),
        field: "metadata.namespace".to_owned(),
    }]))
}

/// Keeps the namespaces that the system cannot do without.
pub(super) fn may_be_deleted(cx: &Context) -> ApiResult<()> {
    let name = cx.info.name.as_str();
    if cx.resource.group.is_empty() && cx.resource.plural == "namespaces" && IMMORTAL.contains(&name) {
        return Err(ApiError::forbidden(&cx.resource, name, "this namespace may not be deleted"));
    }
    Ok(())
}
