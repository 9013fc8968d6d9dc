//! JSON patch, RFC 6902, with upstream's bounds and texts.

use serde_json::Value;

use super::PatchError;

/// The most operations in one patch.
pub const OPERATIONS_MAX: usize = 10_000;
/// The most bytes that `copy` operations of one patch may add.
const COPIED_MAX: usize = 3 * 1024 * 1024;

/// Applies the operations in order.
///
/// # Errors
/// When the patch is malformed, too long, or an operation does not apply.
pub fn json(target: &mut Value, operations: &Value) -> Result<(), PatchError> {
    let Value::Array(list) = operations else {
        return Err(malformed("json: cannot unmarshal into Go value of type jsonpatch.Patch"));
    };
    if list.len() > OPERATIONS_MAX {
        return Err(PatchError::TooManyOperations { max: OPERATIONS_MAX, given: list.len() });
    }
    let mut copied = 0;
    for operation in list {
        apply(target, operation, &mut copied)?;
    }
    Ok(())
}

fn apply(target: &mut Value, operation: &Value, copied: &mut usize) -> Result<(), PatchError> {
    let text = |key: &str| operation.get(key).and_then(Value::as_str);
    let missing = |what: &str| PatchError::Unprocessable(format!("Missing {what}"));
    let path = text("path").ok_or_else(|| missing("path"))?;
    let from = || text("from").ok_or_else(|| missing("from"));
    // An absent value is null, as in the library that upstream uses.
    let value = || operation.get("value").cloned().unwrap_or(Value::Null);
    match text("op").unwrap_or_default() {
        "add" => add(target, path, value(), "add"),
        "remove" => remove(target, path, "remove").map(|_| ()),
        "replace" => replace(target, path, value()),
        "test" => test(target, path, &value()),
        "move" => {
            let taken = remove(target, from()?, "move")?;
            add(target, path, taken, "move")
        }
        "copy" => {
            let from = from()?;
            let taken = find(target, from).cloned().ok_or_else(|| missing_path("copy", from))?;
            *copied += taken.to_string().len();
            if *copied > COPIED_MAX {
                return Err(PatchError::TooMuchCopied { max: COPIED_MAX, given: *copied });
            }
            add(target, path, taken, "copy")
        }
        other => Err(PatchError::Unprocessable(format!("Unexpected kind: {other}"))),
    }
}

fn malformed(text: &str) -> PatchError {
    PatchError::Malformed(text.to_owned())
}

fn missing_path(operation: &str, path: &str) -> PatchError {
    let text =
        format!("{operation} operation does not apply: doc is missing path: \"{path}\": missing value");
    PatchError::Unprocessable(text)
}

/// The unescaped steps of a pointer; `None` when it is none.
fn steps(path: &str) -> Option<Vec<String>> {
    if path.is_empty() {
        return Some(Vec::new());
    }
    let rest = path.strip_prefix('/')?;
    Some(rest.split('/').map(|step| step.replace("~1", "/").replace("~0", "~")).collect())
}

fn find<'a>(target: &'a Value, path: &str) -> Option<&'a Value> {
    steps(path)?.iter().try_fold(target, |at, step| match at {
        Value::Object(map) => map.get(step),
        Value::Array(list) => list.get(index(step, list.len())?),
        _ => None,
    })
}

/// The place of a step in a list; negative ones count from the end.
fn index(step: &str, length: usize) -> Option<usize> {
    let number: i64 = step.parse().ok()?;
    let length = i64::try_from(length).ok()?;
    usize::try_from(if number < 0 { number + length } else { number }).ok()
}

/// The container of the last step, and that step.
fn parent<'a>(target: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let mut all = steps(path)?;
    let last = all.pop()?;
    let container = all.iter().try_fold(target, |at, step| match at {
        Value::Object(map) => map.get_mut(step),
        Value::Array(list) => {
            let place = index(step, list.len())?;
            list.get_mut(place)
        }
        _ => None,
    })?;
    (container.is_object() || container.is_array()).then_some((container, last))
}

fn bad_index(operation: &str, path: &str, step: &str) -> PatchError {
    PatchError::Unprocessable(format!(
        "error in {operation} for path: '{path}': Unable to access invalid index: {step}: invalid index referenced"
    ))
}

fn add(target: &mut Value, path: &str, value: Value, operation: &str) -> Result<(), PatchError> {
    if path.is_empty() {
        *target = value;
        return Ok(());
    }
    let (container, step) = parent(target, path).ok_or_else(|| missing_path(operation, path))?;
    match container {
        Value::Object(map) => {
            map.insert(step, value);
        }
        Value::Array(list) if step == "-" => list.push(value),
        Value::Array(list) => {
            let place = index(&step, list.len()).filter(|place| *place <= list.len());
            list.insert(place.ok_or_else(|| bad_index(operation, path, &step))?, value);
        }
        _ => return Err(missing_path(operation, path)),
    }
    Ok(())
}

fn remove(target: &mut Value, path: &str, operation: &str) -> Result<Value, PatchError> {
    let (container, step) = parent(target, path).ok_or_else(|| missing_path(operation, path))?;
    match container {
        Value::Object(map) => map.remove(&step).ok_or_else(|| {
            PatchError::Unprocessable(format!(
                "error in {operation} for path: '{path}': Unable to remove nonexistent key: {step}: missing value"
            ))
        }),
        Value::Array(list) => match index(&step, list.len()).filter(|place| *place < list.len()) {
            Some(place) => Ok(list.remove(place)),
            None => Err(bad_index(operation, path, &step)),
        },
        _ => Err(missing_path(operation, path)),
    }
}

fn replace(target: &mut Value, path: &str, value: Value) -> Result<(), PatchError> {
    if path.is_empty() {
        *target = value;
        return Ok(());
    }
    let missing = |what: &str| {
        let text = format!("replace operation does not apply: doc is missing {what}: {path}: missing value");
        PatchError::Unprocessable(text)
    };
    let (container, step) = parent(target, path).ok_or_else(|| missing("path"))?;
    let slot = match container {
        Value::Object(map) => map.get_mut(&step),
        Value::Array(list) => index(&step, list.len()).and_then(|place| list.get_mut(place)),
        _ => None,
    };
    *slot.ok_or_else(|| missing("key"))? = value;
    Ok(())
}

/// An absent member equals null, as in the library that upstream uses.
fn test(target: &Value, path: &str, expected: &Value) -> Result<(), PatchError> {
    if same(find(target, path).unwrap_or(&Value::Null), expected) {
        return Ok(());
    }
    Err(PatchError::Unprocessable(format!("testing value {path} failed: test failed")))
}

/// Equality by value: `1` and `1.0` are the same number.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same(x, y)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(key, x)| y.get(key).is_some_and(|y| same(x, y)))
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patched(mut target: Value, operations: &Value) -> Result<Value, String> {
        json(&mut target, operations).map_err(|e| e.to_string())?;
        Ok(target)
    }

    #[test]
    fn the_cases_of_rfc_6902() {
        let cases = [
            (
                json!({"foo": "b"}),
                json!({"op": "add", "path": "/baz", "value": "q"}),
                json!({"baz": "q", "foo": "b"}),
            ),
            (json!({"l": [1, 3]}), json!({"op": "add", "path": "/l/1", "value": 2}), json!({"l": [1, 2, 3]})),
            (
                json!({"l": ["a"]}),
                json!({"op": "add", "path": "/l/-", "value": ["b"]}),
                json!({"l": ["a", ["b"]]}),
            ),
            (json!({"baz": 1, "foo": 2}), json!({"op": "remove", "path": "/baz"}), json!({"foo": 2})),
            (json!({"l": [1, 2, 3]}), json!({"op": "remove", "path": "/l/1"}), json!({"l": [1, 3]})),
            (
                json!({"a": 1}),
                json!({"op": "replace", "path": "/a", "value": {"b": null}}),
                json!({"a": {"b": null}}),
            ),
            (
                json!({"a": {"b": 1}, "c": {}}),
                json!({"op": "move", "from": "/a/b", "path": "/c/d"}),
                json!({"a": {}, "c": {"d": 1}}),
            ),
            (json!({"a": 1}), json!({"op": "copy", "from": "/a", "path": "/b"}), json!({"a": 1, "b": 1})),
            (
                json!({"a/b": {"m~n": 8}}),
                json!({"op": "test", "path": "/a~1b/m~0n", "value": 8.0}),
                json!({"a/b": {"m~n": 8}}),
            ),
            (json!({"a": 1}), json!({"op": "replace", "path": "", "value": {"z": 1}}), json!({"z": 1})),
            (
                json!({"a": [1, 2]}),
                json!({"op": "replace", "path": "/a/-1", "value": 3}),
                json!({"a": [1, 3]}),
            ),
        ];
        for (target, operation, expected) in cases {
            assert_eq!(patched(target, &json!([operation])), Ok(expected), "{operation}");
        }
    }

    #[test]
    fn what_does_not_apply_is_told_in_upstreams_words() {
        let cases = [
            (json!({"op": "test", "path": "/a", "value": 2}), "testing value /a failed: test failed"),
            (
                json!({"op": "remove", "path": "/x"}),
                "error in remove for path: '/x': Unable to remove nonexistent key: x: missing value",
            ),
            (
                json!({"op": "replace", "path": "/x", "value": 1}),
                "replace operation does not apply: doc is missing key: /x: missing value",
            ),
            (
                json!({"op": "add", "path": "/x/y", "value": 1}),
                "add operation does not apply: doc is missing path: \"/x/y\": missing value",
            ),
            (
                json!({"op": "add", "path": "/l/7", "value": 1}),
                "error in add for path: '/l/7': Unable to access invalid index: 7: invalid index referenced",
            ),
            (json!({"op": "frob", "path": "/a"}), "Unexpected kind: frob"),
        ];
        for (operation, text) in cases {
            assert_eq!(
                patched(json!({"a": 1, "l": []}), &json!([operation])),
                Err(text.to_owned()),
                "{operation}"
            );
        }
    }

    #[test]
    fn size_is_bounded() {
        let many = Value::from(vec![json!({"op": "test", "path": "/a", "value": 1}); OPERATIONS_MAX + 1]);
        assert_eq!(
            patched(json!({"a": 1}), &many),
            Err("The allowed maximum operations in a JSON patch is 10000, got 10001".to_owned())
        );
        // Doubling by copy grows without bound unless it is counted.
        let copies: Vec<Value> =
            (0..40).map(|i| json!({"op": "copy", "from": "", "path": format!("/c{i}")})).collect();
        let error = patched(json!({"a": "x".repeat(1024)}), &Value::from(copies)).unwrap_err();
        assert!(error.contains("accumulated size"), "{error}");
    }
}
