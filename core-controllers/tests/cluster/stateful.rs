//! StatefulSets.

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, StatefulSet},
    core::v1::{Event, PersistentVolumeClaim, Pod},
};
use kube::{
    ResourceExt,
    api::{DeleteParams, PropagationPolicy},
};
use serde_json::{Value, json};
use windlass::{Informers, Scope, random::Source};

use crate::{
    faults::{Extremes, play_all},
    play::{Cluster, pass},
};

fn stateful_set(replicas: i32, more: Value) -> Value {
    let mut set = json!({
        "metadata": {"name": "db"},
        "spec": {
            "replicas": replicas,
            "serviceName": "db",
            "selector": {"matchLabels": {"app": "db"}},
            "template": {
                "metadata": {"labels": {"app": "db"}},
                "spec": {"containers": [{"name": "c", "image": "v1"}]},
            },
        },
    });
    for (field, value) in more.as_object().unwrap() {
        set["spec"][field] = value.clone();
    }
    set
}

fn claim_template() -> Value {
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    json!([{"metadata": {"name": "data"}, "spec": spec}])
}

fn image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

async fn names(cluster: &Cluster) -> Vec<String> {
    cluster.list::<Pod>("app=db").await.iter().map(ResourceExt::name_any).collect()
}

/// Name and image of each pod.
async fn images(cluster: &Cluster) -> Vec<String> {
    let pods = cluster.list::<Pod>("app=db").await;
    let image = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
    pods.iter().map(|pod| format!("{} {}", pod.name_any(), image(pod))).collect()
}

async fn become_ready(cluster: &Cluster, name: &str) {
    let now = windlass::clock::time();
    let condition = json!({"type": "Ready", "status": "True", "lastTransitionTime": now});
    let status = json!({"status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [condition]}});
    let patch = kube::api::Patch::Merge(status);
    cluster.api::<Pod>().patch_status(name, &Default::default(), &patch).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pods_come_up_in_order_and_go_from_above_and_claims_stay() {
    let cluster = Cluster::start("*").await;
    pass(1).await;
    let mut set = stateful_set(2, json!({"volumeClaimTemplates": claim_template()}));
    set["spec"]["template"]["metadata"]["labels"]["never-ready"] = json!("yes");
    cluster.create::<StatefulSet>(set).await;
    pass(60).await;
    assert_eq!(names(&cluster).await, ["db-0"], "the next one waits for it");
    become_ready(&cluster, "db-0").await;
    pass(1).await;
    assert_eq!(names(&cluster).await, ["db-0", "db-1"]);
    become_ready(&cluster, "db-1").await;
    pass(1).await;
    let pod = cluster.api::<Pod>().get("db-1").await.unwrap();
    assert_eq!(pod.labels()["apps.kubernetes.io/pod-index"], "1");
    assert_eq!(pod.metadata.generate_name.as_deref(), Some("db-"));
    assert_eq!(pod.spec.as_ref().unwrap().subdomain.as_deref(), Some("db"));
    let set = cluster.api::<StatefulSet>().get("db").await.unwrap();
    let status = set.status.unwrap();
    assert_eq!((status.replicas, status.ready_replicas, status.available_replicas), (2, Some(2), Some(2)));
    assert_eq!(status.current_revision, status.update_revision);
    assert_eq!(status.current_revision.as_deref(), Some(pod.labels()["controller-revision-hash"].as_str()));
    assert_eq!(status.observed_generation, set.metadata.generation);
    assert_eq!((status.collision_count, status.current_replicas), (Some(0), Some(2)));

    cluster.patch::<StatefulSet>("db", json!({"spec": {"replicas": 1}})).await;
    pass(2).await;
    assert_eq!(names(&cluster).await, ["db-0"]);
    let claims = cluster.list::<PersistentVolumeClaim>("").await;
    assert_eq!(claims.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["data-db-0", "data-db-1"]);
    assert!(claims.iter().all(|claim| claim.owner_references().is_empty()));
    let events = cluster.list::<Event>("").await;
    let notes: Vec<String> = events.iter().filter_map(|e| e.message.clone()).collect();
    for note in [
        "create Claim data-db-0 Pod db-0 in StatefulSet db success",
        "create Pod db-0 in StatefulSet db successful",
        "delete Pod db-1 in StatefulSet db successful",
    ] {
        assert!(notes.iter().any(|n| n == note), "{note}: {notes:?}");
    }

    cluster.api::<StatefulSet>().delete("db", &DeleteParams::default()).await.unwrap();
    pass(60).await;
    assert!(names(&cluster).await.is_empty());
    assert!(cluster.list::<ControllerRevision>("").await.is_empty());
    assert_eq!(cluster.list::<PersistentVolumeClaim>("").await.len(), 2, "claims outlive their set");
}

#[tokio::test(start_paused = true)]
async fn claims_go_with_what_the_policy_says() {
    let cluster = Cluster::start("*").await;
    pass(1).await;
    let policy = json!({"whenScaled": "Delete", "whenDeleted": "Delete"});
    let more =
        json!({"volumeClaimTemplates": claim_template(), "persistentVolumeClaimRetentionPolicy": policy});
    cluster.create::<StatefulSet>(stateful_set(3, more)).await;
    pass(5).await;
    let claims = async || -> Vec<String> {
        let claims = cluster.list::<PersistentVolumeClaim>("").await;
        let owners = |c: &PersistentVolumeClaim| {
            c.owner_references().iter().map(|o| o.name.clone()).collect::<Vec<_>>().join(",")
        };
        claims.iter().map(|claim| format!("{} {}", claim.name_any(), owners(claim))).collect()
    };
    assert_eq!(claims().await, ["data-db-0 db", "data-db-1 db", "data-db-2 db"]);
    let before = cluster.api::<PersistentVolumeClaim>().get("data-db-2").await.unwrap().uid();
    cluster.patch::<StatefulSet>("db", json!({"spec": {"replicas": 2}})).await;
    pass(30).await;
    assert_eq!(claims().await, ["data-db-0 db", "data-db-1 db"]);
    cluster.patch::<StatefulSet>("db", json!({"spec": {"replicas": 3}})).await;
    pass(30).await;
    assert_eq!(claims().await, ["data-db-0 db", "data-db-1 db", "data-db-2 db"]);
    let after = cluster.api::<PersistentVolumeClaim>().get("data-db-2").await.unwrap().uid();
    assert_ne!(before, after, "a new pod gets new storage");
    assert_eq!(names(&cluster).await.len(), 3);

    let keep =
        json!({"persistentVolumeClaimRetentionPolicy": {"whenScaled": "Retain", "whenDeleted": "Retain"}});
    cluster.patch::<StatefulSet>("db", json!({"spec": keep})).await;
    pass(5).await;
    assert_eq!(claims().await, ["data-db-0 ", "data-db-1 ", "data-db-2 "]);
    let told = |e: &Event| e.message.as_deref() == Some("update Pod db-0 in StatefulSet db successful");
    assert!(cluster.list::<Event>("").await.iter().any(told));
    let go = json!({"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete"}});
    cluster.patch::<StatefulSet>("db", json!({"spec": go})).await;
    pass(5).await;
    cluster.api::<StatefulSet>().delete("db", &DeleteParams::default()).await.unwrap();
    pass(60).await;
    assert!(claims().await.is_empty(), "{:?}", claims().await);
}

#[tokio::test(start_paused = true)]
async fn an_update_stops_at_the_partition_and_is_rolled_back() {
    let cluster = Cluster::start("*").await;
    pass(1).await;
    cluster.create::<StatefulSet>(stateful_set(3, json!({"revisionHistoryLimit": 1}))).await;
    pass(5).await;
    let status = async || cluster.api::<StatefulSet>().get("db").await.unwrap().status.unwrap();
    let first = status().await.current_revision;
    let partition = |n: i32| json!({"spec": {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": n}}}});
    cluster.patch::<StatefulSet>("db", partition(2)).await;
    cluster.patch::<StatefulSet>("db", image("v2")).await;
    pass(10).await;
    assert_eq!(images(&cluster).await, ["db-0 v1", "db-1 v1", "db-2 v2"]);
    let canary = status().await;
    assert_eq!((canary.current_replicas, canary.updated_replicas), (Some(2), Some(1)));
    assert_eq!(canary.current_revision, first);
    assert_ne!(canary.update_revision, first);
    // What is deleted below the partition comes back as it was, and above it as it is to be.
    for name in ["db-0", "db-2"] {
        cluster.api::<Pod>().delete(name, &DeleteParams::default()).await.unwrap();
    }
    pass(10).await;
    assert_eq!(images(&cluster).await, ["db-0 v1", "db-1 v1", "db-2 v2"]);

    cluster.patch::<StatefulSet>("db", partition(0)).await;
    pass(10).await;
    assert_eq!(images(&cluster).await, ["db-0 v2", "db-1 v2", "db-2 v2"]);
    let through = status().await;
    assert_eq!(through.current_revision, canary.update_revision);
    assert_eq!((through.current_replicas, through.updated_replicas), (Some(3), Some(3)));

    cluster.patch::<StatefulSet>("db", image("v1")).await;
    pass(10).await;
    assert_eq!(images(&cluster).await, ["db-0 v1", "db-1 v1", "db-2 v1"]);
    assert_eq!(status().await.current_revision, first, "the old revision is found again");
    let mut revisions: Vec<i64> =
        cluster.list::<ControllerRevision>("").await.iter().map(|r| r.revision).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, [2, 3]);
    for v in ["v3", "v4"] {
        cluster.patch::<StatefulSet>("db", image(v)).await;
        pass(10).await;
    }
    assert_eq!(cluster.list::<ControllerRevision>("").await.len(), 2, "one is kept beside the current one");
}

#[tokio::test(start_paused = true)]
async fn orphans_are_taken_back_and_strangers_let_go() {
    let cluster = Cluster::start("*").await;
    pass(1).await;
    cluster.create::<StatefulSet>(stateful_set(2, json!({"podManagementPolicy": "Parallel"}))).await;
    pass(5).await;
    let uid = async |name: &str| cluster.api::<Pod>().get(name).await.unwrap().uid();
    let before = (uid("db-0").await, uid("db-1").await);
    let orphan =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    cluster.api::<StatefulSet>().delete("db", &orphan).await.unwrap();
    pass(10).await;
    assert_eq!(names(&cluster).await, ["db-0", "db-1"]);
    assert!(cluster.list::<Pod>("app=db").await.iter().all(|pod| pod.owner_references().is_empty()));
    let revisions = cluster.list::<ControllerRevision>("").await;
    assert!(revisions.len() == 1 && revisions[0].owner_references().is_empty());

    let set: StatefulSet = cluster.create(stateful_set(2, json!({"podManagementPolicy": "Parallel"}))).await;
    pass(5).await;
    assert_eq!((uid("db-0").await, uid("db-1").await), before, "adopted as they are");
    let owners: Vec<_> =
        cluster.list::<Pod>("app=db").await.iter().map(|p| p.owner_references()[0].uid.clone()).collect();
    assert_eq!(owners, [set.uid().unwrap(), set.uid().unwrap()]);
    let revisions = cluster.list::<ControllerRevision>("").await;
    assert!(revisions.len() == 1 && revisions[0].owner_references()[0].name == "db");

    cluster.patch::<Pod>("db-1", json!({"metadata": {"labels": {"app": "debug"}}})).await;
    pass(5).await;
    let released = cluster.api::<Pod>().get("db-1").await.unwrap();
    assert!(released.owner_references().is_empty(), "released, and its name is taken");
    cluster.api::<Pod>().delete("db-1", &DeleteParams::default()).await.unwrap();
    pass(60).await;
    assert_eq!(names(&cluster).await, ["db-0", "db-1"]);
}

#[tokio::test(start_paused = true)]
async fn what_has_ended_is_made_anew_and_on_delete_waits_for_the_hand() {
    let cluster = Cluster::start("*").await;
    pass(1).await;
    let more = json!({
        "updateStrategy": {"type": "OnDelete"}, "minReadySeconds": 20, "ordinals": {"start": 5},
    });
    cluster.create::<StatefulSet>(stateful_set(2, more)).await;
    pass(15).await;
    assert_eq!(names(&cluster).await, ["db-5"]);
    let status = async || cluster.api::<StatefulSet>().get("db").await.unwrap().status.unwrap();
    assert_eq!((status().await.ready_replicas, status().await.available_replicas), (Some(1), Some(0)));
    pass(30).await;
    assert_eq!(names(&cluster).await, ["db-5", "db-6"]);
    assert_eq!(status().await.available_replicas, Some(2));
    let before = cluster.api::<Pod>().get("db-5").await.unwrap().uid();
    let failed = kube::api::Patch::Merge(json!({"status": {"phase": "Failed"}}));
    cluster.api::<Pod>().patch_status("db-5", &Default::default(), &failed).await.unwrap();
    pass(5).await;
    assert_ne!(cluster.api::<Pod>().get("db-5").await.unwrap().uid(), before);

    cluster.patch::<StatefulSet>("db", image("v2")).await;
    pass(60).await;
    assert_eq!(images(&cluster).await, ["db-5 v1", "db-6 v1"]);
    cluster.api::<Pod>().delete("db-5", &DeleteParams::default()).await.unwrap();
    pass(60).await;
    assert_eq!(images(&cluster).await, ["db-5 v2", "db-6 v1"]);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_taken_gets_another_hash() {
    let cluster = Cluster::start("*").await;
    pass(1).await;
    cluster.create::<StatefulSet>(stateful_set(1, json!({}))).await;
    pass(5).await;
    let name = cluster.list::<ControllerRevision>("").await[0].name_any();
    cluster.api::<StatefulSet>().delete("db", &DeleteParams::default()).await.unwrap();
    pass(30).await;
    let squatter = json!({"metadata": {"name": name}, "revision": 1, "data": {"spec": {}}});
    cluster.create::<ControllerRevision>(squatter).await;
    cluster.create::<StatefulSet>(stateful_set(1, json!({}))).await;
    pass(5).await;
    let status = cluster.api::<StatefulSet>().get("db").await.unwrap().status.unwrap();
    assert_eq!((status.collision_count, status.ready_replicas), (Some(1), Some(1)));
    assert_ne!(status.current_revision, Some(name));
}

/// Behind a bad line an ordered set is still updated one by one, and each ordinal keeps its one claim.
async fn update_behind_a_bad_line(seed: u64) {
    let cluster = Cluster::start_with("*", Some(seed)).await;
    pass(120).await;
    cluster.create::<StatefulSet>(stateful_set(3, json!({"volumeClaimTemplates": claim_template()}))).await;
    let extremes = Extremes::default();
    let informers = Informers::seeded(cluster.client.clone(), Source::seeded(seed));
    let follows = extremes.clone();
    let _pods = informers.get::<Pod>(Scope::all()).subscribe(move |delta| follows.pod(delta));
    settled(&cluster, "v1", seed).await;
    let uids = async || -> Vec<String> {
        let claims = cluster.list::<PersistentVolumeClaim>("").await;
        claims.iter().map(|claim| format!("{} {}", claim.name_any(), claim.uid().unwrap())).collect()
    };
    let before = uids().await;
    assert_eq!(before.len(), 3, "seed {seed}");
    extremes.begin();
    for version in ["v2", "v3"] {
        cluster.patch::<StatefulSet>("db", image(version)).await;
        settled(&cluster, version, seed).await;
    }
    assert_eq!(extremes.read().0, 2, "seed {seed}: one pod at a time");
    assert_eq!(uids().await, before, "seed {seed}");
}

async fn settled(cluster: &Cluster, version: &str, seed: u64) {
    let wanted: Vec<String> = (0..3).map(|ordinal| format!("db-{ordinal} {version}")).collect();
    for _ in 0..600 {
        pass(2).await;
        let set = cluster.api::<StatefulSet>().get("db").await.unwrap();
        let done = set.status.as_ref().is_some_and(|status| {
            status.observed_generation == set.metadata.generation
                && status.available_replicas == Some(3)
                && status.current_revision == status.update_revision
        });
        if done && images(cluster).await == wanted {
            return;
        }
    }
    panic!("seed {seed}: the update to {version} never ends");
}

#[test]
fn an_update_goes_one_by_one_behind_a_bad_line() {
    play_all(0..30, update_behind_a_bad_line);
}
