//! A front proxy that says in headers who is asking, and proves itself by its own certificate.
//!
//! Source: `k8s.io/apiserver/pkg/authentication/request/headerrequest`.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use http::HeaderMap;
use percent_encoding::percent_decode_str;
use serde_json::json;

use super::{Identity, PeerCertificate, certificates::Trusted, config::RequestHeader};
use crate::files::Watched;

/// A proxy that is believed.
pub(super) struct Proxy {
    settings: RequestHeader,
    file: Watched,
    trusted: ArcSwap<Trusted>,
}

impl Proxy {
    /// `None` when no CA for proxies is given.
    pub(super) fn new(settings: &RequestHeader) -> Result<Option<Self>, String> {
        let Some(path) = &settings.ca_file else { return Ok(None) };
        let file = Watched::open(path)?;
        let trusted = ArcSwap::from_pointee(trusted(&file)?);
        Ok(Some(Self { settings: settings.clone(), file, trusted }))
    }

    pub(super) fn has_file(&self) -> bool {
        true
    }

    pub(super) fn reload(&self) {
        let fresh = match self.file.changed() {
            Ok(false) => return,
            Ok(true) => trusted(&self.file),
            Err(error) => Err(error),
        };
        match fresh {
            Ok(fresh) => self.trusted.store(Arc::new(fresh)),
            Err(error) => tracing::error!(error, "the proxies' CAs cannot be read; the old ones go on"),
        }
    }

    /// What extension servers have to know to believe this server as their proxy.
    pub(super) fn published(&self) -> Vec<(&'static str, String)> {
        let list = |names: &[String]| json!(names).to_string();
        let settings = &self.settings;
        vec![
            ("requestheader-client-ca-file", self.trusted.load().pem().to_owned()),
            ("requestheader-allowed-names", list(&settings.allowed_names)),
            ("requestheader-username-headers", list(&settings.username_headers)),
            ("requestheader-uid-headers", list(&settings.uid_headers)),
            ("requestheader-group-headers", list(&settings.group_headers)),
            ("requestheader-extra-headers-prefix", list(&settings.extra_prefixes)),
        ]
    }

    /// Whom the proxy names; `None` when nobody is named.
    pub(super) fn ask(
        &self,
        peer: &PeerCertificate,
        headers: &HeaderMap,
    ) -> Result<Option<Identity>, String> {
        self.trusted.load().verify(peer)?;
        let name = peer.common_name();
        let allowed = &self.settings.allowed_names;
        if !allowed.is_empty() && !allowed.contains(&name) {
            return Err(format!("x509: subject with cn={name} is not in the allowed list"));
        }
        Ok(named(&self.settings, headers))
    }
}

fn trusted(file: &Watched) -> Result<Trusted, String> {
    Trusted::new(file.content().to_string()).map_err(|why| format!("{}: {why}", file.path().display()))
}

/// Who stands in the headers.
fn named(settings: &RequestHeader, headers: &HeaderMap) -> Option<Identity> {
    let values = |name: &str| -> Vec<String> {
        let all = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        all.filter(|text| !text.is_empty()).map(str::to_owned).collect()
    };
    let first = |names: &[String]| names.iter().find_map(|name| values(name).into_iter().next());
    let name = first(&settings.username_headers)?;
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for prefix in &settings.extra_prefixes {
        let prefix = prefix.to_lowercase();
        for (header, value) in headers {
            let Some(key) = header.as_str().strip_prefix(&prefix) else { continue };
            let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
            extra.entry(key).or_default().extend(value.to_str().ok().map(str::to_owned));
        }
    }
    Some(Identity {
        name,
        uid: first(&settings.uid_headers).unwrap_or_default(),
        groups: settings.group_headers.iter().flat_map(|name| values(name)).collect(),
        extra,
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn headers_name_user_groups_and_extra() {
        let texts = |all: &[&str]| all.iter().map(|t| (*t).to_owned()).collect();
        let settings = RequestHeader {
            username_headers: texts(&["X-Remote-User", "X-Other"]),
            group_headers: texts(&["X-Remote-Group"]),
            uid_headers: texts(&["X-Remote-Uid"]),
            extra_prefixes: texts(&["X-Remote-Extra-"]),
            ..RequestHeader::default()
        };
        let mut headers = HeaderMap::new();
        assert_eq!(named(&settings, &headers), None);
        for (name, value) in [
            ("x-other", "ann"),
            ("x-remote-group", "a"),
            ("x-remote-group", "b"),
            ("x-remote-uid", "7"),
            ("x-remote-extra-example.com%2fscopes", "s"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let found = named(&settings, &headers).unwrap();
        assert_eq!((found.name.as_str(), found.uid.as_str()), ("ann", "7"));
        assert_eq!(found.groups, ["a", "b"]);
        assert_eq!(found.extra["example.com/scopes"], ["s"]);
    }
}
