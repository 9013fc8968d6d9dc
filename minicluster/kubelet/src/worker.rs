//! The thin worker that carries a pod's decisions out.
//!
//! A pod has a [`Cell`]. Whatever happens to it pokes the cell; a poked cell is driven by at most one task, which
//! observes the runtime, asks [`crate::pod::sync`] for the next steps, takes them, and ends when there are none. An
//! idle pod has no task but its probes and, while it waits for a moment, one timer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Client;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use windlass::clock;

use crate::config::Config;
use crate::events::{Events, Kind};
use crate::objects::Lookup;
use crate::pod::env::NodeFacts;
use crate::pod::sync::{Plan, sync};
use crate::pod::{Health, Memory, Role, Seen, Termination, container, host_network, status, terminate, uid};
use crate::probe;
use crate::runtime::{ContainerState, PodView, ProbeKind, Runtime};
use crate::volumes::{Volumes, references};

mod act;
mod message;
mod start;
mod statics;
mod stop;
mod tasks;
pub(crate) mod tell;

pub(crate) use tasks::Tasks;

/// Rounds of observe, decide and act in one drive; a pod that wants more is driven again after [`BREATH`].
const ROUNDS: usize = 12;
const BREATH: Duration = Duration::from_secs(1);
/// Pause after the runtime could not be asked.
const RUNTIME_RETRY: Duration = Duration::from_secs(2);

/// What all pods of a node share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) client: Client,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) runtime_name: String,
    pub(crate) objects: Arc<dyn Lookup>,
    pub(crate) volumes: Option<Volumes>,
    pub(crate) events: Events,
    pub(crate) cells: Mutex<BTreeMap<String, Arc<Cell>>>,
    pub(crate) pulls: Semaphore,
    pub(crate) starts: Semaphore,
    pub(crate) tasks: Tasks,
    pub(crate) stop: CancellationToken,
}

/// One pod of the node.
pub(crate) struct Cell {
    pub(crate) uid: String,
    state: Mutex<State>,
}

pub(crate) struct State {
    pod: Arc<Pod>,
    /// The API still has the pod.
    in_api: bool,
    /// A pod of the node's own folder, and how the API shows it.
    is_static: bool,
    mirror: Option<Arc<Pod>>,
    memory: Memory,
    wanted: Option<PodStatus>,
    view: Arc<PodView>,
    refs: BTreeSet<(bool, String)>,
    busy: bool,
    dirty: bool,
    /// Volumes are to be brought up to date.
    stale_volumes: bool,
    renew_volumes: Option<Timestamp>,
    volume_failures: u32,
    /// Breaks off a drive that waits for something a deleted pod no longer needs.
    hurry: CancellationToken,
    timer: Option<AbortHandle>,
    probes: BTreeMap<(String, ProbeKind), (String, AbortHandle)>,
    messages: BTreeMap<String, String>,
    telling: bool,
    /// Everything is down: the pod is to leave the API once its last status is told.
    done: bool,
}

impl State {
    /// The pod as the API shows it.
    fn shown(&self) -> &Arc<Pod> {
        self.mirror.as_ref().unwrap_or(&self.pod)
    }
}

impl Cell {
    fn new(pod: Arc<Pod>, in_api: bool) -> Arc<Self> {
        let refs = references(&pod);
        let state = State {
            in_api,
            is_static: false,
            mirror: None,
            memory: Memory::default(),
            wanted: None,
            view: Arc::default(),
            refs,
            busy: false,
            dirty: false,
            stale_volumes: false,
            renew_volumes: None,
            volume_failures: 0,
            hurry: CancellationToken::new(),
            timer: None,
            probes: BTreeMap::new(),
            messages: BTreeMap::new(),
            telling: false,
            done: false,
            pod,
        };
        Arc::new(Self { uid: uid(&state.pod).to_owned(), state: Mutex::new(state) })
    }

    pub(crate) fn pod(&self) -> Arc<Pod> {
        self.state.lock().pod.clone()
    }

    pub(crate) fn view(&self) -> Arc<PodView> {
        self.state.lock().view.clone()
    }

    pub(crate) fn status(&self) -> Option<PodStatus> {
        self.state.lock().wanted.clone()
    }

    /// The container waits to be started again.
    pub(crate) fn is_waiting(&self, name: &str) -> bool {
        self.state.lock().memory.containers.get(name).is_some_and(|m| m.waiting.is_some())
    }

    /// Why a container has not started yet.
    pub(crate) fn waiting_reason(&self, name: &str) -> String {
        let state = self.state.lock();
        let waiting = state.memory.containers.get(name).and_then(|m| m.waiting.as_ref());
        let told = state.wanted.iter().flat_map(|s| {
            s.container_statuses
                .iter()
                .chain(&s.init_container_statuses)
                .chain(&s.ephemeral_container_statuses)
                .flatten()
        });
        let told = told.into_iter().find(|s| s.name == name).and_then(|s| s.state.as_ref()?.waiting.clone());
        waiting
            .map(|w| w.reason.clone())
            .or_else(|| told?.reason)
            .unwrap_or_else(|| "ContainerCreating".into())
    }

    pub(crate) fn with_memory<T>(&self, change: impl FnOnce(&mut Memory) -> T) -> T {
        change(&mut self.state.lock().memory)
    }

    /// Addresses of the pod's live sandbox.
    pub(crate) fn pod_ips(&self) -> Vec<String> {
        let state = self.state.lock();
        if host_network(&state.pod) {
            let status = state.wanted.as_ref();
            return status.and_then(|s| s.host_ip.clone()).into_iter().collect();
        }
        state.view.sandboxes.first().map(|s| s.ips.clone()).unwrap_or_default()
    }
}

impl Shared {
    /// A pod of the API appeared or changed.
    pub(crate) fn upsert(self: &Arc<Self>, pod: Arc<Pod>) {
        if let Some(hash) = crate::mirror::mirrors(&pod) {
            let hash = hash.to_owned();
            return self.mirror_seen(&hash, pod);
        }
        let cell = {
            let mut cells = self.cells.lock();
            let cell = cells.entry(uid(&pod).to_owned()).or_insert_with(|| Cell::new(pod.clone(), true));
            cell.clone()
        };
        let mut state = cell.state.lock();
        if windlass::revision_of(&*pod) < windlass::revision_of(&*state.pod) {
            return;
        }
        let meta = |p: &Pod| (p.metadata.labels.clone(), p.metadata.annotations.clone());
        if meta(&pod) != meta(&state.pod) {
            state.stale_volumes = true;
        }
        state.refs = references(&pod);
        if pod.metadata.deletion_timestamp.is_some() {
            state.hurry.cancel();
        }
        state.pod = pod;
        state.in_api = true;
        drop(state);
        self.poke(&cell);
    }

    /// The API has the pod no more.
    pub(crate) fn gone(self: &Arc<Self>, uid: &str) {
        let Some(cell) = self.cells.lock().get(uid).cloned() else { return self.mirror_gone(uid) };
        let mut state = cell.state.lock();
        state.in_api = false;
        state.hurry.cancel();
        if state.pod.metadata.deletion_timestamp.is_none() {
            let mut pod = (*state.pod).clone();
            pod.metadata.deletion_timestamp = Some(clock::time());
            state.pod = Arc::new(pod);
        }
        let forget = state.done && !state.busy;
        drop(state);
        if forget {
            self.forget(&cell);
        } else {
            self.poke(&cell);
        }
    }

    /// A pod the runtime holds and nobody asks for: it is taken down.
    pub(crate) fn orphan(self: &Arc<Self>, id: &crate::runtime::PodIdentity) {
        let mut pod = Pod::default();
        pod.metadata.uid = Some(id.uid.clone());
        pod.metadata.name = Some(id.name.clone());
        pod.metadata.namespace = Some(id.namespace.clone());
        pod.metadata.deletion_timestamp = Some(clock::time());
        let cell = self
            .cells
            .lock()
            .entry(id.uid.clone())
            .or_insert_with(|| Cell::new(Arc::new(pod), false))
            .clone();
        self.poke(&cell);
    }

    fn forget(&self, cell: &Cell) {
        let mut state = cell.state.lock();
        for (_, (_, task)) in std::mem::take(&mut state.probes) {
            task.abort();
        }
        if let Some(timer) = state.timer.take() {
            timer.abort();
        }
        drop(state);
        self.cells.lock().remove(&cell.uid);
        self.objects.forget(&cell.uid);
    }

    /// Something the runtime holds changed.
    pub(crate) fn poke_uid(self: &Arc<Self>, uid: &str) {
        let cell = self.cells.lock().get(uid).cloned();
        if let Some(cell) = cell {
            self.poke(&cell);
        }
    }

    /// All pods are looked at again.
    pub(crate) fn poke_all(self: &Arc<Self>) {
        let cells: Vec<_> = self.cells.lock().values().cloned().collect();
        for cell in cells {
            self.poke(&cell);
        }
    }

    /// A ConfigMap or Secret changed: the pods that refer to it get the new content.
    pub(crate) fn reference_changed(self: &Arc<Self>, is_secret: bool, namespace: &str, name: &str) {
        let wanted = (is_secret, name.to_owned());
        let cells: Vec<_> = self.cells.lock().values().cloned().collect();
        for cell in cells {
            let mut state = cell.state.lock();
            if state.pod.metadata.namespace.as_deref() != Some(namespace) || !state.refs.contains(&wanted) {
                continue;
            }
            state.stale_volumes = true;
            state.memory.volumes_not_before = None;
            for memory in state.memory.containers.values_mut() {
                if memory.waiting.as_ref().is_some_and(|w| w.reason == "CreateContainerConfigError") {
                    memory.not_before = None;
                }
            }
            drop(state);
            self.poke(&cell);
        }
    }

    /// Makes sure the pod is looked at soon.
    pub(crate) fn poke(self: &Arc<Self>, cell: &Arc<Cell>) {
        let mut state = cell.state.lock();
        state.dirty = true;
        if state.busy || self.stop.is_cancelled() {
            return;
        }
        state.busy = true;
        drop(state);
        let (shared, cell) = (self.clone(), cell.clone());
        self.tasks.spawn(async move { shared.drive(&cell).await });
    }

    async fn drive(self: Arc<Self>, cell: &Arc<Cell>) {
        loop {
            {
                let mut state = cell.state.lock();
                state.dirty = false;
                if state.hurry.is_cancelled() {
                    state.hurry = CancellationToken::new();
                }
            }
            let wake = self.pass(cell).await;
            let mut state = cell.state.lock();
            if state.dirty && !self.stop.is_cancelled() {
                continue;
            }
            state.busy = false;
            if state.done && !state.in_api {
                drop(state);
                self.forget(cell);
                return;
            }
            self.set_timer(cell, &mut state, wake);
            return;
        }
    }

    fn set_timer(self: &Arc<Self>, cell: &Arc<Cell>, state: &mut State, wake: Option<Timestamp>) {
        if let Some(old) = state.timer.take() {
            old.abort();
        }
        let at = [wake, state.renew_volumes].into_iter().flatten().min();
        let Some(at) = at.filter(|_| !self.stop.is_cancelled()) else { return };
        let (shared, weak) = (Arc::downgrade(self), Arc::downgrade(cell));
        let task = tokio::spawn(async move {
            tokio::time::sleep(clock::until(at)).await;
            if let (Some(shared), Some(cell)) = (shared.upgrade(), weak.upgrade()) {
                shared.poke(&cell);
            }
        });
        state.timer = Some(task.abort_handle());
    }

    /// Looks, decides and acts until there is nothing to do; when to look again.
    async fn pass(self: &Arc<Self>, cell: &Arc<Cell>) -> Option<Timestamp> {
        for _ in 0..ROUNDS {
            let view = match self.runtime.observe(&cell.uid).await {
                Ok(view) => view,
                Err(error) => {
                    tracing::warn!(pod = cell.uid, %error, "the runtime cannot be asked about a pod");
                    return Some(clock::now() + RUNTIME_RETRY);
                }
            };
            let view = self.with_messages(cell, view).await;
            self.renew(cell).await;
            let plan = self.decide(cell, view);
            tell::tell(self, cell);
            if plan.actions.is_empty() || self.stop.is_cancelled() {
                return plan.wake;
            }
            for action in plan.actions {
                if cell.state.lock().hurry.is_cancelled() {
                    break;
                }
                self.act(cell, action).await;
            }
        }
        Some(clock::now() + BREATH)
    }

    /// Takes the view into memory and decides.
    fn decide(self: &Arc<Self>, cell: &Arc<Cell>, view: PodView) -> Plan {
        let now = clock::now();
        let mut guard = cell.state.lock();
        let state = &mut *guard;
        state.view = Arc::new(view);
        state.memory.start_time.get_or_insert(now);
        let running: BTreeSet<_> = running(&state.view).map(|c| c.id.clone()).collect();
        state.memory.stopping.retain(|id, _| running.contains(id));
        state.memory.resized.retain(|id, _| running.contains(id));
        let told = state.wanted.clone().or_else(|| state.pod.status.clone()).unwrap_or_default();
        check_health(state, &told);
        let (pod, view) = (state.pod.clone(), state.view.clone());
        let seen = Seen { pod: &pod, view: &view, memory: &state.memory, told: &told, now };
        let ending = terminate::is_terminating(seen);
        let begins = (ending && state.memory.terminating.is_none())
            .then(|| Termination { since: now, grace: terminate::grace_period(seen) });
        if begins.is_some() {
            state.memory.terminating = begins;
        }
        let seen = Seen { pod: &pod, view: &view, memory: &state.memory, told: &told, now };
        let plan = sync(seen);
        let host_ips = self.config.host_ips();
        let node = status::Node { host_ips: &host_ips, runtime: &self.runtime_name };
        state.wanted = Some(status::status(seen, &node));
        drop(guard);
        self.watch_probes(cell, ending);
        plan
    }

    /// Starts the probes of new instances, ends those of old ones.
    fn watch_probes(self: &Arc<Self>, cell: &Arc<Cell>, ending: bool) {
        let mut guard = cell.state.lock();
        let state = &mut *guard;
        let (pod, view) = (state.pod.clone(), state.view.clone());
        state.probes.retain(|(_, kind), (id, task)| {
            let alive = running(&view).any(|c| c.id == *id) && !(ending && *kind != ProbeKind::Readiness);
            if !alive {
                task.abort();
            }
            alive
        });
        if ending {
            return;
        }
        for c in running(&view) {
            let Some((role, spec)) = container(&pod, &c.name) else { continue };
            if !matches!(role, Role::App | Role::Sidecar) {
                continue;
            }
            for (kind, probe) in probe::probes(&spec) {
                let key = (c.name.clone(), kind);
                if state.probes.get(&key).is_some_and(|(id, _)| *id == c.id) {
                    continue;
                }
                let watched = probe::Watched {
                    role,
                    name: c.name.clone(),
                    id: c.id.clone(),
                    kind,
                    started_at: c.started_at.unwrap_or_else(clock::now),
                };
                let task = tokio::spawn(probe::run(self.clone(), cell.clone(), watched, probe.clone()));
                if let Some((_, old)) = state.probes.insert(key, (c.id.clone(), task.abort_handle())) {
                    old.abort();
                }
            }
        }
    }

    /// Facts of the node and of the pod's address that references ask for.
    fn facts(&self, cell: &Cell) -> NodeFacts {
        let host_ips = self.config.host_ips();
        let pod_ips = if host_network(&cell.pod()) { host_ips.clone() } else { cell.pod_ips() };
        NodeFacts { host_ips, pod_ips, allocatable: self.config.allocatable.clone() }
    }

    /// Brings volumes up to date when what they show has changed or a token is due.
    async fn renew(self: &Arc<Self>, cell: &Arc<Cell>) {
        let due = {
            let mut state = cell.state.lock();
            let due = state.stale_volumes || state.renew_volumes.is_some_and(|at| at <= clock::now());
            let due = due && state.memory.volumes_ready && state.memory.terminating.is_none();
            if due {
                state.stale_volumes = false;
                state.renew_volumes = None;
            }
            due
        };
        if due {
            self.mount(cell).await;
        }
    }

    async fn mount(self: &Arc<Self>, cell: &Arc<Cell>) -> bool {
        let Some(volumes) = &self.volumes else { return true };
        let pod = cell.pod();
        self.objects.prepare(&pod).await;
        let result = volumes.mount(&pod, &self.facts(cell)).await;
        let mut state = cell.state.lock();
        match result {
            Ok(renew) => {
                state.renew_volumes = renew;
                state.volume_failures = 0;
                true
            }
            Err((name, error)) => {
                // Upstream: half a second, doubling to two minutes.
                let delay = Duration::from_millis(500 << state.volume_failures.min(8));
                state.volume_failures += 1;
                state.memory.volumes_not_before = Some(clock::now() + delay);
                drop(state);
                let message = format!("MountVolume.SetUp failed for volume \"{name}\" : {error}");
                self.events.pod(&pod, Kind::Warning, "FailedMount", message);
                false
            }
        }
    }
}

fn running(view: &PodView) -> impl Iterator<Item = &crate::runtime::Container> {
    view.containers.iter().filter(|c| c.state == ContainerState::Running)
}

/// A new instance starts with fresh health; after a restart of the kubelet what the API was told still holds.
fn check_health(state: &mut State, told: &PodStatus) {
    let view = state.view.clone();
    for c in running(&view) {
        let Some((_, spec)) = container(&state.pod, &c.name) else { continue };
        let memory = state.memory.containers.entry(c.name.clone()).or_default();
        if memory.health.container_id == c.id {
            continue;
        }
        let all = told.container_statuses.iter().chain(&told.init_container_statuses).flatten();
        let known = all.into_iter().find(|s| s.container_id.as_deref().is_some_and(|id| id.ends_with(&c.id)));
        let known = known.filter(|s| s.state.as_ref().is_some_and(|t| t.running.is_some()));
        memory.health = Health {
            container_id: c.id.clone(),
            started: spec.startup_probe.is_none() || known.is_some_and(|s| s.started == Some(true)),
            ready: spec.readiness_probe.is_none() || known.is_some_and(|s| s.ready),
            failed: None,
        };
        memory.waiting = None;
    }
}
