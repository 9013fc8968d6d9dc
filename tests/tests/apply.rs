//! Apply configurations on a whole API server: what is owned is what was written, of built-in and of custom kinds.

use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Namespace},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use kube::{
    Api, Client, CustomResourceExt, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use minicluster::TestCluster;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use windlass::{Apply, CachedClient, CustomResource, Informers, Schema};

windlass::apply_configurations! {
    pub apps::v1::{Deployment, StatefulSet},
    core::v1::{Namespace, Pod},
    k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler,
    apiextensions::v1::CustomResourceDefinition,
}

/// Has a `ServiceReference` of its own.
mod aggregation {
    windlass::apply_configurations! { pub(super) apiregistration::v1::APIService }
}

/// A sail with twins.
#[derive(CustomResource, Clone, Debug, Serialize, Deserialize)]
#[kube(group = "harbour.dev", version = "v1", kind = "Sail", namespaced, status = "SailStatus")]
#[windlass(apply)]
#[serde(rename_all = "camelCase")]
struct SailSpec {
    /// In square metres.
    #[serde(default)]
    area: u32,
    #[serde(default, rename = "sheet")]
    main_sheet: Option<String>,
    #[serde(default)]
    sewn_by: String,
}

#[derive(Schema, Clone, Debug, Default, Serialize, Deserialize)]
struct SailStatus {
    set: u32,
}

fn client_of(client: Client, manager: &str) -> CachedClient {
    CachedClient::new(&Informers::new(client), manager)
}

/// What a manager owns, as the server has it.
async fn owned<K>(client: Client, name: &str, manager: &str, subresource: Option<&str>) -> Value
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let object: K = Api::default_namespaced(client).get(name).await.unwrap();
    let of = |entry: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry| {
        entry.manager.as_deref() == Some(manager) && entry.subresource.as_deref() == subresource
    };
    let entry = object.managed_fields().iter().find(of).expect("it owns something");
    assert_eq!(entry.operation.as_deref(), Some("Apply"));
    entry.fields_v1.as_ref().unwrap().0.clone()
}

/// A Deployment as somebody else made it.
async fn made(cluster: &TestCluster) -> Api<Deployment> {
    let deployments: Api<Deployment> = Api::default_namespaced(cluster.client());
    let web = json!({
        "metadata": { "name": "web" },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "web", "image": "web:1" }, { "name": "log", "image": "log:1" }] },
            },
        },
    });
    deployments.create(&PostParams::default(), &serde_json::from_value(web).unwrap()).await.unwrap();
    deployments
}

/// A Deployment's image, and nothing else of it.
fn image(image: &str) -> DeploymentApply {
    let container =
        ContainerApply { name: Some("web".into()), image: Some(image.into()), ..ContainerApply::default() };
    let pod = PodSpecApply { containers: Some(vec![container]), ..PodSpecApply::default() };
    let template = PodTemplateSpecApply { spec: Some(pod), ..PodTemplateSpecApply::default() };
    let mut web = DeploymentApply::new("web", "default");
    web.spec = Some(DeploymentSpecApply { template: Some(template), ..DeploymentSpecApply::default() });
    web
}

#[tokio::test(start_paused = true)]
async fn what_was_written_is_owned_and_nothing_else() {
    let cluster = TestCluster::start().await;
    let deployments = made(&cluster).await;
    let client = client_of(cluster.client(), "painter");
    let written = client.apply(&image("web:2")).await.unwrap();
    let images = |deployment: &Deployment| {
        let pod = deployment.spec.clone().unwrap().template.spec.unwrap();
        pod.containers.into_iter().map(|container| container.image.unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(images(&written), ["web:2", "log:1"]);
    let container = json!({ ".": {}, "f:name": {}, "f:image": {} });
    let spec = json!({ "f:containers": { r#"k:{"name":"web"}"#: container } });
    assert_eq!(
        owned::<Deployment>(cluster.client(), "web", "painter", None).await,
        json!({ "f:spec": { "f:template": { "f:spec": spec } } })
    );

    // What another manager sets meanwhile stays, whatever is applied after it.
    let scale = Patch::Merge(json!({ "spec": { "replicas": 7 } }));
    let scaler = PatchParams { field_manager: Some("scaler".into()), ..PatchParams::default() };
    deployments.patch("web", &scaler, &scale).await.unwrap();
    let written = client.apply(&image("web:3")).await.unwrap();
    assert_eq!(
        (written.spec.as_ref().unwrap().replicas, images(&written)),
        (Some(7), vec!["web:3".into(), "log:1".into()])
    );

    // The status is a road of its own.
    let mut told = DeploymentApply::new("web", "default");
    told.status = Some(DeploymentStatusApply { replicas: Some(3), ..DeploymentStatusApply::default() });
    client.apply_status(&told).await.unwrap();
    assert_eq!(
        owned::<Deployment>(cluster.client(), "web", "painter", Some("status")).await,
        json!({ "f:status": { "f:replicas": {} } })
    );
    let now = deployments.get("web").await.unwrap();
    assert_eq!((now.status.unwrap().replicas, now.spec.unwrap().replicas), (Some(3), Some(7)));
}

/// The reason for all of this: the type of the kind itself sends what it requires.
#[tokio::test(start_paused = true)]
async fn the_type_of_a_kind_sends_what_it_requires() {
    let cluster = TestCluster::start().await;
    made(&cluster).await;
    let metadata =
        ObjectMeta { name: Some("web".into()), namespace: Some("default".into()), ..ObjectMeta::default() };
    let bare = Deployment { metadata, spec: Some(Default::default()), status: None };
    assert_eq!(bare.spec.as_ref().unwrap().selector, LabelSelector::default());
    let refused = client_of(cluster.client(), "painter").apply(&bare).await.unwrap_err().to_string();
    assert!(refused.contains("spec.selector: Invalid value"), "{refused}");
    let mut twin = DeploymentApply::new("web", "default");
    twin.spec = Some(DeploymentSpecApply { paused: Some(true), ..DeploymentSpecApply::default() });
    client_of(cluster.client(), "pauser").apply(&twin).await.unwrap();
    assert_eq!(
        owned::<Deployment>(cluster.client(), "web", "pauser", None).await,
        json!({ "f:spec": { "f:paused": {} } })
    );
}

#[tokio::test(start_paused = true)]
async fn a_kind_without_namespace_is_made_by_it() {
    let cluster = TestCluster::start().await;
    let mut shop = NamespaceApply::new("shop");
    shop.metadata.labels = Some([("team".to_owned(), "harbour".to_owned())].into());
    assert_eq!(shop.key().as_str(), "shop");
    assert_eq!(aggregation::APIServiceApply::new("v1.harbour.dev").key().as_str(), "v1.harbour.dev");
    let written = client_of(cluster.client(), "founder").apply(&shop).await.unwrap();
    assert_eq!(written.labels()["team"], "harbour");
    let shops: Api<Namespace> = Api::all(cluster.client());
    assert!(shops.get_opt("shop").await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn custom_kinds_have_twins_too() {
    let cluster = TestCluster::start().await;
    let definitions = Api::all(cluster.client());
    definitions.create(&PostParams::default(), &Sail::crd()).await.unwrap();
    let sails: Api<Sail> = Api::default_namespaced(cluster.client());
    let spec = SailSpec { area: 40, main_sheet: None, sewn_by: "harbour".into() };
    sails.create(&PostParams::default(), &Sail::new("main", spec)).await.unwrap();

    let client = client_of(cluster.client(), "rigger");
    let mut sail = SailApply::new("main", "default");
    sail.spec = Some(SailSpecApply { main_sheet: Some("red".into()), ..SailSpecApply::default() });
    let written = client.apply(&sail).await.unwrap();
    assert_eq!((written.spec.area, written.spec.main_sheet.as_deref()), (40, Some("red")));
    assert_eq!(
        owned::<Sail>(cluster.client(), "main", "rigger", None).await,
        json!({ "f:spec": { "f:sheet": {} } })
    );
    sail.spec = None;
    sail.status = Some(SailStatus { set: 3 });
    let written = client.apply_status(&sail).await.unwrap();
    assert_eq!((written.status.as_ref().unwrap().set, written.spec.sewn_by.as_str()), (3, "harbour"));
}
