//! What is printed: text for people, JSON for programs, and YAML where objects are handed on.

use std::io::{ErrorKind, Write};

use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// Prints a text. Who reads it may have seen enough before its end, as `head` has: that is no failure.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Objects one after the other, as `kubectl apply -f -` takes them; in JSON they are one List.
pub(crate) fn objects(objects: &[Value], output: Output) -> anyhow::Result<String> {
    match output {
        Output::Text => documents(objects),
        Output::Json => pretty(&json!({ "apiVersion": "v1", "kind": "List", "items": objects })),
    }
}

/// A value in JSON, with its line end.
pub(crate) fn pretty(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// A value in YAML.
pub(crate) fn yaml(value: &Value) -> anyhow::Result<String> {
    serde_saphyr::to_string(&without_nulls(value)).context("it cannot be written as YAML")
}

/// Documents of one YAML stream.
pub(crate) fn documents(values: &[Value]) -> anyhow::Result<String> {
    let texts = values.iter().map(yaml).collect::<anyhow::Result<Vec<String>>>()?;
    Ok(texts.join("---\n"))
}

/// Every document of a text in YAML or JSON; a List is its items.
pub(crate) fn read(text: &str) -> anyhow::Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).context("it is neither YAML nor JSON")?;
    let items = |document: Value| match document["items"].as_array() {
        Some(items) if document["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) => items.clone(),
        _ => vec![document],
    };
    Ok(documents.into_iter().filter(|document| !document.is_null()).flat_map(items).collect())
}

/// An object without what it leaves out.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, value)| !value.is_null());
            kept.map(|(name, value)| (name.clone(), without_nulls(value))).collect()
        }
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}
