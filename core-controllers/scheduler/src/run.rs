//! The rim: informers in, decisions made one after the other, bindings out in the background.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock},
};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, sleep_until},
};
use windlass::{
    BoxError, Delta, EventType, Place, Recorder, Rules, RunCx, Runnable, Scope, Verbs, random::Source,
    reference,
};

use crate::{
    bind,
    binding::Bound,
    builder::Builder,
    cycle::{Decision, Refusals},
    metrics::{Attempt, Metrics, Outcome, Timings},
    plugin::{Event, Point, Preemption, Reject},
    plugins::Change,
    pod::PodInfo,
    preemption,
    profile::{DEFAULT_NAME, Profile},
    queue::{Backoffs, Queue, Queued},
    snapshot::Snapshot,
    waiting::Waiting,
};

/// The lease that only one scheduler of a cluster holds.
pub const LEASE: (&str, &str) = ("kube-system", "kube-scheduler");

/// Writes in flight; decisions do not wait for them until there are this many.
const WRITES_MAX: usize = 256;

/// The scheduler as a part of a process. By default it decides about the pods of `default-scheduler`, by the built-in
/// plugins.
#[derive(Default)]
pub struct Scheduler {
    /// By the name that pods ask for in `spec.schedulerName`; none is the default.
    profiles: BTreeMap<String, Arc<Profile>>,
    backoffs: Backoffs,
    metrics: OnceLock<Metrics>,
}

impl Scheduler {
    /// Puts one together.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn of(profiles: BTreeMap<String, Arc<Profile>>, backoffs: Backoffs) -> Self {
        Self { profiles, backoffs, metrics: OnceLock::new() }
    }

    /// The profile of this name.
    pub fn profile(&self, name: &str) -> Option<&Profile> {
        match self.profiles.get(name) {
            Some(profile) => Some(profile),
            None => (self.profiles.is_empty() && name == DEFAULT_NAME).then(Profile::standard),
        }
    }
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").field("profiles", &self.profiles).finish_non_exhaustive()
    }
}

impl Runnable for Scheduler {
    fn name(&self) -> &str {
        "kube-scheduler"
    }

    fn needs(&self, rules: &mut Rules) {
        let all = Scope::all();
        rules.allow::<Pod>(&all, Verbs::READ | Verbs::DELETE);
        rules.allow::<Node>(&all, Verbs::READ);
        rules.allow_sub::<Pod>(&all, "binding", Verbs::CREATE);
        rules.allow_sub::<Pod>(&all, "status", Verbs::PATCH);
        rules.allow_resource(Place::Everywhere, "events.k8s.io", "events", Verbs::CREATE | Verbs::PATCH);
        self.profiles.values().flat_map(|profile| profile.owned()).for_each(|plugin| plugin.needs(rules));
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
            let mut state = State::new(self, &cx, sender);
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

/// A profile at work: it speaks under its own name.
pub(crate) struct Lane {
    pub(crate) profile: Arc<Profile>,
    pub(crate) recorder: Recorder,
    pub(crate) timings: Timings,
}

type Lanes = BTreeMap<String, Arc<Lane>>;

/// The profile that a pod asks for, if it is here.
fn lane<'a>(lanes: &'a Lanes, pod: &PodInfo) -> Option<&'a Arc<Lane>> {
    let name = pod.pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref());
    lanes.get(name.filter(|name| !name.is_empty()).unwrap_or(DEFAULT_NAME))
}

pub(crate) struct State {
    pub(crate) snapshot: Snapshot,
    pub(crate) queue: Queue,
    start: usize,
    random: Source,
    pub(crate) client: kube::Client,
    lanes: Lanes,
    metrics: Metrics,
    /// Of the process: who refuses a pod is named there, where plugins of one's own might.
    process: windlass::Metrics,
    pub(crate) waiting: Arc<Waiting>,
    pub(crate) writes: Arc<Semaphore>,
    pub(crate) results: mpsc::Sender<Bound>,
    /// Pods that were given a node here and whose binding has not been seen on the watch.
    pub(crate) assumed: HashMap<String, Arc<str>>,
}

impl State {
    fn new(scheduler: &Scheduler, cx: &RunCx, results: mpsc::Sender<Bound>) -> Self {
        let client = cx.informers.client().clone();
        let metrics = scheduler.metrics.get_or_init(|| Metrics::new(&cx.metrics)).clone();
        let mut profiles: Vec<Arc<Profile>> = scheduler.profiles.values().cloned().collect();
        if profiles.is_empty() {
            profiles.push(Arc::new(Profile::standard().clone()));
        }
        let lane = |profile: Arc<Profile>| {
            let name = profile.name().to_owned();
            let recorder = Recorder::events_v1(client.clone(), &name, &name);
            (name.clone(), Arc::new(Lane { profile, recorder, timings: metrics.timings(&name) }))
        };
        Self {
            snapshot: Snapshot::default(),
            queue: Queue::new(scheduler.backoffs),
            start: 0,
            random: cx.random.fork("scheduler"),
            lanes: profiles.into_iter().map(lane).collect(),
            metrics,
            process: cx.metrics.clone(),
            waiting: Arc::default(),
            client,
            writes: Arc::new(Semaphore::new(WRITES_MAX)),
            results,
            assumed: HashMap::new(),
        }
    }

    /// Tells the queue of a change, and plugins whose pods it may let in or make fit.
    pub(crate) fn changed(&mut self, event: &Event<'_>) {
        let lanes = &self.lanes;
        self.queue.changed(Instant::now(), |pod, refused_by| {
            lane(lanes, pod).is_none_or(|lane| lane.profile.helps(pod, refused_by, event))
        });
        if lanes.values().all(|lane| lane.profile.owned().is_empty()) {
            return;
        }
        self.queue.release_held(|pod, by| match lane(lanes, pod) {
            Some(lane) if lane.profile.helps(pod, &[by], event) => {
                lane.profile.held_by(pod).map(|no| no.plugin)
            }
            _ => Some(by),
        });
    }

    fn on_node(&mut self, delta: &Delta<Node>) {
        match delta {
            Delta::Added { new, .. } => {
                self.snapshot.set_node(Arc::clone(new));
                self.changed(&Event { change: Change::NodeAdded, node: Some(new), pod: None });
            }
            Delta::Updated { old, new, .. } => {
                self.snapshot.set_node(Arc::clone(new));
                if matters(old, new) {
                    self.changed(&Event { change: Change::NodeUpdated, node: Some(new), pod: None });
                }
            }
            Delta::Deleted { last, .. } => {
                self.snapshot.remove_node(last.metadata.name.as_deref().unwrap_or(""));
            }
        }
    }

    fn on_pod(&mut self, delta: &Delta<Pod>) {
        let pod = PodInfo::new(Arc::clone(delta.object()));
        let uid = pod.uid().to_owned();
        if delta.is_deleted() || pod.has_ended() {
            self.queue.remove(&uid);
            self.assumed.remove(&uid);
            self.waiting.reject(&uid, "", Reject::because("removed"));
            if let Some(lane) = lane(&self.lanes, &pod) {
                self.fits(lane, &pod);
            }
            if self.snapshot.remove_pod(&uid) {
                self.changed(&Event { change: Change::PodGone, node: None, pod: Some(&pod) });
            }
            return;
        }
        if !pod.node().is_empty() {
            let node = pod.node().to_owned();
            self.queue.remove(&uid);
            self.assumed.remove(&uid);
            if let Some(lane) = lane(&self.lanes, &pod) {
                self.fits(lane, &pod);
            }
            let known = self.snapshot.node_of(&uid).is_some();
            self.snapshot.set_pod(Arc::clone(&pod), &node);
            if !known {
                self.changed(&Event { change: Change::PodAssigned, node: None, pod: Some(&pod) });
            }
            return;
        }
        let Some(lane) = lane(&self.lanes, &pod) else { return };
        if !pod.is_deleting() && !self.assumed.contains_key(&uid) {
            let held = lane.profile.held_by(&pod);
            if let Some(no) = held.as_ref().filter(|_| pod.gates().is_empty()) {
                tracing::debug!(pod = %pod.key, plugin = no.plugin, reasons = ?no.reasons, "a pod is held");
            }
            let rank = lane.profile.rank(&pod);
            self.tell_gated(&pod);
            self.queue.add_ranked(pod, rank, held.map(|no| no.plugin));
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

    /// Decides about one pod. False when none is due.
    async fn schedule_one(&mut self) -> bool {
        self.metrics.waiting(self.queue.depths());
        let Some(queued) = self.queue.pop(Instant::now()) else { return false };
        let Some(lane) = lane(&self.lanes, &queued.pod).map(Arc::clone) else { return true };
        let (begin, moves) = (Instant::now(), self.queue.moves());
        let (start, timings) = (&mut self.start, Some(&lane.timings));
        match lane.profile.decide_timed(&queued.pod, &self.snapshot, start, &self.random, timings) {
            Decision::Node(at) => {
                let node = Arc::clone(&self.snapshot.names[at]);
                self.snapshot.set_pod(Arc::clone(&queued.pod), &node);
                self.assumed.insert(queued.pod.uid().to_owned(), Arc::clone(&node));
                self.changed(&Event { change: Change::PodAssigned, node: None, pod: Some(&queued.pod) });
                self.give(lane, queued, node, begin).await;
            }
            Decision::Unschedulable(refusals) => {
                lane.timings.attempt(Attempt::Unschedulable, begin);
                self.refused(&lane, queued, &refusals, moves);
            }
        }
        true
    }

    fn refused(&mut self, lane: &Lane, queued: Queued, refusals: &Refusals, moves: u64) {
        let mut message = refusals.message();
        let plan = self.room(lane, &queued.pod, refusals);
        let nominated = plan.as_ref().map(|p| Arc::clone(&self.snapshot.names[p.node]));
        if refusals.nodes > 0 && !lane.profile.at(Point::PostFilter).is_empty() {
            let hopeless = match &refusals.all {
                Some(refusal) => {
                    if refusal.final_ {
                        refusals.nodes
                    } else {
                        0
                    }
                }
                None => refusals.by_node.iter().filter(|(_, r)| r.final_).count(),
            };
            let rest = match &refusals.all {
                Some(_) => refusals.nodes - hopeless,
                None => refusals.by_node.len() - hopeless,
            };
            let mut texts = Vec::new();
            if plan.is_none() && rest > 0 {
                texts.push(format!("{rest} No preemption victims found for incoming pod"));
            }
            if hopeless > 0 {
                texts.push(format!("{hopeless} Preemption is not helpful for scheduling"));
            }
            texts.sort();
            message.push_str(&format!(
                " preemption: 0/{} nodes are available: {}.",
                refusals.nodes,
                texts.join(", ")
            ));
        }
        self.failed_scheduling(lane, &queued.pod, &message);
        self.fits_nowhere(lane, &queued.pod, refusals);
        if let Some(plan) = plan {
            self.preempt(lane, &queued.pod, plan);
        }
        self.tell(Arc::clone(&queued.pod), "Unschedulable", message, nominated);
        self.queue.refused(queued, refusals.plugins(), Instant::now(), moves);
    }

    pub(crate) fn failed_scheduling(&self, lane: &Lane, pod: &PodInfo, message: &str) {
        let about = reference(&*pod.pod);
        lane.recorder.event_about(
            &about,
            None,
            EventType::Warning,
            "FailedScheduling",
            "Scheduling",
            message,
        );
    }

    /// Names the plugins that refuse a pod, at `/failing`.
    pub(crate) fn fits_nowhere(&self, lane: &Lane, pod: &PodInfo, refusals: &Refusals) {
        if !lane.profile.owned().is_empty() {
            self.process.failed(lane.profile.name(), &pod.key, refusals.by_plugin());
        }
    }

    /// Nobody refuses it any more.
    pub(crate) fn fits(&self, lane: &Lane, pod: &PodInfo) {
        if !lane.profile.owned().is_empty() {
            self.process.succeeded(lane.profile.name(), &pod.key);
        }
    }

    /// How room is made for a pod: the first plugin with a plan.
    fn room(&mut self, lane: &Lane, pod: &PodInfo, refusals: &Refusals) -> Option<Preemption> {
        let since = Instant::now();
        let plan = preemption::first(&lane.profile, pod, &mut self.snapshot, refusals);
        let outcome = if plan.is_some() { Outcome::Success } else { Outcome::Unschedulable };
        lane.timings.point(Point::PostFilter, since, outcome);
        plan
    }

    fn preempt(&self, lane: &Lane, pod: &Arc<PodInfo>, plan: Preemption) {
        let node = Arc::clone(&self.snapshot.names[plan.node]);
        for victim in plan.victims {
            let note = format!("Preempted by pod {} on node {node}", pod.uid());
            let (about, by) = (reference(&*victim.pod), reference(&*pod.pod));
            lane.recorder.event_about(&about, Some(by), EventType::Normal, "Preempted", "Preempting", note);
            let (client, pod, scheduler) =
                (self.client.clone(), Arc::clone(pod), lane.profile.name().to_owned());
            tokio::spawn(async move {
                if let Err(error) = bind::preempt(&client, &victim, &pod, &scheduler).await {
                    tracing::warn!(pod = %victim.key, %error, "a pod could not be preempted");
                }
            });
        }
    }

    /// Writes the condition, unless the pod says so already.
    pub(crate) fn tell(
        &self,
        pod: Arc<PodInfo>,
        reason: &'static str,
        message: String,
        nominated: Option<Arc<str>>,
    ) {
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
