//! The events of the node: what happened to pods and containers, in upstream's words. The framework's recorder counts
//! repetitions and never holds up work; this only names what an event is about.

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use kube::Client;
use windlass::{EventType, Recorder};

use crate::pod::{Role, identity};

/// How serious an event is.
pub(crate) use windlass::EventType as Kind;

/// Where events are handed in.
#[derive(Clone)]
pub(crate) struct Events {
    recorder: Recorder,
}

impl Events {
    /// Events of the node `host`.
    pub(crate) fn start(client: Client, host: &str) -> Self {
        Self { recorder: Recorder::on_host(client, "kubelet", host) }
    }

    /// An event about a pod.
    pub(crate) fn pod(&self, pod: &Pod, kind: EventType, reason: &'static str, message: String) {
        self.send(&reference(pod, None), kind, reason, message);
    }

    /// An event about one container of a pod.
    pub(crate) fn container(
        &self,
        pod: &Pod,
        role: Role,
        name: &str,
        kind: EventType,
        reason: &'static str,
        message: String,
    ) {
        let list = match role {
            Role::App => "containers",
            Role::Init | Role::Sidecar => "initContainers",
            Role::Ephemeral => "ephemeralContainers",
        };
        self.send(&reference(pod, Some(format!("spec.{list}{{{name}}}"))), kind, reason, message);
    }

    /// An event about the node. Its uid is the node's name, as `kubectl describe node` looks for it.
    pub(crate) fn node(&self, node: &Node, kind: EventType, reason: &'static str, message: String) {
        let name = node.metadata.name.clone();
        let about = ObjectReference {
            kind: Some("Node".into()),
            uid: name.clone(),
            name,
            ..ObjectReference::default()
        };
        self.send(&about, kind, reason, message);
    }

    fn send(&self, about: &ObjectReference, kind: EventType, reason: &'static str, message: String) {
        self.recorder.event_about(about, None, kind, reason, "", message);
    }
}

fn reference(pod: &Pod, field_path: Option<String>) -> ObjectReference {
    let id = identity(pod);
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(id.namespace),
        name: Some(id.name),
        uid: Some(id.uid),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}
