//! Objects for the tests of this crate, written as one line of text each.

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetSpec},
        core::v1::{ContainerStatus, Pod, PodCondition, PodSpec, PodStatus},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::api::ObjectMeta;

/// So many seconds after the epoch.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

/// A pod such as `web-1 ready node=n1 since=10 restarts=2 app=web`: its name, its state (`ready`, `running`, `pending`,
/// `failed`, `succeeded`, `going`), and anything else as field or label.
pub(crate) fn pod(text: &str) -> Pod {
    let mut words = text.split(' ');
    let name = words.next().unwrap_or_default();
    let mut pod = Pod {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("default".to_owned()),
            uid: Some(format!("uid-{name}")),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec { node_name: Some("n".to_owned()), ..PodSpec::default() }),
        status: Some(PodStatus { phase: Some("Running".to_owned()), ..PodStatus::default() }),
    };
    let mut ready = None;
    let mut since = Timestamp::UNIX_EPOCH;
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let status = pod.status.as_mut().unwrap();
        match key {
            "ready" => ready = Some("True"),
            "running" => ready = Some("False"),
            "pending" => status.phase = Some("Pending".to_owned()),
            "failed" => status.phase = Some("Failed".to_owned()),
            "succeeded" => status.phase = Some("Succeeded".to_owned()),
            "going" => pod.metadata.deletion_timestamp = Some(Time(at(1))),
            "node" => pod.spec.as_mut().unwrap().node_name = Some(value.to_owned()),
            "ip" => status.pod_ip = Some(value.to_owned()),
            "since" => since = at(value.parse().unwrap()),
            "created" => pod.metadata.creation_timestamp = Some(Time(at(value.parse().unwrap()))),
            "cost" => {
                let key = "controller.kubernetes.io/pod-deletion-cost".to_owned();
                pod.metadata.annotations.get_or_insert_default().insert(key, value.to_owned());
            }
            "restarts" => {
                let restart_count = value.parse().unwrap();
                status.container_statuses =
                    Some(vec![ContainerStatus { restart_count, ..ContainerStatus::default() }]);
            }
            label => {
                pod.metadata.labels.get_or_insert_default().insert(label.to_owned(), value.to_owned());
            }
        }
    }
    if let Some(status) = ready {
        let condition = PodCondition {
            type_: "Ready".to_owned(),
            status: status.to_owned(),
            last_transition_time: Some(Time(since)),
            ..PodCondition::default()
        };
        pod.status.as_mut().unwrap().conditions = Some(vec![condition]);
    }
    pod
}

/// A ReplicaSet that asks for this many pods.
pub(crate) fn replica_set(name: &str, replicas: i32) -> ReplicaSet {
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("default".to_owned()),
            uid: Some(format!("uid-{name}")),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec { replicas: Some(replicas), ..ReplicaSetSpec::default() }),
        status: None,
    }
}
