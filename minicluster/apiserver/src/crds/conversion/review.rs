//! `ConversionReview`: the question to a conversion webhook, and what its answer is held to.
//!
//! A webhook may change everything of an object but what tells who it is: of the metadata only labels and annotations
//! come back from it. Source: `k8s.io/apiextensions-apiserver/pkg/apiserver/conversion/webhook_converter.go`.

use serde_json::{Map, Value, json};
use windlass_crd::field::{self, ErrorList};

use crate::{object, validate};

/// The versions of the review that are spoken, and what a definition may name.
pub(crate) const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

const GROUP: &str = "apiextensions.k8s.io";

/// The question.
pub(super) fn request(version: &str, uid: &str, desired: &str, objects: &[&Value]) -> Value {
    json!({
        "kind": "ConversionReview", "apiVersion": format!("{GROUP}/{version}"),
        "request": { "uid": uid, "desiredAPIVersion": desired, "objects": objects },
    })
}

/// Why an answer is of no use, in the words of upstream's metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Call,
    Malformed,
    Partial,
    InvalidObject,
}

impl Fault {
    /// The value of the metric's `failure_type`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Call => "conversion_webhook_call_failure",
            Self::Malformed => "conversion_webhook_malformed_response_failure",
            Self::Partial => "conversion_webhook_partial_response_failure",
            Self::InvalidObject => "conversion_webhook_invalid_converted_object_failure",
        }
    }
}

/// The objects of an answer, in the order in which they were sent.
pub(super) fn read(
    body: &[u8],
    version: &str,
    uid: &str,
    sent: &[&Value],
    desired: &str,
) -> Result<Vec<Value>, (Fault, String)> {
    let what = sent.first().map(|obj| gvk(obj)).unwrap_or_default();
    let failed = |why: String| (Fault::Malformed, format!("conversion webhook for {what} failed: {why}"));
    let mut review: Value = serde_json::from_slice(body)
        .map_err(|e| failed(format!("couldn't get version/kind; json parse error: {e}")))?;
    // The beta never checked what the answer calls itself, nor whose answer it is.
    let strict = version == "v1";
    let wanted = format!("{GROUP}/v1, Kind=ConversionReview");
    if strict && gvk(&review) != wanted {
        let got = gvk(&review);
        return Err(failed(format!("expected webhook response of {wanted}, got {got}")));
    }
    if object::at(&review, &["response"]).is_none() {
        return Err(failed("no response provided".to_owned()));
    }
    let got = object::text(&review, &["response", "uid"]);
    if strict && got != uid {
        return Err(failed(format!("expected response.uid={uid:?}, got {got:?}")));
    }
    let status = object::text(&review, &["response", "result", "status"]);
    if status != "Success" {
        let message = object::text(&review, &["response", "result", "message"]);
        return Err(failed(match message {
            "" => format!("response.result.status was '{status}', not 'Success'"),
            message => message.to_owned(),
        }));
    }
    let converted = match review.pointer_mut("/response/convertedObjects").map(Value::take) {
        Some(Value::Array(objects)) => objects,
        _ => Vec::new(),
    };
    if converted.len() != sent.len() {
        let (got, expected) = (converted.len(), sent.len());
        let text = format!("conversion webhook for {what} returned {got} objects, expected {expected}");
        return Err((Fault::Partial, text));
    }
    let settled = sent.iter().zip(converted).enumerate().map(|(index, (original, converted))| {
        settle(original, converted, desired, index).map_err(|why| {
            (Fault::InvalidObject, format!("conversion webhook for {} returned {why}", gvk(original)))
        })
    });
    settled.collect()
}

/// Kind and version as Go writes them.
fn gvk(obj: &Value) -> String {
    let (version, kind) = (object::text(obj, &["apiVersion"]), object::text(obj, &["kind"]));
    let slash = if version.contains('/') { "" } else { "/" };
    format!("{slash}{version}, Kind={kind}")
}

/// Checks one converted object and gives it back the metadata that is not the webhook's to change.
fn settle(original: &Value, mut converted: Value, desired: &str, index: usize) -> Result<Value, String> {
    let (expected, got) = (desired, object::text(&converted, &["apiVersion"]));
    if expected != got {
        return Err(format!(
            "invalid object at index {index}: invalid groupVersion (expected {expected}, received {got})"
        ));
    }
    let (expected, got) = (object::text(original, &["kind"]), object::text(&converted, &["kind"]));
    if expected != got {
        return Err(format!(
            "invalid object at index {index}: invalid kind (expected {expected}, received {got})"
        ));
    }
    for (what, key) in [("name", "name"), ("namespace", "namespace"), ("UID", "uid")] {
        let (was, is) =
            (object::text(original, &["metadata", key]), object::text(&converted, &["metadata", key]));
        if was != is {
            return Err(format!("invalid object: must have the same {what}: {was} != {is}"));
        }
    }
    let metadata = restored(original, &converted).map_err(|why| format!("invalid metadata: {why}"))?;
    object::set(&mut converted, &["metadata"], metadata);
    Ok(converted)
}

/// The original's metadata with the labels and annotations of the answer.
fn restored(original: &Value, converted: &Value) -> Result<Value, String> {
    let answered = match converted.get("metadata") {
        None => return Err("missing metadata in converted object".to_owned()),
        Some(Value::Object(map)) => map,
        Some(other) => {
            return Err(format!("invalid metadata of type {} in converted object", go_type(other)));
        }
    };
    let empty = Map::new();
    let was = original.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    let mut metadata = was.clone();
    for field in ["labels", "annotations"] {
        let texts = match answered.get(field) {
            None | Some(Value::Null) => {
                metadata.remove(field);
                continue;
            }
            Some(Value::Object(map)) => map,
            Some(other) => {
                return Err(format!(
                    "invalid metadata.{field} of type {} in converted object",
                    go_type(other)
                ));
            }
        };
        if let Some((key, value)) = texts.iter().find(|(_, value)| !value.is_string()) {
            return Err(format!(
                "metadata.{field}[{key}] must be a string, but is {} in converted object",
                go_type(value)
            ));
        }
        if was.get(field).and_then(Value::as_object) != Some(texts) {
            check(field, texts)?;
        }
        metadata.insert(field.to_owned(), Value::Object(texts.clone()));
    }
    Ok(Value::Object(metadata))
}

fn check(field: &str, texts: &Map<String, Value>) -> Result<(), String> {
    let path = field::root("metadata");
    let mut errors = ErrorList::new();
    let texts = Value::Object(texts.clone());
    if field == "labels" {
        validate::labels(&path.child("labels"), Some(&texts), &mut errors);
    } else {
        validate::annotations(&path.child("annotation"), Some(&texts), &mut errors);
    }
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    match texts.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

/// The type that Go decodes a value into.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn stored() -> Value {
        json!({"apiVersion": "x.dev/v1", "kind": "Cron", "hostPort": "a:1", "metadata": {
            "name": "n", "namespace": "d", "uid": "u", "labels": {"a": "1"}, "resourceVersion": "7",
            "finalizers": ["x.dev/f"]}})
    }

    fn answer(change: impl Fn(&mut Value)) -> Result<Vec<Value>, (Fault, String)> {
        let mut converted = stored();
        converted["apiVersion"] = "x.dev/v2".into();
        let mut review = json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": {
            "uid": "q", "result": {"status": "Success"}, "convertedObjects": [converted]}});
        change(&mut review);
        read(review.to_string().as_bytes(), "v1", "q", &[&stored()], "x.dev/v2")
    }

    #[test]
    fn only_labels_and_annotations_of_the_metadata_are_taken() {
        let read = answer(|review| {
            review["response"]["convertedObjects"][0]["metadata"] = json!({
                "name": "n", "namespace": "d", "uid": "u", "annotations": {"x": "y"},
                "resourceVersion": "9", "finalizers": [], "generation": 5});
        });
        expect![[r#"{"annotations":{"x":"y"},"finalizers":["x.dev/f"],"name":"n","namespace":"d","resourceVersion":"7","uid":"u"}"#]]
            .assert_eq(&read.unwrap()[0]["metadata"].to_string());
    }

    #[test]
    fn answers_that_are_of_no_use_are_told_in_upstreams_words() {
        type Change = fn(&mut Value);
        let table: [Change; 13] = [
            |r| r["apiVersion"] = "v1".into(),
            |r| drop(object::remove(r, &["response"])),
            |r| r["response"]["uid"] = "other".into(),
            |r| r["response"]["result"] = json!({"status": "Failed", "message": "no such field"}),
            |r| r["response"]["result"] = json!({}),
            |r| r["response"]["convertedObjects"] = json!([]),
            |r| r["response"]["convertedObjects"][0]["apiVersion"] = "x.dev/v1".into(),
            |r| r["response"]["convertedObjects"][0]["kind"] = "Dron".into(),
            |r| r["response"]["convertedObjects"][0]["metadata"]["name"] = "m".into(),
            |r| r["response"]["convertedObjects"][0]["metadata"]["uid"] = "v".into(),
            |r| r["response"]["convertedObjects"][0]["metadata"]["labels"] = json!([]),
            |r| r["response"]["convertedObjects"][0]["metadata"]["labels"] = json!({"a": 1}),
            |r| r["response"]["convertedObjects"][0]["metadata"]["labels"] = json!({"a": "!"}),
        ];
        let lines: Vec<String> = table
            .iter()
            .map(|change| {
                answer(change).map_or_else(|(fault, text)| format!("{fault:?}: {text}"), |_| "fine".into())
            })
            .collect();
        expect![[r#"
            Malformed: conversion webhook for x.dev/v1, Kind=Cron failed: expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got /v1, Kind=ConversionReview
            Malformed: conversion webhook for x.dev/v1, Kind=Cron failed: no response provided
            Malformed: conversion webhook for x.dev/v1, Kind=Cron failed: expected response.uid="q", got "other"
            Malformed: conversion webhook for x.dev/v1, Kind=Cron failed: no such field
            Malformed: conversion webhook for x.dev/v1, Kind=Cron failed: response.result.status was '', not 'Success'
            Partial: conversion webhook for x.dev/v1, Kind=Cron returned 0 objects, expected 1
            InvalidObject: conversion webhook for x.dev/v1, Kind=Cron returned invalid object at index 0: invalid groupVersion (expected x.dev/v2, received x.dev/v1)
            InvalidObject: conversion webhook for x.dev/v1, Kind=Cron returned invalid object at index 0: invalid kind (expected Cron, received Dron)
            InvalidObject: conversion webhook for x.dev/v1, Kind=Cron returned invalid object: must have the same name: n != m
            InvalidObject: conversion webhook for x.dev/v1, Kind=Cron returned invalid object: must have the same UID: u != v
            InvalidObject: conversion webhook for x.dev/v1, Kind=Cron returned invalid metadata: invalid metadata.labels of type []interface {} in converted object
            InvalidObject: conversion webhook for x.dev/v1, Kind=Cron returned invalid metadata: metadata.labels[a] must be a string, but is int64 in converted object
            InvalidObject: conversion webhook for x.dev/v1, Kind=Cron returned invalid metadata: metadata.labels: Invalid value: "!": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"#]]
        .assert_eq(&lines.join("\n"));
    }

    #[test]
    fn the_beta_is_not_asked_who_it_answers() {
        let mut converted = stored();
        converted["apiVersion"] = "x.dev/v2".into();
        let review = json!({"response": {"result": {"status": "Success"}, "convertedObjects": [converted]}});
        let read = read(review.to_string().as_bytes(), "v1beta1", "q", &[&stored()], "x.dev/v2");
        assert_eq!(read.unwrap().len(), 1);
    }
}
