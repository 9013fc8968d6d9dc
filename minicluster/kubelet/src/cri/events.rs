//! What changed in the runtime, pushed: CRI's event stream where it is served, containerd's own event service where
//! it is not (containerd before 1.7), and a slow relist as the safety net only.
//!
//! Containerd publishes a process's end before its CRI plugin has taken note of it. So an end is handed on only when
//! the container's status agrees, looked at a few times within a second.

use std::time::Duration;

use containerd_client::services::v1::SubscribeRequest;
use containerd_client::services::v1::events_client::EventsClient;
use futures::stream::{BoxStream, StreamExt as _};
use k8s_cri::v1 as pb;
use prost_types::Any;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Cri;
use crate::runtime::{RuntimeError, RuntimeEvent, labels};

/// The safety net's period.
const RELIST: Duration = Duration::from_secs(300);
/// Pause before a broken stream is opened again.
const RECONNECT: Duration = Duration::from_secs(1);
/// Events not yet taken by the kubelet; a full queue delays the stream, and containerd buffers.
const QUEUE: usize = 1024;
/// Looks at a container whose end was announced: 5, 10, 20 … ms.
const CONFIRMATIONS: u32 = 8;

/// Containerd topics that matter to a pod. The namespace is where the CRI plugin keeps its containers.
const TOPICS: [&str; 4] = ["/tasks/exit", "/tasks/oom", "/tasks/start", "/containers/delete"];
const NAMESPACE: &str = "k8s.io";

/// The runtime's changes until the stream is dropped.
pub(super) fn stream(cri: Cri) -> BoxStream<'static, RuntimeEvent> {
    let (send, receive) = mpsc::channel(QUEUE);
    let stop = CancellationToken::new();
    let guard = stop.clone().drop_guard();
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = pump(&cri, &send) => {}
            () = safety_net(&send) => {}
        }
    });
    tokio_stream(receive, guard).boxed()
}

fn tokio_stream(
    receive: mpsc::Receiver<RuntimeEvent>,
    guard: tokio_util::sync::DropGuard,
) -> impl futures::Stream<Item = RuntimeEvent> {
    futures::stream::unfold((receive, guard), |(mut receive, guard)| async move {
        let event = receive.recv().await?;
        Some((event, (receive, guard)))
    })
}

async fn safety_net(send: &mpsc::Sender<RuntimeEvent>) {
    loop {
        tokio::time::sleep(RELIST).await;
        if send.send(RuntimeEvent::All).await.is_err() {
            return;
        }
    }
}

/// Reads events for ever; each gap is followed by [`RuntimeEvent::All`].
async fn pump(cri: &Cri, send: &mpsc::Sender<RuntimeEvent>) {
    let mut cri_events = true;
    loop {
        let ended = if cri_events { from_cri(cri, send).await } else { from_containerd(cri, send).await };
        match ended {
            Err(RuntimeError::Failed { code: "Unimplemented", .. }) if cri_events => {
                cri_events = false;
                continue;
            }
            Err(error) => tracing::warn!(%error, "the runtime's event stream broke"),
            Ok(()) => {}
        }
        if send.send(RuntimeEvent::All).await.is_err() {
            return;
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

async fn from_cri(cri: &Cri, send: &mpsc::Sender<RuntimeEvent>) -> Result<(), RuntimeError> {
    let mut runtime = cri.runtime();
    let mut events = runtime
        .get_container_events(pb::GetEventsRequest {})
        .await
        .map_err(|s| super::convert::error(&s))?
        .into_inner();
    while let Some(event) = events.message().await.map_err(|s| super::convert::error(&s))? {
        let uid = event.pod_sandbox_status.and_then(|s| s.metadata).map(|m| m.uid);
        let event = uid.map_or(RuntimeEvent::All, RuntimeEvent::Pod);
        if send.send(event).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

async fn from_containerd(cri: &Cri, send: &mpsc::Sender<RuntimeEvent>) -> Result<(), RuntimeError> {
    let filters = TOPICS.iter().map(|t| format!("topic==\"{t}\",namespace=={NAMESPACE}")).collect();
    let mut client = EventsClient::new(cri.channel.clone());
    let mut events = client
        .subscribe(SubscribeRequest { filters })
        .await
        .map_err(|s| super::convert::error(&s))?
        .into_inner();
    // What happened before the subscription must be seen too.
    if send.send(RuntimeEvent::All).await.is_err() {
        return Ok(());
    }
    while let Some(envelope) = events.message().await.map_err(|s| super::convert::error(&s))? {
        let Some(change) = envelope.event.as_ref().and_then(|e| Change::read(&envelope.topic, e)) else {
            continue;
        };
        // Confirming one container's end must not hold up the others'.
        let (cri, send) = (cri.clone(), send.clone());
        tokio::spawn(async move {
            if let Some(event) = confirm(&cri, &change).await {
                let _ = send.send(event).await;
            }
        });
    }
    Ok(())
}

/// One of containerd's events, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    container: String,
    ended: bool,
}

impl Change {
    /// Reads the container id out of the event. All four events begin with `container_id = 1`, save the deletion,
    /// whose field 1 is `id`: the same on the wire. An exit's field 2 is the process; it differs from the container
    /// when an exec session ended, which changes nothing.
    fn read(topic: &str, event: &Any) -> Option<Self> {
        use containerd_client::events::{ContainerDelete, TaskExit, TaskOom, TaskStart};
        use containerd_client::tonic::codegen::Bytes;
        use prost::Message as _;
        let body = Bytes::copy_from_slice(&event.value);
        let (container, ended) = match topic {
            "/tasks/exit" => {
                let exit = TaskExit::decode(body).ok()?;
                if exit.id != exit.container_id {
                    return None;
                }
                (exit.container_id, true)
            }
            "/tasks/oom" => (TaskOom::decode(body).ok()?.container_id, false),
            "/tasks/start" => (TaskStart::decode(body).ok()?.container_id, false),
            "/containers/delete" => (ContainerDelete::decode(body).ok()?.id, false),
            _ => return None,
        };
        Some(Self { container, ended })
    }
}

/// Waits until the CRI side agrees with an announced end, then names the pod.
async fn confirm(cri: &Cri, change: &Change) -> Option<RuntimeEvent> {
    let known = cri.owners.lock().get(&change.container).cloned();
    if !change.ended {
        return known.map(RuntimeEvent::Pod);
    }
    let mut owner = known;
    for attempt in 0..CONFIRMATIONS {
        if let Ok(Some(status)) = cri.container_status(change.container.clone()).await {
            owner = owner.or_else(|| status.labels.get(labels::POD_UID).cloned());
            if status.state == pb::ContainerState::ContainerExited as i32 {
                break;
            }
        } else if let Ok(Some(status)) = cri.sandbox_status(change.container.clone()).await {
            owner = owner.or_else(|| status.labels.get(labels::POD_UID).cloned());
            if status.state == pb::PodSandboxState::SandboxNotready as i32 {
                break;
            }
        } else {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5 << attempt)).await;
    }
    owner.map(RuntimeEvent::Pod)
}
