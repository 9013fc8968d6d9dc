//! Another server knows whose a token is: a TokenReview goes out, its answer is kept for a while.
//!
//! Source: `k8s.io/apiserver/plugin/pkg/authenticator/token/webhook`.

use std::{collections::BTreeMap, time::Duration};

use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::json;

use super::{Answer, Identity, Known, config::WebhookSettings};
use crate::{
    api::Api,
    authz::retry,
    expiring::Expiring,
    outbound::{self, Backend},
};

/// The most answers that are kept.
const CACHE_MAX: usize = 4096;

/// How long the server may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A server that is asked.
pub(super) struct Webhook {
    backend: Backend,
    version: &'static str,
    ttl: Duration,
    cache: Expiring<Vec<u8>, Known>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Review {
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    authenticated: bool,
    user: User,
    audiences: Vec<String>,
    error: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct User {
    username: String,
    uid: String,
    groups: Option<Vec<String>>,
    extra: Option<BTreeMap<String, Vec<String>>>,
}

impl Webhook {
    /// `None` when no server is named.
    pub(super) fn new(settings: &WebhookSettings) -> Result<Option<Self>, String> {
        let Some(file) = &settings.config_file else { return Ok(None) };
        let version = match settings.version.as_str() {
            "v1" => "authentication.k8s.io/v1",
            "v1beta1" => "authentication.k8s.io/v1beta1",
            other => {
                return Err(format!(
                    "unsupported authentication webhook version \"{other}\", supported versions are \"v1\", \"v1beta1\""
                ));
            }
        };
        Ok(Some(Self {
            backend: Backend::of_kubeconfig(file, TIMEOUT)?,
            version,
            ttl: settings.cache_ttl,
            cache: Expiring::new(CACHE_MAX),
        }))
    }

    /// Whose a token is, for one of `audiences`; `own` are this server's.
    pub(super) async fn ask(&self, api: &Api, token: &str, audiences: &[String], own: &[String]) -> Answer {
        let key = digest(&SHA256, json!([token, audiences]).to_string().as_bytes()).as_ref().to_vec();
        if let Some(known) = self.cache.get(&key) {
            return Ok(Some(known));
        }
        let review = json!({
            "kind": "TokenReview", "apiVersion": self.version, "metadata": { "creationTimestamp": null },
            "spec": { "token": token, "audiences": audiences }, "status": { "user": {} },
        });
        let ask = || outbound::post_status(api, &self.backend, "kube-apiserver", &review);
        let body = retry(api, ask).await?;
        let answer: Review =
            serde_json::from_slice(&body).map_err(|e| format!("the webhook's answer is no review: {e}"))?;
        let known = read(answer.status, audiences, own)?;
        if let Some(known) = &known {
            self.cache.put(key, known.clone(), self.ttl);
        }
        Ok(known)
    }
}

fn read(status: Status, asked: &[String], own: &[String]) -> Answer {
    if !status.authenticated {
        return if status.error.is_empty() { Ok(None) } else { Err(status.error) };
    }
    // A server that says nothing of audiences knows only this one.
    let of_token = if status.audiences.is_empty() { own } else { &status.audiences };
    let audiences: Vec<String> = of_token.iter().filter(|a| asked.contains(a)).cloned().collect();
    if audiences.is_empty() {
        return Ok(None);
    }
    let user = Identity {
        name: status.user.username,
        uid: status.user.uid,
        groups: status.user.groups.unwrap_or_default(),
        extra: status.user.extra.unwrap_or_default(),
    };
    Ok(Some(Known { user, audiences }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_count_only_for_an_audience_that_was_asked_for() {
        let status = |value: serde_json::Value| {
            serde_json::from_value::<Review>(json!({"status": value})).unwrap().status
        };
        let texts = |all: &[&str]| all.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let (own, other) = (texts(&["api"]), texts(&["vault"]));
        let good = json!({"authenticated": true, "user": {"username": "ann", "groups": null, "extra": {"k": ["v"]}}});
        let known = read(status(good.clone()), &own, &own).unwrap().unwrap();
        assert_eq!((known.user.name.as_str(), known.audiences), ("ann", own.clone()));
        assert_eq!(read(status(good.clone()), &other, &own), Ok(None));
        let mut scoped = good;
        scoped["audiences"] = json!(["vault", "x"]);
        assert_eq!(read(status(scoped.clone()), &other, &own).unwrap().unwrap().audiences, other);
        assert_eq!(read(status(scoped), &own, &own), Ok(None));
        assert_eq!(read(status(json!({"authenticated": false})), &own, &own), Ok(None));
        assert_eq!(read(status(json!({"error": "expired"})), &own, &own), Err("expired".to_owned()));
    }
}
