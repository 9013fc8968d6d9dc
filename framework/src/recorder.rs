//! Events: what controllers tell the people who watch them.
//!
//! Recording never waits: an event goes into a bounded channel, and a task of the recorder writes it. As upstream's
//! correlator does, an event that repeats is counted instead of written again, many similar events about one object
//! collapse into one, and a source that floods an object is cut to a token bucket. Events are best effort: when the
//! channel is full or the API refuses, they are dropped, and counted.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use k8s_openapi::{
    api::{
        core::v1::{Event, EventSource, ObjectReference},
        events::v1::{Event as NewEvent, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Client, Resource,
    api::{Api, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{sync::mpsc, time::Instant};

use crate::{Object, clock};

/// Events that wait to be written; more are dropped.
const CHANNEL: usize = 1000;
/// Events, and groups of similar events, that are remembered.
const REMEMBERED: usize = 4096;
/// Similar events about one object that are written one by one within [`SIMILAR_WINDOW`].
const SIMILAR_MAX: u32 = 10;
const SIMILAR_WINDOW: Duration = Duration::from_mins(10);
/// Events about one object from one source: a burst of this many, then one each [`REFILL`].
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_mins(5);
/// How often the count of an ongoing series is written.
const SERIES_REFRESH: Duration = Duration::from_mins(6);
/// Longest note, as the API allows.
const NOTE_MAX: usize = 1024;

/// Whether an event is good news or bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventType {
    /// Information.
    Normal,
    /// Something is wrong.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Which of the two event APIs is written to; they show the same objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Core,
    Events,
}

/// Records events as one component. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Note>,
    dropped: Arc<AtomicU64>,
}

/// One event, before it is correlated.
#[derive(Clone, Debug)]
struct Note {
    regarding: ObjectReference,
    related: Option<ObjectReference>,
    type_: EventType,
    reason: String,
    action: String,
    note: String,
}

impl Recorder {
    /// Records as `component` through core `v1` events, as kubelet and the controller manager do.
    #[must_use]
    pub fn new(client: Client, component: &str) -> Self {
        Self::start(client, component, "", Style::Core)
    }

    /// As [`Recorder::new`], naming the host that the component runs on.
    #[must_use]
    pub fn on_host(client: Client, component: &str, host: &str) -> Self {
        Self::start(client, component, host, Style::Core)
    }

    /// Records as `component` through `events.k8s.io/v1`, as the scheduler does.
    #[must_use]
    pub fn events_v1(client: Client, component: &str, instance: &str) -> Self {
        Self::start(client, component, instance, Style::Events)
    }

    fn start(client: Client, component: &str, instance: &str, style: Style) -> Self {
        let (queue, notes) = mpsc::channel(CHANNEL);
        let (component, instance) = (component.to_owned(), instance.to_owned());
        let writer =
            Writer { client, component, instance, style, correlator: Correlator::default(), sequence: 0 };
        tokio::spawn(writer.run(notes));
        Self { queue, dropped: Arc::default() }
    }

    /// Records an event about an object.
    pub fn event<K: Object>(&self, object: &K, type_: EventType, reason: &str, note: impl Into<String>)
    where
        K::DynamicType: Default,
    {
        self.event_about(&reference(object), None, type_, reason, "", note);
    }

    /// Records an event about a reference, with a related object and the action that was taken.
    pub fn event_about(
        &self,
        regarding: &ObjectReference,
        related: Option<ObjectReference>,
        type_: EventType,
        reason: &str,
        action: &str,
        note: impl Into<String>,
    ) {
        let mut note: String = note.into();
        if note.len() > NOTE_MAX {
            let end = (0..=NOTE_MAX).rev().find(|i| note.is_char_boundary(*i)).unwrap_or(0);
            note.truncate(end);
        }
        let (regarding, reason, action) = (regarding.clone(), reason.to_owned(), action.to_owned());
        if self.queue.try_send(Note { regarding, related, type_, reason, action, note }).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many events were dropped because too many waited.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// The reference to an object that events carry.
#[must_use]
pub fn reference<K: Object>(object: &K) -> ObjectReference
where
    K::DynamicType: Default,
{
    let reference = object.object_ref(&K::DynamicType::default());
    ObjectReference { resource_version: object.meta().resource_version.clone(), ..reference }
}

/// What becomes of a note.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Write a new event, with this text.
    Create { id: Id, text: String },
    /// The event exists: bring its count up.
    Count { name: String, count: i32, text: String },
    /// Nothing is written.
    Suppress,
}

/// What makes two events the same.
type Id = (String, String, String, String, String);

#[derive(Debug)]
struct Written {
    /// Unset while the create is not confirmed.
    name: Option<String>,
    count: i32,
    refreshed: Instant,
}

/// Remembers what was said, to say it once.
#[derive(Default)]
struct Correlator {
    written: Remember<Id, Written>,
    similar: Remember<Id, (u32, Instant)>,
    buckets: Remember<(String, String), (f64, Instant)>,
}

/// A map that forgets everything when it is full: bounded, and good enough for counting.
struct Remember<K, V>(BTreeMap<K, V>);

impl<K, V> Default for Remember<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord, V> Remember<K, V> {
    fn entry(&mut self, key: K, new: impl FnOnce() -> V) -> &mut V {
        if self.0.len() >= REMEMBERED && !self.0.contains_key(&key) {
            self.0.clear();
        }
        self.0.entry(key).or_insert_with(new)
    }
}

impl Correlator {
    fn judge(&mut self, note: &Note, style: Style, now: Instant) -> Verdict {
        let text = self.collapse(note, now);
        let id = note.id(&text);
        if !self.afford(note, now) {
            return Verdict::Suppress;
        }
        let Some(written) = self.written.0.get_mut(&id) else { return Verdict::Create { id, text } };
        written.count += 1;
        let Some(name) = written.name.clone() else { return Verdict::Create { id, text } };
        // The newer API counts a series in memory and writes its count now and then.
        if style == Style::Events && written.count > 2 && now - written.refreshed < SERIES_REFRESH {
            return Verdict::Suppress;
        }
        written.refreshed = now;
        Verdict::Count { name, count: written.count, text }
    }

    /// The text to write: one for all once there are too many that differ in nothing else.
    fn collapse(&mut self, note: &Note, now: Instant) -> String {
        let (count, since) = self.similar.entry(note.id(""), || (0, now));
        if now - *since > SIMILAR_WINDOW {
            (*count, *since) = (0, now);
        }
        *count += 1;
        if *count <= SIMILAR_MAX {
            return note.note.clone();
        }
        format!("(combined from similar events): {}", note.note)
    }

    fn afford(&mut self, note: &Note, now: Instant) -> bool {
        let uid = note.regarding.uid.clone().unwrap_or_default();
        let key = (uid, note.regarding.name.clone().unwrap_or_default());
        let (tokens, at) = self.buckets.entry(key, || (BURST, now));
        *tokens = (*tokens + (now - *at).as_secs_f64() / REFILL.as_secs_f64()).min(BURST);
        *at = now;
        if *tokens < 1.0 {
            return false;
        }
        *tokens -= 1.0;
        true
    }

    fn created(&mut self, id: Id, name: String, now: Instant) {
        self.written.entry(id, || Written { name: Some(name), count: 1, refreshed: now });
    }

    fn forget(&mut self, id: &Id) {
        self.written.0.remove(id);
    }
}

impl Note {
    fn id(&self, text: &str) -> Id {
        let about = &self.regarding;
        // Combined events are the same event whatever they say.
        let text = if text.starts_with("(combined from similar events)") { "(combined)" } else { text };
        (
            about.namespace.clone().unwrap_or_default(),
            format!(
                "{}/{}/{}",
                about.kind.as_deref().unwrap_or_default(),
                about.name.as_deref().unwrap_or_default(),
                about.uid.as_deref().unwrap_or_default()
            ),
            format!("{}/{}", self.type_.as_str(), self.reason),
            about.field_path.clone().unwrap_or_default(),
            text.to_owned(),
        )
    }

    fn namespace(&self) -> &str {
        self.regarding.namespace.as_deref().filter(|ns| !ns.is_empty()).unwrap_or("default")
    }
}

struct Writer {
    client: Client,
    component: String,
    instance: String,
    style: Style,
    correlator: Correlator,
    sequence: u64,
}

impl Writer {
    async fn run(mut self, mut notes: mpsc::Receiver<Note>) {
        while let Some(note) = notes.recv().await {
            let now = Instant::now();
            match self.correlator.judge(&note, self.style, now) {
                Verdict::Suppress => {}
                Verdict::Create { id, text } => self.create(&note, id, text, now).await,
                Verdict::Count { name, count, text } => self.count(&note, &name, count, &text).await,
            }
        }
    }

    async fn create(&mut self, note: &Note, id: Id, text: String, now: Instant) {
        self.sequence += 1;
        let stamp = clock::now().as_nanosecond() + i128::from(self.sequence);
        let name = format!("{}.{stamp:x}", note.regarding.name.as_deref().unwrap_or_default());
        let result = match self.style {
            Style::Core => self.post(note, &self.core_event(note, &name, text)).await,
            Style::Events => self.post(note, &self.new_event(note, &name, text)).await,
        };
        match result {
            Ok(()) => self.correlator.created(id, name, now),
            Err(error) => tracing::debug!(%error, reason = note.reason, "an event was not recorded"),
        }
    }

    async fn post<E>(&self, note: &Note, event: &E) -> kube::Result<()>
    where
        E: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + serde::Serialize
            + serde::de::DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let api: Api<E> = Api::namespaced(self.client.clone(), note.namespace());
        api.create(&PostParams::default(), event).await.map(drop)
    }

    async fn count(&mut self, note: &Note, name: &str, count: i32, text: &str) {
        let result = match self.style {
            Style::Core => {
                let api: Api<Event> = Api::namespaced(self.client.clone(), note.namespace());
                let patch = json!({"count": count, "lastTimestamp": clock::time(), "message": text});
                api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
            }
            Style::Events => {
                let api: Api<NewEvent> = Api::namespaced(self.client.clone(), note.namespace());
                let series = EventSeries { count, last_observed_time: clock::micro_time() };
                let patch = json!({"series": series});
                api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
            }
        };
        if let Err(error) = result {
            // It may have expired on the server: the next one is written anew.
            self.correlator.forget(&note.id(text));
            tracing::debug!(%error, name, "an event was not counted");
        }
    }

    fn core_event(&self, note: &Note, name: &str, text: String) -> Event {
        let now: Time = clock::time();
        let host = Some(self.instance.clone()).filter(|host| !host.is_empty());
        Event {
            metadata: meta(note, name),
            involved_object: note.regarding.clone(),
            related: note.related.clone(),
            reason: Some(note.reason.clone()),
            action: Some(note.action.clone()).filter(|action| !action.is_empty()),
            message: Some(text),
            source: Some(EventSource { component: Some(self.component.clone()), host }),
            reporting_component: Some(self.component.clone()),
            reporting_instance: Some(self.instance.clone()),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            count: Some(1),
            type_: Some(note.type_.as_str().to_owned()),
            ..Event::default()
        }
    }

    fn new_event(&self, note: &Note, name: &str, text: String) -> NewEvent {
        NewEvent {
            metadata: meta(note, name),
            regarding: Some(note.regarding.clone()),
            related: note.related.clone(),
            reason: Some(note.reason.clone()),
            action: Some(note.action.clone()),
            note: Some(text),
            event_time: Some(clock::micro_time()),
            reporting_controller: Some(self.component.clone()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(note.type_.as_str().to_owned()),
            ..NewEvent::default()
        }
    }
}

fn meta(note: &Note, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(note.namespace().to_owned()),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(text: &str) -> Note {
        let regarding = ObjectReference {
            kind: Some("Pod".into()),
            name: Some("web".into()),
            uid: Some("u".into()),
            ..ObjectReference::default()
        };
        let (reason, action) = ("Pulled".to_owned(), String::new());
        Note { regarding, related: None, type_: EventType::Normal, reason, action, note: text.into() }
    }

    /// Judges each text in turn and writes down the verdicts.
    fn transcript(style: Style, texts: &[&str]) -> String {
        let (mut correlator, now) = (Correlator::default(), Instant::now());
        let mut out = String::new();
        for text in texts {
            match correlator.judge(&note(text), style, now) {
                Verdict::Create { id, text } => {
                    out += &format!("create {text}\n");
                    correlator.created(id, format!("web.{text}"), now);
                }
                Verdict::Count { name, count, text } => out += &format!("count {name} {count} {text}\n"),
                Verdict::Suppress => out += "suppress\n",
            }
        }
        out
    }

    #[test]
    fn what_repeats_is_counted() {
        expect_test::expect![[r"
            create a
            count web.a 2 a
            create b
            count web.a 3 a
        "]]
        .assert_eq(&transcript(Style::Core, &["a", "a", "b", "a"]));
    }

    #[test]
    fn a_series_is_written_at_its_start_and_then_seldom() {
        expect_test::expect![[r"
            create a
            count web.a 2 a
            suppress
            suppress
        "]]
        .assert_eq(&transcript(Style::Events, &["a", "a", "a", "a"]));
    }

    #[test]
    fn many_similar_ones_collapse_and_a_flood_is_cut() {
        let texts: Vec<String> = (0..30).map(|i| format!("t{i}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let out = transcript(Style::Core, &texts);
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines[9], "create t9");
        assert_eq!(lines[10], "create (combined from similar events): t10");
        assert!(lines[11].starts_with("count web.(combined") && lines[11].ends_with("t11"), "{}", lines[11]);
        assert!(lines[25..].iter().all(|line| *line == "suppress"), "{out}");
    }
}
