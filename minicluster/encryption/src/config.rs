//! `EncryptionConfiguration`: what the file of `--encryption-provider-config` says, and what is wrong with it.
//!
//! Sources: `k8s.io/apiserver/pkg/apis/apiserver/v1`, `…/validation/validation_encryption.go`.

use std::{collections::BTreeSet, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use windlass_crd::field::{self, Error, ErrorList, Path};

/// How long a KMS plugin may take unless the file says otherwise.
const KMS_TIMEOUT: &str = "3s";

/// The file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Configuration {
    api_version: String,
    kind: String,
    #[serde(default)]
    pub(crate) resources: Vec<Resources>,
}

/// Which kinds are sealed by what.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Resources {
    /// `secrets`, `deployments.apps`, `*.apps`, `*.`, `*.*`.
    #[serde(default)]
    pub(crate) resources: Vec<String>,
    /// The first seals; all open.
    #[serde(default)]
    pub(crate) providers: Vec<Provider>,
}

/// Exactly one of these.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Provider {
    pub(crate) aesgcm: Option<Keys>,
    pub(crate) aescbc: Option<Keys>,
    pub(crate) secretbox: Option<Keys>,
    pub(crate) identity: Option<Identity>,
    pub(crate) kms: Option<Kms>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Keys {
    #[serde(default)]
    pub(crate) keys: Vec<Key>,
}

/// A named key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Key {
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default)]
    secret: String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Key {
    /// The key's bytes; none when they are not base64, which validation has refused before.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        STANDARD.decode(&self.secret).unwrap_or_default()
    }
}

/// A plugin that seals the seeds of keys.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kms {
    #[serde(default, rename = "apiVersion")]
    api_version: String,
    #[serde(default)]
    pub(crate) name: String,
    cachesize: Option<i64>,
    #[serde(default)]
    pub(crate) endpoint: String,
    #[serde(default)]
    timeout: String,
}

impl Kms {
    /// How long a call may take.
    pub(crate) fn timeout(&self) -> Duration {
        let text = if self.timeout.is_empty() { KMS_TIMEOUT } else { &self.timeout };
        go_duration(text).unwrap_or_default()
    }
}

impl Provider {
    /// The provider with keys in the file, and its name.
    pub(crate) fn keys(&self) -> Option<(&'static str, &Keys)> {
        let named = [("aesgcm", &self.aesgcm), ("aescbc", &self.aescbc), ("secretbox", &self.secretbox)];
        named.into_iter().find_map(|(name, keys)| keys.as_ref().map(|keys| (name, keys)))
    }
}

/// A resource as the file names it: name and group.
pub(crate) fn split(resource: &str) -> (&str, &str) {
    resource.split_once('.').unwrap_or((resource, ""))
}

/// `1m30s`, `500ms`.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|at| *at > 0)?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let seconds = match &rest[digits..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += Duration::try_from_secs_f64(number * seconds).ok()?;
        rest = &rest[unit..];
    }
    Some(total)
}

/// Reads and checks a file's text.
pub(crate) fn parse(text: &str, reloads: bool) -> Result<Configuration, String> {
    let config: Configuration = serde_saphyr::from_str(text).map_err(|e| format!("error decoding: {e}"))?;
    if (config.api_version.as_str(), config.kind.as_str())
        != ("apiserver.config.k8s.io/v1", "EncryptionConfiguration")
    {
        return Err(format!("got unexpected config type: {}, Kind={}", config.api_version, config.kind));
    }
    let errors = validate(&config, reloads);
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    match texts.as_slice() {
        [] => Ok(config),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

fn validate(config: &Configuration, reloads: bool) -> ErrorList {
    let root = field::root("resources");
    let mut errors = ErrorList::new();
    if config.resources.is_empty() {
        errors.push(Error::required(&root, "at least one resources is required"));
    }
    let mut names = BTreeSet::new();
    for (i, part) in config.resources.iter().enumerate() {
        let (resources, providers) = (root.index(i).child("resources"), root.index(i).child("providers"));
        if part.resources.is_empty() {
            errors.push(Error::required(&resources, format!("at least one {resources} is required")));
        }
        overlaps(&part.resources, &resources, &mut errors);
        for (j, name) in part.resources.iter().enumerate() {
            if let Some(why) = name_fault(name) {
                errors.push(Error::invalid(resources.index(j), name.as_str(), why));
            }
        }
        if part.providers.is_empty() {
            errors.push(Error::required(&providers, format!("at least one {providers} is required")));
        }
        for (j, provider) in part.providers.iter().enumerate() {
            check_provider(provider, &providers.index(j), &mut names, reloads, &mut errors);
        }
    }
    errors
}

fn overlaps(resources: &[String], path: &Path, errors: &mut ErrorList) {
    let (mut twice, mut masked) = (false, false);
    for (i, first) in resources.iter().enumerate() {
        for second in &resources[i + 1..] {
            let ((a, a_group), (b, b_group)) = (split(first), split(second));
            twice |= first == second;
            let any = [first, second].iter().any(|name| *name == "*.*");
            masked |= first != second && (any || (a_group == b_group && (a == "*" || b == "*")));
        }
    }
    let value = serde_json::json!(resources);
    if twice {
        let why = "the same resource cannot be specified multiple times";
        errors.push(Error::invalid(path, value.clone(), why));
    }
    if masked {
        let why = "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as \
                   they will be masked";
        errors.push(Error::invalid(path, value, why));
    }
}

fn name_fault(resource: &str) -> Option<&'static str> {
    let (name, group) = split(resource);
    if resource.to_lowercase() != resource {
        return Some("resource name should not contain capital letters");
    }
    match (resource, name, group) {
        ("*", ..) => {
            Some("use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources")
        }
        ("apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations", ..) => {
            Some("resources which do not have REST API/s cannot be encrypted")
        }
        (.., "events.k8s.io") => Some(
            "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the \
             config file",
        ),
        (.., "extensions") => Some("'extensions' group has been removed and cannot be used for encryption"),
        (_, name, "*") if name != "*" => Some("encrypting the same resource across groups is not supported"),
        _ => None,
    }
}

fn check_provider<'c>(
    provider: &'c Provider,
    path: &Path,
    names: &mut BTreeSet<&'c str>,
    reloads: bool,
    errors: &mut ErrorList,
) {
    let found = [
        provider.kms.is_some(),
        provider.aesgcm.is_some(),
        provider.aescbc.is_some(),
        provider.secretbox.is_some(),
        provider.identity.is_some(),
    ];
    match found.iter().filter(|found| **found).count() {
        0 => {
            let why = "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity";
            return errors.push(Error::invalid(path, serde_json::json!({}), why));
        }
        1 => {}
        _ => {
            let why = "more than one provider specified in a single element, should split into different list elements";
            return errors.push(Error::invalid(path, serde_json::json!({}), why));
        }
    }
    if let Some((kind, keys)) = provider.keys() {
        let lengths: &[usize] = if kind == "secretbox" { &[32] } else { &[16, 24, 32] };
        check_keys(&keys.keys, &path.child(kind).child("keys"), lengths, errors);
    }
    if let Some(kms) = &provider.kms {
        check_kms(kms, &path.child("kms"), names.contains(kms.name.as_str()), reloads, errors);
        names.insert(&kms.name);
    }
}

fn check_keys(keys: &[Key], path: &Path, lengths: &[usize], errors: &mut ErrorList) {
    if keys.is_empty() {
        errors.push(Error::required(path, "at least one keys is required"));
    }
    for (i, key) in keys.iter().enumerate() {
        let at = path.index(i);
        if key.name.is_empty() {
            errors.push(Error::required(at.child("name"), "name is a mandatory field for a key"));
        }
        if key.secret.is_empty() {
            errors.push(Error::required(at.child("secret"), "secret is a mandatory field for a key"));
            continue;
        }
        let Ok(secret) = STANDARD.decode(&key.secret) else {
            errors.push(Error::invalid(at.child("secret"), "REDACTED", "secrets must be base64 encoded"));
            continue;
        };
        if !lengths.contains(&secret.len()) {
            let expected: Vec<String> = lengths.iter().map(ToString::to_string).collect();
            let why = format!(
                "secret is not of the expected length, got {}, expected one of [{}]",
                secret.len(),
                expected.join(" ")
            );
            errors.push(Error::invalid(at.child("secret"), "REDACTED", why));
        }
    }
}

fn check_kms(kms: &Kms, path: &Path, twice: bool, reloads: bool, errors: &mut ErrorList) {
    let name = kms.name.as_str();
    let first = matches!(kms.api_version.as_str(), "" | "v1");
    if name.is_empty() {
        errors.push(Error::required(path.child("name"), "name is a mandatory field for a provider"));
    }
    if !first && name.contains(':') {
        let why = format!("invalid KMS provider name {name}, must not contain ':'");
        errors.push(Error::invalid(path.child("name"), name, why));
    }
    if twice && (reloads || !first) {
        let why = format!("duplicate KMS provider name {name}, names must be unique");
        errors.push(Error::invalid(path.child("name"), name, why));
    }
    if kms.timeout().is_zero() {
        let why = "timeout should be a positive value";
        errors.push(Error::invalid(path.child("timeout"), kms.timeout.as_str(), why));
    }
    if kms.endpoint.is_empty() {
        errors.push(Error::invalid(path.child("endpoint"), "", "endpoint is a mandatory field for a kms"));
    } else if !kms.endpoint.starts_with("unix:") {
        let scheme = kms.endpoint.split_once(':').map_or("", |(scheme, _)| scheme);
        let why = format!("unsupported scheme {scheme:?} for KMS provider, only unix is supported");
        errors.push(Error::invalid(path.child("endpoint"), kms.endpoint.as_str(), why));
    }
    if let Some(size) = kms.cachesize.filter(|_| !first) {
        errors.push(Error::invalid(path.child("cachesize"), size, "cachesize is not supported in v2"));
    }
    if first {
        let why =
            "KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 instead.";
        errors.push(Error::invalid(path.child("apiVersion"), kms.api_version.as_str(), why));
    } else if kms.api_version != "v2" {
        let why = "unsupported apiVersion apiVersion for KMS provider, only v1 and v2 are supported";
        errors.push(Error::invalid(path.child("apiVersion"), kms.api_version.as_str(), why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn durations_are_gos() {
        for (text, millis) in [("3s", 3000), ("1m30s", 90_000), ("500ms", 500), ("1.5s", 1500)] {
            assert_eq!(go_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        assert!(["3", "s", "3x", "-1s"].iter().all(|text| go_duration(text).is_none()));
    }

    #[test]
    fn faults_are_upstreams() {
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n";
        let list = |resources: &str, provider: &str| {
            format!("{head}resources: [{{resources: [{resources}], providers: [{provider}]}}]")
        };
        let key = "aescbc: {keys: [{name: a, secret: AAAAAAAAAAAAAAAAAAAAAA==}]}";
        let cases = [
            list("secrets, '*.apps', events", &format!("{{{key}}}, {{identity: {{}}}}")),
            "apiVersion: v1\nkind: Pod".to_owned(),
            head.to_owned(),
            list("", ""),
            list("'*.*', secrets", "{identity: {}}"),
            list("secrets, secrets, '*.'", "{identity: {}}"),
            list(
                "Secrets, '*', a.events.k8s.io, a.extensions, 'a.*', serviceipallocations",
                "{identity: {}}",
            ),
            list("secrets", "{}"),
            list("secrets", &format!("{{{key}, identity: {{}}}}")),
            list("secrets", "{secretbox: {keys: [{secret: AAAA}, {name: b}, {name: c, secret: '!'}]}}"),
            list(
                "secrets",
                "{kms: {}}, {kms: {apiVersion: v2, name: 'a:b', endpoint: 'tcp://x', timeout: 0s, cachesize: 3}}",
            ),
            list(
                "secrets",
                "{kms: {apiVersion: v2, name: a, endpoint: 'unix:///a'}}, {kms: {apiVersion: v2, name: a, endpoint: 'unix:///a'}}",
            ),
        ];
        let lines: Vec<String> = cases
            .iter()
            .map(|text| parse(text, false).map_or_else(|why| why, |_| "fine".to_owned()))
            .collect();
        expect![[r#"
            fine
            got unexpected config type: v1, Kind=Pod
            resources: Required value: at least one resources is required
            [resources[0].resources: Required value: at least one resources[0].resources is required, resources[0].providers: Required value: at least one resources[0].providers is required]
            resources[0].resources: Invalid value: ["*.*","secrets"]: using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked
            [resources[0].resources: Invalid value: ["secrets","secrets","*."]: the same resource cannot be specified multiple times, resources[0].resources: Invalid value: ["secrets","secrets","*."]: using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked]
            [resources[0].resources: Invalid value: ["Secrets","*","a.events.k8s.io","a.extensions","a.*","serviceipallocations"]: using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked, resources[0].resources[0]: Invalid value: "Secrets": resource name should not contain capital letters, resources[0].resources[1]: Invalid value: "*": use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources, resources[0].resources[2]: Invalid value: "a.events.k8s.io": '*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file, resources[0].resources[3]: Invalid value: "a.extensions": 'extensions' group has been removed and cannot be used for encryption, resources[0].resources[4]: Invalid value: "a.*": encrypting the same resource across groups is not supported, resources[0].resources[5]: Invalid value: "serviceipallocations": resources which do not have REST API/s cannot be encrypted]
            resources[0].providers[0]: Invalid value: {}: provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity
            resources[0].providers[0]: Invalid value: {}: more than one provider specified in a single element, should split into different list elements
            [resources[0].providers[0].secretbox.keys[0].name: Required value: name is a mandatory field for a key, resources[0].providers[0].secretbox.keys[0].secret: Invalid value: "REDACTED": secret is not of the expected length, got 3, expected one of [32], resources[0].providers[0].secretbox.keys[1].secret: Required value: secret is a mandatory field for a key, resources[0].providers[0].secretbox.keys[2].secret: Invalid value: "REDACTED": secrets must be base64 encoded]
            [resources[0].providers[0].kms.name: Required value: name is a mandatory field for a provider, resources[0].providers[0].kms.endpoint: Invalid value: "": endpoint is a mandatory field for a kms, resources[0].providers[0].kms.apiVersion: Invalid value: "": KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 instead., resources[0].providers[1].kms.name: Invalid value: "a:b": invalid KMS provider name a:b, must not contain ':', resources[0].providers[1].kms.timeout: Invalid value: "0s": timeout should be a positive value, resources[0].providers[1].kms.endpoint: Invalid value: "tcp://x": unsupported scheme "tcp" for KMS provider, only unix is supported, resources[0].providers[1].kms.cachesize: Invalid value: 3: cachesize is not supported in v2]
            resources[0].providers[1].kms.name: Invalid value: "a": duplicate KMS provider name a, names must be unique"#]].assert_eq(&lines.join("\n"));
        assert!(parse(&list("secrets", "{identity: {x: 1}}"), false).is_err(), "unknown fields");
    }
}
