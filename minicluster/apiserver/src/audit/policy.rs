//! `audit.k8s.io/v1 Policy`: the first rule that fits a request says how much is told of it.
//!
//! Sources: `k8s.io/apiserver/pkg/audit/evaluator.go`, `…/pkg/apis/audit/validation`.

use serde::Deserialize;
use serde_json::json;
use windlass_crd::{
    field::{self, Error, ErrorList, Path},
    name,
};

use crate::{authn::Identity, request::RequestInfo, yaml};

/// How much is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub(super) enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

const LEVELS: [(&str, Level); 4] = [
    ("None", Level::None),
    ("Metadata", Level::Metadata),
    ("Request", Level::Request),
    ("RequestResponse", Level::RequestResponse),
];

/// When it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

const STAGES: [(&str, Stage); 4] = [
    ("RequestReceived", Stage::RequestReceived),
    ("ResponseStarted", Stage::ResponseStarted),
    ("ResponseComplete", Stage::ResponseComplete),
    ("Panic", Stage::Panic),
];

/// What the policy says of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) level: Level,
    pub(super) omitted: Vec<Stage>,
    pub(super) omits_managed_fields: bool,
}

/// A checked policy.
#[derive(Debug)]
pub(super) struct Policy {
    rules: Vec<(Rule, Verdict)>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    #[allow(dead_code, reason = "a policy may have a name, which nobody asks for")]
    metadata: serde_json::Value,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<String>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Rule {
    level: String,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

impl Policy {
    /// Reads and checks a policy.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (value, _) = yaml::parse(text).map_err(|e| e.to_string())?;
        let file: File = serde_json::from_value(value).map_err(|e| format!("failed decoding: {e}"))?;
        if (file.api_version.as_str(), file.kind.as_str()) != ("audit.k8s.io/v1", "Policy") {
            return Err(format!("unknown group version field {} in policy", file.api_version));
        }
        let errors = check(&file);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        match texts.as_slice() {
            [] if file.rules.is_empty() => Err("loaded illegal policy with 0 rules".to_owned()),
            [] => Ok(Self::new(file)),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }

    fn new(file: File) -> Self {
        let stages =
            |names: &[String]| -> Vec<Stage> { names.iter().filter_map(|n| find(&STAGES, n)).collect() };
        let everywhere = stages(&file.omit_stages);
        let rules = file.rules.into_iter().map(|rule| {
            let verdict = Verdict {
                level: find(&LEVELS, &rule.level).unwrap_or(Level::None),
                omitted: [everywhere.clone(), stages(&rule.omit_stages)].concat(),
                omits_managed_fields: rule.omit_managed_fields.unwrap_or(file.omit_managed_fields),
            };
            (rule, verdict)
        });
        Self { rules: rules.collect() }
    }

    /// What is told of a request; `None`: nothing. Without a user, nobody was believed to be one.
    pub(super) fn judge(&self, user: Option<&Identity>, info: &RequestInfo) -> Option<&Verdict> {
        let (_, verdict) = self.rules.iter().find(|(rule, _)| rule.fits(user, info))?;
        (verdict.level != Level::None).then_some(verdict)
    }
}

fn find<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

impl Rule {
    fn fits(&self, user: Option<&Identity>, info: &RequestInfo) -> bool {
        let among = |list: &[String], text: &str| list.iter().any(|item| item == text);
        if !self.users.is_empty() && user.is_none_or(|user| !among(&self.users, &user.name)) {
            return false;
        }
        if !self.user_groups.is_empty()
            && user.is_none_or(|user| !user.groups.iter().any(|group| among(&self.user_groups, group)))
        {
            return false;
        }
        if !self.verbs.is_empty() && !among(&self.verbs, info.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return info.is_resource
                && (self.namespaces.is_empty() || among(&self.namespaces, &info.namespace))
                && (self.resources.is_empty() || self.resources.iter().any(|part| part.fits(info)));
        }
        if !self.non_resource_urls.is_empty() {
            return !info.is_resource
                && self.non_resource_urls.iter().any(|spec| path_fits(spec, &info.path));
        }
        true
    }
}

fn path_fits(spec: &str, path: &str) -> bool {
    spec == "*" || spec == path || spec.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

impl GroupResources {
    fn fits(&self, info: &RequestInfo) -> bool {
        if self.group != info.group && self.group != "*" {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        if !self.resource_names.is_empty() && !self.resource_names.contains(&info.name) {
            return false;
        }
        let (resource, sub) = (info.resource.as_str(), info.subresource.as_str());
        self.resources.iter().any(|wanted| match wanted.split_once('/') {
            None => wanted == "*" || (sub.is_empty() && wanted == resource),
            Some(("*", wanted)) => !sub.is_empty() && wanted == sub,
            Some((wanted, "*")) => wanted == resource,
            Some((first, second)) => first == resource && second == sub,
        })
    }
}

fn check(file: &File) -> ErrorList {
    let mut errors = ErrorList::new();
    stages(&file.omit_stages, &field::root("omitStages"), &mut errors);
    for (i, rule) in file.rules.iter().enumerate() {
        let at = field::root("rules").index(i);
        if rule.level.is_empty() {
            errors.push(Error::required(at.child("level"), ""));
        } else if find(&LEVELS, &rule.level).is_none() {
            let known = LEVELS.map(|(name, _)| name);
            errors.push(Error::not_supported(at.child("level"), rule.level.as_str(), &known));
        }
        urls(&rule.non_resource_urls, &at.child("nonResourceURLs"), &mut errors);
        resources(&rule.resources, &at.child("resources"), &mut errors);
        stages(&rule.omit_stages, &at.child("omitStages"), &mut errors);
        let of_resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
        if of_resources && !rule.non_resource_urls.is_empty() {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(Error::invalid(at.child("nonResourceURLs"), json!(rule.non_resource_urls), why));
        }
    }
    errors
}

fn stages(given: &[String], path: &Path, errors: &mut ErrorList) {
    for (i, stage) in given.iter().enumerate() {
        if find(&STAGES, stage).is_none() {
            let known = STAGES.map(|(name, _)| name).join(",");
            errors.push(Error::invalid(path.index(i), stage.as_str(), format!("allowed stages are {known}")));
        }
    }
}

fn urls(given: &[String], path: &Path, errors: &mut ErrorList) {
    for (i, url) in given.iter().enumerate().filter(|(_, url)| *url != "*") {
        if !url.starts_with('/') {
            let why = "non-resource URL rules must begin with a '/' character";
            errors.push(Error::invalid(path.index(i), url.as_str(), why));
        }
        if url.find('*').is_some_and(|at| at + 1 < url.len()) {
            let why = "non-resource URL wildcards '*' must be the final character of the rule";
            errors.push(Error::invalid(path.index(i), url.as_str(), why));
        }
    }
}

fn resources(given: &[GroupResources], path: &Path, errors: &mut ErrorList) {
    for part in given {
        if !matches!(part.group.as_str(), "" | "*")
            && let Err(why) = name::dns1123_subdomain(&part.group)
        {
            errors.push(Error::invalid(path.child("group"), part.group.as_str(), why));
        }
        if !part.resource_names.is_empty() && part.resources.is_empty() {
            let why = "using resourceNames requires at least one resource";
            errors.push(Error::invalid(path.child("resourceNames"), json!(part.resource_names), why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Query;
    use expect_test::expect;
    use http::Method;

    const HEAD: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\n";

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = Policy::parse(&format!(
            "{HEAD}omitStages: [RequestReceived]\nomitManagedFields: true\nrules:\n\
             - {{level: None, users: [system:kube-proxy], verbs: [watch]}}\n\
             - {{level: None, nonResourceURLs: [/healthz*, /version]}}\n\
             - {{level: Metadata, resources: [{{resources: [secrets, configmaps]}}], omitStages: [Panic]}}\n\
             - {{level: Request, userGroups: [system:masters], omitManagedFields: false}}\n\
             - {{level: RequestResponse, namespaces: [prod], resources: [{{group: apps, resources: ['deployments/*']}}]}}\n\
             - {{level: Metadata, resources: [{{group: '*', resources: ['*/scale', pods/log]}}]}}\n\
             - {{level: Request, resources: [{{group: batch, resources: [jobs], resourceNames: [a]}}]}}\n"
        ))
        .unwrap();
        let judge = |user: &Identity, method: Method, url: &str| {
            let (path, query) = url.split_once('?').unwrap_or((url, ""));
            let info = RequestInfo::new(&method, path, &Query::parse(query));
            policy.judge(Some(user), &info).map(|v| (v.level, v.omitted.len(), v.omits_managed_fields))
        };
        let (jane, root) = (Identity::new("jane", &[]), Identity::new("root", &["system:masters"]));
        let proxy = Identity::new("system:kube-proxy", &[]);
        let table = [
            (&proxy, Method::GET, "/api/v1/services?watch=1", None),
            (&root, Method::GET, "/healthz/ping", None),
            (&root, Method::GET, "/metrics", Some((Level::Request, 1, false))),
            (&jane, Method::GET, "/api/v1/namespaces/d/secrets/a", Some((Level::Metadata, 2, true))),
            (&jane, Method::GET, "/api/v1/namespaces/d/secrets/a/status", None),
            (
                &jane,
                Method::PUT,
                "/apis/apps/v1/namespaces/prod/deployments/a",
                Some((Level::RequestResponse, 1, true)),
            ),
            (&jane, Method::PUT, "/apis/apps/v1/namespaces/test/deployments/a", None),
            (
                &jane,
                Method::PUT,
                "/apis/apps/v1/namespaces/test/deployments/a/scale",
                Some((Level::Metadata, 1, true)),
            ),
            (&jane, Method::GET, "/api/v1/namespaces/d/pods/a/log", Some((Level::Metadata, 1, true))),
            (&jane, Method::GET, "/apis/batch/v1/namespaces/d/jobs/a", Some((Level::Request, 1, true))),
            (&jane, Method::GET, "/apis/batch/v1/namespaces/d/jobs/b", None),
        ];
        for (user, method, url, expected) in table {
            assert_eq!(judge(user, method, url), expected, "{} {url}", user.name);
        }
        assert_eq!(policy.judge(None, &RequestInfo::new(&Method::GET, "/x", &Query::default())), None);
    }

    #[test]
    fn faults_are_upstreams() {
        let cases = [
            "rules: [{level: Metadata}]".to_owned(),
            "rules: []".to_owned(),
            "rules: [{}]".to_owned(),
            "rules: [{level: All, omitStages: [Never]}]".to_owned(),
            "rules: [{level: None, nonResourceURLs: [healthz, '/a*b'], namespaces: [x]}]".to_owned(),
            "rules: [{level: None, resources: [{group: rbac/v1, resourceNames: [a]}]}]".to_owned(),
            "rules: [{level: None, users: [a], unknown: 1}]".to_owned(),
        ];
        let lines: Vec<String> = cases
            .iter()
            .map(|text| Policy::parse(&format!("{HEAD}{text}")).map_or_else(|why| why, |_| "fine".to_owned()))
            .collect();
        expect![[r#"
            fine
            loaded illegal policy with 0 rules
            rules[0].level: Required value
            [rules[0].level: Unsupported value: "All": supported values: "None", "Metadata", "Request", "RequestResponse", rules[0].omitStages[0]: Invalid value: "Never": allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic]
            [rules[0].nonResourceURLs[0]: Invalid value: "healthz": non-resource URL rules must begin with a '/' character, rules[0].nonResourceURLs[1]: Invalid value: "/a*b": non-resource URL wildcards '*' must be the final character of the rule, rules[0].nonResourceURLs: Invalid value: ["healthz","/a*b"]: rules cannot apply to both regular resources and non-resource URLs]
            [rules[0].resources.group: Invalid value: "rbac/v1": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*'), rules[0].resources.resourceNames: Invalid value: ["a"]: using resourceNames requires at least one resource]
            failed decoding: unknown field `unknown`, expected one of `level`, `users`, `userGroups`, `verbs`, `resources`, `namespaces`, `nonResourceURLs`, `omitStages`, `omitManagedFields`"#]].assert_eq(&lines.join("\n"));
        assert!(Policy::parse("apiVersion: v1\nkind: Pod").is_err());
    }
}
