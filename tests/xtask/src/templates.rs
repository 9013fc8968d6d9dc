//! `cargo xtask templates`: what `windlass new` makes of every template, and `windlass add` of that, checked and tested as its
//! author would.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};

use crate::{examples, host};

/// Renders the templates with `filter` in their names, under names of another length than the templates' own.
pub(crate) fn run(filter: &str) -> anyhow::Result<()> {
    host::run(host::cargo().args(["build", "--quiet", "--package", "windlass-cli"]))?;
    let entries = fs::read_dir(host::root().join("templates"))?;
    let mut templates: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    templates.retain(|name| name.contains(filter) && name != examples::FOLDER);
    templates.sort();
    let examples = examples::named(filter)?;
    ensure!(!templates.is_empty() || !examples.is_empty(), "no template has {filter:?} in its name");
    examples.iter().try_for_each(|example| examples::try_out(example))?;
    for template in &templates {
        println!("\n==> the template {template}");
        try_out(template).with_context(|| format!("the template {template}"))?;
    }
    // A program is built from other features than its tests: all programs at once, or each would be built anew.
    for template in &templates {
        windlass(&rendered(template), "crd check").with_context(|| format!("the template {template}"))?;
    }
    Ok(())
}

/// Renders a template as an operator of this name, and builds it; where its program is.
pub(crate) fn built(template: &str, name: &str) -> anyhow::Result<PathBuf> {
    host::run(host::cargo().args(["build", "--quiet", "--package", "windlass-cli"]))?;
    let dir = rendered(name);
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    let mut new = Command::new(host::target().join("debug/windlass"));
    host::run(new.args(["new", name, "--template", template, "--dir"]).arg(&dir).stdout(Stdio::null()))?;
    cargo(&dir, &["build", "--quiet"])?;
    Ok(host::target().join("debug").join(name))
}

fn rendered(template: &str) -> PathBuf {
    host::target().join("rendered").join(template)
}

/// Types `windlass ...` in a project.
fn windlass(dir: &Path, args: &str) -> anyhow::Result<()> {
    let mut command = Command::new(host::target().join("debug/windlass"));
    command.args(args.split_whitespace()).current_dir(dir).env("CARGO_TARGET_DIR", host::target());
    host::run(&mut command)
}

/// Runs `cargo` in a project, in the folder that everything is built into: what two need is built once.
pub(crate) fn cargo(dir: &Path, args: &[&str]) -> anyhow::Result<()> {
    host::run(host::cargo().args(args).current_dir(dir).env("CARGO_TARGET_DIR", host::target()))
}

/// Whether a project is formatted, and has nothing that clippy would warn of.
pub(crate) fn is_clean(dir: &Path) -> anyhow::Result<()> {
    cargo(dir, &["fmt", "--check"])?;
    cargo(dir, &["clippy", "--quiet", "--all-targets", "--", "--deny", "warnings"])
}

/// Whether its README is soon read.
pub(crate) fn is_short(dir: &Path) -> anyhow::Result<()> {
    let readme = fs::read_to_string(dir.join("README.md"))?.lines().count();
    ensure!(readme < 60, "its README.md has {readme} lines, and 59 are enough");
    Ok(())
}

fn try_out(template: &str) -> anyhow::Result<()> {
    let dir = rendered(template);
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    let mut new = Command::new(host::target().join("debug/windlass"));
    // Each under a name of its own: packages of one name are one to cargo when they share a folder.
    let name = format!("guest-{template}-operator");
    new.args(["new", &name, "--group", "inns.example.org", "--template", template, "--dir"]);
    host::run(new.arg(&dir).stdout(Stdio::null()))?;
    ensure!(left_over(&dir)?.is_empty(), "names of the template are left in {:?}", left_over(&dir)?);
    is_short(&dir)?;
    is_clean(&dir)?;
    cargo(&dir, &["test", "--quiet"])?;

    // Whatever it began as, it is added to.
    for part in ["api", "controller", "webhook"] {
        windlass(&dir, &format!("add {part} FrontPage"))?;
    }
    is_clean(&dir)?;
    match template {
        "basic" => cargo(&dir, &["test", "--quiet"]),
        // What was there already was tried before.
        _ => cargo(
            &dir,
            &["test", "--quiet", "--test", "front_page_controller", "--test", "front_page_webhooks"],
        ),
    }
}

/// The files in which a name of the template was not replaced.
fn left_over(dir: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(left_over(&path)?);
            continue;
        }
        let text = format!("{} {}", path.display(), fs::read_to_string(&path)?).to_lowercase();
        let names = ["template-name", "template_name", "templatename", "../../", "example.com"];
        if names.iter().any(|name| text.contains(name)) {
            found.push(path.display().to_string());
        }
    }
    Ok(found)
}
