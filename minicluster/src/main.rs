//! The `minicluster` command.

use std::{io::IsTerminal, process::ExitCode};

use clap::{Parser, Subcommand};
use minicluster::{cluster, options::UpOptions};
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
}

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
            eprintln!("minicluster: {error:#}");
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
    }
    Ok(())
}

async fn stop_on_signal(stop: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.cancel();
}

/// Logs for people on a terminal, as JSON elsewhere.
fn log(verbose: u8) {
    let level = ["info", "debug", "trace"][usize::from(verbose).min(2)];
    let filter = EnvFilter::try_from_env("MINICLUSTER_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("{level},hyper=warn,h2=warn,rustls=warn,tower=warn")));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        logs.init();
    } else {
        logs.json().init();
    }
}
