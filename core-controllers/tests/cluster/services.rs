//! Endpoints and EndpointSlices.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Endpoints, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{ResourceExt, api::DeleteParams};
use serde_json::json;

use crate::{
    play::{Cluster, pass},
    workloads::deployment,
};

#[tokio::test(start_paused = true)]
async fn a_service_follows_its_pods() {
    let cluster = Cluster::start("*").await;
    pass(1).await;
    let service = json!({
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    });
    cluster.create::<Service>(service).await;
    pass(1).await;
    let slices = async || cluster.list::<EndpointSlice>("kubernetes.io/service-name=web").await;
    let counts = async || -> (usize, usize) {
        let slices = slices().await;
        let listed = slices.iter().map(|s| s.endpoints.iter().flatten().count()).sum();
        let endpoints = cluster.api::<Endpoints>().get("web").await.unwrap();
        (listed, endpoints.subsets.iter().flatten().flat_map(|s| s.addresses.iter().flatten()).count())
    };
    assert_eq!((counts().await, slices().await.len()), ((0, 0), 1));
    cluster.create::<Deployment>(deployment("web", 3)).await;
    pass(3).await;
    assert_eq!(counts().await, (3, 3));
    let slice = slices().await.remove(0);
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
    assert_eq!(slice.owner_references()[0].name, "web");
    let ready = |s: &EndpointSlice| {
        s.endpoints.iter().flatten().all(|e| e.conditions.as_ref().unwrap().ready == Some(true))
    };
    assert!(ready(&slice));

    let pod = cluster.list::<Pod>("app=web").await.remove(0);
    cluster.patch::<Pod>(&pod.name_any(), json!({"metadata": {"labels": {"app": "other"}}})).await;
    pass(3).await;
    let names: Vec<String> = slices().await[0]
        .endpoints
        .iter()
        .flatten()
        .filter_map(|e| e.target_ref.as_ref()?.name.clone())
        .collect();
    assert!(names.len() == 3 && !names.contains(&pod.name_any()), "{names:?}");

    cluster.api::<Service>().delete("web", &DeleteParams::default()).await.unwrap();
    pass(2).await;
    assert!(cluster.api::<Endpoints>().get_opt("web").await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn endpoints_by_hand_are_mirrored() {
    let cluster = Cluster::start("*").await;
    pass(1).await;
    cluster.create::<Service>(json!({"metadata": {"name": "db"}, "spec": {"ports": [{"port": 5432}]}})).await;
    let hand = json!({"metadata": {"name": "db"}, "subsets": [{
        "addresses": [{"ip": "192.0.2.7"}], "notReadyAddresses": [{"ip": "192.0.2.8"}], "ports": [{"port": 5432}],
    }]});
    cluster.create::<Endpoints>(hand).await;
    pass(2).await;
    let mirrored = async || -> Vec<String> {
        let slices = cluster.list::<EndpointSlice>("kubernetes.io/service-name=db").await;
        let told = |s: &EndpointSlice| -> Vec<String> {
            let ready =
                |e: &k8s_openapi::api::discovery::v1::Endpoint| e.conditions.as_ref().unwrap().ready.unwrap();
            s.endpoints.iter().flatten().map(|e| format!("{} {}", e.addresses[0], ready(e))).collect()
        };
        slices.iter().flat_map(told).collect()
    };
    assert_eq!(mirrored().await, ["192.0.2.7 true", "192.0.2.8 false"]);
    let one = json!({"subsets": [{"addresses": [{"ip": "192.0.2.9"}], "ports": [{"port": 5432}]}]});
    cluster.patch::<Endpoints>("db", one).await;
    pass(2).await;
    assert_eq!(mirrored().await, ["192.0.2.9 true"]);
    cluster.api::<Endpoints>().delete("db", &DeleteParams::default()).await.unwrap();
    pass(2).await;
    assert!(mirrored().await.is_empty());
}
