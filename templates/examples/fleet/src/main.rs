//! The operator as a program; `--help` lists its flags. `fleet member-manifests` prints what a member needs.

use std::{io::IsTerminal, process::ExitCode};

use serde_json::json;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("member-manifests") {
        return member_manifests();
    }
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
    fleet::operator().main()
}

/// The account that the operator is in a member, and its rights, to be piped into `kubectl apply -f -`.
fn member_manifests() -> ExitCode {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return ExitCode::FAILURE;
    };
    let objects = runtime.block_on(async { fleet::member_account().rbac(fleet::NAMESPACE) });
    println!("{}", json!({ "apiVersion": "v1", "kind": "List", "items": objects }));
    ExitCode::SUCCESS
}
