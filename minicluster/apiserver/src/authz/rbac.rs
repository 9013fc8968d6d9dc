//! Role-based access control: roles and bindings, looked up by subject and namespace.
//!
//! Source: `plugin/pkg/auth/authorizer/rbac` and `pkg/registry/rbac/validation/rule.go`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use minicluster_store::Store;
use serde::Deserialize;
use serde_json::Value;
use windlass_crd::field::quote;

use super::{Attributes, Verdict, aggregate};
use crate::{
    authn::Identity,
    object,
    view::{Follow, Live},
};

const CLUSTER_ROLES: &str = "/registry/clusterroles/";
const CLUSTER_ROLE_BINDINGS: &str = "/registry/clusterrolebindings/";
const ROLES: &str = "/registry/roles/";
const ROLE_BINDINGS: &str = "/registry/rolebindings/";

/// One rule of a role.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// What may be done.
    pub verbs: Vec<String>,
    /// In which API groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// With which resources (`pods`, `pods/log`, `*`, `*/scale`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// With which objects; empty for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// With which paths that are no resources.
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

impl Rule {
    /// The rules of a role; lists that are missing or null are empty.
    pub(crate) fn list(role: &Value) -> Vec<Self> {
        object::list(role, &["rules"]).iter().map(Self::read).collect()
    }

    fn read(rule: &Value) -> Self {
        let texts = |key: &str| {
            object::list(rule, &[key]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self {
            verbs: texts("verbs"),
            api_groups: texts("apiGroups"),
            resources: texts("resources"),
            resource_names: texts("resourceNames"),
            non_resource_urls: texts("nonResourceURLs"),
        }
    }

    /// True when the rule allows it.
    pub fn allows(&self, asked: &Attributes<'_>) -> bool {
        let any = |list: &[String], wanted: &str| list.iter().any(|item| item == "*" || item == wanted);
        if !any(&self.verbs, asked.verb) {
            return false;
        }
        if !asked.is_resource {
            return self.non_resource_urls.iter().any(|pattern| path_matches(pattern, asked.path));
        }
        any(&self.api_groups, asked.group)
            && self.resources.iter().any(|pattern| resource_matches(pattern, asked))
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|n| n == asked.name))
    }
}

/// What `system:masters` may do.
pub(super) fn everything() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    [
        Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() },
        Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() },
    ]
}

pub(super) fn path_matches(pattern: &str, path: &str) -> bool {
    pattern == "*"
        || pattern == path
        || (pattern.ends_with('*') && path.starts_with(pattern.trim_end_matches('*')))
}

fn resource_matches(pattern: &str, asked: &Attributes<'_>) -> bool {
    match pattern.split_once('/') {
        None => pattern == "*" || (asked.subresource.is_empty() && pattern == asked.resource),
        Some((_, "")) => false,
        Some(("*", sub)) => sub == asked.subresource,
        Some((resource, sub)) => resource == asked.resource && sub == asked.subresource,
    }
}

/// A role's namespace (empty for a cluster role) and name.
type RoleKey = (String, String);

/// A binding as a decision needs it.
#[derive(Debug)]
struct Binding {
    namespace: String,
    name: String,
    /// `Role` or `ClusterRole`; anything else binds nothing.
    kind: String,
    role: String,
}

impl Binding {
    fn role_key(&self) -> RoleKey {
        let namespace = if self.kind == "Role" { self.namespace.clone() } else { String::new() };
        (namespace, self.role.clone())
    }

    /// `RoleBinding "name/namespace" of Role "x" to Group "y"`.
    fn describe(&self, subject: &str) -> String {
        let (kind, name) = match self.namespace.as_str() {
            "" => ("ClusterRoleBinding", quote(&self.name)),
            namespace => ("RoleBinding", quote(&format!("{}/{namespace}", self.name))),
        };
        format!("{kind} {name} of {} {} to {subject}", self.kind, quote(&self.role))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    User(String),
    Group(String),
}

/// Bindings by name, each with the subject as reasons show it.
type Bindings = BTreeMap<String, (Arc<Binding>, String)>;

/// The bindings of one namespace, or those of the whole cluster, by subject.
#[derive(Debug, Default)]
struct Index {
    users: HashMap<String, Bindings>,
    groups: HashMap<String, Bindings>,
}

impl Index {
    /// Where the bindings of a subject are, and the key there.
    fn of(&mut self, subject: Subject) -> (&mut HashMap<String, Bindings>, String) {
        match subject {
            Subject::User(name) => (&mut self.users, name),
            Subject::Group(name) => (&mut self.groups, name),
        }
    }

    fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }
}

/// A role as it is stored: most are never asked for, and what they allow is read when the first one asks.
#[derive(Debug)]
struct Role {
    value: Bytes,
    rules: OnceLock<Vec<Rule>>,
}

impl Role {
    fn rules(&self) -> &[Rule] {
        let read = || serde_json::from_slice(&self.value).map(|role| Rule::list(&role)).unwrap_or_default();
        self.rules.get_or_init(read)
    }
}

#[derive(Debug, Default)]
struct Policy {
    roles: HashMap<RoleKey, Role>,
    bindings: HashMap<String, Index>,
    /// What each binding is indexed under: its namespace and name.
    indexed: HashMap<RoleKey, Vec<Subject>>,
}

fn split(key: &str) -> RoleKey {
    let (namespace, name) = key.split_once('/').unwrap_or(("", key));
    (namespace.to_owned(), name.to_owned())
}

impl Follow for Policy {
    fn put(&mut self, prefix: &'static str, key: &str, value: &Bytes) {
        if matches!(prefix, CLUSTER_ROLES | ROLES) {
            self.roles.insert(split(key), Role { value: value.clone(), rules: OnceLock::new() });
        } else if let Ok(obj) = serde_json::from_slice::<Value>(value) {
            self.unbind(split(key));
            self.bind(split(key), &obj);
        }
    }

    fn remove(&mut self, prefix: &'static str, key: &str) {
        if matches!(prefix, CLUSTER_ROLES | ROLES) {
            self.roles.remove(&split(key));
        } else {
            self.unbind(split(key));
        }
    }
}

impl Policy {
    fn unbind(&mut self, key: RoleKey) {
        let Some(subjects) = self.indexed.remove(&key) else { return };
        let (namespace, name) = key;
        let Some(index) = self.bindings.get_mut(&namespace) else { return };
        for subject in subjects {
            let (all, key) = index.of(subject);
            if let Some(bindings) = all.get_mut(&key) {
                bindings.remove(&name);
                if bindings.is_empty() {
                    all.remove(&key);
                }
            }
        }
        if index.is_empty() {
            self.bindings.remove(&namespace);
        }
    }

    fn bind(&mut self, key: RoleKey, obj: &Value) {
        let (namespace, name) = key.clone();
        let text = |field: &str| object::text(obj, &["roleRef", field]).to_owned();
        let binding = Arc::new(Binding {
            namespace: namespace.clone(),
            name: name.clone(),
            kind: text("kind"),
            role: text("name"),
        });
        let index = self.bindings.entry(namespace.clone()).or_default();
        let mut indexed = Vec::new();
        for subject in object::list(obj, &["subjects"]) {
            let Some((subject, shown)) = subject_of(subject, &namespace) else { continue };
            let (all, key) = index.of(subject.clone());
            all.entry(key).or_default().entry(name.clone()).or_insert((Arc::clone(&binding), shown));
            indexed.push(subject);
        }
        self.indexed.insert(key, indexed);
    }

    /// The bindings of a user that count in a namespace, each with the subject that made it count.
    fn bindings_of<'p>(
        &'p self,
        user: &'p Identity,
        namespace: &'p str,
    ) -> impl Iterator<Item = (&'p Binding, &'p str)> {
        let local = Some(namespace).filter(|n| !n.is_empty());
        let indices = [Some(""), local].into_iter().flatten().filter_map(|ns| self.bindings.get(ns));
        indices.flat_map(move |index| {
            let groups = user.groups.iter().filter_map(|group| index.groups.get(group));
            let found = index.users.get(&user.name).into_iter().chain(groups);
            found.flat_map(BTreeMap::values).map(|(binding, shown)| (&**binding, shown.as_str()))
        })
    }

    fn rules(&self, binding: &Binding) -> Result<&[Rule], String> {
        let noun = match binding.kind.as_str() {
            "Role" => "role",
            "ClusterRole" => "clusterrole",
            other => return Err(format!("unsupported role reference kind: {}", quote(other))),
        };
        let found = self.roles.get(&binding.role_key()).map(Role::rules);
        found.ok_or_else(|| format!("{noun}.rbac.authorization.k8s.io {} not found", quote(&binding.role)))
    }
}

/// Whom a subject means, and how reasons show it.
fn subject_of(subject: &Value, namespace: &str) -> Option<(Subject, String)> {
    let text = |field: &str| object::text(subject, &[field]);
    let name = text("name");
    match text("kind") {
        "User" => Some((Subject::User(name.to_owned()), format!("User {}", quote(name)))),
        "Group" => Some((Subject::Group(name.to_owned()), format!("Group {}", quote(name)))),
        "ServiceAccount" => {
            let home = if text("namespace").is_empty() { namespace } else { text("namespace") };
            let shown = format!("ServiceAccount {}", quote(&format!("{name}/{home}")));
            (!home.is_empty()).then(|| (Subject::User(format!("system:serviceaccount:{home}:{name}")), shown))
        }
        _ => None,
    }
}

/// The authorizer.
pub struct Rbac {
    policy: Live<Policy>,
}

impl Rbac {
    /// Reads roles and bindings from the store, always as of now.
    pub fn new(store: &Store) -> Self {
        Self { policy: Live::new(store, &[CLUSTER_ROLES, CLUSTER_ROLE_BINDINGS, ROLES, ROLE_BINDINGS]) }
    }

    /// Whether a role that is bound to the user allows it.
    pub(super) fn ask(&self, user: &Identity, asked: &Attributes<'_>) -> Verdict {
        let policy = self.policy.get();
        let mut errors = Vec::new();
        for (binding, subject) in policy.bindings_of(user, asked.namespace) {
            match policy.rules(binding) {
                Ok(rules) if rules.iter().any(|rule| rule.allows(asked)) => {
                    return Verdict::allow(format!("RBAC: allowed by {}", binding.describe(subject)));
                }
                Ok(_) => {}
                Err(error) => errors.push(error),
            }
        }
        Verdict::no_opinion(aggregate(errors).map_or_else(String::new, |errors| format!("RBAC: {errors}")))
    }

    /// All rules that hold for a user in a namespace, and what could not be resolved.
    pub fn rules_for(&self, user: &Identity, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let policy = self.policy.get();
        let (mut all, mut errors) = (Vec::new(), Vec::new());
        for (binding, _) in policy.bindings_of(user, namespace) {
            match policy.rules(binding) {
                Ok(rules) => all.extend_from_slice(rules),
                Err(error) => errors.push(error),
            }
        }
        (all, errors)
    }

    /// The rules of a role; `namespace` is empty for a ClusterRole.
    pub(super) fn rules_of(&self, namespace: &str, name: &str) -> Option<Vec<Rule>> {
        let key = (namespace.to_owned(), name.to_owned());
        self.policy.get().roles.get(&key).map(|role| role.rules().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asks(
        verb: &'static str,
        group: &'static str,
        what: &'static str,
        name: &'static str,
    ) -> Attributes<'static> {
        let (resource, subresource) = what.split_once('/').unwrap_or((what, ""));
        Attributes {
            verb,
            group,
            version: "v1",
            resource,
            subresource,
            namespace: "d",
            name,
            is_resource: true,
            ..Attributes::default()
        }
    }

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> Rule {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Rule {
            verbs: own(verbs),
            api_groups: own(groups),
            resources: own(resources),
            resource_names: own(names),
            non_resource_urls: Vec::new(),
        }
    }

    #[test]
    fn rules_cover_exactly_what_they_name() {
        let pods = rule(&["get", "list"], &[""], &["pods", "pods/log"], &[]);
        assert!(pods.allows(&asks("get", "", "pods", "a")));
        assert!(pods.allows(&asks("get", "", "pods/log", "a")));
        assert!(!pods.allows(&asks("get", "", "pods/exec", "a")));
        assert!(!pods.allows(&asks("delete", "", "pods", "a")));
        assert!(!pods.allows(&asks("get", "apps", "pods", "a")));
        let scale = rule(&["*"], &["*"], &["*/scale"], &[]);
        assert!(scale.allows(&asks("update", "apps", "deployments/scale", "a")));
        assert!(!scale.allows(&asks("update", "apps", "deployments", "a")));
        let named = rule(&["get"], &[""], &["secrets"], &["one"]);
        assert!(named.allows(&asks("get", "", "secrets", "one")));
        assert!(!named.allows(&asks("get", "", "secrets", "two")));
        assert!(!named.allows(&asks("list", "", "secrets", "")));
    }

    #[test]
    fn paths_match_by_prefix_only_with_a_star() {
        assert!(path_matches("/healthz", "/healthz") && !path_matches("/healthz", "/healthz/x"));
        assert!(path_matches("/healthz/*", "/healthz/x") && path_matches("*", "/any"));
    }

    #[test]
    fn bindings_come_and_go_and_reasons_name_them() {
        let mut policy = Policy::default();
        let bytes = |value: Value| Bytes::from(value.to_string());
        let role = json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
        policy.put(CLUSTER_ROLES, "reader", &bytes(role));
        let binding = json!({"roleRef": {"kind": "ClusterRole", "name": "reader"}, "subjects": [
            {"kind": "ServiceAccount", "name": "x"}, {"kind": "Group", "name": "dev"}, {"kind": "Group", "name": "dev"}]});
        policy.put(ROLE_BINDINGS, "d/b", &bytes(binding.clone()));
        let account = Identity::new("system:serviceaccount:d:x", &[]);
        let found: Vec<_> = policy.bindings_of(&account, "d").map(|(b, s)| b.describe(s)).collect();
        assert_eq!(found, ["RoleBinding \"b/d\" of ClusterRole \"reader\" to ServiceAccount \"x/d\""]);
        assert_eq!(policy.bindings_of(&account, "").count(), 0);
        let dev = Identity::new("ann", &["dev"]);
        assert_eq!(policy.bindings_of(&dev, "d").count(), 1);
        let other = json!({"roleRef": binding["roleRef"], "subjects": [{"kind": "User", "name": "ann"}]});
        policy.put(ROLE_BINDINGS, "d/b", &bytes(other));
        assert_eq!(
            (policy.bindings_of(&account, "d").count(), policy.bindings_of(&dev, "d").count()),
            (0, 1)
        );
        policy.remove(ROLE_BINDINGS, "d/b");
        assert!(policy.bindings.is_empty() && policy.indexed.is_empty());
        let lost = Binding { namespace: "d".into(), name: "b".into(), kind: "Role".into(), role: "r".into() };
        assert_eq!(policy.rules(&lost).unwrap_err(), "role.rbac.authorization.k8s.io \"r\" not found");
    }
}
