//! An API server that a test scripts: objects in memory, lists, watches, and every way they can fail.
//!
//! It knows nothing of kinds: a path is a collection, and JSON is JSON. It is much less than an API server: no
//! validation, no admission, no defaults.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::Arc,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use kube::{Client, client::Body};
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::sync::watch;

type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

#[derive(Clone)]
pub(crate) struct Fake(Arc<Mutex<State>>);

struct State {
    revision: u64,
    objects: BTreeMap<Place, Value>,
    history: Vec<Change>,
    /// Watches from a revision below this one are expired.
    floor: u64,
    changed: watch::Sender<u64>,
    /// Bumped to end all watches.
    epoch: u64,
    faults: Vec<Fault>,
    streaming: bool,
    /// Whether a part of a kind may be asked for by hashes of uids.
    shards: bool,
    /// The collections whose watches deliver nothing.
    stalled: BTreeSet<String>,
    log: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    collection: String,
    namespace: String,
    name: String,
}

struct Change {
    revision: u64,
    place: Place,
    kind: &'static str,
    object: Value,
}

struct Fault {
    method: Method,
    path: String,
    code: u16,
    times: u32,
}

/// A request's path, taken apart.
struct Target {
    place: Place,
    sub: String,
}

impl Fake {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            revision: 1,
            objects: BTreeMap::new(),
            history: Vec::new(),
            floor: 0,
            changed: watch::Sender::new(0),
            epoch: 0,
            faults: Vec::new(),
            streaming: true,
            shards: false,
            stalled: BTreeSet::new(),
            log: Vec::new(),
        })))
    }

    pub(crate) fn client(&self) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request| {
            let fake = fake.clone();
            async move { Ok::<_, Infallible>(fake.serve(request).await) }
        });
        Client::new(service, "default")
    }

    pub(crate) fn without_streaming(self) -> Self {
        self.0.lock().streaming = false;
        self
    }

    /// Knows `shardSelector`.
    pub(crate) fn with_shards(self) -> Self {
        self.0.lock().shards = true;
        self
    }

    /// The next `times` requests of this method whose path and query contain `path` fail.
    pub(crate) fn fail(&self, method: Method, path: &str, code: u16, times: u32) {
        self.0.lock().faults.push(Fault { method, path: path.to_owned(), code, times });
    }

    /// Ends all watches.
    pub(crate) fn drop_watches(&self) {
        let mut state = self.0.lock();
        state.epoch += 1;
        state.bump();
    }

    /// Forgets history: watches from before are expired.
    pub(crate) fn compact(&self) {
        let mut state = self.0.lock();
        state.floor = state.revision;
        state.history.clear();
    }

    /// Holds back, or lets go, what watches of a collection deliver.
    pub(crate) fn stall(&self, collection: &str, stalled: bool) {
        let mut state = self.0.lock();
        if stalled {
            state.stalled.insert(collection.to_owned());
        } else {
            state.stalled.remove(collection);
        }
        state.bump();
    }

    /// Puts an object as it stands, as another client would.
    pub(crate) fn put(&self, path: &str, object: Value) -> Value {
        let target = Target::parse(path);
        self.0.lock().store(target.place, object)
    }

    pub(crate) fn remove(&self, path: &str) {
        let target = Target::parse(path);
        self.0.lock().erase(&target.place);
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        let target = Target::parse(path);
        self.0.lock().objects.get(&target.place).cloned()
    }

    /// The objects of a collection.
    pub(crate) fn all(&self, collection: &str) -> Vec<Value> {
        let state = self.0.lock();
        state.objects.iter().filter(|(p, _)| p.collection == collection).map(|(_, o)| o.clone()).collect()
    }

    /// What was asked so far, as `METHOD path?query`.
    pub(crate) fn log(&self) -> Vec<String> {
        self.0.lock().log.clone()
    }

    async fn serve(&self, request: Request<Body>) -> Reply {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let query: BTreeMap<String, String> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(k, v)| (k.to_owned(), percent_decode_str(v).decode_utf8_lossy().into_owned()))
            .collect();
        let line = format!("{} {}", parts.method, parts.uri);
        let mut state = self.0.lock();
        state.log.push(line);
        if let Some(code) = state.fault(&parts.method, &parts.uri.to_string()) {
            return status(code, "scripted");
        }
        if parts.uri.path() == "/version" {
            return ok(&version());
        }
        let target = Target::parse(parts.uri.path());
        match (&parts.method, target.place.name.is_empty()) {
            (&Method::GET, true) if query.contains_key("watch") => {
                drop(state);
                self.watch(target.place, &query)
            }
            (&Method::GET, true) => state.list(&target.place, &query),
            (&Method::GET, false) => {
                state.objects.get(&target.place).map_or_else(|| status(404, "NotFound"), ok)
            }
            (&Method::POST, _) => state.create(target.place, body),
            (&Method::PUT, _) => state.replace(&target, body),
            (&Method::PATCH, _) => state.patch(&target, &body),
            (&Method::DELETE, _) => state.delete(&target.place, &body),
            _ => status(405, "MethodNotAllowed"),
        }
    }

    fn watch(&self, scope: Place, query: &BTreeMap<String, String>) -> Reply {
        let state = self.0.lock();
        let initial = query.contains_key("sendInitialEvents");
        let shard = state.shard(query);
        if initial && !state.streaming {
            return status(422, "Invalid");
        }
        let from: u64 = query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(state.revision);
        let mut first = Vec::new();
        if initial {
            let covered = state.objects.iter().filter(|(place, _)| scope.covers(place));
            for (_, object) in covered.filter(|(_, object)| is_in(&shard, object)) {
                first.push(event("ADDED", object));
            }
            first.push(event(
                "BOOKMARK",
                &json!({"metadata": {
                    "resourceVersion": state.revision.to_string(),
                    "annotations": {"k8s.io/initial-events-end": "true"},
                }}),
            ));
        } else if from < state.floor {
            return status(410, "Expired");
        }
        let follow = Follow {
            fake: self.clone(),
            scope,
            shard,
            at: from,
            epoch: state.epoch,
            changed: state.changed.subscribe(),
        };
        let stream = stream::iter(first).chain(follow.stream());
        let body = StreamBody::new(stream.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes))));
        Response::new(body.boxed_unsync())
    }
}

struct Follow {
    fake: Fake,
    scope: Place,
    shard: Option<String>,
    at: u64,
    epoch: u64,
    changed: watch::Receiver<u64>,
}

impl Follow {
    fn stream(self) -> impl futures::Stream<Item = Bytes> {
        stream::unfold(self, |mut follow| async move {
            loop {
                {
                    let state = follow.fake.0.lock();
                    if state.epoch != follow.epoch {
                        return None;
                    }
                    let stalled = state.stalled.contains(&follow.scope.collection);
                    let fresh = |c: &&Change| c.revision > follow.at && follow.scope.covers(&c.place);
                    let lines: Vec<u8> = state
                        .history
                        .iter()
                        .filter(fresh)
                        .filter(|_| !stalled)
                        .filter(|c| is_in(&follow.shard, &c.object))
                        .flat_map(|c| event(c.kind, &c.object))
                        .collect();
                    if !stalled {
                        follow.at = follow.at.max(state.revision);
                    }
                    drop(state);
                    if !lines.is_empty() {
                        return Some((Bytes::from(lines), follow));
                    }
                }
                follow.changed.changed().await.ok()?;
            }
        })
    }
}

impl State {
    fn bump(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    fn fault(&mut self, method: &Method, uri: &str) -> Option<u16> {
        let fault =
            self.faults.iter_mut().find(|f| f.times > 0 && f.method == *method && uri.contains(&f.path))?;
        fault.times -= 1;
        Some(fault.code)
    }

    fn store(&mut self, place: Place, mut object: Value) -> Value {
        self.revision += 1;
        let revision = self.revision;
        let was = self.objects.get(&place);
        let uid = was.map_or_else(|| json!(format!("uid-{revision}")), |was| was["metadata"]["uid"].clone());
        let meta = &mut object["metadata"];
        meta["name"] = json!(place.name);
        if !place.namespace.is_empty() {
            meta["namespace"] = json!(place.namespace);
        }
        if meta["uid"].is_null() {
            meta["uid"] = uid;
        }
        meta["resourceVersion"] = json!(revision.to_string());
        let kind = if was.is_some() { "MODIFIED" } else { "ADDED" };
        self.objects.insert(place.clone(), object.clone());
        self.history.push(Change { revision, place, kind, object: object.clone() });
        self.bump();
        object
    }

    fn erase(&mut self, place: &Place) {
        if let Some(mut object) = self.objects.remove(place) {
            self.revision += 1;
            let revision = self.revision;
            object["metadata"]["resourceVersion"] = json!(revision.to_string());
            self.history.push(Change { revision, place: place.clone(), kind: "DELETED", object });
            self.bump();
        }
    }

    fn shard(&self, query: &BTreeMap<String, String>) -> Option<String> {
        query.get("shardSelector").filter(|_| self.shards).cloned()
    }

    fn list(&self, scope: &Place, query: &BTreeMap<String, String>) -> Reply {
        let limit: usize = query.get("limit").and_then(|l| l.parse().ok()).unwrap_or(usize::MAX);
        let skip: usize = query.get("continue").and_then(|c| c.parse().ok()).unwrap_or(0);
        let all: Vec<&Value> =
            self.objects.iter().filter(|(place, _)| scope.covers(place)).map(|(_, o)| o).collect();
        let shard = self.shard(query);
        let all: Vec<&Value> = all.into_iter().filter(|object| is_in(&shard, object)).collect();
        let page: Vec<&Value> = all.iter().copied().skip(skip).take(limit).collect();
        let next =
            if skip + page.len() < all.len() { (skip + page.len()).to_string() } else { String::new() };
        ok(&json!({
            "metadata": {
                "resourceVersion": self.revision.to_string(), "continue": next,
                "shardInfo": shard.map(|selector| json!({ "selector": selector })),
            },
            "items": page,
        }))
    }

    fn create(&mut self, mut place: Place, object: Value) -> Reply {
        place.name = match object["metadata"]["name"].as_str() {
            Some(name) => name.to_owned(),
            None => {
                let prefix = object["metadata"]["generateName"].as_str().unwrap_or_default();
                format!("{prefix}{}", self.revision)
            }
        };
        if self.objects.contains_key(&place) {
            return status(409, "AlreadyExists");
        }
        ok(&self.store(place, object))
    }

    fn replace(&mut self, target: &Target, object: Value) -> Reply {
        let Some(was) = self.objects.get(&target.place) else { return status(404, "NotFound") };
        let sent = &object["metadata"]["resourceVersion"];
        if !sent.is_null() && *sent != was["metadata"]["resourceVersion"] {
            return status(409, "Conflict");
        }
        let next = if target.sub == "status" {
            let mut next = was.clone();
            next["status"] = object["status"].clone();
            next
        } else {
            object
        };
        ok(&self.store(target.place.clone(), next))
    }

    fn patch(&mut self, target: &Target, patch: &Value) -> Reply {
        let was = self.objects.get(&target.place).cloned();
        let sent = &patch["metadata"]["resourceVersion"];
        if let Some(was) = &was
            && !sent.is_null()
            && *sent != was["metadata"]["resourceVersion"]
        {
            return status(409, "Conflict");
        }
        let mut next = was.unwrap_or_else(|| json!({}));
        merge(&mut next, patch);
        let going = !next["metadata"]["deletionTimestamp"].is_null();
        let held = next["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
        let stored = self.store(target.place.clone(), next);
        if going && !held {
            self.erase(&target.place);
        }
        ok(&stored)
    }

    fn delete(&mut self, place: &Place, options: &Value) -> Reply {
        let Some(was) = self.objects.get(place).cloned() else { return status(404, "NotFound") };
        let uid = &options["preconditions"]["uid"];
        if !uid.is_null() && *uid != was["metadata"]["uid"] {
            return status(409, "Conflict");
        }
        if was["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty()) {
            let mut next = was;
            next["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            return ok(&self.store(place.clone(), next));
        }
        self.erase(place);
        ok(&json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
    }
}

impl Place {
    fn covers(&self, other: &Self) -> bool {
        self.collection == other.collection
            && (self.namespace.is_empty() || self.namespace == other.namespace)
    }
}

impl Target {
    fn parse(path: &str) -> Self {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let head = if parts[0] == "api" { 2 } else { 3 };
        let (prefix, rest) = parts.split_at(head);
        let (namespace, rest) = match rest {
            ["namespaces", ns, rest @ ..] if !rest.is_empty() => (*ns, rest),
            rest => ("", rest),
        };
        let part = |i: usize| rest.get(i).copied().unwrap_or_default().to_owned();
        let collection = format!("/{}/{}", prefix.join("/"), part(0));
        let place = Place { collection, namespace: namespace.to_owned(), name: part(1) };
        Self { place, sub: part(2) }
    }
}

fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut into[name], value);
        }
    }
}

/// Whether an object's uid is in the ranges of a selector.
fn is_in(shard: &Option<String>, object: &Value) -> bool {
    let Some(shard) = shard else { return true };
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let hash = uid.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let ends: Vec<u128> = shard
        .split('\'')
        .filter_map(|part| u128::from_str_radix(part.strip_prefix("0x")?, 16).ok())
        .collect();
    ends.chunks(2).any(|range| (range[0]..range[1]).contains(&u128::from(hash)))
}

fn version() -> Value {
    let fields = [
        "major",
        "minor",
        "gitVersion",
        "gitCommit",
        "gitTreeState",
        "buildDate",
        "goVersion",
        "compiler",
        "platform",
    ];
    fields.into_iter().map(|field| (field.to_owned(), json!(""))).collect::<serde_json::Map<_, _>>().into()
}

fn event(kind: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{}\n", json!({"type": kind, "object": object})))
}

fn ok(object: &Value) -> Reply {
    reply(200, object)
}

fn status(code: u16, reason: &str) -> Reply {
    reply(
        code,
        &json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason}),
    )
}

fn reply(code: u16, body: &Value) -> Reply {
    let body =
        StreamBody::new(stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from(body.to_string())))]));
    Response::builder().status(code).body(body.boxed_unsync()).unwrap()
}
