//! `cargo xtask test`: every check and test of the project, in the order in which they fail fastest.

use std::process::Command;

use crate::{demo, host, tidy, up};

fn cargo(args: &[&str]) -> anyhow::Result<()> {
    println!("\n==> cargo {}", args.join(" "));
    host::run(Command::new("cargo").current_dir(host::root()).args(args))
}

/// Runs everything; `containers` runs the tests that need a container runtime too.
pub(crate) fn run(containers: bool) -> anyhow::Result<()> {
    if containers {
        host::prepare()?;
    } else {
        host::prepare_build()?;
    }
    println!("\n==> tidy");
    tidy::check()?;
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"])?;
    if host::find("cargo-nextest").is_some() {
        cargo(&["nextest", "run", "--workspace"])?;
    } else {
        cargo(&["test", "--workspace", "--lib", "--bins", "--tests"])?;
    }
    cargo(&["test", "--workspace", "--doc"])?;
    if containers {
        println!("\n==> a whole cluster with real containers");
        let binary = up::build(false)?;
        let cluster = up::Cluster::start(&binary, true)?;
        demo::run(&cluster)?;
        cluster.stop()?;
    }
    println!("\nEverything passed.");
    Ok(())
}

/// Runs the benches.
pub(crate) fn bench() -> anyhow::Result<()> {
    host::prepare_build()?;
    cargo(&["bench", "--package", "minicluster-store", "--bench", "engines"])?;
    cargo(&["bench", "--package", "windlass", "--bench", "beside_kube_runtime"])?;
    cargo(&["bench", "--package", "windlass-tests", "--bench", "write_path"])
}
