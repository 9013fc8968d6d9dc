//! Who may ask a kubelet what: a client certificate or a bearer token says who, a SubjectAccessReview says what.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Client;
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a "yes" is kept.
const ALLOWED: Duration = Duration::from_secs(300);
/// How long a "no" is kept.
const REFUSED: Duration = Duration::from_secs(30);
/// Decisions kept at most.
const KEPT: usize = 1024;

/// Who asks, as far as the connection tells.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// The verified client certificate, in DER.
    pub certificate: Option<Vec<u8>>,
    /// The bearer token.
    pub bearer: Option<String>,
}

/// What is asked, as attributes on the node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attributes {
    /// `get`, `create`, …
    pub verb: &'static str,
    /// Subresource of `nodes`.
    pub subresource: &'static str,
    /// The node.
    pub node: String,
}

impl Attributes {
    /// The attributes of a request.
    pub fn of(method: &Method, path: &str, node: &str) -> Self {
        let verb = match *method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "get",
        };
        let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        let subresource = match first {
            "stats" => "stats",
            "metrics" => "metrics",
            "logs" => "log",
            "healthz" => "healthz",
            "pods" => "pods",
            _ => "proxy",
        };
        Self { verb, subresource, node: node.to_owned() }
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// Nobody knows who asks.
    Unauthenticated,
    /// It is known, and may not.
    Forbidden(String),
}

/// Decides about requests to a kubelet.
#[async_trait]
pub trait Authorizer: Send + Sync + 'static {
    /// Allows a request, or says why not.
    async fn allow(&self, peer: &Peer, attributes: &Attributes) -> Result<(), Denied>;
}

/// Asks the API: TokenReview for tokens, SubjectAccessReview for everything.
pub struct Delegated {
    client: Client,
    decided: Mutex<BTreeMap<(String, Attributes), (bool, Instant)>>,
}

struct User {
    name: String,
    groups: Vec<String>,
}

impl Delegated {
    /// An authorizer that asks through this client.
    pub fn new(client: Client) -> Self {
        Self { client, decided: Mutex::default() }
    }

    async fn user(&self, peer: &Peer) -> Option<User> {
        if let Some(user) = peer.certificate.as_deref().and_then(certificate_user) {
            return Some(user);
        }
        let review = TokenReview {
            spec: TokenReviewSpec { token: peer.bearer.clone()?, ..TokenReviewSpec::default() },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let status = api.create(&PostParams::default(), &review).await.ok()?.status?;
        let user = status.user.filter(|_| status.authenticated == Some(true))?;
        Some(User { name: user.username.unwrap_or_default(), groups: user.groups.unwrap_or_default() })
    }

    async fn review(&self, user: &User, attributes: &Attributes) -> bool {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                groups: Some(user.groups.clone()),
                resource_attributes: Some(ResourceAttributes {
                    group: Some(String::new()),
                    version: Some("v1".into()),
                    resource: Some("nodes".into()),
                    subresource: Some(attributes.subresource.into()),
                    verb: Some(attributes.verb.into()),
                    name: Some(attributes.node.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        match api.create(&PostParams::default(), &review).await {
            Ok(reply) => reply.status.is_some_and(|s| s.allowed),
            Err(error) => {
                tracing::warn!(%error, "nobody could be asked about a request to the node");
                false
            }
        }
    }
}

/// Common name and organizations of a certificate: user and groups.
fn certificate_user(der: &[u8]) -> Option<User> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned);
    Some(User { name, groups: groups.chain(["system:authenticated".to_owned()]).collect() })
}

#[async_trait]
impl Authorizer for Delegated {
    async fn allow(&self, peer: &Peer, attributes: &Attributes) -> Result<(), Denied> {
        let user = self.user(peer).await.ok_or(Denied::Unauthenticated)?;
        let key = (format!("{}\n{}", user.name, user.groups.join("\n")), attributes.clone());
        let known = self.decided.lock().get(&key).copied().filter(|(_, until)| *until > Instant::now());
        let allowed = match known {
            Some((allowed, _)) => allowed,
            None => {
                let mut allowed = self.review(&user, attributes).await;
                // The finer names are new; whoever may do everything on the node may do this too.
                if !allowed && matches!(attributes.subresource, "healthz" | "pods") {
                    allowed =
                        self.review(&user, &Attributes { subresource: "proxy", ..attributes.clone() }).await;
                }
                let until = Instant::now() + if allowed { ALLOWED } else { REFUSED };
                let mut decided = self.decided.lock();
                if decided.len() >= KEPT {
                    decided.clear();
                }
                decided.insert(key, (allowed, until));
                allowed
            }
        };
        if allowed {
            return Ok(());
        }
        Err(Denied::Forbidden(format!(
            "Forbidden (user={}, verb={}, resource=nodes, subresource={})",
            user.name, attributes.verb, attributes.subresource
        )))
    }
}
