//! What is to be done about children that have an order. Pure: knows no kind and no server.

use std::collections::BTreeSet;

use super::DependentsError;

/// Which others a child needs, by their place. They stand before it.
#[derive(Clone, Debug)]
pub(super) struct Links {
    pub(super) after: Vec<usize>,
}

/// How a child is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// It should be there, as far as it is concerned.
    pub(super) wanted: bool,
    /// It is there.
    pub(super) present: bool,
    /// Its deletion has begun.
    pub(super) going: bool,
    /// It was brought to what it should be in this reconcile.
    pub(super) applied: bool,
    /// It is ready.
    pub(super) ready: bool,
    /// Nothing more is tried with it in this reconcile.
    pub(super) failed: bool,
}

/// What is to be done about a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Apply,
    Delete,
    /// It is as it should be.
    Keep,
    /// Not before these are ready.
    Wait(Vec<usize>),
    /// Not before these are gone.
    Stay(Vec<usize>),
    Going,
    Absent,
}

/// What is to be done about each child.
pub(super) fn plan(links: &[Links], seen: &[Seen]) -> Vec<Step> {
    let mut wanted: Vec<bool> = Vec::with_capacity(seen.len());
    for (at, child) in seen.iter().enumerate() {
        wanted.push(child.wanted && links[at].after.iter().all(|need| wanted[*need]));
    }
    let step = |at: usize| {
        let child = &seen[at];
        if wanted[at] {
            let is_ready = |need: &usize| seen[*need].applied && seen[*need].ready;
            let missing: Vec<usize> =
                links[at].after.iter().copied().filter(|need| !is_ready(need)).collect();
            return match child {
                Seen { going: true, .. } => Step::Going,
                Seen { applied: true, .. } | Seen { failed: true, .. } => Step::Keep,
                _ if missing.is_empty() => Step::Apply,
                _ => Step::Wait(missing),
            };
        }
        let left: Vec<usize> = (0..seen.len())
            .filter(|other| links[*other].after.contains(&at) && seen[*other].present)
            .collect();
        match child {
            Seen { present: false, .. } => Step::Absent,
            Seen { going: true, .. } | Seen { failed: true, .. } => Step::Going,
            _ if left.is_empty() => Step::Delete,
            _ => Step::Stay(left),
        }
    };
    (0..seen.len()).map(step).collect()
}

/// An order in which each comes after what it needs; otherwise as they were given.
pub(super) fn order(children: &[(&'static str, Vec<&'static str>)]) -> Result<Vec<usize>, DependentsError> {
    let mut names = BTreeSet::new();
    for (name, _) in children {
        if !names.insert(*name) {
            return Err(DependentsError::Twice(name));
        }
    }
    for (name, after) in children {
        if let Some(after) = after.iter().find(|after| !names.contains(*after)) {
            return Err(DependentsError::Unknown { name, after });
        }
    }
    let mut order: Vec<usize> = Vec::with_capacity(children.len());
    let mut placed: BTreeSet<&str> = BTreeSet::new();
    while order.len() < children.len() {
        let is_free = |at: &usize| {
            let (name, after) = &children[*at];
            !placed.contains(name) && after.iter().all(|need| placed.contains(need))
        };
        let Some(next) = (0..children.len()).find(is_free) else {
            let left = children.iter().map(|(name, _)| *name).filter(|name| !placed.contains(name));
            return Err(DependentsError::Circle(left.collect()));
        };
        placed.insert(children[next].0);
        order.push(next);
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a` alone, `b` after `a`, `c` after `a` and `b`.
    fn links() -> Vec<Links> {
        [vec![], vec![0], vec![0, 1]].into_iter().map(|after| Links { after }).collect()
    }

    /// A letter for each thing that is so: wanted, present, going, applied, ready, failed.
    fn seen(text: &str) -> Vec<Seen> {
        text.split(' ')
            .map(|child| Seen {
                wanted: child.contains('w'),
                present: child.contains('p'),
                going: child.contains('g'),
                applied: child.contains('a'),
                ready: child.contains('r'),
                failed: child.contains('f'),
            })
            .collect()
    }

    fn text(steps: &[Step]) -> String {
        let names = |all: &[usize]| all.iter().map(|at| ["a", "b", "c"][*at]).collect::<String>();
        let word = |step: &Step| match step {
            Step::Wait(all) => format!("wait:{}", names(all)),
            Step::Stay(all) => format!("stay:{}", names(all)),
            other => format!("{other:?}").to_lowercase(),
        };
        steps.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn steps_follow_from_what_is_seen() {
        let table = [
            ("nothing is there", "w w w", "apply wait:a wait:ab"),
            ("the first is not ready", "wpa w w", "keep wait:a wait:ab"),
            ("the first is ready", "wpar w w", "keep apply wait:b"),
            ("all are ready", "wpar wpar wpar", "keep keep keep"),
            ("ready, but not looked after in this turn", "wpr wpr wpr", "apply wait:a wait:ab"),
            ("one in the middle is not ready any more", "wpar wpa wpr", "keep keep wait:b"),
            ("the first is on its way out", "wpg wpr w", "going wait:a wait:ab"),
            ("one failed", "wf w w", "keep wait:a wait:ab"),
            ("the last is not wanted", "wpar wpar p", "keep keep delete"),
            ("one in the middle is not wanted", "wpar p wp", "keep stay:c delete"),
            ("what needs it is going", "wpar p wpg", "keep stay:c going"),
            ("what needed it is gone", "wpar p w", "keep delete absent"),
            ("all have to go", "p p p", "stay:bc stay:c delete"),
            ("all have to go, one is gone", "p p -", "stay:b delete absent"),
            ("all are gone", "- - -", "absent absent absent"),
            ("a deletion failed", "p p pf", "stay:bc stay:c going"),
        ];
        for (what, state, expected) in table {
            assert_eq!(text(&plan(&links(), &seen(state))), expected, "{what}");
        }
    }

    #[test]
    fn an_order_is_found_or_the_reason_told() {
        let names = [("c", vec!["b", "a"]), ("a", vec![]), ("b", vec!["a"])];
        assert_eq!(order(&names), Ok(vec![1, 2, 0]));
        assert_eq!(order(&[("a", vec![]), ("a", vec![])]), Err(DependentsError::Twice("a")));
        let unknown = DependentsError::Unknown { name: "a", after: "z" };
        assert_eq!(order(&[("a", vec!["z"])]), Err(unknown));
        let circle = order(&[("x", vec![]), ("a", vec!["b"]), ("b", vec!["a"])]).unwrap_err();
        assert_eq!(circle.to_string(), "dependents wait for each other: a, b");
    }
}
