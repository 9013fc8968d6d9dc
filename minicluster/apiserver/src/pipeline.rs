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
};

use bytes::Bytes;
use futures::{
    FutureExt,
    future::{BoxFuture, ready},
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use tracing::Instrument;

use crate::{
    aggregation::proxy::{self, Foreign},
    api::Api,
    audit,
    authn::{self, Identity},
    authz::Attributes,
    body::{self, Body, BodyError, Sent},
    context::Context,
    delete, discovery, health,
    metrics::Labels,
    patch, read,
    represent::Representation,
    request::{Query, RequestInfo},
    reviews, routes, serving,
    status::{ApiError, ApiResult},
    strategy::Part,
    subresource, watch, write,
};

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
    let long_running = is_long_running(&info);
    let labels = Labels::of(&info, &query, request.headers(), long_running);
    let running = api.metrics.requests.begin(&labels, &info);
    let span = tracing::debug_span!("request", verb = info.verb, path = %info.path);
    let representation = Representation::asked(request.headers(), &query);
    let is_head = *request.method() == Method::HEAD;
    let answer = route(Arc::clone(&api), request, info, query).instrument(span.clone());
    let answer = AssertUnwindSafe(answer).catch_unwind();
    let bound = api.config.serving.request_timeout;
    let answer = if long_running { Ok(answer.await) } else { timeout(bound, answer).await };
    let response = match answer {
        Ok(Ok(Ok(response))) => response,
        Ok(Ok(Err(error))) => body::failure(&error),
        Ok(Err(_)) => {
            span.in_scope(|| tracing::error!("a handler panicked"));
            audit::panicked();
            body::failure(&ApiError::internal("the server has a defect in the handling of this request"))
        }
        Err(_) => body::failure(&ApiError::timeout("request did not complete within the allotted timeout")),
    };
    let response = if is_head { response.map(|_| body::empty()) } else { response };
    let foreign = response.extensions().get::<Foreign>().is_some();
    let response = if long_running || foreign { response } else { representation.of(response).await };
    api.metrics.requests.end(labels, response.status(), started.elapsed());
    match response.body().size_hint().exact() {
        Some(bytes) => {
            running.sent(usize::try_from(bytes).unwrap_or(usize::MAX));
            response
        }
        // A stream: it is under way for as long as its body is.
        None => response.map(|inner| body::Held::new(inner, running).boxed_unsync()),
    }
}

fn is_long_running(info: &RequestInfo) -> bool {
    info.verb == "watch"
        || matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
}

async fn route(
    api: Arc<Api>,
    request: Request<Body>,
    info: RequestInfo,
    query: Query,
) -> ApiResult<Response<Body>> {
    let asked = Instant::now();
    let user = match api.authenticator.request(&api, request.headers(), request.extensions(), &info).await {
        Ok(user) => user,
        Err(error) => {
            audit::authenticated(None)?;
            return Err(error);
        }
    };
    api.metrics.requests.authenticated(asked.elapsed());
    audit::authenticated(Some(&user))?;
    let impersonates = request.headers().contains_key("impersonate-user");
    let user = authn::impersonate(&api, user, request.headers(), &info).await?;
    if impersonates {
        audit::impersonated(&user);
    }
    // Connections are never kept waiting; a watch holds its seats until it has begun.
    if is_long_running(&info) && info.verb != "watch" {
        return admitted(api, request, info, query, user).await;
    }
    let asked = Instant::now();
    let permit = api.flow.enter(&user, &info, &query, api.config.serving.request_timeout).await?;
    api.metrics.requests.admitted(asked.elapsed());
    let answer = admitted(api, request, info, query, user).await;
    let mut response = answer.unwrap_or_else(|error| body::failure(&error));
    permit.mark(&mut response);
    Ok(response)
}

/// The rest of the way, once it is the request's turn.
async fn admitted(
    api: Arc<Api>,
    request: Request<Body>,
    info: RequestInfo,
    query: Query,
    user: Identity,
) -> ApiResult<Response<Body>> {
    let asked = Attributes::of(&info);
    let since = Instant::now();
    let verdict = api.authorizer.decide(&api, &user, &asked).await;
    api.metrics.requests.authorized(since.elapsed());
    audit::decided(if verdict.is_allowed() { "allow" } else { "forbid" }, &verdict.reason);
    verdict.into_result(&user, &asked)?;
    if !info.is_resource {
        if let Some(target) = api.aggregation.target(&api.registry, &info) {
            return proxy::forward(&api, &target, &user, request).await;
        }
        if info.path.starts_with("/debug/flags") {
            return serving::flags(&api, request).await;
        }
        return paths(&api, &request, &info, &query);
    }
    api.definitions.refresh(&api.registry);
    let resource = api.registry.get(&info.group, &info.version, &info.resource);
    if resource.as_ref().is_none_or(|resource| resource.custom.is_some())
        && let Some(target) = api.aggregation.target(&api.registry, &info)
    {
        return proxy::forward(&api, &target, &user, request).await;
    }
    let Some(resource) = resource else {
        let ours = api.registry.is_builtin_group(&info.group);
        return if ours { Err(ApiError::no_such_resource()) } else { Ok(body::no_such_page()) };
    };
    let cx = Context {
        api,
        info,
        query,
        headers: request.headers().clone(),
        user,
        resource,
        warnings: Mutex::default(),
        annotations: Mutex::default(),
        dry_run: std::sync::OnceLock::new(),
    };
    resource_request(cx, request).await
}

async fn resource_request(cx: Context, request: Request<Body>) -> ApiResult<Response<Body>> {
    if let Some(warning) = &cx.resource.deprecation {
        cx.warn(warning.as_str());
    }
    if cx.resource.custom.is_none() {
        routes::check(&cx.resource, &cx.info, request.method(), &cx.headers)?;
    } else if cx.resource.namespaced == cx.info.namespace.is_empty()
        && !(cx.resource.namespaced && matches!(cx.info.verb, "list" | "watch"))
    {
        return Ok(body::no_such_page());
    }
    if !cx.info.subresource.is_empty() {
        return subresource::handle(cx, request).await;
    }
    if !cx.resource.verbs.has(cx.info.verb) {
        return Err(match cx.resource.custom {
            Some(_) => ApiError::method_not_supported(&cx.resource, cx.info.verb),
            None => ApiError::method_not_allowed(),
        });
    }
    if cx.info.verb == "watch" {
        return watch::watch(cx).await;
    }
    let cx = Arc::new(cx);
    let answer = match cx.info.verb {
        "get" => read::get(&cx).await,
        "list" => read::list(&cx).await,
        _ => match body::read(request.into_body()).await {
            Ok(body) => change(&cx, body).await,
            Err(error) => Err(error),
        },
    };
    // Whoever is refused is warned, too.
    let mut response = match answer {
        Err(error) if cx.warnings.lock().is_empty() => return Err(error),
        Err(error) => body::failure(&error),
        Ok(response) => response,
    };
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
        "patch" => patch::patch(cx, Part::Main, body).boxed(),
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
    api.definitions.refresh(&api.registry);
    if *request.method() != Method::GET && is_routed(&info.path) {
        return Err(ApiError::method_not_allowed());
    }
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
        "/openid/v1/jwks" => Ok(body::json(StatusCode::OK, read::line(api.tokens.key_set()))),
        "/.well-known/openid-configuration" => Ok(body::json(StatusCode::OK, read::line(&openid(api)))),
        path if path.starts_with("/version/") || path.starts_with("/api/") => {
            Err(ApiError::no_such_resource())
        }
        path => Ok(health::answer(api, path, query).unwrap_or_else(body::no_such_page)),
    }
}

/// True for the paths that upstream has routes for, with a method. The others answer whatever the method is.
fn is_routed(path: &str) -> bool {
    let path = path.trim_end_matches('/');
    matches!(path, "/version" | "/api" | "/openid/v1/jwks" | "/.well-known/openid-configuration")
        || path.starts_with("/api/")
        || path.starts_with("/apis/")
}

fn known_paths(api: &Api) -> Vec<String> {
    let table = api.registry.table();
    let mut paths: Vec<String> = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/debug/flags",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/version",
    ]
    .map(str::to_owned)
    .to_vec();
    for (group, versions) in table.groups().iter().filter(|(g, _)| !g.is_empty()) {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.iter().map(|v| format!("/apis/{group}/{v}")));
    }
    for (group, version) in api.aggregation.learned().keys() {
        paths.extend([format!("/apis/{group}"), format!("/apis/{group}/{version}")]);
    }
    paths.extend(health::paths(api));
    paths.sort();
    paths.dedup();
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
    let keys = match api.config.token_keys.jwks_uri.as_str() {
        "" => format!("{issuer}/openid/v1/jwks"),
        given => given.to_owned(),
    };
    serde_json::json!({
        "issuer": issuer, "jwks_uri": keys, "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": api.tokens.algorithms(),
    })
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
