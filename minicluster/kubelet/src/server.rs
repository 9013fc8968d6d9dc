//! The node server: what the API server (and people with the right to) ask a kubelet directly. Logs, terminals,
//! port-forwarding, health, metrics, statistics.
//!
//! Every request is authenticated by its client certificate or bearer token and authorized as upstream does, by
//! attributes on `nodes/{proxy,log,stats,metrics,healthz,pods}`; [`auth::Authorizer`] decides. Nothing is served
//! without TLS.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::kubelet::Handle;

pub mod auth;
mod logs;
mod spdy;
mod stats;
mod streams;
mod websocket;

use auth::{Attributes, Authorizer, Denied, Peer};

/// Connections at once; further ones wait to be accepted.
const CONNECTIONS: usize = 1000;
/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The body of an answer.
type Body = BoxBody<Bytes, std::io::Error>;

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

fn text(status: StatusCode, message: impl Into<String>) -> Response<Body> {
    let message: String = message.into();
    let mut reply = Response::new(full(message));
    *reply.status_mut() = status;
    reply
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    reply
}

fn json(value: &impl serde::Serialize) -> Response<Body> {
    let mut reply = Response::new(full(serde_json::to_vec(value).unwrap_or_default()));
    reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    reply
}

/// Serves a running kubelet until `stop`.
pub async fn serve(
    kubelet: Handle,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    authorizer: Arc<dyn Authorizer>,
    stop: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let permit = permits.clone().acquire_owned().await;
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((tcp, _)) = accepted else {
            // Out of descriptors: give those in use a moment to end.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (kubelet, acceptor, authorizer, stop) =
            (kubelet.clone(), acceptor.clone(), authorizer.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = connection(kubelet, tcp, acceptor, authorizer) => {}
                () = stop.cancelled() => {}
            }
            drop(permit);
        });
    }
}

async fn connection(kubelet: Handle, tcp: TcpStream, acceptor: TlsAcceptor, authorizer: Arc<dyn Authorizer>) {
    let _ = tcp.set_nodelay(true);
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(tcp)).await else { return };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|c| c.first()).map(|c| c.to_vec());
    let service = service_fn(move |request: Request<Incoming>| {
        let (kubelet, authorizer, certificate) = (kubelet.clone(), authorizer.clone(), certificate.clone());
        async move {
            Ok::<_, std::convert::Infallible>(handle(&kubelet, request, certificate, &*authorizer).await)
        }
    });
    let _ = Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await;
}

async fn handle(
    kubelet: &Handle,
    request: Request<Incoming>,
    certificate: Option<Vec<u8>>,
    authorizer: &dyn Authorizer,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let bearer = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let bearer = bearer.and_then(|v| v.strip_prefix("Bearer ")).map(str::to_owned);
    let attributes = Attributes::of(request.method(), &path, &kubelet.shared.config.node_name);
    match authorizer.allow(&Peer { certificate, bearer }, &attributes).await {
        Ok(()) => {}
        Err(Denied::Unauthenticated) => return text(StatusCode::UNAUTHORIZED, "Unauthorized"),
        Err(Denied::Forbidden(message)) => return text(StatusCode::FORBIDDEN, message),
    }
    route(kubelet, request, &path).await
}

async fn route(kubelet: &Handle, request: Request<Incoming>, path: &str) -> Response<Body> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let read = matches!(*request.method(), Method::GET | Method::HEAD);
    match parts.as_slice() {
        ["healthz"] | ["healthz", "ping" | "log" | "syncloop"] if read => text(StatusCode::OK, "ok"),
        ["containerLogs", namespace, pod, container] if read => {
            logs::serve(kubelet, request, namespace, pod, container).await
        }
        ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
            streams::exec(kubelet, request, namespace, pod, container).await
        }
        ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
            streams::attach(kubelet, request, namespace, pod, container).await
        }
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
            streams::port_forward(kubelet, request, namespace, pod).await
        }
        ["pods"] if read => json(&stats::pods(kubelet)),
        ["stats", "summary"] if read => json(&stats::summary(kubelet).await),
        ["metrics", "resource"] if read => text(StatusCode::OK, stats::resource_metrics(kubelet).await),
        ["metrics"] if read => text(StatusCode::OK, stats::metrics(kubelet)),
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

/// A body that is sent as it comes.
fn stream(chunks: tokio::sync::mpsc::Receiver<Bytes>) -> Body {
    let frames = futures::stream::unfold(chunks, |mut chunks| async move {
        let chunk = chunks.recv().await?;
        Some((chunk, chunks))
    });
    BoxBody::new(http_body_util::StreamBody::new(frames.map(|chunk| Ok(http_body::Frame::data(chunk)))))
}
