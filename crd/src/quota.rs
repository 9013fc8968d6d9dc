//! What a ResourceQuota measures and decides: who uses how much of what, and whether one more fits.
//!
//! The server asks [`charge`] before it writes an object; the quota controller adds up what [`Measured`] says of each
//! object that is there. Both see the same numbers, because there is one function for them. Nothing is stored here.
//!
//! Not measured: devices that a pod asks for as an extended resource (`DRAExtendedResource`), beyond the pod's own
//! request for them. Source: `pkg/quota/v1/evaluator/core`,
//! `k8s.io/apiserver/pkg/admission/plugin/resourcequota/controller.go`.

mod measure;
mod pod;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::quantity::{Format, Quantity};

pub use measure::{Measure, Measured, is_ignored, is_standard, requires_recount, scope_fits, storage_class};
pub use pod::{limits as pod_limits, requests as pod_requests};

/// Amounts by the name of what is counted.
pub type Amounts = BTreeMap<String, Quantity>;

/// Reads amounts; what is no quantity is left out.
#[must_use]
pub fn amounts(value: Option<&Value>) -> Amounts {
    let entries = value.and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(name, amount)| Some((name.clone(), Quantity::from_json(amount).ok()?))).collect()
}

/// Amounts as a quota's status shows them.
#[must_use]
pub fn shown(amounts: &Amounts) -> Value {
    amounts.iter().map(|(name, amount)| (name.clone(), Value::from(amount.to_string()))).collect()
}

/// Adds amounts, by name.
pub fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        match sum.get_mut(name) {
            Some(known) => *known += amount,
            None => drop(sum.insert(name.clone(), amount.clone())),
        }
    }
}

/// What is left of `a` without `b`, by name, and never less than nothing.
fn subtract(a: &Amounts, b: &Amounts) -> Amounts {
    let zero = Quantity::zero();
    let rest = |(name, amount): (&String, &Quantity)| {
        let rest = b.get(name).map_or_else(|| amount.clone(), |less| amount - less);
        (name.clone(), if rest.signum() > 0 { rest } else { zero.clone() })
    };
    a.iter().map(rest).collect()
}

/// One thing, in decimal form.
fn one() -> Quantity {
    Quantity::new(1, Format::DecimalSi)
}

/// One condition on the objects that a quota counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// `Terminating`, `PriorityClass` and so on.
    pub scope: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// What the operator compares with.
    pub values: Vec<String>,
}

impl Requirement {
    /// Reads an entry of `matchExpressions` or `matchScopes`.
    #[must_use]
    pub fn read(value: &Value) -> Self {
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let values = value.get("values").and_then(Value::as_array).into_iter().flatten();
        Self {
            scope: text("scopeName"),
            operator: text("operator"),
            values: values.filter_map(Value::as_str).map(str::to_owned).collect(),
        }
    }
}

/// A quota as a decision needs it.
#[derive(Clone, Debug)]
pub struct Quota {
    /// Its name.
    pub name: String,
    /// What all counted objects have in common.
    pub scopes: Vec<Requirement>,
    /// The limits that are in force, which the controller has taken over from the spec.
    pub hard: Amounts,
    /// What is used.
    pub used: Amounts,
}

impl Quota {
    /// Reads a ResourceQuota.
    #[must_use]
    pub fn read(obj: &Value) -> Self {
        let list = |path: &str| obj.pointer(path).and_then(Value::as_array).into_iter().flatten();
        let scope = |scope: &str| Requirement {
            scope: scope.to_owned(),
            operator: "Exists".to_owned(),
            values: Vec::new(),
        };
        let named = list("/spec/scopes").filter_map(Value::as_str).map(scope);
        let selected = list("/spec/scopeSelector/matchExpressions").map(Requirement::read);
        Self {
            name: obj.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned(),
            scopes: named.chain(selected).collect(),
            hard: amounts(obj.pointer("/status/hard")),
            used: amounts(obj.pointer("/status/used")),
        }
    }

    /// The names among its limits that a kind counts towards.
    fn tracked(&self, measure: &Measure) -> Vec<&str> {
        self.hard.keys().map(String::as_str).filter(|name| measure.tracks(name)).collect()
    }

    /// Whether it counts an object of this kind.
    fn selects(&self, measure: &Measure, measured: &Measured) -> Result<bool, String> {
        let mut all = self.hard.keys().any(|name| measure.tracks(name));
        for scope in &self.scopes {
            all &= measured.is_in(scope)?;
        }
        Ok(all)
    }
}

/// What may be consumed only where a quota covers it (`limitedResources` of the plugin's configuration).
#[derive(Clone, Debug, Default)]
pub struct Limited {
    /// The group of the kind.
    pub group: String,
    /// The kind's plural.
    pub resource: String,
    /// Parts of the names that are meant.
    pub contains: Vec<String>,
    /// Scopes that are meant.
    pub scopes: Vec<Requirement>,
}

/// An object on its way in, as [`charge`] sees it.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// What its kind counts.
    pub measure: &'a Measure,
    /// The object as it will be.
    pub new: &'a Measured,
    /// The object as it is, for an update.
    pub old: Option<&'a Measured>,
    /// Whether only what is there already is written down, as for a status: nothing is refused.
    pub records_only: bool,
}

/// What the quotas of a namespace say about an object: what each of them is used after it, by position, or why it does
/// not fit.
///
/// # Errors
/// Upstream's sentence, which follows `pods "x" is forbidden: `.
pub fn charge(
    quotas: &[Quota],
    incoming: &Incoming<'_>,
    limited: &[Limited],
) -> Result<Vec<(usize, Amounts)>, String> {
    let Incoming { measure, new, .. } = *incoming;
    let interesting = interesting(quotas, incoming)?;
    let usage = new.usage();
    let negative: Vec<&str> =
        usage.iter().filter(|(_, amount)| amount.signum() < 0).map(|(name, _)| name.as_str()).collect();
    if !negative.is_empty() {
        return Err(format!("quota usage is negative for resource(s): {}", negative.join(",")));
    }
    let delta = incoming.old.map_or_else(|| usage.clone(), |old| subtract(usage, old.usage()));
    let mut deltas = Vec::new();
    for index in &interesting {
        let counted_before = match incoming.old {
            Some(old) => quotas[*index].selects(measure, old)?,
            None => true,
        };
        let mut more = if counted_before { delta.clone() } else { usage.clone() };
        more.retain(|_, amount| !amount.is_zero());
        if !more.is_empty() {
            deltas.push((*index, more));
        }
    }
    let nothing = match interesting.is_empty() {
        true => delta.values().all(Quantity::is_zero),
        false => deltas.is_empty(),
    };
    if nothing {
        return Ok(Vec::new());
    }
    covered(quotas, &interesting, incoming, limited)?;
    let mut charged = Vec::new();
    for (index, mut more) in deltas {
        let quota = &quotas[index];
        more.retain(|name, _| quota.hard.contains_key(name));
        let mut used = quota.used.clone();
        add(&mut used, &more);
        if !incoming.records_only {
            fits(quota, &more, &used)?;
        }
        if used != quota.used {
            charged.push((index, used));
        }
    }
    Ok(charged)
}

/// The quotas that count the object, if it says everything that they need to know.
fn interesting(quotas: &[Quota], incoming: &Incoming<'_>) -> Result<Vec<usize>, String> {
    let Incoming { measure, new, .. } = *incoming;
    let mut found = Vec::new();
    for (index, quota) in quotas.iter().enumerate() {
        if !quota.selects(measure, new)? {
            continue;
        }
        let tracked = quota.tracked(measure);
        if let Some(missing) = new.missing(&tracked) {
            return Err(format!("failed quota: {}: {missing}", quota.name));
        }
        if tracked.iter().any(|name| !quota.used.contains_key(*name)) {
            let names = tracked.join(",");
            return Err(format!("status unknown for quota: {}, resources: {names}", quota.name));
        }
        found.push(index);
    }
    Ok(found)
}

/// Refuses what is consumed without a quota where one is demanded.
fn covered(
    quotas: &[Quota],
    interesting: &[usize],
    incoming: &Incoming<'_>,
    limited: &[Limited],
) -> Result<(), String> {
    let Incoming { measure, new, .. } = *incoming;
    let of_kind = limited.iter().filter(|limit| measure.is_of(&limit.group, &limit.resource));
    let parts: Vec<&String> = of_kind.flat_map(|limit| &limit.contains).collect();
    let consumed = new.usage().iter().filter(|(_, amount)| amount.signum() > 0).map(|(name, _)| name);
    let bare: Vec<&str> = consumed
        .filter(|name| parts.iter().any(|part| name.contains(part.as_str())))
        .filter(|name| !interesting.iter().any(|i| quotas[*i].tracked(measure).contains(&name.as_str())))
        .map(String::as_str)
        .collect();
    if !bare.is_empty() {
        return Err(format!("insufficient quota to consume: {}", bare.join(",")));
    }
    let matched = |scope: &&Requirement| new.is_in(scope).unwrap_or(false);
    let covering: Vec<&str> =
        quotas.iter().flat_map(|q| &q.scopes).filter(matched).map(|scope| scope.scope.as_str()).collect();
    let demanded = limited.iter().flat_map(|limit| &limit.scopes).filter(matched);
    let bare: Vec<String> = demanded
        .filter(|scope| !covering.contains(&scope.scope.as_str()))
        .map(|scope| format!("{{{} {} [{}]}}", scope.scope, scope.operator, scope.values.join(" ")))
        .collect();
    if !bare.is_empty() {
        return Err(format!("insufficient quota to match these scopes: [{}]", bare.join(" ")));
    }
    Ok(())
}

/// Refuses what would be more than the quota allows.
fn fits(quota: &Quota, more: &Amounts, used: &Amounts) -> Result<(), String> {
    let exceeds =
        |name: &str| quota.hard.get(name).zip(used.get(name)).is_some_and(|(hard, used)| used > hard);
    let exceeded: Vec<&str> = more.keys().map(String::as_str).filter(|name| exceeds(name)).collect();
    if exceeded.is_empty() {
        return Ok(());
    }
    let list = |all: &Amounts| {
        let shown = exceeded.iter().filter_map(|name| Some(format!("{name}={}", all.get(*name)?)));
        shown.collect::<Vec<_>>().join(",")
    };
    Err(format!(
        "exceeded quota: {}, requested: {}, used: {}, limited: {}",
        quota.name,
        list(more),
        list(&quota.used),
        list(&quota.hard)
    ))
}
