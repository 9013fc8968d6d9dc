//! Facts, and what is said of them.

use expect_test::{Expect, expect};
use serde_json::json;

use super::*;

const NOW: &str = "2026-01-01T01:00:00Z";

fn check(facts: &Facts, expected: &Expect) {
    expected.assert_eq(&Report::new(facts, NOW.parse().unwrap()).to_string());
}

fn about(subject: Value) -> Facts {
    Facts { subject, ..Facts::default() }
}

fn named(kind: &str, name: &str, owner: &str) -> Value {
    let owners = if owner.is_empty() { json!([]) } else { json!([{ "uid": owner, "controller": true }]) };
    json!({
        "apiVersion": if kind == "Pod" { "v1" } else { "apps/v1" },
        "kind": kind,
        "metadata": { "namespace": "sea", "name": name, "uid": name, "ownerReferences": owners, "generation": 1 },
    })
}

fn with(mut object: Value, fields: Value) -> Value {
    for (field, value) in fields.as_object().unwrap() {
        object[field] = value.clone();
    }
    object
}

fn node(name: &str, cpu: &str, taint: Option<&str>) -> Node {
    let taints: Vec<Value> =
        taint.into_iter().map(|key| json!({ "key": key, "effect": "NoSchedule" })).collect();
    serde_json::from_value(json!({
        "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
        "spec": { "taints": taints },
        "status": { "allocatable": { "cpu": cpu, "memory": "1Gi", "pods": "10" } },
    }))
    .unwrap()
}

#[test]
fn what_is_well_waits_for_nothing() {
    let web = with(
        named("Deployment", "web", ""),
        json!({
            "spec": { "replicas": 1 },
            "status": { "readyReplicas": 1, "observedGeneration": 1, "conditions": [
                { "type": "Available", "status": "True" },
                { "type": "ReplicaFailure", "status": "False" },
            ] },
        }),
    );
    check(
        &about(web),
        &expect![[r#"
        Deployment sea/web
          waits for nothing
    "#]],
    );
}

#[test]
fn a_pod_that_no_node_takes_holds_up_its_owners() {
    let web = with(
        named("Deployment", "web", ""),
        json!({
            "spec": { "replicas": 2 },
            "status": { "readyReplicas": 1, "observedGeneration": 1, "conditions": [
                { "type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable", "message": "Deployment does not have minimum availability.", "lastTransitionTime": "2026-01-01T00:50:00Z" },
            ] },
        }),
    );
    let set = with(
        named("ReplicaSet", "web-1", "web"),
        json!({ "spec": { "replicas": 2 }, "status": { "readyReplicas": 1, "observedGeneration": 1 } }),
    );
    let good = with(
        named("Pod", "web-1-a", "web-1"),
        json!({
            "spec": { "nodeName": "small", "containers": [{ "name": "main", "resources": { "requests": { "cpu": "500m" } } }] },
            "status": { "phase": "Running" },
        }),
    );
    let stuck = with(
        named("Pod", "web-1-b", "web-1"),
        json!({
            "spec": { "containers": [{ "name": "main", "resources": { "requests": { "cpu": "1" } } }] },
            "status": { "phase": "Pending", "conditions": [
                { "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s)." },
            ] },
        }),
    );
    let pods = [&good, &stuck].map(|pod| serde_json::from_value(pod.clone()).unwrap()).into();
    let facts = Facts {
        subject: web,
        family: vec![stuck, set, good],
        nodes: vec![node("small", "1", None), node("tainted", "8", Some("reserved"))],
        pods,
        events: vec![
            json!({ "involvedObject": { "kind": "Pod", "name": "web-1-b" }, "type": "Warning", "reason": "FailedScheduling", "message": "0/2 nodes are available", "count": 3, "lastTimestamp": "2026-01-01T00:59:30Z" }),
            json!({ "involvedObject": { "kind": "Deployment", "name": "web" }, "type": "Normal", "reason": "ScalingReplicaSet", "message": "Scaled up", "eventTime": "2026-01-01T00:10:00.000000Z" }),
        ],
        ..Facts::default()
    };
    check(
        &facts,
        &expect![[r#"
        Deployment sea/web
          1 of 2 replicas are ready
          Available is False, 10 min ago: MinimumReplicasUnavailable: Deployment does not have minimum availability.
          ReplicaSet sea/web-1
            1 of 2 replicas are ready
            Pod sea/web-1-b
              no node was found for it: 0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s).
              small refuses it by NodeResourcesFit: Insufficient cpu
              tainted refuses it by TaintToleration: node(s) had untolerated taint(s)
        Events
          30 s ago: Warning FailedScheduling Pod/web-1-b (3 times): 0/2 nodes are available
          50 min ago: Normal ScalingReplicaSet Deployment/web: Scaled up
    "#]],
    );
}

#[test]
fn containers_say_why_they_wait() {
    let pod = with(
        named("Pod", "db", ""),
        json!({
            "spec": { "nodeName": "small", "readinessGates": [{ "conditionType": "harbour.dev/open" }] },
            "status": {
                "phase": "Running",
                "conditions": [{ "type": "Ready", "status": "False" }, { "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI" }],
                "initContainerStatuses": [{ "name": "prepare", "state": { "terminated": { "exitCode": 0 } } }],
                "containerStatuses": [
                    { "name": "main", "restartCount": 4, "state": { "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 40s" } }, "lastState": { "terminated": { "exitCode": 137, "reason": "OOMKilled" } } },
                    { "name": "pull", "restartCount": 0, "state": { "waiting": { "reason": "ImagePullBackOff" } } },
                    { "name": "slow", "restartCount": 0, "ready": false, "state": { "running": {} } },
                    { "name": "good", "restartCount": 0, "ready": true, "state": { "running": {} } },
                ],
            },
        }),
    );
    check(
        &about(pod),
        &expect![[r#"
        Pod sea/db
          container main waits: CrashLoopBackOff: back-off 40s (restarted 4 times; last it ended with exit code 137, OOMKilled)
          container pull waits: ImagePullBackOff
          container slow runs and is not ready
          its readiness gate harbour.dev/open is not true
          DisruptionTarget is True: EvictionByEvictionAPI
    "#]],
    );
}

#[test]
fn what_an_operator_does_just_now_is_told() {
    let sail = with(named("Sail", "main", "uid"), json!({ "status": { "observedGeneration": 1 } }));
    let work = |key: &str, held| json!({ "key": key, "since": "2026-01-01T00:59:30Z", "held": held });
    let wait =
        |key: &str| json!({ "key": key, "failures": 3, "until": "2026-01-01T01:00:09Z", "error": "no" });
    let totals =
        json!({ "succeeded": 0, "requeued": 0, "failed": 0, "terminal": 0, "panicked": 0, "timedOut": 0 });
    let controller = |name: &str, started, in_flight, retrying| {
        json!({
            "name": name, "started": started, "workers": 5, "ready": { "0": 1 }, "scheduled": 1,
            "inFlight": [in_flight, work("sea/other", false)], "retrying": [retrying], "totals": totals,
        })
    };
    let watch = |path: &str, state, reason| {
        json!({
            "kind": "Sail", "path": path, "state": state, "reason": reason, "revision": 1, "objects": 1,
            "lastEvent": null, "lastHeard": null, "relists": 0, "restarts": 0,
        })
    };
    let doing = json!({
        "at": NOW,
        "leases": [{ "lease": "sea/rigger", "identity": "b", "holder": "a", "leads": false, "since": NOW }],
        "controllers": [
            controller("rigger", true, work("sea/main", false), wait("sea/other")),
            controller("painter", true, work("sea/main", true), wait("sea/main")),
            controller("late", false, work("sea/other", false), wait("sea/other")),
        ],
        "watches": [
            watch("/apis/harbour.dev/v1/sails", "watching", json!(null)),
            watch("/api/v1/secrets", "failing", json!("the server refused")),
        ],
    });
    let facts = Facts { doing: serde_json::from_value(doing).unwrap(), ..about(sail) };
    check(
        &facts,
        &expect![[r#"
            Sail sea/main
              waits for nothing
            Its operator
              rigger works on sea/main for 30 s
              painter holds sea/main for 30 s, until its caches have what it wrote
              painter tries sea/main again in 9 s, after 3 failures
              late waits for its caches
              its watch of /api/v1/secrets stands still: the server refused
              it waits for the lease sea/rigger, which "a" holds: ask that replica
        "#]],
    );
}

#[test]
fn what_is_deleted_says_who_holds_it() {
    let mut sail = with(named("Sail", "main", "gone"), json!({ "status": { "observedGeneration": 0 } }));
    sail["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    sail["metadata"]["finalizers"] = json!(["harbour.dev/anchor", "foregroundDeletion"]);
    let failure = |key: &str| Failure {
        controller: "rigger".to_owned(),
        key: key.to_owned(),
        failures: 7,
        since: NOW.parse().unwrap(),
        last: "2026-01-01T00:59:58Z".parse().unwrap(),
        error: "the anchor is stuck".to_owned(),
    };
    let facts = Facts {
        owners: vec![("Ship main".to_owned(), false)],
        failures: vec![failure("sea/main"), failure("sea/other")],
        ..about(sail)
    };
    check(
        &facts,
        &expect![[r#"
        Sail sea/main
          it is being deleted, 60 min ago, and held by harbour.dev/anchor, foregroundDeletion
          foregroundDeletion: what belongs to it has to go first
          its controller has not seen generation 1 yet, and last saw 0
        Belongs to
          Ship main, which is gone: the garbage collector deletes what is left
        Its operator
          rigger failed 7 times at sea/main, last 2 s ago: the anchor is stuck
    "#]],
    );
}

#[test]
fn quotas_services_claims_and_namespaces() {
    let set = with(
        named("ReplicaSet", "web", ""),
        json!({
            "spec": { "replicas": 3 },
            "status": { "observedGeneration": 1, "conditions": [
                { "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "pods \"web-x\" is forbidden: exceeded quota: few, requested: pods=1, used: pods=2, limited: pods=2" },
            ] },
        }),
    );
    let few = json!({ "metadata": { "name": "few" }, "status": { "hard": { "pods": "2" }, "used": { "pods": "2" } } });
    check(
        &Facts { quotas: vec![few], ..about(set) },
        &expect![[r#"
        ReplicaSet sea/web
          0 of 3 replicas are ready
          ReplicaFailure is True: FailedCreate: pods "web-x" is forbidden: exceeded quota: few, requested: pods=1, used: pods=2, limited: pods=2
          quota few: 2 of 2 pods are used
    "#]],
    );

    let service = with(named("Service", "web", ""), json!({ "spec": { "selector": { "app": "web" } } }));
    let slice = with(
        named("EndpointSlice", "web-1", "web"),
        json!({ "endpoints": [{ "conditions": { "ready": false } }] }),
    );
    check(
        &Facts { family: vec![slice], ..about(service.clone()) },
        &expect![[r#"
        Service sea/web
          no pod that is ready has the labels it selects: {"app":"web"}
    "#]],
    );
    let slice = with(
        named("EndpointSlice", "web-1", "web"),
        json!({ "endpoints": [{ "conditions": { "ready": true } }] }),
    );
    check(
        &Facts { family: vec![slice], ..about(service) },
        &expect![[r#"
        Service sea/web
          waits for nothing
    "#]],
    );

    let claim = with(
        named("PersistentVolumeClaim", "data", ""),
        json!({ "spec": { "storageClassName": "fast" }, "status": { "phase": "Pending" } }),
    );
    check(
        &about(claim),
        &expect![[r#"
        PersistentVolumeClaim sea/data
          it is Pending: no volume of storage class fast is bound to it
    "#]],
    );

    let mut namespace = json!({ "kind": "Namespace", "metadata": { "name": "sea", "uid": "n", "deletionTimestamp": "2026-01-01T00:59:00Z" }, "spec": { "finalizers": ["kubernetes"] } });
    namespace["status"] = json!({ "phase": "Terminating", "conditions": [
        { "type": "NamespaceDeletionContentFailure", "status": "False" },
        { "type": "NamespaceFinalizersRemaining", "status": "True", "reason": "SomeFinalizersRemain", "message": "harbour.dev/anchor in 1 resource instances" },
    ] });
    check(
        &about(namespace),
        &expect![[r#"
        Namespace sea
          it is being deleted, 60 s ago, and held by kubernetes
          kubernetes: everything in the namespace has to go first
          NamespaceFinalizersRemaining is True: SomeFinalizersRemain: harbour.dev/anchor in 1 resource instances
    "#]],
    );
}
