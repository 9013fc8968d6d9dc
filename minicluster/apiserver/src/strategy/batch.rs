//! Job and CronJob.
//!
//! Source: `pkg/apis/batch/v1/defaults.go`, `pkg/registry/batch/job/strategy.go`, `pkg/apis/batch/validation`.

mod checks;
mod status;
mod update;

use serde_json::{Value, json};
use windlass_crd::{field::ErrorList, name};

pub(super) use self::checks::domain_prefixed_path;
use super::{Column, Part, Strategy, apps::default_template, columns, pod_defaults, warnings};
use crate::{object, table};

/// Job.
pub(crate) struct Job;
/// CronJob.
pub(crate) struct CronJob;

const INDEXED: &str = "Indexed";

/// What a failure policy asks of a condition is that it holds.
fn default_failure_policy(spec: &mut Value) {
    let Some(policy) = spec.get_mut("podFailurePolicy") else { return };
    for rule in pod_defaults::items(policy, "rules") {
        for pattern in pod_defaults::items(rule, "onPodConditions") {
            if object::text(pattern, &["status"]).is_empty() {
                object::set(pattern, &["status"], "True");
            }
        }
    }
}

/// Completes the spec of a Job; the template of one is left as it is, but for its failure policy.
fn default_spec(spec: &mut Value) {
    let absent = |spec: &Value, field: &str| object::at(spec, &[field]).is_none();
    if absent(spec, "completions") && absent(spec, "parallelism") {
        object::set(spec, &["completions"], 1);
        object::set(spec, &["parallelism"], 1);
    }
    if absent(spec, "parallelism") {
        object::set(spec, &["parallelism"], 1);
    }
    if absent(spec, "backoffLimit") {
        let per_index = object::at(spec, &["backoffLimitPerIndex"]).is_some();
        object::set(spec, &["backoffLimit"], if per_index { i64::from(i32::MAX) } else { 6 });
    }
    if absent(spec, "manualSelector") {
        object::set(spec, &["manualSelector"], false);
    }
    if absent(spec, "completionMode") {
        object::set(spec, &["completionMode"], "NonIndexed");
    }
    if absent(spec, "suspend") {
        object::set(spec, &["suspend"], false);
    }
    if absent(spec, "podReplacementPolicy") {
        let policy = object::at(spec, &["podFailurePolicy"]).is_some();
        object::set(spec, &["podReplacementPolicy"], if policy { "Failed" } else { "TerminatingOrFailed" });
    }
}

impl Strategy for Job {
    fn warnings(&self, obj: &Value) -> Vec<String> {
        warnings::workload(obj)
    }

    fn update_warnings(&self, part: Part, obj: &Value, old: &Value) -> Vec<String> {
        warnings::changed_workload(part, obj, old)
    }

    fn default(&self, obj: &mut Value) {
        default_template(obj);
        if let Some(spec) = obj.get_mut("spec") {
            default_spec(spec);
            default_failure_policy(spec);
        }
        // A Job without labels has those of its pods.
        if object::at(obj, &["metadata", "labels"]).is_none()
            && let Some(labels) = obj.pointer("/spec/template/metadata/labels").cloned()
        {
            object::set(obj, &["metadata", "labels"], labels);
        }
    }

    fn prepare_create(&self, obj: &mut Value) {
        object::set(obj, &["status"], json!({}));
        let manual = object::at(obj, &["spec", "manualSelector"]) == Some(&Value::Bool(true));
        if !manual {
            generate_selector(obj);
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        checks::job(obj)
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value) -> ErrorList {
        match part {
            Part::Main => update::job_update(obj, old),
            Part::Status => status::job_status(obj, old),
            _ => ErrorList::new(),
        }
    }

    fn deletion_warning(&self) -> Option<&'static str> {
        Some(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or \
             set propagationPolicy=Orphan to suppress this warning",
        )
    }

    fn default_propagation(&self) -> &'static str {
        "Orphan"
    }

    fn columns(&self) -> Option<Vec<Column>> {
        let mut out = vec![
            columns::made("Status", job_status),
            columns::made("Completions", completions),
            columns::made("Duration", duration),
            columns::age(),
        ];
        out.extend(columns::template(&["spec", "selector"]));
        Some(out)
    }

    fn fields(&self) -> &'static [(&'static str, fn(&Value) -> String)] {
        &[("status.successful", |o| object::number(o, &["status", "succeeded"]).unwrap_or(0).to_string())]
    }
}

/// A Job finds its pods by labels that carry its own uid.
fn generate_selector(obj: &mut Value) {
    let (name, uid) = (object::name(obj).to_owned(), object::uid(obj).to_owned());
    let labels = [
        ("controller-uid", &uid),
        ("batch.kubernetes.io/controller-uid", &uid),
        ("job-name", &name),
        ("batch.kubernetes.io/job-name", &name),
    ];
    for (key, value) in labels {
        set_if_absent(obj, &["spec", "template", "metadata", "labels", key], value);
    }
    let selector = ["spec", "selector", "matchLabels", "batch.kubernetes.io/controller-uid"];
    set_if_absent(obj, &selector, &uid);
}

/// What a client chose stays, and is refused where it is not what was to be chosen.
fn set_if_absent(obj: &mut Value, path: &[&str], value: &str) {
    if object::at(obj, path).is_none() {
        object::set(obj, path, value);
    }
}

fn condition<'v>(obj: &'v Value, kind: &str) -> Option<&'v Value> {
    let conditions = object::list(obj, &["status", "conditions"]);
    conditions.iter().find(|c| object::text(c, &["type"]) == kind && object::text(c, &["status"]) == "True")
}

fn job_status(obj: &Value) -> String {
    let kinds = ["Complete", "Failed"];
    if let Some(kind) = kinds.into_iter().find(|kind| condition(obj, kind).is_some()) {
        return kind.to_owned();
    }
    if object::is_deleting(obj) {
        return "Terminating".to_owned();
    }
    let kinds = [
        ("Suspended", "Suspended"),
        ("FailureTarget", "FailureTarget"),
        ("SuccessCriteriaMet", "SuccessCriteriaMet"),
    ];
    let found = kinds.into_iter().find(|(kind, _)| condition(obj, kind).is_some());
    found.map_or("Running", |(_, text)| text).to_owned()
}

fn completions(obj: &Value) -> String {
    let done = object::number(obj, &["status", "succeeded"]).unwrap_or(0);
    if let Some(wanted) = object::number(obj, &["spec", "completions"]) {
        return format!("{done}/{wanted}");
    }
    match object::number(obj, &["spec", "parallelism"]).unwrap_or(0) {
        many if many > 1 => format!("{done}/1 of {many}"),
        _ => format!("{done}/1"),
    }
}

fn duration(obj: &Value) -> String {
    let start = object::text(obj, &["status", "startTime"]);
    if start.is_empty() {
        return String::new();
    }
    let ended = match object::text(obj, &["status", "completionTime"]) {
        "" => condition(obj, "Failed").map_or("", |c| object::text(c, &["lastTransitionTime"])),
        time => time,
    };
    match (start.parse::<jiff::Timestamp>(), ended.parse::<jiff::Timestamp>()) {
        (Ok(start), Ok(end)) => table::human_duration(end.as_second() - start.as_second()),
        _ => table::since(start),
    }
}

impl Strategy for CronJob {
    fn warnings(&self, obj: &Value) -> Vec<String> {
        let template = warnings::template(obj, &["spec", "jobTemplate", "spec", "template"]);
        warnings::name(obj, warnings::PODS).into_iter().chain(template).collect()
    }

    fn update_warnings(&self, part: Part, obj: &Value, old: &Value) -> Vec<String> {
        if part != Part::Main {
            return Vec::new();
        }
        let mut out = warnings::changed_template(obj, old, &["spec", "jobTemplate", "spec", "template"]);
        if object::text(obj, &["spec", "schedule"]).contains("TZ") {
            let docs = "https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/";
            out.push(format!(
                "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see {docs} for more details"
            ));
        }
        out
    }

    fn default(&self, obj: &mut Value) {
        if let Some(spec) = obj.pointer_mut("/spec/jobTemplate/spec/template/spec") {
            pod_defaults::spec(spec);
        }
        if let Some(spec) = obj.pointer_mut("/spec/jobTemplate/spec") {
            default_failure_policy(spec);
        }
    }

    fn prepare_create(&self, obj: &mut Value) {
        object::set(obj, &["status"], json!({}));
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        checks::cron_job(obj, None)
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value) -> ErrorList {
        if part == Part::Main { checks::cron_job(obj, Some(old)) } else { ErrorList::new() }
    }

    fn check_name(&self, name: &str) -> Result<(), String> {
        name::dns1123_subdomain(name)
    }

    fn columns(&self) -> Option<Vec<Column>> {
        let last = |obj: &Value| match object::text(obj, &["status", "lastScheduleTime"]) {
            "" => "<none>".to_owned(),
            time => table::since(time),
        };
        let joined = |field: &'static str| {
            move |obj: &Value| {
                let containers =
                    object::list(obj, &["spec", "jobTemplate", "spec", "template", "spec", "containers"]);
                let texts: Vec<&str> = containers.iter().map(|c| object::text(c, &[field])).collect();
                Value::from(texts.join(","))
            }
        };
        let suspend = |obj: &Value| match object::at(obj, &["spec", "suspend"]) {
            Some(Value::Bool(true)) => "True".to_owned(),
            Some(_) => "False".to_owned(),
            None => "<unset>".to_owned(),
        };
        Some(vec![
            columns::text("Schedule", &["spec", "schedule"]),
            columns::text_or_none("Timezone", &["spec", "timeZone"]),
            columns::made("Suspend", suspend).typed("boolean"),
            columns::count("Active", &["status", "active"]),
            columns::made("Last Schedule", last),
            columns::age(),
            Column::new("Containers", joined("name")).wide(),
            Column::new("Images", joined("image")).wide(),
            columns::made("Selector", |o| {
                columns::selector(object::at(o, &["spec", "jobTemplate", "spec", "selector"]))
            })
            .wide(),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_default_and_find_their_pods() {
        let mut job = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {
            "restartPolicy": "Never", "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30,
            "containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}]}}}});
        Job.default(&mut job);
        Job.prepare_create(&mut job);
        assert_eq!(job["spec"]["completions"], 1);
        assert_eq!(job["spec"]["backoffLimit"], 6);
        assert_eq!(
            job["spec"]["selector"],
            json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}})
        );
        assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
        assert_eq!(Job.validate(&job), []);
        job["spec"]["template"]["spec"]["restartPolicy"] = json!("Always");
        let texts: Vec<String> = Job.validate(&job).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            ["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""]
        );
    }
}
