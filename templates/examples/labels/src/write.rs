//! The one write: an object is given the label of its namespace.

use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, ObjectMeta, Patch, PatchParams},
};
use serde_json::json;

use crate::Standard;

/// Server-side apply as the standard's own field manager. Says at which revision the object is; `None` when it is gone.
pub(crate) async fn write(
    client: &Client,
    standard: &Standard,
    kind: &ApiResource,
    object: &ObjectMeta,
    value: &str,
) -> kube::Result<Option<u64>> {
    let name = object.name.as_deref().unwrap_or_default();
    let namespace = object.namespace.as_deref().unwrap_or_default();
    let body = json!({
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {
            "name": name,
            "namespace": namespace,
            // An apply makes what is not there, unless it says which object it is about.
            "uid": object.uid,
            "labels": { (standard.spec.label.as_str()): value },
        },
    });
    let params = PatchParams::apply(&format!("labels/{}", standard.name_any())).force();
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, kind);
    match api.patch_metadata(name, &params, &Patch::Apply(body)).await {
        Ok(written) => Ok(Some(windlass::revision_of(&written))),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
