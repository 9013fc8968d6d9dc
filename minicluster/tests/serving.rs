//! How the server says how it is, what it counts, and how it goes down.

mod daemon;

use std::time::Duration;

use daemon::{Folder, PATIENCE, Server};
use futures::StreamExt;
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{ListParams, PostParams, WatchParams},
};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

async fn ask(client: &Client, method: &str, uri: &str, body: &str) -> kube::Result<(u16, String)> {
    let request =
        http::Request::builder().method(method).uri(uri).body(body.as_bytes().to_vec().into()).unwrap();
    let (parts, body) = client.send(request).await?.into_parts();
    let bytes = body.collect().await?.to_bytes();
    Ok((parts.status.as_u16(), String::from_utf8_lossy(&bytes).into_owned()))
}

#[tokio::test]
async fn health_metrics_paths_and_flags_are_upstreams() {
    let dir = Folder::new("serving", 0);
    let server = Server::start(&dir.0.join("data"), &[]).await;
    let get = async |uri: &str| ask(&server.client, "GET", uri, "").await.unwrap();
    let (code, verbose) = get("/readyz?verbose").await;
    assert_eq!(code, 200, "{verbose}");
    for line in [
        "[+]ping ok",
        "[+]etcd-readiness ok",
        "[+]poststarthook/rbac/bootstrap-roles ok",
        "[+]autoregister-completion ok",
        "[+]shutdown ok",
        "readyz check passed",
    ] {
        assert!(verbose.contains(&format!("{line}\n")), "{line}: {verbose}");
    }
    assert!(!get("/livez?verbose").await.1.contains("shutdown"));
    assert_eq!(get("/livez/poststarthook/rbac/bootstrap-roles").await, (200, "ok".to_owned()));
    assert_eq!(get("/livez/nothing").await.0, 404);
    let (_, paths) = get("/").await;
    for path in [
        "/apis/apps/v1",
        "/readyz/shutdown",
        "/livez/poststarthook/bootstrap-controller",
        "/openapi/v3",
        "/version",
    ] {
        assert!(paths.contains(&format!("\"{path}\"")), "{path}: {paths}");
    }
    assert!(get("/debug/flags").await.1.contains("full flags configurable"));
    let put = async |level: &str| ask(&server.client, "PUT", "/debug/flags/v", level).await.unwrap();
    assert_eq!(put("4").await, (200, "successfully set klog.logging.verbosity to 4".to_owned()));
    assert_eq!(put("loud").await.0, 400);
    assert_eq!(get("/debug/flags/v").await, (406, "unsupported http method".to_owned()));

    let maps: Api<ConfigMap> = Api::default_namespaced(server.client.clone());
    let revision = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut watch = maps.watch(&WatchParams::default(), &revision).await.unwrap().boxed();
    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();
    watch.next().await.unwrap().unwrap();
    let (_, metrics) = get("/metrics").await;
    for line in [
        r#"apiserver_request_total{verb="POST",dry_run="",group="",version="v1",resource="configmaps",subresource="",scope="resource",component="apiserver",code="201"} 1"#,
        r#"apiserver_longrunning_requests{verb="WATCH",group="",version="v1",resource="configmaps",subresource="",scope="namespace",component="apiserver"} 1"#,
        r#"apiserver_watch_events_total{group="",version="v1",resource="configmaps"} 1"#,
        r#"apiserver_current_inflight_requests{request_kind="readOnly"} 1"#,
        r#"apiserver_flowcontrol_dispatched_requests_total{priority_level="exempt",flow_schema="exempt"}"#,
        r#"apiserver_flowcontrol_nominal_limit_seats{priority_level="workload-low"} 245"#,
        r#"apiserver_request_filter_duration_seconds_count{filter="authorization"}"#,
        r#"apiserver_response_sizes_count{verb="LIST""#,
    ] {
        assert!(metrics.contains(line), "{line}");
    }
}

#[tokio::test]
async fn readyz_fails_first_then_watches_end_and_requests_under_way_are_answered() {
    let dir = Folder::new("drain", 0);
    let flags = ["--shutdown-delay-duration", "800ms"];
    let mut server = Server::start(&dir.0.join("data"), &flags).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client.clone());
    let revision = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut watch = maps.watch(&WatchParams::default(), &revision).await.unwrap().boxed();
    assert_eq!(ask(&server.client, "GET", "/readyz", "").await.unwrap().0, 200);
    let began = Instant::now();
    let id = server.child.id().unwrap().to_string();
    tokio::process::Command::new("kill").args(["-TERM", &id]).status().await.unwrap();
    let unready = async {
        loop {
            let (code, text) = ask(&server.client, "GET", "/readyz", "").await.unwrap();
            if code == 500 {
                return text;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    let text = timeout(PATIENCE, unready).await.expect("/readyz stays green");
    assert!(
        text.contains("[-]shutdown failed: reason withheld") && text.ends_with("readyz check failed\n"),
        "{text}"
    );
    assert_eq!(ask(&server.client, "GET", "/livez", "").await.unwrap().0, 200);
    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "late"}})).unwrap();
    maps.create(&PostParams::default(), &map).await.expect("requests are still taken");
    let mut names = Vec::new();
    let ended = async {
        while let Some(Ok(kube::api::WatchEvent::Added(map))) = watch.next().await {
            names.extend(map.metadata.name);
        }
    };
    timeout(PATIENCE, ended).await.expect("the watch does not end");
    assert_eq!(names, ["late"]);
    assert!(began.elapsed() >= Duration::from_millis(800), "{:?}", began.elapsed());
    let status = timeout(PATIENCE, server.child.wait()).await.expect("the server does not end").unwrap();
    assert!(
        status.success() && began.elapsed() < Duration::from_secs(9),
        "{status} after {:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn clients_that_are_asked_to_connect_anew_do_not_notice() {
    let dir = Folder::new("goaway", 0);
    let server = Server::start(&dir.0.join("data"), &["--goaway-chance", "0.02"]).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client.clone());
    for _ in 0..400 {
        maps.list(&ListParams::default()).await.unwrap();
    }
}
