//! The schemas of built-in kinds, read on demand from a table of facts.
//!
//! The table is two texts compiled into the crate: `builtin.txt` (structure, merge keys, list types; generated from
//! published definitions) and `defaults.txt` (static defaults). A definition becomes nodes when it is first asked
//! for, and stays: a process that only ever sees Pods holds the nodes of Pods.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, OnceLock};

use super::{Additional, Gvk, ListType, MapType, PatchStrategy, Schema, Type};

const FACTS: &str = include_str!("builtin.txt");
const DEFAULTS: &str = include_str!("defaults.txt");

/// A definition by its place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reference(usize);

impl Reference {
    /// The definition's node.
    pub(crate) fn get(self) -> &'static Schema {
        let block = &TABLE.blocks[self.0];
        block.schema.get_or_init(|| Arc::new(read_block(block)))
    }
}

/// A definition's text and, once it was asked for, its node.
struct Block {
    name: &'static str,
    kind: Option<[&'static str; 3]>,
    atomic: bool,
    fields: &'static str,
    schema: OnceLock<Arc<Schema>>,
}

struct Table {
    blocks: Vec<Block>,
    by_name: BTreeMap<&'static str, usize>,
    /// `apiVersion` and kind to definition.
    by_kind: BTreeMap<String, BTreeMap<&'static str, usize>>,
    defaults: BTreeMap<(&'static str, &'static str), &'static str>,
}

static TABLE: LazyLock<Table> = LazyLock::new(read_table);

/// The schema of a built-in kind: `builtin("apps/v1", "Deployment")`.
#[must_use]
pub fn builtin(api_version: &str, kind: &str) -> Option<Arc<Schema>> {
    TABLE.by_kind.get(api_version)?.get(kind).copied().map(node)
}

/// The schema of a definition by its short name: `definition("core.v1.PodTemplateSpec")`.
#[must_use]
pub fn definition(name: &str) -> Option<Arc<Schema>> {
    TABLE.by_name.get(name).copied().map(node)
}

/// Every built-in kind: `(apiVersion, kind)`, in order.
pub fn kinds() -> impl Iterator<Item = (&'static str, &'static str)> {
    TABLE.by_kind.iter().flat_map(|(version, kinds)| kinds.keys().map(|kind| (version.as_str(), *kind)))
}

fn node(index: usize) -> Arc<Schema> {
    let block = &TABLE.blocks[index];
    Arc::clone(block.schema.get_or_init(|| Arc::new(read_block(block))))
}

fn read_table() -> Table {
    let mut blocks: Vec<Block> = Vec::new();
    let mut start = 0;
    let mut at = 0;
    for line in FACTS.split_inclusive('\n') {
        let next = at + line.len();
        if !line.starts_with(' ') {
            if let Some(last) = blocks.last_mut() {
                last.fields = &FACTS[start..at];
            }
            if !line.starts_with('#') {
                blocks.push(read_head(line.trim_end()));
            }
            start = next;
        }
        at = next;
    }
    if let Some(last) = blocks.last_mut() {
        last.fields = &FACTS[start..];
    }
    let by_name = blocks.iter().enumerate().map(|(i, block)| (block.name, i)).collect();
    let mut by_kind: BTreeMap<String, BTreeMap<&str, usize>> = BTreeMap::new();
    for (i, block) in blocks.iter().enumerate() {
        if let Some([group, version, kind]) = block.kind {
            let api_version =
                if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
            by_kind.entry(api_version).or_default().insert(kind, i);
        }
    }
    let defaults = DEFAULTS.lines().filter(|line| !line.starts_with('#')).filter_map(read_default).collect();
    Table { blocks, by_name, by_kind, defaults }
}

fn read_default(line: &'static str) -> Option<((&'static str, &'static str), &'static str)> {
    let (definition, rest) = line.split_once(' ')?;
    let (field, value) = rest.split_once(' ')?;
    Some(((definition, field), value))
}

fn read_head(line: &'static str) -> Block {
    let mut words = line.split(' ');
    let name = words.next().unwrap_or_default();
    let (mut kind, mut atomic) = (None, false);
    for word in words {
        atomic |= word == "map=atomic";
        let mut parts = word.split('/');
        if let (Some(group), Some(version), Some(of)) = (parts.next(), parts.next(), parts.next()) {
            kind = Some([group, version, of]);
        }
    }
    Block { name, kind, atomic, fields: "", schema: OnceLock::new() }
}

fn read_block(block: &Block) -> Schema {
    let mut schema = Schema {
        ty: Type::Object,
        name: Some(block.name),
        map_type: block.atomic.then_some(MapType::Atomic),
        ..Schema::default()
    };
    if let Some([group, version, kind]) = block.kind {
        schema.gvks.push(Gvk { group: group.into(), version: version.into(), kind: kind.into() });
    }
    for line in block.fields.lines() {
        let mut words = line.trim_start().split(' ');
        let (Some(name), Some(ty)) = (words.next(), words.next()) else { continue };
        let bare = name.trim_end_matches('!');
        let mut field = read_type(ty);
        words.for_each(|marker| read_marker(&mut field, marker));
        field.default =
            TABLE.defaults.get(&(block.name, bare)).and_then(|text| serde_json::from_str(text).ok());
        if bare != name {
            schema.required.push(bare.into());
        }
        schema.properties.insert(bare.into(), Arc::new(field));
    }
    schema
}

fn read_type(text: &'static str) -> Schema {
    if let Some(item) = text.strip_prefix("[]") {
        return Schema { ty: Type::Array, items: Some(Arc::new(read_type(item))), ..Schema::default() };
    }
    if let Some(value) = text.strip_prefix("{}") {
        let additional = Additional::Schema(Arc::new(read_type(value)));
        return Schema { ty: Type::Object, additional, ..Schema::default() };
    }
    let plain = |ty, format: &'static str| Schema { ty, format: format.into(), ..Schema::default() };
    match text {
        "string" => plain(Type::String, ""),
        "bool" => plain(Type::Boolean, ""),
        "int32" => plain(Type::Integer, "int32"),
        "int64" => plain(Type::Integer, "int64"),
        "double" => plain(Type::Number, "double"),
        "bytes" => plain(Type::String, "byte"),
        "time" => plain(Type::String, "date-time"),
        "microtime" => plain(Type::String, "micro-time"),
        "quantity" => plain(Type::Any, "quantity"),
        "intstr" => Schema { int_or_string: true, ..plain(Type::Any, "int-or-string") },
        "fields" => Schema {
            preserve_unknown: true,
            map_type: Some(MapType::Atomic),
            ..plain(Type::Object, "fields")
        },
        "raw" => {
            Schema { preserve_unknown: true, map_type: Some(MapType::Atomic), ..plain(Type::Object, "raw") }
        }
        "object" => Schema { preserve_unknown: true, ..plain(Type::Object, "") },
        "any" => Schema { preserve_unknown: true, map_type: Some(MapType::Atomic), ..plain(Type::Any, "") },
        name => Schema {
            ty: Type::Object,
            reference: TABLE.by_name.get(name).copied().map(Reference),
            ..Schema::default()
        },
    }
}

fn read_marker(field: &mut Schema, marker: &str) {
    let Some((what, value)) = marker.split_once('=') else { return };
    let (word, arguments) = value.split_once('(').map_or((value, ""), |(w, a)| (w, a.trim_end_matches(')')));
    match what {
        "list" => {
            field.list_type = match word {
                "set" => ListType::Set,
                "map" => ListType::Map(arguments.split(',').map(Into::into).collect()),
                _ => ListType::Atomic,
            };
        }
        "map" => field.map_type = Some(if word == "atomic" { MapType::Atomic } else { MapType::Granular }),
        "patch" => {
            let has = |strategy: &str| word.split(',').any(|one| one == strategy);
            field.patch = PatchStrategy {
                merge: has("merge"),
                replace: has("replace"),
                retain_keys: has("retainKeys"),
                merge_key: (!arguments.is_empty()).then(|| arguments.into()),
            };
        }
        _ => {}
    }
}

/// Every definition by its short name, for checks of the table.
#[cfg(test)]
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    TABLE.by_name.keys().copied()
}

/// Every static default, parsed.
#[cfg(test)]
pub(crate) fn defaults() -> impl Iterator<Item = ((&'static str, &'static str), Option<serde_json::Value>)> {
    TABLE.defaults.iter().map(|(key, text)| (*key, serde_json::from_str(text).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_kinds_have_known_facts() {
        let pod = builtin("v1", "Pod").unwrap();
        let spec = pod.property("spec").unwrap();
        assert_eq!(spec.go_name(), Some("PodSpec"));
        let containers = spec.property("containers").unwrap();
        assert_eq!(containers.list_type, ListType::Map(vec!["name".into()]));
        assert_eq!(containers.patch.merge_key.as_deref(), Some("name"));
        let ports = containers.items().unwrap().property("ports").unwrap();
        assert_eq!(ports.list_type, ListType::Map(vec!["containerPort".into(), "protocol".into()]));
        assert_eq!(ports.patch.merge_key.as_deref(), Some("containerPort"));
        assert_eq!(ports.items().unwrap().property("protocol").unwrap().default, Some("TCP".into()));
        assert_eq!(spec.property("nodeSelector").unwrap().map_type(), MapType::Atomic);
        assert_eq!(spec.required(), ["containers".into()]);
        let deployment = builtin("apps/v1", "Deployment").unwrap();
        let selector = deployment.property("spec").unwrap().property("selector").unwrap();
        assert_eq!(selector.map_type(), MapType::Atomic);
        assert!(builtin("apps/v1", "Pod").is_none());
        assert!(builtin("v1", "Nothing").is_none());
    }

    #[test]
    fn every_reference_and_default_lands() {
        fn check(schema: &Schema, at: &str) {
            if schema.ty == Type::Object && schema.reference.is_none() && schema.name.is_none() {
                let open = schema.preserve_unknown || !matches!(schema.additional, Additional::None);
                assert!(open, "{at} refers to nothing");
            }
            if let ListType::Map(keys) = &schema.list_type {
                for key in keys {
                    assert!(schema.items().unwrap().property(key).is_some(), "{at} has no key {key}");
                }
            }
            for (name, field) in &schema.properties {
                check(field, &format!("{at}.{name}"));
            }
            for inner in schema.items.iter().chain(match &schema.additional {
                Additional::Schema(inner) => Some(inner),
                _ => None,
            }) {
                check(inner, &format!("{at}[]"));
            }
        }
        assert!(names().count() > 500);
        for name in names() {
            check(&definition(name).unwrap(), name);
        }
        for ((name, field), value) in defaults() {
            assert!(value.is_some(), "{name} {field} is no JSON");
            assert!(definition(name).is_some_and(|d| d.property(field).is_some()), "{name} has no {field}");
        }
    }

    #[test]
    fn recursive_definitions_end() {
        let crd = builtin("apiextensions.k8s.io/v1", "CustomResourceDefinition").unwrap();
        let versions = crd.property("spec").unwrap().property("versions").unwrap().items().unwrap();
        let mut node = versions.property("schema").unwrap().property("openAPIV3Schema").unwrap();
        for _ in 0..50 {
            node = node.property("properties").unwrap().member("x").unwrap();
        }
        assert_eq!(node.go_name(), Some("JSONSchemaProps"));
    }
}
