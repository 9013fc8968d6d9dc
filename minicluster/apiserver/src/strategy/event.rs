//! Events, of the core group and of `events.k8s.io`: the same objects under other field names.
//!
//! Source: `pkg/registry/core/event/strategy.go`, `printEvent`.

use serde_json::Value;
use windlass_crd::{
    field::{self, Error, ErrorList},
    name,
};

use super::{Column, Part, Strategy, access::path_segment, columns, pod_spec::told};
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
    /// Events of the core group have any name that stands in a path.
    fn check_name(&self, name: &str) -> Result<(), String> {
        path_segment(name)
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = legacy(obj);
        if is_new(obj) {
            new_event(obj, &mut errors);
        }
        errors
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value) -> ErrorList {
        if part != Part::Main {
            return ErrorList::new();
        }
        let mut errors = legacy(obj);
        if is_new(obj) {
            stays(obj, old, &mut errors);
        }
        errors
    }

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

fn is_new(obj: &Value) -> bool {
    object::text(obj, &["apiVersion"]).starts_with("events.k8s.io/")
}

/// What holds for events of both groups. Lengths in bytes.
fn legacy(obj: &Value) -> ErrorList {
    const LENGTHS: [(&str, &str, usize); 4] = [
        ("reportingInstance", "reportingInstance", 128),
        ("action", "action", 128),
        ("reason", "reason", 128),
        ("message", "note", 1024),
    ];
    let mut errors = ErrorList::new();
    let namespace = object::namespace(obj);
    let about = event_text(obj, &["involvedObject", "namespace"], &["regarding", "namespace"]);
    let timed = !object::text(obj, &["eventTime"]).is_empty();
    let fits = match (about, timed) {
        ("", true) => matches!(namespace, "default" | "kube-system"),
        ("", false) => matches!(namespace, "" | "default"),
        (_, true) => true,
        (about, false) => about == namespace,
    };
    if !fits {
        let at = field::root("involvedObject").child("namespace");
        errors.push(Error::invalid(at, about, "does not match event.namespace"));
    }
    if timed {
        let controller = event_text(obj, &["reportingComponent"], &["reportingController"]);
        let at = field::root(if is_new(obj) { "reportingController" } else { "reportingComponent" });
        if controller.is_empty() {
            errors.push(Error::required(&at, ""));
        }
        told(name::qualified_name_faults(controller), &at, controller, &mut errors);
        for (field, new, most) in LENGTHS {
            let given = event_text(obj, &[field], &[new]);
            if given.is_empty() && field != "message" {
                errors.push(Error::required(field::root(field), ""));
            }
            if given.len() > most {
                let detail = format!("can have at most {most} characters");
                errors.push(Error::invalid(field::root(field), "", detail));
            }
        }
    }
    told(name::dns1123_subdomain_faults(namespace), &field::root("namespace"), namespace, &mut errors);
    errors
}

/// What `events.k8s.io` asks for beyond that.
fn new_event(obj: &Value, errors: &mut ErrorList) {
    const UNSET: [(&str, &str); 4] = [
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
        ("deprecatedSource", "source"),
    ];
    let given = object::name(obj);
    told(name::dns1123_subdomain_faults(given), &field::root("metadata").child("name"), given, errors);
    series(obj, errors);
    if object::text(obj, &["eventTime"]).is_empty() {
        errors.push(Error::required(field::root("eventTime"), ""));
    }
    let kind = object::text(obj, &["type"]);
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(Error::invalid(field::root("type"), "", format!("has invalid value: {kind}")));
    }
    for (new, core) in UNSET {
        let set = match object::at(obj, &[new]).or_else(|| object::at(obj, &[core])) {
            None => false,
            Some(Value::Object(map)) => {
                map.values().any(|value| value.as_str().is_some_and(|text| !text.is_empty()))
            }
            Some(value) => *value != 0,
        };
        if set {
            errors.push(Error::invalid(field::root(core), "", "needs to be unset"));
        }
    }
}

fn series(obj: &Value, errors: &mut ErrorList) {
    let Some(series) = object::at(obj, &["series"]) else { return };
    if object::number(series, &["count"]).unwrap_or(0) < 2 {
        errors.push(Error::invalid(field::root("series.count"), "", "should be at least 2"));
    }
    if object::text(series, &["lastObservedTime"]).is_empty() {
        errors.push(Error::required(field::root("series.lastObservedTime"), ""));
    }
}

/// Of an event of `events.k8s.io` nothing changes but its series.
fn stays(obj: &Value, old: &Value, errors: &mut ErrorList) {
    const FIXED: [(&str, &str); 12] = [
        ("regarding", "involvedObject"),
        ("reason", "reason"),
        ("note", "message"),
        ("deprecatedSource", "source"),
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
        ("type", "type"),
        ("eventTime", "eventTime"),
        ("action", "action"),
        ("related", "related"),
        ("reportingInstance", "reportingInstance"),
    ];
    let value = |obj: &Value, field: &str| object::at(obj, &[field]).cloned().unwrap_or_default();
    if value(obj, "series") != value(old, "series") {
        series(obj, errors);
    }
    for (new, core) in FIXED.into_iter().chain([("reportingController", "reportingController")]) {
        if value(obj, new) != value(old, new) {
            errors.push(Error::invalid(field::root(core), value(obj, new), "field is immutable"));
        }
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
