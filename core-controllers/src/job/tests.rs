//! Tables of decisions: a Job and its pods, each a line of text, and what is done about them.

use std::sync::Arc;

use k8s_openapi::api::{
    batch::v1::{Job, JobStatus},
    core::v1::Pod,
};
use serde_json::{Value, json};

use super::{backoff::Failures, facts, plan, policy, track, verdict, view::View};
use crate::testing::{at, pod};

/// A Job such as `completions=3 parallelism=2 indexed perindex=1`; what is not a number or a known word is refused.
fn job(text: &str) -> Job {
    let mut spec =
        json!({"parallelism": 1, "backoffLimit": 6, "template": {"spec": {"containers": [{"name": "c"}]}}});
    let mut status = json!({"startTime": "1970-01-01T00:00:00Z"});
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let number = || json!(value.parse::<i32>().unwrap());
        match key {
            "completions" | "parallelism" => spec[key] = number(),
            "limit" => spec["backoffLimit"] = number(),
            "perindex" => spec["backoffLimitPerIndex"] = number(),
            "maxfailed" => spec["maxFailedIndexes"] = number(),
            "deadline" => spec["activeDeadlineSeconds"] = number(),
            "indexed" => spec["completionMode"] = json!("Indexed"),
            "suspend" => spec["suspend"] = json!(true),
            "onlyfailed" => spec["podReplacementPolicy"] = json!("Failed"),
            "onfailure" => spec["template"]["spec"]["restartPolicy"] = json!("OnFailure"),
            "succeeded" | "failed" => status[key] = number(),
            "completed" => status["completedIndexes"] = json!(value),
            "failedindexes" => status["failedIndexes"] = json!(value),
            "noted" => status["uncountedTerminatedPods"] = json!({"failed": [value]}),
            other => panic!("{other}"),
        }
    }
    let metadata = json!({"name": "j", "namespace": "default", "uid": "uid-j"});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).unwrap()
}

/// A pod such as `a failed i=2 f=1 exit=42`: its name and state, index, earlier failures of the index, exit code of its
/// container. It is tracked unless it says `counted`.
fn member(text: &str) -> Arc<Pod> {
    let mut member = pod(text);
    let mut take = |key: &str| member.metadata.labels.as_mut().and_then(|labels| labels.remove(key));
    let (index, failures, exit, counted) = (take("i"), take("f"), take("exit"), take("counted"));
    let annotations = member.metadata.annotations.get_or_insert_default();
    annotations.extend(index.map(|index| (facts::INDEX.to_owned(), index)));
    annotations.extend(failures.map(|failures| (facts::FAILURES.to_owned(), failures)));
    if counted.is_none() {
        member.metadata.finalizers = Some(vec![facts::FINALIZER.to_owned()]);
    }
    if let Some(code) = exit {
        let state = json!({"terminated": {"exitCode": code.parse::<i32>().unwrap()}});
        let container = json!({"name": "c", "state": state, "image": "", "imageID": "", "ready": false, "restartCount": 0});
        member.status.as_mut().unwrap().container_statuses =
            serde_json::from_value(json!([container])).unwrap();
    }
    Arc::new(member)
}

fn members(texts: &[&str]) -> Vec<Arc<Pod>> {
    texts.iter().map(|text| member(text)).collect()
}

fn name(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

/// What happens to a Job at second 1000: the end that is certain, or the pods that go and come.
fn decided(job: &Job, pods: &[&str]) -> String {
    let pods = members(pods);
    let view = View::new(job, &pods, Failures::default(), at(1000));
    if let Some(end) = verdict::end(&view) {
        return format!("{}: {}", end.type_, end.reason.unwrap());
    }
    let plan = plan::plan(&view);
    if plan == plan::Plan::default()
        && let Some(end) = verdict::success(&view, super::view::number(view.active.len()))
    {
        return format!("{}: {}", end.type_, end.reason.unwrap());
    }
    let gone: Vec<String> = plan.delete.iter().map(|pod| name(pod)).collect();
    let wait = plan.wait.map(|wait| format!(", wait {}", wait.as_secs())).unwrap_or_default();
    match (plan.create.as_slice(), gone.is_empty()) {
        ([], true) => format!("nothing{wait}"),
        ([], false) => format!("delete {}{wait}", gone.join(" ")),
        (create, _) if create[0].is_some() => {
            format!("create {:?}{wait}", create.iter().flatten().collect::<Vec<_>>())
        }
        (create, _) => format!("create {}{wait}", create.len()),
    }
}

#[test]
fn pods_are_made_up_to_what_is_asked_for() {
    let cases: &[(&str, &[&str], &str)] = &[
        ("completions=3 parallelism=2", &[], "create 2"),
        ("completions=3 parallelism=2", &["a running"], "create 1"),
        ("completions=3 parallelism=2", &["a running", "b running"], "nothing"),
        ("completions=3 parallelism=2", &["a running", "b running", "c pending"], "delete c"),
        ("completions=3 parallelism=2 succeeded=2", &[], "create 1"),
        ("completions=3 parallelism=2", &["a succeeded", "b succeeded"], "create 1"),
        ("completions=3 parallelism=2", &["a succeeded counted", "b succeeded"], "create 2"),
        ("completions=3 parallelism=2 succeeded=2", &["a running", "b ready"], "delete a"),
        ("completions=2 succeeded=2", &[], "SuccessCriteriaMet: CompletionsReached"),
        ("completions=2 succeeded=1", &["a succeeded"], "SuccessCriteriaMet: CompletionsReached"),
        ("completions=0", &[], "SuccessCriteriaMet: CompletionsReached"),
        ("completions=3 parallelism=0", &["a running"], "delete a"),
        // Without completions, the first success ends it, once the others have ended by themselves.
        ("parallelism=3", &["a running"], "create 2"),
        ("parallelism=3", &["a succeeded", "b running"], "nothing"),
        ("parallelism=3", &["a succeeded"], "SuccessCriteriaMet: CompletionsReached"),
        ("completions=3 parallelism=3 suspend", &["a running", "b ready"], "delete a b"),
        // A pod on its way out is replaced at once, or only when it has failed.
        ("completions=1", &["a running going created=900"], "create 1"),
        ("completions=1 onlyfailed", &["a running going created=900"], "nothing"),
        ("completions=1 onlyfailed", &["a failed going created=900"], "create 1"),
    ];
    for (text, pods, expected) in cases {
        assert_eq!(decided(&job(text), pods), *expected, "{text} {pods:?}");
    }
}

#[test]
fn failures_are_retried_later_and_not_for_ever() {
    let cases: &[(&str, &[&str], &str)] = &[
        ("completions=1", &["a failed created=995"], "nothing, wait 5"),
        ("completions=1", &["a failed created=990"], "create 1"),
        ("completions=1", &["a failed created=990", "b failed created=985"], "nothing, wait 10"),
        ("completions=1 failed=6", &["a failed created=0"], "FailureTarget: BackoffLimitExceeded"),
        ("completions=1 limit=0", &["a failed created=0"], "FailureTarget: BackoffLimitExceeded"),
        ("completions=1 limit=1", &["a failed created=0"], "create 1"),
        ("completions=1 limit=0 noted=uid-a", &["a failed created=0"], "FailureTarget: BackoffLimitExceeded"),
        ("completions=1 limit=1 noted=uid-a", &["a failed created=0"], "create 1"),
        ("completions=1 limit=2 onfailure", &["a running restarts=2"], "FailureTarget: BackoffLimitExceeded"),
        ("completions=1 limit=2", &["a running restarts=2"], "nothing"),
        ("completions=1 deadline=1000", &["a running"], "FailureTarget: DeadlineExceeded"),
        ("completions=1 deadline=1001", &["a running"], "nothing"),
        ("completions=1 deadline=1000 suspend", &[], "nothing"),
    ];
    for (text, pods, expected) in cases {
        assert_eq!(decided(&job(text), pods), *expected, "{text} {pods:?}");
    }
}

#[test]
fn every_index_has_one_pod_until_it_has_succeeded() {
    let cases: &[(&str, &[&str], &str)] = &[
        ("completions=5 parallelism=3", &[], "create [0, 1, 2]"),
        ("completions=5 parallelism=3 completed=0,2-3", &["a running i=1"], "create [4]"),
        ("completions=5 parallelism=3", &["a running i=0", "b succeeded i=1"], "create [2, 3]"),
        (
            "completions=5 parallelism=5",
            &["a ready i=0", "b running i=0", "c running", "d running i=7"],
            "delete c d b",
        ),
        ("completions=2 parallelism=2 completed=0,1", &[], "SuccessCriteriaMet: CompletionsReached"),
        (
            "completions=2 parallelism=2 completed=0",
            &["a succeeded i=1"],
            "SuccessCriteriaMet: CompletionsReached",
        ),
        ("completions=2 parallelism=2 onlyfailed", &["a running going i=0"], "create [1]"),
        ("completions=2 parallelism=2", &["a failed i=0 created=995"], "nothing, wait 5"),
    ];
    for (text, pods, expected) in cases {
        assert_eq!(decided(&job(&format!("{text} indexed")), pods), *expected, "{text} {pods:?}");
    }
}

#[test]
fn an_index_may_fail_alone() {
    let cases: &[(&str, &[&str], &str)] = &[
        ("", &["a failed i=0 created=0"], "create [0, 1]"),
        ("", &["a failed i=0 created=995"], "create [1], wait 5"),
        ("", &["a failed i=0 f=1 created=0"], "create [1]"),
        ("failedindexes=0", &[], "create [1]"),
        ("failedindexes=0 completed=1", &[], "FailureTarget: FailedIndexes"),
        ("completed=1", &["a failed i=0 f=1 created=0"], "FailureTarget: FailedIndexes"),
        ("maxfailed=0", &["a failed i=0 f=1 created=0"], "FailureTarget: MaxFailedIndexesExceeded"),
        ("maxfailed=1", &["a failed i=0 f=1 created=0"], "create [1]"),
    ];
    for (text, pods, expected) in cases {
        let job = job(&format!("completions=2 parallelism=2 indexed perindex=1 limit=99 {text}"));
        assert_eq!(decided(&job, pods), *expected, "{text} {pods:?}");
    }
}

fn with(mut job: Job, field: &str, policy: Value) -> Job {
    let mut spec = json!(job.spec);
    spec[field] = policy;
    job.spec = serde_json::from_value(spec).unwrap();
    job
}

#[test]
fn the_policy_says_what_a_failure_means() {
    let rules = json!({"rules": [
        {"action": "FailJob", "onExitCodes": {"containerName": "c", "operator": "In", "values": [42]}},
        {"action": "FailJob", "onExitCodes": {"containerName": "other", "operator": "NotIn", "values": [42]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [7, 8]}},
        {"action": "Count", "onExitCodes": {"operator": "NotIn", "values": [9]}},
    ]});
    let job = with(job("completions=2 parallelism=2 indexed perindex=5 limit=0"), "podFailurePolicy", rules);
    let says = |text: &str| policy::failure(&job, &member(text));
    let message = "Container c for pod default/a failed with exit code 42 matching FailJob rule at index 0";
    assert_eq!(says("a failed exit=42"), policy::Failure::FailJob(message.to_owned()));
    assert_eq!(says("a failed exit=7"), policy::Failure::FailIndex);
    assert_eq!(says("a failed exit=1"), policy::Failure::Count);
    assert_eq!(says("a failed exit=9"), policy::Failure::Plain);
    assert_eq!(says("a failed exit=0"), policy::Failure::Plain);
    let mut disrupted = Pod::clone(&member("a failed exit=9"));
    disrupted.status.as_mut().unwrap().conditions =
        serde_json::from_value(json!([{"type": "DisruptionTarget", "status": "True"}])).unwrap();
    assert_eq!(policy::failure(&job, &disrupted), policy::Failure::Ignore);

    assert_eq!(decided(&job, &["a failed i=0 exit=42"]), "FailureTarget: PodFailurePolicy");
    assert_eq!(decided(&job, &["a failed i=0 exit=1"]), "FailureTarget: BackoffLimitExceeded");
    let pods = vec![Arc::new(disrupted)];
    let view = View::new(&job, &pods, Failures::default(), at(1000));
    assert_eq!((view.failed, verdict::end(&view)), (0, None), "what is ignored does not count");
}

#[test]
fn enough_indexes_are_a_success() {
    let policy =
        json!({"rules": [{"succeededIndexes": "0,2-3", "succeededCount": 2}, {"succeededCount": 4}]});
    let job = |completed: &str| {
        with(
            job(&format!("completions=9 parallelism=1 indexed completed={completed}")),
            "successPolicy",
            policy.clone(),
        )
    };
    let met = |completed: &str| {
        let job = job(completed);
        verdict::end(&View::new(&job, &[], Failures::default(), at(1))).map(|end| end.message.unwrap())
    };
    assert_eq!(met("0"), None);
    assert_eq!(met("0,3"), Some("Matched rules at index 0".to_owned()));
    assert_eq!(met("4-6"), None);
    assert_eq!(met("4-7"), Some("Matched rules at index 1".to_owned()));
}

/// What is noted and let go, and the status after that went well.
fn tracked(text: &str, pods: &[&str]) -> String {
    let job = job(text);
    let pods = members(pods);
    let view = View::new(&job, &pods, Failures::default(), at(1000));
    let mut status = job.status.clone().unwrap();
    let mut held = track::held(&view);
    track::count(&mut status, &held);
    let tracked = track::note(&view, verdict::end(&view).as_ref(), &mut status);
    let released: Vec<String> = tracked.release.iter().map(|pod| name(pod)).collect();
    let noted = |status: &JobStatus| {
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        format!("{:?} {:?}", uncounted.succeeded.unwrap_or_default(), uncounted.failed.unwrap_or_default())
    };
    let before = noted(&status);
    tracked.release.iter().for_each(|pod| _ = held.remove(facts::uid(pod)));
    track::count(&mut status, &held);
    assert!(!track::has_uncounted(&status));
    let count = |count: Option<i32>| count.unwrap_or(0);
    format!(
        "{released:?} {before} {}+{} {}",
        count(status.succeeded),
        count(status.failed),
        status.completed_indexes.unwrap_or_default()
    )
}

#[test]
fn every_end_is_counted_once() {
    let cases: &[(&str, &[&str], &str)] = &[
        (
            "completions=3",
            &["a succeeded", "b failed", "c running"],
            r#"["a", "b"] ["uid-a"] ["uid-b"] 1+1 "#,
        ),
        ("completions=3 succeeded=1", &["a succeeded counted"], "[] [] [] 1+0 "),
        ("completions=3 failed=1 noted=uid-a", &["a failed"], r#"["a"] [] ["uid-a"] 0+2 "#),
        ("completions=3 failed=1 noted=uid-gone", &[], "[] [] [] 0+2 "),
        (
            "completions=3 indexed",
            &["a succeeded i=2", "b succeeded i=0", "c succeeded i=5"],
            r#"["b", "a", "c"] [] [] 2+0 0,2"#,
        ),
        ("completions=3 indexed completed=0", &["a succeeded i=0"], r#"["a"] [] [] 1+0 0"#),
        ("completions=3", &["a running going"], r#"["a"] [] ["uid-a"] 0+1 "#),
        ("completions=3 onlyfailed", &["a running going"], "[] [] [] 0+0 "),
        // Whatever is left when a Job fails counts as failed.
        ("completions=3 failed=9", &["a running"], r#"["a"] [] ["uid-a"] 0+10 "#),
        // The failed pod of an index stays until its count is handed on.
        ("completions=2 indexed perindex=3", &["a failed i=0"], "[] [] [] 0+0 "),
        (
            "completions=2 indexed perindex=3",
            &["a failed i=0", "b running i=0"],
            r#"["a"] [] ["uid-a"] 0+1 "#,
        ),
    ];
    for (text, pods, expected) in cases {
        assert_eq!(tracked(text, pods), *expected, "{text} {pods:?}");
    }
}

#[test]
fn a_pod_knows_its_index() {
    let job = with(
        job("completions=20 indexed perindex=3"),
        "podFailurePolicy",
        json!({"rules": [{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [5]}}]}),
    );
    let of = |replaced: Option<&str>| json!(plan::new_pod(&job, Some(12), replaced.map(member).as_ref()));
    let pod = of(None);
    assert_eq!(pod["metadata"]["generateName"], "j-12-");
    assert_eq!(pod["metadata"]["finalizers"], json!(["batch.kubernetes.io/job-tracking"]));
    assert_eq!(pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"], "12");
    assert_eq!(pod["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"], "0");
    assert_eq!(pod["spec"]["hostname"], "j-12");
    let field = "metadata.labels['batch.kubernetes.io/job-completion-index']";
    let env = json!([{"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {"fieldPath": field}}}]);
    assert_eq!(pod["spec"]["containers"][0]["env"], env);
    let counts = |replaced: &str| {
        let annotations = of(Some(replaced))["metadata"]["annotations"].clone();
        let count = |kind: &str| annotations[format!("batch.kubernetes.io/job-index-{kind}-count")].clone();
        (count("failure"), count("ignored-failure"))
    };
    assert_eq!(counts("a failed i=12 f=1 exit=1"), (json!("2"), Value::Null));
    assert_eq!(counts("a failed i=12 f=1 exit=5"), (json!("1"), json!("1")));

    let mut job = super::tests::job("completions=1 indexed");
    job.metadata.name = Some("n".repeat(60));
    let name = plan::new_pod(&job, Some(7), None).metadata.generate_name.unwrap();
    assert_eq!((name.len(), name.ends_with("n-7-")), (58, true));
}
