//! Values as upstream's errors show what they could not merge: Go's plain form of maps and lists.

use serde_json::Value;

/// `map[a:1 b:[x y]]`.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let mut members: Vec<_> =
                map.iter().map(|(key, value)| format!("{key}:{}", shown(value))).collect();
            members.sort();
            format!("map[{}]", members.join(" "))
        }
        plain => plain.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::shown;

    #[test]
    fn maps_and_lists_are_shown_plainly() {
        assert_eq!(
            shown(&json!({"b": [1, "x", null], "a": {"c": true}})),
            "map[a:map[c:true] b:[1 x <nil>]]"
        );
    }
}
