//! What clients look for in a document is there, and every reference lands.

use super::*;
use crate::schema::from_crd;

fn row(group: &str, version: &str, kind: &str, plural: &str) -> Row {
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Row {
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
        list_kind: format!("{kind}List"),
        plural: plural.into(),
        namespaced: true,
        verbs: ["get", "list", "create", "update", "patch", "delete", "deletecollection", "watch"]
            .map(Into::into)
            .into(),
        subresources: vec![
            SubRow {
                name: "status".into(),
                kind: kind.into(),
                group_version: None,
                verbs: vec!["get".into(), "update".into()],
            },
            SubRow {
                name: "scale".into(),
                kind: "Scale".into(),
                group_version: Some(("autoscaling".into(), "v1".into())),
                verbs: vec!["get".into()],
            },
        ],
        schema: crate::schema::builtin(&api_version, kind).unwrap_or_default(),
        custom: None,
    }
}

fn custom() -> Row {
    let schema = json!({"type": "object", "description": "A backup.", "properties": {
        "spec": {"type": "object", "properties": {
            "schedule": {"type": "string", "format": "date-time", "enum": ["a", "b"]},
            "port": {"x-kubernetes-int-or-string": true}}}}});
    Row {
        schema: from_crd(&schema).unwrap(),
        custom: Some(Arc::new(schema)),
        ..row("stable.example.com", "v1", "Backup", "backups")
    }
}

/// Every `$ref` of the document points at something.
fn check_references(node: &Value, document: &Value) {
    match node {
        Value::Object(map) => {
            if let Some(target) = map.get("$ref").and_then(Value::as_str) {
                let pointer = target.trim_start_matches('#');
                assert!(
                    document.pointer(pointer).is_some_and(|v| !v.is_null()),
                    "{target} points at nothing"
                );
            }
            map.values().for_each(|value| check_references(value, document));
        }
        Value::Array(items) => items.iter().for_each(|item| check_references(item, document)),
        _ => {}
    }
}

#[test]
fn references_land_in_both_forms() {
    let rows = [row("", "v1", "Pod", "pods"), row("apps", "v1", "Deployment", "deployments"), custom()];
    for document in [v3(&rows, "v1.36.0"), v2(&rows, "v1.36.0")] {
        check_references(&document, &document);
    }
    let crds = [row("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions")];
    let document = v3(&crds, "v1.36.0");
    check_references(&document, &document);
}

#[test]
fn kubectl_finds_kinds_parameters_and_merge_keys() {
    let document = v3(&[row("apps", "v1", "Deployment", "deployments")], "v1.36.0");
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
    let names: Vec<&str> =
        patch["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
    let schemas = &document["components"]["schemas"];
    let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(deployment["x-kubernetes-group-version-kind"][0]["kind"], "Deployment");
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["items"]["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.core.v1.Container");
    assert_eq!(schemas["io.k8s.api.apps.v1.DeploymentList"]["required"], json!(["items"]));
}

#[test]
fn custom_kinds_are_published_by_their_reversed_group() {
    let document = v3(&[custom()], "v1.36.0");
    let backup = &document["components"]["schemas"]["com.example.stable.v1.Backup"];
    assert_eq!(backup["description"], "A backup.");
    assert_eq!(backup["properties"]["spec"]["properties"]["schedule"]["enum"], json!(["a", "b"]));
    assert_eq!(
        backup["properties"]["metadata"]["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    );
    assert_eq!(
        backup["x-kubernetes-group-version-kind"],
        json!([{"group": "stable.example.com", "version": "v1", "kind": "Backup"}])
    );
    let get =
        &document["paths"]["/apis/stable.example.com/v1/namespaces/{namespace}/backups/{name}/scale"]["get"];
    assert_eq!(get["x-kubernetes-group-version-kind"]["kind"], "Scale");
}

#[cfg(feature = "descriptions")]
#[test]
fn built_in_kinds_are_described() {
    let document = v3(&[row("", "v1", "Pod", "pods")], "v1.36.0");
    let schemas = &document["components"]["schemas"];
    assert!(
        schemas["io.k8s.api.core.v1.Pod"]["description"].as_str().unwrap().starts_with("Pod is a collection")
    );
    let spec = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]["description"];
    assert!(spec.as_str().unwrap().contains("containers"));
}

/// The table of facts and k8s-openapi's types were made from the same source by different hands.
#[cfg(feature = "descriptions")]
#[test]
fn facts_agree_with_k8s_openapi() {
    let rows: Vec<Row> = crate::schema::kinds()
        .map(|(api_version, kind)| {
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            row(group, version, kind, "things")
        })
        .collect();
    let theirs = descriptions::of(&rows);
    let mut compared = 0;
    for (name, theirs) in &theirs {
        let short =
            ["io.k8s.api.", "io.k8s.apimachinery.pkg.apis.", "io.k8s.apiextensions-apiserver.pkg.apis."]
                .iter()
                .find_map(|prefix| name.strip_prefix(prefix));
        let Some(ours) = short.and_then(crate::schema::definition) else { continue };
        let Some(properties) = theirs.get("properties").and_then(Value::as_object) else { continue };
        let names = |map: &mut dyn Iterator<Item = String>| {
            map.filter(|n| n != "apiVersion" && n != "kind").collect::<Vec<_>>()
        };
        assert_eq!(
            names(&mut ours.properties().keys().map(ToString::to_string)),
            names(&mut properties.keys().cloned()),
            "{name}"
        );
        for (field, theirs) in properties {
            let ours = ours.property(field).unwrap();
            if let (Some(theirs), false) =
                (theirs.get("type").and_then(Value::as_str), ours.ty.name().is_empty())
            {
                assert_eq!(ours.ty.name(), theirs, "{name}.{field}");
            }
            if let (Some(theirs), "int32" | "int64") =
                (theirs.get("format").and_then(Value::as_str), ours.format.as_ref())
            {
                assert_eq!(ours.format, theirs, "{name}.{field}");
            }
        }
        compared += 1;
    }
    assert!(compared > 400, "{compared}");
}
