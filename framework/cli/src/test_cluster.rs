//! `windlass test-cluster`: a whole cluster in memory behind HTTPS on loopback, for programs in any language.
//!
//! What envtest is for Go, without downloads, and with the parts that envtest lacks: garbage collection, the end of
//! namespaces, Deployments that become available, pods that are scheduled and run (hollow ones: they do nothing). Time is
//! real here. Nothing is kept: the cluster ends with this process.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use anyhow::{Context, ensure};
use clap::Args;
use minicluster::{TestCluster, test_cluster::Listening};

/// The most nodes that are started.
const NODES: u32 = 1000;

#[derive(Args)]
pub(crate) struct Options {
    /// Where it listens, on loopback; port 0 is any that is free
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Write a kubeconfig for somebody who may do anything
    #[arg(long, value_name = "FILE")]
    write_kubeconfig: Option<PathBuf>,
    /// The controllers, as in kube-controller-manager; `none` for an API server alone, as in envtest
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "*", allow_hyphen_values = true)]
    controllers: Vec<String>,
    /// Hollow nodes, hollow-0 and so on; with any of them there is a scheduler, too
    #[arg(long, default_value_t = 1)]
    nodes: u32,
    /// What everything random is drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run this with KUBECONFIG set, end the cluster when it ends, and exit as it did
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    ensure!(
        options.listen.ip().is_loopback(),
        "{} is no address on loopback, and nothing here is for others",
        options.listen
    );
    ensure!(options.nodes <= NODES, "{} nodes are more than {NODES}", options.nodes);
    let told = options.write_kubeconfig.is_some() || !options.command.is_empty();
    ensure!(told, "say where to write the kubeconfig (--write-kubeconfig FILE), or what to run (-- COMMAND)");
    let controllers = controllers(&options.controllers)?;
    let cluster = start(&controllers, options.nodes, options.seed).await;
    let listening = cluster.listen(options.listen).await.with_context(|| options.listen.to_string())?;
    let kubeconfig = Kubeconfig::write(&listening, options.write_kubeconfig.as_deref())?;
    if options.command.is_empty() {
        println!(
            "A cluster is at https://{} (kubeconfig: {})",
            listening.address(),
            kubeconfig.path.display()
        );
        windlass::told_to_stop().await;
        return Ok(());
    }
    let status = play(options.command.clone(), kubeconfig.path.clone()).await?;
    drop(kubeconfig);
    match status.code() {
        Some(0) => Ok(()),
        code => Err(Ended { program: options.command[0].clone(), status, code: code.unwrap_or(1) }.into()),
    }
}

/// A cluster in memory; where there are nodes, there is a scheduler.
pub(crate) async fn start(controllers: &[&str], nodes: u32, seed: u64) -> TestCluster {
    let mut builder = TestCluster::builder().controllers(controllers).seed(seed);
    if nodes > 0 {
        builder = builder.scheduler().hollow_nodes(nodes);
    }
    builder.start().await
}

/// The chosen controllers; a name that is none is told before anything is started.
fn controllers(list: &[String]) -> anyhow::Result<Vec<&str>> {
    if list == ["none"] {
        return Ok(Vec::new());
    }
    windlass_controllers::table::select(list)?;
    Ok(list.iter().map(String::as_str).filter(|name| !name.is_empty()).collect())
}

/// A kubeconfig; one that nobody asked for goes when it is dropped.
struct Kubeconfig {
    path: PathBuf,
    passing: bool,
}

impl Kubeconfig {
    fn write(listening: &Listening, wanted: Option<&Path>) -> anyhow::Result<Self> {
        let passing = wanted.is_none();
        let own = || std::env::temp_dir().join(format!("windlass-{}.kubeconfig", listening.address().port()));
        let path = wanted.map_or_else(own, Path::to_owned);
        listening.write_kubeconfig(&path)?;
        // Programs that are run elsewhere are told the whole path.
        Ok(Self { path: path.canonicalize()?, passing })
    }
}

impl Drop for Kubeconfig {
    fn drop(&mut self) {
        if self.passing {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A command that did not end well.
#[derive(Debug, thiserror::Error)]
#[error("{program} ended with {status}")]
pub(crate) struct Ended {
    program: String,
    status: ExitStatus,
    /// What it exited with.
    pub(crate) code: i32,
}

/// Runs a command on the cluster. Go's envtest takes an existing cluster when it is told so.
async fn play(command: Vec<String>, kubeconfig: PathBuf) -> anyhow::Result<ExitStatus> {
    let program = command[0].clone();
    let run = move || {
        let mut child = Command::new(&command[0]);
        child.args(&command[1..]).env("KUBECONFIG", kubeconfig).env("USE_EXISTING_CLUSTER", "true").status()
    };
    let status = tokio::task::spawn_blocking(run).await?;
    status.with_context(|| format!("{program} cannot be run"))
}
