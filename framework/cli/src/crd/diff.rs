//! What a change of a definition means for objects that are stored already.
//!
//! Pure: two definitions in, findings out. A finding breaks when an object that was good may lose a value, or be refused
//! once it is written again. (A server that ratchets, as upstream's does since 1.30, lets a bad value pass as long as the
//! write does not touch it; it is refused all the same when it is touched.) What only makes room is no finding.

use std::{collections::BTreeSet, fmt};

use serde::Serialize;
use serde_json::{Map, Value};

/// One thing that stored objects would notice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// The definition.
    pub(super) definition: String,
    /// The version, where the finding is about one.
    pub(super) version: Option<String>,
    /// The field, as in `spec.replicas`.
    pub(super) field: Option<String>,
    /// Whether objects may break.
    pub(super) breaks: bool,
    /// What changed, and what follows.
    pub(super) sentence: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.breaks { "breaks " } else { "note   " })?;
        f.write_str(&self.definition)?;
        for part in [&self.version, &self.field].into_iter().flatten() {
            write!(f, " {part}")?;
        }
        write!(f, ": {}", self.sentence)
    }
}

/// What objects of the old definition would notice of the new one; `None` when there is no new one.
pub(super) fn diff(old: &Value, new: Option<&Value>) -> Vec<Finding> {
    let definition = old["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let mut notes = Notes { definition, version: None, path: Vec::new(), found: Vec::new() };
    let Some(new) = new else {
        notes.breaks("the definition is gone, and every object goes with it");
        return notes.found;
    };
    whole(&mut notes, old, new);
    for version in versions(old) {
        notes.version = Some(name(version));
        match versions(new).find(|other| other["name"] == version["name"]) {
            None => gone(&mut notes, old, version),
            Some(other) => served(&mut notes, version, other),
        }
    }
    notes.found
}

struct Notes {
    definition: String,
    version: Option<String>,
    path: Vec<String>,
    found: Vec<Finding>,
}

impl Notes {
    fn breaks(&mut self, sentence: impl Into<String>) {
        self.note(true, sentence.into());
    }

    fn notes(&mut self, sentence: impl Into<String>) {
        self.note(false, sentence.into());
    }

    fn note(&mut self, breaks: bool, sentence: String) {
        let field = Some(self.path.concat()).filter(|path| !path.is_empty());
        let field = field.map(|path| path.trim_start_matches('.').to_owned());
        let (definition, version) = (self.definition.clone(), self.version.clone());
        self.found.push(Finding { definition, version, field, breaks, sentence });
    }

    fn at(&mut self, step: String, look: impl FnOnce(&mut Self)) {
        self.path.push(step);
        look(self);
        self.path.pop();
    }
}

fn versions(definition: &Value) -> impl Iterator<Item = &Value> {
    definition["spec"]["versions"].as_array().into_iter().flatten()
}

fn name(version: &Value) -> String {
    version["name"].as_str().unwrap_or_default().to_owned()
}

fn storage(definition: &Value) -> Option<String> {
    versions(definition).find(|version| version["storage"] == true).map(name)
}

/// What is about the whole definition.
fn whole(notes: &mut Notes, old: &Value, new: &Value) {
    for (field, what) in [
        ("/spec/scope", "scope"),
        ("/spec/group", "group"),
        ("/spec/names/kind", "kind"),
        ("/spec/names/plural", "plural"),
    ] {
        let (was, is) = (old.pointer(field), new.pointer(field));
        if was != is {
            notes.breaks(format!(
                "the {what} was {} and is {}, which no server accepts of a definition that has objects",
                show(was),
                show(is)
            ));
        }
    }
    let (was, is) = (storage(old), storage(new));
    if let (Some(was), Some(is)) = (&was, &is)
        && was != is
    {
        let converts = new["spec"]["conversion"]["strategy"] == "Webhook";
        let how = if converts {
            "they are converted when they are read"
        } else {
            "nothing but their version is changed when they are read"
        };
        notes.notes(format!("the storage version was {was} and is {is}: objects stay in {was} until they are written again, and {how}"));
    }
    let webhook = |definition: &Value| definition["spec"]["conversion"]["strategy"] == "Webhook";
    if webhook(old) && !webhook(new) {
        notes.breaks(
            "no webhook converts any more: what is stored in another version is shown as it is, and pruned",
        );
    }
}

fn gone(notes: &mut Notes, old: &Value, version: &Value) {
    let version = name(version);
    let stored = old["status"]["storedVersions"].as_array();
    let stored = stored
        .map_or(storage(old).as_deref() == Some(&version), |all| all.iter().any(|v| *v == version.as_str()));
    if stored {
        notes.breaks("the version is gone, and objects may be stored in it: they have to be migrated first");
    } else {
        notes.breaks("the version is gone: clients that use it are answered 404");
    }
}

/// A version that is in both.
fn served(notes: &mut Notes, old: &Value, new: &Value) {
    if old["served"] == true && new["served"] == false {
        notes.breaks("the version is no longer served: clients that use it are answered 404");
    }
    let status = |version: &Value| version["subresources"]["status"].is_object();
    match (status(old), status(new)) {
        (true, false) => notes.breaks("there is no subresource status any more: writes to it are answered 404, and writes of the object change its status"),
        (false, true) => notes.breaks("status is a subresource now: a status in writes of the object is ignored"),
        _ => {}
    }
    for removed in selectable(old).difference(&selectable(new)) {
        notes.breaks(format!("{removed} can no longer be selected: lists that do are refused"));
    }
    let (was, is) = (&old["schema"]["openAPIV3Schema"], &new["schema"]["openAPIV3Schema"]);
    schema(notes, was, is);
}

fn selectable(version: &Value) -> BTreeSet<String> {
    let fields = version["selectableFields"].as_array();
    fields.into_iter().flatten().filter_map(|field| Some(field["jsonPath"].as_str()?.to_owned())).collect()
}

fn schema(notes: &mut Notes, old: &Value, new: &Value) {
    types(notes, old, new);
    bounds(notes, old, new);
    words(notes, old, new);
    combined(notes, old, new);
    lists(notes, old, new);
    rules(notes, old, new);
    fields(notes, old, new);
    if let (Value::Object(_), Value::Object(_)) = (&old["items"], &new["items"]) {
        notes.at("[]".to_owned(), |notes| schema(notes, &old["items"], &new["items"]));
    }
    let (was, is) = (&old["additionalProperties"], &new["additionalProperties"]);
    if was.is_object() && is.is_object() {
        notes.at(".*".to_owned(), |notes| schema(notes, was, is));
    }
}

fn types(notes: &mut Notes, old: &Value, new: &Value) {
    let loose = |schema: &Value, mark: &str| schema[mark] == true;
    let (any, either) = ("x-kubernetes-preserve-unknown-fields", "x-kubernetes-int-or-string");
    if loose(old, either) && !loose(new, either) {
        notes.breaks(format!("it was a number or a string and is {}", show(new.get("type"))));
    } else if old["type"] != new["type"]
        && !loose(new, either)
        && !(old["type"] == "integer" && new["type"] == "number")
        && new.get("type").is_some()
    {
        notes.breaks(format!("its type was {} and is {}", show(old.get("type")), show(new.get("type"))));
    }
    if loose(old, "nullable") && !loose(new, "nullable") {
        notes.breaks(
            "it could be null and no longer can: a null is dropped, or refused where the field is required",
        );
    }
    if loose(old, any) && !loose(new, any) {
        notes.breaks("unknown fields were kept in it and are dropped now");
    }
}

/// Keywords that say how much there may be: whether a greater value leaves less room.
const BOUNDS: [(&str, bool); 8] = [
    ("minimum", true),
    ("maximum", false),
    ("minLength", true),
    ("maxLength", false),
    ("minItems", true),
    ("maxItems", false),
    ("minProperties", true),
    ("maxProperties", false),
];

fn bounds(notes: &mut Notes, old: &Value, new: &Value) {
    for (keyword, lower) in BOUNDS {
        let (was, is) = (old.get(keyword), new.get(keyword));
        let tighter = match (was.and_then(Value::as_f64), is.and_then(Value::as_f64)) {
            (_, None) => false,
            (None, Some(is)) => !(lower && is == 0.0 && keyword != "minimum"),
            (Some(was), Some(is)) => {
                if lower {
                    is > was
                } else {
                    is < was
                }
            }
        };
        if tighter {
            notes.breaks(format!("{keyword} was {} and is {}", show(was), show(is)));
        }
    }
    for keyword in ["exclusiveMinimum", "exclusiveMaximum", "uniqueItems"] {
        if old[keyword] != true && new[keyword] == true {
            notes.breaks(format!("{keyword} is new"));
        }
    }
    if let Some(is) = new.get("multipleOf").filter(|is| old.get("multipleOf") != Some(is)) {
        notes.breaks(format!("multipleOf was {} and is {is}", show(old.get("multipleOf"))));
    }
}

/// What a string, or any value, may be.
fn words(notes: &mut Notes, old: &Value, new: &Value) {
    for keyword in ["pattern", "format"] {
        if let Some(is) = new.get(keyword).filter(|is| old.get(keyword) != Some(is)) {
            notes.breaks(format!(
                "{keyword} was {} and is {is}: values that do not match are refused",
                show(old.get(keyword))
            ));
        }
    }
    let Some(is) = new["enum"].as_array() else { return };
    match old["enum"].as_array() {
        None => notes.breaks(format!("it could be anything and is one of {} now", list(is.iter()))),
        Some(was) => {
            let lost: Vec<&Value> = was.iter().filter(|value| !is.contains(value)).collect();
            if !lost.is_empty() {
                notes.breaks(format!("it can no longer be {}", list(lost.into_iter())));
            }
        }
    }
}

/// Schemas within `allOf` and the like are not taken apart: that one is new or other is all that is said.
fn combined(notes: &mut Notes, old: &Value, new: &Value) {
    for keyword in ["allOf", "anyOf", "oneOf", "not"] {
        if let Some(is) = new.get(keyword).filter(|is| old.get(keyword) != Some(is)) {
            let was = old.get(keyword).map_or("is new", |_| "is another");
            notes.breaks(format!("{keyword} {was}: {is}"));
        }
    }
}

fn lists(notes: &mut Notes, old: &Value, new: &Value) {
    let kind = |schema: &Value| schema["x-kubernetes-list-type"].as_str().unwrap_or("atomic").to_owned();
    let keys = |schema: &Value| schema["x-kubernetes-list-map-keys"].clone();
    match (kind(old), kind(new)) {
        (was, is) if was == is && keys(old) == keys(new) => {}
        (was, is) if was == is => notes.breaks(format!(
            "its entries were told apart by {} and are by {}: lists with two of the same are refused",
            keys(old),
            keys(new)
        )),
        (was, is) if is == "atomic" => notes
            .notes(format!("it was a list of type {was} and is atomic: server-side apply replaces it whole")),
        (was, is) => notes.breaks(format!(
            "it was a list of type {was} and is of type {is}: lists with two of the same are refused"
        )),
    }
}

fn rules(notes: &mut Notes, old: &Value, new: &Value) {
    const RULES: &str = "x-kubernetes-validations";
    let known: BTreeSet<&str> =
        old[RULES].as_array().into_iter().flatten().filter_map(|rule| rule["rule"].as_str()).collect();
    for rule in new[RULES].as_array().into_iter().flatten().filter_map(|rule| rule["rule"].as_str()) {
        if known.contains(rule) {
            continue;
        }
        if rule.contains("oldSelf") {
            notes.notes(format!("the rule {rule:?} is new: it is about changes, and lets what is stored be"));
        } else {
            notes.breaks(format!("the rule {rule:?} is new: what does not follow it is refused"));
        }
    }
}

fn fields(notes: &mut Notes, old: &Value, new: &Value) {
    let none = Map::new();
    let properties = |schema: &'static str, of: &Value| of[schema].as_object().cloned().unwrap_or_default();
    let (was, is) = (properties("properties", old), properties("properties", new));
    let kept = new["x-kubernetes-preserve-unknown-fields"] == true || new["additionalProperties"].is_object();
    for (field, schema_was) in &was {
        notes.at(format!(".{field}"), |notes| match is.get(field) {
            Some(schema_is) => {
                defaults(notes, schema_was, schema_is);
                schema(notes, schema_was, schema_is);
            }
            None if kept => notes.notes("it is no longer described, and kept as it is"),
            None => notes.breaks("it is gone, and what it held is dropped"),
        });
    }
    let required = |of: &Value| -> BTreeSet<String> {
        let names = of["required"].as_array().into_iter().flatten();
        names.filter_map(|name| Some(name.as_str()?.to_owned())).collect()
    };
    for field in required(new).difference(&required(old)) {
        let defaulted = is.get(field).unwrap_or(&Value::Object(none.clone())).get("default").is_some();
        notes.at(format!(".{field}"), |notes| match (defaulted, was.contains_key(field)) {
            (true, _) => {}
            (false, true) => notes.breaks("it is required now: objects without it are refused"),
            (false, false) => notes.breaks("it is new and required: every object is refused until it has it"),
        });
    }
    for field in required(old).intersection(&required(new)) {
        let default = |properties: &Map<String, Value>| {
            properties.get(field).is_some_and(|p| p.get("default").is_some())
        };
        if default(&was) && !default(&is) && is.contains_key(field) {
            notes.at(format!(".{field}"), |notes| {
                notes.breaks(
                    "it is required and has no default any more: objects that left it out are refused",
                );
            });
        }
    }
}

fn defaults(notes: &mut Notes, old: &Value, new: &Value) {
    let (was, is) = (old.get("default"), new.get("default"));
    if was != is {
        notes.notes(format!(
            "its default was {} and is {}: objects that leave it out mean something else",
            show(was),
            show(is)
        ));
    }
}

fn show(value: Option<&Value>) -> String {
    match value {
        None => "not set".to_owned(),
        // Bounds of integers are written as numbers with a fraction.
        Some(Value::Number(number)) => number.as_f64().map_or_else(|| number.to_string(), |n| n.to_string()),
        Some(other) => other.to_string(),
    }
}

fn list<'a>(values: impl Iterator<Item = &'a Value>) -> String {
    values.map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
