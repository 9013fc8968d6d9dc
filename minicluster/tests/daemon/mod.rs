//! A server in a process of its own that can be killed, over data that stays.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

/// How long a server may take to start, and clients to notice that it is gone.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The server's process, over the same data every time.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) client: Client,
}

impl Server {
    /// Starts an API server alone over a durable store, with more flags.
    pub(crate) async fn start(dir: &Path, flags: &[&str]) -> Self {
        let mut child = command(dir, flags).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = timeout(PATIENCE, lines.next_line()).await.expect("the server does not start").unwrap();
        assert!(first.as_deref().is_some_and(|line| line.starts_with("API ready")), "{first:?}");
        let kubeconfig = Kubeconfig::read_from(dir.join("admin.kubeconfig")).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        Self { child, client: Client::try_from(config).unwrap() }
    }
}

/// The command that starts such a server.
#[allow(dead_code, reason = "only some tests start one that fails")]
pub(crate) fn command(dir: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_minicluster"));
    command
        .args(["up", "--components", "apiserver", "--store", "durable", "--secure-port", "0"])
        .arg("--data-dir")
        .arg(dir)
        .args(flags)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// A folder that is gone with the test, unless the test fails.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    /// One that no other test uses.
    pub(crate) fn new(name: &str, seed: u64) -> Self {
        let name = format!("windlass-{name}-{}-{seed:x}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}
