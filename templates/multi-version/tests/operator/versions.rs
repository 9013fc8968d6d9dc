//! Whoever speaks one version sees what the others wrote. That nothing gets lost on the way there and back is tested
//! beside the versions: the derive makes a test of objects that are drawn from their schemas.

use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use minicluster::TestCluster;
use serde_json::json;
use template_name::{
    Rollout, TemplateNameSpec,
    api::{v1alpha1, v1beta1},
};
use windlass::ConditionsExt;

use crate::world;

#[tokio::test(start_paused = true)]
async fn each_version_sees_the_others_objects() {
    let world = world(TestCluster::builder()).await;
    let spec = v1alpha1::TemplateNameSpec {
        image: "web:1".to_owned(),
        size: 2,
        contact: Some("ann@example.com".to_owned()),
    };
    world.alphas.create(&PostParams::default(), &v1alpha1::TemplateName::new("old", spec.clone())).await.unwrap();
    world.create("new", 3).await;

    let old = world.objects.get("old").await.unwrap().spec;
    assert_eq!(
        old,
        TemplateNameSpec { image: "web:1".to_owned(), replicas: 2, rollout: Rollout::default() }
    );
    let new = world.alphas.get("new").await.unwrap().spec;
    assert_eq!((new.size, new.contact), (3, None));
    let listed = world.betas.list(&ListParams::default()).await.unwrap();
    let listed: Vec<(i32, Option<i32>)> =
        listed.iter().map(|object| (object.spec.replicas, object.spec.max_unavailable)).collect();
    assert_eq!(listed, [(3, Some(1)), (2, Some(1))]);

    // What one version cannot say is there again for those that can, whoever wrote meanwhile.
    world.set("old", json!({ "replicas": 4, "rollout": { "paused": true } })).await;
    let shown = world.alphas.get("old").await.unwrap().spec;
    assert_eq!(shown, v1alpha1::TemplateNameSpec { size: 4, ..spec });
    let patch = Patch::Merge(json!({ "spec": { "maxUnavailable": 2 } }));
    world.betas.patch("old", &PatchParams::default(), &patch).await.unwrap();
    let rollout = world.objects.get("old").await.unwrap().spec.rollout;
    assert_eq!(rollout, Rollout { max_unavailable: 2, paused: true });
}

#[tokio::test(start_paused = true)]
async fn what_people_are_told_they_are_told_in_each_version() {
    let world = world(TestCluster::builder()).await;
    let spec =
        v1beta1::TemplateNameSpec { image: "web:1".to_owned(), replicas: 2, max_unavailable: Some(2) };
    world.betas.create(&PostParams::default(), &v1beta1::TemplateName::new("main", spec)).await.unwrap();
    assert!(world.cluster.settle().await);
    let new = world.objects.get("main").await.unwrap().status.unwrap();
    let beta = world.betas.get("main").await.unwrap().status.unwrap();
    let alpha = world.alphas.get("main").await.unwrap().status.unwrap();
    assert_eq!((new.ready_replicas, beta.ready_replicas, alpha.ready), (2, 2, 2));
    for conditions in [new.conditions, beta.conditions, alpha.conditions] {
        let ready = conditions.condition("Ready").unwrap();
        assert_eq!((ready.status.as_str(), ready.message.as_str()), ("True", "2 of 2 replicas are ready"));
    }
}

#[tokio::test(start_paused = true)]
async fn each_version_refuses_in_its_own_words() {
    let world = world(TestCluster::builder()).await;
    let spec = v1alpha1::TemplateNameSpec { image: "web:1".to_owned(), size: 51, contact: None };
    let refused =
        world.alphas.create(&PostParams::default(), &v1alpha1::TemplateName::new("a", spec)).await.unwrap_err();
    assert!(refused.to_string().contains("spec.size in body should be less than"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn an_object_goes_whichever_version_it_is_deleted_in() {
    let world = world(TestCluster::builder()).await;
    world.create("main", 1).await;
    world.alphas.delete("main", &DeleteParams::default()).await.unwrap();
    assert!(world.objects.get_opt("main").await.unwrap().is_none());
    let beta: Api<v1beta1::TemplateName> = Api::all(world.cluster.client());
    assert!(beta.list(&ListParams::default()).await.unwrap().items.is_empty());
}
