//! The front door with a socket: TLS 1.2 and 1.3, HTTP/1.1 and HTTP/2, upgrades.
//!
//! An accept loop of our own keeps the client's certificate with its connection, which server frameworks hide.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustls::{
    CipherSuite, RootCertStore, ServerConfig, SupportedCipherSuite,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore},
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    api::Api,
    audit,
    authn::{AnyHolder, PeerCertificate},
    body::BodyError,
    pipeline,
};

/// How long a client may take for its TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 20_000;

/// The largest set of request headers.
const HEADER_BYTES_MAX: u32 = 64 << 10;

/// Requests at once on one HTTP/2 connection, as upstream.
const STREAMS_MAX: u32 = 250;

/// What TLS needs.
pub struct Tls {
    /// The server's certificate and its issuers.
    pub chain: Vec<CertificateDer<'static>>,
    /// The server's key.
    pub key: PrivateKeyDer<'static>,
    /// Clients are told of these CAs; whom to believe is decided at each request.
    pub client_roots: RootCertStore,
}

impl Tls {
    /// The `rustls` configuration.
    ///
    /// # Errors
    /// When certificate and key do not belong together.
    pub fn into_config(self) -> Result<ServerConfig, rustls::Error> {
        let mut provider = rustls::crypto::ring::default_provider();
        // As Go's servers prefer it, whatever the client would rather have: lists are the work of the cipher.
        let is_cheapest =
            |suite: &SupportedCipherSuite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256;
        provider.cipher_suites.sort_by_key(|suite| !is_cheapest(suite));
        let provider = Arc::new(provider);
        let verifier = Arc::new(AnyHolder::new(Arc::clone(&provider), self.client_roots.subjects()));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain, self.key)?;
        config.ignore_client_order = true;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Where connections come from.
pub struct Listener {
    /// The socket.
    pub socket: TcpListener,
    /// Who may connect; others are hung up on before a byte is read.
    pub admits: Box<dyn Fn(IpAddr) -> bool + Send>,
}

impl Listener {
    /// A socket that is open to everybody who reaches it.
    pub fn open(socket: TcpListener) -> Self {
        Self { socket, admits: Box::new(|_| true) }
    }
}

/// Serves until `shutdown` resolves, then lets requests in flight end for at most `grace`.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(
    api: Arc<Api>,
    listener: Listener,
    tls: ServerConfig,
    shutdown: impl Future<Output = ()> + Send,
    grace: Duration,
) -> io::Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    tokio::pin!(shutdown);
    // Once it is known that the end is near, requests are still taken for a while: load balancers look at `/readyz`.
    let mut end: Option<Instant> = None;
    loop {
        let permit = Arc::clone(&connections).acquire_owned().await.map_err(io::Error::other)?;
        let ending = async {
            match end {
                Some(end) => sleep_until(end).await,
                None => shutdown.as_mut().await,
            }
        };
        let accepted = tokio::select! {
            biased;
            () = ending => {
                if end.is_none() {
                    api.stop_being_ready();
                    end = Some(Instant::now() + api.config.serving.shutdown_delay);
                    continue;
                }
                break;
            }
            accepted = listener.socket.accept() => accepted,
        };
        match accepted {
            Ok((_, peer)) if !(listener.admits)(peer.ip().to_canonical()) => {
                tracing::debug!(%peer, "a connection from outside the cluster");
            }
            Ok((stream, peer)) => {
                let (api, acceptor) = (Arc::clone(&api), acceptor.clone());
                tokio::spawn(async move {
                    connection(api, acceptor, stream, peer).await;
                    drop(permit);
                });
            }
            // Out of descriptors, or the client has gone: neither is a reason to stop.
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    api.drain();
    // All are back when all connections have ended.
    let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
    let _ = timeout(grace, connections.acquire_many(all)).await;
    Ok(())
}

async fn connection(api: Arc<Api>, acceptor: TlsAcceptor, stream: TcpStream, peer: SocketAddr) {
    let _ = stream.set_nodelay(true);
    let tls = match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake error"),
        Err(_) => return tracing::debug!(%peer, "TLS handshake took too long"),
    };
    let certificate = tls.get_ref().1.peer_certificates().and_then(PeerCertificate::new);
    let mut draining = api.draining.clone();
    let goaway = Arc::new(Notify::new());
    let asked = Arc::clone(&goaway);
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let (api, certificate) = (Arc::clone(&api), certificate.clone());
        let chance = api.config.serving.goaway_chance;
        if chance > 0.0 && request.version() == http::Version::HTTP_2 && api.happens(chance) {
            asked.notify_one();
        }
        async move {
            let mut request = request.map(|b| b.map_err(BodyError::new).boxed_unsync());
            if api.audit.is_some() {
                request.extensions_mut().insert(audit::Peer(peer.ip()));
            }
            if let Some(certificate) = certificate {
                request.extensions_mut().insert(certificate);
            }
            Ok::<_, std::convert::Infallible>(pipeline::handle(api, request).await)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Some(Duration::from_secs(30)));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        .keep_alive_interval(Some(Duration::from_secs(30)));
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(tls), service).into_owned();
    tokio::pin!(serving);
    let mut leaving = false;
    loop {
        tokio::select! {
            biased;
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "a connection ended");
                }
                return;
            }
            // Requests under way come to their end, new ones go elsewhere.
            () = async { drop(draining.wait_for(|on| *on).await) }, if !leaving => leaving = true,
            () = goaway.notified(), if !leaving => leaving = true,
        }
        serving.as_mut().graceful_shutdown();
    }
}
