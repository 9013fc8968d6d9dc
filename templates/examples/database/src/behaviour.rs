//! What the operator does, one thing at a time.

use std::time::Duration;

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    batch::v1::{CronJob, Job},
    core::v1::{Event, PersistentVolumeClaim, Pod, Service},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{
    Backup, SKIP,
    api::v1beta1,
    children::BACKUP_OF,
    last_backup::Earlier,
    world::{MINUTE, builder, control_plane, world},
};

#[tokio::test(start_paused = true)]
async fn a_database_runs_scales_and_is_seen_in_both_versions() {
    let cluster = builder().start().await;
    let world = world(&cluster, Earlier::Waits).await;
    world.start(3).await;
    assert_eq!(world.condition("Ready").await, "True AllReady: 3 of 3 replicas are ready");
    assert_eq!(world.condition("Complete").await, "True Ready: ");
    assert_eq!(world.condition("BackedUp").await, "False NoSchedule: no backups are asked for");
    let status = world.status().await;
    assert_eq!((status.primary.as_deref(), status.version.as_deref()), (Some("main-0"), Some("16.4")));
    let service = async |name| world.api::<Service>().get(name).await.unwrap().spec.unwrap();
    assert_eq!(service("main-members").await.cluster_ip.as_deref(), Some("None"));
    let primary = service("main-primary").await.selector.unwrap();
    assert_eq!(primary["statefulset.kubernetes.io/pod-name"], "main-0");

    // By its subresource, as autoscalers do.
    let patch = Patch::Merge(json!({ "spec": { "replicas": 5 } }));
    let scale = world.databases.patch_scale("main", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(scale.status.unwrap().selector.as_deref(), Some("databases.example.com/name=main"));
    world.ready(2 * MINUTE).await;
    assert_eq!(world.all::<Pod>("databases.example.com/name=main").await.len(), 5);

    let old = Api::<v1beta1::Database>::default_namespaced(cluster.client());
    let seen = old.get("main").await.unwrap();
    assert_eq!((seen.spec.version.as_str(), seen.spec.replicas), ("16.4", 5));
    assert_eq!(seen.status.unwrap().ready_replicas, 5);
    world.set(json!({ "backup": { "schedule": "0 3 * * *", "keep": 7 } })).await.unwrap();
    let patch = Patch::Merge(json!({ "spec": { "version": "16.5" } }));
    old.patch("main", &PatchParams::default(), &patch).await.unwrap();
    let seen = world.databases.get("main").await.unwrap().spec;
    assert_eq!(seen.engine.version, "16.5");
    // An old client does not know of it, and loses nothing.
    assert_eq!(seen.backup, Backup { schedule: Some("0 3 * * *".to_owned()), keep: 7 });
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_reaches_the_primary_last_and_one_replica_at_a_time() {
    let cluster = builder().start().await;
    let world = world(&cluster, Earlier::Waits).await;
    world.start(4).await;
    let begun = cluster.transcript().len();
    world.set(json!({ "engine": { "version": "17.0" } })).await.unwrap();
    world.ready(5 * MINUTE).await;
    let writes = cluster.transcript().split_off(begun);
    let created = writes.iter().filter(|write| write.verb == "create");
    let pods: Vec<_> =
        created.filter_map(|write| write.key.strip_prefix("/registry/pods/default/")).collect();
    assert_eq!(pods, ["main-3", "main-2", "main-1", "main-0"]);
    assert_eq!(world.condition("Upgrading").await, "False AllUpgraded: 4 of 4 replicas run 17.0");
    assert_eq!(world.status().await.version.as_deref(), Some("17.0"));
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_that_does_not_come_up_never_reaches_the_primary() {
    let cluster = builder().start().await;
    let world = world(&cluster, Earlier::Waits).await;
    world.start(3).await;
    cluster.pods("databases.example.com/name=main").run(|process| async move {
        process.set_ready(false);
        process.stopped().await;
        0
    });
    world.set(json!({ "engine": { "version": "17.0" } })).await.unwrap();
    cluster.advance(60 * MINUTE).await;
    assert_eq!(world.condition("Upgrading").await, "True Followers: 1 of 3 replicas run 17.0");
    assert_eq!(world.condition("Ready").await, "False Progressing: 2 of 3 replicas are ready");
    assert_eq!(world.status().await.version.as_deref(), Some("16.4"));
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_is_refused() {
    let cluster = builder().start().await;
    let world = world(&cluster, Earlier::Waits).await;
    world.start(1).await;
    let table = [
        (json!({ "engine": { "version": "15.0" } }), "its data only goes forward"),
        (json!({ "engine": { "version": "18.0" } }), "one major version at a time"),
        (json!({ "engine": { "version": "new" } }), "is written as in 16.4"),
        (json!({ "storage": "2Gi" }), "is chosen once"),
        (json!({ "replicas": 10 }), "should be less than or equal to 9"),
    ];
    for (spec, why) in table {
        let refused = world.set(spec).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_backup_is_taken_every_night_and_so_many_are_kept() {
    // Days are long, so those that look at everything every few seconds stay away.
    let controllers = ["-garbage-collector-controller", "-resourcequota-controller", "*"];
    let cluster = control_plane().controllers(&controllers).hollow_nodes(1).start().await;
    let world = world(&cluster, Earlier::Waits).await;
    world.start(1).await;
    let resting = world.api::<CronJob>().get("main-backup").await.unwrap();
    assert_eq!(resting.spec.suspend, Some(true));
    world.set(json!({ "backup": { "schedule": "30 2 * * *", "keep": 2 } })).await.unwrap();
    cluster.advance(MINUTE).await;
    assert_eq!(world.condition("BackedUp").await, "False NoneYet: no backup was taken yet");
    let begun = cluster.transcript().len();
    cluster.advance(51 * 60 * MINUTE).await;
    let writes = cluster.transcript().split_off(begun);
    let taken = writes.iter().filter(|w| w.verb == "create" && w.key.starts_with("/registry/jobs/default/"));
    assert_eq!(taken.count(), 3, "one a night");
    let jobs = world.all::<Job>("").await;
    assert_eq!(jobs.len(), 2, "as many as are kept");
    assert_eq!(world.condition("BackedUp").await, "True BackupComplete: the newest backup is complete");
    let newest =
        jobs.iter().filter_map(|job| job.status.as_ref()?.completion_time.clone()).max_by_key(|t| t.0);
    let last = world.status().await.last_backup;
    assert!(last.is_some() && last == newest, "{last:?} {newest:?}");

    // The next one fails, and people are told.
    cluster.pods(BACKUP_OF).run(|_| async { 1 });
    world.set(json!({ "backup": { "schedule": "30 3 * * *" } })).await.unwrap();
    cluster.advance(60 * MINUTE).await;
    let says = world.condition("BackedUp").await;
    assert!(says.starts_with("False BackupFailed: Job main-backup-"), "{says}");
    assert_eq!(world.status().await.last_backup, last);
    assert_eq!(world.condition("Ready").await, "True AllReady: 1 of 1 replicas are ready");
}

#[tokio::test(start_paused = true)]
async fn a_last_backup_that_fails_holds_the_database() {
    let cluster = builder().start().await;
    let world = world(&cluster, Earlier::Waits).await;
    world.start(2).await;
    cluster.pods(BACKUP_OF).run(|_| async { 1 });
    world.databases.delete("main", &DeleteParams::default()).await.unwrap();
    cluster.advance(60 * MINUTE).await;
    let says = format!(
        "False LastBackupFailed: Job main-last-backup failed: delete it to try again, or annotate with {SKIP}=true"
    );
    assert_eq!(world.condition("BackedUp").await, says);
    let set = world.api::<StatefulSet>().get("main").await.unwrap();
    assert_eq!(set.status.unwrap().ready_replicas, Some(2));
    let told =
        world.all::<Event>("").await.into_iter().filter(|e| e.reason.as_deref() == Some("LastBackupFailed"));
    assert_eq!(told.count(), 1);

    // It can be tried again, and be done without.
    world.api::<Job>().delete("main-last-backup", &DeleteParams::background()).await.unwrap();
    cluster.advance(Duration::from_secs(5)).await;
    assert_eq!(world.condition("BackedUp").await, "False LastBackup: the last backup is being taken");
    cluster.advance(60 * MINUTE).await;
    assert_eq!(world.condition("BackedUp").await, says);
    world.patch(json!({ "metadata": { "annotations": { SKIP: "true" } } })).await.unwrap();
    cluster.advance(5 * MINUTE).await;
    assert!(world.databases.get_opt("main").await.unwrap().is_none());
    assert!(world.all::<StatefulSet>("").await.is_empty());
    assert!(world.all::<Service>("").await.iter().all(|service| service.name_any() == "kubernetes"));
    assert_eq!(world.all::<PersistentVolumeClaim>("").await.len(), 2, "what is stored stays");
}
