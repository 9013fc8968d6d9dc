//! Tables of decisions: a CronJob, its status and the moment, and what is due.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus};
use serde_json::json;

use super::{new_job, plan};

/// A CronJob every ten minutes, made at 10:00 on 2026-01-30, with changes such as `forbid deadline=200 suspend`.
fn cron(text: &str) -> CronJob {
    let mut cron = json!({
        "metadata": {"name": "c", "namespace": "default", "uid": "u", "creationTimestamp": "2026-01-30T10:00:00Z"},
        "spec": {"schedule": "*/10 * * * *", "concurrencyPolicy": "Allow", "jobTemplate": {"spec": {"template": {}}}},
    });
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let spec = &mut cron["spec"];
        match key {
            "forbid" => spec["concurrencyPolicy"] = json!("Forbid"),
            "deadline" => spec["startingDeadlineSeconds"] = json!(value.parse::<i64>().unwrap()),
            "suspend" => spec["suspend"] = json!(true),
            "schedule" => spec["schedule"] = json!(value.replace('_', " ")),
            "zone" => spec["timeZone"] = json!(value),
            "going" => cron["metadata"]["deletionTimestamp"] = json!("2026-01-30T10:00:00Z"),
            other => panic!("{other}"),
        }
    }
    serde_json::from_value(cron).unwrap()
}

fn today(time: &str) -> Timestamp {
    format!("2026-01-30T{time}Z").parse().unwrap()
}

/// A status such as `last=10:10:00 active=c-29497580`.
fn status(text: &str) -> CronJobStatus {
    let mut status = json!({});
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        match word.split_once('=').unwrap() {
            ("last", time) => status["lastScheduleTime"] = json!(today(time)),
            ("active", name) => status["active"] = json!([{"name": name, "uid": "1"}]),
            other => panic!("{other:?}"),
        }
    }
    serde_json::from_value(status).unwrap()
}

fn planned(cron: &CronJob, text: &str, now: &str) -> String {
    let plan = plan::plan(cron, &status(text), today(now));
    let events: Vec<&str> = plan.events.iter().map(|(_, reason, _)| *reason).collect();
    let start = plan.start.map_or("nothing".to_owned(), |due| due.strftime("start %H:%M").to_string());
    let again = plan.again.map_or("never".to_owned(), |again| format!("{:.1}", again.as_secs_f64()));
    format!("{start}, {again}{}", events.iter().map(|reason| format!(", {reason}")).collect::<String>())
}

#[test]
fn the_latest_moment_is_due() {
    for (text, status, now, expected) in [
        ("", "", "10:04:00", "nothing, 360.1"),
        ("", "", "10:10:00.1", "start 10:10, 600.0"),
        ("", "last=10:10:00", "10:10:00.2", "nothing, 599.9"),
        ("", "last=10:10:00", "10:20:01", "start 10:20, 599.1"),
        ("", "last=10:10:00", "10:45:00", "start 10:40, 300.1"),
        ("", "active=c-29496130", "10:10:05", "nothing, 595.1"),
        ("suspend", "", "10:15:00", "nothing, never"),
        ("going", "", "10:15:00", "nothing, never"),
        ("forbid", "active=c-1", "10:15:00", "nothing, 300.1, JobAlreadyActive"),
        ("forbid", "", "10:15:00", "start 10:10, 300.1"),
        // Too late for the only moment; a longer deadline still lets it begin.
        ("deadline=60", "", "10:15:00", "nothing, 300.1"),
        ("deadline=400", "", "10:15:00", "start 10:10, 300.1"),
        ("deadline=60", "last=10:10:00", "10:20:30", "start 10:20, 570.1"),
        ("schedule=*_*_*_*_*", "", "12:00:30", "start 12:00, 30.1, TooManyMissedTimes"),
        ("schedule=*_*_*_*_* deadline=200", "", "12:00:30", "start 12:00, 30.1"),
        ("schedule=@every_7m", "", "10:16:00", "start 10:14, 300.1"),
        ("schedule=59_23_31_2_*", "", "10:16:00", "nothing, never, InvalidSchedule"),
        ("schedule=soon", "", "10:16:00", "nothing, never, UnparseableSchedule"),
        ("schedule=TZ=UTC_*/10_*_*_*_*", "", "10:15:00", "start 10:10, 300.1, UnsupportedSchedule"),
        ("zone=Nowhere/Else", "", "10:15:00", "nothing, never, UnknownTimeZone"),
        ("zone=Asia/Kolkata schedule=0_16_*_*_*", "", "10:31:00", "start 10:30, 86340.1"),
    ] {
        assert_eq!(planned(&cron(text), status, now), expected, "{text} {status} {now}");
    }
}

#[test]
fn a_job_is_named_by_its_minute() {
    let job = |zone: &str| {
        let job = new_job(&cron(&format!("zone={zone}")), today("10:10:00"));
        (job.metadata.name.unwrap(), job.metadata.annotations.unwrap().into_values().next().unwrap())
    };
    assert_eq!(job("Etc/UTC"), ("c-29496130".to_owned(), "2026-01-30T10:10:00Z".to_owned()));
    assert_eq!(job("Europe/London").1, "2026-01-30T10:10:00Z");
    assert_eq!(job("Asia/Kolkata").1, "2026-01-30T15:40:00+05:30");
}
