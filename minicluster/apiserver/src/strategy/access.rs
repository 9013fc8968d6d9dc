//! Roles and bindings: their names are path segments, `system:node` included.

use serde_json::Value;
use windlass_crd::{
    field::{self, Error, ErrorList},
    name,
};

use super::{Column, Part, Strategy, columns};
use crate::object;

/// Role and ClusterRole.
pub(crate) struct Role;

/// RoleBinding and ClusterRoleBinding.
pub(crate) struct Binding;

pub(super) fn path_segment(name: &str) -> Result<(), String> {
    let faults = name::path_segment_faults(name);
    if faults.is_empty() { Ok(()) } else { Err(faults.join(", ")) }
}

impl Strategy for Role {
    fn check_name(&self, name: &str) -> Result<(), String> {
        path_segment(name)
    }

    fn creates_on_update(&self) -> bool {
        true
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let aggregation = object::at(obj, &["aggregationRule"]);
        if aggregation.is_some_and(|rule| object::list(rule, &["clusterRoleSelectors"]).is_empty()) {
            let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            let path = field::root("aggregationRule").child("clusterRoleSelectors");
            errors.push(Error::required(path, detail));
        }
        for (i, rule) in object::list(obj, &["rules"]).iter().enumerate() {
            let path = field::root("rules").index(i);
            let has = |key: &str| !object::list(rule, &[key]).is_empty();
            if !has("verbs") {
                errors.push(Error::required(path.child("verbs"), "verbs must contain at least one value"));
            }
            if has("nonResourceURLs") {
                if !object::namespace(obj).is_empty() {
                    let detail = "namespaced rules cannot apply to non-resource URLs";
                    let urls = rule.get("nonResourceURLs").cloned().unwrap_or_default();
                    errors.push(Error::invalid(path.child("nonResourceURLs"), urls, detail));
                }
                if has("apiGroups") || has("resources") || has("resourceNames") {
                    let detail = "rules cannot apply to both regular resources and non-resource URLs";
                    let urls = rule.get("nonResourceURLs").cloned().unwrap_or_default();
                    errors.push(Error::invalid(path.child("nonResourceURLs"), urls, detail));
                }
                continue;
            }
            if !has("apiGroups") {
                let detail = "resource rules must supply at least one api group";
                errors.push(Error::required(path.child("apiGroups"), detail));
            }
            if !has("resources") {
                let detail = "resource rules must supply at least one resource";
                errors.push(Error::required(path.child("resources"), detail));
            }
        }
        errors
    }
}

impl Strategy for Binding {
    fn default(&self, obj: &mut Value) {
        const GROUP: &str = "rbac.authorization.k8s.io";
        if object::text(obj, &["roleRef", "apiGroup"]).is_empty() {
            object::set(obj, &["roleRef", "apiGroup"], GROUP);
        }
        let Some(subjects) = obj.get_mut("subjects").and_then(Value::as_array_mut) else { return };
        for subject in subjects {
            let kind = object::text(subject, &["kind"]);
            if matches!(kind, "User" | "Group") && object::text(subject, &["apiGroup"]).is_empty() {
                object::set(subject, &["apiGroup"], GROUP);
            }
        }
    }

    fn check_name(&self, name: &str) -> Result<(), String> {
        path_segment(name)
    }

    fn creates_on_update(&self) -> bool {
        true
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = field::root("roleRef");
        let kind = object::text(obj, &["roleRef", "kind"]);
        let allowed: &[&str] =
            if object::namespace(obj).is_empty() { &["ClusterRole"] } else { &["Role", "ClusterRole"] };
        if !allowed.contains(&kind) {
            errors.push(Error::not_supported(path.child("kind"), kind, allowed));
        }
        if object::text(obj, &["roleRef", "name"]).is_empty() {
            errors.push(Error::required(path.child("name"), ""));
        }
        for (i, subject) in object::list(obj, &["subjects"]).iter().enumerate() {
            let path = field::root("subjects").index(i);
            if object::text(subject, &["name"]).is_empty() {
                errors.push(Error::required(path.child("name"), ""));
            }
            let kind = object::text(subject, &["kind"]);
            match kind {
                "ServiceAccount"
                    if object::text(subject, &["namespace"]).is_empty()
                        && object::namespace(obj).is_empty() =>
                {
                    errors.push(Error::required(path.child("namespace"), ""));
                }
                "ServiceAccount" | "User" | "Group" => {}
                _ => {
                    let kinds = ["ServiceAccount", "User", "Group"];
                    errors.push(Error::not_supported(path.child("kind"), kind, &kinds));
                }
            }
        }
        errors
    }

    fn validate_update(&self, part: Part, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = if part == Part::Main { self.validate(obj) } else { ErrorList::new() };
        if obj.get("roleRef") != old.get("roleRef") {
            let text = |field: &str| object::text(obj, &["roleRef", field]);
            // As upstream's own structure writes itself.
            let role = serde_json::json!({
                "APIGroup": text("apiGroup"), "Kind": text("kind"), "Name": text("name"),
            });
            errors.push(Error::invalid(field::root("roleRef"), role, "cannot change roleRef"));
        }
        errors
    }

    fn columns(&self) -> Option<Vec<Column>> {
        let role = |obj: &Value| {
            let text = |field: &str| object::text(obj, &["roleRef", field]);
            format!("{}/{}", text("kind"), text("name"))
        };
        Some(vec![
            columns::made("Role", role),
            columns::age(),
            columns::made("Users", |obj| subjects(obj, "User")).wide(),
            columns::made("Groups", |obj| subjects(obj, "Group")).wide(),
            columns::made("ServiceAccounts", |obj| subjects(obj, "ServiceAccount")).wide(),
        ])
    }
}

/// The subjects of a binding of one kind; service accounts with their namespaces.
fn subjects(obj: &Value, kind: &str) -> String {
    let names: Vec<String> = object::list(obj, &["subjects"])
        .iter()
        .filter(|subject| object::text(subject, &["kind"]) == kind)
        .map(|subject| {
            let name = object::text(subject, &["name"]);
            if kind == "ServiceAccount" {
                format!("{}/{name}", object::text(subject, &["namespace"]))
            } else {
                name.to_owned()
            }
        })
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rule_is_about_resources_or_about_paths() {
        let complaints = |rule: Value| -> Vec<String> {
            Role.validate(&json!({ "rules": [rule] })).iter().map(ToString::to_string).collect()
        };
        assert!(complaints(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]})).is_empty());
        assert!(complaints(json!({"verbs": ["get"], "nonResourceURLs": ["/healthz"]})).is_empty());
        assert_eq!(
            complaints(json!({"verbs": []})),
            [
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[0].resources: Required value: resource rules must supply at least one resource",
            ]
        );
        assert!(Role.check_name("system:node").is_ok());
        assert!(Role.check_name("a/b").is_err());
    }
}
