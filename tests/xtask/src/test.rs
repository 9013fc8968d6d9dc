//! `cargo xtask test`: every check and test of the project, in the order in which they fail fastest.

use crate::{e2e, host, templates, tidy};

fn cargo(args: &[&str]) -> anyhow::Result<()> {
    println!("\n==> cargo {}", args.join(" "));
    host::run(host::cargo().args(args))
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
    templates::run("")?;
    if containers {
        println!("\n==> a whole cluster with real containers");
        e2e::run(&e2e::Options::default())?;
    }
    println!("\nEverything passed.");
    Ok(())
}

/// Runs the benches.
pub(crate) fn bench() -> anyhow::Result<()> {
    host::prepare_build()?;
    let benches = [
        ("windlass", "beside_kube_runtime"),
        ("minicluster-store", "engines"),
        ("windlass-tests", "write_path"),
        ("minicluster", "promises"),
    ];
    benches.iter().try_for_each(|(package, bench)| cargo(&["bench", "--package", package, "--bench", bench]))
}
