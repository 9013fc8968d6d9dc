//! Connections through the server: to a kubelet for logs and terminals, to a pod, Service or node for `proxy`.

use http::{Request, Response, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::parent;
use crate::{
    body::{self, Body},
    context::Context,
    nodes::{self, Io, NodeClient},
    object,
    status::{ApiError, ApiResult},
    view,
};

const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'/').remove(b':');

pub(super) async fn handle(cx: &Context, request: Request<Body>) -> ApiResult<Response<Body>> {
    match (cx.resource.plural.as_ref(), cx.info.subresource.as_str()) {
        ("pods", "proxy") => pod_proxy(cx, request).await,
        ("services", "proxy") => service_proxy(cx, request).await,
        ("nodes", "proxy") => node_proxy(cx, request).await,
        ("pods", sub) => kubelet(cx, sub, request).await,
        _ => Err(ApiError::no_such_resource()),
    }
}

/// Logs and terminals of a pod.
async fn kubelet(cx: &Context, sub: &str, request: Request<Body>) -> ApiResult<Response<Body>> {
    let pod = parent(cx)?;
    let node = object::text(&pod, &["spec", "nodeName"]);
    if node.is_empty() {
        // As upstream: a pod without a node has an empty log.
        return match sub {
            "log" => Ok(body::text(StatusCode::OK, "")),
            _ => Err(ApiError::bad_request(format!("pod {} does not have a host assigned", cx.info.name))),
        };
    }
    let (namespace, name) = (&cx.info.namespace, &cx.info.name);
    let container = match sub {
        "portforward" => String::new(),
        _ => container(cx, &pod)?,
    };
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
        "log" if !answer.status().is_success() => Err(refused(answer).await),
        _ => Ok(answer),
    }
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
        None => {
            let annotated = object::at(pod, &["metadata", "annotations"])
                .and_then(|a| a.get("kubectl.kubernetes.io/default-container"))
                .and_then(Value::as_str)
                .filter(|n| main.iter().any(|m| m == n));
            match (main.as_slice(), annotated) {
                ([only], _) => Ok(only.clone()),
                ([], _) => Err(ApiError::bad_request(format!(
                    "a container name must be specified for pod {pod_name}"
                ))),
                (_, Some(name)) => Ok(name.to_owned()),
                (many, None) => {
                    let mut text = format!(
                        "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                        many.join(" ")
                    );
                    if !init.is_empty() {
                        text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                    }
                    Err(ApiError::bad_request(text))
                }
            }
        }
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
    let (ip, port) = endpoint(cx, target.name, port_name).ok_or_else(unavailable)?;
    http_proxy(cx, target.https, &ip, port, request).await
}

/// One ready endpoint of a Service port, chosen at random.
fn endpoint(cx: &Context, service: &str, port_name: &str) -> Option<(String, i64)> {
    let snapshot = cx.api.store.snapshot();
    let prefix = format!("/registry/endpointslices/{}/", cx.info.namespace);
    let mut all = Vec::new();
    for (_, slice) in view::objects(&snapshot, &prefix) {
        let owner =
            object::at(&slice, &["metadata", "labels"]).and_then(|l| l.get("kubernetes.io/service-name"));
        if owner.and_then(Value::as_str) != Some(service) {
            continue;
        }
        let port = object::list(&slice, &["ports"]).iter().find(|p| object::text(p, &["name"]) == port_name);
        let Some(port) = port.and_then(|p| object::number(p, &["port"])) else { continue };
        for endpoint in object::list(&slice, &["endpoints"]) {
            let ready =
                object::at(endpoint, &["conditions", "ready"]).and_then(Value::as_bool) != Some(false);
            let address = object::list(endpoint, &["addresses"]).first().and_then(Value::as_str);
            if let (true, Some(address)) = (ready, address) {
                all.push((address.to_owned(), port));
            }
        }
    }
    let chosen = cx.api.random(all.len() as u64) as usize;
    all.into_iter().nth(chosen)
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
    port: i64,
    request: Request<Body>,
) -> ApiResult<Response<Body>> {
    let path = request.uri().path();
    if cx.info.rest.is_empty() && !path.ends_with('/') {
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
    nodes::forward(stream, &at, &uri, request).await
}
