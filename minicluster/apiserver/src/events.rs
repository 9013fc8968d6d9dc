//! Events have two faces, core `v1` and `events.k8s.io/v1`: the same stored objects, with other field names.

use std::sync::Arc;

use serde_json::Value;

use crate::{object, registry::Convert};

/// (core field, events.k8s.io field).
const RENAMED: [(&str, &str); 6] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

const CONTROLLER: (&str, &str) = ("reportingComponent", "reportingController");

/// Renames the fields of an event for the wanted version.
pub(crate) fn convert() -> Convert {
    Arc::new(|obj, wanted| {
        let to_core = wanted == "v1";
        let map = object::map(obj);
        for (core, new) in RENAMED.into_iter().chain([CONTROLLER]) {
            let (from, to) = if to_core { (new, core) } else { (core, new) };
            if let Some(value) = map.remove(from) {
                map.insert(to.to_owned(), value);
            }
        }
        map.insert("apiVersion".to_owned(), Value::from(wanted));
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn both_faces_carry_the_same_facts() {
        let core = json!({
            "apiVersion": "v1", "kind": "Event", "message": "m", "involvedObject": {"kind": "Pod"}, "count": 2,
            "reportingComponent": "kubelet", "reason": "Started",
        });
        let mut other = core.clone();
        super::convert()(&mut other, "events.k8s.io/v1");
        assert_eq!(
            other,
            json!({
                "apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "m", "regarding": {"kind": "Pod"},
                "deprecatedCount": 2, "reportingController": "kubelet", "reason": "Started",
            })
        );
        super::convert()(&mut other, "v1");
        assert_eq!(other, core);
    }
}
