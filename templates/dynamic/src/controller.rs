//! A turn over all objects that a policy may be about. Reads caches, writes what is lacking in portions, and tells how far
//! it is.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{
    Client,
    api::{ApiResource, DynamicObject, Patch},
    core::{PartialObjectMeta, Selector},
};
use serde_json::json;
use windlass::{
    Action, ConditionsExt, Delta, DynamicWatches, Error, EventType, Informers, Key, Reconcile, Request,
    Scope, add_finalizer, condition, discovery::Served, has_finalizer, remove_finalizer, sentence,
};

use crate::{
    Carried, REACH, TemplateName, TemplateNameKind, TemplateNameStatus, Verdict, carry,
    policy::{judge, mark, matches, name, selects},
};

/// An object as it is cached: its metadata alone.
type Meta = PartialObjectMeta<DynamicObject>;

const FINALIZER: &str = "example.com/template-name";

/// Objects that one turn writes to; the rest is the next turn's, so that others get their turn and the status moves.
const PORTION: usize = 1000;
/// The wait between two portions.
const PAUSE: Duration = Duration::from_millis(50);
/// Writes that are under way at a time.
const AT_ONCE: usize = 16;
/// How long a turn waits at most until its writes are in the caches.
const SEEN: Duration = Duration::from_secs(10);

/// The controller of policies.
pub(crate) struct TemplateNames {
    pub(crate) watches: DynamicWatches<Meta>,
}

/// Which kinds are watched: those within reach, that can be written.
pub(crate) fn is_within_reach(served: &Served) -> bool {
    let reached =
        |(group, resource): &(&str, &str)| matches(group, &served.group) && matches(resource, &served.plural);
    // Policies are not about policies.
    let own = served.group == "example.com" && served.kind == "TemplateName";
    !own && served.can(&["list", "watch", "patch"]) && REACH.iter().any(reached)
}

/// All policies.
pub(crate) fn all(informers: &Informers) -> Vec<Key> {
    policies(informers)
        .iter()
        .map(|policy| Key::of(&**policy))
        .collect()
}

fn policies(informers: &Informers) -> Vec<Arc<TemplateName>> {
    informers.get::<TemplateName>(Scope::all()).lister().all()
}

/// The policies that a change of an object is a reason to look again for.
pub(crate) fn concerned(kind: &ApiResource, delta: &Delta<Meta>, informers: &Informers) -> Vec<Key> {
    let (old, new) = (delta.old(), delta.new());
    if let (Some(old), Some(new)) = (old, new) {
        let (old, new) = (&old.metadata, &new.metadata);
        let same = (&old.labels, &old.annotations) == (&new.labels, &new.annotations)
            && old.deletion_timestamp == new.deletion_timestamp;
        if same {
            return Vec::new();
        }
    }
    let is = |policy: &TemplateName| {
        let mark = mark(policy);
        [old, new].into_iter().flatten().any(|object| {
            let marked = object
                .metadata
                .annotations
                .as_ref()
                .is_some_and(|all| all.contains_key(&mark));
            marked || selects(policy, kind, &object.metadata)
        })
    };
    policies(informers)
        .iter()
        .filter(|policy| is(policy))
        .map(|policy| Key::of(&**policy))
        .collect()
}

impl Reconcile<TemplateName> for TemplateNames {
    async fn reconcile(&self, request: Request<TemplateName>) -> Result<Action, Error> {
        let Some(policy) = request.object.clone() else {
            return Ok(Action::Done);
        };
        let going = policy.metadata.deletion_timestamp.is_some();
        if going && !has_finalizer(&*policy, FINALIZER) {
            return Ok(Action::Done);
        }
        if !going {
            add_finalizer(&request.client, &*policy, FINALIZER).await?;
        }
        let turn = self.look(&policy, &policies(request.client.informers()));
        let (mut written, mut refused) = (0, None);
        for portion in turn.lacking.chunks(PORTION) {
            written += portion.len();
            match self.write(request.client.raw(), &policy, portion).await {
                Ok(()) => break,
                // What is refused for good must not hold up what comes behind it.
                Err(error) if carry::is_refused(&error) => refused = refused.or(Some(error)),
                // A line that is bad for a moment is nothing to tell people.
                Err(error) => return Err(error.into()),
            }
        }
        if going && refused.is_none() {
            // Before the caches are filled nobody knows what is marked.
            if !turn.lacking.is_empty() || !self.sees_everything() {
                return Ok(Action::RequeueAfter(Duration::from_secs(1)));
            }
            remove_finalizer(&request.client, &*policy, FINALIZER).await?;
            return Ok(Action::Done);
        }
        self.tell(&request, &policy, &turn, refused.as_ref()).await?;
        match refused {
            Some(error) => Err(error.into()),
            None if written < turn.lacking.len() => Ok(Action::RequeueAfter(PAUSE)),
            // What was written comes back as a change, and is looked at again then.
            None => Ok(Action::Done),
        }
    }
}

/// What was seen of all objects.
#[derive(Default)]
struct Turn {
    lacking: Vec<(ApiResource, Arc<Meta>, Carried)>,
    /// Objects that are selected and that carry everything, by kind.
    counts: BTreeMap<String, (i64, i64)>,
    yields: Option<String>,
}

impl TemplateNames {
    fn look(&self, policy: &TemplateName, all: &[Arc<TemplateName>]) -> Turn {
        let mut turn = Turn::default();
        for kind in self.watches.kinds() {
            let Some(informer) = self.watches.informer(&kind, &Scope::all()) else {
                continue;
            };
            informer.lister().for_each(|object| {
                let (carried, yields) = match judge(policy, all, &kind, &object.metadata) {
                    Verdict::Foreign => return,
                    Verdict::Released => {
                        turn.lacking
                            .push((kind.clone(), object.clone(), Carried::default()));
                        return;
                    }
                    Verdict::Carries { yields } => (None, yields),
                    Verdict::Lacks { carried, yields } => (Some(carried), yields),
                };
                let count = turn.counts.entry(name(&kind)).or_default();
                count.0 += 1;
                count.1 += i64::from(carried.is_none());
                turn.lacking
                    .extend(carried.map(|carried| (kind.clone(), object.clone(), carried)));
                turn.yields = turn.yields.take().or(yields);
            });
        }
        turn
    }

    /// Writes to all of them, whatever becomes of one; then waits until the caches have it. The first error is told.
    async fn write(
        &self,
        client: &Client,
        policy: &TemplateName,
        lacking: &[(ApiResource, Arc<Meta>, Carried)],
    ) -> kube::Result<()> {
        let mut writes = Vec::new();
        for (kind, object, carried) in lacking {
            writes.push(async move {
                let written = carry::carry(client, policy, kind, &object.metadata, carried).await;
                (kind, object, written)
            });
        }
        let mut done = stream::iter(writes).buffer_unordered(AT_ONCE);
        let (mut newest, mut failed) = (BTreeMap::new(), Vec::new());
        while let Some((kind, object, written)) = done.next().await {
            match written {
                Ok(Some(revision)) => {
                    let id = (name(kind), object.metadata.namespace.clone());
                    let seen = newest.entry(id).or_insert((kind, revision));
                    seen.1 = seen.1.max(revision);
                }
                Ok(None) => {}
                Err(error) => failed.push(error),
            }
        }
        for ((_, namespace), (kind, revision)) in newest {
            let Some(informer) = self.watches.informer(kind, &Scope::all()) else {
                continue;
            };
            let _ = tokio::time::timeout(SEEN, informer.reached(namespace.as_deref(), revision)).await;
        }
        // What is refused for good must not hide behind what may work the next time, nor the other way round.
        failed.sort_by_key(carry::is_refused);
        failed.into_iter().next().map_or(Ok(()), Err)
    }

    fn sees_everything(&self) -> bool {
        let kinds = self.watches.kinds();
        let synced = |kind| {
            self.watches
                .informer(kind, &Scope::all())
                .is_none_or(|found| found.is_synced())
        };
        !kinds.is_empty() && kinds.iter().all(synced)
    }

    async fn tell(
        &self,
        request: &Request<TemplateName>,
        policy: &TemplateName,
        turn: &Turn,
        refused: Option<&kube::Error>,
    ) -> Result<(), Error> {
        let status = status(policy, turn, refused);
        if policy.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let ready = |status: &TemplateNameStatus| status.conditions.condition("Ready").cloned();
        let patch = Patch::Merge(json!({ "status": status }));
        request
            .client
            .patch_status::<TemplateName>(&request.key, &patch)
            .await?;
        let (before, now) = (policy.status.as_ref().and_then(ready), ready(&status));
        let Some(now) = now else { return Ok(()) };
        if before
            .is_none_or(|before| (before.status, before.reason) != (now.status.clone(), now.reason.clone()))
        {
            let type_ = if refused.is_some() {
                EventType::Warning
            } else {
                EventType::Normal
            };
            request.recorder.event(policy, type_, &now.reason, now.message);
        }
        Ok(())
    }
}

/// What there is to say after a turn.
fn status(policy: &TemplateName, turn: &Turn, refused: Option<&kube::Error>) -> TemplateNameStatus {
    let kind = |(kind, (objects, carrying)): (&String, &(i64, i64))| TemplateNameKind {
        kind: kind.clone(),
        objects: *objects,
        carrying: *carrying,
    };
    let kinds: Vec<TemplateNameKind> = turn.counts.iter().map(kind).collect();
    let (objects, carrying) = kinds.iter().fold((0, 0), |(all, carrying), kind| {
        (all + kind.objects, carrying + kind.carrying)
    });
    let counted = format!("{carrying} of {objects} objects carry what is asked for");
    let (ready, reason, message) = match (refused, &turn.yields) {
        _ if bad_selector(policy).is_some() => {
            (false, "BadSelector", bad_selector(policy).unwrap_or_default())
        }
        (Some(error), _) => (false, "Refused", format!("{counted}: {}", sentence(error))),
        (None, Some(key)) => (
            false,
            "Yields",
            format!("{counted}, but an older one decides about {key}"),
        ),
        (None, None) if !turn.lacking.is_empty() => (false, "Progressing", counted),
        (None, None) => (true, "AllCarry", counted),
    };
    let mut conditions = policy.status.clone().unwrap_or_default().conditions;
    conditions.set_condition(condition("Ready", ready, reason, message));
    TemplateNameStatus {
        observed_generation: policy.metadata.generation,
        objects,
        carrying,
        kinds,
        conditions,
    }
}

fn bad_selector(policy: &TemplateName) -> Option<String> {
    let selector: LabelSelector = policy.spec.selector.clone()?;
    Selector::try_from(selector).err().map(|error| error.to_string())
}
