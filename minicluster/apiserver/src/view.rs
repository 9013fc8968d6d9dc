//! A value derived from part of the store, brought up to date when it is read.
//!
//! No task keeps it fresh and no timer: a reader that finds new events rebuilds it, so a decision always sees every
//! write that was acknowledged before.

use std::sync::Arc;

use arc_swap::ArcSwap;
use minicluster_store::{Entry, Snapshot, Store, Watcher};
use parking_lot::Mutex;

/// A derived value over some prefixes.
pub struct View<T> {
    store: Store,
    prefixes: &'static [&'static str],
    watchers: Mutex<Vec<Watcher>>,
    value: ArcSwap<T>,
    build: fn(&Snapshot, &'static [&'static str]) -> T,
}

impl<T: Send + Sync + 'static> View<T> {
    /// Builds the value for the first time.
    pub fn new(
        store: &Store,
        prefixes: &'static [&'static str],
        build: fn(&Snapshot, &'static [&'static str]) -> T,
    ) -> Self {
        let snapshot = store.snapshot();
        Self {
            watchers: Mutex::new(watchers(store, prefixes, &snapshot)),
            value: ArcSwap::from_pointee(build(&snapshot, prefixes)),
            store: store.clone(),
            prefixes,
            build,
        }
    }

    /// The value as of now.
    pub fn get(&self) -> Arc<T> {
        let mut watchers = self.watchers.lock();
        let mut stale = false;
        let mut lost = false;
        for watcher in watchers.iter_mut() {
            match watcher.poll_now() {
                Ok(events) => stale |= !events.is_empty(),
                Err(_) => lost = true,
            }
        }
        if stale || lost {
            let snapshot = self.store.snapshot();
            self.value.store(Arc::new((self.build)(&snapshot, self.prefixes)));
            *watchers = self::watchers(&self.store, self.prefixes, &snapshot);
        }
        self.value.load_full()
    }
}

fn watchers(store: &Store, prefixes: &[&str], snapshot: &Snapshot) -> Vec<Watcher> {
    prefixes
        .iter()
        .map(|p| store.watch(p, snapshot.revision()).expect("the newest revision is never compacted"))
        .collect()
}

/// The objects under a prefix, decoded.
pub fn objects<'s>(
    snapshot: &'s Snapshot,
    prefix: &'s str,
) -> impl Iterator<Item = (&'s Arc<Entry>, serde_json::Value)> {
    snapshot.range(prefix).filter_map(|e| Some((e, serde_json::from_slice(&e.value).ok()?)))
}
