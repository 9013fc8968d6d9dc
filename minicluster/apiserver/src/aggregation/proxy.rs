//! Requests handed on to the server that answers for them: streams, watches and upgrades alike.
//!
//! Who asks is told in `X-Remote-*` headers; what a client wrote into such headers itself never gets through.
//! Source: `k8s.io/kube-aggregator/pkg/apiserver/handler_proxy.go`.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use super::{Settings, Target};
use crate::{
    api::Api,
    authn::Identity,
    body::{self, Body},
    nodes::{self, Io},
    services,
    status::ApiResult,
};

/// Marks an answer that is another server's, and is not to be touched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Foreign;

/// What a header's name may not hold, and the mark of what stands for it.
const KEY: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'(')
    .add(b')')
    .add(b',')
    .add(b'/')
    .add(b':')
    .add(b';')
    .add(b'<')
    .add(b'=')
    .add(b'>')
    .add(b'?')
    .add(b'@')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'{')
    .add(b'}')
    .add(b'%');

/// Answers a request by another server.
///
/// # Errors
/// None today: what goes wrong on the way is told as upstream does, as text.
pub(crate) async fn forward(
    api: &Arc<Api>,
    target: &Target,
    user: &Identity,
    mut request: Request<Body>,
) -> ApiResult<Response<Body>> {
    let unavailable = |text: String| {
        let mut response = body::text(StatusCode::SERVICE_UNAVAILABLE, format!("{text}\n"));
        response.extensions_mut().insert(Foreign);
        Ok(response)
    };
    if !target.available {
        return unavailable("service unavailable".to_owned());
    }
    identify(request.headers_mut(), user);
    let uri = request.uri().path_and_query().map_or("/", |uri| uri.as_str()).to_owned();
    let (stream, host) = match connect(api, target).await {
        Ok(connected) => connected,
        Err(error) => {
            tracing::warn!(
                service = target.service,
                namespace = target.namespace,
                error,
                "an extension server is not there"
            );
            return unavailable(error);
        }
    };
    match nodes::forward(stream, &host, &uri, request).await {
        Ok(mut response) => {
            response.extensions_mut().insert(Foreign);
            Ok(response)
        }
        Err(error) => unavailable(error.message),
    }
}

/// Says who asks.
pub(super) fn identify(headers: &mut HeaderMap, user: &Identity) {
    let claims = |name: &HeaderName| {
        let name = name.as_str();
        name.starts_with("x-remote-") || name.starts_with("impersonate-")
    };
    let claimed: Vec<HeaderName> = headers.keys().filter(|name| claims(name)).cloned().collect();
    for name in claimed {
        headers.remove(name);
    }
    let mut add = |name: &str, value: &str| {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) else {
            return;
        };
        headers.append(name, value);
    };
    add("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid);
    }
    for group in &user.groups {
        add("x-remote-group", group);
    }
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", utf8_percent_encode(key, KEY)).to_lowercase();
        values.iter().for_each(|value| add(&name, value));
    }
}

/// A connection to a ready endpoint of the server's Service, and the name it goes by.
pub(super) async fn connect(api: &Api, target: &Target) -> Result<(Box<dyn Io>, String), String> {
    let (ip, port) = services::endpoint_of_port(api, &target.namespace, &target.service, target.port)
        .ok_or_else(|| format!("no endpoints available for service \"{}\"", target.service))?;
    let tls = target.tls.get_or_init(|| tls(target, &api.aggregation.settings)).clone()?;
    let host = format!("{}.{}.svc", target.service, target.namespace);
    let named = u16::try_from(target.port).unwrap_or_default();
    let tcp = api.config.pipes.connect(&host, named, || Ok((ip, port))).await;
    let tcp = tcp.map_err(|error| format!("error dialing backend: {error}"))?;
    let name = ServerName::try_from(host.clone()).map_err(|e| e.to_string())?;
    let stream =
        tokio_rustls::TlsConnector::from(tls).connect(name, tcp).await.map_err(|e| format!("tls: {e}"))?;
    Ok((Box::new(stream), host))
}

fn tls(target: &Target, settings: &Settings) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = if target.insecure {
        builder.dangerous().with_custom_certificate_verifier(nodes::unverified::verifier(provider))
    } else {
        let pem = match target.ca_bundle.as_str() {
            "" => std::fs::read("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default(),
            bundle => STANDARD.decode(bundle).map_err(|e| format!("caBundle: {e}"))?,
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
        builder.with_root_certificates(roots)
    };
    let config = match settings.client.as_deref() {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(|e| format!("the front proxy's certificate: {e}"))?,
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_server_says_who_asks() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "root"),
            ("x-remote-group", "system:masters"),
            ("impersonate-user", "x"),
            ("accept", "a"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let mut user = Identity::new("jane", &["dev"]);
        user.uid = "u".to_owned();
        user.extra.insert("Example.com/Key%".to_owned(), vec!["1".to_owned(), "2".to_owned()]);
        identify(&mut headers, &user);
        let mut all: Vec<String> =
            headers.iter().map(|(k, v)| format!("{k}: {}", v.to_str().unwrap())).collect();
        all.sort();
        assert_eq!(
            all,
            [
                "accept: a",
                "x-remote-extra-example.com%2fkey%25: 1",
                "x-remote-extra-example.com%2fkey%25: 2",
                "x-remote-group: dev",
                "x-remote-group: system:authenticated",
                "x-remote-uid: u",
                "x-remote-user: jane",
            ]
        );
    }
}
