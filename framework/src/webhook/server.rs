//! The server itself: connections, TLS, paths, metrics.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use k8s_openapi::api::core::v1::Secret;
use rustls::{ServerConfig, crypto::ring::default_provider};
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;
use windlass_crd::conversion::Versions;

use super::{
    Io, Listen, Webhooks,
    answer::{self, Handler},
    certificates::{self, Current, LOOK_EVERY, Origin, Served},
    configuration::{Way, convert_path},
    metrics::Counts,
};
use crate::{BoxError, RunCx, Scope};

/// Connections at a time; more wait to be accepted.
const CONNECTIONS: usize = 256;
/// The longest wait for a handshake, and for the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that a review may take; an API server waits 30 s at most.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest review: a list of objects that is to be converted.
const BODY_BYTES_MAX: usize = 64 << 20;
/// The wait before a certificate or configuration that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What paths lead to.
struct Paths {
    handlers: BTreeMap<String, Handler>,
    conversions: BTreeMap<String, Versions>,
    metrics: Counts,
}

/// Serves until it is told to stop; certificates and configurations are kept as they should be meanwhile.
pub(super) async fn run(hooks: &Webhooks, cx: RunCx) -> Result<(), BoxError> {
    let current = Arc::new(Current::default());
    let paths = Arc::new(Paths {
        handlers: hooks.handlers.iter().map(|handler| (handler.path(), handler.clone())).collect(),
        conversions: hooks.kinds.iter().map(|kind| (convert_path(kind.name()), kind.versions())).collect(),
        metrics: hooks.counts.get_or_init(|| Counts::register(&cx.metrics)).clone(),
    });
    let mut tls = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&current) as _);
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listen = cx.doors.of(&hooks.service).unwrap_or_else(|| hooks.listen.clone());
    tokio::select! {
        biased;
        () = cx.stop.cancelled() => Ok(()),
        ended = accept(&listen, acceptor, paths) => ended,
        () = keep(hooks, &cx, &current) => Ok(()),
    }
}

/// Keeps the certificate fresh and the configurations as they should be, for ever.
async fn keep(hooks: &Webhooks, cx: &RunCx, current: &Current) {
    let client = cx.informers.client();
    let namespace = client.default_namespace().to_owned();
    let changed = Arc::new(Notify::new());
    let _watching = watch_secret(hooks, cx, &namespace, &changed).await;
    loop {
        let kept = async {
            let served = match &hooks.certificates.0 {
                Origin::Secret(lifetimes) => {
                    certificates::from_secret(client, &hooks.service, &namespace, *lifetimes).await?
                }
                Origin::Folder { dir, .. } => certificates::from_folder(dir)?,
            };
            let Served { bundle, renew, .. } = &served;
            let (bundle, renew) = (bundle.clone(), *renew);
            current.present(served);
            hooks.configure(client, &Way { namespace: &namespace, bundle: bundle.as_deref() }).await?;
            hooks.ready.store(true, Ordering::Relaxed);
            Ok::<_, BoxError>(renew)
        };
        let wait = match kept.await {
            Ok(renew) => renew.unwrap_or(LOOK_EVERY),
            Err(error) => {
                tracing::error!(webhooks = hooks.service, %error, "certificates or configurations are not in order");
                RETRY
            }
        };
        // Another replica may have made a new authority.
        let _ = timeout(wait, changed.notified()).await;
    }
}

/// Wakes `changed` whenever the Secret with the authority changes.
async fn watch_secret(
    hooks: &Webhooks,
    cx: &RunCx,
    namespace: &str,
    changed: &Arc<Notify>,
) -> Option<crate::Subscription> {
    let Origin::Secret(_) = hooks.certificates.0 else { return None };
    let name = certificates::secret_name(&hooks.service);
    let scope = Scope::namespace(namespace).fields(format!("metadata.name={name}"));
    let informer = cx.informers.get::<Secret>(scope);
    let changed = Arc::clone(changed);
    Some(informer.subscribe(move |_| changed.notify_one()))
}

async fn accept(listen: &Listen, acceptor: TlsAcceptor, paths: Arc<Paths>) -> Result<(), BoxError> {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    let socket = match listen {
        Listen::Address(address) => Some(TcpListener::bind(address).await?),
        Listen::Connections(_) => None,
    };
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await?;
        let stream: Box<dyn Io> = match (&socket, listen) {
            (Some(socket), _) => match socket.accept().await {
                Ok((stream, _)) => Box::new(stream),
                Err(error) => {
                    tracing::debug!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            (None, Listen::Connections(connections)) => match connections.lock().await.recv().await {
                Some(stream) => stream,
                None => return Ok(()),
            },
            (None, Listen::Address(_)) => return Ok(()),
        };
        let (acceptor, paths) = (acceptor.clone(), Arc::clone(&paths));
        connections.spawn(async move {
            if let Err(error) = connection(stream, acceptor, paths).await {
                tracing::debug!(error, "a connection to the webhooks ended badly");
            }
            drop(slot);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(stream: Box<dyn Io>, acceptor: TlsAcceptor, paths: Arc<Paths>) -> Result<(), String> {
    let stream = timeout(HEADER_TIMEOUT, acceptor.accept(stream)).await.map_err(|e| e.to_string())?;
    let stream = TokioIo::new(stream.map_err(|e| e.to_string())?);
    let service = service_fn(move |request: Request<Incoming>| {
        let paths = Arc::clone(&paths);
        async move { Ok::<_, Infallible>(respond(&paths, request).await) }
    });
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    http.serve_connection(stream, service).await.map_err(|e| e.to_string())
}

async fn respond(paths: &Paths, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let known = paths.handlers.contains_key(&path) || paths.conversions.contains_key(&path);
    if !known {
        return text(StatusCode::NOT_FOUND, "no webhook is here");
    }
    if request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "reviews are posted");
    }
    paths.metrics.started(&path);
    let begin = Instant::now();
    let answered = timeout(REVIEW_TIMEOUT, review(paths, &path, request)).await;
    let response = answered.unwrap_or_else(|_| text(StatusCode::GATEWAY_TIMEOUT, "the review took too long"));
    paths.metrics.ended(&path, response.status().as_u16(), begin.elapsed());
    response
}

async fn review(paths: &Paths, path: &str, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let Ok(body) = Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await else {
        return text(StatusCode::PAYLOAD_TOO_LARGE, "the review is too large, or broke off");
    };
    let body = body.to_bytes();
    let answer = match (paths.handlers.get(path), paths.conversions.get(path)) {
        (Some(handler), _) => handler.answer(&body).await,
        (None, Some(versions)) => answer::convert(&body, versions),
        (None, None) => None,
    };
    match answer {
        Some(answer) => json(&answer),
        None => text(StatusCode::BAD_REQUEST, "this is no review of version v1"),
    }
}

fn json(answer: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}
