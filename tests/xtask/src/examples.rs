//! The operators of real size in `templates/examples`, which nobody renders: checked and tested as they are, by `cargo xtask
//! templates`.

use std::{fs, path::Path};

use anyhow::Context;

use crate::{host, templates};

/// Where they are, among the templates.
pub(crate) const FOLDER: &str = "examples";

/// Those with `filter` in their names.
pub(crate) fn named(filter: &str) -> anyhow::Result<Vec<String>> {
    let Ok(entries) = fs::read_dir(host::root().join("templates").join(FOLDER)) else {
        return Ok(Vec::new());
    };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name.contains(filter));
    names.sort();
    Ok(names)
}

/// Copies one to where it leaves nothing behind, and does there what its author would do first.
pub(crate) fn try_out(example: &str) -> anyhow::Result<()> {
    println!("\n==> the example {example}");
    run(example).with_context(|| format!("the example {example}"))
}

fn run(example: &str) -> anyhow::Result<()> {
    let dir = host::target().join("rendered").join(format!("example-{example}"));
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    copy(&host::root().join("templates").join(FOLDER).join(example), &dir)?;
    // The versions that Windlass itself is tested with.
    fs::copy(host::root().join("Cargo.lock"), dir.join("Cargo.lock"))?;
    let (manifest, house) = (dir.join("Cargo.toml"), format!("{}/", host::root().display()));
    fs::write(&manifest, fs::read_to_string(&manifest)?.replace("../../../", &house))?;
    templates::is_short(&dir)?;
    templates::is_clean(&dir)?;
    templates::cargo(&dir, &["test", "--quiet"])
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?.path();
        let Some(name) = entry.file_name() else { continue };
        match entry.is_dir() {
            _ if name == "target" || name == "Cargo.lock" => {}
            true => copy(&entry, &to.join(name))?,
            false => {
                fs::copy(&entry, to.join(name))?;
            }
        }
    }
    Ok(())
}
