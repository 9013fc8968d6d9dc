//! Mirror pods: how static pods show in the API. The API's object has a uid of its own; its annotation names the static
//! pod. Status goes to the mirror; deleting the mirror changes nothing on the node, and it is made anew.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};

use crate::worker::Shared;

/// Hash of the static pod; on both.
pub(crate) const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// Where a pod comes from: `file` or `api`.
pub(crate) const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// When the kubelet saw it first.
pub(crate) const CONFIG_SEEN: &str = "kubernetes.io/config.seen";
/// Marks a mirror pod; the hash of its static pod.
pub(crate) const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";

/// The static pod a pod of the API mirrors.
pub(crate) fn mirrors(pod: &Pod) -> Option<&str> {
    pod.metadata.annotations.as_ref()?.get(CONFIG_MIRROR).map(String::as_str)
}

/// Makes the mirror of a static pod; one that is there already is met on the watch.
pub(crate) async fn create(shared: &Arc<Shared>, pod: &Pod) -> Result<(), kube::Error> {
    let nodes: Api<Node> = Api::all(shared.client.clone());
    let node = nodes.get(&shared.config.node_name).await?;
    let mut mirror = pod.clone();
    let meta = &mut mirror.metadata;
    let hash = meta.uid.take().unwrap_or_default();
    meta.annotations.get_or_insert_default().insert(CONFIG_MIRROR.into(), hash);
    meta.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: shared.config.node_name.clone(),
        uid: node.metadata.uid.unwrap_or_default(),
        controller: Some(true),
        ..OwnerReference::default()
    }]);
    mirror.status = None;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let api: Api<Pod> = Api::namespaced(shared.client.clone(), namespace);
    match api.create(&PostParams::default(), &mirror).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => other.map(drop),
    }
}

/// Takes a mirror away whose static pod is no more.
pub(crate) async fn delete(shared: &Arc<Shared>, mirror: &Pod) {
    let namespace = mirror.metadata.namespace.as_deref().unwrap_or("default");
    let api: Api<Pod> = Api::namespaced(shared.client.clone(), namespace);
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: mirror.metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    let name = mirror.metadata.name.as_deref().unwrap_or_default();
    if let Err(error) = api.delete(name, &params).await {
        tracing::debug!(pod = name, %error, "a mirror pod could not be deleted");
    }
}
