//! An operator's sources, as far as adding to them needs to know them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use syn::{Fields, ItemStruct, visit::Visit};

use super::{edit::Source, formatted};

/// Files that are read at most; an operator has fewer.
const FILES_MAX: usize = 1000;

/// A project.
pub(super) struct Project {
    pub(super) dir: PathBuf,
    /// The name of its library, as in `use`.
    pub(super) library: String,
    package: String,
    edition: String,
    pub(super) lib: Source,
    /// All of `src` but `lib`.
    others: Vec<Source>,
}

impl Project {
    pub(super) fn read(dir: &Path) -> anyhow::Result<Self> {
        let manifest = fs::read_to_string(dir.join("Cargo.toml")).context("Cargo.toml")?;
        let package = value(&manifest, "[package]", "name").context("Cargo.toml names no package")?;
        let library = value(&manifest, "[lib]", "name").unwrap_or_else(|| package.replace('-', "_"));
        let edition = value(&manifest, "[package]", "edition").unwrap_or_else(|| "2024".to_owned());
        let lib = dir.join("src/lib.rs");
        ensure!(
            lib.is_file(),
            "{} has no src/lib.rs, which is where an operator is put together",
            dir.display()
        );
        let mut paths = Vec::new();
        collect(&dir.join("src"), &mut paths);
        let read = |path: &PathBuf| Source::read(dir, path);
        let others: Vec<Source> =
            paths.iter().filter(|path| **path != lib).map(read).collect::<Result<_, _>>()?;
        Ok(Self { dir: dir.to_owned(), library, package, edition, lib: read(&lib)?, others })
    }

    fn sources(&self) -> impl Iterator<Item = &Source> {
        [&self.lib].into_iter().chain(&self.others)
    }

    /// Whether the library shows this name to everybody.
    pub(super) fn has(&self, name: &str) -> bool {
        self.lib.shows(name)
    }

    /// The file in which some code stands, blanks aside.
    pub(super) fn place_of(&self, code: &str) -> Option<String> {
        let bare = |text: &str| text.split_whitespace().collect::<String>();
        let found = self.sources().find(|source| bare(&source.text).contains(code))?;
        Some(found.path.display().to_string())
    }

    /// Whether a status has what every controller sets.
    pub(super) fn tells(&self, status: &str) -> bool {
        let mut finder = Telling { status, found: false };
        self.sources().for_each(|source| finder.visit_file(&source.file));
        finder.found
    }

    /// The group of the first kind that is found.
    pub(super) fn group(&self) -> String {
        let named = |source: &Source| {
            let (_, rest) = source.text.split_once("group = \"")?;
            Some(rest.split_once('"')?.0.to_owned())
        };
        self.sources().find_map(named).unwrap_or_else(|| "example.com".to_owned())
    }

    /// The operator's name, or the package's where it is not written down.
    pub(super) fn operator(&self) -> String {
        self.lib.operator_name().unwrap_or_else(|| self.package.clone())
    }

    /// Every `Webhooks::new(...)` with what is called on it: its file, and where it ends.
    pub(super) fn webhooks(&self) -> Vec<(&Source, usize)> {
        self.sources()
            .flat_map(|source| source.webhooks().into_iter().map(move |end| (source, end)))
            .collect()
    }

    /// A text as rustfmt writes it here.
    pub(super) fn format(&self, text: &str) -> String {
        formatted(&self.dir, &self.edition, text).unwrap_or_else(|| text.to_owned())
    }
}

/// `name = "value"` in a section of a manifest.
fn value(manifest: &str, section: &str, name: &str) -> Option<String> {
    let lines = manifest.lines().map(str::trim).skip_while(|line| *line != section).skip(1);
    let mut lines = lines.take_while(|line| !line.starts_with('['));
    lines.find_map(|line| {
        let (key, value) = line.split_once('=')?;
        let value = value.trim().strip_prefix('"')?.split_once('"')?.0;
        (key.trim() == name).then(|| value.to_owned())
    })
}

fn collect(dir: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    found.sort();
    for path in found {
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|end| end == "rs") && paths.len() < FILES_MAX {
            paths.push(path);
        }
    }
}

/// Looks for a struct with the fields of a status.
struct Telling<'a> {
    status: &'a str,
    found: bool,
}

impl<'ast> Visit<'ast> for Telling<'_> {
    fn visit_item_struct(&mut self, item: &'ast ItemStruct) {
        let Fields::Named(fields) = &item.fields else { return };
        let has =
            |name: &str| fields.named.iter().any(|field| field.ident.as_ref().is_some_and(|i| i == name));
        self.found |= item.ident == self.status && has("observed_generation") && has("conditions");
    }
}
