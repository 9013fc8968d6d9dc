//! Label and field selectors.

use std::collections::BTreeMap;

use windlass_crd::selector::{FieldSelector, LabelSelector};

/// A selector's text reads as the same selector, and it selects what all of its terms hold for.
pub fn labels(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(selector) = LabelSelector::parse(text) else { return };
    let shown = selector.to_string();
    let again = LabelSelector::parse(&shown).unwrap_or_else(|e| panic!("{text:?} became {shown:?}: {e}"));
    assert_eq!(again.to_string(), shown, "{text:?} is not settled");
    for objects in [&[][..], &[("a", "b")], &[("a", "b"), ("c", "d"), ("e", "f"), ("i", "")], &[("n", "2")]] {
        let labels: BTreeMap<String, String> =
            objects.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let slow = selector.requirements().iter().all(|r| r.holds(labels.get(&r.key).map(String::as_str)));
        assert_eq!(selector.matches(&labels), slow, "{text:?} on {labels:?}");
        assert_eq!(again.matches(&labels), slow, "{shown:?} on {labels:?}");
    }
}

/// A field selector's text reads as the same selector.
pub fn fields(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(selector) = FieldSelector::parse(text) else { return };
    let shown = selector.to_string();
    let again = FieldSelector::parse(&shown).unwrap_or_else(|e| panic!("{text:?} became {shown:?}: {e}"));
    assert_eq!(again, selector, "{text:?} became {shown:?}");
    assert_eq!(selector.is_empty(), selector.requirements().is_empty());
}
