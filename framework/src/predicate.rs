//! Which changes matter: ready-made answers for [`Controller::filter`](crate::Controller::filter),
//! [`owns_if`](crate::Controller::owns_if) and [`watches_if`](crate::Controller::watches_if).
//!
//! A predicate is a function of a [`Delta`], which holds the object before and after. The names are those of
//! controller-runtime's predicates; as there, only updates are told apart: an object that is new to the cache always
//! passes what compares, for nobody knows what it was before. Deletes pass everything, [`not`] included: a controller
//! that misses one never cleans up.

use std::collections::BTreeMap;

use kube::core::{Selector, SelectorExt};

use crate::{Delta, Object};

/// The specification changed, as far as the server says: `metadata.generation` moved. Kinds that have no generation,
/// such as ConfigMaps, pass always.
///
/// ```
/// use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap};
/// use windlass::{Action, Controller, Error, Reconcile, Request, predicate};
///
/// struct Labels;
///
/// impl Reconcile<Deployment> for Labels {
///     async fn reconcile(&self, _: Request<Deployment>) -> Result<Action, Error> {
///         Ok(Action::Done)
///     }
/// }
///
/// let controller = Controller::<Deployment>::new("labels")
///     .filter(predicate::any((predicate::generation_changed, predicate::labels_changed)))
///     .owns_if::<ConfigMap>(predicate::changed(|map: &ConfigMap| map.data.clone()))
///     .build(Labels);
/// ```
pub fn generation_changed<K: Object>(delta: &Delta<K>) -> bool {
    let Delta::Updated { old, new } = delta else { return true };
    let (old, new) = (old.meta().generation, new.meta().generation);
    old != new || new.is_none()
}

/// The labels changed.
pub fn labels_changed<K: Object>(delta: &Delta<K>) -> bool {
    differs(delta, |object| object.meta().labels.as_ref().filter(|labels| !labels.is_empty()))
}

/// The annotations changed.
pub fn annotations_changed<K: Object>(delta: &Delta<K>) -> bool {
    differs(delta, |object| object.meta().annotations.as_ref().filter(|notes| !notes.is_empty()))
}

/// The finalizers changed.
pub fn finalizers_changed<K: Object>(delta: &Delta<K>) -> bool {
    differs(delta, |object| object.meta().finalizers.as_ref().filter(|all| !all.is_empty()))
}

/// Somebody asked for the object's deletion; finalizers may still hold it.
pub fn deletion_requested<K: Object>(delta: &Delta<K>) -> bool {
    match delta {
        Delta::Added { new, .. } => new.meta().deletion_timestamp.is_some(),
        Delta::Updated { .. } => differs(delta, |object| object.meta().deletion_timestamp.as_ref()),
        Delta::Deleted { .. } => true,
    }
}

/// What `part` takes from the object changed.
pub fn changed<K: Object, T: PartialEq>(
    part: impl Fn(&K) -> T + Send + Sync + 'static,
) -> impl Fn(&Delta<K>) -> bool + Send + Sync + 'static {
    move |delta| match delta {
        Delta::Updated { old, new } => part(old) != part(new),
        Delta::Added { .. } | Delta::Deleted { .. } => true,
    }
}

/// The object has the selected labels, or had them until now: who leaves a selection has to be looked at, too.
pub fn selected<K: Object>(selector: Selector) -> impl Fn(&Delta<K>) -> bool + Send + Sync + 'static {
    let none = BTreeMap::new();
    move |delta| {
        delta.is_deleted()
            || [delta.new(), delta.old()]
                .into_iter()
                .flatten()
                .any(|object| selector.matches(object.meta().labels.as_ref().unwrap_or(&none)))
    }
}

/// What the predicate does not let pass. Deletes pass all the same.
pub fn not<K: Object>(
    predicate: impl Fn(&Delta<K>) -> bool + Send + Sync + 'static,
) -> impl Fn(&Delta<K>) -> bool + Send + Sync + 'static {
    move |delta| delta.is_deleted() || !predicate(delta)
}

/// At least one of a tuple of predicates lets it pass.
pub fn any<K: Object, P: Predicates<K>>(predicates: P) -> impl Fn(&Delta<K>) -> bool + Send + Sync + 'static {
    move |delta| delta.is_deleted() || predicates.any(delta)
}

/// All of a tuple of predicates let it pass.
pub fn all<K: Object, P: Predicates<K>>(predicates: P) -> impl Fn(&Delta<K>) -> bool + Send + Sync + 'static {
    move |delta| delta.is_deleted() || predicates.all(delta)
}

/// A tuple of up to six predicates.
pub trait Predicates<K>: Send + Sync + 'static {
    /// Whether at least one lets the change pass.
    fn any(&self, delta: &Delta<K>) -> bool;
    /// Whether all let the change pass.
    fn all(&self, delta: &Delta<K>) -> bool;
}

macro_rules! tuples {
    ($($predicate:ident $at:tt),+) => {
        impl<K, $($predicate: Fn(&Delta<K>) -> bool + Send + Sync + 'static),+> Predicates<K> for ($($predicate,)+) {
            fn any(&self, delta: &Delta<K>) -> bool {
                $((self.$at)(delta))||+
            }

            fn all(&self, delta: &Delta<K>) -> bool {
                $((self.$at)(delta))&&+
            }
        }
    };
}

tuples!(A 0);
tuples!(A 0, B 1);
tuples!(A 0, B 1, C 2);
tuples!(A 0, B 1, C 2, D 3);
tuples!(A 0, B 1, C 2, D 3, E 4);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5);

/// Whether an update changed what `part` shows; what is no update passes.
fn differs<K, T: PartialEq>(delta: &Delta<K>, part: impl for<'a> Fn(&'a K) -> Option<&'a T>) -> bool {
    match delta {
        Delta::Updated { old, new } => part(old) != part(new),
        Delta::Added { .. } | Delta::Deleted { .. } => true,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::*;

    fn pod(metadata: Value) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({ "metadata": metadata })).unwrap())
    }

    fn updated(old: Value, new: Value) -> Delta<Pod> {
        Delta::Updated { old: pod(old), new: pod(new) }
    }

    #[test]
    fn updates_are_told_apart() {
        let same = json!({"generation": 1, "labels": {"a": "1"}, "annotations": {"n": "1"}});
        let table: [(&str, Value, &str); 7] = [
            ("nothing", same.clone(), ""),
            ("generation", json!({"generation": 2, "labels": {"a": "1"}, "annotations": {"n": "1"}}), "g"),
            ("labels", json!({"generation": 1, "labels": {"a": "2"}, "annotations": {"n": "1"}}), "l"),
            ("a label is gone", json!({"generation": 1, "labels": {}, "annotations": {"n": "1"}}), "l"),
            ("annotations", json!({"generation": 1, "labels": {"a": "1"}}), "a"),
            ("no generation", json!({"labels": {"a": "1"}, "annotations": {"n": "1"}}), "g"),
            (
                "finalizers",
                json!({"generation": 1, "labels": {"a": "1"}, "annotations": {"n": "1"}, "finalizers": ["x"]}),
                "f",
            ),
        ];
        for (what, new, expected) in table {
            let delta = updated(same.clone(), new);
            let mut passed = String::new();
            for (name, passes) in [
                ("g", generation_changed(&delta)),
                ("l", labels_changed(&delta)),
                ("a", annotations_changed(&delta)),
                ("f", finalizers_changed(&delta)),
                ("d", deletion_requested(&delta)),
            ] {
                if passes {
                    passed += name;
                }
            }
            assert_eq!(passed, expected, "{what}");
        }
        let kind_without_generation = updated(json!({}), json!({}));
        assert!(generation_changed(&kind_without_generation));
        let no_labels = updated(json!({"labels": {}}), json!({}));
        assert!(!labels_changed(&no_labels), "an empty map says what none says");
    }

    #[test]
    fn deletes_pass_everything() {
        let delta = Delta::Deleted { last: pod(json!({})), observed: true };
        assert!(generation_changed(&delta) && labels_changed(&delta) && annotations_changed(&delta));
        assert!(not::<Pod>(|_| true)(&delta));
        assert!(any::<Pod, _>((|_: &Delta<Pod>| false,))(&delta));
        assert!(all::<Pod, _>((|_: &Delta<Pod>| false, |_: &Delta<Pod>| true))(&delta));
        let selector =
            Selector::from_iter([("app".to_owned(), "a".to_owned())].into_iter().collect::<BTreeMap<_, _>>());
        assert!(selected::<Pod>(selector)(&delta));
    }

    #[test]
    fn combinations_combine() {
        let delta = updated(json!({"generation": 1}), json!({"generation": 2}));
        assert!(any((generation_changed::<Pod>, labels_changed::<Pod>))(&delta));
        assert!(!all((generation_changed::<Pod>, labels_changed::<Pod>))(&delta));
        assert!(all((generation_changed::<Pod>, not(labels_changed::<Pod>)))(&delta));
        let name = changed(|pod: &Pod| pod.metadata.name.clone());
        assert!(!name(&delta));
    }

    #[test]
    fn who_leaves_a_selection_is_seen_once_more() {
        let labels = |app: &str| json!({"labels": {"app": app}});
        let selector =
            Selector::from_iter([("app".to_owned(), "a".to_owned())].into_iter().collect::<BTreeMap<_, _>>());
        let passes = selected::<Pod>(selector);
        assert!(passes(&updated(labels("a"), labels("b"))));
        assert!(passes(&updated(labels("b"), labels("a"))));
        assert!(!passes(&updated(labels("b"), labels("c"))));
        assert!(!passes(&Delta::Added { new: pod(labels("b")), initial: true }));
    }
}
