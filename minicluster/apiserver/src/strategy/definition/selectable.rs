//! `selectableFields`: which fields of a custom kind its clients may select by.
//!
//! Source: `ValidateCustomResourceSelectableFields` and `cel.ValidFieldPath`, of `k8s.io/apiextensions-apiserver`.

use std::collections::BTreeSet;

use serde_json::Value;
use windlass_crd::field::{Error, ErrorList, Path};

use crate::object;

/// How many fields can be selected by.
const FIELDS_MAX: usize = 8;

/// What is wrong with the fields that a version names, given its schema.
pub(super) fn validate(version: &Value, schema: &Value, path: &Path, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (i, field) in object::list(version, &["selectableFields"]).iter().enumerate() {
        let at = path.index(i).child("jsonPath");
        let given = object::text(field, &["jsonPath"]);
        if given.is_empty() {
            errors.push(Error::required(&at, ""));
            continue;
        }
        let (steps, found) = match follow(given, schema) {
            Ok(found) => found,
            Err(why) => {
                errors.push(Error::invalid(&at, given, format!("is an invalid path: {why}")));
                continue;
            }
        };
        if steps.first() == Some(&"metadata") {
            errors.push(Error::invalid(&at, given, "must not point to fields in metadata"));
        }
        if !matches!(object::text(found, &["type"]), "string" | "boolean" | "integer") {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with \
                       formats are allowed.";
            errors.push(Error::invalid(&at, given, why));
        }
        if !seen.insert(steps) {
            errors.push(Error::duplicate(&at, given));
        }
    }
    if seen.len() > FIELDS_MAX {
        errors.push(Error::too_many(path, seen.len(), FIELDS_MAX));
    }
}

/// The steps of a path, and the schema where it ends.
fn follow<'v>(given: &'v str, schema: &'v Value) -> Result<(Vec<&'v str>, &'v Value), String> {
    const NO_FIELD: &str = "does not refer to a valid field";
    let mut steps = Vec::new();
    let mut found = schema;
    let mut tokens = tokens(given).into_iter();
    while let Some(token) = tokens.next() {
        match token {
            "." => {}
            "[" => return Err("array notation is not allowed".to_owned()),
            other => return Err(format!("expected [ or . but got: {other}")),
        }
        let step = tokens.next().ok_or("unexpected end of JSON path")?;
        let below = match (found.get("properties"), found.get("additionalProperties")) {
            (Some(properties), _) => properties.get(step),
            (None, values) => values,
        };
        found = below.ok_or(NO_FIELD)?;
        steps.push(step);
    }
    Ok((steps, found))
}

/// A path as names and the signs between them; what is quoted is one name.
fn tokens(given: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = given;
    while let Some(first) = rest.chars().next() {
        let sign = |c: char| matches!(c, '.' | '[' | ']');
        let end = match first {
            c if sign(c) => 1,
            '\'' => {
                let bytes = rest.as_bytes();
                let closes = (1..bytes.len()).find(|&i| bytes[i] == b'\'' && bytes[i - 1] != b'\\');
                closes.map_or(rest.len(), |i| i + 1)
            }
            _ => rest.find(sign).unwrap_or(rest.len()),
        };
        let (token, more) = rest.split_at(end);
        tokens.push(token);
        rest = more;
    }
    tokens
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;
    use windlass_crd::field;

    use super::*;

    #[test]
    fn what_cannot_be_selected_by_is_refused() {
        let schema = json!({"type": "object", "properties": {
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "spec": {"type": "object", "properties": {
                "color": {"type": "string"}, "list": {"type": "array", "items": {"type": "string"}}, "any": {},
                "map": {"type": "object", "additionalProperties": {"type": "integer"}},
            }},
        }});
        let paths = [
            ".spec.color",
            ".spec.map.key",
            ".spec.color",
            ".spec.none",
            ".spec.color.deeper",
            ".spec.list",
            ".spec.any",
            ".metadata.name",
            ".spec['color']",
            "spec.color",
            ".spec.",
            "",
        ];
        let version = json!({"selectableFields": paths.map(|path| json!({"jsonPath": path}))});
        let mut errors = ErrorList::new();
        validate(&version, &schema, &field::root("f"), &mut errors);
        let texts: String = errors.iter().map(|error| format!("{error}\n")).collect();
        expect![[r#"
            f[2].jsonPath: Duplicate value: ".spec.color"
            f[3].jsonPath: Invalid value: ".spec.none": is an invalid path: does not refer to a valid field
            f[4].jsonPath: Invalid value: ".spec.color.deeper": is an invalid path: does not refer to a valid field
            f[5].jsonPath: Invalid value: ".spec.list": must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.
            f[6].jsonPath: Invalid value: ".spec.any": must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.
            f[7].jsonPath: Invalid value: ".metadata.name": must not point to fields in metadata
            f[8].jsonPath: Invalid value: ".spec['color']": is an invalid path: array notation is not allowed
            f[9].jsonPath: Invalid value: "spec.color": is an invalid path: expected [ or . but got: spec
            f[10].jsonPath: Invalid value: ".spec.": is an invalid path: unexpected end of JSON path
            f[11].jsonPath: Required value
        "#]].assert_eq(&texts);

        let many: Vec<Value> = (0..9).map(|i| json!({"jsonPath": format!(".spec.map.k{i}")})).collect();
        let mut errors = ErrorList::new();
        validate(&json!({ "selectableFields": many }), &schema, &field::root("f"), &mut errors);
        assert_eq!(
            errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["f: Too many: 9: must have at most 8 items"]
        );
    }
}
