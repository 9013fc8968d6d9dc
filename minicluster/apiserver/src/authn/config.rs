//! What the chain of authenticators is made of: flags, and an `AuthenticationConfiguration`.
//!
//! Source: `pkg/kubeapiserver/options/authentication.go`, `k8s.io/apiserver/pkg/apis/apiserver/validation`.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use serde::Deserialize;
use windlass_crd::field::{self, Error, ErrorList, Path as Field};

use super::{
    impersonate::domain_prefixed_path,
    jwt::{Claimed, Issuer, IssuerParts, Mappings, Rule},
};
use crate::{
    cel::Expression,
    files::{self, Watched},
    outbound,
};

const GROUP: &str = "apiserver.config.k8s.io";

/// The most issuers of a configuration.
const ISSUERS_MAX: usize = 64;

/// Algorithms that issuers may sign with, where flags do not choose.
const ALGORITHMS: [&str; 8] = ["RS256", "RS384", "RS512", "ES256", "ES384", "PS256", "PS384", "PS512"];

/// A proxy that names users in headers.
#[derive(Clone, Debug, Default)]
pub struct RequestHeader {
    /// `--requestheader-client-ca-file`: without it no proxy is believed.
    pub ca_file: Option<PathBuf>,
    /// `--requestheader-allowed-names`; empty for all.
    pub allowed_names: Vec<String>,
    /// `--requestheader-username-headers`.
    pub username_headers: Vec<String>,
    /// `--requestheader-uid-headers`.
    pub uid_headers: Vec<String>,
    /// `--requestheader-group-headers`.
    pub group_headers: Vec<String>,
    /// `--requestheader-extra-headers-prefix`.
    pub extra_prefixes: Vec<String>,
}

/// One OpenID Connect issuer by flags.
#[derive(Clone, Debug, Default)]
pub struct Oidc {
    /// `--oidc-issuer-url`.
    pub issuer_url: String,
    /// `--oidc-client-id`.
    pub client_id: String,
    /// `--oidc-ca-file`.
    pub ca_file: Option<PathBuf>,
    /// `--oidc-username-claim`; empty for `sub`.
    pub username_claim: String,
    /// `--oidc-username-prefix`; `-` for none.
    pub username_prefix: String,
    /// `--oidc-groups-claim`.
    pub groups_claim: String,
    /// `--oidc-groups-prefix`.
    pub groups_prefix: String,
    /// `--oidc-signing-algs`; empty for RS256.
    pub signing_algs: Vec<String>,
    /// `--oidc-required-claim`.
    pub required_claims: BTreeMap<String, String>,
}

/// Another server that knows tokens.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// `--authentication-token-webhook-config-file`.
    pub config_file: Option<PathBuf>,
    /// `--authentication-token-webhook-version`.
    pub version: String,
    /// `--authentication-token-webhook-cache-ttl`.
    pub cache_ttl: Duration,
}

impl Default for WebhookSettings {
    fn default() -> Self {
        Self { config_file: None, version: "v1beta1".to_owned(), cache_ttl: Duration::from_secs(120) }
    }
}

/// How the server authenticates.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `--client-ca-file`, beside the cluster's own CA.
    pub client_ca_file: Option<PathBuf>,
    /// `--requestheader-*`.
    pub request_header: RequestHeader,
    /// `--token-auth-file`.
    pub token_file: Option<PathBuf>,
    /// `--enable-bootstrap-token-auth`.
    pub bootstrap_tokens: bool,
    /// `--anonymous-auth`; unless it is said, nobody is anonymous where everything is allowed.
    pub anonymous: Option<bool>,
    /// `--oidc-*`.
    pub oidc: Oidc,
    /// `--authentication-config`.
    pub config_file: Option<PathBuf>,
    /// `--authentication-token-webhook-*`.
    pub webhook: WebhookSettings,
    /// `--api-audiences`; empty for the issuer of service account tokens.
    pub api_audiences: Vec<String>,
}

/// Who may be nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Anonymous {
    /// `None`: unless everything is allowed to everybody.
    enabled: Option<bool>,
    /// On these paths only; empty for all.
    paths: Vec<String>,
}

impl Anonymous {
    pub(super) fn admits(&self, path: &str, everything_is_allowed: bool) -> bool {
        let enabled = self.enabled.unwrap_or(!everything_is_allowed);
        enabled && (self.paths.is_empty() || self.paths.iter().any(|known| known == path))
    }
}

/// What may change while the server runs.
#[derive(Debug, Default)]
pub(super) struct Configured {
    pub(super) issuers: Vec<Arc<Issuer>>,
    pub(super) anonymous: Anonymous,
}

impl Configured {
    /// Issuers that stay the same keep the keys that were fetched.
    pub(super) fn keep_keys(&mut self, old: &Self) {
        for issuer in &mut self.issuers {
            if let Some(same) = old.issuers.iter().find(|other| other.speaks_as(issuer)) {
                issuer.take_keys(same);
            }
        }
    }
}

/// Reads the file, or the flags of old.
pub(super) fn configured(
    settings: &Settings,
    file: Option<&Watched>,
    own_issuer: &str,
) -> Result<Configured, String> {
    let mut found = Configured {
        issuers: oidc_by_flags(&settings.oidc)?.into_iter().map(Arc::new).collect(),
        anonymous: Anonymous { enabled: settings.anonymous, paths: Vec::new() },
    };
    let Some(file) = file else { return Ok(found) };
    let path = file.path().display();
    let spec: Configuration = files::document(
        file.path(),
        &file.content(),
        GROUP,
        &["v1", "v1beta1"],
        "AuthenticationConfiguration",
    )?;
    if !found.issuers.is_empty() && !spec.jwt.is_empty() {
        return Err("authentication-config file and oidc-* flags are mutually exclusive".to_owned());
    }
    let mut errors = ErrorList::new();
    let issuers = issuers(&spec.jwt, own_issuer, &mut errors);
    if let Some(anonymous) = spec.anonymous {
        if settings.anonymous.is_some() {
            return Err(format!(
                "{path}: anonymous: --anonymous-auth flag cannot be set when anonymous field is configured in \
                 authentication configuration file"
            ));
        }
        if !anonymous.enabled && !anonymous.conditions.is_empty() {
            let why = "enabled should be set to true when conditions are defined";
            errors.push(Error::invalid(field::root("anonymous").child("conditions"), "", why));
        }
        let paths = anonymous.conditions.into_iter().map(|condition| condition.path).collect();
        found.anonymous = Anonymous { enabled: Some(anonymous.enabled), paths };
    }
    if !errors.is_empty() {
        return Err(format!("{path}: {}", field::aggregate(&errors)));
    }
    if !issuers.is_empty() {
        found.issuers = issuers.into_iter().map(Arc::new).collect();
    }
    Ok(found)
}

fn oidc_by_flags(oidc: &Oidc) -> Result<Option<Issuer>, String> {
    let any = !oidc.issuer_url.is_empty() || !oidc.client_id.is_empty();
    if !any {
        return Ok(None);
    }
    if oidc.issuer_url.is_empty() || oidc.client_id.is_empty() {
        return Err(
            "oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set"
                .to_owned(),
        );
    }
    let mut errors = ErrorList::new();
    check_url(&oidc.issuer_url, &field::root("--oidc-issuer-url"), &mut errors);
    if !errors.is_empty() {
        return Err(field::aggregate(&errors));
    }
    let claim = if oidc.username_claim.is_empty() { "sub" } else { &oidc.username_claim };
    let prefix = match oidc.username_prefix.as_str() {
        "-" => String::new(),
        // Names that are no mail addresses could be anybody's.
        "" if claim != "email" => format!("{}#", oidc.issuer_url),
        prefix => prefix.to_owned(),
    };
    let groups = match oidc.groups_claim.as_str() {
        "" => Claimed::None,
        claim => Claimed::Claim { name: claim.to_owned(), prefix: oidc.groups_prefix.clone() },
    };
    let algorithms: Vec<String> =
        if oidc.signing_algs.is_empty() { vec!["RS256".to_owned()] } else { oidc.signing_algs.clone() };
    if let Some(unknown) = algorithms.iter().find(|algorithm| !ALGORITHMS.contains(&algorithm.as_str())) {
        return Err(format!("oidc: unsupported signing alg: \"{unknown}\""));
    }
    let ca = oidc.ca_file.as_deref().map(files::read).transpose()?;
    Issuer::new(IssuerParts {
        url: oidc.issuer_url.clone(),
        discovery_url: String::new(),
        ca,
        audiences: vec![oidc.client_id.clone()],
        algorithms,
        required_claims: oidc.required_claims.clone(),
        claim_rules: Vec::new(),
        mappings: Mappings {
            username: Claimed::Claim { name: claim.to_owned(), prefix },
            groups,
            uid: Claimed::None,
            extra: Vec::new(),
        },
        user_rules: Vec::new(),
    })
    .map(Some)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Configuration {
    #[serde(default)]
    jwt: Vec<JwtSpec>,
    #[serde(default)]
    anonymous: Option<AnonymousSpec>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnonymousSpec {
    #[serde(default)]
    enabled: bool,
    #[serde(default)]
    conditions: Vec<PathSpec>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PathSpec {
    #[serde(default)]
    path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct JwtSpec {
    #[serde(default)]
    issuer: IssuerSpec,
    #[serde(default)]
    claim_validation_rules: Vec<ClaimRuleSpec>,
    #[serde(default)]
    claim_mappings: MappingsSpec,
    #[serde(default)]
    user_validation_rules: Vec<UserRuleSpec>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct IssuerSpec {
    url: String,
    #[serde(rename = "discoveryURL")]
    discovery_url: String,
    certificate_authority: String,
    audiences: Vec<String>,
    audience_match_policy: String,
    egress_selector_type: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct ClaimRuleSpec {
    claim: String,
    required_value: String,
    expression: String,
    message: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct UserRuleSpec {
    expression: String,
    message: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct MappingsSpec {
    username: MappingSpec,
    groups: MappingSpec,
    uid: MappingSpec,
    extra: Vec<ExtraSpec>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct MappingSpec {
    claim: String,
    prefix: Option<String>,
    expression: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct ExtraSpec {
    key: String,
    value_expression: String,
}

fn issuers(specs: &[JwtSpec], own: &str, errors: &mut ErrorList) -> Vec<Issuer> {
    let path = field::root("jwt");
    if specs.len() > ISSUERS_MAX {
        errors.push(Error::too_many(path, specs.len(), ISSUERS_MAX));
        return Vec::new();
    }
    let mut issuers = Vec::new();
    for (i, spec) in specs.iter().enumerate() {
        let path = path.index(i);
        let before = errors.len();
        let at = path.child("issuer");
        check_issuer(&spec.issuer, own, &at, errors);
        let same = |of: fn(&IssuerSpec) -> &str| {
            specs[..i].iter().any(|other| of(&other.issuer) == of(&spec.issuer))
        };
        if same(|issuer| &issuer.url) {
            errors.push(Error::duplicate(at.child("url"), spec.issuer.url.as_str()));
        }
        if !spec.issuer.discovery_url.is_empty() && same(|issuer| &issuer.discovery_url) {
            errors.push(Error::duplicate(at.child("discoveryURL"), spec.issuer.discovery_url.as_str()));
        }
        let (required_claims, claim_rules) =
            claim_rules(&spec.claim_validation_rules, &path.child("claimValidationRules"), errors);
        let mappings = mappings(spec, &path.child("claimMappings"), errors);
        let user_rules = user_rules(&spec.user_validation_rules, &path.child("userValidationRules"), errors);
        if errors.len() > before {
            continue;
        }
        let issuer = &spec.issuer;
        let made = Issuer::new(IssuerParts {
            url: issuer.url.clone(),
            discovery_url: issuer.discovery_url.clone(),
            ca: Some(issuer.certificate_authority.clone()).filter(|ca| !ca.is_empty()),
            audiences: issuer.audiences.clone(),
            algorithms: ALGORITHMS.map(str::to_owned).to_vec(),
            required_claims,
            claim_rules,
            mappings,
            user_rules,
        });
        match made {
            Ok(issuer) => issuers.push(issuer),
            Err(why) => errors.push(Error::invalid(at, issuer.url.as_str(), why)),
        }
    }
    issuers
}

/// An issuer is known by an https URL with nothing but host and path.
fn check_url(url: &str, path: &Field, errors: &mut ErrorList) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let mut wrong = |why: &str| errors.push(Error::invalid(path, url, why));
    if scheme != "https" {
        wrong("URL scheme must be https");
    }
    if rest.split(['/', '?', '#']).next().is_some_and(|host| host.contains('@')) {
        wrong("URL must not contain a username or password");
    }
    let (head, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    if head.split_once('?').is_some_and(|(_, query)| !query.is_empty()) {
        wrong("URL must not contain a query");
    }
    if !fragment.is_empty() {
        wrong("URL must not contain a fragment");
    }
}

fn check_issuer(spec: &IssuerSpec, own: &str, path: &Field, errors: &mut ErrorList) {
    let url = path.child("url");
    if spec.url.is_empty() {
        errors.push(Error::required(&url, ""));
    } else {
        if spec.url == own {
            let why = format!("URL must not overlap with disallowed issuers: [{own}]");
            errors.push(Error::invalid(&url, spec.url.as_str(), why));
        }
        check_url(&spec.url, &url, errors);
    }
    let discovery = spec.discovery_url.as_str();
    if !discovery.is_empty() {
        let at = path.child("discoveryURL");
        if !spec.url.is_empty() && spec.url.trim_end_matches('/') == discovery.trim_end_matches('/') {
            errors.push(Error::invalid(&at, discovery, "discoveryURL must be different from URL"));
        }
        check_url(discovery, &at, errors);
    }
    check_audiences(spec, path, errors);
    if !spec.certificate_authority.is_empty()
        && let Err(why) = outbound::roots(spec.certificate_authority.as_bytes())
    {
        errors.push(Error::invalid(path.child("certificateAuthority"), "<omitted>", why));
    }
    if !matches!(spec.egress_selector_type.as_str(), "" | "controlplane" | "cluster") {
        let why = "egress selector must be either controlplane or cluster";
        errors.push(Error::invalid(
            path.child("egressSelectorType"),
            spec.egress_selector_type.as_str(),
            why,
        ));
    }
}

fn check_audiences(spec: &IssuerSpec, path: &Field, errors: &mut ErrorList) {
    let (at, policy) = (path.child("audiences"), spec.audience_match_policy.as_str());
    if spec.audiences.is_empty() {
        errors.push(Error::required(&at, format!("at least one {at} is required")));
        return;
    }
    for (i, audience) in spec.audiences.iter().enumerate() {
        if audience.is_empty() {
            errors.push(Error::required(at.index(i), ""));
        }
        if spec.audiences[..i].contains(audience) {
            errors.push(Error::duplicate(at.index(i), audience.as_str()));
        }
    }
    let at = path.child("audienceMatchPolicy");
    if spec.audiences.len() > 1 && policy != "MatchAny" {
        errors.push(Error::invalid(
            at,
            policy,
            "audienceMatchPolicy must be MatchAny for multiple audiences",
        ));
    } else if !matches!(policy, "" | "MatchAny") {
        let why = "audienceMatchPolicy must be empty or MatchAny for single audience";
        errors.push(Error::invalid(at, policy, why));
    }
}

fn compile(text: &str, path: &Field, errors: &mut ErrorList) -> Option<Expression> {
    match Expression::compile(text) {
        Ok(expression) => Some(expression),
        Err(why) => {
            errors.push(Error::invalid(path, text, why));
            None
        }
    }
}

fn claim_rules(
    specs: &[ClaimRuleSpec],
    path: &Field,
    errors: &mut ErrorList,
) -> (BTreeMap<String, String>, Vec<Rule>) {
    let (mut required, mut rules) = (BTreeMap::new(), Vec::new());
    for (i, spec) in specs.iter().enumerate() {
        let path = path.index(i);
        match (spec.claim.as_str(), spec.expression.as_str()) {
            ("", "") => errors.push(Error::required(path, "claim or expression is required")),
            (claim, "") => {
                if !spec.message.is_empty() {
                    let why = "may not be specified when claim is set";
                    errors.push(Error::invalid(path.child("message"), spec.message.as_str(), why));
                }
                if required.insert(claim.to_owned(), spec.required_value.clone()).is_some() {
                    errors.push(Error::duplicate(path.child("claim"), claim));
                }
            }
            ("", text) => {
                if !spec.required_value.is_empty() {
                    let why = "may not be specified when expression is set";
                    errors.push(Error::invalid(
                        path.child("requiredValue"),
                        spec.required_value.as_str(),
                        why,
                    ));
                }
                if specs[..i].iter().any(|other| other.expression == text) {
                    errors.push(Error::duplicate(path.child("expression"), text));
                    continue;
                }
                let expression = compile(text, &path.child("expression"), errors);
                rules.extend(expression.map(|expression| Rule::new(text, &spec.message, expression)));
            }
            (claim, _) => errors.push(Error::invalid(path, claim, "claim and expression can't both be set")),
        }
    }
    (required, rules)
}

fn user_rules(specs: &[UserRuleSpec], path: &Field, errors: &mut ErrorList) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (i, spec) in specs.iter().enumerate() {
        let (path, text) = (path.index(i).child("expression"), spec.expression.as_str());
        if text.is_empty() {
            errors.push(Error::required(path, ""));
        } else if specs[..i].iter().any(|other| other.expression == text) {
            errors.push(Error::duplicate(path, text));
        } else {
            let expression = compile(text, &path, errors);
            rules.extend(expression.map(|expression| Rule::new(text, &spec.message, expression)));
        }
    }
    rules
}

fn mapping(spec: &MappingSpec, required: bool, path: &Field, errors: &mut ErrorList) -> Claimed {
    match (spec.claim.as_str(), spec.expression.as_str()) {
        ("", "") => {
            if required {
                errors.push(Error::required(path, "claim or expression is required"));
            }
            Claimed::None
        }
        (claim, "") => {
            if spec.prefix.is_none() {
                let why = "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
                errors.push(Error::required(path.child("prefix"), why));
            }
            Claimed::Claim { name: claim.to_owned(), prefix: spec.prefix.clone().unwrap_or_default() }
        }
        ("", text) => {
            if let Some(prefix) = &spec.prefix {
                let why = "may not be specified when expression is set";
                errors.push(Error::invalid(path.child("prefix"), prefix.as_str(), why));
            }
            compile(text, &path.child("expression"), errors).map_or(Claimed::None, Claimed::Expression)
        }
        _ => {
            errors.push(Error::invalid(path, "", "claim and expression can't both be set"));
            Claimed::None
        }
    }
}

fn mappings(spec: &JwtSpec, path: &Field, errors: &mut ErrorList) -> Mappings {
    let all = &spec.claim_mappings;
    let username = mapping(&all.username, true, &path.child("username"), errors);
    let groups = mapping(&all.groups, false, &path.child("groups"), errors);
    let uid = match (all.uid.claim.as_str(), all.uid.expression.as_str()) {
        ("", "") => Claimed::None,
        (claim, "") => Claimed::Claim { name: claim.to_owned(), prefix: String::new() },
        ("", text) => {
            let at = path.child("uid").child("expression");
            compile(text, &at, errors).map_or(Claimed::None, Claimed::Expression)
        }
        _ => {
            errors.push(Error::invalid(path.child("uid"), "", "claim and expression can't both be set"));
            Claimed::None
        }
    };
    let extra = extra(&all.extra, &path.child("extra"), errors);
    let username_text = all.username.expression.as_str();
    let texts = [username_text]
        .into_iter()
        .chain(all.extra.iter().map(|extra| extra.value_expression.as_str()))
        .chain(spec.claim_validation_rules.iter().map(|rule| rule.expression.as_str()))
        .collect::<Vec<_>>();
    if reads(username_text, "email") && !texts.iter().any(|text| reads(text, "email_verified")) {
        let why = "claims.email_verified must be used in claimMappings.username.expression or \
                   claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is \
                   used in claimMappings.username.expression";
        errors.push(Error::invalid(path.child("username").child("expression"), username_text, why));
    }
    Mappings { username, groups, uid, extra }
}

/// Whether an expression reads a claim by its name.
fn reads(expression: &str, claim: &str) -> bool {
    ["claims.", "claims.?"].into_iter().any(|head| {
        expression.match_indices(head).any(|(at, _)| {
            let rest = &expression[at + head.len()..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            &rest[..end] == claim
        })
    })
}

fn extra(specs: &[ExtraSpec], path: &Field, errors: &mut ErrorList) -> Vec<(String, Expression)> {
    let mut extra = Vec::new();
    for (i, spec) in specs.iter().enumerate() {
        let (path, key) = (path.index(i), spec.key.as_str());
        errors.extend(domain_prefixed_path(&path.child("key"), key));
        if key != key.to_lowercase() {
            errors.push(Error::invalid(path.child("key"), key, "must be lowercase"));
        }
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        if ["kubernetes.io", "k8s.io"]
            .iter()
            .any(|own| domain == *own || domain.ends_with(&format!(".{own}")))
        {
            let why = "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use";
            errors.push(Error::invalid(path.child("key"), key, why));
        }
        if specs[..i].iter().any(|other| other.key == key) {
            errors.push(Error::duplicate(path.child("key"), key));
        } else if spec.value_expression.is_empty() {
            errors.push(Error::required(path.child("valueExpression"), ""));
        } else {
            let expression = compile(&spec.value_expression, &path.child("valueExpression"), errors);
            extra.extend(expression.map(|expression| (key.to_owned(), expression)));
        }
    }
    extra
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(jwt: &str) -> Result<usize, String> {
        let text = format!("apiVersion: {GROUP}/v1\nkind: AuthenticationConfiguration\n{jwt}");
        let path = std::env::temp_dir().join(format!("authn-{}-{}.yaml", std::process::id(), text.len()));
        std::fs::write(&path, text).unwrap();
        let file = Watched::open(&path);
        std::fs::remove_file(&path).unwrap();
        configured(&Settings::default(), Some(&file?), "https://own").map(|found| found.issuers.len())
    }

    fn jwt(issuer: &str, more: &str) -> String {
        format!("jwt:\n- issuer: {{{issuer}}}\n  claimMappings: {{{more}}}")
    }

    #[test]
    fn issuers_are_taken_whole_or_refused_by_field() {
        let good = "url: https://a, audiences: [b]";
        let name = "username: {claim: sub, prefix: ''}";
        assert_eq!(read(&jwt(good, name)), Ok(1));
        assert_eq!(read("anonymous: {enabled: true, conditions: [{path: /livez}]}"), Ok(0));
        let cases = [
            (jwt("audiences: [b]", name), "jwt[0].issuer.url: Required value"),
            (
                jwt("url: http://a, audiences: [b]", name),
                "jwt[0].issuer.url: Invalid value: \"http://a\": URL scheme must be https",
            ),
            (
                jwt("url: https://own, audiences: [b]", name),
                "URL must not overlap with disallowed issuers: [https://own]",
            ),
            (
                jwt("url: 'https://u:p@a/?q=1', audiences: [b]", name),
                "URL must not contain a username or password",
            ),
            (
                jwt("url: https://a", name),
                "jwt[0].issuer.audiences: Required value: at least one jwt[0].issuer.audiences is required",
            ),
            (
                jwt("url: https://a, audiences: [b, c]", name),
                "jwt[0].issuer.audienceMatchPolicy: Invalid value: \"\": audienceMatchPolicy must be MatchAny for multiple audiences",
            ),
            (
                jwt("url: https://a, discoveryURL: https://a/, audiences: [b]", name),
                "discoveryURL must be different from URL",
            ),
            (
                jwt("url: https://a, audiences: [b], certificateAuthority: x", name),
                "jwt[0].issuer.certificateAuthority: Invalid value: \"<omitted>\"",
            ),
            (jwt(good, ""), "jwt[0].claimMappings.username: Required value: claim or expression is required"),
            (jwt(good, "username: {claim: sub}"), "jwt[0].claimMappings.username.prefix: Required value"),
            (
                jwt(good, "username: {expression: 'claims.('}"),
                "jwt[0].claimMappings.username.expression: Invalid value: \"claims.(\": compilation failed",
            ),
            (
                jwt(good, "username: {expression: claims.email}"),
                "claims.email_verified must be used in claimMappings.username.expression",
            ),
            (
                jwt(good, &format!("{name}, extra: [{{key: a, valueExpression: claims.a}}]")),
                "jwt[0].claimMappings.extra[0].key: Invalid value: \"a\": must be a domain-prefixed path",
            ),
            (
                jwt(good, &format!("{name}, extra: [{{key: x.k8s.io/a, valueExpression: claims.a}}]")),
                "are reserved for Kubernetes use",
            ),
            (jwt(good, &format!("{name}, other: 1")), "strict decoding error: unknown field `other`"),
            (
                "anonymous: {enabled: false, conditions: [{path: /a}]}".to_owned(),
                "anonymous.conditions: Invalid value: \"\": enabled should be set to true when conditions are defined",
            ),
        ];
        for (text, why) in cases {
            let error = read(&text).unwrap_err();
            assert!(error.contains(why), "{why}\n{error}");
        }
    }

    #[test]
    fn nobody_is_anonymous_where_everything_is_allowed_unless_it_is_said() {
        let (unsaid, paths) =
            (Anonymous::default(), Anonymous { enabled: Some(true), paths: vec!["/livez".into()] });
        assert!(unsaid.admits("/x", false) && !unsaid.admits("/x", true));
        assert!(paths.admits("/livez", true) && !paths.admits("/livez/", false));
        assert!(!Anonymous { enabled: Some(false), paths: vec![] }.admits("/x", false));
    }

    #[test]
    fn flags_of_one_issuer_go_together() {
        let oidc = Oidc { issuer_url: "https://a".into(), ..Oidc::default() };
        assert!(oidc_by_flags(&oidc).unwrap_err().contains("must be specified together"));
        let oidc = Oidc { client_id: "c".into(), ..oidc };
        assert!(oidc_by_flags(&oidc).unwrap().is_some());
        let oidc = Oidc { signing_algs: vec!["none".into()], ..oidc };
        assert_eq!(oidc_by_flags(&oidc).err().unwrap(), "oidc: unsupported signing alg: \"none\"");
    }
}
