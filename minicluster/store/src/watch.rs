//! A watch is a cursor into a topic's history: it holds no buffer of its own.
//!
//! A slow watcher costs nothing and delays nobody. When history has moved past its cursor it is told so, and its owner
//! lists anew.

use std::sync::Arc;

use crate::{
    history::topic_of,
    model::{Event, RangeError, Revision},
    store::{Inner, Topic},
};

/// The most events handed over at once (a revision is never split).
const CHUNK: usize = 512;

/// Sees every change of the keys under a prefix, in order, from a revision on.
pub struct Watcher {
    inner: Arc<Inner>,
    topic: Arc<Topic>,
    prefix: Arc<str>,
    cursor: Revision,
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher")
            .field("prefix", &self.prefix)
            .field("cursor", &self.cursor)
            .finish_non_exhaustive()
    }
}

impl Watcher {
    pub(crate) fn new(inner: Arc<Inner>, prefix: &str, after: Revision) -> Result<Self, RangeError> {
        let topic_name = topic_of(prefix).unwrap_or(prefix);
        let topic = inner.topic(topic_name);
        let current = inner.published.load().revision;
        if after > current {
            return Err(RangeError::Future { current });
        }
        topic.history.read().after(after).map(drop)?;
        Ok(Self { inner, topic, prefix: prefix.into(), cursor: after })
    }

    /// Everything up to this revision has been handed over.
    pub fn revision(&self) -> Revision {
        self.cursor
    }

    /// What has happened since the last call, without waiting; empty when nothing has.
    ///
    /// # Errors
    /// [`RangeError::Compacted`] when the watcher was too slow.
    pub fn poll_now(&mut self) -> Result<Vec<Event>, RangeError> {
        let upto = self.inner.published.load().revision;
        let history = self.topic.history.read();
        let mut out: Vec<Event> = Vec::new();
        for event in history.after(self.cursor)? {
            let full = out.len() >= CHUNK && out.last().is_some_and(|last| last.revision != event.revision);
            if full || event.revision > upto {
                break;
            }
            if event.entry.key.starts_with(&*self.prefix) {
                out.push(event.clone());
            }
        }
        self.cursor = match out.last() {
            Some(last) if out.len() >= CHUNK => last.revision,
            _ => self.cursor.max(upto),
        };
        Ok(out)
    }

    /// Waits for the next changes.
    ///
    /// # Errors
    /// [`RangeError::Compacted`] when the watcher was too slow.
    pub async fn next(&mut self) -> Result<Vec<Event>, RangeError> {
        let topic = Arc::clone(&self.topic);
        loop {
            // Taken before the look, so that a change in between is not missed.
            let woken = topic.wake.notified();
            let events = self.poll_now()?;
            if !events.is_empty() {
                return Ok(events);
            }
            woken.await;
        }
    }
}
