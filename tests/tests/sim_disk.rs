//! The disk is full: writes are refused and say why, reads and watches go on, and everything goes on when there is room.

use std::{collections::BTreeMap, time::Duration};

use http::Request;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, api::PostParams};
use minicluster::TestCluster;

fn config(name: &str) -> ConfigMap {
    let mut config = ConfigMap { data: Some(BTreeMap::new()), ..ConfigMap::default() };
    config.metadata.name = Some(name.to_owned());
    config
}

async fn health(client: &Client, path: &str) -> Result<String, String> {
    let request = Request::get(path).body(Vec::new()).unwrap();
    client.request_text(request).await.map_err(|error| error.to_string())
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_writes_and_nothing_else() {
    let cluster = TestCluster::start().await;
    let client = cluster.client();
    let configs: Api<ConfigMap> = Api::default_namespaced(client.clone());
    configs.create(&PostParams::default(), &config("before")).await.unwrap();

    cluster.fill_disk(true);
    for _ in 0..3 {
        let error = configs.create(&PostParams::default(), &config("during")).await.unwrap_err();
        let kube::Error::Api(status) = error else { panic!("{error}") };
        assert_eq!((status.code, status.reason.as_str()), (500, "InternalError"));
        assert!(status.message.contains("the store could not write: No space left on device"), "{status:?}");
    }
    assert!(configs.get_opt("during").await.unwrap().is_none());
    assert!(configs.get_opt("before").await.unwrap().is_some());
    let not_ready = health(&client, "/readyz?verbose").await.unwrap_err();
    assert!(not_ready.contains("[-]etcd failed: reason withheld"), "{not_ready}");
    assert_eq!(health(&client, "/livez").await.unwrap(), "ok");

    cluster.fill_disk(false);
    cluster.advance(Duration::from_secs(1)).await;
    configs.create(&PostParams::default(), &config("after")).await.unwrap();
    assert_eq!(health(&client, "/readyz").await.unwrap(), "ok");
}
