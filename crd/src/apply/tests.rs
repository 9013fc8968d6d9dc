//! Cases of the public documentation, and a slow model of ownership.

use super::*;
use crate::schema::builtin;
use expect_test::expect;
use serde_json::json;
use std::sync::Arc;

fn schema() -> Arc<Schema> {
    builtin("apps/v1", "Deployment").unwrap()
}

fn by<'a>(name: &'a str, time: &'a str) -> Manager<'a> {
    Manager { name, api_version: "apps/v1", subresource: "", time }
}

fn applied(live: Option<&Value>, patch: &Value, name: &str) -> Result<Value, String> {
    apply(live, patch, &schema(), &by(name, "2024-01-01T00:00:00Z"), false, &[]).map_err(|e| e.to_string())
}

fn updated(live: Option<&Value>, mut new: Value, name: &str, time: &str) -> Value {
    update(live, &mut new, &schema(), &by(name, time), &[&["status"]]);
    new
}

/// The owners of an object, one line each.
fn owners(object: &Value) -> String {
    let entries =
        object.pointer("/metadata/managedFields").and_then(Value::as_array).cloned().unwrap_or_default();
    entries
        .iter()
        .map(|e| {
            format!(
                "{} {} {}\n",
                e["manager"].as_str().unwrap(),
                e["operation"].as_str().unwrap(),
                e["fieldsV1"]
            )
        })
        .collect()
}

fn without_managers(object: &Value) -> Value {
    let mut out = object.clone();
    out["metadata"].as_object_mut().unwrap().remove("managedFields");
    out
}

fn deployment(spec: &Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "d"}, "spec": spec})
}

#[test]
fn an_applier_owns_what_it_names() {
    let patch = deployment(&json!({"replicas": 3, "template": {"metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]}}}));
    let object = applied(None, &patch, "me").unwrap();
    expect![[r#"
        me Apply {"f:spec":{"f:replicas":{},"f:template":{"f:metadata":{"f:labels":{"f:a":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{},"f:name":{},"f:ports":{"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{}}}}}}}}}
    "#]]
    .assert_eq(&owners(&object));
    // The same again changes nothing, not even the time.
    let again =
        apply(Some(&object), &patch, &schema(), &by("me", "2030-01-01T00:00:00Z"), false, &[]).unwrap();
    assert_eq!(again, object);
}

#[test]
fn the_last_label_goes_alone() {
    let mut patch = deployment(&json!({"replicas": 3}));
    patch["metadata"]["labels"] = json!({"a": "b"});
    let mut object = applied(None, &patch, "me").unwrap();
    object["metadata"]["uid"] = json!("1");
    object["metadata"]["resourceVersion"] = json!("7");
    let object = applied(Some(&object), &deployment(&json!({"replicas": 3})), "me").unwrap();
    let metadata = json!({"name": "web", "namespace": "d", "uid": "1", "resourceVersion": "7"});
    assert_eq!(without_managers(&object)["metadata"], metadata);
}

#[test]
fn a_created_object_is_owned_by_its_creator() {
    let mut object = deployment(
        &json!({"replicas": 1, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"spec": {"containers": [{"name": "c", "resources": {}, "env": [{"name": "X", "value": "1"}]}]}}}),
    );
    object["metadata"]["labels"] = json!({"app": "x"});
    object["status"] = json!({"replicas": 1});
    let object = updated(None, object, "kubectl-create", "2024-01-01T00:00:00Z");
    expect![[r#"
        kubectl-create Update {"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:replicas":{},"f:selector":{},"f:strategy":{"f:rollingUpdate":{".":{},"f:maxSurge":{}},"f:type":{}},"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:env":{".":{},"k:{\"name\":\"X\"}":{".":{},"f:name":{},"f:value":{}}},"f:name":{},"f:resources":{}}}}}}}
    "#]]
    .assert_eq(&owners(&object));
}

#[test]
fn conflicts_are_told_as_upstream_tells_them() {
    let object = updated(
        None,
        deployment(&json!({"replicas": 1})),
        "kubectl-client-side-apply",
        "2024-01-01T00:00:00Z",
    );
    let patch = deployment(&json!({"replicas": 2}));
    assert_eq!(
        applied(Some(&object), &patch, "me").unwrap_err(),
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );
    let mut more = deployment(&json!({"replicas": 2, "paused": true}));
    let object =
        updated(None, deployment(&json!({"replicas": 1, "paused": false})), "hpa", "2024-01-01T00:00:00Z");
    assert_eq!(
        applied(Some(&object), &more, "me").unwrap_err(),
        "Apply failed with 2 conflicts: conflicts with \"hpa\" using apps/v1:\n- .spec.paused\n- .spec.replicas"
    );
    // Force takes them over; the same value is shared.
    let forced =
        apply(Some(&object), &patch, &schema(), &by("me", "2024-01-01T00:00:01Z"), true, &[]).unwrap();
    expect![[r#"
        me Apply {"f:spec":{"f:replicas":{}}}
        hpa Update {"f:spec":{"f:paused":{}}}
    "#]]
    .assert_eq(&owners(&forced));
    more["spec"] = json!({"replicas": 2});
    let shared = applied(Some(&forced), &more, "other").unwrap();
    expect![[r#"
        other Apply {"f:spec":{"f:replicas":{}}}
        me Apply {"f:spec":{"f:replicas":{}}}
        hpa Update {"f:spec":{"f:paused":{}}}
    "#]]
    .assert_eq(&owners(&shared));
}

#[test]
fn what_is_no_longer_applied_goes_unless_somebody_else_owns_it() {
    let one = deployment(&json!({"replicas": 3, "minReadySeconds": 5,
        "template": {"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}}}));
    let object = applied(None, &one, "me").unwrap();
    // Another applier shares the replicas; a controller adds a default to container b.
    let object = applied(Some(&object), &deployment(&json!({"replicas": 3})), "other").unwrap();
    let mut defaulted = object.clone();
    defaulted["spec"]["template"]["spec"]["containers"][1]["imagePullPolicy"] = json!("Always");
    let two = deployment(&json!({"template": {"spec": {"containers": [{"name": "a", "image": "1"}]}}}));
    let object = applied(Some(&defaulted), &two, "me").unwrap();
    assert_eq!(
        without_managers(&object),
        deployment(
            &json!({"replicas": 3, "template": {"spec": {"containers": [{"name": "a", "image": "1"}]}}})
        )
    );
    // When the last owner lets go, it goes.
    let none =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "d"}});
    let object = applied(Some(&object), &none, "other").unwrap();
    assert_eq!(object["spec"].get("replicas"), None);
}

#[test]
fn a_structure_that_is_no_longer_applied_goes_with_its_defaults() {
    let one = deployment(&json!({"replicas": 1, "strategy": {"type": "RollingUpdate"}}));
    let mut object = applied(None, &one, "me").unwrap();
    object["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": "25%"});
    let object = applied(Some(&object), &deployment(&json!({"replicas": 1})), "me").unwrap();
    assert_eq!(object["spec"], json!({"replicas": 1}));
}

#[test]
fn items_that_others_added_stay_in_place() {
    let object = applied(
        None,
        &deployment(&json!({"template": {"spec": {"containers": [{"name": "a"}, {"name": "c"}]}}})),
        "me",
    )
    .unwrap();
    let mut injected = without_managers(&object);
    injected["spec"]["template"]["spec"]["containers"] =
        json!([{"name": "a"}, {"name": "sidecar"}, {"name": "c"}]);
    let object = updated(Some(&object), injected, "injector", "2024-01-01T00:00:01Z");
    let patch = deployment(
        &json!({"template": {"spec": {"containers": [{"name": "c"}, {"name": "d"}, {"name": "a"}]}}}),
    );
    let object = applied(Some(&object), &patch, "me").unwrap();
    let names: Vec<&str> = object["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 4);
    let place = |n: &str| names.iter().position(|one| *one == n).unwrap();
    assert!(place("c") < place("d") && place("d") < place("a"), "{names:?}");
}

#[test]
fn updates_take_fields_from_appliers() {
    let object = applied(None, &deployment(&json!({"replicas": 3, "paused": true})), "me").unwrap();
    let mut scaled = object.clone();
    scaled["spec"]["replicas"] = json!(5);
    scaled["status"] = json!({"replicas": 5});
    let object = updated(Some(&object), scaled, "kubectl", "2024-01-01T00:00:09Z");
    expect![[r#"
        me Apply {"f:spec":{"f:paused":{}}}
        kubectl Update {"f:spec":{"f:replicas":{}}}
    "#]]
    .assert_eq(&owners(&object));
    let same = updated(Some(&object), object.clone(), "kubectl", "2030-01-01T00:00:00Z");
    assert_eq!(same, object);
}

#[test]
fn untracked_objects_belong_to_before_first_apply() {
    let live = deployment(&json!({"replicas": 1, "paused": true}));
    assert_eq!(
        applied(Some(&live), &deployment(&json!({"replicas": 2})), "me").unwrap_err(),
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using apps/v1: .spec.replicas"
    );
    let same = applied(Some(&live), &deployment(&json!({"replicas": 1})), "me").unwrap();
    expect![[r#"
        me Apply {"f:spec":{"f:replicas":{}}}
        before-first-apply Update {"f:spec":{"f:paused":{},"f:replicas":{}}}
    "#]]
    .assert_eq(&owners(&same));
    // Plain updates do not begin to track, and one empty entry ends it.
    assert_eq!(owners(&updated(Some(&live), deployment(&json!({"replicas": 9})), "x", "t")), "");
    let mut reset = same.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    assert_eq!(owners(&updated(Some(&same), reset, "x", "t")), "");
}

#[test]
fn the_annotation_of_client_side_apply_prevents_conflicts() {
    let mut live = deployment(&json!({"replicas": 1}));
    let last = live.to_string();
    live["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": last});
    let live = updated(None, live, "kubectl-client-side-apply", "2024-01-01T00:00:00Z");
    assert!(applied(Some(&live), &deployment(&json!({"replicas": 2})), "kubectl").is_ok());
    assert!(applied(Some(&live), &deployment(&json!({"replicas": 2})), "other").is_err());
}

#[test]
fn bad_lists_are_refused() {
    let twice = deployment(&json!({"template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}}));
    assert_eq!(
        applied(None, &twice, "me").unwrap_err(),
        "failed to create typed patch object (d/web; apps/v1, Kind=Deployment): \
         .spec.template.spec.containers: duplicate entries for key [name=\"a\"]"
    );
    let bare = deployment(&json!({"template": {"spec": {"containers": [{"image": "a"}]}}}));
    assert!(applied(None, &bare, "me").unwrap_err().contains("omits key field \"name\""));
    let unknown =
        deployment(&json!({"replcas": 1, "template": {"spec": {"containers": [{"name": "a", "x": 1}]}}}));
    assert_eq!(
        check(&unknown, &schema()).unwrap_err().to_string(),
        "failed to create typed patch object (d/web; apps/v1, Kind=Deployment): errors:\n  \
         .spec.replcas: field not declared in schema\n  \
         .spec.template.spec.containers[name=\"a\"].x: field not declared in schema"
    );
}

#[test]
fn sets_and_atomics_merge_as_declared() {
    let meta = |finalizers: Value| json!({"metadata": {"name": "web", "finalizers": finalizers}});
    let object = applied(None, &meta(json!(["a/x", "b/x"])), "me").unwrap();
    let object = applied(Some(&object), &meta(json!(["c/x"])), "you").unwrap();
    assert_eq!(object["metadata"]["finalizers"], json!(["a/x", "b/x", "c/x"]));
    let object = applied(Some(&object), &meta(json!(["b/x"])), "me").unwrap();
    assert_eq!(object["metadata"]["finalizers"], json!(["b/x", "c/x"]));
    let selector = |s: Value| deployment(&json!({"selector": s}));
    let object = applied(None, &selector(json!({"matchLabels": {"a": "1"}})), "me").unwrap();
    let object = applied(Some(&object), &selector(json!({"matchLabels": {"b": "1"}})), "me").unwrap();
    assert_eq!(object["spec"]["selector"], json!({"matchLabels": {"b": "1"}}));
}

mod model {
    //! Labels as the slowest, most obvious model: a map from key to value and, for each applier, the keys it named.

    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[derive(Clone, Debug)]
    enum Step {
        Apply { who: usize, labels: BTreeMap<u8, u8>, force: bool },
        Update { key: u8, value: Option<u8> },
    }

    #[derive(Default)]
    struct Model {
        values: BTreeMap<u8, u8>,
        /// Appliers 0 to 2, and the updater, which is number 3.
        owned: [BTreeSet<u8>; 4],
        /// The updater has put the map there, and owns it until an update takes it away or an applier by force.
        owns_map: bool,
    }

    impl Model {
        fn step(&mut self, step: &Step) -> bool {
            match step {
                Step::Update { key, value: Some(value) } => {
                    self.owns_map |= self.values.is_empty();
                    if self.values.insert(*key, *value) != Some(*value) {
                        self.owned.iter_mut().for_each(|set| {
                            set.remove(key);
                        });
                        self.owned[3].insert(*key);
                    }
                    true
                }
                Step::Update { key, value: None } => {
                    self.owns_map &= self.values.remove(key).is_none() || !self.values.is_empty();
                    self.owned.iter_mut().for_each(|set| {
                        set.remove(key);
                    });
                    true
                }
                Step::Apply { who, labels, force } => self.apply(*who, labels, *force),
            }
        }

        fn apply(&mut self, who: usize, labels: &BTreeMap<u8, u8>, force: bool) -> bool {
            let changed: Vec<u8> =
                labels.iter().filter(|(k, v)| self.values.get(k) != Some(v)).map(|(k, _)| *k).collect();
            let conflict = |k: &u8| (0..4).any(|i| i != who && self.owned[i].contains(k));
            let takes_map = self.owns_map && self.values.is_empty() && !labels.is_empty();
            if !force && (takes_map || changed.iter().any(conflict)) {
                return false;
            }
            self.owns_map &= !takes_map;
            let dropped: Vec<u8> =
                self.owned[who].iter().copied().filter(|k| !labels.contains_key(k)).collect();
            self.owned[who] = labels.keys().copied().collect();
            for key in changed {
                for i in (0..4).filter(|i| *i != who) {
                    self.owned[i].remove(&key);
                }
            }
            self.values.extend(labels);
            for key in dropped {
                // Whoever else owns a field keeps it when its applier drops it.
                if self.owned.iter().all(|owned| !owned.contains(&key)) {
                    self.values.remove(&key);
                }
            }
            true
        }
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0usize..3, prop::collection::btree_map(0u8..4, 0u8..3, 0..4), any::<bool>())
                .prop_map(|(who, labels, force)| Step::Apply { who, labels, force }),
            (0u8..4, prop::option::of(0u8..3)).prop_map(|(key, value)| Step::Update { key, value }),
        ]
    }

    fn object(labels: &BTreeMap<u8, u8>) -> Value {
        let labels: serde_json::Map<String, Value> =
            labels.iter().map(|(k, v)| (format!("l{k}"), v.to_string().into())).collect();
        let mut out = json!({"metadata": {"name": "x"}, "spec": {"paused": true}});
        if !labels.is_empty() {
            out["metadata"]["labels"] = Value::Object(labels);
        }
        out
    }

    fn values(object: &Value) -> BTreeMap<u8, u8> {
        let labels =
            object.pointer("/metadata/labels").and_then(Value::as_object).cloned().unwrap_or_default();
        labels.iter().map(|(k, v)| (k[1..].parse().unwrap(), v.as_str().unwrap().parse().unwrap())).collect()
    }

    fn owned(object: &Value, who: &str) -> BTreeSet<u8> {
        let entries =
            object.pointer("/metadata/managedFields").and_then(Value::as_array).cloned().unwrap_or_default();
        let entry = entries.iter().find(|e| e["manager"] == who);
        let labels = entry
            .and_then(|e| e.pointer("/fieldsV1/f:metadata/f:labels"))
            .and_then(Value::as_object)
            .cloned();
        labels.unwrap_or_default().keys().filter_map(|k| k.strip_prefix("f:l")?.parse().ok()).collect()
    }

    proptest! {
        #[test]
        fn ownership_follows_the_model(steps in prop::collection::vec(step(), 1..20)) {
            let mut model = Model::default();
            let mut live = updated(None, object(&BTreeMap::new()), "base", "t0");
            for (i, step) in steps.iter().enumerate() {
                let time = format!("t{i}");
                let accepted = model.step(step);
                let result = match step {
                    Step::Apply { who, labels, force } => {
                        let mut patch = object(labels);
                        patch.as_object_mut().unwrap().remove("spec");
                        apply(Some(&live), &patch, &schema(), &by(&format!("a{who}"), &time), *force, &[]).ok()
                    }
                    Step::Update { key, value } => {
                        let mut labels = values(&live);
                        match value {
                            Some(value) => labels.insert(*key, *value),
                            None => labels.remove(key),
                        };
                        let mut new = object(&labels);
                        update(Some(&live), &mut new, &schema(), &by("up", &time), &[]);
                        Some(new)
                    }
                };
                prop_assert_eq!(result.is_some(), accepted, "step {} {:?}", i, step);
                live = result.unwrap_or(live);
                // As an object is stored: without what is empty.
                crate::decode::canonicalise(&mut live, &schema());
                prop_assert_eq!(values(&live), model.values.clone(), "step {} {:?}", i, step);
                for who in 0..3 {
                    prop_assert_eq!(owned(&live, &format!("a{who}")), model.owned[who].clone(), "a{} step {} {:?}", who, i, step);
                }
                prop_assert_eq!(owned(&live, "up"), model.owned[3].clone(), "up step {} {:?}", i, step);
            }
        }
    }
}
