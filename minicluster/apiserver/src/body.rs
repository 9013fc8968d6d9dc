//! Bodies, in and out: bounded on the way in, streamed in shared chunks on the way out.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, combinators::UnsyncBoxBody};
use minicluster_store::Entry;
use windlass_crd::protobuf;

use crate::{
    audit,
    status::{ApiError, ApiResult},
};

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

/// The response for a path that nobody answers for.
pub fn no_such_page() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
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

/// A body that keeps something alive for as long as it is not sent, and tells how large it was.
pub(crate) struct Held<T: Sent> {
    inner: Body,
    held: T,
    bytes: usize,
}

/// What is told of a body that was sent.
pub(crate) trait Sent: Unpin {
    /// It had so many bytes.
    fn sent(&self, bytes: usize);
}

impl<T: Sent> Held<T> {
    pub(crate) fn new(inner: Body, held: T) -> Self {
        Self { inner, held, bytes: 0 }
    }
}

impl<T: Sent> http_body::Body for Held<T> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => self.bytes += frame.data_ref().map_or(0, Bytes::len),
            Poll::Ready(None) => self.held.sent(self.bytes),
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}

/// Reads a whole request body, up to [`BODY_BYTES_MAX`].
///
/// # Errors
/// 413 when it is longer, 400 when the client broke off.
pub async fn read(body: Body) -> ApiResult<Bytes> {
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(collected) => {
            let bytes = collected.to_bytes();
            audit::body_read(&bytes);
            Ok(bytes)
        }
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::too_large(BODY_BYTES_MAX)),
        Err(error) => Err(ApiError::bad_request(format!("the request body could not be read: {error}"))),
    }
}

/// A list of stored objects, written out piece by piece as the connection takes it.
pub struct ListBody<F> {
    head: Option<Bytes>,
    items: std::vec::IntoIter<Arc<Entry>>,
    show: F,
    /// How an item begins whose first fields the list has said for all of them.
    said: Vec<u8>,
    is_protobuf: bool,
    first: bool,
    done: bool,
}

impl<F: Fn(&Entry) -> Bytes> ListBody<F> {
    /// A list in JSON: `head` ends with `"items":[`, `show` gives an item's JSON.
    pub fn json(head: Bytes, items: Vec<Arc<Entry>>, show: F) -> Self {
        Self {
            head: Some(head),
            items: items.into_iter(),
            show,
            said: Vec::new(),
            is_protobuf: false,
            first: true,
            done: false,
        }
    }

    /// Without `said` at the beginning of its items, which is an object's brace and the fields after it.
    #[must_use]
    pub fn leaving_out(self, said: Vec<u8>) -> Self {
        Self { said, ..self }
    }

    /// A list in protobuf: `head` has the length of all that follows, `show` gives an item's message.
    pub fn protobuf(head: Bytes, items: Vec<Arc<Entry>>, show: F) -> Self {
        Self { is_protobuf: true, ..Self::json(head, items, show) }
    }

    fn next_chunk(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut out = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4);
        if let Some(head) = self.head.take() {
            out.extend_from_slice(&head);
        }
        while out.len() < CHUNK_BYTES {
            let Some(entry) = self.items.next() else {
                if !self.is_protobuf {
                    out.extend_from_slice(b"]}\n");
                }
                self.done = true;
                break;
            };
            let item = (self.show)(&entry);
            if self.is_protobuf {
                protobuf::item(&mut out, &item);
                continue;
            }
            if !std::mem::take(&mut self.first) {
                out.push(b',');
            }
            match item.strip_prefix(self.said.as_slice()) {
                Some(rest) if !self.said.is_empty() => {
                    out.push(b'{');
                    out.extend_from_slice(rest);
                }
                _ => out.extend_from_slice(&item),
            }
        }
        Some(out.into())
    }
}

/// Nothing in it refers to itself.
impl<F> Unpin for ListBody<F> {}

impl<F: Fn(&Entry) -> Bytes> http_body::Body for ListBody<F> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(self.next_chunk().map(|chunk| Ok(Frame::data(chunk))))
    }
}
