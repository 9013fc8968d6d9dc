//! Entries by what exact selectors ask for: `app=web`, `spec.nodeName=n1`.
//!
//! A large collection that is asked for the same label or field a second time gets an index of it. Writers pay nothing:
//! a reader that finds new events takes them in first, so what it is given is the state of one revision. What was not
//! used for a while is let go of. Custom kinds are not indexed, since a changed definition changes what their selectors
//! see.

use std::{collections::BTreeMap, ops::Bound, sync::Arc, time::Duration};

use minicluster_store::{Entry, Event, EventKind, RangeError, Revision, Store, Watcher};
use parking_lot::Mutex;

use crate::{api::Api, object::Attributes, registry::Resource};

/// Collections up to this size are searched whole.
const INDEXED_MIN: usize = 256;

/// Labels and fields of one kind that are indexed or remembered. The one that was not asked for the longest makes room.
const TERMS_MAX: usize = 8;

/// Indexes that nobody asked in one to two of these are let go of.
const IDLE: Duration = Duration::from_mins(5);

/// What an index is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Term {
    /// A label, by its key.
    Label(String),
    /// A selectable field.
    Field(String),
}

/// The indexes of all kinds.
#[derive(Default)]
pub struct Indexes {
    topics: Mutex<BTreeMap<Arc<str>, Arc<Mutex<Topic>>>>,
}

/// Those of one kind, all at the revision of the watcher.
struct Topic {
    watcher: Watcher,
    /// The one that was asked last is the last.
    terms: Vec<Indexed>,
    used: bool,
}

/// A label or a field that was asked for; indexed from the second time on.
struct Indexed {
    term: Term,
    values: Option<Values>,
}

/// The entries with each value, by key.
#[derive(Default)]
struct Values(BTreeMap<String, BTreeMap<Arc<str>, Arc<Entry>>>);

impl Indexes {
    /// The entries under a prefix that have this value, in key order, with the revision that this is the state of; `None`
    /// when the collection has to be searched.
    pub(crate) fn find(
        &self,
        store: &Store,
        resource: &Resource,
        prefix: &str,
        term: &Term,
        value: &str,
    ) -> Option<(Revision, Vec<Arc<Entry>>)> {
        if resource.custom.is_some() {
            return None;
        }
        let topic = self.topic(store, resource)?;
        let mut topic = topic.lock();
        topic.used = true;
        let found = topic.find(store, resource, prefix, term, value);
        found.unwrap_or_else(|_| {
            // Slower than the store remembers: begin anew, and search this once.
            self.topics.lock().remove(&*resource.prefix);
            None
        })
    }

    /// That of a kind; `None` for one that has too few objects.
    fn topic(&self, store: &Store, resource: &Resource) -> Option<Arc<Mutex<Topic>>> {
        let mut topics = self.topics.lock();
        if let Some(topic) = topics.get(&*resource.prefix) {
            return Some(Arc::clone(topic));
        }
        store.snapshot().range(&resource.prefix).nth(INDEXED_MIN)?;
        let watcher = store.watch(&resource.prefix, store.revision()).ok()?;
        let topic = Arc::new(Mutex::new(Topic { watcher, terms: Vec::new(), used: true }));
        topics.insert(Arc::from(&*resource.prefix), Arc::clone(&topic));
        Some(topic)
    }

    /// Lets go of what was not used since it was called last.
    fn tidy(&self) {
        self.topics
            .lock()
            .retain(|_, topic| topic.try_lock().is_none_or(|mut t| std::mem::take(&mut t.used)));
    }
}

/// Lets go of what nobody uses, for ever.
pub(crate) async fn run(api: &Api) {
    let mut tick = tokio::time::interval(IDLE);
    loop {
        tick.tick().await;
        api.indexes.tidy();
    }
}

impl Topic {
    fn find(
        &mut self,
        store: &Store,
        resource: &Resource,
        prefix: &str,
        term: &Term,
        value: &str,
    ) -> Result<Option<(Revision, Vec<Arc<Entry>>)>, RangeError> {
        self.catch_up(resource)?;
        let Some(mut indexed) = self.take(term) else {
            self.keep(Indexed { term: term.clone(), values: None });
            return Ok(None);
        };
        if indexed.values.is_none() {
            let mut values = Values::default();
            for entry in store.snapshot().range(&resource.prefix) {
                values.put(resource, term, entry);
            }
            indexed.values = Some(values);
        }
        self.keep(indexed);
        // An index that was filled just now may be ahead of the others: events that it has already do it no harm.
        self.catch_up(resource)?;
        let values = self.terms.last().and_then(|indexed| indexed.values.as_ref());
        Ok(values.map(|values| (self.watcher.revision(), values.under(prefix, value))))
    }

    fn take(&mut self, term: &Term) -> Option<Indexed> {
        let at = self.terms.iter().position(|indexed| indexed.term == *term)?;
        Some(self.terms.remove(at))
    }

    fn keep(&mut self, indexed: Indexed) {
        if self.terms.len() == TERMS_MAX {
            self.terms.remove(0);
        }
        self.terms.push(indexed);
    }

    fn catch_up(&mut self, resource: &Resource) -> Result<(), RangeError> {
        loop {
            let events = self.watcher.poll_now()?;
            if events.is_empty() {
                return Ok(());
            }
            for indexed in &mut self.terms {
                if let Some(values) = &mut indexed.values {
                    events.iter().for_each(|event| values.take_in(resource, &indexed.term, event));
                }
            }
        }
    }
}

impl Values {
    fn put(&mut self, resource: &Resource, term: &Term, entry: &Arc<Entry>) {
        let attributes = Attributes::of(resource, entry);
        let Some(value) = attributes.value(term) else { return };
        if !self.0.contains_key(value) {
            self.0.insert(value.to_owned(), BTreeMap::new());
        }
        if let Some(entries) = self.0.get_mut(value) {
            entries.insert(Arc::clone(&entry.key), Arc::clone(entry));
        }
    }

    fn remove(&mut self, resource: &Resource, term: &Term, entry: &Entry) {
        let attributes = Attributes::of(resource, entry);
        let Some(value) = attributes.value(term) else { return };
        let Some(entries) = self.0.get_mut(value) else { return };
        entries.remove(&entry.key);
        if entries.is_empty() {
            self.0.remove(value);
        }
    }

    fn take_in(&mut self, resource: &Resource, term: &Term, event: &Event) {
        if let Some(prev) = &event.prev {
            self.remove(resource, term, prev);
        }
        if event.kind == EventKind::Put {
            self.put(resource, term, &event.entry);
        }
    }

    fn under(&self, prefix: &str, value: &str) -> Vec<Arc<Entry>> {
        let Some(entries) = self.0.get(value) else { return Vec::new() };
        let from = entries.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        from.take_while(|(key, _)| key.starts_with(prefix)).map(|(_, entry)| Arc::clone(entry)).collect()
    }
}

#[cfg(test)]
mod tests {
    use minicluster_store::{Payload, Txn};
    use serde_json::json;

    use super::*;

    /// Whatever is written in between, an index finds what a search finds.
    #[tokio::test]
    async fn an_index_finds_what_a_search_finds() {
        let resource = crate::kinds::table().get("", "v1", "pods").cloned().unwrap();
        let store = Store::memory();
        let indexes = Indexes::default();
        let mut random = fastrand::Rng::with_seed(7);
        let terms = [Term::Label("app".to_owned()), Term::Field("spec.nodeName".to_owned())];
        for round in 0..3000 {
            let key = format!("/registry/pods/ns-{}/p-{}", random.u8(0..2), random.u16(0..400));
            let expected = store.get(&key).map_or(0, |entry| entry.mod_revision);
            let txn = if expected > 0 && random.u8(0..4) == 0 {
                Txn::delete(key.as_str(), expected)
            } else {
                let (app, node) = (random.u8(0..5).to_string(), random.u8(0..3).to_string());
                let labels = if random.bool() { json!({ "app": app }) } else { json!({}) };
                let pod = json!({ "metadata": { "labels": labels }, "spec": { "nodeName": node } });
                Txn::put(key.as_str(), Payload::plain(pod.to_string().into_bytes()), expected)
            };
            store.txn(txn).await.unwrap();
            if round % 7 != 0 {
                continue;
            }
            if round % 700 == 0 {
                store.compact(store.revision());
            }
            let (term, value) = (&terms[random.usize(0..2)], random.u8(0..5).to_string());
            let prefix = if random.bool() { "/registry/pods/" } else { "/registry/pods/ns-1/" };
            let Some((revision, found)) = indexes.find(&store, &resource, prefix, term, &value) else {
                continue;
            };
            assert_eq!(revision, store.revision());
            let snapshot = store.snapshot();
            let matches = |entry: &&Arc<Entry>| Attributes::of(&resource, entry).value(term) == Some(&value);
            let searched: Vec<&str> = snapshot.range(prefix).filter(matches).map(|e| &*e.key).collect();
            assert_eq!(found.iter().map(|e| &*e.key).collect::<Vec<_>>(), searched, "{term:?} {value}");
            let newest = |e: &Arc<Entry>| Arc::ptr_eq(e, snapshot.get(&e.key).unwrap());
            assert!(found.iter().all(newest));
        }
        assert_eq!(indexes.topics.lock().len(), 1);
        indexes.tidy();
        indexes.tidy();
        assert!(indexes.topics.lock().is_empty());
    }

    #[tokio::test]
    async fn only_what_is_large_and_asked_for_again_is_indexed() {
        let resource = crate::kinds::table().get("", "v1", "pods").cloned().unwrap();
        let (store, indexes) = (Store::memory(), Indexes::default());
        let find = |label: &str| {
            let term = Term::Label(label.to_owned());
            indexes.find(&store, &resource, "/registry/pods/", &term, "x").is_some()
        };
        assert!(!find("a") && !find("a"));
        for i in 0..=INDEXED_MIN {
            let pod = Payload::plain(b"{}".to_vec());
            store.txn(Txn::put(format!("/registry/pods/d/{i}"), pod, 0)).await.unwrap();
        }
        assert!(!find("a") && find("a") && find("a"));
        for i in 0..TERMS_MAX {
            assert!(!find(&format!("other-{i}")));
        }
        assert!(!find("a"), "it had to make room");
    }
}
