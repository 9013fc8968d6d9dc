//! What the scheduler writes: bindings, conditions of pods that fit nowhere, and the end of preempted pods.

use http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::{Value, json};

use crate::pod::PodInfo;

fn api(client: &Client, pod: &PodInfo) -> Api<Pod> {
    Api::namespaced(client.clone(), pod.namespace())
}

/// Gives a pod its node.
pub(crate) async fn bind(client: &Client, pod: &PodInfo, node: &str) -> Result<(), kube::Error> {
    let (namespace, name) = (pod.namespace(), pod.key.name());
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": { "name": name, "namespace": namespace, "uid": pod.uid() },
        "target": { "apiVersion": "v1", "kind": "Node", "name": node },
    });
    let body = serde_json::to_vec(&binding).expect("JSON into memory");
    let request = Request::post(format!("/api/v1/namespaces/{namespace}/pods/{name}/binding"))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(kube::Error::HttpError)?;
    client.request::<Value>(request).await.map(drop)
}

/// Says on the pod why it is not scheduled, and which node is being cleared for it.
pub(crate) async fn tell(
    client: &Client,
    pod: &PodInfo,
    reason: &str,
    message: &str,
    nominated: Option<&str>,
) -> Result<(), kube::Error> {
    let mut status = json!({ "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
        "lastProbeTime": null, "lastTransitionTime": transition(pod),
        "observedGeneration": pod.pod.metadata.generation,
    }] });
    if let Some(node) = nominated {
        status["nominatedNodeName"] = node.into();
    }
    let patch = json!({ "metadata": { "uid": pod.uid() }, "status": status });
    api(client, pod)
        .patch_status(pod.key.name(), &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .map(drop)
}

/// The condition keeps the time at which it became false.
fn transition(pod: &PodInfo) -> Value {
    let conditions = pod.pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let since = conditions
        .into_iter()
        .flatten()
        .find(|c| c.type_ == "PodScheduled" && c.status == "False")
        .and_then(|c| c.last_transition_time.clone());
    json!(since.unwrap_or_else(windlass::clock::time))
}

/// True when the pod says already what [`tell`] would write.
pub(crate) fn is_told(pod: &PodInfo, reason: &str, message: &str) -> bool {
    let conditions = pod.pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| {
        c.type_ == "PodScheduled"
            && c.status == "False"
            && c.reason.as_deref() == Some(reason)
            && c.message.as_deref() == Some(message)
    })
}

/// Makes a pod leave for a more important one.
pub(crate) async fn preempt(
    client: &Client,
    victim: &PodInfo,
    by: &PodInfo,
    scheduler: &str,
) -> Result<(), kube::Error> {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
        "message": format!("{scheduler}: preempting to accommodate a higher priority pod"),
        "lastTransitionTime": windlass::clock::time(),
    });
    let patch = json!({ "metadata": { "uid": victim.uid() }, "status": { "conditions": [condition] } });
    let pods = api(client, victim);
    let told = pods.patch_status(victim.key.name(), &PatchParams::default(), &Patch::Strategic(patch)).await;
    if let Err(error) = told {
        tracing::debug!(pod = %victim.key, by = %by.key, %error, "a preempted pod could not be told");
    }
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: Some(victim.uid().to_owned()), resource_version: None }),
        ..DeleteParams::default()
    };
    match pods.delete(victim.key.name(), &params).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}
