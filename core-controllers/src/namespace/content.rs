//! What is in a namespace: deleting it kind by kind, and telling what remains.

use std::{collections::BTreeMap, time::Duration};

use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PropagationPolicy},
    core::{DynamicObject, PartialObjectMeta},
};
use windlass::{clock, discovery::Served};

/// The objects of one kind that remain.
#[derive(Debug, Default)]
pub(super) struct Content {
    count: usize,
    /// How many carry each finalizer.
    finalizers: BTreeMap<String, usize>,
    /// When the last of them should be gone, as its grace period says.
    wait: Option<Duration>,
}

impl Content {
    /// Deletes all objects of a kind and looks at what is left.
    pub(super) async fn delete(client: &Client, kind: &Served, namespace: &str) -> kube::Result<Self> {
        let api: Api<PartialObjectMeta<DynamicObject>> =
            Api::namespaced_with(client.clone(), namespace, &kind.api_resource());
        let before = match api.list(&ListParams::default()).await {
            Err(kube::Error::Api(status)) if is_not_served(status.code) => return Ok(Self::default()),
            other => other?.items,
        };
        if before.is_empty() {
            return Ok(Self::default());
        }
        let options = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        if kind.can(&["deletecollection"]) {
            api.delete_collection(&options, &ListParams::default()).await?;
        } else {
            for object in &before {
                match api.delete(object.metadata.name.as_deref().unwrap_or_default(), &options).await {
                    Err(kube::Error::Api(status)) if status.is_not_found() => {}
                    other => drop(other?),
                }
            }
        }
        Ok(Self::of(&api.list(&ListParams::default()).await?.items))
    }

    fn of(left: &[PartialObjectMeta<DynamicObject>]) -> Self {
        let mut content = Self { count: left.len(), ..Self::default() };
        for meta in left.iter().map(|object| &object.metadata) {
            for finalizer in meta.finalizers.iter().flatten() {
                *content.finalizers.entry(finalizer.clone()).or_default() += 1;
            }
            let ends = meta.deletion_timestamp.as_ref().map(|ends| clock::until(ends.0));
            content.wait = content.wait.max(ends);
        }
        content
    }
}

/// The kind has gone since it was discovered, or cannot be listed.
fn is_not_served(code: u16) -> bool {
    matches!(code, 404 | 405)
}

/// Everything that remains.
#[derive(Debug, Default)]
pub(super) struct Remains {
    kinds: BTreeMap<String, Content>,
    undiscovered: Vec<String>,
    undeleted: Vec<String>,
}

/// One condition of the namespace.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) type_: &'static str,
    pub(super) bad: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Remains {
    pub(super) fn new(undiscovered: Vec<String>) -> Self {
        Self { undiscovered, ..Self::default() }
    }

    pub(super) fn add(&mut self, kind: &Served, content: kube::Result<Content>) {
        match content {
            Ok(content) if content.count == 0 => {}
            Ok(content) => {
                self.kinds.insert(kind.name(), content);
            }
            Err(error) => self.undeleted.push(format!("{}: {error}", kind.name())),
        }
    }

    pub(super) fn has_pods(&self) -> bool {
        self.kinds.contains_key("pods.")
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kinds.is_empty() && self.undiscovered.is_empty() && self.undeleted.is_empty()
    }

    /// What keeps the work from going on, other than having to wait.
    pub(super) fn failure(&self) -> Option<String> {
        let all: Vec<&str> = self.undiscovered.iter().chain(&self.undeleted).map(String::as_str).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// How long to wait: about half of the longest grace period that is left, as upstream.
    pub(super) fn wait(&self) -> Option<Duration> {
        let longest = self.kinds.values().filter_map(|content| content.wait).max()?;
        Some(longest / 2 + Duration::from_secs(1))
    }

    pub(super) fn conditions(&self) -> [Told; 5] {
        let list = |all: &[String]| all.join("; ");
        let told = |type_, bad, reasons: (&'static str, &'static str), bad_message, good: &str| Told {
            type_,
            bad,
            reason: if bad { reasons.0 } else { reasons.1 },
            message: if bad { bad_message } else { good.to_owned() },
        };
        let remaining =
            self.kinds.iter().map(|(kind, c)| format!("{kind} has {} resource instances", c.count));
        let remaining: Vec<String> = remaining.collect();
        let mut held: BTreeMap<&str, usize> = BTreeMap::new();
        for (finalizer, count) in self.kinds.values().flat_map(|c| &c.finalizers) {
            *held.entry(finalizer).or_default() += count;
        }
        let held: Vec<String> =
            held.iter().map(|(f, count)| format!("{f} in {count} resource instances")).collect();
        [
            told(
                "NamespaceDeletionDiscoveryFailure",
                !self.undiscovered.is_empty(),
                ("DiscoveryFailed", "ResourcesDiscovered"),
                format!(
                    "Discovery failed for some groups, {} failing: {}",
                    self.undiscovered.len(),
                    list(&self.undiscovered)
                ),
                "All resources successfully discovered",
            ),
            told(
                "NamespaceDeletionGroupVersionParsingFailure",
                false,
                ("GroupVersionParsingFailed", "ParsedGroupVersions"),
                String::new(),
                "All legacy kube types successfully parsed",
            ),
            told(
                "NamespaceDeletionContentFailure",
                !self.undeleted.is_empty(),
                ("ContentDeletionFailed", "ContentDeleted"),
                format!(
                    "Failed to delete all resource types, {} remaining: {}",
                    self.undeleted.len(),
                    list(&self.undeleted)
                ),
                "All content successfully deleted, may be waiting on finalization",
            ),
            told(
                "NamespaceContentRemaining",
                !remaining.is_empty(),
                ("SomeResourcesRemain", "ContentRemoved"),
                format!("Some resources are remaining: {}", remaining.join(", ")),
                "All content successfully removed",
            ),
            told(
                "NamespaceFinalizersRemaining",
                !held.is_empty(),
                ("SomeFinalizersRemain", "ContentHasNoFinalizers"),
                format!("Some content in the namespace has finalizers remaining: {}", held.join(", ")),
                "All content-preserving finalizers finished",
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use kube::api::ObjectMeta;

    use super::*;

    fn kind(group: &str, plural: &str) -> Served {
        Served {
            group: group.into(),
            version: "v1".into(),
            kind: String::new(),
            plural: plural.into(),
            namespaced: true,
            verbs: [].into(),
        }
    }

    fn object(finalizers: &[&str]) -> PartialObjectMeta<DynamicObject> {
        let finalizers = finalizers.iter().map(ToString::to_string).collect();
        let metadata = ObjectMeta { finalizers: Some(finalizers), ..ObjectMeta::default() };
        PartialObjectMeta { types: None, metadata, _phantom: std::marker::PhantomData }
    }

    #[test]
    fn conditions_say_what_is_left_and_why() {
        let mut remains = Remains::new(Vec::new());
        assert!(remains.is_empty() && remains.conditions().iter().all(|told| !told.bad));
        remains.add(
            &kind("", "pods"),
            Ok(Content::of(&[object(&["x.dev/a"]), object(&["x.dev/a", "x.dev/b"])])),
        );
        remains.add(&kind("apps", "deployments"), Ok(Content::of(&[object(&[])])));
        remains.add(&kind("", "secrets"), Ok(Content::default()));
        let messages: Vec<String> =
            remains.conditions().into_iter().filter(|told| told.bad).map(|told| told.message).collect();
        assert_eq!(
            messages,
            [
                "Some resources are remaining: deployments.apps has 1 resource instances, pods. has 2 resource instances",
                "Some content in the namespace has finalizers remaining: x.dev/a in 2 resource instances, x.dev/b in 1 \
                 resource instances",
            ]
        );
        assert!(remains.has_pods() && !remains.is_empty() && remains.failure().is_none());
    }
}
