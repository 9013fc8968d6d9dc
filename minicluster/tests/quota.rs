//! ResourceQuota, whole: the server takes, the controller counts, and nobody gets more than there is.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::{
    api::core::v1::{ConfigMap, Pod, ResourceQuota, Secret, Service},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client,
    api::{
        ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
        PostParams,
    },
};
use minicluster::TestCluster;
use serde_json::{Value, json};

fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn api<K>(client: &Client) -> Api<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
{
    Api::namespaced(client.clone(), "default")
}

async fn cluster() -> TestCluster {
    TestCluster::builder()
        .controllers(&[
            "resourcequota-controller",
            "serviceaccount-controller",
            "garbage-collector-controller",
        ])
        .start()
        .await
}

async fn quota(client: &Client, name: &str, spec: Value) {
    let quota = object(json!({"metadata": {"name": name}, "spec": spec}));
    api::<ResourceQuota>(client).create(&PostParams::default(), &quota).await.unwrap();
}

/// What a quota says is used once it says `wanted`, or after a minute.
async fn used(client: &Client, name: &str, wanted: Value) -> Value {
    let mut seen = Value::Null;
    for _ in 0..600 {
        let quota = api::<ResourceQuota>(client).get(name).await.unwrap();
        seen = serde_json::to_value(quota.status.unwrap_or_default().used).unwrap();
        if seen == wanted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    seen
}

fn pod(name: &str, spec: Value) -> Pod {
    let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    for (field, value) in spec.as_object().into_iter().flatten() {
        match field.as_str() {
            "requests" => pod["spec"]["containers"][0]["resources"] = json!({"requests": value}),
            _ => pod["spec"][field] = value.clone(),
        }
    }
    object(pod)
}

fn refusal(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} {}: {}", status.code, status.reason, status.message),
        other => panic!("{other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_quota_follows_the_life_of_what_it_counts() {
    let cluster = cluster().await;
    let client = cluster.client();
    let (create, delete) = (PostParams::default(), DeleteParams::default().grace_period(0));
    quota(
        &client,
        "q",
        json!({"hard": {"pods": "2", "requests.cpu": "1", "secrets": "1", "services": "1",
        "services.nodeports": "1", "configmaps": "5", "count/configmaps": "5"}}),
    )
    .await;
    let zero = json!({"pods": "0", "requests.cpu": "0", "secrets": "0", "services": "0", "services.nodeports": "0",
        "configmaps": "0", "count/configmaps": "0"});
    let with = |changes: &[(&str, &str)]| {
        let mut all = zero.clone();
        changes.iter().for_each(|(name, amount)| all[*name] = (*amount).into());
        all
    };
    assert_eq!(used(&client, "q", zero.clone()).await, zero);

    let (pods, secrets) = (api::<Pod>(&client), api::<Secret>(&client));
    pods.create(&create, &pod("a", json!({"requests": {"cpu": "600m"}}))).await.unwrap();
    secrets.create(&create, &object(json!({"metadata": {"name": "s"}}))).await.unwrap();
    api::<ConfigMap>(&client).create(&create, &object(json!({"metadata": {"name": "m"}}))).await.unwrap();
    // The charge is there as soon as the object is: nobody has to wait for the controller.
    let taken = with(&[
        ("pods", "1"),
        ("requests.cpu", "600m"),
        ("secrets", "1"),
        ("configmaps", "1"),
        ("count/configmaps", "1"),
    ]);
    let now = api::<ResourceQuota>(&client).get("q").await.unwrap().status.unwrap().used;
    assert_eq!(serde_json::to_value(now).unwrap(), taken);

    let refused = pods.create(&create, &pod("b", json!({"requests": {"cpu": "500m"}}))).await.unwrap_err();
    assert_eq!(
        refusal(refused),
        "403 Forbidden: pods \"b\" is forbidden: exceeded quota: q, requested: requests.cpu=500m, used: \
         requests.cpu=600m, limited: requests.cpu=1"
    );
    let refused = pods.create(&create, &pod("b", json!({}))).await.unwrap_err();
    assert_eq!(
        refusal(refused),
        "403 Forbidden: pods \"b\" is forbidden: failed quota: q: must specify requests.cpu for: c"
    );
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    pods.create(&dry, &pod("b", json!({"requests": {"cpu": "400m"}}))).await.unwrap();
    let refused = pods.create(&create, &pod("a", json!({"requests": {"cpu": "1m"}}))).await.unwrap_err();
    assert!(refusal(refused).starts_with("409 AlreadyExists"));
    let services = api::<Service>(&client);
    let service = |kind: &str| {
        object::<Service>(json!({"metadata": {"name": "web"},
        "spec": {"type": kind, "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}}))
    };
    let refused = services.create(&create, &service("NodePort")).await.unwrap_err();
    assert!(refusal(refused).contains("requested: services.nodeports=2, used: services.nodeports=0"));
    services.create(&create, &service("ClusterIP")).await.unwrap();
    assert_eq!(used(&client, "q", with(&[])).await["services"], "1");

    pods.delete("a", &delete).await.unwrap();
    secrets.delete("s", &delete).await.unwrap();
    services.delete("web", &delete).await.unwrap();
    let rest = with(&[("configmaps", "1"), ("count/configmaps", "1")]);
    assert_eq!(used(&client, "q", rest.clone()).await, rest);

    // Other limits are taken over, and what is no longer limited is no longer counted.
    let patch = json!({"spec": {"hard": {"pods": null, "configmaps": "1"}}});
    api::<ResourceQuota>(&client).patch("q", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    cluster.settle().await;
    let status = api::<ResourceQuota>(&client).get("q").await.unwrap().status.unwrap();
    assert_eq!(status.hard.unwrap()["configmaps"].0, "1");
    assert!(!status.used.unwrap().contains_key("pods"));
}

#[tokio::test(start_paused = true)]
async fn scopes_and_ended_pods() {
    let cluster = cluster().await;
    let client = cluster.client();
    let create = PostParams::default();
    for (name, scope) in [("short", "Terminating"), ("long", "NotTerminating"), ("best", "BestEffort")] {
        quota(&client, name, json!({"hard": {"pods": "5"}, "scopes": [scope]})).await;
        used(&client, name, json!({"pods": "0"})).await;
    }
    let pods = api::<Pod>(&client);
    pods.create(&create, &pod("a", json!({"activeDeadlineSeconds": 3600}))).await.unwrap();
    pods.create(&create, &pod("b", json!({"requests": {"cpu": "1m"}}))).await.unwrap();
    for (name, count) in [("short", "1"), ("long", "1"), ("best", "1")] {
        assert_eq!(used(&client, name, json!({"pods": count})).await, json!({"pods": count}), "{name}");
    }
    // A pod that gets a deadline changes its quota; one that has ended needs no place.
    let deadline = json!({"spec": {"activeDeadlineSeconds": 60}});
    pods.patch("b", &PatchParams::default(), &Patch::Merge(&deadline)).await.unwrap();
    assert_eq!(used(&client, "short", json!({"pods": "2"})).await, json!({"pods": "2"}));
    assert_eq!(used(&client, "long", json!({"pods": "0"})).await, json!({"pods": "0"}));
    let ended = json!({"status": {"phase": "Succeeded"}});
    pods.patch_status("a", &PatchParams::default(), &Patch::Merge(&ended)).await.unwrap();
    assert_eq!(used(&client, "best", json!({"pods": "0"})).await, json!({"pods": "0"}));
}

#[tokio::test(start_paused = true)]
async fn custom_kinds_are_counted_from_their_definition_on() {
    let cluster = cluster().await;
    let client = cluster.client();
    let create = PostParams::default();
    quota(&client, "q", json!({"hard": {"count/gates.example.com": "1"}})).await;
    cluster.settle().await;
    let definition = json!({"metadata": {"name": "gates.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced", "names": {"plural": "gates", "kind": "Gate"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions.create(&create, &object(definition)).await.unwrap();
    let zero = json!({"count/gates.example.com": "0"});
    assert_eq!(used(&client, "q", zero.clone()).await, zero);
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v1", "Gate"));
    let gates: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &kind);
    let gate = |name: &str| {
        object::<DynamicObject>(
            json!({"apiVersion": "example.com/v1", "kind": "Gate", "metadata": {"name": name}}),
        )
    };
    gates.create(&create, &gate("a")).await.unwrap();
    let refused = gates.create(&create, &gate("b")).await.unwrap_err();
    assert_eq!(
        refusal(refused),
        "403 Forbidden: gates.example.com \"b\" is forbidden: exceeded quota: q, requested: count/gates.example.com=1, \
         used: count/gates.example.com=1, limited: count/gates.example.com=1"
    );
    gates.delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(used(&client, "q", zero.clone()).await, zero);
}

/// Many writers at once, some of whom delete, while the controller counts: never more than allowed, and no place lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_last_place_is_taken_once() {
    const PLACES: usize = 10;
    let cluster = cluster().await;
    let client = cluster.client();
    quota(&client, "q", json!({"hard": {"configmaps": PLACES.to_string()}})).await;
    used(&client, "q", json!({"configmaps": "0"})).await;
    for round in 0..5 {
        let writers = (0..40).map(|i| {
            let maps = api::<ConfigMap>(&client);
            tokio::spawn(async move {
                let name = format!("m-{round}-{i}");
                let map = object(json!({"metadata": {"name": name}}));
                let made = maps.create(&PostParams::default(), &map).await.is_ok();
                let all = maps.list(&ListParams::default()).await.unwrap().items.len();
                assert!(all <= PLACES, "{all} of {PLACES}");
                if made && i % 2 == 0 {
                    maps.delete(&name, &DeleteParams::default()).await.unwrap();
                }
            })
        });
        for done in join_all(writers).await {
            done.unwrap();
        }
        let left = api::<ConfigMap>(&client).list(&ListParams::default()).await.unwrap().items.len();
        let wanted = json!({"configmaps": left.to_string()});
        assert_eq!(used(&client, "q", wanted.clone()).await, wanted, "round {round}");
        let all = api::<ConfigMap>(&client);
        all.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
        used(&client, "q", json!({"configmaps": "0"})).await;
    }
}
