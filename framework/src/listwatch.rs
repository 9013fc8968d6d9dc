//! The list/watch state machine: keeps a sink at the server's state, through every way a watch can fail.
//!
//! [`Machine`] decides and does no I/O; [`run`] does what it says. As client-go's reflector: the first list is streamed
//! (WatchList) and falls back to pages where the server refuses; a watch that ends is resumed at the last revision seen;
//! an expired revision leads to a new list, whose end tells the sink what has vanished; every failure backs off, each
//! watch by itself. A connection that went silent is given up.

use std::time::Duration;

use kube::{Client, core::Status};
use tokio::time::{Instant, timeout};

use crate::{
    BoxError,
    random::Source,
    shards::Selection,
    signal::Signal,
    wire::{self, Event, Lines, Page, Target},
};

/// A watch is asked to end after this long, jittered up to twice as long, so that watches spread over servers.
const WATCH_TIMEOUT: Duration = Duration::from_mins(5);
/// A watch that outlives the timeout it asked for by this much is dead.
const WATCH_GRACE: Duration = Duration::from_secs(15);
/// Once a server has sent a bookmark it sends one a minute: a longer silence than this is a dead connection.
const BOOKMARK_SILENCE: Duration = Duration::from_secs(150);
/// A streamed list that sends nothing for this long falls back to pages.
const STREAM_SILENCE: Duration = Duration::from_secs(10);
/// The longest wait for one page of a list.
const LIST_TIMEOUT: Duration = Duration::from_mins(1);
const BACKOFF_BASE: Duration = Duration::from_millis(800);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// The longest wait for a kind that is not served: it may be at any moment.
const MISSING_MAX: Duration = Duration::from_secs(2);
/// An attempt that held this long was a success: the next failure starts at the base again.
const HEALTHY: Duration = Duration::from_secs(10);

/// Why a list or watch ended early. Every one of them is retried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// The server refused.
    #[error("the server refused: {0}")]
    Api(Box<Status>),
    /// The connection failed or went silent.
    #[error("the connection failed: {0}")]
    Transport(#[source] BoxError),
    /// The answer is not what the API promises.
    #[error("the answer cannot be decoded: {0}")]
    Frame(#[source] serde_json::Error),
}

impl WatchError {
    /// Whether the server does not know the kind: its definition is not installed, or not any more.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.code() == 404
    }

    fn code(&self) -> u16 {
        match self {
            Self::Api(status) => status.code,
            _ => 0,
        }
    }

    fn is_expired(&self) -> bool {
        self.code() == 410 || matches!(self, Self::Api(s) if s.reason == "Expired" || s.reason == "Gone")
    }

    /// Answers that a server gives to a streamed list it does not know how to do.
    fn refuses_streaming(&self) -> bool {
        matches!(self.code(), 400 | 405 | 406 | 422 | 501)
    }

    fn retry_after(&self) -> Duration {
        match self {
            Self::Api(status) => status
                .details
                .as_ref()
                .map_or(Duration::ZERO, |d| Duration::from_secs(u64::from(d.retry_after_seconds))),
            _ => Duration::ZERO,
        }
    }
}

/// Where the objects go.
pub(crate) trait Sink: Send {
    /// A list begins: what it will not name has vanished.
    fn begin(&mut self);
    /// A server has opened a watch.
    fn opened(&mut self) {}
    /// An object as it is. Returns its revision.
    fn put(&mut self, raw: &[u8]) -> Option<String>;
    /// An object as it last was. Returns the revision of its delete.
    fn remove(&mut self, raw: &[u8]) -> Option<String>;
    /// The list is complete.
    fn finish(&mut self);
    /// The sink is now at this revision.
    fn reached(&mut self, revision: &str);
    /// The list that comes is of this version of a selection.
    fn selects(&mut self, _version: u64) {}
    /// The last attempt failed; it will be repeated. `tell` says that it does not look like passing by itself.
    fn failed(&mut self, error: WatchError, tell: bool);
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// One watch that sends the present state first.
    Stream,
    /// A list, in pages or all at once.
    List { paged: bool },
    /// A watch from a revision.
    Watch { from: String },
}

/// How a step went.
#[derive(Debug)]
enum Ended {
    Listed {
        revision: String,
    },
    /// The server ended the watch. `moved` when the watch had brought the sink to a newer revision.
    Closed {
        lived: Duration,
        moved: bool,
    },
    Failed {
        lived: Duration,
        error: WatchError,
    },
}

/// Decides what follows what.
struct Machine {
    /// The last revision seen; without one, a list is due.
    last: Option<String>,
    streaming: bool,
    paged: bool,
    failures: u32,
    expirations: u32,
    random: Source,
}

impl Machine {
    fn new(random: Source) -> Self {
        Self { last: None, streaming: true, paged: true, failures: 0, expirations: 0, random }
    }

    fn step(&self) -> Step {
        match &self.last {
            Some(from) => Step::Watch { from: from.clone() },
            None if self.streaming => Step::Stream,
            None => Step::List { paged: self.paged },
        }
    }

    /// The watch has brought the sink to this revision.
    fn saw(&mut self, revision: String) {
        self.expirations = 0;
        self.last = Some(revision);
    }

    /// Takes in how a step went and says how long to wait before the next.
    fn after(&mut self, step: &Step, ended: &Ended) -> Duration {
        match ended {
            Ended::Listed { revision } => {
                self.last = Some(revision.clone());
                self.paged = true;
                Duration::ZERO
            }
            // As client-go: only a watch that ends at once, with nothing to tell, has to wait.
            Ended::Closed { lived, moved } if *moved || *lived >= Duration::from_secs(1) => {
                self.forgive(*lived);
                Duration::ZERO
            }
            Ended::Closed { .. } => self.backoff(),
            Ended::Failed { lived, error } => {
                self.forgive(*lived);
                self.after_failure(step, error)
            }
        }
    }

    fn after_failure(&mut self, step: &Step, error: &WatchError) -> Duration {
        if *step == Step::Stream && self.last.is_none() && error.refuses_streaming() {
            self.streaming = false;
            return Duration::ZERO;
        }
        if error.is_missing() {
            // A kind that comes back is another one: what is in the cache has to be listed anew.
            self.last = None;
            return self.backoff().min(self.random.jitter(MISSING_MAX, 1.0));
        }
        if !error.is_expired() {
            return self.backoff().max(error.retry_after());
        }
        if *step == (Step::List { paged: true }) {
            // The token of the next page has expired: ask for everything at once.
            self.paged = false;
        }
        self.last = None;
        self.expirations += 1;
        if self.expirations > 1 { self.backoff() } else { Duration::ZERO }
    }

    fn forgive(&mut self, lived: Duration) {
        if lived >= HEALTHY {
            self.failures = 0;
        }
    }

    fn backoff(&mut self) -> Duration {
        let base = BACKOFF_BASE.saturating_mul(1 << self.failures.min(16)).min(BACKOFF_MAX);
        self.failures += 1;
        self.random.jitter(base, 1.0)
    }
}

/// Keeps `sink` at the server's state for ever. A kind that is not served is asked for again when `redefined` says that
/// definitions changed.
pub(crate) async fn run(
    client: Client,
    mut target: Target,
    random: Source,
    redefined: &Signal<u64>,
    selection: Option<&Selection>,
    sink: &mut dyn Sink,
) {
    let mut machine = Machine::new(random);
    // Only a list says whether it is of a shard.
    machine.streaming = selection.is_none();
    loop {
        let asked = selection.map(|selection| {
            let (version, shards) = selection.wanted();
            target.shards = shards;
            sink.selects(version);
            (selection, version)
        });
        let (step, definitions) = (machine.step(), redefined.get());
        let (begun, before) = (Instant::now(), machine.last.clone());
        let attempt = async {
            match &step {
                Step::Stream => watch(&client, &target, None, &mut machine, sink).await,
                Step::Watch { from } => watch(&client, &target, Some(from), &mut machine, sink).await,
                Step::List { paged } => list(&client, &target, *paged, selection, sink).await,
            }
        };
        let ended = tokio::select! {
            biased;
            ended = attempt => Some(ended),
            () = other_slots(asked) => None,
        };
        let Some(result) = ended else {
            machine.last = None;
            continue;
        };
        let ended = match result {
            Ok(Some(revision)) => Ended::Listed { revision },
            Ok(None) => Ended::Closed { lived: begun.elapsed(), moved: machine.last != before },
            Err(error) => Ended::Failed { lived: begun.elapsed(), error },
        };
        let wait = machine.after(&step, &ended);
        tracing::trace!(path = target.path, ?step, ?ended, ?wait, "list/watch step ended");
        let mut missing = false;
        if let Ended::Failed { error, .. } = ended
            && !wait.is_zero()
        {
            report(&target.path, &error, machine.failures, wait);
            missing = error.is_missing();
            if let Some(selection) = selection.filter(|_| error.code() == 400) {
                selection.is_unserved();
            }
            let tell = machine.failures >= TOLD_AFTER || matches!(error.code(), 401 | 403 | 404);
            sink.failed(error, tell);
        }
        tokio::select! {
            biased;
            () = other_slots(asked) => machine.last = None,
            () = redefined.wait_for(|now| now != definitions), if missing => machine.failures = 0,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Waits until other slots are asked for.
async fn other_slots(asked: Option<(&Selection, u64)>) {
    match asked {
        Some((selection, version)) => selection.changed(version).await,
        None => std::future::pending().await,
    }
}

/// Failures in a row after which people are told; refusals, which seldom pass by themselves, are told at once.
const TOLD_AFTER: u32 = 3;

fn report(path: &str, error: &WatchError, failures: u32, wait: Duration) {
    match (error.code(), failures) {
        // Told once, in words for people, where the kind is known.
        (404, _) => tracing::debug!(path, ?wait, "not served, and will be tried again"),
        (401 | 403, 1) => tracing::warn!(path, %error, "list/watch was refused and will be tried again"),
        (_, TOLD_AFTER) => tracing::warn!(path, %error, "list/watch fails and will be tried again"),
        _ => tracing::debug!(path, %error, ?wait, "list/watch failed and will be retried"),
    }
}

/// Lists into the sink and returns the revision of the list.
async fn list(
    client: &Client,
    target: &Target,
    paged: bool,
    selection: Option<&Selection>,
    sink: &mut dyn Sink,
) -> Result<Option<String>, WatchError> {
    sink.begin();
    let mut token = None;
    loop {
        let request = target.list(paged, token.as_deref());
        let page = async { Page::read(wire::send(client, request).await?).await };
        let page = timeout(LIST_TIMEOUT, page).await.map_err(wire::transport)??;
        let told = page.parse(|raw| {
            sink.put(raw);
        })?;
        if let Some(selection) = selection.filter(|_| !told.is_shard) {
            selection.is_unserved();
        }
        if told.next.is_none() {
            sink.finish();
            sink.reached(&told.revision);
            return Ok(Some(told.revision));
        }
        token = told.next;
    }
}

/// Watches into the sink until the server closes, which is no error.
async fn watch(
    client: &Client,
    target: &Target,
    from: Option<&str>,
    machine: &mut Machine,
    sink: &mut dyn Sink,
) -> Result<Option<String>, WatchError> {
    let span = machine.random.jitter(WATCH_TIMEOUT, 1.0);
    let request = target.watch(from, span.as_secs());
    let deadline = Instant::now() + span + WATCH_GRACE;
    let mut listing = from.is_none();
    let mut bookmarked = false;
    if listing {
        sink.begin();
    }
    let opening = timeout(LIST_TIMEOUT, wire::send(client, request)).await;
    let mut lines = Lines::new(opening.map_err(wire::transport)??);
    sink.opened();
    loop {
        let silence = if listing { Some(STREAM_SILENCE) } else { bookmarked.then_some(BOOKMARK_SILENCE) };
        let until = silence.map_or(deadline, |s| deadline.min(Instant::now() + s));
        let line = match tokio::time::timeout_at(until, lines.next()).await {
            Ok(line) => line?,
            Err(_) if listing => {
                machine.streaming = false;
                return Err(WatchError::Transport("the streamed list went silent".into()));
            }
            Err(_) => return Err(WatchError::Transport("the watch went silent".into())),
        };
        let Some(line) = line else { return Ok(None) };
        let revision = match wire::event(&line)? {
            Event::Upsert(object) => sink.put(object),
            Event::Deleted(object) => sink.remove(object),
            Event::Error(status) => return Err(WatchError::Api(status)),
            Event::Bookmark { revision, ends_initial } => {
                bookmarked = true;
                if listing && ends_initial {
                    listing = false;
                    sink.finish();
                }
                revision
            }
        };
        // Objects of a streamed list come in no order of revision: only its end says where it stands.
        if let Some(revision) = revision.filter(|_| !listing) {
            sink.reached(&revision);
            machine.saw(revision);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(code: u16) -> Ended {
        Ended::Failed {
            lived: Duration::ZERO,
            error: WatchError::Api(Status::failure("", "").with_code(code).boxed()),
        }
    }

    fn closed(seconds: u64) -> Ended {
        Ended::Closed { lived: Duration::from_secs(seconds), moved: false }
    }

    fn listed(revision: &str) -> Ended {
        Ended::Listed { revision: revision.to_owned() }
    }

    /// Plays a script against the machine and writes down what it does.
    fn transcript(script: Vec<Ended>) -> String {
        let mut machine = Machine::new(Source::seeded(1));
        let mut out = String::new();
        for ended in script {
            let step = machine.step();
            let wait = machine.after(&step, &ended);
            let what = match &ended {
                Ended::Failed { error, .. } => error.code().to_string(),
                other => format!("{other:?}"),
            };
            out += &format!("{step:?} -> {what}, waits {}\n", if wait.is_zero() { "not" } else { "" });
        }
        out + &format!("{:?}\n", machine.step())
    }

    #[test]
    fn streaming_that_is_refused_falls_back_to_pages_for_good() {
        expect_test::expect![[r#"
            Stream -> 422, waits not
            List { paged: true } -> Listed { revision: "7" }, waits not
            Watch { from: "7" } -> Closed { lived: 300s, moved: false }, waits not
            Watch { from: "7" } -> 410, waits not
            List { paged: true }
        "#]]
        .assert_eq(&transcript(vec![api(422), listed("7"), closed(300), api(410)]));
    }

    #[test]
    fn an_expired_page_token_asks_for_everything_at_once() {
        expect_test::expect![[r#"
            Stream -> 400, waits not
            List { paged: true } -> 410, waits not
            List { paged: false } -> Listed { revision: "9" }, waits not
            Watch { from: "9" }
        "#]]
        .assert_eq(&transcript(vec![api(400), api(410), listed("9")]));
    }

    #[test]
    fn failures_back_off_and_keep_the_revision() {
        expect_test::expect![[r#"
            Stream -> 500, waits 
            Stream -> 422, waits not
            List { paged: true } -> Listed { revision: "3" }, waits not
            Watch { from: "3" } -> 503, waits 
            Watch { from: "3" } -> Closed { lived: 0ns, moved: false }, waits 
            Watch { from: "3" } -> Closed { lived: 0ns, moved: true }, waits not
            Watch { from: "3" } -> 410, waits not
            List { paged: true } -> 410, waits 
            List { paged: false }
        "#]]
        .assert_eq(&transcript(vec![
            api(500),
            api(422),
            listed("3"),
            api(503),
            closed(0),
            Ended::Closed { lived: Duration::ZERO, moved: true },
            api(410),
            api(410),
        ]));
    }

    #[test]
    fn waits_grow_to_their_bound_and_start_again_after_a_healthy_watch() {
        let mut machine = Machine::new(Source::seeded(3));
        let waits: Vec<Duration> = (0..10).map(|_| machine.backoff()).collect();
        assert!(waits[0] >= BACKOFF_BASE && waits[0] < 2 * BACKOFF_BASE, "{waits:?}");
        assert!(waits[9] >= BACKOFF_MAX && waits[9] < 2 * BACKOFF_MAX, "{waits:?}");
        machine.forgive(HEALTHY);
        assert!(machine.backoff() < 2 * BACKOFF_BASE);
    }
}
