//! The rim: informers in, decisions made one after the other, bindings out in the background.

use std::{collections::HashMap, sync::Arc};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, sleep_until},
};
use windlass::{BoxError, Delta, EventType, Recorder, RunCx, Runnable, Scope, random::Source, reference};

use crate::{
    bind,
    cycle::{Decision, Refusals, decide},
    plugins::Change,
    pod::PodInfo,
    preemption,
    queue::{Queue, Queued},
    snapshot::Snapshot,
};

/// The lease that only one scheduler of a cluster holds.
pub const LEASE: (&str, &str) = ("kube-system", "kube-scheduler");

/// The name that pods ask for in `spec.schedulerName`.
const NAME: &str = "default-scheduler";

/// Writes in flight; decisions do not wait for them until there are this many.
const WRITES_MAX: usize = 256;

/// The scheduler as a part of a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scheduler;

impl Runnable for Scheduler {
    fn name(&self) -> &str {
        "kube-scheduler"
    }

    fn run(&self, cx: RunCx) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(async move {
            let pods = cx.informers.get::<Pod>(Scope::all());
            let nodes = cx.informers.get::<Node>(Scope::all());
            tokio::select! {
                biased;
                () = async { nodes.synced().await; pods.synced().await } => {}
                () = cx.stop.cancelled() => return Ok(()),
            }
            let (mut pod_deltas, mut node_deltas) = (pods.deltas(), nodes.deltas());
            let (sender, mut bound) = mpsc::channel(WRITES_MAX);
            let mut state = State::new(&cx, sender);
            loop {
                while let Some(deltas) = node_deltas.try_next() {
                    deltas.iter().for_each(|d| state.on_node(d));
                }
                while let Some(deltas) = pod_deltas.try_next() {
                    deltas.iter().for_each(|d| state.on_pod(d));
                }
                while let Ok(result) = bound.try_recv() {
                    state.on_bound(result);
                }
                if state.schedule_one().await {
                    // A long queue must not keep others from running, nor news from coming in.
                    tokio::task::yield_now().await;
                    if cx.stop.is_cancelled() {
                        return Ok(());
                    }
                    continue;
                }
                let deadline = state.queue.next_deadline();
                tokio::select! {
                    biased;
                    () = cx.stop.cancelled() => return Ok(()),
                    deltas = node_deltas.next() => deltas.iter().for_each(|d| state.on_node(d)),
                    deltas = pod_deltas.next() => deltas.iter().for_each(|d| state.on_pod(d)),
                    Some(result) = bound.recv() => state.on_bound(result),
                    () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {}
                }
            }
        })
    }
}

/// How a binding ended.
struct Bound {
    queued: Queued,
    error: Option<kube::Error>,
}

struct State {
    snapshot: Snapshot,
    queue: Queue,
    start: usize,
    random: Source,
    client: kube::Client,
    recorder: Recorder,
    writes: Arc<Semaphore>,
    results: mpsc::Sender<Bound>,
    /// Pods that were given a node here and whose binding has not been seen on the watch.
    assumed: HashMap<String, Arc<str>>,
}

impl State {
    fn new(cx: &RunCx, results: mpsc::Sender<Bound>) -> Self {
        let client = cx.informers.client().clone();
        Self {
            snapshot: Snapshot::default(),
            queue: Queue::default(),
            start: 0,
            random: cx.random.fork("scheduler"),
            recorder: Recorder::events_v1(client.clone(), NAME, NAME),
            client,
            writes: Arc::new(Semaphore::new(WRITES_MAX)),
            results,
            assumed: HashMap::new(),
        }
    }

    fn on_node(&mut self, delta: &Delta<Node>) {
        let now = Instant::now();
        match delta {
            Delta::Added { new, .. } => {
                self.snapshot.set_node(Arc::clone(new));
                self.queue.changed(Change::NodeAdded, now);
            }
            Delta::Updated { old, new, .. } => {
                self.snapshot.set_node(Arc::clone(new));
                if matters(old, new) {
                    self.queue.changed(Change::NodeUpdated, now);
                }
            }
            Delta::Deleted { last, .. } => {
                self.snapshot.remove_node(last.metadata.name.as_deref().unwrap_or(""));
            }
        }
    }

    fn on_pod(&mut self, delta: &Delta<Pod>) {
        let now = Instant::now();
        let pod = PodInfo::new(Arc::clone(delta.object()));
        let uid = pod.uid().to_owned();
        if delta.is_deleted() || pod.has_ended() {
            self.queue.remove(&uid);
            self.assumed.remove(&uid);
            if self.snapshot.remove_pod(&uid) {
                self.queue.changed(Change::PodGone, now);
            }
            return;
        }
        if !pod.node().is_empty() {
            let node = pod.node().to_owned();
            self.queue.remove(&uid);
            self.assumed.remove(&uid);
            let known = self.snapshot.node_of(&uid).is_some();
            self.snapshot.set_pod(pod, &node);
            if !known {
                self.queue.changed(Change::PodAssigned, now);
            }
            return;
        }
        let ours = pod.pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref()).is_none_or(|n| n == NAME);
        if ours && !pod.is_deleting() && !self.assumed.contains_key(&uid) {
            self.tell_gated(&pod);
            self.queue.add(pod);
        }
    }

    fn tell_gated(&self, pod: &Arc<PodInfo>) {
        let gates = pod.gates();
        if gates.is_empty() {
            return;
        }
        let message =
            format!("Scheduling is blocked due to non-empty scheduling gates: {gates:?}").replace(", ", " ");
        self.tell(Arc::clone(pod), "SchedulingGated", message, None);
    }

    fn on_bound(&mut self, result: Bound) {
        let Some(error) = result.error else { return };
        let uid = result.queued.pod.uid().to_owned();
        tracing::warn!(pod = %result.queued.pod.key, %error, "a pod could not be bound");
        if self.assumed.remove(&uid).is_some() {
            self.snapshot.remove_pod(&uid);
            self.queue.changed(Change::PodGone, Instant::now());
            // After a conflict the watch tells whether somebody else bound the pod; until then it is tried again.
            let gone = matches!(&error, kube::Error::Api(s) if s.is_not_found());
            if !gone {
                self.queue.failed(result.queued, Instant::now());
            }
        }
    }

    /// Decides about one pod. False when none is due.
    async fn schedule_one(&mut self) -> bool {
        let Some(queued) = self.queue.pop(Instant::now()) else { return false };
        let moves = self.queue.moves();
        match decide(&queued.pod, &self.snapshot, &mut self.start, &self.random) {
            Decision::Node(at) => {
                let node = Arc::clone(&self.snapshot.names[at]);
                self.snapshot.set_pod(Arc::clone(&queued.pod), &node);
                self.assumed.insert(queued.pod.uid().to_owned(), Arc::clone(&node));
                self.queue.changed(Change::PodAssigned, Instant::now());
                self.bind(queued, node).await;
            }
            Decision::Unschedulable(refusals) => self.refused(queued, &refusals, moves),
        }
        true
    }

    async fn bind(&self, queued: Queued, node: Arc<str>) {
        let Ok(permit) = Arc::clone(&self.writes).acquire_owned().await else { return };
        let (client, recorder, results) = (self.client.clone(), self.recorder.clone(), self.results.clone());
        tokio::spawn(async move {
            let error = bind::bind(&client, &queued.pod, &node).await.err();
            if error.is_none() {
                let note = format!("Successfully assigned {} to {node}", queued.pod.key);
                recorder.event_about(
                    &reference(&*queued.pod.pod),
                    None,
                    EventType::Normal,
                    "Scheduled",
                    "Binding",
                    note,
                );
            }
            drop(permit);
            let _ = results.send(Bound { queued, error }).await;
        });
    }

    fn refused(&mut self, queued: Queued, refusals: &Refusals, moves: u64) {
        let mut message = refusals.message();
        let plan = preemption::plan(&queued.pod, &mut self.snapshot, refusals);
        let nominated = plan.as_ref().map(|p| Arc::clone(&self.snapshot.names[p.node]));
        if refusals.nodes > 0 {
            let (hopeless, rest): (Vec<_>, Vec<_>) = refusals.by_node.iter().partition(|(_, r)| r.final_);
            let mut texts = Vec::new();
            if plan.is_none() && !rest.is_empty() {
                texts.push(format!("{} No preemption victims found for incoming pod", rest.len()));
            }
            if !hopeless.is_empty() {
                texts.push(format!("{} Preemption is not helpful for scheduling", hopeless.len()));
            }
            texts.sort();
            message.push_str(&format!(
                " preemption: 0/{} nodes are available: {}.",
                refusals.nodes,
                texts.join(", ")
            ));
        }
        self.recorder.event_about(
            &reference(&*queued.pod.pod),
            None,
            EventType::Warning,
            "FailedScheduling",
            "Scheduling",
            message.clone(),
        );
        if let Some(plan) = plan {
            self.preempt(&queued.pod, plan);
        }
        self.tell(Arc::clone(&queued.pod), "Unschedulable", message, nominated);
        self.queue.refused(queued, refusals.plugins(), Instant::now(), moves);
    }

    fn preempt(&self, pod: &Arc<PodInfo>, plan: preemption::Plan) {
        let node = Arc::clone(&self.snapshot.names[plan.node]);
        for victim in plan.victims {
            let note = format!("Preempted by pod {} on node {node}", pod.uid());
            let (about, by) = (reference(&*victim.pod), reference(&*pod.pod));
            self.recorder.event_about(&about, Some(by), EventType::Normal, "Preempted", "Preempting", note);
            let (client, pod) = (self.client.clone(), Arc::clone(pod));
            tokio::spawn(async move {
                if let Err(error) = bind::preempt(&client, &victim, &pod).await {
                    tracing::warn!(pod = %victim.key, %error, "a pod could not be preempted");
                }
            });
        }
    }

    /// Writes the condition, unless the pod says so already.
    fn tell(&self, pod: Arc<PodInfo>, reason: &'static str, message: String, nominated: Option<Arc<str>>) {
        if nominated.is_none() && bind::is_told(&pod, reason, &message) {
            return;
        }
        let client = self.client.clone();
        tokio::spawn(async move {
            let told = bind::tell(&client, &pod, reason, &message, nominated.as_deref()).await;
            if let Err(error) = told {
                tracing::debug!(pod = %pod.key, %error, "the condition of a pod could not be written");
            }
        });
    }
}

/// True when the change of a node may let a pod fit that did not; heartbeats do not.
fn matters(old: &Node, new: &Node) -> bool {
    let allocatable = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
    old.metadata.labels != new.metadata.labels || old.spec != new.spec || allocatable(old) != allocatable(new)
}
