//! Requests that this server makes of others: webhooks, token issuers, extension servers. One HTTPS exchange with a
//! deadline, to a URL or to a Service of the cluster.

mod kubeconfig;

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    time_provider::TimeProvider,
};
use serde_json::Value;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use windlass::clock;

pub(crate) use kubeconfig::roots;

use crate::{api::Api, body::BODY_BYTES_MAX, object, services};

/// Where another server listens, and how it proves itself.
#[derive(Debug)]
pub(crate) struct Backend {
    target: Target,
    tls: Result<Arc<ClientConfig>, String>,
    timeout: Duration,
    /// How this server proves itself, beyond TLS.
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The name that the server's certificate has to bear, when it is not the URL's host.
    name: Option<String>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) struct Failure {
    /// A sentence.
    pub(crate) text: String,
    /// True when the same question may be answered a little later.
    pub(crate) may_pass: bool,
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
        Self {
            target,
            tls: tls(object::text(config, &["caBundle"])),
            timeout,
            headers: Vec::new(),
            name: None,
        }
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
    let roots = match bundle {
        "" => kubeconfig::host_roots(),
        bundle => {
            let pem = STANDARD.decode(bundle).map_err(|e| format!("caBundle: {e}"))?;
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
            roots
        }
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_details(provider, Arc::new(OurTime))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Certificates are judged by the one clock of the process.
#[derive(Debug)]
struct OurTime;

impl TimeProvider for OurTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(clock::now().as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

/// Posts JSON and returns the body of the answer.
///
/// # Errors
/// A sentence, as Go's HTTP client would say it.
pub(crate) async fn post(api: &Api, backend: &Backend, agent: &str, body: &Value) -> Result<Bytes, String> {
    let url = backend.url();
    let (status, bytes) =
        send(api, backend, agent, &url, Some(body)).await.map_err(|failure| failure.text)?;
    match status {
        StatusCode::OK => Ok(bytes),
        status => Err(format!("Post \"{url}\": the server answered {status}")),
    }
}

/// Posts JSON; any success will do, and a server that is busy is told from one that refuses.
///
/// # Errors
/// [`Failure`].
pub(crate) async fn post_status(
    api: &Api,
    backend: &Backend,
    agent: &str,
    body: &Value,
) -> Result<Bytes, Failure> {
    let url = backend.url();
    let (status, bytes) = send(api, backend, agent, &url, Some(body)).await?;
    if status.is_success() {
        return Ok(bytes);
    }
    let may_pass = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    Err(Failure { text: format!("the server answered {status}"), may_pass })
}

/// Gets a document.
///
/// # Errors
/// A sentence.
pub(crate) async fn get(api: &Api, backend: &Backend, url: &str) -> Result<Bytes, String> {
    let (status, bytes) =
        send(api, backend, "kube-apiserver", url, None).await.map_err(|failure| failure.text)?;
    match status {
        StatusCode::OK => Ok(bytes),
        status => Err(format!("Get \"{url}\": the server answered {status}")),
    }
}

async fn send(
    api: &Api,
    backend: &Backend,
    agent: &str,
    url: &str,
    body: Option<&Value>,
) -> Result<(StatusCode, Bytes), Failure> {
    let verb = if body.is_some() { "Post" } else { "Get" };
    let failed = |why: String, may_pass| Failure { text: format!("{verb} \"{url}\": {why}"), may_pass };
    match timeout(backend.timeout, exchange(api, backend, agent, url, body)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(failed(error, false)),
        Err(_) => Err(failed("context deadline exceeded".to_owned(), true)),
    }
}

async fn exchange(
    api: &Api,
    backend: &Backend,
    agent: &str,
    url: &str,
    body: Option<&Value>,
) -> Result<(StatusCode, Bytes), String> {
    let uri: Uri = url.parse().map_err(|e| format!("invalid URL: {e}"))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(443);
    let address = || match &backend.target {
        Target::Url(_) => Ok((host.clone(), port)),
        Target::Service { namespace, name, port, .. } => {
            services::endpoint_of_port(api, namespace, name, *port)
                .ok_or_else(|| format!("no endpoints available for service \"{name}\""))
        }
    };
    let connector = TlsConnector::from(backend.tls.clone()?);
    let tcp = api.config.pipes.connect(&host, port, address).await?;
    let name = ServerName::try_from(backend.name.clone().unwrap_or(host)).map_err(|e| e.to_string())?;
    let stream = connector.connect(name, tcp).await.map_err(|e| format!("tls: {e}"))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder()
        .method(if body.is_some() { Method::POST } else { Method::GET })
        .uri(path)
        .header(header::HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .header(header::ACCEPT, "application/json, */*")
        .header(header::USER_AGENT, agent);
    for (name, value) in &backend.headers {
        request = request.header(name, value);
    }
    if body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let body = body.map(|body| serde_json::to_vec(body).expect("JSON into memory")).unwrap_or_default();
    let request = request.body(Full::new(Bytes::from(body))).map_err(|e| e.to_string())?;
    let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let status = answer.status();
    let bytes =
        Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await.map_err(|e| e.to_string())?;
    Ok((status, bytes.to_bytes()))
}
