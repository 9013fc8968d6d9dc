//! The store's promises, for the engine in memory and the durable one alike.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use minicluster_store::{EventKind, Op, Outcome, Payload, RangeError, Store, Txn};
use proptest::prelude::*;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("minicluster-store-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn committed(outcome: Outcome) -> u64 {
    match outcome {
        Outcome::Committed { revision, .. } => revision,
        Outcome::Conflict { current } => panic!("conflict with {current:?}"),
    }
}

async fn put(store: &Store, key: &str, value: &str) -> u64 {
    let expected = store.get(key).map_or(0, |e| e.mod_revision);
    committed(store.txn(Txn::put(key, Payload::plain(value.to_owned()), expected)).await.unwrap())
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn a_write_on_a_wrong_revision_conflicts_and_changes_nothing() {
    let store = Store::memory();
    let first = put(&store, "/r/pods/a", "1").await;
    let stale = Txn::put("/r/pods/a", Payload::plain("2"), first + 7);
    let Outcome::Conflict { current } = store.txn(stale).await.unwrap() else { panic!("it went through") };
    assert_eq!(current[0].as_ref().unwrap().mod_revision, first);
    let exists = Txn::put("/r/pods/a", Payload::plain("2"), 0);
    assert!(matches!(store.txn(exists).await.unwrap(), Outcome::Conflict { .. }));
    assert_eq!(store.revision(), first);
    assert_eq!(text(&store.get("/r/pods/a").unwrap().value), "1");
}

#[tokio::test]
async fn the_revision_is_stamped_into_the_bytes_and_restamped_by_a_delete() {
    let store = Store::memory();
    for _ in 0..11 {
        put(&store, "/r/pods/filler", "x").await;
    }
    let mut watch = store.watch("/r/pods/", store.revision()).unwrap();
    let payload = Payload::stamped(r#"{"rv":"","x":1}"#, 7);
    let rev = committed(store.txn(Txn::put("/r/pods/a", payload, 0)).await.unwrap());
    assert_eq!(text(&store.get("/r/pods/a").unwrap().value), format!(r#"{{"rv":"{rev}","x":1}}"#));
    let deleted = committed(store.txn(Txn::delete("/r/pods/a", rev)).await.unwrap());
    let events = watch.next().await.unwrap();
    assert_eq!(events.len(), 2);
    assert_eq!(events[1].kind, EventKind::Delete);
    assert_eq!(text(&events[1].value()), format!(r#"{{"rv":"{deleted}","x":1}}"#));
}

#[tokio::test]
async fn a_watch_replays_from_its_revision_and_sees_only_its_prefix() {
    let store = Store::memory();
    let start = put(&store, "/r/pods/ns1/a", "1").await;
    put(&store, "/r/pods/ns2/b", "1").await;
    put(&store, "/r/nodes/n", "1").await;
    put(&store, "/r/pods/ns1/a", "2").await;
    let mut watch = store.watch("/r/pods/ns1/", start).unwrap();
    let seen = watch.next().await.unwrap();
    assert_eq!(seen.iter().map(|e| text(&e.entry.value)).collect::<Vec<_>>(), ["2"]);
    assert_eq!(text(&seen[0].prev.as_ref().unwrap().value), "1");
    assert_eq!(watch.revision(), store.revision());
    assert!(watch.poll_now().unwrap().is_empty());
    assert_eq!(store.watch("/r/pods/", 99).unwrap_err(), RangeError::Future { current: 4 });
}

#[tokio::test]
async fn compaction_ends_old_watches_and_old_reads() {
    let store = Store::memory();
    for i in 0..5 {
        put(&store, "/r/pods/a", &i.to_string()).await;
    }
    let mut slow = store.watch("/r/pods/", 1).unwrap();
    assert_eq!(text(&store.range_at("/r/pods/", 3).unwrap()[0].value), "2");
    store.compact(3);
    assert_eq!(slow.next().await.unwrap_err(), RangeError::Compacted { floor: 3 });
    assert_eq!(store.range_at("/r/pods/", 2).unwrap_err(), RangeError::Compacted { floor: 3 });
    assert_eq!(text(&store.range_at("/r/pods/", 3).unwrap()[0].value), "2");
    // A topic that nobody has touched yet begins at the floor, too.
    assert!(store.watch("/r/new/", 2).is_err());
    assert!(store.watch("/r/new/", 3).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_runs_out_takes_its_keys_and_a_renewed_one_does_not() {
    let store = Store::memory();
    let keeper = tokio::spawn({
        let store = store.clone();
        async move { store.maintain().await }
    });
    let lease = store.grant(60).await.unwrap();
    let txn = Txn::put("/r/events/a", Payload::plain("x"), 0).with_lease(lease);
    committed(store.txn(txn).await.unwrap());
    tokio::time::sleep(Duration::from_secs(50)).await;
    store.renew(lease).unwrap();
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert!(store.get("/r/events/a").is_some());
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(store.get("/r/events/a").is_none());
    assert!(store.renew(lease).is_err());
    let late = Txn::put("/r/events/b", Payload::plain("x"), 0).with_lease(lease);
    assert!(store.txn(late).await.is_err());
    keeper.abort();
}

#[tokio::test]
async fn a_durable_store_comes_back_as_it_was() {
    let dir = Dir::new("reopen");
    let lease = {
        let store = Store::open(&dir.0).unwrap();
        let lease = store.grant(3600).await.unwrap();
        put(&store, "/r/pods/a", "1").await;
        put(&store, "/r/pods/a", "2").await;
        let b = put(&store, "/r/pods/b", "1").await;
        committed(store.txn(Txn::delete("/r/pods/b", b)).await.unwrap());
        let leased = Txn::put("/r/events/e", Payload::stamped("<>", 1), 0).with_lease(lease);
        committed(store.txn(leased).await.unwrap());
        assert!(Store::open(&dir.0).unwrap_err().to_string().contains("in use by another process"));
        lease
    };
    let store = reopen(&dir).await;
    assert_eq!(store.revision(), 5);
    let a = store.get("/r/pods/a").unwrap();
    assert_eq!((a.create_revision, a.mod_revision, a.version, text(&a.value)), (1, 2, 2, "2"));
    assert!(store.get("/r/pods/b").is_none());
    assert_eq!(text(&store.get("/r/events/e").unwrap().value), "<5>");
    assert_eq!(text(&store.get("/r/events/e").unwrap().restamped(123)), "<123>");
    store.revoke(lease).await.unwrap();
    assert!(store.get("/r/events/e").is_none());
}

/// The writer's thread lets go of the directory shortly after the last handle is dropped.
async fn reopen(dir: &Dir) -> Store {
    for _ in 0..200 {
        match Store::open(&dir.0) {
            Ok(store) => return store,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    panic!("the directory stays locked")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_share_batches_and_every_write_has_its_own_revision() {
    let dir = Dir::new("writers");
    let store = Store::open(&dir.0).unwrap();
    let writers: Vec<_> = (0..32)
        .map(|w| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut revisions = Vec::new();
                for i in 0..20 {
                    let key = format!("/r/pods/{w}-{i}");
                    let revision = put(&store, &key, "x").await;
                    assert!(store.revision() >= revision, "an acknowledged write is not visible");
                    assert_eq!(store.get(&key).unwrap().mod_revision, revision);
                    revisions.push(revision);
                }
                revisions
            })
        })
        .collect();
    let mut all = Vec::new();
    for writer in writers {
        all.extend(writer.await.unwrap());
    }
    all.sort_unstable();
    assert_eq!(all, (1..=640).collect::<Vec<_>>());
    assert_eq!(store.watch("/r/pods/", 0).unwrap().poll_now().unwrap().len(), 512);
}

#[test]
fn a_damaged_directory_is_refused_with_one_sentence() {
    let dir = Dir::new("damaged");
    std::fs::create_dir_all(&dir.0).unwrap();
    std::fs::write(dir.0.join("version"), b"no such thing").unwrap();
    let error = Store::open(&dir.0).unwrap_err().to_string();
    assert!(error.contains("damaged") && error.contains("restore a backup"), "{error}");
    let file = dir.0.join("file");
    std::fs::write(&file, b"").unwrap();
    let error = Store::open(&file).unwrap_err().to_string();
    assert!(error.contains(file.to_str().unwrap()), "{error}");
}

#[derive(Clone, Debug)]
enum Step {
    Put { key: u8, value: u8, stale: bool },
    Delete { key: u8 },
    Pair { a: u8, b: u8 },
    Compact,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6_u8, any::<u8>(), prop::bool::weighted(0.1))
            .prop_map(|(key, value, stale)| Step::Put { key, value, stale }),
        3 => (0..6_u8).prop_map(|key| Step::Delete { key }),
        1 => (0..3_u8, 3..6_u8).prop_map(|(a, b)| Step::Pair { a, b }),
        1 => Just(Step::Compact),
    ]
}

fn key(k: u8) -> Arc<str> {
    // Three topics, so that the histories interleave.
    Arc::from(format!("/r/t{}/{k}", k % 3))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Against the obvious model: a copy of the whole map for each revision.
    #[test]
    fn reads_at_every_kept_revision_match_a_copy_of_the_map(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async move {
            let store = Store::memory();
            let mut model: Vec<BTreeMap<Arc<str>, String>> = vec![BTreeMap::new()];
            let mut floor = 0;
            for step in steps {
                let mut next = model.last().unwrap().clone();
                let now = |k: &Arc<str>| store.get(k).map_or(0, |e| e.mod_revision);
                let (txn, expect) = match step {
                    Step::Put { key: k, value, stale } => {
                        let k = key(k);
                        next.insert(Arc::clone(&k), value.to_string());
                        let expected = now(&k) + u64::from(stale);
                        (Txn::put(k, Payload::plain(value.to_string()), expected), !stale)
                    }
                    Step::Delete { key: k } => {
                        let k = key(k);
                        next.remove(&k);
                        (Txn::delete(Arc::clone(&k), now(&k)), true)
                    }
                    Step::Pair { a, b } => {
                        let (a, b) = (key(a), key(b));
                        next.insert(Arc::clone(&a), "pair".into());
                        next.remove(&b);
                        let put = Op::Put { key: a, payload: Payload::plain("pair"), lease: 0 };
                        (Txn { compares: vec![], ops: vec![put, Op::Delete { key: b }] }, true)
                    }
                    Step::Compact => {
                        floor = store.revision() / 2;
                        store.compact(floor);
                        continue;
                    }
                };
                match store.txn(txn).await.unwrap() {
                    Outcome::Committed { revision, .. } => {
                        prop_assert!(expect);
                        if revision as usize == model.len() {
                            model.push(next);
                        } else {
                            prop_assert_eq!(&next, model.last().unwrap());
                        }
                    }
                    Outcome::Conflict { .. } => prop_assert!(!expect),
                }
            }
            for (revision, expected) in model.iter().enumerate().skip(floor as usize) {
                for prefix in ["/r/", "/r/t0/", "/r/t1/", "/r/t2/"] {
                    let got: BTreeMap<_, _> = store.range_at(prefix, revision as u64).unwrap().iter()
                        .map(|e| (Arc::clone(&e.key), text(&e.value).to_owned())).collect();
                    let want: BTreeMap<_, _> = expected.iter().filter(|(k, _)| k.starts_with(prefix))
                        .map(|(k, v)| (Arc::clone(k), v.clone())).collect();
                    prop_assert_eq!(got, want);
                }
            }
            Ok(())
        })?;
    }
}
