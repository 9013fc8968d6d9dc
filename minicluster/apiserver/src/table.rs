//! `meta.k8s.io/v1 Table`: what `kubectl get` prints.
//!
//! The columns come from the kind's [`Strategy`]; kinds without any show name and creation time.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use windlass_crd::field::quote;

use crate::{
    context::Context,
    object,
    request::Query,
    status::{ApiError, ApiResult},
    strategy::Column,
};

/// Checks what a table is to show of its objects.
///
/// # Errors
/// 400.
pub fn check(query: &Query) -> ApiResult<()> {
    match query.get("includeObject").unwrap_or_default() {
        "" | "Metadata" | "None" | "Object" => Ok(()),
        other => Err(ApiError::bad_request(format!(
            "Unable to convert to Table as requested: includeObject: Invalid value: {}: must be 'Metadata', 'Object', \
             'None', or empty",
            quote(other)
        ))),
    }
}

/// Renders objects as a `Table`.
pub fn render(cx: &Context, objects: &[Value], metadata: &Value) -> Value {
    let columns = cx.resource.strategy.columns().unwrap_or_else(|| vec![created_at()]);
    let include = cx.query.get("includeObject").unwrap_or_default();
    // Events tell their name last, and only when asked for more.
    let names_itself = columns.iter().any(|c| c.name == "Name");
    let mut definitions = Vec::with_capacity(columns.len() + 1);
    if !names_itself {
        definitions.push(json!({
            "name": "Name", "type": "string", "format": "name", "priority": 0,
            "description": "Name must be unique within a namespace.",
        }));
    }
    definitions.extend(columns.iter().map(|c| {
        json!({
            "name": c.name, "type": c.type_, "format": c.format,
            "description": c.description, "priority": c.priority,
        })
    }));
    let rows: Vec<Value> = objects
        .iter()
        .map(|obj| {
            let mut cells = Vec::with_capacity(columns.len() + 1);
            if !names_itself {
                cells.push(Value::from(object::name(obj)));
            }
            cells.extend(columns.iter().map(|c| (c.cell)(obj)));
            let mut row = Map::new();
            row.insert("cells".to_owned(), cells.into());
            match include {
                "None" => {
                    row.insert("object".to_owned(), Value::Null);
                }
                "Object" => {
                    row.insert("object".to_owned(), obj.clone());
                }
                _ => {
                    row.insert("object".to_owned(), partial(cx, obj));
                }
            }
            Value::Object(row)
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": definitions, "rows": rows,
    })
}

fn partial(cx: &Context, obj: &Value) -> Value {
    let mut metadata = obj.get("metadata").cloned().unwrap_or_default();
    if let Some(hidden) = cx.resource.strategy.hidden_annotation() {
        object::remove(&mut metadata, &["annotations", hidden]);
        if object::at(&metadata, &["annotations"]).and_then(Value::as_object).is_some_and(Map::is_empty) {
            object::remove(&mut metadata, &["annotations"]);
        }
    }
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
}

/// The one column of kinds without a printer: when the object was created.
pub fn created_at() -> Column {
    Column::new("Created At", |obj| object::text(obj, &["metadata", "creationTimestamp"]).into())
        .typed("date")
}

/// The usual last column: how long ago the object was created.
pub fn age() -> Column {
    Column::new("Age", |obj| since(object::text(obj, &["metadata", "creationTimestamp"])).into())
}

/// How long ago an RFC 3339 time was, as upstream writes durations for people; `<unknown>` for no time.
pub fn since(time: &str) -> String {
    let Ok(then) = time.parse::<Timestamp>() else { return "<unknown>".to_owned() };
    human_duration(windlass::clock::now().as_second() - then.as_second())
}

/// Seconds as `kubectl` writes them: at most two units, fewer the longer it is.
///
/// Source: `k8s.io/apimachinery/pkg/util/duration.HumanDuration`.
pub fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
    };
    match seconds {
        ..=-2 => "<invalid>".to_owned(),
        -1 | 0 => "0s".to_owned(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, "h", s / MINUTE % 60, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, "d", s / HOUR % 24, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, "y", s / DAY % 365, "d"),
        s => format!("{}y", s / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::human_duration;

    #[test]
    fn durations_read_as_kubectl_writes_them() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (599, "9m59s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_000, "3h3m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (70_000_000, "2y80d"),
            (252_288_000, "8y"),
        ] {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }
}
