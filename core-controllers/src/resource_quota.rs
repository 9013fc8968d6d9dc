//! The resource quota controller: a quota's status says what is limited and what is used.
//!
//! The server adds to what is used when it writes an object; this controller takes over new limits and counts again when
//! something has gone or needs less. What it writes holds for the quota as it was read: if an object was charged
//! meanwhile, the write is refused and everything is counted once more. Nothing else is changed by it.
//!
//! Kinds are watched only while some quota counts them. Behaves as upstream's `resourcequota-controller`.

mod kinds;
mod source;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::ResourceQuota,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::api::resource::Quantity as Text,
};
use kube::core::PartialObjectMeta;
use windlass::{
    Action, Controller, Delta, Error, Informers, Key, ManagerBuilder, Reconcile, Request, Scope, revision_of,
};
use windlass_crd::{
    quantity::Quantity,
    quota::{self, Amounts, Measure, Quota},
};

use crate::Options;
use kinds::Kinds;
use source::Source;

/// How often everything is counted again, should a change ever have been missed. As upstream's
/// `--resource-quota-sync-period`.
const RESYNC: Duration = Duration::from_mins(5);

/// How long caches are waited for that are behind the server.
const CATCH_UP: Duration = Duration::from_millis(50);

/// Adds the controller to a manager.
pub fn register(manager: &mut ManagerBuilder, options: &Options) {
    let kinds = Arc::new(Kinds::new(manager.informers()));
    let (lent, forgets) = (kinds.clone(), kinds.clone());
    let controller = Controller::<ResourceQuota>::new("resourcequota_primary")
        .component("resourcequota-controller")
        .workers(options.workers)
        .filter(wants_count)
        .lends_queue(move |enqueue| lent.replenish_with(enqueue))
        .watches::<PartialObjectMeta<CustomResourceDefinition>, _>(Scope::all(), move |delta, informers| {
            if delta.is_deleted() {
                forgets.forget(delta.key().name());
            }
            quotas_that_lack_a_count(informers)
        });
    manager.add(controller.build(Quotas { kinds }));
}

/// A new quota, and one with other limits.
fn wants_count(delta: &Delta<ResourceQuota>) -> bool {
    let Delta::Updated { old, new } = delta else { return true };
    limits(old) != limits(new)
}

/// A new kind may be what a quota was told to count before there was one.
fn quotas_that_lack_a_count(informers: &Informers) -> Vec<Key> {
    let lacks = |quota: &ResourceQuota| {
        let Some(status) = &quota.status else { return false };
        let used = status.used.as_ref();
        status.hard.iter().flatten().any(|(name, _)| used.is_none_or(|used| !used.contains_key(name)))
    };
    let mut keys = Vec::new();
    informers.get::<ResourceQuota>(Scope::all()).lister().for_each(|quota| {
        if lacks(quota) {
            keys.push(Key::of(&**quota));
        }
    });
    keys
}

struct Quotas {
    kinds: Arc<Kinds>,
}

/// What a cache has of one kind that a quota counts.
struct View<'a> {
    measure: &'a Measure,
    source: Arc<dyn Source>,
    /// It has everything up to this revision, and may have more.
    at: u64,
    objects: Vec<Arc<quota::Measured>>,
}

impl Reconcile<ResourceQuota> for Quotas {
    async fn reconcile(&self, request: Request<ResourceQuota>) -> Result<Action, Error> {
        let namespace = request.key.namespace().unwrap_or_default();
        let counts = request.object.as_deref().map(|quota| measures(&limits(quota))).unwrap_or_default();
        let mut views = Vec::new();
        for measure in &counts {
            let Some(source) = self.kinds.source(measure).await? else { continue };
            // Asked before the objects are: a cache that moves on in between has all of what this revision has.
            let at = source.revision();
            views.push(View { at, objects: source.measured(namespace), measure, source });
        }
        // Read after what it counts, and from the server: of what was charged in a newer one, nothing can have come and
        // gone in the views, so whatever they do not have yet calls for another count.
        let Some(object) = request.client.live::<ResourceQuota>(&request.key).await? else {
            self.kinds.leave(namespace);
            return Ok(Action::Done);
        };
        let status = object.status.clone().unwrap_or_default();
        let (hard, known) = (limits(&object), read(status.used.as_ref()));
        if measures(&hard) != counts {
            return Ok(Action::RequeueAfter(CATCH_UP));
        }
        let quota = as_limits(&object, hard.clone());
        let mut counted = Amounts::new();
        let mut asked_server = false;
        for view in views {
            let mut found = tally(&quota, view.measure, &view.objects);
            // A cache that lags behind may not have what was charged already.
            if differs(&found, &known) && view.at < revision_of(&object) {
                asked_server = true;
                found = tally(&quota, view.measure, &view.source.measured_live(namespace).await?);
            }
            quota::add(&mut counted, &found);
        }
        let used = merged(&hard, &known, counted);
        let is_current = read(status.hard.as_ref()) == hard && status.hard.is_some();
        if is_current && status.used.is_some() && used == known {
            // What the server counted may have been charged after the quota was read, and be as much by chance.
            return Ok(Action::RequeueAfter(if asked_server { CATCH_UP } else { RESYNC }));
        }
        let mut next = object.clone();
        let status = next.status.get_or_insert_default();
        status.hard = Some(object.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default());
        status.used = Some(used.into_iter().map(|(name, amount)| (name, Text(amount.to_string()))).collect());
        request.client.update_status(&next).await?;
        Ok(Action::RequeueAfter(RESYNC))
    }
}

fn limits(quota: &ResourceQuota) -> Amounts {
    read(quota.spec.as_ref().and_then(|spec| spec.hard.as_ref()))
}

/// Amounts as this crate's types hold them.
fn read(list: Option<&BTreeMap<String, Text>>) -> Amounts {
    let entries = list.into_iter().flatten();
    entries.filter_map(|(name, text)| Some((name.clone(), text.0.parse::<Quantity>().ok()?))).collect()
}

/// The quota as if its limits were in force.
fn as_limits(object: &ResourceQuota, hard: Amounts) -> Quota {
    let json = serde_json::to_value(object).unwrap_or_default();
    Quota { hard, ..Quota::read(&json) }
}

/// The kinds that these limits count, each once.
fn measures(hard: &Amounts) -> Vec<Measure> {
    let mut all: Vec<Measure> = Vec::new();
    for measure in hard.keys().flat_map(|name| Measure::of_limit(name)) {
        let (group, resource) = measure.kind();
        if !all.contains(&measure) && !quota::is_ignored(group, resource) {
            all.push(measure);
        }
    }
    all
}

/// What the objects of one kind use of a quota: zero where there are none.
fn tally(quota: &Quota, measure: &Measure, objects: &[Arc<quota::Measured>]) -> Amounts {
    let tracked = quota.hard.keys().filter(|name| measure.tracks(name));
    let mut sum: Amounts = tracked.map(|name| (name.clone(), Quantity::zero())).collect();
    for object in objects {
        if quota.scopes.iter().all(|scope| object.is_in(scope).unwrap_or(false)) {
            for (name, amount) in object.usage() {
                if let Some(known) = sum.get_mut(name) {
                    *known += amount;
                }
            }
        }
    }
    sum
}

fn differs(found: &Amounts, known: &Amounts) -> bool {
    found.iter().any(|(name, amount)| known.get(name) != Some(amount))
}

/// What is counted now, and what was known before of the limits that nothing could be counted for.
fn merged(hard: &Amounts, known: &Amounts, counted: Amounts) -> Amounts {
    let mut used = known.clone();
    used.extend(counted);
    used.retain(|name, _| hard.contains_key(name));
    used
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    #[test]
    fn usage_is_counted_within_the_scopes() {
        let quota: ResourceQuota = serde_json::from_value(json!({"metadata": {"name": "q"}, "spec": {
            "hard": {"pods": "5", "requests.cpu": "2", "count/gates.x.dev": "1"}, "scopes": ["NotBestEffort"]}}))
        .unwrap();
        let hard = read(quota.spec.as_ref().unwrap().hard.as_ref());
        let quota = as_limits(&quota, hard.clone());
        let pod = |cpu: Option<&str>| {
            let requests = cpu.map_or_else(|| json!({}), |cpu| json!({"cpu": cpu}));
            let pod = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}});
            Arc::new(Measure::Pods.measure(&pod, Timestamp::UNIX_EPOCH))
        };
        let found = tally(&quota, &Measure::Pods, &[pod(Some("500m")), pod(None), pod(Some("1"))]);
        assert_eq!(quota::shown(&found), json!({"pods": "2", "requests.cpu": "1500m"}));
        let names: Vec<String> = measures(&hard).iter().map(|m| m.kind().1.to_owned()).collect();
        assert_eq!(names, ["gates", "pods"]);
        let known = quota::amounts(Some(&json!({"pods": "9", "count/gates.x.dev": "1", "secrets": "3"})));
        let used = merged(&hard, &known, found);
        assert_eq!(
            quota::shown(&used),
            json!({"count/gates.x.dev": "1", "pods": "2", "requests.cpu": "1500m"})
        );
    }
}
