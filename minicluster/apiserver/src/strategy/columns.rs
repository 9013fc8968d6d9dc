//! The shapes that table columns come in.

use serde_json::Value;

use super::Column;
use crate::{object, table};

/// A column with the text at a path.
pub(crate) fn text(name: &str, path: &'static [&'static str]) -> Column {
    Column::new(name, move |obj| object::text(obj, path).into())
}

/// A column with the text at a path, or `<none>`.
pub(crate) fn text_or_none(name: &str, path: &'static [&'static str]) -> Column {
    Column::new(name, move |obj| or_none(object::text(obj, path)).into())
}

/// A column with the number at a path, or 0.
pub(crate) fn number(name: &str, path: &'static [&'static str]) -> Column {
    Column::new(name, move |obj| object::number(obj, path).unwrap_or(0).into()).typed("integer")
}

/// A column with what a function makes of the object.
pub(crate) fn made(name: &str, cell: fn(&Value) -> String) -> Column {
    Column::new(name, move |obj| cell(obj).into())
}

/// A column with the length of the list or map at a path.
pub(crate) fn count(name: &str, path: &'static [&'static str]) -> Column {
    Column::new(name, move |obj| {
        let length = match object::at(obj, path) {
            Some(Value::Array(items)) => items.len(),
            Some(Value::Object(map)) => map.len(),
            _ => 0,
        };
        length.into()
    })
    .typed("integer")
}

/// The usual last column.
pub(crate) fn age() -> Column {
    table::age()
}

/// The text, or `<none>`.
pub(crate) fn or_none(text: &str) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text.to_owned() }
}

/// A label selector object or a plain map, as `kubectl` prints it.
pub(crate) fn selector(value: Option<&Value>) -> String {
    let parsed = match value {
        Some(value) if value.get("matchLabels").is_some() || value.get("matchExpressions").is_some() => {
            windlass_crd::selector::LabelSelector::from_json(Some(value)).unwrap_or_default()
        }
        other => windlass_crd::selector::LabelSelector::from_map_value(other),
    };
    or_none(&parsed.to_string())
}

/// The wide columns of workloads: containers, images and selector of a pod template.
pub(crate) fn template(selector_path: &'static [&'static str]) -> [Column; 3] {
    const CONTAINERS: [&str; 4] = ["spec", "template", "spec", "containers"];
    let joined = |field: &'static str| {
        move |obj: &Value| {
            let texts: Vec<&str> =
                object::list(obj, &CONTAINERS).iter().map(|c| object::text(c, &[field])).collect();
            Value::from(texts.join(","))
        }
    };
    [
        Column::new("Containers", joined("name")).wide(),
        Column::new("Images", joined("image")).wide(),
        Column::new("Selector", move |obj| selector(object::at(obj, selector_path)).into()).wide(),
    ]
}
