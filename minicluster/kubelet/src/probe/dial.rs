//! The probes that dial the pod: HTTP and HTTPS, TCP, gRPC health. Certificates are not verified, as upstream's are
//! not: a probe asks whether something answers, not who.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{Container, GRPCAction, HTTPGetAction, HTTPHeader, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Bytes of an answer that are read.
const BODY: usize = 10 * 1024;
/// Redirects followed on the same host.
const REDIRECTS: usize = 10;

/// Runs a network probe once against the pod's address. The caller bounds it in time.
pub(crate) async fn probe(spec: &Container, ip: &str, probe: &Probe) -> Result<(), String> {
    if let Some(action) = &probe.http_get {
        return http_get(spec, ip, action).await.map(drop);
    }
    if let Some(action) = &probe.tcp_socket {
        let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(ip);
        let port = port(spec, &action.port)?;
        return TcpStream::connect((host, port)).await.map(drop).map_err(|e| dialled(host, port, &e));
    }
    if let Some(action) = &probe.grpc {
        return grpc(ip, action).await;
    }
    Err("missing probe handler".into())
}

/// Why nobody answered, as Go's dialler says it.
fn dialled(host: &str, port: u16, error: &std::io::Error) -> String {
    let why = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {host}:{port}: {why}")
}

/// A port by number, or by its name in the container.
pub(crate) fn port(spec: &Container, wanted: &IntOrString) -> Result<u16, String> {
    let number = match wanted {
        IntOrString::Int(n) => Some(*n),
        IntOrString::String(name) => {
            let named = spec.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            named.map(|p| p.container_port).or_else(|| name.parse().ok())
        }
    };
    number
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n > 0)
        .ok_or_else(|| format!("invalid port: {wanted:?}"))
}

/// An HTTP GET, redirects followed while they stay on the host; the body's beginning.
pub(crate) async fn http_get(spec: &Container, ip: &str, action: &HTTPGetAction) -> Result<Bytes, String> {
    let https = action.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https"));
    let scheme = if https { "https" } else { "http" };
    let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(ip);
    let port = port(spec, &action.port)?;
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let path = action.path.as_deref().unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let mut uri: Uri = format!("{scheme}://{authority}{path}").parse().map_err(|e| format!("{e}"))?;
    for _ in 0..REDIRECTS {
        let reply = get(&uri, action.http_headers.as_deref().unwrap_or_default()).await?;
        let status = reply.status();
        if !status.is_redirection() {
            let body = Limited::new(reply.into_body(), BODY)
                .collect()
                .await
                .map(http_body_util::Collected::to_bytes)
                .unwrap_or_default();
            if status.as_u16() < 400 {
                return Ok(body);
            }
            return Err(format!("HTTP probe failed with statuscode: {}", status.as_u16()));
        }
        match redirect(&uri, &reply) {
            Some(next) if next.host() == uri.host() => uri = next,
            // Upstream takes a redirect to another host for success, with a warning.
            _ => return Ok(Bytes::new()),
        }
    }
    Err("stopped after 10 redirects".into())
}

fn redirect(from: &Uri, reply: &Response<Incoming>) -> Option<Uri> {
    let target = reply.headers().get(header::LOCATION)?.to_str().ok()?;
    if target.contains("://") {
        return target.parse().ok();
    }
    let path = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    format!("{}://{}{path}", from.scheme_str()?, from.authority()?).parse().ok()
}

async fn get(uri: &Uri, headers: &[HTTPHeader]) -> Result<Response<Incoming>, String> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let https = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
    let tcp = TcpStream::connect((host, port))
        .await
        .map_err(|e| format!("Get \"{uri}\": {}", dialled(host, port, &e)))?;
    let mut request = Request::builder()
        .method(Method::GET)
        .uri(uri.path_and_query().map_or("/", |p| p.as_str()))
        .body(Full::<Bytes>::default())
        .map_err(|e| e.to_string())?;
    let fields = request.headers_mut();
    for h in headers {
        if let (Ok(name), Ok(value)) =
            (header::HeaderName::try_from(&h.name), header::HeaderValue::try_from(&h.value))
        {
            fields.append(name, value);
        }
    }
    let set = |fields: &mut http::HeaderMap, name, value: &str| {
        if let (false, Ok(value)) = (fields.contains_key(&name), header::HeaderValue::try_from(value)) {
            fields.insert(name, value);
        }
    };
    set(fields, header::HOST, uri.authority().map_or("", |a| a.as_str()));
    set(fields, header::USER_AGENT, "kube-probe/1.36");
    set(fields, header::ACCEPT, "*/*");
    if !https {
        return exchange(tcp, request).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
    let tls =
        tokio_rustls::TlsConnector::from(anyone()?).connect(name, tcp).await.map_err(|e| e.to_string())?;
    exchange(tls, request).await
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|e| e.to_string())
}

/// One `grpc.health.v1.Health/Check`. Its messages are two fields, written and read here by hand.
async fn grpc(ip: &str, action: &GRPCAction) -> Result<(), String> {
    let port = u16::try_from(action.port).map_err(|e| e.to_string())?;
    let service = action.service.as_deref().unwrap_or_default();
    let refused =
        |e: &dyn std::fmt::Display| format!("timeout: failed to connect service \"{ip}:{port}\": {e}");
    let tcp = TcpStream::connect((ip, port)).await.map_err(|e| refused(&e))?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp))
            .await
            .map_err(|e| refused(&e))?;
    tokio::spawn(connection);
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        message.push(u8::try_from(service.len()).map_err(|_| "the service name is too long".to_owned())?);
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    framed.extend_from_slice(&message);
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{host}:{port}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(Bytes::from(framed)))
        .map_err(|e| e.to_string())?;
    let reply = sender.send_request(request).await.map_err(|e| refused(&e))?;
    let early = reply.headers().get("grpc-status").cloned();
    let body = Limited::new(reply.into_body(), BODY).collect().await.map_err(|e| e.to_string())?;
    let status = early.or_else(|| body.trailers().and_then(|t| t.get("grpc-status").cloned()));
    if let Some(status) = status.filter(|s| s != "0") {
        return Err(format!(
            "error: health rpc failed: rpc error: code = {}",
            status.to_str().unwrap_or("?")
        ));
    }
    match serving(&body.to_bytes()) {
        1 => Ok(()),
        other => Err(format!("service unhealthy (responded with {:?})", health_name(other))),
    }
}

/// Field 1 of the health answer behind its five framing bytes.
fn serving(frame: &[u8]) -> u8 {
    match frame.get(5..7) {
        Some([0x08, value]) => *value,
        _ => 0,
    }
}

fn health_name(status: u8) -> &'static str {
    match status {
        1 => "SERVING",
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    }
}

/// TLS without verification.
fn anyone() -> Result<Arc<rustls::ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn answering(answer: &'static str) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 2048];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        port
    }

    fn get_probe(port: u16) -> Probe {
        serde_json::from_value(serde_json::json!({"httpGet": {"port": port, "path": "/healthz"}})).unwrap()
    }

    #[tokio::test]
    async fn http_answers_below_400_are_well() {
        let spec = Container::default();
        let ok = answering("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(probe(&spec, "127.0.0.1", &get_probe(ok)).await, Ok(()));
        let bad = answering("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n").await;
        let error = probe(&spec, "127.0.0.1", &get_probe(bad)).await.unwrap_err();
        assert_eq!(error, "HTTP probe failed with statuscode: 500");
        let away = answering(
            "HTTP/1.1 302 Found\r\nlocation: http://elsewhere.example/\r\ncontent-length: 0\r\n\r\n",
        )
        .await;
        assert_eq!(probe(&spec, "127.0.0.1", &get_probe(away)).await, Ok(()));
    }

    #[tokio::test]
    async fn tcp_asks_only_for_a_listener() {
        let port = answering("").await;
        let by_name: Container = serde_json::from_value(
            serde_json::json!({"name": "c", "ports": [{"name": "web", "containerPort": port}]}),
        )
        .unwrap();
        let tcp: Probe = serde_json::from_value(serde_json::json!({"tcpSocket": {"port": "web"}})).unwrap();
        assert_eq!(probe(&by_name, "127.0.0.1", &tcp).await, Ok(()));
        assert!(
            probe(&Container::default(), "127.0.0.1", &tcp).await.unwrap_err().starts_with("invalid port")
        );
    }
}
