//! Custom resource definitions: how they are accepted, and how they become rows of the table.
//!
//! The table is brought up to date when it is read, so a kind is served from the request after its definition was
//! written. Source: `k8s.io/apiextensions-apiserver/pkg/controller/status` for names and conditions.

pub(crate) mod conversion;
pub(crate) mod ending;
mod json_path;

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, OnceLock},
};

use minicluster_store::{Snapshot, Store};
use parking_lot::Mutex;
use serde_json::{Value, json};
use windlass_crd::schema;

use crate::{
    cel::Rules,
    context::Context,
    object,
    registry::{Custom, METADATA, Registry, Resource, ScalePaths, Subresource, Text, Verbs},
    strategy::{Column, Strategy},
    table,
    view::{self, View},
};
use conversion::Conversion;

/// Where definitions are stored.
pub const PREFIX: &str = "/registry/apiextensions.k8s.io/customresourcedefinitions/";

type Rows = Vec<Arc<Resource>>;

/// The definitions as rows.
pub struct Definitions {
    rows: View<Rows>,
    applied: Mutex<Option<Arc<Rows>>>,
}

impl Definitions {
    /// Reads definitions from the store, always as of now.
    pub fn new(store: &Store) -> Self {
        Self { rows: View::new(store, &[PREFIX], build), applied: Mutex::new(None) }
    }

    /// Brings the table of kinds up to date.
    pub fn refresh(&self, registry: &Registry) {
        let rows = self.rows.get();
        let mut applied = self.applied.lock();
        if applied.as_ref().is_some_and(|a| Arc::ptr_eq(a, &rows)) {
            return;
        }
        registry.set_custom(rows.to_vec(), version_order);
        *applied = Some(rows);
    }
}

fn build(snapshot: &Snapshot, prefixes: &'static [&'static str]) -> Rows {
    let mut rows = Rows::new();
    for prefix in prefixes {
        for (_, crd) in view::objects(snapshot, prefix) {
            if is_established(&crd) {
                rows.extend(rows_of(&crd));
            }
        }
    }
    rows
}

fn is_established(crd: &Value) -> bool {
    object::list(crd, &["status", "conditions"])
        .iter()
        .any(|c| object::text(c, &["type"]) == "Established" && object::text(c, &["status"]) == "True")
}

/// The served versions of a definition as rows.
fn rows_of(crd: &Value) -> Rows {
    let conversion = Arc::new(conversion_of(crd));
    object::list(crd, &["spec", "versions"])
        .iter()
        .filter(|v| v.get("served").and_then(Value::as_bool) == Some(true))
        .filter_map(|v| row(crd, v, &conversion).map(Arc::new))
        .collect()
}

/// How objects of a definition get from one version into another.
fn conversion_of(crd: &Value) -> Conversion {
    let group = object::text(crd, &["spec", "group"]);
    let preserve = crd.pointer("/spec/preserveUnknownFields").and_then(Value::as_bool) == Some(true);
    let schemas = object::list(crd, &["spec", "versions"]).iter().filter_map(|version| {
        let written = version.pointer("/schema/openAPIV3Schema")?;
        let schema = schema::from_crd(&with_metadata(written, preserve)).ok()?;
        Some((format!("{group}/{}", object::text(version, &["name"])), schema))
    });
    Conversion::new(crd, schemas.collect())
}

/// Says whether two definitions would show their objects alike.
fn digest(spec: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    spec.to_string().hash(&mut hasher);
    hasher.finish()
}

fn row(crd: &Value, version: &Value, conversion: &Arc<Conversion>) -> Option<Resource> {
    let spec = crd.get("spec")?;
    let names = crd.pointer("/status/acceptedNames").or_else(|| spec.get("names"))?;
    let name = |key: &str| Text::Owned(object::text(names, &[key]).to_owned());
    let texts = |key: &str| -> Vec<Text> {
        object::list(names, &[key])
            .iter()
            .filter_map(Value::as_str)
            .map(|s| Text::Owned(s.to_owned()))
            .collect()
    };
    let group = object::text(spec, &["group"]).to_owned();
    let storage = object::list(spec, &["versions"])
        .iter()
        .find(|v| v.get("storage").and_then(Value::as_bool) == Some(true))?;
    let written = Arc::new(version.pointer("/schema/openAPIV3Schema")?.clone());
    let kind = name("kind");
    let subresources = subresources(version, &kind);
    let scale = version.pointer("/subresources/scale").map(scale_paths);
    let selectable_fields: Vec<String> = object::list(version, &["selectableFields"])
        .iter()
        .map(|f| object::text(f, &["jsonPath"]).trim_start_matches('.').to_owned())
        .collect();
    let deprecated = version.get("deprecated").and_then(Value::as_bool) == Some(true);
    let version_name = object::text(version, &["name"]).to_owned();
    let schema = Arc::clone(conversion.schema(&format!("{group}/{version_name}"))?);
    let warning = match object::text(version, &["deprecationWarning"]) {
        "" => format!("{group}/{version_name} {kind} is deprecated"),
        text => text.to_owned(),
    };
    Some(Resource {
        prefix: format!("/registry/{group}/{}/", name("plural")),
        storage_version: format!("{group}/{}", object::text(storage, &["name"])),
        group: group.into(),
        version: version_name.into(),
        plural: name("plural"),
        singular: name("singular"),
        list_kind: name("listKind"),
        kind,
        short_names: texts("shortNames"),
        categories: texts("categories"),
        namespaced: object::text(spec, &["scope"]) == "Namespaced",
        verbs: Verbs::ALL,
        subresources,
        convert: None,
        generation: true,
        status_keeps: METADATA,
        deprecation: deprecated.then_some(warning),
        strategy: Arc::new(CustomStrategy { columns: columns(version) }),
        custom: Some(Custom {
            uid: object::uid(crd).to_owned(),
            spec_digest: digest(spec),
            conversion: Arc::clone(conversion),
            fingerprint: object::number(crd, &["metadata", "generation"]).unwrap_or(0).to_string(),
            rules: Rules::of(&written).map(Arc::new),
            schema: written,
            evolved: object::number(crd, &["metadata", "generation"]).is_some_and(|n| n > 1),
            scale,
            selectable_fields,
            terminating: ending::is_terminating(crd),
        }),
        schema: OnceLock::from(schema),
    })
}

/// The definition's schema with `apiVersion`, `kind` and `metadata`, which every object has whether it says so or not.
fn with_metadata(schema: &Value, preserve: bool) -> Value {
    let mut schema = schema.clone();
    object::set(&mut schema, &["properties", "apiVersion"], json!({ "type": "string" }));
    object::set(&mut schema, &["properties", "kind"], json!({ "type": "string" }));
    if object::at(&schema, &["properties", "metadata"]).is_none() {
        object::set(&mut schema, &["properties", "metadata"], json!({ "type": "object" }));
    }
    if preserve {
        object::set(&mut schema, &["x-kubernetes-preserve-unknown-fields"], true);
    }
    schema
}

fn subresources(version: &Value, kind: &Text) -> Vec<Subresource> {
    let mut all = Vec::new();
    if object::at(version, &["subresources", "status"]).is_some() {
        all.push(Subresource {
            name: "status",
            kind: kind.clone(),
            group_version: None,
            verbs: Verbs::GET_PATCH_UPDATE,
        });
    }
    if object::at(version, &["subresources", "scale"]).is_some() {
        all.push(Subresource {
            name: "scale",
            kind: "Scale".into(),
            group_version: Some(("autoscaling", "v1")),
            verbs: Verbs::GET_PATCH_UPDATE,
        });
    }
    all
}

fn scale_paths(scale: &Value) -> ScalePaths {
    let path = |key: &str| -> Vec<String> {
        object::text(scale, &[key]).split('.').filter(|s| !s.is_empty()).map(str::to_owned).collect()
    };
    ScalePaths {
        spec_replicas: path("specReplicasPath"),
        status_replicas: path("statusReplicasPath"),
        selector: Some(path("labelSelectorPath")).filter(|p| !p.is_empty()),
    }
}

struct CustomStrategy {
    columns: Vec<Column>,
}

impl Strategy for CustomStrategy {
    fn columns(&self) -> Option<Vec<Column>> {
        Some(self.columns.clone())
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }
}

fn columns(version: &Value) -> Vec<Column> {
    let printer = object::list(version, &["additionalPrinterColumns"]);
    if printer.is_empty() {
        return vec![table::age()];
    }
    printer
        .iter()
        .map(|c| {
            let path = json_path::steps(object::text(c, &["jsonPath"]));
            let type_ = match object::text(c, &["type"]) {
                "integer" => "integer",
                "number" => "number",
                "boolean" => "boolean",
                "date" => "date",
                _ => "string",
            };
            let mut column =
                Column::new(object::text(c, &["name"]), move |obj| cell(obj, &path, type_)).typed(type_);
            column.description = object::text(c, &["description"]).to_owned();
            column.priority = object::number(c, &["priority"]).unwrap_or(0) as i32;
            column
        })
        .collect()
}

fn cell(obj: &Value, path: &[String], type_: &str) -> Value {
    let found = json_path::find(obj, path);
    match (found, type_) {
        (None | Some(Value::Null), _) => Value::Null,
        (Some(Value::String(time)), "date") => table::since(time).into(),
        (Some(v @ (Value::Array(_) | Value::Object(_))), _) => v.to_string().into(),
        (Some(Value::String(s)), _) => s.as_str().into(),
        (Some(v), "string") => v.to_string().into(),
        (Some(v), _) => v.clone(),
    }
}

/// Upstream's order of versions: GA before beta before alpha, then higher numbers first, then other names by letter.
pub fn version_order(a: &str, b: &str) -> Ordering {
    match (rank(a), rank(b)) {
        (Some(x), Some(y)) => y.cmp(&x),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

fn rank(version: &str) -> Option<(u8, u64, u64)> {
    let rest = version.strip_prefix('v')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let major = rest[..digits].parse().ok()?;
    let (stability, minor) = match &rest[digits..] {
        "" => (2, "0"),
        tail => match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
            (Some(n), _) => (1, n),
            (_, Some(n)) => (0, n),
            _ => return None,
        },
    };
    Some((stability, major, minor.parse().ok()?))
}

/// [`settle`]s an object that is being written, if it is a definition.
pub fn settle_written(cx: &Context, obj: &mut Value) {
    if cx.resource.prefix != PREFIX {
        return;
    }
    let snapshot = cx.api.store.snapshot();
    let others: Vec<Value> = view::objects(&snapshot, PREFIX).map(|(_, crd)| crd).collect();
    complete_names(obj);
    settle(obj, &others);
}

/// Singular and list kind follow from the kind unless they are given.
fn complete_names(crd: &mut Value) {
    let kind = object::text(crd, &["spec", "names", "kind"]).to_owned();
    if object::text(crd, &["spec", "names", "singular"]).is_empty() {
        object::set(crd, &["spec", "names", "singular"], kind.to_lowercase());
    }
    if object::text(crd, &["spec", "names", "listKind"]).is_empty() {
        object::set(crd, &["spec", "names", "listKind"], format!("{kind}List"));
    }
    if object::at(crd, &["spec", "conversion"]).is_none() {
        object::set(crd, &["spec", "conversion"], json!({ "strategy": "None" }));
    }
}

/// Decides names and conditions of a definition that is being written, given the others.
///
/// Upstream does this in controllers a moment later; here it is part of the write, so that the answer to the request
/// already says whether the kind is served.
pub fn settle(crd: &mut Value, others: &[Value]) {
    let now = object::now();
    let wanted = crd.pointer("/spec/names").cloned().unwrap_or_default();
    let conflict = name_conflict(crd, others);
    let names_ok = conflict.is_none();
    if names_ok {
        object::set(crd, &["status", "acceptedNames"], wanted);
    } else if object::at(crd, &["status", "acceptedNames"]).is_none() {
        object::set(crd, &["status", "acceptedNames"], json!({ "plural": "", "kind": "" }));
    }
    let storage = object::list(crd, &["spec", "versions"])
        .iter()
        .find(|v| v.get("storage").and_then(Value::as_bool) == Some(true))
        .map_or(String::new(), |v| object::text(v, &["name"]).to_owned());
    let mut stored: Vec<Value> = object::list(crd, &["status", "storedVersions"]).to_vec();
    if !stored.iter().any(|v| *v == *storage) {
        stored.push(storage.into());
    }
    object::set(crd, &["status", "storedVersions"], stored);
    let generation = object::number(crd, &["metadata", "generation"]).unwrap_or(1);
    object::set(crd, &["status", "observedGeneration"], generation);
    let (reason, message) = conflict.unwrap_or(("NoConflicts", "no conflicts found".to_owned()));
    let status = if names_ok { "True" } else { "False" };
    condition(crd, "NamesAccepted", status, reason, &message, &now);
    if names_ok {
        condition(
            crd,
            "Established",
            "True",
            "InitialNamesAccepted",
            "the initial names have been accepted",
            &now,
        );
    } else if !is_established(crd) {
        condition(crd, "Established", "False", "NotAccepted", "not all names are accepted", &now);
    }
}

fn name_conflict(crd: &Value, others: &[Value]) -> Option<(&'static str, String)> {
    let group = object::text(crd, &["spec", "group"]);
    let mut taken: BTreeMap<String, &Value> = BTreeMap::new();
    let mut kinds: BTreeMap<String, &Value> = BTreeMap::new();
    for other in others
        .iter()
        .filter(|o| object::text(o, &["spec", "group"]) == group && object::name(o) != object::name(crd))
    {
        let Some(names) = other.pointer("/status/acceptedNames") else { continue };
        for key in ["plural", "singular"] {
            taken.insert(object::text(names, &[key]).to_owned(), other);
        }
        for short in object::list(names, &["shortNames"]).iter().filter_map(Value::as_str) {
            taken.insert(short.to_owned(), other);
        }
        for key in ["kind", "listKind"] {
            kinds.insert(object::text(names, &[key]).to_owned(), other);
        }
    }
    let names = crd.pointer("/spec/names")?;
    let used = |name: &str| format!("\"{name}\" is already in use");
    for (key, reason) in [("plural", "PluralConflict"), ("singular", "SingularConflict")] {
        let name = object::text(names, &[key]);
        if !name.is_empty() && taken.contains_key(name) {
            return Some((reason, used(name)));
        }
    }
    if let Some(short) =
        object::list(names, &["shortNames"]).iter().filter_map(Value::as_str).find(|s| taken.contains_key(*s))
    {
        return Some(("ShortNamesConflict", used(short)));
    }
    for (key, reason) in [("kind", "KindConflict"), ("listKind", "ListKindConflict")] {
        let name = object::text(names, &[key]);
        if !name.is_empty() && kinds.contains_key(name) {
            return Some((reason, used(name)));
        }
    }
    None
}

/// Sets a condition; its time changes with its status only.
fn condition(crd: &mut Value, type_: &str, status: &str, reason: &str, message: &str, now: &str) {
    let mut conditions = object::list(crd, &["status", "conditions"]).to_vec();
    let at = conditions.iter().position(|c| object::text(c, &["type"]) == type_);
    let since = at
        .filter(|i| object::text(&conditions[*i], &["status"]) == status)
        .map_or_else(|| now.to_owned(), |i| object::text(&conditions[i], &["lastTransitionTime"]).to_owned());
    let condition = json!({
        "type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": since,
    });
    match at {
        Some(i) => conditions[i] = condition,
        None => conditions.push(condition),
    }
    object::set(crd, &["status", "conditions"], conditions);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_sort_as_the_documentation_shows() {
        let mut versions = vec![
            "foo10",
            "v11alpha2",
            "foo1",
            "v3beta1",
            "v12alpha1",
            "v11beta2",
            "v10",
            "v2",
            "v10beta3",
            "v1",
            "v11alpha1",
        ];
        versions.sort_by(|a, b| version_order(a, b));
        assert_eq!(
            versions,
            [
                "v10",
                "v2",
                "v1",
                "v11beta2",
                "v10beta3",
                "v3beta1",
                "v12alpha1",
                "v11alpha2",
                "v11alpha1",
                "foo1",
                "foo10",
            ]
        );
    }

    #[test]
    fn a_name_that_is_taken_is_not_accepted() {
        let crd = |name: &str, kind: &str| {
            json!({
                "metadata": {"name": name, "generation": 1},
                "spec": {
                    "group": "x.dev",
                    "names": {"plural": "as", "singular": "a", "kind": kind, "listKind": format!("{kind}List")},
                    "versions": [{"name": "v1", "served": true, "storage": true}],
                },
            })
        };
        let mut first = crd("as.x.dev", "A");
        settle(&mut first, &[]);
        assert!(is_established(&first));
        assert_eq!(first["status"]["storedVersions"], json!(["v1"]));
        let mut second = crd("bs.x.dev", "B");
        settle(&mut second, &[first]);
        assert!(!is_established(&second));
        assert_eq!(second["status"]["conditions"][0]["reason"], "PluralConflict");
    }
}
