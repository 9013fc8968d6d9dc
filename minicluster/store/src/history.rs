//! The recent past of a topic: what watches replay and what older reads undo.
//!
//! A topic is the first two segments of a key (`/registry/pods/`). History is kept per topic so that a busy kind
//! neither wakes the watchers of a quiet one nor pushes its events out.

use std::collections::VecDeque;

use crate::model::{Event, RangeError, Revision};

/// The most events one topic keeps. A watcher further behind is told that its revision is compacted.
pub const HISTORY_EVENTS_MAX: usize = 131_072;

/// The most bytes of superseded values one topic keeps alive for replays.
pub const HISTORY_SUPERSEDED_BYTES_MAX: usize = 64 << 20;

/// The topic of a key or of a prefix: its first two segments, `None` for a prefix that spans topics.
pub(crate) fn topic_of(key: &str) -> Option<&str> {
    let second = key.get(1..)?.find('/')? + 1;
    let end = second + 1 + key.get(second + 1..)?.find('/')?;
    Some(&key[..=end])
}

/// A bounded log of events in order of revision.
#[derive(Debug, Default)]
pub(crate) struct History {
    events: VecDeque<Event>,
    superseded_bytes: usize,
    /// Every change after this revision is in `events`.
    floor: Revision,
}

impl History {
    /// An empty history that begins after `floor`.
    pub(crate) fn starting_at(floor: Revision) -> Self {
        Self { floor, ..Self::default() }
    }

    pub(crate) fn push(&mut self, event: Event) {
        self.superseded_bytes += superseded(&event);
        self.events.push_back(event);
        while self.events.len() > HISTORY_EVENTS_MAX || self.superseded_bytes > HISTORY_SUPERSEDED_BYTES_MAX {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some(event) = self.events.pop_front() else { return };
        self.superseded_bytes -= superseded(&event);
        self.floor = self.floor.max(event.revision);
    }

    /// Forgets everything up to and including `revision`.
    pub(crate) fn compact(&mut self, revision: Revision) {
        while self.events.front().is_some_and(|e| e.revision <= revision) {
            self.drop_oldest();
        }
        self.floor = self.floor.max(revision);
    }

    /// The events after `revision`, oldest first.
    pub(crate) fn after(
        &self,
        revision: Revision,
    ) -> Result<impl DoubleEndedIterator<Item = &Event>, RangeError> {
        if revision < self.floor {
            return Err(RangeError::Compacted { floor: self.floor });
        }
        let from = self.events.partition_point(|e| e.revision <= revision);
        Ok(self.events.range(from..))
    }

    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }
}

fn superseded(event: &Event) -> usize {
    event.prev.as_ref().map_or(0, |prev| prev.value.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_two_segments() {
        assert_eq!(topic_of("/registry/pods/default/web-1"), Some("/registry/pods/"));
        assert_eq!(topic_of("/registry/pods/"), Some("/registry/pods/"));
        assert_eq!(topic_of("/registry/nodes/n1"), Some("/registry/nodes/"));
        assert_eq!(topic_of("/registry/"), None);
        assert_eq!(topic_of("/registry/pods"), None);
        assert_eq!(topic_of(""), None);
    }
}
