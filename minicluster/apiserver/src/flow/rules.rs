//! FlowSchemas: which requests they mean, and what tells their flows apart.
//!
//! Source: `k8s.io/apiserver/pkg/util/flowcontrol/rule.go`.

use serde_json::Value;

use crate::{authn::Identity, object, request::RequestInfo};

#[derive(Debug)]
enum Subject {
    User(String),
    Group(String),
    /// Namespace, and name or `*`.
    ServiceAccount(String, String),
}

#[derive(Debug)]
struct ResourceRule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster_scope: bool,
}

#[derive(Debug)]
struct PathRule {
    verbs: Vec<String>,
    paths: Vec<String>,
}

#[derive(Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distinguisher {
    None,
    User,
    Namespace,
}

/// A FlowSchema.
#[derive(Debug)]
pub(super) struct Schema {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) level: String,
    pub(super) precedence: i64,
    distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

fn texts(value: &Value, key: &str) -> Vec<String> {
    object::list(value, &[key]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Schema {
    pub(super) fn read(obj: &Value) -> Self {
        let spec = obj.get("spec").unwrap_or(&Value::Null);
        Self {
            name: object::name(obj).to_owned(),
            uid: object::uid(obj).to_owned(),
            level: object::text(spec, &["priorityLevelConfiguration", "name"]).to_owned(),
            precedence: object::number(spec, &["matchingPrecedence"]).unwrap_or(1000),
            distinguisher: match object::text(spec, &["distinguisherMethod", "type"]) {
                "ByUser" => Distinguisher::User,
                "ByNamespace" => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            rules: object::list(spec, &["rules"]).iter().map(Rule::read).collect(),
        }
    }

    /// True when the request is meant.
    pub(super) fn fits(&self, user: &Identity, info: &RequestInfo) -> bool {
        self.rules.iter().any(|rule| rule.fits(user, info))
    }

    /// The flow that a request belongs to.
    pub(super) fn flow(&self, user: &Identity, info: &RequestInfo) -> String {
        let part = match self.distinguisher {
            Distinguisher::None => "",
            Distinguisher::User => &user.name,
            Distinguisher::Namespace => &info.namespace,
        };
        format!("{},{part}", self.name)
    }
}

impl Rule {
    fn read(rule: &Value) -> Self {
        let subject = |subject: &Value| {
            let text = |path: [&str; 2]| object::text(subject, &path).to_owned();
            match object::text(subject, &["kind"]) {
                "User" => Some(Subject::User(text(["user", "name"]))),
                "Group" => Some(Subject::Group(text(["group", "name"]))),
                "ServiceAccount" => Some(Subject::ServiceAccount(
                    text(["serviceAccount", "namespace"]),
                    text(["serviceAccount", "name"]),
                )),
                _ => None,
            }
        };
        let resource = |rule: &Value| ResourceRule {
            verbs: texts(rule, "verbs"),
            groups: texts(rule, "apiGroups"),
            resources: texts(rule, "resources"),
            namespaces: texts(rule, "namespaces"),
            cluster_scope: rule.get("clusterScope").and_then(Value::as_bool) == Some(true),
        };
        let path =
            |rule: &Value| PathRule { verbs: texts(rule, "verbs"), paths: texts(rule, "nonResourceURLs") };
        Self {
            subjects: object::list(rule, &["subjects"]).iter().filter_map(subject).collect(),
            resources: object::list(rule, &["resourceRules"]).iter().map(resource).collect(),
            paths: object::list(rule, &["nonResourceRules"]).iter().map(path).collect(),
        }
    }

    fn fits(&self, user: &Identity, info: &RequestInfo) -> bool {
        if !self.subjects.iter().any(|subject| subject.is(user)) {
            return false;
        }
        match info.is_resource {
            true => self.resources.iter().any(|rule| rule.fits(info)),
            false => self.paths.iter().any(|rule| rule.fits(info)),
        }
    }
}

impl Subject {
    fn is(&self, user: &Identity) -> bool {
        match self {
            Self::User(name) => name == "*" || *name == user.name,
            Self::Group(name) => name == "*" || user.is_in(name),
            Self::ServiceAccount(namespace, name) => {
                let rest = user.name.strip_prefix("system:serviceaccount:");
                let own = rest.and_then(|rest| rest.strip_prefix(namespace.as_str())?.strip_prefix(':'));
                own.is_some_and(|own| name == "*" || own == name)
            }
        }
    }
}

fn any(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl ResourceRule {
    fn fits(&self, info: &RequestInfo) -> bool {
        let resource = match info.subresource.as_str() {
            "" => any(&self.resources, &info.resource),
            sub => self.resources.iter().any(|item| {
                item == "*"
                    || item
                        .split_once('/')
                        .is_some_and(|(first, second)| first == info.resource && second == sub)
            }),
        };
        let place = match info.namespace.as_str() {
            "" => self.cluster_scope,
            namespace => any(&self.namespaces, namespace),
        };
        resource && place && any(&self.verbs, info.verb) && any(&self.groups, &info.group)
    }
}

impl PathRule {
    fn fits(&self, info: &RequestInfo) -> bool {
        let path_fits = |rule: &String| {
            let prefix = rule.strip_suffix('*').unwrap_or(rule);
            rule == "*"
                || *rule == info.path
                || info
                    .path
                    .strip_prefix(prefix)
                    .is_some_and(|rest| prefix.ends_with('/') || rest.starts_with('/'))
        };
        any(&self.verbs, info.verb) && self.paths.iter().any(path_fits)
    }
}
