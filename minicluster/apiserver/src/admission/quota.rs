//! ResourceQuota: no more in a namespace than its quotas allow, exactly.
//!
//! What an object uses is added to the status of the quotas that count it in the same transaction that writes the
//! object: either both happen or neither, so two creations never share the last place, and a write that fails takes
//! nothing. Writers of a namespace with quotas take turns for it; namespaces without any pay one look into an index.
//! What is given back is counted by the quota controller. Source: `k8s.io/apiserver/pkg/admission/plugin/resourcequota`.

use std::{collections::BTreeMap, sync::Arc};

use minicluster_store::{Compare, Entry, Op, Outcome, Snapshot, Txn};
use parking_lot::Mutex;
use serde_json::Value;
use windlass::clock;
use windlass_crd::{
    apply,
    quota::{self, Amounts, Incoming, Measure, Measured, Quota},
};

use super::{Operation, Plugin};
use crate::{
    context::Context,
    object,
    status::{ApiError, ApiResult},
};

const QUOTAS: &str = "/registry/resourcequotas/";

/// How often a charge is tried again when a quota changed meanwhile.
const TRIES: usize = 16;

/// Whose turn it is, by namespace.
#[derive(Default)]
pub struct Quotas {
    turns: Mutex<BTreeMap<String, Turn>>,
}

/// Holds one writer at a time.
type Turn = Arc<tokio::sync::Mutex<()>>;

impl Quotas {
    fn turn(&self, namespace: &str) -> Turn {
        let mut turns = self.turns.lock();
        if let Some(turn) = turns.get(namespace) {
            return Arc::clone(turn);
        }
        // Those that nobody holds any more are found again when they are wanted.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(namespace.to_owned()).or_default())
    }
}

/// What a write would take from quotas.
pub struct Charge {
    measure: Measure,
    new: Measured,
    old: Option<Measured>,
    name: String,
    records_only: bool,
}

/// What a write would take; `None` when no quota can be concerned.
pub fn charge(cx: &Context, op: Operation, obj: &Value, old: Option<&Value>) -> Option<Charge> {
    let (group, plural) = (cx.resource.group.as_ref(), cx.resource.plural.as_ref());
    if !cx.resource.namespaced || cx.info.namespace.is_empty() || quota::is_ignored(group, plural) {
        return None;
    }
    let settings = &cx.api.config.admission;
    let limited = &settings.limited;
    if !settings.runs(Plugin::ResourceQuota) {
        return None;
    }
    let prefix = format!("{QUOTAS}{}/", cx.info.namespace);
    if limited.is_empty() && cx.api.store.snapshot().range(&prefix).next().is_none() {
        return None;
    }
    let measure = Measure::of(group, plural);
    if !handles(&measure, op, &cx.info.subresource, obj, old) {
        return None;
    }
    let now = clock::now();
    Some(Charge {
        new: measure.measure(obj, now),
        old: old.map(|old| measure.measure(old, now)),
        name: object::name(obj).to_owned(),
        records_only: cx.info.subresource == "status",
        measure,
    })
}

/// Whether such a request may change what is used.
fn handles(measure: &Measure, op: Operation, subresource: &str, obj: &Value, old: Option<&Value>) -> bool {
    let creates = op == Operation::Create && subresource.is_empty();
    let updates = op == Operation::Update && subresource.is_empty();
    match measure {
        Measure::Pods => {
            let has_deadline =
                |pod: &Value| object::number(pod, &["spec", "activeDeadlineSeconds"]).is_some();
            let rescoped = updates && old.is_some_and(|old| has_deadline(old) != has_deadline(obj));
            creates || rescoped || (op == Operation::Update && subresource == "resize")
        }
        Measure::Claims if subresource == "status" => {
            old.is_some_and(|old| quota::requires_recount(measure, old, obj, clock::now()))
        }
        Measure::Services | Measure::Claims | Measure::Devices => creates || updates,
        Measure::Count { .. } => creates,
    }
}

/// Says whether a write would fit, and takes nothing.
///
/// # Errors
/// 403 in upstream's words.
pub fn check(cx: &Context, charge: Option<&Charge>) -> ApiResult<()> {
    let Some(charge) = charge else { return Ok(()) };
    decide(cx, charge, &cx.api.store.snapshot()).map(drop)
}

/// Commits a write together with what it takes.
///
/// # Errors
/// 403 when it does not fit, 500 when the store fails.
pub async fn commit(cx: &Context, charge: Option<&Charge>, txn: Txn) -> ApiResult<Outcome> {
    let Some(charge) = charge else { return Ok(cx.api.store.txn(txn).await?) };
    let turn = cx.api.quotas.turn(&cx.info.namespace);
    let _held = turn.lock().await;
    let own = (txn.compares.len(), txn.ops.len());
    for _ in 0..TRIES {
        let charged = decide(cx, charge, &cx.api.store.snapshot())?;
        let mut whole = txn.clone();
        for (entry, used) in &charged {
            let key = Arc::clone(&entry.key);
            whole.compares.push(Compare { key: Arc::clone(&key), mod_revision: entry.mod_revision });
            whole.ops.push(Op::Put { key, payload: rewritten(cx, entry, used), lease: 0 });
        }
        match cx.api.store.txn(whole).await? {
            Outcome::Committed { revision, mut entries } => {
                entries.truncate(own.1);
                return Ok(Outcome::Committed { revision, entries });
            }
            Outcome::Conflict { mut current } => {
                current.truncate(own.0);
                let met = |(wanted, is): (&Compare, &Option<Arc<Entry>>)| {
                    wanted.mod_revision == is.as_ref().map_or(0, |entry| entry.mod_revision)
                };
                if !txn.compares.iter().zip(&current).all(met) {
                    return Ok(Outcome::Conflict { current });
                }
            }
        }
    }
    Err(ApiError::modified(&cx.api.registry.builtin("", "v1", "resourcequotas"), &charge.name))
}

/// The quotas that a write changes, and what is used of each then.
fn decide(cx: &Context, charge: &Charge, snapshot: &Snapshot) -> ApiResult<Vec<(Arc<Entry>, Amounts)>> {
    let prefix = format!("{QUOTAS}{}/", cx.info.namespace);
    let entries: Vec<&Arc<Entry>> = snapshot.range(&prefix).collect();
    let read = |bytes: &[u8]| Quota::read(&serde_json::from_slice(bytes).unwrap_or_default());
    let quotas: Vec<Quota> = entries.iter().map(|entry| (*entry.derived(read)).clone()).collect();
    let incoming = Incoming {
        measure: &charge.measure,
        new: &charge.new,
        old: charge.old.as_ref(),
        records_only: charge.records_only,
    };
    let charged = quota::charge(&quotas, &incoming, &cx.api.config.admission.limited)
        .map_err(|why| ApiError::forbidden(&cx.resource, &charge.name, why))?;
    Ok(charged.into_iter().map(|(index, used)| (Arc::clone(entries[index]), used)).collect())
}

/// A quota with another usage, as if the server had updated its status.
fn rewritten(cx: &Context, entry: &Entry, used: &Amounts) -> minicluster_store::Payload {
    let resource = cx.api.registry.builtin("", "v1", "resourcequotas");
    let old = object::decode(&resource, &entry.value);
    let mut new = old.clone();
    object::set(&mut new, &["status", "used"], quota::shown(used));
    let time = object::now();
    let manager =
        apply::Manager { name: "kube-apiserver", api_version: "v1", subresource: "status", time: &time };
    apply::update(Some(&old), &mut new, &resource.schema(), &manager, &[&["spec"]]);
    object::encode(&resource, &new)
}
