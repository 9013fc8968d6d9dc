//! The documentation's examples, and patches as kubectl computes them.

use super::*;
use crate::schema::builtin;
use serde_json::json;

fn patched(kind: (&str, &str), mut target: Value, patch: &Value) -> Result<Value, String> {
    let schema = builtin(kind.0, kind.1).unwrap();
    strategic(&mut target, patch, &schema).map_err(|e| e.to_string())?;
    Ok(target)
}

const POD: (&str, &str) = ("v1", "Pod");

fn containers(items: &Value) -> Value {
    json!({"spec": {"containers": items}})
}

#[test]
fn the_examples_of_the_documentation() {
    // Adding a container keeps the old one; new items come first, as upstream orders them.
    let old = containers(&json!([{"name": "demo", "image": "nginx"}]));
    let patch = containers(&json!([{"name": "demo-2", "image": "redis"}]));
    let expected = json!([{"name": "demo-2", "image": "redis"}, {"name": "demo", "image": "nginx"}]);
    assert_eq!(patched(POD, old, &patch).unwrap(), containers(&expected));
    // Tolerations have no merge strategy: replaced.
    let old = json!({"spec": {"tolerations": [{"key": "dedicated"}]}});
    let patch = json!({"spec": {"tolerations": [{"key": "disktype"}]}});
    assert_eq!(patched(POD, old, &patch).unwrap(), patch);
    // retainKeys of a Deployment's strategy drops rollingUpdate.
    let old = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    let expected = json!({"spec": {"strategy": {"type": "Recreate"}}});
    assert_eq!(patched(("apps/v1", "Deployment"), old, &patch).unwrap(), expected);
}

#[test]
fn lists_merge_by_key() {
    let old = containers(&json!([
        {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
        {"name": "b", "image": "1"}
    ]));
    let patch = containers(&json!([
        {"name": "b", "$patch": "delete"},
        {"name": "a", "image": "2", "env": [{"name": "Y", "value": null}]}
    ]));
    let expected = json!([{"name": "a", "image": "2", "env": [{"name": "X", "value": "1"}, {"name": "Y"}]}]);
    assert_eq!(patched(POD, old.clone(), &patch).unwrap(), containers(&expected));
    let replace = containers(&json!([{"$patch": "replace"}, {"name": "c"}]));
    assert_eq!(patched(POD, old.clone(), &replace).unwrap(), containers(&json!([{"name": "c"}])));
    let bare = containers(&json!([{"image": "2"}]));
    let text = "map: map[image:2] does not contain declared merge key: name";
    assert_eq!(patched(POD, old.clone(), &bare).unwrap_err(), text);
    let unknown = containers(&json!([{"name": "a", "$patch": "frob"}]));
    assert!(patched(POD, old, &unknown).unwrap_err().starts_with("unknown patch type: frob in map:"));
}

#[test]
fn order_follows_set_element_order() {
    let old = containers(&json!([{"name": "a"}, {"name": "b"}, {"name": "server"}]));
    let patch = json!({"spec": {
        "$setElementOrder/containers": [{"name": "b"}, {"name": "new"}, {"name": "a"}],
        "containers": [{"name": "new", "image": "i"}]}});
    let expected = json!([{"name": "b"}, {"name": "new", "image": "i"}, {"name": "a"}, {"name": "server"}]);
    assert_eq!(patched(POD, old, &patch).unwrap(), containers(&expected));
    let bad =
        json!({"spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "z"}]}});
    assert!(
        patched(POD, containers(&json!([])), &bad)
            .unwrap_err()
            .contains("doesn't match $setElementOrder list")
    );
}

#[test]
fn lists_of_scalars_add_and_delete() {
    let old = json!({"metadata": {"finalizers": ["a", "b", "c"]}});
    let patch = json!({"metadata": {
        "$deleteFromPrimitiveList/finalizers": ["b"],
        "$setElementOrder/finalizers": ["d", "a"],
        "finalizers": ["d"]}});
    assert_eq!(patched(POD, old, &patch).unwrap(), json!({"metadata": {"finalizers": ["d", "a", "c"]}}));
    let alone = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"]}});
    assert_eq!(patched(POD, json!({"metadata": {}}), &alone).unwrap(), json!({"metadata": {}}));
}

#[test]
fn maps_replace_delete_and_lose_nulls() {
    let old = json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
    let cases = [
        (json!({"a": null, "c": "3"}), json!({"b": "2", "c": "3"})),
        (json!({"$patch": "replace", "z": "1"}), json!({"z": "1"})),
        (json!({"$patch": "delete"}), json!({})),
    ];
    for (labels, expected) in cases {
        let patch = json!({"metadata": {"labels": labels}});
        assert_eq!(patched(POD, old.clone(), &patch).unwrap(), json!({"metadata": {"labels": expected}}));
    }
    let fresh = json!({"spec": {"securityContext": {"runAsUser": null, "$retainKeys": ["x"], "fsGroup": 1}}});
    let expected = json!({"spec": {"securityContext": {"fsGroup": 1}}});
    assert_eq!(patched(POD, json!({"spec": {}}), &fresh).unwrap(), expected);
}

#[test]
fn service_ports_merge_by_port_and_selectors_field_by_field() {
    let old = json!({"spec": {
        "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30000}], "selector": {"a": "1"}}});
    let patch = json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}], "selector": {"b": "2"}}});
    let expected = json!({"spec": {
        "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30000, "targetPort": 8080}],
        "selector": {"a": "1", "b": "2"}}});
    assert_eq!(patched(("v1", "Service"), old, &patch).unwrap(), expected);
}

mod two_way {
    //! What a client does: it computes a patch from the old and the new object. Applied, it must give the new one.

    use super::*;
    use proptest::prelude::*;

    /// The patch from `old` to `new`, computed the slow and obvious way of the API conventions.
    fn difference(old: &Object, new: &Object, schema: Option<&Schema>) -> Object {
        let mut out = Object::new();
        for name in old.keys().filter(|name| !new.contains_key(*name)) {
            out.insert(name.clone(), Value::Null);
        }
        for (name, value) in new {
            let (inner, strategy) = strategy_of(schema, name);
            match (old.get(name), value) {
                (Some(before), after) if before == after => {}
                (Some(Value::Object(before)), Value::Object(after)) => {
                    out.insert(name.clone(), Value::Object(difference(before, after, inner)));
                }
                (Some(Value::Array(before)), Value::Array(after)) if strategy.merge => {
                    match strategy.merge_key.as_deref() {
                        Some(key) => keyed(&mut out, name, before, after, key, inner.and_then(Schema::items)),
                        None => scalars(&mut out, name, before, after),
                    }
                }
                (_, after) => {
                    out.insert(name.clone(), after.clone());
                }
            }
        }
        out
    }

    fn keyed(out: &mut Object, name: &str, old: &[Value], new: &[Value], key: &str, schema: Option<&Schema>) {
        let order: Vec<Value> = new.iter().map(|item| json!({key: item[key]})).collect();
        let mut items: Vec<Value> = Vec::new();
        for item in new {
            match old.iter().find(|one| one[key] == item[key]) {
                None => items.push(item.clone()),
                Some(same) if same == item => {}
                Some(before) => {
                    let (Value::Object(before), Value::Object(after)) = (before, item) else { continue };
                    let mut change = difference(before, after, schema);
                    change.insert(key.to_owned(), item[key].clone());
                    items.push(Value::Object(change));
                }
            }
        }
        let gone = old.iter().filter(|item| !new.iter().any(|one| one[key] == item[key]));
        items.extend(gone.map(|item| json!({"$patch": "delete", key: item[key]})));
        if !items.is_empty() {
            out.insert(name.to_owned(), items.into());
        }
        out.insert(format!("{ORDER}{name}"), order.into());
    }

    fn scalars(out: &mut Object, name: &str, old: &[Value], new: &[Value]) {
        let added: Vec<Value> = new.iter().filter(|item| !old.contains(item)).cloned().collect();
        let gone: Vec<Value> = old.iter().filter(|item| !new.contains(item)).cloned().collect();
        if !added.is_empty() {
            out.insert(name.to_owned(), added.into());
        }
        if !gone.is_empty() {
            out.insert(format!("{DELETE_FROM}{name}"), gone.into());
        }
        out.insert(format!("{ORDER}{name}"), new.to_vec().into());
    }

    fn items(
        names: &'static [&'static str],
        more: BoxedStrategy<Value>,
    ) -> impl Strategy<Value = Vec<Value>> {
        let some = prop::sample::subsequence(names.to_vec(), 0..=names.len()).prop_shuffle();
        (some, prop::collection::vec(more, names.len())).prop_map(|(names, more)| {
            let named = names.into_iter().zip(more).map(|(name, mut item)| {
                item["name"] = name.into();
                item
            });
            named.collect()
        })
    }

    fn pod() -> impl Strategy<Value = Value> {
        let value = (0..3u8).prop_map(|n| json!({"value": n.to_string()})).boxed();
        let container = (0..3u8, items(&["X", "Y", "Z"], value), prop::option::of(0..2u8)).prop_map(
            |(image, env, tty)| {
                let mut out = json!({"image": image.to_string(), "env": env});
                if let Some(tty) = tty {
                    out["tty"] = (tty == 1).into();
                }
                out
            },
        );
        let finalizers = prop::sample::subsequence(vec!["a/x", "b/x", "c/x"], 0..=3).prop_shuffle();
        let labels = prop::collection::btree_map("[a-c]", "[0-2]", 0..3);
        (items(&["a", "b", "c", "d"], container.boxed()), finalizers, labels, 0..3u8).prop_map(
            |(containers, finalizers, labels, toleration)| {
                json!({"metadata": {"finalizers": finalizers, "labels": labels},
                       "spec": {"containers": containers, "tolerations": [{"key": toleration.to_string()}]}})
            },
        )
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let keys = prop_oneof![
            Just("spec".to_owned()),
            Just("containers".to_owned()),
            Just("name".to_owned()),
            Just("env".to_owned()),
            Just("$patch".to_owned()),
            Just("$retainKeys".to_owned()),
            Just("$setElementOrder/containers".to_owned()),
            Just("$deleteFromPrimitiveList/finalizers".to_owned()),
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            (0..3i64).prop_map(Value::from),
            Just(Value::from("delete")),
            Just(Value::from("replace")),
            Just(Value::from("a")),
        ];
        leaf.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map(keys.clone(), inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_computed_patch_gives_the_new_object(old in pod(), new in pod()) {
            let schema = builtin("v1", "Pod").unwrap();
            let (Value::Object(before), Value::Object(after)) = (&old, &new) else { unreachable!() };
            let patch = Value::Object(difference(before, after, Some(&schema)));
            let mut patched = old.clone();
            strategic(&mut patched, &patch, &schema).unwrap();
            prop_assert_eq!(patched, new, "{}", patch);
        }

        #[test]
        fn hostile_patches_are_refused_without_harm(mut target in any_json(), patch in any_json()) {
            let schema = builtin("v1", "Pod").unwrap();
            let _ = strategic(&mut target, &patch, &schema);
        }
    }
}
