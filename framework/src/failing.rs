//! Which objects a process fails to reconcile right now, and why: served at `/failing`, for people and for `windlass why`.
//!
//! A success forgets the key. What succeeds at once is never written down, so an operator without failures pays nothing.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{Key, clock};

/// The most keys that are remembered; others fail unnamed, and are in the metrics all the same.
const REMEMBERED: usize = 4096;

/// An object that a controller fails to reconcile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The controller; `informer` for a kind that cannot be watched, and `informer of KIND` for an object of it that
    /// cannot be decoded.
    pub controller: String,
    /// The object: `namespace/name`, or its name alone. A source of a controller is `source NAME`, a kind its path.
    pub key: String,
    /// How often it failed since it last succeeded.
    pub failures: u64,
    /// When it failed for the first time.
    pub since: Timestamp,
    /// When it failed last.
    pub last: Timestamp,
    /// Why it failed last.
    pub error: String,
}

/// All of them. Cheap to clone; clones share everything.
#[derive(Clone, Default)]
pub(crate) struct Failing(Arc<Inner>);

#[derive(Default)]
struct Inner {
    known: AtomicUsize,
    keys: Mutex<BTreeMap<(Cow<'static, str>, Key), Failure>>,
}

impl Failing {
    pub(crate) fn failed(&self, controller: impl Into<Cow<'static, str>>, key: &Key, error: String) {
        let (mut keys, now) = (self.0.keys.lock(), clock::now());
        let id = (controller.into(), key.clone());
        if keys.len() >= REMEMBERED && !keys.contains_key(&id) {
            return;
        }
        let failure = keys.entry(id).or_insert_with_key(|(controller, key)| Failure {
            controller: controller.to_string(),
            key: key.to_string(),
            failures: 0,
            since: now,
            last: now,
            error: String::new(),
        });
        failure.failures += 1;
        (failure.last, failure.error) = (now, error);
        self.0.known.store(keys.len(), Ordering::Release);
    }

    pub(crate) fn succeeded(&self, controller: impl Into<Cow<'static, str>>, key: &Key) {
        if self.0.known.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut keys = self.0.keys.lock();
        keys.remove(&(controller.into(), key.clone()));
        self.0.known.store(keys.len(), Ordering::Release);
    }

    /// Why a controller failed at a key last.
    pub(crate) fn error(&self, controller: &'static str, key: &Key) -> Option<String> {
        let id = (Cow::Borrowed(controller), key.clone());
        self.0.keys.lock().get(&id).map(|failure| failure.error.clone())
    }

    /// By controller and key.
    pub(crate) fn all(&self) -> Vec<Failure> {
        self.0.keys.lock().values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_success_forgets() {
        let (failing, key) = (Failing::default(), Key::new(Some("a"), "b"));
        failing.succeeded("c", &key);
        failing.failed("c", &key, "first".to_owned());
        tokio::time::advance(Duration::from_secs(5)).await;
        failing.failed("c", &key, "second".to_owned());
        let all = failing.all();
        assert_eq!(
            (all.len(), all[0].failures, all[0].error.as_str(), all[0].key.as_str()),
            (1, 2, "second", "a/b")
        );
        assert_eq!((all[0].last.duration_since(all[0].since)).as_secs(), 5);
        failing.succeeded("another", &key);
        assert_eq!(failing.all().len(), 1);
        failing.succeeded("c", &key);
        assert_eq!(failing.all(), []);
    }

    #[test]
    fn there_is_a_bound() {
        let failing = Failing::default();
        for i in 0..=REMEMBERED {
            failing.failed("c", &Key::new(None, &i.to_string()), String::new());
        }
        assert_eq!(failing.all().len(), REMEMBERED);
    }
}
