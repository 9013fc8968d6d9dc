//! What goes wrong with a watch, told where people look: once in the log, in `/failing` for as long as it lasts, in
//! metrics, and as an event on an object that is to blame.
//!
//! A kind that is not served and an object that is not of its kind's shape are no reason to stop: the kind goes on, and
//! so do all others.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use k8s_openapi::api::core::v1::ObjectReference;
use prometheus_client::metrics::gauge::Gauge;
use serde::Deserialize;

use crate::{
    EventType, Informers, Key, Metrics, Object, Recorder, Rules, Verbs, WatchError, failing::Failing,
    wire::Target,
};

/// Objects of one watch that cannot be decoded and are remembered; more are told again each time they change.
const REMEMBERED: usize = 1024;

/// Under which name a kind that cannot be watched fails.
const INFORMER: &str = "informer";

/// Where reports go.
pub(crate) struct Reports {
    failing: Failing,
    metrics: Metrics,
    recorder: OnceLock<Recorder>,
    client: kube::Client,
    component: String,
    /// What is allowed, if not everything is.
    rules: Option<Rules>,
}

impl Reports {
    pub(crate) fn new(
        metrics: &Metrics,
        informers: &Informers,
        component: &str,
        rules: Option<Rules>,
    ) -> Self {
        Self {
            failing: metrics.failing().clone(),
            metrics: metrics.clone(),
            recorder: OnceLock::new(),
            client: informers.client().clone(),
            component: component.to_owned(),
            rules,
        }
    }

    /// Whether events may be recorded about an object of this namespace.
    fn may_record(&self, namespace: Option<&str>) -> bool {
        let namespace = namespace.unwrap_or("default");
        let verbs = |rules: &Rules| rules.verbs(Some(namespace), "", "events", None);
        self.rules.as_ref().is_none_or(|rules| verbs(rules).contains(Verbs::CREATE))
    }

    fn recorder(&self) -> &Recorder {
        self.recorder.get_or_init(|| Recorder::new(self.client.clone(), &self.component))
    }
}

/// What an object says of itself, whatever else is in it.
#[derive(Deserialize)]
pub(crate) struct Head {
    pub(crate) metadata: HeadMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HeadMeta {
    #[serde(default)]
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
}

/// One watch, and what is wrong with it.
pub(crate) struct About {
    kind: String,
    api_version: String,
    /// Such as `boats.x.dev`.
    resource: String,
    /// The watch in `/failing`.
    watch: Key,
    failed: bool,
    /// Objects that cannot be decoded, and the list or watch that last showed them.
    undecodable: BTreeMap<Key, u32>,
    reports: Arc<OnceLock<Reports>>,
    gauge: Option<Gauge>,
}

impl About {
    pub(crate) fn of<K: Object>(
        dynamic: &K::DynamicType,
        target: &Target,
        reports: Arc<OnceLock<Reports>>,
    ) -> Self {
        let (group, plural) = (K::group(dynamic), K::plural(dynamic));
        let resource = if group.is_empty() { plural.to_string() } else { format!("{plural}.{group}") };
        Self {
            kind: K::kind(dynamic).into_owned(),
            api_version: K::api_version(dynamic).into_owned(),
            resource,
            watch: Key::new(None, &target.name()),
            failed: false,
            undecodable: BTreeMap::new(),
            reports,
            gauge: None,
        }
    }

    pub(crate) fn kind(&self) -> &str {
        &self.kind
    }

    /// The watch stands still.
    pub(crate) fn failed(&mut self, error: &WatchError) {
        let sentence = if error.is_missing() {
            format!(
                "{} is not served in version {}: it is watched as soon as its definition is installed",
                self.resource, self.api_version
            )
        } else {
            crate::sentence(error)
        };
        if error.is_missing() && !self.failed {
            tracing::warn!("{sentence}");
        }
        self.failed = true;
        if let Some(reports) = self.reports.get() {
            reports.failing.failed(INFORMER, &self.watch, sentence);
        }
    }

    /// The watch goes on.
    pub(crate) fn recovered(&mut self) {
        if !std::mem::take(&mut self.failed) {
            return;
        }
        tracing::info!(resource = self.resource, "is watched again");
        if let Some(reports) = self.reports.get() {
            reports.failing.succeeded(INFORMER, &self.watch);
        }
    }

    pub(crate) fn has_undecodable(&self) -> bool {
        !self.undecodable.is_empty()
    }

    /// An object is not of the shape of its kind.
    pub(crate) fn undecodable(&mut self, head: &Head, key: &Key, generation: u32, error: &serde_json::Error) {
        let known = self.undecodable.contains_key(key);
        if known || self.undecodable.len() < REMEMBERED {
            self.undecodable.insert(key.clone(), generation);
        }
        let sentence = format!("cannot be read as {} of {}: {error}", self.kind, self.api_version);
        if !known {
            tracing::warn!(resource = self.resource, %key, %error, "skipped an object that cannot be decoded");
        }
        let Some(reports) = self.reports.get() else { return };
        reports.failing.failed(self.failing_name(), key, sentence.clone());
        if !known && reports.may_record(head.metadata.namespace.as_deref()) {
            let reference = ObjectReference {
                api_version: Some(self.api_version.clone()),
                kind: Some(self.kind.clone()),
                name: Some(head.metadata.name.clone()),
                namespace: head.metadata.namespace.clone(),
                uid: head.metadata.uid.clone(),
                resource_version: head.metadata.resource_version.clone(),
                ..ObjectReference::default()
            };
            let note = format!("It {sentence}; it is left alone until it is");
            reports.recorder().event_about(&reference, None, EventType::Warning, "Undecodable", "", note);
        }
        self.count();
    }

    /// An object can be decoded after all, or is gone.
    pub(crate) fn decoded(&mut self, key: &Key) {
        if self.undecodable.remove(key).is_some() {
            self.forget(key);
            self.count();
        }
    }

    /// A list is complete: what it did not show is gone.
    pub(crate) fn listed(&mut self, generation: u32) {
        let gone: Vec<Key> =
            self.undecodable.extract_if(.., |_, last| *last != generation).map(|(key, _)| key).collect();
        gone.iter().for_each(|key| self.forget(key));
        if !gone.is_empty() {
            self.count();
        }
    }

    fn forget(&self, key: &Key) {
        if let Some(reports) = self.reports.get() {
            reports.failing.succeeded(self.failing_name(), key);
        }
    }

    fn count(&mut self) {
        let Some(reports) = self.reports.get() else { return };
        let gauge = self.gauge.get_or_insert_with(|| reports.metrics.undecodable(&self.resource));
        gauge.set(i64::try_from(self.undecodable.len()).unwrap_or(i64::MAX));
    }

    fn failing_name(&self) -> String {
        format!("{INFORMER} of {}", self.resource)
    }
}

impl Drop for About {
    fn drop(&mut self) {
        // Nobody watches any more: nothing fails.
        if let Some(reports) = self.reports.get().filter(|_| self.failed) {
            reports.failing.succeeded(INFORMER, &self.watch);
        }
        let all = std::mem::take(&mut self.undecodable);
        all.keys().for_each(|key| self.forget(key));
        if !all.is_empty() {
            self.count();
        }
    }
}
