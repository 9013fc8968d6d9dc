//! What happens in a cluster, one line each: events, and what becomes of an operator's own objects.

use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Event;
use kube::Client;
use kube::api::{ApiResource, DynamicObject};
use serde_json::Value;
use windlass::{Delta, Description, Informers, Scope, Subscription};

/// How long it may take to know what is there already.
const KNOWN_WITHIN: Duration = Duration::from_secs(10);

/// Prints everything that happens from now on, as long as what is returned is kept.
pub(super) async fn everything(client: &Client, description: &Description) -> Vec<Subscription> {
    let informers = Informers::new(client.clone());
    let events = informers.get::<Event>(Scope::all());
    let mut known: Vec<BoxFuture<'static, ()>> = vec![Box::pin(events.synced())];
    let mut shown = vec![events.subscribe(|delta: &Delta<Event>| {
        if let Some(line) = delta.new().filter(|_| !delta.is_initial()).and_then(|event| happened(event)) {
            println!("event   {line}");
        }
    })];
    for definition in &description.crds {
        let names = &definition.spec.names;
        let Some(version) = definition.spec.versions.iter().find(|version| version.served) else { continue };
        let kind = ApiResource {
            group: definition.spec.group.clone(),
            version: version.name.clone(),
            api_version: format!("{}/{}", definition.spec.group, version.name),
            kind: names.kind.clone(),
            plural: names.plural.clone(),
        };
        let called = names.kind.clone();
        let objects = informers.dynamic(&kind, Scope::all());
        known.push(Box::pin(objects.synced()));
        shown.push(objects.subscribe(move |delta: &Delta<DynamicObject>| {
            if delta.is_initial() {
                return;
            }
            let value = |object: &DynamicObject| serde_json::to_value(object).unwrap_or_default();
            let (old, new) = (delta.old().map(|o| value(o)), delta.new().map(|o| value(o)));
            changes(old.as_ref(), new.as_ref()).iter().for_each(|line| println!("object  {called} {line}"));
        }));
    }
    // A cluster that does not let its events be read shows none.
    let _ = tokio::time::timeout(KNOWN_WITHIN, futures::future::join_all(known)).await;
    shown
}

/// What an event says; `None` for one that says nothing.
fn happened(event: &Event) -> Option<String> {
    let about = &event.involved_object;
    let (kind, name) = (about.kind.as_deref()?, about.name.as_deref()?);
    let place = about.namespace.as_deref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
    let count =
        event.count.filter(|count| *count > 1).map(|count| format!(" ({count} times)")).unwrap_or_default();
    let (type_, reason) =
        (event.type_.as_deref().unwrap_or("Normal"), event.reason.as_deref().unwrap_or_default());
    Some(format!(
        "{type_} {reason} {kind} {place}{name}{count}: {}",
        event.message.as_deref().unwrap_or_default()
    ))
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// What became of an object, as people care about it: that it came, is another, waits, or went.
fn changes(old: Option<&Value>, new: Option<&Value>) -> Vec<String> {
    let Some(seen) = new.or(old) else { return Vec::new() };
    let namespace = text(seen, "/metadata/namespace");
    let name = match namespace {
        "" => text(seen, "/metadata/name").to_owned(),
        namespace => format!("{namespace}/{}", text(seen, "/metadata/name")),
    };
    let (Some(old), Some(new)) = (old, new) else {
        return vec![format!("{name} {}", if new.is_some() { "is there" } else { "is gone" })];
    };
    let mut lines = Vec::new();
    if old["metadata"]["generation"] != new["metadata"]["generation"] {
        lines.push(format!("{name} asks for something else: generation {}", new["metadata"]["generation"]));
    }
    if text(old, "/metadata/deletionTimestamp") != text(new, "/metadata/deletionTimestamp") {
        lines.push(format!("{name} is being deleted"));
    }
    let conditions = |of: &Value| of["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let said = |condition: &Value| {
        let (kind, status) = (text(condition, "/type"), text(condition, "/status"));
        format!("{kind} is {status}, {}: {}", text(condition, "/reason"), text(condition, "/message"))
    };
    let before: Vec<String> = conditions(old).iter().map(said).collect();
    let now = conditions(new).iter().map(said).collect::<Vec<_>>();
    lines.extend(now.into_iter().filter(|line| !before.contains(line)).map(|line| format!("{name} {line}")));
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_objects_life_in_lines() {
        let object = |generation: u32, ready: Option<&str>| {
            let conditions: Vec<Value> = ready
                .into_iter()
                .map(|status| json!({ "type": "Ready", "status": status, "reason": "So", "message": "why" }))
                .collect();
            json!({ "metadata": { "namespace": "sea", "name": "main", "generation": generation }, "status": { "conditions": conditions } })
        };
        let (none, waits, ready, other) =
            (object(1, None), object(1, Some("False")), object(1, Some("True")), object(2, Some("True")));
        assert_eq!(changes(None, Some(&none)), ["sea/main is there"]);
        assert_eq!(changes(Some(&none), Some(&waits)), ["sea/main Ready is False, So: why"]);
        assert_eq!(changes(Some(&waits), Some(&ready)), ["sea/main Ready is True, So: why"]);
        assert_eq!(changes(Some(&ready), Some(&ready)), Vec::<String>::new());
        assert_eq!(changes(Some(&ready), Some(&other)), ["sea/main asks for something else: generation 2"]);
        let mut ending = other.clone();
        ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(changes(Some(&other), Some(&ending)), ["sea/main is being deleted"]);
        assert_eq!(changes(Some(&ending), None), ["sea/main is gone"]);
    }

    #[test]
    fn an_event_in_a_line() {
        let event: Event = serde_json::from_value(json!({
            "metadata": {},
            "involvedObject": { "kind": "Sail", "namespace": "sea", "name": "main" },
            "type": "Warning", "reason": "Torn", "message": "by wind", "count": 2,
        }))
        .unwrap();
        assert_eq!(happened(&event).unwrap(), "Warning Torn Sail sea/main (2 times): by wind");
    }
}
