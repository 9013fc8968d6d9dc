//! Tables of decisions: a set, nodes and pods, each a line of text, and what is done about them.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Node, Pod},
};
use serde_json::json;

use super::{
    fit::{self, Fit},
    new_pod,
    plan::{self, View},
    status,
};
use crate::testing::{at, pod};

/// A set such as `max=2 surge=1 ondelete minready=10 selects=disk:ssd hostnetwork`.
fn set(text: &str) -> DaemonSet {
    let mut spec = json!({
        "selector": {"matchLabels": {"app": "d"}},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
        "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c"}]}},
    });
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let share = || value.parse::<i32>().map_or(json!(value), |number| json!(number));
        match key {
            "max" => spec["updateStrategy"]["rollingUpdate"]["maxUnavailable"] = share(),
            "surge" => {
                spec["updateStrategy"]["rollingUpdate"] = json!({"maxUnavailable": 0, "maxSurge": share()});
            }
            "ondelete" => spec["updateStrategy"] = json!({"type": "OnDelete"}),
            "minready" => spec["minReadySeconds"] = share(),
            "hostnetwork" => spec["template"]["spec"]["hostNetwork"] = json!(true),
            "selects" => {
                let (label, wanted) = value.split_once(':').unwrap();
                spec["template"]["spec"]["nodeSelector"] = json!({label: wanted});
            }
            other => panic!("{other}"),
        }
    }
    let metadata = json!({"name": "d", "namespace": "default", "uid": "uid-d", "generation": 1});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

/// A node such as `n1 disk=ssd taint=k:NoSchedule`.
fn node(text: &str) -> Arc<Node> {
    let mut words = text.split(' ');
    let mut node = json!({"metadata": {"name": words.next().unwrap(), "labels": {}}, "spec": {"taints": []}});
    for (key, value) in words.map(|word| word.split_once('=').unwrap()) {
        match (key, value.split_once(':')) {
            ("taint", Some((taint, effect))) => {
                let taint = json!({"key": taint, "effect": effect});
                node["spec"]["taints"].as_array_mut().unwrap().push(taint);
            }
            _ => node["metadata"]["labels"][key] = json!(value),
        }
    }
    Arc::new(serde_json::from_value(node).unwrap())
}

/// A pod such as `a ready node=n1`, of the present template unless it says `old`; with `for=n1` it is not bound yet.
fn member(text: &str) -> Arc<Pod> {
    let mut member = pod(text);
    let labels = member.metadata.labels.get_or_insert_default();
    let hash = if labels.remove("old").is_some() { "h0" } else { "h1" };
    let for_node = labels.remove("for");
    labels.insert(plan::HASH.to_owned(), hash.to_owned());
    if let Some(node) = for_node {
        let spec = member.spec.as_mut().unwrap();
        spec.node_name = None;
        fit::bind(spec, &node);
    }
    Arc::new(member)
}

fn with_view<T>(text: &str, nodes: &[&str], pods: &[&str], look: impl Fn(&View<'_>) -> T) -> T {
    let set = set(text);
    let nodes: Vec<Arc<Node>> = nodes.iter().map(|text| node(text)).collect();
    let pods: Vec<Arc<Pod>> = pods.iter().map(|text| member(text)).collect();
    let backoff = |node: &str| Duration::from_secs(if node == "slow" { 7 } else { 0 });
    look(&View::new(&set, "h1", &pods, &nodes, &backoff, at(1000)))
}

fn planned(text: &str, nodes: &[&str], pods: &[&str]) -> String {
    with_view(text, nodes, pods, |view| {
        let plan = plan::plan(view);
        let gone: Vec<&str> = plan.delete.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect();
        let wait = plan.wait.map(|wait| format!(" wait {}", wait.as_secs())).unwrap_or_default();
        format!("+{} -{}{wait}", plan.create.join(" "), gone.join(" "))
    })
}

#[test]
fn every_node_has_its_one_pod() {
    let cases: &[(&str, &[&str], &[&str], &str)] = &[
        ("", &["n1", "n2"], &[], "+n1 n2 -"),
        ("", &["n1", "n2"], &["a ready node=n1"], "+n2 -"),
        ("", &["n1", "n2"], &["a ready node=n1", "b pending for=n2"], "+ -"),
        ("", &["n1"], &["a ready node=n1 created=5", "b ready node=n1 created=9"], "+ -b"),
        ("", &["n1"], &["a pending for=n1 created=5", "b ready node=n1 created=9"], "+ -a"),
        ("", &["n1"], &["a ready node=n1 going"], "+ -"),
        ("", &["n1"], &["a failed node=n1 going"], "+n1 -"),
        ("", &["n1"], &["a failed node=n1"], "+ -a"),
        ("", &["n1"], &["a succeeded node=n1"], "+ -a"),
        ("", &["slow"], &["a failed node=slow"], "+ - wait 7"),
        ("", &[], &["a pending for=gone", "b ready node=gone"], "+ -a"),
        ("selects=disk:ssd", &["n1 disk=ssd", "n2 disk=hdd", "n3"], &["a ready node=n3"], "+n1 -a"),
        ("", &["n1 taint=k:NoSchedule"], &[], "+ -"),
        ("", &["n1 taint=k:NoSchedule"], &["a ready node=n1"], "+ -"),
        ("", &["n1 taint=k:NoExecute"], &["a ready node=n1"], "+ -a"),
        ("", &["n1 taint=k:PreferNoSchedule"], &[], "+n1 -"),
        (
            "",
            &[
                "n1 taint=node.kubernetes.io/not-ready:NoExecute",
                "n2 taint=node.kubernetes.io/unschedulable:NoSchedule",
            ],
            &[],
            "+n1 n2 -",
        ),
        ("", &["n1 taint=node.kubernetes.io/network-unavailable:NoSchedule"], &[], "+ -"),
        ("hostnetwork", &["n1 taint=node.kubernetes.io/network-unavailable:NoSchedule"], &[], "+n1 -"),
    ];
    for (set, nodes, pods, expected) in cases {
        assert_eq!(planned(set, nodes, pods), *expected, "{set} {nodes:?} {pods:?}");
    }
}

#[test]
fn an_update_goes_node_by_node() {
    let nodes = ["n1", "n2", "n3", "n4"];
    let old = ["a ready node=n1 old", "b ready node=n2 old", "c ready node=n3 old", "d ready node=n4 old"];
    let with = |changes: &[(usize, &'static str)]| {
        let mut pods = old.to_vec();
        changes.iter().for_each(|(i, text)| pods[*i] = text);
        pods
    };
    let cases: &[(&str, Vec<&str>, &str)] = &[
        ("", with(&[]), "+ -a"),
        ("max=2", with(&[]), "+ -a b"),
        ("max=30%", with(&[]), "+ -a b"),
        ("ondelete", with(&[]), "+ -"),
        ("", with(&[(0, "a ready node=n1")]), "+ -b"),
        ("", with(&[(0, "a running node=n1")]), "+ -"),
        ("minready=10", with(&[(0, "a ready node=n1 since=995")]), "+ -"),
        ("", with(&[(0, "a ready node=n1 old going")]), "+ -"),
        // What serves nobody goes at once, whatever else is missing.
        ("", with(&[(1, "b running node=n2 old"), (2, "c running node=n3 old")]), "+ -b c"),
    ];
    for (set, pods, expected) in cases {
        assert_eq!(planned(set, &nodes, pods), *expected, "{set} {pods:?}");
    }
    // First every node gets what it should have.
    assert_eq!(planned("", &nodes, &old[..3]), "+n4 -");
}

#[test]
fn a_set_that_surges_makes_the_new_pod_first() {
    let cases: &[(&[&str], &str)] = &[
        (&["a ready node=n1 old", "b ready node=n2 old"], "+n1 -"),
        (&["a ready node=n1 old", "x running node=n1", "b ready node=n2 old"], "+ -"),
        (&["a ready node=n1 old", "x ready node=n1", "b ready node=n2 old"], "+ -a"),
        (&["x ready node=n1", "b ready node=n2 old"], "+n2 -"),
        (&["a running node=n1 old", "x running node=n1", "b ready node=n2 old"], "+ -a"),
        (&["a ready node=n1 old", "b running node=n2 old"], "+n2 n1 -"),
        (&["a ready node=n1 old created=5", "z ready node=n1 old created=9", "b ready node=n2 old"], "+ -z"),
        // What is going or has failed is not waited for.
        (&["a ready node=n1 old going", "x ready node=n2"], "+n1 -"),
        (&["a failed node=n1", "x ready node=n2"], "+n1 -a"),
    ];
    for (pods, expected) in cases {
        assert_eq!(planned("surge=1", &["n1", "n2"], pods), *expected, "{pods:?}");
    }
    assert_eq!(planned("surge=1", &["slow"], &["a failed node=slow"]), "+slow - wait 7");
    // An old pod on a node that gets no new one goes when it serves nobody, or when enough others serve.
    let tainted = ["n1", "n2 taint=k:NoSchedule"];
    let cases: &[(&[&str], &str)] = &[
        (&["x ready node=n1", "b running node=n2 old"], "+ -b"),
        (&["x ready node=n1", "b ready node=n2 old"], "+ -b"),
        (&["x running node=n1", "b ready node=n2 old"], "+ -"),
        (&["a ready node=n1 old", "x running node=n1", "b ready node=n2 old"], "+ -b"),
    ];
    for (pods, expected) in cases {
        assert_eq!(planned("surge=1", &tainted, pods), *expected, "{pods:?}");
    }
}

#[test]
fn a_pod_is_for_one_node_and_bears_what_daemons_bear() {
    let mut set = set("selects=disk:ssd");
    set.metadata.annotations =
        Some([("deprecated.daemonset.template.generation".to_owned(), "3".to_owned())].into());
    let pod = new_pod(&set, "h1", "n7");
    assert_eq!(fit::target(&pod), Some("n7"));
    let text = json!(pod);
    assert_eq!(
        text["metadata"]["labels"],
        json!({"app": "d", "controller-revision-hash": "h1", "pod-template-generation": "3"})
    );
    assert_eq!(text["metadata"]["generateName"], "d-");
    assert_eq!(text["spec"]["tolerations"].as_array().unwrap().len(), 6);
    assert_eq!(
        text["spec"]["tolerations"][0],
        json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"})
    );
    let spec = pod.spec.unwrap();
    assert_eq!(fit::fit(&spec, &node("n7 disk=ssd")), Fit::Wanted);
    assert_eq!(fit::fit(&spec, &node("n8 disk=ssd")), Fit::Unwanted);
}

#[test]
fn the_status_counts_nodes() {
    let counted = |text: &str, nodes: &[&str], pods: &[&str]| {
        let status = with_view(text, nodes, pods, |view| status::status(view, 0));
        let count = |count: Option<i32>| count.unwrap_or(0);
        (
            [status.desired_number_scheduled, status.current_number_scheduled, status.number_ready],
            [status.number_available, status.number_unavailable, status.updated_number_scheduled].map(count),
            status.number_misscheduled,
        )
    };
    let pods = ["a ready node=n1", "b running node=n2 old", "x ready node=n4"];
    let nodes = ["n1", "n2", "n3", "n4 taint=k:NoSchedule"];
    assert_eq!(counted("", &nodes, &pods), ([3, 2, 1], [1, 2, 1], 1));
    assert_eq!(counted("minready=10", &["n1"], &["a ready node=n1 since=995"]), ([1, 1, 1], [0, 1, 1], 0));
}
