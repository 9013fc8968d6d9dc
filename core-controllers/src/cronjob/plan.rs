//! The decision of one turn: whether a Job is due, which one, and when to look again. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus};
use windlass::EventType;
use windlass_crd::schedule::{Schedule, zone_named};

/// Added to each wait, so that clocks that differ a little do not wake it too early.
const MARGIN: Duration = Duration::from_millis(100);
/// More missed moments than this are told of: something is wrong with the clock or was with the controller.
const MISSED_MAX: i64 = 100;

/// What to do about a schedule.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// The moment whose Job is due.
    pub(super) start: Option<Timestamp>,
    /// What is told: whether it is a warning, the reason and the note.
    pub(super) events: Vec<(EventType, &'static str, String)>,
    /// When the next moment comes, if no Job is made now.
    pub(super) again: Option<Duration>,
}

impl Plan {
    fn warn(mut self, reason: &'static str, note: String) -> Self {
        self.events.push((EventType::Warning, reason, note));
        self
    }
}

/// What is due at this moment.
pub(super) fn plan(cron: &CronJob, status: &CronJobStatus, now: Timestamp) -> Plan {
    let spec = &cron.spec;
    let mut plan = Plan::default();
    if cron.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let Some(zone) = zone(cron) else {
        let name = spec.time_zone.as_deref().unwrap_or_default();
        return plan.warn("UnknownTimeZone", format!("invalid timeZone: {name:?}: unknown time zone {name}"));
    };
    if spec.suspend.unwrap_or(false) {
        return plan;
    }
    if spec.schedule.contains("TZ") {
        plan = plan.warn(
            "UnsupportedSchedule",
            format!(
                "CRON_TZ or TZ used in schedule {:?} is not officially supported, see \
             https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details",
                spec.schedule
            ),
        );
    }
    let schedule = match Schedule::parse(&spec.schedule, &zone) {
        Ok(schedule) => schedule,
        Err(error) => {
            let note = format!("unparseable schedule: {:?} : {error}", spec.schedule);
            return plan.warn("UnparseableSchedule", note);
        }
    };
    let recent = match recent(cron, status, &schedule, now, true) {
        Ok(recent) => recent,
        Err(error) => {
            return plan.warn("InvalidSchedule", format!("invalid schedule: {} : {error}", spec.schedule));
        }
    };
    plan.again = next_in(cron, status, &schedule, now);
    let Some(due) = recent.due.filter(|due| *due <= now) else { return plan };
    if recent.missed > MISSED_MAX {
        let note =
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan = plan.warn("TooManyMissedTimes", note.to_owned());
    }
    if spec.starting_deadline_seconds.is_some_and(|seconds| later(due, seconds) < now) {
        let time = due.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S %z");
        return plan.warn("MissSchedule", format!("Missed scheduled time to start a job: {time}"));
    }
    let active = status.active.as_deref().unwrap_or_default();
    let name = job_name(cron, due);
    let begun = status.last_schedule_time.as_ref().is_some_and(|last| last.0 == due);
    if begun || active.iter().any(|job| job.name.as_ref() == Some(&name)) {
        return plan;
    }
    if spec.concurrency_policy.as_deref() == Some("Forbid") && !active.is_empty() {
        let note = "Not starting job because prior execution is running and concurrency policy is Forbid";
        plan.events.push((EventType::Normal, "JobAlreadyActive", note.to_owned()));
        return plan;
    }
    plan.start = Some(due);
    plan
}

/// How long until the next moment, for a status that may have moved on.
pub(super) fn again(cron: &CronJob, status: &CronJobStatus, now: Timestamp) -> Option<Duration> {
    let schedule = Schedule::parse(&cron.spec.schedule, &zone(cron)?).ok()?;
    next_in(cron, status, &schedule, now)
}

/// The zone of a schedule; `None` when nobody knows it.
pub(super) fn zone(cron: &CronJob) -> Option<TimeZone> {
    zone_named(cron.spec.time_zone.as_deref().unwrap_or_default())
}

/// The name of the Job of a moment: the same whoever makes it.
pub(super) fn job_name(cron: &CronJob, at: Timestamp) -> String {
    format!("{}-{}", cron.metadata.name.as_deref().unwrap_or_default(), at.as_second() / 60)
}

/// The latest moment that has come.
struct Recent {
    /// From when on moments count.
    earliest: Timestamp,
    due: Option<Timestamp>,
    /// About how many have come and not been met.
    missed: i64,
}

fn recent(
    cron: &CronJob,
    status: &CronJobStatus,
    schedule: &Schedule,
    now: Timestamp,
    within_deadline: bool,
) -> Result<Recent, &'static str> {
    const NEVER: &str = "time difference between two schedules is less than 1 second";
    let created = cron.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
    let mut earliest = status.last_schedule_time.as_ref().map_or(created, |t| t.0);
    if let Some(seconds) = cron.spec.starting_deadline_seconds.filter(|_| within_deadline) {
        earliest = earliest.max(later(now, seconds.saturating_neg()));
    }
    let first = schedule.next(earliest).ok_or(NEVER)?;
    if now < first {
        return Ok(Recent { earliest, due: None, missed: 0 });
    }
    let second = schedule.next(first).ok_or(NEVER)?;
    if now < second {
        return Ok(Recent { earliest, due: Some(first), missed: 0 });
    }
    let between = second.duration_since(first).as_secs();
    if between < 1 {
        return Err(NEVER);
    }
    // A rough count; then the last one exactly, from a little before where a regular schedule would have it.
    let missed = now.duration_since(first).as_secs() / between + 1;
    let mut due = None;
    let mut at = schedule.next(later(first, (missed - 2) * between));
    while let Some(moment) = at.filter(|moment| *moment <= now) {
        due = Some(moment);
        at = schedule.next(moment);
    }
    Ok(Recent { earliest, due, missed })
}

fn next_in(cron: &CronJob, status: &CronJobStatus, schedule: &Schedule, now: Timestamp) -> Option<Duration> {
    let from = match recent(cron, status, schedule, now, false) {
        Ok(Recent { due: Some(due), .. }) => due,
        Ok(Recent { earliest, missed: 0, .. }) => earliest,
        _ => now,
    };
    let left = schedule.next(from)?.duration_since(now);
    Some(Duration::try_from(left).unwrap_or(Duration::ZERO) + MARGIN)
}

fn later(time: Timestamp, seconds: i64) -> Timestamp {
    time.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(time)
}
