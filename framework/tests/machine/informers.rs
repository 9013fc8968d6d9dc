//! List and watch through every way they can fail, against a slow, obvious picture of the server.

use std::{sync::Arc, time::Duration};

use http::Method;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{ResourceExt, api::DynamicObject};
use parking_lot::Mutex;
use serde_json::json;
use windlass::{ByLabel, ByOwner, Delta, Informers, Key, Scope, by, random::Source};

use crate::fake::Fake;

const CMS: &str = "/api/v1/configmaps";

fn path(ns: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{ns}/configmaps/{name}")
}

fn informers(fake: &Fake) -> Informers {
    Informers::seeded(fake.client(), Source::seeded(1))
}

/// Writes down what a subscriber is told.
#[derive(Clone, Default)]
struct Tape(Arc<Mutex<Vec<String>>>);

impl Tape {
    fn record(&self) -> impl FnMut(&Delta<ConfigMap>) + Send + 'static {
        let tape = self.clone();
        move |delta| {
            let value =
                |cm: &ConfigMap| cm.data.as_ref().and_then(|d| d.get("v")).cloned().unwrap_or_default();
            let line = match delta {
                Delta::Added { new, initial } => {
                    format!("{} {} {}", if *initial { "init" } else { "add" }, new.name_any(), value(new))
                }
                Delta::Updated { old, new } => {
                    format!("update {} {}->{}", new.name_any(), value(old), value(new))
                }
                Delta::Deleted { last, observed } => {
                    format!("delete {}{}", last.name_any(), if *observed { "" } else { " (concluded)" })
                }
            };
            tape.0.lock().push(line);
        }
    }

    fn take(&self) -> String {
        std::mem::take(&mut *self.0.lock()).join("; ")
    }
}

/// Lets everything that is ready run, without the clock moving far.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

fn v(value: &str) -> serde_json::Value {
    json!({"data": {"v": value}})
}

#[tokio::test(start_paused = true)]
async fn follows_the_server_and_tells_old_and_new() {
    for fake in [Fake::new(), Fake::new().without_streaming()] {
        fake.put(&path("default", "a"), v("1"));
        let informer = informers(&fake).get::<ConfigMap>(Scope::all());
        let tape = Tape::default();
        let subscription = informer.subscribe(tape.record());
        informer.synced().await;
        assert_eq!(tape.take(), "init a 1");
        fake.put(&path("default", "a"), v("2"));
        fake.put(&path("default", "b"), v("1"));
        fake.remove(&path("default", "a"));
        settle().await;
        assert_eq!(tape.take(), "update a 1->2; add b 1; delete a");
        let late = Tape::default();
        let _late = informer.subscribe(late.record());
        assert_eq!(late.take(), "init b 1", "a late subscriber is told what is there");
        drop(subscription);
        fake.put(&path("default", "b"), v("2"));
        settle().await;
        assert_eq!((tape.take(), late.take()), (String::new(), "update b 1->2".to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn resumes_a_dropped_watch_where_it_was() {
    let fake = Fake::new();
    let informer = informers(&fake).get::<ConfigMap>(Scope::all());
    informer.synced().await;
    let tape = Tape::default();
    let _s = informer.subscribe(tape.record());
    for i in 0..5 {
        fake.put(&path("default", &format!("c{i}")), v("1"));
        settle().await;
        fake.drop_watches();
        fake.put(&path("default", &format!("d{i}")), v("1"));
        tokio::time::sleep(Duration::from_mins(1)).await;
    }
    let told = tape.take();
    assert_eq!(told.split("; ").count(), 10, "each once: {told}");
    let lists = fake.log().iter().filter(|l| l.contains("sendInitialEvents")).count();
    assert_eq!(lists, 1, "no watch was listed anew");
}

#[tokio::test(start_paused = true)]
async fn an_expired_watch_lists_anew_and_concludes_what_vanished() {
    for fake in [Fake::new(), Fake::new().without_streaming()] {
        for name in ["gone", "same", "changed", "replaced"] {
            fake.put(&path("default", name), v("1"));
        }
        let informer = informers(&fake).get::<ConfigMap>(Scope::all());
        informer.synced().await;
        let same = informer.lister().find(Some("default"), "same").unwrap();
        let tape = Tape::default();
        let _s = informer.subscribe(tape.record());
        tape.take();
        fake.stall(CMS, true);
        fake.remove(&path("default", "gone"));
        fake.put(&path("default", "changed"), v("2"));
        fake.remove(&path("default", "replaced"));
        fake.put(&path("default", "replaced"), v("9"));
        fake.put(&path("default", "fresh"), v("1"));
        fake.compact();
        fake.drop_watches();
        fake.stall(CMS, false);
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(
            tape.take(),
            "update changed 1->2; add fresh 1; delete replaced (concluded); add replaced 9; delete gone (concluded)"
        );
        let again = informer.lister().find(Some("default"), "same").unwrap();
        assert!(Arc::ptr_eq(&same, &again), "what did not change keeps its allocation");
    }
}

#[tokio::test(start_paused = true)]
async fn errors_back_off_and_recover_each_watch_by_itself() {
    let fake = Fake::new();
    fake.put(&path("default", "a"), v("1"));
    fake.put("/api/v1/namespaces/default/pods/p", json!({}));
    fake.fail(Method::GET, "/configmaps", 500, 6);
    let informers = informers(&fake);
    let (cms, pods) = (informers.get::<ConfigMap>(Scope::all()), informers.get::<Pod>(Scope::all()));
    let begun = tokio::time::Instant::now();
    pods.synced().await;
    assert!(begun.elapsed() < Duration::from_millis(100), "a failing sibling delays nobody");
    settle().await;
    assert!(cms.failure().is_some_and(|f| f.to_string().contains("refused")));
    cms.synced().await;
    let waited = begun.elapsed();
    assert!(waited > Duration::from_secs(20) && waited < Duration::from_mins(3), "{waited:?}");
    assert!(cms.failure().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_long_list_comes_in_pages_and_an_expired_page_asks_for_all() {
    let fake = Fake::new().without_streaming();
    for i in 0..1200 {
        fake.put(&path("default", &format!("c{i}")), v("1"));
    }
    fake.fail(Method::GET, "continue=500", 410, 1);
    let informer = informers(&fake).get::<ConfigMap>(Scope::all());
    informer.synced().await;
    assert_eq!(informer.lister().len(), 1200);
    let lists: Vec<String> = fake.log().into_iter().filter(|l| !l.contains("watch=")).collect();
    assert_eq!(lists.len(), 3, "two pages, then everything: {lists:?}");
}

#[tokio::test(start_paused = true)]
async fn one_watch_serves_all_who_ask_and_ends_with_the_last() {
    let fake = Fake::new();
    let informers = informers(&fake);
    let watches = |fake: &Fake| fake.log().iter().filter(|l| l.contains("/api/v1/configmaps?")).count();
    let first = informers.get::<ConfigMap>(Scope::all());
    let second = informers.get::<ConfigMap>(Scope::all());
    second.synced().await;
    assert_eq!(watches(&fake), 1);
    let lister = first.lister();
    drop((first, second));
    fake.put(&path("default", "a"), v("1"));
    settle().await;
    assert_eq!(lister.len(), 1, "a lister keeps the watch");
    drop(lister);
    let again = informers.get::<ConfigMap>(Scope::all());
    again.synced().await;
    assert_eq!(watches(&fake), 2, "the first watch had ended");
}

#[tokio::test(start_paused = true)]
async fn listers_and_indexes_agree_with_a_scan() {
    let fake = Fake::new();
    let informer = informers(&fake).get::<ConfigMap>(Scope::all());
    let by_app = informer.index(ByLabel("app".into()));
    let random = Source::seeded(42);
    for _ in 0..400 {
        let (ns, name) = (format!("ns{}", random.below(3)), format!("c{}", random.below(20)));
        if random.below(3) == 0 {
            fake.remove(&path(&ns, &name));
        } else {
            let app = format!("app{}", random.below(4));
            let owner =
                json!([{"apiVersion": "v1", "kind": "X", "name": "x", "uid": app, "controller": true}]);
            fake.put(
                &path(&ns, &name),
                json!({"metadata": {"labels": {"app": app}, "ownerReferences": owner}}),
            );
        }
        if random.below(40) == 0 {
            fake.compact();
            fake.drop_watches();
        }
        if random.below(10) == 0 {
            settle().await;
        }
    }
    tokio::time::sleep(Duration::from_mins(2)).await;
    let by_owner = informer.index(ByOwner);
    let by_length = informer.index(by(|cm: &ConfigMap| Some(cm.name_any().len())));
    let names = |found: &[Arc<ConfigMap>]| -> Vec<String> {
        found.iter().map(|cm| Key::of(&**cm).to_string()).collect()
    };
    let mut server: Vec<(Key, String)> = fake
        .all(CMS)
        .iter()
        .map(|o| {
            let meta = &o["metadata"];
            let key = Key::new(meta["namespace"].as_str(), meta["name"].as_str().unwrap());
            (key, meta["labels"]["app"].as_str().unwrap().to_owned())
        })
        .collect();
    server.sort();
    let expect = |wanted: &dyn Fn(&Key, &str) -> bool| -> Vec<String> {
        server.iter().filter(|(key, app)| wanted(key, app)).map(|(key, _)| key.to_string()).collect()
    };
    assert!(server.len() > 20);
    assert_eq!(names(&informer.lister().all()), expect(&|_, _| true));
    assert_eq!(
        names(&informer.lister().in_namespace("ns1")),
        expect(&|key, _| key.namespace() == Some("ns1"))
    );
    for app in ["app0", "app1", "app2", "app3", "none"] {
        assert_eq!(names(&by_app.get(app)), expect(&|_, a| a == app));
        assert_eq!(names(&by_owner.get(app)), expect(&|_, a| a == app));
    }
    assert_eq!(names(&by_length.get(&2)), expect(&|key, _| key.name().len() == 2));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_decoded_stops_nothing() {
    let fake = Fake::new();
    fake.put(&path("default", "bad"), json!({"data": 7}));
    let informer = informers(&fake).get::<ConfigMap>(Scope::all());
    informer.synced().await;
    fake.put(&path("default", "worse"), json!({"data": [1]}));
    fake.put(&path("default", "good"), v("1"));
    settle().await;
    assert_eq!((informer.lister().len(), informer.undecodable()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_is_let_go_and_the_others_hear_on() {
    let fake = Fake::new();
    let informer = informers(&fake).get::<ConfigMap>(Scope::all());
    informer.synced().await;
    let _bad = informer.subscribe(|_| panic!("a bug in a handler"));
    let tape = Tape::default();
    let _good = informer.subscribe(tape.record());
    fake.put(&path("default", "a"), v("1"));
    fake.put(&path("default", "b"), v("1"));
    settle().await;
    assert_eq!(tape.take(), "add a 1; add b 1");
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_merged_changes_and_every_delete() {
    let fake = Fake::new();
    fake.put(&path("default", "a"), v("1"));
    fake.put(&path("default", "b"), v("1"));
    let informer = informers(&fake).get::<ConfigMap>(Scope::all());
    informer.synced().await;
    let mut deltas = informer.deltas();
    while deltas.try_next().is_some() {}
    for i in 2..50 {
        fake.put(&path("default", "a"), v(&i.to_string()));
    }
    fake.put(&path("default", "fleeting"), v("1"));
    fake.remove(&path("default", "fleeting"));
    fake.remove(&path("default", "b"));
    fake.put(&path("default", "b"), v("new"));
    settle().await;
    let tape = Tape::default();
    let mut record = tape.record();
    while let Some(batch) = deltas.try_next() {
        batch.iter().for_each(&mut record);
    }
    assert_eq!(tape.take(), "update a 1->49; delete b; add b new");
}

#[tokio::test(start_paused = true)]
async fn kinds_known_at_run_time_and_metadata_alone() {
    let fake = Fake::new();
    fake.put("/apis/x.dev/v1/namespaces/default/backups/b", json!({"spec": {"keep": 3}}));
    let kind = kube::api::ApiResource {
        group: "x.dev".into(),
        version: "v1".into(),
        api_version: "x.dev/v1".into(),
        kind: "Backup".into(),
        plural: "backups".into(),
    };
    let informers = informers(&fake);
    let whole: windlass::Informer<DynamicObject> = informers.dynamic(&kind, Scope::all());
    let meta = informers.metadata(&kind, Scope::all());
    whole.synced().await;
    meta.synced().await;
    let key = Key::new(Some("default"), "b");
    assert_eq!(whole.get(&key).unwrap().data["spec"]["keep"], 3);
    assert_eq!(meta.get(&key).unwrap().metadata.name.as_deref(), Some("b"));
    drop(meta);
    fake.remove("/apis/x.dev/v1/namespaces/default/backups/b");
    settle().await;
    assert!(whole.lister().is_empty());
}

#[tokio::test(start_paused = true)]
async fn several_namespaces_are_one_cache() {
    let fake = Fake::new();
    for ns in ["a", "b", "c"] {
        fake.put(&path(ns, "x"), v(ns));
    }
    let scope = Scope { namespaces: vec!["a".into(), "b".into()], ..Scope::default() };
    let informer = informers(&fake).get::<ConfigMap>(scope);
    informer.synced().await;
    let keys: Vec<String> = informer.lister().all().iter().map(|cm| Key::of(&**cm).to_string()).collect();
    assert_eq!(keys, ["a/x", "b/x"]);
    fake.stall(CMS, true);
    fake.remove(&path("a", "x"));
    fake.compact();
    fake.drop_watches();
    fake.stall(CMS, false);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(informer.lister().len(), 1, "a relist of one namespace leaves the other alone");
}
