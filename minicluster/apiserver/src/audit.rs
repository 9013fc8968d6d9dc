//! Audit: who asked for what, when, and how it ended.
//!
//! A policy says which requests are told of and how much of them ([`policy`]); events go to a file that rotates
//! ([`log`]), to a webhook in batches ([`webhook`]), or to both. Each request has a [`Trail`] that the stations of the
//! pipeline write on; they find it through the task, so that no function has to hand it on, and without a policy there
//! is none: off costs one branch for each request.
//!
//! In the modes `blocking` and `blocking-strict` an event is written before the client has the whole answer, so what
//! was answered is in the log after a `kill -9`; a file's bytes are then the system's, not yet the disk's. The modes
//! differ when the log cannot be written: `blocking-strict` refuses the request, the other goes on. `batch` may lose
//! what is waiting. Source: `k8s.io/apiserver/pkg/audit`, `…/endpoints/filters/audit.go`.

mod body;
mod event;
mod log;
mod policy;
mod sinks;
mod trail;
mod webhook;

use std::{path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};

pub(crate) use trail::{
    Peer, annotate, authenticated, body_read, decided, impersonated, is_on, panicked, wants_objects,
};

use crate::{api::Api, body::Body, request::RequestInfo};
use policy::Policy;
use sinks::Sinks;
use trail::Trail;

/// Names a request, in its headers and in those of its answer.
pub const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// The longest name that a client may give its request.
const AUDIT_ID_BYTES_MAX: usize = 64;

/// When events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Later, several at once.
    Batch,
    /// Before the request goes on; a failure is only counted.
    Blocking,
    /// Before the request goes on; a failure when a request begins ends it.
    BlockingStrict,
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "batch" => Ok(Self::Batch),
            "blocking" => Ok(Self::Blocking),
            "blocking-strict" => Ok(Self::BlockingStrict),
            other => {
                Err(format!("invalid audit mode {other}, allowed modes are batch,blocking,blocking-strict"))
            }
        }
    }
}

/// How events are gathered in the mode `batch`.
#[derive(Clone, Debug)]
pub struct Batching {
    /// Events that may wait; more are dropped and counted.
    pub buffer: usize,
    /// Events told at once.
    pub max: usize,
    /// How long one waits for others.
    pub wait: Duration,
    /// Batches a second, on average, and at once. `None`: as fast as they come.
    pub throttle: Option<(f64, u32)>,
}

/// What becomes of events that are too large.
#[derive(Clone, Debug)]
pub struct Truncation {
    /// Bytes of one event; a larger one loses its request and response.
    pub event_bytes: usize,
    /// Bytes of one batch.
    pub batch_bytes: usize,
}

/// The log file.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// Where it is; `-` for the standard output.
    pub path: PathBuf,
    /// Days that an old file is kept; 0: for ever.
    pub max_age_days: u32,
    /// Old files that are kept; 0: all.
    pub max_backups: usize,
    /// Megabytes after which a new file is begun.
    pub max_megabytes: u64,
    /// One line of text for people instead of JSON.
    pub legacy: bool,
    /// Old files are compressed.
    pub compress: bool,
    /// When events are written.
    pub mode: Mode,
    /// How they are gathered.
    pub batching: Batching,
    /// What becomes of those that are too large.
    pub truncation: Option<Truncation>,
}

/// The webhook.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// A kubeconfig that says where it is.
    pub config: PathBuf,
    /// How long to wait after the first failure.
    pub backoff: Duration,
    /// When events are sent.
    pub mode: Mode,
    /// How they are gathered.
    pub batching: Batching,
    /// What becomes of those that are too large.
    pub truncation: Option<Truncation>,
}

/// What is told of requests, and to whom. Nothing, unless there is a policy and somebody to tell.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The file with the policy.
    pub policy: Option<PathBuf>,
    /// The log file.
    pub log: Option<LogSettings>,
    /// The webhook.
    pub webhook: Option<WebhookSettings>,
}

/// Tells of requests.
pub struct Audit {
    policy: Policy,
    sinks: Sinks,
}

impl Audit {
    /// Reads the policy and opens the log; `None` when nothing is to be told.
    ///
    /// # Errors
    /// The file and what is wrong with it.
    pub(crate) fn new(settings: &Settings) -> Result<Option<Arc<Self>>, String> {
        let Some(path) = &settings.policy else { return Ok(None) };
        let named = |why: String| format!("loading audit policy file: {}: {why}", path.display());
        let text = std::fs::read_to_string(path).map_err(|e| named(e.to_string()))?;
        let policy = Policy::parse(&text).map_err(named)?;
        let sinks = Sinks::new(settings)?;
        Ok((!sinks.is_empty()).then(|| Arc::new(Self { policy, sinks })))
    }

    /// Sends what is gathered, until there is nothing left to come. Its owner runs this once.
    pub(crate) async fn run(&self, api: &Arc<Api>) {
        self.sinks.run(api).await;
    }

    /// Answers a request on its trail.
    pub(crate) async fn follow(
        self: &Arc<Self>,
        api: &Arc<Api>,
        request: Request<Body>,
        info: &RequestInfo,
        long_running: bool,
        answer: impl AsyncFnOnce(Request<Body>) -> Response<Body>,
    ) -> Response<Body> {
        let id = id(api, request.headers());
        let trail = Arc::new(Trail::new(self, &id, &request, info, long_running));
        let response = trail::on(&trail, answer(request)).await;
        let mut response = body::told(&trail, response).await;
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(AUDIT_ID, id);
        }
        response
    }
}

/// The name that the client gave the request, or a fresh one.
fn id(api: &Api, headers: &HeaderMap) -> String {
    let given = headers.get(AUDIT_ID).and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty());
    match given {
        Some(id) => id.chars().take(AUDIT_ID_BYTES_MAX).collect(),
        None => api.new_uid(),
    }
}
