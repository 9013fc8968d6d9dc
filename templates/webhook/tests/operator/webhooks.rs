//! What may be asked for: the API server asks the operator over TLS, as it will in a cluster.

use std::time::Duration;

use k8s_openapi::api::{admissionregistration::v1::ValidatingWebhookConfiguration, core::v1::Namespace};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams, Request},
    client::Body,
};
use minicluster::TestCluster;
use serde_json::{Value, json};
use template_name::{BUDGET, TEAM, TemplateName, operator};

use crate::{World, object, world};

const DAY: Duration = Duration::from_secs(24 * 3600);

impl World {
    /// What the namespace says of itself.
    async fn say(&self, metadata: Value) {
        let namespaces: Api<Namespace> = Api::all(self.cluster.client());
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        namespaces.patch("default", &PatchParams::default(), &patch).await.unwrap();
        // Until the operator knows it, too.
        assert!(self.cluster.settle().await);
    }

    /// The warnings that whoever creates an object is shown.
    async fn warnings(&self, name: &str, replicas: i32) -> Vec<String> {
        let body = serde_json::to_vec(&object(name, replicas)).unwrap();
        let request = Request::new(self.objects.resource_url()).create(&PostParams::default(), body).unwrap();
        let answer = self.cluster.client().send(request.map(Body::from)).await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.status());
        let warnings = answer.headers().get_all("warning").iter();
        warnings.map(|warning| warning.to_str().unwrap().to_owned()).collect()
    }

    /// What the API server believes the webhooks by.
    async fn bundle(&self) -> Vec<u8> {
        let configurations: Api<ValidatingWebhookConfiguration> = Api::all(self.cluster.client());
        let found = configurations.get("template-name-webhooks").await.unwrap();
        found.webhooks.unwrap()[0].client_config.ca_bundle.clone().unwrap().0
    }
}

fn refusal(asked: kube::Result<TemplateName>) -> String {
    asked.expect_err("it should be refused").to_string()
}

#[tokio::test(start_paused = true)]
async fn the_namespace_says_whose_it_is() {
    let world = world(TestCluster::builder()).await;
    assert_eq!(world.create("before", 1).await.unwrap().spec.team, None);
    world.say(json!({ "labels": { TEAM: "blue" } })).await;
    assert_eq!(world.create("main", 1).await.unwrap().spec.team.as_deref(), Some("blue"));
    let red = world.change("main", json!({ "spec": { "team": "red" } })).await.unwrap();
    assert_eq!(red.spec.team.as_deref(), Some("red"), "what is said is kept");
}

#[tokio::test(start_paused = true)]
async fn a_namespace_affords_so_many_replicas() {
    let world = world(TestCluster::builder()).await;
    world.say(json!({ "annotations": { BUDGET: "10" } })).await;
    assert!(world.warnings("first", 8).await.is_empty());
    let warnings = world.warnings("second", 1).await;
    assert!(warnings[0].contains("9 of 10 replicas of this namespace are asked for"), "{warnings:?}");
    let refused = refusal(world.create("third", 2).await);
    assert!(refused.contains("11 replicas are too many for this namespace, which has 10"), "{refused}");
    let refused = refusal(world.change("second", json!({ "spec": { "replicas": 3 } })).await);
    assert!(refused.contains("11 replicas are too many"), "{refused}");
    world.change("first", json!({ "spec": { "replicas": 6 } })).await.unwrap();
    world.cluster.advance(Duration::from_secs(10)).await;
    world.create("third", 2).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn those_that_come_at_once_do_not_pass_for_one() {
    let world = world(TestCluster::builder()).await;
    world.say(json!({ "annotations": { BUDGET: "5" } })).await;
    let made = tokio::join!(world.create("a", 2), world.create("b", 2), world.create("c", 2));
    let made = [made.0.is_ok(), made.1.is_ok(), made.2.is_ok()];
    assert_eq!(made.iter().filter(|made| **made).count(), 2, "{made:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_leaves_nothing_behind() {
    let world = world(TestCluster::builder()).await;
    world.say(json!({ "annotations": { BUDGET: "5" } })).await;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    world.objects.create(&dry, &object("a", 5)).await.unwrap();
    let refused = refusal(world.objects.create(&dry, &object("a", 6)).await);
    assert!(refused.contains("6 replicas are too many"), "{refused}");
    world.create("b", 5).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn production_runs_images_by_their_digest() {
    let world = world(TestCluster::builder()).await;
    world.create("main", 1).await.unwrap();
    world.say(json!({ "labels": { "environment": "production" } })).await;
    let refused = refusal(world.create("other", 1).await);
    assert!(refused.contains("in production an image has a digest"), "{refused}");
    world.change("main", json!({ "metadata": { "labels": { "a": "b" } } })).await.unwrap();
    let digest = format!("web@sha256:{}", "0".repeat(64));
    world.change("main", json!({ "spec": { "image": digest } })).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_the_operator_defaults_are_left_out_and_rules_are_not() {
    let mut world = world(TestCluster::builder()).await;
    world.say(json!({ "labels": { TEAM: "blue" } })).await;
    world.create("main", 1).await.unwrap();
    world.stop_operator().await;
    let refused = refusal(world.create("other", 1).await);
    assert!(refused.contains("failed calling webhook"), "{refused}");
    let refused = refusal(world.change("main", json!({ "spec": { "replicas": 2 } })).await);
    assert!(refused.contains("failed calling webhook"), "{refused}");
    // The rule is about the spec alone; the defaults fail open.
    world.change("main", json!({ "metadata": { "labels": { "a": "b" } } })).await.unwrap();
    world.operator = Some(world.cluster.run_operator(&operator()).await);
    assert_eq!(world.create("other", 1).await.unwrap().spec.team.as_deref(), Some("blue"));
}

#[tokio::test(start_paused = true)]
async fn certificates_are_followed_by_others_in_time() {
    let world = world(TestCluster::builder()).await;
    let mut bundles = vec![world.bundle().await];
    for turn in 0..3 {
        world.create(&format!("turn-{turn}"), 1).await.unwrap();
        world.cluster.advance(2 * DAY).await;
        bundles.push(world.bundle().await);
    }
    bundles.dedup();
    assert_eq!(bundles.len(), 2, "a second authority within 6 days");
}
