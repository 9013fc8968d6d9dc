//! Who may do what: role-based access control, with upstream's rules and words.
//!
//! Source: `plugin/pkg/auth/authorizer/rbac` and the RBAC API documentation.

use std::collections::BTreeMap;

use minicluster_store::{Snapshot, Store};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    authn::{Identity, MASTERS},
    object,
    request::RequestInfo,
    status::{ApiError, ApiResult, Details},
    view::{self, View},
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

/// What somebody wants to do.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// The verb.
    pub verb: &'a str,
    /// The API group.
    pub group: &'a str,
    /// The API version.
    pub version: &'a str,
    /// The resource.
    pub resource: &'a str,
    /// The subresource, or empty.
    pub subresource: &'a str,
    /// The namespace, or empty.
    pub namespace: &'a str,
    /// The object's name, or empty.
    pub name: &'a str,
    /// The path, when it is no resource.
    pub path: &'a str,
    /// True for resources.
    pub is_resource: bool,
}

impl<'a> Attributes<'a> {
    /// The attributes of a request.
    pub fn of(info: &'a RequestInfo) -> Self {
        Self {
            verb: info.verb,
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: &info.name,
            path: &info.path,
            is_resource: info.is_resource,
        }
    }
}

impl Rule {
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

fn path_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

fn resource_matches(pattern: &str, asked: &Attributes<'_>) -> bool {
    match pattern.split_once('/') {
        None => pattern == "*" || (asked.subresource.is_empty() && pattern == asked.resource),
        Some(("*", sub)) => sub == asked.subresource,
        Some((resource, sub)) => resource == asked.resource && sub == asked.subresource,
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    User(String),
    Group(String),
}

#[derive(Debug)]
struct Binding {
    /// The namespace it is limited to; `None` for the whole cluster.
    namespace: Option<String>,
    role: RoleKey,
    name: String,
}

/// A role's namespace (`None` for a cluster role) and name.
type RoleKey = (Option<String>, String);

#[derive(Debug, Default)]
struct Policy {
    roles: BTreeMap<RoleKey, Vec<Rule>>,
    bindings: BTreeMap<Subject, Vec<Binding>>,
}

impl Policy {
    fn build(snapshot: &Snapshot, _: &'static [&'static str]) -> Self {
        let mut policy = Self::default();
        for prefix in [CLUSTER_ROLES, ROLES] {
            for (_, obj) in view::objects(snapshot, prefix) {
                let rules = obj.get("rules").cloned().unwrap_or_default();
                let rules =
                    serde_json::from_value::<Option<Vec<Rule>>>(rules).ok().flatten().unwrap_or_default();
                policy.roles.insert((namespace_of(&obj), object::name(&obj).to_owned()), rules);
            }
        }
        for prefix in [CLUSTER_ROLE_BINDINGS, ROLE_BINDINGS] {
            for (_, obj) in view::objects(snapshot, prefix) {
                policy.bind(&obj);
            }
        }
        policy
    }

    fn bind(&mut self, obj: &Value) {
        let namespace = namespace_of(obj);
        let role_namespace =
            if object::text(obj, &["roleRef", "kind"]) == "Role" { namespace.clone() } else { None };
        let role: RoleKey = (role_namespace, object::text(obj, &["roleRef", "name"]).to_owned());
        for subject in object::list(obj, &["subjects"]) {
            let name = object::text(subject, &["name"]).to_owned();
            let subject = match object::text(subject, &["kind"]) {
                "User" => Subject::User(name),
                "Group" => Subject::Group(name),
                "ServiceAccount" => {
                    let own = object::text(subject, &["namespace"]);
                    let home = if own.is_empty() { namespace.as_deref().unwrap_or("") } else { own };
                    Subject::User(format!("system:serviceaccount:{home}:{name}"))
                }
                _ => continue,
            };
            let binding = Binding {
                namespace: namespace.clone(),
                role: role.clone(),
                name: object::name(obj).to_owned(),
            };
            self.bindings.entry(subject).or_default().push(binding);
        }
    }

    fn bindings_of<'p>(&'p self, user: &Identity) -> impl Iterator<Item = &'p Binding> {
        let subjects = std::iter::once(Subject::User(user.name.clone()))
            .chain(user.groups.iter().cloned().map(Subject::Group))
            .collect::<Vec<_>>();
        subjects.into_iter().filter_map(|s| self.bindings.get(&s)).flatten()
    }

    fn rules(&self, role: &RoleKey) -> &[Rule] {
        self.roles.get(role).map_or(&[], Vec::as_slice)
    }
}

fn namespace_of(obj: &Value) -> Option<String> {
    Some(object::namespace(obj)).filter(|n| !n.is_empty()).map(str::to_owned)
}

/// The authorizer.
pub struct Rbac {
    policy: View<Policy>,
}

impl Rbac {
    /// Reads roles and bindings from the store, always as of now.
    pub fn new(store: &Store) -> Self {
        let prefixes = &[CLUSTER_ROLES, CLUSTER_ROLE_BINDINGS, ROLES, ROLE_BINDINGS];
        Self { policy: View::new(store, prefixes, Policy::build) }
    }

    /// Why it is allowed, or `None` when nothing allows it.
    pub fn allows(&self, user: &Identity, asked: &Attributes<'_>) -> Option<String> {
        if user.is_in(MASTERS) {
            return Some(String::new());
        }
        let policy = self.policy.get();
        let found = policy
            .bindings_of(user)
            .filter(|b| b.namespace.as_deref().is_none_or(|ns| asked.is_resource && ns == asked.namespace))
            .find(|b| policy.rules(&b.role).iter().any(|r| r.allows(asked)))?;
        let kind = if found.role.0.is_some() { "Role" } else { "ClusterRole" };
        let binding = if found.namespace.is_some() { "RoleBinding" } else { "ClusterRoleBinding" };
        Some(format!("RBAC: allowed by {binding} \"{}\" of {kind} \"{}\"", found.name, found.role.1))
    }

    /// Passes or fails a request.
    ///
    /// # Errors
    /// 403 in upstream's words.
    pub fn require(&self, user: &Identity, asked: &Attributes<'_>) -> ApiResult<()> {
        if self.allows(user, asked).is_some() {
            return Ok(());
        }
        Err(forbidden(user, asked))
    }

    /// All rules that hold for a user in a namespace.
    pub fn rules_for(&self, user: &Identity, namespace: &str) -> Vec<Rule> {
        let policy = self.policy.get();
        let mut rules: Vec<Rule> = policy
            .bindings_of(user)
            .filter(|b| b.namespace.as_deref().is_none_or(|ns| ns == namespace))
            .flat_map(|b| policy.rules(&b.role).iter().cloned())
            .collect();
        if user.is_in(MASTERS) {
            let all = || vec!["*".to_owned()];
            let everything = Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() };
            rules.push(everything);
            rules.push(Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() });
        }
        rules.dedup();
        rules
    }
}

fn forbidden(user: &Identity, asked: &Attributes<'_>) -> ApiError {
    let name = &user.name;
    if !asked.is_resource {
        return ApiError::forbidden_path(format!(
            "forbidden: User \"{name}\" cannot {} path \"{}\"",
            asked.verb, asked.path
        ));
    }
    let group_resource = if asked.group.is_empty() {
        asked.resource.to_owned()
    } else {
        format!("{}.{}", asked.resource, asked.group)
    };
    let what =
        if asked.name.is_empty() { group_resource } else { format!("{group_resource} \"{}\"", asked.name) };
    let resource = if asked.subresource.is_empty() {
        asked.resource.to_owned()
    } else {
        format!("{}/{}", asked.resource, asked.subresource)
    };
    let scope = if asked.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{}\"", asked.namespace)
    };
    let mut error = ApiError::forbidden_path(format!(
        "{what} is forbidden: User \"{name}\" cannot {} resource \"{resource}\" in API group \"{}\" {scope}",
        asked.verb, asked.group
    ));
    error.details = Some(Box::new(Details {
        name: asked.name.to_owned(),
        group: asked.group.to_owned(),
        kind: asked.resource.to_owned(),
        ..Details::default()
    }));
    error
}

#[cfg(test)]
mod tests {
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
            path: "",
            is_resource: true,
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
    fn a_refusal_reads_as_upstreams() {
        let jane = Identity::new("jane", &[]);
        assert_eq!(
            forbidden(&jane, &asks("create", "apps", "deployments/scale", "web")).message,
            "deployments.apps \"web\" is forbidden: User \"jane\" cannot create resource \"deployments/scale\" in API \
             group \"apps\" in the namespace \"d\""
        );
    }
}
