//! Walking objects by their merge structure: field sets, comparison, merging, removal.
//!
//! A node is a leaf (scalars, and whatever is atomic), a map, a set, or a list keyed by fields of its items. Where a
//! schema says nothing, objects are maps and lists are leaves, as upstream deduces them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::set::{Element, Set, field_element, show_element};
use crate::schema::{ListType, MapType, Schema, Type};

/// The merge structure of a value.
enum Shape<'a> {
    Leaf,
    Map(&'a Map<String, Value>),
    List(&'a [Value], &'a ListType),
}

fn shape<'a>(value: &'a Value, schema: Option<&'a Schema>) -> Shape<'a> {
    match (value, schema) {
        (Value::Object(map), None) => Shape::Map(map),
        (Value::Object(map), Some(schema)) if schema.map_type() == MapType::Granular => Shape::Map(map),
        (Value::Array(items), Some(schema))
            if schema.ty == Type::Array && schema.list_type != ListType::Atomic =>
        {
            Shape::List(items, &schema.list_type)
        }
        _ => Shape::Leaf,
    }
}

/// The element of a list item, or why it has none.
fn item_element(item: &Value, list: &ListType, items: Option<&Schema>) -> Result<Element, String> {
    let ListType::Map(keys) = list else {
        return Ok(format!("v:{item}").into());
    };
    let mut found = Map::new();
    for key in keys {
        let default = || items?.property(key)?.default.as_ref();
        if let Some(value) = item.get(&**key).filter(|v| !v.is_null()).or_else(default) {
            found.insert(key.to_string(), value.clone());
        }
    }
    if found.is_empty() {
        let names: Vec<&str> = keys.iter().map(AsRef::as_ref).collect();
        let what = if names.len() == 1 {
            format!("omits key field {:?} (and doesn't have default value)", names[0])
        } else {
            format!("omits all key fields {names:?} (and none have default values)")
        };
        return Err(format!("associative list with keys has an element that {what}"));
    }
    Ok(format!("k:{}", Value::Object(found)).into())
}

/// The items of a list by element, the first of each, in the order of the list.
fn items_by_element<'a>(
    items: &'a [Value],
    list: &ListType,
    schema: Option<&Schema>,
) -> Vec<(Element, &'a Value)> {
    let mut out: Vec<(Element, &Value)> = Vec::with_capacity(items.len());
    for item in items {
        let Ok(element) = item_element(item, list, schema) else { continue };
        if !out.iter().any(|(one, _)| *one == element) {
            out.push((element, item));
        }
    }
    out
}

/// The fields that a configuration names: leaves, list items, and empty or undeclared maps.
///
/// # Errors
/// When a keyed list has an item without keys, or two of the same.
pub(super) fn field_set(value: &Value, schema: Option<&Schema>) -> Result<Set, String> {
    let mut out = Set::default();
    collect(value, schema, &mut Vec::new(), &mut out)?;
    Ok(out)
}

fn collect(
    value: &Value,
    schema: Option<&Schema>,
    path: &mut Vec<Element>,
    out: &mut Set,
) -> Result<(), String> {
    match shape(value, schema) {
        Shape::Leaf => out.insert(path),
        Shape::Map(map) => {
            for (name, member) in map {
                path.push(field_element(name));
                collect(member, schema.and_then(|s| s.member(name)), path, out)?;
                let empty = member.is_null() || member.as_object().is_some_and(Map::is_empty);
                if empty || schema.is_none_or(|s| s.property(name).is_none()) {
                    out.insert(path);
                }
                path.pop();
            }
        }
        Shape::List(items, list) => {
            let inner = schema.and_then(Schema::items);
            let mut seen: Vec<Element> = Vec::new();
            for (i, item) in items.iter().enumerate() {
                let element = item_element(item, list, inner)
                    .map_err(|why| format!("{}: element {i}: {why}", super::set::show(path)))?;
                if seen.contains(&element) {
                    let (at, key) = (super::set::show(path), show_element(&element));
                    return Err(format!("{at}: duplicate entries for key {key}"));
                }
                path.push(element.clone());
                seen.push(element);
                collect(item, inner, path, out)?;
                out.insert(path);
                path.pop();
            }
        }
    }
    Ok(())
}

/// What changed between two objects.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub(super) added: Set,
    pub(super) modified: Set,
    pub(super) removed: Set,
}

impl Comparison {
    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    pub(super) fn exclude(&mut self, path: &[&str]) {
        for set in [&mut self.added, &mut self.modified, &mut self.removed] {
            set.exclude(path);
        }
    }
}

/// Compares two objects field by field. `metadata.managedFields` is not looked at.
pub(super) fn compare(old: Option<&Value>, new: Option<&Value>, schema: Option<&Schema>) -> Comparison {
    let mut out = Comparison::default();
    compare_at(old, new, schema, &mut Vec::new(), &mut out);
    out
}

fn compare_at(
    old: Option<&Value>,
    new: Option<&Value>,
    schema: Option<&Schema>,
    path: &mut Vec<Element>,
    out: &mut Comparison,
) {
    let shapes = (old.map(|v| shape(v, schema)), new.map(|v| shape(v, schema)));
    let leaf = match &shapes {
        (None, None) => return,
        (Some(Shape::Leaf) | None, Some(Shape::Leaf) | None) => true,
        (a, b) => a.as_ref().is_none_or(is_empty) && b.as_ref().is_none_or(is_empty),
    };
    if leaf {
        match (old, new) {
            (None, _) => out.added.insert(path),
            (_, None) => out.removed.insert(path),
            (Some(a), Some(b)) if !same(a, b, schema) => out.modified.insert(path),
            _ => {}
        }
        return;
    }
    if let (Some(Shape::Leaf), Some(_)) | (Some(_), Some(Shape::Leaf)) = &shapes
        && !old.is_some_and(Value::is_null)
        && !new.is_some_and(Value::is_null)
    {
        // A scalar became a structure or the other way: the place itself changed as well.
        out.modified.insert(path);
    }
    compare_members(&shapes, schema, path, out);
    if old.is_none() {
        out.added.insert(path);
    } else if new.is_none() {
        out.removed.insert(path);
    }
}

fn is_empty(shape: &Shape<'_>) -> bool {
    match shape {
        Shape::Leaf => false,
        Shape::Map(map) => map.is_empty(),
        Shape::List(items, _) => items.is_empty(),
    }
}

/// Equality, with quantities and times compared by what they mean.
fn same(a: &Value, b: &Value, schema: Option<&Schema>) -> bool {
    if a == b {
        return true;
    }
    match schema.map(|s| s.format.as_ref()) {
        Some("quantity") => {
            let read = crate::quantity::Quantity::from_json;
            matches!((read(a), read(b)), (Ok(x), Ok(y)) if x == y)
        }
        _ => false,
    }
}

fn compare_members(
    shapes: &(Option<Shape<'_>>, Option<Shape<'_>>),
    schema: Option<&Schema>,
    path: &mut Vec<Element>,
    out: &mut Comparison,
) {
    type Pair<'a> = (Option<&'a Value>, Option<&'a Value>, Option<&'a Schema>);
    let inner = schema.and_then(Schema::items);
    let mut pairs: BTreeMap<Element, Pair<'_>> = BTreeMap::new();
    for (newer, one) in [(false, &shapes.0), (true, &shapes.1)] {
        let mut put = |element: Element, value, schema| {
            let slot = pairs.entry(element).or_insert((None, None, schema));
            if newer { slot.1 = Some(value) } else { slot.0 = Some(value) }
        };
        match one {
            Some(Shape::Map(map)) => {
                for (name, value) in *map {
                    put(field_element(name), value, schema.and_then(|s| s.member(name)));
                }
            }
            Some(Shape::List(items, list)) => {
                items_by_element(items, list, inner).into_iter().for_each(|(e, v)| put(e, v, inner));
            }
            Some(Shape::Leaf) | None => {}
        }
    }
    let old_is_there = shapes.0.is_some();
    let in_metadata = path.len() == 1 && *path[0] == *"f:metadata";
    for (element, (old, new, inner)) in pairs {
        if in_metadata && *element == *"f:managedFields" {
            continue;
        }
        let old = old.or_else(|| implied(&element, inner, schema).filter(|_| old_is_there));
        path.push(element);
        compare_at(old, new, inner, path, out);
        path.pop();
    }
}

/// What a member that is absent from the old object is in upstream's typed one: structures that are held by value
/// are there, empty, and required lists are there, null. It decides whether adding a member adds the place itself.
fn implied(element: &str, member: Option<&Schema>, parent: Option<&Schema>) -> Option<&'static Value> {
    static EMPTY: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| Value::Object(Map::new()));
    static NULL: Value = Value::Null;
    let name = element.strip_prefix("f:")?;
    let member = member?;
    parent?.definition_name()?;
    if member.is_struct() && member.definition_name().is_some() && HELD_BY_VALUE.contains(&name) {
        return Some(&EMPTY);
    }
    let required = parent?.required().iter().any(|one| &**one == name);
    (member.ty == Type::Array && required).then_some(&NULL)
}

/// Fields whose Go type is a structure, not a pointer to one.
const HELD_BY_VALUE: [&str; 16] = [
    "metadata",
    "spec",
    "status",
    "template",
    "strategy",
    "updateStrategy",
    "jobTemplate",
    "resources",
    "loadBalancer",
    "nodeInfo",
    "daemonEndpoints",
    "kubeletEndpoint",
    "source",
    "scaleTargetRef",
    "names",
    "acceptedNames",
];

/// The old value with the configuration merged over it.
pub(super) fn merge(old: Option<&Value>, new: Option<&Value>, schema: Option<&Schema>) -> Value {
    let (Some(old), Some(new)) = (old, new) else {
        return new.or(old).cloned().unwrap_or(Value::Null);
    };
    match (shape(old, schema), shape(new, schema)) {
        (Shape::Map(a), Shape::Map(b)) => {
            let mut out = a.clone();
            for (name, value) in b {
                let merged = merge(a.get(name), Some(value), schema.and_then(|s| s.member(name)));
                out.insert(name.clone(), merged);
            }
            Value::Object(out)
        }
        (Shape::List(a, list), Shape::List(b, _)) => {
            let inner = schema.and_then(Schema::items);
            Value::Array(merge_lists(
                &items_by_element(a, list, inner),
                &items_by_element(b, list, inner),
                inner,
            ))
        }
        _ => new.clone(),
    }
}

/// Both lists' items: the configuration's order for what it names, the others where they stood among them.
fn merge_lists(old: &[(Element, &Value)], new: &[(Element, &Value)], schema: Option<&Schema>) -> Vec<Value> {
    let in_old = |e: &Element| old.iter().find(|(one, _)| one == e).map(|(_, v)| *v);
    let in_new = |e: &Element| new.iter().any(|(one, _)| one == e);
    let mut shared = new.iter().map(|(e, _)| e).filter(|e| in_old(e).is_some()).peekable();
    let (mut at, mut next) = (0, 0);
    let mut out = Vec::with_capacity(old.len() + new.len());
    while at < old.len() || next < new.len() {
        if let (Some((a, av)), Some((b, bv))) = (old.get(at), new.get(next)) {
            if a == b {
                out.push(merge(Some(av), Some(bv), schema));
                (at, next) = (at + 1, next + 1);
                shared.next();
                continue;
            }
            if in_new(a) && shared.peek().is_some_and(|wanted| *wanted != a) {
                // Comes later, or came already.
                at += 1;
                continue;
            }
        }
        if let Some((a, av)) = old.get(at) {
            if !in_new(a) {
                out.push((*av).clone());
                at += 1;
                continue;
            }
            if next >= new.len() {
                at += 1;
                continue;
            }
        }
        if let Some((b, bv)) = new.get(next) {
            out.push(merge(in_old(b), Some(bv), schema));
            next += 1;
            if shared.peek().is_some_and(|wanted| *wanted == b) {
                shared.next();
            }
        }
    }
    out
}

/// What a map or list becomes when everything in it was removed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Emptied {
    /// Null, which still marks the place.
    Null,
    /// Nothing.
    Gone,
}

/// Without the places in `gone`.
pub(super) fn remove(value: &Value, gone: &Set, schema: Option<&Schema>, emptied: Emptied) -> Option<Value> {
    let nothing = || (emptied == Emptied::Null).then_some(Value::Null);
    match shape(value, schema) {
        Shape::Leaf => Some(value.clone()),
        Shape::Map(map) => {
            let mut out = Map::new();
            for (name, member) in map {
                let element = field_element(name);
                if gone.members.contains(&element) {
                    continue;
                }
                let kept = match gone.children.get(&element) {
                    Some(inner) => remove(member, inner, schema.and_then(|s| s.member(name)), emptied),
                    None => Some(member.clone()),
                };
                out.extend(kept.map(|kept| (name.clone(), kept)));
            }
            if map.is_empty() || !out.is_empty() { Some(Value::Object(out)) } else { nothing() }
        }
        Shape::List(items, list) => {
            let inner = schema.and_then(Schema::items);
            let kept = items.iter().filter_map(|item| {
                let Ok(element) = item_element(item, list, inner) else { return Some(item.clone()) };
                if gone.members.contains(&element) {
                    return None;
                }
                gone.children
                    .get(&element)
                    .map_or_else(|| Some(item.clone()), |set| remove(item, set, inner, emptied))
            });
            let kept: Vec<Value> = kept.collect();
            if items.is_empty() || !kept.is_empty() { Some(Value::Array(kept)) } else { nothing() }
        }
    }
}

/// The set with every declared structure field that it reaches into as a member, so that removal takes the whole.
pub(super) fn with_named_fields(set: &Set, schema: Option<&Schema>) -> Set {
    let mut out = Set { members: set.members.clone(), children: BTreeMap::new() };
    for (element, child) in &set.children {
        let inner = match element.strip_prefix("f:") {
            Some(name) => {
                if schema.is_some_and(|s| s.property(name).is_some()) {
                    out.members.insert(element.clone());
                }
                schema.and_then(|s| s.member(name))
            }
            None => schema.and_then(Schema::items),
        };
        out.children.insert(element.clone(), with_named_fields(child, inner));
    }
    out
}
