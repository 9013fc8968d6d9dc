//! What triggers a controller, and what does not: predicates, and sources from outside of the API.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;
use windlass::{
    Action, Controller, Key, Lease, Manager, Metrics, Request, Scope, predicate, random,
    source::{self, SourceCx},
};

use crate::{
    controllers::{Each, Running, run},
    fake::Fake,
};

/// Which keys were reconciled, and when, in seconds.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<(String, f64)>>>);

impl Log {
    pub(crate) fn reconciler(
        &self,
    ) -> Each<impl Fn(Request<ConfigMap>) -> std::future::Ready<Result<Action, windlass::Error>> + use<>>
    {
        let (log, begun) = (self.clone(), Instant::now());
        Each(move |request: Request<ConfigMap>| {
            log.0.lock().push((request.key.to_string(), begun.elapsed().as_secs_f64()));
            std::future::ready(Ok(Action::Done))
        })
    }

    /// The keys since the last call.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock()).into_iter().map(|(key, _)| key).collect()
    }

    /// When a key was reconciled since the last call.
    pub(crate) fn times(&self, key: &str) -> Vec<f64> {
        let log = std::mem::take(&mut *self.0.lock());
        log.into_iter().filter(|(k, _)| k == key).map(|(_, at)| at).collect()
    }
}

fn start(fake: &Fake, controller: Controller<ConfigMap>) -> (Running, Log, Metrics) {
    let log = Log::default();
    let mut builder = Manager::seeded(fake.client(), random::Source::seeded(1));
    let metrics = builder.metrics().clone();
    builder.add(controller.build(log.reconciler()));
    (run(builder.build()), log, metrics)
}

fn cm(name: &str) -> String {
    format!("/api/v1/namespaces/default/configmaps/{name}")
}

fn secret(name: &str) -> String {
    format!("/api/v1/namespaces/default/secrets/{name}")
}

async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

#[tokio::test(start_paused = true)]
async fn a_predicate_holds_for_each_kind_by_itself() {
    let fake = Fake::new();
    let owner = fake.put(&cm("a"), json!({"metadata": {"generation": 1}}));
    let controller = Controller::<ConfigMap>::new("filtered")
        .filter(predicate::any((predicate::generation_changed, predicate::labels_changed)))
        .owns_if::<Secret>(predicate::changed(|secret: &Secret| secret.data.clone()))
        .watches_if::<Secret, _>(Scope::all(), predicate::annotations_changed, |delta, _| {
            [Key::new(Some("seen"), delta.key().name())]
        });
    let (_running, log, _) = start(&fake, controller);
    a_moment().await;
    assert_eq!(log.take(), ["default/a"]);

    fake.put(&cm("a"), json!({"metadata": {"generation": 1, "annotations": {"x": "1"}}}));
    a_moment().await;
    assert_eq!(log.take(), [""; 0], "an annotation is no new generation");
    fake.put(&cm("a"), json!({"metadata": {"generation": 2}}));
    a_moment().await;
    assert_eq!(log.take(), ["default/a"]);
    fake.put(&cm("a"), json!({"metadata": {"generation": 2, "labels": {"x": "1"}}}));
    a_moment().await;
    assert_eq!(log.take(), ["default/a"]);

    let reference = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": owner["metadata"]["uid"],
        "controller": true}]);
    let child = |data: &str, note: &str| json!({"metadata": {"ownerReferences": reference, "annotations": {"note": note}}, "data": {"k": data}});
    fake.put(&secret("s"), child("MQ==", "1"));
    a_moment().await;
    assert_eq!(log.take(), ["default/a", "seen/s"]);
    fake.put(&secret("s"), child("Mg==", "1"));
    a_moment().await;
    assert_eq!(log.take(), ["default/a"], "data is what the owner looks at");
    fake.put(&secret("s"), child("Mg==", "2"));
    a_moment().await;
    assert_eq!(log.take(), ["seen/s"]);
    fake.remove(&secret("s"));
    fake.remove(&cm("a"));
    a_moment().await;
    let mut gone = log.take();
    gone.sort();
    assert_eq!(gone, ["default/a", "seen/s"], "deletes always pass");
}

#[tokio::test(start_paused = true)]
async fn a_channel_waits_for_its_controller() {
    let fake = Fake::new();
    let (sender, channel) = source::channel("calls");
    sender.send(Key::new(None, "early"));
    let (running, log, _) = start(&fake, Controller::<ConfigMap>::new("called").source(channel));
    a_moment().await;
    sender.send(Key::new(None, "late"));
    sender.send(Key::new(None, "late"));
    a_moment().await;
    assert_eq!(log.take(), ["early", "late"], "a key that is sent twice is reconciled once");
    drop(running);
    tokio::time::sleep(Duration::from_secs(10)).await;
    sender.send(Key::new(None, "never"));
    a_moment().await;
    assert_eq!(log.take(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn every_object_comes_round_again() {
    let fake = Fake::new();
    for name in ["a", "b"] {
        fake.put(&cm(name), json!({}));
    }
    let controller = Controller::<ConfigMap>::new("round").resync(Duration::from_secs(600));
    let (_running, log, _) = start(&fake, controller);
    a_moment().await;
    assert_eq!(log.take(), ["default/a", "default/b"]);
    tokio::time::sleep(Duration::from_secs(6100)).await;
    let times = log.times("default/b");
    assert!((9..=11).contains(&times.len()), "{times:?}");
    let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| (540.0..=660.5).contains(gap)), "{gaps:?}");
    assert!(gaps.iter().any(|gap| (gap - gaps[0]).abs() > 1.0), "no two are drawn alike: {gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn a_poll_tells_what_changed_and_backs_off_when_it_fails() {
    let fake = Fake::new();
    let state: Arc<Mutex<Result<BTreeMap<Key, u32>, &'static str>>> =
        Arc::new(Mutex::new(Ok(BTreeMap::new())));
    let asked = Arc::new(AtomicU32::new(0));
    let (outside, count) = (state.clone(), asked.clone());
    let poll = source::poll("tide", Duration::from_secs(10), move |_: SourceCx| {
        count.fetch_add(1, Ordering::SeqCst);
        let answer = outside.lock().clone();
        async move {
            if answer == Err("") {
                std::future::pending::<()>().await;
            }
            Ok(answer?)
        }
    });
    let answers = poll.answers();
    let (_running, log, metrics) = start(&fake, Controller::<ConfigMap>::new("tides").source(poll));
    let key = |name: &str| Key::new(Some("sea"), name);
    a_moment().await;
    *state.lock() = Ok(BTreeMap::from([(key("a"), 1), (key("b"), 1)]));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(log.take(), ["sea/a", "sea/b"]);
    *state.lock() = Ok(BTreeMap::from([(key("b"), 2)]));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(log.take(), ["sea/a", "sea/b"], "one is gone, one is another");
    assert_eq!((answers.get(&key("a")), answers.get(&key("b"))), (None, Some(2)));

    *state.lock() = Err("no water");
    asked.store(0, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(300)).await;
    let tries = asked.load(Ordering::SeqCst);
    assert!((6..=10).contains(&tries), "waits grow: {tries}");
    let failing: Vec<String> =
        metrics.failures().iter().map(|f| format!("{} {}: {}", f.controller, f.key, f.error)).collect();
    assert_eq!(failing, ["tides source tide: no water"]);
    let line = format!("windlass_source_errors_total{{controller=\"tides\",source=\"tide\"}} {tries}");
    assert!(metrics.render().contains(&line), "{line} is missing:\n{}", metrics.render());
    assert_eq!(answers.get(&key("b")), Some(2), "the last answer stands");

    *state.lock() = Ok(BTreeMap::from([(key("b"), 2)]));
    tokio::time::sleep(Duration::from_secs(400)).await;
    assert_eq!(metrics.failures(), []);
    assert_eq!(log.take(), [""; 0], "nothing had changed");

    // Who does not answer at all fails, too.
    *state.lock() = Err("");
    tokio::time::sleep(Duration::from_secs(300)).await;
    let told: Vec<String> = metrics.failures().into_iter().map(|failure| failure.error).collect();
    assert_eq!(told, ["it did not answer within 120s"]);
}

/// A replica that competes for one lease.
fn replica(fake: &Fake, identity: &str, warm: bool) -> (Running, Log) {
    let log = Log::default();
    let lease = Lease { release_on_exit: false, ..Lease::new("default", "boats", identity) };
    let mut builder = Manager::seeded(fake.client(), random::Source::seeded(1)).leader_election(lease);
    if warm {
        builder = builder.warm_standby();
    }
    let controller = Controller::<ConfigMap>::new("standby").owns::<Secret>();
    builder.add(controller.build(log.reconciler()));
    (run(builder.build()), log)
}

/// How often a kind was listed so far, streamed or not.
fn lists(fake: &Fake, kind: &str) -> usize {
    let lists = |line: &&String| {
        let rest = line.strip_prefix(&format!("GET /api/v1/{kind}?"));
        rest.is_some_and(|query| query.contains("sendInitialEvents") || !query.contains("watch=true"))
    };
    fake.log().iter().filter(lists).count()
}

#[tokio::test(start_paused = true)]
async fn a_warm_replica_takes_over_without_a_list() {
    for (warm, more) in [(true, 0), (false, 1)] {
        let fake = Fake::new();
        fake.put(&cm("a"), json!({}));
        let (first, led) = replica(&fake, "one", warm);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let (_second, waited) = replica(&fake, "two", warm);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!((led.take(), waited.take()), (vec!["default/a".to_owned()], vec![]));
        let before = (lists(&fake, "configmaps"), lists(&fake, "secrets"));
        assert_eq!(before, if warm { (2, 2) } else { (1, 1) });
        drop(first);
        fake.put(&cm("b"), json!({}));
        tokio::time::sleep(Duration::from_secs(60)).await;
        let mut seen = waited.take();
        seen.sort();
        assert_eq!(seen, ["default/a", "default/b"]);
        let after = (lists(&fake, "configmaps"), lists(&fake, "secrets"));
        assert_eq!(after, (before.0 + more, before.1 + more), "warm: {warm}");
    }
}
