//! What no lint holds: every source file says what it is for, and none is too long; licences stay clean.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::ensure;
use serde_json::Value;

use crate::host;

/// The longest a source file may be.
const LINES_MAX: usize = 750;

/// Words of licences that the project cannot take in.
const UNWANTED: [&str; 3] = ["GPL", "SSPL", "BUSL"];

/// Checks the tree; the complaints come all at once.
pub(crate) fn check() -> anyhow::Result<()> {
    let mut complaints = Vec::new();
    for path in sources(&host::root()) {
        let text = fs::read_to_string(&path)?;
        complaints.extend(file(&path, &text));
    }
    complaints.extend(licences()?);
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(())
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut all = Vec::new();
    for path in entries.flatten().map(|e| e.path()) {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                all.extend(sources(&path));
            }
        } else if name.ends_with(".rs") {
            all.push(path);
        }
    }
    all.sort();
    all
}

fn file(path: &Path, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut complain = |why: String| complaints.push(format!("{}: {why}", path.display()));
    if !text.starts_with("//!") {
        complain("the first line does not say what the file is for (`//!`)".to_owned());
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        complain(format!("{lines} lines are more than {LINES_MAX}: two ideas, perhaps"));
    }
    for (i, line) in text.lines().enumerate() {
        let unfinished =
            ["todo!(", "unimplemented!(", "#[ignore"].iter().any(|w| line.trim_start().starts_with(w));
        if unfinished {
            complain(format!("line {}: unfinished or skipped", i + 1));
        }
        if draws_a_branch(text, i, line) {
            complain(format!("line {}: `select!` without `biased`: tokio draws the order", i + 1));
        }
    }
    complaints
}

/// A `select!` whose branches are polled in an order that no seed replays.
fn draws_a_branch(text: &str, at: usize, line: &str) -> bool {
    let Some((before, after)) = line.split_once("select! {") else { return false };
    let quoted = before.contains(['"', '/']);
    let next = text.lines().nth(at + 1).unwrap_or_default();
    !quoted && !after.trim_start().starts_with("biased;") && next.trim() != "biased;"
}

/// Dependencies whose licence leaves no choice but an unwanted one.
fn licences() -> anyhow::Result<Vec<String>> {
    let mut command = host::cargo();
    command.args(["metadata", "--format-version", "1", "--locked"]);
    let metadata: Value = serde_json::from_str(&host::output(&mut command)?)?;
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    let complaint = |package: &Value| {
        let licence = package["license"].as_str().unwrap_or("");
        let clean = licence.split(" OR ").any(|choice| !UNWANTED.iter().any(|w| choice.contains(w)));
        let known = !licence.is_empty() || package["license_file"].is_string();
        let name = package["name"].as_str().unwrap_or("");
        (!clean || !known).then(|| format!("{name}: the licence {licence:?} cannot be taken in"))
    };
    Ok(packages.iter().filter_map(complaint).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_untidy_file_is_told_so() {
        assert!(file(Path::new("a.rs"), "//! Good.\n").is_empty());
        assert_eq!(file(Path::new("a.rs"), "fn main() {}\n").len(), 1);
        assert_eq!(file(Path::new("a.rs"), "//! Long.\n".repeat(LINES_MAX + 1).as_str()).len(), 1);
        assert_eq!(file(Path::new("a.rs"), "//! Open.\n    todo!()\n").len(), 1);
        assert_eq!(file(Path::new("a.rs"), "//! Drawn.\ntokio::select! {\n    a => {}\n}\n").len(), 1);
        assert!(file(Path::new("a.rs"), "//! Not.\ntokio::select! {\n    biased;\n}\n").is_empty());
    }
}
