//! What the kubelet asks of a container runtime, in words of our own.
//!
//! The messages are the part of CRI v1 that the kubelet uses, free of any wire format, so that [`hollow`] (in memory,
//! scripted) builds without gRPC and `cri` is a thin adapter. A runtime never decides anything about a pod: it
//! reports what is ([`PodView`]) and does what it is told.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;

pub mod hollow;
pub mod labels;

/// The result of a runtime call.
pub type Result<T, E = RuntimeError> = std::result::Result<T, E>;

/// Why a runtime call failed. The text is what users see in events and statuses, so it keeps the form of a gRPC
/// status as the Go client prints it.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum RuntimeError {
    /// The object does not exist (any more).
    #[error("rpc error: code = NotFound desc = {0}")]
    NotFound(String),
    /// The runtime cannot be reached; the call may be repeated later.
    #[error("rpc error: code = Unavailable desc = {0}")]
    Unavailable(String),
    /// The call took longer than its bound.
    #[error("rpc error: code = DeadlineExceeded desc = {0}")]
    Timeout(String),
    /// The runtime refused or failed; `code` is the gRPC code's name.
    #[error("rpc error: code = {code} desc = {message}")]
    Failed {
        /// Name of the gRPC code, such as `Unknown`.
        code: &'static str,
        /// The runtime's words.
        message: String,
    },
    /// This runtime does not offer the call.
    #[error("rpc error: code = Unimplemented desc = {0}")]
    Unsupported(&'static str),
}

impl RuntimeError {
    /// A failure with code `Unknown`, the one containerd uses for nearly everything.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed { code: "Unknown", message: message.into() }
    }
}

/// The runtime's name, version and health.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeInfo {
    /// `containerd`, `cri-o`, `hollow`.
    pub name: String,
    /// The runtime's own version.
    pub version: String,
    /// `None` when the runtime is ready, else its reason.
    pub not_ready: Option<String>,
    /// `None` when pod networking is ready, else its reason.
    pub network_not_ready: Option<String>,
}

/// Which namespace a sandbox or container joins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NamespaceMode {
    /// The sandbox's own.
    #[default]
    Pod,
    /// The container's own.
    Container,
    /// The node's.
    Node,
    /// That of another container of the pod.
    Target,
}

/// The namespaces of a sandbox or container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Network namespace.
    pub network: NamespaceMode,
    /// Process namespace.
    pub pid: NamespaceMode,
    /// IPC namespace.
    pub ipc: NamespaceMode,
    /// Container whose process namespace is joined when `pid` is [`NamespaceMode::Target`].
    pub target: String,
}

/// A seccomp or AppArmor profile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Profile {
    /// The runtime's own profile.
    RuntimeDefault,
    /// No confinement.
    #[default]
    Unconfined,
    /// A profile on the node, by name or path.
    Localhost(String),
}

/// Resolver configuration of a sandbox; becomes its `resolv.conf`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Name servers, at most three.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options such as `ndots:5`.
    pub options: Vec<String>,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port of the node that leads to a port of the sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortMapping {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port inside the sandbox.
    pub container_port: i32,
    /// Port on the node; 0 means none.
    pub host_port: i32,
    /// Address of the node to listen on; empty means all.
    pub host_ip: String,
}

/// Security settings shared by sandboxes and containers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Security {
    /// Full access to the node.
    pub privileged: bool,
    /// Namespaces joined.
    pub namespaces: Namespaces,
    /// User id of the process.
    pub run_as_user: Option<i64>,
    /// Group id of the process.
    pub run_as_group: Option<i64>,
    /// User name of the process, when the image names one and no id is asked for.
    pub run_as_username: String,
    /// Supplemental groups.
    pub supplemental_groups: Vec<i64>,
    /// `Strict` instead of `Merge` with the image's groups.
    pub strict_groups: bool,
    /// Root file system is read-only.
    pub readonly_rootfs: bool,
    /// No privilege may be gained by exec.
    pub no_new_privs: bool,
    /// Capabilities added.
    pub add_capabilities: Vec<String>,
    /// Capabilities dropped.
    pub drop_capabilities: Vec<String>,
    /// Seccomp profile.
    pub seccomp: Profile,
    /// AppArmor profile; `None` leaves it to the runtime.
    pub apparmor: Option<Profile>,
    /// Paths hidden from the container.
    pub masked_paths: Vec<String>,
    /// Paths made read-only in the container.
    pub readonly_paths: Vec<String>,
}

/// Limits that become cgroup values. Zero means unset, as in CRI.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// CFS period in microseconds.
    pub cpu_period: i64,
    /// CFS quota in microseconds.
    pub cpu_quota: i64,
    /// CPU shares (cgroup v1 scale).
    pub cpu_shares: i64,
    /// Memory limit in bytes.
    pub memory_limit: i64,
    /// OOM score adjustment.
    pub oom_score_adj: i64,
}

/// Everything a sandbox is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxConfig {
    /// Pod name.
    pub name: String,
    /// Pod namespace.
    pub namespace: String,
    /// Pod uid.
    pub uid: String,
    /// How many sandboxes of this pod came before.
    pub attempt: u32,
    /// Host name; empty for pods on the node's network.
    pub hostname: String,
    /// Folder of the pod's container logs on the node.
    pub log_directory: String,
    /// Resolver configuration; `None` leaves the node's.
    pub dns: Option<Dns>,
    /// Host ports.
    pub ports: Vec<PortMapping>,
    /// Labels, among them the pod's identity.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pod.
    pub annotations: BTreeMap<String, String>,
    /// Cgroup under which sandbox and containers live.
    pub cgroup_parent: String,
    /// Kernel parameters of the sandbox's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Security settings of the pause process.
    pub security: Security,
    /// Runtime handler; empty is the default one.
    pub handler: String,
}

/// How mounts propagate between node and container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    /// Not at all.
    #[default]
    Private,
    /// From node to container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// A path of the node that appears in the container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mount {
    /// Path in the container.
    pub container_path: String,
    /// Path on the node.
    pub host_path: String,
    /// Not writable.
    pub readonly: bool,
    /// Propagation.
    pub propagation: Propagation,
}

/// Everything a container is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerConfig {
    /// Container name.
    pub name: String,
    /// Restart count.
    pub attempt: u32,
    /// The image to run, as resolved by [`Runtime::image`].
    pub image: String,
    /// The image as the user wrote it.
    pub user_image: String,
    /// Replaces the image's entry point.
    pub command: Vec<String>,
    /// Replaces the image's arguments.
    pub args: Vec<String>,
    /// Working directory; empty is the image's.
    pub working_dir: String,
    /// Environment, in order.
    pub env: Vec<(String, String)>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Labels, among them the identity.
    pub labels: BTreeMap<String, String>,
    /// Annotations: restart count, hash, termination message path and the like.
    pub annotations: BTreeMap<String, String>,
    /// Log file, relative to the sandbox's log folder.
    pub log_path: String,
    /// Keep stdin open.
    pub stdin: bool,
    /// Close stdin after the first attach.
    pub stdin_once: bool,
    /// Allocate a terminal.
    pub tty: bool,
    /// Cgroup limits.
    pub resources: Resources,
    /// Security settings.
    pub security: Security,
}

/// A sandbox as the runtime sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// Runtime id.
    pub id: String,
    /// Attempt number.
    pub attempt: u32,
    /// Alive, with its network.
    pub ready: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// Pod addresses, first is the primary.
    pub ips: Vec<String>,
    /// Lives on the node's network.
    pub host_network: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// The life of a container, as the runtime sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Its process runs.
    Running,
    /// Its process has ended.
    Exited,
    /// The runtime lost track of it.
    #[default]
    Unknown,
}

/// A container as the runtime sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    /// Runtime id.
    pub id: String,
    /// The sandbox it lives in.
    pub sandbox_id: String,
    /// Container name in the pod.
    pub name: String,
    /// Attempt number; equals the restart count when made by this kubelet.
    pub attempt: u32,
    /// State.
    pub state: ContainerState,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its process started.
    pub started_at: Option<Timestamp>,
    /// When its process ended.
    pub finished_at: Option<Timestamp>,
    /// Exit code of the ended process.
    pub exit_code: i32,
    /// Reason: `Completed`, `Error`, `OOMKilled`, `StartError`.
    pub reason: String,
    /// The runtime's message, or the termination message.
    pub message: String,
    /// Image as asked for.
    pub image: String,
    /// Image as resolved, with its digest.
    pub image_id: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Log file on the node.
    pub log_path: String,
    /// Limits in force, when the runtime reports them.
    pub resources: Option<Resources>,
    /// Mounts in force.
    pub mounts: Vec<Mount>,
}

/// Everything the runtime knows about one pod: newest sandbox first, newest container first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodView {
    /// Sandboxes, newest first.
    pub sandboxes: Vec<Sandbox>,
    /// Containers of all attempts, newest first.
    pub containers: Vec<Container>,
}

impl PodView {
    /// The newest container of that name.
    pub fn newest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The newest container of that name that has run before the newest one.
    pub fn previous(&self, name: &str) -> Option<&Container> {
        self.containers.iter().filter(|c| c.name == name).nth(1)
    }

    /// Puts newest first, the order everything else relies on.
    pub fn sort(&mut self) {
        self.sandboxes.sort_by_key(|s| Reverse((s.attempt, s.created_at)));
        self.containers.sort_by_key(|c| Reverse((c.created_at, c.attempt)));
    }
}

/// Who a pod is; enough to find it in the runtime and in the API.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodIdentity {
    /// Pod uid.
    pub uid: String,
    /// Pod namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
}

/// Something changed in the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// A sandbox or container of the pod with this uid changed.
    Pod(String),
    /// Anything may have changed (a stream broke, or the slow safety net is due).
    All,
}

/// The outcome of a command run in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Exit code.
    pub exit_code: i32,
}

/// An image on the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// Content id.
    pub id: String,
    /// Names with a tag.
    pub tags: Vec<String>,
    /// Names with a digest.
    pub digests: Vec<String>,
    /// Bytes on disk.
    pub size: u64,
    /// Numeric user the image asks for.
    pub uid: Option<i64>,
    /// User name the image asks for.
    pub username: String,
    /// Never removed by garbage collection.
    pub pinned: bool,
}

/// Credentials of a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryAuth {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// Registry address.
    pub server: String,
    /// Identity token.
    pub identity_token: String,
}

/// Streams asked for by exec and attach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

/// Resource use of one container at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerStats {
    /// Runtime id.
    pub id: String,
    /// Pod and container identity.
    pub labels: BTreeMap<String, String>,
    /// When it was measured.
    pub at: Timestamp,
    /// CPU time used since start, in nanoseconds.
    pub cpu_nanos: u64,
    /// Memory that cannot be reclaimed at once, in bytes.
    pub working_set: u64,
    /// Memory in use, in bytes.
    pub memory: u64,
    /// Resident memory, in bytes.
    pub rss: u64,
    /// Bytes of the writable layer.
    pub layer_bytes: u64,
    /// Inodes of the writable layer.
    pub layer_inodes: u64,
}

/// What a probe wants to know, for runtimes that answer by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    /// Has the container started?
    Startup,
    /// Is it alive?
    Liveness,
    /// May it get traffic?
    Readiness,
}

/// A container runtime.
///
/// Calls are independent and may run side by side; an implementation bounds each in time.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Name, version and health.
    async fn info(&self) -> Result<RuntimeInfo>;
    /// Every pod of which the runtime holds a sandbox or container.
    async fn pods(&self) -> Result<Vec<PodIdentity>>;
    /// Everything known about one pod.
    async fn observe(&self, uid: &str) -> Result<PodView>;
    /// Changes, from now on. The stream repairs itself and says [`RuntimeEvent::All`] after a gap.
    fn events(&self) -> BoxStream<'static, RuntimeEvent>;

    /// Makes and starts a sandbox; the id.
    async fn run_sandbox(&self, config: &SandboxConfig) -> Result<String>;
    /// Stops a sandbox and all in it; idempotent.
    async fn stop_sandbox(&self, id: &str) -> Result<()>;
    /// Removes a stopped sandbox and its containers; idempotent.
    async fn remove_sandbox(&self, id: &str) -> Result<()>;

    /// Makes a container; the id.
    async fn create_container(
        &self,
        sandbox: &str,
        config: &ContainerConfig,
        pod: &SandboxConfig,
    ) -> Result<String>;
    /// Starts a container made before.
    async fn start_container(&self, id: &str) -> Result<()>;
    /// Asks the process to end, kills it after `grace`; returns when it has ended. Idempotent.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()>;
    /// Removes a container; idempotent.
    async fn remove_container(&self, id: &str) -> Result<()>;
    /// Changes the cgroup limits of a running container.
    async fn update_container(&self, id: &str, resources: &Resources) -> Result<()>;
    /// Runs a command in a container and waits for its end.
    async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput>;
    /// Makes the runtime open the log file anew, after it was moved away.
    async fn reopen_log(&self, id: &str) -> Result<()>;

    /// The image, when it is on the node.
    async fn image(&self, name: &str) -> Result<Option<Image>>;
    /// Fetches an image; the reference by which containers name it.
    async fn pull_image(
        &self,
        name: &str,
        auth: Option<&RegistryAuth>,
        pod: &SandboxConfig,
    ) -> Result<String>;
    /// All images on the node.
    async fn images(&self) -> Result<Vec<Image>>;
    /// Removes an image.
    async fn remove_image(&self, name: &str) -> Result<()>;

    /// Resource use of all containers.
    async fn stats(&self) -> Result<Vec<ContainerStats>>;

    /// Address at which an exec session waits.
    async fn exec_url(&self, id: &str, command: &[String], streams: Streams) -> Result<String>;
    /// Address at which an attach session waits.
    async fn attach_url(&self, id: &str, streams: Streams) -> Result<String>;
    /// Address at which a port-forward session waits.
    async fn port_forward_url(&self, sandbox: &str, ports: &[i32]) -> Result<String>;

    /// A probe's outcome, when the runtime knows it without the kubelet dialling the container.
    async fn probe(&self, _container: &str, _kind: ProbeKind) -> Option<Result<(), String>> {
        None
    }

    /// The log of a container, for runtimes that keep it in memory rather than in `log_path`.
    async fn log(&self, _container: &str) -> Option<Vec<u8>> {
        None
    }
}
