//! The operator under many seeds, each with faults of its own. `WINDLASS_SEEDS` asks for more of them; a mistake
//! that was made on purpose has to be found, and the line that plays it again told.

use std::{ops::RangeInclusive, panic::catch_unwind, time::Duration};

use kube::api::DeleteParams;
use labels::{Planted, Quota};
use minicluster::{TestCluster, test_cluster::explore};
use serde_json::json;

use crate::{begin, centre};

const SEEDS: RangeInclusive<u64> = 1..=30;

/// People make, delete, exempt and move things; in the end every object carries what its namespace says.
async fn a_day(cluster: &mut TestCluster, planted: Planted) {
    let (people, _operator) = begin(cluster, planted).await;
    people
        .ask(json!({ "quotas": [Quota { kind: "configmaps".into(), limit: 5 }] }))
        .await;
    for at in 0..8 {
        people
            .map(&format!("map-{at}"), json!({}), json!({}))
            .await
            .unwrap();
    }
    cluster.advance(Duration::from_secs(1)).await;
    people
        .maps
        .delete("map-0", &DeleteParams::default())
        .await
        .unwrap();
    people.centre(json!("b")).await;
    cluster.advance(Duration::from_millis(200)).await;
    people
        .maps
        .delete("map-1", &DeleteParams::default())
        .await
        .unwrap();
    people.map("map-0", json!({}), json!({})).await.unwrap();
    cluster.advance(Duration::from_secs(120)).await;
    for at in [0, 2, 3, 4, 5, 6, 7] {
        assert_eq!(people.labels(&format!("map-{at}")).await, centre("b"), "map-{at}");
    }
    assert!(
        people.maps.get_opt("map-1").await.unwrap().is_none(),
        "what was deleted stays away"
    );
    let sentence = "False Violations: shop has 7 configmaps, and 5 are allowed";
    assert_eq!(people.compliant().await, sentence);
}

#[test]
fn whatever_goes_wrong_every_object_is_labelled_in_the_end() {
    explore(SEEDS, TestCluster::builder, async |cluster| {
        a_day(cluster, Planted::Nothing).await
    });
}

#[test]
fn a_mistake_made_on_purpose_is_found() {
    let report = report_of(1..=30).expect("no seed found it");
    let line = report
        .lines()
        .find(|line| line.contains("WINDLASS_SEED="))
        .expect("a line that plays it again");
    let (seed, command) = line
        .trim_start()
        .split_once(' ')
        .expect("a variable, and a command");
    assert_eq!(
        command,
        "cargo test simulations::a_mistake_made_on_purpose_is_found"
    );
    // What the line says is so: that seed alone finds it, and in the same way.
    let seed: u64 = seed
        .trim_start_matches("WINDLASS_SEED=")
        .parse()
        .expect("a number");
    let again = report_of(seed..=seed).expect("that seed does not find it again");
    assert_eq!(first_line(&again), first_line(&report));
}

/// What is told about these seeds, if one of them finds the mistake.
fn report_of(seeds: RangeInclusive<u64>) -> Option<String> {
    let played = catch_unwind(|| {
        explore(seeds, TestCluster::builder, async |cluster| {
            a_day(cluster, Planted::TrustsItself).await
        });
    });
    Some(*played.err()?.downcast::<String>().expect("a report"))
}

fn first_line(report: &str) -> &str {
    report.lines().next().unwrap_or_default()
}
