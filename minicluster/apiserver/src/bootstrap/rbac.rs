//! Reads the table of bootstrap roles into objects.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::authz::Rule;

const TABLE: &str = include_str!("rbac.txt");
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const READ: [&str; 3] = ["get", "list", "watch"];
const WRITE: [&str; 5] = ["create", "delete", "deletecollection", "patch", "update"];

/// An object to be there: plural name and object.
pub(super) type Wanted = (&'static str, Value);

/// All bootstrap roles and bindings, roles first.
pub(super) fn objects() -> Vec<Wanted> {
    let mut roles: Vec<(&str, BTreeMap<&str, &str>, Vec<Rule>)> = Vec::new();
    let mut bindings = Vec::new();
    for line in TABLE.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["role", name, labels @ ..] => {
                roles.push((name, labels.iter().filter_map(|l| l.split_once('=')).collect(), Vec::new()));
            }
            ["bind", name, subjects @ ..] => bindings.push(binding(name, subjects)),
            ["include", names @ ..] => {
                let included: Vec<Rule> = roles
                    .iter()
                    .filter(|(n, ..)| names.contains(n))
                    .flat_map(|(.., rules)| rules.clone())
                    .collect();
                roles.last_mut().expect("a rule follows its role").2.extend(included);
            }
            _ => roles.last_mut().expect("a rule follows its role").2.push(rule(line)),
        }
    }
    roles.into_iter().map(|(name, labels, rules)| role(name, &labels, &rules)).chain(bindings).collect()
}

fn rule(line: &str) -> Rule {
    let own = |words: &str| words.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut parts = line.split('|').map(str::trim);
    let verbs = parts.next().unwrap_or("").split_whitespace().flat_map(|verb| match verb {
        "r" => READ.to_vec(),
        "w" => WRITE.to_vec(),
        other => vec![other],
    });
    let mut rule = Rule { verbs: verbs.map(str::to_owned).collect(), ..Rule::default() };
    let (group, what) = parts.next().and_then(|t| t.split_once(": ")).expect("a rule names its group");
    match group {
        "path" => rule.non_resource_urls = own(what),
        group => {
            rule.api_groups = vec![if group == "core" { String::new() } else { group.to_owned() }];
            rule.resources = own(what);
            rule.resource_names = own(parts.next().unwrap_or(""));
        }
    }
    rule
}

fn role(name: &str, labels: &BTreeMap<&str, &str>, rules: &[Rule]) -> Wanted {
    let mut all = json!({ "kubernetes.io/bootstrapping": "rbac-defaults" });
    for (key, value) in labels {
        all[*key] = (*value).into();
    }
    let mut metadata = json!({ "labels": all, "annotations": { AUTOUPDATE: "true" } });
    let (plural, kind) = scope(name, &mut metadata, "clusterroles", "roles");
    let object = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata, "rules": rules,
    });
    (plural, object)
}

fn binding(name: &str, subjects: &[&str]) -> Wanted {
    const GROUP: &str = "rbac.authorization.k8s.io";
    let subjects: Vec<Value> = subjects
        .iter()
        .map(|s| match s.split_once(':').expect("a subject has a kind") {
            ("user", name) => json!({ "kind": "User", "apiGroup": GROUP, "name": name }),
            ("group", name) => json!({ "kind": "Group", "apiGroup": GROUP, "name": name }),
            (_, account) => {
                let (namespace, name) = account.split_once(':').expect("a service account has a namespace");
                json!({ "kind": "ServiceAccount", "namespace": namespace, "name": name })
            }
        })
        .collect();
    let mut metadata = json!({
        "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" }, "annotations": { AUTOUPDATE: "true" },
    });
    let (plural, kind) = scope(name, &mut metadata, "clusterrolebindings", "rolebindings");
    let role_kind = kind.trim_end_matches("Binding");
    let role_name = metadata["name"].clone();
    let object = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata,
        "roleRef": { "apiGroup": GROUP, "kind": role_kind, "name": role_name }, "subjects": subjects,
    });
    (plural, object)
}

fn scope(
    name: &str,
    metadata: &mut Value,
    cluster: &'static str,
    namespaced: &'static str,
) -> (&'static str, &'static str) {
    let kind = |plural| match plural {
        "clusterroles" => "ClusterRole",
        "roles" => "Role",
        "clusterrolebindings" => "ClusterRoleBinding",
        _ => "RoleBinding",
    };
    match name.split_once('/') {
        Some((namespace, name)) => {
            metadata["namespace"] = namespace.into();
            metadata["name"] = name.into();
            (namespaced, kind(namespaced))
        }
        None => {
            metadata["name"] = name.into();
            (cluster, kind(cluster))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_binding_names_a_role_of_the_table_and_every_role_says_something() {
        let all = objects();
        let names: Vec<&str> = all
            .iter()
            .filter(|(_, o)| o["rules"].is_array())
            .map(|(_, o)| o["metadata"]["name"].as_str().unwrap())
            .collect();
        for (_, object) in &all {
            match object["roleRef"]["name"].as_str() {
                Some(role) => assert!(names.contains(&role), "{role}"),
                None => {
                    assert!(
                        !object["rules"].as_array().unwrap().is_empty(),
                        "{}",
                        object["metadata"]["name"]
                    );
                }
            }
        }
        let admin = all.iter().find(|(_, o)| o["metadata"]["name"] == "admin").unwrap();
        assert!(admin.1["rules"].as_array().unwrap().len() > 20);
    }
}
