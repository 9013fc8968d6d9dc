//! Controllers behind a bad line: requests that are slow, refused or in conflict, and watches that break, all drawn from
//! a seed. Whatever happens, a rolling update keeps its promises.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, BodyStream, Full, StreamBody, combinators::UnsyncBoxBody};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::Pod,
};
use kube::client::Body;
use minicluster_apiserver::InProcess;
use parking_lot::Mutex;
use serde_json::json;
use windlass::{Delta, Informers, Scope, random::Source};

use crate::{
    play::{Cluster, pass},
    workloads::deployment,
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Reply = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// The way to the server, with faults.
#[derive(Clone)]
pub(crate) struct Faulty {
    door: InProcess,
    random: Source,
}

impl Faulty {
    pub(crate) fn new(door: InProcess, random: Source) -> Self {
        Self { door, random }
    }

    /// One in so many.
    fn hits(&self, one_in: u64) -> bool {
        self.random.below(one_in) == 0
    }

    fn refusal(&self, method: &Method) -> Option<Reply> {
        let writes = *method == Method::PUT || *method == Method::PATCH;
        if writes && self.hits(10) {
            return Some(status(409, "Conflict"));
        }
        if self.hits(25) {
            return Some(status(500, "InternalError"));
        }
        self.hits(50).then(|| status(429, "TooManyRequests"))
    }

    async fn pause(&self) {
        tokio::time::sleep(Duration::from_millis(self.random.below(80))).await;
    }
}

impl tower::Service<Request<Body>> for Faulty {
    type Response = Reply;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut line = self.clone();
        Box::pin(async move {
            line.pause().await;
            let watches = request.uri().query().is_some_and(|query| query.contains("watch=true"));
            if let Some(refusal) = line.refusal(request.method()) {
                return Ok(refusal);
            }
            let response = line.door.call(request).await?;
            line.pause().await;
            if !watches {
                // The write is done, and its answer is lost.
                return Ok(if line.hits(100) { status(500, "InternalError") } else { response.map(whole) });
            }
            let frames = line.random.below(40);
            let seconds = line.random.below(20);
            Ok(response.map(|body| broken(body, frames, seconds)))
        })
    }
}

fn whole<B>(body: B) -> UnsyncBoxBody<Bytes, BoxError>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// A watch that ends after so many frames, or so many seconds.
fn broken<B>(body: B, frames: u64, seconds: u64) -> UnsyncBoxBody<Bytes, BoxError>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let ends = tokio::time::sleep(Duration::from_secs(seconds));
    let frames = BodyStream::new(body).take(usize::try_from(frames).unwrap_or(1)).take_until(ends);
    StreamBody::new(frames.map(|frame| frame.map_err(Into::into))).boxed_unsync()
}

fn status(code: u16, reason: &str) -> Reply {
    let body =
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason});
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
    response
}

/// Follows a cluster and remembers how few pods were ever available, and how many were ever asked for, at a time.
#[derive(Clone, Default)]
pub(crate) struct Extremes(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    available: BTreeSet<String>,
    wanted: BTreeMap<String, i32>,
    fewest: usize,
    most: i32,
}

impl Extremes {
    pub(crate) fn pod(&self, delta: &Delta<Pod>) {
        let mut state = self.0.lock();
        let serves = |pod: &&Arc<Pod>| {
            pod.metadata.deletion_timestamp.is_none()
                && pod.status.as_ref().is_some_and(|s| s.pod_ip.is_some())
        };
        if delta.new().filter(serves).is_some() {
            state.available.insert(delta.key().to_string());
        } else {
            state.available.remove(delta.key().as_str());
        }
        state.fewest = state.fewest.min(state.available.len());
    }

    fn set(&self, delta: &Delta<ReplicaSet>) {
        let mut state = self.0.lock();
        let wanted = delta.new().and_then(|set| set.spec.as_ref()?.replicas).unwrap_or(0);
        state.wanted.insert(delta.key().to_string(), wanted);
        state.most = state.most.max(state.wanted.values().sum());
    }

    pub(crate) fn begin(&self) {
        let mut state = self.0.lock();
        state.fewest = state.available.len();
        state.most = state.wanted.values().sum();
    }

    pub(crate) fn read(&self) -> (usize, i32) {
        let state = self.0.lock();
        (state.fewest, state.most)
    }
}

async fn rollout(seed: u64) {
    let cluster = Cluster::start_with("*", Some(seed)).await;
    pass(120).await;
    let surge = i32::try_from(seed % 3).unwrap();
    let unavailable = i32::try_from(seed / 3 % 3).unwrap().max(i32::from(surge == 0));
    let mut web = deployment("web", 5);
    web["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
    cluster.create::<Deployment>(web).await;
    let extremes = Extremes::default();
    let informers = Informers::seeded(cluster.client.clone(), Source::seeded(seed));
    let (one, two) = (extremes.clone(), extremes.clone());
    let _pods = informers.get::<Pod>(Scope::all()).subscribe(move |delta| one.pod(delta));
    let _sets = informers.get::<ReplicaSet>(Scope::all()).subscribe(move |delta| two.set(delta));
    settled(&cluster, "v1").await;
    extremes.begin();
    for image in ["v2", "v3"] {
        let containers = json!([{"name": "c", "image": image}]);
        cluster
            .patch::<Deployment>("web", json!({"spec": {"template": {"spec": {"containers": containers}}}}))
            .await;
        settled(&cluster, image).await;
    }
    let (fewest, most) = extremes.read();
    let fewest = i32::try_from(fewest).unwrap();
    assert!(
        fewest >= 5 - unavailable,
        "seed {seed}: {fewest} of 5 were available with {surge}/{unavailable}"
    );
    assert!(most <= 5 + surge, "seed {seed}: {most} pods of 5 were asked for with {surge}/{unavailable}");
}

/// Waits until every pod has this image and the Deployment says that it is done.
async fn settled(cluster: &Cluster, image: &str) {
    for _ in 0..600 {
        pass(2).await;
        let web = cluster.api::<Deployment>().get("web").await.unwrap();
        let pods = cluster.list::<Pod>("app=web").await;
        let done = web.status.as_ref().is_some_and(|s| {
            s.observed_generation == web.metadata.generation
                && s.available_replicas == Some(5)
                && s.replicas == Some(5)
        });
        let new = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some(image);
        if done && pods.len() == 5 && pods.iter().all(new) {
            return;
        }
    }
    panic!("the rollout to {image} never ends");
}

/// Plays seeds; `SEED=n` replays one instead.
pub(crate) fn play_all(seeds: Range<u64>, scene: impl AsyncFn(u64)) {
    let one: Option<u64> = std::env::var("SEED").ok().and_then(|text| text.parse().ok());
    for seed in one.map_or(seeds, |seed| seed..seed + 1) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(scene(seed));
    }
}

fn play(seeds: Range<u64>) {
    play_all(seeds, rollout);
}

#[test]
fn a_rolling_update_keeps_its_promises_behind_a_bad_line() {
    play(0..50);
}

#[test]
fn a_rolling_update_keeps_its_promises_behind_a_second_bad_line() {
    play(50..100);
}

#[test]
fn a_rolling_update_keeps_its_promises_behind_a_third_bad_line() {
    play(100..150);
}

#[test]
fn a_rolling_update_keeps_its_promises_behind_a_fourth_bad_line() {
    play(150..200);
}
