//! Requests that this server makes of others: webhooks, token issuers, extension servers. One HTTPS exchange with a
//! deadline, to a URL or to a Service of the cluster.

mod kubeconfig;

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::{api::Api, body::BODY_BYTES_MAX, object, services};

/// Where another server listens, and how it proves itself.
#[derive(Debug)]
pub(crate) struct Backend {
    target: Target,
    tls: Result<Arc<ClientConfig>, String>,
    timeout: Duration,
    /// How this server proves itself, beyond TLS.
    headers: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Debug)]
enum Target {
    Url(String),
    Service { namespace: String, name: String, port: i64, path: String },
}

impl Backend {
    /// What a `WebhookClientConfig` says: `url` or `service`, and `caBundle`.
    pub(crate) fn of_client_config(config: &Value, timeout: Duration) -> Self {
        let target = match object::at(config, &["service"]) {
            Some(service) => Target::Service {
                namespace: object::text(service, &["namespace"]).to_owned(),
                name: object::text(service, &["name"]).to_owned(),
                port: object::number(service, &["port"]).unwrap_or(443),
                path: object::text(service, &["path"]).to_owned(),
            },
            None => Target::Url(object::text(config, &["url"]).to_owned()),
        };
        Self { target, tls: tls(object::text(config, &["caBundle"])), timeout, headers: Vec::new() }
    }

    /// The URL as errors show it.
    fn url(&self) -> String {
        let seconds = self.timeout.as_secs();
        match &self.target {
            Target::Url(url) => {
                let mark = if url.contains('?') { '&' } else { '?' };
                format!("{url}{mark}timeout={seconds}s")
            }
            Target::Service { namespace, name, port, path } => {
                format!(
                    "https://{name}.{namespace}.svc:{port}/{}?timeout={seconds}s",
                    path.trim_start_matches('/')
                )
            }
        }
    }
}

/// Trusts the CAs of a bundle, or, without one, those of the host.
fn tls(bundle: &str) -> Result<Arc<ClientConfig>, String> {
    let pem = match bundle {
        "" => std::fs::read("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default(),
        bundle => STANDARD.decode(bundle).map_err(|e| format!("caBundle: {e}"))?,
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Posts JSON and returns the body of the answer.
///
/// # Errors
/// A sentence, as Go's HTTP client would say it.
pub(crate) async fn post(api: &Api, backend: &Backend, agent: &str, body: &Value) -> Result<Bytes, String> {
    let url = backend.url();
    let failed = |why: String| format!("Post \"{url}\": {why}");
    match timeout(backend.timeout, exchange(api, backend, agent, &url, body)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => Err(failed("context deadline exceeded".to_owned())),
    }
}

async fn exchange(
    api: &Api,
    backend: &Backend,
    agent: &str,
    url: &str,
    body: &Value,
) -> Result<Bytes, String> {
    let uri: Uri = url.parse().map_err(|e| format!("invalid URL: {e}"))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let address = match &backend.target {
        Target::Url(_) => (host.clone(), uri.port_u16().unwrap_or(443)),
        Target::Service { namespace, name, port, .. } => {
            services::endpoint_of_port(api, namespace, name, *port)
                .ok_or_else(|| format!("no endpoints available for service \"{name}\""))?
        }
    };
    let connector = TlsConnector::from(backend.tls.clone()?);
    let tcp = TcpStream::connect(&address)
        .await
        .map_err(|e| format!("dial tcp {}:{}: {e}", address.0, address.1))?;
    let name = ServerName::try_from(host).map_err(|e| e.to_string())?;
    let stream = connector.connect(name, tcp).await.map_err(|e| format!("tls: {e}"))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    let body = serde_json::to_vec(body).expect("JSON into memory");
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::post(path)
        .header(header::HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json, */*")
        .header(header::USER_AGENT, agent);
    for (name, value) in &backend.headers {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(Bytes::from(body))).map_err(|e| e.to_string())?;
    let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let status = answer.status();
    let bytes =
        Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await.map_err(|e| e.to_string())?;
    if status != StatusCode::OK {
        return Err(format!("the server answered {status}"));
    }
    Ok(bytes.to_bytes())
}
