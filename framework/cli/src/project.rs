//! The operator that a command is about: what its program says of itself.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};
use clap::Args;
use windlass::Description;

#[derive(Args)]
pub(crate) struct Project {
    /// The operator's folder
    #[arg(long, value_name = "DIR", default_value = ".")]
    project: PathBuf,
    /// Read what `OPERATOR describe` printed instead of running it; - is the standard input
    #[arg(long, value_name = "FILE", conflicts_with = "project")]
    description: Option<PathBuf>,
}

impl Project {
    /// What the operator says of itself.
    pub(crate) fn describe(&self) -> anyhow::Result<Description> {
        let text = match &self.description {
            Some(file) if file.as_os_str() == "-" => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text)?;
                text
            }
            Some(file) => fs::read_to_string(file).with_context(|| file.display().to_string())?,
            None => self.run()?,
        };
        let read: Description =
            serde_json::from_str(&text).context("this is not what an operator of Windlass says of itself")?;
        ensure!(
            read.windlass == 1,
            "the description has version {}, and this program knows 1",
            read.windlass
        );
        Ok(read)
    }

    /// The same, of an operator that is to watch these namespaces, if there are any.
    pub(crate) fn describe_watching(&self, namespaces: &[String]) -> anyhow::Result<Description> {
        let description = self.describe()?;
        if namespaces.is_empty() {
            return Ok(description);
        }
        description.watching(&namespaces.join(",")).map_err(anyhow::Error::msg)
    }

    fn run(&self) -> anyhow::Result<String> {
        let dir = self.project.display();
        check(&self.project)?;
        let mut cargo = Command::new("cargo");
        cargo.args(["run", "--quiet", "--", "describe"]).current_dir(&self.project).stderr(Stdio::inherit());
        let output = cargo.output().context("cargo cannot be run")?;
        ensure!(output.status.success(), "`cargo run -- describe` failed in {dir}");
        String::from_utf8(output.stdout).context("its description is no text")
    }

    /// The operator's version, of its package where there is one.
    pub(crate) fn version(&self) -> String {
        let manifest = fs::read_to_string(self.project.join("Cargo.toml")).unwrap_or_default();
        let package = manifest.split("[package]").nth(1).unwrap_or_default();
        let line = package.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
        line.unwrap_or("0.1.0").to_owned()
    }
}

/// Whether a folder may be an operator's.
pub(crate) fn check(dir: &Path) -> anyhow::Result<()> {
    let found = dir.join("Cargo.toml").is_file();
    ensure!(found, "{} is no operator's folder: there is no Cargo.toml in it", dir.display());
    Ok(())
}
