//! The machine: what it has, what it lacks, and how commands are run on it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail, ensure};

/// A program and the Debian package that brings it.
const NEEDED: &[(&str, &str)] = &[
    ("protoc", "protobuf-compiler"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("ip", "iproute2"),
    ("conntrack", "conntrack"),
    ("/bin/busybox", "busybox-static"),
    ("curl", "curl"),
    ("jq", "jq"),
    ("nsenter", "util-linux"),
    ("/usr/share/doc/python3-venv", "python3-venv"),
    ("npm", "npm"),
];

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new(".")).to_owned()
}

/// The folder that everything is built into.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Where a program is, if it is anywhere.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    if program.starts_with('/') {
        return Some(PathBuf::from(program)).filter(|p| p.exists());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(program)).find(|p| p.is_file())
}

/// Installs what is missing where that is possible, and says what is missing where it is not.
pub(crate) fn prepare() -> anyhow::Result<()> {
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        install(&missing)?;
    }
    ensure!(
        find("kubectl").is_some(),
        "kubectl 1.32 or newer is needed and no Debian package brings it: put it on the PATH \
         (https://kubernetes.io/docs/tasks/tools/)"
    );
    Ok(())
}

/// Installs the packages that building needs.
pub(crate) fn prepare_build() -> anyhow::Result<()> {
    if find("protoc").is_none() {
        install(&["protobuf-compiler"])?;
    }
    Ok(())
}

fn install(packages: &[&str]) -> anyhow::Result<()> {
    let list = packages.join(" ");
    if find("apt-get").is_none() {
        bail!("this host lacks: {list} (named as Debian packages); install them and run this again");
    }
    println!("Installing: {list}");
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(args).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
        run(&mut command)
    };
    let mut args = vec!["install", "-y", "--no-install-recommends"];
    args.extend(packages);
    apt(&["update"]).and_then(|()| apt(&args)).with_context(|| {
        format!("these packages could not be installed: {list}; run `apt-get install {list}` as root")
    })
}

/// `cargo` in the workspace. What the outer `cargo` says about this program is not passed on: build scripts that look
/// at it would build again.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(root());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs a command to its end; fails when it does.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?} failed with {status}");
    Ok(())
}

/// What a command prints; fails when it does, with what it said.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "{command:?} failed: {}", text(&output.stderr).trim());
    Ok(text(&output.stdout))
}
