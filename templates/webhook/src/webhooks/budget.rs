//! A rule about many objects together: those of a namespace ask for no more replicas than its annotation allows.
//!
//! The cache learns of an object a moment after it was kept. Until then what was let through is remembered here, so that
//! two that come at once do not pass for one. A dry run is told the same, and leaves nothing behind. Replicas of the
//! operator do not know what the others let through: where that matters, let a controller have the last word.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::Namespace;
use tokio::time::Instant;
use windlass::{
    Informer, Informers, Key, Scope,
    webhook::{Denied, Review, Validate},
};

use super::Namespaces;
use crate::TemplateName;

/// The annotation of a namespace that says how many replicas may be asked for in it.
pub const BUDGET: &str = "example.com/replicas";

/// How long the cache may take to learn of what was let through. What was let through and never kept counts as long.
const REMEMBERED: Duration = Duration::from_secs(5);

/// Replicas by the object that asks for them.
type Asked = BTreeMap<Key, i64>;

/// Refuses what a namespace cannot afford.
pub(crate) struct Budget {
    namespaces: Namespaces,
    objects: Informer<TemplateName>,
    /// What was let through a moment ago, and until when that is remembered.
    admitted: Mutex<BTreeMap<Key, (i64, Instant)>>,
}

impl Budget {
    pub(crate) fn of(informers: &Informers, namespaces: Namespaces) -> Self {
        Self { namespaces, objects: informers.get(Scope::all()), admitted: Mutex::default() }
    }

    /// What is asked for in a namespace: what the cache knows, and what it does not know yet.
    fn asked(&self, namespace: &str, admitted: &BTreeMap<Key, (i64, Instant)>) -> Asked {
        let known = self.objects.lister().in_namespace(namespace);
        let mut asked: Asked =
            known.iter().map(|object| (Key::of(&**object), i64::from(object.spec.replicas))).collect();
        for (key, (replicas, _)) in admitted.iter().filter(|(key, _)| key.namespace() == Some(namespace)) {
            let most = asked.entry(key.clone()).or_default();
            *most = (*most).max(*replicas);
        }
        asked
    }
}

impl Validate<TemplateName> for Budget {
    async fn validate(&self, review: &Review<TemplateName>) -> Result<(), Denied> {
        let Some(object) = &review.object else { return Ok(()) };
        let Some(most) = budget(&*self.namespaces.get(&review.namespace).await?)? else { return Ok(()) };
        let (key, wanted) = (Key::new(Some(&review.namespace), &review.name), i64::from(object.spec.replicas));
        let before = review.old.as_ref().map_or(0, |old| i64::from(old.spec.replicas));

        // Held to the end, so that whoever comes next sees what was decided.
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        admitted.retain(|_, (_, until)| *until > Instant::now());
        let mut others = self.asked(&review.namespace, &admitted);
        others.remove(&key);
        let verdict = judge(most, others.values().sum(), wanted, before);
        if let Verdict::Refused(why) = verdict {
            return Err(Denied::forbidden(why));
        }
        if let Verdict::Tight(warning) = verdict {
            review.warn(warning);
        }
        if !review.dry_run {
            admitted.insert(key, (wanted, Instant::now() + REMEMBERED));
        }
        Ok(())
    }
}

/// How many replicas a namespace can afford; `None` where it does not say.
fn budget(namespace: &Namespace) -> Result<Option<i64>, Denied> {
    let Some(text) = namespace.metadata.annotations.as_ref().and_then(|all| all.get(BUDGET)) else {
        return Ok(None);
    };
    let number = text.parse().ok().filter(|number| *number >= 0);
    let why = || Denied::failed(format!("the namespace's annotation {BUDGET} is no number: {text:?}"));
    number.map(Some).ok_or_else(why)
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Fine,
    Tight(String),
    Refused(String),
}

/// Whether a namespace can afford what is wanted beside what others ask for. Whoever asks for no more than before is let
/// through, even where the budget was cut meanwhile.
fn judge(most: i64, others: i64, wanted: i64, before: i64) -> Verdict {
    let all = others + wanted;
    if all > most && wanted > before {
        return Verdict::Refused(format!("{all} replicas are too many for this namespace, which has {most}"));
    }
    if all * 10 > most * 8 {
        return Verdict::Tight(format!("{all} of {most} replicas of this namespace are asked for"));
    }
    Verdict::Fine
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_kept() {
        // the budget, others, wanted, before: what is said
        let table = [
            (10, 0, 8, 0, "Fine"),
            (10, 4, 5, 0, "9 of 10 replicas"),
            (10, 4, 6, 0, "10 of 10 replicas"),
            (10, 4, 7, 0, "11 replicas are too many"),
            (10, 9, 2, 1, "11 replicas are too many"),
            (5, 4, 3, 6, "7 of 5 replicas"), // the budget was cut, and who asks for less may
            (0, 0, 0, 0, "Fine"),
        ];
        for (most, others, wanted, before, said) in table {
            let verdict = format!("{:?}", judge(most, others, wanted, before));
            assert!(verdict.contains(said), "{most} {others} {wanted} {before}: {verdict}");
        }
    }
}
