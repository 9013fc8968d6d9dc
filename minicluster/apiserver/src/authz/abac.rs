//! Attribute-based access control: a file with one policy a line.
//!
//! Source: `pkg/auth/authorizer/abac` and `pkg/apis/abac`.

use std::path::Path;

use serde::Deserialize;

use super::{Attributes, Rule, Verdict, rbac};
use crate::authn::{AUTHENTICATED, Identity};

/// The most lines of a policy file.
const LINES_MAX: usize = 100_000;

/// The policies of a file, in its order.
#[derive(Debug, Default)]
pub(super) struct Policies(Vec<Policy>);

/// What one line allows, to whom.
#[derive(Debug, Default, Clone, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
struct Policy {
    user: String,
    group: String,
    readonly: bool,
    api_group: String,
    resource: String,
    namespace: String,
    #[serde(rename = "nonResourcePath")]
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    spec: Option<Policy>,
    #[serde(flatten)]
    unversioned: Policy,
}

impl Policies {
    /// Reads a file.
    ///
    /// # Errors
    /// The file, the line and what is wrong with it.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let text =
            std::fs::read_to_string(path).map_err(|e| format!("error reading policy file {shown}: {e}"))?;
        Self::parse(&text, &shown.to_string())
    }

    fn parse(text: &str, shown: &str) -> Result<Self, String> {
        let mut policies = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let content = line.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            if policies.len() == LINES_MAX {
                return Err(format!("error reading policy file {shown}: more than {LINES_MAX} policies"));
            }
            let wrong =
                |why: String| format!("error reading policy file {shown}, line {}: {line}: {why}", i + 1);
            policies.push(policy(content).map_err(wrong)?);
        }
        Ok(Self(policies))
    }

    pub(super) fn ask(&self, user: &Identity, asked: &Attributes<'_>) -> Verdict {
        match self.0.iter().any(|policy| policy.allows(user, asked)) {
            true => Verdict::allow(""),
            false => Verdict::no_opinion("No policy matched."),
        }
    }

    pub(super) fn rules_for(&self, user: &Identity, namespace: &str) -> Vec<Rule> {
        let mut rules = Vec::new();
        let mine = self.0.iter().filter(|policy| policy.is_for(user));
        for policy in mine.filter(|policy| policy.namespace == "*" || policy.namespace == namespace) {
            let verbs: &[&str] = if policy.readonly { &["get", "list", "watch"] } else { &["*"] };
            let verbs: Vec<String> = verbs.iter().map(|verb| (*verb).to_owned()).collect();
            if !policy.resource.is_empty() {
                rules.push(Rule {
                    verbs: verbs.clone(),
                    api_groups: vec![policy.api_group.clone()],
                    resources: vec![policy.resource.clone()],
                    ..Rule::default()
                });
            }
            if !policy.path.is_empty() {
                rules.push(Rule { verbs, non_resource_urls: vec![policy.path.clone()], ..Rule::default() });
            }
        }
        rules
    }
}

fn policy(text: &str) -> Result<Policy, String> {
    let line: Line = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let (mut policy, versioned) = match (line.api_version.as_str(), line.kind.as_str()) {
        ("", "" | "Policy") => (line.unversioned, false),
        ("abac.authorization.kubernetes.io/v1beta1", "Policy") => (line.spec.unwrap_or_default(), true),
        ("abac.authorization.kubernetes.io/v0", "Policy") => (line.unversioned, false),
        (version, kind) => {
            return Err(format!("no kind \"{kind}\" is registered for version \"{version}\" in scheme"));
        }
    };
    if versioned {
        if policy.user == "*" || policy.group == "*" {
            (policy.user, policy.group) = (String::new(), AUTHENTICATED.to_owned());
        }
        return Ok(policy);
    }
    widen(&mut policy);
    Ok(policy)
}

/// Lines without a version said less: what they leave out means everything.
fn widen(policy: &mut Policy) {
    if policy.user.is_empty() && policy.group.is_empty() {
        policy.group = AUTHENTICATED.to_owned();
    }
    if policy.user == "*" || policy.group == "*" {
        (policy.user, policy.group) = (String::new(), AUTHENTICATED.to_owned());
    }
    let anything = || "*".to_owned();
    policy.path =
        if policy.namespace.is_empty() && policy.resource.is_empty() { anything() } else { String::new() };
    if policy.namespace.is_empty() {
        policy.namespace = anything();
    }
    if policy.resource.is_empty() {
        policy.resource = anything();
    }
    policy.api_group = anything();
}

impl Policy {
    fn allows(&self, user: &Identity, asked: &Attributes<'_>) -> bool {
        self.is_for(user) && (!self.readonly || asked.is_read_only()) && self.covers(asked)
    }

    fn is_for(&self, user: &Identity) -> bool {
        let named = match self.user.as_str() {
            "" => None,
            "*" => Some(true),
            name => Some(name == user.name),
        };
        let grouped = match self.group.as_str() {
            "" => None,
            "*" => Some(true),
            group => Some(user.is_in(group)),
        };
        named.or(grouped).is_some() && named.unwrap_or(true) && grouped.unwrap_or(true)
    }

    fn covers(&self, asked: &Attributes<'_>) -> bool {
        let is = |own: &str, wanted: &str| own == "*" || own == wanted;
        if asked.is_resource {
            return is(&self.namespace, asked.namespace)
                && is(&self.resource, asked.resource)
                && is(&self.api_group, asked.group);
        }
        rbac::path_matches(&self.path, asked.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        # everybody reads pods
        {"apiVersion": "abac.authorization.kubernetes.io/v1beta1", "kind": "Policy", "spec": {"group": "*", "resource": "pods", "namespace": "d", "readonly": true}}
        {"apiVersion": "abac.authorization.kubernetes.io/v1beta1", "kind": "Policy", "spec": {"user": "alice", "resource": "*", "namespace": "*", "apiGroup": "*"}}
        {"apiVersion": "abac.authorization.kubernetes.io/v1beta1", "kind": "Policy", "spec": {"user": "bob", "nonResourcePath": "/healthz/*"}}
        {"user": "carl", "resource": "services", "namespace": "d"}
    "#;

    #[test]
    fn lines_allow_what_they_say() {
        let policies = Policies::parse(FILE, "f").unwrap();
        let table = [
            ("ann", "get", "pods", "d", "", true),
            ("ann", "create", "pods", "d", "", false),
            ("ann", "get", "pods", "e", "", false),
            ("alice", "delete", "deployments", "e", "", true),
            ("alice", "get", "", "", "/metrics", false),
            ("bob", "get", "", "", "/healthz/ping", true),
            ("bob", "get", "", "", "/metrics", false),
            ("carl", "update", "services", "d", "", true),
            ("carl", "update", "services", "e", "", false),
        ];
        for (name, verb, resource, namespace, path, expected) in table {
            let asked = Attributes {
                verb,
                resource,
                namespace,
                path,
                is_resource: path.is_empty(),
                ..Attributes::default()
            };
            let verdict = policies.ask(&Identity::new(name, &[]), &asked);
            assert_eq!(verdict.is_allowed(), expected, "{name} {verb} {resource}{path}");
            if !expected {
                assert_eq!(verdict.reason, "No policy matched.");
            }
        }
        assert!(
            !policies
                .ask(
                    &Identity::anonymous(),
                    &Attributes {
                        verb: "get",
                        resource: "pods",
                        namespace: "d",
                        is_resource: true,
                        ..Attributes::default()
                    }
                )
                .is_allowed()
        );
        assert_eq!(policies.rules_for(&Identity::new("alice", &[]), "d").len(), 2);
    }

    #[test]
    fn a_bad_line_is_named() {
        for (text, why) in [
            ("\n{", "error reading policy file f, line 2: {: EOF"),
            (
                "{\"apiVersion\": \"x/v1\", \"kind\": \"Policy\"}",
                "no kind \"Policy\" is registered for version \"x/v1\"",
            ),
        ] {
            let error = Policies::parse(text, "f").unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
