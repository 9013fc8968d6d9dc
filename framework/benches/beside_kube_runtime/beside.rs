//! One watch fails again and again; how long events of another, which is well, wait for their reconciles.

use std::{collections::HashSet, convert::Infallible, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, Client, ResourceExt,
    runtime::{self, controller::Action as TheirAction, watcher},
};
use parking_lot::Mutex;
use tokio::time::Instant;
use windlass::{Action, Controller, Error, Key, Manager, Reconcile, Request, Scope};

use crate::server::{self, Reply, pod};

/// Events of the watch that is well, and the time between two of them.
const EVENTS: usize = 500;
const BEAT: Duration = Duration::from_millis(10);

/// When pods were sent, and how long it took until they were reconciled.
#[derive(Clone)]
struct Seen(Arc<Mutex<Times>>);

struct Times {
    begun: Instant,
    known: HashSet<String>,
    waited: Vec<Duration>,
}

impl Seen {
    fn new() -> Self {
        let times = Times { begun: Instant::now(), known: HashSet::new(), waited: Vec::new() };
        Self(Arc::new(Mutex::new(times)))
    }

    /// A pod, whose name says when it was sent, is reconciled.
    fn note(&self, name: &str) {
        let mut times = self.0.lock();
        let Some(index) = name.strip_prefix("web-").and_then(|index| index.parse::<u32>().ok()) else {
            return;
        };
        if times.known.insert(name.to_owned()) {
            let waited = times.begun.elapsed().saturating_sub(BEAT * (index + 1));
            times.waited.push(waited);
        }
    }

    /// The 99th percentile in milliseconds; what was never reconciled has waited since it was sent.
    fn p99(&self) -> f64 {
        let mut times = self.0.lock();
        let missing = EVENTS - times.waited.len();
        let end = times.begun.elapsed();
        times.waited.extend(std::iter::repeat_n(end, missing));
        times.waited.sort();
        times.waited[EVENTS * 99 / 100].as_secs_f64() * 1000.0
    }
}

/// Pods come one by one from when the watch begins. ConfigMaps can be listed, and not be watched.
fn server(seen: &Seen) -> Client {
    let seen = seen.clone();
    server::client(move |path, query| {
        if let Some(refusal) = server::refusal(query) {
            return refusal;
        }
        match (path.ends_with("/pods"), query.contains("watch=")) {
            (_, false) => server::reply(200, stream::iter([server::list(&[], 1, "")])),
            (true, true) => pods(&seen),
            (false, true) => server::reply(500, stream::empty()),
        }
    })
}

fn pods(seen: &Seen) -> Reply {
    let begun = Instant::now();
    seen.0.lock().begun = begun;
    let events = stream::iter(0..EVENTS as u32).then(move |i| async move {
        tokio::time::sleep_until(begun + BEAT * (i + 1)).await;
        server::event("ADDED", &pod(i as usize, i as usize + 2))
    });
    server::reply(200, events.chain(stream::pending()))
}

impl Reconcile<Pod> for Seen {
    async fn reconcile(&self, request: Request<Pod>) -> Result<Action, Error> {
        self.note(request.key.name());
        Ok(Action::Done)
    }
}

pub(crate) async fn ours() -> f64 {
    let seen = Seen::new();
    let mut builder = Manager::builder(server(&seen));
    let beside = Controller::<Pod>::new("beside")
        .watches::<ConfigMap, _>(Scope::all(), |_, _| None::<Key>)
        .build(seen.clone());
    builder.add(beside);
    let manager = tokio::spawn(builder.build().run(std::future::pending()));
    ended().await;
    manager.abort();
    seen.p99()
}

pub(crate) async fn theirs() -> f64 {
    let seen = Seen::new();
    let client = server(&seen);
    let config = watcher::Config::default();
    let noted = seen.clone();
    let controller = runtime::Controller::new(Api::<Pod>::all(client.clone()), config.clone())
        .watches(Api::<ConfigMap>::all(client), config, |_| None)
        .run(
            move |pod, _| {
                noted.note(&pod.name_any());
                std::future::ready(Ok::<_, Infallible>(TheirAction::await_change()))
            },
            |_, _, _| TheirAction::await_change(),
            Arc::new(()),
        );
    let task = tokio::spawn(controller.for_each(|_| std::future::ready(())));
    ended().await;
    task.abort();
    seen.p99()
}

/// All events were sent, and had a second.
async fn ended() {
    tokio::time::sleep(BEAT * EVENTS as u32 + Duration::from_secs(1)).await;
}
