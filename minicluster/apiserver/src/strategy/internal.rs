//! Values as upstream's messages show them: its servers check objects in structures of their own, which write
//! themselves with Go's field names, in the order of their declaration, with everything that is not set.
//!
//! Only messages are made here; nothing is decided. `internal.txt` holds the names. Source: `pkg/apis/*/types.go`, Go's
//! `encoding/json`, `k8s.io/apimachinery/pkg/util/diff`.

mod unified;

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::Value;
use windlass_crd::{
    field::{self, Error, Path},
    quantity::Quantity,
};

use super::rules::is_empty;

/// One field of a structure.
struct Field {
    /// Go's name, `@Type` for embedded metadata.
    name: &'static str,
    /// The name in the versioned form.
    json: String,
    /// What it holds; `internal.txt` says how it is written.
    kind: &'static str,
    /// Left out when empty.
    optional: bool,
}

static TYPES: LazyLock<BTreeMap<&'static str, Vec<Field>>> = LazyLock::new(|| {
    let lines = include_str!("internal.txt").lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, words.map(parse_field).collect()))
        })
        .collect()
});

fn parse_field(word: &'static str) -> Field {
    let Some((names, kind)) = word.split_once(':') else {
        return Field { name: word, json: "metadata".to_owned(), kind: &word[1..], optional: false };
    };
    let optional = names.ends_with('?');
    let names = names.trim_end_matches('?');
    let (name, json) = match names.split_once('=') {
        Some((name, json)) => (name, json.to_owned()),
        None => (names, format!("{}{}", names[..1].to_lowercase(), &names[1..])),
    };
    Field { name, json, kind, optional }
}

/// What is written: members in order, as no map of ours keeps them.
enum Shown {
    Plain(String),
    List(Vec<Shown>),
    Members(Vec<(String, Shown)>),
}

/// A structure of this type on one line.
pub(super) fn shown(kind: &'static str, value: &Value) -> String {
    let mut out = String::new();
    write(&render(kind, value), None, &mut out);
    out
}

/// How two structures of this type differ, as a unified diff of their lines.
pub(super) fn difference(kind: &'static str, old: &Value, new: &Value) -> String {
    let lines = |value: &Value| {
        let mut out = String::new();
        write(&render(kind, value), Some(0), &mut out);
        out
    };
    unified::diff(&lines(old), &lines(new))
}

/// `Invalid value`, with the structure.
pub(super) fn invalid(path: &Path, kind: &'static str, value: &Value, detail: impl Into<String>) -> Error {
    Error::invalid(path, value.clone(), detail).showing(shown(kind, value))
}

/// `Unsupported value`, with the structure.
pub(super) fn not_supported(path: &Path, kind: &'static str, value: &Value, allowed: &[&str]) -> Error {
    Error::not_supported(path, value.clone(), allowed).showing(shown(kind, value))
}

fn render(kind: &'static str, value: &Value) -> Shown {
    if let Some(inner) = kind.strip_prefix('*') {
        return if value.is_null() { null() } else { render(inner, value) };
    }
    if let Some(inner) = kind.strip_prefix("[]") {
        return match value.as_array() {
            Some(_) if inner == "y" => versioned(value),
            Some(items) => Shown::List(items.iter().map(|item| render(inner, item)).collect()),
            None if inner == "y" && value.is_string() => versioned(value),
            None => null(),
        };
    }
    if let Some(inner) = kind.strip_prefix("{}") {
        let Some(map) = value.as_object() else { return null() };
        return Shown::Members(map.iter().map(|(key, value)| (key.clone(), render(inner, value))).collect());
    }
    match (kind, value) {
        ("s", Value::Null) => plain("\"\""),
        ("b", Value::Null) => plain("false"),
        ("i" | "n", Value::Null) => plain("0"),
        ("q", Value::Null) => plain("\"0\""),
        ("q", value) => match Quantity::from_json(value) {
            Ok(quantity) => plain(&format!("\"{quantity}\"")),
            Err(_) => versioned(value),
        },
        ("s" | "b" | "i" | "n" | "t" | "v" | "y", value) => versioned(value),
        _ => Shown::Members(members(kind, value)),
    }
}

fn null() -> Shown {
    plain("null")
}

fn plain(text: &str) -> Shown {
    Shown::Plain(text.to_owned())
}

/// As the value is written by clients.
fn versioned(value: &Value) -> Shown {
    match value {
        Value::Array(items) => Shown::List(items.iter().map(versioned).collect()),
        Value::Object(map) => Shown::Members(map.iter().map(|(k, v)| (k.clone(), versioned(v))).collect()),
        other => Shown::Plain(field::json(other)),
    }
}

/// What pods say of the host's namespaces stands elsewhere in upstream's own structure.
const OF_SECURITY_CONTEXT: [&str; 5] =
    ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostUsers"];

fn members(kind: &'static str, value: &Value) -> Vec<(String, Shown)> {
    static NULL: Value = Value::Null;
    let moved;
    let value = match kind {
        "PodSpec" => {
            moved = with_host_namespaces(value);
            &moved
        }
        "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrBool" | "JSONSchemaPropsOrStringArray" => {
            moved = alternatives(value);
            &moved
        }
        _ => value,
    };
    let mut out = Vec::new();
    for field in TYPES.get(kind).into_iter().flatten() {
        let given = value.get(&field.json).unwrap_or(&NULL);
        if field.name.starts_with('@') {
            // The kind of an object stands beside its metadata.
            let holder = if field.kind == "TypeMeta" { value } else { given };
            out.extend(members(field.kind, holder));
        } else if !field.optional || !is_empty(given) {
            out.push((field.name.to_owned(), render(field.kind, given)));
        }
    }
    out
}

fn with_host_namespaces(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let moved: Vec<(&str, Value)> =
        OF_SECURITY_CONTEXT.iter().filter_map(|key| Some((*key, spec.get(*key)?.clone()))).collect();
    for (key, value) in moved {
        crate::object::set(&mut spec, &["securityContext", key], value);
    }
    spec
}

/// A schema, or what may stand in its place.
fn alternatives(value: &Value) -> Value {
    match value {
        Value::Bool(allows) => serde_json::json!({"allows": allows}),
        Value::Array(_) => serde_json::json!({"jSONSchemas": value, "property": value}),
        _ => serde_json::json!({"schema": value, "allows": true}),
    }
}

/// Writes on one line, or from this depth on a line each with a space a level.
fn write(shown: &Shown, depth: Option<usize>, out: &mut String) {
    let (open, close, count) = match shown {
        Shown::Plain(text) => return out.push_str(text),
        Shown::List(items) => ('[', ']', items.len()),
        Shown::Members(members) => ('{', '}', members.len()),
    };
    let line = |depth: Option<usize>, out: &mut String| {
        if let Some(depth) = depth {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', depth));
        }
    };
    out.push(open);
    let inner = depth.map(|depth| depth + 1);
    for i in 0..count {
        if i > 0 {
            out.push(',');
        }
        line(inner, out);
        match shown {
            Shown::Members(members) => {
                let (name, value) = &members[i];
                out.push_str(&field::json(&Value::from(name.as_str())));
                out.push_str(if depth.is_some() { ": " } else { ":" });
                write(value, inner, out);
            }
            Shown::List(items) => write(&items[i], inner, out),
            Shown::Plain(_) => {}
        }
    }
    if count > 0 {
        line(depth, out);
    }
    out.push(close);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn structures_are_written_as_go_would() {
        let cases = [
            (
                "PodDisruptionBudgetSpec",
                json!({"maxUnavailable": 1, "minAvailable": 1}),
                r#"{"MinAvailable":1,"Selector":null,"MaxUnavailable":1,"UnhealthyPodEvictionPolicy":null}"#,
            ),
            (
                "VolumeAttachmentSpec",
                json!({"attacher": "a", "nodeName": "<m>", "source": {"persistentVolumeName": "p"}}),
                r#"{"Attacher":"a","Source":{"PersistentVolumeName":"p","InlineVolumeSpec":null},"NodeName":"\u003cm\u003e"}"#,
            ),
            (
                "LabelSelector",
                json!({"matchExpressions": [{"operator": "Exists", "key": "a"}], "matchLabels": {"b": "c"}}),
                r#"{"matchLabels":{"b":"c"},"matchExpressions":[{"key":"a","operator":"Exists"}]}"#,
            ),
            (
                "ResourceClaimSpec",
                json!({}),
                r#"{"Devices":{"Requests":null,"Constraints":null,"Config":null}}"#,
            ),
        ];
        for (kind, value, expected) in cases {
            assert_eq!(shown(kind, &value), expected);
        }
    }

    #[test]
    fn every_type_that_is_named_is_there() {
        for (name, fields) in TYPES.iter() {
            for field in fields {
                let kind = field.kind.trim_start_matches(['*', '[', ']', '{', '}']);
                let known =
                    matches!(kind, "s" | "b" | "i" | "q" | "n" | "t" | "y" | "v") || TYPES.contains_key(kind);
                assert!(known, "{name}.{}: {kind}", field.name);
            }
        }
    }

    #[test]
    fn differences_are_unified_diffs() {
        let (old, new) = (json!({"path": "/tmp", "type": ""}), json!({"path": "/x", "type": ""}));
        assert_eq!(
            difference("HostPathVolumeSource", &old, &new),
            "@@ -1,4 +1,4 @@\n {\n- \"Path\": \"/tmp\",\n+ \"Path\": \"/x\",\n  \"Type\": \"\"\n }\n"
        );
        assert_eq!(difference("HostPathVolumeSource", &old, &old), "");
    }
}
