//! Watch streams: the store's events, selected, framed and told apart as ADDED, MODIFIED and DELETED.
//!
//! A stream ends after its timeout, when the client goes away, when the server drains, or with an ERROR event when the
//! client read too slowly and history moved past it.

use std::{sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use minicluster_store::{Entry, Event, EventKind, Watcher};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::{
    body::{Body, BodyError},
    context::Context,
    negotiate::Form,
    read::{self, Selectors},
    status::{ApiError, ApiResult},
};

/// How often an idle watch tells how far it has come, when the client asked for bookmarks.
pub const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// The shortest life of a watch without a timeout of its own, in seconds; the longest is twice that.
const TIMEOUT_MIN_SECONDS: u64 = 1800;

/// Bytes of initial objects put into one chunk.
const CHUNK_BYTES: usize = 64 << 10;

struct Stream {
    cx: Arc<Context>,
    form: Form,
    watcher: Watcher,
    selectors: Selectors,
    initial: std::vec::IntoIter<Arc<Entry>>,
    marks_initial: bool,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    sent_first: bool,
    ended: bool,
}

/// `GET` of a collection with `watch=1`.
///
/// # Errors
/// 400, 406, 410 or 504 before the stream begins.
pub fn watch(cx: Context) -> ApiResult<Response<Body>> {
    let form = cx.form()?;
    let start = read::watch_start(&cx)?;
    let seconds = match cx.query.get("timeoutSeconds").and_then(|t| t.parse::<u64>().ok()) {
        Some(seconds) if seconds > 0 => seconds,
        _ => TIMEOUT_MIN_SECONDS + cx.api.random(TIMEOUT_MIN_SECONDS),
    };
    let now = Instant::now();
    let Ok(watcher) = cx.api.store.watch(&start.prefix, start.after) else {
        return Ok(respond(stream::iter([Ok(Frame::data(too_old(start.after)))])));
    };
    let state = Stream {
        form,
        watcher,
        selectors: start.selectors,
        initial: start.initial.into_iter(),
        marks_initial: start.marks_initial,
        bookmarks: cx.query.flag("allowWatchBookmarks"),
        next_bookmark: now + BOOKMARK_INTERVAL,
        deadline: now + Duration::from_secs(seconds),
        sent_first: false,
        ended: false,
        cx: Arc::new(cx),
    };
    Ok(respond(stream::unfold(state, |mut state| async move {
        let chunk = state.next().await?;
        Some((Ok(Frame::data(chunk)), state))
    })))
}

fn respond(
    frames: impl futures::Stream<Item = Result<Frame<Bytes>, BodyError>> + Send + 'static,
) -> Response<Body> {
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn too_old(revision: u64) -> Bytes {
    let status = ApiError::expired(format!("too old resource version: {revision}"));
    error_event(&status)
}

fn error_event(error: &ApiError) -> Bytes {
    let mut out = BytesMut::new();
    frame(&mut out, "ERROR", &error.to_json());
    out.freeze()
}

/// `type` comes first, so that clients need not buffer the object to know what it is.
fn frame(out: &mut BytesMut, kind: &str, object: &[u8]) {
    out.reserve(object.len() + 40);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object);
    out.put_slice(b"}\n");
}

impl Stream {
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        if let Some(chunk) = self.initial_chunk() {
            return Some(chunk);
        }
        loop {
            let wait_bookmark = if self.bookmarks { self.next_bookmark } else { self.deadline };
            let mut draining = self.cx.api.draining.clone();
            tokio::select! {
                biased;
                events = self.watcher.next() => match events {
                    Ok(events) => {
                        if let Some(chunk) = self.chunk(&events) {
                            return Some(chunk);
                        }
                    }
                    Err(_) => {
                        self.ended = true;
                        return Some(too_old(self.watcher.revision()));
                    }
                },
                () = sleep_until(self.deadline) => return None,
                _ = draining.wait_for(|on| *on) => return None,
                () = sleep_until(wait_bookmark) => {
                    self.next_bookmark = Instant::now() + BOOKMARK_INTERVAL;
                    // Catches up with the present, so that the bookmark says how far the store is.
                    match self.watcher.poll_now() {
                        Ok(events) if events.is_empty() => return Some(self.bookmark(false)),
                        Ok(events) => if let Some(chunk) = self.chunk(&events) { return Some(chunk) },
                        Err(_) => {}
                    }
                }
            }
        }
    }

    fn initial_chunk(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        while out.len() < CHUNK_BYTES {
            let Some(entry) = self.initial.next() else {
                if std::mem::take(&mut self.marks_initial) {
                    out.put(self.bookmark(true));
                }
                break;
            };
            self.put(&mut out, "ADDED", entry.value.clone());
        }
        (!out.is_empty()).then(|| out.freeze())
    }

    fn chunk(&mut self, events: &[Event]) -> Option<Bytes> {
        let mut out = BytesMut::new();
        for event in events {
            if let Some(kind) = self.classify(event) {
                let bytes = if kind == "DELETED" { deleted_bytes(event) } else { event.value() };
                self.put(&mut out, kind, bytes);
            }
        }
        (!out.is_empty()).then(|| out.freeze())
    }

    fn put(&mut self, out: &mut BytesMut, kind: &str, bytes: Bytes) {
        let object = read::watch_object(&self.cx, self.form, bytes, !self.sent_first);
        self.sent_first = true;
        frame(out, kind, &object);
    }

    /// What an event means to somebody who sees only the selected objects.
    fn classify(&self, event: &Event) -> Option<&'static str> {
        let matches = |entry: &Entry| self.selectors.matches(&self.cx.resource, entry);
        let was = event.prev.as_deref().is_some_and(matches);
        let is = event.kind == EventKind::Put && matches(&event.entry);
        match (was, is) {
            (false, true) => Some("ADDED"),
            (true, true) => Some("MODIFIED"),
            (true, false) => Some("DELETED"),
            (false, false) => None,
        }
    }

    fn bookmark(&self, initial_end: bool) -> Bytes {
        let revision = self.watcher.revision().to_string();
        let mut metadata = json!({ "resourceVersion": revision, "creationTimestamp": null });
        if initial_end {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let object = match self.form {
            Form::Table => json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                "columnDefinitions": [], "rows": [],
            }),
            Form::Metadata => {
                json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata })
            }
            _ => {
                let resource = &self.cx.resource;
                json!({ "kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata })
            }
        };
        let mut out = BytesMut::new();
        frame(&mut out, "BOOKMARK", &serde_json::to_vec(&object).expect("JSON into memory"));
        out.freeze()
    }
}

/// The last state that matched, stamped with the revision at which it ceased to.
fn deleted_bytes(event: &Event) -> Bytes {
    match (event.kind, &event.prev) {
        (EventKind::Put, Some(prev)) => prev.restamped(event.revision),
        _ => event.value(),
    }
}
