//! `windlass`: from an empty folder to a tested, shipped operator.

mod add;
mod cluster;
mod crd;
mod dev;
mod manifests;
mod name;
mod new;
mod output;
mod project;
mod rbac;
mod templates;
mod test_cluster;
mod why;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// From an empty folder to a tested, shipped operator.
#[derive(Parser)]
#[command(name = "windlass", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Begin an operator in a new folder
    New(new::Options),
    /// Add a kind, a controller or webhooks to an operator
    Add(add::Options),
    /// The definitions of an operator's kinds: print, check, install, compare
    Crd(crd::Options),
    /// The rights that an operator needs, from what it registered
    Rbac(rbac::Options),
    /// What runs an operator in a cluster: plain YAML, a kustomize base, a Helm chart or an OLM bundle
    Manifests(manifests::Options),
    /// A whole cluster in memory, for programs in any language: an envtest without downloads
    TestCluster(test_cluster::Options),
    /// Build and run an operator, again after each change of its sources, and show what happens
    Dev(dev::Options),
    /// What an object waits for: conditions, finalizers, quotas, nodes that refuse it, and what happened
    Why(why::Options),
    /// Completions for a shell
    Completions { shell: clap_complete::Shell },
    /// Manual pages, into a folder
    Man { dir: std::path::PathBuf },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("windlass: {}", windlass::sentence(error.as_ref()));
            // What a command exited with is passed on.
            let ended = error.downcast_ref::<test_cluster::Ended>();
            ended.map_or(ExitCode::FAILURE, |ended| ExitCode::from(u8::try_from(ended.code).unwrap_or(1)))
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::New(options) => new::run(&options),
        Command::Add(options) => add::run(&options),
        Command::Crd(options) => wait(crd::run(&options)),
        Command::Rbac(options) => rbac::run(&options),
        Command::Manifests(options) => manifests::run(&options),
        Command::TestCluster(options) => wait(test_cluster::run(&options)),
        Command::Dev(options) => wait(dev::run(&options)),
        Command::Why(options) => wait(why::run(&options)),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "windlass", &mut std::io::stdout());
            Ok(())
        }
        Command::Man { dir } => {
            std::fs::create_dir_all(&dir)?;
            Ok(clap_mangen::generate_to(Cli::command(), dir)?)
        }
    }
}

/// Runs what waits for servers.
fn wait(task: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(task)
}
