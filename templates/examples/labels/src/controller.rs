//! A turn over everything that a standard is about. Reads caches, writes labels that are lacking, sees to the policy, and
//! tells what is wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream};
use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    core::v1::Namespace,
};
use kube::{
    api::{ApiResource, DynamicObject, Patch},
    core::PartialObjectMeta,
};
use serde_json::json;
use windlass::{
    Action, ConditionsExt, Delta, DynamicWatches, Error, EventType, Informers, Key, Reconcile, Request,
    Scope, condition, discovery::Served,
};

use crate::{
    Planted, REACH, Standard, StandardStatus, Verdict, admission,
    rules::{Counts, Namespaces, covers, judge, matches, name},
    write,
};

/// An object as it is cached: its metadata alone.
type Meta = PartialObjectMeta<DynamicObject>;

/// Objects that one turn writes to; the rest is the next turn's.
const PORTION: usize = 1000;
/// Writes that are under way at a time.
const AT_ONCE: usize = 16;
/// How long a turn waits at most until its writes are in the caches.
const SEEN: Duration = Duration::from_secs(10);
/// The wait between two portions.
const PAUSE: Duration = Duration::from_millis(50);
/// Violations that a status has room for.
const TOLD: usize = 20;

/// The controller of standards.
pub(crate) struct Standards {
    watches: DynamicWatches<Meta>,
    planted: Planted,
    /// Only the planted mistake remembers anything.
    remembered: Mutex<BTreeSet<(String, String)>>,
}

/// Which kinds are watched: those within reach, that live in namespaces and can be written.
pub(crate) fn is_within_reach(served: &Served) -> bool {
    let reached =
        |(group, resource): &(&str, &str)| matches(group, &served.group) && matches(resource, &served.plural);
    served.namespaced && served.can(&["list", "watch", "patch"]) && REACH.iter().any(reached)
}

/// All standards.
pub(crate) fn all(informers: &Informers) -> Vec<Key> {
    standards(informers)
        .iter()
        .map(|standard| Key::of(&**standard))
        .collect()
}

fn standards(informers: &Informers) -> Vec<Arc<Standard>> {
    informers.get::<Standard>(Scope::all()).lister().all()
}

fn namespaces(informers: &Informers) -> Namespaces {
    let all = informers
        .get::<PartialObjectMeta<Namespace>>(Scope::all())
        .lister()
        .all();
    let labels = |namespace: &Arc<PartialObjectMeta<Namespace>>| {
        let meta = &namespace.metadata;
        (
            meta.name.clone().unwrap_or_default(),
            meta.labels.clone().unwrap_or_default(),
        )
    };
    all.iter().map(labels).collect()
}

/// The standards that a change of an object is a reason to look again for.
pub(crate) fn concerned(kind: &ApiResource, delta: &Delta<Meta>, informers: &Informers) -> Vec<Key> {
    if let (Some(old), Some(new)) = (delta.old(), delta.new()) {
        let (old, new) = (&old.metadata, &new.metadata);
        let same = (&old.labels, &old.annotations) == (&new.labels, &new.annotations)
            && old.deletion_timestamp == new.deletion_timestamp;
        if same {
            return Vec::new();
        }
    }
    let standards = standards(informers);
    standards
        .iter()
        .filter(|standard| covers(standard, kind))
        .map(|standard| Key::of(&**standard))
        .collect()
}

impl Reconcile<Standard> for Standards {
    async fn reconcile(&self, request: Request<Standard>) -> Result<Action, Error> {
        let Some(standard) = request.object.clone() else {
            return Ok(Action::Done);
        };
        // Labels stay when a standard goes; its policy goes with it.
        if standard.metadata.deletion_timestamp.is_some() {
            return Ok(Action::Done);
        }
        self.see_to_policy(&request, &standard).await?;
        let (lacking, counts) = self.look(&standard, &namespaces(request.client.informers()));
        let portion = &lacking[..lacking.len().min(PORTION)];
        self.write(&request, &standard, portion).await?;
        tell(&request, &standard, &counts).await?;
        match lacking.len() > PORTION {
            true => Ok(Action::RequeueAfter(PAUSE)),
            // What was written comes back as a change, and is looked at again then.
            false => Ok(Action::Done),
        }
    }
}

type Lacking = (ApiResource, Arc<Meta>, String);

impl Standards {
    pub(crate) fn new(watches: DynamicWatches<Meta>, planted: Planted) -> Self {
        Self {
            watches,
            planted,
            remembered: Mutex::default(),
        }
    }

    fn look(&self, standard: &Standard, namespaces: &Namespaces) -> (Vec<Lacking>, Counts) {
        let (mut lacking, mut counts) = (Vec::new(), Counts::default());
        for kind in self.watches.kinds().iter().filter(|kind| covers(standard, kind)) {
            let Some(informer) = self.watches.informer(kind, &Scope::all()) else {
                continue;
            };
            let name = name(kind);
            informer.lister().for_each(|object| {
                let verdict = judge(standard, kind, &object.metadata, namespaces);
                counts.add(
                    object.metadata.namespace.as_deref().unwrap_or_default(),
                    &name,
                    &verdict,
                );
                if let Verdict::Lacks(value) = verdict
                    && !self.takes_for_written(object, &value)
                {
                    lacking.push((kind.clone(), object.clone(), value));
                }
            });
        }
        (lacking, counts)
    }

    /// The mistake that simulations have to find.
    fn takes_for_written(&self, object: &Meta, value: &str) -> bool {
        if self.planted == Planted::Nothing {
            return false;
        }
        let id = (object.metadata.uid.clone().unwrap_or_default(), value.to_owned());
        !self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id)
    }

    /// Writes to all of them, whatever becomes of one; then waits until the caches have it.
    async fn write(
        &self,
        request: &Request<Standard>,
        standard: &Standard,
        lacking: &[Lacking],
    ) -> Result<(), Error> {
        let client = request.client.raw();
        let mut writes = Vec::new();
        for (kind, object, value) in lacking {
            writes.push(async move {
                (
                    kind,
                    object,
                    write::write(client, standard, kind, &object.metadata, value).await,
                )
            });
        }
        let mut done = stream::iter(writes).buffer_unordered(AT_ONCE);
        let (mut newest, mut failed) = (BTreeMap::new(), None);
        while let Some((kind, object, written)) = done.next().await {
            match written {
                Ok(Some(revision)) => {
                    let seen = newest
                        .entry((name(kind), object.metadata.namespace.clone()))
                        .or_insert((kind, revision));
                    seen.1 = seen.1.max(revision);
                }
                Ok(None) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        for ((_, namespace), (kind, revision)) in newest {
            let Some(informer) = self.watches.informer(kind, &Scope::all()) else {
                continue;
            };
            let _ = tokio::time::timeout(SEEN, informer.reached(namespace.as_deref(), revision)).await;
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// The policy is there if it is asked for, and about the kinds that are served now.
    async fn see_to_policy(&self, request: &Request<Standard>, standard: &Standard) -> Result<(), Error> {
        let (client, name) = (&request.client, admission::policy_name(standard));
        let mut kinds = self.watches.kinds();
        kinds.sort_by_key(crate::rules::name);
        if standard.spec.enforce && kinds.iter().any(|kind| covers(standard, kind)) {
            let (policy, binding) = admission::policy(standard, &kinds);
            client.apply(&policy).await?;
            client.apply(&binding).await?;
            return Ok(());
        }
        let informers = client.informers();
        let binding = informers
            .get::<ValidatingAdmissionPolicyBinding>(Scope::all())
            .lister()
            .find(None, &name);
        if let Some(binding) = binding {
            client.delete(&*binding).await?;
        }
        let policy = informers
            .get::<ValidatingAdmissionPolicy>(Scope::all())
            .lister()
            .find(None, &name);
        if let Some(policy) = policy {
            client.delete(&*policy).await?;
        }
        Ok(())
    }
}

/// Tells what is wrong: in the status, and as an event when it is new.
async fn tell(request: &Request<Standard>, standard: &Standard, counts: &Counts) -> Result<(), Error> {
    let before = standard.status.clone().unwrap_or_default();
    let status = status(standard, counts);
    if standard.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let patch = Patch::Merge(json!({ "status": status }));
    request
        .client
        .patch_status::<Standard>(&request.key, &patch)
        .await?;
    for violation in status
        .violations
        .iter()
        .filter(|violation| !before.violations.contains(violation))
    {
        request.recorder.event(
            standard,
            EventType::Warning,
            &violation.reason,
            violation.message.clone(),
        );
    }
    Ok(())
}

/// What there is to say after a turn.
fn status(standard: &Standard, counts: &Counts) -> StandardStatus {
    let mut violations = counts.violations(standard);
    let violation_count = i64::try_from(violations.len()).unwrap_or(i64::MAX);
    let (compliant, reason, message) = match (violations.first(), counts.lacking) {
        (Some(first), _) if violation_count == 1 => (false, "Violations", first.message.clone()),
        (Some(first), _) => (
            false,
            "Violations",
            format!("{}; {} more", first.message, violation_count - 1),
        ),
        (None, 0) => (
            true,
            "AllCarry",
            format!("{} objects carry {}", counts.objects, standard.spec.label),
        ),
        (None, lacking) => (
            false,
            "Progressing",
            format!("{lacking} objects are being labelled"),
        ),
    };
    violations.truncate(TOLD);
    let mut conditions = standard.status.clone().unwrap_or_default().conditions;
    conditions.set_condition(condition("Compliant", compliant, reason, message));
    StandardStatus {
        observed_generation: standard.metadata.generation,
        objects: counts.objects,
        exempt: counts.exempt,
        usage: counts.usage(standard),
        violation_count,
        violations,
        conditions,
    }
}
