//! What the chain of authorizers is made of: flags, or an `AuthorizationConfiguration`.
//!
//! Source: `pkg/kubeapiserver/options/authorization.go`, `k8s.io/apiserver/pkg/apis/apiserver`.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;
use windlass_crd::{
    field::{self, Error, ErrorList, Path as Field},
    name,
};

use super::{
    Link,
    abac::Policies,
    webhook::{Condition, Version, Webhook, WebhookParts},
};
use crate::{
    files::{self, Watched},
    outbound::Backend,
};

const GROUP: &str = "apiserver.config.k8s.io";

/// The most match conditions of one webhook.
const CONDITIONS_MAX: usize = 64;

/// How long a webhook named by flags may take.
const FLAG_TIMEOUT: Duration = Duration::from_secs(30);

/// A way to decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everybody may do everything.
    AlwaysAllow,
    /// Nobody may do anything.
    AlwaysDeny,
    /// A file of policies.
    Abac,
    /// Another server.
    Webhook,
    /// Roles and bindings.
    Rbac,
    /// What kubelets need.
    Node,
}

const MODES: [(&str, Mode); 6] = [
    ("AlwaysAllow", Mode::AlwaysAllow),
    ("AlwaysDeny", Mode::AlwaysDeny),
    ("ABAC", Mode::Abac),
    ("Webhook", Mode::Webhook),
    ("RBAC", Mode::Rbac),
    ("Node", Mode::Node),
];

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = MODES.iter().find(|(name, _)| *name == text).map(|(_, mode)| *mode);
        found.ok_or_else(|| format!("authorization-mode \"{text}\" is not a valid mode"))
    }
}

impl Mode {
    fn name(self) -> &'static str {
        MODES.iter().find(|(_, mode)| *mode == self).map_or("", |(name, _)| name)
    }
}

/// The webhook that flags speak of.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// `--authorization-webhook-config-file`.
    pub config_file: Option<PathBuf>,
    /// `--authorization-webhook-version`.
    pub version: String,
    /// `--authorization-webhook-cache-authorized-ttl`.
    pub authorized_ttl: Duration,
    /// `--authorization-webhook-cache-unauthorized-ttl`.
    pub unauthorized_ttl: Duration,
}

impl Default for WebhookSettings {
    fn default() -> Self {
        Self {
            config_file: None,
            version: "v1beta1".to_owned(),
            authorized_ttl: Duration::from_secs(300),
            unauthorized_ttl: Duration::from_secs(30),
        }
    }
}

/// How the server authorizes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--authorization-mode`, in the order in which they are asked.
    pub modes: Vec<Mode>,
    /// `--authorization-policy-file`.
    pub policy_file: Option<PathBuf>,
    /// `--authorization-webhook-*`.
    pub webhook: WebhookSettings,
    /// `--authorization-config`, instead of all the others.
    pub config_file: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            modes: vec![Mode::Node, Mode::Rbac],
            policy_file: None,
            webhook: WebhookSettings::default(),
            config_file: None,
        }
    }
}

/// The chain that flags ask for.
pub(super) fn chain_of_flags(settings: &Settings) -> Result<Vec<Link>, String> {
    let modes = &settings.modes;
    if modes.is_empty() {
        return Err("at least one authorization-mode must be passed".to_owned());
    }
    if settings.policy_file.is_some() && !modes.contains(&Mode::Abac) {
        return Err("cannot specify --authorization-policy-file without mode ABAC".to_owned());
    }
    if settings.webhook.config_file.is_some() && !modes.contains(&Mode::Webhook) {
        return Err("cannot specify --authorization-webhook-config-file without mode Webhook".to_owned());
    }
    for (i, mode) in modes.iter().enumerate() {
        if modes[..i].contains(mode) {
            let names: Vec<&str> = modes.iter().map(|mode| mode.name()).collect();
            return Err(format!("authorization-mode {names:?} has mode specified more than once"));
        }
    }
    modes.iter().map(|mode| link(*mode, settings)).collect()
}

fn link(mode: Mode, settings: &Settings) -> Result<Link, String> {
    Ok(match mode {
        Mode::AlwaysAllow => Link::AlwaysAllow,
        Mode::AlwaysDeny => Link::AlwaysDeny,
        Mode::Node => Link::Node,
        Mode::Rbac => Link::Rbac,
        Mode::Abac => {
            let file = settings.policy_file.as_deref();
            let file = file.ok_or("authorization-mode ABAC's authorization policy file not passed")?;
            Link::Abac(Arc::new(Policies::read(file)?))
        }
        Mode::Webhook => {
            let webhook = &settings.webhook;
            let file = webhook.config_file.as_deref();
            let file = file.ok_or("authorization-mode Webhook's authorization config file not passed")?;
            let version = Version::read(&webhook.version)
                .ok_or_else(|| format!("unsupported webhook authorizer version \"{}\"", webhook.version))?;
            Link::Webhook(Box::new(Webhook::new(WebhookParts {
                backend: Backend::of_kubeconfig(file, FLAG_TIMEOUT)?,
                version,
                authorized_ttl: webhook.authorized_ttl,
                unauthorized_ttl: webhook.unauthorized_ttl,
                denies_on_failure: false,
                conditions: Vec::new(),
            })))
        }
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Configuration {
    #[serde(default)]
    authorizers: Vec<AuthorizerSpec>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthorizerSpec {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    webhook: Option<WebhookSpec>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WebhookSpec {
    #[serde(rename = "authorizedTTL", default = "five_minutes", deserialize_with = "files::as_duration")]
    authorized_ttl: Duration,
    #[serde(default = "yes")]
    cache_authorized_requests: bool,
    #[serde(rename = "unauthorizedTTL", default = "half_a_minute", deserialize_with = "files::as_duration")]
    unauthorized_ttl: Duration,
    #[serde(default = "yes")]
    cache_unauthorized_requests: bool,
    #[serde(default, deserialize_with = "files::as_duration")]
    timeout: Duration,
    #[serde(default)]
    subject_access_review_version: String,
    #[serde(default)]
    match_condition_subject_access_review_version: String,
    #[serde(default)]
    failure_policy: String,
    #[serde(default)]
    connection_info: ConnectionInfo,
    #[serde(default)]
    match_conditions: Vec<MatchCondition>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ConnectionInfo {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    kube_config_file: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MatchCondition {
    #[serde(default)]
    expression: String,
}

fn five_minutes() -> Duration {
    Duration::from_secs(300)
}

fn half_a_minute() -> Duration {
    Duration::from_secs(30)
}

fn yes() -> bool {
    true
}

/// The chain that a file asks for.
pub(super) fn chain_of_file(file: &Watched) -> Result<Vec<Link>, String> {
    chain_of_text(file.path(), &file.content())
}

fn chain_of_text(path: &Path, text: &str) -> Result<Vec<Link>, String> {
    let found: Configuration =
        files::document(path, text, GROUP, &["v1", "v1beta1", "v1alpha1"], "AuthorizationConfiguration")?;
    let mut errors = ErrorList::new();
    let chain = chain(&found, &mut errors);
    match errors.is_empty() {
        true => Ok(chain),
        false => Err(format!("{}: {}", path.display(), field::aggregate(&errors))),
    }
}

/// What may stand in a file; ABAC belongs to flags.
const FILE_MODES: [&str; 4] = ["AlwaysAllow", "AlwaysDeny", "Node", "RBAC"];

fn chain(found: &Configuration, errors: &mut ErrorList) -> Vec<Link> {
    let path = field::root("authorizers");
    if found.authorizers.is_empty() {
        errors.push(Error::required(&path, "at least one authorization mode must be defined"));
    }
    let mut chain = Vec::new();
    for (i, spec) in found.authorizers.iter().enumerate() {
        let path = path.index(i);
        let before = &found.authorizers[..i];
        let kind = spec.kind.as_str();
        if kind.is_empty() {
            errors.push(Error::required(path.child("type"), ""));
            continue;
        }
        if kind != "Webhook" && !FILE_MODES.contains(&kind) {
            let known = ["AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"];
            errors.push(Error::not_supported(path.child("type"), kind, &known));
            continue;
        }
        if kind != "Webhook" && before.iter().any(|other| other.kind == kind) {
            errors.push(Error::duplicate(path.child("type"), kind));
            continue;
        }
        check_name(&spec.name, before, &path.child("name"), errors);
        match (kind, &spec.webhook) {
            ("Webhook", None) => {
                errors.push(Error::required(path.child("webhook"), "required when type=Webhook"));
            }
            ("Webhook", Some(webhook)) => chain.extend(webhook_link(webhook, &path, errors)),
            (_, Some(_)) => {
                let why = "may only be specified when type=Webhook";
                errors.push(Error::invalid(path.child("webhook"), "non-null", why));
            }
            ("AlwaysAllow", None) => chain.push(Link::AlwaysAllow),
            ("AlwaysDeny", None) => chain.push(Link::AlwaysDeny),
            ("Node", None) => chain.push(Link::Node),
            _ => chain.push(Link::Rbac),
        }
    }
    chain
}

fn check_name(own: &str, before: &[AuthorizerSpec], path: &Field, errors: &mut ErrorList) {
    if own.is_empty() {
        errors.push(Error::required(path, ""));
    } else if before.iter().any(|other| other.name == own) {
        errors.push(Error::duplicate(path, own));
    } else {
        let faults = name::dns1123_subdomain_faults(own);
        if !faults.is_empty() {
            let why = format!("authorizer name is invalid: {}", faults.join(", "));
            errors.push(Error::invalid(path, own, why));
        }
    }
}

fn check_times(spec: &WebhookSpec, path: &Field, errors: &mut ErrorList) {
    if spec.timeout.is_zero() {
        errors.push(Error::required(path.child("timeout"), ""));
    } else if spec.timeout > Duration::from_secs(30) {
        let why = "must be > 0s and <= 30s";
        errors.push(Error::invalid(path.child("timeout"), files::show(spec.timeout), why));
    }
    for (field, ttl) in [("authorizedTTL", spec.authorized_ttl), ("unauthorizedTTL", spec.unauthorized_ttl)] {
        if ttl.is_zero() {
            errors.push(Error::required(path.child(field), ""));
        }
    }
}

fn webhook_link(spec: &WebhookSpec, path: &Field, errors: &mut ErrorList) -> Option<Link> {
    let before = errors.len();
    check_times(spec, path, errors);
    let version = Version::read(&spec.subject_access_review_version);
    one_of(
        &spec.subject_access_review_version,
        &["v1", "v1beta1"],
        &path.child("subjectAccessReviewVersion"),
        errors,
    );
    let conditions_version = &spec.match_condition_subject_access_review_version;
    let at = path.child("matchConditionSubjectAccessReviewVersion");
    match conditions_version.as_str() {
        "" if spec.match_conditions.is_empty() => {}
        "" => errors.push(Error::required(at, "required if match conditions are specified")),
        "v1" => {}
        other => errors.push(Error::not_supported(at, other, &["v1"])),
    }
    one_of(&spec.failure_policy, &["NoOpinion", "Deny"], &path.child("failurePolicy"), errors);
    let backend = backend(spec, path, errors);
    let conditions = conditions(&spec.match_conditions, path, errors);
    if errors.len() > before {
        return None;
    }
    let ttl = |on: bool, time: Duration| if on { time } else { Duration::ZERO };
    Some(Link::Webhook(Box::new(Webhook::new(WebhookParts {
        backend: backend?,
        version: version?,
        authorized_ttl: ttl(spec.cache_authorized_requests, spec.authorized_ttl),
        unauthorized_ttl: ttl(spec.cache_unauthorized_requests, spec.unauthorized_ttl),
        denies_on_failure: spec.failure_policy == "Deny",
        conditions,
    }))))
}

fn one_of(value: &str, known: &[&str], path: &Field, errors: &mut ErrorList) {
    if value.is_empty() {
        errors.push(Error::required(path, ""));
    } else if !known.contains(&value) {
        errors.push(Error::not_supported(path, value, known));
    }
}

fn backend(spec: &WebhookSpec, path: &Field, errors: &mut ErrorList) -> Option<Backend> {
    let info = &spec.connection_info;
    let (kind, file) =
        (path.child("connectionInfo").child("type"), path.child("connectionInfo").child("kubeConfigFile"));
    match (info.kind.as_str(), info.kube_config_file.as_deref().unwrap_or_default()) {
        ("", _) => errors.push(Error::required(kind, "")),
        ("KubeConfigFile", "") => errors.push(Error::required(file, "")),
        ("KubeConfigFile", name) if !Path::new(name).is_absolute() => {
            errors.push(Error::invalid(file, name, "must be an absolute path"));
        }
        ("KubeConfigFile", name) => match Backend::of_kubeconfig(Path::new(name), spec.timeout) {
            Ok(backend) => return Some(backend),
            Err(why) => errors.push(Error::invalid(file, name, format!("error loading file: {why}"))),
        },
        (other, _) => errors.push(Error::not_supported(kind, other, &["KubeConfigFile"])),
    }
    None
}

fn conditions(found: &[MatchCondition], path: &Field, errors: &mut ErrorList) -> Vec<Condition> {
    let path = path.child("matchConditions");
    if found.len() > CONDITIONS_MAX {
        errors.push(Error::too_many(path, found.len(), CONDITIONS_MAX));
        return Vec::new();
    }
    let mut conditions = Vec::new();
    for (i, condition) in found.iter().enumerate() {
        let path = path.index(i).child("expression");
        let text = condition.expression.as_str();
        if text.trim().is_empty() {
            errors.push(Error::required(path, ""));
        } else if found[..i].iter().any(|other| other.expression == text) {
            errors.push(Error::duplicate(path, text));
        } else {
            match Condition::compile(text) {
                Ok(condition) => conditions.push(condition),
                Err(why) => errors.push(Error::invalid(path, text, why)),
            }
        }
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(authorizers: &str) -> Result<usize, String> {
        let text =
            format!("apiVersion: {GROUP}/v1\nkind: AuthorizationConfiguration\nauthorizers:{authorizers}");
        chain_of_text(Path::new("/etc/authz.yaml"), &text).map(|chain| chain.len())
    }

    #[test]
    fn a_file_is_taken_whole_or_refused_by_field() {
        assert_eq!(
            read(
                "\n- {type: Node, name: node}\n- {type: RBAC, name: rbac}\n- {type: AlwaysDeny, name: deny}"
            ),
            Ok(3)
        );
        let hook = |more: &str| {
            format!(
                "\n- type: Webhook\n  name: hook\n  webhook: {{timeout: 3s, subjectAccessReviewVersion: v1, failurePolicy: Deny, connectionInfo: {{type: KubeConfigFile, kubeConfigFile: /none}}{more}}}"
            )
        };
        let cases = [
            (
                " []".to_owned(),
                "authorizers: Required value: at least one authorization mode must be defined",
            ),
            ("\n- {name: a}".to_owned(), "authorizers[0].type: Required value"),
            (
                "\n- {type: ABAC, name: a}".to_owned(),
                "authorizers[0].type: Unsupported value: \"ABAC\": supported values: \"AlwaysAllow\", \"AlwaysDeny\", \"Node\", \"RBAC\", \"Webhook\"",
            ),
            (
                "\n- {type: Node, name: a}\n- {type: Node, name: b}".to_owned(),
                "authorizers[1].type: Duplicate value: \"Node\"",
            ),
            (
                "\n- {type: Node, name: a}\n- {type: RBAC, name: a}".to_owned(),
                "authorizers[1].name: Duplicate value: \"a\"",
            ),
            (
                "\n- {type: Node, name: A}".to_owned(),
                "authorizers[0].name: Invalid value: \"A\": authorizer name is invalid: ",
            ),
            (
                "\n- {type: Node, name: a, webhook: {timeout: 1s}}".to_owned(),
                "authorizers[0].webhook: Invalid value: \"non-null\": may only be specified when type=Webhook",
            ),
            (
                "\n- {type: Webhook, name: a}".to_owned(),
                "authorizers[0].webhook: Required value: required when type=Webhook",
            ),
            (
                hook(""),
                "authorizers[0].connectionInfo.kubeConfigFile: Invalid value: \"/none\": error loading file: ",
            ),
            (
                hook(", matchConditions: [{expression: 'true'}]"),
                "authorizers[0].matchConditionSubjectAccessReviewVersion: Required value: required if match conditions are specified",
            ),
            (
                hook(
                    ", matchConditionSubjectAccessReviewVersion: v1, matchConditions: [{expression: 'request.('}]",
                ),
                "authorizers[0].matchConditions[0].expression: Invalid value: \"request.(\": compilation failed",
            ),
            (hook(", authorizedTTL: 1x"), "time: invalid duration \"1x\""),
            (hook(", other: 1"), "strict decoding error: unknown field `other`"),
            (
                "\n- type: Webhook\n  name: h\n  webhook: {timeout: 31s, subjectAccessReviewVersion: v2}"
                    .to_owned(),
                "authorizers[0].timeout: Invalid value: \"31s\": must be > 0s and <= 30s",
            ),
        ];
        for (text, why) in cases {
            let error = read(&text).unwrap_err();
            assert!(error.starts_with("/etc/authz.yaml: ") && error.contains(why), "{why}\n{error}");
        }
    }

    #[test]
    fn flags_that_do_not_fit_together_are_refused() {
        let with = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            chain_of_flags(&settings).err().unwrap_or_default()
        };
        assert_eq!(chain_of_flags(&Settings::default()).unwrap().len(), 2);
        let cases: [(fn(&mut Settings), &str); 6] = [
            (|s| s.modes.clear(), "at least one authorization-mode must be passed"),
            (
                |s| s.modes = vec![Mode::Abac],
                "authorization-mode ABAC's authorization policy file not passed",
            ),
            (
                |s| s.modes = vec![Mode::Webhook],
                "authorization-mode Webhook's authorization config file not passed",
            ),
            (
                |s| s.policy_file = Some("/x".into()),
                "cannot specify --authorization-policy-file without mode ABAC",
            ),
            (
                |s| s.webhook.config_file = Some("/x".into()),
                "cannot specify --authorization-webhook-config-file without mode Webhook",
            ),
            (
                |s| s.modes = vec![Mode::Rbac, Mode::Rbac],
                "authorization-mode [\"RBAC\", \"RBAC\"] has mode specified more than once",
            ),
        ];
        for (change, why) in cases {
            assert_eq!(with(change), why);
        }
        assert_eq!("rbac".parse::<Mode>(), Err("authorization-mode \"rbac\" is not a valid mode".to_owned()));
    }
}
