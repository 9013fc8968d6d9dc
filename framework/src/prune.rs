//! Cuts `metadata.managedFields` out of an object's JSON before it is decoded.
//!
//! Only that field is cut: the same name elsewhere in an object belongs to its author. The bytes are skimmed, not
//! parsed, and only up to the end of `metadata`, which servers write near the front. Anything that does not look like a
//! JSON object is handed through untouched, for the decoder to complain about.

use std::{borrow::Cow, ops::Range};

/// The object without its managed fields.
pub(crate) fn without_managed_fields(object: &[u8]) -> Cow<'_, [u8]> {
    let Some(cut) = managed_fields(object) else { return Cow::Borrowed(object) };
    let mut out = Vec::with_capacity(object.len() - cut.len());
    out.extend_from_slice(&object[..cut.start]);
    out.extend_from_slice(&object[cut.end..]);
    Cow::Owned(out)
}

fn managed_fields(json: &[u8]) -> Option<Range<usize>> {
    let metadata = member(json, 0, b"metadata")?;
    let field = member(json, metadata.value, b"managedFields")?;
    let end = skip_value(json, field.value)?;
    // Take one comma along: the one before the field, or else the one after it.
    if let Some(comma) = field.comma_before {
        return Some(comma..end);
    }
    let next = skip_space(json, end);
    Some(field.name..if json.get(next) == Some(&b',') { next + 1 } else { end })
}

struct Member {
    comma_before: Option<usize>,
    name: usize,
    value: usize,
}

/// Finds a member of the JSON object that starts at `at`.
fn member(json: &[u8], at: usize, name: &[u8]) -> Option<Member> {
    let mut i = skip_space(json, at);
    if json.get(i) != Some(&b'{') {
        return None;
    }
    i += 1;
    let mut comma_before = None;
    loop {
        let start = skip_space(json, i);
        if json.get(start) != Some(&b'"') {
            return None;
        }
        let end = skip_string(json, start)?;
        let colon = skip_space(json, end);
        if json.get(colon) != Some(&b':') {
            return None;
        }
        let value = skip_space(json, colon + 1);
        if &json[start + 1..end - 1] == name {
            return Some(Member { comma_before, name: start, value });
        }
        i = skip_space(json, skip_value(json, value)?);
        if json.get(i) != Some(&b',') {
            return None;
        }
        comma_before = Some(i);
        i += 1;
    }
}

fn skip_space(json: &[u8], mut i: usize) -> usize {
    while matches!(json.get(i), Some(b' ' | b'\n' | b'\r' | b'\t')) {
        i += 1;
    }
    i
}

/// The index after the string that starts at `at`.
fn skip_string(json: &[u8], at: usize) -> Option<usize> {
    let mut i = at + 1;
    loop {
        match json.get(i)? {
            b'"' => return Some(i + 1),
            b'\\' => i += 2,
            _ => i += 1,
        }
    }
}

/// The index after the value that starts at `at`.
fn skip_value(json: &[u8], at: usize) -> Option<usize> {
    match json.get(at)? {
        b'"' => skip_string(json, at),
        b'{' | b'[' => skip_nested(json, at),
        _ => {
            let len = json[at..].iter().position(|b| matches!(b, b',' | b'}' | b']' | b' ' | b'\n'))?;
            Some(at + len)
        }
    }
}

fn skip_nested(json: &[u8], at: usize) -> Option<usize> {
    let (mut i, mut depth) = (at, 0_usize);
    loop {
        match json.get(i)? {
            b'"' => {
                i = skip_string(json, i)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        i += 1;
        if depth == 0 {
            return Some(i);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn pruned(text: &str) -> String {
        String::from_utf8(without_managed_fields(text.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn cuts_that_field_and_no_other() {
        let cases = [
            (
                r#"{"metadata":{"name":"a","managedFields":[{"x":"]}"}]},"spec":1}"#,
                r#"{"metadata":{"name":"a"},"spec":1}"#,
            ),
            (r#"{"metadata":{"managedFields":[] , "name":"a"}}"#, r#"{"metadata":{ "name":"a"}}"#),
            (r#"{"metadata":{"managedFields":[{"a":{}}]}}"#, r#"{"metadata":{}}"#),
            (
                r#"{"spec":{"managedFields":[1]},"metadata":{"name":"a"}}"#,
                r#"{"spec":{"managedFields":[1]},"metadata":{"name":"a"}}"#,
            ),
            (
                r#"{"metadata":{"annotations":{"managedFields":"[","x":"\"managedFields\":["},"managedFields":[2],"uid":"u"}}"#,
                r#"{"metadata":{"annotations":{"managedFields":"[","x":"\"managedFields\":["},"uid":"u"}}"#,
            ),
        ];
        for (before, after) in cases {
            assert_eq!(pruned(before), after);
        }
    }

    #[test]
    fn what_is_no_object_passes_untouched() {
        for text in
            ["", "null", "[1]", "{", r#"{"metadata":"#, r#"{"metadata":{"managedFields":[{"a":"#, r#"{"a"}"#]
        {
            assert_eq!(pruned(text), text);
        }
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[\\\\\"{}\\[\\],: a-c]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("metadata|managedFields|[a-c\"]{1,2}", inner, 0..4)
                    .prop_map(|m| json!(m)),
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_removing_the_field_from_a_parsed_tree(meta in tree(), other in tree(), pretty in any::<bool>()) {
            let object = json!({"a": other, "metadata": meta});
            let text = if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) }.unwrap();
            let mut expected = object;
            if let Some(meta) = expected["metadata"].as_object_mut() {
                meta.remove("managedFields");
            }
            prop_assert_eq!(serde_json::from_str::<Value>(&pruned(&text)).unwrap(), expected);
        }
    }
}
