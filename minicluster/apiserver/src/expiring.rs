//! A bounded cache whose entries end by themselves: answers of other servers, kept for as long as they may be believed.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// A cache of at most `capacity` entries; the one used longest ago makes room.
#[derive(Debug)]
pub(crate) struct Expiring<K, V> {
    capacity: usize,
    inner: Mutex<Inner<K, V>>,
}

#[derive(Debug)]
struct Inner<K, V> {
    entries: HashMap<K, (V, Instant, u64)>,
    /// By the moment of the last use.
    order: BTreeMap<u64, K>,
    tick: u64,
}

impl<K: Hash + Eq + Clone, V: Clone> Expiring<K, V> {
    /// An empty cache.
    pub(crate) fn new(capacity: usize) -> Self {
        let inner = Inner { entries: HashMap::new(), order: BTreeMap::new(), tick: 0 };
        Self { capacity, inner: Mutex::new(inner) }
    }

    /// What is kept under a key and has not ended.
    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let mut inner = self.inner.lock();
        let (value, until, used) = inner.entries.get(key).cloned()?;
        inner.order.remove(&used);
        if until <= Instant::now() {
            inner.entries.remove(key);
            return None;
        }
        let tick = inner.next();
        inner.order.insert(tick, key.clone());
        if let Some(entry) = inner.entries.get_mut(key) {
            entry.2 = tick;
        }
        Some(value)
    }

    /// Keeps a value for a time.
    pub(crate) fn put(&self, key: K, value: V, time: Duration) {
        if time.is_zero() || self.capacity == 0 {
            return;
        }
        let mut inner = self.inner.lock();
        if let Some((_, _, used)) = inner.entries.remove(&key) {
            inner.order.remove(&used);
        }
        while inner.entries.len() >= self.capacity {
            let Some((_, oldest)) = inner.order.pop_first() else { break };
            inner.entries.remove(&oldest);
        }
        let tick = inner.next();
        inner.order.insert(tick, key.clone());
        inner.entries.insert(key, (value, Instant::now() + time, tick));
    }
}

impl<K, V> Inner<K, V> {
    fn next(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn entries_end_by_time_and_by_number() {
        let cache = Expiring::new(2);
        cache.put("a", 1, Duration::from_secs(10));
        cache.put("b", 2, Duration::from_secs(1));
        assert_eq!((cache.get(&"a"), cache.get(&"b")), (Some(1), Some(2)));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!((cache.get(&"a"), cache.get(&"b")), (Some(1), None));
        cache.put("c", 3, Duration::from_secs(10));
        cache.get(&"a");
        cache.put("d", 4, Duration::from_secs(10));
        assert_eq!((cache.get(&"a"), cache.get(&"c"), cache.get(&"d")), (Some(1), None, Some(4)));
        cache.put("e", 5, Duration::ZERO);
        assert_eq!(cache.get(&"e"), None);
    }
}
