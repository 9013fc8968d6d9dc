//! Bootstrap roles and bindings: a table read into objects, and brought into the store without taking anything away.
//!
//! What an administrator added to a role or binding stays; what they took away comes back, unless the object says
//! `rbac.authorization.kubernetes.io/autoupdate: "false"`. Source: `pkg/registry/rbac/rest/storage_rbac.go`,
//! `k8s.io/component-helpers/auth/rbac/reconciliation`.

use std::{collections::BTreeMap, sync::Arc};

use futures::stream::{self, StreamExt};
use serde_json::{Value, json};

use super::{ensure, own_context};
use crate::{
    api::Api,
    authz::{Rule, uncovered},
    delete, object,
    status::ApiResult,
    strategy::Part,
    write::{self, Change},
};

const TABLE: &str = include_str!("rbac.txt");
const GROUP: &str = "rbac.authorization.k8s.io";
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const READ: [&str; 3] = ["get", "list", "watch"];
const WRITE: [&str; 5] = ["create", "delete", "deletecollection", "patch", "update"];

/// Objects written at the same time: they share the waits for the disk.
const AT_ONCE: usize = 32;

/// A role of the table.
#[derive(Debug, Default)]
struct Role {
    /// `NAME` or `NAMESPACE/NAME`.
    name: &'static str,
    labels: BTreeMap<&'static str, &'static str>,
    /// The label by which it gathers others.
    gathers: Option<(&'static str, &'static str)>,
    rules: Vec<Rule>,
}

/// An object to be there: plural name and object.
type Wanted = (&'static str, Value);

/// Brings all roles and bindings into the store.
///
/// # Errors
/// When the store fails.
pub(super) async fn reconcile(api: &Arc<Api>) -> ApiResult<()> {
    let (roles, bindings) = objects();
    for wanted in [roles, bindings] {
        let mut writes =
            stream::iter(wanted).map(|(plural, object)| settle(api, plural, object)).buffered(AT_ONCE);
        while let Some(written) = writes.next().await {
            written?;
        }
    }
    Ok(())
}

/// The rules of a ClusterRole of the table.
pub(super) fn rules_of(name: &str) -> Vec<Rule> {
    let (roles, _) = read();
    roles.into_iter().find(|role| role.name == name).map(|role| role.rules).unwrap_or_default()
}

async fn settle(api: &Arc<Api>, plural: &'static str, wanted: Value) -> ApiResult<()> {
    let cx = own_context(api, "update", GROUP, "v1", plural, &wanted);
    let key = cx.resource.key(object::namespace(&wanted), object::name(&wanted));
    let Some(entry) = api.store.get(&key) else { return ensure(api, GROUP, "v1", plural, wanted).await };
    let found = object::decode(&cx.resource, &entry.value);
    if found.get("roleRef") != wanted.get("roleRef") && is_kept(&found) {
        // A binding cannot be turned to another role: it is made anew, with the subjects it had.
        let mut anew = wanted.clone();
        object::set(&mut anew, &["subjects"], merged(&found, &wanted, &["subjects"]));
        delete::background(&cx, object::namespace(&wanted), object::name(&wanted)).await?;
        return ensure(api, GROUP, "v1", plural, anew).await;
    }
    if reconciled(&found, &wanted).is_none() {
        return Ok(());
    }
    let change = |old: &Value| Ok(Change::of(reconciled(old, &wanted).unwrap_or_else(|| old.clone())));
    write::modify(&cx, Part::Main, change).await.map(drop)
}

fn is_kept(found: &Value) -> bool {
    object::text(found, &["metadata", "annotations", AUTOUPDATE]) != "false"
}

/// The list at a path, and what the wanted object has beyond it.
fn merged(found: &Value, wanted: &Value, path: &[&str]) -> Vec<Value> {
    let mut list = object::list(found, path).to_vec();
    for item in object::list(wanted, path) {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
    list
}

/// The object with everything that is wanted. `None`: it has it already, or wants to be left alone.
fn reconciled(found: &Value, wanted: &Value) -> Option<Value> {
    if !is_kept(found) {
        return None;
    }
    let mut new = found.clone();
    for kind in ["labels", "annotations"] {
        for (key, value) in
            object::at(wanted, &["metadata", kind]).and_then(Value::as_object).into_iter().flatten()
        {
            if object::at(found, &["metadata", kind, key]).is_none() {
                object::set(&mut new, &["metadata", kind, key], value.clone());
            }
        }
    }
    if wanted.get("roleRef").is_some() {
        object::set(&mut new, &["subjects"], merged(found, wanted, &["subjects"]));
        let had_none = found.get("subjects").is_none_or(Value::is_null);
        if had_none && object::list(&new, &["subjects"]).is_empty() {
            object::remove(&mut new, &["subjects"]);
        }
    } else if wanted.get("aggregationRule").is_some() {
        let path = ["aggregationRule", "clusterRoleSelectors"];
        object::set(&mut new, &path, merged(found, wanted, &path));
    } else {
        let missing = uncovered(&Rule::list(found), &Rule::list(wanted));
        if !missing.is_empty() {
            let mut rules = object::list(found, &["rules"]).to_vec();
            rules.extend(missing.iter().map(|rule| json!(rule)));
            object::set(&mut new, &["rules"], rules);
        }
    }
    (new != *found).then_some(new)
}

/// All bootstrap roles, and all bindings.
fn objects() -> (Vec<Wanted>, Vec<Wanted>) {
    let (roles, bindings) = read();
    let objects = roles.iter().map(|role| object(role, &roles)).collect();
    (objects, bindings)
}

fn read() -> (Vec<Role>, Vec<Wanted>) {
    let mut roles: Vec<Role> = Vec::new();
    let mut bindings = Vec::new();
    for line in TABLE.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
        let words: Vec<&'static str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["role", name, more @ ..] => roles.push(role(name, more)),
            ["bind", name, role, subjects @ ..] => bindings.push(binding(name, role, subjects)),
            ["include", prefix] => {
                let prefix = prefix.trim_end_matches('*');
                let included: Vec<Rule> = roles
                    .iter()
                    .filter(|r| r.name.starts_with(prefix))
                    .flat_map(|r| r.rules.clone())
                    .collect();
                let missing = included.iter().fold(Vec::new(), |mut rules: Vec<Rule>, rule| {
                    if !rules.contains(rule) {
                        rules.push(rule.clone());
                    }
                    rules
                });
                roles.last_mut().expect("a rule follows its role").rules.extend(missing);
            }
            _ => roles.last_mut().expect("a rule follows its role").rules.push(rule(line)),
        }
    }
    (roles, bindings)
}

fn role(name: &'static str, more: &[&'static str]) -> Role {
    let mut role = Role { name, ..Role::default() };
    for word in more {
        match word.strip_prefix("from:").and_then(|label| label.split_once('=')) {
            Some(label) => role.gathers = Some(label),
            None => role.labels.extend(word.split_once('=')),
        }
    }
    role
}

fn rule(line: &str) -> Rule {
    let own = |words: &str| words.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut parts = line.split('|').map(str::trim);
    let verbs = parts.next().unwrap_or("").split_whitespace().flat_map(|verb| match verb {
        "r" => READ.to_vec(),
        "w" => WRITE.to_vec(),
        "rw" => {
            let mut all = [&READ[..], &WRITE[..]].concat();
            all.sort_unstable();
            all
        }
        other => vec![other],
    });
    let mut rule = Rule { verbs: verbs.map(str::to_owned).collect(), ..Rule::default() };
    let (groups, what) = parts.next().and_then(|t| t.split_once(": ")).expect("a rule names its group");
    if groups == "path" {
        rule.non_resource_urls = own(what);
        return rule;
    }
    rule.api_groups =
        groups.split(',').map(|g| if g == "core" { String::new() } else { g.to_owned() }).collect();
    rule.resources = own(what);
    rule.resource_names = own(parts.next().unwrap_or(""));
    rule
}

fn object(role: &Role, all: &[Role]) -> Wanted {
    let mut object = shell(role.name, "ClusterRole", "Role");
    for (key, value) in &role.labels {
        object::set(&mut object.1, &["metadata", "labels", key], *value);
    }
    object::set(&mut object.1, &["rules"], json!(role.rules));
    if let Some((key, value)) = role.gathers {
        let selectors = json!([{ "matchLabels": { key: value } }]);
        object::set(&mut object.1, &["aggregationRule", "clusterRoleSelectors"], selectors);
        // What the controller gathers, so that the role means something before, or without, one.
        object::set(&mut object.1, &["rules"], json!(gathered(role, all)));
    }
    object
}

/// The rules of all roles that a role gathers, each once.
fn gathered(role: &Role, all: &[Role]) -> Vec<Rule> {
    let Some((key, value)) = role.gathers else { return role.rules.clone() };
    let mut rules = Vec::new();
    let mut from: Vec<&Role> = all.iter().filter(|other| other.labels.get(key) == Some(&value)).collect();
    from.sort_by_key(|other| other.name);
    for rule in from.into_iter().flat_map(|other| gathered(other, all)) {
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules
}

fn binding(name: &str, role: &str, subjects: &[&str]) -> Wanted {
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
    let mut object = shell(name, "ClusterRoleBinding", "RoleBinding");
    let kind = if name.contains('/') { "Role" } else { "ClusterRole" };
    object::set(&mut object.1, &["roleRef"], json!({ "apiGroup": GROUP, "kind": kind, "name": role }));
    if !subjects.is_empty() {
        object::set(&mut object.1, &["subjects"], subjects);
    }
    object
}

/// An object of the table without content; `NAMESPACE/NAME` lives in a namespace.
fn shell(name: &str, cluster: &'static str, namespaced: &'static str) -> Wanted {
    let (kind, metadata) = match name.split_once('/') {
        Some((namespace, name)) => (namespaced, json!({ "namespace": namespace, "name": name })),
        None => (cluster, json!({ "name": name })),
    };
    let plural = match kind {
        "ClusterRole" => "clusterroles",
        "Role" => "roles",
        "ClusterRoleBinding" => "clusterrolebindings",
        _ => "rolebindings",
    };
    let mut object =
        json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata });
    object::set(
        &mut object,
        &["metadata", "labels"],
        json!({ "kubernetes.io/bootstrapping": "rbac-defaults" }),
    );
    object::set(&mut object, &["metadata", "annotations"], json!({ AUTOUPDATE: "true" }));
    (plural, object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_binding_names_a_role_of_the_table_and_every_role_says_something() {
        let (roles, bindings) = objects();
        let kind = |object: &Value| object["kind"].as_str().unwrap().to_owned();
        let names: Vec<_> =
            roles.iter().map(|(_, o)| (kind(o), object::namespace(o), object::name(o))).collect();
        for (_, binding) in &bindings {
            let role = &binding["roleRef"];
            let namespace = if role["kind"] == "Role" { object::namespace(binding) } else { "" };
            let wanted = (kind(role), namespace, role["name"].as_str().unwrap());
            assert!(names.contains(&wanted), "{wanted:?}");
        }
        for (_, role) in &roles {
            assert!(!object::list(role, &["rules"]).is_empty(), "{}", object::name(role));
        }
        assert_eq!((roles.len(), bindings.len()), (80, 61));
        let rules = |name: &str| {
            roles.iter().find(|(_, o)| object::name(o) == name).map(|(_, o)| Rule::list(o)).unwrap()
        };
        assert!(uncovered(&rules("admin"), &rules("edit")).is_empty());
        assert!(uncovered(&rules("edit"), &rules("view")).is_empty());
        assert!(!uncovered(&rules("view"), &rules("edit")).is_empty());
    }

    #[test]
    fn what_is_missing_comes_back_and_what_was_added_stays() {
        let wanted = json!({"metadata": {"labels": {"a": "1"}}, "rules": [
            {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]});
        let found = json!({"metadata": {"labels": {"a": "2"}}, "rules": [
            {"verbs": ["get", "delete"], "apiGroups": [""], "resources": ["pods"]}]});
        let new = reconciled(&found, &wanted).unwrap();
        assert_eq!(new["metadata"]["labels"]["a"], "2");
        assert_eq!(
            object::list(&new, &["rules"])[1],
            json!({"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]})
        );
        assert_eq!(reconciled(&new, &wanted), None);
        let mut alone = found;
        object::set(&mut alone, &["metadata", "annotations", AUTOUPDATE], "false");
        assert_eq!(reconciled(&alone, &wanted), None);
        let wanted = json!({"roleRef": {}, "subjects": [{"name": "a"}]});
        let found = json!({"roleRef": {}, "subjects": [{"name": "b"}]});
        assert_eq!(reconciled(&found, &wanted).unwrap()["subjects"], json!([{"name": "b"}, {"name": "a"}]));
        let wanted =
            json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}, "rules": []});
        let new = reconciled(&json!({"rules": [{"verbs": ["x"]}]}), &wanted).unwrap();
        assert_eq!(object::list(&new, &["rules"]).len(), 1);
        assert_eq!(new["aggregationRule"], wanted["aggregationRule"]);
    }
}
