//! Watch streams: the store's events, selected, framed and told apart as ADDED, MODIFIED and DELETED.
//!
//! A stream ends after its timeout, when the client goes away, when the server drains, or with an ERROR event when the
//! client read too slowly and history moved past it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use minicluster_store::{Entry, Event, EventKind, Revision, Watcher};
use serde_json::json;
use tokio::time::{Instant, sleep_until};
use windlass_crd::protobuf;

use crate::{
    body::{self, Body, BodyError},
    context::Context,
    crds::{self, conversion},
    metrics::WatchMeters,
    negotiate::{Encoding, Form, View},
    read::{self, Selectors},
    registry::{Custom, Resource},
    status::{ApiError, ApiResult},
};

/// How often an idle watch tells how far it has come, when the client asked for bookmarks.
pub const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// Bytes of initial objects put into one chunk.
const CHUNK_BYTES: usize = 64 << 10;

struct Stream {
    cx: Arc<Context>,
    form: Form,
    watcher: Watcher,
    /// Sees the definition of a custom kind change.
    definition: Option<Watcher>,
    /// What happened until then is known to the client, even where it lies ahead.
    after: Revision,
    selectors: Selectors,
    initial: std::vec::IntoIter<Arc<Entry>>,
    marks_initial: bool,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    /// The row of the table that was current when it was last looked at.
    known: Arc<Resource>,
    meters: WatchMeters,
    sent_first: bool,
    ended: bool,
}

/// What became of a kind while it is watched.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is what it was.
    Current,
    /// Its definition has changed: the client is to begin anew, and sees what follows by its new rules.
    Changed,
    /// It is served no longer.
    Gone,
}

/// Waits for a change of a definition; for ever where there is none, or where it cannot be followed.
async fn changed(definition: &mut Option<Watcher>) {
    if let Some(watcher) = definition {
        if watcher.next().await.is_ok() {
            return;
        }
        // Slower than the store remembers: the next event of the kind itself tells.
        *definition = None;
    }
    std::future::pending::<()>().await;
}

/// `GET` of a collection with `watch=1`.
///
/// # Errors
/// 400, 406, 410 or 504 before the stream begins.
pub async fn watch(cx: Context) -> ApiResult<Response<Body>> {
    let form = cx.form()?;
    if form.encoding == Encoding::Yaml {
        return Err(ApiError::not_acceptable(
            "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch",
        ));
    }
    let start = read::watch_start(&cx).await?;
    let seconds = match cx.query.get("timeoutSeconds").and_then(|t| t.parse::<u64>().ok()) {
        Some(seconds) if seconds > 0 => seconds,
        _ => {
            let min = cx.api.config.serving.min_request_timeout.as_secs().max(1);
            min + cx.api.random(min)
        }
    };
    let now = Instant::now();
    let after = start.after.min(cx.api.store.revision());
    let Ok(watcher) = cx.api.store.watch(&start.prefix, after) else {
        return Ok(respond(
            form.encoding,
            stream::iter([Ok(Frame::data(too_old(form.encoding, start.after)))]),
        ));
    };
    let definition = cx.resource.custom.as_ref().and_then(|_| {
        let key = format!("{}{}.{}", crds::PREFIX, cx.resource.plural, cx.resource.group);
        cx.api.store.watch(&key, cx.api.store.revision()).ok()
    });
    let state = Stream {
        form,
        watcher,
        definition,
        after: start.after,
        selectors: start.selectors,
        initial: start.initial.into_iter(),
        marks_initial: start.marks_initial,
        bookmarks: cx.query.flag("allowWatchBookmarks"),
        next_bookmark: now + BOOKMARK_INTERVAL,
        deadline: now + Duration::from_secs(seconds),
        known: Arc::clone(&cx.resource),
        meters: cx.api.metrics.requests.watch(&cx.info),
        sent_first: false,
        ended: false,
        cx: Arc::new(cx),
    };
    Ok(respond(
        form.encoding,
        stream::unfold(state, |mut state| async move {
            let chunk = state.next().await?;
            Some((Ok(Frame::data(chunk)), state))
        }),
    ))
}

fn respond(
    encoding: Encoding,
    frames: impl futures::Stream<Item = Result<Frame<Bytes>, BodyError>> + Send + 'static,
) -> Response<Body> {
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let content_type = match encoding {
        Encoding::Protobuf => HeaderValue::from_static("application/vnd.kubernetes.protobuf;stream=watch"),
        _ => body::JSON,
    };
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

fn too_old(encoding: Encoding, revision: u64) -> Bytes {
    let status = ApiError::expired(format!("too old resource version: {revision}"));
    computed(encoding, "ERROR", &status.to_json())
}

/// The event around an object that no other watcher is shown.
fn computed(encoding: Encoding, kind: &str, object: &[u8]) -> Bytes {
    let mut out = Vec::new();
    if encoding == Encoding::Protobuf {
        let encoded = protobuf::encode(object).unwrap_or_default();
        protobuf::watch_frame(&mut out, kind, &encoded);
    } else {
        frame(&mut out, kind, object);
    }
    out.into()
}

/// `type` comes first, so that clients need not buffer the object to know what it is.
fn frame(out: &mut Vec<u8>, kind: &str, object: &[u8]) {
    out.reserve(object.len() + 40);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
}

/// All states that a watcher may have to look at.
fn entries(events: &[Event]) -> Vec<Arc<Entry>> {
    events.iter().flat_map(|event| event.prev.iter().chain([&event.entry])).cloned().collect()
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
                        match self.fate() {
                            Fate::Current => {}
                            Fate::Changed => return None,
                            // Its last objects went before it: who watches them hears of that.
                            Fate::Gone => self.ended = true,
                        }
                        if let Some(chunk) = self.chunk(&events).await {
                            return Some(chunk);
                        }
                        if self.ended {
                            return None;
                        }
                    }
                    Err(_) => {
                        self.ended = true;
                        return Some(too_old(self.form.encoding, self.watcher.revision()));
                    }
                },
                () = changed(&mut self.definition) => {
                    if self.fate() != Fate::Current {
                        return None;
                    }
                }
                () = sleep_until(self.deadline) => return None,
                () = async { drop(draining.wait_for(|on| *on).await) } => return None,
                () = sleep_until(wait_bookmark) => {
                    self.next_bookmark = Instant::now() + BOOKMARK_INTERVAL;
                    // Catches up with the present, so that the bookmark says how far the store is.
                    match self.watcher.poll_now() {
                        Ok(events) if events.is_empty() => return Some(self.bookmark(false)),
                        Ok(events) => if let Some(chunk) = self.chunk(&events).await { return Some(chunk) },
                        Err(_) => {}
                    }
                }
            }
        }
    }

    fn initial_chunk(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        while out.len() < CHUNK_BYTES {
            let Some(entry) = self.initial.next() else {
                if std::mem::take(&mut self.marks_initial) {
                    out.extend_from_slice(&self.bookmark(true));
                }
                break;
            };
            let bytes = conversion::shown(&self.cx.resource, &entry);
            self.put(&mut out, "ADDED", entry.mod_revision, &entry, bytes);
        }
        (!out.is_empty()).then(|| out.into())
    }

    async fn chunk(&mut self, events: &[Event]) -> Option<Bytes> {
        if conversion::asks_webhook(&self.cx.resource) {
            let entries: Vec<Arc<Entry>> = entries(events);
            let prepared = conversion::prepare(&self.cx.api, &self.cx.resource, entries.iter()).await;
            if let Err(error) = prepared {
                self.ended = true;
                return Some(computed(self.form.encoding, "ERROR", &error.to_json()));
            }
        }
        let mut out = Vec::new();
        let after = self.after;
        for event in events.iter().filter(|event| event.revision > after) {
            if let Some(kind) = self.classify(event) {
                let bytes = self.bytes(kind, event);
                self.put(&mut out, kind, event.revision, &event.entry, bytes);
            }
        }
        (!out.is_empty()).then(|| out.into())
    }

    /// What an event shows; a deletion shows the last state that matched, with the revision at which it ceased to.
    fn bytes(&self, kind: &str, event: &Event) -> Bytes {
        let resource = &self.cx.resource;
        match (kind, event.kind, &event.prev) {
            ("DELETED", EventKind::Put, Some(prev)) => conversion::shown_at(resource, prev, event.revision),
            (_, EventKind::Delete, _) => conversion::shown_at(resource, &event.entry, event.revision),
            _ => conversion::shown(resource, &event.entry),
        }
    }

    /// What became of the kind since the watch began.
    fn fate(&mut self) -> Fate {
        let Some(ours) = &self.cx.resource.custom else { return Fate::Current };
        let (api, info) = (&self.cx.api, &self.cx.info);
        api.definitions.refresh(&api.registry);
        let Some(now) = api.registry.get(&info.group, &info.version, &info.resource) else {
            return Fate::Gone;
        };
        if Arc::ptr_eq(&now, &self.known) {
            return Fate::Current;
        }
        let differs = |now: &Custom| now.uid != ours.uid || now.spec_digest != ours.spec_digest;
        let changed = now.custom.as_ref().is_none_or(differs);
        self.known = now;
        if changed { Fate::Changed } else { Fate::Current }
    }

    fn put(&mut self, out: &mut Vec<u8>, kind: &str, revision: Revision, entry: &Entry, bytes: Bytes) {
        let (view, before) = (self.form.view, out.len());
        if self.form.encoding == Encoding::Protobuf {
            protobuf::watch_frame(out, kind, &read::watch_protobuf(&self.cx, view, revision, entry, bytes));
        } else {
            frame(out, kind, &read::watch_object(&self.cx, view, bytes, !self.sent_first));
        }
        self.meters.sent(out.len() - before);
        self.sent_first = true;
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
        let revision = self.watcher.revision().max(self.after).to_string();
        let mut metadata = json!({ "resourceVersion": revision, "creationTimestamp": null });
        if initial_end {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let object = match self.form.view {
            View::Table => json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                "columnDefinitions": [], "rows": [],
            }),
            View::Metadata => {
                json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata })
            }
            View::Object => {
                let resource = &self.cx.resource;
                json!({ "kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata })
            }
        };
        computed(self.form.encoding, "BOOKMARK", &serde_json::to_vec(&object).expect("JSON into memory"))
    }
}
