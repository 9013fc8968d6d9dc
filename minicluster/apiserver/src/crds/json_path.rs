//! JSON paths as printer columns have them: `.spec.a['b.c'].d[0]`, `.status.conditions[?(@.type=="Ready")].status`, `[*]`.
//! Of several values the first one counts, as upstream's table has it.

use serde_json::Value;

/// A path as steps; a filter is a step that begins with `?`.
pub(super) fn steps(text: &str) -> Vec<String> {
    let mut steps = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix("['").or_else(|| rest.strip_prefix("[\"")) {
            let end = quoted.find(['\'', '"']).unwrap_or(quoted.len());
            steps.push(quoted[..end].to_owned());
            rest = quoted[end..].trim_start_matches(['\'', '"', ']']);
        } else if let Some(filter) = rest.strip_prefix("[?(") {
            let end = filter.find(")]").unwrap_or(filter.len());
            steps.push(format!("?{}", &filter[..end]));
            rest = filter[end..].trim_start_matches(')').trim_start_matches(']');
        } else if let Some(index) = rest.strip_prefix('[') {
            let end = index.find(']').unwrap_or(index.len());
            steps.push(index[..end].to_owned());
            rest = index[end..].trim_start_matches(']');
        } else {
            rest = rest.trim_start_matches('.');
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            if end > 0 {
                steps.push(rest[..end].replace("\\", ""));
            }
            rest = &rest[end..];
        }
    }
    steps
}

/// The first value at a path.
pub(super) fn find<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    let Some((step, rest)) = path.split_first() else { return Some(value) };
    match (value, step.strip_prefix('?')) {
        (Value::Array(items), Some(filter)) => {
            items.iter().filter(|item| passes(item, filter)).find_map(|item| find(item, rest))
        }
        (Value::Array(items), None) if step == "*" => items.iter().find_map(|item| find(item, rest)),
        (Value::Object(fields), None) if step == "*" => fields.values().find_map(|field| find(field, rest)),
        (Value::Array(items), None) => find(items.get(step.parse::<usize>().ok()?)?, rest),
        _ => find(value.get(step.as_str())?, rest),
    }
}

/// Whether an item passes `@.type=="Ready"`, `@.n!=1` or `@.there`.
fn passes(item: &Value, filter: &str) -> bool {
    let (left, equal, right) = match (filter.split_once("=="), filter.split_once("!=")) {
        (Some((left, right)), _) => (left, true, right),
        (None, Some((left, right))) => (left, false, right),
        (None, None) => return find(item, &steps(filter.trim().trim_start_matches('@'))).is_some(),
    };
    let found = find(item, &steps(left.trim().trim_start_matches('@')));
    let right = right.trim().trim_matches(['"', '\'']);
    let is = match found {
        Some(Value::String(text)) => text == right,
        Some(other) => serde_json::from_str::<Value>(right).is_ok_and(|right| right == *other),
        None => return false,
    };
    is == equal
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_split_into_steps() {
        assert_eq!(steps(".spec.replicas"), ["spec", "replicas"]);
        assert_eq!(
            steps(".metadata.annotations['a.b/c'].d[0]"),
            ["metadata", "annotations", "a.b/c", "d", "0"]
        );
        assert_eq!(
            steps(".status.conditions[?(@.type=='Ready')].status"),
            ["status", "conditions", "?@.type=='Ready'", "status"]
        );
    }

    #[test]
    fn the_first_value_counts() {
        let object = json!({
            "status": {
                "conditions": [
                    { "type": "Ready", "status": "True", "n": 1 },
                    { "type": "Done", "status": "False", "n": 2 },
                ],
            },
        });
        let at = |path: &str| find(&object, &steps(path)).map_or_else(String::new, ToString::to_string);
        let table = [
            (".status.conditions[?(@.type=='Done')].status", "\"False\""),
            (".status.conditions[?(@.type == \"Ready\")].status", "\"True\""),
            (".status.conditions[?(@.type!='Ready')].n", "2"),
            (".status.conditions[?(@.n==2)].type", "\"Done\""),
            (".status.conditions[?(@.missing)].type", ""),
            (".status.conditions[?(@.type=='Gone')].status", ""),
            (".status.conditions[*].type", "\"Ready\""),
            (".status.conditions[1].type", "\"Done\""),
            (".status.conditions[7].type", ""),
            (".status.conditions.type", ""),
            (".status.*.x", ""),
        ];
        for (path, expected) in table {
            assert_eq!(at(path), expected, "{path}");
        }
    }
}
