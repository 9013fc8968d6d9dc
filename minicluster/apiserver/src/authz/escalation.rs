//! Nobody gives away what they do not have: writes of roles and bindings are held to the writer's own permissions.
//!
//! Whoever may `escalate` a role, or `bind` one, is free of it. Source: `pkg/registry/rbac/*/policybased` and
//! `k8s.io/component-helpers/auth/rbac/validation`.

use std::collections::BTreeSet;

use serde_json::Value;
use windlass_crd::field::quote;

use super::{Attributes, Rule, rbac::everything};
use crate::{
    authn::MASTERS,
    context::Context,
    object,
    status::{ApiError, ApiResult},
};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Holds a write of a role or binding to what the writer may do; other kinds pass.
///
/// # Errors
/// 403 that names what is missing; 404 for a binding to a role that does not exist.
pub(crate) async fn check(cx: &Context, obj: &Value, old: Option<&Value>) -> ApiResult<()> {
    if cx.resource.group != GROUP || cx.user.is_in(MASTERS) {
        return Ok(());
    }
    if old.is_some_and(|old| only_lets_go(obj, old)) {
        return Ok(());
    }
    match cx.resource.plural.as_ref() {
        "roles" | "clusterroles" => role(cx, obj, old).await,
        "rolebindings" | "clusterrolebindings" => binding(cx, obj).await,
        _ => Ok(()),
    }
}

/// True when a write only changes what the garbage collector needs for the object's end.
fn only_lets_go(obj: &Value, old: &Value) -> bool {
    let stripped = |obj: &Value| {
        let mut obj = obj.clone();
        for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
            object::remove(&mut obj, &["metadata", field]);
        }
        obj
    };
    stripped(obj) == stripped(old)
}

async fn role(cx: &Context, obj: &Value, old: Option<&Value>) -> ApiResult<()> {
    let escalate = Attributes {
        verb: "escalate",
        group: GROUP,
        version: "*",
        resource: cx.resource.plural.as_ref(),
        name: &cx.info.name,
        namespace: &cx.info.namespace,
        is_resource: true,
        ..Attributes::default()
    };
    if cx.api.authorizer.decide(&cx.api, &cx.user, &escalate).await.is_allowed() {
        return Ok(());
    }
    confirm(cx, obj, &Rule::list(obj))?;
    let aggregates =
        |role: &Value| !object::list(role, &["aggregationRule", "clusterRoleSelectors"]).is_empty();
    // What is gathered is anything, now or later.
    if (aggregates(obj) || old.is_some_and(aggregates)) && confirm(cx, obj, &everything()).is_err() {
        let why = "must have cluster-admin privileges to use the aggregationRule";
        return Err(ApiError::forbidden(&cx.resource, object::name(obj), why));
    }
    Ok(())
}

async fn binding(cx: &Context, obj: &Value) -> ApiResult<()> {
    let text = |field: &str| object::text(obj, &["roleRef", field]);
    let (plural, namespace) = match text("kind") {
        "ClusterRole" => ("clusterroles", ""),
        "Role" => ("roles", cx.info.namespace.as_str()),
        // Validation has refused it.
        _ => return Ok(()),
    };
    let bind = Attributes {
        verb: "bind",
        group: text("apiGroup"),
        version: "*",
        resource: plural,
        name: text("name"),
        namespace: &cx.info.namespace,
        is_resource: true,
        ..Attributes::default()
    };
    if cx.api.authorizer.decide(&cx.api, &cx.user, &bind).await.is_allowed() {
        return Ok(());
    }
    let rules =
        cx.api.authorizer.rbac().rules_of(namespace, text("name")).ok_or_else(|| {
            ApiError::not_found(&cx.api.registry.builtin(GROUP, "v1", plural), text("name"))
        })?;
    confirm(cx, obj, &rules)
}

/// The writer has to hold the rules already.
fn confirm(cx: &Context, obj: &Value, rules: &[Rule]) -> ApiResult<()> {
    let user = &cx.user;
    let (own, errors) = cx.api.authorizer.rbac().rules_for(user, &cx.info.namespace);
    let missing = uncovered(&own, rules);
    if missing.is_empty() {
        return Ok(());
    }
    let lines: BTreeSet<String> = compact(missing).iter().map(show).collect();
    let lines: Vec<String> = lines.into_iter().collect();
    let mut why = format!(
        "user {} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        quote(&user.name),
        show_list(&user.groups),
        lines.join("\n")
    );
    if !errors.is_empty() {
        let errors = super::aggregate(errors).unwrap_or_default();
        why.push_str(&format!("; resolution errors: [{errors}]"));
    }
    Err(ApiError::forbidden(&cx.resource, object::name(obj), why))
}

/// The atoms of `wanted` that no rule of `own` covers.
pub(crate) fn uncovered(own: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted.iter().flat_map(atoms).filter(|atom| !own.iter().any(|rule| covers(rule, atom))).collect()
}

/// A rule as rules of one verb, group, resource and name each, or of one verb and path.
fn atoms(rule: &Rule) -> Vec<Rule> {
    let mut atoms = Vec::new();
    let one = |text: &String| vec![text.clone()];
    for group in &rule.api_groups {
        for resource in &rule.resources {
            for verb in &rule.verbs {
                let atom = Rule {
                    verbs: one(verb),
                    api_groups: one(group),
                    resources: one(resource),
                    ..Rule::default()
                };
                if rule.resource_names.is_empty() {
                    atoms.push(atom);
                    continue;
                }
                atoms.extend(
                    rule.resource_names.iter().map(|n| Rule { resource_names: one(n), ..atom.clone() }),
                );
            }
        }
    }
    for path in &rule.non_resource_urls {
        atoms.extend(rule.verbs.iter().map(|verb| Rule {
            verbs: one(verb),
            non_resource_urls: one(path),
            ..Rule::default()
        }));
    }
    atoms
}

fn covers(own: &Rule, atom: &Rule) -> bool {
    let has = |set: &[String], wanted: &str| set.iter().any(|item| item == wanted);
    let all = |set: &[String], wanted: &[String]| has(set, "*") || wanted.iter().all(|item| has(set, item));
    let resource = |wanted: &String| {
        let by_sub = wanted.split_once('/').is_some_and(|(_, sub)| has(&own.resources, &format!("*/{sub}")));
        has(&own.resources, "*") || has(&own.resources, wanted) || by_sub
    };
    let path = |wanted: &String| {
        own.non_resource_urls
            .iter()
            .any(|url| url == wanted || (url.ends_with('*') && wanted.starts_with(url.trim_end_matches('*'))))
    };
    let names = own.resource_names.is_empty()
        || (!atom.resource_names.is_empty()
            && atom.resource_names.iter().all(|n| has(&own.resource_names, n)));
    all(&own.verbs, &atom.verbs)
        && all(&own.api_groups, &atom.api_groups)
        && atom.resources.iter().all(resource)
        && names
        && atom.non_resource_urls.iter().all(path)
}

/// Atoms of one resource joined by their verbs, as people read them.
fn compact(atoms: Vec<Rule>) -> Vec<Rule> {
    let mut joined: Vec<Rule> = Vec::new();
    for atom in atoms {
        let same = |rule: &&mut Rule| {
            rule.non_resource_urls.is_empty()
                && atom.non_resource_urls.is_empty()
                && rule.api_groups == atom.api_groups
                && rule.resources == atom.resources
                && rule.resource_names == atom.resource_names
        };
        match joined.iter_mut().find(same) {
            Some(rule) => rule.verbs.extend(atom.verbs),
            None => joined.push(atom),
        }
    }
    joined
}

/// `["a" "b"]`, as Go prints a slice.
fn show_list(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|item| quote(item)).collect();
    format!("[{}]", quoted.join(" "))
}

fn show(rule: &Rule) -> String {
    let parts = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| format!("{name}:{}", show_list(list)))
        .collect();
    format!("{{{}}}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules(rules: Value) -> Vec<Rule> {
        Rule::list(&json!({ "rules": rules }))
    }

    #[test]
    fn what_is_not_covered_is_told_as_upstream_tells_it() {
        let own = rules(json!([
            {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "*/scale"]},
            {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]},
            {"verbs": ["*"], "apiGroups": ["apps"], "resources": ["*"]},
            {"verbs": ["get"], "nonResourceURLs": ["/healthz/*"]},
        ]));
        let table: [(Value, &[&str]); 8] = [
            (
                json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["x"]}]),
                &[],
            ),
            (json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["rc/scale"]}]), &[]),
            (json!([{"verbs": ["delete"], "apiGroups": ["apps"], "resources": ["deployments/status"]}]), &[]),
            (json!([{"verbs": ["get"], "nonResourceURLs": ["/healthz/ping"]}]), &[]),
            (
                json!([{"verbs": ["get", "delete", "patch"], "apiGroups": [""], "resources": ["pods"]}]),
                &["{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\" \"patch\"]}"],
            ),
            (
                json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}]),
                &["{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}"],
            ),
            (
                json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "b"]}]),
                &["{APIGroups:[\"\"], Resources:[\"secrets\"], ResourceNames:[\"b\"], Verbs:[\"get\"]}"],
            ),
            (
                json!([{"verbs": ["get"], "nonResourceURLs": ["/metrics"]}]),
                &["{NonResourceURLs:[\"/metrics\"], Verbs:[\"get\"]}"],
            ),
        ];
        for (wanted, expected) in table {
            let told: Vec<String> =
                compact(uncovered(&own, &rules(wanted.clone()))).iter().map(show).collect();
            assert_eq!(told, expected, "{wanted}");
        }
        assert!(uncovered(&everything(), &own).is_empty());
        assert!(!uncovered(&own, &everything()).is_empty());
    }
}
