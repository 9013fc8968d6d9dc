//! `windlass add`: a kind, a controller or webhooks for an operator that is there already.
//!
//! New files are written beside the others, and the few lines that register them are put into the author's own sources:
//! these are parsed, and text is inserted at the places found; nothing else of them is touched. No file is ever
//! overwritten. Where no place is found, the author is told which lines to insert, and where they belong.

mod edit;
mod parts;
mod project;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};

use crate::name;
use edit::{Insertion, Source};
use parts::Part;
use project::Project;

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
    /// The operator's folder
    #[arg(long, value_name = "DIR", default_value = ".", global = true)]
    project: PathBuf,
}

#[derive(Subcommand)]
enum What {
    /// A kind: its file, and a sample
    Api {
        /// The kind, as in GuestBook
        kind: String,
        /// Its group; by default that of the operator's other kinds
        #[arg(long)]
        group: Option<String>,
        /// Its version
        #[arg(long, default_value = "v1alpha1")]
        version: String,
    },
    /// A controller of a kind that is there, and a test
    Controller {
        /// The kind, as in GuestBook
        kind: String,
    },
    /// Hooks that fill in defaults and judge, for a kind that is there, and a test
    Webhook {
        /// The kind, as in GuestBook
        kind: String,
    },
}

/// What is to be done: everything is known before anything is written.
#[derive(Default)]
struct Plan {
    files: Vec<(PathBuf, String)>,
    edits: Vec<(PathBuf, Vec<Insertion>)>,
    /// What could not be inserted, and where it belongs.
    by_hand: Vec<String>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    crate::project::check(&options.project)?;
    let project = Project::read(&options.project)?;
    let plan = match &options.what {
        What::Api { kind, group, version } => api(&project, kind, group.as_deref(), version)?,
        What::Controller { kind } => controller(&project, kind)?,
        What::Webhook { kind } => webhook(&project, kind)?,
    };
    plan.carry_out(&project)
}

fn api(project: &Project, kind: &str, group: Option<&str>, version: &str) -> anyhow::Result<Plan> {
    name::check_kind(kind)?;
    let group = group.map_or_else(|| project.group(), str::to_owned);
    name::check_group(&group)?;
    ensure!(is_version(version), "{version:?} is no version: it is written as in v1, v1beta2 or v1alpha1");
    ensure!(!project.has(kind), "the kind {kind} is there already");
    let part = Part { kind, group: &group, version, project };
    let module = part.module();
    let mut plan = Plan::default();
    plan.file(format!("src/{module}.rs"), part.render(parts::KIND));
    plan.file(format!("config/{module}.yaml"), part.render(parts::SAMPLE));
    plan.module(project, &module);
    let export = format!("pub use {module}::{{{kind}, {kind}Spec, {kind}Status}};");
    plan.insert(&project.lib, project.lib.export(&export), &export, "among the uses");
    let register = format!(".crd::<{kind}>()");
    plan.insert(&project.lib, project.lib.after_kinds(&register), &register, "after `Operator::new(...)`");
    Ok(plan)
}

fn controller(project: &Project, kind: &str) -> anyhow::Result<Plan> {
    known(project, kind)?;
    if let Some(place) = project.place_of(&format!("Controller::<{kind}>::new")) {
        bail!("{kind} has a controller already, in {place}");
    }
    ensure!(
        project.has(&format!("{kind}Status")) && project.tells(&format!("{kind}Status")),
        "{kind} has no public {kind}Status with `observed_generation` and `conditions`, which a controller would set"
    );
    let group = project.group();
    let part = Part { kind, group: &group, version: "", project };
    let module = format!("{}_controller", part.module());
    let mut plan = Plan::default();
    plan.file(format!("src/{module}.rs"), part.render(parts::CONTROLLER));
    plan.file(format!("tests/{module}.rs"), part.render(parts::CONTROLLER_TEST));
    plan.module(project, &module);
    plan.part(project, &module);
    Ok(plan)
}

fn webhook(project: &Project, kind: &str) -> anyhow::Result<Plan> {
    known(project, kind)?;
    // Others may fail closed where these were meant to let pass: that is for the author to decide.
    for hook in ["Validate", "Mutate"] {
        if let Some(place) = project.place_of(&format!("{hook}<{kind}>for")) {
            bail!("{kind} has hooks already, in {place}");
        }
    }
    let group = project.group();
    let part = Part { kind, group: &group, version: "", project };
    let module = format!("{}_webhooks", part.module());
    let mut plan = Plan::default();
    plan.file(format!("src/{module}.rs"), part.render(parts::HOOKS));
    plan.file(format!("tests/{module}.rs"), part.render(parts::HOOKS_TEST));
    plan.module(project, &module);
    let servers = project.webhooks();
    match servers.as_slice() {
        [] => {
            plan.file("src/webhooks.rs".to_owned(), part.render(parts::WEBHOOKS));
            plan.module(project, "webhooks");
            plan.part(project, "webhooks");
        }
        [(source, end)] => {
            let hook = if source.uses("Hook") { "Hook" } else { "windlass::webhook::Hook" };
            let fill = format!(".mutate(crate::{module}::Defaults, {hook}::default())");
            let judge = format!(".validate(crate::{module}::Rules, {hook}::default())");
            plan.edit(source, source.call(*end, &fill));
            plan.edit(source, source.call(*end, &judge));
        }
        several => {
            let places: Vec<String> =
                several.iter().map(|(source, _)| source.path.display().to_string()).collect();
            plan.by_hand.push(format!(
                ".mutate(crate::{module}::Defaults, windlass::webhook::Hook::default())\n    \
                 .validate(crate::{module}::Rules, windlass::webhook::Hook::default())\n    \
                 (after one `Webhooks::new(...)`: there are several, in {})",
                places.join(", ")
            ));
        }
    }
    Ok(plan)
}

fn known(project: &Project, kind: &str) -> anyhow::Result<()> {
    name::check_kind(kind)?;
    ensure!(
        project.has(kind),
        "src/lib.rs has no public kind {kind}; `windlass add api {kind}` would make one"
    );
    Ok(())
}

/// `v1`, `v2beta1`.
fn is_version(text: &str) -> bool {
    let number =
        |text: &str| !text.is_empty() && !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    let Some(rest) = text.strip_prefix('v') else { return false };
    match rest.split_once("alpha").or_else(|| rest.split_once("beta")) {
        Some((major, minor)) => number(major) && number(minor),
        None => number(rest),
    }
}

impl Plan {
    fn file(&mut self, path: String, text: String) {
        self.files.push((path.into(), text));
    }

    fn edit(&mut self, source: &Source, insertion: Insertion) {
        match self.edits.iter_mut().find(|(path, _)| *path == source.path) {
            Some((_, insertions)) => insertions.push(insertion),
            None => self.edits.push((source.path.clone(), vec![insertion])),
        }
    }

    fn insert(&mut self, source: &Source, found: Option<Insertion>, text: &str, place: &str) {
        match found {
            Some(insertion) => self.edit(source, insertion),
            None => self.by_hand.push(format!("{text}    ({place})")),
        }
    }

    fn module(&mut self, project: &Project, module: &str) {
        let line = format!("mod {module};");
        self.insert(&project.lib, Some(project.lib.module(&line)), &line, "among the modules");
    }

    /// Lets a module's `add` put its part on the manager.
    fn part(&mut self, project: &Project, module: &str) {
        let text = format!(".with({module}::add)");
        self.insert(&project.lib, project.lib.after_parts(&text), &text, "at the end of the `Operator`");
    }

    fn carry_out(self, project: &Project) -> anyhow::Result<()> {
        for (path, _) in &self.files {
            ensure!(!project.dir.join(path).exists(), "{} is there already", path.display());
        }
        let mut written = Vec::new();
        let (mut files, mut edited) = (Vec::new(), Vec::new());
        for (path, text) in &self.files {
            let is_rust = path.extension().is_some_and(|end| end == "rs");
            files.push((path, if is_rust { project.format(text) } else { text.clone() }));
        }
        for (path, insertions) in self.edits {
            let before = fs::read_to_string(project.dir.join(&path))?;
            let was_formatted = project.format(&before) == before;
            let after = edit::apply(&before, insertions);
            ensure!(syn::parse_file(&after).is_ok(), "{} would be no Rust afterwards", path.display());
            edited.push((path, if was_formatted { project.format(&after) } else { after }));
        }
        for (path, text) in &files {
            put(&project.dir.join(path), text)?;
            written.push(format!("made    {}", path.display()));
        }
        for (path, text) in &edited {
            replace(&project.dir.join(path), text)?;
            written.push(format!("changed {}", path.display()));
        }
        println!("{}", written.join("\n"));
        ensure!(
            self.by_hand.is_empty(),
            "the operator is not put together as a chain of calls in src/lib.rs, so these lines are left to you:\n    {}",
            self.by_hand.join("\n    ")
        );
        Ok(())
    }
}

/// Writes a file that is not there yet.
fn put(path: &Path, text: &str) -> anyhow::Result<()> {
    let made = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::File::create_new(path));
    let written = made.and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("{} cannot be written", path.display()))
}

/// Puts a text in the place of a file's, all at once.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension("rs.new");
    let done = fs::write(&new, text).and_then(|()| fs::rename(&new, path));
    done.with_context(|| format!("{} cannot be written", path.display()))
}

/// A text as rustfmt writes it in a project; as it is, where there is no rustfmt.
fn formatted(dir: &Path, edition: &str, text: &str) -> Option<String> {
    let mut rustfmt = Command::new("rustfmt");
    // It looks for its configuration from here upwards.
    rustfmt.args(["--edition", edition, "--emit", "stdout"]).current_dir(dir);
    let mut child =
        rustfmt.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let mut input = child.stdin.take()?;
    let text = text.to_owned();
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child.wait_with_output().ok()?;
    writer.join().ok()?.ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).ok()).flatten()
}
