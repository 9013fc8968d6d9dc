//! What is wrong with a Job or a CronJob.
//!
//! Source: `pkg/apis/batch/validation/validation.go`.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use serde_json::Value;
use windlass_crd::{
    field::{self, Error, ErrorList, Path},
    name,
    schedule::Schedule,
    selector::{LabelSelector, validate_label_selector},
};

use super::{
    super::{
        apps::checks::matches_template,
        internal,
        pod_spec::{not_negative, one_of, one_of_required, told},
        template,
    },
    INDEXED,
};
use crate::object;

const PARALLELISM_MAX: i64 = 100_000;
const FAILED_INDEXES_MAX: i64 = 100_000;
const COMPLETIONS_SOFT_MAX: i64 = 100_000;
const WITH_MANY_COMPLETIONS_MAX: i64 = 10_000;
const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const MANAGED_BY_MAX: usize = 63;
const INDEXES_MAX: usize = 64 << 10;

pub(super) fn spec_of(obj: &Value) -> &Value {
    obj.get("spec").unwrap_or(&Value::Null)
}

/// A Job.
pub(super) fn job(obj: &Value) -> ErrorList {
    let path = field::root("spec");
    let mut errors = ErrorList::new();
    generated_selector(obj, &mut errors);
    whole_spec(spec_of(obj), &path, &mut errors);
    let completions = object::number(obj, &["spec", "completions"]).unwrap_or(0);
    if object::text(obj, &["spec", "completionMode"]) == INDEXED && completions > 0 {
        let last = format!("{}-{}", object::name(obj), completions - 1);
        if !name::dns1123_label_faults(&last).is_empty() {
            let detail = format!("will not able to create pod with invalid DNS label: {last}");
            errors.push(Error::invalid(field::root("metadata").child("name"), object::name(obj), detail));
        }
    }
    errors
}

/// The labels by which a Job finds its pods, when it did not choose them.
fn generated_selector(obj: &Value, errors: &mut ErrorList) {
    let manual = object::at(obj, &["spec", "manualSelector"]) == Some(&Value::Bool(true));
    let Some(selector) = object::at(obj, &["spec", "selector"]).filter(|_| !manual) else { return };
    let (uid, given) = (object::uid(obj), object::name(obj));
    let labels = [
        ("controller-uid", uid),
        ("job-name", given),
        ("batch.kubernetes.io/controller-uid", uid),
        ("batch.kubernetes.io/job-name", given),
    ];
    let path = field::root("spec").child("template").child("metadata").child("labels");
    let all = object::at(obj, &["spec", "template", "metadata", "labels"]).unwrap_or(&Value::Null);
    for (key, value) in labels {
        let detail = format!("must be '{value}'");
        match all.get(key).and_then(Value::as_str) {
            None => errors.push(Error::required(path.key(key), detail)),
            Some(there) if there != value => {
                errors.push(Error::invalid(path.key(key), all.clone(), detail));
            }
            Some(_) => {}
        }
    }
    let expected = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    if LabelSelector::from_json(Some(selector)).is_ok_and(|selector| !selector.matches(&expected)) {
        let at = field::root("spec").child("selector");
        errors.push(internal::invalid(&at, "LabelSelector", selector, "`selector` not auto-generated"));
    }
}

/// The spec of a Job itself: it has a selector.
pub(super) fn whole_spec(spec: &Value, path: &Path, errors: &mut ErrorList) {
    parts(spec, path, errors);
    let at = path.child("selector");
    let selector = object::at(spec, &["selector"]);
    match selector {
        None => errors.push(Error::required(&at, "")),
        Some(selector) => errors.extend(validate_label_selector(selector, &at)),
    }
    let parsed = match selector {
        None => Ok(LabelSelector::nothing()),
        some => LabelSelector::from_json(some),
    };
    if let Ok(parsed) = parsed {
        matches_template(spec, &parsed, &path.child("template"), errors);
    }
}

/// What a Job and the template of one have in common.
fn parts(spec: &Value, path: &Path, errors: &mut ErrorList) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        not_negative(spec, field, path, errors);
    }
    let set = |field: &str| object::at(spec, &[field]).is_some();
    if set("maxFailedIndexes") && !set("backoffLimitPerIndex") {
        errors
            .push(Error::required(path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"));
    }
    if let Some(given) = object::at(spec, &["managedBy"]).and_then(Value::as_str) {
        let at = path.child("managedBy");
        domain_prefixed_path(given, &at, errors);
        if given.len() > MANAGED_BY_MAX {
            errors.push(Error::too_long(at, MANAGED_BY_MAX));
        }
    }
    one_of(spec, "completionMode", &["NonIndexed", INDEXED], path, errors);
    let mode = object::text(spec, &["completionMode"]);
    if mode == INDEXED {
        indexed(spec, path, errors);
    }
    if matches!(mode, "" | "NonIndexed") {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(number) = object::number(spec, &[field]) {
                errors.push(Error::invalid(path.child(field), number, "requires indexed completion mode"));
            }
        }
    }
    if let Some(policy) = object::at(spec, &["podFailurePolicy"]) {
        failure_policy(spec, policy, &path.child("podFailurePolicy").child("rules"), errors);
    }
    if let Some(policy) = object::at(spec, &["successPolicy"]) {
        let at = path.child("successPolicy");
        if mode == INDEXED {
            success_policy(spec, policy, &at.child("rules"), errors);
        } else {
            let detail = "requires indexed completion mode";
            errors.push(internal::invalid(&at, "SuccessPolicy", policy, detail));
        }
    }
    let policies: &[&str] =
        if set("podFailurePolicy") { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    one_of(spec, "podReplacementPolicy", policies, path, errors);
    template::validate(spec, "template", path, errors);
    let restart =
        object::at(spec, &["template", "spec"]).map_or("", |pod| object::text(pod, &["restartPolicy"]));
    let at = path.child("template").child("spec").child("restartPolicy");
    match restart {
        "" | "Always" => errors.push(Error::required(at, "valid values: \"OnFailure\", \"Never\"")),
        "Never" => {}
        "OnFailure" if set("podFailurePolicy") => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.push(Error::invalid(at, restart, detail));
        }
        "OnFailure" => {}
        other => errors.push(Error::not_supported(at, other, &["OnFailure", "Never"])),
    }
}

/// `example.com/path`.
pub(in super::super) fn domain_prefixed_path(given: &str, path: &Path, errors: &mut ErrorList) {
    const FORM: &str = "must be a domain-prefixed path (such as \"acme.io/foo\")";
    if given.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    let Some((host, rest)) =
        given.split_once('/').filter(|(host, rest)| !host.is_empty() && !rest.is_empty())
    else {
        errors.push(Error::invalid(path, given, FORM));
        return;
    };
    told(name::dns1123_subdomain_faults(host), path, host, errors);
    let good = rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b));
    if !good {
        let why = name::regex_error("Invalid path", r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", &[]);
        errors.push(Error::invalid(path, rest, why));
    }
}

fn indexed(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let number = |field: &str| object::number(spec, &[field]);
    let (completions, parallelism, failed) =
        (number("completions"), number("parallelism"), number("maxFailedIndexes"));
    let most = |field: &'static str, given: i64, most: i64, when: &str| {
        let detail = format!("must be less than or equal to {most}{when}");
        Error::invalid(path.child(field), given, detail)
    };
    if completions.is_none() {
        errors.push(Error::required(path.child("completions"), "when completion mode is Indexed"));
    }
    if let Some(given) = parallelism.filter(|given| *given > PARALLELISM_MAX) {
        errors.push(most("parallelism", given, PARALLELISM_MAX, " when completion mode is Indexed"));
    }
    if let (Some(completions), Some(failed)) = (completions, failed)
        && failed > completions
    {
        let detail = "must be less than or equal to completions";
        errors.push(Error::invalid(path.child("maxFailedIndexes"), failed, detail));
    }
    if let Some(given) = failed.filter(|given| *given > FAILED_INDEXES_MAX) {
        errors.push(most("maxFailedIndexes", given, FAILED_INDEXES_MAX, ""));
    }
    if completions.is_none_or(|given| given <= COMPLETIONS_SOFT_MAX)
        || number("backoffLimitPerIndex").is_none()
    {
        return;
    }
    if failed.is_none() {
        let detail = format!("must be specified when completions is above {COMPLETIONS_SOFT_MAX}");
        errors.push(Error::required(path.child("maxFailedIndexes"), detail));
    }
    let when =
        format!(" when completions are above {COMPLETIONS_SOFT_MAX} and used with backoff limit per index");
    for (field, given) in [("parallelism", parallelism), ("maxFailedIndexes", failed)] {
        if let Some(given) = given.filter(|given| *given > WITH_MANY_COMPLETIONS_MAX) {
            errors.push(most(field, given, WITH_MANY_COMPLETIONS_MAX, &when));
        }
    }
}

/// A value that must be there, one of these, as a list of Go's.
fn listed(given: &str, allowed: &[&str], path: &Path, errors: &mut ErrorList) {
    if given.is_empty() {
        let quoted: Vec<String> = allowed.iter().map(|one| format!("\"{one}\"")).collect();
        errors.push(Error::required(path, format!("valid values: [{}]", quoted.join(" "))));
    } else if !allowed.contains(&given) {
        errors.push(Error::not_supported(path, given, allowed));
    }
}

fn failure_policy(spec: &Value, policy: &Value, path: &Path, errors: &mut ErrorList) {
    const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
    let rules = object::list(policy, &["rules"]);
    if rules.len() > RULES_MAX {
        errors.push(Error::too_many(path, rules.len(), RULES_MAX));
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = path.index(i);
        let action = object::text(rule, &["action"]);
        if action == "FailIndex" {
            if object::at(spec, &["backoffLimitPerIndex"]).is_none() {
                let detail = "requires the backoffLimitPerIndex to be set";
                errors.push(Error::invalid(at.child("action"), action, detail));
            }
        } else {
            listed(action, &ACTIONS, &at.child("action"), errors);
        }
        let codes = object::at(rule, &["onExitCodes"]);
        if let Some(codes) = codes {
            exit_codes(spec, codes, &at.child("onExitCodes"), errors);
        }
        let patterns = object::list(rule, &["onPodConditions"]);
        pod_conditions(patterns, &at.child("onPodConditions"), errors);
        let detail = match (codes.is_some(), patterns.is_empty()) {
            (true, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
            (false, true) => "specifying one of OnExitCodes and OnPodConditions is required",
            _ => continue,
        };
        errors.push(Error::invalid_unshown(&at, detail));
    }
}

fn pod_conditions(patterns: &[Value], path: &Path, errors: &mut ErrorList) {
    if patterns.len() > RULES_MAX {
        errors.push(Error::too_many(path, patterns.len(), RULES_MAX));
    }
    for (i, pattern) in patterns.iter().enumerate() {
        let kind = object::text(pattern, &["type"]);
        told(name::qualified_name_faults(kind), &path.index(i).child("type"), kind, errors);
        let status = object::text(pattern, &["status"]);
        listed(status, &["False", "True", "Unknown"], &path.index(i).child("status"), errors);
    }
}

fn exit_codes(spec: &Value, codes: &Value, path: &Path, errors: &mut ErrorList) {
    let operator = object::text(codes, &["operator"]);
    listed(operator, &["In", "NotIn"], &path.child("operator"), errors);
    let known = |given: &str| {
        ["containers", "initContainers"]
            .iter()
            .flat_map(|list| object::list(spec, &["template", "spec", list]))
            .any(|container| object::text(container, &["name"]) == given)
    };
    if let Some(given) = object::at(codes, &["containerName"]).and_then(Value::as_str)
        && !known(given)
    {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.push(Error::invalid(path.child("containerName"), given, detail));
    }
    let at = path.child("values");
    let given = object::at(codes, &["values"]).cloned().unwrap_or_default();
    let values: Vec<i64> = object::list(codes, &["values"]).iter().filter_map(Value::as_i64).collect();
    if values.is_empty() {
        errors.push(Error::invalid(&at, given.clone(), "at least one value is required"));
    } else if values.len() > EXIT_CODES_MAX {
        errors.push(Error::too_many(&at, values.len(), EXIT_CODES_MAX));
    }
    let mut seen = BTreeSet::new();
    for (i, value) in values.iter().enumerate() {
        if operator == "In" && *value == 0 {
            errors.push(Error::invalid(at.index(i), *value, "must not be 0 for the In operator"));
        }
        if !seen.insert(*value) {
            errors.push(Error::duplicate(at.index(i), *value));
        }
    }
    if !values.is_sorted() {
        errors.push(Error::invalid(&at, given, "must be ordered"));
    }
}

fn success_policy(spec: &Value, policy: &Value, path: &Path, errors: &mut ErrorList) {
    let rules = object::list(policy, &["rules"]);
    if rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errors.push(Error::required(path, detail));
    }
    if rules.len() > RULES_MAX {
        errors.push(Error::too_many(path, rules.len(), RULES_MAX));
    }
    let completions = object::number(spec, &["completions"]).unwrap_or(0);
    for (i, rule) in rules.iter().enumerate() {
        let at = path.index(i);
        let indexes = object::at(rule, &["succeededIndexes"]).and_then(Value::as_str);
        let count = object::number(rule, &["succeededCount"]);
        if indexes.is_none() && count.is_none() {
            let detail = "at least one of succeededCount or succeededIndexes must be specified";
            errors.push(Error::required(&at, detail));
        }
        let mut total = 0;
        if let Some(indexes) = indexes {
            let at = at.child("succeededIndexes");
            if indexes.len() > INDEXES_MAX {
                errors.push(Error::too_long(&at, INDEXES_MAX));
            }
            match intervals(indexes, completions) {
                Ok(found) => total = found.iter().map(|(from, to)| to - from + 1).sum(),
                Err(why) => {
                    let detail = format!("error parsing succeededIndexes: {why}");
                    errors.push(Error::invalid(&at, indexes, detail));
                }
            }
        }
        let Some(count) = count else { continue };
        not_negative(rule, "succeededCount", &at, errors);
        let at = at.child("succeededCount");
        if count > completions {
            let detail =
                format!("must be less than or equal to {completions} (the number of specified completions)");
            errors.push(Error::invalid(&at, count, detail));
        }
        if indexes.is_some() && count > total {
            let detail = format!(
                "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            );
            errors.push(Error::invalid(&at, count, detail));
        }
    }
}

/// `0,2-4`: intervals of indexes below `completions`, one after another.
pub(super) fn intervals(text: &str, completions: i64) -> Result<Vec<(i64, i64)>, String> {
    let mut found: Vec<(i64, i64)> = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (from, to) = interval(part, completions)?;
        if let Some((_, last)) = found.last().filter(|(_, last)| *last >= from) {
            return Err(format!("non-increasing order, previous: {last}, current: {from}"));
        }
        found.push((from, to));
    }
    Ok(found)
}

pub(super) fn interval(part: &str, completions: i64) -> Result<(i64, i64), String> {
    let index = |text: &str| -> Result<i64, String> {
        let number: i64 =
            text.parse().map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
        if number >= completions { Err(format!("too large index: {text:?}")) } else { Ok(number) }
    };
    match part.split('-').collect::<Vec<_>>()[..] {
        [one] => index(one).map(|one| (one, one)),
        [from, to] => {
            let (from, to) = (index(from)?, index(to)?);
            if from >= to {
                return Err(format!("non-increasing order, previous: {from}, current: {to}"));
            }
            Ok((from, to))
        }
        _ => Err(format!(
            "the fragment {part:?} violates the requirement that an index interval can have at most two parts separated \
             by '-'"
        )),
    }
}

/// A CronJob, given what stood in its place.
pub(super) fn cron_job(obj: &Value, old: Option<&Value>) -> ErrorList {
    let path = field::root("spec");
    let spec = spec_of(obj);
    let mut errors = ErrorList::new();
    let schedule = object::text(spec, &["schedule"]);
    let at = path.child("schedule");
    let zone = object::at(spec, &["timeZone"]).and_then(Value::as_str);
    if schedule.is_empty() {
        errors.push(Error::required(at, ""));
    } else {
        if let Err(why) = Schedule::parse(schedule, &TimeZone::UTC) {
            errors.push(Error::invalid(&at, schedule, why));
        }
        let zoned_before = old.is_some_and(|old| object::text(old, &["spec", "schedule"]).contains("TZ"));
        if schedule.contains("TZ") && (!zoned_before || zone.is_some()) {
            let detail = if zoned_before {
                "cannot use both timeZone field and TZ or CRON_TZ in schedule"
            } else {
                "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
            };
            errors.push(Error::invalid(at, schedule, detail));
        }
    }
    not_negative(spec, "startingDeadlineSeconds", &path, &mut errors);
    let before = old.and_then(|old| object::at(old, &["spec", "timeZone"])).and_then(Value::as_str);
    if let Some(zone) = zone.filter(|zone| old.is_none() || before != Some(*zone)) {
        told(zone_faults(zone), &path.child("timeZone"), zone, &mut errors);
    }
    one_of_required(spec, "concurrencyPolicy", &["Allow", "Forbid", "Replace"], &path, &mut errors);
    let at = path.child("jobTemplate").child("spec");
    let job = object::at(spec, &["jobTemplate", "spec"]).unwrap_or(&Value::Null);
    parts(job, &at, &mut errors);
    if let Some(selector) = object::at(job, &["selector"]) {
        let detail = "`selector` will be auto-generated";
        errors.push(internal::invalid(&at.child("selector"), "LabelSelector", selector, detail));
    }
    if object::at(job, &["manualSelector"]) == Some(&Value::Bool(true)) {
        errors.push(Error::not_supported(at.child("manualSelector"), true, &["nil", "false"]));
    }
    not_negative(spec, "successfulJobsHistoryLimit", &path, &mut errors);
    not_negative(spec, "failedJobsHistoryLimit", &path, &mut errors);
    let given = object::name(obj);
    if old.is_none() && given.len() > 52 {
        let detail = "must be no more than 52 characters";
        errors.push(Error::invalid(field::root("metadata").child("name"), given, detail));
    }
    errors
}

fn zone_faults(zone: &str) -> Vec<String> {
    const PART_MAX: usize = 14;
    if zone.is_empty() {
        return vec!["timeZone must be nil or non-empty string".to_owned()];
    }
    let odd = |part: &str| {
        let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+');
        matches!(part, "." | "..")
            || part.starts_with('-')
            || !(1..=PART_MAX).contains(&part.len())
            || !part.bytes().all(word)
    };
    let unknown = format!("unknown time zone {zone}");
    if zone.split('/').any(odd) {
        return vec![unknown];
    }
    if zone.eq_ignore_ascii_case("Local") {
        return vec![
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones".to_owned(),
        ];
    }
    match TimeZone::get(zone) {
        Ok(_) => Vec::new(),
        Err(_) => vec![unknown],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn joined(errors: &[Error]) -> String {
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    fn spec(more: &Value) -> Value {
        let mut spec = json!({"template": {"spec": {"restartPolicy": "Never", "dnsPolicy": "Default",
            "terminationGracePeriodSeconds": 30,
            "containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}]}}});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        spec
    }

    /// A good Job with these fields, and what is said about it. Cases of upstream's `TestValidateJob`.
    #[test]
    fn jobs_say_what_is_wrong() {
        let rules =
            |rule: Value| json!({"podFailurePolicy": {"rules": [rule]}, "podReplacementPolicy": "Failed"});
        let indexed = |more: Value| {
            let mut spec = json!({"completionMode": "Indexed", "completions": 5, "parallelism": 1});
            for (key, value) in more.as_object().unwrap() {
                spec[key] = value.clone();
            }
            spec
        };
        let cases = [
            (json!({}), ""),
            (
                json!({"completionMode": "Indexed"}),
                "s.completions: Required value: when completion mode is Indexed",
            ),
            (
                json!({"maxFailedIndexes": 1}),
                "s.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified; s.maxFailedIndexes: Invalid value: 1: requires indexed completion mode",
            ),
            (
                indexed(json!({"maxFailedIndexes": 6, "backoffLimitPerIndex": 1})),
                "s.maxFailedIndexes: Invalid value: 6: must be less than or equal to completions",
            ),
            (
                json!({"managedBy": "x"}),
                "s.managedBy: Invalid value: \"x\": must be a domain-prefixed path (such as \"acme.io/foo\")",
            ),
            (
                json!({"podReplacementPolicy": "X"}),
                "s.podReplacementPolicy: Unsupported value: \"X\": supported values: \"Failed\", \"TerminatingOrFailed\"",
            ),
            (
                rules(json!({"action": "Ignore"})),
                "s.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
            ),
            (
                rules(json!({"onExitCodes": {"operator": "In", "values": [2, 1, 1, 0]}})),
                "s.podFailurePolicy.rules[0].action: Required value: valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]; \
                 s.podFailurePolicy.rules[0].onExitCodes.values[2]: Duplicate value: 1; \
                 s.podFailurePolicy.rules[0].onExitCodes.values[3]: Invalid value: 0: must not be 0 for the In operator; \
                 s.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [2,1,1,0]: must be ordered",
            ),
            (
                indexed(json!({"successPolicy": {"rules": [{"succeededIndexes": "1-7"}]}})),
                "s.successPolicy.rules[0].succeededIndexes: Invalid value: \"1-7\": error parsing succeededIndexes: too large index: \"7\"",
            ),
            (
                indexed(
                    json!({"successPolicy": {"rules": [{"succeededIndexes": "1,3-4", "succeededCount": 4}]}}),
                ),
                "s.successPolicy.rules[0].succeededCount: Invalid value: 4: must be less than or equal to 3 (the number of indexes in the specified succeededIndexes field)",
            ),
        ];
        for (more, expected) in cases {
            let mut errors = ErrorList::new();
            parts(&spec(&more), &field::root("s"), &mut errors);
            assert_eq!(joined(&errors), expected, "{more}");
        }
    }

    #[test]
    fn cron_jobs_say_what_is_wrong() {
        let cron = |more: Value| {
            let mut cron = json!({"schedule": "* * * * *", "concurrencyPolicy": "Allow", "jobTemplate": {"spec": spec(&json!({}))}});
            for (key, value) in more.as_object().unwrap() {
                cron[key] = value.clone();
            }
            joined(&cron_job(&json!({"metadata": {"name": "c"}, "spec": cron}), None))
        };
        assert_eq!(cron(json!({"timeZone": "Europe/Berlin"})), "");
        assert_eq!(cron(json!({"schedule": "@every 1h"})), "");
        for (schedule, why) in [
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("@every day", "failed to parse duration @every day: time: invalid duration \"day\""),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
        ] {
            let expected = format!("spec.schedule: Invalid value: {schedule:?}: {why}");
            assert_eq!(cron(json!({"schedule": schedule})), expected);
        }
        assert_eq!(
            cron(json!({"timeZone": "No/Where"})),
            "spec.timeZone: Invalid value: \"No/Where\": unknown time zone No/Where"
        );
        assert_eq!(cron(json!({"concurrencyPolicy": ""})), "spec.concurrencyPolicy: Required value");
        assert_eq!(
            cron(json!({"jobTemplate": {"spec": spec(&json!({"manualSelector": true}))}})),
            "spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: \"nil\", \"false\""
        );
    }
}
