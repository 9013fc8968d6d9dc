//! Bodies, in and out: bounded on the way in, streamed in shared chunks on the way out.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, combinators::UnsyncBoxBody};
use minicluster_store::Entry;

use crate::status::{ApiError, ApiResult};

/// The largest request body, as in upstream.
pub const BODY_BYTES_MAX: usize = 3 << 20;

/// Bytes of a list handed to the connection at once.
const CHUNK_BYTES: usize = 64 << 10;

/// Any failure of a body.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BodyError(Box<dyn std::error::Error + Send + Sync>);

impl BodyError {
    /// Wraps what a transport reported.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

/// The body of a request or a response.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// JSON.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A body of one piece.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// No body.
pub fn empty() -> Body {
    full(Bytes::new())
}

/// A response with a JSON body.
pub fn json(code: StatusCode, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// A response with a text body.
pub fn text(code: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = code;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response.headers_mut().insert("X-Content-Type-Options", HeaderValue::from_static("nosniff"));
    response
}

/// The response that carries an error.
pub fn failure(error: &ApiError) -> Response<Body> {
    let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, error.to_json());
    if let Some(seconds) = error.details.as_ref().and_then(|d| d.retry_after_seconds) {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// Reads a whole request body, up to [`BODY_BYTES_MAX`].
///
/// # Errors
/// 413 when it is longer, 400 when the client broke off.
pub async fn read(body: Body) -> ApiResult<Bytes> {
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::too_large(BODY_BYTES_MAX)),
        Err(error) => Err(ApiError::bad_request(format!("the request body could not be read: {error}"))),
    }
}

/// A list of stored objects, written out piece by piece from shared bytes.
pub struct ListBody {
    head: Option<Bytes>,
    items: std::vec::IntoIter<Arc<Entry>>,
    first: bool,
    done: bool,
}

impl ListBody {
    /// `head` ends with `"items":[`.
    pub fn new(head: Bytes, items: Vec<Arc<Entry>>) -> Self {
        Self { head: Some(head), items: items.into_iter(), first: true, done: false }
    }

    fn next_chunk(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut out = BytesMut::with_capacity(CHUNK_BYTES / 4);
        if let Some(head) = self.head.take() {
            out.put(head);
        }
        while out.len() < CHUNK_BYTES {
            let Some(entry) = self.items.next() else {
                out.put_slice(b"]}\n");
                self.done = true;
                break;
            };
            if !std::mem::take(&mut self.first) {
                out.put_u8(b',');
            }
            out.put_slice(&entry.value);
        }
        Some(out.freeze())
    }
}

impl http_body::Body for ListBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(self.next_chunk().map(|chunk| Ok(Frame::data(chunk))))
    }
}
