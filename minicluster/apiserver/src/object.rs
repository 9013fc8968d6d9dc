//! Objects in flight: a JSON tree while a write is decided, bytes before and after.
//!
//! [`encode`] leaves a place for `metadata.resourceVersion` that the store fills with the revision of the write, so
//! stored bytes are exactly what a client is sent.

use minicluster_store::{Entry, Payload};
use serde_json::{Map, Value};
use windlass_crd::selector::{FieldSelector, LabelSelector};

use crate::{crds::conversion, read::Term, registry::Resource};

/// The text at a path, or "".
pub fn text<'v>(obj: &'v Value, path: &[&str]) -> &'v str {
    at(obj, path).and_then(Value::as_str).unwrap_or("")
}

/// The value at a path.
pub fn at<'v>(obj: &'v Value, path: &[&str]) -> Option<&'v Value> {
    path.iter().try_fold(obj, |v, key| v.get(key)).filter(|v| !v.is_null())
}

/// The whole number at a path.
pub fn number(obj: &Value, path: &[&str]) -> Option<i64> {
    at(obj, path).and_then(Value::as_i64)
}

/// The list at a path, or an empty one.
pub fn list<'v>(obj: &'v Value, path: &[&str]) -> &'v [Value] {
    at(obj, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Sets the value at a path, making the objects on the way.
pub fn set(obj: &mut Value, path: &[&str], value: impl Into<Value>) {
    let Some((last, way)) = path.split_last() else { return };
    let mut node = obj;
    for key in way {
        node = child(node, key);
    }
    map(node).insert((*last).to_owned(), value.into());
}

/// Removes the value at a path and returns it.
pub fn remove(obj: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, way) = path.split_last()?;
    let parent = way.iter().try_fold(obj, |v, key| v.get_mut(key))?;
    parent.as_object_mut()?.remove(*last)
}

fn child<'v>(node: &'v mut Value, key: &str) -> &'v mut Value {
    map(node).entry(key).or_insert(Value::Null)
}

/// The object's map; anything else is replaced by an empty one.
pub fn map(node: &mut Value) -> &mut Map<String, Value> {
    if !node.is_object() {
        *node = Value::Object(Map::new());
    }
    node.as_object_mut().expect("just made an object")
}

/// The metadata, made when missing.
pub fn meta(obj: &mut Value) -> &mut Map<String, Value> {
    map(child(obj, "metadata"))
}

/// `metadata.name`.
pub fn name(obj: &Value) -> &str {
    text(obj, &["metadata", "name"])
}

/// `metadata.namespace`.
pub fn namespace(obj: &Value) -> &str {
    text(obj, &["metadata", "namespace"])
}

/// `metadata.uid`.
pub fn uid(obj: &Value) -> &str {
    text(obj, &["metadata", "uid"])
}

/// True when `metadata.deletionTimestamp` is set.
pub fn is_deleting(obj: &Value) -> bool {
    at(obj, &["metadata", "deletionTimestamp"]).is_some()
}

/// `metadata.finalizers`.
pub fn finalizers(obj: &Value) -> Vec<String> {
    list(obj, &["metadata", "finalizers"]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// How every encoded object of a kind begins: what lists of it say once for all.
pub fn head(api_version: &str, kind: &str) -> Vec<u8> {
    let mut out = b"{\"kind\":".to_vec();
    write(&mut out, kind);
    out.extend_from_slice(b",\"apiVersion\":");
    write(&mut out, api_version);
    out.push(b',');
    out
}

/// Encodes an object for the store, in its storage version.
pub fn encode(resource: &Resource, obj: &Value) -> Payload {
    let mut out = head(&resource.storage_version, &resource.kind);
    let stamp = encode_members(&mut out, obj);
    Payload::stamped(out, stamp)
}

/// Encodes an object as it stands, in the same order.
pub fn shown(obj: &Value) -> Vec<u8> {
    let mut out = head(text(obj, &["apiVersion"]), text(obj, &["kind"]));
    let revision = text(obj, &["metadata", "resourceVersion"]).to_owned();
    let stamp = encode_members(&mut out, obj);
    out.splice(stamp..stamp, revision.into_bytes());
    out
}

/// The metadata, then the rest, and the brace that closes all. Returns where the revision belongs.
fn encode_members(out: &mut Vec<u8>, obj: &Value) -> usize {
    let empty = Map::new();
    let metadata = obj.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    out.extend_from_slice(b"\"metadata\":");
    let stamp = encode_meta(out, metadata);
    for (key, value) in obj.as_object().unwrap_or(&empty) {
        if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
            separate(out, 1, key);
            write(out, value);
        }
    }
    out.push(b'}');
    stamp
}

fn encode_meta(out: &mut Vec<u8>, meta: &Map<String, Value>) -> usize {
    out.extend_from_slice(b"{\"resourceVersion\":\"");
    let stamp = out.len();
    out.push(b'"');
    for (key, value) in meta {
        if key != "resourceVersion" {
            separate(out, 1, key);
            write(out, value);
        }
    }
    out.push(b'}');
    stamp
}

fn separate(out: &mut Vec<u8>, i: usize, key: &str) {
    if i > 0 {
        out.push(b',');
    }
    write(out, key);
    out.push(b':');
}

fn write<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("JSON into memory");
}

/// Decodes a stored object into the version of `resource`. For kinds that a webhook may convert see
/// [`conversion::decode`].
pub fn decode(resource: &Resource, bytes: &[u8]) -> Value {
    let mut obj: Value = serde_json::from_slice(bytes).expect("stored objects are valid JSON");
    to_version(resource, &mut obj);
    obj
}

/// Converts a decoded object from its storage version into the version of `resource`.
pub fn to_version(resource: &Resource, obj: &mut Value) {
    if resource.custom.is_some() {
        if !resource.is_served_as_stored() {
            conversion::to_version(resource, obj);
        }
        return;
    }
    let wanted = resource.api_version();
    if obj.get("apiVersion").and_then(Value::as_str) != Some(wanted.as_str()) {
        match &resource.convert {
            Some(convert) => convert(obj, &wanted),
            None => set(obj, &["apiVersion"], wanted),
        }
    }
}

/// Converts an object into the version in which it is stored.
pub fn to_storage(resource: &Resource, obj: &mut Value) {
    if resource.is_storage_version() {
        return;
    }
    if let Some(convert) = &resource.convert {
        convert(obj, &resource.storage_version);
    }
}

/// What selectors look at, computed once for each stored entry.
#[derive(Debug)]
pub struct Attributes {
    labels: std::collections::BTreeMap<String, String>,
    fields: Vec<(&'static str, String)>,
    custom_fields: Vec<(String, String)>,
}

impl Attributes {
    /// The attributes of an entry.
    pub fn of(resource: &Resource, entry: &Entry) -> std::sync::Arc<Self> {
        conversion::attributes(resource, entry)
    }

    pub(crate) fn read(resource: &Resource, bytes: &[u8]) -> Self {
        let obj: Value = serde_json::from_slice(bytes).unwrap_or(Value::Null);
        let labels = at(&obj, &["metadata", "labels"])
            .and_then(Value::as_object)
            .map(|m| m.iter().map(|(k, v)| (k.clone(), v.as_str().unwrap_or("").to_owned())).collect())
            .unwrap_or_default();
        let fields = resource.strategy.fields().iter().map(|(name, read)| (*name, read(&obj))).collect();
        let selectable = resource.custom.as_ref().map_or(&[][..], |custom| &custom.selectable_fields);
        let custom_fields = selectable.iter().map(|path| (path.clone(), scalar(&obj, path))).collect();
        Self { labels, fields, custom_fields }
    }

    /// True when the entry matches both selectors.
    pub fn matches(
        &self,
        resource: &Resource,
        key: &str,
        labels: &LabelSelector,
        fields: &FieldSelector,
    ) -> bool {
        let (namespace, name) = resource.split_key(key);
        labels.matches(&self.labels)
            && fields.matches(|field| match field {
                "metadata.name" => Some(name),
                "metadata.namespace" => Some(namespace),
                other => self.field(other),
            })
    }

    /// What it has of what an index is over; a field that it does not have is "".
    pub(crate) fn value(&self, term: &Term) -> Option<&str> {
        match term {
            Term::Label(key) => self.labels.get(key).map(String::as_str),
            Term::Field(path) => self.field(path),
        }
    }

    fn field(&self, path: &str) -> Option<&str> {
        if let Some((_, value)) = self.fields.iter().find(|(name, _)| *name == path) {
            return Some(value);
        }
        self.custom_fields.iter().find(|(name, _)| name == path).map(|(_, value)| value.as_str())
    }
}

/// What a field selector compares of a custom field: text, number or truth as text, "" when there is none.
fn scalar(obj: &Value, path: &str) -> String {
    let steps: Vec<&str> = path.split('.').filter(|s| !s.is_empty()).collect();
    match at(obj, &steps) {
        Some(Value::String(text)) => text.clone(),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
        _ => String::new(),
    }
}

/// The time as `metadata.creationTimestamp` writes it: UTC, whole seconds.
pub fn now() -> String {
    seconds(windlass::clock::now())
}

/// A time in upstream's `metav1.Time` format.
pub fn seconds(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stamp_sits_where_the_resource_version_belongs() {
        let resource = crate::kinds::table().get("", "v1", "configmaps").cloned().unwrap();
        let obj = serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "data": {"resourceVersion\":\"": "a trap"},
            "metadata": {"annotations": {"resourceVersion": "7"}, "name": "x", "resourceVersion": "old"},
        });
        let store = minicluster_store::Store::memory();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let txn = minicluster_store::Txn::put("/registry/configmaps/d/x", encode(&resource, &obj), 0);
        runtime.block_on(store.txn(txn)).unwrap();
        let back = decode(&resource, &store.get("/registry/configmaps/d/x").unwrap().value);
        let mut expected = obj;
        set(&mut expected, &["metadata", "resourceVersion"], "1");
        assert_eq!(back, expected);
    }
}
