//! Strategic merge patch: merging by what a schema says of its lists.
//!
//! Lists with the `merge` strategy merge item by item, told apart by a key; the rest is replaced. Directives in the
//! patch say what plain JSON cannot: `$patch` (`replace`, `delete`), `$retainKeys`, `$setElementOrder/<list>` and
//! `$deleteFromPrimitiveList/<list>`. The rules, including the order of merged lists, follow the API conventions and
//! upstream's `strategicpatch`.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{PatchError, go};
use crate::schema::{PatchStrategy, Schema};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

type Object = Map<String, Value>;

/// Applies a strategic merge patch to an object of the given schema.
///
/// # Errors
/// When the patch is no object, a directive is malformed, or an item of a merged list lacks its key.
pub fn strategic(target: &mut Value, patch: &Value, schema: &Schema) -> Result<(), PatchError> {
    let Value::Object(changes) = patch else {
        return Err(malformed("invalid JSON document"));
    };
    let original = match target.take() {
        Value::Object(map) => map,
        _ => Object::new(),
    };
    *target = Value::Object(merge_map(original, changes.clone(), Some(schema))?);
    Ok(())
}

fn malformed(text: impl Into<String>) -> PatchError {
    PatchError::Malformed(text.into())
}

fn unmergeable(text: impl Into<String>) -> PatchError {
    PatchError::Unmergeable(text.into())
}

fn bad_directive(directive: &Value, patch: &Value) -> PatchError {
    let text = directive.as_str().map_or_else(|| directive.to_string(), str::to_owned);
    unmergeable(format!("unknown patch type: {text} in map: {}", go::shown(patch)))
}

/// What the schema says of a member; members it does not know merge as plain objects and replaced lists.
fn strategy_of<'a>(schema: Option<&'a Schema>, name: &str) -> (Option<&'a Schema>, PatchStrategy) {
    let member = schema.and_then(|schema| schema.member(name));
    (member, member.map(|m| m.patch.clone()).unwrap_or_default())
}

fn merge_map(mut original: Object, mut patch: Object, schema: Option<&Schema>) -> Result<Object, PatchError> {
    if let Some(directive) = patch.remove(PATCH) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Object::new()),
            _ => {
                patch.insert(PATCH.to_owned(), directive.clone());
                Err(bad_directive(&directive, &Value::Object(patch)))
            }
        };
    }
    retain_keys(&mut original, &mut patch)?;
    order_lists(&mut original, &mut patch, schema)?;
    for (key, change) in patch {
        let (name, deletes) = match key.strip_prefix(DELETE_FROM) {
            Some(name) => (name.to_owned(), true),
            None => (key, false),
        };
        let old = original.remove(&name);
        if change.is_null() {
            continue;
        }
        if let Some(merged) = merge_member(old, change, strategy_of(schema, &name), deletes)? {
            original.insert(name, merged);
        }
    }
    Ok(original)
}

fn merge_member(
    old: Option<Value>,
    change: Value,
    (schema, strategy): (Option<&Schema>, PatchStrategy),
    deletes: bool,
) -> Result<Option<Value>, PatchError> {
    Ok(Some(match (old, change) {
        (None, _) if deletes => return Ok(None),
        (Some(Value::Array(old)), Value::Array(gone)) if deletes => {
            Value::Array(old.into_iter().filter(|item| !gone.contains(item)).collect())
        }
        (Some(old), _) if deletes => old,
        (Some(Value::Object(_)), Value::Object(new)) if strategy.replace => Value::Object(new),
        (Some(Value::Object(old)), Value::Object(new)) => Value::Object(merge_map(old, new, schema)?),
        (Some(Value::Array(old)), Value::Array(new)) => {
            Value::Array(merge_list(old, new, schema, &strategy)?)
        }
        (_, new) => without_directives(new),
    }))
}

/// `$retainKeys` names the keys that may remain; the patch itself may set no others.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let Some(list) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let bad = || malformed("invalid patch format of retainKeys: should be a list of keys of the patch");
    let keys = list.as_array().ok_or_else(bad)?.iter().map(|key| key.as_str().ok_or_else(bad));
    let keep: BTreeSet<&str> = keys.collect::<Result<_, _>>()?;
    if patch
        .iter()
        .any(|(key, value)| !value.is_null() && !key.starts_with('$') && !keep.contains(key.as_str()))
    {
        return Err(bad());
    }
    original.retain(|key, _| keep.contains(key.as_str()));
    Ok(())
}

/// Merges each list that comes with a `$setElementOrder` and brings it into that order.
fn order_lists(original: &mut Object, patch: &mut Object, schema: Option<&Schema>) -> Result<(), PatchError> {
    let names: Vec<String> =
        patch.keys().filter_map(|key| key.strip_prefix(ORDER)).map(str::to_owned).collect();
    for name in names {
        let Some(Value::Array(order)) = patch.remove(&format!("{ORDER}{name}")) else {
            return Err(malformed(format!(
                "invalid patch format of setElementOrder list: {name} is no list"
            )));
        };
        let (inner, strategy) = strategy_of(schema, &name);
        let key = strategy.merge_key.as_deref();
        if let Some(Value::Array(changes)) = patch.get(&name) {
            check_order(changes, &order, key)?;
        }
        let server_order = original.get(&name).and_then(Value::as_array).cloned().unwrap_or_default();
        let merged = match (original.remove(&name), patch.remove(&name)) {
            (Some(Value::Array(old)), Some(Value::Array(new))) => merge_list(old, new, inner, &strategy)?,
            (None, Some(Value::Array(new))) => without_directive_items(new),
            (Some(Value::Array(old)), None) => old,
            (old, new) => {
                // A null, or another type: the usual rules decide.
                original.extend(old.map(|value| (name.clone(), value)));
                patch.extend(new.map(|value| (name.clone(), value)));
                continue;
            }
        };
        original.insert(name, Value::Array(in_order(merged, &order, &server_order, key)?));
    }
    Ok(())
}

/// The items that a patch sets must all stand in the order it asks for, in that order.
fn check_order(changes: &[Value], order: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    let mut places = order.iter();
    for item in changes.iter().filter(|item| item.get(PATCH).is_none()) {
        let wanted = identity(item, key)?;
        if !places.any(|place| identity(place, key).is_ok_and(|one| one == wanted)) {
            let (changes, order) = (go::shown(&Value::from(changes)), go::shown(&Value::from(order)));
            return Err(unmergeable(format!(
                "The order in patch list:\n{changes}\n doesn't match $setElementOrder list:\n{order}\n"
            )));
        }
    }
    Ok(())
}

/// What tells an item apart: its key's value, or the item itself.
fn identity<'a>(item: &'a Value, key: Option<&str>) -> Result<&'a Value, PatchError> {
    let Some(key) = key else { return Ok(item) };
    item.get(key).ok_or_else(|| {
        unmergeable(format!("map: {} does not contain declared merge key: {key}", go::shown(item)))
    })
}

fn merge_list(
    original: Vec<Value>,
    patch: Vec<Value>,
    schema: Option<&Schema>,
    strategy: &PatchStrategy,
) -> Result<Vec<Value>, PatchError> {
    if !strategy.merge {
        return Ok(patch);
    }
    let server_order = original.clone();
    if !original.iter().chain(&patch).any(Value::is_object) {
        let merged = unique(original.into_iter().chain(patch.iter().cloned()));
        return in_order(merged, &patch, &server_order, None);
    }
    let key =
        strategy.merge_key.as_deref().ok_or_else(|| malformed("cannot merge lists without merge key"))?;
    let (merged, plain) = merge_objects(original, patch, schema.and_then(Schema::items), key)?;
    in_order(merged, &plain, &server_order, Some(key))
}

fn unique(items: impl Iterator<Item = Value>) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::new();
    for item in items {
        if !out.contains(&item) {
            out.push(item);
        }
    }
    out
}

/// The merged list, and the patch's items without directives, whose order counts.
fn merge_objects(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    schema: Option<&Schema>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut plain = Vec::new();
    let mut replace = false;
    for item in patch {
        match item.get(PATCH).map(|directive| directive.as_str().unwrap_or_default()) {
            None => plain.push(item),
            Some("replace") => replace = true,
            Some("delete") => {
                let gone = identity(&item, Some(key))?;
                original.retain(|old| old.get(key) != Some(gone));
            }
            Some("merge") => return Err(unmergeable("merging lists cannot yet be specified in the patch")),
            Some(_) => return Err(bad_directive(&item[PATCH], &item)),
        }
    }
    if replace {
        return Ok((plain.clone(), plain));
    }
    for item in &plain {
        let wanted = identity(item, Some(key))?;
        let Some(slot) = original.iter_mut().find(|old| old.get(key) == Some(wanted)) else {
            original.push(without_directives(item.clone()));
            continue;
        };
        if let (Value::Object(old), Value::Object(new)) = (slot.take(), item.clone()) {
            *slot = Value::Object(merge_map(old, new, schema)?);
        }
    }
    Ok((original, plain))
}

/// Items that `order` names come in that order; the others keep the server's order around them.
fn in_order(
    items: Vec<Value>,
    order: &[Value],
    server_order: &[Value],
    key: Option<&str>,
) -> Result<Vec<Value>, PatchError> {
    for item in order {
        identity(item, key)?;
    }
    let place = |list: &[Value], item: &Value| {
        let wanted = identity(item, key).ok()?;
        list.iter().position(|one| identity(one, key).is_ok_and(|id| id == wanted))
    };
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|item| place(order, item).is_some());
    named.sort_by_key(|item| place(order, item));
    others.sort_by_key(|item| place(server_order, item));
    let mut out = Vec::with_capacity(named.len() + others.len());
    let mut named = named.into_iter().peekable();
    for other in others {
        let at = place(server_order, &other);
        while let Some(next) = named.peek() {
            let next_at = place(server_order, next);
            if matches!((at, next_at), (Some(a), Some(b)) if a < b) {
                break;
            }
            out.extend(named.next());
        }
        out.push(other);
    }
    out.extend(named);
    Ok(out)
}

/// A value that only the patch has: its directives have nothing to act on, and nulls nothing to remove.
fn without_directives(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let plain = map.into_iter().filter(|(key, value)| !is_directive(key) && !value.is_null());
            Value::Object(plain.map(|(key, value)| (key, without_directives(value))).collect())
        }
        Value::Array(items) => Value::Array(without_directive_items(items)),
        other => other,
    }
}

fn without_directive_items(items: Vec<Value>) -> Vec<Value> {
    items.into_iter().filter(|item| item.get(PATCH).is_none()).map(without_directives).collect()
}

fn is_directive(key: &str) -> bool {
    key == PATCH || key == RETAIN_KEYS || key.starts_with(ORDER) || key.starts_with(DELETE_FROM)
}

#[cfg(test)]
mod tests;
