//! What is wrong with the status of a Job.
//!
//! Source: `ValidateJobStatus`, `getStatusValidationOptions` of `pkg/registry/batch/job`.

use std::collections::BTreeSet;

use serde_json::Value;
use windlass_crd::field::{self, Error, ErrorList, Path};

use super::{
    super::{internal, pod_spec::not_negative},
    INDEXED,
    checks::{interval, intervals},
    condition,
};
use crate::object;

/// What a status tells, old beside new: how checks ask what changed.
struct Told<'v> {
    obj: &'v Value,
    old: &'v Value,
}

impl Told<'_> {
    fn value(obj: &Value, field: &str) -> Value {
        object::at(obj, &["status", field]).cloned().unwrap_or_default()
    }

    fn number(&self, field: &str) -> i64 {
        object::number(self.obj, &["status", field]).unwrap_or(0)
    }

    fn has(&self, kind: &str) -> bool {
        condition(self.obj, kind).is_some()
    }

    fn had(&self, kind: &str) -> bool {
        condition(self.old, kind).is_some()
    }

    fn finished(&self) -> bool {
        self.has("Complete") || self.has("Failed")
    }

    /// Whether a field or a condition is another than before.
    fn changed(&self, what: &[&str]) -> bool {
        what.iter().any(|what| match *what {
            "finished" => self.finished() != (self.had("Complete") || self.had("Failed")),
            kind if kind.starts_with(char::is_uppercase) => self.has(kind) != self.had(kind),
            field => Self::value(self.obj, field) != Self::value(self.old, field),
        })
    }
}

/// The status of a Job: what an end means is checked where it changes.
pub(super) fn job_status(obj: &Value, old: &Value) -> ErrorList {
    let told = Told { obj, old };
    let mut errors = ErrorList::new();
    let path = field::root("status");
    let status = obj.get("status").unwrap_or(&Value::Null);
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        not_negative(status, field, &path, &mut errors);
    }
    uncounted(status, &path.child("uncountedTerminatedPods"), &mut errors);
    ends(&told, &path, &mut errors);
    indexes(&told, &path, &mut errors);
    counts(&told, &path, &mut errors);
    one_way(&told, &path, &mut errors);
    errors
}

fn uncounted(status: &Value, path: &Path, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for list in ["succeeded", "failed"] {
        let uids = object::list(status, &["uncountedTerminatedPods", list]).iter().filter_map(Value::as_str);
        for (i, uid) in uids.enumerate() {
            let at = path.child(list).index(i);
            if uid.is_empty() {
                errors.push(Error::invalid(at, uid, "must not be empty"));
            } else if !seen.insert(uid) {
                errors.push(Error::duplicate(at, uid));
            }
        }
    }
}

fn ends(told: &Told<'_>, path: &Path, errors: &mut ErrorList) {
    let at = path.child("conditions");
    let mut cannot = |detail: &str| {
        errors.push(Error::invalid_unshown(&at, format!("cannot set {detail}")));
    };
    if told.changed(&["Complete", "Failed"]) && told.has("Complete") && told.has("Failed") {
        cannot("Complete=True and Failed=true conditions");
    }
    if told.changed(&["Complete", "FailureTarget"]) && told.has("Complete") && told.has("FailureTarget") {
        cannot("Complete=True and FailureTarget=true conditions");
    }
    let (start, end) = (Told::value(told.obj, "startTime"), Told::value(told.obj, "completionTime"));
    let at_end = path.child("completionTime");
    if told.changed(&["Complete", "completionTime"]) {
        if !end.is_null() && !told.has("Complete") {
            let detail = "cannot set completionTime when there is no Complete=True condition";
            errors.push(Error::invalid(&at_end, end.clone(), detail));
        }
        if end.is_null() && told.has("Complete") {
            errors.push(Error::required(&at_end, "completionTime is required for Complete jobs"));
        }
    }
    let time = |value: &Value| value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    if told.changed(&["startTime", "completionTime"])
        && let (Some(start), Some(ended)) = (time(&start), time(&end))
        && ended < start
    {
        errors.push(Error::invalid(&at_end, end, "must be equal to or after `startTime`"));
    }
    let mut cannot = |detail: &str| {
        errors.push(Error::invalid_unshown(&at, format!("cannot set {detail}")));
    };
    if told.changed(&["Failed", "failedIndexes"]) && told.has("Failed") && !told.has("FailureTarget") {
        cannot("Failed=True condition without the FailureTarget=true condition");
    }
    if told.changed(&["Complete", "SuccessCriteriaMet"])
        && told.has("Complete")
        && !told.has("SuccessCriteriaMet")
    {
        cannot("Complete=True condition without the SuccessCriteriaMet=true condition");
    }
}

fn indexes(told: &Told<'_>, path: &Path, errors: &mut ErrorList) {
    let finished = told.finished();
    let uncounted = Told::value(told.obj, "uncountedTerminatedPods");
    if told.changed(&["finished", "active"]) && told.number("active") > 0 && finished {
        let detail = "active>0 is invalid for finished job";
        errors.push(Error::invalid(path.child("active"), told.number("active"), detail));
    }
    let idle = object::at(told.obj, &["spec", "suspend"]) == Some(&Value::Bool(true))
        && object::number(told.obj, &["spec", "completions"]) == Some(0);
    if told.changed(&["finished", "startTime"])
        && !idle
        && Told::value(told.obj, "startTime").is_null()
        && finished
    {
        errors.push(Error::required(path.child("startTime"), "startTime is required for finished job"));
    }
    let left = ["failed", "succeeded"].iter().any(|list| !object::list(&uncounted, &[list]).is_empty());
    if told.changed(&["finished", "uncountedTerminatedPods"]) && finished && left {
        let shown = internal::shown("UncountedTerminatedPods", &uncounted);
        let error = Error::invalid(
            path.child("uncountedTerminatedPods"),
            uncounted,
            "must be empty for finished job",
        );
        errors.push(error.showing(shown));
    }
    let completions = object::number(told.obj, &["spec", "completions"]);
    let completed = object::text(told.obj, &["status", "completedIndexes"]);
    let failed = object::at(told.obj, &["status", "failedIndexes"]).and_then(Value::as_str);
    let per_index = object::at(told.obj, &["spec", "backoffLimitPerIndex"]).is_some();
    let parse = |field: &'static str, given: &str, errors: &mut ErrorList| {
        let Some(completions) = completions else { return };
        if let Err(why) = intervals(given, completions) {
            let detail = format!("error parsing {field}: {why}");
            errors.push(Error::invalid(path.child(field), given, detail));
        }
    };
    if told.changed(&["completedIndexes"]) {
        parse("completedIndexes", completed, errors);
    }
    if told.changed(&["failedIndexes"])
        && let Some(failed) = failed.filter(|_| per_index)
    {
        parse("failedIndexes", failed, errors);
    }
    let indexed = object::text(told.obj, &["spec", "completionMode"]) == INDEXED;
    if told.changed(&["completedIndexes"]) && !completed.is_empty() && !indexed {
        let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.push(Error::invalid(path.child("completedIndexes"), completed, detail));
    }
    let Some(failed) = failed else { return };
    if told.changed(&["failedIndexes"]) && !per_index {
        let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.push(Error::invalid(path.child("failedIndexes"), failed, detail));
    }
    if told.changed(&["failedIndexes", "completedIndexes"])
        && let Some(completions) = completions
        && let Some(index) = overlap(completed, failed, completions)
    {
        let detail = format!("failedIndexes and completedIndexes overlap at index: {index}");
        errors.push(Error::invalid(path.child("failedIndexes"), failed, detail));
    }
}

/// The first index that is in both; intervals that cannot be read are in none.
fn overlap(a: &str, b: &str, completions: i64) -> Option<i64> {
    let read = |text: &str| -> Vec<(i64, i64)> {
        text.split(',').filter_map(|part| interval(part, completions).ok()).collect()
    };
    let (a, b) = (read(a), read(b));
    let pairs = a.iter().flat_map(|a| b.iter().map(move |b| (a, b)));
    pairs.filter(|(a, b)| a.0 <= b.1 && b.0 <= a.1).map(|(a, b)| a.0.max(b.0)).min()
}

fn counts(told: &Told<'_>, path: &Path, errors: &mut ErrorList) {
    if told.changed(&["finished", "terminating"]) && told.number("terminating") > 0 && told.finished() {
        let detail = "terminating>0 is invalid for finished job";
        errors.push(Error::invalid(path.child("terminating"), told.number("terminating"), detail));
    }
    if told.changed(&["ready", "active"]) && told.number("ready") > told.number("active") {
        let detail = "cannot set more ready pods than active";
        errors.push(Error::invalid(path.child("ready"), told.number("ready"), detail));
    }
    let at = path.child("conditions");
    let met = told.has("SuccessCriteriaMet");
    let mut cannot = |detail: &str| {
        errors.push(Error::invalid_unshown(&at, format!("cannot set {detail}")));
    };
    if met && told.has("Failed") {
        cannot("SuccessCriteriaMet=True and Failed=true conditions");
    }
    if met && told.has("FailureTarget") {
        cannot("SuccessCriteriaMet=True and FailureTarget=true conditions");
    }
    if object::at(told.obj, &["spec", "successPolicy"]).is_some() && !met && told.has("Complete") {
        cannot("Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True");
    }
}

/// Ends, counters and times do not go back.
fn one_way(told: &Told<'_>, path: &Path, errors: &mut ErrorList) {
    let at = path.child("conditions");
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if told.had(kind) && !told.has(kind) {
            let detail = format!("cannot disable the terminal {kind}=True condition");
            errors.push(Error::invalid_unshown(&at, detail));
        }
    }
    let before = |field: &str| object::number(told.old, &["status", field]).unwrap_or(0);
    let value = |field: &str| object::at(told.obj, &["spec", field]).cloned();
    let indexed = object::text(told.obj, &["spec", "completionMode"]) == INDEXED;
    let scales = indexed && value("completions") == value("parallelism");
    for field in ["failed", "succeeded"] {
        if told.number(field) < before(field) && !(field == "succeeded" && scales) {
            let detail = format!("cannot decrease the {field} counter");
            errors.push(Error::invalid(path.child(field), told.number(field), detail));
        }
    }
    let both = |field: &str| (Told::value(told.obj, field), Told::value(told.old, field));
    let (end, was) = both("completionTime");
    if !end.is_null() && !was.is_null() && end != was {
        errors.push(Error::invalid(path.child("completionTime"), end, "field is immutable"));
    }
    let (start, was) = both("startTime");
    let resumed = object::list(told.obj, &["status", "conditions"])
        .iter()
        .any(|one| object::text(one, &["type"]) == "Suspended" && object::text(one, &["status"]) == "False");
    let suspended = value("suspend") == Some(Value::Bool(true));
    let may_start = suspended || (told.had("Suspended") && resumed);
    if !was.is_null() && start != was && !may_start {
        let detail = "field is immutable for unsuspended job once set";
        errors.push(Error::invalid(path.child("startTime"), start, detail));
    }
    if told.had("SuccessCriteriaMet") && !told.has("SuccessCriteriaMet") {
        errors.push(Error::invalid_unshown(&at, "cannot disable the SuccessCriteriaMet=True condition"));
    }
    if told.had("Complete") && !told.had("SuccessCriteriaMet") && told.has("SuccessCriteriaMet") {
        let detail = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        errors.push(Error::invalid_unshown(&at, detail));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn joined(errors: &[Error]) -> String {
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn what_ended_stays_ended() {
        let job = |status: Value| json!({"spec": {"completions": 5, "parallelism": 1}, "status": status});
        let of = |status: Value, old: Value| joined(&job_status(&job(status), &job(old)));
        let ended = json!({"conditions": [{"type": "Failed", "status": "True"}, {"type": "FailureTarget", "status": "True"}],
            "startTime": "2026-01-01T00:00:00Z"});
        assert_eq!(of(ended.clone(), json!({"startTime": "2026-01-01T00:00:00Z"})), "");
        assert_eq!(
            of(json!({"startTime": "2026-01-01T00:00:00Z"}), ended),
            "status.conditions: Invalid value: cannot disable the terminal Failed=True condition; \
             status.conditions: Invalid value: cannot disable the terminal FailureTarget=True condition"
        );
        assert_eq!(
            of(json!({"conditions": [{"type": "Complete", "status": "True"}]}), json!({})),
            "status.completionTime: Required value: completionTime is required for Complete jobs; \
             status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition; \
             status.startTime: Required value: startTime is required for finished job"
        );
        assert_eq!(
            of(json!({"succeeded": 1}), json!({"succeeded": 2})),
            "status.succeeded: Invalid value: 1: cannot decrease the succeeded counter"
        );
        assert_eq!(
            of(json!({"ready": 2, "active": 1}), json!({})),
            "status.ready: Invalid value: 2: cannot set more ready pods than active"
        );
    }
}
