//! What runs in a hollow container when a script says more than numbers: an async function.
//!
//! It lives from the container's start to its end. Time is tokio's; it may wait, log, become ready and sick, look at
//! clients it brought along, and it ends with an exit code, or is ended.

use std::{collections::BTreeMap, fmt, sync::Arc};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use windlass::CancellationToken;

use crate::runtime::{ContainerConfig, ProbeKind, SandboxConfig};

/// How much of a program's log is kept; the oldest lines go first.
const LOG_BYTES_MAX: usize = 1 << 20;

/// A container's program: what it returns is its exit code.
#[derive(Clone)]
pub struct Program(Arc<dyn Fn(Process) -> BoxFuture<'static, i32> + Send + Sync>);

impl Program {
    /// A program that is this function.
    pub fn new<F, Fut>(run: F) -> Self
    where
        F: Fn(Process) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = i32> + Send + 'static,
    {
        Self(Arc::new(move |process| Box::pin(run(process))))
    }

    /// Runs until the program ends by itself, with its exit code, or is killed.
    pub(super) async fn run(self, process: Process) -> Option<i32> {
        let killed = process.inner.killed.clone();
        tokio::select! {
            biased;
            () = killed.cancelled() => None,
            code = (self.0)(process) => Some(code),
        }
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Program")
    }
}

impl PartialEq for Program {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Program {}

/// A running hollow container, seen from inside. Clones are the same container.
#[derive(Clone, Debug)]
pub struct Process {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    namespace: String,
    pod: String,
    container: String,
    restarts: u32,
    labels: BTreeMap<String, String>,
    env: BTreeMap<String, String>,
    stopping: CancellationToken,
    killed: CancellationToken,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    ready: bool,
    healthy: bool,
    log: String,
}

impl Process {
    pub(super) fn new(pod: &SandboxConfig, container: &ContainerConfig) -> Self {
        let inner = Inner {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            container: container.name.clone(),
            restarts: container.attempt,
            labels: pod.labels.clone(),
            env: container.env.iter().cloned().collect(),
            stopping: CancellationToken::new(),
            killed: CancellationToken::new(),
            state: Mutex::new(State { ready: true, healthy: true, log: String::new() }),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The same container at the first line of its program.
    pub(super) fn anew(&self) -> Self {
        let inner = &*self.inner;
        let inner = Inner {
            namespace: inner.namespace.clone(),
            pod: inner.pod.clone(),
            container: inner.container.clone(),
            restarts: inner.restarts,
            labels: inner.labels.clone(),
            env: inner.env.clone(),
            stopping: CancellationToken::new(),
            killed: CancellationToken::new(),
            state: Mutex::new(State { ready: true, healthy: true, log: inner.state.lock().log.clone() }),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The namespace of its pod.
    pub fn namespace(&self) -> &str {
        &self.inner.namespace
    }

    /// The name of its pod.
    pub fn pod(&self) -> &str {
        &self.inner.pod
    }

    /// The name of its container.
    pub fn container(&self) -> &str {
        &self.inner.container
    }

    /// How often this container was started before in the same pod.
    pub fn restarts(&self) -> u32 {
        self.inner.restarts
    }

    /// The labels of its pod when the pod was started.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.inner.labels
    }

    /// A variable of its environment.
    pub fn env(&self, name: &str) -> Option<&str> {
        self.inner.env.get(name).map(String::as_str)
    }

    /// Writes a line to its log.
    pub fn log(&self, line: impl AsRef<str>) {
        let log = &mut self.inner.state.lock().log;
        log.push_str(line.as_ref());
        log.push('\n');
        if log.len() > LOG_BYTES_MAX {
            let over = log.len() - LOG_BYTES_MAX;
            let cut =
                log.as_bytes()[over..].iter().position(|b| *b == b'\n').map_or(log.len(), |at| over + at + 1);
            log.drain(..cut);
        }
    }

    /// Says how startup and readiness probes are answered from now on; at first they succeed. As anywhere, a container
    /// that has no such probe is ready as soon as it runs.
    pub fn set_ready(&self, ready: bool) {
        self.inner.state.lock().ready = ready;
    }

    /// Says how liveness probes are answered from now on; at first they succeed.
    pub fn set_healthy(&self, healthy: bool) {
        self.inner.state.lock().healthy = healthy;
    }

    /// Resolves when the container is asked to stop, as SIGTERM asks. A program that goes on is killed when its grace
    /// period is over.
    pub async fn stopped(&self) {
        self.inner.stopping.cancelled().await;
    }

    pub(super) fn ask_to_stop(&self) {
        self.inner.stopping.cancel();
    }

    pub(super) fn kill(&self) {
        self.inner.killed.cancel();
    }

    /// Resolves when it was killed or has ended.
    pub(super) async fn ended(&self) {
        self.inner.killed.cancelled().await;
    }

    pub(super) fn written(&self) -> Vec<u8> {
        self.inner.state.lock().log.clone().into_bytes()
    }

    pub(super) fn probe(&self, kind: ProbeKind) -> Result<(), String> {
        let state = self.inner.state.lock();
        let holds = match kind {
            ProbeKind::Liveness => state.healthy,
            ProbeKind::Startup | ProbeKind::Readiness => state.ready,
        };
        if holds { Ok(()) } else { Err("the program says no".to_owned()) }
    }
}
