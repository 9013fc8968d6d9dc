//! How long a Job waits before it tries again: twice as long after each failure in a row. Pure, but for the memory that
//! lasts as long as the process, as upstream's does.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use windlass::Key;

use super::facts;

/// The wait after the first failure.
const FIRST: Duration = Duration::from_secs(10);
/// The longest wait.
const LONGEST: Duration = Duration::from_mins(10);

/// The failures of a Job since its last success.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Failures {
    pub(super) count: u32,
    pub(super) last: Option<Timestamp>,
}

impl Failures {
    /// With the pods that have ended since.
    pub(super) fn after(self, succeeded: &[Arc<Pod>], failed: &[Arc<Pod>]) -> Self {
        let ends = |pods: &[Arc<Pod>]| pods.iter().map(|pod| facts::finished_at(pod)).collect::<Vec<_>>();
        let (successes, failures) = (ends(succeeded), ends(failed));
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let last = failures.iter().max().copied();
        match (successes.iter().max(), last) {
            (None, None) => self,
            (None, Some(_)) => {
                Self { count: self.count.saturating_add(number(failures.len())), last: self.last.max(last) }
            }
            (Some(_), None) => Self::default(),
            (Some(success), Some(_)) => {
                let since = failures.iter().filter(|failure| *failure > success).count();
                Self { count: number(since), last }
            }
        }
    }

    /// How long to wait before the next try.
    pub(super) fn left(self, now: Timestamp) -> Duration {
        let (Some(last), 1..) = (self.last, self.count) else { return Duration::ZERO };
        let doubled = FIRST.saturating_mul(2_u32.saturating_pow(self.count - 1)).min(LONGEST);
        let passed = Duration::try_from(now.duration_since(last)).unwrap_or(Duration::ZERO);
        doubled.saturating_sub(passed)
    }

    /// How long to wait before the index of a failed pod is tried again.
    pub(super) fn left_of_index(failed: Option<&Arc<Pod>>, now: Timestamp) -> Duration {
        let Some(pod) = failed else { return Duration::ZERO };
        let count = u32::try_from(facts::failures(pod).1).unwrap_or(0).saturating_add(1);
        Self { count, last: Some(facts::finished_at(pod)) }.left(now)
    }
}

/// What is remembered of all Jobs that have not finished, by key and uid.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<BTreeMap<Key, (String, Failures)>>);

impl Memory {
    pub(super) fn recall(&self, key: &Key, uid: &str) -> Failures {
        self.0.lock().get(key).filter(|(of, _)| of == uid).map(|(_, failures)| *failures).unwrap_or_default()
    }

    pub(super) fn keep(&self, key: &Key, uid: &str, failures: Failures) {
        if failures == Failures::default() {
            return self.forget(key);
        }
        self.0.lock().insert(key.clone(), (uid.to_owned(), failures));
    }

    pub(super) fn forget(&self, key: &Key) {
        self.0.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, pod};

    #[test]
    fn waits_double_until_a_success() {
        let ended = |seconds: &[i64]| -> Vec<Arc<Pod>> {
            seconds.iter().map(|s| Arc::new(pod(&format!("p failed created={s}")))).collect()
        };
        let none = Failures::default();
        assert_eq!(none.left(at(0)), Duration::ZERO);
        let one = none.after(&[], &ended(&[100]));
        assert_eq!(
            (one.left(at(100)).as_secs(), one.left(at(104)).as_secs(), one.left(at(200)).as_secs()),
            (10, 6, 0)
        );
        let three = one.after(&[], &ended(&[110, 105]));
        assert_eq!((three.count, three.last), (3, Some(at(110))));
        assert_eq!(three.left(at(110)).as_secs(), 40);
        assert_eq!(Failures { count: 40, ..three }.left(at(110)), LONGEST);
        assert_eq!(three.after(&ended(&[120]), &[]), none);
        let mixed = three.after(&ended(&[120]), &ended(&[115, 125]));
        assert_eq!((mixed.count, mixed.last), (1, Some(at(125))));
        assert_eq!(three.after(&[], &[]), three);
    }
}
