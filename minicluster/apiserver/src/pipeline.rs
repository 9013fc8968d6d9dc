//! The road of a request, from the first byte understood to the response.
//!
//! ```text
//! request info → in-flight bound → authentication → impersonation → authorization → registry → handler → response
//! ```
//!
//! The stages are plain functions in this order; what a stage refuses never reaches the next.

use std::{
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{
    FutureExt,
    future::{BoxFuture, ready},
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::{Instant, timeout};

use crate::{
    api::Api,
    audit,
    authn::{self, Identity},
    authz::Attributes,
    body::{self, Body, BodyError},
    context::Context,
    delete, discovery,
    metrics::{DurationLabels, RequestLabels},
    read,
    represent::Representation,
    request::{Query, RequestInfo},
    reviews,
    status::{ApiError, ApiResult},
    strategy::Part,
    subresource, watch, write,
};

/// How long a request that is neither a watch nor a connection may take.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Requests answered at once, not counting watches and connections; more get 429.
pub const IN_FLIGHT_MAX: i64 = 600;

/// The longest path with query.
const URI_BYTES_MAX: usize = 64 << 10;

/// Answers a request.
pub async fn handle(api: Arc<Api>, request: Request<Body>) -> Response<Body> {
    let started = Instant::now();
    let uri = request.uri();
    if uri.path().len() + uri.query().map_or(0, str::len) > URI_BYTES_MAX {
        return body::failure(&ApiError::bad_request("the request URI is too long"));
    }
    let query = Query::parse(uri.query().unwrap_or(""));
    let info = RequestInfo::new(request.method(), uri.path(), &query);
    let long_running = is_long_running(&info);
    if let Some(audit) = &api.audit {
        let (served, asked) = (Arc::clone(&api), info.clone());
        let answer = async move |request| serve(served, request, asked, query, started).await;
        return audit.follow(&api, request, &info, long_running, answer).await;
    }
    serve(api, request, info, query, started).await
}

async fn serve(
    api: Arc<Api>,
    request: Request<Body>,
    info: RequestInfo,
    query: Query,
    started: Instant,
) -> Response<Body> {
    let label = info.clone();
    let representation = Representation::asked(request.headers(), &query);
    let long_running = is_long_running(&info);
    let Some(_slot) = Slot::take(&api, long_running) else {
        return body::failure(&ApiError::too_many_requests("Too many requests, please try again later.", 1));
    };
    let answer = AssertUnwindSafe(route(Arc::clone(&api), request, info, query)).catch_unwind();
    let answer = if long_running { Ok(answer.await) } else { timeout(REQUEST_TIMEOUT, answer).await };
    let response = match answer {
        Ok(Ok(Ok(response))) => response,
        Ok(Ok(Err(error))) => body::failure(&error),
        Ok(Err(_)) => {
            tracing::error!(verb = label.verb, path = %label.path, "a handler panicked");
            audit::panicked();
            body::failure(&ApiError::internal("the server has a defect in the handling of this request"))
        }
        Err(_) => body::failure(&ApiError::timeout("request did not complete within the allotted timeout")),
    };
    let response = if long_running { response } else { representation.of(response).await };
    count(&api, label, response.status(), started, long_running);
    response
}

fn is_long_running(info: &RequestInfo) -> bool {
    info.verb == "watch"
        || matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
}

/// A place among the requests being answered.
struct Slot(Gauge);

impl Slot {
    fn take(api: &Api, long_running: bool) -> Option<Self> {
        let (gauge, max) = if long_running {
            (&api.metrics.watches, i64::MAX)
        } else {
            (&api.metrics.in_flight, IN_FLIGHT_MAX)
        };
        let before = gauge.inc();
        let slot = Self(gauge.clone());
        (before < max).then_some(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn count(api: &Api, info: RequestInfo, code: StatusCode, started: Instant, long_running: bool) {
    let verb = info.verb.to_uppercase();
    if !long_running {
        let labels = DurationLabels { verb: verb.clone(), resource: info.resource.clone() };
        api.metrics.durations.get_or_create(&labels).observe(started.elapsed().as_secs_f64());
    }
    let labels = RequestLabels {
        verb,
        group: info.group,
        version: info.version,
        resource: info.resource,
        subresource: info.subresource,
        code: code.as_u16(),
    };
    api.metrics.requests.get_or_create(&labels).inc();
}

async fn route(
    api: Arc<Api>,
    request: Request<Body>,
    info: RequestInfo,
    query: Query,
) -> ApiResult<Response<Body>> {
    let user = match api.authenticator.request(&api, request.headers(), request.extensions(), &info).await {
        Ok(user) => user,
        Err(error) => {
            audit::authenticated(None)?;
            return Err(error);
        }
    };
    audit::authenticated(Some(&user))?;
    let impersonates = request.headers().contains_key("impersonate-user");
    let user = authn::impersonate(&api, user, request.headers(), &info).await?;
    if impersonates {
        audit::impersonated(&user);
    }
    let asked = Attributes::of(&info);
    let verdict = api.authorizer.decide(&api, &user, &asked).await;
    audit::decided(if verdict.is_allowed() { "allow" } else { "forbid" }, &verdict.reason);
    verdict.into_result(&user, &asked)?;
    if !info.is_resource {
        return paths(&api, &request, &info, &query);
    }
    api.definitions.refresh(&api.registry);
    let resource = api
        .registry
        .get(&info.group, &info.version, &info.resource)
        .ok_or_else(ApiError::no_such_resource)?;
    let cx = Context {
        api,
        info,
        query,
        headers: request.headers().clone(),
        user,
        resource,
        warnings: Mutex::default(),
        annotations: Mutex::default(),
    };
    resource_request(cx, request).await
}

async fn resource_request(cx: Context, request: Request<Body>) -> ApiResult<Response<Body>> {
    if let Some(warning) = cx.resource.custom.as_ref().and_then(|c| c.deprecation_warning.clone()) {
        cx.warn(warning);
    }
    if !cx.info.subresource.is_empty() {
        return subresource::handle(cx, request).await;
    }
    if !cx.resource.verbs.has(cx.info.verb) {
        return Err(ApiError::method_not_allowed());
    }
    if cx.info.verb == "watch" {
        return watch::watch(cx).await;
    }
    let cx = Arc::new(cx);
    let mut response = if cx.info.verb == "get" {
        read::get(&cx).await
    } else if cx.info.verb == "list" {
        read::list(&cx).await
    } else {
        let body = body::read(request.into_body()).await?;
        change(&cx, body).await
    }?;
    for warning in cx.warnings.lock().iter() {
        let escaped = warning.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{escaped}\"")) {
            response.headers_mut().append(http::header::WARNING, value);
        }
    }
    Ok(response)
}

fn change(cx: &Context, body: Bytes) -> BoxFuture<'_, ApiResult<Response<Body>>> {
    match cx.info.verb {
        "create" if reviews::is_review(&cx.resource.kind) => reviews::answer(cx, body).boxed(),
        "create" if cx.info.name.is_empty() => write::post(cx, body).boxed(),
        "update" => write::put(cx, Part::Main, body).boxed(),
        "patch" => write::patch(cx, Part::Main, body).boxed(),
        "delete" => delete::one(cx, body).boxed(),
        "deletecollection" => delete::collection(cx, body).boxed(),
        _ => ready(Err(ApiError::method_not_allowed())).boxed(),
    }
}

/// Everything that is no resource.
fn paths(
    api: &Arc<Api>,
    request: &Request<Body>,
    info: &RequestInfo,
    query: &Query,
) -> ApiResult<Response<Body>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(ApiError::method_not_allowed());
    }
    api.definitions.refresh(&api.registry);
    if let Some(answer) = discovery::answer(api, &info.path, request.headers()) {
        return answer;
    }
    if let Some(answer) = crate::openapi::answer(api, &info.path, request.headers()) {
        return answer;
    }
    match info.path.trim_end_matches('/') {
        "" => Ok(body::json(StatusCode::OK, read::line(&serde_json::json!({ "paths": known_paths(api) })))),
        "/version" => Ok(body::json(StatusCode::OK, read::line(&version(api)))),
        "/metrics" => Ok(body::text(StatusCode::OK, api.metrics.text())),
        "/openid/v1/jwks" => Ok(body::json(StatusCode::OK, read::line(&api.tokens.key_set()))),
        "/.well-known/openid-configuration" => Ok(body::json(StatusCode::OK, read::line(&openid(api)))),
        path if path.starts_with("/healthz") => Ok(health(api, "healthz", path, query)),
        path if path.starts_with("/livez") => Ok(health(api, "livez", path, query)),
        path if path.starts_with("/readyz") => Ok(health(api, "readyz", path, query)),
        _ => Err(ApiError::no_such_resource()),
    }
}

fn known_paths(api: &Api) -> Vec<String> {
    let table = api.registry.table();
    let mut paths: Vec<String> = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ]
    .map(str::to_owned)
    .to_vec();
    for (group, versions) in table.groups().iter().filter(|(g, _)| !g.is_empty()) {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.iter().map(|v| format!("/apis/{group}/{v}")));
    }
    paths.sort();
    paths
}

fn version(api: &Api) -> serde_json::Value {
    let git = &api.config.git_version;
    let mut numbers = git.trim_start_matches('v').split('.');
    serde_json::json!({
        "major": numbers.next().unwrap_or("1"), "minor": numbers.next().unwrap_or(""),
        "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": git, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "rustc",
        "compiler": "rustc", "platform": "linux/amd64",
    })
}

fn openid(api: &Api) -> serde_json::Value {
    let issuer = &api.config.issuer;
    serde_json::json!({
        "issuer": issuer, "jwks_uri": format!("{issuer}/openid/v1/jwks"), "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"],
    })
}

/// `/readyz` and its sisters: each check a line, `?verbose` shows them, `?exclude=` leaves some out.
fn health(api: &Api, kind: &str, path: &str, query: &Query) -> Response<Body> {
    let draining = *api.draining.borrow();
    // A server whose disk is full still answers: it is not to be killed, but it is not ready.
    let writes = kind == "livez" || api.store.failure().is_none();
    let mut checks = vec![("ping", true), ("log", true), ("etcd", writes)];
    if kind == "readyz" {
        checks.push(("informer-sync", true));
        checks.push(("shutdown", !draining));
    }
    if let Some(one) = path.trim_start_matches('/').split_once('/').map(|(_, c)| c) {
        return match checks.iter().find(|(name, _)| *name == one) {
            Some((_, true)) => body::text(StatusCode::OK, "ok"),
            Some(_) => body::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("internal server error: {one} check failed\n"),
            ),
            None => body::text(StatusCode::NOT_FOUND, "404 page not found\n"),
        };
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    let mut lines = String::new();
    let mut failed = false;
    for (name, ok) in checks {
        if excluded.contains(&name) {
            lines.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        failed |= !ok;
        lines.push_str(&if ok {
            format!("[+]{name} ok\n")
        } else {
            format!("[-]{name} failed: reason withheld\n")
        });
    }
    match (failed, query.flag("verbose") || query.get("verbose").is_some()) {
        (true, _) => body::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}{kind} check failed\n")),
        (false, true) => body::text(StatusCode::OK, format!("{lines}{kind} check passed\n")),
        (false, false) => body::text(StatusCode::OK, "ok"),
    }
}

/// The server as a `tower` service for one identity: the front door without a socket.
#[derive(Clone)]
pub struct InProcess {
    api: Arc<Api>,
    identity: Option<Identity>,
}

impl InProcess {
    /// Requests through this service are made by `identity`.
    pub fn new(api: &Arc<Api>, identity: Identity) -> Self {
        Self { api: Arc::clone(api), identity: Some(identity) }
    }

    /// Nobody vouches for requests through this service: what they say in their headers counts, as from a socket.
    pub fn stranger(api: &Arc<Api>) -> Self {
        Self { api: Arc::clone(api), identity: None }
    }
}

impl<B> tower::Service<Request<B>> for InProcess
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Self { api, identity } = self.clone();
        let mut request = request.map(|b| b.map_err(BodyError::new).boxed_unsync());
        if let Some(identity) = identity {
            request.extensions_mut().insert(identity);
        }
        Box::pin(async move { Ok(handle(api, request).await) })
    }
}
