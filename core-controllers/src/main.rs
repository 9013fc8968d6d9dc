//! The controllers as a program, for a cluster that is there already.

use std::{io::IsTerminal, net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use windlass_controllers::{Options, RunOptions};

/// The built-in Kubernetes controllers, each able to take over from its upstream twin.
#[derive(Parser)]
#[command(name = "windlass-controllers", version)]
struct Flags {
    /// The kubeconfig of the cluster; without it, the environment's or the pod's own.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Which controllers run: `*` for all, a name to add one, `-name` to take one away.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "*", allow_hyphen_values = true)]
    controllers: Vec<String>,
    /// Run the scheduler, too.
    #[arg(long)]
    scheduler: bool,
    /// Work only while holding the lease kube-controller-manager in kube-system (the scheduler: kube-scheduler).
    #[arg(long)]
    leader_elect: bool,
    /// A file with the CA that pods verify the API server with; by default the one of the kubeconfig.
    #[arg(long, value_name = "FILE")]
    root_ca_file: Option<PathBuf>,
    /// Serve health and metrics here, such as 127.0.0.1:10257.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// How many objects each controller works on at a time.
    #[arg(long, default_value_t = Options::default().workers)]
    workers: usize,
    /// How many seconds a node may be silent before it is not ready.
    #[arg(long, default_value_t = Options::default().node_monitor_grace.as_secs())]
    node_monitor_grace_period: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let flags = Flags::parse();
    log();
    match run(flags).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("windlass-controllers: {}", windlass::sentence(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: Flags) -> anyhow::Result<()> {
    let config = config(&flags).await?;
    let root_ca = root_ca(&flags, &config)?;
    let client = Client::try_from(config).context("the client cannot be set up")?;
    let run = RunOptions {
        controllers: flags.controllers,
        scheduler: flags.scheduler,
        leader_elect: flags.leader_elect.then(identity),
        admin: flags.admin,
        seed: None,
        options: Options {
            workers: flags.workers.max(1),
            node_monitor_grace: std::time::Duration::from_secs(flags.node_monitor_grace_period),
            root_ca,
        },
    };
    windlass_controllers::run(client, run, windlass::told_to_stop())
        .await
        .map_err(|error| anyhow::anyhow!(error))
}

/// Logs for people on a terminal, and as JSON otherwise.
fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        log.init();
    } else {
        log.json().init();
    }
}

async fn config(flags: &Flags) -> anyhow::Result<Config> {
    let mut config = match &flags.kubeconfig {
        None => Config::infer().await.context("no cluster was named: use --kubeconfig")?,
        Some(file) => {
            let read = Kubeconfig::read_from(file);
            let kubeconfig =
                read.with_context(|| format!("{} cannot be read as a kubeconfig", file.display()))?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?
        }
    };
    // A watch is silent for minutes; the framework has its own limits.
    config.read_timeout = None;
    Ok(config)
}

/// The CA in PEM: from its file, or from the kubeconfig.
fn root_ca(flags: &Flags, config: &Config) -> anyhow::Result<Option<String>> {
    if let Some(file) = &flags.root_ca_file {
        let pem = std::fs::read_to_string(file);
        return pem.map(Some).with_context(|| format!("{} cannot be read", file.display()));
    }
    let Some(certificates) = &config.root_cert else { return Ok(None) };
    Ok(Some(certificates.iter().map(|der| pem(der)).collect()))
}

fn pem(der: &[u8]) -> String {
    let text = base64(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|l| std::str::from_utf8(l).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn base64(der: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(der)
}

/// Who holds the lease: this host and process, and something no other has.
fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let unique = windlass::random::Source::from_entropy().next_u64();
    format!("{}_{}-{unique:016x}", host.trim(), std::process::id())
}
