//! Connections through the server: to a kubelet for logs and terminals, to a pod, Service or node for `proxy`.

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use windlass_crd::field::{self, Error, ErrorList};

use super::{links::Page, parent};
use crate::{
    admission::{self, Operation},
    body::{self, Body},
    context::Context,
    nodes::{self, Io, NodeClient},
    object, services,
    status::{ApiError, ApiResult},
};

/// The largest page whose links are rewritten, bytes.
const PAGE_MAX: usize = 16 << 20;
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'/').remove(b':');

pub(super) async fn handle(cx: &Context, request: Request<Body>) -> ApiResult<Response<Body>> {
    // Reading a log is a GET like others; the rest connects, and admission has a say.
    if cx.info.subresource != "log" {
        admission::validate(cx, Operation::Connect, Some(&options(cx)), None).await?;
    }
    match (cx.resource.plural.as_ref(), cx.info.subresource.as_str()) {
        ("pods", "proxy") => pod_proxy(cx, request).await,
        ("services", "proxy") => service_proxy(cx, request).await,
        ("nodes", "proxy") => node_proxy(cx, request).await,
        ("pods", sub) => kubelet(cx, sub, request).await,
        _ => Err(ApiError::no_such_resource()),
    }
}

/// What is asked for, as the object that admission sees: `PodExecOptions` and the like.
fn options(cx: &Context) -> Value {
    let sub = cx.resource.subresources.iter().find(|sub| sub.name == cx.info.subresource);
    let mut out = json!({"kind": sub.map_or("", |sub| sub.kind.as_ref()), "apiVersion": "v1"});
    for flag in ["stdin", "stdout", "stderr", "tty"] {
        if cx.query.flag(flag) {
            out[flag] = true.into();
        }
    }
    if let Some(container) = cx.query.get("container") {
        out["container"] = container.into();
    }
    let command: Vec<&str> = cx.query.all("command").collect();
    if !command.is_empty() {
        out["command"] = command.into();
    }
    if cx.info.subresource == "proxy" {
        out["path"] = format!("/{}", cx.info.rest).into();
    }
    out
}

/// Logs and terminals of a pod.
async fn kubelet(cx: &Context, sub: &str, request: Request<Body>) -> ApiResult<Response<Body>> {
    if sub == "log" {
        check_log_options(cx)?;
    }
    let pod = parent(cx).await?;
    let (namespace, name) = (&cx.info.namespace, &cx.info.name);
    let container = match sub {
        "portforward" => String::new(),
        _ => container(cx, &pod)?,
    };
    let node = object::text(&pod, &["spec", "nodeName"]);
    if node.is_empty() {
        if sub != "log" {
            return Err(ApiError::bad_request(format!("pod {name} does not have a host assigned")));
        }
        // As upstream: a pod without a node has no log.
        let mut answer = Response::new(body::empty());
        *answer.status_mut() = StatusCode::NO_CONTENT;
        return Ok(answer);
    }
    let path = match sub {
        "log" => format!("/containerLogs/{namespace}/{name}/{container}"),
        "exec" => format!("/exec/{namespace}/{name}/{container}"),
        "attach" => format!("/attach/{namespace}/{name}/{container}"),
        _ => format!("/portForward/{namespace}/{name}"),
    };
    let query = kubelet_query(cx, sub);
    let uri = if query.is_empty() { path } else { format!("{path}?{query}") };
    let address = NodeClient::address(&cx.api, node)?;
    let stream = cx.api.nodes.connect(&address).await?;
    let answer = nodes::forward(stream, node, &uri, request).await?;
    match sub {
        "log" if answer.status().is_client_error() || answer.status().is_server_error() => {
            Err(refused(answer).await)
        }
        _ => Ok(answer),
    }
}

/// Source: `ValidatePodLogOptions`.
fn check_log_options(cx: &Context) -> ApiResult<()> {
    const STREAMS: [&str; 3] = ["All", "Stderr", "Stdout"];
    let number = |name: &str| cx.query.get(name).and_then(|text| text.parse::<i64>().ok());
    let mut faults = ErrorList::new();
    let mut at_least = |name: &'static str, least: i64, detail: &str| {
        if let Some(given) = number(name).filter(|given| *given < least) {
            faults.push(Error::invalid(field::root(name), given, detail));
        }
    };
    at_least("tailLines", 0, "must be greater than or equal to 0");
    at_least("limitBytes", 1, "must be greater than 0");
    let since_time = cx.query.get("sinceTime").is_some_and(|time| !time.is_empty());
    if !since_time {
        at_least("sinceSeconds", 1, "must be greater than 0");
    } else if number("sinceSeconds").is_some() {
        let detail = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        faults.push(Error::forbidden(field::root(""), detail));
    }
    if let Some(stream) = cx.query.get("stream").filter(|stream| !stream.is_empty()) {
        if !STREAMS.contains(&stream) {
            faults.push(Error::not_supported(field::root("stream"), stream, &STREAMS));
        }
        if stream != "All" && number("tailLines").is_some() {
            let detail = "`tailLines` and specific `stream` are mutually exclusive for now";
            faults.push(Error::forbidden(field::root(""), detail));
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid_of("PodLogOptions", "", &cx.info.name, &faults))
}

/// What a kubelet says against a request for a log, as a `Status`.
async fn refused(answer: Response<Body>) -> ApiError {
    let status = answer.status();
    let text = match body::read(answer.into_body()).await {
        Ok(bytes) => String::from_utf8_lossy(&bytes).trim_end().to_owned(),
        Err(error) => return error,
    };
    match status {
        StatusCode::BAD_REQUEST => ApiError::bad_request(text),
        StatusCode::NOT_FOUND => ApiError::no_such_resource(),
        _ => ApiError::internal(text),
    }
}

/// The container that is meant; with several in the pod it has to be named.
fn container(cx: &Context, pod: &Value) -> ApiResult<String> {
    let names = |list: &str| -> Vec<String> {
        object::list(pod, &["spec", list]).iter().map(|c| object::text(c, &["name"]).to_owned()).collect()
    };
    let (main, init, ephemeral) =
        (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let pod_name = &cx.info.name;
    match cx.query.get("container").filter(|c| !c.is_empty()) {
        Some(wanted) => {
            let known = main.iter().chain(&init).chain(&ephemeral).any(|n| n == wanted);
            if known {
                return Ok(wanted.to_owned());
            }
            Err(ApiError::bad_request(format!("container {wanted} is not valid for pod {pod_name}")))
        }
        None => match main.as_slice() {
            [only] => Ok(only.clone()),
            [] => {
                Err(ApiError::bad_request(format!("a container name must be specified for pod {pod_name}")))
            }
            _ => {
                let all: Vec<String> = init.into_iter().chain(main).chain(ephemeral).collect();
                Err(ApiError::bad_request(format!(
                    "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                    all.join(" ")
                )))
            }
        },
    }
}

/// The kubelet's names for the client's parameters.
fn kubelet_query(cx: &Context, sub: &str) -> String {
    let mut pairs: Vec<(&str, String)> = Vec::new();
    let passed: &[(&str, &str)] = match sub {
        "log" => &[
            ("follow", "follow"),
            ("previous", "previous"),
            ("sinceSeconds", "sinceSeconds"),
            ("sinceTime", "sinceTime"),
            ("timestamps", "timestamps"),
            ("tailLines", "tailLines"),
            ("limitBytes", "limitBytes"),
            ("stream", "stream"),
        ],
        "portforward" => &[("ports", "port")],
        _ => &[
            ("stdin", "input"),
            ("stdout", "output"),
            ("stderr", "error"),
            ("tty", "tty"),
            ("command", "command"),
        ],
    };
    for (theirs, kubelets) in passed {
        for value in cx.query.all(theirs) {
            let switch = matches!(*kubelets, "input" | "output" | "error" | "tty");
            match (switch, cx.query.flag(theirs)) {
                (true, true) => pairs.push((kubelets, "1".to_owned())),
                (true, false) => {}
                (false, _) => pairs.push((kubelets, value.to_owned())),
            }
        }
    }
    let encode = |(k, v): &(&str, String)| format!("{k}={}", utf8_percent_encode(v, QUERY));
    pairs.iter().map(encode).collect::<Vec<_>>().join("&")
}

/// `[scheme:]name[:port]`.
struct Target<'a> {
    https: bool,
    name: &'a str,
    port: &'a str,
}

impl<'a> Target<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        match parts.as_slice() {
            [name] => Some(Self { https: false, name, port: "" }),
            [name, port] => Some(Self { https: false, name, port }),
            ["http" | "", name, port] => Some(Self { https: false, name, port }),
            ["https", name, port] => Some(Self { https: true, name, port }),
            _ => None,
        }
    }
}

async fn pod_proxy(cx: &Context, request: Request<Body>) -> ApiResult<Response<Body>> {
    let invalid = || ApiError::bad_request(format!("invalid pod request \"{}\"", cx.info.name));
    let target = Target::parse(&cx.info.name).ok_or_else(invalid)?;
    let entry = cx.api.store.get(&cx.resource.key(&cx.info.namespace, target.name));
    let entry = entry.ok_or_else(|| ApiError::not_found(&cx.resource, target.name))?;
    let pod = object::decode(&cx.resource, &entry.value);
    let ip = object::text(&pod, &["status", "podIP"]);
    if ip.is_empty() {
        return Err(ApiError::bad_request("address not allowed"));
    }
    let named = object::list(&pod, &["spec", "containers"])
        .iter()
        .flat_map(|c| object::list(c, &["ports"]))
        .find(|p| target.port.is_empty() || object::text(p, &["name"]) == target.port)
        .and_then(|p| object::number(p, &["containerPort"]));
    let named = named.and_then(|port| u16::try_from(port).ok());
    let port = target.port.parse().ok().or(named).unwrap_or(if target.https { 443 } else { 80 });
    http_proxy(cx, target.https, ip, port, request).await
}

async fn service_proxy(cx: &Context, request: Request<Body>) -> ApiResult<Response<Body>> {
    let invalid = || ApiError::bad_request(format!("invalid service request \"{}\"", cx.info.name));
    let target = Target::parse(&cx.info.name).ok_or_else(invalid)?;
    let entry = cx.api.store.get(&cx.resource.key(&cx.info.namespace, target.name));
    let entry = entry.ok_or_else(|| ApiError::not_found(&cx.resource, target.name))?;
    let service = object::decode(&cx.resource, &entry.value);
    let ports = object::list(&service, &["spec", "ports"]);
    let wanted = match (target.port, ports) {
        ("", [only]) => Some(only),
        (port, many) => many.iter().find(|p| {
            object::text(p, &["name"]) == port
                || port.parse().is_ok_and(|n: i64| object::number(p, &["port"]) == Some(n))
        }),
    };
    let unavailable =
        || ApiError::unavailable(format!("no endpoints available for service \"{}\"", cx.info.name));
    let port_name = wanted.map(|p| object::text(p, &["name"])).ok_or_else(|| {
        ApiError::unavailable(format!(
            "no service port \"{}\" found for service \"{}\"",
            target.port, target.name
        ))
    })?;
    let (ip, port) =
        services::endpoint(&cx.api, &cx.info.namespace, target.name, port_name).ok_or_else(unavailable)?;
    http_proxy(cx, target.https, &ip, port, request).await
}

async fn node_proxy(cx: &Context, request: Request<Body>) -> ApiResult<Response<Body>> {
    let target = Target::parse(&cx.info.name).ok_or_else(|| ApiError::bad_request("invalid node request"))?;
    let address = NodeClient::address(&cx.api, target.name)?;
    let stream = cx.api.nodes.connect(&address).await?;
    let uri = backend_uri(cx, &request);
    nodes::forward(stream, target.name, &uri, request).await
}

fn backend_uri(cx: &Context, request: &Request<Body>) -> String {
    let slash = if request.uri().path().ends_with('/') && !cx.info.rest.is_empty() { "/" } else { "" };
    let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
    format!("/{}{slash}{query}", cx.info.rest)
}

async fn http_proxy(
    cx: &Context,
    https: bool,
    ip: &str,
    port: u16,
    request: Request<Body>,
) -> ApiResult<Response<Body>> {
    let path = request.uri().path();
    let looks = matches!(*request.method(), Method::GET | Method::HEAD);
    if looks && cx.info.rest.is_empty() && !path.ends_with('/') {
        let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
        let mut redirect = Response::new(body::empty());
        *redirect.status_mut() = StatusCode::MOVED_PERMANENTLY;
        let location = format!("{path}/{query}").parse().map_err(ApiError::internal)?;
        redirect.headers_mut().insert(header::LOCATION, location);
        return Ok(redirect);
    }
    let at = format!("{ip}:{port}");
    let stream: Box<dyn Io> = if https {
        nodes::connect_unverified(ip, &at).await?
    } else {
        Box::new(nodes::connect_tcp(&at).await?)
    };
    let uri = backend_uri(cx, &request);
    let prefix = path.strip_suffix(&format!("/{}", cx.info.rest)).unwrap_or(path);
    let prefix = prefix.trim_end_matches('/').to_owned();
    let asked = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let asked = asked.map(str::to_owned).or_else(|| request.uri().authority().map(ToString::to_string));
    let response = nodes::forward(stream, &at, &uri, request).await?;
    let page = Page { prefix: &prefix, hosts: [&at, asked.as_deref().unwrap_or_default()] };
    led_through(&page, response).await
}

/// Makes what a page or a redirect links to reachable through the proxy.
async fn led_through(page: &Page<'_>, response: Response<Body>) -> ApiResult<Response<Body>> {
    let (mut parts, body) = response.into_parts();
    let text = |name: &header::HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(location) = text(&header::LOCATION) {
        let location = page.link(location).parse().map_err(ApiError::internal)?;
        parts.headers.insert(header::LOCATION, location);
        return Ok(Response::from_parts(parts, body));
    }
    let kind = text(&header::CONTENT_TYPE).and_then(|kind| kind.split(';').next()).unwrap_or_default();
    if kind.trim() != "text/html" || parts.headers.contains_key(header::CONTENT_ENCODING) {
        return Ok(Response::from_parts(parts, body));
    }
    let whole = Limited::new(body, PAGE_MAX).collect().await;
    let whole = whole.map_err(|e| ApiError::unavailable(format!("error trying to reach service: {e}")))?;
    let bytes = whole.to_bytes();
    let bytes = std::str::from_utf8(&bytes).map_or_else(|_| bytes.clone(), |html| page.rewrite(html).into());
    parts.headers.remove(header::CONTENT_LENGTH);
    Ok(Response::from_parts(parts, body::full(bytes)))
}
