//! Tasks and timers that live as long as their objects.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ConfigMap;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;
use windlass::{Attended, Daemon, Error, Lease, Manager, Metrics, Runnable, random::Source};

use crate::{
    controllers::{Running, run},
    fake::Fake,
};

/// What tasks did, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn note(&self, line: String) {
        self.0.lock().push(line);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock())
    }
}

fn cm(name: &str) -> String {
    format!("/api/v1/namespaces/default/configmaps/{name}")
}

fn start(fake: &Fake, part: impl Runnable) -> (Running, Metrics) {
    let mut builder = Manager::seeded(fake.client(), Source::seeded(1));
    let metrics = builder.metrics().clone();
    builder.add(part);
    (run(builder.build()), metrics)
}

/// Notes when a task begins, each change, and when it ends, however that is.
struct Life(Log, String);

impl Drop for Life {
    fn drop(&mut self) {
        self.0.note(format!("{} ends", self.1));
    }
}

fn watchman(log: &Log) -> impl Runnable + use<> {
    let log = log.clone();
    let wants = |map: &ConfigMap| map.data.as_ref().is_some_and(|data| data.contains_key("watch"));
    Daemon::<ConfigMap>::new("watchman").matching(wants).build(move |attended: Attended<ConfigMap>| {
        let log = log.clone();
        async move {
            let name = attended.key.name().to_owned();
            log.note(format!("{name} begins"));
            let _life = Life(log.clone(), name.clone());
            loop {
                let how = attended.object().and_then(|map| map.data.clone()?.get("watch").cloned());
                match how.as_deref() {
                    Some("once") => return Ok(()),
                    Some("deaf") => std::future::pending().await,
                    _ => {}
                }
                tokio::select! {
                    biased;
                    () = attended.stop.cancelled() => return Ok(()),
                    () = attended.changed() => log.note(format!("{name} sees")),
                }
            }
        }
    })
}

async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

fn watched(how: &str) -> Value {
    json!({"data": {"watch": how}})
}

#[tokio::test(start_paused = true)]
async fn a_task_lives_as_long_as_its_object_matches() {
    let (fake, log) = (Fake::new(), Log::default());
    fake.put(&cm("a"), watched("on"));
    fake.put(&cm("b"), json!({}));
    let (running, metrics) = start(&fake, watchman(&log));
    a_moment().await;
    assert_eq!(log.take(), ["a begins"]);
    assert!(metrics.render().contains("windlass_daemons{controller=\"watchman\"} 1"));
    fake.put(&cm("a"), watched("still"));
    fake.put(&cm("b"), watched("on"));
    a_moment().await;
    assert_eq!(log.take(), ["a sees", "b begins"]);
    fake.put(&cm("a"), json!({}));
    a_moment().await;
    assert_eq!(log.take(), ["a ends"]);
    fake.remove(&cm("b"));
    a_moment().await;
    assert_eq!(log.take(), ["b ends"]);

    // Another object of the same name has a task of its own.
    fake.put(&cm("b"), watched("on"));
    a_moment().await;
    fake.remove(&cm("b"));
    fake.put(&cm("b"), watched("on"));
    a_moment().await;
    assert_eq!(log.take(), ["b begins", "b ends", "b begins"]);

    // Who has done its work is not asked again, whatever changes.
    fake.put(&cm("c"), watched("once"));
    a_moment().await;
    fake.put(&cm("c"), json!({"data": {"watch": "once", "more": "1"}}));
    a_moment().await;
    assert_eq!(log.take(), ["c begins", "c ends"]);

    // Who does not listen is cut off.
    fake.put(&cm("d"), watched("deaf"));
    a_moment().await;
    let begun = Instant::now();
    fake.remove(&cm("d"));
    while log.0.lock().len() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(
        (log.take(), begun.elapsed().as_secs()),
        (vec!["d begins".to_owned(), "d ends".to_owned()], 5)
    );

    drop(running);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(log.take(), ["b ends"]);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_fails_is_started_again_and_named() {
    let fake = Fake::new();
    for name in ["errs", "panics", "hopeless"] {
        fake.put(&cm(name), json!({}));
    }
    let runs: Arc<Mutex<BTreeMap<String, Vec<u64>>>> = Arc::default();
    let (log, begun) = (runs.clone(), Instant::now());
    let daemon = Daemon::<ConfigMap>::new("brittle").build(move |attended: Attended<ConfigMap>| {
        let log = log.clone();
        async move {
            let name = attended.key.name().to_owned();
            log.lock().entry(name.clone()).or_default().push(begun.elapsed().as_secs());
            match name.as_str() {
                "errs" if attended.attempt < 4 => Err(Error::Other("cold".into())),
                "panics" => panic!("hot"),
                "hopeless" => Err(Error::terminal("never")),
                _ => {
                    attended.stop.cancelled().await;
                    Ok(())
                }
            }
        }
    });
    let (_running, metrics) = start(&fake, daemon);
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(runs.lock()["errs"], [0, 1, 3, 7, 15]);
    assert_eq!(runs.lock()["panics"], [0, 1, 3, 7, 15, 31]);
    assert_eq!(runs.lock()["hopeless"], [0]);
    let failing = |metrics: &Metrics| -> Vec<String> {
        metrics.failures().iter().map(|f| format!("{} {}: {}", f.controller, f.key, f.error)).collect()
    };
    let lasting = ["brittle default/hopeless: terminal: never", "brittle default/panics: it panicked: hot"];
    assert_eq!(failing(&metrics), [&["brittle default/errs: cold"], &lasting[..]].concat());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(failing(&metrics), lasting, "a minute is well again");
}

#[tokio::test(start_paused = true)]
async fn a_timer_ticks_for_each_object_on_the_leader_alone() {
    let fake = Fake::new();
    fake.put(&cm("a"), json!({}));
    let ticks: Arc<Mutex<Vec<(&'static str, f64)>>> = Arc::default();
    let begun = Instant::now();
    let replica = |identity: &'static str| {
        let log = ticks.clone();
        let bell = Daemon::<ConfigMap>::new("bell").every(Duration::from_secs(100), move |_| {
            log.lock().push((identity, begun.elapsed().as_secs_f64()));
            std::future::ready(Ok(()))
        });
        let lease = Lease::new("default", "bell", identity);
        let mut builder =
            Manager::seeded(fake.client(), Source::seeded(7)).leader_election(lease).warm_standby();
        builder.add(bell);
        run(builder.build())
    };
    let first = replica("one");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let _second = replica("two");
    tokio::time::sleep(Duration::from_secs(995)).await;
    let one: Vec<f64> = std::mem::take(&mut *ticks.lock())
        .into_iter()
        .map(|(id, at)| {
            assert_eq!(id, "one");
            at
        })
        .collect();
    assert!((10..=12).contains(&one.len()) && one[0] < 3.0, "{one:?}");
    let gaps: Vec<f64> = one.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| (90.0..=110.1).contains(gap)), "{gaps:?}");
    assert!(gaps.iter().any(|gap| (gap - gaps[0]).abs() > 0.5), "{gaps:?}");
    drop(first);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(ticks.lock().iter().map(|(id, _)| *id).collect::<Vec<_>>(), ["two"]);
}

#[tokio::test(start_paused = true)]
async fn tasks_beyond_the_bound_wait_for_their_turn() {
    let (fake, log) = (Fake::new(), Log::default());
    for name in ["a", "b", "c"] {
        fake.put(&cm(name), json!({}));
    }
    let noted = log.clone();
    let daemon = Daemon::<ConfigMap>::new("few").at_most(2).build(move |attended: Attended<ConfigMap>| {
        noted.note(attended.key.name().to_owned());
        async move {
            attended.stop.cancelled().await;
            Ok(())
        }
    });
    let (_running, _) = start(&fake, daemon);
    a_moment().await;
    assert_eq!(log.take(), ["a", "b"]);
    fake.remove(&cm("a"));
    a_moment().await;
    assert_eq!(log.take(), ["c"]);
}
