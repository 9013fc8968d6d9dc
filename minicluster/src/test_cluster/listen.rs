//! A door for programs in any language: a test's cluster over HTTPS, with a kubeconfig.
//!
//! What comes in here is answered like at any API server: with a client certificate, a token, or as a stranger. Faults
//! do not reach it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use minicluster_apiserver::server::{self, Listener, Tls};
use tokio::net::TcpListener;

use super::TestCluster;
use crate::{kubeconfig, pki};

/// How long requests in flight may take when the cluster ends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// A socket at which a cluster is served until it ends.
#[derive(Clone, Debug)]
pub struct Listening {
    address: SocketAddr,
    kubeconfig: String,
}

impl Listening {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A kubeconfig for somebody who may do anything.
    pub fn kubeconfig(&self) -> &str {
        &self.kubeconfig
    }

    /// Writes the kubeconfig to a file that nobody else may read.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_kubeconfig(&self, path: &Path) -> Result<(), pki::PkiError> {
        pki::write_private(path, &self.kubeconfig)
    }
}

impl TestCluster {
    /// Serves the cluster over HTTPS at an address, `127.0.0.1:0` for any free port. Time has to be real for that: a
    /// paused clock does not wait for sockets. A server that is restarted later is not served here any more.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn listen(&self, address: SocketAddr) -> io::Result<Listening> {
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let addresses: [IpAddr; 1] = [address.ip()];
        let identity = self.pki.server("kube-apiserver", &names.map(str::to_owned), &addresses);
        let (chain, key) = identity.map_err(io::Error::other)?.chain();
        let tls =
            Tls { chain, key, client_roots: self.pki.roots() }.into_config().map_err(io::Error::other)?;
        let admin = self.pki.client("kubernetes-admin", &["system:masters"]).map_err(io::Error::other)?;
        let url = format!("https://{address}");
        let kubeconfig = kubeconfig::render(&self.pki, &url, "kubernetes-admin", &admin);
        let (api, stop) = (Arc::clone(&self.api), self.stop.clone());
        self.tasks.lock().spawn(async move {
            let listener = Listener::open(socket);
            if let Err(error) = server::serve(api, listener, tls, stop.cancelled_owned(), DRAIN_TIMEOUT).await
            {
                tracing::error!(%error, "the test cluster stopped listening");
            }
        });
        Ok(Listening { address, kubeconfig })
    }
}
