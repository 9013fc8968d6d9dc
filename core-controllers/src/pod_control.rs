//! Pods made and deleted for an owner, who is told of it in events. The words are those of upstream's pod control.

use k8s_openapi::api::core::v1::Pod;
use windlass::{Error, EventType, Object, Request};

/// Makes a pod.
pub(crate) async fn create<K: Object>(pod: &Pod, owner: &K, request: &Request<K>) -> Result<(), Error>
where
    K::DynamicType: Default,
{
    match request.client.create(pod).await {
        Ok(pod) => {
            let note = format!("Created pod: {}", pod.metadata.name.as_deref().unwrap_or_default());
            request.recorder.event(owner, EventType::Normal, "SuccessfulCreate", note);
            Ok(())
        }
        Err(error) => {
            if !error.is_namespace_terminating() {
                let note = format!("Error creating: {error}");
                request.recorder.event(owner, EventType::Warning, "FailedCreate", note);
            }
            Err(error)
        }
    }
}

/// Deletes a pod.
pub(crate) async fn delete<K: Object>(pod: &Pod, owner: &K, request: &Request<K>) -> Result<(), Error>
where
    K::DynamicType: Default,
{
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    match request.client.delete(pod).await {
        Ok(()) => {
            let note = format!("Deleted pod: {name}");
            request.recorder.event(owner, EventType::Normal, "SuccessfulDelete", note);
            Ok(())
        }
        Err(error) => {
            let note = format!("Error deleting: {error}");
            request.recorder.event(owner, EventType::Warning, "FailedDelete", note);
            Err(error)
        }
    }
}
