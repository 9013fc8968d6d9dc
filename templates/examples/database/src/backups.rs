//! What the Jobs that take backups say: when the newest was complete, and whether all is well. Pure.

use std::sync::Arc;

use k8s_openapi::{
    api::batch::v1::{Job, JobCondition},
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use kube::ResourceExt;
use windlass::{ConditionsExt, condition};

use crate::Database;

/// How far a backup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Not,
    Failed,
    Complete,
}

/// How far the backup is that this Job takes.
pub(crate) fn taken(job: &Job) -> Taken {
    ended(job).map_or(Taken::Not, |(taken, _)| taken)
}

/// When the newest backup was complete, as far as is known: their Jobs do not stay for ever.
pub(crate) fn last(db: &Database, jobs: &[Arc<Job>]) -> Option<Time> {
    let complete = jobs.iter().filter(|job| taken(job) == Taken::Complete);
    let times = complete.filter_map(|job| job.status.as_ref()?.completion_time.clone());
    let before = db.status.as_ref().and_then(|status| status.last_backup.clone());
    times.chain(before).max_by_key(|time| time.0)
}

/// The condition `BackedUp`, which the Job decides that ended last.
pub(crate) fn backed_up(db: &Database, jobs: &[Arc<Job>]) -> Condition {
    let ended = jobs.iter().filter_map(|job| Some((job, ended(job)?)));
    let newest =
        ended.max_by_key(|(job, (_, end))| (end.last_transition_time.as_ref().map(|t| t.0), job.name_any()));
    let says = |status, reason, message: &str| condition("BackedUp", status, reason, message);
    match newest {
        Some((_, (Taken::Complete, _))) => says(true, "BackupComplete", "the newest backup is complete"),
        Some((job, (_, end))) => {
            let why = end.message.as_deref().unwrap_or("it failed");
            says(false, "BackupFailed", &format!("Job {}: {why}", job.name_any()))
        }
        None if db.status.as_ref().is_some_and(|status| status.last_backup.is_some()) => {
            let before = db.status.as_ref().and_then(|status| status.conditions.condition("BackedUp"));
            before.cloned().unwrap_or_else(|| says(true, "BackupComplete", "the newest backup is complete"))
        }
        None if db.spec.backup.schedule.is_none() => says(false, "NoSchedule", "no backups are asked for"),
        None => says(false, "NoneYet", "no backup was taken yet"),
    }
}

fn ended(job: &Job) -> Option<(Taken, &JobCondition)> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().filter(|c| c.status == "True").find_map(|c| match c.type_.as_str() {
        "Complete" => Some((Taken::Complete, c)),
        "Failed" => Some((Taken::Failed, c)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{DatabaseStatus, children::object, database};

    fn job(name: &str, type_: &str, hour: u32) -> Arc<Job> {
        let at = format!("2026-01-01T{hour:02}:00:00Z");
        let done = (type_ == "Complete").then_some(&at);
        Arc::new(object(
            json!({ "metadata": { "name": name }, "status": { "completionTime": done, "conditions": [
            { "type": type_, "status": "True", "lastTransitionTime": at, "message": "too slow" },
        ] } }),
        ))
    }

    #[test]
    fn the_job_that_ended_last_decides() {
        let table = [
            (vec![], None, "False NoneYet: no backup was taken yet"),
            (vec![job("a", "SuccessCriteriaMet", 1)], None, "False NoneYet: no backup was taken yet"),
            (vec![job("a", "Complete", 1)], Some(1), "True BackupComplete: the newest backup is complete"),
            (
                vec![job("b", "Failed", 2), job("a", "Complete", 1)],
                Some(1),
                "False BackupFailed: Job b: too slow",
            ),
            (
                vec![job("b", "Failed", 2), job("c", "Complete", 3)],
                Some(3),
                "True BackupComplete: the newest backup is complete",
            ),
        ];
        let mut db = database("main", 1);
        db.spec.backup.schedule = Some("0 2 * * *".to_owned());
        for (jobs, hour, says) in table {
            let time = last(&db, &jobs).map(|time| time.0.to_string());
            assert_eq!(time, hour.map(|hour: i32| format!("2026-01-01T0{hour}:00:00Z")));
            let found = backed_up(&db, &jobs);
            assert_eq!(format!("{} {}: {}", found.status, found.reason, found.message), says);
        }
        // Jobs go, and what they said stays.
        let status = DatabaseStatus {
            last_backup: last(&db, &[job("a", "Complete", 1)]),
            ..DatabaseStatus::default()
        };
        db.status = Some(status);
        assert_eq!(backed_up(&db, &[]).status, "True");
        assert!(last(&db, &[]).is_some());
    }
}
