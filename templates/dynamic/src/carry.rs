//! The one write: an object is given what a policy wants it to carry, or what it was given is taken back.

use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, ObjectMeta, Patch, PatchParams},
};
use serde_json::json;

use crate::{Carried, TemplateName};

/// Server-side apply as the policy's own field manager: what it gave before and does not give now is taken away, and what
/// others wrote stays. Says at which revision the object is; `None` when it is gone.
pub(crate) async fn carry(
    client: &Client,
    policy: &TemplateName,
    kind: &ApiResource,
    object: &ObjectMeta,
    carried: &Carried,
) -> kube::Result<Option<u64>> {
    let name = object.name.as_deref().unwrap_or_default();
    let api: Api<DynamicObject> = match &object.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, kind),
        None => Api::all_with(client.clone(), kind),
    };
    let body = json!({
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {
            "name": name,
            "namespace": object.namespace,
            // An apply makes what is not there, unless it says which object it is about.
            "uid": object.uid,
            "labels": carried.labels,
            "annotations": carried.annotations,
        },
    });
    let manager = format!("template-name/{}", policy.name_any());
    let params = PatchParams::apply(&manager).force();
    match api.patch_metadata(name, &params, &Patch::Apply(body)).await {
        Ok(written) => Ok(Some(windlass::revision_of(&written))),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the server says no, and would say it again: what is wrong is the object or the policy.
pub(crate) fn is_refused(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422))
}
