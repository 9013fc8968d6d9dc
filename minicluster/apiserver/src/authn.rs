//! Who is asking: an identity that the transport vouches for, a client certificate, or a service account token.

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderMap, header};
use serde_json::Value;

use crate::{
    api::Api,
    object,
    status::{ApiError, ApiResult},
    token::Claims,
};

/// The group of everybody who proved who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of everybody else.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The group that may do anything.
pub const MASTERS: &str = "system:masters";

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
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        groups.push(AUTHENTICATED.to_owned());
        Self { name: name.into(), groups, ..Self::default() }
    }

    /// The server's own hand: may do anything.
    pub fn system() -> Self {
        Self::new("system:apiserver", &[MASTERS])
    }

    /// Somebody who did not say who they are.
    pub fn anonymous() -> Self {
        Self {
            name: "system:anonymous".to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..Self::default()
        }
    }

    /// True for a member of the group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// The identity in a client certificate that was verified during the handshake; kept with the connection.
#[derive(Debug, Clone)]
pub struct PeerCertificate(pub Arc<Identity>);

impl PeerCertificate {
    /// Reads subject (CN is the name, O the groups) of a DER certificate.
    pub fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups: Vec<&str> = subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
        let mut identity = Identity::new(name, &groups);
        let fingerprint = ring::digest::digest(&ring::digest::SHA256, der);
        let hex: String = fingerprint.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        identity.extra.insert(
            "authentication.kubernetes.io/credential-id".to_owned(),
            vec![format!("X509SHA256={hex}")],
        );
        Some(Self(Arc::new(identity)))
    }
}

/// Finds out who is asking.
///
/// # Errors
/// 401 when credentials were given and are wrong.
pub fn authenticate(api: &Api, headers: &HeaderMap, extensions: &http::Extensions) -> ApiResult<Identity> {
    if let Some(identity) = extensions.get::<Identity>() {
        return Ok(identity.clone());
    }
    if let Some(PeerCertificate(identity)) = extensions.get::<PeerCertificate>() {
        return Ok((**identity).clone());
    }
    let Some(token) = bearer(headers)? else { return Ok(Identity::anonymous()) };
    let audiences = [api.config.issuer.clone()];
    match check_token(api, token, &audiences) {
        Ok((identity, _)) => Ok(identity),
        Err(why) => {
            tracing::debug!(why, "a bearer token was refused");
            Err(ApiError::unauthorized())
        }
    }
}

/// The bearer token of a request; browsers put it into the WebSocket protocol list.
fn bearer(headers: &HeaderMap) -> ApiResult<Option<&str>> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let text = value.to_str().map_err(|_| ApiError::unauthorized())?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => {
            Ok(Some(token.trim()))
        }
        _ => Err(ApiError::unauthorized()),
    }
}

/// Verifies a service account token and that everything it is bound to still exists.
///
/// # Errors
/// Why it is refused.
pub fn check_token(api: &Api, token: &str, audiences: &[String]) -> Result<(Identity, Claims), &'static str> {
    let claims = api.tokens.verify(token, audiences, windlass::clock::now().as_second())?;
    let private = &claims.kubernetes;
    let alive = |plural: &str, namespace: &str, name: &str, uid: &str| {
        let resource = api.registry.builtin("", "v1", plural);
        let entry = api.store.get(&resource.key(namespace, name))?;
        let obj: Value = serde_json::from_slice(&entry.value).ok()?;
        (object::uid(&obj) == uid).then_some(())
    };
    let (namespace, account) = (&private.namespace, &private.serviceaccount);
    alive("serviceaccounts", namespace, &account.name, &account.uid).ok_or("service account is gone")?;
    if let Some(pod) = &private.pod {
        alive("pods", namespace, &pod.name, &pod.uid).ok_or("bound pod is gone")?;
    }
    if let Some(secret) = &private.secret {
        alive("secrets", namespace, &secret.name, &secret.uid).ok_or("bound secret is gone")?;
    }
    let mut identity = Identity::new(
        format!("system:serviceaccount:{namespace}:{}", account.name),
        &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")],
    );
    identity.uid.clone_from(&account.uid);
    let mut extra = |key: &str, value: String| {
        identity.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
    };
    extra("credential-id", format!("JTI={}", claims.jti));
    if let Some(pod) = &private.pod {
        extra("pod-name", pod.name.clone());
        extra("pod-uid", pod.uid.clone());
    }
    if let Some(node) = &private.node {
        extra("node-name", node.name.clone());
        extra("node-uid", node.uid.clone());
    }
    Ok((identity, claims))
}

/// Lets a request act as somebody else, when it may.
///
/// # Errors
/// 403 when it may not, 400 for headers that make no sense.
pub fn impersonate(api: &Api, user: Identity, headers: &HeaderMap) -> ApiResult<Identity> {
    let texts = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
    };
    let (names, groups) = (texts("impersonate-user"), texts("impersonate-group"));
    let uids = texts("impersonate-uid");
    let extra: Vec<(String, String)> = headers
        .iter()
        .filter_map(|(k, v)| Some((k.as_str().strip_prefix("impersonate-extra-")?, v.to_str().ok()?)))
        .map(|(k, v)| {
            (percent_encoding::percent_decode_str(k).decode_utf8_lossy().into_owned(), v.to_owned())
        })
        .collect();
    let Some(name) = names.first().filter(|n| !n.is_empty()) else {
        if groups.is_empty() && uids.is_empty() && extra.is_empty() {
            return Ok(user);
        }
        return Err(ApiError::internal(
            "requested impersonation without a user: impersonating groups, uids or extra needs a user",
        ));
    };
    let check = |group: &str, resource: &str, sub: &str, namespace: &str, name: &str| -> ApiResult<()> {
        let asked = crate::authz::Attributes {
            verb: "impersonate",
            group,
            version: "v1",
            resource,
            subresource: sub,
            namespace,
            name,
            path: "",
            is_resource: true,
        };
        api.rbac.require(&user, &asked)
    };
    match name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
        Some((namespace, account)) => check("", "serviceaccounts", "", namespace, account)?,
        None => check("", "users", "", "", name)?,
    }
    for group in &groups {
        check("", "groups", "", "", group)?;
    }
    for uid in &uids {
        check("authentication.k8s.io", "uids", "", "", uid)?;
    }
    for (key, value) in &extra {
        check("authentication.k8s.io", "userextras", key, "", value)?;
    }
    let mut other = Identity { name: name.clone(), groups, ..Identity::default() };
    other.uid = uids.into_iter().next().unwrap_or_default();
    for (key, value) in extra {
        other.extra.entry(key).or_default().push(value);
    }
    if let Some((namespace, _)) = name.strip_prefix("system:serviceaccount:").and_then(|r| r.split_once(':'))
        && other.groups.is_empty()
    {
        other.groups =
            vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    }
    let marker = if name == "system:anonymous" { UNAUTHENTICATED } else { AUTHENTICATED };
    if !other.is_in(marker) {
        other.groups.push(marker.to_owned());
    }
    Ok(other)
}
