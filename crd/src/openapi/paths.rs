//! The paths of a document: what can be done where, with which parameters.

use serde_json::{Map, Value, json};

use super::definitions::{full_name, list_name, row_name};
use super::{Dialect, Row, SubRow};
use crate::schema::builtin;

/// Every path of the given kinds.
pub(super) fn all(rows: &[Row], dialect: Dialect) -> Value {
    let mut out = Map::new();
    for row in rows {
        let base = base(row);
        out.entry(format!("{base}/")).or_insert_with(|| json!({"get": resource_list(row, dialect)}));
        let home = if row.namespaced {
            if row.verbs.iter().any(|verb| verb == "list") {
                let mut all = item(row, dialect, &[("get", "list")], &row_name(row), &row.kind, None);
                all["parameters"] = shared_parameters(false, false, dialect);
                out.insert(format!("{base}/{}", row.plural), all);
            }
            format!("{base}/namespaces/{{namespace}}/{}", row.plural)
        } else {
            format!("{base}/{}", row.plural)
        };
        let mut put = |path: String, value: Value, named: bool| {
            if value.as_object().is_some_and(|map| !map.is_empty()) {
                let mut value = value;
                value["parameters"] = shared_parameters(row.namespaced, named, dialect);
                out.insert(path, value);
            }
        };
        let name = row_name(row);
        let collection = [("get", "list"), ("post", "create"), ("delete", "deletecollection")];
        put(home.clone(), item(row, dialect, &collection, &name, &row.kind, None), false);
        let single = [("get", "get"), ("put", "update"), ("patch", "patch"), ("delete", "delete")];
        put(format!("{home}/{{name}}"), item(row, dialect, &single, &name, &row.kind, None), true);
        for sub in &row.subresources {
            let methods = [("get", "get"), ("post", "create"), ("put", "update"), ("patch", "patch")];
            let value = item(row, dialect, &methods, &sub_name(row, sub), &sub.kind, Some(sub));
            put(format!("{home}/{{name}}/{}", sub.name), value, true);
        }
    }
    Value::Object(out)
}

fn base(row: &Row) -> String {
    if row.group.is_empty() {
        format!("/api/{}", row.version)
    } else {
        format!("/apis/{}/{}", row.group, row.version)
    }
}

fn sub_name(row: &Row, sub: &SubRow) -> String {
    if sub.kind == row.kind && sub.group_version.is_none() {
        return row_name(row);
    }
    let (group, version) =
        sub.group_version.clone().unwrap_or_else(|| (row.group.clone(), row.version.clone()));
    let api_version = if group.is_empty() { version } else { format!("{group}/{version}") };
    let known = builtin(&api_version, &sub.kind).and_then(|schema| schema.definition_name());
    known.map_or_else(|| row_name(row), full_name)
}

fn resource_list(row: &Row, dialect: Dialect) -> Value {
    json!({
        "tags": [tag(row)],
        "description": "get available resources",
        "operationId": format!("get{}APIResources", camel(&tag(row))),
        "responses": responses("io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList", dialect, false),
    })
}

fn tag(row: &Row) -> String {
    let group = if row.group.is_empty() { "core" } else { row.group.trim_end_matches(".k8s.io") };
    format!("{}_{}", group.replace('.', "_"), row.version)
}

fn camel(text: &str) -> String {
    let capital = |word: &str| {
        let mut chars = word.chars();
        chars.next().map(|c| c.to_uppercase().chain(chars).collect::<String>()).unwrap_or_default()
    };
    text.split('_').map(capital).collect()
}

/// The operations of one path, for those methods whose verb is served.
fn item(
    row: &Row,
    dialect: Dialect,
    methods: &[(&str, &str)],
    definition: &str,
    kind: &str,
    sub: Option<&SubRow>,
) -> Value {
    let verbs = sub.map_or(&row.verbs, |sub| &sub.verbs);
    let mut out = Map::new();
    for (method, verb) in methods {
        if verbs.iter().any(|one| one == verb) {
            out.insert((*method).to_owned(), operation(row, dialect, verb, definition, kind, sub));
        }
    }
    Value::Object(out)
}

fn operation(
    row: &Row,
    dialect: Dialect,
    verb: &str,
    definition: &str,
    kind: &str,
    sub: Option<&SubRow>,
) -> Value {
    let (action, words) = match verb {
        "get" => ("get", "read the specified"),
        "list" => ("list", "list or watch objects of kind"),
        "create" => ("post", "create a"),
        "update" => ("put", "replace the specified"),
        "patch" => ("patch", "partially update the specified"),
        "delete" => ("delete", "delete a"),
        _ => ("deletecollection", "delete collection of"),
    };
    let scope = if row.namespaced { "Namespaced" } else { "" };
    let suffix = sub.map(|sub| camel(&sub.name)).unwrap_or_default();
    let (group, version) = sub
        .and_then(|sub| sub.group_version.clone())
        .unwrap_or_else(|| (row.group.clone(), row.version.clone()));
    let result = match verb {
        "list" => list_name(row),
        "delete" | "deletecollection" => "io.k8s.apimachinery.pkg.apis.meta.v1.Status".to_owned(),
        _ => definition.to_owned(),
    };
    let mut out = json!({
        "tags": [tag(row)],
        "description": format!("{words} {}", row.kind),
        "operationId": format!("{verb}{}{scope}{}{suffix}", camel(&tag(row)), row.kind),
        "responses": responses(&result, dialect, verb == "create"),
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
    });
    let mut parameters: Vec<Value> =
        query_parameters(verb).iter().map(|(name, ty)| parameter(name, ty, "query", dialect)).collect();
    let body = match verb {
        "create" | "update" => Some(definition),
        "patch" => Some("io.k8s.apimachinery.pkg.apis.meta.v1.Patch"),
        "delete" | "deletecollection" => Some("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"),
        _ => None,
    };
    if let Some(body) = body {
        put_body(&mut out, &mut parameters, body, verb, dialect);
    }
    if !parameters.is_empty() {
        out["parameters"] = parameters.into();
    }
    out
}

fn put_body(out: &mut Value, parameters: &mut Vec<Value>, body: &str, verb: &str, dialect: Dialect) {
    let types: &[&str] = if verb == "patch" {
        &[
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            "application/apply-patch+yaml",
        ]
    } else {
        &["application/json", "application/yaml"]
    };
    let required = matches!(verb, "create" | "update" | "patch");
    if dialect == Dialect::V2 {
        let mut parameter = json!({"name": "body", "in": "body", "schema": dialect.reference(body)});
        if required {
            parameter["required"] = true.into();
        }
        parameters.push(parameter);
        out["consumes"] = types.to_vec().into();
        return;
    }
    let content: Map<String, Value> =
        types.iter().map(|ty| ((*ty).to_owned(), json!({"schema": dialect.reference(body)}))).collect();
    out["requestBody"] = json!({"content": content});
    if required {
        out["requestBody"]["required"] = true.into();
    }
}

fn query_parameters(verb: &str) -> &'static [(&'static str, &'static str)] {
    match verb {
        "list" => &[
            ("allowWatchBookmarks", "boolean"),
            ("continue", "string"),
            ("fieldSelector", "string"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
            ("watch", "boolean"),
        ],
        "create" | "update" => {
            &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")]
        }
        "patch" => &[
            ("dryRun", "string"),
            ("fieldManager", "string"),
            ("fieldValidation", "string"),
            ("force", "boolean"),
        ],
        "delete" => &[
            ("dryRun", "string"),
            ("gracePeriodSeconds", "integer"),
            ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
            ("orphanDependents", "boolean"),
            ("propagationPolicy", "string"),
        ],
        "deletecollection" => &[
            ("continue", "string"),
            ("dryRun", "string"),
            ("fieldSelector", "string"),
            ("gracePeriodSeconds", "integer"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("propagationPolicy", "string"),
            ("resourceVersion", "string"),
        ],
        _ => &[],
    }
}

fn parameter(name: &str, ty: &str, place: &str, dialect: Dialect) -> Value {
    let mut out = json!({"name": name, "in": place});
    if place == "path" {
        out["required"] = true.into();
    }
    if dialect == Dialect::V2 {
        out["type"] = ty.into();
    } else {
        out["schema"] = json!({"type": ty, "uniqueItems": true});
    }
    if dialect == Dialect::V2 {
        out["uniqueItems"] = true.into();
    }
    out
}

fn shared_parameters(namespaced: bool, named: bool, dialect: Dialect) -> Value {
    let mut out = Vec::new();
    if named {
        out.push(parameter("name", "string", "path", dialect));
    }
    if namespaced {
        out.push(parameter("namespace", "string", "path", dialect));
    }
    out.push(parameter("pretty", "string", "query", dialect));
    out.into()
}

fn responses(definition: &str, dialect: Dialect, creates: bool) -> Value {
    let reference = dialect.reference(definition);
    let ok = |text: &str| match dialect {
        Dialect::V2 => json!({"description": text, "schema": reference}),
        Dialect::V3 => json!({"description": text, "content": {
            "application/json": {"schema": reference}, "application/yaml": {"schema": reference}}}),
    };
    let mut out = json!({"200": ok("OK"), "401": {"description": "Unauthorized"}});
    if creates {
        out["201"] = ok("Created");
        out["202"] = ok("Accepted");
    }
    out
}
