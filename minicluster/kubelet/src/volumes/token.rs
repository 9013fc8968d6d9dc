//! Service account tokens in projected volumes: asked for by TokenRequest, bound to the pod, renewed when 80 % of
//! their life (at most a day) has passed.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection, Volume};
use kube::Client;
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use windlass::clock;

use super::payload::{File, Payload};
use super::{VolumeError, common_user, fs_group};
use crate::pod::uid;

/// A token lives an hour unless its pod asks otherwise.
const DEFAULT_SECONDS: i64 = 3600;
/// Nobody keeps a token longer than this without renewing it.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone)]
struct Held {
    token: String,
    renew_at: Timestamp,
}

/// Pod, path in the volume, audience and seconds of life of a token.
type Id = (String, String, Option<String>, i64);

/// Asked-for tokens, by pod, volume path, audience and life.
pub struct Tokens {
    client: Client,
    held: Mutex<BTreeMap<Id, Held>>,
}

impl Tokens {
    /// Tokens by this client.
    pub fn new(client: Client) -> Self {
        Self { client, held: Mutex::default() }
    }

    pub(super) fn forget(&self, pod: &str) {
        self.held.lock().retain(|(owner, ..), _| owner != pod);
    }

    /// Adds the tokens a volume asks for; the moment when the first of them is due for renewal.
    pub(super) async fn add(
        &self,
        pod: &Pod,
        volume: &Volume,
        out: &mut Payload,
    ) -> Result<Option<Timestamp>, VolumeError> {
        let Some(projected) = &volume.projected else { return Ok(None) };
        let mut due = None;
        for source in projected.sources.iter().flatten() {
            let Some(asked) = &source.service_account_token else { continue };
            let held = self.token(pod, asked).await?;
            due = [due, Some(held.renew_at)].into_iter().flatten().min();
            let owner = common_user(pod);
            let shared = owner.is_none() && fs_group(pod).is_none();
            let mode = if shared { super::payload::mode(projected.default_mode, 0o644) } else { 0o600 };
            out.insert(asked.path.clone(), File { data: held.token.into_bytes(), mode, owner });
        }
        Ok(due)
    }

    async fn token(&self, pod: &Pod, asked: &ServiceAccountTokenProjection) -> Result<Held, VolumeError> {
        let seconds = asked.expiration_seconds.unwrap_or(DEFAULT_SECONDS);
        let key = (uid(pod).to_owned(), asked.path.clone(), asked.audience.clone(), seconds);
        let known = self.held.lock().get(&key).cloned();
        if let Some(held) = known.filter(|h| h.renew_at > clock::now()) {
            return Ok(held);
        }
        let held = self.request(pod, asked, seconds).await?;
        self.held.lock().insert(key, held.clone());
        Ok(held)
    }

    async fn request(
        &self,
        pod: &Pod,
        asked: &ServiceAccountTokenProjection,
        seconds: i64,
    ) -> Result<Held, VolumeError> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).unwrap_or("default");
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(asked.audience.iter().cloned().collect()),
                expiration_seconds: Some(seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
            }),
            ..TokenRequest::default()
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let failed = |e: &dyn std::fmt::Display| VolumeError::Source(format!("failed to fetch token: {e}"));
        let reply: TokenRequest = accounts
            .create_subresource("token", account, &PostParams::default(), &request)
            .await
            .map_err(|e| failed(&e))?;
        let status = reply.status.ok_or_else(|| failed(&"the reply holds no token"))?;
        let (Some(token), Some(expires)) = (status.token, status.expiration_timestamp) else {
            return Err(failed(&"the reply holds no token"));
        };
        Ok(Held { token, renew_at: renew_at(clock::now(), expires.0) })
    }
}

/// When a token that is good until `expires` is asked for anew.
fn renew_at(now: Timestamp, expires: Timestamp) -> Timestamp {
    let life = Duration::try_from(expires.duration_since(now)).unwrap_or_default();
    now + life.mul_f64(0.8).min(MAX_AGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_at_four_fifths_of_their_life_or_after_a_day() {
        let now = Timestamp::UNIX_EPOCH;
        let at = |s| Timestamp::from_second(s).unwrap();
        assert_eq!(renew_at(now, at(3600)), at(2880));
        assert_eq!(renew_at(now, at(365 * 86_400)), at(86_400));
    }
}
