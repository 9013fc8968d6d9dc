//! The server itself: paths, reviews, metrics.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::time::{Instant, timeout};
use windlass_crd::conversion::Versions;

use super::{
    Webhooks,
    answer::{self, Handler},
    configuration::{Way, convert_path},
    metrics::Counts,
};
use crate::{
    BoxError, RunCx,
    certificates::{self, Current},
    https,
};

/// Connections at a time; more wait to be accepted.
const CONNECTIONS: usize = 256;
/// The longest that a review may take; an API server waits 30 s at most.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest review: a list of objects that is to be converted.
const BODY_BYTES_MAX: usize = 64 << 20;

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
    let answer = move |request: Request<Incoming>| {
        let paths = Arc::clone(&paths);
        async move { respond(&paths, request).await }
    };
    let client = cx.informers.client();
    let configure = |bundle: Option<String>| -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(async move {
            let namespace = client.default_namespace();
            hooks.configure(client, &Way { namespace, bundle: bundle.as_deref() }).await?;
            hooks.ready.store(true, Ordering::Relaxed);
            Ok(())
        })
    };
    let listen = cx.doors.of(&hooks.service).unwrap_or_else(|| hooks.listen.clone());
    tokio::select! {
        biased;
        () = cx.stop.cancelled() => Ok(()),
        ended = https::serve(&listen, &current, CONNECTIONS, answer) => ended,
        () = certificates::keep(&hooks.certificates, &hooks.service, &cx, &current, configure) => Ok(()),
    }
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
