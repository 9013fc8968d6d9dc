//! Server-side apply and the tracking of field managers.
//!
//! [`apply`] merges a configuration into an object on behalf of its owner; [`update`] records what a create, update
//! or patch changed. Both keep `metadata.managedFields`. The semantics are those of upstream's
//! structured-merge-diff and field manager (KEP-555): list and map types come from the schema, fields that an applier
//! no longer names are removed unless somebody else owns them, values that another manager owns conflict.
//!
//! Differences between API versions of one kind are not converted: a manager's fields are read in the version of the
//! object at hand.

mod managers;
mod set;
mod walk;

use serde_json::Value;

use crate::schema::{ListType, MapType, Schema};
use managers::{Managers, Owner};
use set::Set;
use walk::{Comparison, Emptied};

/// Who writes.
#[derive(Clone, Copy, Debug)]
pub struct Manager<'a> {
    /// The field manager's name.
    pub name: &'a str,
    /// The `apiVersion` in which it writes.
    pub api_version: &'a str,
    /// The subresource that it writes to; empty for the object itself.
    pub subresource: &'a str,
    /// Now, in RFC 3339.
    pub time: &'a str,
}

/// A field whose value somebody else manages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The other manager.
    pub manager: String,
    /// The subresource that it wrote to.
    pub subresource: String,
    /// The version in which it wrote; empty when it applied.
    pub api_version: String,
    /// When it wrote; never part of the message.
    pub time: Option<String>,
    /// The field, `.spec.replicas`.
    pub field: String,
}

impl Conflict {
    /// The other manager as messages name it.
    fn who(&self) -> String {
        let mut out = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            out.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if !self.api_version.is_empty() {
            out.push_str(&format!(" using {}", self.api_version));
        }
        out
    }

    /// The message of the cause in a `Status`.
    #[must_use]
    pub fn message(&self) -> String {
        format!("conflict with {}", self.who())
    }
}

/// Why a configuration was not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Others own fields that it would change: 409 with these causes.
    #[error("{}", conflict_text(.0))]
    Conflicts(Vec<Conflict>),
    /// The configuration does not fit the schema.
    #[error("failed to create typed patch object ({object}): {reason}")]
    Invalid {
        /// Namespace, name and kind, as upstream shows them.
        object: String,
        /// What does not fit.
        reason: String,
    },
    /// The live object's own `managedFields` cannot be read.
    #[error("failed to decode managed fields of the live object")]
    BadManagedFields,
}

fn conflict_text(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: {}: {}", one.message(), one.field);
    }
    let mut lines = Vec::new();
    let mut last = String::new();
    for conflict in conflicts {
        let who = conflict.who();
        if who != last {
            lines.push(format!("conflicts with {who}:"));
            last = who;
        }
        lines.push(format!("- {}", conflict.field));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// Records in `new.metadata.managedFields` what a create (`live` is `None`), update or patch changed. Fields at or
/// below a path of `reset` are never owned: the server puts back what was there.
pub fn update(
    live: Option<&Value>,
    new: &mut Value,
    schema: &Schema,
    manager: &Manager<'_>,
    reset: &[&[&str]],
) {
    if Managers::is_reset(new) {
        return Managers::default().write(new);
    }
    let own = live.and_then(Managers::read).unwrap_or_default();
    let given = Managers::take_from(new).filter(|given| !given.0.is_empty());
    let mut managers = given.unwrap_or_else(|| own.clone());
    if live.is_some() && managers.0.is_empty() {
        // Nobody tracks this object yet; the first apply will begin.
        return managers.write(new);
    }
    let changes = changes(live, new, schema, reset);
    give_up(&mut managers, &changes, None);
    let owner = owner(manager, false);
    let taken = stripped(&changes.added.union(&changes.modified));
    if !taken.is_empty() {
        let before = managers.position(&owner).map(|at| managers.0[at].set()).unwrap_or_default();
        let time = Some(manager.time.to_owned()).filter(|time| !time.is_empty());
        managers.put(&owner, &before.union(&taken), time);
    }
    managers.drop_empty();
    managers.cap();
    finish(managers, live, &own, new, changes.is_empty());
}

/// Merges `patch` into the live object on behalf of its manager and returns the new object, with managed fields.
///
/// # Errors
/// Conflicts with other managers unless `force`, or a configuration that does not fit the schema.
pub fn apply(
    live: Option<&Value>,
    patch: &Value,
    schema: &Schema,
    manager: &Manager<'_>,
    force: bool,
    reset: &[&[&str]],
) -> Result<Value, ApplyError> {
    let empty = Value::Object(serde_json::Map::new());
    let base = live.unwrap_or(&empty);
    let mut managers = Managers::read(base).ok_or(ApplyError::BadManagedFields)?;
    let before = managers.clone();
    if live.is_some() && managers.0.is_empty() {
        adopt(&mut managers, base, schema, manager, reset);
    }
    let mut set = walk::field_set(patch, Some(schema)).map_err(|reason| invalid(patch, reason))?;
    reset.iter().for_each(|path| set.exclude(path));
    let owner = owner(manager, true);
    let last = managers.position(&owner).map(|at| managers.0[at].clone());
    let last_set = last.as_ref().map(managers::Entry::set).unwrap_or_default();
    managers.put(&owner, &stripped(&set), Some(manager.time.to_owned()));

    let merged = walk::merge(Some(base), Some(patch), Some(schema));
    let mut new = prune(merged, &last_set, &set, &managers, schema);
    let changes = changes(live, &new, schema, reset);
    let conflicts = conflicts(&managers, &changes, &owner);
    if !conflicts.is_empty() && !force && !only_with_last_applied(manager, base, schema, &conflicts) {
        return Err(ApplyError::Conflicts(
            conflicts.into_iter().flat_map(|(entry, set)| describe(&entry, &set)).collect(),
        ));
    }
    give_up(&mut managers, &changes, Some(&owner));
    managers.drop_empty();
    finish(managers, live, &before, &mut new, changes.is_empty());
    Ok(new)
}

/// Merges a configuration into an object by the rules of server-side apply, without a thought to ownership.
///
/// # Errors
/// When the configuration names what the schema does not declare, or would replace a list, map or structure that is one
/// value, and with it what it does not name.
pub fn merge(live: &Value, patch: &Value, schema: &Schema) -> Result<Value, String> {
    walk::field_set(patch, Some(schema))
        .map_err(|why| format!("failed to convert patch object to typed object: {why}"))?;
    let mut atomics = Vec::new();
    find_atomics(patch, schema, "", &mut atomics);
    if !atomics.is_empty() {
        let all = atomics.join(", ");
        return Err(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {all}"
        ));
    }
    Ok(walk::merge(Some(live), Some(patch), Some(schema)))
}

/// The paths in a value at which something stands that merges as one.
fn find_atomics(value: &Value, schema: &Schema, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if schema.map_type() == MapType::Atomic {
                found.push(path.to_owned());
            }
            for (name, value) in fields {
                if let Some(schema) = schema.member(name) {
                    find_atomics(value, schema, &format!("{path}.{name}"), found);
                }
            }
        }
        Value::Array(items) => {
            if schema.list_type == ListType::Atomic {
                found.push(path.to_owned());
            }
            for (i, value) in items.iter().enumerate() {
                if let Some(schema) = schema.items() {
                    find_atomics(value, schema, &format!("{path}[{i}]"), found);
                }
            }
        }
        _ => {}
    }
}

/// Checks that a configuration names only what its schema declares, before anything else is done with it.
///
/// # Errors
/// [`ApplyError::Invalid`], with all that does not fit.
pub fn check(patch: &Value, schema: &Schema) -> Result<(), ApplyError> {
    walk::field_set(patch, Some(schema)).map(|_| ()).map_err(|reason| invalid(patch, reason))
}

fn owner(manager: &Manager<'_>, applies: bool) -> Owner {
    let name = if manager.name.is_empty() { "unknown" } else { manager.name };
    Owner {
        manager: name.to_owned(),
        applies,
        subresource: manager.subresource.to_owned(),
        api_version: manager.api_version.to_owned(),
    }
}

fn invalid(patch: &Value, reason: String) -> ApplyError {
    let text = |pointer: &str| patch.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let api_version = text("/apiVersion");
    let object = format!(
        "{}/{}; {api_version}, Kind={}",
        text("/metadata/namespace"),
        text("/metadata/name"),
        text("/kind")
    );
    ApplyError::Invalid { object, reason }
}

fn changes(live: Option<&Value>, new: &Value, schema: &Schema, reset: &[&[&str]]) -> Comparison {
    let empty = Value::Object(serde_json::Map::new());
    let mut changes = walk::compare(Some(live.unwrap_or(&empty)), Some(new), Some(schema));
    reset.iter().for_each(|path| changes.exclude(path));
    changes
}

/// Without the fields that nobody owns, because the server or the address of the object decides them.
fn stripped(set: &Set) -> Set {
    let mut unowned = Set::default();
    for name in ["apiVersion", "kind", "metadata"] {
        unowned.insert(&[set::field_element(name)]);
    }
    let names = [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ];
    for name in names {
        unowned.insert(&[set::field_element("metadata"), set::field_element(name)]);
    }
    set.difference(&unowned)
}

/// Takes from all managers but one what changed under them.
fn give_up(managers: &mut Managers, changes: &Comparison, but: Option<&Owner>) {
    let changed = changes.added.union(&changes.modified).union(&changes.removed);
    for entry in &mut managers.0 {
        if but.is_none_or(|owner| !entry.owner.is(owner)) {
            entry.give_up(&changed);
        }
    }
}

/// An object that nobody tracked belongs, as it stands, to a manager of its own.
fn adopt(managers: &mut Managers, live: &Value, schema: &Schema, manager: &Manager<'_>, reset: &[&[&str]]) {
    let all = changes(None, live, schema, reset);
    let first = Manager { name: "before-first-apply", subresource: "", ..*manager };
    managers.put(
        &owner(&first, false),
        &stripped(&all.added.union(&all.modified)),
        Some(manager.time.to_owned()),
    );
}

/// Removes what the applier owned last time and does not name any more, unless another applier names it, or nobody
/// ever owned it through this applier. What it names counts whether it can be owned or not: its name keeps the
/// metadata when the last of its labels goes.
fn prune(merged: Value, last: &Set, names: &Set, managers: &Managers, schema: &Schema) -> Value {
    if last.is_empty() {
        return merged;
    }
    let schema = Some(schema);
    let named = |set: &Set| walk::with_named_fields(set, schema);
    let all = |value: &Value| named(&walk::known_fields(value, schema));
    let without = |gone: &Set| walk::remove(&merged, gone, schema, Emptied::Null).unwrap_or_default();
    let others = managers.0.iter().fold(Set::default(), |a, e| a.union(&e.set())).difference(last);
    let last = named(last);
    let applied = managers.0.iter().filter(|e| e.owner.applies).fold(names.clone(), |a, e| a.union(&e.set()));
    let merged_set = all(&merged);
    let pruned = without(&last);
    let owned_back = without(&merged_set.difference(&all(&pruned).union(&named(&applied))));
    // A structure goes as a whole, with what was defaulted into it, but not with what somebody else put there.
    let gone = merged_set.difference(&all(&owned_back)).intersection(&last).difference(&named(&others));
    if gone.is_empty() {
        return merged;
    }
    walk::remove(&merged, &gone, schema, Emptied::Gone).unwrap_or(merged)
}

fn conflicts(managers: &Managers, changes: &Comparison, owner: &Owner) -> Vec<(managers::Entry, Set)> {
    let changed = changes.added.union(&changes.modified);
    let mut out: Vec<(managers::Entry, Set)> = managers
        .0
        .iter()
        .filter(|entry| !entry.owner.is(owner))
        .map(|entry| (entry.clone(), entry.set().intersection(&changed)))
        .filter(|(_, set)| !set.is_empty())
        .collect();
    out.sort_by(|a, b| a.0.owner.cmp(&b.0.owner));
    out
}

fn describe(entry: &managers::Entry, set: &Set) -> Vec<Conflict> {
    let owner = &entry.owner;
    let conflict = |path: Vec<set::Element>| Conflict {
        manager: owner.manager.clone(),
        subresource: owner.subresource.clone(),
        api_version: if owner.applies { String::new() } else { owner.api_version.clone() },
        time: entry.time.clone(),
        field: set::show(&path),
    };
    set.paths().into_iter().map(conflict).collect()
}

/// kubectl's own client-side apply is no stranger to its server-side one: what its annotation names may change.
fn only_with_last_applied(
    manager: &Manager<'_>,
    live: &Value,
    schema: &Schema,
    conflicts: &[(managers::Entry, Set)],
) -> bool {
    const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
    if manager.name != "kubectl" {
        return false;
    }
    let text = live.pointer("/metadata/annotations").and_then(|a| a.get(ANNOTATION)).and_then(Value::as_str);
    let Some(Ok(last)) = text.map(serde_json::from_str::<Value>) else { return false };
    let mut known = walk::known_fields(&last, Some(schema));
    known.insert(&["metadata", "annotations", ANNOTATION].map(set::field_element));
    conflicts.iter().all(|(_, set)| set.difference(&known).is_empty())
}

/// Writes the managers; when nothing but times would change, the live object's entries stay as they are.
fn finish(managers: Managers, live: Option<&Value>, before: &Managers, new: &mut Value, unchanged: bool) {
    if unchanged && managers.same_but_times(before) {
        let old = live.and_then(|live| live.pointer("/metadata/managedFields")).cloned();
        if let (Some(old), Some(metadata)) = (old, new.get_mut("metadata").and_then(Value::as_object_mut)) {
            metadata.insert("managedFields".to_owned(), old);
            return;
        }
    }
    managers.write(new);
}

#[cfg(test)]
mod tests;
