//! The Job controller: pods that run until enough of them have succeeded.
//!
//! A Job makes pods, makes others for those that fail, each time after a longer wait, and ends when it has its
//! completions, when it has failed too often, or when its policies or its deadline say so. Every end of a pod is counted
//! once ([`track`]); an indexed Job counts indexes instead.
//!
//! The decisions are pure: [`view`] sorts what there is, [`verdict`] says whether the Job is done, [`plan`] which pods to
//! make and to take away. Here is what wakes it and how that is carried out. Behaves as upstream's `job-controller`; a
//! Job that `managedBy` gives to another controller is left alone.

mod backoff;
mod facts;
mod indexed;
mod indexes;
mod metrics;
mod orphans;
mod plan;
mod policy;
mod track;
mod verdict;
mod view;

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition, JobSpec, JobStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    api::Patch,
    core::{Selector, SelectorExt},
};
use serde_json::json;
use tokio::time::Instant;
use windlass::{
    Action, ByOwner, Controller, Delta, Error, EventType, Indexed, Informers, Key, ManagerBuilder, Reconcile,
    Request, Scope, clock, controller_of,
};

use crate::{
    Options, batch,
    claim::{Claim, Orphans},
    pod_control,
};
use backoff::Memory;
use metrics::Metrics;
pub(crate) use verdict::finished;
use view::View;

/// Who manages Jobs that do not say by whom.
const MANAGER: &str = "kubernetes.io/job-controller";

/// Adds the controller to a manager.
pub fn register(manager: &mut ManagerBuilder, options: &Options) {
    let informers = manager.informers().clone();
    let pods = informers.get::<Pod>(Scope::all());
    let metrics = Metrics::new();
    manager.metrics().register(|registry| metrics.register(registry));
    let (of_jobs, of_pods) = (metrics.clone(), metrics.clone());
    let reconcile =
        Jobs { pods: pods.index(ByOwner), orphans: pods.index(Orphans), memory: Memory::default(), metrics };
    let controller = Controller::<Job>::new("job")
        .component("job-controller")
        .workers(options.workers)
        .owns::<Pod>()
        .watches::<Job, _>(Scope::all(), move |delta, _| {
            of_jobs.saw_job(delta);
            Vec::<Key>::new()
        })
        .watches::<Pod, _>(Scope::all(), move |delta, informers| {
            of_pods.saw_pod(delta);
            jobs_that_may_adopt(delta, informers)
        });
    manager.add(controller.build(reconcile));
    orphans::register(manager, options);
}

/// An orphan wakes every Job that would have it.
fn jobs_that_may_adopt(delta: &Delta<Pod>, informers: &Informers) -> Vec<Key> {
    let pod = delta.object();
    let (None, Some(namespace)) = (controller_of(&pod.metadata), pod.metadata.namespace.as_deref()) else {
        return Vec::new();
    };
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let mut jobs = informers.get::<Job>(Scope::all()).lister().in_namespace(namespace);
    jobs.retain(|job| selector(job).is_some_and(|selector| selector.matches(&labels)));
    jobs.iter().map(|job| Key::of(&**job)).collect()
}

struct Jobs {
    pods: Indexed<Pod, ByOwner>,
    orphans: Indexed<Pod, Orphans>,
    memory: Memory,
    metrics: Metrics,
}

/// What was done to the pods of a Job in a turn.
#[derive(Default)]
struct Done {
    created: i32,
    /// Deleted, and how many of these were ready.
    deleted: i32,
    ready: i32,
    /// Why not all was done.
    failure: Option<Error>,
}

impl Reconcile<Job> for Jobs {
    async fn reconcile(&self, request: Request<Job>) -> Result<Action, Error> {
        let job = request.object.clone().filter(|job| is_ours(job) && finished(job).is_none());
        let Some(job) = job else {
            self.memory.forget(&request.key);
            return Ok(Action::Done);
        };
        let Some(selector) = selector(&job) else { return Err(Error::terminal("the selector is not valid")) };
        let mut claim = Claim::look_up(&*job, &selector, &self.pods, &self.orphans);
        claim.finalizer = Some(facts::FINALIZER);
        let pods = claim.settle(&request.client, &*job).await?;
        let uid = job.metadata.uid.as_deref().unwrap_or_default();
        let before = self.memory.recall(&request.key, uid);
        let view = View::new(&job, &pods, before, clock::now());
        let begun = Instant::now();
        let mut action = "reconciling";
        let ended = self.turn(&view, &request, &mut action).await;
        self.metrics.synced(&job, ended.is_ok(), action, begun.elapsed());
        ended
    }
}

impl Jobs {
    async fn turn(
        &self,
        view: &View<'_>,
        request: &Request<Job>,
        action: &mut &'static str,
    ) -> Result<Action, Error> {
        let job = view.job;
        let mut status = job.status.clone().unwrap_or_default();
        status.uncounted_terminated_pods.get_or_insert_default();
        if status.start_time.is_none() && !view::is_suspended(job) {
            status.start_time = Some(Time(view.now));
        }
        let mut end = verdict::end(view);
        let mut waits = vec![verdict::deadline_in(&with(job, &status), view.now)];
        let active = view::number(view.active.len());
        let done;
        if end.is_some() {
            done = delete_all(&view.active, job, request, false).await;
            // While one is left, the end is not told: it may yet be counted.
            end = end.filter(|_| done.failure.is_none());
        } else if job.metadata.deletion_timestamp.is_none() {
            let plan = plan::plan(view);
            waits.push(plan.wait);
            done = carry_out(&plan, view, request).await;
            *action = match (plan.delete.is_empty(), plan.create.is_empty() && plan.wait.is_none()) {
                (false, _) => "pods_deleted",
                _ if view::is_suspended(job) => "pods_deleted",
                (_, false) => "pods_created",
                _ => "tracking",
            };
            if !plan.create.is_empty() {
                self.metrics.created(view, done.created, done.failure.is_none());
            }
            end = verdict::success(view, active + done.created - done.deleted);
            if end.is_none()
                && let Some((reason, note)) = verdict::note_suspension(view, &mut status)
            {
                request.recorder.event(job, EventType::Normal, reason, note);
            }
        } else {
            done = Done::default();
            end = verdict::success(view, active);
        }
        status.active = Some(active + done.created - done.deleted).filter(|count| *count != 0);
        status.ready = Some(plan::ready(&view.active) - done.ready);
        status.terminating = Some(view.terminating + done.deleted);
        self.track(view, end, status, request).await?;
        match done.failure {
            Some(failure) => Err(failure),
            None => Ok(again(waits)),
        }
    }

    /// Writes the status, lets go of what is noted in it, counts that, and ends the Job when nothing is left.
    async fn track(
        &self,
        view: &View<'_>,
        end: Option<JobCondition>,
        mut status: JobStatus,
        request: &Request<Job>,
    ) -> Result<(), Error> {
        let mut held = track::held(view);
        track::count(&mut status, &held);
        let tracked = track::note(view, end.as_ref(), &mut status);
        let end = end.map(|end| announce(view, end, &mut status));
        let mut job = Arc::new(view.job.clone());
        if self.write(&mut job, &status, request).await? {
            let uid = job.metadata.uid.as_deref().unwrap_or_default();
            self.memory.keep(&request.key, uid, view.failures);
        }
        self.metrics.acted(&tracked.actions);
        let mut status = job.status.clone().unwrap_or_default();
        let failure = release(&tracked.release, &mut held, request).await;
        track::count(&mut status, &held);
        let over = failure.is_none() && !tracked.more && !track::has_uncounted(&status);
        let end = end.filter(|_| over && status.terminating.unwrap_or(0) == 0);
        if let Some(end) = &end {
            let (reason, message) = (end.reason.as_deref(), end.message.as_deref());
            let (reason, message) = (reason.unwrap_or_default(), message.unwrap_or_default());
            verdict::ensure(&mut status, &end.type_, "True", reason, message, view.now);
            if end.type_ == verdict::COMPLETE {
                status.completion_time = Some(Time(view.now));
            }
            if view::completions(view.job) != Some(0) {
                // What ends while it is suspended has no start any more; the server wants one of every end.
                status.start_time.get_or_insert(Time(view.now));
            }
        }
        self.write(&mut job, &status, request).await?;
        if let Some(end) = end {
            tell_end(&job, &end, request);
            self.metrics.ended(&job, end.reason.as_deref().filter(|_| end.type_ != verdict::COMPLETE));
        }
        failure.map_or(Ok(()), Err)
    }

    /// Writes the status if it changed; true if it did.
    async fn write(
        &self,
        job: &mut Arc<Job>,
        status: &JobStatus,
        request: &Request<Job>,
    ) -> Result<bool, Error> {
        if job.status.as_ref() == Some(status) {
            return Ok(false);
        }
        let was = job.status.clone().unwrap_or_default();
        *job = request.client.update_status(&with(job, status)).await?;
        self.metrics.counted(job, &was, status);
        Ok(true)
    }
}

/// Tells that an end is certain, and returns the one that follows when all is counted.
fn announce(view: &View<'_>, end: JobCondition, status: &mut JobStatus) -> JobCondition {
    let last = match end.type_.as_str() {
        verdict::MET => verdict::COMPLETE,
        verdict::TARGET => verdict::FAILED,
        _ => return end,
    };
    let (reason, message) = (end.reason.unwrap_or_default(), end.message.unwrap_or_default());
    verdict::ensure(status, &end.type_, "True", &reason, &message, view.now);
    verdict::condition(last, &reason, &message, view.now)
}

fn tell_end(job: &Job, end: &JobCondition, request: &Request<Job>) {
    if end.type_ != verdict::COMPLETE {
        let (reason, message) = (end.reason.as_deref(), end.message.clone());
        let (reason, message) = (reason.unwrap_or_default(), message.unwrap_or_default());
        request.recorder.event(job, EventType::Warning, reason, message);
        return;
    }
    let succeeded = job.status.as_ref().and_then(|status| status.succeeded).unwrap_or(0);
    if view::completions(job).is_some_and(|wanted| succeeded > wanted) {
        let note = "Too many succeeded pods running after completion count reached";
        request.recorder.event(job, EventType::Warning, "TooManySucceededPods", note);
    }
    request.recorder.event(job, EventType::Normal, "Completed", "Job completed");
}

async fn carry_out(plan: &plan::Plan, view: &View<'_>, request: &Request<Job>) -> Done {
    if !plan.delete.is_empty() {
        return delete_all(&plan.delete, view.job, request, true).await;
    }
    let create = async |i: usize| {
        let index = plan.create[i];
        let replaced = index.and_then(|index| view.waiting.get(&index));
        pod_control::create(&plan::new_pod(view.job, index, replaced), view.job, request).await
    };
    let (created, failure) = batch::slow_start(plan.create.len(), 1, create).await;
    let failure = failure.filter(|error| !error.is_namespace_terminating());
    Done { created: view::number(created), failure, ..Done::default() }
}

/// Deletes pods; with `let_go`, their ends are not to be counted.
async fn delete_all(pods: &[Arc<Pod>], job: &Job, request: &Request<Job>, let_go: bool) -> Done {
    let deletions = pods.iter().map(async |pod| {
        if let_go && facts::is_tracked(pod) {
            take_finalizer(pod, request).await?;
        }
        pod_control::delete(pod, job, request).await
    });
    let results = futures::future::join_all(deletions).await;
    let mut done = Done::default();
    for (pod, result) in pods.iter().zip(results) {
        match result {
            Ok(()) => {
                done.deleted += 1;
                done.ready += plan::ready(std::slice::from_ref(pod));
            }
            Err(error) => done.failure = done.failure.or(Some(error)),
        }
    }
    done
}

/// Takes the finalizers away; what went well is no longer held.
async fn release(
    pods: &[Arc<Pod>],
    held: &mut std::collections::BTreeSet<String>,
    request: &Request<Job>,
) -> Option<Error> {
    let results = futures::future::join_all(pods.iter().map(|pod| take_finalizer(pod, request))).await;
    let mut failure = None;
    for (pod, result) in pods.iter().zip(results) {
        match result {
            Ok(()) => _ = held.remove(facts::uid(pod)),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure
}

async fn take_finalizer<K: windlass::Object>(pod: &Pod, request: &Request<K>) -> Result<(), Error> {
    let metadata =
        json!({"$deleteFromPrimitiveList/finalizers": [facts::FINALIZER], "uid": pod.metadata.uid});
    let patch = Patch::Strategic(json!({"metadata": metadata}));
    match request.client.patch::<Pod>(&Key::of(pod), &patch).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

fn with(job: &Job, status: &JobStatus) -> Job {
    Job { status: Some(status.clone()), ..job.clone() }
}

/// The shortest of some waits.
fn again(waits: Vec<Option<Duration>>) -> Action {
    let shortest = waits.into_iter().flatten().filter(|wait| !wait.is_zero()).min();
    shortest.map_or(Action::Done, |wait| Action::RequeueAfter(wait + Duration::from_millis(1)))
}

fn is_ours(job: &Job) -> bool {
    spec(job).and_then(|spec| spec.managed_by.as_deref()).is_none_or(|manager| manager == MANAGER)
}

fn spec(job: &Job) -> Option<&JobSpec> {
    job.spec.as_ref()
}

fn selector(job: &Job) -> Option<Selector> {
    Selector::try_from(spec(job)?.selector.clone()?).ok()
}

#[cfg(test)]
mod tests;
