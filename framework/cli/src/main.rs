//! `windlass`: from an empty folder to a tested, shipped operator.

mod name;
mod new;
mod templates;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::New(options) => new::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("windlass: {}", windlass::sentence(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}
