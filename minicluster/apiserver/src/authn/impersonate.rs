//! Acting as somebody else: by the `Impersonate-*` headers, for those who may.
//!
//! Narrow permissions are tried first: `impersonate:MODE` says as whom, `impersonate-on:MODE:VERB` says for what; the
//! mode depends on whether a node, a service account or another user is meant. Then the plain `impersonate` of old.
//! Source: `k8s.io/apiserver/pkg/endpoints/filters/impersonation` and KEP-5284.

use std::collections::BTreeMap;

use http::HeaderMap;
use percent_encoding::percent_decode_str;
use windlass_crd::{
    field::{self, Error, ErrorList, Path, quote},
    name,
};

use super::{ANONYMOUS, AUTHENTICATED, Identity, MASTERS, UNAUTHENTICATED};
use crate::{
    api::Api,
    authz::{Attributes, forbidden},
    request::RequestInfo,
    status::{ApiError, ApiResult},
};

const GROUP: &str = "authentication.k8s.io";
const NODE: &str = "system:node:";
const ACCOUNT: &str = "system:serviceaccount:";
const EXTRA: &str = "impersonate-extra-";
const NODE_KEY: &str = "authentication.kubernetes.io/node-name";

/// From so many groups or extra values on it is asked first whether all are allowed.
const MANY: usize = 4;

/// Lets a request act as somebody else, when it may.
///
/// # Errors
/// 403 when it may not, 400 for headers that make no sense.
pub async fn impersonate(
    api: &Api,
    user: Identity,
    headers: &HeaderMap,
    info: &RequestInfo,
) -> ApiResult<Identity> {
    let Some(wanted) = wanted(headers)? else { return Ok(user) };
    let asked = Attributes::of(info);
    let mut first = None;
    for mode in Mode::ALL {
        match mode.check(api, &user, &wanted, &asked).await {
            Ok(Some(other)) => {
                tracing::debug!(user = user.name, other = other.name, "is impersonating");
                return Ok(other);
            }
            Ok(None) => {}
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(|| ApiError::internal("all impersonation modes failed")))
}

/// What the headers ask for; `None` when they ask for nothing.
fn wanted(headers: &HeaderMap) -> ApiResult<Option<Identity>> {
    let texts = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
    };
    let first = |name: &str| texts(name).into_iter().next().unwrap_or_default();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (header, value) in headers {
        let Some(key) = header.as_str().strip_prefix(EXTRA) else { continue };
        extra.entry(unescape(key)).or_default().extend(value.to_str().ok().map(str::to_owned));
    }
    let wanted = Identity {
        name: first("impersonate-user"),
        uid: first("impersonate-uid"),
        groups: texts("impersonate-group"),
        extra,
    };
    if !wanted.name.is_empty() {
        return Ok(Some(wanted));
    }
    if wanted == Identity::default() {
        return Ok(None);
    }
    Err(ApiError::bad_request(format!("requested {} without impersonating a user name", go_syntax(&wanted))))
}

/// Percent signs that begin no escape leave a key as it is.
fn unescape(key: &str) -> String {
    let whole = key
        .split('%')
        .skip(1)
        .all(|rest| rest.len() >= 2 && rest.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit));
    if whole { percent_decode_str(key).decode_utf8_lossy().into_owned() } else { key.to_owned() }
}

/// A user as Go's `%#v` shows one.
fn go_syntax(user: &Identity) -> String {
    let list = |items: &[String]| items.iter().map(|item| quote(item)).collect::<Vec<_>>().join(", ");
    let groups = match user.groups.as_slice() {
        [] => "[]string(nil)".to_owned(),
        groups => format!("[]string{{{}}}", list(groups)),
    };
    let extra = match user.extra.len() {
        0 => "map[string][]string(nil)".to_owned(),
        _ => {
            let entries = user.extra.iter().map(|(k, v)| format!("{}:[]string{{{}}}", quote(k), list(v)));
            format!("map[string][]string{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
    };
    let (name, uid) = (quote(&user.name), quote(&user.uid));
    format!("&user.DefaultInfo{{Name:{name}, UID:{uid}, Groups:{groups}, Extra:{extra}}}")
}

/// A way to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A pod's service account as the node that the pod runs on.
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    UserInfo,
    /// The plain `impersonate`.
    Legacy,
}

impl Mode {
    const ALL: [Self; 5] =
        [Self::AssociatedNode, Self::ArbitraryNode, Self::ServiceAccount, Self::UserInfo, Self::Legacy];

    fn name(self) -> &'static str {
        match self {
            Self::AssociatedNode => "associated-node",
            Self::ArbitraryNode => "arbitrary-node",
            Self::ServiceAccount => "serviceaccount",
            Self::UserInfo => "user-info",
            Self::Legacy => "",
        }
    }

    fn applies(self, user: &Identity, wanted: &Identity) -> bool {
        let alone = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let (node, account) = (node_name(&wanted.name), account_name(&wanted.name));
        match self {
            Self::AssociatedNode => {
                let own = user
                    .extra
                    .get(NODE_KEY)
                    .filter(|values| values.len() == 1)
                    .map(|values| values[0].as_str());
                alone && node.is_some() && own == node && account_name(&user.name).is_some()
            }
            Self::ArbitraryNode => alone && node.is_some(),
            Self::ServiceAccount => alone && account.is_some(),
            Self::UserInfo => node.is_none() && account.is_none(),
            Self::Legacy => true,
        }
    }

    /// The user that the request goes on as. `None`: this mode is not for them.
    async fn check(
        self,
        api: &Api,
        user: &Identity,
        wanted: &Identity,
        asked: &Attributes<'_>,
    ) -> ApiResult<Option<Identity>> {
        if !self.applies(user, wanted) {
            return Ok(None);
        }
        // The permission is for every node that the account's pods are on, so only the names of its attributes count.
        let associated = self == Self::AssociatedNode;
        let generic = associated.then(|| {
            let keys = user.extra.keys().cloned().collect();
            let extra = [("authentication.kubernetes.io/associated-node-keys".to_owned(), keys)].into();
            Identity { extra, ..user.clone() }
        });
        let checker = Checker { api, user: generic.as_ref().unwrap_or(user), mode: self };
        if self != Self::Legacy {
            let verb = format!("impersonate-on:{}:{}", self.name(), asked.verb);
            checker.require(&Attributes { verb: &verb, ..*asked }).await?;
        }
        checker.whole(wanted).await.map(Some)
    }
}

/// Asks for one user in one mode.
struct Checker<'a> {
    api: &'a Api,
    user: &'a Identity,
    mode: Mode,
}

impl Checker<'_> {
    async fn require(&self, asked: &Attributes<'_>) -> ApiResult<()> {
        let verdict = self.api.authorizer.decide(self.api, self.user, asked).await;
        if verdict.is_allowed() {
            return Ok(());
        }
        let reason = match verdict.error {
            Some(error) if verdict.reason.is_empty() => error,
            Some(error) => format!("{error}: {}", verdict.reason),
            None => verdict.reason.into_owned(),
        };
        Err(forbidden(self.user, asked, &reason))
    }

    /// Names and groups belong to the core group in the mode of old.
    fn attributes<'a>(&self, verb: &'a str, resource: &'a str, name: &'a str) -> Attributes<'a> {
        let core = self.mode == Mode::Legacy && matches!(resource, "users" | "groups" | "serviceaccounts");
        Attributes {
            verb,
            group: if core { "" } else { GROUP },
            version: "v1",
            resource,
            name,
            is_resource: true,
            ..Attributes::default()
        }
    }

    async fn whole(&self, wanted: &Identity) -> ApiResult<Identity> {
        let verb = match self.mode {
            Mode::Legacy => "impersonate".to_owned(),
            mode => format!("impersonate:{}", mode.name()),
        };
        let mut other = wanted.clone();
        self.username(&verb, wanted, &mut other).await?;
        if !wanted.uid.is_empty() {
            self.require(&self.attributes(&verb, "uids", &wanted.uid)).await?;
        }
        self.groups(&verb, &wanted.groups).await?;
        self.extra(&verb, &wanted.extra).await?;
        let marker = if other.name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
        // Whoever asks to be nobody in particular is not made somebody.
        if !other.is_in(marker) && !other.is_in(UNAUTHENTICATED) {
            other.groups.push(marker.to_owned());
        }
        Ok(other)
    }

    async fn username(&self, verb: &str, wanted: &Identity, other: &mut Identity) -> ApiResult<()> {
        let mut asked = self.attributes(verb, "users", &wanted.name);
        if self.mode != Mode::Legacy
            && let Some(node) = node_name(&wanted.name)
        {
            asked =
                self.attributes(verb, "nodes", if self.mode == Mode::AssociatedNode { "*" } else { node });
            other.groups = vec!["system:nodes".to_owned()];
        }
        if let Some((namespace, name)) = account_name(&wanted.name) {
            asked = Attributes { namespace, ..self.attributes(verb, "serviceaccounts", name) };
            if wanted.groups.is_empty() {
                other.groups = account_groups(namespace);
            }
        }
        self.require(&asked).await
    }

    async fn groups(&self, verb: &str, groups: &[String]) -> ApiResult<()> {
        let asked = |name| self.attributes(verb, "groups", name);
        if self.mode != Mode::Legacy {
            if groups.iter().any(String::is_empty) {
                let why = "impersonating the empty string group is not allowed";
                return Err(forbidden(self.user, &asked(""), why));
            }
            if groups.iter().any(|group| group == MASTERS) {
                let why = "impersonating the system:masters group is not allowed";
                return Err(forbidden(self.user, &asked(MASTERS), why));
            }
            if groups.len() >= MANY && self.require(&asked("*")).await.is_ok() {
                return Ok(());
            }
        }
        for group in groups {
            self.require(&asked(group)).await?;
        }
        Ok(())
    }

    async fn extra(&self, verb: &str, extra: &BTreeMap<String, Vec<String>>) -> ApiResult<()> {
        if extra.is_empty() {
            return Ok(());
        }
        let asked =
            |subresource, name| Attributes { subresource, ..self.attributes(verb, "userextras", name) };
        if self.mode != Mode::Legacy {
            check_extra(extra).map_err(|why| forbidden(self.user, &asked("", ""), &why))?;
            let many = extra.len() >= MANY || extra.values().map(Vec::len).sum::<usize>() >= MANY;
            if many && self.require(&asked("*", "*")).await.is_ok() {
                return Ok(());
            }
        }
        for (key, values) in extra {
            for value in values {
                self.require(&asked(key, value)).await?;
            }
        }
        Ok(())
    }
}

fn check_extra(extra: &BTreeMap<String, Vec<String>>) -> Result<(), String> {
    for (key, values) in extra {
        if key.is_empty() {
            return Err("impersonating the empty string key in extra is not allowed".to_owned());
        }
        let errors = domain_prefixed_path(&field::root("extra").child("key"), key);
        if !errors.is_empty() {
            let why = field::aggregate(&errors);
            return Err(format!("impersonating an invalid key in extra is not allowed: {why}"));
        }
        if *key != key.to_lowercase() {
            return Err(format!("impersonating a non-lowercase key in extra is not allowed: {}", quote(key)));
        }
        if values.is_empty() {
            return Err("impersonating empty values in extra is not allowed".to_owned());
        }
        if values.iter().any(String::is_empty) {
            return Err("impersonating the empty string value in extra is not allowed".to_owned());
        }
    }
    Ok(())
}

/// `acme.io/foo`.
pub(super) fn domain_prefixed_path(path: &Path, text: &str) -> ErrorList {
    if text.is_empty() {
        return vec![Error::required(path, "")];
    }
    let (host, rest) = match text.split_once('/') {
        Some((host, rest)) if !host.is_empty() && !rest.is_empty() => (host, rest),
        _ => {
            let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            return vec![Error::invalid(path, text, why)];
        }
    };
    let mut errors: ErrorList =
        name::dns1123_subdomain_faults(host).into_iter().map(|why| Error::invalid(path, host, why)).collect();
    if !rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b)) {
        let why = name::regex_error("Invalid path", "[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+", &[]);
        errors.push(Error::invalid(path, rest, why));
    }
    errors
}

/// The groups of a namespace's service accounts.
pub(super) fn account_groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
}

fn node_name(user: &str) -> Option<&str> {
    user.strip_prefix(NODE).filter(|node| name::dns1123_subdomain_faults(node).is_empty())
}

/// Namespace and name of a service account's user.
fn account_name(user: &str) -> Option<(&str, &str)> {
    let (namespace, account) = user.strip_prefix(ACCOUNT)?.split_once(':')?;
    let good = name::dns1123_label_faults(namespace).is_empty()
        && name::dns1123_subdomain_faults(account).is_empty();
    good.then_some((namespace, account))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in all {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn headers_are_read_whole_or_refused() {
        assert!(wanted(&headers(&[])).unwrap().is_none());
        let all = headers(&[
            ("impersonate-user", "ann"),
            ("impersonate-group", "a"),
            ("impersonate-group", "b"),
            ("impersonate-uid", "7"),
            ("impersonate-extra-example.com%2fa", "x"),
            ("impersonate-extra-almost%zz", "y"),
        ]);
        let found = wanted(&all).unwrap().unwrap();
        assert_eq!((found.groups.len(), found.uid.as_str()), (2, "7"));
        assert_eq!(found.extra.keys().collect::<Vec<_>>(), ["almost%zz", "example.com/a"]);
        assert_eq!(
            wanted(&headers(&[("impersonate-group", "a")])).unwrap_err().message,
            "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"a\"}, Extra:map[string][]string(nil)} \
             without impersonating a user name"
        );
    }

    #[test]
    fn modes_are_for_those_they_name() {
        let pod = Identity {
            name: "system:serviceaccount:d:x".to_owned(),
            extra: [(NODE_KEY.to_owned(), vec!["n1".to_owned()])].into(),
            ..Identity::default()
        };
        let modes = |user: &Identity, name: &str, groups: &[&str]| -> Vec<Mode> {
            let groups = groups.iter().map(|g| (*g).to_owned()).collect();
            let wanted = Identity { name: name.to_owned(), groups, ..Identity::default() };
            Mode::ALL.into_iter().filter(|mode| mode.applies(user, &wanted)).collect()
        };
        use Mode::{ArbitraryNode, AssociatedNode, Legacy, ServiceAccount, UserInfo};
        assert_eq!(modes(&pod, "system:node:n1", &[]), [AssociatedNode, ArbitraryNode, Legacy]);
        assert_eq!(modes(&pod, "system:node:n2", &[]), [ArbitraryNode, Legacy]);
        assert_eq!(modes(&pod, "system:node:n1", &["g"]), [Legacy]);
        assert_eq!(modes(&pod, "system:serviceaccount:d:y", &[]), [ServiceAccount, Legacy]);
        assert_eq!(modes(&pod, "ann", &["g"]), [UserInfo, Legacy]);
        assert_eq!(modes(&pod, "system:serviceaccount:d", &[]), [UserInfo, Legacy]);
    }

    #[test]
    fn extra_keys_are_domain_prefixed_and_low() {
        let check = |key: &str, value: &str| check_extra(&[(key.to_owned(), vec![value.to_owned()])].into());
        check("example.com/a", "v").unwrap();
        for (key, value, why) in [
            ("", "v", "the empty string key"),
            ("scopes", "v", "must be a domain-prefixed path"),
            ("example.com/A", "v", "non-lowercase key in extra is not allowed: \"example.com/A\""),
            ("example.com/a", "", "the empty string value"),
        ] {
            assert!(check(key, value).unwrap_err().contains(why), "{key}");
        }
    }
}
