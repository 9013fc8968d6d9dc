//! What the conformance suite asks of workloads and of their statuses (`test/e2e/apps`), step by step, in whole clusters
//! under virtual time. What it asks beside this is in `workloads.rs`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{ControllerRevision, DaemonSet, StatefulSet},
        batch::v1::{CronJob, Job, JobStatus},
        core::v1::{Event, Pod},
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams},
};
use minicluster::{TestCluster, test_cluster::Process};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

async fn whole(nodes: u32) -> TestCluster {
    let cluster = TestCluster::builder().controllers(&["*"]).scheduler().hollow_nodes(nodes).start().await;
    seconds(&cluster, 2).await;
    cluster
}

async fn seconds(cluster: &TestCluster, seconds: u64) {
    cluster.advance(Duration::from_secs(seconds)).await;
}

fn api<K>(cluster: &TestCluster) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    Api::default_namespaced(cluster.client())
}

async fn create<K>(cluster: &TestCluster, object: Value) -> K
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + DeserializeOwned
        + Serialize
        + Clone
        + std::fmt::Debug,
{
    api(cluster).create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
}

async fn patch<K>(cluster: &TestCluster, name: &str, patch: Value) -> K
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    api::<K>(cluster).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap()
}

async fn pods(cluster: &TestCluster) -> Vec<Pod> {
    api::<Pod>(cluster).list(&ListParams::default()).await.unwrap().items
}

fn names(pods: &[Pod]) -> Vec<String> {
    pods.iter().map(ResourceExt::name_any).collect()
}

/// A template of pods with a label `app`.
fn template(app: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {"terminationGracePeriodSeconds": 2, "containers": [{"name": "c", "image": "x"}]},
    })
}

fn workload(name: &str, more: Value) -> Value {
    let mut spec = json!({"selector": {"matchLabels": {"app": name}}, "template": template(name)});
    for (field, value) in more.as_object().unwrap() {
        spec[field] = value.clone();
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

/// A workload whose pods are asked whether they are ready.
fn probed(mut workload: Value) -> Value {
    let probe = json!({"exec": {"command": ["true"]}, "periodSeconds": 1});
    workload["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] = probe;
    workload
}

async fn never_ready(process: Process) -> i32 {
    process.set_ready(false);
    process.stopped().await;
    0
}

/// A Job `j` whose spec has more fields.
fn job(restart: &str, more: Value) -> Value {
    let mut job = workload("j", more);
    job["spec"].as_object_mut().unwrap().remove("selector");
    job["spec"]["template"]["spec"]["restartPolicy"] = json!(restart);
    job
}

async fn status(cluster: &TestCluster) -> JobStatus {
    api::<Job>(cluster).get("j").await.unwrap().status.unwrap()
}

/// The conditions that hold, as type and reason.
fn conditions(status: &JobStatus) -> Vec<String> {
    let all = status.conditions.iter().flatten().filter(|c| c.status == "True");
    all.map(|c| format!("{}: {}", c.type_, c.reason.as_deref().unwrap_or_default())).collect()
}

/// Pods of odd indexes fail after two seconds, others succeed after three.
fn odd_ones_fail(cluster: &TestCluster) {
    for (labels, seconds, code) in
        [("app=j", 3, 0), ("batch.kubernetes.io/job-completion-index in (1,3)", 2, 1)]
    {
        cluster.pods(labels).run(move |process| async move {
            let stopped = tokio::time::timeout(Duration::from_secs(seconds), process.stopped()).await;
            if stopped.is_ok() { 143 } else { code }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn an_eviction_that_the_policy_ignores_costs_a_job_no_try() {
    let cluster = whole(1).await;
    let runs = Arc::new(AtomicUsize::new(0));
    cluster.pods("app=j").run(move |process| {
        let first = runs.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if first {
                process.stopped().await;
                return 143;
            }
            0
        }
    });
    let rules = json!({"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]});
    let made: Job =
        create(&cluster, job("Never", json!({"backoffLimit": 0, "podFailurePolicy": rules}))).await;
    let policy = made.spec.unwrap().pod_failure_policy.unwrap();
    let pattern = &policy.rules[0].on_pod_conditions.as_ref().unwrap()[0];
    assert_eq!(pattern.status.as_deref(), Some("True"), "the default");
    seconds(&cluster, 5).await;
    let victim = names(&pods(&cluster).await).remove(0);
    api::<Pod>(&cluster).evict(&victim, &EvictParams::default()).await.unwrap();
    seconds(&cluster, 60).await;
    let done = status(&cluster).await;
    assert_eq!(conditions(&done), ["SuccessCriteriaMet: CompletionsReached", "Complete: CompletionsReached"]);
    assert_eq!((done.succeeded, done.failed), (Some(1), None));
}

#[tokio::test(start_paused = true)]
async fn tasks_that_fail_once_and_are_restarted_in_place_complete_a_job() {
    let cluster = whole(1).await;
    let runs = Arc::new(AtomicUsize::new(0));
    cluster.pods("app=j").run(move |_| {
        let odd = runs.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        async move { i32::from(odd) }
    });
    create::<Job>(&cluster, job("OnFailure", json!({"completions": 4, "parallelism": 2}))).await;
    seconds(&cluster, 300).await;
    let done = status(&cluster).await;
    assert_eq!((done.succeeded, done.failed), (Some(4), None));
    let all = pods(&cluster).await;
    assert_eq!(all.len(), 4);
    assert!(all.iter().all(|pod| pod.status.as_ref().unwrap().phase.as_deref() == Some("Succeeded")));
}

#[tokio::test(start_paused = true)]
async fn indexes_fail_and_succeed_as_their_limits_and_policies_say() {
    let indexed = |more: Value| {
        let mut spec = json!({"completionMode": "Indexed", "parallelism": 2});
        for (field, value) in more.as_object().unwrap() {
            spec[field] = value.clone();
        }
        job("Never", spec)
    };
    let fail_index =
        json!({"rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [1]}}]});
    let met = |rule: Value| json!({"completions": 5, "successPolicy": {"rules": [rule]}});
    // What is asked for; completed and failed indexes; pods that succeeded and failed; how it ends.
    let cases = [
        (
            json!({"completions": 4, "backoffLimitPerIndex": 1}),
            (Some("0,2"), Some("1,3"), Some(2), Some(4)),
            ["FailureTarget: FailedIndexes", "Failed: FailedIndexes"],
        ),
        (
            json!({"completions": 4, "parallelism": 1, "backoffLimitPerIndex": 0, "maxFailedIndexes": 0}),
            (Some("0"), Some("1"), Some(1), Some(1)),
            ["FailureTarget: MaxFailedIndexesExceeded", "Failed: MaxFailedIndexesExceeded"],
        ),
        (
            json!({"completions": 2, "backoffLimitPerIndex": 1, "podFailurePolicy": fail_index}),
            (Some("0"), Some("1"), Some(1), Some(1)),
            ["FailureTarget: FailedIndexes", "Failed: FailedIndexes"],
        ),
        (
            met(json!({"succeededIndexes": "0"})),
            (Some("0"), None, Some(1), Some(1)),
            ["SuccessCriteriaMet: SuccessPolicy", "Complete: SuccessPolicy"],
        ),
        (
            met(json!({"succeededCount": 1})),
            (Some("0"), None, Some(1), Some(1)),
            ["SuccessCriteriaMet: SuccessPolicy", "Complete: SuccessPolicy"],
        ),
    ];
    for (spec, counted, ends) in cases {
        let cluster = whole(1).await;
        odd_ones_fail(&cluster);
        create::<Job>(&cluster, indexed(spec.clone())).await;
        seconds(&cluster, 120).await;
        let done = status(&cluster).await;
        let seen =
            (done.completed_indexes.as_deref(), done.failed_indexes.as_deref(), done.succeeded, done.failed);
        assert_eq!(seen, counted, "{spec}");
        assert_eq!(conditions(&done), ends, "{spec}");
        assert_eq!((done.active, done.ready, done.terminating), (None, Some(0), Some(0)), "{spec}");
        for pod in pods(&cluster).await {
            let index = &pod.annotations()["batch.kubernetes.io/job-completion-index"];
            assert_eq!(pod.labels()["batch.kubernetes.io/job-completion-index"], *index);
            assert_eq!(pod.spec.as_ref().unwrap().hostname, Some(format!("j-{index}")));
            assert!(pod.name_any().starts_with(&format!("j-{index}-")), "{}", pod.name_any());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_takes_back_the_pod_that_lost_its_owner() {
    let cluster = whole(1).await;
    let made: Job = create(&cluster, job("Never", json!({"completions": 4, "parallelism": 2}))).await;
    seconds(&cluster, 5).await;
    let all = names(&pods(&cluster).await);
    let orphaned: Pod = patch(&cluster, &all[0], json!({"metadata": {"ownerReferences": null}})).await;
    assert!(orphaned.owner_references().is_empty());
    seconds(&cluster, 5).await;
    let now = pods(&cluster).await;
    assert_eq!(names(&now), all, "no other took its place");
    let back = &now[0];
    assert_eq!(back.owner_references()[0].uid, made.uid().unwrap());
    assert_eq!(back.finalizers(), ["batch.kubernetes.io/job-tracking"]);
    assert_eq!(status(&cluster).await.failed, None);
}

/// A status takes annotations and conditions of anybody's, and controllers leave these where they are.
#[tokio::test(start_paused = true)]
async fn statuses_are_patched_and_replaced_by_hand() {
    let cluster = whole(1).await;
    create::<Job>(&cluster, job("Never", json!({"completions": 4, "parallelism": 2}))).await;
    create::<StatefulSet>(&cluster, workload("s", json!({"serviceName": "s"}))).await;
    create::<DaemonSet>(&cluster, workload("d", json!({}))).await;
    let jobs = job("Never", json!({}))["spec"].clone();
    let cron =
        json!({"metadata": {"name": "c"}, "spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": jobs}}});
    create::<CronJob>(&cluster, cron).await;
    seconds(&cluster, 10).await;

    let time = "2026-01-01T00:00:00Z";
    let own = json!([{"type": "Own", "status": "True", "lastTransitionTime": time}]);
    let patched = Patch::Merge(
        json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "status": {"conditions": own}}),
    );
    let params = PatchParams::default();
    let told: Job = api(&cluster).patch_status("j", &params, &patched).await.unwrap();
    assert_eq!(told.annotations()["patchedstatus"], "true");
    assert_eq!(conditions(told.status.as_ref().unwrap()), ["Own: "]);
    let set: StatefulSet = api(&cluster).patch_status("s", &params, &patched).await.unwrap();
    assert_eq!(set.status.unwrap().conditions.unwrap()[0].type_, "Own");
    let set: DaemonSet = api(&cluster).patch_status("d", &params, &patched).await.unwrap();
    assert_eq!(set.status.unwrap().conditions.unwrap()[0].type_, "Own");
    let last = Patch::Merge(
        json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "status": {"lastScheduleTime": time}}),
    );
    let cron: CronJob = api(&cluster).patch_status("c", &params, &last).await.unwrap();
    assert_eq!(cron.annotations()["patchedstatus"], "true");
    assert!(cron.status.unwrap().last_schedule_time.is_some());

    let mut job: Job = api(&cluster).get_status("j").await.unwrap();
    job.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].reason = Some("Replaced".to_owned());
    api::<Job>(&cluster).replace_status("j", &PostParams::default(), &job).await.unwrap();
    patch::<Job>(&cluster, "j", json!({"spec": {"parallelism": 1}})).await;
    patch::<DaemonSet>(&cluster, "d", json!({"spec": {"minReadySeconds": 1}})).await;
    seconds(&cluster, 10).await;
    let after = status(&cluster).await;
    assert_eq!((conditions(&after), after.active), (vec!["Own: Replaced".to_owned()], Some(1)));
    let daemon: DaemonSet = api(&cluster).get("d").await.unwrap();
    let daemon = daemon.status.unwrap();
    assert_eq!((daemon.observed_generation, daemon.conditions.unwrap()[0].type_.as_str()), (Some(2), "Own"));

    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {}}});
    create::<PodDisruptionBudget>(&cluster, budget).await;
    let bad = json!({"status": {"disruptionsAllowed": -1, "conditions": [{"type": "A", "status": "Maybe"}]}});
    let refused = api::<PodDisruptionBudget>(&cluster).patch_status("b", &params, &Patch::Merge(bad)).await;
    let Err(kube::Error::Api(refused)) = refused else { panic!("{refused:?}") };
    let told: Vec<String> = refused
        .details
        .as_ref()
        .unwrap()
        .causes
        .iter()
        .map(|c| format!("{} {}", c.field, c.reason))
        .collect();
    assert_eq!(
        told,
        [
            "status.conditions[0].status FieldValueNotSupported",
            "status.conditions[0].lastTransitionTime FieldValueRequired",
            "status.conditions[0].reason FieldValueRequired",
            "status.disruptionsAllowed FieldValueInvalid",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn revisions_live_and_go() {
    let cluster = whole(1).await;
    create::<DaemonSet>(&cluster, workload("d", json!({}))).await;
    seconds(&cluster, 10).await;
    let revisions = api::<ControllerRevision>(&cluster);
    let all = async || revisions.list(&ListParams::default().labels("app=d")).await.unwrap().items;
    let first = all().await.remove(0);
    let name = first.name_any();
    let mark = |value: &str| json!({"metadata": {"labels": {&name: value}}});
    let marked: ControllerRevision = patch(&cluster, &name, mark("patched")).await;
    assert_eq!(marked.labels()[&name], "patched");
    let double: ControllerRevision = create(
        &cluster,
        json!({
            "metadata": {
                "name": "d-double", "ownerReferences": first.owner_references(),
                "labels": {"app": "d", "controller-revision-hash": "double"},
            },
            "data": first.data, "revision": first.revision + 1,
        }),
    )
    .await;
    assert_eq!(all().await.len(), 2);
    revisions.delete(&name, &DeleteParams::default()).await.unwrap();
    assert_eq!(names_of(&all().await), ["d-double"]);
    let mut updated = revisions.get("d-double").await.unwrap();
    updated.labels_mut().insert("d-double".to_owned(), "updated".to_owned());
    revisions.replace("d-double", &PostParams::default(), &updated).await.unwrap();
    let template = json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}});
    patch::<DaemonSet>(&cluster, "d", template).await;
    seconds(&cluster, 1).await;
    let two = all().await;
    assert_eq!(two.len(), 2);
    assert_eq!(two.iter().map(|r| r.revision).max(), Some(double.revision + 1));
    let updated = ListParams::default().labels("d-double=updated");
    revisions.delete_collection(&DeleteParams::default(), &updated).await.unwrap();
    assert_eq!(all().await.len(), 1);
}

fn names_of(revisions: &[ControllerRevision]) -> Vec<String> {
    revisions.iter().map(ResourceExt::name_any).collect()
}

#[tokio::test(start_paused = true)]
async fn a_rollback_of_daemons_restarts_only_what_was_replaced() {
    let cluster = whole(3).await;
    cluster.pods("app=d,version=broken").run(never_ready);
    create::<DaemonSet>(&cluster, probed(workload("d", json!({})))).await;
    seconds(&cluster, 10).await;
    let before = names(&pods(&cluster).await);
    let version =
        |version: Value| json!({"spec": {"template": {"metadata": {"labels": {"version": version}}}}});
    patch::<DaemonSet>(&cluster, "d", version(json!("broken"))).await;
    seconds(&cluster, 60).await;
    let during = pods(&cluster).await;
    let kept: Vec<String> = names(&during).into_iter().filter(|name| before.contains(name)).collect();
    assert_eq!((during.len(), kept.len()), (3, 2), "one at a time, and it never serves");
    patch::<DaemonSet>(&cluster, "d", version(Value::Null)).await;
    seconds(&cluster, 60).await;
    let after = names(&pods(&cluster).await);
    assert!(kept.iter().all(|name| after.contains(name)), "{kept:?} {after:?}");
    let status = api::<DaemonSet>(&cluster).get("d").await.unwrap().status.unwrap();
    assert_eq!((status.number_available, status.updated_number_scheduled), (Some(3), Some(3)));
}

#[tokio::test(start_paused = true)]
async fn an_eviction_is_blocked_until_the_budget_lets_it() {
    let cluster = whole(1).await;
    create::<StatefulSet>(
        &cluster,
        workload("s", json!({"serviceName": "s", "replicas": 3, "podManagementPolicy": "Parallel"})),
    )
    .await;
    let selector = json!({"matchLabels": {"app": "s"}});
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 3, "selector": selector}});
    create::<PodDisruptionBudget>(&cluster, budget).await;
    seconds(&cluster, 10).await;
    let client = cluster.client();
    let evict = async |name: &str, options: Value| {
        let eviction = json!({"metadata": {"name": name}, "deleteOptions": options});
        let request = http::Request::post(format!("/api/v1/namespaces/default/pods/{name}/eviction"))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(serde_json::to_vec(&eviction).unwrap());
        match client.request::<Value>(request.unwrap()).await {
            Ok(_) => "granted".to_owned(),
            Err(kube::Error::Api(status)) => {
                let cause = status.details.and_then(|details| details.causes.into_iter().next());
                format!("{}: {}", status.code, cause.map_or(status.message, |cause| cause.message))
            }
            Err(other) => panic!("{other}"),
        }
    };
    let plain = || json!({});
    let allowed = async || {
        let status = api::<PodDisruptionBudget>(&cluster).get("b").await.unwrap().status.unwrap();
        (status.disruptions_allowed.unwrap(), status.disrupted_pods.unwrap_or_default().len())
    };
    let needs = "429: The disruption budget b needs 3 healthy pods and has 3 currently";
    assert_eq!(evict("s-0", plain()).await, needs);
    patch::<PodDisruptionBudget>(&cluster, "b", json!({"spec": {"minAvailable": 2}})).await;
    seconds(&cluster, 2).await;
    assert_eq!(allowed().await, (1, 0));

    // Tried without effect, and refused without one.
    let marked = async |name: &str| {
        let status = api::<Pod>(&cluster).get(name).await.unwrap().status.unwrap();
        status.conditions.unwrap().iter().any(|condition| condition.type_ == "DisruptionTarget")
    };
    assert_eq!(evict("s-0", json!({"dryRun": ["All"]})).await, "granted");
    assert_eq!((allowed().await, marked("s-0").await), ((1, 0), false));
    let told = evict("s-0", json!({"preconditions": {"uid": "other"}})).await;
    assert!(told.starts_with("409: Operation cannot be fulfilled on Pod \"s-0\""), "{told}");
    assert!(!marked("s-0").await);
    seconds(&cluster, 150).await;
    assert_eq!(allowed().await, (1, 0), "given back");

    let pod = api::<Pod>(&cluster).get("s-0").await.unwrap();
    let this = json!({"uid": pod.uid(), "resourceVersion": pod.resource_version()});
    assert_eq!(evict("s-0", json!({"preconditions": this})).await, "granted");
    assert!(evict("s-1", plain()).await.starts_with("429: The disruption budget b "));
    seconds(&cluster, 20).await;
    assert_ne!(api::<Pod>(&cluster).get("s-0").await.unwrap().uid(), pod.uid(), "evicted and made anew");

    // Blocked anew by a budget that nothing satisfies, and free without one.
    patch::<PodDisruptionBudget>(&cluster, "b", json!({"spec": {"minAvailable": "100%"}})).await;
    seconds(&cluster, 2).await;
    assert_eq!(evict("s-1", plain()).await, needs);
    api::<PodDisruptionBudget>(&cluster).delete("b", &DeleteParams::default()).await.unwrap();
    assert_eq!(evict("s-1", plain()).await, "granted");
}

#[tokio::test(start_paused = true)]
async fn budgets_of_pods_that_nobody_owns_and_of_pods_that_do_not_serve() {
    let cluster = whole(1).await;
    cluster.pods("app=sick").run(never_ready);
    let mut lone = json!({"metadata": {"name": "lone", "labels": {"app": "lone"}}});
    lone["spec"] = template("lone")["spec"].clone();
    create::<Pod>(&cluster, lone).await;
    let two = json!({"serviceName": "sick", "replicas": 2, "podManagementPolicy": "Parallel"});
    create::<StatefulSet>(&cluster, probed(workload("sick", two))).await;
    let budget = |name: &str, more: Value| {
        let mut spec = json!({"selector": {"matchLabels": {"app": name}}});
        for (field, value) in more.as_object().unwrap() {
            spec[field] = value.clone();
        }
        json!({"metadata": {"name": name}, "spec": spec})
    };
    create::<PodDisruptionBudget>(&cluster, budget("lone", json!({"maxUnavailable": 1}))).await;
    create::<PodDisruptionBudget>(&cluster, budget("sick", json!({"maxUnavailable": 0}))).await;
    seconds(&cluster, 10).await;
    let counts = async |name: &str| {
        let status = api::<PodDisruptionBudget>(&cluster).get(name).await.unwrap().status.unwrap();
        [status.expected_pods, status.desired_healthy, status.current_healthy, status.disruptions_allowed]
            .map(Option::unwrap_or_default)
    };
    assert_eq!((counts("lone").await, counts("sick").await), ([0, 0, 1, 0], [2, 2, 0, 0]));
    let events = api::<Event>(&cluster).list(&ListParams::default()).await.unwrap().items;
    let told = events.iter().find(|event| event.reason.as_deref() == Some("UnmanagedPods")).unwrap();
    let shown = "(selector: &LabelSelector{MatchLabels:map[string]string{app: lone,},\
                 MatchExpressions:[]LabelSelectorRequirement{},})";
    assert!(told.message.as_ref().unwrap().contains(shown), "{:?}", told.message);

    let evict = async || api::<Pod>(&cluster).evict("sick-0", &EvictParams::default()).await;
    assert!(evict().await.is_err(), "the budget has not what it needs");
    let always = json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}});
    patch::<PodDisruptionBudget>(&cluster, "sick", always).await;
    evict().await.unwrap();
    assert_eq!(counts("sick").await, [2, 2, 0, 0], "it costs nothing");
}
