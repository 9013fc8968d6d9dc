//! Credentials of strangers: the first byte says in which header they stand, the rest is what they say.

use std::cell::RefCell;

use http::{HeaderName, HeaderValue, Method, Request, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::server::Server;

const SECRETS: &str = "/api/v1/secrets";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

thread_local! {
    static SERVER: RefCell<Option<Server>> = const { RefCell::new(None) };
}

/// Requests of a stranger. `None`: the bytes are no header.
fn build(which: u8, rest: &[u8]) -> Option<Request<Vec<u8>>> {
    let list = |name: HeaderName, prefix: &[u8]| {
        let value = HeaderValue::from_bytes(&[prefix, rest].concat()).ok()?;
        Request::get(SECRETS).header(name, value).body(Vec::new()).ok()
    };
    match which % 6 {
        0 => list(header::AUTHORIZATION, b""),
        1 => list(header::AUTHORIZATION, b"Bearer "),
        2 => list(header::SEC_WEBSOCKET_PROTOCOL, b"base64url.bearer.authorization.k8s.io."),
        3 => list(HeaderName::from_static("impersonate-user"), b""),
        4 => {
            let name = HeaderName::from_bytes(&[b"impersonate-extra-", rest].concat()).ok()?;
            let request =
                Request::get(SECRETS).header(name, "x").header("impersonate-user", "system:masters");
            request.body(Vec::new()).ok()
        }
        _ => list(HeaderName::from_static("impersonate-group"), b"system:"),
    }
}

/// Whatever a stranger says, it opens nothing, and the server is not at fault.
pub fn credentials(bytes: &[u8]) {
    let Some((which, rest)) = bytes.split_first() else { return };
    SERVER.with_borrow_mut(|server| {
        let Server { runtime, cluster } = server.get_or_insert_with(|| Server::start(async |_| {}));
        // A client's buffer is a task of the runtime.
        let _inside = runtime.enter();
        if let Some(request) = build(*which, rest) {
            let shown = format!("{:?}", request.headers());
            let (code, body) = ask(runtime, cluster.client_of_stranger(), request);
            assert!(matches!(code, 400 | 401 | 403), "{shown}: {code} {body}");
        }
        let review = json!({"spec": {"token": String::from_utf8_lossy(rest)}}).to_string();
        let request = Request::builder().method(Method::POST).uri(REVIEWS);
        let request = request.header(header::CONTENT_TYPE, "application/json").body(review.into_bytes());
        let (code, body) = ask(runtime, cluster.client(), request.expect("a request"));
        assert!(
            matches!(code, 201 | 400) && body["status"]["authenticated"] != true,
            "{rest:?}: {code} {body}"
        );
    });
}

fn ask(runtime: &Runtime, client: kube::Client, request: Request<Vec<u8>>) -> (u16, Value) {
    runtime.block_on(async {
        let answer = client.send(request.map(Into::into)).await.expect("the server answers");
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        (code, serde_json::from_slice(&body).unwrap_or_default())
    })
}
