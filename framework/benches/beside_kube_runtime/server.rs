//! Servers of lists and watch events that were made before anything is measured.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::PODS;

/// Objects of a page, as both sides ask for.
const PAGE: usize = 500;

pub(crate) type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// A client of a server that answers a path and a query.
pub(crate) fn client(answer: impl Fn(&str, &str) -> Reply + Clone + Send + 'static) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let reply = answer(request.uri().path(), request.uri().query().unwrap_or_default());
        async move { Ok::<_, Infallible>(reply) }
    });
    Client::new(service, "default")
}

/// A pod as a cluster has them: about five kilobytes, nearly half of it managed fields.
pub(crate) fn pod(i: usize, revision: usize) -> Value {
    let fields: BTreeMap<String, Value> = (0..15)
        .map(|f| {
            (
                format!("f:field{f}"),
                json!({"f:a": {}, "f:b": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}}}}),
            )
        })
        .collect();
    let entry = |manager: &str| {
        json!({"manager": manager, "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
               "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:spec": fields}})
    };
    let env: Vec<Value> =
        (0..8).map(|e| json!({"name": format!("VARIABLE_{e}"), "value": format!("value-{e}")})).collect();
    let container = json!({
        "name": "web", "image": "registry.example.com/team/web:1.2.3", "env": env,
        "ports": [{"containerPort": 8080, "name": "http", "protocol": "TCP"}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/config"}, {"name": "token", "mountPath": "/var/run/secrets"}],
        "terminationMessagePath": "/dev/termination-log", "imagePullPolicy": "IfNotPresent",
    });
    let condition =
        |name: &str| json!({"type": name, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("web-{i}"), "namespace": format!("ns-{}", i % 50), "uid": format!("00000000-0000-0000-0000-{i:012}"),
            "resourceVersion": revision.to_string(), "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": "web", "pod-template-hash": "5d4f8c7b9", "team": "platform"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4f8c7b9",
                                 "uid": format!("rs-{}", i % 1000), "controller": true, "blockOwnerDeletion": true}],
            "managedFields": [entry("kube-controller-manager"), entry("kubelet")],
        },
        "spec": {
            "nodeName": format!("node-{}", i % 100), "containers": [container], "restartPolicy": "Always",
            "volumes": [{"name": "config", "configMap": {"name": "web"}}, {"name": "token", "projected": {"sources": []}}],
            "serviceAccountName": "default", "schedulerName": "default-scheduler",
        },
        "status": {
            "phase": "Running", "podIP": "10.244.0.1", "hostIP": "192.168.0.1",
            "conditions": (["Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition)),
        },
    })
}

/// A server of a fixed list and a fixed run of watch events.
pub(crate) fn fixed(pods: usize, events: usize) -> Client {
    let items: Arc<Vec<Value>> = Arc::new((0..pods).map(|i| pod(i, i + 1)).collect());
    let frames: Arc<Vec<Bytes>> =
        Arc::new((0..events).map(|i| event("MODIFIED", &pod(i % pods, pods + i + 1))).collect());
    client(move |_, query| {
        if let Some(refusal) = refusal(query) {
            return refusal;
        }
        if query.contains("watch=") {
            let frames = frames.clone();
            return watched((0..frames.len()).map(move |i| frames[i].clone()));
        }
        let skip = number(query, "continue").unwrap_or(0);
        let end = items.len().min(skip.saturating_add(number(query, "limit").unwrap_or(usize::MAX)));
        let next = if end < items.len() { end.to_string() } else { String::new() };
        reply(200, stream::iter([list(&items[skip..end], items.len(), &next)]))
    })
}

/// A server of [`PODS`] in pages of bytes. A watch of it ends as expired when it is told to; every pod has changed by then.
pub(crate) struct Pages {
    lists: [Vec<Bytes>; 2],
    /// Lists that were begun.
    begun: AtomicUsize,
    /// Watches that were begun.
    watches: watch::Sender<usize>,
    expired: watch::Sender<bool>,
}

impl Pages {
    pub(crate) fn new() -> Arc<Self> {
        let page = |generation: usize, skip: usize| {
            let end = PODS.min(skip + PAGE);
            let items: Vec<Value> = (skip..end).map(|i| pod(i, generation * PODS + i + 1)).collect();
            let next = if end < PODS { end.to_string() } else { String::new() };
            list(&items, (generation + 1) * PODS, &next)
        };
        let lists =
            [0, 1].map(|generation| (0..PODS).step_by(PAGE).map(|skip| page(generation, skip)).collect());
        Arc::new(Self {
            lists,
            begun: AtomicUsize::new(0),
            watches: watch::Sender::new(0),
            expired: watch::Sender::new(false),
        })
    }

    pub(crate) fn client(self: &Arc<Self>) -> Client {
        let pages = self.clone();
        client(move |_, query| pages.answer(query))
    }

    /// Ends the watch, and returns when the one after the next list has begun.
    pub(crate) async fn listed_again(&self) {
        let mut watches = self.watches.subscribe();
        // One watch goes on from the first list.
        watches.wait_for(|begun| *begun == 1).await.expect("it lives");
        self.expired.send_replace(true);
        watches.wait_for(|begun| *begun == 2).await.expect("it lives");
    }

    fn answer(&self, query: &str) -> Reply {
        if let Some(refusal) = refusal(query) {
            return refusal;
        }
        if query.contains("watch=") {
            self.watches.send_modify(|begun| *begun += 1);
            let mut expired = self.expired.subscribe();
            if *self.watches.borrow() > 1 {
                return watched(None);
            }
            let status = json!({"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired",
                "message": "too old resource version"});
            let end = async move {
                let _ = expired.wait_for(|expired| *expired).await;
                event("ERROR", &status)
            };
            return reply(200, stream::once(end));
        }
        let skip = number(query, "continue").unwrap_or(0);
        let begun = if skip == 0 {
            self.begun.fetch_add(1, Ordering::Relaxed)
        } else {
            self.begun.load(Ordering::Relaxed) - 1
        };
        reply(200, stream::iter([self.lists[begun.min(1)][skip / PAGE].clone()]))
    }
}

/// What a server says that does not stream lists.
pub(crate) fn refusal(query: &str) -> Option<Reply> {
    let refusal = json!({"kind": "Status", "status": "Failure", "code": 422, "reason": "Invalid"});
    query.contains("sendInitialEvents").then(|| reply(422, stream::iter([Bytes::from(refusal.to_string())])))
}

/// A page of pods, or of another kind that nobody looks into.
pub(crate) fn list(items: &[Value], revision: usize, next: &str) -> Bytes {
    let list = json!({
        "kind": "PodList", "apiVersion": "v1",
        "metadata": {"resourceVersion": revision.to_string(), "continue": next},
        "items": items,
    });
    Bytes::from(list.to_string())
}

/// A line of a watch.
pub(crate) fn event(kind: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n"))
}

/// A watch that stays open after what it has to say.
fn watched(lines: impl IntoIterator<Item = Bytes, IntoIter: Send + 'static>) -> Reply {
    reply(200, stream::iter(lines).chain(stream::pending()))
}

pub(crate) fn reply(code: u16, body: impl Stream<Item = Bytes> + Send + 'static) -> Reply {
    let body = StreamBody::new(body.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes))));
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(code).expect("a status code");
    response
}

/// A parameter that is a number.
fn number(query: &str, name: &str) -> Option<usize> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?.1.parse().ok()
}
