//! The three patches that a client computes: JSON patch (RFC 6902), merge patch (RFC 7396), strategic merge patch.
//!
//! Server-side apply is in [`crate::apply`]. A patch changes a value in memory and nothing else; when it fails, the
//! value may be half changed and must be thrown away. Messages follow upstream, whose JSON patch texts come from the
//! library it uses.

mod go;
mod json;
mod strategic;

use serde_json::Value;

pub use json::{OPERATIONS_MAX, json};
pub use strategic::strategic;

/// Why a patch cannot be applied. The API server answers 400, 413 or 422 by the variant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch contradicts itself, which upstream finds out only when it is applied: 500.
    #[error("{0}")]
    Unmergeable(String),
    /// The patch is too big: 413.
    #[error("The allowed maximum operations in a JSON patch is {max}, got {given}")]
    TooManyOperations {
        /// The bound.
        max: usize,
        /// The number given.
        given: usize,
    },
    /// The result would be too big: 413.
    #[error(
        "Unable to complete the copy, the accumulated size increase of copy is {given}, exceeding the limit {max}"
    )]
    TooMuchCopied {
        /// The bound in bytes.
        max: usize,
        /// The bytes that the patch would copy.
        given: usize,
    },
    /// The patch does not fit the object: 422.
    #[error("{0}")]
    Unprocessable(String),
}

/// Applies a JSON merge patch: objects merge, null removes, the rest replaces.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(map) = target else { return };
    for (key, change) in changes {
        if change.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn the_cases_of_rfc_7396() {
        let cases = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
        ];
        for (mut target, patch, expected) in cases {
            merge(&mut target, &patch);
            assert_eq!(target, expected, "{patch}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..5i64).prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-d]", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn merging_twice_is_merging_once(mut target in any_json(), patch in any_json()) {
            merge(&mut target, &patch);
            let once = target.clone();
            merge(&mut target, &patch);
            prop_assert_eq!(target, once);
        }
    }
}
