//! OwnerReferencesPermissionEnforcement: who makes an object depend on another, or another wait for it, may do so.
//!
//! Source: `plugin/pkg/admission/gc`.

use serde_json::Value;

use crate::{
    authz::Attributes,
    context::Context,
    object,
    status::{ApiError, ApiResult},
};

/// Holds a change of owners to what the user may do.
///
/// # Errors
/// 403 for a user who could not delete the object, or not set finalizers on the owner.
pub(super) async fn enforce(cx: &Context, obj: &Value, old: Option<&Value>) -> ApiResult<()> {
    let is_status =
        cx.resource.group.is_empty() && cx.resource.plural == "pods" && cx.info.subresource == "status";
    let owners = |obj: &Value| object::list(obj, &["metadata", "ownerReferences"]).to_vec();
    let (new, before) = (owners(obj), old.map(owners).unwrap_or_default());
    if is_status || new == before {
        return Ok(());
    }
    let refuse = |why: String| Err(ApiError::forbidden(&cx.resource, object::name(obj), why));
    if old.is_some() && !allows(cx, &Attributes { verb: "delete", ..Attributes::of(&cx.info) }).await {
        return refuse("cannot set an ownerRef on a resource you can't delete: , <nil>".to_owned());
    }
    let blocks = |owner: &Value| owner.get("blockOwnerDeletion").and_then(Value::as_bool) == Some(true);
    let uid = |owner: &Value| object::text(owner, &["uid"]).to_owned();
    let blocked_before = |owner: &Value| before.iter().any(|known| uid(known) == uid(owner) && blocks(known));
    let blocking: Vec<&Value> = new.iter().filter(|owner| blocks(owner) && !blocked_before(owner)).collect();
    let update = Attributes {
        verb: "update",
        group: "*",
        version: "*",
        resource: "*",
        subresource: "finalizers",
        name: "*",
        is_resource: true,
        ..Attributes::default()
    };
    if blocking.is_empty() || allows(cx, &update).await {
        return Ok(());
    }
    for owner in blocking {
        let (api_version, kind) = (object::text(owner, &["apiVersion"]), object::text(owner, &["kind"]));
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let table = cx.api.registry.table();
        let Some(resource) = table.of_version(group, version).find(|resource| resource.kind == kind) else {
            return refuse(format!(
                "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {api_version} \
                 Kind {kind}: no matches for kind \"{kind}\" in version \"{api_version}\""
            ));
        };
        let asked = Attributes {
            group,
            version,
            resource: &resource.plural,
            namespace: if resource.namespaced { &cx.info.namespace } else { "" },
            name: object::text(owner, &["name"]),
            ..update
        };
        if !allows(cx, &asked).await {
            return refuse(
                "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: , \
                 <nil>"
                    .to_owned(),
            );
        }
    }
    Ok(())
}

async fn allows(cx: &Context, asked: &Attributes<'_>) -> bool {
    cx.api.authorizer.decide(&cx.api, &cx.user, asked).await.is_allowed()
}
