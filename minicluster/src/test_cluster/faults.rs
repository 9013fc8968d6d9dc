//! Faults between the components and the API server: refused writes, broken watches, all from one seed.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use kube::client::Body as KubeBody;
use minicluster_apiserver::{
    InProcess,
    body::{self, Body, BodyError},
};
use serde_json::json;
use tower::Service;
use windlass::random::Source;

/// How often what goes wrong. The default is never.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Share of writes answered with 409 Conflict, from 0 to 1.
    pub conflicts: f64,
    /// Share of writes answered with 500, from 0 to 1.
    pub errors: f64,
    /// Share of writes that are done and answered with 500 all the same, from 0 to 1.
    pub lost_answers: f64,
    /// The longest that a request and its answer are under way, each; every one takes a time of its own up to this.
    pub delay: Duration,
    /// Share of watch frames after which the stream breaks off, from 0 to 1.
    pub broken_watches: f64,
}

impl Faults {
    pub(super) fn wrap(&self, inner: InProcess, random: Source) -> Faulty {
        Faulty { inner, faults: self.clone(), random }
    }
}

impl Faulty {
    /// A part of the way, drawn now.
    fn pause(&self) -> impl Future<Output = ()> + Send + use<> {
        let longest = self.faults.delay;
        let time = longest.mul_f64(self.random.unit());
        async move {
            if !longest.is_zero() {
                tokio::time::sleep(time).await;
            }
        }
    }
}

/// The front door with faults in the way.
#[derive(Clone)]
pub(super) struct Faulty {
    inner: InProcess,
    faults: Faults,
    random: Source,
}

impl Service<Request<KubeBody>> for Faulty {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<KubeBody>) -> Self::Future {
        let writes = matches!(*request.method(), Method::PUT | Method::PATCH | Method::POST | Method::DELETE);
        if writes && self.random.unit() < self.faults.conflicts {
            return refuse(StatusCode::CONFLICT, "Conflict");
        }
        if writes && self.random.unit() < self.faults.errors {
            return refuse(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
        }
        let watches = request.uri().query().is_some_and(|q| q.contains("watch="));
        let loses = writes && self.random.unit() < self.faults.lost_answers;
        let (there, back) = (self.pause(), self.pause());
        let (mut inner, random, chance) =
            (self.inner.clone(), self.random.clone(), self.faults.broken_watches);
        Box::pin(async move {
            there.await;
            let response = inner.call(request).await?;
            back.await;
            if loses {
                return refuse(StatusCode::INTERNAL_SERVER_ERROR, "InternalError").await;
            }
            if !watches || chance <= 0.0 {
                return Ok(response);
            }
            Ok(response.map(|inner| BodyExt::boxed_unsync(Breaking { inner, random, chance, broken: false })))
        })
    }
}

fn refuse(code: StatusCode, reason: &str) -> BoxFuture<'static, Result<Response<Body>, Infallible>> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason,
        "message": "a fault was injected", "code": code.as_u16(),
    });
    let response = body::json(code, status.to_string());
    Box::pin(async move { Ok(response) })
}

/// A body that ends early.
struct Breaking {
    inner: Body,
    random: Source,
    chance: f64,
    broken: bool,
}

impl http_body::Body for Breaking {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.broken {
            return Poll::Ready(None);
        }
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        if matches!(frame, Poll::Ready(Some(Ok(_)))) && self.random.unit() < self.chance {
            self.broken = true;
        }
        frame
    }
}
