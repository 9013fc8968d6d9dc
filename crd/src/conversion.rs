//! How an object of one version becomes one of another, as data.
//!
//! One version is the hub; every other, a spoke, says in [`Step`]s how it differs from the hub. From spoke to spoke the
//! way leads over the hub. What one version cannot say is kept in an annotation of the object, so that the way there and
//! back loses nothing; who deletes the annotation deletes what it keeps.
//!
//! ```
//! use serde_json::json;
//! use windlass_crd::conversion::{Spoke, Step};
//!
//! let old = Spoke {
//!     api_version: "demo.dev/v1alpha1",
//!     hub: "demo.dev/v1",
//!     steps: &[Step::Moved { here: "/spec/text", hub: "/spec/message" }, Step::Added { hub: "/spec/color" }],
//!     has_spec: true,
//!     hub_has_spec: true,
//! };
//! let object = json!({ "apiVersion": "demo.dev/v1", "metadata": {}, "spec": { "message": "hi", "color": "red" } });
//! let shown = old.from_hub(object.clone());
//! assert_eq!(shown["spec"], json!({ "text": "hi" }));
//! assert_eq!(old.to_hub(shown), object);
//! ```

use serde_json::{Map, Value, json};

/// Where what a version cannot say is kept: an annotation, as a JSON object from pointer to value.
const KEPT: &str = "windlass.dev/kept";

/// The most bytes that are kept for one object; annotations have a bound, too.
const KEPT_BYTES_MAX: usize = 128 << 10;

/// One difference between a spoke and its hub. Places are JSON pointers from the object's root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The same value in another place or under another name.
    Moved {
        /// Where it is in the spoke.
        here: &'static str,
        /// Where it is in the hub.
        hub: &'static str,
    },
    /// A field that only the hub has. An object that comes from the spoke for the first time does not have it; the hub's
    /// defaults fill it then.
    Added {
        /// Where it is in the hub.
        hub: &'static str,
    },
    /// A field that only the spoke has.
    Removed {
        /// Where it is in the spoke.
        here: &'static str,
    },
}

/// A version as it differs from the hub.
#[derive(Clone, Copy, Debug)]
pub struct Spoke {
    /// The spoke, `group/version`.
    pub api_version: &'static str,
    /// The hub, `group/version`.
    pub hub: &'static str,
    /// The differences, applied in this order on the way to the hub, and backwards on the way from it.
    pub steps: &'static [Step],
    /// Whether objects of this version have a spec; those of kinds without one have their fields at the top level.
    pub has_spec: bool,
    /// Whether objects of the hub's version have one.
    pub hub_has_spec: bool,
}

impl Spoke {
    /// An object of this version in the hub's.
    #[must_use]
    pub fn to_hub(&self, mut object: Value) -> Value {
        let back = unkeep(&mut object, self.hub);
        let mut kept = Map::new();
        for step in self.steps {
            match *step {
                Step::Moved { here, hub } => relocate(&mut object, here, hub),
                Step::Added { hub } => restore(&mut object, hub, &back),
                Step::Removed { here } => keep(&mut object, here, &mut kept),
            }
        }
        respec(&mut object, self.has_spec, self.hub_has_spec);
        finish(object, self.hub, self.api_version, kept)
    }

    /// An object of the hub's version in this one.
    #[must_use]
    pub fn from_hub(&self, mut object: Value) -> Value {
        let back = unkeep(&mut object, self.api_version);
        let mut kept = Map::new();
        for step in self.steps.iter().rev() {
            match *step {
                Step::Moved { here, hub } => relocate(&mut object, hub, here),
                Step::Added { hub } => keep(&mut object, hub, &mut kept),
                Step::Removed { here } => restore(&mut object, here, &back),
            }
        }
        respec(&mut object, self.hub_has_spec, self.has_spec);
        finish(object, self.api_version, self.hub, kept)
    }
}

/// A kind in several versions.
#[derive(Clone, Debug)]
pub struct Versions {
    hub: &'static str,
    spokes: Vec<Spoke>,
}

/// Why an object could not be converted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConversionError {
    /// The object says no version, or one that is not known.
    #[error("no conversion from {0:?} is known")]
    From(String),
    /// The version that is wanted is not known.
    #[error("no conversion to {0:?} is known")]
    To(String),
}

impl Versions {
    /// The hub, `group/version`, and its spokes.
    #[must_use]
    pub fn new(hub: &'static str, spokes: Vec<Spoke>) -> Self {
        Self { hub, spokes }
    }

    /// The hub, `group/version`.
    #[must_use]
    pub fn hub(&self) -> &'static str {
        self.hub
    }

    /// The other versions.
    #[must_use]
    pub fn spokes(&self) -> &[Spoke] {
        &self.spokes
    }

    /// An object in the version `wanted`, `group/version`.
    ///
    /// # Errors
    /// When one of the two versions is unknown; nothing is converted then.
    pub fn convert(&self, object: Value, wanted: &str) -> Result<Value, ConversionError> {
        let is = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
        let from = self.place(&is).ok_or(ConversionError::From(is))?;
        let to = self.place(wanted).ok_or_else(|| ConversionError::To(wanted.to_owned()))?;
        if object["apiVersion"] == wanted {
            return Ok(object);
        }
        let hub = match from {
            Some(spoke) => spoke.to_hub(object),
            None => object,
        };
        Ok(match to {
            Some(spoke) => spoke.from_hub(hub),
            None => hub,
        })
    }

    /// The spoke of a version: `Some(None)` for the hub, `None` for a stranger.
    #[expect(clippy::option_option, reason = "known, and a spoke, are two questions")]
    fn place(&self, api_version: &str) -> Option<Option<&Spoke>> {
        if api_version == self.hub {
            return Some(None);
        }
        self.spokes.iter().find(|spoke| spoke.api_version == api_version).map(Some)
    }
}

/// Takes what was kept for a version out of the annotation.
fn unkeep(object: &mut Value, version: &str) -> Map<String, Value> {
    let Some(Value::Object(annotations)) = object.pointer_mut("/metadata/annotations") else {
        return Map::new();
    };
    let kept = annotations.get(KEPT).and_then(Value::as_str).unwrap_or_default();
    let Ok(mut kept) = serde_json::from_str::<Map<String, Value>>(kept) else { return Map::new() };
    let Some(Value::Object(back)) = kept.remove(version) else { return Map::new() };
    match kept.is_empty() {
        true => drop(annotations.remove(KEPT)),
        false => drop(annotations.insert(KEPT.to_owned(), Value::Object(kept).to_string().into())),
    }
    if annotations.is_empty()
        && let Some(metadata) = object["metadata"].as_object_mut()
    {
        metadata.remove("annotations");
    }
    back
}

/// Names the new version, and keeps for the old one what the new one cannot say.
fn finish(mut object: Value, version: &str, old: &str, kept: Map<String, Value>) -> Value {
    object["apiVersion"] = version.into();
    if kept.is_empty() {
        return object;
    }
    let place = "/metadata/annotations";
    let before = object.pointer(place).and_then(|a| a.get(KEPT)).and_then(Value::as_str).unwrap_or_default();
    let mut all = serde_json::from_str::<Map<String, Value>>(before).unwrap_or_default();
    all.insert(old.to_owned(), Value::Object(kept));
    let text = Value::Object(all).to_string();
    if text.len() <= KEPT_BYTES_MAX {
        put(&mut object, &format!("{place}/{}", KEPT.replace('/', "~1")), json!(text));
    }
    object
}

/// Leaves no empty spec behind where a version has none, and makes one where a version has to have it.
fn respec(object: &mut Value, had: bool, has: bool) {
    let Some(fields) = object.as_object_mut().filter(|_| had != has) else { return };
    if has {
        fields.entry("spec").or_insert_with(|| json!({}));
    } else if fields.get("spec").and_then(Value::as_object).is_some_and(Map::is_empty) {
        fields.remove("spec");
    }
}

fn keep(object: &mut Value, at: &str, kept: &mut Map<String, Value>) {
    if let Some(value) = take(object, at) {
        kept.insert(at.to_owned(), value);
    }
}

fn restore(object: &mut Value, at: &str, back: &Map<String, Value>) {
    // What somebody has written meanwhile counts more.
    if let Some(value) = back.get(at)
        && object.pointer(at).is_none()
    {
        put(object, at, value.clone());
    }
}

fn relocate(object: &mut Value, from: &str, to: &str) {
    if let Some(value) = take(object, from) {
        put(object, to, value);
    }
}

/// Takes a value out, and the objects around it that are empty then, but for the first two levels.
fn take(object: &mut Value, at: &str) -> Option<Value> {
    let (parent, name) = at.rsplit_once('/')?;
    let value = object.pointer_mut(parent)?.as_object_mut()?.remove(&unescape(name))?;
    if parent.matches('/').count() > 1 && object.pointer(parent)?.as_object()?.is_empty() {
        take(object, parent);
    }
    Some(value)
}

/// Puts a value in; objects on the way that are missing are made, and what is in the way of one stays.
fn put(object: &mut Value, at: &str, value: Value) {
    let mut place = object;
    for name in at.split('/').skip(1) {
        if place.is_null() {
            *place = json!({});
        }
        let Some(map) = place.as_object_mut() else { return };
        place = map.entry(unescape(name)).or_insert(Value::Null);
    }
    *place = value;
}

fn unescape(name: &str) -> String {
    name.replace("~1", "/").replace("~0", "~")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Spoke = Spoke {
        api_version: "demo.dev/v1alpha1",
        hub: "demo.dev/v1",
        steps: &[
            Step::Moved { here: "/spec/text", hub: "/spec/message" },
            Step::Moved { here: "/spec/port", hub: "/spec/listen/port" },
            Step::Added { hub: "/spec/color" },
            Step::Removed { here: "/spec/legacy" },
        ],
        has_spec: true,
        hub_has_spec: true,
    };
    const OLDER: Spoke = Spoke {
        api_version: "demo.dev/v1alpha0",
        hub: "demo.dev/v1",
        steps: &[Step::Added { hub: "/spec/message" }],
        has_spec: true,
        hub_has_spec: true,
    };

    fn object(version: &str, spec: Value) -> Value {
        json!({ "apiVersion": format!("demo.dev/{version}"), "kind": "Demo", "metadata": { "name": "a" }, "spec": spec })
    }

    #[test]
    fn fields_are_renamed_moved_added_and_removed() {
        let old = object("v1alpha1", json!({ "text": "hi", "port": 80, "legacy": [1] }));
        let new = OLD.to_hub(old.clone());
        assert_eq!(new["spec"], json!({ "message": "hi", "listen": { "port": 80 } }));
        assert_eq!(new["apiVersion"], "demo.dev/v1");
        assert_eq!(OLD.from_hub(new), old);
    }

    #[test]
    fn what_the_old_version_cannot_say_survives_it() {
        let new = object("v1", json!({ "message": "hi", "color": "red" }));
        let mut shown = OLD.from_hub(new);
        assert_eq!(shown["spec"], json!({ "text": "hi" }));
        shown["spec"]["text"] = "ho".into();
        assert_eq!(OLD.to_hub(shown), object("v1", json!({ "message": "ho", "color": "red" })));
    }

    #[test]
    fn from_spoke_to_spoke_the_way_leads_over_the_hub() {
        let versions = Versions::new("demo.dev/v1", vec![OLD, OLDER]);
        let old = object("v1alpha1", json!({ "text": "hi", "legacy": true, "other": 1 }));
        let older = versions.convert(old.clone(), "demo.dev/v1alpha0").unwrap();
        assert_eq!(older["spec"], json!({ "other": 1 }));
        assert_eq!(versions.convert(older, "demo.dev/v1alpha1").unwrap(), old);
        assert_eq!(versions.convert(old.clone(), "demo.dev/v1alpha1").unwrap(), old);
    }

    #[test]
    fn strangers_are_named() {
        let versions = Versions::new("demo.dev/v1", vec![OLD]);
        let refused = versions.convert(object("v9", json!({})), "demo.dev/v1").unwrap_err();
        assert_eq!(refused.to_string(), "no conversion from \"demo.dev/v9\" is known");
        let refused = versions.convert(object("v1", json!({})), "v2").unwrap_err();
        assert_eq!(refused.to_string(), "no conversion to \"v2\" is known");
    }

    #[test]
    fn other_annotations_and_a_spoilt_one_do_no_harm() {
        let mut new = object("v1", json!({ "message": "hi" }));
        new["metadata"]["annotations"] = json!({ "mine": "1", KEPT: "{" });
        let shown = OLD.from_hub(new.clone());
        assert_eq!(shown["metadata"]["annotations"]["mine"], "1");
        assert_eq!(OLD.to_hub(shown)["spec"], new["spec"]);
    }

    #[test]
    fn a_spec_comes_and_goes() {
        const FLAT: Spoke = Spoke {
            api_version: "demo.dev/v1alpha1",
            hub: "demo.dev/v1",
            steps: &[Step::Moved { here: "/text", hub: "/spec/message" }],
            has_spec: false,
            hub_has_spec: true,
        };
        let full = object("v1", json!({ "message": "hi" }));
        let flat = FLAT.from_hub(full.clone());
        assert_eq!((flat.get("spec"), &flat["text"]), (None, &json!("hi")));
        assert_eq!(FLAT.to_hub(flat), full);
        let empty = object("v1", json!({}));
        assert_eq!(FLAT.to_hub(FLAT.from_hub(empty.clone())), empty, "a spec has to be there");
        // What no step tells of is not lost.
        let more = object("v1", json!({ "message": "hi", "other": 1 }));
        assert_eq!(FLAT.from_hub(more)["spec"], json!({ "other": 1 }));
    }
}
