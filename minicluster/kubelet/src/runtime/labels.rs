//! The labels and annotations by which a restarted kubelet finds its containers again. Names are upstream's, so that
//! either kubelet adopts the other's containers.

use std::collections::BTreeMap;

use super::PodIdentity;

/// Pod name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Pod namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Pod uid.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Container name.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Hash of the container's specification.
pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
/// How often the container was restarted.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Path of the termination message in the container.
pub const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Policy of the termination message.
pub const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// The container's ports, as JSON.
pub const PORTS: &str = "io.kubernetes.container.ports";
/// Grace period of the pod in seconds.
pub const TERMINATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// The pod a sandbox or container belongs to, when its labels tell.
pub fn identity(labels: &BTreeMap<String, String>) -> Option<PodIdentity> {
    Some(PodIdentity {
        uid: labels.get(POD_UID)?.clone(),
        namespace: labels.get(POD_NAMESPACE)?.clone(),
        name: labels.get(POD_NAME)?.clone(),
    })
}

/// The labels of a sandbox.
pub fn of_pod(pod: &PodIdentity) -> BTreeMap<String, String> {
    [(POD_NAME, &pod.name), (POD_NAMESPACE, &pod.namespace), (POD_UID, &pod.uid)]
        .map(|(k, v)| (k.to_owned(), v.clone()))
        .into()
}
