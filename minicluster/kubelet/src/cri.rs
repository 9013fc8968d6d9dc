//! The real container runtime over CRI v1 (gRPC on a unix socket): containerd, CRI-O, or any other.
//!
//! A thin adapter: it converts messages ([`convert`]), bounds every call in time, and turns the runtime's events into
//! "this pod changed" ([`events`]). It never interprets a pod. The channel connects on demand and again after the
//! runtime was restarted, so that a dead runtime pauses the kubelet and does not end it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use hyper_util::rt::TokioIo;
use k8s_cri::v1 as pb;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use parking_lot::Mutex;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::runtime::{
    ContainerConfig, ContainerStats, ExecOutput, Image, PodIdentity, PodView, RegistryAuth, Resources,
    Result, Runtime, RuntimeError, RuntimeEvent, RuntimeInfo, SandboxConfig, Streams, labels,
};

mod convert;
mod events;

/// Bound of ordinary calls.
const CALL: Duration = Duration::from_secs(120);
/// Bound of a sandbox start, which waits for the network plugins.
const SANDBOX: Duration = Duration::from_secs(240);
/// Bound of an image pull.
const PULL: Duration = Duration::from_secs(30 * 60);
/// Container statuses fetched side by side for one pod.
const INSPECT_AT_ONCE: usize = 8;
/// A CRI message may carry thousands of containers.
const MESSAGE_BYTES: usize = 16 << 20;

/// Which pod a container or sandbox id belongs to: containerd's events name only the id.
type Owners = Arc<Mutex<BTreeMap<String, String>>>;

/// A client of a CRI runtime.
#[derive(Clone)]
pub struct Cri {
    channel: Channel,
    owners: Owners,
}

impl Cri {
    /// A runtime at `endpoint`: a path or a `unix://` address. Connects when first used.
    pub fn new(endpoint: &str) -> Self {
        let path = PathBuf::from(endpoint.strip_prefix("unix://").unwrap_or(endpoint));
        let connector = tower::service_fn(move |_: http::Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is never used; the connector goes to the socket.
        let channel = Endpoint::from_static("http://cri.invalid").connect_with_connector_lazy(connector);
        Self { channel, owners: Owners::default() }
    }

    /// The image that the runtime makes pod sandboxes from, where it says so (containerd does).
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub async fn sandbox_image(&self) -> Result<Option<String>> {
        let status = call(CALL, self.runtime().status(pb::StatusRequest { verbose: true })).await?;
        let config =
            status.info.get("config").and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
        let image = config.as_ref().and_then(|c| c.get("sandboxImage")).and_then(|i| i.as_str());
        Ok(image.map(str::to_owned))
    }

    fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES)
    }

    fn image_service(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES)
    }

    fn remember(&self, id: &str, pod: &str) {
        let mut owners = self.owners.lock();
        if !owners.contains_key(id) {
            owners.insert(id.to_owned(), pod.to_owned());
        }
    }

    async fn container_status(&self, id: String) -> Result<Option<pb::ContainerStatus>> {
        let request = pb::ContainerStatusRequest { container_id: id, verbose: false };
        match call(CALL, self.runtime().container_status(request)).await {
            Ok(reply) => Ok(reply.status),
            Err(RuntimeError::NotFound(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn sandbox_status(&self, id: String) -> Result<Option<pb::PodSandboxStatus>> {
        let request = pb::PodSandboxStatusRequest { pod_sandbox_id: id, verbose: false };
        match call(CALL, self.runtime().pod_sandbox_status(request)).await {
            Ok(reply) => Ok(reply.status),
            Err(RuntimeError::NotFound(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// Runs one call within its bound and converts the error.
async fn call<T>(
    bound: Duration,
    reply: impl Future<Output = Result<tonic::Response<T>, tonic::Status>> + Send,
) -> Result<T> {
    match tokio::time::timeout(bound, reply).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(convert::error(&status)),
        Err(_) => Err(RuntimeError::Timeout("context deadline exceeded".into())),
    }
}

/// What is already gone is as good as removed.
fn gone_is_done<T>(result: Result<T>) -> Result<()> {
    match result {
        Ok(_) | Err(RuntimeError::NotFound(_)) => Ok(()),
        Err(e) => Err(e),
    }
}

#[async_trait]
impl Runtime for Cri {
    async fn info(&self) -> Result<RuntimeInfo> {
        let version =
            call(CALL, self.runtime().version(pb::VersionRequest { version: "0.1.0".into() })).await?;
        let status = call(CALL, self.runtime().status(pb::StatusRequest { verbose: false })).await?;
        Ok(convert::info(version, &status.status.unwrap_or_default()))
    }

    async fn pods(&self) -> Result<Vec<PodIdentity>> {
        let sandboxes =
            call(CALL, self.runtime().list_pod_sandbox(pb::ListPodSandboxRequest { filter: None })).await?;
        let containers =
            call(CALL, self.runtime().list_containers(pb::ListContainersRequest { filter: None })).await?;
        let mut owners = BTreeMap::new();
        let mut pods = std::collections::BTreeSet::new();
        let sandboxes = sandboxes.items.iter().map(|s| (&s.id, &s.labels));
        let containers = containers.containers.iter().map(|c| (&c.id, &c.labels));
        for (id, found) in sandboxes.chain(containers) {
            let found: BTreeMap<_, _> = found.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
            if let Some(pod) = labels::identity(&found) {
                owners.insert(id.clone(), pod.uid.clone());
                pods.insert(pod);
            }
        }
        *self.owners.lock() = owners;
        Ok(pods.into_iter().collect())
    }

    async fn observe(&self, uid: &str) -> Result<PodView> {
        let selector: std::collections::HashMap<_, _> = [(labels::POD_UID.to_owned(), uid.to_owned())].into();
        let sandboxes = pb::ListPodSandboxRequest {
            filter: Some(pb::PodSandboxFilter { label_selector: selector.clone(), ..Default::default() }),
        };
        let containers = pb::ListContainersRequest {
            filter: Some(pb::ContainerFilter { label_selector: selector, ..Default::default() }),
        };
        let (mut runtime, mut other) = (self.runtime(), self.runtime());
        let (sandboxes, containers) = tokio::try_join!(
            call(CALL, runtime.list_pod_sandbox(sandboxes)),
            call(CALL, other.list_containers(containers)),
        )?;
        let sandboxes: Vec<_> = futures::stream::iter(sandboxes.items)
            .map(|s| self.sandbox_status(s.id))
            .buffered(INSPECT_AT_ONCE)
            .try_filter_map(|s| async { Ok(s.map(convert::sandbox)) })
            .try_collect()
            .await?;
        let containers: Vec<_> = futures::stream::iter(containers.containers)
            .map(|c| async {
                Ok::<_, RuntimeError>(
                    self.container_status(c.id).await?.map(|s| convert::container(s, c.pod_sandbox_id)),
                )
            })
            .buffered(INSPECT_AT_ONCE)
            .try_filter_map(|c| async { Ok(c) })
            .try_collect()
            .await?;
        for id in sandboxes.iter().map(|s| &s.id).chain(containers.iter().map(|c| &c.id)) {
            self.remember(id, uid);
        }
        let mut view = PodView { sandboxes, containers };
        view.sort();
        Ok(view)
    }

    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        events::stream(self.clone())
    }

    async fn run_sandbox(&self, config: &SandboxConfig) -> Result<String> {
        let request = pb::RunPodSandboxRequest {
            config: Some(convert::sandbox_config(config)),
            runtime_handler: config.handler.clone(),
        };
        let id = call(SANDBOX, self.runtime().run_pod_sandbox(request)).await?.pod_sandbox_id;
        self.remember(&id, &config.uid);
        Ok(id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let request = pb::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_done(call(CALL, self.runtime().stop_pod_sandbox(request)).await)
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let request = pb::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_done(call(CALL, self.runtime().remove_pod_sandbox(request)).await)?;
        self.owners.lock().remove(id);
        Ok(())
    }

    async fn create_container(
        &self,
        sandbox: &str,
        config: &ContainerConfig,
        pod: &SandboxConfig,
    ) -> Result<String> {
        let request = pb::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(convert::container_config(config)),
            sandbox_config: Some(convert::sandbox_config(pod)),
        };
        let id = call(CALL, self.runtime().create_container(request)).await?.container_id;
        self.remember(&id, &pod.uid);
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let request = pb::StartContainerRequest { container_id: id.to_owned() };
        call(CALL, self.runtime().start_container(request)).await.map(drop)
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let request = pb::StopContainerRequest {
            container_id: id.to_owned(),
            timeout: i64::try_from(grace.as_secs()).unwrap_or(i64::MAX),
        };
        gone_is_done(call(CALL + grace, self.runtime().stop_container(request)).await)
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        let request = pb::RemoveContainerRequest { container_id: id.to_owned() };
        gone_is_done(call(CALL, self.runtime().remove_container(request)).await)?;
        self.owners.lock().remove(id);
        Ok(())
    }

    async fn update_container(&self, id: &str, resources: &Resources) -> Result<()> {
        let request = pb::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(convert::resources(resources)),
            ..Default::default()
        };
        call(CALL, self.runtime().update_container_resources(request)).await.map(drop)
    }

    async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput> {
        let seconds = i64::try_from(timeout.as_secs()).unwrap_or(0);
        let request =
            pb::ExecSyncRequest { container_id: id.to_owned(), cmd: command.to_vec(), timeout: seconds };
        let bound = if timeout.is_zero() { CALL } else { timeout + Duration::from_secs(2) };
        let reply = call(bound, self.runtime().exec_sync(request)).await?;
        Ok(ExecOutput { stdout: reply.stdout, stderr: reply.stderr, exit_code: reply.exit_code })
    }

    async fn reopen_log(&self, id: &str) -> Result<()> {
        let request = pb::ReopenContainerLogRequest { container_id: id.to_owned() };
        call(CALL, self.runtime().reopen_container_log(request)).await.map(drop)
    }

    async fn image(&self, name: &str) -> Result<Option<Image>> {
        let request = pb::ImageStatusRequest { image: Some(convert::image_spec(name)), verbose: false };
        let reply = call(CALL, self.image_service().image_status(request)).await?;
        Ok(reply.image.map(convert::image))
    }

    async fn pull_image(
        &self,
        name: &str,
        auth: Option<&RegistryAuth>,
        pod: &SandboxConfig,
    ) -> Result<String> {
        let request = pb::PullImageRequest {
            image: Some(convert::image_spec(name)),
            auth: auth.map(convert::auth),
            sandbox_config: Some(convert::sandbox_config(pod)),
        };
        Ok(call(PULL, self.image_service().pull_image(request)).await?.image_ref)
    }

    async fn images(&self) -> Result<Vec<Image>> {
        let reply =
            call(CALL, self.image_service().list_images(pb::ListImagesRequest { filter: None })).await?;
        Ok(reply.images.into_iter().map(convert::image).collect())
    }

    async fn remove_image(&self, name: &str) -> Result<()> {
        let request = pb::RemoveImageRequest { image: Some(convert::image_spec(name)) };
        gone_is_done(call(CALL, self.image_service().remove_image(request)).await)
    }

    async fn stats(&self) -> Result<Vec<ContainerStats>> {
        let request = pb::ListContainerStatsRequest { filter: None };
        let reply = call(CALL, self.runtime().list_container_stats(request)).await?;
        Ok(reply.stats.into_iter().filter_map(convert::stats).collect())
    }

    async fn exec_url(&self, id: &str, command: &[String], streams: Streams) -> Result<String> {
        let request = pb::ExecRequest {
            container_id: id.to_owned(),
            cmd: command.to_vec(),
            tty: streams.tty,
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
        };
        Ok(call(CALL, self.runtime().exec(request)).await?.url)
    }

    async fn attach_url(&self, id: &str, streams: Streams) -> Result<String> {
        let request = pb::AttachRequest {
            container_id: id.to_owned(),
            stdin: streams.stdin,
            tty: streams.tty,
            stdout: streams.stdout,
            stderr: streams.stderr,
        };
        Ok(call(CALL, self.runtime().attach(request)).await?.url)
    }

    async fn port_forward_url(&self, sandbox: &str, ports: &[i32]) -> Result<String> {
        let request = pb::PortForwardRequest { pod_sandbox_id: sandbox.to_owned(), port: ports.to_vec() };
        Ok(call(CALL, self.runtime().port_forward(request)).await?.url)
    }
}
