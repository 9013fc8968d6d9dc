//! The end of a response: when its last byte is on its way, the request is over.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use serde_json::Value;
use windlass_crd::protobuf;

use super::{
    policy::{Level, Stage},
    trail::Trail,
};
use crate::body::{self, Body, BodyError};

/// The deepest nesting of an answer that is looked into.
const DEPTH_MAX: usize = 512;

/// Tells of the answer: at once when it is whole, or when its last byte is sent.
pub(super) async fn told(trail: &Arc<Trail>, response: Response<Body>) -> Response<Body> {
    let level = trail.level();
    if level == Level::None {
        return response;
    }
    let code = response.status();
    let streams = trail.long_running || code == StatusCode::SWITCHING_PROTOCOLS;
    let wanted =
        !streams && (level == Level::RequestResponse || code.is_client_error() || code.is_server_error());
    let response = if wanted {
        looked_into(trail, response).await
    } else {
        trail.answered(code, None);
        response
    };
    if trail.long_running {
        trail.tell(Stage::ResponseStarted);
    } else if response.body().is_end_stream() || response.body().size_hint().exact().is_some() {
        trail.tell(Stage::ResponseComplete);
        return response;
    }
    let trail = Arc::clone(trail);
    response.map(|inner| Told { inner, trail }.boxed_unsync())
}

async fn looked_into(trail: &Trail, response: Response<Body>) -> Response<Body> {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let is_protobuf = parts
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|text| text.starts_with("application/vnd.kubernetes.protobuf"));
    let value: Option<Value> = match is_protobuf {
        true => protobuf::decode(&bytes, DEPTH_MAX).ok(),
        false => serde_json::from_slice(&bytes).ok(),
    };
    trail.answered(parts.status, value);
    Response::from_parts(parts, body::full(bytes))
}

/// A body that tells when it ends, whether it was read to its end or dropped before.
struct Told {
    inner: Body,
    trail: Arc<Trail>,
}

impl http_body::Body for Told {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if frame.is_none() {
            self.trail.tell(Stage::ResponseComplete);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        // Only the end that is asked for is told of.
        false
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.trail.tell(Stage::ResponseComplete);
    }
}
