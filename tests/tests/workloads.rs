//! StatefulSets, DaemonSets, Jobs, CronJobs and budgets in whole clusters: controllers, scheduler and nodes, under virtual time.

use std::time::Duration;

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{ControllerRevision, DaemonSet, Deployment, StatefulSet},
        batch::v1::{CronJob, Job, JobStatus},
        core::v1::{Event, Node, PersistentVolumeClaim, Pod},
        policy::v1::PodDisruptionBudget,
    },
    jiff::Timestamp,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy},
};
use minicluster::{TestCluster, test_cluster::Faults};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

async fn whole() -> TestCluster {
    let cluster = TestCluster::builder().controllers(&["*"]).scheduler().hollow_nodes(1).start().await;
    cluster.advance(Duration::from_secs(2)).await;
    cluster
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

async fn patch<K>(cluster: &TestCluster, name: &str, patch: Value)
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    api::<K>(cluster).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

async fn pods(cluster: &TestCluster) -> Vec<Pod> {
    api::<Pod>(cluster).list(&ListParams::default()).await.unwrap().items
}

async fn seconds(cluster: &TestCluster, seconds: u64) {
    cluster.advance(Duration::from_secs(seconds)).await;
}

fn json_meta(meta: Value) -> kube::api::ObjectMeta {
    serde_json::from_value(meta).unwrap()
}

/// A Job `j` whose spec has more fields.
fn job(more: Value) -> Value {
    let mut job = json!({
        "metadata": {"name": "j"},
        "spec": {"template": {"spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 2, "containers": [{"name": "c", "image": "x"}],
        }}},
    });
    for (field, value) in more.as_object().unwrap() {
        job["spec"][field] = value.clone();
    }
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

/// Lets pods with these labels work for so many seconds and end with a code.
fn work(cluster: &TestCluster, labels: &str, seconds: u64, code: i32) {
    cluster.pods(labels).run(move |process| async move {
        let stopped = tokio::time::timeout(Duration::from_secs(seconds), process.stopped()).await;
        if stopped.is_ok() { 143 } else { code }
    });
}

async fn notes(cluster: &TestCluster) -> Vec<String> {
    let events = api::<Event>(cluster).list(&ListParams::default()).await.unwrap();
    events.items.into_iter().filter_map(|e| Some(format!("{}: {}", e.reason?, e.message?))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_job_has_its_completions_and_goes_after_its_time() {
    let cluster = whole().await;
    work(&cluster, "job-name=j", 10, 0);
    create::<Job>(&cluster, job(json!({"completions": 3, "parallelism": 2, "ttlSecondsAfterFinished": 60})))
        .await;
    seconds(&cluster, 5).await;
    let at_work = status(&cluster).await;
    assert_eq!((at_work.active, at_work.ready, at_work.terminating), (Some(2), Some(2), Some(0)));
    assert!(at_work.start_time.is_some() && conditions(&at_work).is_empty());
    seconds(&cluster, 10).await;
    assert_eq!((status(&cluster).await.active, status(&cluster).await.succeeded), (Some(1), Some(2)));
    seconds(&cluster, 10).await;
    let done = status(&cluster).await;
    assert_eq!((done.succeeded, done.active, done.ready, done.failed), (Some(3), None, Some(0), None));
    assert_eq!(conditions(&done), ["SuccessCriteriaMet: CompletionsReached", "Complete: CompletionsReached"]);
    let took = done.completion_time.unwrap().0.duration_since(done.start_time.unwrap().0);
    assert!((20..=24).contains(&took.as_secs()), "{took}");
    let left = pods(&cluster).await;
    assert!(left.len() == 3 && left.iter().all(|pod| pod.finalizers().is_empty()), "nothing holds them");
    let notes = notes(&cluster).await;
    assert!(notes.contains(&"Completed: Job completed".to_owned()), "{notes:?}");
    assert_eq!(notes.iter().filter(|note| note.starts_with("SuccessfulCreate: Created pod: j-")).count(), 3);
    seconds(&cluster, 50).await;
    assert_eq!(pods(&cluster).await.len(), 3);
    seconds(&cluster, 20).await;
    assert!(api::<Job>(&cluster).get_opt("j").await.unwrap().is_none());
    assert!(pods(&cluster).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_job_that_fails_waits_longer_each_time_and_gives_up() {
    let cluster = whole().await;
    work(&cluster, "job-name=j", 1, 1);
    create::<Job>(&cluster, job(json!({"backoffLimit": 3}))).await;
    seconds(&cluster, 120).await;
    let failed = status(&cluster).await;
    assert_eq!((failed.failed, failed.active, failed.succeeded), (Some(4), None, None));
    let reason = "BackoffLimitExceeded";
    assert_eq!(conditions(&failed), [format!("FailureTarget: {reason}"), format!("Failed: {reason}")]);
    let mut begun: Vec<i64> =
        pods(&cluster).await.iter().map(|p| p.creation_timestamp().unwrap().0.as_second()).collect();
    begun.sort_unstable();
    let gaps: Vec<i64> = begun.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(
        gaps.iter().zip([11, 21, 41]).all(|(gap, wanted)| (wanted..=wanted + 2).contains(gap)),
        "{gaps:?}"
    );
    let note = "BackoffLimitExceeded: Job has reached the specified backoff limit";
    assert!(notes(&cluster).await.contains(&note.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn an_index_fails_alone_and_the_others_go_on() {
    let cluster = whole().await;
    work(&cluster, "job-name=j", 5, 0);
    work(&cluster, "batch.kubernetes.io/job-completion-index=1", 1, 1);
    let spec = json!({
        "completions": 4, "parallelism": 4, "completionMode": "Indexed", "backoffLimitPerIndex": 1,
    });
    create::<Job>(&cluster, job(spec)).await;
    seconds(&cluster, 3).await;
    let host = pods(&cluster).await[2].spec.as_ref().unwrap().hostname.clone();
    assert!(host.unwrap().starts_with("j-"));
    seconds(&cluster, 60).await;
    let done = status(&cluster).await;
    assert_eq!(done.completed_indexes.as_deref(), Some("0,2,3"));
    assert_eq!(done.failed_indexes.as_deref(), Some("1"));
    assert_eq!((done.succeeded, done.failed), (Some(3), Some(2)), "the index had a second try");
    assert_eq!(conditions(&done), ["FailureTarget: FailedIndexes", "Failed: FailedIndexes"]);
    let counts: Vec<String> = pods(&cluster)
        .await
        .iter()
        .filter(|pod| pod.labels()["batch.kubernetes.io/job-completion-index"] == "1")
        .map(|pod| pod.annotations()["batch.kubernetes.io/job-index-failure-count"].clone())
        .collect();
    assert!(counts.len() == 2 && counts.contains(&"0".into()) && counts.contains(&"1".into()), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_suspended_job_has_no_pods_and_its_time_stands_still() {
    let cluster = whole().await;
    work(&cluster, "job-name=j", 1000, 0);
    let spec = json!({"parallelism": 2, "completions": 2, "activeDeadlineSeconds": 100});
    create::<Job>(&cluster, job(spec)).await;
    seconds(&cluster, 60).await;
    let first = status(&cluster).await.start_time;
    patch::<Job>(&cluster, "j", json!({"spec": {"suspend": true}})).await;
    seconds(&cluster, 10).await;
    assert!(pods(&cluster).await.is_empty());
    let suspended = status(&cluster).await;
    assert_eq!(
        (conditions(&suspended), suspended.failed, suspended.start_time),
        (vec!["Suspended: JobSuspended".to_owned()], None, None)
    );
    seconds(&cluster, 600).await;
    patch::<Job>(&cluster, "j", json!({"spec": {"suspend": false}})).await;
    seconds(&cluster, 60).await;
    let resumed = status(&cluster).await;
    assert_eq!((resumed.active, conditions(&resumed)), (Some(2), vec![]));
    assert!(resumed.start_time > first);
    seconds(&cluster, 60).await;
    let late = status(&cluster).await;
    assert_eq!(conditions(&late), ["FailureTarget: DeadlineExceeded", "Failed: DeadlineExceeded"]);
    assert_eq!((late.failed, late.active), (Some(2), None));
    let notes = notes(&cluster).await;
    for note in ["Suspended: Job suspended", "Resumed: Job resumed"] {
        assert!(notes.contains(&note.to_owned()), "{notes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn policies_end_a_job_early() {
    let cluster = whole().await;
    work(&cluster, "job-name=j", 100, 0);
    work(&cluster, "batch.kubernetes.io/job-completion-index=0", 5, 0);
    let rules = json!({"rules": [{"succeededIndexes": "0"}]});
    let spec =
        json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "successPolicy": rules});
    create::<Job>(&cluster, job(spec)).await;
    seconds(&cluster, 20).await;
    let met = status(&cluster).await;
    assert_eq!(conditions(&met), ["SuccessCriteriaMet: SuccessPolicy", "Complete: SuccessPolicy"]);
    assert_eq!((met.succeeded, met.failed, met.terminating), (Some(1), None, Some(0)));
    assert_eq!(met.conditions.unwrap()[0].message.as_deref(), Some("Matched rules at index 0"));
    let background =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
    api::<Job>(&cluster).delete("j", &background).await.unwrap();
    seconds(&cluster, 20).await;
    assert!(pods(&cluster).await.is_empty());

    work(&cluster, "job-name=j", 1, 42);
    let codes = json!({"operator": "In", "values": [42]});
    let rules = json!({"rules": [{"action": "FailJob", "onExitCodes": codes}]});
    create::<Job>(&cluster, job(json!({"podFailurePolicy": rules}))).await;
    seconds(&cluster, 20).await;
    let failed = status(&cluster).await;
    assert_eq!(conditions(&failed), ["FailureTarget: PodFailurePolicy", "Failed: PodFailurePolicy"]);
    assert_eq!(failed.failed, Some(1));
    let message = failed.conditions.unwrap()[0].message.clone().unwrap();
    assert!(message.ends_with("failed with exit code 42 matching FailJob rule at index 0"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn pods_outlive_a_job_that_lets_them_and_are_held_by_nothing() {
    let cluster = whole().await;
    work(&cluster, "job-name=j", 1000, 0);
    let first: Job = create(&cluster, job(json!({"parallelism": 2, "completions": 2}))).await;
    seconds(&cluster, 10).await;
    let orphan =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    api::<Job>(&cluster).delete("j", &orphan).await.unwrap();
    seconds(&cluster, 10).await;
    let left = pods(&cluster).await;
    assert!(
        left.len() == 2
            && left.iter().all(|pod| pod.finalizers().is_empty() && pod.owner_references().is_empty())
    );
    // Another Job of the same selector takes them over.
    let labels = json!({"batch.kubernetes.io/controller-uid": first.uid().unwrap()});
    let mut second = job(
        json!({"parallelism": 2, "completions": 2, "manualSelector": true, "selector": {"matchLabels": labels}}),
    );
    second["spec"]["template"]["metadata"] = json!({"labels": labels});
    create::<Job>(&cluster, second).await;
    seconds(&cluster, 10).await;
    let taken = pods(&cluster).await;
    assert_eq!(
        taken.iter().map(ResourceExt::name_any).collect::<Vec<_>>(),
        left.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
    );
    assert!(taken.iter().all(|pod| pod.finalizers() == ["batch.kubernetes.io/job-tracking"]));
    // Released, a pod is held no longer, and another takes its place.
    let name = taken[0].name_any();
    patch::<Pod>(
        &cluster,
        &name,
        json!({"metadata": {"labels": {"batch.kubernetes.io/controller-uid": "x"}}}),
    )
    .await;
    seconds(&cluster, 10).await;
    let released = api::<Pod>(&cluster).get(&name).await.unwrap();
    assert!(released.finalizers().is_empty() && released.owner_references().is_empty());
    assert_eq!(pods(&cluster).await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_job_of_another_controller_is_left_alone() {
    let cluster = whole().await;
    create::<Job>(&cluster, job(json!({"managedBy": "example.com/queue"}))).await;
    seconds(&cluster, 60).await;
    assert!(pods(&cluster).await.is_empty());
    assert_eq!(api::<Job>(&cluster).get("j").await.unwrap().status.unwrap_or_default(), JobStatus::default());
}

/// Behind a bad line, every end is counted once and nothing is done twice.
#[test]
fn ends_are_counted_once_behind_a_bad_line() {
    for seed in 0..10 {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let builder = TestCluster::builder().controllers(&["*"]).scheduler().hollow_nodes(1).seed(seed);
            let cluster = builder.faults(Faults::drawn(seed)).start().await;
            seconds(&cluster, 5).await;
            work(&cluster, "job-name=j", 3, 0);
            let spec = match seed % 2 {
                0 => json!({"completions": 12, "parallelism": 4}),
                _ => json!({"completions": 12, "parallelism": 4, "completionMode": "Indexed"}),
            };
            create::<Job>(&cluster, job(spec)).await;
            let complete = async || {
                let status = status(&cluster).await;
                conditions(&status).last().is_some_and(|last| last.starts_with("Complete")).then_some(status)
            };
            let done = cluster.eventually("the Job is done", Duration::from_mins(20), complete).await;
            seconds(&cluster, 20).await;
            assert_eq!((done.succeeded, done.failed, done.active), (Some(12), None, None), "seed {seed}");
            let pods = pods(&cluster).await;
            assert!(
                pods.len() == 12 && pods.iter().all(|p| p.finalizers().is_empty()),
                "seed {seed}: {}",
                pods.len()
            );
        });
    }
}

fn cron(schedule: &str, more: Value) -> Value {
    let mut cron = json!({
        "metadata": {"name": "c"},
        "spec": {"schedule": schedule, "jobTemplate": {"spec": job(json!({}))["spec"]}},
    });
    for (field, value) in more.as_object().unwrap() {
        cron["spec"][field] = value.clone();
    }
    cron
}

async fn jobs(cluster: &TestCluster) -> Vec<Job> {
    api::<Job>(cluster).list(&ListParams::default()).await.unwrap().items
}

fn created(cluster: &TestCluster) -> usize {
    cluster.transcript().iter().filter(|w| w.verb == "create" && w.key.contains("/jobs/")).count()
}

#[tokio::test(start_paused = true)]
async fn a_day_of_cron_jobs_passes_at_once() {
    let cluster = TestCluster::builder().controllers(&["cronjob", "job"]).start().await;
    seconds(&cluster, 1).await;
    let mut half_hourly = cron("*/30 * * * *", json!({"successfulJobsHistoryLimit": 2}));
    half_hourly["spec"]["jobTemplate"]["spec"]["completions"] = json!(0);
    create::<CronJob>(&cluster, half_hourly.clone()).await;
    half_hourly["metadata"]["name"] = json!("india");
    half_hourly["spec"]["schedule"] = json!("15 9-17/4 * * *");
    half_hourly["spec"]["timeZone"] = json!("Asia/Kolkata");
    create::<CronJob>(&cluster, half_hourly).await;
    seconds(&cluster, 24 * 3600).await;
    assert_eq!(created(&cluster), 48 + 3);
    let kept = jobs(&cluster).await;
    let names = |of: &str| kept.iter().filter(|job| job.owner_references()[0].name == of).count();
    assert_eq!((names("c"), names("india")), (2, 2), "history is kept to its limit");
    let zoned = kept.iter().find(|job| job.name_any().starts_with("india-")).unwrap();
    let stamp = &zoned.annotations()["batch.kubernetes.io/cronjob-scheduled-timestamp"];
    assert!(stamp.ends_with(":15:00+05:30"), "{stamp}");
    let status = api::<CronJob>(&cluster).get("c").await.unwrap().status.unwrap();
    let last = status.last_schedule_time.unwrap().0;
    assert!(kept.iter().any(|job| job.name_any() == format!("c-{}", last.as_second() / 60)));
    assert!(status.last_successful_time.unwrap().0 >= last && status.active.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_cron_job_runs_its_jobs_and_keeps_the_last() {
    let cluster = whole().await;
    work(&cluster, "job-name", 10, 0);
    create::<CronJob>(&cluster, cron("* * * * *", json!({"successfulJobsHistoryLimit": 2}))).await;
    seconds(&cluster, 5 * 60 + 40).await;
    assert!((5..=6).contains(&created(&cluster)));
    let kept = jobs(&cluster).await;
    assert_eq!((kept.len(), pods(&cluster).await.len()), (2, 2), "pods go with their Jobs");
    let status = api::<CronJob>(&cluster).get("c").await.unwrap().status.unwrap();
    assert_eq!(status.last_successful_time, kept[1].status.as_ref().unwrap().completion_time);
    let stamp = &kept[1].annotations()["batch.kubernetes.io/cronjob-scheduled-timestamp"];
    assert_eq!(stamp.parse::<Timestamp>().unwrap(), status.last_schedule_time.unwrap().0);
    let notes = notes(&cluster).await;
    let saw = |n: &String| {
        n.starts_with("SawCompletedJob: Saw completed job: c-") && n.ends_with("condition: Complete")
    };
    assert!(notes.iter().any(saw), "{notes:?}");
}

#[tokio::test(start_paused = true)]
async fn jobs_that_still_run_are_joined_awaited_or_replaced() {
    for (policy, active, made) in [("Allow", 3, 3), ("Forbid", 1, 1), ("Replace", 1, 3)] {
        let cluster = whole().await;
        work(&cluster, "job-name", 3600, 0);
        // The clock of a test begins on a full minute.
        create::<CronJob>(&cluster, cron("* * * * *", json!({"concurrencyPolicy": policy}))).await;
        seconds(&cluster, 3 * 60 + 20).await;
        let status = api::<CronJob>(&cluster).get("c").await.unwrap().status.unwrap();
        assert_eq!((status.active.unwrap().len(), jobs(&cluster).await.len()), (active, active), "{policy}");
        assert_eq!(created(&cluster), made, "{policy}");
        let told = notes(&cluster).await.iter().any(|note| note.starts_with("JobAlreadyActive"));
        assert_eq!(told, policy == "Forbid");
        patch::<CronJob>(&cluster, "c", json!({"spec": {"suspend": true}})).await;
        seconds(&cluster, 3 * 60).await;
        assert_eq!(created(&cluster), made, "{policy}: suspended");
        let gone = jobs(&cluster).await[0].name_any();
        api::<Job>(&cluster).delete(&gone, &DeleteParams::background()).await.unwrap();
        seconds(&cluster, 5).await;
        let left = api::<CronJob>(&cluster).get("c").await.unwrap().status.unwrap().active;
        assert_eq!(left.unwrap_or_default().len(), active - 1, "{policy}: what is gone is forgotten");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stateful_set_runs_with_its_claims() {
    let cluster = whole().await;
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    let set = json!({
        "metadata": {"name": "db"},
        "spec": {
            "replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": spec}],
            "template": {
                "metadata": {"labels": {"app": "db"}},
                "spec": {"terminationGracePeriodSeconds": 2, "containers": [{"name": "c", "image": "v1"}]},
            },
        },
    });
    create::<StatefulSet>(&cluster, set).await;
    seconds(&cluster, 30).await;
    let ready = async || api::<StatefulSet>(&cluster).get("db").await.unwrap().status.unwrap();
    assert_eq!(ready().await.available_replicas, Some(3));
    let claims = api::<PersistentVolumeClaim>(&cluster).list(&ListParams::default()).await.unwrap();
    assert_eq!(claims.items.len(), 3);
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "v2"}]}}}});
    patch::<StatefulSet>(&cluster, "db", image).await;
    seconds(&cluster, 60).await;
    let updated = ready().await;
    assert_eq!((updated.updated_replicas, updated.available_replicas), (Some(3), Some(3)));
    assert_eq!(updated.current_revision, updated.update_revision);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_set_is_on_every_node_it_is_for() {
    let cluster = TestCluster::builder().controllers(&["*"]).scheduler().hollow_nodes(2).start().await;
    seconds(&cluster, 2).await;
    let set = json!({
        "metadata": {"name": "d"},
        "spec": {
            "selector": {"matchLabels": {"app": "d"}},
            "template": {
                "metadata": {"labels": {"app": "d"}},
                "spec": {"terminationGracePeriodSeconds": 2, "containers": [{"name": "c", "image": "v1"}]},
            },
        },
    });
    create::<DaemonSet>(&cluster, set).await;
    seconds(&cluster, 10).await;
    let nodes: Api<Node> = Api::all(cluster.client());
    let places = async || -> Vec<String> {
        let pods = pods(&cluster).await;
        let place = |pod: &Pod| {
            let spec = pod.spec.as_ref().unwrap();
            format!(
                "{} {}",
                spec.node_name.as_deref().unwrap_or("none"),
                spec.containers[0].image.as_ref().unwrap()
            )
        };
        let mut places: Vec<String> = pods.iter().map(place).collect();
        places.sort_unstable();
        places
    };
    let status = async || api::<DaemonSet>(&cluster).get("d").await.unwrap().status.unwrap();
    assert_eq!(places().await, ["hollow-0 v1", "hollow-1 v1"]);
    let first = status().await;
    assert_eq!((first.desired_number_scheduled, first.number_available), (2, Some(2)));
    assert_eq!((first.updated_number_scheduled, first.number_unavailable), (Some(2), None));

    // A cordoned node keeps its daemon, and gets it back.
    let cordon = |on: bool| Patch::Merge(json!({"spec": {"unschedulable": on}}));
    nodes.patch("hollow-1", &PatchParams::default(), &cordon(true)).await.unwrap();
    seconds(&cluster, 5).await;
    let pod = pods(&cluster)
        .await
        .into_iter()
        .find(|p| p.spec.as_ref().unwrap().node_name.as_deref() == Some("hollow-1"));
    api::<Pod>(&cluster).delete(&pod.unwrap().name_any(), &DeleteParams::default()).await.unwrap();
    seconds(&cluster, 10).await;
    assert_eq!(places().await, ["hollow-0 v1", "hollow-1 v1"]);

    let image = |image: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
    patch::<DaemonSet>(&cluster, "d", image("v2")).await;
    seconds(&cluster, 30).await;
    assert_eq!(places().await, ["hollow-0 v2", "hollow-1 v2"]);
    patch::<DaemonSet>(&cluster, "d", image("v1")).await;
    seconds(&cluster, 30).await;
    assert_eq!(places().await, ["hollow-0 v1", "hollow-1 v1"]);
    let revisions = api::<ControllerRevision>(&cluster).list(&ListParams::default()).await.unwrap().items;
    let mut numbers: Vec<i64> = revisions.iter().map(|revision| revision.revision).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3], "the old revision is found again");
    let current = revisions.iter().find(|revision| revision.revision == 3).unwrap();
    assert_eq!(
        current.labels()["controller-revision-hash"],
        pods(&cluster).await[0].labels()["controller-revision-hash"]
    );

    // A second revision of the same template becomes the only one; no pod is replaced for that.
    let mut double = current.clone();
    double.metadata = json_meta(json!({
        "name": "d-double", "labels": {"app": "d", "controller-revision-hash": "double"},
        "ownerReferences": current.owner_references(),
    }));
    double.revision = 9;
    let before = pods(&cluster).await.iter().map(ResourceExt::name_any).collect::<Vec<_>>();
    api::<ControllerRevision>(&cluster).create(&PostParams::default(), &double).await.unwrap();
    patch::<DaemonSet>(&cluster, "d", json!({"metadata": {"labels": {"nudged": "yes"}}})).await;
    seconds(&cluster, 10).await;
    let now = pods(&cluster).await;
    assert_eq!(now.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), before);
    assert!(now.iter().all(|pod| pod.labels()["controller-revision-hash"] == "double"));
    assert!(api::<ControllerRevision>(&cluster).get_opt(&current.name_any()).await.unwrap().is_none());

    let select = json!({"spec": {"template": {"spec": {"nodeSelector": {"role": "edge"}}}}});
    patch::<DaemonSet>(&cluster, "d", select).await;
    seconds(&cluster, 10).await;
    assert!(places().await.is_empty());
    let label = Patch::Merge(json!({"metadata": {"labels": {"role": "edge"}}}));
    nodes.patch("hollow-0", &PatchParams::default(), &label).await.unwrap();
    seconds(&cluster, 10).await;
    assert_eq!(places().await, ["hollow-0 v1"]);
    let failed = Patch::Merge(json!({"status": {"phase": "Failed"}}));
    let name = pods(&cluster).await[0].name_any();
    api::<Pod>(&cluster).patch_status(&name, &PatchParams::default(), &failed).await.unwrap();
    seconds(&cluster, 10).await;
    assert_eq!(places().await, ["hollow-0 v1"]);
    assert_ne!(pods(&cluster).await[0].name_any(), name, "replaced");
    assert!(
        notes(&cluster)
            .await
            .iter()
            .any(|note| note.starts_with("FailedDaemonPod: Found failed daemon pod default/"))
    );
    api::<DaemonSet>(&cluster).delete("d", &DeleteParams::default()).await.unwrap();
    seconds(&cluster, 20).await;
    assert!(places().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_budget_grants_what_can_be_spared() {
    let cluster = whole().await;
    let web = json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 3, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"terminationGracePeriodSeconds": 2, "containers": [{"name": "c", "image": "x"}]},
            },
        },
    });
    create::<Deployment>(&cluster, web).await;
    let selector = json!({"matchLabels": {"app": "web"}});
    let budget = json!({"metadata": {"name": "b"}, "spec": {"maxUnavailable": "30%", "selector": selector}});
    create::<PodDisruptionBudget>(&cluster, budget).await;
    seconds(&cluster, 10).await;
    let status = async || api::<PodDisruptionBudget>(&cluster).get("b").await.unwrap().status.unwrap();
    let counts = async || {
        let s = status().await;
        [s.expected_pods, s.desired_healthy, s.current_healthy, s.disruptions_allowed]
            .map(Option::unwrap_or_default)
    };
    assert_eq!(counts().await, [3, 2, 3, 1]);
    assert_eq!(status().await.conditions.unwrap()[0].reason, "SufficientPods");
    let evict = async |pod: &Pod| api::<Pod>(&cluster).evict(&pod.name_any(), &Default::default()).await;
    let all = pods(&cluster).await;
    evict(&all[0]).await.unwrap();
    let Err(kube::Error::Api(refused)) = evict(&all[1]).await else { panic!("granted") };
    assert_eq!(refused.code, 429);
    seconds(&cluster, 20).await;
    assert_eq!(counts().await, [3, 2, 3, 1], "replaced");
    assert_eq!(status().await.disrupted_pods, None);

    // An eviction that was granted and came to nothing is given back after two minutes, and the pod is told.
    let stuck = pods(&cluster).await[0].name_any();
    let now = windlass::clock::time();
    let granted = Patch::Merge(json!({"status": {"disruptionsAllowed": 0, "disruptedPods": {&stuck: now}}}));
    api::<PodDisruptionBudget>(&cluster).patch_status("b", &PatchParams::default(), &granted).await.unwrap();
    let told = json!([{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "lastTransitionTime": now}]);
    let told = Patch::Strategic(json!({"status": {"conditions": told}}));
    api::<Pod>(&cluster).patch_status(&stuck, &PatchParams::default(), &told).await.unwrap();
    seconds(&cluster, 60).await;
    assert_eq!(counts().await, [3, 2, 2, 0]);
    seconds(&cluster, 70).await;
    assert_eq!(counts().await, [3, 2, 3, 1]);
    let pod = api::<Pod>(&cluster).get(&stuck).await.unwrap();
    let target =
        pod.status.unwrap().conditions.unwrap().into_iter().find(|c| c.type_ == "DisruptionTarget").unwrap();
    assert_eq!((target.status.as_str(), target.reason), ("False", None));

    patch::<Deployment>(&cluster, "web", json!({"spec": {"replicas": 10}})).await;
    seconds(&cluster, 10).await;
    assert_eq!(counts().await, [10, 7, 10, 3]);

    // Who has no scale cannot be counted.
    work(&cluster, "job-name=j", 1000, 0);
    let mut labelled = job(json!({}));
    labelled["spec"]["template"]["metadata"] = json!({"labels": {"app": "web"}});
    create::<Job>(&cluster, labelled).await;
    seconds(&cluster, 10).await;
    let failed = status().await;
    assert_eq!(failed.disruptions_allowed, Some(0));
    let condition = &failed.conditions.unwrap()[0];
    assert_eq!(condition.reason, "SyncFailed");
    assert_eq!(condition.message, "jobs.batch does not implement the scale subresource");
}
