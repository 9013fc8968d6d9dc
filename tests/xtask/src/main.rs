//! The project's own commands: `cargo xtask up`, `down`, `test`, `e2e`, `templates`, `bench` and `facts`.

mod clients;
mod demo;
mod e2e;
mod examples;
mod facts;
mod host;
mod templates;
mod test;
mod tidy;
mod transcript;
mod up;

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own commands")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing, build, start a cluster and run a demo on it
    Up(up::Options),
    /// End a cluster that `up --detach` left running
    Down,
    /// Every check and test of the project
    Test {
        /// Leave out the tests that run real containers
        #[arg(long)]
        no_containers: bool,
    },
    /// Run a cluster on real containers, and the transcripts of `tests/e2e` on it
    E2e(e2e::Options),
    /// Render every template (or those with this in their name), and check and test what comes out
    Templates { filter: Option<String> },
    /// The benches whose figures stand in SPECIFICATION.md
    Bench,
    /// Write the facts table of built-in kinds from a published definitions document
    Facts {
        /// `_definitions.json` of the wanted version
        definitions: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Up(options) => up::up(&options),
        Command::Down => up::down(),
        Command::Test { no_containers } => test::run(!no_containers),
        Command::E2e(options) => e2e::run(&options),
        Command::Templates { filter } => templates::run(filter.as_deref().unwrap_or_default()),
        Command::Bench => test::bench(),
        Command::Facts { definitions } => {
            let text =
                std::fs::read_to_string(&definitions).with_context(|| definitions.display().to_string())?;
            let table = facts::render(&serde_json::from_str(&text)?);
            std::fs::write(host::root().join("crd/src/schema/builtin.txt"), table)?;
            Ok(())
        }
    }
}
