//! The events of the node: what happened to pods, in upstream's words, told to the API without ever holding up work.
//!
//! Events go through a bounded queue to one task; when the API is slow the queue fills and further events are dropped
//! and counted. The same event again within ten minutes raises the count of the one already told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio::sync::mpsc;
use windlass::clock;

use crate::pod::{Role, identity};

/// Events waiting to be told.
const QUEUE: usize = 1000;
/// Different events remembered for counting.
const REMEMBERED: usize = 4096;
/// A repetition within this time raises a count instead of making a new object.
const SAME_WITHIN: Duration = Duration::from_secs(600);

/// How serious an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As expected.
    Normal,
    /// Something is wrong.
    Warning,
}

struct Happened {
    about: ObjectReference,
    kind: Kind,
    reason: &'static str,
    message: String,
}

/// Where events are handed in.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<Happened>,
    dropped: Arc<AtomicU64>,
}

impl Events {
    /// Events of the node `host`, told through `client` by a task that ends with the last handle.
    pub fn start(client: Client, host: String) -> Self {
        let (queue, receive) = mpsc::channel(QUEUE);
        tokio::spawn(tell_all(client, host, receive));
        Self { queue, dropped: Arc::default() }
    }

    /// An event about a pod.
    pub fn pod(&self, pod: &Pod, kind: Kind, reason: &'static str, message: String) {
        self.send(reference(pod, None), kind, reason, message);
    }

    /// An event about one container of a pod.
    pub fn container(&self, pod: &Pod, role: Role, name: &str, kind: Kind, reason: &'static str, message: String) {
        let list = match role {
            Role::App => "containers",
            Role::Init | Role::Sidecar => "initContainers",
            Role::Ephemeral => "ephemeralContainers",
        };
        self.send(reference(pod, Some(format!("spec.{list}{{{name}}}"))), kind, reason, message);
    }

    /// An event about the node.
    pub fn node(&self, node: &Node, kind: Kind, reason: &'static str, message: String) {
        let name = node.metadata.name.clone();
        let about = ObjectReference { kind: Some("Node".into()), uid: name.clone(), name, ..ObjectReference::default() };
        self.send(about, kind, reason, message);
    }

    fn send(&self, about: ObjectReference, kind: Kind, reason: &'static str, message: String) {
        if self.queue.try_send(Happened { about, kind, reason, message }).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Events lost because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
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

/// One event as it was told.
struct Told {
    name: String,
    count: i32,
    last: jiff::Timestamp,
}

type Sameness = (Option<String>, Option<String>, &'static str, String);

async fn tell_all(client: Client, host: String, mut receive: mpsc::Receiver<Happened>) {
    let mut told: BTreeMap<Sameness, Told> = BTreeMap::new();
    while let Some(happened) = receive.recv().await {
        let same =
            (happened.about.uid.clone(), happened.about.field_path.clone(), happened.reason, happened.message.clone());
        if told.len() >= REMEMBERED {
            told.retain(|_, t| clock::since(t.last) < SAME_WITHIN);
            if told.len() >= REMEMBERED {
                told.clear();
            }
        }
        let namespace = happened.about.namespace.clone().unwrap_or_else(|| "default".into());
        let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
        let known = told.get_mut(&same).filter(|t| clock::since(t.last) < SAME_WITHIN);
        let result = match known {
            Some(known) => {
                known.count += 1;
                known.last = clock::now();
                let patch = serde_json::json!({"count": known.count, "lastTimestamp": clock::time()});
                events.patch(&known.name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
            }
            None => {
                let event = object(&happened, &namespace, &host);
                let name = event.metadata.name.clone().unwrap_or_default();
                told.insert(same, Told { name, count: 1, last: clock::now() });
                events.create(&PostParams::default(), &event).await.map(drop)
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, reason = happened.reason, "an event could not be told");
        }
    }
}

fn object(happened: &Happened, namespace: &str, host: &str) -> Event {
    let about = happened.about.name.as_deref().unwrap_or_default();
    let now = clock::now();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{about}.{:x}", now.as_nanosecond())),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: happened.about.clone(),
        reason: Some(happened.reason.to_owned()),
        message: Some(happened.message.clone()),
        type_: Some(format!("{:?}", happened.kind)),
        count: Some(1),
        first_timestamp: Some(clock::time()),
        last_timestamp: Some(clock::time()),
        source: Some(EventSource { component: Some("kubelet".into()), host: Some(host.to_owned()) }),
        reporting_component: Some("kubelet".into()),
        reporting_instance: Some(host.to_owned()),
        ..Event::default()
    }
}
