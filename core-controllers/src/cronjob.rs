//! The CronJob controller: Jobs that begin when a schedule says.
//!
//! Each moment of the schedule has a Job of its own, named by the minute, so that it is made once whoever makes it. What
//! was missed is not made up for, but for the latest moment. Jobs that have finished are kept up to the limits of
//! history. Nothing is scanned: each CronJob waits on its own timer for its next moment.
//!
//! [`plan`](plan::plan) decides, purely; here is what wakes it and how it is carried out. Behaves as upstream's
//! `cronjob-controller`.

mod plan;

use std::sync::Arc;

use jiff::{Timestamp, Zoned};
use k8s_openapi::{
    api::batch::v1::{CronJob, CronJobStatus, Job},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::api::{DeleteParams, ObjectMeta, PropagationPolicy};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use windlass::{
    Action, ByOwner, Controller, Error, EventType, Indexed, Key, ManagerBuilder, Reconcile, Request, Scope,
    clock, controller_ref, is_controlled_by, reference,
};

use crate::{Options, job::finished};

/// The moment that a Job was made for.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// Adds the controller to a manager.
pub fn register(manager: &mut ManagerBuilder, options: &Options) {
    let jobs = manager.informers().get::<Job>(Scope::all()).index(ByOwner);
    let skew = Histogram::new(exponential_buckets(1.0, 2.0, 10));
    let help =
        "Time between when a cronjob is scheduled to be run, and when the corresponding job is created";
    let name = "cronjob_controller_job_creation_skew_duration_seconds";
    manager.metrics().register(|registry| registry.register(name, help, skew.clone()));
    let controller = Controller::<CronJob>::new("cronjob")
        .component("cronjob-controller")
        .workers(options.workers)
        .owns::<Job>();
    manager.add(controller.build(CronJobs { jobs, skew }));
}

struct CronJobs {
    jobs: Indexed<Job, ByOwner>,
    /// How late Jobs are made, in seconds.
    skew: Histogram,
}

impl Reconcile<CronJob> for CronJobs {
    async fn reconcile(&self, request: Request<CronJob>) -> Result<Action, Error> {
        let Some(cron) = request.object.clone() else { return Ok(Action::Done) };
        let jobs = self.jobs.get(cron.metadata.uid.as_deref().unwrap_or_default());
        let status = cron.status.clone().unwrap_or_default();
        let mut turn = Turn { cron: &cron, request: &request, skew: &self.skew, status };
        turn.thin_out(&jobs).await;
        let carried_out = turn.run(&jobs).await;
        turn.report().await?;
        Ok(carried_out?.map_or(Action::Done, Action::RequeueAfter))
    }
}

/// A turn of one CronJob, and the status that it leads to.
struct Turn<'a> {
    cron: &'a CronJob,
    request: &'a Request<CronJob>,
    skew: &'a Histogram,
    status: CronJobStatus,
}

impl Turn<'_> {
    async fn run(&mut self, jobs: &[Arc<Job>]) -> Result<Option<std::time::Duration>, Error> {
        self.look_at(jobs);
        self.miss(jobs).await?;
        let now = clock::now();
        let plan = plan::plan(self.cron, &self.status, now);
        for (type_, reason, note) in plan.events {
            self.request.recorder.event(self.cron, type_, reason, note);
        }
        let Some(due) = plan.start else { return Ok(plan.again) };
        if self.cron.spec.concurrency_policy.as_deref() == Some("Replace") {
            self.replace().await?;
        }
        self.start(due).await?;
        Ok(plan::again(self.cron, &self.status, now))
    }

    /// Notes which Jobs have finished since, and which are unknown.
    fn look_at(&mut self, jobs: &[Arc<Job>]) {
        for job in jobs {
            let (uid, name) = (&job.metadata.uid, name(&job.metadata));
            let known = self.status.active.iter().flatten().any(|active| active.uid == *uid);
            match finished(job) {
                None if !known => {
                    let note = format!("Saw a job that the controller did not create or forgot: {name}");
                    self.tell(EventType::Warning, "UnexpectedJob", note);
                }
                Some(end) if known => {
                    let note = format!("Saw completed job: {name}, condition: {}", end.type_);
                    self.tell(EventType::Normal, "SawCompletedJob", note);
                    self.drop_active(uid.as_deref());
                }
                _ => {}
            }
            let ended = job.status.as_ref().and_then(|status| status.completion_time.as_ref());
            let ended = ended.filter(|_| finished(job).is_some_and(|end| end.type_ == "Complete"));
            let last = self.status.last_successful_time.as_ref().map(|time| time.0);
            if let Some(ended) = ended.filter(|ended| last.is_none_or(|last| ended.0 > last)) {
                self.status.last_successful_time = Some(ended.clone());
            }
        }
    }

    /// Forgets active Jobs that are gone; the server is asked, since a cache may be behind.
    async fn miss(&mut self, jobs: &[Arc<Job>]) -> Result<(), Error> {
        let active = self.status.active.clone().unwrap_or_default();
        for lost in active.iter().filter(|active| !jobs.iter().any(|job| job.metadata.uid == active.uid)) {
            let name = lost.name.as_deref().unwrap_or_default();
            let key = Key::new(lost.namespace.as_deref(), name);
            if self.request.client.live::<Job>(&key).await?.is_none() {
                self.tell(EventType::Normal, "MissingJob", format!("Active job went missing: {name}"));
                self.drop_active(lost.uid.as_deref());
            }
        }
        Ok(())
    }

    /// Ends the Jobs that still run.
    async fn replace(&mut self) -> Result<(), Error> {
        for active in self.status.active.clone().unwrap_or_default() {
            let name = active.name.as_deref().unwrap_or_default();
            let key = Key::new(active.namespace.as_deref(), name);
            match self.request.client.live::<Job>(&key).await {
                Ok(Some(job)) if job.metadata.uid == active.uid => self.delete(&job).await?,
                Ok(_) => self.drop_active(active.uid.as_deref()),
                Err(error) => {
                    self.tell(EventType::Warning, "FailedGet", format!("Get job: {error}"));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    async fn start(&mut self, due: Timestamp) -> Result<(), Error> {
        let job = new_job(self.cron, due);
        let created = match self.request.client.create(&job).await {
            Ok(created) => {
                let note = format!("Created job {}", name(&created.metadata));
                self.tell(EventType::Normal, "SuccessfulCreate", note);
                self.skew.observe(clock::since(due).as_secs_f64());
                created
            }
            Err(error) if error.is_already_exists() => {
                // Ours, if it was made and not noted; somebody else's is theirs to note.
                let live = self.request.client.live::<Job>(&Key::of(&job)).await?;
                let ours = live.filter(|live| is_controlled_by(&live.metadata, self.cron));
                let known =
                    |job: &Job| self.status.active.iter().flatten().any(|a| a.uid == job.metadata.uid);
                let Some(ours) = ours.filter(|job| !known(job)) else { return Ok(()) };
                Arc::new(ours)
            }
            Err(error) => {
                if !error.is_namespace_terminating() {
                    self.tell(EventType::Warning, "FailedCreate", format!("Error creating job: {error}"));
                }
                return Err(error);
            }
        };
        self.status.active.get_or_insert_default().push(reference(&*created));
        self.status.last_schedule_time = Some(Time(due));
        Ok(())
    }

    /// Deletes finished Jobs beyond the limits of history, the oldest first.
    async fn thin_out(&mut self, jobs: &[Arc<Job>]) {
        let spec = &self.cron.spec;
        let limits =
            [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)];
        for (end, limit) in limits {
            let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { continue };
            let mut ended: Vec<&Arc<Job>> =
                jobs.iter().filter(|job| finished(job).is_some_and(|c| c.type_ == end)).collect();
            ended.retain(|job| job.metadata.deletion_timestamp.is_none());
            ended.sort_by_key(|job| {
                let start = job.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
                (start.is_none(), start, job.metadata.name.clone())
            });
            for job in &ended[..ended.len().saturating_sub(limit)] {
                // It is told, and tried again when something happens next.
                let _ = self.delete(job).await;
            }
        }
    }

    async fn delete(&mut self, job: &Job) -> Result<(), Error> {
        let background = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        if let Err(error) = self.request.client.delete_with(job, background).await {
            self.tell(EventType::Warning, "FailedDelete", format!("Deleted job: {error}"));
            return Err(error);
        }
        self.drop_active(job.metadata.uid.as_deref());
        self.tell(EventType::Normal, "SuccessfulDelete", format!("Deleted job {}", name(&job.metadata)));
        Ok(())
    }

    fn drop_active(&mut self, uid: Option<&str>) {
        self.status.active.iter_mut().for_each(|active| active.retain(|job| job.uid.as_deref() != uid));
        self.status.active.take_if(|active| active.is_empty());
    }

    fn tell(&self, type_: EventType, reason: &str, note: String) {
        self.request.recorder.event(self.cron, type_, reason, note);
    }

    /// Writes the status if it changed.
    async fn report(&self) -> Result<(), Error> {
        if self.status == self.cron.status.clone().unwrap_or_default() {
            return Ok(());
        }
        let next = CronJob { status: Some(self.status.clone()), ..self.cron.clone() };
        match self.request.client.update_status(&next).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The Job of a moment.
fn new_job(cron: &CronJob, due: Timestamp) -> Job {
    let template = cron.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    if let Some(zone) = plan::zone(cron) {
        annotations.insert(SCHEDULED.to_owned(), rfc3339(&due.to_zoned(zone)));
    }
    Job {
        metadata: ObjectMeta {
            name: Some(plan::job_name(cron, due)),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_ref(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// A local time as Go writes it: an offset of nothing is `Z`.
fn rfc3339(time: &Zoned) -> String {
    let offset = if time.offset().seconds() == 0 { "Z".to_owned() } else { time.strftime("%:z").to_string() };
    format!("{}{offset}", time.strftime("%Y-%m-%dT%H:%M:%S"))
}

fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests;
