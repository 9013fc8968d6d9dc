//! NamespaceLifecycle: nothing begins in a namespace that is missing or ending, and some namespaces never end.

use std::{collections::BTreeMap, sync::Arc};

use minicluster_store::Revision;
use parking_lot::Mutex;
use serde_json::Value;

use crate::{
    context::Context,
    object,
    status::{ApiError, ApiResult, Cause},
};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];
const NAMESPACES: &str = "/registry/namespaces/";

/// Namespaces that are remembered before all are forgotten.
const KNOWN_MAX: usize = 20_000;

/// Namespaces as admission looks at them, decoded once for each revision.
#[derive(Default)]
pub struct Namespaces(Mutex<BTreeMap<String, (Revision, Arc<Facts>)>>);

/// What admission asks about a namespace.
#[derive(Debug)]
pub(crate) struct Facts {
    /// The whole object.
    pub(super) object: Value,
    ends: bool,
}

impl Facts {
    fn read(bytes: &[u8]) -> Self {
        let object: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let ends =
            object::text(&object, &["status", "phase"]) == "Terminating" || object::is_deleting(&object);
        Self { object, ends }
    }

    /// Its labels, if it has any.
    pub(super) fn labels(&self) -> Option<&Value> {
        object::at(&self.object, &["metadata", "labels"])
    }
}

/// A namespace as it is now; `None` when there is none of this name.
pub(super) fn facts(cx: &Context, name: &str) -> Option<Arc<Facts>> {
    let known = &cx.api.namespaces.0;
    let Some(entry) = cx.api.store.get(&format!("{NAMESPACES}{name}")) else {
        known.lock().remove(name);
        return None;
    };
    if let Some((revision, facts)) = known.lock().get(name)
        && *revision == entry.mod_revision
    {
        return Some(Arc::clone(facts));
    }
    let facts = Arc::new(Facts::read(&entry.value));
    let mut known = known.lock();
    if known.len() >= KNOWN_MAX {
        known.clear();
    }
    known.insert(name.to_owned(), (entry.mod_revision, Arc::clone(&facts)));
    Some(facts)
}

/// Refuses creations in a namespace that does not exist or is being deleted.
pub(super) fn exists_and_lives(cx: &Context, obj: &Value) -> ApiResult<()> {
    let namespace = &cx.info.namespace;
    if !cx.resource.namespaced || namespace.is_empty() {
        return Ok(());
    }
    // Reviews say something about a namespace; they put nothing into it.
    if cx.resource.group == "authorization.k8s.io" {
        return Ok(());
    }
    let Some(facts) = facts(cx, namespace) else {
        return Err(ApiError::not_found(&cx.api.registry.builtin("", "v1", "namespaces"), namespace));
    };
    if !facts.ends {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let in_object = object::at(obj, &["metadata", "name"]).and_then(Value::as_str).unwrap_or_default();
    let name = if cx.info.name.is_empty() { in_object } else { &cx.info.name };
    Err(ApiError::forbidden(&cx.resource, name, why).with_causes(vec![Cause {
        reason: "NamespaceTerminating".to_owned(),
        message: format!("namespace {namespace} is being terminated"),
        field: "metadata.namespace".to_owned(),
    }]))
}

/// NamespaceExists: refuses any change in a namespace that does not exist.
pub(super) fn exists(cx: &Context) -> ApiResult<()> {
    let namespace = &cx.info.namespace;
    if !cx.resource.namespaced || namespace.is_empty() || facts(cx, namespace).is_some() {
        return Ok(());
    }
    Err(ApiError::not_found(&cx.api.registry.builtin("", "v1", "namespaces"), namespace))
}

/// Keeps the namespaces that the system cannot do without.
pub(super) fn may_be_deleted(cx: &Context) -> ApiResult<()> {
    let name = cx.info.name.as_str();
    if cx.resource.group.is_empty() && cx.resource.plural == "namespaces" && IMMORTAL.contains(&name) {
        return Err(ApiError::forbidden(&cx.resource, name, "this namespace may not be deleted"));
    }
    Ok(())
}
