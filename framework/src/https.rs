//! The HTTPS servers of a process, webhooks and protected metrics: connections by a socket or handed over, TLS with
//! certificates that are renewed under living servers, HTTP/2 and HTTP/1.1. What is answered is the caller's.

use std::{collections::BTreeMap, convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustls::{ServerConfig, crypto::ring::default_provider};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{Mutex, Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use crate::{BoxError, certificates::Current};

/// The longest wait for a handshake, and for the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that did not come by a socket.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Connections that did not come by a socket, as a test's cluster hands them over.
pub type Connections = mpsc::Receiver<Box<dyn Io>>;

/// Connections that several starts take turns at.
type Shared = Arc<Mutex<Connections>>;

/// Where connections come from.
#[derive(Clone)]
pub(crate) enum Listen {
    Address(SocketAddr),
    Connections(Shared),
}

impl Listen {
    pub(crate) fn to(connections: Connections) -> Self {
        Self::Connections(Arc::new(Mutex::new(connections)))
    }
}

/// Connections for the servers behind each Service, in the place of their sockets.
#[derive(Clone, Default)]
pub(crate) struct Doors(Arc<parking_lot::Mutex<BTreeMap<String, Shared>>>);

impl Doors {
    pub(crate) fn put(&self, service: &str, connections: Connections) {
        self.0.lock().insert(service.to_owned(), Arc::new(Mutex::new(connections)));
    }

    pub(crate) fn of(&self, service: &str) -> Option<Listen> {
        self.0.lock().get(service).cloned().map(Listen::Connections)
    }
}

/// Serves for ever, at most `at_once` connections at a time; more wait to be accepted.
pub(crate) async fn serve<F>(
    listen: &Listen,
    current: &Arc<Current>,
    at_once: usize,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) -> Result<(), BoxError>
where
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let mut tls = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(current) as _);
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let slots = Arc::new(Semaphore::new(at_once));
    let mut connections = JoinSet::new();
    let socket = match listen {
        Listen::Address(address) => Some(TcpListener::bind(address).await?),
        Listen::Connections(_) => None,
    };
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await?;
        let stream: Box<dyn Io> = match (&socket, listen) {
            (Some(socket), _) => match socket.accept().await {
                Ok((stream, _)) => Box::new(stream),
                Err(error) => {
                    tracing::debug!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            (None, Listen::Connections(connections)) => match connections.lock().await.recv().await {
                Some(stream) => stream,
                None => return Ok(()),
            },
            (None, Listen::Address(_)) => return Ok(()),
        };
        let (acceptor, answer) = (acceptor.clone(), answer.clone());
        connections.spawn(async move {
            if let Err(error) = connection(stream, acceptor, answer).await {
                tracing::debug!(error, "an HTTPS connection ended badly");
            }
            drop(slot);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn connection<F>(
    stream: Box<dyn Io>,
    acceptor: TlsAcceptor,
    answer: impl Fn(Request<Incoming>) -> F,
) -> Result<(), String>
where
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let stream = timeout(HEADER_TIMEOUT, acceptor.accept(stream)).await.map_err(|e| e.to_string())?;
    let stream = TokioIo::new(stream.map_err(|e| e.to_string())?);
    let service = service_fn(|request: Request<Incoming>| {
        let answered = answer(request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    http.serve_connection(stream, service).await.map_err(|e| e.to_string())
}
