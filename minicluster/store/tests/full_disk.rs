//! What the store does when its device refuses a write: nothing is half done, reads go on, and writes come back.

use std::{collections::BTreeMap, path::Path, process::Command, sync::Arc, time::Duration};

use minicluster_store::{
    Batch, Engine, EngineError, Entry, EventKind, Image, LeaseId, Op, Outcome, Payload, Revision, Store,
    StoreError, Txn,
};
use parking_lot::Mutex;
use proptest::prelude::*;

/// A disk that fails on command, and what is on it.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    revision: Revision,
    next_lease: LeaseId,
    entries: BTreeMap<String, Arc<Entry>>,
    leases: BTreeMap<LeaseId, u64>,
    next: Option<Failure>,
    /// So many attempts to open fail.
    closed: usize,
}

#[derive(Clone, Copy, Debug)]
enum Failure {
    /// Nothing of the batch reaches the disk.
    Lost,
    /// All of it does, but the answer is an error.
    Kept,
}

impl Disk {
    fn fail(&self, failure: Failure, closed: usize) {
        let mut kept = self.0.lock();
        (kept.next, kept.closed) = (Some(failure), closed);
    }

    fn values(&self) -> BTreeMap<String, String> {
        let kept = self.0.lock();
        kept.entries.iter().map(|(k, e)| (k.clone(), text(&e.value))).collect()
    }
}

impl Engine for Disk {
    fn load(&mut self) -> Result<Image, EngineError> {
        Ok(Image::default())
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), EngineError> {
        let mut kept = self.0.lock();
        let failure = kept.next.take();
        if !matches!(failure, Some(Failure::Lost)) {
            kept.apply(batch);
        }
        failure.map_or(Ok(()), |_| Err(EngineError::Other("no space left".to_owned())))
    }

    fn reopen(&mut self) -> Result<(Revision, LeaseId), EngineError> {
        let mut kept = self.0.lock();
        if kept.closed > 0 {
            kept.closed -= 1;
            return Err(EngineError::Other("still no space left".to_owned()));
        }
        Ok((kept.revision, kept.next_lease))
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

impl Kept {
    fn apply(&mut self, batch: &Batch) {
        (self.revision, self.next_lease) = (batch.revision, batch.next_lease);
        for event in &batch.events {
            match event.kind {
                EventKind::Put => drop(self.entries.insert(event.entry.key.to_string(), event.entry.clone())),
                EventKind::Delete => drop(self.entries.remove(&*event.entry.key)),
            }
        }
        self.leases.extend(batch.granted.iter().copied());
        self.leases.retain(|id, _| !batch.revoked.contains(id));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn put(store: &Store, key: &str, value: &str) -> Result<Revision, StoreError> {
    let expected = store.get(key).map_or(0, |e| e.mod_revision);
    match store.txn(Txn::put(key, Payload::plain(value.to_owned()), expected)).await? {
        Outcome::Committed { revision, .. } => Ok(revision),
        Outcome::Conflict { current } => panic!("conflict with {current:?}"),
    }
}

fn values(store: &Store) -> BTreeMap<String, String> {
    store.snapshot().range("/").map(|e| (e.key.to_string(), text(&e.value))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_failed_write_changes_nothing_and_the_next_one_goes_through() {
    for failure in [Failure::Lost, Failure::Kept] {
        let disk = Disk::default();
        let store = Store::direct(disk.clone()).unwrap();
        let lease = store.grant(60).await.unwrap();
        put(&store, "/r/pods/a", "1").await.unwrap();
        store.txn(Txn::put("/r/pods/held", Payload::plain("x"), 0).with_lease(lease)).await.unwrap();
        let mut watch = store.watch("/r/pods/", store.revision()).unwrap();
        let before = (store.revision(), values(&store));

        disk.fail(failure, 0);
        let error = put(&store, "/r/pods/a", "2").await.unwrap_err();
        assert_eq!(error.to_string(), "the store could not write: no space left");
        disk.fail(failure, 0);
        put(&store, "/r/pods/b", "2").await.unwrap_err();
        disk.fail(failure, 0);
        store.revoke(lease).await.unwrap_err();
        disk.fail(failure, 0);
        store.grant(5).await.unwrap_err();
        assert_eq!((store.revision(), values(&store)), before, "{failure:?}");
        assert_eq!(disk.values(), before.1, "{failure:?}");
        assert_eq!(disk.0.lock().leases, BTreeMap::from([(lease, 60)]), "{failure:?}");
        assert!(watch.poll_now().unwrap().is_empty());
        assert!(store.failure().is_none(), "the engine was opened again");

        assert_eq!(put(&store, "/r/pods/a", "3").await.unwrap(), before.0 + 1);
        assert_eq!(watch.next().await.unwrap().len(), 1);
        assert_eq!(disk.values(), values(&store));
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_engine_cannot_be_opened_writes_are_refused_and_reads_go_on() {
    let disk = Disk::default();
    let store = Store::direct(disk.clone()).unwrap();
    let first = put(&store, "/r/pods/a", "1").await.unwrap();
    disk.fail(Failure::Kept, 2);
    put(&store, "/r/pods/a", "2").await.unwrap_err();
    assert_eq!(store.failure().unwrap().to_string(), "still no space left");
    let error = put(&store, "/r/pods/b", "1").await.unwrap_err().to_string();
    assert_eq!(error, "the store could not write: still no space left");
    assert_eq!(store.revision(), first);
    assert_eq!(text(&store.get("/r/pods/a").unwrap().value), "1");
    assert_eq!(store.range_at("/r/pods/", first).unwrap().len(), 1);
    assert_eq!(disk.0.lock().closed, 1, "it was tried again before its pause was over");

    tokio::time::advance(Duration::from_secs(1)).await;
    put(&store, "/r/pods/b", "1").await.unwrap_err();
    tokio::time::advance(Duration::from_secs(1)).await;
    put(&store, "/r/pods/b", "1").await.unwrap();
    assert!(store.failure().is_none());
    assert_eq!(disk.values(), values(&store));
}

#[derive(Clone, Debug)]
enum Step {
    Put { key: u8, value: u8 },
    Pair { delete: u8, put: u8 },
    Fail { kept: bool, closed: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4_u8, any::<u8>()).prop_map(|(key, value)| Step::Put { key, value }),
        2 => (0..4_u8, 4..8_u8).prop_map(|(delete, put)| Step::Pair { delete, put }),
        3 => (any::<bool>(), 0..3_usize).prop_map(|(kept, closed)| Step::Fail { kept, closed }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever fails: what was acknowledged is in memory and on disk, and nothing else.
    #[test]
    fn memory_and_disk_hold_what_was_acknowledged(steps in prop::collection::vec(step(), 1..40)) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let disk = Disk::default();
            let store = Store::direct(disk.clone()).unwrap();
            let mut model: BTreeMap<String, String> = BTreeMap::new();
            let name = |key: u8| format!("/r/t{}/{key}", key % 2);
            for step in steps {
                match step {
                    Step::Put { key, value } => {
                        if put(&store, &name(key), &value.to_string()).await.is_ok() {
                            model.insert(name(key), value.to_string());
                        }
                    }
                    Step::Pair { delete, put } => {
                        let put = Op::Put { key: name(put).into(), payload: Payload::plain("p"), lease: 0 };
                        let ops = vec![Op::Delete { key: name(delete).into() }, put.clone()];
                        if store.txn(Txn { compares: Vec::new(), ops }).await.is_ok() {
                            model.remove(&name(delete));
                            let Op::Put { key, .. } = put else { unreachable!() };
                            model.insert(key.to_string(), "p".to_owned());
                        }
                    }
                    Step::Fail { kept, closed } => {
                        disk.fail(if kept { Failure::Kept } else { Failure::Lost }, closed);
                    }
                }
                prop_assert_eq!(&values(&store), &model);
                tokio::time::advance(Duration::from_millis(600)).await;
            }
            disk.0.lock().next = None;
            disk.0.lock().closed = 0;
            tokio::time::advance(Duration::from_secs(2)).await;
            put(&store, "/r/last", "1").await.unwrap();
            model.insert("/r/last".to_owned(), "1".to_owned());
            prop_assert_eq!(&values(&store), &model);
            prop_assert_eq!(&disk.values(), &model);
            prop_assert_eq!(disk.0.lock().revision, store.revision());
            Ok(())
        })?;
    }
}

/// Where the small file system is mounted: set in the process that runs inside the namespace.
const SMALL: &str = "STORE_ON_A_SMALL_FILE_SYSTEM";

/// Runs this test again where a file system of a few megabytes is mounted, and does the real thing there.
#[test]
fn a_full_file_system_refuses_writes_and_takes_them_again_when_there_is_room() {
    if let Some(dir) = std::env::var_os(SMALL) {
        return fill_and_empty(Path::new(&dir));
    }
    let dir = std::env::temp_dir().join(format!("minicluster-store-small-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap());
    let mut inside = Command::new("unshare");
    if uid != 0 {
        inside.args(["--user", "--map-root-user"]);
    }
    inside.args(["--mount", "sh", "-c", r#"mount -t tmpfs -o size=24m tmpfs "$0" && exec "$@""#]).arg(&dir);
    inside.arg(std::env::current_exe().unwrap()).args(["--exact", "--nocapture"]);
    inside.arg("a_full_file_system_refuses_writes_and_takes_them_again_when_there_is_room");
    let output = inside.env(SMALL, &dir).output().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    let told = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
}

fn fill_and_empty(dir: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ballast = dir.join("ballast");
    std::fs::write(&ballast, vec![1; 12 << 20]).unwrap();
    let data = dir.join("store");
    let kept = runtime.block_on(async {
        let store = Store::open(&data).unwrap();
        let mut watch = store.watch("/r/big/", 0).unwrap();
        let (mut written, mut refused) = (0, 0);
        // Random digits: the engine compresses.
        let mut random = fastrand::Rng::with_seed(7);
        for i in 0..400 {
            let value: String = (0..100_000).map(|_| random.alphanumeric()).collect();
            let key = format!("/r/big/{i:03}");
            match put(&store, &key, &value).await {
                Ok(_) => written += 1,
                Err(error) => {
                    refused += 1;
                    assert!(matches!(error, StoreError::Engine(_)), "{error}");
                    assert!(store.get(&key).is_none());
                }
            }
            if refused == 5 {
                break;
            }
        }
        assert!(written > 10 && refused == 5, "{written} written, {refused} refused");
        assert_eq!(store.revision(), written);
        assert_eq!(watch.poll_now().unwrap().len(), usize::try_from(written).unwrap());

        std::fs::remove_file(&ballast).unwrap();
        let mut tries = 0;
        while let Err(error) = put(&store, "/r/big/after", "room again").await {
            tries += 1;
            assert!(tries < 50, "{error}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert!(store.failure().is_none());
        (store.revision(), values(&store))
    });
    // The writer's thread holds the directory until it has seen that the store is gone.
    let again = (0..100).find_map(|_| match Store::open(&data) {
        Err(EngineError::InUse(_)) => {
            runtime.block_on(async { tokio::time::sleep(Duration::from_millis(20)).await });
            None
        }
        other => Some(other.unwrap()),
    });
    let again = again.expect("the directory is free");
    assert_eq!((again.revision(), values(&again)), kept);
}
