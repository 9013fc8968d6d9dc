//! Service account tokens: signed by this server, good as long as everything they are bound to lives.
//!
//! Two kinds: those of TokenRequest, with an end, audiences and bound objects; and the endless ones of old that live in
//! Secrets ([`secrets`]). Source: `pkg/serviceaccount`.

mod secrets;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

pub(crate) use secrets::run as fill_secrets;

use super::{Answer, Identity, Known, impersonate::account_groups};
use crate::{
    api::Api,
    object,
    token::{self, Bound, Claims},
};

/// The issuer of tokens that live in Secrets.
pub(crate) const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// Marks a Secret whose token is not to be used any more.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// How long after its end an object still vouches for a token, and how far clocks may differ, in seconds.
const LEEWAY_SECONDS: i64 = 60;

/// The claims of a token that lives in a Secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LegacyClaims {
    pub(crate) iss: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    pub(crate) namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    pub(crate) secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub(crate) account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub(crate) uid: String,
    pub(crate) sub: String,
}

/// Whose a token is, for one of `audiences`; `own` are this server's.
pub(super) fn ask(api: &Api, token: &str, audiences: &[String], own: &[String]) -> Answer {
    let Some(issuer) = token::untrusted_issuer(token) else { return Ok(None) };
    let checked = if api.tokens.accepts(&issuer) {
        let claims: Claims = api.tokens.open(token).map_err(str::to_owned)?;
        let audiences = matching(&claims.aud, audiences, own)?;
        bound(api, &claims)?;
        Known { user: identity(&claims), audiences }
    } else if issuer == LEGACY_ISSUER {
        let claims: LegacyClaims = api.tokens.open(token).map_err(str::to_owned)?;
        let audiences = matching(&[], audiences, own)?;
        Known { user: legacy(api, token, &claims)?, audiences }
    } else {
        return Ok(None);
    };
    Ok(Some(checked))
}

/// The audiences of the token that are asked for.
fn matching(of_token: &[String], asked: &[String], own: &[String]) -> Result<Vec<String>, String> {
    // A token without audiences is for this server.
    let of_token = if of_token.is_empty() { own } else { of_token };
    let audiences: Vec<String> = of_token.iter().filter(|a| asked.contains(a)).cloned().collect();
    if audiences.is_empty() {
        let (of_token, asked) = (list(of_token), list(asked));
        return Err(format!("token audiences {of_token} is invalid for the target audiences {asked}"));
    }
    Ok(audiences)
}

fn list(items: &[String]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| windlass_crd::field::quote(item)).collect();
    format!("[{}]", quoted.join(" "))
}

/// An object of the core group, or as much of it as `T` holds.
fn find<T: DeserializeOwned>(api: &Api, plural: &str, namespace: &str, name: &str) -> Option<T> {
    let resource = api.registry.builtin("", "v1", plural);
    let entry = api.store.get(&resource.key(namespace, name))?;
    serde_json::from_slice(&entry.value).ok()
}

/// What is asked of an object that a token is bound to; reading no more of it is much of a request's speed.
#[derive(Deserialize)]
struct Bearer {
    metadata: BearerMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BearerMeta {
    #[serde(default)]
    uid: String,
    deletion_timestamp: Option<Timestamp>,
}

impl Bearer {
    /// Deleted ones count a moment longer.
    fn is_gone(&self, now: i64) -> bool {
        self.metadata.deletion_timestamp.is_some_and(|end| end.as_second() < now - LEEWAY_SECONDS)
    }
}

/// The token's time has come and not passed, and everything it names is there.
fn bound(api: &Api, claims: &Claims) -> Result<(), String> {
    let now = windlass::clock::now().as_second();
    if now - LEEWAY_SECONDS > claims.exp {
        return Err("service account token has expired".to_owned());
    }
    if now + LEEWAY_SECONDS < claims.nbf {
        return Err("service account token is not valid yet".to_owned());
    }
    if now + LEEWAY_SECONDS < claims.iat {
        return Err("service account token is issued in the future".to_owned());
    }
    let private = &claims.kubernetes;
    let (namespace, account) = (&private.namespace, &private.serviceaccount);
    let found: Bearer = find(api, "serviceaccounts", namespace, &account.name)
        .ok_or_else(|| format!("serviceaccounts \"{}\" not found", account.name))?;
    let uid = &found.metadata.uid;
    if *uid != account.uid {
        return Err(format!("service account UID ({uid}) does not match claim ({})", account.uid));
    }
    if found.is_gone(now) {
        return Err(format!("service account {namespace}/{} has been deleted", account.name));
    }
    let alive = |what: &str, plural: &str, namespace: &str, bound: &Bound| {
        let invalidated = || "service account token has been invalidated".to_owned();
        let found: Bearer = find(api, plural, namespace, &bound.name).ok_or_else(invalidated)?;
        let (uid, claim) = (&found.metadata.uid, &bound.uid);
        if uid != claim {
            let kind = what.to_lowercase();
            return Err(format!(
                "{what} UID ({uid}) does not match service account {kind} ref claim ({claim})"
            ));
        }
        if found.is_gone(now) { Err(invalidated()) } else { Ok(()) }
    };
    if let Some(secret) = &private.secret {
        alive("secret", "secrets", namespace, secret)?;
    }
    match (&private.pod, &private.node) {
        // The node of a pod's token is told, not asked for.
        (Some(pod), _) => alive("pod", "pods", namespace, pod),
        (None, Some(node)) => alive("node", "nodes", "", node),
        (None, None) => Ok(()),
    }
}

fn identity(claims: &Claims) -> Identity {
    let private = &claims.kubernetes;
    let mut identity = Identity {
        name: format!("system:serviceaccount:{}:{}", private.namespace, private.serviceaccount.name),
        uid: private.serviceaccount.uid.clone(),
        groups: account_groups(&private.namespace),
        ..Identity::default()
    };
    let mut extra = |key: &str, value: String| {
        identity.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
    };
    if !claims.jti.is_empty() {
        extra("credential-id", format!("JTI={}", claims.jti));
    }
    for (kind, bound) in [("pod", &private.pod), ("node", &private.node)] {
        let Some(bound) = bound else { continue };
        extra(&format!("{kind}-name"), bound.name.clone());
        // A node that was not there when the token was made has no uid.
        if !bound.uid.is_empty() {
            extra(&format!("{kind}-uid"), bound.uid.clone());
        }
    }
    identity
}

fn legacy(api: &Api, token: &str, claims: &LegacyClaims) -> Result<Identity, String> {
    let (namespace, account, secret) = (&claims.namespace, &claims.account, &claims.secret);
    if claims.sub != format!("system:serviceaccount:{namespace}:{account}") {
        return Err("sub claim is invalid".to_owned());
    }
    let held: Option<Value> = find(api, "secrets", namespace, secret);
    let held = held.filter(|held| !object::is_deleting(held));
    let held = held.ok_or("Token has been invalidated")?;
    let copy = STANDARD.decode(object::text(&held, &["data", "token"])).unwrap_or_default();
    #[allow(deprecated)]
    if ring::constant_time::verify_slices_are_equal(&copy, token.as_bytes()).is_err() {
        return Err("Token does not match server's copy".to_owned());
    }
    let found: Value = find(api, "serviceaccounts", namespace, account)
        .ok_or_else(|| format!("serviceaccounts \"{account}\" not found"))?;
    if object::is_deleting(&found) {
        return Err(format!("ServiceAccount {namespace}/{account} has been deleted"));
    }
    if object::uid(&found) != claims.uid {
        let (uid, claim) = (object::uid(&found), &claims.uid);
        return Err(format!("ServiceAccount UID ({uid}) does not match claim ({claim})"));
    }
    if !object::text(&held, &["metadata", "labels", INVALID_SINCE]).is_empty() {
        return Err(format!(
            "the token in secret {namespace}/{secret} for service account {namespace}/{account} has been marked invalid. \
             Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the \
             '{INVALID_SINCE}' label from the secret to temporarily allow use of this token"
        ));
    }
    Ok(Identity {
        name: claims.sub.clone(),
        uid: claims.uid.clone(),
        groups: account_groups(namespace),
        ..Identity::default()
    })
}
