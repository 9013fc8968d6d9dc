//! From the choice of a node to the pod's being there: Reserve, Permit, then PreBind, Bind and PostBind in the background.
//!
//! Nothing else waits for what happens in the background. Whoever says no there undoes the choice: the room is given back,
//! the plugins are told, and the pod waits again. Upstream: `schedule_one.go`, the binding cycle.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use windlass::{EventType, reference};

use crate::{
    bind,
    cycle::Refusals,
    metrics::{Attempt, Outcome},
    plugin::{BindError, Binding, Event, Permit, Point, Reject},
    plugins::{Change, Refusal},
    profile::Part,
    queue::Queued,
    run::{Lane, State},
    waiting::{Hold, Waiting},
};

/// How the way to a node ended.
pub(crate) struct Bound {
    lane: Arc<Lane>,
    queued: Queued,
    node: Arc<str>,
    /// Changes that had been seen when it began.
    moves: u64,
    outcome: Result<(), Failure>,
}

/// Why a pod did not get to its node.
enum Failure {
    /// A plugin refused after all.
    Refused(Refusal),
    /// A plugin failed.
    Failed { plugin: &'static str, point: Point, why: String },
    /// The API server did not take the binding.
    Api(kube::Error),
}

impl State {
    /// Sets out to bind a pod that a node was chosen for.
    pub(crate) async fn give(&mut self, lane: Arc<Lane>, queued: Queued, node: Arc<str>, begin: Instant) {
        let moves = self.queue.moves();
        let held = match self.reserve(&lane, &queued, &node) {
            Ok(held) => held,
            Err(refusal) => {
                lane.timings.attempt(Attempt::Unschedulable, begin);
                let outcome = Err(Failure::Refused(refusal));
                self.on_bound(Bound { lane, queued, node, moves, outcome });
                return;
            }
        };
        lane.timings.attempt(Attempt::Scheduled, begin);
        let binding =
            Binding { pod: Arc::clone(&queued.pod), node: Arc::clone(&node), client: self.client.clone() };
        let (waiting, results) = (Arc::clone(&self.waiting), self.results.clone());
        let writes = Arc::clone(&self.writes);
        // Who waits for permission writes nothing yet.
        let permit = match held {
            None => writes.clone().acquire_owned().await.ok(),
            Some(_) => None,
        };
        tokio::spawn(async move {
            let outcome = match permitted(&waiting, &binding, held).await {
                Ok(()) => {
                    let permit = match permit {
                        None => writes.acquire_owned().await.ok(),
                        permit => permit,
                    };
                    let outcome = bound(&lane, &binding).await;
                    drop(permit);
                    outcome
                }
                Err(refusal) => Err(Failure::Refused(refusal)),
            };
            let _ = results.send(Bound { lane, queued, node, moves, outcome }).await;
        });
    }

    /// Asks who may be against it now, and who wants to wait.
    fn reserve(&self, lane: &Lane, queued: &Queued, node: &Arc<str>) -> Result<Option<Hold>, Refusal> {
        let (pod, profile) = (&queued.pod, &lane.profile);
        let since = Instant::now();
        let refuses = |plugin: &Arc<dyn crate::Plugin>| {
            plugin.reserve(pod, node).err().map(|no| Refusal::of(plugin.name(), no))
        };
        let refused = profile.own(Point::Reserve).find_map(refuses);
        lane.timings.point(Point::Reserve, since, outcome(refused.is_none()));
        if let Some(refusal) = refused {
            return Err(refusal);
        }
        let since = Instant::now();
        let mut waits: Vec<(&'static str, Duration)> = Vec::new();
        let mut refused = None;
        for plugin in profile.own(Point::Permit) {
            match plugin.permit(pod, node, &self.waiting) {
                Permit::Allow => {}
                Permit::Wait(limit) => waits.push((plugin.name(), limit)),
                Permit::Reject(no) => {
                    refused = Some(Refusal::of(plugin.name(), no));
                    break;
                }
            }
        }
        lane.timings.point(Point::Permit, since, outcome(refused.is_none()));
        match (refused, waits.first()) {
            (Some(refusal), _) => Err(refusal),
            (None, None) => Ok(None),
            (None, Some((first, _))) => {
                let first = *first;
                let too_many = || Refusal::of(first, Reject::because("too many pods wait for permission"));
                self.waiting.hold(pod, node, waits).map(Some).ok_or_else(too_many)
            }
        }
    }

    /// Takes back what was given to a pod that did not get to its node.
    pub(crate) fn on_bound(&mut self, result: Bound) {
        let Bound { lane, queued, node, moves, outcome } = result;
        let Err(failure) = outcome else {
            self.fits(&lane, &queued.pod);
            return;
        };
        let pod = Arc::clone(&queued.pod);
        for plugin in lane.profile.own(Point::Reserve).rev() {
            plugin.unreserve(&pod, &node);
        }
        if let Failure::Api(error) = &failure {
            tracing::warn!(pod = %pod.key, %error, "a pod could not be bound");
        }
        // A pod that has gone, or that somebody else bound, is nobody's concern here any more.
        if self.assumed.remove(pod.uid()).is_none() {
            return;
        }
        let at = self.snapshot.find(&node);
        self.snapshot.remove_pod(pod.uid());
        let nothing_happened = moves == self.queue.moves();
        self.changed(&Event { change: Change::PodGone, node: None, pod: Some(&pod) });
        match failure {
            Failure::Refused(refusal) => {
                let refusals = Refusals::after_all(at.unwrap_or_default(), refusal);
                let message = refusals.message();
                self.failed_scheduling(&lane, &pod, &message);
                self.fits_nowhere(&lane, &pod, &refusals);
                self.tell(Arc::clone(&pod), "Unschedulable", message, None);
                // That it gave its own room back does not help it.
                let moves = if nothing_happened { self.queue.moves() } else { moves };
                self.queue.refused(queued, refusals.plugins(), Instant::now(), moves);
            }
            Failure::Failed { plugin, point, why } => {
                lane.timings.attempt(Attempt::Error, Instant::now());
                let message = format!("running {point} plugin {plugin:?}: {why}");
                self.failed_scheduling(&lane, &pod, &message);
                self.tell(Arc::clone(&pod), "SchedulerError", message, None);
                self.queue.failed(queued, Instant::now());
            }
            // After a conflict the watch tells whether somebody else bound the pod; until then it is tried again.
            Failure::Api(kube::Error::Api(status)) if status.is_not_found() => {}
            Failure::Api(_) => self.queue.failed(queued, Instant::now()),
        }
    }
}

async fn permitted(waiting: &Waiting, binding: &Binding, held: Option<Hold>) -> Result<(), Refusal> {
    let Some(hold) = held else { return Ok(()) };
    waiting.decided(&binding.pod, hold).await
}

/// Binds a pod, with what comes before and after.
async fn bound(lane: &Lane, binding: &Binding) -> Result<(), Failure> {
    let failed = |plugin: &'static str, point, error: BindError| match error {
        BindError::Rejected(no) => Failure::Refused(Refusal::of(plugin, no)),
        BindError::Failed(error) => {
            Failure::Failed { plugin, point, why: windlass::sentence(error.as_ref()) }
        }
    };
    let since = Instant::now();
    for plugin in lane.profile.own(Point::PreBind) {
        if let Err(error) = plugin.pre_bind(binding).await {
            lane.timings.point(Point::PreBind, since, Outcome::Unschedulable);
            return Err(failed(plugin.name(), Point::PreBind, error));
        }
    }
    lane.timings.point(Point::PreBind, since, Outcome::Success);
    let since = Instant::now();
    for enabled in lane.profile.at(Point::Bind) {
        let done = match &enabled.part {
            Part::Builtin(_) => {
                bind::bind(&binding.client, &binding.pod, &binding.node).await.map_err(Failure::Api)
            }
            Part::Own(plugin) => match plugin.bind(binding) {
                None => continue,
                Some(bind) => bind.await.map_err(|error| failed(plugin.name(), Point::Bind, error)),
            },
        };
        lane.timings.point(Point::Bind, since, outcome(done.is_ok()));
        done?;
        break;
    }
    let note = format!("Successfully assigned {} to {}", binding.pod.key, binding.node);
    let about = reference(&*binding.pod.pod);
    lane.recorder.event_about(&about, None, EventType::Normal, "Scheduled", "Binding", note);
    let since = Instant::now();
    for plugin in lane.profile.own(Point::PostBind) {
        plugin.post_bind(binding).await;
    }
    lane.timings.point(Point::PostBind, since, Outcome::Success);
    Ok(())
}

fn outcome(well: bool) -> Outcome {
    if well { Outcome::Success } else { Outcome::Unschedulable }
}
