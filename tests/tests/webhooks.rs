//! Webhooks of an operator against a real API server in memory: TLS, bundles and configurations included, under virtual
//! time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::{
    admissionregistration::v1::ValidatingWebhookConfiguration,
    core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use minicluster::{
    TestCluster,
    test_cluster::{Fault, Identity},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{sync::mpsc, task::JoinHandle};
use windlass::{
    CustomResource, Manager, Schema,
    custom::Kind,
    random::Source,
    webhook::{Certificates, Connections, Denied, Hook, Mutate, Policy, Review, Validate, Webhooks},
};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

mod v1 {
    use super::*;

    #[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[kube(group = "harbour.dev", version = "v1", kind = "Buoy", namespaced)]
    pub(crate) struct BuoySpec {
        #[garde(range(min = 1))]
        pub(crate) depth: u32,
        pub(crate) light: Light,
    }

    #[derive(Schema, Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
    pub(crate) enum Light {
        Red,
        Green,
    }
}

mod v1beta1 {
    use super::*;

    #[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[kube(group = "harbour.dev", version = "v1beta1", kind = "Buoy", namespaced, storage = false)]
    #[windlass(hub = v1::Buoy, moved("/spec/metres" => "/spec/depth"))]
    pub(crate) struct BuoySpec {
        #[garde(range(min = 1))]
        pub(crate) metres: u32,
        pub(crate) light: v1::Light,
    }
}

/// ConfigMaps with at most two keys; more is a warning, and four are refused.
struct Small;

impl Validate<ConfigMap> for Small {
    async fn validate(&self, review: &Review<ConfigMap>) -> Result<(), Denied> {
        let keys = |map: &ConfigMap| map.data.as_ref().map_or(0, BTreeMap::len);
        let Some(map) = &review.object else { return Ok(()) };
        let before = review.old.as_ref().map_or(0, keys);
        match keys(map) {
            0..=2 => Ok(()),
            3 => {
                review.warn(format!("{} has 3 keys, and had {before}", review.name));
                review.note("keys", "3");
                Ok(())
            }
            many => Err(Denied::invalid(format!("{many} keys are too many for {}", review.user.username))),
        }
    }
}

/// Gives every ConfigMap a keeper.
struct Keeper;

impl Mutate<ConfigMap> for Keeper {
    async fn mutate(&self, map: &mut ConfigMap, review: &Review<ConfigMap>) -> Result<(), Denied> {
        let labels = map.metadata.labels.get_or_insert_default();
        labels.entry("keeper".to_owned()).or_insert_with(|| review.user.username.replace(':', "-"));
        Ok(())
    }
}

fn here() -> Hook {
    // The server's own ConfigMaps are none of our business, and must not wait for us.
    Hook::default().namespaces(json!({ "matchLabels": { "kubernetes.io/metadata.name": "default" } }))
}

fn hooks(connections: Connections) -> Webhooks {
    Webhooks::new("harbour", Certificates::self_signed_for(6, 3))
        .connections(connections)
        .validate(Small, here())
        .mutate(Keeper, here())
        .convert(Kind::of::<v1::Buoy>().version::<v1beta1::Buoy>())
}

fn run(cluster: &TestCluster, connections: Connections, name: &str) -> JoinHandle<()> {
    let client = cluster.component(name, Identity::new(name, &["system:masters"]));
    let mut manager = Manager::guarded(client, Source::seeded(cluster.seed()));
    manager.add(hooks(connections));
    let manager = manager.build();
    tokio::spawn(async move { manager.run(std::future::pending()).await.unwrap() })
}

async fn bundle(cluster: &TestCluster) -> Option<String> {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(cluster.client());
    let bundle = api.get_opt("harbour").await.unwrap()?.webhooks?[0].client_config.ca_bundle.clone()?;
    Some(String::from_utf8(bundle.0).unwrap())
}

async fn configured(cluster: &TestCluster) -> String {
    let found = cluster.eventually("the configuration", MINUTE, async || bundle(cluster).await).await;
    let definitions: Api<DynamicObject> = Api::all_with(cluster.client(), &definitions());
    cluster
        .eventually("the definition", MINUTE, async || {
            definitions.get_opt("buoys.harbour.dev").await.unwrap()
        })
        .await;
    found
}

fn definitions() -> kube::api::ApiResource {
    kube::api::ApiResource::erase::<
        k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    >(&())
}

fn with_keys(name: &str, keys: usize) -> ConfigMap {
    let data: serde_json::Map<_, _> = (0..keys).map(|i| (format!("k{i}"), json!("v"))).collect();
    serde_json::from_value(json!({ "metadata": { "name": name }, "data": data })).unwrap()
}

fn maps(client: Client) -> Api<ConfigMap> {
    Api::default_namespaced(client)
}

#[tokio::test(start_paused = true)]
async fn objects_are_judged_and_changed() {
    let cluster = TestCluster::start().await;
    let _running = run(&cluster, cluster.serve("default", "harbour", 443), "harbour");
    configured(&cluster).await;
    let maps = maps(cluster.client_as("ann", &["system:masters"]));
    let create =
        async |keys| maps.create(&PostParams::default(), &with_keys(&format!("m{keys}"), keys)).await;
    let made = create(2).await.unwrap();
    assert_eq!(made.metadata.labels.unwrap()["keeper"], "ann");
    create(3).await.unwrap();
    let refused = create(4).await.unwrap_err().to_string();
    assert!(
        refused.contains(
            "admission webhook \"validate.configmaps.core\" denied the request: 4 keys are too many for ann"
        ),
        "{refused}"
    );
}

#[tokio::test(start_paused = true)]
async fn versions_are_converted_both_ways_and_watched() {
    let cluster = TestCluster::start().await;
    let _running = run(&cluster, cluster.serve("default", "harbour", 443), "harbour");
    configured(&cluster).await;
    let old: Api<v1beta1::Buoy> = Api::default_namespaced(cluster.client());
    let new: Api<v1::Buoy> = Api::default_namespaced(cluster.client());
    let start = new.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let spec = v1beta1::BuoySpec { metres: 12, light: v1::Light::Green };
    old.create(&PostParams::default(), &v1beta1::Buoy::new("north", spec)).await.unwrap();
    assert_eq!(new.get("north").await.unwrap().spec, v1::BuoySpec { depth: 12, light: v1::Light::Green });
    let deeper = Patch::Merge(json!({ "spec": { "depth": 30 } }));
    new.patch("north", &PatchParams::default(), &deeper).await.unwrap();
    assert_eq!(old.list(&ListParams::default()).await.unwrap().items[0].spec.metres, 30);
    let watch = WatchParams::default().timeout(1);
    let mut events = old.watch(&watch, &start).await.unwrap().boxed();
    let mut seen = Vec::new();
    while let Some(event) = events.next().await {
        if let WatchEvent::Added(buoy) | WatchEvent::Modified(buoy) = event.unwrap() {
            seen.push(buoy.spec.metres);
        }
    }
    assert_eq!(seen, [12, 30]);
    let refused = old
        .patch("north", &PatchParams::default(), &Patch::Merge(json!({ "spec": { "metres": 0 } })))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("spec.metres"), "{refused}");
}

/// Hands each connection to the next of several replicas.
fn spread(mut connections: Connections, replicas: usize) -> Vec<Connections> {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..replicas).map(|_| mpsc::channel(8)).unzip();
    tokio::spawn(async move {
        let mut turn = 0;
        while let Some(stream) = connections.recv().await {
            turn += 1;
            if senders[turn % senders.len()].send(stream).await.is_err() {
                return;
            }
        }
    });
    receivers
}

#[tokio::test(start_paused = true)]
async fn replicas_share_an_authority_and_hand_it_over() {
    let cluster = TestCluster::start().await;
    let mut running = Vec::new();
    for (i, connections) in spread(cluster.serve("default", "harbour", 443), 2).into_iter().enumerate() {
        running.push(run(&cluster, connections, &format!("harbour-{i}")));
    }
    let first = configured(&cluster).await;
    let maps = maps(cluster.client());
    let mut bundles = vec![first];
    for day in 0..14 {
        for turn in 0..4 {
            let name = format!("m-{day}-{turn}");
            maps.create(&PostParams::default(), &with_keys(&name, 1)).await.unwrap();
        }
        cluster.advance(DAY).await;
        bundles.push(bundle(&cluster).await.unwrap());
    }
    bundles.dedup();
    // Four of six days each.
    assert_eq!(bundles.len(), 4, "in 14 days");
    let secrets: Api<Secret> = Api::default_namespaced(cluster.client());
    assert_eq!(secrets.list(&ListParams::default()).await.unwrap().items.len(), 1);
    assert!(running.iter().all(|task| !task.is_finished()));
}

#[tokio::test(start_paused = true)]
async fn a_bad_start_is_made_good() {
    let cluster = TestCluster::start().await;
    // The first tries go wrong, and somebody spoils what was written.
    let failing = cluster.inject(Fault::error().verb("patch").times(3));
    let _running = run(&cluster, cluster.serve("default", "harbour", 443), "harbour");
    configured(&cluster).await;
    assert_eq!(failing.hits(), 3);
    let secrets: Api<Secret> = Api::default_namespaced(cluster.client());
    secrets.delete("harbour-ca", &Default::default()).await.unwrap();
    cluster.advance(MINUTE).await;
    let maps = maps(cluster.client());
    maps.create(&PostParams::default(), &with_keys("a", 1)).await.unwrap();
    let made = secrets.get("harbour-ca").await.unwrap();
    assert!(made.data.unwrap().contains_key("ca.key"), "a new authority");
}

#[tokio::test(start_paused = true)]
async fn a_policy_needs_no_server() {
    let cluster = TestCluster::start().await;
    let [policy, binding] = Policy::of::<ConfigMap>("named", here())
        .rule("object.metadata.name.startsWith('ok')", "names begin with ok")
        .objects();
    for object in [policy, binding] {
        let (group, version) = object["apiVersion"].as_str().unwrap().split_once('/').unwrap();
        let kind = kube::api::GroupVersionKind::gvk(group, version, object["kind"].as_str().unwrap());
        let api: Api<DynamicObject> =
            Api::all_with(cluster.client(), &kube::api::ApiResource::from_gvk(&kind));
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap();
    }
    let maps = maps(cluster.client());
    maps.create(&PostParams::default(), &with_keys("ok-1", 1)).await.unwrap();
    let refused = maps.create(&PostParams::default(), &with_keys("no", 1)).await.unwrap_err().to_string();
    assert!(refused.contains("names begin with ok"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn reviews_that_are_none_do_no_harm() {
    let cluster = TestCluster::start().await;
    let connections = cluster.serve("default", "harbour", 443);
    let (send, receive) = mpsc::channel(8);
    let _running = run(&cluster, receive, "harbour");
    configured(&cluster).await;
    // Noise instead of a handshake, and a connection that says nothing.
    for noise in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0u8; 5000][..], b""] {
        let (here, there) = tokio::io::duplex(1 << 16);
        send.send(Box::new(there) as _).await.unwrap();
        let mut here = here;
        tokio::io::AsyncWriteExt::write_all(&mut here, noise).await.unwrap();
        drop(here);
    }
    let send = Arc::new(send);
    let mut connections = connections;
    tokio::spawn(async move {
        while let Some(stream) = connections.recv().await {
            send.send(stream).await.unwrap();
        }
    });
    maps(cluster.client()).create(&PostParams::default(), &with_keys("a", 1)).await.unwrap();
}
