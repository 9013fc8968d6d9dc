//! `metadata.managedFields`: reading it, writing it, keeping it bounded.

use serde_json::{Map, Value};

use super::set::Set;

/// The most entries of plain updates; older ones are put together.
const UPDATE_MANAGERS_MAX: usize = 10;
/// The manager that old updates are put under.
const ANCIENT: &str = "ancient-changes";

/// Who did it how: what tells one entry from another. The version tells updates apart, not applies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    pub(super) manager: String,
    pub(super) applies: bool,
    pub(super) subresource: String,
    pub(super) api_version: String,
}

impl Owner {
    /// Whether both stand for the same entry.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.applies == other.applies
            && self.subresource == other.subresource
            && (self.applies || self.api_version == other.api_version)
    }
}

/// One entry. Its fields stay as they were read until somebody changes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) owner: Owner,
    pub(super) time: Option<String>,
    fields: Value,
}

impl Entry {
    /// The fields as a set.
    pub(super) fn set(&self) -> Set {
        Set::from_json(&self.fields).unwrap_or_default()
    }

    /// Takes fields away, if it has any of them.
    pub(super) fn give_up(&mut self, gone: &Set) {
        if gone.meets(&self.fields) {
            self.fields = self.set().difference(gone).to_json();
        }
    }

    fn is_empty(&self) -> bool {
        self.fields.as_object().is_none_or(Map::is_empty)
    }
}

/// All entries of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Managers(pub(super) Vec<Entry>);

impl Managers {
    /// Reads the entries of an object; `None` when one is malformed.
    pub(super) fn read(object: &Value) -> Option<Self> {
        match object.pointer("/metadata/managedFields") {
            None | Some(Value::Null) => Some(Self::default()),
            Some(list) => list
                .as_array()?
                .iter()
                .map(|entry| read_entry(entry.clone()))
                .collect::<Option<_>>()
                .map(Self),
        }
    }

    /// Reads the entries of an object and takes them out of it.
    pub(super) fn take_from(object: &mut Value) -> Option<Self> {
        match object
            .get_mut("metadata")
            .and_then(|metadata| metadata.as_object_mut()?.remove("managedFields"))
        {
            None | Some(Value::Null) => Some(Self::default()),
            Some(Value::Array(list)) => list.into_iter().map(read_entry).collect::<Option<_>>().map(Self),
            Some(_) => None,
        }
    }

    /// Whether a client asks with one empty entry to forget all managers.
    pub(super) fn is_reset(object: &Value) -> bool {
        let list = object.pointer("/metadata/managedFields").and_then(Value::as_array);
        list.is_some_and(|l| l.len() == 1 && l[0].as_object().is_some_and(Map::is_empty))
    }

    pub(super) fn position(&self, owner: &Owner) -> Option<usize> {
        self.0.iter().position(|entry| entry.owner.is(owner))
    }

    /// Sets the set and time of an owner's entry.
    pub(super) fn put(&mut self, owner: &Owner, set: &Set, time: Option<String>) {
        let entry = Entry { owner: owner.clone(), time, fields: set.to_json() };
        match self.position(owner) {
            Some(at) => self.0[at] = entry,
            None => self.0.push(entry),
        }
    }

    pub(super) fn drop_empty(&mut self) {
        self.0.retain(|entry| !entry.is_empty());
    }

    /// Puts the oldest updates of each version together until few enough are left.
    pub(super) fn cap(&mut self) {
        if self.0.iter().filter(|e| !e.owner.applies).count() <= UPDATE_MANAGERS_MAX {
            return;
        }
        let mut updates: Vec<Entry> = self.0.iter().filter(|e| !e.owner.applies).cloned().collect();
        let mut count = updates.len();
        updates.sort_by(|a, b| (&a.time, &a.owner).cmp(&(&b.time, &b.owner)));
        let mut firsts: Vec<Owner> = Vec::new();
        for entry in updates {
            if count <= UPDATE_MANAGERS_MAX {
                break;
            }
            let version = &entry.owner.api_version;
            let Some(first) = firsts.iter().find(|owner| owner.api_version == *version).cloned() else {
                firsts.push(entry.owner);
                continue;
            };
            let bucket = Owner {
                manager: ANCIENT.to_owned(),
                applies: false,
                subresource: String::new(),
                api_version: version.clone(),
            };
            let base = self.take(&bucket).or_else(|| self.take(&first)).map(|e| e.set()).unwrap_or_default();
            self.take(&entry.owner);
            self.put(&bucket, &base.union(&entry.set()), entry.time);
            count -= 1;
        }
    }

    fn take(&mut self, owner: &Owner) -> Option<Entry> {
        self.position(owner).map(|at| self.0.remove(at))
    }

    /// Writes the entries into an object, applies first, then by time and name.
    pub(super) fn write(mut self, object: &mut Value) {
        self.drop_empty();
        self.0.sort_by(|a, b| {
            fn key(e: &Entry) -> (bool, Option<&str>, &str, &str, &str) {
                let owner = &e.owner;
                (!owner.applies, e.time.as_deref(), &owner.manager, &owner.api_version, &owner.subresource)
            }
            key(a).cmp(&key(b))
        });
        let list: Vec<Value> = self.0.into_iter().map(write_entry).collect();
        let Some(map) = object.as_object_mut() else { return };
        if list.is_empty() {
            if let Some(Value::Object(metadata)) = map.get_mut("metadata") {
                metadata.remove("managedFields");
            }
            return;
        }
        let metadata = map.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(metadata) = metadata {
            metadata.insert("managedFields".to_owned(), Value::Array(list));
        }
    }

    /// Whether the entries are the same, times aside.
    pub(super) fn same_but_times(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().all(|a| other.0.iter().any(|b| a.owner == b.owner && a.fields == b.fields))
    }
}

fn read_entry(mut value: Value) -> Option<Entry> {
    let map = value.as_object_mut()?;
    let mut text = |key: &str| match map.remove(key) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    let applies = match text("operation").as_str() {
        "Apply" => true,
        "Update" => false,
        _ => return None,
    };
    if text("fieldsType") != "FieldsV1" {
        return None;
    }
    let owner = Owner {
        manager: text("manager"),
        applies,
        subresource: text("subresource"),
        api_version: text("apiVersion"),
    };
    let time = Some(text("time")).filter(|time| !time.is_empty());
    let fields = map.remove("fieldsV1").unwrap_or_else(|| Value::Object(Map::new()));
    super::set::is_well_formed(&fields).then_some(Entry { owner, time, fields })
}

fn write_entry(entry: Entry) -> Value {
    let owner = entry.owner;
    let mut out = Map::new();
    let operation = if owner.applies { "Apply" } else { "Update" };
    let mut put = |key: &str, value: String| out.insert(key.to_owned(), value.into());
    put("manager", owner.manager);
    put("operation", operation.to_owned());
    put("apiVersion", owner.api_version);
    put("fieldsType", "FieldsV1".to_owned());
    if let Some(time) = entry.time {
        put("time", time);
    }
    if !owner.subresource.is_empty() {
        put("subresource", owner.subresource);
    }
    out.insert("fieldsV1".to_owned(), entry.fields);
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: &str) -> Owner {
        Owner { manager: name.into(), applies: false, subresource: String::new(), api_version: "v1".into() }
    }

    #[test]
    fn old_updates_are_put_together() {
        let mut managers = Managers::default();
        for i in 0..14 {
            let mut set = Set::default();
            set.insert(&[format!("f:x{i}").into()]);
            managers.put(&owner(&format!("m{i:02}")), &set, Some(format!("2024-01-01T00:00:{i:02}Z")));
        }
        managers.cap();
        assert_eq!(managers.0.len(), UPDATE_MANAGERS_MAX);
        let bucket = &managers.0[managers.position(&owner(ANCIENT)).unwrap()];
        assert_eq!(bucket.set().paths().len(), 5);
        assert_eq!(bucket.time.as_deref(), Some("2024-01-01T00:00:04Z"));
    }
}
