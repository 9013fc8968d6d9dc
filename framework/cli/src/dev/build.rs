//! Building a project, and noticing that its sources changed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::process::Command;

/// How often the sources are looked at.
const LOOK: Duration = Duration::from_millis(300);
/// Files that are looked at; of more, the others are not.
const FILES: usize = 10_000;

/// Builds the project and says where its program is. What the compiler says goes to the terminal.
pub(super) async fn build(dir: &Path) -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--bins", "--message-format=json-render-diagnostics"]).current_dir(dir);
    let output =
        command.stderr(Stdio::inherit()).kill_on_drop(true).output().await.context("cargo cannot be run")?;
    ensure!(output.status.success(), "it does not build");
    let mut programs = programs(&String::from_utf8_lossy(&output.stdout));
    match (programs.pop(), programs.len()) {
        (Some(program), 0) => Ok(program),
        (None, _) => bail!("there is no program in it"),
        _ => bail!("there is more than one program in it"),
    }
}

/// The programs that cargo says it built.
fn programs(messages: &str) -> Vec<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let program = |message: Value| {
        let is_bin = message["target"]["kind"].as_array()?.iter().any(|kind| kind == "bin");
        (is_bin && message["reason"] == "compiler-artifact")
            .then(|| message["executable"].as_str().map(PathBuf::from))?
    };
    messages.filter_map(program).collect()
}

/// The files that a project is built of.
pub(super) struct Sources {
    dir: PathBuf,
    seen: BTreeMap<PathBuf, (SystemTime, u64)>,
}

impl Sources {
    pub(super) fn of(dir: &Path) -> Self {
        let mut sources = Self { dir: dir.to_owned(), seen: BTreeMap::new() };
        sources.seen = sources.look();
        sources
    }

    /// Waits until a file came, went or is another.
    pub(super) async fn changed(&mut self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let now = self.look();
            if now != self.seen {
                self.seen = now;
                return;
            }
        }
    }

    fn look(&self) -> BTreeMap<PathBuf, (SystemTime, u64)> {
        let mut files = BTreeMap::new();
        for path in ["src", "Cargo.toml", "Cargo.lock", "build.rs"] {
            collect(&self.dir.join(path), &mut files);
        }
        files
    }
}

fn collect(path: &Path, files: &mut BTreeMap<PathBuf, (SystemTime, u64)>) {
    let Ok(about) = fs::metadata(path) else { return };
    if about.is_dir() {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.for_each(|entry| collect(&entry.path(), files));
    } else if files.len() < FILES
        && let Ok(modified) = about.modified()
    {
        files.insert(path.to_owned(), (modified, about.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_among_what_cargo_says() {
        let messages = r#"
{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"boats"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"boats"},"executable":"/t/debug/boats"}
{"reason":"compiler-artifact","target":{"kind":["custom-build"],"name":"x"},"executable":"/t/build"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(programs(messages), [Path::new("/t/debug/boats")]);
    }
}
