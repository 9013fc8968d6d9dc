//! Audit: what is told of requests, and that it is there after the server was killed.

mod daemon;
mod hook;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use daemon::{Folder, PATIENCE, Server};
use futures::{StreamExt, future::join_all};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchParams},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitManagedFields: true
rules:
- {level: Metadata, resources: [{resources: [secrets]}]}
- {level: RequestResponse, resources: [{resources: [configmaps]}]}
- {level: Metadata, nonResourceURLs: [/version], omitStages: [RequestReceived]}
- {level: None}
";

fn write(path: &Path, text: &str) -> String {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The events of a log and of all that was put aside, in no particular order.
fn events(folder: &Path) -> Vec<Value> {
    let mut all = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        all.extend(
            text.lines()
                .map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"))),
        );
    }
    all
}

fn configmap(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"value": value}})).unwrap()
}

async fn raw(client: &Client, request: http::Request<Vec<u8>>) -> http::Response<String> {
    let answer = client.send(request.map(kube::client::Body::from)).await.unwrap();
    let (parts, body) = answer.into_parts();
    let bytes = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
    http::Response::from_parts(parts, String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn the_log_tells_what_the_policy_asks_for() {
    let dir = Folder::new("audit", 0);
    let (policy, log) = (write(&dir.0.join("policy.yaml"), POLICY), dir.0.join("log/audit.log"));
    let flags = ["--audit-policy-file", &policy, "--audit-log-path", log.to_str().unwrap()];
    let mut server = Server::start(&dir.0.join("data"), &flags).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client.clone());
    let secrets: Api<Secret> = Api::default_namespaced(server.client.clone());
    let revision = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut watch = maps.watch(&WatchParams::default(), &revision).await.unwrap().boxed();
    maps.create(&PostParams::default(), &configmap("a", "1")).await.unwrap();
    watch.next().await.unwrap().unwrap();
    drop(watch);
    maps.patch("a", &PatchParams::default(), &Patch::Merge(json!({"data": {"value": "2"}}))).await.unwrap();
    maps.get("missing").await.unwrap_err();
    secrets.list(&ListParams::default()).await.unwrap();
    let request = |method: &str, uri: &str, body: &str| {
        let request =
            http::Request::builder().method(method).uri(uri).header("content-type", "application/json");
        let request = request.header("audit-id", "mine").header("x-forwarded-for", "192.0.2.7, nonsense");
        request.header("impersonate-user", "jane").body(body.as_bytes().to_vec()).unwrap()
    };
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}).to_string();
    let answer = raw(&server.client, request("POST", "/api/v1/namespaces/default/secrets", &secret)).await;
    assert_eq!((answer.status().as_u16(), answer.headers()["audit-id"].to_str().unwrap()), (403, "mine"));
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    raw(&server.client, http::Request::get("/version").body(Vec::new()).unwrap()).await;
    Api::<k8s_openapi::api::core::v1::Pod>::all(server.client.clone())
        .list(&ListParams::default())
        .await
        .unwrap();
    // The end of the watch is noticed when there is something to send, or the connection is let go.
    sleep(Duration::from_millis(300)).await;
    server.child.kill().await.unwrap();

    let all = events(log.parent().unwrap());
    let find = |verb: &str, resource: &str, stage: &str| -> Value {
        let fits =
            |e: &&Value| e["verb"] == verb && e["stage"] == stage && e["objectRef"]["resource"] == *resource;
        all.iter().find(fits).cloned().unwrap_or_else(|| panic!("no {stage} of {verb} {resource}"))
    };
    let create = find("create", "configmaps", "ResponseComplete");
    assert_eq!(
        (&create["kind"], &create["apiVersion"], &create["level"]),
        (&json!("Event"), &json!("audit.k8s.io/v1"), &json!("RequestResponse"))
    );
    assert_eq!(create["requestObject"]["data"]["value"], "1");
    assert_eq!(create["responseObject"]["metadata"]["name"], "a");
    assert!(create["responseObject"]["metadata"].get("managedFields").is_none());
    assert_eq!(
        create["objectRef"],
        json!({"resource": "configmaps", "namespace": "default", "name": "a", "apiVersion": "v1"})
    );
    assert_eq!(create["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(create["user"]["username"], "kubernetes-admin");
    assert_eq!(create["sourceIPs"], json!(["127.0.0.1"]));
    assert_eq!(create["annotations"]["authorization.k8s.io/decision"], "allow");
    for time in ["requestReceivedTimestamp", "stageTimestamp"] {
        let text = create[time].as_str().unwrap();
        assert!(text.len() == "2026-01-01T00:00:00.000000Z".len() && text.ends_with('Z'), "{text}");
    }
    let received = find("create", "configmaps", "RequestReceived");
    assert_eq!(received["auditID"], create["auditID"]);
    assert!(received.get("responseStatus").is_none() && received.get("requestObject").is_none());
    assert_eq!(
        find("patch", "configmaps", "ResponseComplete")["requestObject"],
        json!({"data": {"value": "2"}})
    );
    let missing = find("get", "configmaps", "ResponseComplete");
    assert_eq!(
        (&missing["responseStatus"]["reason"], &missing["responseStatus"]["code"]),
        (&json!("NotFound"), &json!(404))
    );
    assert_eq!(find("watch", "configmaps", "ResponseStarted")["responseStatus"]["code"], 200);
    find("watch", "configmaps", "ResponseComplete");
    let list = find("list", "secrets", "ResponseComplete");
    assert!(list.get("responseObject").is_none() && list["level"] == "Metadata");
    let refused = find("create", "secrets", "ResponseComplete");
    assert_eq!(
        (&refused["auditID"], &refused["impersonatedUser"]["username"]),
        (&json!("mine"), &json!("jane"))
    );
    assert_eq!(refused["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(refused["sourceIPs"], json!(["192.0.2.7", "127.0.0.1"]));
    assert_eq!(refused["responseStatus"]["code"], 403);
    let versions: Vec<_> = all.iter().filter(|e| e["requestURI"] == "/version").collect();
    assert_eq!((versions.len(), &versions[0]["stage"]), (1, &json!("ResponseComplete")));
    assert!(
        all.iter().all(|e| e["objectRef"]["resource"] != "pods"),
        "the policy has nothing to say of pods"
    );
}

#[tokio::test]
async fn a_webhook_gets_events_in_batches_and_the_legacy_format_is_text() {
    let dir = Folder::new("audit-hook", 0);
    let told: Arc<Mutex<Vec<Value>>> = Arc::default();
    let heard = Arc::clone(&told);
    let (address, bundle) = hook::serve(Arc::new(move |_, list| {
        heard.lock().push(list);
        Ok(json!({}))
    }))
    .await;
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "k", "cluster": {"server": format!("https://{address}/audit"), "certificate-authority-data": bundle}}],
        "users": [{"name": "u", "user": {}}], "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}]});
    let config = write(&dir.0.join("hook.yaml"), &config.to_string());
    let (policy, log) = (write(&dir.0.join("policy.yaml"), POLICY), dir.0.join("log/audit.log"));
    let flags = [
        "--audit-policy-file",
        &policy,
        "--audit-webhook-config-file",
        &config,
        "--audit-webhook-batch-max-wait",
        "200ms",
        "--audit-log-path",
        log.to_str().unwrap(),
        "--audit-log-format",
        "legacy",
        "--audit-webhook-truncate-enabled",
        "--audit-webhook-truncate-max-event-size",
        "2000",
    ];
    let server = Server::start(&dir.0.join("data"), &flags).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client.clone());
    for i in 0..5 {
        maps.create(&PostParams::default(), &configmap(&format!("m{i}"), "x")).await.unwrap();
    }
    maps.create(&PostParams::default(), &configmap("large", &"x".repeat(4000))).await.unwrap();
    let done = async {
        while told
            .lock()
            .iter()
            .flat_map(|l| l["items"].as_array().unwrap().clone())
            .filter(|e| e["verb"] == "create")
            .count()
            < 12
        {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, done).await.expect("events do not arrive");
    let lists = told.lock().clone();
    assert!(lists.len() <= 6, "{} lists are no batches", lists.len());
    assert!(lists.iter().all(|list| list["kind"] == "EventList" && list["apiVersion"] == "audit.k8s.io/v1"));
    let all: Vec<Value> = lists.iter().flat_map(|l| l["items"].as_array().unwrap().clone()).collect();
    let large =
        all.iter().find(|e| e["objectRef"]["name"] == "large" && e["stage"] == "ResponseComplete").unwrap();
    assert!(large["annotations"]["audit.k8s.io/truncated"] == "true" && large.get("requestObject").is_none());
    let text = std::fs::read_to_string(log).unwrap();
    let line = text
        .lines()
        .find(|line| line.contains("stage=\"ResponseComplete\"") && line.contains("method=\"create\""))
        .unwrap();
    assert!(
        line.contains("AUDIT: id=")
            && line.contains("namespace=\"default\"")
            && line.contains("response=\"201\""),
        "{line}"
    );
}

const KILLS: usize = 8;
const WRITERS: usize = 4;

#[tokio::test]
async fn kill_9_while_the_log_rotates_loses_no_answered_request() {
    let seed = windlass::random::Source::from_entropy().next_u64();
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let dir = Folder::new("audit-kill", seed);
    let (policy, log): (String, PathBuf) =
        (write(&dir.0.join("policy.yaml"), POLICY), dir.0.join("log/audit.log"));
    let flags = [
        "--audit-policy-file",
        &policy,
        "--audit-log-path",
        log.to_str().unwrap(),
        "--audit-log-maxsize",
        "1",
        "--audit-log-maxbackup",
        "0",
        "--audit-log-mode",
        "blocking-strict",
    ];
    let value = "x".repeat(60_000);
    let mut answered: BTreeSet<String> = BTreeSet::new();
    for kill in 0..KILLS {
        let mut server = Server::start(&dir.0.join("data"), &flags).await;
        let maps: Api<ConfigMap> = Api::default_namespaced(server.client.clone());
        let load = join_all((0..WRITERS).map(|writer| {
            let (maps, value) = (maps.clone(), &value);
            async move {
                let mut acknowledged = Vec::new();
                for serial in 0.. {
                    let name = format!("k{kill}-w{writer}-{serial}");
                    match maps.create(&PostParams::default(), &configmap(&name, value)).await {
                        Ok(_) => acknowledged.push(name),
                        Err(kube::Error::Api(status)) => panic!("{name} was refused: {status:?}"),
                        Err(_) => break,
                    }
                }
                acknowledged
            }
        }));
        let end = async {
            sleep(Duration::from_millis(random.u64(100..600))).await;
            server.child.kill().await.unwrap();
        };
        let (written, ()) = timeout(PATIENCE, futures::future::join(load, end)).await.expect("clients hang");
        answered.extend(written.into_iter().flatten());
    }
    let files = std::fs::read_dir(log.parent().unwrap()).unwrap().count();
    assert!(files > 3 && answered.len() > KILLS * WRITERS, "{files} files, {} requests", answered.len());
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    for file in std::fs::read_dir(log.parent().unwrap()).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for line in text.lines() {
            // A line that was being written when the server died belongs to a request that nobody answered.
            let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
            if event["stage"] == "ResponseComplete" && event["verb"] == "create" {
                *told
                    .entry(event["objectRef"]["name"].as_str().unwrap_or_default().to_owned())
                    .or_default() += 1;
            }
        }
    }
    for name in &answered {
        assert_eq!(told.get(name), Some(&1), "{name} was answered");
    }
    println!("{} requests, {files} files", answered.len());
}
