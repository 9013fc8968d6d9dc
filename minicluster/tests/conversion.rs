//! Several versions of a custom kind: what is stored in one is read and written in all, by a webhook or without.

mod daemon;
mod hook;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use daemon::{Folder, PATIENCE, Server};
use futures::{StreamExt, future::join_all};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt,
    api::{
        ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
        PostParams, WatchEvent, WatchParams,
    },
};
use minicluster::TestCluster;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

/// How often the webhook was asked, and whether it refuses.
#[derive(Default)]
struct Webhook {
    asked: AtomicUsize,
    objects: AtomicUsize,
    broken: AtomicBool,
}

impl Webhook {
    async fn serve(self: &Arc<Self>) -> (SocketAddr, String) {
        let this = Arc::clone(self);
        hook::serve(Arc::new(move |_, review| this.answer(&review))).await
    }

    fn answer(&self, review: &Value) -> Result<Value, String> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let request = &review["request"];
        let desired = request["desiredAPIVersion"].as_str().unwrap();
        let objects = request["objects"].as_array().unwrap();
        self.objects.fetch_add(objects.len(), Ordering::SeqCst);
        let result = match self.broken.load(Ordering::SeqCst) {
            true => json!({"status": "Failed", "message": "out of order"}),
            false => json!({"status": "Success"}),
        };
        let converted: Vec<Value> = objects.iter().map(|obj| convert(obj.clone(), desired)).collect();
        Ok(json!({"kind": "ConversionReview", "apiVersion": review["apiVersion"],
            "response": {"uid": request["uid"], "result": result, "convertedObjects": converted}}))
    }

    fn calls(&self) -> (usize, usize) {
        (self.asked.swap(0, Ordering::SeqCst), self.objects.swap(0, Ordering::SeqCst))
    }
}

/// `hostPort` of v1 is `host` and `port` of v2.
fn convert(mut obj: Value, desired: &str) -> Value {
    assert_ne!(obj["apiVersion"], desired, "nobody asks for what is there");
    let fields = obj.as_object_mut().unwrap();
    if desired.ends_with("/v2") {
        if let Some(Value::String(both)) = fields.remove("hostPort") {
            let (host, port) = both.split_once(':').unwrap_or((&both, ""));
            fields.insert("host".to_owned(), host.into());
            fields.insert("port".to_owned(), port.into());
        }
    } else {
        let text =
            |value: Option<Value>| value.and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        let (host, port) = (text(fields.remove("host")), text(fields.remove("port")));
        fields.insert("hostPort".to_owned(), format!("{host}:{port}").into());
    }
    obj["apiVersion"] = desired.into();
    obj
}

fn definition(storage: &str, conversion: Value) -> Value {
    let version = |name: &str, fields: &[&str]| {
        let properties: BTreeMap<&str, Value> =
            fields.iter().map(|field| (*field, json!({"type": "string"}))).collect();
        let selectable: Vec<Value> = fields.iter().map(|f| json!({"jsonPath": format!(".{f}")})).collect();
        json!({"name": name, "served": true, "storage": name == storage, "selectableFields": selectable,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}})
    };
    json!({"metadata": {"name": "hosts.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced", "names": {"plural": "hosts", "kind": "Host"},
        "versions": [version("v1", &["hostPort"]), version("v2", &["host", "port"])], "conversion": conversion}})
}

fn by_webhook(address: SocketAddr, bundle: &str) -> Value {
    json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
        "clientConfig": {"url": format!("https://{address}/convert"), "caBundle": bundle}}})
}

fn hosts(client: &Client, version: &str) -> Api<DynamicObject> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", version, "Host"));
    Api::namespaced_with(client.clone(), "default", &kind)
}

fn host(version: &str, name: &str, fields: Value) -> DynamicObject {
    let mut obj =
        json!({"apiVersion": format!("example.com/{version}"), "kind": "Host", "metadata": {"name": name}});
    for (field, value) in fields.as_object().unwrap() {
        obj[field] = value.clone();
    }
    serde_json::from_value(obj).unwrap()
}

async fn define(client: &Client, definition: Value) -> CustomResourceDefinition {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions.create(&PostParams::default(), &serde_json::from_value(definition).unwrap()).await.unwrap()
}

/// Makes another version the one in which objects are stored.
async fn flip(client: &Client, storage: &str) -> kube::Result<CustomResourceDefinition> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let versions = definition(storage, Value::Null)["spec"]["versions"].clone();
    let patch = Patch::Merge(json!({"spec": {"versions": versions}}));
    definitions.patch("hosts.example.com", &PatchParams::default(), &patch).await
}

fn names(list: impl IntoIterator<Item = DynamicObject>) -> Vec<String> {
    list.into_iter().map(|obj| obj.name_any()).collect()
}

#[tokio::test]
async fn a_webhook_converts_whatever_is_read_and_written() {
    let webhook = Arc::new(Webhook::default());
    let (address, bundle) = webhook.serve().await;
    let cluster = TestCluster::start().await;
    let client = cluster.client();
    define(&client, definition("v1", by_webhook(address, &bundle))).await;
    let (v1, v2) = (hosts(&client, "v1"), hosts(&client, "v2"));
    let create = PostParams::default();

    v1.create(&create, &host("v1", "a", json!({"hostPort": "a:1"}))).await.unwrap();
    assert_eq!(webhook.calls().0, 0, "what is in the right version already is nobody's business");
    let read = v2.get("a").await.unwrap();
    assert_eq!((&read.data["host"], &read.data["port"]), (&json!("a"), &json!("1")));
    assert_eq!(read.types.as_ref().unwrap().api_version, "example.com/v2");
    assert_eq!(webhook.calls(), (1, 1));

    let made = v2.create(&create, &host("v2", "b", json!({"host": "b", "port": "2"}))).await.unwrap();
    assert_eq!(made.data["port"], "2");
    assert_eq!(v1.get("b").await.unwrap().data["hostPort"], "b:2");
    let patch = Patch::Merge(json!({"port": "3"}));
    let patched = v2.patch("b", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!((patched.data["port"].as_str(), patched.metadata.generation), (Some("3"), Some(2)));
    let wanted = Patch::Apply(host("v2", "c", json!({"host": "c", "port": "4"})));
    v2.patch("c", &PatchParams::apply("t"), &wanted).await.unwrap();
    let wanted = Patch::Apply(host("v2", "c", json!({"host": "c", "port": "5"})));
    v2.patch("c", &PatchParams::apply("t"), &wanted).await.unwrap();
    let all = v1.list(&ListParams::default()).await.unwrap();
    let both: Vec<_> = all.iter().map(|obj| obj.data["hostPort"].as_str().unwrap()).collect();
    assert_eq!(both, ["a:1", "b:3", "c:5"]);

    webhook.calls();
    for _ in 0..3 {
        assert_eq!(names(v2.list(&ListParams::default()).await.unwrap()), ["a", "b", "c"]);
    }
    assert_eq!(webhook.calls(), (1, 3), "a list is one review, and is not asked for again");
    let by = |api: &Api<DynamicObject>, selector: &str| {
        let (api, params) = (api.clone(), ListParams::default().fields(selector));
        async move { names(api.list(&params).await.unwrap()) }
    };
    assert_eq!(by(&v2, "host=b").await, ["b"]);
    assert_eq!(by(&v2, "host=b,port=2").await, Vec::<String>::new());
    assert_eq!(by(&v1, "hostPort=c:5").await, ["c"]);
    let refused = v1.list(&ListParams::default().fields("host=b")).await.unwrap_err().to_string();
    assert!(refused.contains("field label not supported: host"), "{refused}");
    let params = ListParams::default().fields("port=5");
    v2.delete_collection(&DeleteParams::default(), &params).await.unwrap();
    v2.delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(names(v1.list(&ListParams::default()).await.unwrap()), ["b"]);

    webhook.broken.store(true, Ordering::SeqCst);
    let kube::Error::Api(status) = v2.get("b").await.unwrap_err() else { panic!() };
    let told = "conversion webhook for example.com/v1, Kind=Host failed: out of order";
    assert_eq!((status.code, status.reason.as_str(), status.message.as_str()), (500, "", told));
    let kept = v2.patch("b", &PatchParams::default(), &Patch::Merge(json!({"port": "9"}))).await;
    assert!(kept.unwrap_err().to_string().contains("out of order"));
    assert_eq!(v1.get("b").await.unwrap().data["hostPort"], "b:3");
}

#[tokio::test]
async fn a_storage_version_may_change_and_objects_follow_when_they_are_written() {
    let webhook = Arc::new(Webhook::default());
    let (address, bundle) = webhook.serve().await;
    let cluster = TestCluster::start().await;
    let client = cluster.client();
    define(&client, definition("v1", by_webhook(address, &bundle))).await;
    let (v1, v2) = (hosts(&client, "v1"), hosts(&client, "v2"));
    let create = PostParams::default();
    let old = v1.create(&create, &host("v1", "old", json!({"hostPort": "o:1"}))).await.unwrap();
    let flipped = flip(&client, "v2").await.unwrap();
    assert_eq!(flipped.status.unwrap().stored_versions.unwrap(), ["v1", "v2"]);
    v2.create(&create, &host("v2", "new", json!({"host": "n", "port": "2"}))).await.unwrap();
    webhook.calls();

    let list = v2.list(&ListParams::default()).await.unwrap();
    let ports: Vec<_> = list.iter().map(|obj| obj.data["port"].as_str().unwrap()).collect();
    assert_eq!(ports, ["2", "1"]);
    assert_eq!(webhook.calls(), (1, 1), "only what is in the other version is sent");
    let list = v1.list(&ListParams::default()).await.unwrap();
    let both: Vec<_> = list.iter().map(|obj| obj.data["hostPort"].as_str().unwrap()).collect();
    assert_eq!(both, ["n:2", "o:1"]);

    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let only = definition("v2", by_webhook(address, &bundle))["spec"]["versions"][1].clone();
    let drop_v1 = Patch::Merge(json!({"spec": {"versions": [only]}}));
    let change = |patch| {
        let definitions = definitions.clone();
        async move { definitions.patch("hosts.example.com", &PatchParams::default(), &patch).await }
    };
    let refused = change(drop_v1.clone()).await.unwrap_err().to_string();
    let told = "status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions; v1 was previously a storage \
                version, and must remain in spec.versions until a storage migration ensures no data remains persisted \
                in v1 and removes v1 from status.storedVersions";
    assert!(refused.contains(told), "{refused}");

    // A write that changes nothing is what migrations are made of.
    let same = v2.get("old").await.unwrap();
    let written = v2.replace("old", &create, &same).await.unwrap();
    assert_ne!(written.resource_version(), old.resource_version());
    let again = v2.replace("old", &create, &written).await.unwrap();
    assert_eq!(written.resource_version(), again.resource_version(), "it is up to date now");
    let migrated = Patch::Merge(json!({"status": {"storedVersions": ["v2"]}}));
    definitions.patch_status("hosts.example.com", &PatchParams::default(), &migrated).await.unwrap();
    change(drop_v1).await.unwrap();
    webhook.calls();
    assert_eq!(names(v2.list(&ListParams::default()).await.unwrap()), ["new", "old"]);
    assert_eq!(webhook.calls().0, 0);
}

#[tokio::test]
async fn many_watchers_of_one_version_are_one_conversion() {
    const WATCHERS: usize = 20;
    let webhook = Arc::new(Webhook::default());
    let (address, bundle) = webhook.serve().await;
    let cluster = TestCluster::start().await;
    let client = cluster.client();
    define(&client, definition("v1", by_webhook(address, &bundle))).await;
    let (v1, v2) = (hosts(&client, "v1"), hosts(&client, "v2"));
    let revision = v1.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut watches = Vec::new();
    for i in 0..WATCHERS {
        let params = if i == 0 { WatchParams::default().fields("host=a") } else { WatchParams::default() };
        watches.push(v2.watch(&params, &revision).await.unwrap().boxed());
    }
    v1.create(&PostParams::default(), &host("v1", "x", json!({"hostPort": "a:1"}))).await.unwrap();
    for watch in &mut watches {
        let Some(Ok(WatchEvent::Added(obj))) = watch.next().await else { panic!() };
        assert_eq!((obj.data["host"].as_str(), obj.data["port"].as_str()), (Some("a"), Some("1")));
    }
    assert_eq!(webhook.calls(), (1, 1));
    // Leaves the selection of the first, and is a change for the others.
    let moved = Patch::Merge(json!({"hostPort": "b:1"}));
    let changed = v1.patch("x", &PatchParams::default(), &moved).await.unwrap();
    let Some(Ok(WatchEvent::Deleted(gone))) = watches[0].next().await else { panic!() };
    assert_eq!(
        (gone.data["host"].as_str(), gone.resource_version()),
        (Some("a"), changed.resource_version())
    );
    for watch in &mut watches[1..] {
        let Some(Ok(WatchEvent::Modified(obj))) = watch.next().await else { panic!() };
        assert_eq!(obj.data["host"], "b");
    }
    assert_eq!(webhook.calls(), (1, 1));
    webhook.broken.store(true, Ordering::SeqCst);
    v1.patch("x", &PatchParams::default(), &Patch::Merge(json!({"hostPort": "c:1"}))).await.unwrap();
    for watch in &mut watches[1..] {
        let Some(Ok(WatchEvent::Error(status))) = watch.next().await else { panic!() };
        assert!(status.message.ends_with("failed: out of order"), "{status:?}");
    }
}

#[tokio::test]
async fn without_a_webhook_only_the_version_changes() {
    let cluster = TestCluster::start().await;
    let client = cluster.client();
    let mut shared = definition("v1", json!({"strategy": "None"}));
    for version in [0, 1] {
        let properties = &mut shared["spec"]["versions"][version]["schema"]["openAPIV3Schema"]["properties"];
        properties["both"] = json!({"type": "string"});
        properties["filled"] = json!({"type": "string", "default": format!("by v{}", version + 1)});
    }
    define(&client, shared).await;
    let (v1, v2) = (hosts(&client, "v1"), hosts(&client, "v2"));
    let create = PostParams::default();
    v1.create(&create, &host("v1", "x", json!({"both": "yes", "hostPort": "a:1"}))).await.unwrap();
    let read = v2.get("x").await.unwrap();
    assert_eq!(read.data, json!({"both": "yes", "filled": "by v1"}), "v2 has no hostPort");
    let made = v2.create(&create, &host("v2", "y", json!({"both": "yes", "host": "b"}))).await.unwrap();
    assert_eq!(
        made.data,
        json!({"both": "yes", "filled": "by v2"}),
        "v1, in which it is stored, has no host"
    );
    let watch = v2.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    let seen: Vec<_> = watch.take(2).collect().await;
    assert!(
        seen.iter().all(|event| matches!(event, Ok(WatchEvent::Added(obj)) if obj.data["both"] == "yes"))
    );
}

const KILLS: usize = 12;
const WRITERS: usize = 4;

/// Writes in one version until the server does not answer any more; what was acknowledged is in `known`.
async fn write(
    api: Api<DynamicObject>,
    version: &'static str,
    writer: usize,
    known: &mut BTreeMap<String, u64>,
) {
    for serial in known.len() as u64.. {
        let name = format!("w{writer}-{serial}");
        let fields = match version {
            "v1" => json!({"hostPort": format!("{name}:{serial}")}),
            _ => json!({"host": name, "port": serial.to_string()}),
        };
        match api.create(&PostParams::default(), &host(version, &name, fields)).await {
            Ok(_) => _ = known.insert(name, serial),
            // Carried out before the last kill, but never acknowledged.
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                _ = known.insert(name, serial);
            }
            Err(kube::Error::Api(status)) => panic!("{name} was refused: {status:?}"),
            Err(_) => return,
        }
    }
}

#[tokio::test]
async fn kill_9_while_the_storage_version_changes_loses_nothing() {
    let seed = windlass::random::Source::from_entropy().next_u64();
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let webhook = Arc::new(Webhook::default());
    let (address, bundle) = webhook.serve().await;
    let dir = Folder::new("conversion", seed);
    let mut known: Vec<BTreeMap<String, u64>> = vec![BTreeMap::new(); WRITERS];
    for kill in 0..=KILLS {
        let mut server = Server::start(&dir.0, &[]).await;
        if kill == 0 {
            define(&server.client, definition("v1", by_webhook(address, &bundle))).await;
        }
        check(&server.client, &known).await;
        if kill == KILLS {
            break;
        }
        let load = join_all(known.iter_mut().enumerate().map(|(i, known)| {
            let version = if i % 2 == 0 { "v1" } else { "v2" };
            write(hosts(&server.client, version), version, i, known)
        }));
        let flips = async {
            for turn in 0.. {
                let flipped = flip(&server.client, if turn % 2 == 0 { "v2" } else { "v1" }).await;
                match flipped {
                    Err(kube::Error::Api(status)) => panic!("{status:?}"),
                    Err(_) => return,
                    Ok(_) => sleep(Duration::from_millis(3)).await,
                }
            }
        };
        let client = server.client.clone();
        let end = async {
            sleep(Duration::from_millis(random.u64(20..250))).await;
            server.child.kill().await.unwrap();
        };
        let all = futures::future::join3(load, flips, end);
        timeout(PATIENCE, all).await.expect("clients do not notice that the server is gone");
        drop(client);
    }
    let written: usize = known.iter().map(BTreeMap::len).sum();
    assert!(written > KILLS * WRITERS, "{written} writes are no load");
    println!("{written} objects, {KILLS} kills");
}

/// All that was acknowledged is there, in both versions.
async fn check(client: &Client, known: &[BTreeMap<String, u64>]) {
    let read = |version: &'static str| async move {
        let list = hosts(client, version).list(&ListParams::default()).await.unwrap();
        list.into_iter().map(|obj| (obj.name_any(), obj.data)).collect::<BTreeMap<String, Value>>()
    };
    let (v1, v2) = (read("v1").await, read("v2").await);
    for (name, serial) in known.iter().flatten() {
        assert_eq!(v1[name]["hostPort"], format!("{name}:{serial}"));
        assert_eq!((&v2[name]["host"], &v2[name]["port"]), (&json!(name), &json!(serial.to_string())));
    }
}
