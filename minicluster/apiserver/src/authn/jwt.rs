//! Tokens of other issuers: JSON Web Tokens, their claims turned into a user.
//!
//! The issuer's keys are fetched when its first token comes, and again when a token is signed with a key that is not
//! known ([`keys`]). Distributed group claims are not followed. Source:
//! `k8s.io/apiserver/plugin/pkg/authenticator/token/oidc`.

mod keys;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use serde_json::{Map, Value, json};
use tokio::{sync::Mutex, time::Instant};
use windlass_crd::field::quote;

use super::Identity;
use crate::{
    api::Api,
    cel::{Expression, Scope},
    outbound::{self, Backend},
    token::untrusted_issuer,
};
pub(crate) use keys::{Jws, Keys};

/// How long an issuer may take to answer.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);

/// Keys are not asked for more often, whoever sends tokens with unknown ones.
const FETCH_PAUSE: Duration = Duration::from_secs(2);

/// How far the issuer's clock may be ahead, in seconds.
const NOT_BEFORE_LEEWAY_SECONDS: f64 = 300.0;

/// Where a part of the user comes from.
#[derive(Debug)]
pub(super) enum Claimed {
    None,
    Claim { name: String, prefix: String },
    Expression(Expression),
}

/// How claims become a user.
#[derive(Debug)]
pub(super) struct Mappings {
    pub(super) username: Claimed,
    pub(super) groups: Claimed,
    pub(super) uid: Claimed,
    pub(super) extra: Vec<(String, Expression)>,
}

/// What has to hold.
#[derive(Debug)]
pub(super) struct Rule {
    text: String,
    message: String,
    expression: Expression,
}

impl Rule {
    pub(super) fn new(text: &str, message: &str, expression: Expression) -> Self {
        Self { text: text.to_owned(), message: message.to_owned(), expression }
    }

    fn check(&self, scope: &Scope<'_>) -> Result<(), String> {
        match self.expression.holds(scope)? {
            true => Ok(()),
            false => Err(format!("validation expression '{}' failed: {}", self.text, self.message)),
        }
    }
}

/// What an issuer is made of.
#[derive(Debug)]
pub(super) struct IssuerParts {
    pub(super) url: String,
    /// Where its configuration is, when not below the URL.
    pub(super) discovery_url: String,
    /// PEM; without it the host's CAs count.
    pub(super) ca: Option<String>,
    pub(super) audiences: Vec<String>,
    pub(super) algorithms: Vec<String>,
    pub(super) required_claims: BTreeMap<String, String>,
    pub(super) claim_rules: Vec<Rule>,
    pub(super) mappings: Mappings,
    pub(super) user_rules: Vec<Rule>,
}

/// Somebody else who signs tokens.
#[derive(Debug)]
pub(super) struct Issuer {
    parts: IssuerParts,
    backend: Backend,
    keys: ArcSwapOption<Keys>,
    /// When keys were asked for last; held while they are.
    asked: Mutex<Option<Instant>>,
}

impl Issuer {
    pub(super) fn new(parts: IssuerParts) -> Result<Self, String> {
        let backend = Backend::of_url(&parts.url, parts.ca.as_deref(), FETCH_TIMEOUT)?;
        Ok(Self { parts, backend, keys: ArcSwapOption::empty(), asked: Mutex::default() })
    }

    /// True when both fetch the same keys in the same way.
    pub(super) fn speaks_as(&self, other: &Self) -> bool {
        let of = |issuer: &Self| {
            let parts = &issuer.parts;
            (parts.url.clone(), parts.discovery_url.clone(), parts.ca.clone())
        };
        of(self) == of(other)
    }

    /// Takes over what another has fetched.
    pub(super) fn take_keys(&self, other: &Self) {
        self.keys.store(other.keys.load_full());
    }

    /// Whose a token is; `None` for one of another issuer.
    pub(super) async fn ask(&self, api: &Api, token: &str) -> Result<Option<Identity>, String> {
        if untrusted_issuer(token).as_deref() != Some(self.parts.url.as_str()) {
            return Ok(None);
        }
        let jws = Jws::read(token).map_err(|why| format!("oidc: verify token: {why}"))?;
        if !self.parts.algorithms.contains(&jws.algorithm) {
            let (found, wanted) = (&jws.algorithm, &self.parts.algorithms);
            return Err(format!(
                "oidc: verify token: oidc: malformed jwt: go-jose/go-jose: unexpected signature algorithm \"{found}\"; \
                 expected {wanted:?}"
            ));
        }
        self.verify(api, &jws).await.map_err(|why| format!("oidc: verify token: {why}"))?;
        let now = windlass::clock::now().as_second() as f64;
        self.check_times(&jws.claims, now).map_err(|why| format!("oidc: verify token: {why}"))?;
        self.user(&jws.claims).map(Some)
    }

    async fn verify(&self, api: &Api, jws: &Jws) -> Result<(), String> {
        let known = self.keys.load_full();
        if known.as_ref().is_some_and(|keys| keys.verify(jws)) {
            return Ok(());
        }
        let keys = self.fetch(api, known.as_ref()).await?;
        match keys.verify(jws) {
            true => Ok(()),
            false => Err("failed to verify signature: failed to verify id token signature".to_owned()),
        }
    }

    /// The issuer's keys, asked for again unless somebody just did.
    async fn fetch(&self, api: &Api, known: Option<&Arc<Keys>>) -> Result<Arc<Keys>, String> {
        let mut asked = self.asked.lock().await;
        let fresh = self.keys.load_full();
        if let Some(fresh) = fresh {
            let newer = known.is_none_or(|known| !Arc::ptr_eq(known, &fresh));
            if newer || asked.is_some_and(|at| at.elapsed() < FETCH_PAUSE) {
                return Ok(fresh);
            }
        } else if asked.is_some_and(|at| at.elapsed() < FETCH_PAUSE) {
            return Err("oidc: authenticator not initialized".to_owned());
        }
        *asked = Some(Instant::now());
        let keys = Arc::new(self.download(api).await.inspect_err(|error| {
            tracing::error!(issuer = self.parts.url, error, "the issuer's keys could not be fetched");
        })?);
        self.keys.store(Some(Arc::clone(&keys)));
        Ok(keys)
    }

    async fn download(&self, api: &Api) -> Result<Keys, String> {
        let well_known = match self.parts.discovery_url.as_str() {
            "" => format!("{}/.well-known/openid-configuration", self.parts.url.trim_end_matches('/')),
            url => url.to_owned(),
        };
        let read = async |url: &str| -> Result<Value, String> {
            let body = outbound::get(api, &self.backend, url).await?;
            serde_json::from_slice(&body).map_err(|e| format!("{url}: {e}"))
        };
        let discovered = read(&well_known).await?;
        if discovered["issuer"] != self.parts.url.as_str() {
            let (wanted, found) =
                (quote(&self.parts.url), quote(discovered["issuer"].as_str().unwrap_or("")));
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {wanted} got {found}"
            ));
        }
        let keys = discovered["jwks_uri"].as_str().unwrap_or("");
        if !keys.starts_with("https://") {
            return Err(format!("oidc: jwks_uri {} has to begin with https://", quote(keys)));
        }
        Ok(Keys::read(&read(keys).await?))
    }

    fn check_times(&self, claims: &Map<String, Value>, now: f64) -> Result<(), String> {
        let audiences = texts(claims.get("aud")).unwrap_or_default();
        if !audiences.iter().any(|audience| self.parts.audiences.contains(audience)) {
            let wanted = &self.parts.audiences;
            return Err(format!("oidc: expected audience in {wanted:?} got {audiences:?}"));
        }
        let at = |claim: &str| claims.get(claim).and_then(Value::as_f64);
        match at("exp") {
            None => return Err("oidc: token is expired (Token Expiry: unknown)".to_owned()),
            Some(end) if now > end => return Err(format!("oidc: token is expired (Token Expiry: {end})")),
            Some(_) => {}
        }
        match at("nbf") {
            Some(begin) if now + NOT_BEFORE_LEEWAY_SECONDS < begin => {
                Err(format!("oidc: current time {now} before the nbf (not before) time: {begin}"))
            }
            _ => Ok(()),
        }
    }

    /// The user that the claims speak of.
    fn user(&self, claims: &Map<String, Value>) -> Result<Identity, String> {
        let all = Value::Object(claims.clone());
        let scope = Scope::new(&[("claims", &all)], None);
        let mappings = &self.parts.mappings;
        let mut user = Identity {
            name: username(&mappings.username, claims, &scope)?,
            groups: groups(&mappings.groups, claims, &scope)?,
            uid: uid(&mappings.uid, claims, &scope)?,
            extra: extra(&mappings.extra, claims, &scope)?,
        };
        for (claim, wanted) in &self.parts.required_claims {
            let found = claims
                .get(claim)
                .ok_or_else(|| format!("oidc: required claim {claim} not present in ID token"))?;
            let found =
                found.as_str().ok_or_else(|| format!("oidc: parse claim {claim}: it is no string"))?;
            if found != wanted {
                return Err(format!(
                    "oidc: required claim {claim} value does not match. Got = {found}, want = {wanted}"
                ));
            }
        }
        for rule in &self.parts.claim_rules {
            rule.check(&scope)
                .map_err(|why| format!("oidc: error evaluating claim validation expression: {why}"))?;
        }
        if !self.parts.user_rules.is_empty() {
            let shown = json!({
                "username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra,
            });
            let scope = Scope::new(&[("user", &shown)], None);
            for rule in &self.parts.user_rules {
                rule.check(&scope)
                    .map_err(|why| format!("oidc: error evaluating user info validation rule: {why}"))?;
            }
        }
        user.extra.retain(|_, values| !values.is_empty());
        Ok(user)
    }
}

/// A text, or a list of texts.
fn texts(value: Option<&Value>) -> Option<Vec<String>> {
    match value? {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(all) => all.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

fn username(from: &Claimed, claims: &Map<String, Value>, scope: &Scope<'_>) -> Result<String, String> {
    match from {
        Claimed::Expression(expression) => {
            let failed = |why| format!("oidc: error evaluating username claim expression: {why}");
            let wrong = "username claim expression must return a string".to_owned();
            match expression.text(scope).and_then(|name| name.ok_or(wrong)).map_err(failed)? {
                name if name.is_empty() => {
                    Err("oidc: empty username via CEL expression is not allowed".to_owned())
                }
                name => Ok(name),
            }
        }
        Claimed::Claim { name, prefix } => {
            let wrong = |why: &str| format!("oidc: parse username claims {}: {why}", quote(name));
            let value = claims.get(name).ok_or_else(|| wrong("claim not present"))?;
            let value = value.as_str().ok_or_else(|| wrong("it is no string"))?;
            if name == "email"
                && let Some(verified) = claims.get("email_verified")
            {
                match verified.as_bool() {
                    Some(true) => {}
                    Some(false) => return Err("oidc: email not verified".to_owned()),
                    None => return Err("oidc: parse 'email_verified' claim: it is no boolean".to_owned()),
                }
            }
            Ok(format!("{prefix}{value}"))
        }
        Claimed::None => Err("oidc: no username".to_owned()),
    }
}

fn groups(from: &Claimed, claims: &Map<String, Value>, scope: &Scope<'_>) -> Result<Vec<String>, String> {
    match from {
        Claimed::None => Ok(Vec::new()),
        Claimed::Expression(expression) => expression
            .texts(scope)
            .map_err(|why| format!("oidc: error evaluating group claim expression: {why}")),
        Claimed::Claim { name, prefix } => {
            let Some(value) = claims.get(name) else { return Ok(Vec::new()) };
            let groups = texts(Some(value)).ok_or_else(|| {
                format!("oidc: parse groups claim {}: it is no list of strings", quote(name))
            })?;
            Ok(groups.into_iter().map(|group| format!("{prefix}{group}")).collect())
        }
    }
}

fn uid(from: &Claimed, claims: &Map<String, Value>, scope: &Scope<'_>) -> Result<String, String> {
    match from {
        Claimed::None => Ok(String::new()),
        Claimed::Expression(expression) => {
            let wrong = "uid claim expression must return a string".to_owned();
            let uid = expression.text(scope).and_then(|uid| uid.ok_or(wrong));
            uid.map_err(|why| format!("oidc: error evaluating uid claim expression: {why}"))
        }
        Claimed::Claim { name, .. } => {
            let value = claims.get(name).and_then(Value::as_str);
            value
                .map(str::to_owned)
                .ok_or_else(|| format!("oidc: parse uid claim {}: claim not present", quote(name)))
        }
    }
}

fn extra(
    from: &[(String, Expression)],
    claims: &Map<String, Value>,
    scope: &Scope<'_>,
) -> Result<BTreeMap<String, Vec<String>>, String> {
    let mut extra = BTreeMap::new();
    if let Some(id) = claims.get("jti").and_then(Value::as_str).filter(|id| !id.is_empty()) {
        let key = "authentication.kubernetes.io/credential-id".to_owned();
        extra.insert(key, vec![format!("JTI={id}")]);
    }
    for (key, expression) in from {
        let values = expression
            .texts(scope)
            .map_err(|why| format!("oidc: error evaluating extra claim expression: {key}: {why}"))?;
        extra.insert(key.clone(), values);
    }
    Ok(extra)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(text: &str) -> Expression {
        Expression::compile(text).unwrap()
    }

    fn issuer(mappings: Mappings, claim_rules: &[&str], user_rules: &[&str]) -> Issuer {
        let rules =
            |texts: &[&str]| texts.iter().map(|text| Rule::new(text, "told", compiled(text))).collect();
        Issuer::new(IssuerParts {
            url: "https://a".to_owned(),
            discovery_url: String::new(),
            ca: None,
            audiences: vec!["us".to_owned(), "them".to_owned()],
            algorithms: vec!["RS256".to_owned()],
            required_claims: [("hd".to_owned(), "example.com".to_owned())].into(),
            claim_rules: rules(claim_rules),
            mappings,
            user_rules: rules(user_rules),
        })
        .unwrap()
    }

    fn claim(name: &str, prefix: &str) -> Claimed {
        Claimed::Claim { name: name.to_owned(), prefix: prefix.to_owned() }
    }

    fn by_claims() -> Mappings {
        Mappings {
            username: claim("email", "o:"),
            groups: claim("groups", "g:"),
            uid: claim("sub", ""),
            extra: vec![],
        }
    }

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn claims_become_users() {
        let claims = object(json!({"email": "a@b", "email_verified": true, "groups": ["x", "y"], "sub": "7",
            "hd": "example.com", "jti": "j", "roles": "admin", "tenant": {"name": "t"}}));
        let user = issuer(by_claims(), &[], &[]).user(&claims).unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("o:a@b", "7"));
        assert_eq!(user.groups, ["g:x", "g:y"]);
        assert_eq!(user.extra["authentication.kubernetes.io/credential-id"], ["JTI=j"]);
        let mappings = Mappings {
            username: Claimed::Expression(compiled("claims.sub + '@' + claims.tenant.name")),
            groups: Claimed::Expression(compiled("claims.roles.split(',')")),
            uid: Claimed::Expression(compiled("claims.sub")),
            extra: vec![
                ("example.com/t".to_owned(), compiled("claims.tenant.name")),
                ("example.com/none".to_owned(), compiled("''")),
            ],
        };
        let rules = ["claims.hd == 'example.com'"];
        let user = issuer(mappings, &rules, &["!user.username.startsWith('system:')"]).user(&claims).unwrap();
        assert_eq!((user.name.as_str(), user.groups), ("7@t", vec!["admin".to_owned()]));
        assert_eq!(user.extra["example.com/t"], ["t"]);
        assert!(!user.extra.contains_key("example.com/none"));
    }

    #[test]
    fn what_does_not_hold_is_told() {
        let good = json!({"email": "a@b", "sub": "7", "hd": "example.com"});
        let cases: [(&str, Value, &[&str], &[&str], &str); 7] = [
            ("email", Value::Null, &[], &[], "oidc: parse username claims \"email\": it is no string"),
            ("email_verified", json!(false), &[], &[], "oidc: email not verified"),
            ("groups", json!(7), &[], &[], "oidc: parse groups claim \"groups\": it is no list of strings"),
            (
                "hd",
                json!("x"),
                &[],
                &[],
                "oidc: required claim hd value does not match. Got = x, want = example.com",
            ),
            ("sub", json!(7), &[], &[], "oidc: parse uid claim \"sub\": claim not present"),
            (
                "x",
                json!(1),
                &["claims.x == 2"],
                &[],
                "oidc: error evaluating claim validation expression: validation expression 'claims.x == 2' failed: told",
            ),
            (
                "x",
                json!(1),
                &[],
                &["user.username == ''"],
                "oidc: error evaluating user info validation rule: validation expression 'user.username == ''' failed: told",
            ),
        ];
        for (field, value, claim_rules, user_rules, why) in cases {
            let mut claims = object(good.clone());
            claims.insert(field.to_owned(), value);
            assert_eq!(issuer(by_claims(), claim_rules, user_rules).user(&claims).unwrap_err(), why);
        }
    }

    #[test]
    fn tokens_are_for_an_audience_and_a_time() {
        let issuer = issuer(by_claims(), &[], &[]);
        let check = |claims: Value| issuer.check_times(&object(claims), 1000.0);
        assert_eq!(check(json!({"aud": "us", "exp": 1001})), Ok(()));
        assert_eq!(check(json!({"aud": ["x", "them"], "exp": 1001, "nbf": 1299})), Ok(()));
        for (claims, why) in [
            (json!({"aud": "x", "exp": 1001}), "oidc: expected audience in"),
            (json!({"exp": 1001}), "oidc: expected audience in"),
            (json!({"aud": "us", "exp": 999}), "oidc: token is expired"),
            (json!({"aud": "us"}), "oidc: token is expired"),
            (json!({"aud": "us", "exp": 2000, "nbf": 1301}), "before the nbf (not before) time"),
        ] {
            assert!(check(claims).unwrap_err().contains(why), "{why}");
        }
    }
}
