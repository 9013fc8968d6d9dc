//! The operator under many seeds, each with faults of its own. `WINDLASS_SEEDS` asks for more of them; a mistake
//! that was made on purpose has to be found, and the line that plays it again told.

use std::{ops::RangeInclusive, panic::catch_unwind, time::Duration};

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    batch::v1::{CronJob, Job},
    core::v1::{PersistentVolumeClaim, Pod, Service},
};
use kube::{ResourceExt, api::DeleteParams};
use minicluster::{
    TestCluster,
    test_cluster::{Fault, explore},
};
use windlass::{has_finalizer, random::Source};

use crate::{
    FINALIZER,
    last_backup::Earlier,
    world::{BACKUP, MINUTE, World, control_plane, world},
};

const SEEDS: RangeInclusive<u64> = 1..=8;

/// A database comes, goes and comes again under its name, perhaps to go at once. Nothing of it is touched before a backup of
/// its own is complete; in the end only claims are left.
async fn two_lives(cluster: &mut TestCluster, earlier: Earlier) {
    let random = Source::seeded(cluster.seed()).fork("life");
    // Nodes that the seed's own cluster starts are told what backups do.
    cluster.add_node();
    cluster.add_node();
    let world = world(cluster, earlier).await;
    world.start(2).await;
    // Under some seeds garbage is collected late.
    if random.below(2) == 0 {
        let late = Duration::from_secs(random.below(60));
        cluster.inject(Fault::delay(late).verb("delete").resource("jobs"));
    }
    goes(&world).await;
    world.create(2).await;
    let taken_in = async || {
        let db = world.databases.get("main").await.unwrap();
        has_finalizer(&db, FINALIZER).then_some(())
    };
    cluster.eventually("the operator knows of it", 10 * MINUTE, taken_in).await;
    if random.below(2) == 0 {
        cluster.advance(Duration::from_secs(random.below(20))).await;
    }
    goes(&world).await;
    cluster.advance(10 * MINUTE).await;
    assert!(world.all::<StatefulSet>("").await.is_empty());
    assert!(world.all::<CronJob>("").await.is_empty());
    assert!(world.all::<Job>("").await.is_empty());
    assert!(world.all::<Pod>("").await.is_empty());
    assert!(world.all::<Service>("").await.iter().all(|service| service.name_any() == "kubernetes"));
    assert_eq!(world.all::<PersistentVolumeClaim>("").await.len(), 2, "what is stored stays");
}

/// Deletes the database, and waits until it is gone. By then a backup was begun and had its time, before anything went.
async fn goes(world: &World<'_>) {
    let begun = world.cluster.transcript().len();
    world.databases.delete("main", &DeleteParams::default()).await.unwrap();
    let gone = async || world.databases.get_opt("main").await.unwrap().is_none().then_some(());
    world.cluster.eventually("the database is gone", 60 * MINUTE, gone).await;
    let writes = world.cluster.transcript().split_off(begun);
    let first = |verb: &str, key: &str| {
        writes.iter().find(|write| write.verb == verb && write.key.ends_with(key)).map(|write| write.at)
    };
    let backup = first("create", "/jobs/default/main-last-backup");
    for key in ["/databases/default/main", "/statefulsets/default/main", "/services/default/main-primary"] {
        let Some(went) = first("delete", key) else { continue };
        let in_time = backup.is_some_and(|backup| went.duration_since(backup).unsigned_abs() >= BACKUP);
        assert!(in_time, "it went before its last backup was complete: {key}");
    }
}

#[test]
fn whatever_goes_wrong_nothing_goes_before_its_last_backup() {
    explore(SEEDS, control_plane, async |cluster| two_lives(cluster, Earlier::Waits).await);
}

#[test]
fn a_mistake_made_on_purpose_is_found() {
    let report = report_of(SEEDS).expect("no seed found it");
    assert!(report.contains("it went before its last backup was complete"), "{report}");
    let line =
        report.lines().find(|line| line.contains("WINDLASS_SEED=")).expect("a line that plays it again");
    let (seed, command) = line.trim_start().split_once(' ').expect("a variable, and a command");
    assert_eq!(command, "cargo test simulations::a_mistake_made_on_purpose_is_found");
    // What the line says is so: that seed alone finds it, and in the same way.
    let seed: u64 = seed.trim_start_matches("WINDLASS_SEED=").parse().expect("a number");
    let again = report_of(seed..=seed).expect("that seed does not find it again");
    assert_eq!(first_line(&again), first_line(&report));
}

/// What is told about these seeds, if one of them finds the mistake.
fn report_of(seeds: RangeInclusive<u64>) -> Option<String> {
    let played = catch_unwind(|| {
        explore(seeds, control_plane, async |cluster| two_lives(cluster, Earlier::Counts).await);
    });
    Some(*played.err()?.downcast::<String>().expect("a report"))
}

fn first_line(report: &str) -> &str {
    report.lines().next().unwrap_or_default()
}
