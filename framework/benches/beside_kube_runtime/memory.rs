//! What a cache holds, and what it takes to list everything again; each in a process of its own.

use std::process::Command;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{DynamicObject, ObjectMeta},
    runtime::{WatchStreamExt, reflector, watcher},
};
use serde::Deserialize;
use windlass::{Informers, Key, Projection, Scope};

use crate::{PODS, server::Pages};

/// Runs one side in a process of its own, whose memory nobody else has touched.
pub(crate) fn measured(what: &str, side: &str) -> f64 {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program).args([what, side]).output().expect("a child of this program");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number of bytes")
}

/// Bytes of each object in a cache.
pub(crate) async fn resident(side: &str) -> f64 {
    let client = Pages::new().client();
    let before = resident_bytes();
    let keep: Box<dyn std::any::Any> = match side {
        "ours" => {
            let pods = Informers::new(client).get::<Pod>(Scope::all());
            pods.synced().await;
            assert_eq!(pods.lister().len(), PODS);
            assert!(pods.get(&Key::new(Some("ns-7"), "web-7")).is_some());
            Box::new(pods)
        }
        "ours-meta" => {
            let kind = kube::api::ApiResource::erase::<Pod>(&());
            let pods = Informers::new(client).metadata(&kind, Scope::all());
            pods.synced().await;
            Box::new(pods)
        }
        "ours-node" => {
            let pods = Informers::new(client).projected::<Placement>(Scope::all());
            pods.synced().await;
            let pod = pods.get(&Key::new(Some("ns-7"), "web-7")).expect("a pod");
            assert!(pod.spec.node_name.is_some());
            Box::new(pods)
        }
        "theirs-node" => {
            let (store, writer) = reflector::store();
            let api: Api<PlacedPod> = Api::all(client);
            let events = watcher(api, watcher::Config::default()).default_backoff().modify(|pod| {
                pod.managed_fields_mut().clear();
                pod.annotations_mut().clear();
            });
            let task = tokio::spawn(events.reflect(writer).for_each(|_| std::future::ready(())));
            store.wait_until_ready().await.expect("the list");
            Box::new((store, task))
        }
        "theirs" => Box::new(their_store(Api::<Pod>::all(client)).await),
        _ => {
            let kind = kube::api::ApiResource::erase::<Pod>(&());
            let api: Api<kube::core::PartialObjectMeta<DynamicObject>> = Api::all_with(client, &kind);
            let writer = reflector::store::Writer::new(kind);
            let store = writer.as_reader();
            let events = watcher(api, watcher::Config::default()).default_backoff().reflect(writer);
            let task = tokio::spawn(events.for_each(|_| std::future::ready(())));
            store.wait_until_ready().await.expect("the list");
            Box::new((store, task))
        }
    };
    let bytes = (resident_bytes() - before) / PODS as f64;
    drop(keep);
    bytes
}

/// Where a pod runs, and nothing else of it.
#[derive(Clone, Debug, Deserialize)]
struct Placement {
    spec: PlacementSpec,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PlacementSpec {
    node_name: Option<String>,
}

impl Projection for Placement {
    type Kind = Pod;
}

/// The same, as kube-runtime takes it.
#[derive(Clone, Debug, Deserialize, kube::Resource)]
#[resource(inherit = Pod)]
struct PlacedPod {
    metadata: ObjectMeta,
    #[expect(dead_code, reason = "kept, not read")]
    spec: PlacementSpec,
}

pub(crate) async fn their_store(api: Api<Pod>) -> (reflector::Store<Pod>, tokio::task::JoinHandle<()>) {
    let (store, writer) = reflector::store();
    let events = watcher(api, watcher::Config::default()).default_backoff().reflect(writer);
    let task = tokio::spawn(events.for_each(|_| std::future::ready(())));
    store.wait_until_ready().await.expect("the list");
    (store, task)
}

/// What a cache of pods takes at most while everything is listed anew, every pod having changed, in parts of what it took
/// before.
pub(crate) async fn relist(side: &str) -> f64 {
    let pages = Pages::new();
    let before = resident_bytes();
    let keep: Box<dyn std::any::Any> = if side == "ours" {
        let pods = Informers::new(pages.client()).get::<Pod>(Scope::all());
        pods.synced().await;
        Box::new(pods)
    } else {
        Box::new(their_store(Api::all(pages.client())).await)
    };
    let steady = resident_bytes() - before;
    // From here on the kernel notes the highest.
    std::fs::write("/proc/self/clear_refs", "5").expect("Linux");
    pages.listed_again().await;
    let peak = peak_bytes() - before;
    drop(keep);
    peak / steady
}

fn resident_bytes() -> f64 {
    status("VmRSS:")
}

fn peak_bytes() -> f64 {
    status("VmHWM:")
}

/// A line of what the kernel says of this process, in bytes.
fn status(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a known line");
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kilobytes * 1024.0
}
