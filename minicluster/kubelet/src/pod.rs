//! A pod as a state machine: what is asked for ([`Pod`]), what the runtime shows ([`PodView`]) and what the kubelet
//! remembers ([`Memory`]) decide what to do next ([`sync`]) and what to say ([`status`]). All pure: no I/O and no
//! clock of its own; the worker carries the decisions out.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodStatus};

use crate::runtime::{PodIdentity, PodView};

pub mod amount;
pub mod conditions;
pub mod env;
pub mod hosts;
pub mod phase;
pub mod qos;
pub mod resources;
pub mod restart;
pub mod sandbox;
pub mod security;
pub mod status;
pub mod sync;
pub mod terminate;

/// What a container is to its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Runs to its end before the application starts.
    Init,
    /// An init container that stays (`restartPolicy: Always`).
    Sidecar,
    /// An application container.
    App,
    /// Added later for debugging; never restarted.
    Ephemeral,
}

/// All containers of a pod in the order they start, with their roles.
pub fn containers(pod: &Pod) -> Vec<(Role, Cow<'_, Container>)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let init = spec.init_containers.iter().flatten().map(|c| (init_role(c), Cow::Borrowed(c)));
    let app = spec.containers.iter().map(|c| (Role::App, Cow::Borrowed(c)));
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    init.chain(app)
        .chain(ephemeral.map(|c| (Role::Ephemeral, Cow::Owned(ephemeral_as_container(c)))))
        .collect()
}

/// One container of a pod by name.
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<(Role, Cow<'a, Container>)> {
    let spec = pod.spec.as_ref()?;
    let init = spec.init_containers.iter().flatten().find(|c| c.name == name);
    if let Some(c) = init {
        return Some((init_role(c), Cow::Borrowed(c)));
    }
    if let Some(c) = spec.containers.iter().find(|c| c.name == name) {
        return Some((Role::App, Cow::Borrowed(c)));
    }
    let found = spec.ephemeral_containers.iter().flatten().find(|c| c.name == name)?;
    Some((Role::Ephemeral, Cow::Owned(ephemeral_as_container(found))))
}

fn init_role(c: &Container) -> Role {
    if c.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init }
}

fn ephemeral_as_container(c: &EphemeralContainer) -> Container {
    let c = c.clone();
    Container {
        args: c.args,
        command: c.command,
        env: c.env,
        env_from: c.env_from,
        image: c.image,
        image_pull_policy: c.image_pull_policy,
        name: c.name,
        security_context: c.security_context,
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        termination_message_path: c.termination_message_path,
        termination_message_policy: c.termination_message_policy,
        tty: c.tty,
        volume_mounts: c.volume_mounts,
        working_dir: c.working_dir,
        ..Container::default()
    }
}

/// The pod's identity.
pub fn identity(pod: &Pod) -> PodIdentity {
    let meta = &pod.metadata;
    PodIdentity {
        uid: uid(pod).to_owned(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
    }
}

/// The uid by which the runtime knows the pod: for the API's mirror of a static pod, that of the manifest.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// `name_namespace(uid)`, as upstream names pods in messages.
pub fn full_name(pod: &Pod) -> String {
    let id = identity(pod);
    format!("{}_{}({})", id.name, id.namespace, id.uid)
}

/// The pod's restart policy; `Always` is the default.
pub fn restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or("Always")
}

/// The pod lives on the node's network.
pub fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or_default()
}

/// Why a container waits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waiting {
    /// `CrashLoopBackOff`, `ErrImagePull`, …
    pub reason: String,
    /// The sentence for users.
    pub message: String,
}

/// What the probes found about one container instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// The instance these results are about.
    pub container_id: String,
    /// The startup probe succeeded, or there is none.
    pub started: bool,
    /// The readiness probe succeeds, or there is none and the container has started.
    pub ready: bool,
    /// The probe that demands a restart: its name and what it found.
    pub failed: Option<FailedProbe>,
}

/// A probe that demands a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedProbe {
    /// The startup probe.
    Startup,
    /// The liveness probe.
    Liveness,
}

/// What the kubelet remembers about one container across its instances.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerMemory {
    /// Why it could not be started the last time.
    pub waiting: Option<Waiting>,
    /// Not to be tried again before this moment (image pulls and configuration errors).
    pub not_before: Option<Timestamp>,
    /// Restart back-off.
    pub crash: Option<restart::Backoff>,
    /// Image pull back-off.
    pub pull: Option<restart::Backoff>,
    /// Probe results of the running instance.
    pub health: Health,
}

/// The kubelet has decided the pod's end, whatever its containers do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Phase: `Failed` or `Succeeded`.
    pub phase: String,
    /// `DeadlineExceeded`, `Evicted`, `NodeAffinity`, …
    pub reason: String,
    /// The sentence for users.
    pub message: String,
}

/// What the kubelet remembers about a pod between two looks at it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// When the kubelet first took the pod up.
    pub start_time: Option<Timestamp>,
    /// Per container.
    pub containers: BTreeMap<String, ContainerMemory>,
    /// The pod's volumes are in place.
    pub volumes_ready: bool,
    /// Volumes are not to be tried again before this moment.
    pub volumes_not_before: Option<Timestamp>,
    /// A sandbox is not to be tried again before this moment.
    pub sandbox_not_before: Option<Timestamp>,
    /// The pod's volumes, cgroup and folders are gone.
    pub cleaned: bool,
    /// The end, once decided.
    pub verdict: Option<Verdict>,
    /// When termination began, and the grace period it was given.
    pub terminating: Option<Termination>,
    /// Containers being stopped: id and the moment by which they are killed.
    pub stopping: BTreeMap<String, Timestamp>,
    /// Limits already applied by resize, by container id.
    pub resized: BTreeMap<String, crate::runtime::Resources>,
}

/// A termination under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Termination {
    /// When it began.
    pub since: Timestamp,
    /// How long containers may take.
    pub grace: Duration,
}

impl Memory {
    /// The health of a running instance, when known.
    pub fn health(&self, name: &str, id: &str) -> Option<&Health> {
        self.containers.get(name).map(|m| &m.health).filter(|h| h.container_id == id)
    }

    /// The entry of a container, made when missing.
    pub fn container(&mut self, name: &str) -> &mut ContainerMemory {
        self.containers.entry(name.to_owned()).or_default()
    }
}

/// A pod seen at one moment.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// What is asked for.
    pub pod: &'a Pod,
    /// What the runtime shows.
    pub view: &'a PodView,
    /// What the kubelet remembers.
    pub memory: &'a Memory,
    /// The status last decided, or the API's when there is none yet.
    pub told: &'a PodStatus,
    /// The moment.
    pub now: Timestamp,
}
