//! Requests to a whole API server: the first byte says which, the rest is its query or its body.

use std::{cell::RefCell, time::Duration};

use http::{Method, Request, header::CONTENT_TYPE};
use http_body_util::BodyExt;
use minicluster::TestCluster;
use serde_json::Value;

use super::server::Server;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

thread_local! {
    static SERVER: RefCell<Option<Server>> = const { RefCell::new(None) };
}

/// The objects that requests are about.
async fn fill(cluster: &TestCluster) {
    for name in ["a", "b", "c", "d"] {
        let object = format!(r#"{{"metadata":{{"name":"{name}","labels":{{"a":"b"}}}},"data":{{"k":"v"}}}}"#);
        let request = Request::post(CONFIG_MAPS).header(CONTENT_TYPE, "application/json");
        let request = request.body(object.into_bytes().into()).expect("a request");
        cluster.client().send(request).await.expect("the server answers");
    }
}

/// A query of any bytes, as a client would have to send it.
fn query(bytes: &[u8]) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"=&%._-~".contains(b);
    bytes.iter().map(|b| if plain(b) { char::from(*b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn build(which: u8, rest: &[u8]) -> Option<Request<Vec<u8>>> {
    let dry = "dryRun=All&fieldManager=f&force=true";
    let read = |prefix: &str| Request::get(format!("{CONFIG_MAPS}?{prefix}{}", query(rest))).body(Vec::new());
    let write = |method: Method, name: &str, kind: &str| {
        let request = Request::builder().method(method).uri(format!("{CONFIG_MAPS}{name}?{dry}"));
        request.header(CONTENT_TYPE, kind).body(rest.to_vec())
    };
    match which % 8 {
        0 => read(""),
        1 => read("watch=1&"),
        2 => write(Method::POST, "", "application/yaml"),
        3 => write(Method::POST, "", "application/json"),
        4 => write(Method::PATCH, "/a", "application/apply-patch+yaml"),
        5 => write(Method::PATCH, "/a", "application/merge-patch+json"),
        6 => write(Method::PATCH, "/a", "application/strategic-merge-patch+json"),
        _ => write(Method::POST, "", "application/vnd.kubernetes.protobuf"),
    }
    .ok()
}

/// Whatever is asked, the server is not at fault, and a refusal is a whole `Status`.
pub fn request(bytes: &[u8]) {
    let Some((which, rest)) = bytes.split_first() else { return };
    let Some(request) = build(*which, rest) else { return };
    let shown = format!("{} {}", request.method(), request.uri());
    SERVER.with_borrow_mut(|server| {
        let server = server.get_or_insert_with(|| Server::start(fill));
        let (code, body) = server.runtime.block_on(async {
            let answer =
                server.cluster.client().send(request.map(Into::into)).await.expect("the server answers");
            let code = answer.status().as_u16();
            // A watch may ask to last for ever.
            let body = tokio::time::timeout(Duration::from_secs(3600), answer.into_body().collect()).await;
            (code, body.ok().map(|body| body.expect("a body").to_bytes()))
        });
        // Upstream has 500, without a reason, for errors that its storage did not expect.
        let status: Value =
            body.as_deref().and_then(|body| serde_json::from_slice(body).ok()).unwrap_or_default();
        let excused = code == 500 && status["kind"] == "Status" && status["reason"].is_null();
        assert!(code < 500 || code == 504 || excused, "{shown}: {code} {body:?}");
        if let Some(body) = body.filter(|_| code >= 400) {
            let status: Value = serde_json::from_slice(&body).unwrap_or_default();
            assert_eq!(
                (&status["kind"], &status["code"]),
                (&"Status".into(), &code.into()),
                "{shown}: {body:?}"
            );
            assert!(status["message"].as_str().is_some_and(|m| !m.is_empty()), "{shown}: {status}");
        }
    });
}
