//! Those who are told, and the events that wait for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Mutex as TurnMutex, mpsc},
    time::{Instant, sleep_until, timeout_at},
};

use super::{Batching, Mode, Settings, Truncation, event::Event, log::Log, webhook::Webhook};
use crate::api::Api;

/// One who is told: a file or a server.
enum Target {
    Log(Mutex<Log>),
    Webhook(Webhook),
}

struct Sink {
    target: Target,
    mode: Mode,
    batching: Batching,
    truncation: Option<Truncation>,
    queue: Option<mpsc::Sender<Event>>,
    waiting: TurnMutex<Option<mpsc::Receiver<Event>>>,
}

/// All who are told.
pub(super) struct Sinks {
    all: Vec<Sink>,
    dropped: AtomicU64,
}

impl Sinks {
    pub(super) fn new(settings: &Settings) -> Result<Self, String> {
        let mut all = Vec::new();
        if let Some(log) = &settings.log {
            let target = Target::Log(Mutex::new(Log::open(log)?));
            all.push(Sink::new(target, log.mode, &log.batching, log.truncation.as_ref()));
        }
        if let Some(hook) = &settings.webhook {
            let target = Target::Webhook(Webhook::new(hook)?);
            // A server cannot be waited for where a file can: its blocking modes send one event at a time.
            let mode = if hook.mode == Mode::Batch { Mode::Batch } else { hook.mode };
            all.push(Sink::new(target, mode, &hook.batching, hook.truncation.as_ref()));
        }
        Ok(Self { all, dropped: AtomicU64::new(0) })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Tells everybody. False when one who has to be told could not be.
    pub(super) fn tell(&self, event: Event) -> bool {
        let mut kept = true;
        for sink in &self.all {
            let done = match &sink.queue {
                Some(queue) => queue.try_send(event.clone()).is_ok(),
                None => sink.write(&event),
            };
            if !done {
                let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
                tracing::error!(dropped, id = event.audit_id, "an audit event was lost");
                kept &= sink.mode != Mode::BlockingStrict;
            }
        }
        kept
    }

    /// Sends what waits, for ever.
    pub(super) async fn run(&self, api: &Arc<Api>) {
        futures::future::join_all(self.all.iter().map(|sink| sink.run(api))).await;
    }
}

impl Sink {
    fn new(target: Target, mode: Mode, batching: &Batching, truncation: Option<&Truncation>) -> Self {
        // A server is told from a task of its own whatever the mode; only a file can be written in passing.
        let queued = mode == Mode::Batch || matches!(target, Target::Webhook(_));
        let (send, receive) = mpsc::channel(batching.buffer.max(1));
        Self {
            target,
            mode,
            batching: batching.clone(),
            truncation: truncation.cloned(),
            queue: queued.then_some(send),
            waiting: TurnMutex::new(queued.then_some(receive)),
        }
    }

    fn write(&self, event: &Event) -> bool {
        let Target::Log(log) = &self.target else { return false };
        let Some(event) = self.fitted(event) else { return false };
        log.lock().write(&event)
    }

    /// The event as it may be told; `None`: too large even without its objects.
    fn fitted(&self, event: &Event) -> Option<Event> {
        let Some(bound) = &self.truncation else { return Some(event.clone()) };
        if event.json().len() <= bound.event_bytes {
            return Some(event.clone());
        }
        let short = event.truncated();
        (short.json().len() <= bound.event_bytes).then_some(short)
    }

    async fn run(&self, api: &Arc<Api>) {
        let Some(mut waiting) = self.waiting.lock().await.take() else { return };
        let single = self.mode != Mode::Batch;
        let mut next = Instant::now();
        while let Some(first) = waiting.recv().await {
            let mut batch = vec![first];
            if !single {
                let until = Instant::now() + self.batching.wait;
                while batch.len() < self.batching.max {
                    match timeout_at(until, waiting.recv()).await {
                        Ok(Some(event)) => batch.push(event),
                        Ok(None) | Err(_) => break,
                    }
                }
            }
            if let Some((rate, burst)) = self.batching.throttle.filter(|_| !single) {
                let pause = Duration::from_secs_f64(1.0 / rate.max(0.001));
                sleep_until(next.checked_sub(pause * burst).unwrap_or(next)).await;
                next = next.max(Instant::now()) + pause;
            }
            self.send(api, &batch).await;
        }
    }

    async fn send(&self, api: &Arc<Api>, batch: &[Event]) {
        let fitted: Vec<Event> = batch.iter().filter_map(|event| self.fitted(event)).collect();
        match &self.target {
            Target::Log(log) => {
                let mut log = log.lock();
                for event in &fitted {
                    log.write(event);
                }
            }
            Target::Webhook(webhook) => {
                let bytes = self.truncation.as_ref().map_or(usize::MAX, |bound| bound.batch_bytes);
                for part in portions(&fitted, bytes) {
                    webhook.send(api, part).await;
                }
            }
        }
    }
}

/// Events in portions of at most so many bytes, or of one that is larger.
fn portions(events: &[Event], bytes: usize) -> Vec<&[Event]> {
    let mut parts = Vec::new();
    let (mut start, mut size) = (0, 0);
    for (i, event) in events.iter().enumerate() {
        let len = if bytes == usize::MAX { 0 } else { event.json().len() };
        if i > start && size + len > bytes {
            parts.push(&events[start..i]);
            (start, size) = (i, 0);
        }
        size += len;
    }
    if start < events.len() {
        parts.push(&events[start..]);
    }
    parts
}
