//! The `minicluster` command.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context;
use clap::{Parser, Subcommand};
use minicluster::{
    cluster,
    node::{self, image},
    options::UpOptions,
    status, verbosity,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use windlass::CancellationToken;

#[derive(Parser)]
#[command(name = "minicluster", version, about = "A whole Kubernetes cluster in one binary")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster, or parts of one, in the foreground
    Up(Box<UpOptions>),
    /// Print the admin's kubeconfig of the cluster in a data directory
    Kubeconfig(DataDir),
    /// Show components, leases, nodes and the size of the store
    Status(DataDir),
    /// Container images without a registry
    #[command(subcommand)]
    Image(ImageCommand),
    /// Delete all pods and forget the cluster in a data directory
    Reset {
        #[command(flatten)]
        dir: DataDir,
        /// The socket of the container runtime
        #[arg(long, default_value = DEFAULT_RUNTIME)]
        container_runtime_endpoint: String,
    },
}

#[derive(clap::Args)]
struct DataDir {
    /// Where the cluster's state is kept
    #[arg(long, default_value = "/var/lib/minicluster", env = "MINICLUSTER_DATA_DIR")]
    data_dir: PathBuf,
}

#[derive(Subcommand)]
enum ImageCommand {
    /// Import an image archive (docker save or OCI layout in a tar file)
    Import {
        /// The archive
        file: PathBuf,
        /// The socket of the container runtime
        #[arg(long, default_value = DEFAULT_RUNTIME)]
        container_runtime_endpoint: String,
    },
    /// Assemble an image from a program and the libraries that it needs and import it, to try it without a registry
    Program {
        /// The program
        file: PathBuf,
        /// What to call the image
        name: String,
        /// The socket of the container runtime
        #[arg(long, default_value = DEFAULT_RUNTIME)]
        container_runtime_endpoint: String,
    },
    /// Assemble an image from this host's static busybox and import it, to try things without a registry
    Busybox {
        /// What to call it
        name: String,
        /// The socket of the container runtime
        #[arg(long, default_value = DEFAULT_RUNTIME)]
        container_runtime_endpoint: String,
    },
}

const DEFAULT_RUNTIME: &str = "unix:///run/containerd/containerd.sock";

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(cli.command)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("minicluster: {}", windlass::sentence(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Up(options) => {
            log(options.verbose);
            let stop = CancellationToken::new();
            tokio::spawn(stop_on_signal(stop.clone()));
            cluster::up(*options, stop).await?;
        }
        Command::Kubeconfig(dir) => {
            let path = dir.data_dir.join("admin.kubeconfig");
            let text = std::fs::read_to_string(&path).with_context(|| {
                format!("{} (has `minicluster up` been run with this --data-dir?)", path.display())
            })?;
            print!("{text}");
        }
        Command::Status(dir) => print!("{}", status::report(&dir.data_dir).await?),
        Command::Image(ImageCommand::Import { file, container_runtime_endpoint }) => {
            let archive = std::fs::read(&file).with_context(|| file.display().to_string())?;
            println!("{}", image::import(&container_runtime_endpoint, &archive).await?);
        }
        Command::Image(ImageCommand::Program { file, name, container_runtime_endpoint }) => {
            let archive = image::Builder::program(&file)?.archive(&name)?;
            println!("{}", image::import(&container_runtime_endpoint, &archive).await?);
        }
        Command::Image(ImageCommand::Busybox { name, container_runtime_endpoint }) => {
            let archive = image::Builder::busybox(Path::new(image::BUSYBOX))?.archive(&name)?;
            println!("{}", image::import(&container_runtime_endpoint, &archive).await?);
        }
        Command::Reset { dir, container_runtime_endpoint } => {
            node::reset(&container_runtime_endpoint, &dir.data_dir).await?;
        }
    }
    Ok(())
}

async fn stop_on_signal(stop: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.cancel();
}

/// Logs for people on a terminal, as JSON elsewhere. How much is said can be changed while the server runs.
fn log(verbose: u8) {
    let filter = EnvFilter::try_from_env("MINICLUSTER_LOG").unwrap_or_else(|_| level(verbose));
    let on_terminal = std::io::stderr().is_terminal();
    // The two kinds of log are two types, so everything is said twice.
    if on_terminal {
        let logs = tracing_subscriber::fmt().with_writer(std::io::stderr);
        let logs = logs.with_env_filter(filter).with_filter_reloading();
        let handle = logs.reload_handle();
        verbosity::set(Arc::new(move |verbose| {
            handle.reload(level_by_klog(verbose)).map_err(|e| e.to_string())
        }));
        logs.init();
    } else {
        let logs = tracing_subscriber::fmt().json().with_writer(std::io::stderr);
        let logs = logs.with_env_filter(filter).with_filter_reloading();
        let handle = logs.reload_handle();
        verbosity::set(Arc::new(move |verbose| {
            handle.reload(level_by_klog(verbose)).map_err(|e| e.to_string())
        }));
        logs.init();
    }
}

/// How much is said: `-v` and `-vv` of the command line.
fn level(verbose: u8) -> EnvFilter {
    filter(["info", "debug", "trace"][usize::from(verbose).min(2)])
}

/// How much is said by kube-apiserver's numbers, which `/debug/flags/v` takes: more from 4 on, everything from 8 on.
fn level_by_klog(verbose: u8) -> EnvFilter {
    filter(["info", "debug", "trace"][usize::from(verbose / 4).min(2)])
}

fn filter(level: &str) -> EnvFilter {
    EnvFilter::new(format!("{level},hyper=warn,h2=warn,rustls=warn,tower=warn"))
}
