//! A value derived from part of the store, brought up to date when it is read.
//!
//! No task keeps it fresh and no timer: a reader that finds new events rebuilds it ([`View`]) or takes them in
//! ([`Live`]), so a decision always sees every write that was acknowledged before.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use minicluster_store::{Entry, Event, EventKind, Snapshot, Store, Watcher};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

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

/// A value that takes part of the store in object by object.
pub trait Follow: Default + Send + Sync + 'static {
    /// An object is there, new or changed; `key` is what follows the prefix.
    fn put(&mut self, prefix: &'static str, key: &str, value: &Bytes);
    /// An object is gone.
    fn remove(&mut self, prefix: &'static str, key: &str);
}

/// As [`View`], but an event costs the work of one object, however large the whole is.
pub struct Live<T> {
    store: Store,
    prefixes: &'static [&'static str],
    value: RwLock<T>,
    watchers: Mutex<Vec<Watcher>>,
    seen: AtomicU64,
}

impl<T: Follow> Live<T> {
    /// Takes everything in for the first time.
    pub fn new(store: &Store, prefixes: &'static [&'static str]) -> Self {
        let snapshot = store.snapshot();
        Self {
            value: RwLock::new(whole(&snapshot, prefixes)),
            watchers: Mutex::new(watchers(store, prefixes, &snapshot)),
            seen: AtomicU64::new(snapshot.revision()),
            store: store.clone(),
            prefixes,
        }
    }

    /// The value as of now.
    pub fn get(&self) -> RwLockReadGuard<'_, T> {
        let now = self.store.revision();
        if self.seen.load(Ordering::Acquire) < now {
            self.catch_up(now);
        }
        self.value.read()
    }

    fn catch_up(&self, now: u64) {
        let mut watchers = self.watchers.lock();
        if self.seen.load(Ordering::Acquire) >= now {
            return;
        }
        for (prefix, watcher) in self.prefixes.iter().copied().zip(watchers.iter_mut()) {
            loop {
                match watcher.poll_now() {
                    Ok(events) if events.is_empty() => break,
                    Ok(events) => take_in(&mut *self.value.write(), prefix, &events),
                    Err(_) => {
                        // Slower than the store remembers: begin anew.
                        let snapshot = self.store.snapshot();
                        *self.value.write() = whole(&snapshot, self.prefixes);
                        *watchers = self::watchers(&self.store, self.prefixes, &snapshot);
                        self.seen.store(snapshot.revision(), Ordering::Release);
                        return;
                    }
                }
            }
        }
        self.seen.store(now, Ordering::Release);
    }
}

fn whole<T: Follow>(snapshot: &Snapshot, prefixes: &'static [&'static str]) -> T {
    let mut value = T::default();
    for prefix in prefixes.iter().copied() {
        for entry in snapshot.range(prefix) {
            value.put(prefix, entry.key.strip_prefix(prefix).unwrap_or_default(), &entry.value);
        }
    }
    value
}

fn take_in<T: Follow>(value: &mut T, prefix: &'static str, events: &[Event]) {
    for event in events {
        let key = event.entry.key.strip_prefix(prefix).unwrap_or_default();
        match event.kind {
            EventKind::Put => value.put(prefix, key, &event.entry.value),
            EventKind::Delete => value.remove(prefix, key),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use minicluster_store::{Payload, Txn};

    use super::*;

    #[derive(Default)]
    struct Copy(BTreeMap<String, Vec<u8>>);

    impl Follow for Copy {
        fn put(&mut self, prefix: &'static str, key: &str, value: &Bytes) {
            self.0.insert(format!("{prefix}{key}"), value.to_vec());
        }

        fn remove(&mut self, prefix: &'static str, key: &str) {
            self.0.remove(&format!("{prefix}{key}"));
        }
    }

    #[tokio::test]
    async fn a_live_value_follows_puts_and_deletes_and_survives_compaction() {
        let store = Store::memory();
        let put = |key: String, rev| Txn::put(key.as_str(), Payload::plain(key.clone().into_bytes()), rev);
        store.txn(put("/registry/a/0".into(), 0)).await.unwrap();
        let live: Live<Copy> = Live::new(&store, &["/registry/a/", "/registry/b/"]);
        let same = |store: &Store| {
            let snapshot = store.snapshot();
            let wanted: Vec<String> = ["/registry/a/", "/registry/b/"]
                .iter()
                .flat_map(|p| snapshot.range(p).map(|e| e.key.to_string()).collect::<Vec<_>>())
                .collect();
            assert_eq!(live.get().0.keys().cloned().collect::<Vec<_>>(), wanted);
        };
        same(&store);
        for i in 1..3000 {
            store.txn(put(format!("/registry/{}/{i}", if i % 3 == 0 { "b" } else { "a" }), 0)).await.unwrap();
        }
        same(&store);
        let rev = store.get("/registry/b/3").unwrap().mod_revision;
        store.txn(Txn::delete("/registry/b/3", rev)).await.unwrap();
        store.txn(put("/registry/c/1".into(), 0)).await.unwrap();
        same(&store);
        store.txn(put("/registry/a/last".into(), 0)).await.unwrap();
        store.compact(store.revision());
        same(&store);
    }
}
