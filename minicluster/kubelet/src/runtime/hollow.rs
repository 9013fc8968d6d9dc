//! A container runtime in memory, scripted from Rust: no process, no image, no network.
//!
//! A script is a closure from a container's configuration to its [`Behaviour`]: when it is ready, when and how it
//! ends, what it logs; or a whole [`Program`], which is an async function. Time is tokio's, so a whole node runs under virtual time; nothing is scheduled for containers
//! that simply run.

mod process;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use windlass::clock;

use super::{
    Container, ContainerConfig, ContainerState, ContainerStats, ExecOutput, Image, PodIdentity, PodView,
    ProbeKind, RegistryAuth, Resources, Result, Runtime, RuntimeError, RuntimeEvent, RuntimeInfo, Sandbox,
    SandboxConfig, Streams, labels,
};

pub use process::{Process, Program};

/// Events a slow listener may fall behind before it is told to look at everything.
const EVENT_BUFFER: usize = 1024;

/// What a container does once started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behaviour {
    /// Pulling its image fails with this message.
    pub pull_error: Option<String>,
    /// Starting it fails with this message.
    pub start_error: Option<String>,
    /// Startup, liveness and readiness probes succeed this long after the start.
    pub ready_after: Duration,
    /// Liveness probes fail from this long after the start.
    pub sick_after: Option<Duration>,
    /// It ends by itself after this long, with this exit code.
    pub exit: Option<(Duration, i32)>,
    /// It ends this long after it was asked to (never later than its grace period).
    pub stop_takes: Duration,
    /// Exit code when asked to end.
    pub stop_code: i32,
    /// What it has written.
    pub log: String,
    /// What runs in it. A program has the word on probes, log and exit code; the fields about these are not looked at
    /// then.
    pub program: Option<Program>,
}

impl Default for Behaviour {
    /// Runs for ever, ready at once, ends at once when asked to.
    fn default() -> Self {
        Self {
            pull_error: None,
            start_error: None,
            ready_after: Duration::ZERO,
            sick_after: None,
            exit: None,
            stop_takes: Duration::ZERO,
            stop_code: 0,
            log: String::new(),
            program: None,
        }
    }
}

impl Behaviour {
    /// Ends by itself.
    pub fn exits(after: Duration, code: i32) -> Self {
        Self { exit: Some((after, code)), ..Self::default() }
    }

    /// Becomes ready later.
    pub fn ready_after(delay: Duration) -> Self {
        Self { ready_after: delay, ..Self::default() }
    }
}

/// Decides what a container does: its pod's sandbox and its own configuration.
pub type Script = Arc<dyn Fn(&SandboxConfig, &ContainerConfig) -> Behaviour + Send + Sync>;

/// A runtime in memory.
#[derive(Clone)]
pub struct HollowRuntime {
    inner: Arc<Inner>,
}

struct Inner {
    script: Mutex<Script>,
    first_ip: Ipv4Addr,
    state: Mutex<State>,
    events: broadcast::Sender<RuntimeEvent>,
}

/// A runtime as it once was; see [`HollowRuntime::freeze`].
#[derive(Clone)]
pub struct Frozen {
    script: Script,
    first_ip: Ipv4Addr,
    state: State,
}

#[derive(Clone, Default)]
struct State {
    next_id: u64,
    next_ip: u32,
    free_ips: Vec<u32>,
    pods: BTreeMap<String, HollowPod>,
    /// Container or sandbox id → pod uid.
    owners: BTreeMap<String, String>,
}

#[derive(Clone, Default)]
struct HollowPod {
    identity: PodIdentity,
    view: PodView,
    behaviours: BTreeMap<String, Behaviour>,
    processes: BTreeMap<String, Process>,
}

impl HollowRuntime {
    /// A runtime in which every container runs for ever; pod addresses count up from `first_ip`.
    pub fn new(first_ip: Ipv4Addr) -> Self {
        Self::scripted(first_ip, |_, _| Behaviour::default())
    }

    /// A runtime whose containers do what the script says.
    pub fn scripted(
        first_ip: Ipv4Addr,
        script: impl Fn(&SandboxConfig, &ContainerConfig) -> Behaviour + Send + Sync + 'static,
    ) -> Self {
        let (events, _) = broadcast::channel(EVENT_BUFFER);
        let inner = Inner { script: Mutex::new(Arc::new(script)), first_ip, state: Mutex::default(), events };
        Self { inner: Arc::new(inner) }
    }

    /// Changes the script for containers made from now on.
    pub fn set_script(&self, script: Script) {
        *self.inner.script.lock() = script;
    }

    /// Keeps what there is: pods, containers, and the script.
    pub fn freeze(&self) -> Frozen {
        let (script, state) = (self.inner.script.lock().clone(), self.inner.state.lock().clone());
        Frozen { script, first_ip: self.inner.first_ip, state }
    }

    /// Goes on where [`HollowRuntime::freeze`] was called: what was to end after a while still does, and programs begin
    /// anew. Needs a tokio runtime.
    pub fn thaw(frozen: &Frozen) -> Self {
        let Frozen { script, first_ip, mut state } = frozen.clone();
        let mut going_on = Vec::new();
        for pod in state.pods.values_mut() {
            pod.processes.values_mut().for_each(|process| *process = process.anew());
            let running = pod.view.containers.iter().filter(|c| c.state == ContainerState::Running);
            going_on.extend(running.filter_map(|c| {
                let behaviour = pod.behaviours.get(&c.id)?.clone();
                (behaviour.program.is_some() || behaviour.exit.is_some()).then_some(())?;
                Some((c.id.clone(), behaviour, c.started_at.map_or(Duration::ZERO, clock::since)))
            }));
        }
        let (events, _) = broadcast::channel(EVENT_BUFFER);
        let inner = Inner { script: Mutex::new(script), first_ip, state: Mutex::new(state), events };
        let inner = Arc::new(inner);
        for (id, behaviour, age) in going_on {
            inner.go_on(&id, behaviour, age);
        }
        Self { inner }
    }

    /// What a container of a pod has logged, the newest of its name.
    pub fn log_of(&self, namespace: &str, pod: &str, container: &str) -> Option<String> {
        let id = {
            let state = self.inner.state.lock();
            let of = |p: &&HollowPod| p.identity.namespace == namespace && p.identity.name == pod;
            let pod = state.pods.values().find(of)?;
            // The newest comes first.
            pod.view.containers.iter().find(|c| c.name == container)?.id.clone()
        };
        String::from_utf8(self.inner.logged(&id)?).ok()
    }

    /// Ends a running container from outside, as an out-of-memory kill or a crash would.
    pub fn kill(&self, container: &str, code: i32, reason: &str) {
        self.inner.end(container, code, reason);
    }

    /// Ids of the running containers of a pod, by container name.
    pub fn running(&self, uid: &str) -> BTreeMap<String, String> {
        let state = self.inner.state.lock();
        let containers = state.pods.get(uid).map(|p| p.view.containers.as_slice()).unwrap_or_default();
        let running = containers.iter().filter(|c| c.state == ContainerState::Running);
        running.map(|c| (c.name.clone(), c.id.clone())).collect()
    }
}

impl Inner {
    fn tell(&self, uid: &str) {
        // Nobody listening is no error: the next listener looks at everything first.
        let _ = self.events.send(RuntimeEvent::Pod(uid.to_owned()));
    }

    /// Changes one container and tells about it, unless the change says that nothing happened.
    fn change(&self, id: &str, change: impl FnOnce(&mut Container) -> bool) -> Result<()> {
        let mut state = self.state.lock();
        let missing = || RuntimeError::NotFound(format!("container \"{id}\" not found"));
        let uid = state.owners.get(id).cloned().ok_or_else(missing)?;
        let pod = state.pods.get_mut(&uid).ok_or_else(missing)?;
        let container = pod.view.containers.iter_mut().find(|c| c.id == id).ok_or_else(missing)?;
        if change(container) {
            drop(state);
            self.tell(&uid);
        }
        Ok(())
    }

    fn end(&self, id: &str, code: i32, reason: &str) {
        let _ = self.change(id, |c| {
            if c.state != ContainerState::Running {
                return false;
            }
            c.state = ContainerState::Exited;
            c.exit_code = code;
            c.reason = reason.to_owned();
            c.finished_at = Some(clock::now());
            true
        });
        if let Some(process) = self.process(id) {
            process.kill();
        }
    }

    fn process(&self, id: &str) -> Option<Process> {
        let state = self.state.lock();
        state.pods.get(state.owners.get(id)?)?.processes.get(id).cloned()
    }

    /// Lets a container that has run for a while run on: its program, or the time until it ends by itself.
    fn go_on(self: &Arc<Self>, id: &str, behaviour: Behaviour, age: Duration) {
        let (inner, process) = (Arc::downgrade(self), self.process(id));
        let id = id.to_owned();
        tokio::spawn(async move {
            let code = match (behaviour.program, process, behaviour.exit) {
                (Some(program), Some(process), _) => program.run(process).await,
                (None, _, Some((after, code))) => {
                    tokio::time::sleep(after.saturating_sub(age)).await;
                    Some(code)
                }
                _ => None,
            };
            if let (Some(code), Some(inner)) = (code, inner.upgrade()) {
                inner.end(&id, code, end_reason(code));
            }
        });
    }

    fn logged(&self, id: &str) -> Option<Vec<u8>> {
        if let Some(process) = self.process(id) {
            return Some(process.written());
        }
        self.behaviour(id).map(|(behaviour, _)| behaviour.log.into_bytes())
    }

    fn behaviour(&self, id: &str) -> Option<(Behaviour, Option<Timestamp>)> {
        let state = self.state.lock();
        let pod = state.pods.get(state.owners.get(id)?)?;
        let started = pod.view.containers.iter().find(|c| c.id == id)?.started_at;
        Some((pod.behaviours.get(id)?.clone(), started))
    }
}

impl State {
    fn id(&mut self) -> String {
        self.next_id += 1;
        format!("{:064x}", self.next_id)
    }
}

fn end_reason(code: i32) -> &'static str {
    if code == 0 { "Completed" } else { "Error" }
}

#[async_trait]
impl Runtime for HollowRuntime {
    async fn info(&self) -> Result<RuntimeInfo> {
        Ok(RuntimeInfo {
            name: "hollow".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..RuntimeInfo::default()
        })
    }

    async fn pods(&self) -> Result<Vec<PodIdentity>> {
        Ok(self.inner.state.lock().pods.values().map(|p| p.identity.clone()).collect())
    }

    async fn observe(&self, uid: &str) -> Result<PodView> {
        Ok(self.inner.state.lock().pods.get(uid).map(|p| p.view.clone()).unwrap_or_default())
    }

    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        let receiver = self.inner.events.subscribe();
        futures::stream::unfold(receiver, |mut receiver| async move {
            let event = match receiver.recv().await {
                Ok(event) => event,
                Err(broadcast::error::RecvError::Lagged(_)) => RuntimeEvent::All,
                Err(broadcast::error::RecvError::Closed) => return None,
            };
            Some((event, receiver))
        })
        .boxed()
    }

    async fn run_sandbox(&self, config: &SandboxConfig) -> Result<String> {
        let mut state = self.inner.state.lock();
        let id = state.id();
        let host_network = config.security.namespaces.network == super::NamespaceMode::Node;
        let ips = if host_network {
            Vec::new()
        } else {
            let offset = state.free_ips.pop().unwrap_or_else(|| {
                state.next_ip += 1;
                state.next_ip - 1
            });
            vec![Ipv4Addr::from(u32::from(self.inner.first_ip) + offset).to_string()]
        };
        let sandbox = Sandbox {
            id: id.clone(),
            attempt: config.attempt,
            ready: true,
            created_at: clock::now(),
            ips,
            host_network,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        };
        state.owners.insert(id.clone(), config.uid.clone());
        let pod = state.pods.entry(config.uid.clone()).or_default();
        pod.identity = labels::identity(&config.labels).unwrap_or_default();
        pod.view.sandboxes.insert(0, sandbox);
        drop(state);
        self.inner.tell(&config.uid);
        Ok(id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let mut state = self.inner.state.lock();
        let Some(uid) = state.owners.get(id).cloned() else { return Ok(()) };
        let Some(pod) = state.pods.get_mut(&uid) else { return Ok(()) };
        let mut freed = Vec::new();
        for s in pod.view.sandboxes.iter_mut().filter(|s| s.id == id && s.ready) {
            s.ready = false;
            freed.extend(s.ips.iter().filter_map(|ip| ip.parse::<Ipv4Addr>().ok()));
        }
        for c in pod
            .view
            .containers
            .iter_mut()
            .filter(|c| c.sandbox_id == id && c.state == ContainerState::Running)
        {
            c.state = ContainerState::Exited;
            c.exit_code = 137;
            c.reason = end_reason(137).into();
            c.finished_at = Some(clock::now());
            if let Some(process) = pod.processes.get(&c.id) {
                process.kill();
            }
        }
        for ip in freed {
            state.free_ips.push(u32::from(ip) - u32::from(self.inner.first_ip));
        }
        drop(state);
        self.inner.tell(&uid);
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        self.stop_sandbox(id).await?;
        let mut state = self.inner.state.lock();
        let Some(uid) = state.owners.remove(id) else { return Ok(()) };
        let Some(pod) = state.pods.get_mut(&uid) else { return Ok(()) };
        pod.view.sandboxes.retain(|s| s.id != id);
        let gone: Vec<_> =
            pod.view.containers.iter().filter(|c| c.sandbox_id == id).map(|c| c.id.clone()).collect();
        pod.view.containers.retain(|c| c.sandbox_id != id);
        pod.behaviours.retain(|id, _| !gone.contains(id));
        pod.processes.retain(|id, _| !gone.contains(id));
        if pod.view == PodView::default() {
            state.pods.remove(&uid);
        }
        for id in gone {
            state.owners.remove(&id);
        }
        drop(state);
        self.inner.tell(&uid);
        Ok(())
    }

    async fn create_container(
        &self,
        sandbox: &str,
        config: &ContainerConfig,
        pod: &SandboxConfig,
    ) -> Result<String> {
        let script = self.inner.script.lock().clone();
        let behaviour = script(pod, config);
        let mut state = self.inner.state.lock();
        let id = state.id();
        let container = Container {
            id: id.clone(),
            sandbox_id: sandbox.to_owned(),
            name: config.name.clone(),
            attempt: config.attempt,
            state: ContainerState::Created,
            created_at: clock::now(),
            image: config.user_image.clone(),
            image_id: config.image.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            log_path: format!("{}/{}", pod.log_directory, config.log_path),
            resources: Some(config.resources.clone()),
            ..Container::default()
        };
        let Some(owner) = state.pods.get_mut(&pod.uid) else {
            return Err(RuntimeError::NotFound(format!("sandbox \"{sandbox}\" not found")));
        };
        owner.view.containers.insert(0, container);
        if behaviour.program.is_some() {
            owner.processes.insert(id.clone(), Process::new(pod, config));
        }
        owner.behaviours.insert(id.clone(), behaviour);
        state.owners.insert(id.clone(), pod.uid.clone());
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let (behaviour, _) = self
            .inner
            .behaviour(id)
            .ok_or_else(|| RuntimeError::NotFound(format!("container \"{id}\" not found")))?;
        if let Some(message) = behaviour.start_error {
            self.inner.change(id, |c| {
                c.state = ContainerState::Exited;
                c.exit_code = 128;
                c.reason = "StartError".into();
                c.message.clone_from(&message);
                c.started_at = Some(Timestamp::UNIX_EPOCH);
                c.finished_at = Some(clock::now());
                true
            })?;
            return Err(RuntimeError::failed(message));
        }
        self.inner.change(id, |c| {
            c.state = ContainerState::Running;
            c.started_at = Some(clock::now());
            true
        })?;
        if behaviour.program.is_some() || behaviour.exit.is_some() {
            self.inner.go_on(id, behaviour, Duration::ZERO);
        }
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        if let Some(process) = self.inner.process(id) {
            process.ask_to_stop();
            if tokio::time::timeout(grace, process.ended()).await.is_err() {
                self.inner.end(id, 137, end_reason(137));
            }
            return Ok(());
        }
        let Some((behaviour, _)) = self.inner.behaviour(id) else { return Ok(()) };
        let killed = behaviour.stop_takes > grace;
        tokio::time::sleep(behaviour.stop_takes.min(grace)).await;
        let code = if killed { 137 } else { behaviour.stop_code };
        self.inner.end(id, code, end_reason(code));
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        let mut state = self.inner.state.lock();
        let Some(uid) = state.owners.remove(id) else { return Ok(()) };
        if let Some(pod) = state.pods.get_mut(&uid) {
            pod.view.containers.retain(|c| c.id != id);
            pod.behaviours.remove(id);
            pod.processes.remove(id);
        }
        Ok(())
    }

    async fn update_container(&self, id: &str, resources: &Resources) -> Result<()> {
        self.inner.change(id, |c| {
            c.resources = Some(resources.clone());
            true
        })
    }

    async fn exec_sync(&self, id: &str, _command: &[String], _timeout: Duration) -> Result<ExecOutput> {
        match self.inner.behaviour(id) {
            Some(_) => Ok(ExecOutput::default()),
            None => Err(RuntimeError::NotFound(format!("container \"{id}\" not found"))),
        }
    }

    async fn reopen_log(&self, _id: &str) -> Result<()> {
        Ok(())
    }

    async fn image(&self, name: &str) -> Result<Option<Image>> {
        let image = Image { id: format!("hollow://{name}"), tags: vec![name.to_owned()], ..Image::default() };
        // Nothing is ever on the node whose pull the script lets fail; the script speaks per container, so ask it.
        let probe = ContainerConfig {
            user_image: name.to_owned(),
            image: name.to_owned(),
            ..ContainerConfig::default()
        };
        let script = self.inner.script.lock().clone();
        let absent = script(&SandboxConfig::default(), &probe).pull_error.is_some();
        Ok((!absent).then_some(image))
    }

    async fn pull_image(
        &self,
        name: &str,
        _auth: Option<&RegistryAuth>,
        pod: &SandboxConfig,
    ) -> Result<String> {
        let asked = ContainerConfig {
            user_image: name.to_owned(),
            image: name.to_owned(),
            ..ContainerConfig::default()
        };
        let script = self.inner.script.lock().clone();
        match script(pod, &asked).pull_error {
            Some(message) => Err(RuntimeError::failed(message)),
            None => Ok(format!("hollow://{name}")),
        }
    }

    async fn images(&self) -> Result<Vec<Image>> {
        Ok(Vec::new())
    }

    async fn remove_image(&self, _name: &str) -> Result<()> {
        Ok(())
    }

    async fn stats(&self) -> Result<Vec<ContainerStats>> {
        Ok(Vec::new())
    }

    async fn exec_url(&self, _id: &str, _command: &[String], _streams: Streams) -> Result<String> {
        Err(RuntimeError::Unsupported("a hollow container has no process"))
    }

    async fn attach_url(&self, _id: &str, _streams: Streams) -> Result<String> {
        Err(RuntimeError::Unsupported("a hollow container has no process"))
    }

    async fn port_forward_url(&self, _sandbox: &str, _ports: &[i32]) -> Result<String> {
        Err(RuntimeError::Unsupported("a hollow pod has no network"))
    }

    async fn probe(&self, container: &str, kind: ProbeKind) -> Option<Result<(), String>> {
        if let Some(process) = self.inner.process(container) {
            return Some(process.probe(kind));
        }
        let (behaviour, started) = self.inner.behaviour(container)?;
        let age = clock::since(started?);
        let sick = behaviour.sick_after.is_some_and(|after| age >= after);
        let ready = age >= behaviour.ready_after;
        Some(match kind {
            ProbeKind::Liveness if sick => Err("the script says it is sick".into()),
            ProbeKind::Liveness => Ok(()),
            ProbeKind::Startup | ProbeKind::Readiness if ready && !sick => Ok(()),
            _ => Err("the script says it is not ready yet".into()),
        })
    }

    async fn log(&self, container: &str) -> Option<Vec<u8>> {
        self.inner.logged(container)
    }
}
