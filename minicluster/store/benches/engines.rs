//! Which embedded engine carries the durable store: writes a second with 1, 8 and 64 writers, then a million lease
//! updates and what the files weigh afterwards.
//!
//! `cargo bench -p minicluster-store --bench engines [-- UPDATES]`. The engine that lost lives here, beside the
//! figures that decided.

#![allow(missing_docs, clippy::disallowed_methods)]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use minicluster_store::{
    Batch, Engine, EngineError, EventKind, FjallEngine, Image, LeaseId, Payload, Revision, Store, Txn,
};
use redb::{Database, TableDefinition};

const ENTRIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("entries");
const OBJECT_BYTES: usize = 1000;

/// redb: a copy-on-write B-tree.
struct RedbEngine {
    path: PathBuf,
    db: Database,
}

impl RedbEngine {
    fn open(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("a directory for the bench");
        let path = dir.join("store.redb");
        Self { db: Database::create(&path).expect("a new database"), path }
    }
}

impl Engine for RedbEngine {
    fn load(&mut self) -> Result<Image, EngineError> {
        Ok(Image::default())
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), EngineError> {
        let other = |e: &dyn std::fmt::Display| EngineError::Other(e.to_string());
        let txn = self.db.begin_write().map_err(|e| other(&e))?;
        {
            let mut table = txn.open_table(ENTRIES).map_err(|e| other(&e))?;
            for event in &batch.events {
                match event.kind {
                    EventKind::Put => {
                        table.insert(&*event.entry.key, &*event.entry.value).map_err(|e| other(&e))?;
                    }
                    EventKind::Delete => {
                        table.remove(&*event.entry.key).map_err(|e| other(&e))?;
                    }
                }
            }
        }
        txn.commit().map_err(|e| other(&e))
    }

    fn reopen(&mut self) -> Result<(Revision, LeaseId), EngineError> {
        Err(EngineError::Other("a bench does not go on after a failure".to_owned()))
    }

    fn disk_bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |m| m.len())
    }
}

fn size(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|e| match e.metadata() {
            Ok(m) if m.is_dir() => size(&e.path()),
            Ok(m) => std::os::unix::fs::MetadataExt::blocks(&m) * 512,
            Err(_) => 0,
        })
        .sum()
}

async fn writes_per_second(store: &Store, writers: usize, total: usize) -> f64 {
    let object = "x".repeat(OBJECT_BYTES);
    let start = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|w| {
            let (store, object) = (store.clone(), object.clone());
            tokio::spawn(async move {
                for i in 0..total / writers {
                    let key: Arc<str> = format!("/registry/configmaps/{writers}/{w}-{i}").into();
                    store.txn(Txn::put(key, Payload::plain(object.clone()), 0)).await.expect("a write");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a writer");
    }
    total as f64 / start.elapsed().as_secs_f64()
}

async fn lease_updates(store: &Store, total: usize) -> f64 {
    const WRITERS: usize = 64;
    let start = Instant::now();
    let tasks: Vec<_> = (0..WRITERS)
        .map(|w| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut revision = 0;
                for i in 0..total / WRITERS {
                    // 16 nodes a writer: about a thousand leases renewed over and over.
                    let key: Arc<str> = format!("/registry/leases/kube-node-lease/node-{w}").into();
                    let value = format!("{i:0>400}");
                    let txn = Txn::put(key, Payload::plain(value), revision);
                    if let minicluster_store::Outcome::Committed { revision: r, .. } =
                        store.txn(txn).await.expect("a write")
                    {
                        revision = r;
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a writer");
    }
    total as f64 / start.elapsed().as_secs_f64()
}

fn main() {
    let updates = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(1_000_000);
    let root = std::env::temp_dir().join(format!("minicluster-engines-{}", std::process::id()));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio");
    println!("| engine | 1 writer/s | 8 writers/s | 64 writers/s | {updates} lease updates/s | size after |");
    println!("|---|---|---|---|---|---|");
    for name in ["fjall", "redb"] {
        let dir = root.join(name);
        let store = match name {
            "fjall" => Store::with_engine(FjallEngine::open(&dir).expect("fjall")),
            _ => Store::with_engine(RedbEngine::open(&dir)),
        }
        .expect("a store");
        runtime.block_on(async {
            let one = writes_per_second(&store, 1, 500).await;
            let eight = writes_per_second(&store, 8, 4_000).await;
            let many = writes_per_second(&store, 64, 20_000).await;
            let leases = lease_updates(&store, updates).await;
            println!(
                "| {name} | {one:.0} | {eight:.0} | {many:.0} | {leases:.0} | {:.1} MiB |",
                size(&dir) as f64 / f64::from(1 << 20)
            );
        });
    }
    let _ = std::fs::remove_dir_all(&root);
}
