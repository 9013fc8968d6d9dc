//! Sets of field paths, and their `fieldsV1` form.
//!
//! A path is a sequence of elements in the text that `fieldsV1` uses: `f:<name>`, `k:<keys as JSON>`, `v:<value as
//! JSON>`, `i:<index>`. Keeping elements as that text makes sets cheap to compare and to store; the few places that
//! need the parts read them back.

use serde_json::{Map, Value};

/// One step of a path in `fieldsV1` text.
pub(super) type Element = Box<str>;

/// A set of paths, as a tree whose nodes stand in the order of their elements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Set(Vec<Node>);

/// One element: whether the path that ends here is a member, and the paths that go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) element: Element,
    pub(super) member: bool,
    pub(super) child: Set,
}

impl Node {
    fn is_needed(&self) -> bool {
        self.member || !self.child.is_empty()
    }
}

impl Set {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.0
    }

    pub(super) fn get(&self, element: &str) -> Option<&Node> {
        self.0.binary_search_by(|node| (*node.element).cmp(element)).ok().map(|at| &self.0[at])
    }

    /// Adds a node after all others; one that says nothing is left out. The caller keeps the order.
    pub(super) fn push(&mut self, element: impl FnOnce() -> Element, member: bool, child: Self) {
        if member || !child.is_empty() {
            self.0.push(Node { element: element(), member, child });
        }
    }

    /// Brings nodes that were pushed without order into order.
    pub(super) fn sort(&mut self) {
        self.0.sort_by(|a, b| a.element.cmp(&b.element));
    }

    pub(super) fn insert(&mut self, path: &[Element]) {
        let [first, rest @ ..] = path else { return };
        let at = match self.0.binary_search_by(|node| node.element.cmp(first)) {
            Ok(at) => at,
            Err(at) => {
                self.0.insert(at, Node { element: first.clone(), member: false, child: Self::default() });
                at
            }
        };
        if rest.is_empty() {
            self.0[at].member = true;
        } else {
            self.0[at].child.insert(rest);
        }
    }

    /// Both sets' nodes side by side, in order.
    fn zip<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (Option<&'a Node>, Option<&'a Node>)> {
        let (mut left, mut right) = (self.0.iter().peekable(), other.0.iter().peekable());
        std::iter::from_fn(move || {
            let order = match (left.peek(), right.peek()) {
                (None, None) => return None,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(a), Some(b)) => a.element.cmp(&b.element),
            };
            Some(match order {
                std::cmp::Ordering::Less => (left.next(), None),
                std::cmp::Ordering::Greater => (None, right.next()),
                std::cmp::Ordering::Equal => (left.next(), right.next()),
            })
        })
    }

    fn combine(&self, other: &Self, join: impl Fn(Option<&Node>, Option<&Node>) -> Option<Node>) -> Self {
        Self(self.zip(other).filter_map(|(a, b)| join(a, b)).filter(Node::is_needed).collect())
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        self.combine(other, |a, b| match (a, b) {
            (Some(a), Some(b)) => Some(Node {
                element: a.element.clone(),
                member: a.member || b.member,
                child: a.child.union(&b.child),
            }),
            (one, other) => one.or(other).cloned(),
        })
    }

    /// The paths that are not in `other`, path by path.
    pub(super) fn difference(&self, other: &Self) -> Self {
        self.combine(other, |a, b| {
            let a = a?;
            Some(match b {
                None => a.clone(),
                Some(b) => Node {
                    element: a.element.clone(),
                    member: a.member && !b.member,
                    child: a.child.difference(&b.child),
                },
            })
        })
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |a, b| {
            let (a, b) = (a?, b?);
            let child = a.child.intersection(&b.child);
            Some(Node { element: a.element.clone(), member: a.member && b.member, child })
        })
    }

    /// Whether a `fieldsV1` object names one of the paths.
    pub(super) fn meets(&self, fields: &Value) -> bool {
        self.0.iter().any(|node| {
            let Some(inner) = fields.get(&*node.element) else { return false };
            let is_member = inner.as_object().is_some_and(|map| map.is_empty() || map.contains_key("."));
            (node.member && is_member) || node.child.meets(inner)
        })
    }

    /// Without everything at or below the path.
    pub(super) fn exclude(&mut self, path: &[&str]) {
        let [first, rest @ ..] = path else { return };
        let element = field_element(first);
        let Ok(at) = self.0.binary_search_by(|node| node.element.cmp(&element)) else { return };
        if !rest.is_empty() {
            self.0[at].child.exclude(rest);
        }
        if rest.is_empty() || !self.0[at].is_needed() {
            self.0.remove(at);
        }
    }

    /// Every path, in order.
    pub(super) fn paths(&self) -> Vec<Vec<Element>> {
        let mut out = Vec::new();
        self.collect(&mut Vec::new(), &mut out);
        out
    }

    fn collect(&self, prefix: &mut Vec<Element>, out: &mut Vec<Vec<Element>>) {
        for node in &self.0 {
            prefix.push(node.element.clone());
            if node.member {
                out.push(prefix.clone());
            }
            node.child.collect(prefix, out);
            prefix.pop();
        }
    }

    /// The `fieldsV1` object.
    pub(super) fn to_json(&self) -> Value {
        let nodes = self.0.iter().map(|node| {
            let mut inner = node.child.to_json();
            if let (true, false, Value::Object(map)) = (node.member, node.child.is_empty(), &mut inner) {
                map.insert(".".to_owned(), Value::Object(Map::new()));
            }
            (node.element.to_string(), inner)
        });
        Value::Object(nodes.collect())
    }

    /// Reads a `fieldsV1` object; `None` when it is none.
    pub(super) fn from_json(value: &Value) -> Option<Self> {
        let mut out = Self::default();
        for (key, inner) in value.as_object()?.iter().filter(|(key, _)| *key != ".") {
            let map = inner.as_object().filter(|_| is_element(key))?;
            let member = map.is_empty() || map.contains_key(".");
            out.push(|| key.as_str().into(), member, Self::from_json(inner)?);
        }
        Some(out)
    }
}

/// Whether a value is a `fieldsV1` object.
pub(super) fn is_well_formed(value: &Value) -> bool {
    let well_formed =
        |(key, inner): (&String, &Value)| (key == "." || is_element(key)) && is_well_formed(inner);
    value.as_object().is_some_and(|map| map.iter().all(well_formed))
}

fn is_element(key: &str) -> bool {
    matches!(key.split_once(':'), Some(("f" | "k" | "v" | "i", _)))
}

/// The element of a named field.
pub(super) fn field_element(name: &str) -> Element {
    format!("f:{name}").into()
}

/// The path as conflicts show it: `.spec.containers[name="web"].image`.
pub(super) fn show(path: &[Element]) -> String {
    path.iter().map(|element| show_element(element)).collect()
}

/// One element as conflicts and errors show it.
pub(super) fn show_element(element: &str) -> String {
    match element.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("v", json)) => format!("[={json}]"),
        Some(("i", index)) => format!("[{index}]"),
        Some(("k", json)) => {
            let keys = serde_json::from_str::<Map<String, Value>>(json).unwrap_or_default();
            let parts: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", parts.join(","))
        }
        _ => element.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use std::collections::BTreeSet;

    fn set(paths: &[Vec<u8>]) -> Set {
        let mut out = Set::default();
        for path in paths {
            let path: Vec<Element> = path.iter().map(|n| field_element(&n.to_string())).collect();
            out.insert(&path);
        }
        out
    }

    #[test]
    fn fields_v1_reads_and_writes() {
        let json = json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}}}, "f:x": {"v:\"a\"": {}, "i:0": {}}}});
        let set = Set::from_json(&json).unwrap();
        assert_eq!(set.to_json(), json);
        let shown: Vec<String> = set.paths().iter().map(|p| show(p)).collect();
        assert_eq!(
            shown,
            [
                ".metadata.labels",
                ".metadata.labels.app",
                ".spec.containers[name=\"web\"]",
                ".spec.containers[name=\"web\"].image",
                ".spec.x[0]",
                ".spec.x[=\"a\"]",
            ]
        );
        assert_eq!(Set::from_json(&json!({"nope": {}})), None);
        assert_eq!(Set::from_json(&json!({"f:a": 1})), None);
    }

    proptest! {
        #[test]
        fn trees_behave_as_sets_of_paths(
            a in prop::collection::vec(prop::collection::vec(0u8..3, 1..4), 0..12),
            b in prop::collection::vec(prop::collection::vec(0u8..3, 1..4), 0..12),
        ) {
            let plain = |s: &Set| s.paths().into_iter().collect::<BTreeSet<_>>();
            let (x, y) = (set(&a), set(&b));
            let (p, q) = (plain(&x), plain(&y));
            prop_assert_eq!(plain(&x.union(&y)), p.union(&q).cloned().collect::<BTreeSet<_>>());
            prop_assert_eq!(plain(&x.difference(&y)), p.difference(&q).cloned().collect::<BTreeSet<_>>());
            prop_assert_eq!(plain(&x.intersection(&y)), p.intersection(&q).cloned().collect::<BTreeSet<_>>());
            prop_assert_eq!(y.meets(&x.to_json()), !x.intersection(&y).is_empty());
            prop_assert_eq!(Set::from_json(&x.to_json()).unwrap(), x);
        }
    }
}
