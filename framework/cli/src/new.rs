//! `windlass new`: a project from a template.
//!
//! Nothing is written before everything was found good: the names, the template, the folder, and where Windlass is to be
//! had from.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail, ensure};
use clap::Args;

use crate::{name::Names, templates};

/// What the templates' own `Cargo.toml` say of where Windlass is.
const HOUSE: &str = "path = \"../../";

#[derive(Args)]
pub(crate) struct Options {
    /// The operator's name, as in guest-book; a folder of this name is made
    name: String,
    /// What it starts from
    #[arg(long, default_value = "basic", value_name = "TEMPLATE", help = templates::help())]
    template: String,
    /// Another folder than ./NAME
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The kind; by default the name as in GuestBook
    #[arg(long)]
    kind: Option<String>,
    /// The group of the kind
    #[arg(long, default_value = "example.com")]
    group: String,
    /// Take Windlass from this checkout; by default the one that this program was built in
    #[arg(long, value_name = "CHECKOUT", conflicts_with = "git")]
    path: Option<PathBuf>,
    /// Take Windlass from this Git repository
    #[arg(long, value_name = "URL")]
    git: Option<String>,
    /// Of the Git repository: this commit
    #[arg(long, value_name = "COMMIT", requires = "git")]
    rev: Option<String>,
}

/// Where a project takes Windlass from.
enum From {
    Path(PathBuf),
    Git { url: String, rev: Option<String> },
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let names = Names::new(&options.name, options.kind.as_deref(), &options.group)?;
    let known = templates::names();
    if !known.contains(options.template.as_str()) {
        let known = Vec::from_iter(known).join(", ");
        bail!("{:?} is no template; there are: {known}", options.template);
    }
    let from = source(options)?;
    let dir = options.dir.clone().unwrap_or_else(|| PathBuf::from(&options.name));
    ensure!(is_free(&dir)?, "{} is there already, and not empty", dir.display());
    write(&dir, &options.template, &names, &from)?;
    format(&dir);
    println!("Made {}. `cd {0} && cargo test` tries it; its README.md says how to go on.", dir.display());
    Ok(())
}

fn source(options: &Options) -> anyhow::Result<From> {
    if let Some(url) = &options.git {
        let plain = !url.is_empty() && !url.chars().any(|c| c.is_control() || matches!(c, '"' | '\\'));
        ensure!(plain, "{url:?} is no address of a Git repository");
        let rev = options.rev.clone();
        let hex = rev.iter().all(|rev| !rev.is_empty() && rev.chars().all(|c| c.is_ascii_hexdigit()));
        ensure!(hex, "--rev needs the hexadecimal name of a commit");
        return Ok(From::Git { url: url.clone(), rev });
    }
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = options.path.clone().unwrap_or(built);
    let Some(path) = path.canonicalize().ok().filter(|path| path.join("framework/Cargo.toml").is_file())
    else {
        match &options.path {
            Some(path) => bail!("{} is no checkout of Windlass", path.display()),
            None => bail!("the checkout that this program was built in is gone: use --path or --git"),
        }
    };
    Ok(From::Path(path))
}

/// Whether a folder may be written into: it is not there, or empty.
fn is_free(dir: &Path) -> anyhow::Result<bool> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error).with_context(|| dir.display().to_string()),
    }
}

fn write(dir: &Path, template: &str, names: &Names, from: &From) -> anyhow::Result<()> {
    for (path, text) in templates::files(template) {
        let mut text = names.render(text);
        if path == "Cargo.toml" {
            text = from.render(&text);
        }
        put(&dir.join(names.render(path)), &text)?;
    }
    // The versions that Windlass itself is tested with; cargo drops what this project does not use.
    if let From::Path(checkout) = from
        && let Ok(lock) = fs::read_to_string(checkout.join("Cargo.lock"))
    {
        put(&dir.join("Cargo.lock"), &lock)?;
    }
    Ok(())
}

fn put(path: &Path, text: &str) -> anyhow::Result<()> {
    let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(path, text));
    written.with_context(|| format!("{} cannot be written", path.display()))
}

impl From {
    /// A template's `Cargo.toml` with its dependencies on Windlass taken from here.
    fn render(&self, manifest: &str) -> String {
        let line = |line: &str| {
            let Some((before, rest)) = line.split_once(HOUSE) else { return line.to_owned() };
            let Some((folder, after)) = rest.split_once('"') else { return line.to_owned() };
            let place = match self {
                Self::Path(checkout) => format!("path = {:?}", checkout.join(folder).to_string_lossy()),
                Self::Git { url, rev: None } => format!("git = \"{url}\""),
                Self::Git { url, rev: Some(rev) } => format!("git = \"{url}\", rev = \"{rev}\""),
            };
            format!("{before}{place}{after}")
        };
        manifest.lines().map(|l| line(l) + "\n").collect()
    }
}

/// Lines break elsewhere when names have other lengths. Without `rustfmt` they are left as they are.
fn format(dir: &Path) {
    let mut command = Command::new("cargo");
    command.arg("fmt").current_dir(dir).stdout(Stdio::null()).stderr(Stdio::null());
    let _ = command.status();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windlass_is_taken_from_where_it_is() {
        let manifest = "windlass = { path = \"../../framework\" }\nkube = \"5\"\n";
        let git = |rev: Option<&str>| From::Git {
            url: "https://git.example/w".into(),
            rev: rev.map(str::to_owned),
        };
        assert_eq!(
            From::Path("/src/windlass".into()).render(manifest),
            "windlass = { path = \"/src/windlass/framework\" }\nkube = \"5\"\n"
        );
        assert_eq!(
            git(None).render(manifest),
            "windlass = { git = \"https://git.example/w\" }\nkube = \"5\"\n"
        );
        let with_rev = "windlass = { git = \"https://git.example/w\", rev = \"abc\" }\nkube = \"5\"\n";
        assert_eq!(git(Some("abc")).render(manifest), with_rev);
    }
}
