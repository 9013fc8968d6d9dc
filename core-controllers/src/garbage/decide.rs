//! What becomes of one object, given what is known of its owners. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::PropagationPolicy;

/// What is known of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// It exists.
    Solid,
    /// It is gone, or another object has its name by now.
    Dangling,
    /// It is being deleted in the foreground, and waits.
    Waiting,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Somebody owns it, or nobody ever did.
    Keep,
    /// Somebody owns it; the references to those who do not any more go.
    Disown(Vec<OwnerReference>),
    /// Nobody owns it any more.
    Delete(PropagationPolicy),
    /// Its owner and its dependents wait for each other: its references stop to block, and it is deleted.
    BreakCircle,
}

/// What is known of the object itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Item {
    pub(super) orphans: bool,
    pub(super) foreground: bool,
    pub(super) has_dependents: bool,
    /// One of its dependents waits for dependents of its own.
    pub(super) dependent_waits: bool,
}

pub(super) fn decide(item: Item, owners: &[(OwnerReference, Owner)]) -> Verdict {
    if owners.is_empty() {
        return Verdict::Keep;
    }
    let is = |state: Owner| owners.iter().any(|(_, o)| *o == state);
    if is(Owner::Solid) {
        let solid: Vec<_> =
            owners.iter().filter(|(_, o)| *o == Owner::Solid).map(|(r, _)| r.clone()).collect();
        return if solid.len() == owners.len() { Verdict::Keep } else { Verdict::Disown(solid) };
    }
    if is(Owner::Waiting) && item.has_dependents {
        return if item.dependent_waits {
            Verdict::BreakCircle
        } else {
            Verdict::Delete(PropagationPolicy::Foreground)
        };
    }
    Verdict::Delete(match item {
        Item { orphans: true, .. } => PropagationPolicy::Orphan,
        Item { foreground: true, .. } => PropagationPolicy::Foreground,
        _ => PropagationPolicy::Background,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(owners: &[Owner], item: Item) -> String {
        let owners: Vec<_> = owners
            .iter()
            .enumerate()
            .map(|(i, o)| (OwnerReference { uid: i.to_string(), ..OwnerReference::default() }, *o))
            .collect();
        match decide(item, &owners) {
            Verdict::Disown(keep) => format!("keep {:?}", keep.iter().map(|o| &o.uid).collect::<Vec<_>>()),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn verdicts() {
        use Owner::{Dangling, Solid, Waiting};
        let plain = Item::default();
        let parent = Item { has_dependents: true, ..plain };
        let cases = [
            (&[][..], plain, "Keep"),
            (&[Solid], plain, "Keep"),
            (&[Dangling], plain, "Delete(Background)"),
            (&[Solid, Dangling], plain, "keep [\"0\"]"),
            (&[Waiting, Solid], parent, "keep [\"1\"]"),
            (&[Waiting], plain, "Delete(Background)"),
            (&[Waiting, Dangling], parent, "Delete(Foreground)"),
            (&[Waiting], Item { dependent_waits: true, ..parent }, "BreakCircle"),
            (&[Dangling], Item { orphans: true, ..parent }, "Delete(Orphan)"),
            (&[Dangling], Item { foreground: true, ..parent }, "Delete(Foreground)"),
        ];
        for (owners, item, expected) in cases {
            assert_eq!(decided(owners, item), expected, "{owners:?} {item:?}");
        }
    }
}
