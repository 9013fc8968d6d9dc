//! What a request costs inside the server: pods created, updated, patched and listed in one process, with the store in
//! memory and no network between. One thread, so that a figure is the cost of the work alone.
//!
//! `cargo bench -p windlass-tests --bench write_path [-- PODS]`

#![allow(missing_docs, clippy::disallowed_methods)]

use std::time::Instant;

use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use minicluster::TestCluster;
use serde_json::json;

const LISTS: usize = 20;

fn pod(i: usize) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": format!("pod-{i}"), "labels": {"app": "web", "tier": "front"}},
        "spec": {"containers": [{
            "name": "c", "image": "nginx", "ports": [{"containerPort": 80}],
            "env": [{"name": "A", "value": "1"}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
            "readinessProbe": {"httpGet": {"path": "/", "port": 80}},
        }]},
    }))
    .expect("a pod")
}

fn tell(what: &str, count: usize, begun: Instant) {
    let each = begun.elapsed() / u32::try_from(count).expect("a bench is no longer");
    println!("| {what} | {:.0} µs |", each.as_secs_f64() * 1e6);
}

async fn bench(pods: usize) {
    let cluster = TestCluster::start().await;
    let api: Api<Pod> = Api::default_namespaced(cluster.client());
    let accounts: Api<ServiceAccount> = Api::default_namespaced(cluster.client());
    let account: ServiceAccount =
        serde_json::from_value(json!({"metadata": {"name": "default"}})).expect("one");
    accounts.create(&PostParams::default(), &account).await.expect("an account");
    println!("| pods, one thread, in process | each |\n|---|---|");

    let begun = Instant::now();
    let mut all = Vec::with_capacity(pods);
    for i in 0..pods {
        all.push(api.create(&PostParams::default(), &pod(i)).await.expect("a pod"));
    }
    tell("create", pods, begun);

    let begun = Instant::now();
    for (i, pod) in all.iter_mut().enumerate() {
        pod.metadata.labels.get_or_insert_default().insert("n".to_owned(), i.to_string());
        *pod = api.replace(&format!("pod-{i}"), &PostParams::default(), pod).await.expect("an update");
    }
    tell("update", pods, begun);

    let begun = Instant::now();
    for i in 0..pods {
        let status =
            json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        let patch = Patch::Strategic(status);
        api.patch_status(&format!("pod-{i}"), &PatchParams::default(), &patch).await.expect("a patch");
    }
    tell("patch of the status", pods, begun);

    let begun = Instant::now();
    for _ in 0..LISTS {
        let some = ListParams::default().labels("app=web,n=7");
        assert_eq!(api.list(&some).await.expect("a list").items.len(), 1);
    }
    tell(&format!("list of one in {pods} by label"), LISTS, begun);
}

fn main() {
    let pods = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(2_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(bench(pods));
}
