//! The way from a release that stored `v1beta1` to this one, as the README tells it: the operator brings the new definition,
//! every object is written once, and the old version is no longer among those that were ever stored.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use minicluster::TestCluster;
use serde_json::json;
use template_name::{
    api::{v1alpha1, v1beta1},
    kind, operator,
};

use crate::{World, world};

impl World {
    fn definitions(&self) -> Api<CustomResourceDefinition> {
        Api::all(self.cluster.client())
    }

    /// The versions in which objects were ever stored, as far as the API server knows.
    async fn stored(&self) -> Vec<String> {
        let definition = self.definitions().get(kind().name()).await.unwrap();
        definition.status.unwrap().stored_versions.unwrap()
    }

    /// Changes the definition's versions.
    async fn versions(&self, change: impl Fn(&mut CustomResourceDefinition)) {
        let mut definition = self.definitions().get(kind().name()).await.unwrap();
        change(&mut definition);
        self.definitions().replace(kind().name(), &PostParams::default(), &definition).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_older_release_stored_is_carried_over() {
    let mut world = world(TestCluster::builder()).await;
    // As the older release had it.
    world
        .versions(|definition| {
            definition.spec.versions.iter_mut().for_each(|version| version.storage = version.name == "v1beta1");
        })
        .await;
    for number in 0..3 {
        let spec = v1alpha1::TemplateNameSpec {
            image: "web:1".to_owned(),
            size: number,
            contact: Some(format!("desk {number}")),
        };
        let object = v1alpha1::TemplateName::new(&format!("old-{number}"), spec);
        world.alphas.create(&PostParams::default(), &object).await.unwrap();
    }
    assert_eq!(world.stored().await, ["v1", "v1beta1"]);
    // Time for the older release to do all that it does about them.
    world.cluster.advance(Duration::from_secs(30)).await;

    // This release starts in its place. Nobody who reads or writes notices.
    world.operator.stop().await;
    world.operator = world.cluster.run_operator(&operator()).await;
    let definition = world.definitions().get(kind().name()).await.unwrap();
    let storage: Vec<&str> =
        definition.spec.versions.iter().filter(|v| v.storage).map(|v| v.name.as_str()).collect();
    assert_eq!(storage, ["v1"]);
    let read = world.objects.get("old-2").await.unwrap();
    assert_eq!(read.spec.replicas, 2);

    // Every object is written as it is: the API server stores it anew.
    let before = world.cluster.transcript().len();
    for object in world.objects.list(&ListParams::default()).await.unwrap() {
        world.objects.replace(&object.name_any(), &PostParams::default(), &object).await.unwrap();
    }
    let written = world.cluster.transcript().split_off(before);
    let own = |key: &str| key.contains("/templatenames/");
    assert_eq!(written.iter().filter(|write| own(&write.key)).count(), 3);
    let only = Patch::Merge(json!({ "status": { "storedVersions": ["v1"] } }));
    world.definitions().patch_status(kind().name(), &PatchParams::default(), &only).await.unwrap();
    assert_eq!(world.stored().await, ["v1"]);
    for number in 0..3 {
        let object = world.alphas.get(&format!("old-{number}")).await.unwrap();
        assert_eq!((object.spec.size, object.spec.contact), (number, Some(format!("desk {number}"))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_no_longer_served_is_missed_by_its_clients_alone() {
    let world = world(TestCluster::builder()).await;
    world.create("main", 1).await;
    world
        .versions(|definition| {
            let versions = definition.spec.versions.iter_mut();
            versions.filter(|version| version.name == "v1alpha1").for_each(|version| version.served = false);
        })
        .await;
    let gone = world.alphas.get("main").await.unwrap_err();
    assert!(matches!(&gone, kube::Error::Api(status) if status.code == 404), "{gone}");
    world.set("main", json!({ "replicas": 2 })).await;
    world.cluster.advance(Duration::from_secs(60)).await;
    let beta: v1beta1::TemplateName = world.betas.get("main").await.unwrap();
    assert_eq!(beta.status.unwrap().ready_replicas, 2);
}
