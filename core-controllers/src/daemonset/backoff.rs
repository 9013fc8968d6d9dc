//! How long a node waits before its failed daemon pod is made anew: twice as long each time, as upstream's
//! `flowcontrol.Backoff`. Remembered as long as the process lasts.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use parking_lot::Mutex;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(15);

/// By the uid and generation of the set and the node.
#[derive(Debug, Default)]
pub(super) struct Backoff(Mutex<BTreeMap<(String, i64, String), (Timestamp, Duration)>>);

impl Backoff {
    /// How much longer a node has to wait.
    pub(super) fn left(&self, set: (&str, i64), node: &str, now: Timestamp) -> Duration {
        let known = self.0.lock().get(&key(set, node)).copied();
        known.map_or(Duration::ZERO, |(since, wait)| wait.saturating_sub(passed(since, now)))
    }

    /// Notes that a node's pod failed and is replaced now. What is too old to count is forgotten.
    pub(super) fn note(&self, set: (&str, i64), node: &str, now: Timestamp) {
        let mut all = self.0.lock();
        all.retain(|_, (since, _)| passed(*since, now) <= LONGEST * 2);
        let wait = all.get(&key(set, node)).map_or(FIRST, |(_, wait)| (*wait * 2).min(LONGEST));
        all.insert(key(set, node), (now, wait));
    }
}

fn key(set: (&str, i64), node: &str) -> (String, i64, String) {
    (set.0.to_owned(), set.1, node.to_owned())
}

fn passed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    #[test]
    fn a_node_waits_longer_each_time() {
        let (backoff, set) = (Backoff::default(), ("uid", 1));
        assert_eq!(backoff.left(set, "n", at(0)), Duration::ZERO);
        backoff.note(set, "n", at(0));
        assert_eq!(backoff.left(set, "n", at(0)).as_secs(), 1);
        backoff.note(set, "n", at(1));
        assert_eq!(
            (backoff.left(set, "n", at(1)).as_secs(), backoff.left(set, "n", at(3)).as_secs()),
            (2, 0)
        );
        assert_eq!(backoff.left(("uid", 2), "n", at(1)), Duration::ZERO, "another template starts anew");
        (2..30).for_each(|i| backoff.note(set, "n", at(i)));
        assert_eq!(backoff.left(set, "n", at(29)), LONGEST);
        backoff.note(set, "n", at(10_000));
        assert_eq!(backoff.left(set, "n", at(10_000)), FIRST);
    }
}
