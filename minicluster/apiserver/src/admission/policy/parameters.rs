//! The objects that parametrise a policy.

use serde_json::Value;
use windlass_crd::selector::LabelSelector;

use super::{Binding, Policy};
use crate::{context::Context, object, view};

/// The parameters to judge with; one `null` for a policy without.
///
/// # Errors
/// When the kind is not known, its place makes no sense, or there is none though there has to be.
pub(super) fn of(cx: &Context, policy: &Policy, binding: &Binding) -> Result<Vec<Value>, String> {
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
        (false, "") => "",
        (false, _) => {
            return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned());
        }
        (true, "") if cx.info.namespace.is_empty() => {
            return Err(
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
                    .to_owned(),
            );
        }
        (true, "") => &cx.info.namespace,
        (true, namespace) => namespace,
    };
    let name = object::text(reference, &["name"]);
    let found: Vec<Value> = if name.is_empty() {
        let selector = LabelSelector::from_json(reference.get("selector")).map_err(|e| e.to_string())?;
        let prefix = resource.collection(namespace);
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
