//! Keys from elsewhere in the process: a web hook, a queue of messages, another controller.

use std::{collections::BTreeSet, sync::Arc};

use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::{Source, SourceCx};
use crate::{BoxError, Enqueue, Key};

/// Keys that wait while the controller does not run. More are not kept: what exists is reconciled at each start anyway.
const WAITING: usize = 8192;

/// A source that a [`Sender`] feeds.
pub fn channel(name: &'static str) -> (Sender, Channel) {
    let shared: Arc<Mutex<State>> = Arc::default();
    (Sender(shared.clone()), Channel { name, shared })
}

/// Feeds a [`channel`]. Cheap to clone.
#[derive(Clone)]
pub struct Sender(Arc<Mutex<State>>);

/// The other end of a [`Sender`], for [`Controller::source`](crate::Controller::source).
pub struct Channel {
    name: &'static str,
    shared: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    queue: Option<Enqueue>,
    waiting: BTreeSet<Key>,
}

impl Sender {
    /// Has a key reconciled: now, or else when the controller starts. Never waits; a key that is sent twice before it is
    /// reconciled is reconciled once.
    pub fn send(&self, key: Key) {
        let mut state = self.0.lock();
        match &state.queue {
            Some(queue) => queue.now(key),
            None if state.waiting.len() < WAITING => {
                state.waiting.insert(key);
            }
            None => {}
        }
    }
}

/// Takes the queue out of the channel when the controller stops.
struct Open<'a>(&'a Mutex<State>);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.lock().queue = None;
    }
}

impl Source for Channel {
    fn name(&self) -> &str {
        self.name
    }

    fn run(&self, cx: SourceCx) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(async move {
            let _open = Open(&self.shared);
            {
                let mut state = self.shared.lock();
                std::mem::take(&mut state.waiting).into_iter().for_each(|key| cx.enqueue.now(key));
                state.queue = Some(cx.enqueue.clone());
            }
            std::future::pending().await
        })
    }
}
