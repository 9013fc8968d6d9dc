//! The way to the kubelets: requests and upgraded connections handed on, byte for byte.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional},
    net::{TcpStream, ToSocketAddrs},
    time::timeout,
};

use crate::{
    api::Api,
    body::{self, Body, BodyError},
    object,
    status::{ApiError, ApiResult},
};

/// How long a kubelet or pod may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a backend may take to begin its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Headers that belong to one hop.
const HOP_BY_HOP: [&str; 5] = ["keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer"];

/// A byte stream to a backend.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Connects to kubelets with the server's client certificate.
pub struct NodeClient {
    tls: Option<Arc<rustls::ClientConfig>>,
}

/// Where a kubelet listens.
#[derive(Debug, Clone)]
pub struct NodeAddress {
    host: String,
    port: u16,
}

impl NodeClient {
    /// With the TLS configuration that proves who the server is.
    pub fn new(tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        Self { tls }
    }

    /// Finds the kubelet of a node.
    ///
    /// # Errors
    /// 404 for an unknown node, 503 for one without an address.
    pub fn address(api: &Api, node: &str) -> ApiResult<NodeAddress> {
        let nodes = api.registry.builtin("", "v1", "nodes");
        let entry = api.store.get(&nodes.key("", node)).ok_or_else(|| ApiError::not_found(&nodes, node))?;
        let obj: Value = serde_json::from_slice(&entry.value).unwrap_or_default();
        let port = object::number(&obj, &["status", "daemonEndpoints", "kubeletEndpoint", "Port"])
            .and_then(|p| u16::try_from(p).ok())
            .unwrap_or(10250);
        let addresses = object::list(&obj, &["status", "addresses"]);
        let of_type = |wanted: &str| {
            addresses
                .iter()
                .find(|a| object::text(a, &["type"]) == wanted)
                .map(|a| object::text(a, &["address"]))
        };
        let host = of_type("InternalIP").or_else(|| of_type("ExternalIP")).or_else(|| of_type("Hostname"));
        match host {
            Some(host) => Ok(NodeAddress { host: host.to_owned(), port }),
            None => Err(ApiError::unavailable(format!("no preferred addresses found for node \"{node}\""))),
        }
    }

    /// Opens a TLS connection to a kubelet.
    ///
    /// # Errors
    /// 502-like errors as upstream words them, with code 500.
    pub async fn connect(&self, address: &NodeAddress) -> ApiResult<Box<dyn Io>> {
        let Some(tls) = &self.tls else {
            return Err(ApiError::unavailable("this server has no client certificate for kubelets"));
        };
        let at = format!("{}:{}", address.host, address.port);
        let fail = |e: &dyn std::fmt::Display| {
            ApiError::internal(format!("error dialing backend: dial tcp {at}: {e}"))
        };
        let tcp = connect_tcp(&at).await?;
        let name = ServerName::try_from(address.host.clone()).map_err(|e| fail(&e))?;
        let stream = tokio_rustls::TlsConnector::from(Arc::clone(tls))
            .connect(name, tcp)
            .await
            .map_err(|e| fail(&e))?;
        Ok(Box::new(stream))
    }
}

/// Opens a plain connection.
///
/// # Errors
/// 500 in upstream's words.
pub async fn connect_tcp(at: &str) -> ApiResult<TcpStream> {
    dial(at, at).await.map_err(|error| ApiError::internal(format!("error dialing backend: {error}")))
}

/// Opens a plain connection to an address that is shown as `at`.
///
/// # Errors
/// A sentence as Go's net package says it.
pub(crate) async fn dial(at: &str, address: impl ToSocketAddrs) -> Result<TcpStream, String> {
    let failed = |why: &dyn std::fmt::Display| format!("dial tcp {at}: {why}");
    let tcp = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let tcp = tcp.map_err(|_| failed(&"i/o timeout"))?.map_err(|e| failed(&e))?;
    tcp.set_nodelay(true).map_err(|e| failed(&e))?;
    Ok(tcp)
}

/// Opens a TLS connection to a pod or Service, whose certificate nobody vouches for.
///
/// # Errors
/// 500 in upstream's words.
pub async fn connect_unverified(host: &str, at: &str) -> ApiResult<Box<dyn Io>> {
    let tcp = connect_tcp(at).await?;
    let fail = |e: &dyn std::fmt::Display| ApiError::internal(format!("error dialing backend: {e}"));
    let name = ServerName::try_from(host.to_owned()).map_err(|e| fail(&e))?;
    let tls = tokio_rustls::TlsConnector::from(Arc::new(unverified::config()));
    Ok(Box::new(tls.connect(name, tcp).await.map_err(|e| fail(&e))?))
}

/// Sends a request to a backend and hands its answer back; an upgrade becomes a tunnel.
///
/// # Errors
/// 500 when the backend cannot be talked to.
pub fn forward<'a>(
    stream: Box<dyn Io>,
    host: &'a str,
    uri: &'a str,
    request: Request<Body>,
) -> BoxFuture<'a, ApiResult<Response<Body>>> {
    Box::pin(exchange(stream, host, uri, request))
}

async fn exchange(
    stream: Box<dyn Io>,
    host: &str,
    uri: &str,
    mut request: Request<Body>,
) -> ApiResult<Response<Body>> {
    let fail = |e: &dyn std::fmt::Display| ApiError::internal(format!("error trying to reach backend: {e}"));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| fail(&e))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to a backend ended");
        }
    });
    let upgrade = upgrade_protocol(request.headers());
    let client = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let mut outgoing = Request::new(body);
    *outgoing.method_mut() = parts.method;
    *outgoing.uri_mut() = uri.parse::<Uri>().map_err(|e| ApiError::bad_request(e.to_string()))?;
    *outgoing.headers_mut() = end_to_end(&parts.headers, upgrade.as_ref());
    let host = HeaderValue::from_str(host).map_err(|e| fail(&e))?;
    outgoing.headers_mut().insert(header::HOST, host);
    let answer = timeout(ANSWER_TIMEOUT, sender.send_request(outgoing));
    let mut response = match answer.await {
        Ok(answer) => answer.map_err(|e| fail(&e))?,
        Err(_) => return Err(ApiError::timeout("the backend did not answer in time")),
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = client
    {
        let backend = hyper::upgrade::on(&mut response);
        tokio::spawn(tunnel(client, backend));
        let (parts, _) = response.into_parts();
        return Ok(Response::from_parts(parts, body::empty()));
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(header::TRANSFER_ENCODING);
    parts.headers.remove(header::CONNECTION);
    Ok(Response::from_parts(parts, body.map_err(BodyError::new).boxed_unsync()))
}

fn upgrade_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let wants = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .any(|v| v.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade")));
    if wants { headers.get(header::UPGRADE).cloned() } else { None }
}

fn end_to_end(headers: &HeaderMap, upgrade: Option<&HeaderValue>) -> HeaderMap {
    let mut out = headers.clone();
    for name in HOP_BY_HOP {
        out.remove(name);
    }
    for name in [header::CONNECTION, header::UPGRADE, header::TRANSFER_ENCODING, header::AUTHORIZATION] {
        out.remove(name);
    }
    if let Some(protocol) = upgrade {
        out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        out.insert(header::UPGRADE, protocol.clone());
    }
    out
}

async fn tunnel(client: hyper::upgrade::OnUpgrade, backend: hyper::upgrade::OnUpgrade) {
    let joined = futures::future::try_join(client, backend).await;
    match joined {
        Ok((client, backend)) => {
            let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
            if let Err(error) = copy_bidirectional(&mut client, &mut backend).await {
                tracing::debug!(%error, "a tunnel ended");
            }
        }
        Err(error) => tracing::debug!(%error, "a tunnel could not be opened"),
    }
}

pub(crate) mod unverified {
    //! TLS without a check of the peer: what the API's proxy to pods and Services does, as upstream documents.

    use std::sync::Arc;

    use rustls::{
        ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, ServerName, UnixTime},
    };

    #[derive(Debug)]
    struct Anybody(Arc<CryptoProvider>);

    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }

    /// Believes anybody.
    pub(crate) fn verifier(provider: Arc<CryptoProvider>) -> Arc<dyn ServerCertVerifier> {
        Arc::new(Anybody(provider))
    }

    pub(super) fn config() -> ClientConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("ring has the default protocols")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth()
    }
}
