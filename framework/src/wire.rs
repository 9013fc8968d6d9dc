//! The bytes of list and watch: requests out, frames in. Knows no type but the envelope.
//!
//! A watch answer is one JSON document per line, `{"type":…,"object":…}`. The object stays raw here, so that it can be
//! pruned before it is decoded.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use kube::{
    Client,
    client::Body,
    core::{ObjectMeta, Status},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::listwatch::WatchError;
use crate::BoxError;

/// Objects per page of a paged list, as client-go.
const PAGE_SIZE: u32 = 500;
/// The longest watch frame that is accepted: far beyond any object a server stores.
const MAX_FRAME_BYTES: usize = 64 << 20;
/// The longest error answer that is read.
const MAX_STATUS_BYTES: usize = 1 << 20;

const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// What is listed and watched.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Such as `/api/v1/namespaces/default/pods`.
    pub(crate) path: String,
    pub(crate) labels: Option<String>,
    pub(crate) fields: Option<String>,
    /// Ask for metadata alone.
    pub(crate) metadata_only: bool,
    /// Ask for these ranges of hashes.
    pub(crate) shards: Option<String>,
}

impl Target {
    /// Path and selectors: unlike those of any other watch.
    pub(crate) fn name(&self) -> String {
        let selectors = [&self.labels, &self.fields].into_iter().flatten();
        selectors.fold(self.path.clone(), |name, selector| format!("{name}?{selector}"))
    }

    pub(crate) fn list(&self, paged: bool, from: Option<&str>) -> http::Request<Body> {
        let mut query = Vec::new();
        if paged {
            query.push(("limit", PAGE_SIZE.to_string()));
        }
        if let Some(from) = from {
            query.push(("continue", from.to_owned()));
        }
        self.request(query, if self.metadata_only { METADATA_LIST } else { "application/json" })
    }

    /// Watches what follows a revision; without one, asks for the present state first and then what follows.
    pub(crate) fn watch(&self, from: Option<&str>, timeout_seconds: u64) -> http::Request<Body> {
        let mut query = vec![
            ("watch", "true".to_owned()),
            ("allowWatchBookmarks", "true".to_owned()),
            ("timeoutSeconds", timeout_seconds.to_string()),
        ];
        match from {
            Some(from) => query.push(("resourceVersion", from.to_owned())),
            None => {
                query.push(("sendInitialEvents", "true".to_owned()));
                query.push(("resourceVersionMatch", "NotOlderThan".to_owned()));
            }
        }
        self.request(query, if self.metadata_only { METADATA } else { "application/json" })
    }

    fn request(&self, mut query: Vec<(&str, String)>, accept: &'static str) -> http::Request<Body> {
        query.extend(self.labels.iter().map(|v| ("labelSelector", v.clone())));
        query.extend(self.fields.iter().map(|v| ("fieldSelector", v.clone())));
        query.extend(self.shards.iter().map(|v| ("shardSelector", v.clone())));
        let pairs: Vec<String> =
            query.iter().map(|(k, v)| format!("{k}={}", utf8_percent_encode(v, QUERY))).collect();
        let mut request = http::Request::new(Body::empty());
        let uri = format!("{}?{}", self.path, pairs.join("&"));
        *request.uri_mut() = uri.parse().unwrap_or_else(|_| http::Uri::from_static("/"));
        request.headers_mut().insert(http::header::ACCEPT, http::HeaderValue::from_static(accept));
        request
    }
}

/// Sends a request and hands back the body of a good answer.
pub(crate) async fn send(client: &Client, mut request: http::Request<Body>) -> Result<Body, WatchError> {
    // Compressed watch streams would be held back until a block is full.
    let identity = http::HeaderValue::from_static("identity");
    request.headers_mut().insert(http::header::ACCEPT_ENCODING, identity);
    let response = client.send(request).await.map_err(transport)?;
    let code = response.status();
    if code.is_success() {
        return Ok(response.into_body());
    }
    let body = http_body_util::Limited::new(response.into_body(), MAX_STATUS_BYTES).collect().await;
    let bytes = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let status = serde_json::from_slice::<Status>(&bytes).unwrap_or_else(|_| {
        Status::failure(&String::from_utf8_lossy(&bytes), code.canonical_reason().unwrap_or_default())
            .with_code(code.as_u16())
    });
    Err(WatchError::Api(status.boxed()))
}

/// One page of a list, still raw.
pub(crate) struct Page {
    bytes: Bytes,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMeta {
    #[serde(default)]
    resource_version: Option<String>,
    #[serde(default, rename = "continue")]
    token: Option<String>,
    #[serde(default)]
    shard_info: Option<IgnoredAny>,
}

/// What a page says of its list.
pub(crate) struct Told {
    pub(crate) revision: String,
    /// The token of the next page.
    pub(crate) next: Option<String>,
    /// It holds the shard that was asked for.
    pub(crate) is_shard: bool,
}

#[derive(Deserialize)]
struct RawList<'a> {
    #[serde(default)]
    metadata: PageMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

impl Page {
    pub(crate) async fn read(body: Body) -> Result<Self, WatchError> {
        Ok(Self { bytes: body.collect().await.map_err(transport)?.to_bytes() })
    }

    /// Hands each object to `each` and returns what the list says of itself.
    pub(crate) fn parse(&self, mut each: impl FnMut(&[u8])) -> Result<Told, WatchError> {
        let list: RawList<'_> = serde_json::from_slice(&self.bytes).map_err(WatchError::Frame)?;
        list.items.unwrap_or_default().iter().for_each(|item| each(item.get().as_bytes()));
        Ok(Told {
            revision: list.metadata.resource_version.unwrap_or_default(),
            next: list.metadata.token.filter(|token| !token.is_empty()),
            is_shard: list.metadata.shard_info.is_some(),
        })
    }
}

/// The lines of a watch answer.
pub(crate) struct Lines {
    body: Body,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no end of line.
    scanned: usize,
}

impl Lines {
    pub(crate) fn new(body: Body) -> Self {
        Self { body, buffer: BytesMut::new(), scanned: 0 }
    }

    /// The next line; `None` when the server has closed. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, WatchError> {
        loop {
            if let Some(len) = self.buffer[self.scanned..].iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(self.scanned + len + 1).freeze();
                self.scanned = 0;
                return Ok(Some(line));
            }
            self.scanned = self.buffer.len();
            if self.buffer.len() > MAX_FRAME_BYTES {
                return Err(WatchError::Transport("a watch frame is longer than 64 MiB".into()));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(transport(error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// A watch event whose object is still raw.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    Upsert(&'a [u8]),
    Deleted(&'a [u8]),
    Bookmark { revision: Option<String>, ends_initial: bool },
    Error(Box<Status>),
}

/// Takes a line apart.
pub(crate) fn event(line: &[u8]) -> Result<Event<'_>, WatchError> {
    let raw: RawEvent<'_> = serde_json::from_slice(line).map_err(WatchError::Frame)?;
    let object = raw.object.get().as_bytes();
    match raw.kind {
        "ADDED" | "MODIFIED" => Ok(Event::Upsert(object)),
        "DELETED" => Ok(Event::Deleted(object)),
        "BOOKMARK" => bookmark(object),
        "ERROR" => {
            let status = serde_json::from_slice::<Status>(object).map_err(WatchError::Frame)?;
            Ok(Event::Error(status.boxed()))
        }
        other => Err(WatchError::Transport(format!("unknown watch event {other:?}").into())),
    }
}

/// The little that is read of a bookmark, or of an object that cannot be decoded.
#[derive(Deserialize)]
struct Header {
    #[serde(default)]
    metadata: ObjectMeta,
}

fn bookmark(object: &[u8]) -> Result<Event<'static>, WatchError> {
    let meta = serde_json::from_slice::<Header>(object).map_err(WatchError::Frame)?.metadata;
    let end = meta.annotations.as_ref().and_then(|a| a.get("k8s.io/initial-events-end"));
    let ends_initial = end.is_some_and(|v| v == "true");
    Ok(Event::Bookmark { revision: meta.resource_version, ends_initial })
}

/// The revision of an object whose kind could not be decoded.
pub(crate) fn revision(object: &[u8]) -> Option<String> {
    serde_json::from_slice::<Header>(object).ok()?.metadata.resource_version
}

pub(crate) fn transport(error: impl Into<BoxError>) -> WatchError {
    WatchError::Transport(error.into())
}
