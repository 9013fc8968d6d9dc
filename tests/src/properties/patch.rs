//! Patches and server-side apply: two documents, the object and what is to become of it.

use serde_json::{Map, Value, json};
use windlass_crd::{
    apply as ssa, patch,
    schema::{self, Schema},
};

use super::two;

fn pod() -> std::sync::Arc<Schema> {
    schema::builtin("v1", "Pod").expect("a built-in kind")
}

/// RFC 7396, word by word.
fn merged(target: &Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut result = target.as_object().cloned().unwrap_or_else(Map::new);
    for (name, value) in patch {
        match value {
            Value::Null => drop(result.remove(name)),
            value => {
                let before = result.get(name).cloned().unwrap_or(Value::Null);
                result.insert(name.clone(), merged(&before, value));
            }
        }
    }
    Value::Object(result)
}

/// A merge patch does what the RFC says, and nothing more the second time.
pub fn merge(bytes: &[u8]) {
    let Some((target, change)) = two(bytes) else { return };
    let mut result = target.clone();
    patch::merge(&mut result, &change);
    assert_eq!(result, merged(&target, &change), "{target} merged with {change}");
    let once = result.clone();
    patch::merge(&mut result, &change);
    assert_eq!(result, once);
}

/// A JSON patch agrees with its reading operation by operation, and a whole replacement always applies.
pub fn json_patch(bytes: &[u8]) {
    let Some((target, operations)) = two(bytes) else { return };
    let mut whole = target.clone();
    let result = patch::json(&mut whole, &operations);
    if let Value::Array(list) = &operations {
        let mut stepwise = target.clone();
        let steps = list.iter().try_for_each(|one| patch::json(&mut stepwise, &json!([one])));
        assert_eq!(result.is_ok(), steps.is_ok(), "{operations}");
        if result.is_ok() {
            assert_eq!(whole, stepwise);
        }
    }
    let mut replaced = target;
    patch::json(&mut replaced, &json!([{"op": "replace", "path": "", "value": whole}]))
        .expect("a replacement");
    assert_eq!(replaced, whole);
}

/// A strategic merge patch without content changes nothing, and none panics.
pub fn strategic(bytes: &[u8]) {
    let Some((target, change)) = two(bytes) else { return };
    let schema = pod();
    let mut result = target.clone();
    let _ = patch::strategic(&mut result, &change, &schema);
    if target.is_object() {
        let mut same = target.clone();
        patch::strategic(&mut same, &json!({}), &schema).expect("an empty patch");
        assert_eq!(same, target);
    }
}

/// Applying the same again changes nothing; by force it always goes through, and the object then says what was applied.
pub fn apply(bytes: &[u8]) {
    let Some((first, second)) = two(bytes) else { return };
    let schema = pod();
    let manager =
        |name| ssa::Manager { name, api_version: "v1", subresource: "", time: "2026-01-01T00:00:00Z" };
    let Ok(object) = ssa::apply(None, &first, &schema, &manager("a"), false, &[]) else { return };
    let again = ssa::apply(Some(&object), &first, &schema, &manager("a"), false, &[]);
    assert_eq!(again.ok().as_ref(), Some(&object), "applied again, it changed");
    let Ok(both) = ssa::apply(Some(&object), &second, &schema, &manager("b"), true, &[]) else {
        assert!(ssa::apply(None, &second, &schema, &manager("b"), true, &[]).is_err(), "force was refused");
        return;
    };
    let again = ssa::apply(Some(&both), &second, &schema, &manager("b"), false, &[]);
    assert_eq!(again.ok().as_ref(), Some(&both), "what was taken by force is not owned");
}
