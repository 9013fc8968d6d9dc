//! Servers of the same process that listen without a socket: what a test's webhooks are reached by. Nobody listens
//! unless somebody asked for it, and then only what is dialled by exactly that name gets there.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tokio::{
    io::{DuplexStream, duplex},
    sync::mpsc,
};

use crate::nodes::{self, Io};

/// Bytes under way in each direction.
const BUFFER: usize = 64 << 10;

/// Connections that wait to be accepted.
const BACKLOG: usize = 64;

/// Listeners by host and port. Clones share them.
#[derive(Clone, Default)]
pub struct Pipes(Arc<Mutex<BTreeMap<(String, u16), mpsc::Sender<DuplexStream>>>>);

impl Pipes {
    /// Listens as this host; who listened before hears nothing more.
    pub fn listen(&self, host: &str, port: u16) -> mpsc::Receiver<DuplexStream> {
        let (send, receive) = mpsc::channel(BACKLOG);
        self.0.lock().insert((host.to_owned(), port), send);
        receive
    }

    /// A connection to who listens as this host; `None` when nobody does.
    fn dial(&self, host: &str, port: u16) -> Option<Result<DuplexStream, String>> {
        let listener = self.0.lock().get(&(host.to_owned(), port)).cloned()?;
        let (here, there) = duplex(BUFFER);
        let sent = listener.try_send(there).map(|()| here);
        Some(sent.map_err(|_| format!("dial {host}:{port}: connection refused")))
    }

    /// Connects to a host, or where `address` says if that is no host of this process.
    ///
    /// # Errors
    /// A sentence as Go's net package says it.
    pub(crate) async fn connect(
        &self,
        host: &str,
        port: u16,
        address: impl FnOnce() -> Result<(String, u16), String>,
    ) -> Result<Box<dyn Io>, String> {
        if let Some(stream) = self.dial(host, port) {
            return stream.map(|stream| Box::new(stream) as Box<dyn Io>);
        }
        let (host, port) = address()?;
        let tcp = nodes::dial(&format!("{host}:{port}"), (host.as_str(), port)).await?;
        Ok(Box::new(tcp))
    }
}
