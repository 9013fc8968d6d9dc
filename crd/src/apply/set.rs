//! Sets of field paths, and their `fieldsV1` form.
//!
//! A path is a sequence of elements in the text that `fieldsV1` uses: `f:<name>`, `k:<keys as JSON>`, `v:<value as
//! JSON>`, `i:<index>`. Keeping elements as that text makes sets cheap to compare and to store; the few places that
//! need the parts read them back.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// One step of a path in `fieldsV1` text.
pub(super) type Element = Box<str>;

/// A set of paths, as a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) members: BTreeSet<Element>,
    pub(super) children: BTreeMap<Element, Set>,
}

impl Set {
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.values().all(Self::is_empty)
    }

    pub(super) fn insert(&mut self, path: &[Element]) {
        match path {
            [] => {}
            [last] => {
                self.members.insert(last.clone());
            }
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.members.extend(other.members.iter().cloned());
        for (element, child) in &other.children {
            let slot = out.children.entry(element.clone()).or_default();
            *slot = slot.union(child);
        }
        out
    }

    /// The paths that are not in `other`, path by path.
    pub(super) fn difference(&self, other: &Self) -> Self {
        let members = self.members.difference(&other.members).cloned().collect();
        let children = self.children.iter().filter_map(|(element, child)| {
            let rest =
                other.children.get(element).map_or_else(|| child.clone(), |gone| child.difference(gone));
            (!rest.is_empty()).then(|| (element.clone(), rest))
        });
        Self { members, children: children.collect() }
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        let members = self.members.intersection(&other.members).cloned().collect();
        let children = self.children.iter().filter_map(|(element, child)| {
            let both = child.intersection(other.children.get(element)?);
            (!both.is_empty()).then(|| (element.clone(), both))
        });
        Self { members, children: children.collect() }
    }

    /// Without everything at or below the path.
    pub(super) fn exclude(&mut self, path: &[&str]) {
        let [first, rest @ ..] = path else { return };
        let element = field_element(first);
        if rest.is_empty() {
            self.members.remove(&element);
            self.children.remove(&element);
        } else if let Some(child) = self.children.get_mut(&element) {
            child.exclude(rest);
            if child.is_empty() {
                self.children.remove(&element);
            }
        }
    }

    /// Every path, in order.
    pub(super) fn paths(&self) -> Vec<Vec<Element>> {
        let mut out = Vec::new();
        self.collect(&mut Vec::new(), &mut out);
        out
    }

    fn collect(&self, prefix: &mut Vec<Element>, out: &mut Vec<Vec<Element>>) {
        let elements: BTreeSet<&Element> = self.members.iter().chain(self.children.keys()).collect();
        for element in elements {
            prefix.push(element.clone());
            if self.members.contains(element) {
                out.push(prefix.clone());
            }
            if let Some(child) = self.children.get(element) {
                child.collect(prefix, out);
            }
            prefix.pop();
        }
    }

    /// The `fieldsV1` object.
    pub(super) fn to_json(&self) -> Value {
        let mut out = Map::new();
        for member in &self.members {
            out.insert(member.to_string(), Value::Object(Map::new()));
        }
        for (element, child) in &self.children {
            let Value::Object(mut inner) = child.to_json() else { continue };
            if self.members.contains(element) && !inner.is_empty() {
                inner.insert(".".to_owned(), Value::Object(Map::new()));
            }
            out.insert(element.to_string(), Value::Object(inner));
        }
        Value::Object(out)
    }

    /// Reads a `fieldsV1` object; `None` when it is none.
    pub(super) fn from_json(value: &Value) -> Option<Self> {
        let mut out = Self::default();
        for (key, inner) in value.as_object()? {
            if key == "." {
                continue;
            }
            if !is_element(key) {
                return None;
            }
            let inner_map = inner.as_object()?;
            if inner_map.is_empty() || inner_map.contains_key(".") {
                out.members.insert(key.as_str().into());
            }
            let child = Self::from_json(inner)?;
            if !child.is_empty() {
                out.children.insert(key.as_str().into(), child);
            }
        }
        Some(out)
    }
}

fn is_element(text: &str) -> bool {
    match text.split_once(':') {
        Some(("f", _)) => true,
        Some(("k", json)) => serde_json::from_str::<Value>(json).is_ok_and(|v| v.is_object()),
        Some(("v", json)) => serde_json::from_str::<Value>(json).is_ok(),
        Some(("i", number)) => number.parse::<i64>().is_ok(),
        _ => false,
    }
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
            prop_assert_eq!(Set::from_json(&x.to_json()).unwrap(), x);
        }
    }
}
