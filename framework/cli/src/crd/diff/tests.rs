//! Changes of definitions, and what stored objects would notice.

use serde_json::{Value, json};

use super::*;

fn definition(schema: Value) -> Value {
    json!({
        "metadata": { "name": "sails.harbour.dev" },
        "spec": {
            "group": "harbour.dev",
            "scope": "Namespaced",
            "names": { "kind": "Sail", "plural": "sails" },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": { "type": "object", "properties": { "x": schema } } },
            }],
        },
    })
}

/// What is found, in one line each.
fn found(old: &Value, new: &Value) -> String {
    let lines: Vec<String> = diff(old, Some(new)).iter().map(ToString::to_string).collect();
    lines.join("\n").replace("sails.harbour.dev ", "")
}

#[test]
fn schemas() {
    let string = || json!({ "type": "string" });
    let with = |name: &str, value: Value| json!({ "type": "string", name: value });
    let number = |name: &str, value: Value| json!({ "type": "integer", name: value });
    let rule = |rule: &str| json!({ "type": "string", "x-kubernetes-validations": [{ "rule": rule, "message": "no" }] });
    let list = |kind: &str| json!({ "type": "array", "items": string(), "x-kubernetes-list-type": kind });
    let object = |fields: Value, required: Value| json!({ "type": "object", "properties": fields, "required": required });
    let table = [
        (string(), string(), ""),
        (string(), json!({ "type": "integer" }), "breaks v1 x: its type was \"string\" and is \"integer\""),
        (json!({ "type": "integer" }), json!({ "type": "number" }), ""),
        (json!({ "type": "integer" }), json!({ "x-kubernetes-int-or-string": true }), ""),
        (
            json!({ "x-kubernetes-int-or-string": true }),
            string(),
            "breaks v1 x: it was a number or a string and is \"string\"",
        ),
        (number("maximum", json!(50)), number("maximum", json!(10)), "breaks v1 x: maximum was 50 and is 10"),
        (number("maximum", json!(10)), number("maximum", json!(50)), ""),
        (number("minimum", json!(0)), json!({ "type": "integer" }), ""),
        (
            json!({ "type": "integer" }),
            number("minimum", json!(0)),
            "breaks v1 x: minimum was not set and is 0",
        ),
        (string(), with("minLength", json!(0)), ""),
        (string(), with("maxLength", json!(5)), "breaks v1 x: maxLength was not set and is 5"),
        (
            number("multipleOf", json!(2)),
            number("multipleOf", json!(4)),
            "breaks v1 x: multipleOf was 2 and is 4",
        ),
        (
            string(),
            with("pattern", json!("^a")),
            "breaks v1 x: pattern was not set and is \"^a\": values that do not match are refused",
        ),
        (with("pattern", json!("^a")), string(), ""),
        (
            with("enum", json!(["a", "b"])),
            with("enum", json!(["a", "c"])),
            "breaks v1 x: it can no longer be \"b\"",
        ),
        (string(), with("enum", json!(["a"])), "breaks v1 x: it could be anything and is one of \"a\" now"),
        (with("enum", json!(["a"])), string(), ""),
        (
            with("nullable", json!(true)),
            string(),
            "breaks v1 x: it could be null and no longer can: a null is dropped, or refused where the field is required",
        ),
        (
            with("default", json!("a")),
            with("default", json!("b")),
            "note   v1 x: its default was \"a\" and is \"b\": objects that leave it out mean something else",
        ),
        (
            string(),
            rule("self != ''"),
            "breaks v1 x: the rule \"self != ''\" is new: what does not follow it is refused",
        ),
        (rule("self != ''"), string(), ""),
        (
            string(),
            rule("self == oldSelf"),
            "note   v1 x: the rule \"self == oldSelf\" is new: it is about changes, and lets what is stored be",
        ),
        (
            list("atomic"),
            list("set"),
            "breaks v1 x: it was a list of type atomic and is of type set: lists with two of the same are refused",
        ),
        (
            list("set"),
            list("atomic"),
            "note   v1 x: it was a list of type set and is atomic: server-side apply replaces it whole",
        ),
        (
            object(json!({ "a": string() }), json!([])),
            object(json!({}), json!([])),
            "breaks v1 x.a: it is gone, and what it held is dropped",
        ),
        (object(json!({}), json!([])), object(json!({ "a": string() }), json!([])), ""),
        (
            object(json!({}), json!([])),
            object(json!({ "a": string() }), json!(["a"])),
            "breaks v1 x.a: it is new and required: every object is refused until it has it",
        ),
        (object(json!({}), json!([])), object(json!({ "a": with("default", json!("z")) }), json!(["a"])), ""),
        (
            object(json!({ "a": string() }), json!([])),
            object(json!({ "a": string() }), json!(["a"])),
            "breaks v1 x.a: it is required now: objects without it are refused",
        ),
        (
            object(json!({ "a": with("default", json!("z")) }), json!(["a"])),
            object(json!({ "a": string() }), json!(["a"])),
            "note   v1 x.a: its default was \"z\" and is not set: objects that leave it out mean something else\n\
             breaks v1 x.a: it is required and has no default any more: objects that left it out are refused",
        ),
        (
            json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true }),
            json!({ "type": "object" }),
            "breaks v1 x: unknown fields were kept in it and are dropped now",
        ),
        (
            json!({ "type": "array", "items": number("maximum", json!(3)) }),
            json!({ "type": "array", "items": number("maximum", json!(2)) }),
            "breaks v1 x[]: maximum was 3 and is 2",
        ),
        (
            json!({ "type": "object", "additionalProperties": string() }),
            json!({ "type": "object", "additionalProperties": json!({ "type": "integer" }) }),
            "breaks v1 x.*: its type was \"string\" and is \"integer\"",
        ),
        (string(), with("not", json!({ "enum": ["a"] })), "breaks v1 x: not is new: {\"enum\":[\"a\"]}"),
    ];
    for (old, new, expected) in table {
        assert_eq!(found(&definition(old.clone()), &definition(new.clone())), expected, "{old} -> {new}");
    }
}

fn set(mut definition: Value, path: &str, value: Value) -> Value {
    *definition.pointer_mut(path).unwrap() = value;
    definition
}

#[test]
fn versions_and_names() {
    let one = || definition(json!({ "type": "string" }));
    let mut two = one();
    let mut v2 = two["spec"]["versions"][0].clone();
    v2["name"] = json!("v2");
    v2["storage"] = json!(false);
    two["spec"]["versions"].as_array_mut().unwrap().push(v2);
    let flipped = set(
        set(two.clone(), "/spec/versions/0/storage", json!(false)),
        "/spec/versions/1/storage",
        json!(true),
    );
    let mut v2_only = flipped.clone();
    v2_only["spec"]["versions"].as_array_mut().unwrap().remove(0);
    let mut migrated = flipped.clone();
    migrated["status"] = json!({ "storedVersions": ["v2"] });
    let mut with_status = one();
    with_status["spec"]["versions"][0]["subresources"] = json!({ "status": {} });

    assert_eq!(found(&one(), &two), "");
    assert_eq!(
        found(&two, &flipped),
        "note   the storage version was v1 and is v2: objects stay in v1 until they are written again, \
         and nothing but their version is changed when they are read"
            .replace("note   ", "note   sails.harbour.dev: ")
    );
    assert!(found(&two, &v2_only).contains(
        "breaks v1: the version is gone, and objects may be stored in it: they have to be migrated first"
    ));
    assert_eq!(
        found(&migrated, &v2_only),
        "breaks v1: the version is gone: clients that use it are answered 404"
    );
    assert_eq!(
        found(&two, &set(two.clone(), "/spec/versions/1/served", json!(false))),
        "breaks v2: the version is no longer served: clients that use it are answered 404"
    );
    assert!(found(&one(), &with_status).starts_with("breaks v1: status is a subresource now"));
    assert!(found(&with_status, &one()).starts_with("breaks v1: there is no subresource status any more"));
    assert!(
        found(&one(), &set(one(), "/spec/scope", json!("Cluster")))
            .contains("the scope was \"Namespaced\" and is \"Cluster\"")
    );
    let gone = diff(&one(), None);
    assert_eq!(
        gone[0].to_string(),
        "breaks sails.harbour.dev: the definition is gone, and every object goes with it"
    );
}
