//! What the operator does, without faults.

use k8s_openapi::api::{admissionregistration::v1::ValidatingAdmissionPolicy, core::v1::Event};
use kube::{Api, api::ListParams};
use labels::{EXEMPT, Planted, Quota, Usage};
use minicluster::TestCluster;
use serde_json::json;

use crate::{begin, centre};

#[tokio::test(start_paused = true)]
async fn objects_have_the_label_of_their_namespace() {
    let cluster = TestCluster::start().await;
    let (people, _operator) = begin(&cluster, Planted::Nothing).await;
    people.map("before", json!({}), json!({})).await.unwrap();
    people.ask(json!({})).await;
    people
        .map("wrong", json!({ "cost-centre": "b" }), json!({}))
        .await
        .unwrap();
    people
        .map("shared", json!({}), json!({ EXEMPT: "everybody pays" }))
        .await
        .unwrap();
    assert!(cluster.settle().await);
    for name in ["before", "wrong"] {
        assert_eq!(people.labels(name).await, centre("a"), "{name}");
    }
    assert!(people.labels("shared").await.is_empty());
    assert_eq!(
        (people.status().await.objects, people.status().await.exempt),
        (2, 1)
    );
    assert_eq!(
        people.compliant().await,
        "True AllCarry: 2 objects carry cost-centre"
    );

    // Another centre pays, and everything follows.
    people.centre(json!("c")).await;
    assert!(cluster.settle().await);
    assert_eq!(people.labels("before").await, centre("c"));
    people.centre(json!(null)).await;
    assert!(cluster.settle().await);
    assert_eq!(
        people.compliant().await,
        "False Violations: the namespace shop has no label cost-centre"
    );
    assert_eq!(people.labels("before").await, centre("c"), "nobody guesses");
}

#[tokio::test(start_paused = true)]
async fn too_much_is_told_once() {
    let cluster = TestCluster::start().await;
    let (people, _operator) = begin(&cluster, Planted::Nothing).await;
    people
        .ask(json!({ "quotas": [Quota { kind: "configmaps".into(), limit: 2 }] }))
        .await;
    for name in ["one", "two", "three"] {
        people.map(name, json!({}), json!({})).await.unwrap();
    }
    assert!(cluster.settle().await);
    let status = people.status().await;
    let usage = Usage {
        namespace: "shop".into(),
        kind: "configmaps".into(),
        objects: 3,
        limit: 2,
    };
    assert_eq!((status.usage, status.violation_count), (vec![usage], 1));
    let sentence = "shop has 3 configmaps, and 2 are allowed";
    assert_eq!(people.compliant().await, format!("False Violations: {sentence}"));
    people.centre(json!("b")).await;
    assert!(cluster.settle().await);
    let events: Api<Event> = Api::all(cluster.client());
    let events = events.list(&ListParams::default()).await.unwrap();
    let told: Vec<_> = events
        .iter()
        .filter(|event| event.reason.as_deref() == Some("OverQuota"))
        .collect();
    assert_eq!(told.len(), 1);
    assert_eq!(
        (told[0].message.as_deref(), told[0].count.unwrap_or(1)),
        (Some(sentence), 1)
    );

    people
        .change(json!({ "quotas": [Quota { kind: "configmaps".into(), limit: 3 }] }))
        .await;
    assert!(cluster.settle().await);
    assert_eq!(
        people.compliant().await,
        "True AllCarry: 3 objects carry cost-centre"
    );
}

#[tokio::test(start_paused = true)]
async fn the_api_server_refuses_by_the_same_rules() {
    let cluster = TestCluster::start().await;
    let (people, _operator) = begin(&cluster, Planted::Nothing).await;
    people.ask(json!({ "enforce": true })).await;
    assert!(cluster.settle().await);
    let refused = people
        .map("wrong", json!({ "cost-centre": "b" }), json!({}))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("cost-centre is what the namespace says"),
        "{refused}"
    );
    people
        .map("right", json!({ "cost-centre": "a" }), json!({}))
        .await
        .unwrap();
    people.map("later", json!({}), json!({})).await.unwrap();
    people
        .map(
            "shared",
            json!({ "cost-centre": "b" }),
            json!({ EXEMPT: "everybody pays" }),
        )
        .await
        .unwrap();
    // The operator's own writes pass, after a change of the namespace as well.
    people.centre(json!("c")).await;
    assert!(cluster.settle().await);
    for name in ["right", "later"] {
        assert_eq!(people.labels(name).await, centre("c"), "{name}");
    }

    people.change(json!({ "enforce": false })).await;
    assert!(cluster.settle().await);
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(cluster.client());
    assert!(policies.get_opt("costs.labels.dev").await.unwrap().is_none());
    people
        .map("wrong", json!({ "cost-centre": "b" }), json!({}))
        .await
        .unwrap();
}
