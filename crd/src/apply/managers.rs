//! `metadata.managedFields`: reading it, writing it, keeping it bounded.

use serde_json::{Map, Value, json};

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

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) owner: Owner,
    pub(super) time: Option<String>,
    pub(super) set: Set,
}

/// All entries of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Managers(pub(super) Vec<Entry>);

impl Managers {
    /// Reads the entries of an object; `None` when one is malformed.
    pub(super) fn read(object: &Value) -> Option<Self> {
        let Some(list) = object.pointer("/metadata/managedFields").filter(|v| !v.is_null()) else {
            return Some(Self::default());
        };
        list.as_array()?.iter().map(read_entry).collect::<Option<Vec<_>>>().map(Self)
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
    pub(super) fn put(&mut self, owner: &Owner, set: Set, time: Option<String>) {
        let entry = Entry { owner: owner.clone(), time, set };
        match self.position(owner) {
            Some(at) => self.0[at] = entry,
            None => self.0.push(entry),
        }
    }

    pub(super) fn drop_empty(&mut self) {
        self.0.retain(|entry| !entry.set.is_empty());
    }

    /// Puts the oldest updates of each version together until few enough are left.
    pub(super) fn cap(&mut self) {
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
            let base = self.take(&bucket).or_else(|| self.take(&first)).map(|e| e.set).unwrap_or_default();
            self.take(&entry.owner);
            self.put(&bucket, base.union(&entry.set), entry.time);
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
            let key = |e: &Entry| {
                let owner = &e.owner;
                let names = (owner.manager.clone(), owner.api_version.clone(), owner.subresource.clone());
                (!owner.applies, e.time.clone(), names)
            };
            key(a).cmp(&key(b))
        });
        let list: Vec<Value> = self.0.iter().map(write_entry).collect();
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
            && self.0.iter().all(|a| other.0.iter().any(|b| a.owner == b.owner && a.set == b.set))
    }
}

fn read_entry(value: &Value) -> Option<Entry> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
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
    let set = value.get("fieldsV1").map_or_else(|| Some(Set::default()), Set::from_json)?;
    Some(Entry { owner, time: value.get("time").and_then(Value::as_str).map(str::to_owned), set })
}

fn write_entry(entry: &Entry) -> Value {
    let owner = &entry.owner;
    let mut out = json!({
        "manager": owner.manager,
        "operation": if owner.applies { "Apply" } else { "Update" },
        "apiVersion": owner.api_version,
        "fieldsType": "FieldsV1",
        "fieldsV1": entry.set.to_json(),
    });
    if let Some(time) = &entry.time {
        out["time"] = time.as_str().into();
    }
    if !owner.subresource.is_empty() {
        out["subresource"] = owner.subresource.as_str().into();
    }
    out
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
            managers.put(&owner(&format!("m{i:02}")), set, Some(format!("2024-01-01T00:00:{i:02}Z")));
        }
        managers.cap();
        assert_eq!(managers.0.len(), UPDATE_MANAGERS_MAX);
        let bucket = &managers.0[managers.position(&owner(ANCIENT)).unwrap()];
        assert_eq!(bucket.set.members.len(), 5);
        assert_eq!(bucket.time.as_deref(), Some("2024-01-01T00:00:04Z"));
    }
}
