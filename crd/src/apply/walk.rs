//! Walking objects by their merge structure: field sets, comparison, merging, removal.
//!
//! A node is a leaf (scalars, and whatever is atomic), a map, a set, or a list keyed by fields of its items. Where a
//! schema says nothing, objects are maps and lists are leaves, as upstream deduces them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::set::{Element, Set, field_element, show_element};
use crate::{
    schema::{ListType, MapType, Schema, Type},
    typed,
};

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
/// When a field is not in the schema, a keyed list has an item without keys, or two of the same.
pub(super) fn field_set(value: &Value, schema: Option<&Schema>) -> Result<Set, String> {
    let mut faults = Vec::new();
    let (_, set) = named(value, schema, &mut faults);
    let texts: Vec<String> = faults.iter().map(|fault| format!("{}: {}", fault.path, fault.text)).collect();
    match texts.as_slice() {
        [] => Ok(set),
        [one] => Err(one.clone()),
        many => Err(format!("errors:\n  {}", many.join("\n  "))),
    }
}

/// The fields of an object that its schema knows; what is wrong with it is left out.
pub(super) fn known_fields(value: &Value, schema: Option<&Schema>) -> Set {
    named(value, schema, &mut Vec::new()).1
}

/// What is wrong with a configuration, and where, built up on the way out.
struct Fault {
    path: String,
    text: String,
}

/// Why a value is none of its schema's type. What has a format may be written in several ways.
fn mistyped(value: &Value, schema: &Schema) -> Option<String> {
    if value.is_null() || !matches!(schema.format.as_ref(), "" | "int32" | "int64") {
        return None;
    }
    let wanted = match schema.ty {
        Type::Object if !value.is_object() => "map",
        Type::Array if !value.is_array() => "list",
        Type::Boolean if !value.is_boolean() => "boolean",
        Type::String if !value.is_string() => {
            let shown = crate::decode::go_literal(value);
            return Some(format!("expected string, got &value.valueUnstructured{{Value:{shown}}}"));
        }
        _ => return None,
    };
    Some(format!("expected {wanted}, got &{{{}}}", crate::field::go_value(value)))
}

/// Whether the place itself is named, and the places below it.
fn named(value: &Value, schema: Option<&Schema>, faults: &mut Vec<Fault>) -> (bool, Set) {
    let mut out = Set::default();
    if let Some(text) = schema.and_then(|schema| mistyped(value, schema)) {
        faults.push(Fault { path: String::new(), text });
        return (true, out);
    }
    match shape(value, schema) {
        Shape::Leaf => return (true, out),
        Shape::Map(map) => {
            let closed = schema.is_some_and(|s| s.is_struct() && !s.keeps_unknown());
            for (name, member) in map {
                let inner = schema.and_then(|s| s.member(name));
                if inner.is_none() && closed {
                    let path = show_element(&field_element(name));
                    faults.push(Fault { path, text: "field not declared in schema".to_owned() });
                    continue;
                }
                let empty = member.is_null() || member.as_object().is_some_and(Map::is_empty);
                let undeclared = schema.is_none_or(|s| s.property(name).is_none());
                let (leaf, child) = named_below(member, inner, &|| field_element(name), faults);
                out.push(|| field_element(name), leaf || empty || undeclared, child);
            }
        }
        Shape::List(items, list) => {
            let inner = schema.and_then(Schema::items);
            for (i, item) in items.iter().enumerate() {
                let mut fault = |text: String| faults.push(Fault { path: String::new(), text });
                match item_element(item, list, inner) {
                    Err(why) => fault(format!("element {i}: {why}")),
                    Ok(element) if out.nodes().iter().any(|node| node.element == element) => {
                        fault(format!("duplicate entries for key {}", show_element(&element)));
                    }
                    Ok(element) => {
                        let (_, child) = named_below(item, inner, &|| element.clone(), faults);
                        out.push(|| element, true, child);
                    }
                }
            }
            out.sort();
        }
    }
    (false, out)
}

/// The same for a member, whose faults are found below its element.
fn named_below(
    value: &Value,
    schema: Option<&Schema>,
    element: &dyn Fn() -> Element,
    faults: &mut Vec<Fault>,
) -> (bool, Set) {
    let before = faults.len();
    let found = named(value, schema, faults);
    for fault in &mut faults[before..] {
        fault.path = format!("{}{}", show_element(&element()), fault.path);
    }
    found
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

    /// Takes up what is known of a member.
    fn push(&mut self, element: impl Fn() -> Element, place: Place, inner: Self) {
        self.added.push(&element, place.added, inner.added);
        self.modified.push(&element, place.modified, inner.modified);
        self.removed.push(&element, place.removed, inner.removed);
    }
}

/// What happened to a place itself, beside what happened below it.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    added: bool,
    modified: bool,
    removed: bool,
}

/// How far down the walk is: `metadata.managedFields` is not looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Object,
    Metadata,
    Below,
}

/// Compares two objects field by field.
pub(super) fn compare(old: Option<&Value>, new: Option<&Value>, schema: Option<&Schema>) -> Comparison {
    compare_at(old, new, schema, Depth::Object).1
}

fn compare_at(
    old: Option<&Value>,
    new: Option<&Value>,
    schema: Option<&Schema>,
    depth: Depth,
) -> (Place, Comparison) {
    let mut place = Place::default();
    if old == new {
        return (place, Comparison::default());
    }
    let shapes = (old.map(|v| shape(v, schema)), new.map(|v| shape(v, schema)));
    let leaf = match &shapes {
        (Some(Shape::Leaf) | None, Some(Shape::Leaf) | None) => true,
        (a, b) => a.as_ref().is_none_or(is_empty) && b.as_ref().is_none_or(is_empty),
    };
    place.added = old.is_none();
    place.removed = new.is_none();
    if let (Some(a), Some(b)) = (old, new) {
        let retyped = matches!(&shapes, (Some(Shape::Leaf), _) | (_, Some(Shape::Leaf)))
            && !a.is_null()
            && !b.is_null();
        place.modified = if leaf { !same(a, b, schema) } else { retyped };
    }
    let inner = if leaf { Comparison::default() } else { compare_members(&shapes, schema, depth) };
    (place, inner)
}

fn is_empty(shape: &Shape<'_>) -> bool {
    match shape {
        Shape::Leaf => false,
        Shape::Map(map) => map.is_empty(),
        Shape::List(items, _) => items.is_empty(),
    }
}

/// Equality, with quantities compared by what they mean.
fn same(a: &Value, b: &Value, schema: Option<&Schema>) -> bool {
    if a == b {
        return true;
    }
    let is_quantity = schema.is_some_and(|s| s.format == "quantity");
    let read = crate::quantity::Quantity::from_json;
    is_quantity && matches!((read(a), read(b)), (Ok(x), Ok(y)) if x == y)
}

fn compare_members(
    shapes: &(Option<Shape<'_>>, Option<Shape<'_>>),
    schema: Option<&Schema>,
    depth: Depth,
) -> Comparison {
    let mut out = Comparison::default();
    compare_maps((fields_of(&shapes.0), fields_of(&shapes.1)), shapes.0.is_some(), schema, depth, &mut out);
    if shapes.0.is_none()
        && let (Some(new), Some(schema)) = (fields_of(&shapes.1), schema)
    {
        add_nulls(new, schema, &mut out.added);
    }
    let items = schema.and_then(Schema::items);
    let (old, new) = (items_of(&shapes.0, items), items_of(&shapes.1, items));
    let mut pairs: BTreeMap<&Element, (Option<&Value>, Option<&Value>)> = BTreeMap::new();
    for (element, value) in &old {
        pairs.entry(element).or_default().0 = Some(value);
    }
    for (element, value) in &new {
        pairs.entry(element).or_default().1 = Some(value);
    }
    for (element, (old, new)) in pairs {
        let (place, inner) = compare_at(old, new, items, Depth::Below);
        out.push(|| element.clone(), place, inner);
    }
    out
}

/// A structure that is new brings the fields that are never left out, as `null` if need be.
fn add_nulls(new: &Map<String, Value>, schema: &Schema, added: &mut Set) {
    let absent = typed::nulls(schema).filter(|name| !new.contains_key(*name));
    absent.for_each(|name| added.push(|| field_element(name), true, Set::default()));
    added.sort();
}

fn fields_of<'a>(shape: &Option<Shape<'a>>) -> Option<&'a Map<String, Value>> {
    match shape {
        Some(Shape::Map(map)) => Some(map),
        _ => None,
    }
}

fn items_of<'a>(shape: &Option<Shape<'a>>, schema: Option<&Schema>) -> Vec<(Element, &'a Value)> {
    match shape {
        Some(Shape::List(items, list)) => items_by_element(items, list, schema),
        _ => Vec::new(),
    }
}

fn compare_maps(
    (old, new): (Option<&Map<String, Value>>, Option<&Map<String, Value>>),
    old_is_there: bool,
    schema: Option<&Schema>,
    depth: Depth,
    out: &mut Comparison,
) {
    let mut left = old.into_iter().flatten().peekable();
    let mut right = new.into_iter().flatten().peekable();
    loop {
        let (name, old, new) = match (left.peek().copied(), right.peek().copied()) {
            (None, None) => return,
            (Some((a, av)), Some((b, bv))) if a == b => (a, Some(av), Some(bv)),
            (Some((a, av)), Some((b, _))) if a < b => (a, Some(av), None),
            (Some((a, av)), None) => (a, Some(av), None),
            (_, Some((b, bv))) => (b, None, Some(bv)),
        };
        if old.is_some() {
            left.next();
        }
        if new.is_some() {
            right.next();
        }
        if depth == Depth::Metadata && name == "managedFields" {
            continue;
        }
        let below = if depth == Depth::Object && name == "metadata" { Depth::Metadata } else { Depth::Below };
        let member = schema.and_then(|s| s.member(name));
        // Whether adding a member adds its place depends on what upstream's typed object has there already.
        let old =
            old.or_else(|| schema.and_then(|schema| typed::implied(name, schema)).filter(|_| old_is_there));
        let (place, inner) = compare_at(old, new, member, below);
        out.push(|| field_element(name), place, inner);
    }
}

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

/// Without the places in `gone`. What is emptied by that stays, empty: its place is somebody else's to take away.
pub(super) fn remove(value: &Value, gone: &Set, schema: Option<&Schema>) -> Value {
    match shape(value, schema) {
        Shape::Leaf => value.clone(),
        Shape::Map(map) => {
            let mut out = Map::new();
            for (name, member) in map {
                let kept = match gone.get(&field_element(name)) {
                    Some(node) if node.member => continue,
                    Some(node) => remove(member, &node.child, schema.and_then(|s| s.member(name))),
                    None => member.clone(),
                };
                out.insert(name.clone(), kept);
            }
            Value::Object(out)
        }
        Shape::List(items, list) => {
            let inner = schema.and_then(Schema::items);
            let kept = items.iter().filter_map(|item| {
                let Ok(element) = item_element(item, list, inner) else { return Some(item.clone()) };
                match gone.get(&element) {
                    Some(node) if node.member => None,
                    Some(node) => Some(remove(item, &node.child, inner)),
                    None => Some(item.clone()),
                }
            });
            Value::Array(kept.collect())
        }
    }
}

/// The set with every declared structure field that it reaches into as a member, so that removal takes the whole.
pub(super) fn with_named_fields(set: &Set, schema: Option<&Schema>) -> Set {
    let mut out = Set::default();
    for node in set.nodes() {
        let (declared, inner) = match node.element.strip_prefix("f:") {
            Some(name) => {
                let declared = schema.is_some_and(|s| s.property(name).is_some());
                (declared, schema.and_then(|s| s.member(name)))
            }
            None => (false, schema.and_then(Schema::items)),
        };
        let reaches = declared && !node.child.is_empty();
        out.push(|| node.element.clone(), node.member || reaches, with_named_fields(&node.child, inner));
    }
    out
}
