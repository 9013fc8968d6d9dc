//! Who is asking: one chain of authenticators, the first that knows the credentials decides.
//!
//! In upstream's order: an identity that the transport vouches for (a part of this process), a front proxy, a client
//! certificate, a bearer token (static file, service account, bootstrap, JWT of another issuer, webhook), and at last,
//! where it is allowed, nobody. Credentials that were given and are wrong are never taken for none. Source:
//! `pkg/kubeapiserver/authenticator/config.go`.

mod bootstrap_token;
mod certificates;
mod config;
mod impersonate;
mod jwt;
mod proxy;
mod service_account;
mod static_token;
mod webhook;

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, header};

pub(crate) use certificates::AnyHolder;
pub use certificates::PeerCertificate;
pub use config::{Oidc, RequestHeader, Settings, WebhookSettings};
pub use impersonate::impersonate;
pub(crate) use jwt::{Jws, Keys};
pub(crate) use service_account::fill_secrets;

use crate::{
    api::{Api, Config},
    authz::aggregate,
    files::Watched,
    request::RequestInfo,
    status::{ApiError, ApiResult},
};

/// The group of everybody who proved who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of everybody else.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The group that may do anything.
pub const MASTERS: &str = "system:masters";

const ANONYMOUS: &str = "system:anonymous";

/// What stands before a token in the list of WebSocket protocols: browsers can set no other header.
const WEBSOCKET_BEARER: &str = "base64url.bearer.authorization.k8s.io.";

/// A user as authorization sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The name.
    pub name: String,
    /// The uid, or empty.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// More attributes.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Identity {
    /// A user in some groups, and in [`AUTHENTICATED`].
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|g| (*g).to_owned()).collect();
        Self { name: name.into(), groups, ..Self::default() }.authenticated()
    }

    /// The server's own hand: may do anything.
    pub fn system() -> Self {
        Self::new("system:apiserver", &[MASTERS])
    }

    /// Somebody who did not say who they are.
    pub fn anonymous() -> Self {
        Self { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..Self::default() }
    }

    /// True for a member of the group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// Everybody who proved who they are is in one group.
    fn authenticated(mut self) -> Self {
        let settled = self.is_in(AUTHENTICATED) || self.is_in(UNAUTHENTICATED) || self.name == ANONYMOUS;
        if !settled {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }
}

/// Somebody, and for whom the credentials were meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Who it is.
    pub user: Identity,
    /// The audiences, of those asked for, that the token is good for.
    pub audiences: Vec<String>,
}

/// What one authenticator says of a token: whose it is, that it does not know it, or what is wrong with it.
type Answer = Result<Option<Known>, String>;

/// The chain.
pub struct Authenticator {
    certificates: certificates::Authority,
    proxy: Option<proxy::Proxy>,
    static_tokens: Option<static_token::Tokens>,
    bootstrap_tokens: bool,
    webhook: Option<webhook::Webhook>,
    /// What `--authentication-config` or the flags of old say; replaced when the file changes.
    configured: ArcSwap<config::Configured>,
    file: Option<Watched>,
    /// Audiences of this server.
    audiences: Vec<String>,
    issuer: String,
}

impl Authenticator {
    /// A chain as the server was told.
    ///
    /// # Errors
    /// One sentence that names the file or flag and the field.
    pub fn new(config: &Config) -> Result<Self, String> {
        let settings = &config.authentication;
        let file = settings.config_file.as_deref().map(Watched::open).transpose()?;
        let configured = config::configured(settings, file.as_ref(), &config.issuer)?;
        let audiences = match settings.api_audiences.as_slice() {
            [] => std::iter::once(&config.issuer).chain(&config.token_keys.more_issuers).cloned().collect(),
            given => given.to_vec(),
        };
        Ok(Self {
            certificates: certificates::Authority::new(&config.ca_pem, settings.client_ca_file.as_deref())?,
            proxy: proxy::Proxy::new(&settings.request_header)?,
            static_tokens: settings.token_file.as_deref().map(static_token::Tokens::read).transpose()?,
            bootstrap_tokens: settings.bootstrap_tokens,
            webhook: webhook::Webhook::new(&settings.webhook)?,
            configured: ArcSwap::from_pointee(configured),
            file,
            audiences,
            issuer: config.issuer.clone(),
        })
    }

    /// The audiences that mean this server.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// What programs that this server forwards to have to believe: the keys of
    /// `kube-system/extension-apiserver-authentication`.
    pub(crate) fn published(&self) -> Vec<(&'static str, String)> {
        let mut all = vec![("client-ca-file", self.certificates.pem())];
        all.extend(self.proxy.iter().flat_map(proxy::Proxy::published));
        all
    }

    /// Finds out who makes a request.
    ///
    /// # Errors
    /// 401 when credentials were given and are wrong, or when nobody may be anonymous.
    pub async fn request(
        &self,
        api: &Api,
        headers: &HeaderMap,
        extensions: &http::Extensions,
        info: &RequestInfo,
    ) -> ApiResult<Identity> {
        if let Some(identity) = extensions.get::<Identity>() {
            return Ok(identity.clone());
        }
        let peer = extensions.get::<PeerCertificate>();
        let mut errors = Vec::new();
        if let (Some(proxy), Some(peer)) = (&self.proxy, peer) {
            match proxy.ask(peer, headers) {
                Ok(Some(user)) => return Ok(user.authenticated()),
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        if let Some(peer) = peer {
            match self.certificates.ask(peer) {
                Ok(Some(user)) => return Ok(user),
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        for token in [bearer(headers), websocket_bearer(headers)].into_iter().flatten() {
            match self.token(api, &token, &self.audiences).await {
                Ok(known) => return Ok(known.user),
                Err(error) => errors.push(error),
            }
        }
        match aggregate(errors) {
            Some(error) => tracing::debug!(error, "Unable to authenticate the request"),
            None if self.configured.load().anonymous.admits(&info.path, api.authorizer.allows_all()) => {
                return Ok(Identity::anonymous());
            }
            None => {}
        }
        Err(ApiError::unauthorized())
    }

    /// Whose a bearer token is, for one of the audiences.
    ///
    /// # Errors
    /// Why it is nobody's, as upstream tells it.
    pub async fn token(&self, api: &Api, token: &str, audiences: &[String]) -> Result<Known, String> {
        let mut errors = vec!["invalid bearer token".to_owned()];
        let own = || audiences.iter().filter(|a| self.audiences.contains(a)).cloned().collect::<Vec<_>>();
        // Tokens that say nothing of audiences are for this server.
        let agnostic = |user: Option<Identity>| -> Answer {
            let audiences = own();
            Ok(user.filter(|_| !audiences.is_empty()).map(|user| Known { user, audiences }))
        };
        let found = self.static_tokens.as_ref().and_then(|tokens| tokens.ask(token));
        if let Some(known) = take(agnostic(found), &mut errors) {
            return Ok(known);
        }
        if let Some(known) = take(service_account::ask(api, token, audiences, &self.audiences), &mut errors) {
            return Ok(known);
        }
        if self.bootstrap_tokens
            && let Some(known) = take(agnostic(bootstrap_token::ask(api, token)), &mut errors)
        {
            return Ok(known);
        }
        let configured = self.configured.load_full();
        for issuer in &configured.issuers {
            let answer = issuer.ask(api, token).await;
            if let Some(known) = take(answer.and_then(&agnostic), &mut errors) {
                return Ok(known);
            }
        }
        if let Some(webhook) = &self.webhook
            && let Some(known) = take(webhook.ask(api, token, audiences, &self.audiences).await, &mut errors)
        {
            return Ok(known);
        }
        Err(aggregate(errors).unwrap_or_default())
    }

    /// True when [`Authenticator::reload`] has something to look at.
    pub(crate) fn has_file(&self) -> bool {
        self.file.is_some()
            || self.certificates.has_file()
            || self.proxy.as_ref().is_some_and(proxy::Proxy::has_file)
    }

    /// Reads files again when they changed. One that is wrong changes nothing.
    pub(crate) fn reload(&self, settings: &Settings) {
        self.certificates.reload();
        if let Some(proxy) = &self.proxy {
            proxy.reload();
        }
        let Some(file) = &self.file else { return };
        let fresh = match file.changed() {
            Ok(false) => return,
            Ok(true) => config::configured(settings, Some(file), &self.issuer),
            Err(error) => Err(error),
        };
        match fresh {
            Ok(mut fresh) => {
                fresh.keep_keys(&self.configured.load());
                self.configured.store(Arc::new(fresh));
                tracing::info!(file = %file.path().display(), "reloaded authentication config");
            }
            Err(error) => tracing::error!(error, "the authentication config is wrong; the old one goes on"),
        }
    }
}

/// The answer, if it is one; what is wrong is kept for the end.
fn take(answer: Answer, errors: &mut Vec<String>) -> Option<Known> {
    match answer {
        Ok(known) => known.map(|known| Known { user: known.user.authenticated(), ..known }),
        Err(error) => {
            errors.push(error);
            None
        }
    }
}

/// The bearer token of a request. Another scheme is no credential at all.
fn bearer(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim();
    let mut parts = text.splitn(3, ' ');
    let scheme = parts.next()?;
    let token = parts.next().filter(|token| !token.is_empty())?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.to_owned())
}

/// The token among the WebSocket protocols that a browser offers.
fn websocket_bearer(headers: &HeaderMap) -> Option<String> {
    let offered =
        headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let encoded = offered
        .flat_map(|line| line.split(','))
        .find_map(|word| word.trim().strip_prefix(WEBSOCKET_BEARER))?;
    let bytes = URL_SAFE_NO_PAD.decode(encoded.trim_end_matches('=')).ok()?;
    String::from_utf8(bytes).ok().filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn bearer_tokens_stand_in_one_of_two_headers() {
        for (text, token) in [
            ("Bearer abc", Some("abc")),
            ("bearer abc", Some("abc")),
            ("Bearer abc def", Some("abc")),
            ("Bearer", None),
            ("Bearer  abc", None),
            ("Basic abc", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(text));
            assert_eq!(bearer(&headers).as_deref(), token, "{text}");
        }
        let mut headers = HeaderMap::new();
        let offered = "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj";
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(offered));
        assert_eq!(websocket_bearer(&headers).as_deref(), Some("abc"));
        assert_eq!(websocket_bearer(&HeaderMap::new()), None);
    }

    #[test]
    fn everybody_known_is_authenticated_once() {
        assert_eq!(Identity::new("a", &[AUTHENTICATED]).groups, [AUTHENTICATED]);
        assert_eq!(Identity::new("a", &["b"]).groups, ["b", AUTHENTICATED]);
        assert_eq!(Identity::anonymous().authenticated(), Identity::anonymous());
    }
}
