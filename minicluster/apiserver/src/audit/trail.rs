//! What is known of one request, written down station by station.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    Audit,
    event::{Event, ObjectRef, User},
    policy::{Level, Stage, Verdict},
};
use crate::{
    authn::Identity,
    body::Body,
    decode, negotiate, object,
    request::RequestInfo,
    status::{ApiError, ApiResult},
};

/// The longest name of a client's program that is written down.
const USER_AGENT_BYTES_MAX: usize = 1024;

tokio::task_local! {
    static TRAIL: Arc<Trail>;
}

/// Where a request came from; kept with its connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) std::net::IpAddr);

/// The trail of one request.
pub(super) struct Trail {
    audit: Arc<Audit>,
    pub(super) long_running: bool,
    media_type: String,
    info: RequestInfo,
    state: Mutex<State>,
}

struct State {
    /// `None` until it is known who asks, and for requests of which nothing is told.
    verdict: Option<Verdict>,
    event: Event,
    ended: bool,
}

/// Runs a request on its trail.
pub(super) async fn on<T>(trail: &Arc<Trail>, work: impl Future<Output = T>) -> T {
    TRAIL.scope(Arc::clone(trail), work).await
}

/// Looks at the trail of the request that this task answers, if it has one.
fn with(work: impl FnOnce(&Trail)) {
    let _ = TRAIL.try_with(|trail| work(trail));
}

/// It is known who asks, or that nobody believes them: from here on the policy decides.
///
/// # Errors
/// 500 when the event has to be kept and cannot be.
pub(crate) fn authenticated(user: Option<&Identity>) -> ApiResult<()> {
    TRAIL.try_with(|trail| trail.begin(user)).unwrap_or(Ok(()))
}

/// The request acts as somebody else.
pub(crate) fn impersonated(user: &Identity) {
    with(|trail| trail.state.lock().event.impersonated_user = Some(user.into()));
}

/// May it? `allow` or `forbid`.
pub(crate) fn decided(decision: &str, reason: &str) {
    annotate("authorization.k8s.io/decision", decision);
    annotate("authorization.k8s.io/reason", reason);
}

/// True when something is told of the request that this task answers.
pub(crate) fn is_on() -> bool {
    TRAIL.try_with(|trail| trail.level() > Level::None).unwrap_or(false)
}

/// True when the objects of this request are told of, too.
pub(crate) fn wants_objects() -> bool {
    TRAIL.try_with(|trail| trail.level() >= Level::Request).unwrap_or(false)
}

/// Notes something of the request; the first note under a key stays.
pub(crate) fn annotate(key: &str, value: &str) {
    with(|trail| {
        let annotations = &mut trail.state.lock().event.annotations;
        annotations.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    });
}

/// A handler had a defect.
pub(crate) fn panicked() {
    with(|trail| {
        let status = json!({
            "metadata": {}, "status": "Failure", "message": "APIServer panic'd", "reason": "InternalError", "code": 500,
        });
        trail.state.lock().event.response_status = Some(status);
        trail.tell(Stage::Panic);
    });
}

/// The body of the request, once it is read.
pub(crate) fn body_read(bytes: &Bytes) {
    with(|trail| trail.request_body(bytes));
}

fn source_ips(headers: &HeaderMap, peer: Option<Peer>) -> Vec<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let ips = |list: &str| -> Vec<String> {
        list.split(',')
            .filter_map(|ip| ip.trim().parse::<std::net::IpAddr>().ok())
            .map(|ip| ip.to_string())
            .collect()
    };
    let mut all = ips(text("x-forwarded-for"));
    for ip in ips(text("x-real-ip")) {
        if !all.contains(&ip) {
            all.push(ip);
        }
    }
    if let Some(Peer(ip)) = peer {
        let ip = ip.to_canonical().to_string();
        if all.last() != Some(&ip) {
            all.push(ip);
        }
    }
    all
}

fn user_agent(headers: &HeaderMap) -> String {
    let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match agent.get(..USER_AGENT_BYTES_MAX) {
        Some(head) if agent.len() > USER_AGENT_BYTES_MAX => format!("{head}...TRUNCATED"),
        _ => agent.to_owned(),
    }
}

impl Trail {
    pub(super) fn new(
        audit: &Arc<Audit>,
        id: &str,
        request: &Request<Body>,
        info: &RequestInfo,
        long_running: bool,
    ) -> Self {
        let (headers, now) = (request.headers(), windlass::clock::now());
        let object_ref = info.is_resource.then(|| ObjectRef {
            resource: info.resource.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            api_group: info.group.clone(),
            api_version: info.version.clone(),
            subresource: info.subresource.clone(),
            ..ObjectRef::default()
        });
        let event = Event {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: Level::None,
            audit_id: id.to_owned(),
            stage: Stage::RequestReceived,
            request_uri: request.uri().path_and_query().map_or("", |uri| uri.as_str()).to_owned(),
            verb: info.verb,
            user: User::default(),
            impersonated_user: None,
            source_ips: source_ips(headers, request.extensions().get::<Peer>().copied()),
            user_agent: user_agent(headers),
            object_ref,
            response_status: None,
            request_object: None,
            response_object: None,
            request_received_timestamp: now,
            stage_timestamp: now,
            annotations: BTreeMap::new(),
        };
        Self {
            audit: Arc::clone(audit),
            long_running,
            media_type: negotiate::media_type(headers).to_owned(),
            info: info.clone(),
            state: Mutex::new(State { verdict: None, event, ended: false }),
        }
    }

    fn begin(&self, user: Option<&Identity>) -> ApiResult<()> {
        let Some(verdict) = self.audit.policy.judge(user, &self.info) else { return Ok(()) };
        {
            let mut state = self.state.lock();
            state.event.level = verdict.level;
            state.event.user = user.map(User::from).unwrap_or_default();
            state.verdict = Some(verdict.clone());
        }
        // Nobody waits for an event of a request that ends here.
        if user.is_none() || self.tell(Stage::RequestReceived) {
            return Ok(());
        }
        Err(ApiError::internal("failed to store audit event"))
    }

    /// How much is told of this request.
    pub(super) fn level(&self) -> Level {
        self.state.lock().verdict.as_ref().map_or(Level::None, |verdict| verdict.level)
    }

    fn request_body(&self, bytes: &Bytes) {
        let level = self.level();
        if level == Level::None || bytes.is_empty() || !self.info.is_resource {
            return;
        }
        let mut headers = HeaderMap::new();
        if let Ok(value) = self.media_type.parse() {
            headers.insert(header::CONTENT_TYPE, value);
        }
        let parsed = match self.info.verb {
            "patch" => decode::parse_yaml(bytes),
            _ => decode::parse(&headers, bytes),
        };
        let Ok((mut value, _)) = parsed else { return };
        let mut state = self.state.lock();
        if let Some(object) = state.event.object_ref.as_mut().filter(|_| self.info.verb != "patch") {
            for (slot, key) in [
                (&mut object.namespace, "namespace"),
                (&mut object.name, "name"),
                (&mut object.uid, "uid"),
                (&mut object.resource_version, "resourceVersion"),
            ] {
                if slot.is_empty() {
                    object::text(&value, &["metadata", key]).clone_into(slot);
                }
            }
        }
        if level >= Level::Request {
            if state.verdict.as_ref().is_some_and(|verdict| verdict.omits_managed_fields) {
                drop_managed_fields(&mut value);
            }
            state.event.request_object = Some(value);
        }
    }

    /// The answer has a status, and perhaps a body.
    pub(super) fn answered(&self, code: StatusCode, body: Option<Value>) {
        let mut state = self.state.lock();
        let mut status = json!({"metadata": {}, "code": code.as_u16()});
        let body = body.map(|mut body| {
            if state.verdict.as_ref().is_some_and(|verdict| verdict.omits_managed_fields) {
                drop_managed_fields(&mut body);
            }
            body
        });
        if let Some(body) = body.as_ref().filter(|body| object::text(body, &["kind"]) == "Status") {
            for key in ["status", "message", "reason", "details", "code"] {
                if let Some(value) = object::at(body, &[key]) {
                    status[key] = value.clone();
                }
            }
        }
        state.event.response_status = Some(status);
        if state.event.level == Level::RequestResponse && self.info.is_resource {
            state.event.response_object = body;
        }
    }

    /// Tells of a stage. False when it had to be kept and could not be.
    pub(super) fn tell(&self, stage: Stage) -> bool {
        let event = {
            let mut state = self.state.lock();
            let Some(verdict) = &state.verdict else { return true };
            let omitted = verdict.omitted.contains(&stage);
            let last = matches!(stage, Stage::ResponseComplete | Stage::Panic);
            if omitted || state.ended {
                state.ended |= last;
                return true;
            }
            state.ended = last;
            state.event.stage = stage;
            state.event.stage_timestamp = match stage {
                Stage::RequestReceived => state.event.request_received_timestamp,
                _ => windlass::clock::now().max(Timestamp::MIN),
            };
            // The objects are told of once, with the end.
            let mut event = state.event.clone();
            if !last {
                (event.request_object, event.response_object) = (None, None);
            }
            event
        };
        self.audit.sinks.tell(event)
    }
}

/// Who owns which field is of no interest, in the object and in all items of a list or rows of a table.
fn drop_managed_fields(value: &mut Value) {
    object::remove(value, &["metadata", "managedFields"]);
    for (list, inner) in [("items", None), ("rows", Some("object"))] {
        for item in value.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let object = match inner {
                Some(key) => item.get_mut(key),
                None => Some(item),
            };
            if let Some(object) = object {
                object::remove(object, &["metadata", "managedFields"]);
            }
        }
    }
}
