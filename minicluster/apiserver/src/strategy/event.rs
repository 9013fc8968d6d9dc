//! Events, of the core group and of `events.k8s.io`: the same objects under other field names.
//!
//! Source: `pkg/registry/core/event/strategy.go`, `printEvent`.

use serde_json::Value;

use super::{Column, Strategy, columns};
use crate::{object, table};

/// Event, of both groups.
pub(crate) struct Event;

type Fields = &'static [(&'static str, fn(&Value) -> String)];

/// A field of an event, by its core name or its `events.k8s.io` name.
fn event_text<'v>(obj: &'v Value, core: &[&str], new: &[&str]) -> &'v str {
    match object::text(obj, core) {
        "" => object::text(obj, new),
        text => text,
    }
}

fn event_count(obj: &Value) -> i64 {
    object::number(obj, &["series", "count"])
        .or_else(|| object::number(obj, &["count"]))
        .or_else(|| object::number(obj, &["deprecatedCount"]))
        .filter(|count| *count > 0)
        .unwrap_or(1)
}

fn event_times(obj: &Value) -> (String, String) {
    let own = object::text(obj, &["eventTime"]).to_owned();
    let first = match event_text(obj, &["firstTimestamp"], &["deprecatedFirstTimestamp"]) {
        "" => own.clone(),
        text => text.to_owned(),
    };
    let series = object::text(obj, &["series", "lastObservedTime"]);
    let last = match (series, event_text(obj, &["lastTimestamp"], &["deprecatedLastTimestamp"])) {
        ("", "") => first.clone(),
        ("", last) => last.to_owned(),
        (series, _) => series.to_owned(),
    };
    (first, last)
}

impl Strategy for Event {
    fn columns(&self) -> Option<Vec<Column>> {
        let target = |obj: &Value| {
            let kind = event_text(obj, &["involvedObject", "kind"], &["regarding", "kind"]).to_lowercase();
            let name = event_text(obj, &["involvedObject", "name"], &["regarding", "name"]);
            if name.is_empty() { kind } else { format!("{kind}/{name}") }
        };
        let source = |obj: &Value| {
            let component =
                match event_text(obj, &["source", "component"], &["deprecatedSource", "component"]) {
                    "" => event_text(obj, &["reportingComponent"], &["reportingController"]),
                    text => text,
                };
            let host = match event_text(obj, &["source", "host"], &["deprecatedSource", "host"]) {
                "" => object::text(obj, &["reportingInstance"]),
                text => text,
            };
            if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") }
        };
        Some(vec![
            columns::made("Last Seen", |o| table::since(&event_times(o).1)),
            columns::text("Type", &["type"]),
            columns::text("Reason", &["reason"]),
            columns::made("Object", target),
            columns::made("Subobject", |o| {
                event_text(o, &["involvedObject", "fieldPath"], &["regarding", "fieldPath"]).to_owned()
            })
            .wide(),
            columns::made("Source", source).wide(),
            columns::made("Message", |o| event_text(o, &["message"], &["note"]).trim().to_owned()),
            columns::made("First Seen", |o| table::since(&event_times(o).0)).wide(),
            Column::new("Count", |o| event_count(o).into()).wide(),
            Column { format: "name", ..columns::text("Name", &["metadata", "name"]).wide() },
        ])
    }

    fn fields(&self) -> Fields {
        &[
            ("involvedObject.kind", |o| {
                event_text(o, &["involvedObject", "kind"], &["regarding", "kind"]).to_owned()
            }),
            ("involvedObject.namespace", |o| {
                event_text(o, &["involvedObject", "namespace"], &["regarding", "namespace"]).to_owned()
            }),
            ("involvedObject.name", |o| {
                event_text(o, &["involvedObject", "name"], &["regarding", "name"]).to_owned()
            }),
            ("involvedObject.uid", |o| {
                event_text(o, &["involvedObject", "uid"], &["regarding", "uid"]).to_owned()
            }),
            ("involvedObject.apiVersion", |o| {
                event_text(o, &["involvedObject", "apiVersion"], &["regarding", "apiVersion"]).to_owned()
            }),
            ("involvedObject.resourceVersion", |o| {
                event_text(o, &["involvedObject", "resourceVersion"], &["regarding", "resourceVersion"])
                    .to_owned()
            }),
            ("involvedObject.fieldPath", |o| {
                event_text(o, &["involvedObject", "fieldPath"], &["regarding", "fieldPath"]).to_owned()
            }),
            ("reason", |o| object::text(o, &["reason"]).to_owned()),
            ("reportingComponent", |o| {
                event_text(o, &["reportingComponent"], &["reportingController"]).to_owned()
            }),
            ("reportingController", |o| {
                event_text(o, &["reportingComponent"], &["reportingController"]).to_owned()
            }),
            ("source", |o| {
                match event_text(o, &["source", "component"], &["deprecatedSource", "component"]) {
                    "" => event_text(o, &["reportingComponent"], &["reportingController"]).to_owned(),
                    text => text.to_owned(),
                }
            }),
            ("type", |o| object::text(o, &["type"]).to_owned()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_faces_select_alike() {
        let core =
            json!({"involvedObject": {"kind": "Pod", "name": "p"}, "source": {"component": "kubelet"}});
        let new =
            json!({"regarding": {"kind": "Pod", "name": "p"}, "deprecatedSource": {"component": "kubelet"}});
        for (name, value) in Event.fields() {
            assert_eq!(value(&core), value(&new), "{name}");
        }
    }

    #[test]
    fn a_series_tells_count_and_last_time() {
        let event = json!({"eventTime": "2024-01-01T00:00:00.000000Z", "count": 1,
            "series": {"count": 5, "lastObservedTime": "2024-01-01T00:01:00.000000Z"}});
        assert_eq!(event_count(&event), 5);
        let (first, last) = event_times(&event);
        assert_eq!(
            (first.as_str(), last.as_str()),
            ("2024-01-01T00:00:00.000000Z", "2024-01-01T00:01:00.000000Z")
        );
    }
}
