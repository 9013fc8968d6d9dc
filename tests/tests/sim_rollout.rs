//! A rolling update never drops below its minimum, with all controllers, the scheduler and the kubelets of a whole
//! cluster at work behind a bad line: requests are slow, refused, in conflict or done without an answer, watches break.
//!
//! A run depends on its seed alone. `SEED=7 RUST_LOG=windlass=debug cargo nextest run -p windlass-tests --no-capture
//! rolling_update` plays one again and shows what happens.

use std::{ops::RangeInclusive, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use minicluster::{TestCluster, test_cluster::Faults};
use serde_json::json;
use tracing_subscriber::EnvFilter;

const REPLICAS: i32 = 4;
const AVAILABLE_MIN: i32 = 3;

fn deployment(image: &str) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": REPLICAS, "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"rollingUpdate": {"maxUnavailable": 1, "maxSurge": 1}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": image}]},
            },
        },
    }))
    .unwrap()
}

fn available(deployment: &Deployment) -> i32 {
    deployment.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

fn is_done(deployment: &Deployment) -> bool {
    let status = deployment.status.clone().unwrap_or_default();
    status.observed_generation == deployment.metadata.generation
        && status.updated_replicas == Some(REPLICAS)
        && status.available_replicas == Some(REPLICAS)
        && status.replicas == Some(REPLICAS)
}

/// Waits for a rollout, two minutes at most: longer means that somebody waited for his own safety net.
async fn until_done(deployments: &Api<Deployment>) -> bool {
    for _ in 0..240 {
        if is_done(&deployments.get("web").await.unwrap()) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    false
}

/// One write in four goes wrong in some way, and one watch frame in ten is the last.
fn bad_line() -> Faults {
    Faults {
        conflicts: 0.15,
        errors: 0.05,
        lost_answers: 0.05,
        broken_watches: 0.1,
        delay: Duration::from_millis(50),
    }
}

/// Plays one seed: how it ended, and everything that was written.
fn play(seed: u64, faults: Faults) -> (Result<(), String>, Vec<String>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let cluster = TestCluster::builder()
            .controllers(&["*"])
            .scheduler()
            .hollow_nodes(2)
            .seed(seed)
            .faults(faults)
            .start()
            .await;
        let result = run(&cluster).await;
        (result, cluster.transcript().iter().map(ToString::to_string).collect())
    })
}

async fn run(cluster: &TestCluster) -> Result<(), String> {
    let deployments: Api<Deployment> = Api::default_namespaced(cluster.client());
    deployments.create(&PostParams::default(), &deployment("v1")).await.map_err(|e| e.to_string())?;
    if !until_done(&deployments).await {
        return Err("the first rollout never ended".to_owned());
    }
    let from = deployments.get("web").await.map_err(|e| e.to_string())?.metadata.resource_version.unwrap();
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "v2"}]}}}});
    deployments
        .patch("web", &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .map_err(|e| e.to_string())?;
    if !until_done(&deployments).await {
        return Err("the update never ended".to_owned());
    }
    // Every state that the deployment went through is in the history of the watch.
    let params = WatchParams::default().timeout(1);
    let mut states = deployments.watch(&params, &from).await.map_err(|e| e.to_string())?.boxed();
    while let Some(Ok(event)) = states.next().await {
        if let WatchEvent::Modified(state) = event
            && available(&state) < AVAILABLE_MIN
        {
            return Err(format!("only {} available", available(&state)));
        }
    }
    Ok(())
}

/// Plays some seeds; `SEED=n` plays one instead.
fn keeps_its_minimum(seeds: RangeInclusive<u64>, faults: &Faults) {
    let filter = EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).without_time().with_test_writer().try_init();
    let only = std::env::var("SEED").ok().and_then(|s| s.parse().ok());
    for seed in only.map_or(seeds, |seed: u64| seed..=seed) {
        if let (Err(why), transcript) = play(seed, faults.clone()) {
            let last = transcript.len().saturating_sub(30);
            let tail = transcript[last..].join("\n");
            panic!("seed {seed}: {why}; run again with SEED={seed}. The last writes:\n{tail}");
        }
    }
}

#[test]
fn a_rolling_update_keeps_its_minimum() {
    keeps_its_minimum(1..=10, &Faults::default());
}

#[test]
fn a_rolling_update_keeps_its_minimum_behind_a_bad_line() {
    keeps_its_minimum(1..=30, &bad_line());
}

#[test]
fn a_rolling_update_keeps_its_minimum_behind_a_second_bad_line() {
    keeps_its_minimum(31..=60, &bad_line());
}

#[test]
fn a_rolling_update_keeps_its_minimum_behind_a_third_bad_line() {
    keeps_its_minimum(61..=90, &bad_line());
}

#[test]
fn a_rolling_update_keeps_its_minimum_behind_a_fourth_bad_line() {
    keeps_its_minimum(91..=120, &bad_line());
}

#[test]
fn a_seed_replays_every_write() {
    for seed in 1..=3 {
        let (first, second) = (play(seed, bad_line()).1, play(seed, bad_line()).1);
        let differs = first.iter().zip(&second).position(|(a, b)| a != b);
        if let Some(at) = differs {
            panic!("seed {seed}: write {at} is\n{}\nand then\n{}", first[at], second[at]);
        }
        assert_eq!(first.len(), second.len(), "seed {seed}");
        assert_ne!(first, play(seed + 1, bad_line()).1, "the seed decides nothing");
    }
}
