//! `cargo xtask e2e`: the programs as their users run them, on real containers.
//!
//! One cluster in a network namespace of its own; the demo; the ends that the cluster's process can meet, which no
//! container may notice; then the transcripts in `tests/e2e`, each in a Kubernetes namespace and a folder of its own.

use std::{
    borrow::Cow,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use clap::Args;

use crate::{
    clients::Clients,
    demo, host, templates,
    transcript::{self, Answer, Mismatch, Step},
    up::{Cluster, build, now, pause},
};

/// How long one command may take, in seconds.
const COMMAND_WITHIN: &str = "90";
/// How long an answer may take to become the expected one.
const EVENTUALLY_WITHIN: Duration = Duration::from_secs(60);

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Options {
    /// Only the transcripts with this in their name, and nothing else
    filter: Option<String>,
    /// Write what was seen into the transcripts, to be looked at before it is committed
    #[arg(long)]
    bless: bool,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    host::prepare()?;
    let transcripts = transcripts(options.filter.as_deref().unwrap_or_default())?;
    let binary = build(false)?;
    let clients = Clients::prepare()?;
    let operator = templates::built("basic", "guestbook")?;
    let mut cluster = Cluster::start(&binary, true)?;
    let whole = options.filter.is_none();
    if whole {
        demo::run(&cluster)?;
    } else {
        demo::import_image(&cluster)?;
    }
    let mut failures = Vec::new();
    for signal in ["-TERM", "-KILL"].iter().filter(|_| whole) {
        failures.extend(
            restart(&mut cluster, &clients, &operator, signal).err().map(|error| format!("{error:#}")),
        );
    }
    for path in &transcripts {
        let since = now();
        let result = play(&cluster, &clients, &operator, path, options.bless);
        println!("{:>20}  {:4.1} s", name(path), now().duration_since(since).as_secs_f64());
        failures.extend(result.err().map(|error| format!("{error:#}")));
    }
    cluster.stop()?;
    ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
    Ok(())
}

/// The transcripts with `filter` in their names.
fn transcripts(filter: &str) -> anyhow::Result<Vec<PathBuf>> {
    let dir = host::root().join("tests/e2e");
    let entries = fs::read_dir(&dir).with_context(|| dir.display().to_string())?;
    let wanted = |path: &PathBuf| path.extension().is_some_and(|e| e == "md") && name(path).contains(filter);
    let mut all: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(wanted).collect();
    all.sort();
    ensure!(!all.is_empty(), "no transcript in {} has {filter:?} in its name", dir.display());
    Ok(all)
}

fn name(path: &Path) -> Cow<'_, str> {
    path.file_stem().unwrap_or_default().to_string_lossy()
}

/// Where a transcript is typed: a folder, and a Kubernetes namespace that is the default one there.
struct Stage<'a> {
    cluster: &'a Cluster,
    clients: &'a Clients,
    /// The program of a rendered operator.
    operator: &'a Path,
    dir: PathBuf,
}

impl<'a> Stage<'a> {
    fn set(
        cluster: &'a Cluster,
        clients: &'a Clients,
        operator: &'a Path,
        name: &str,
    ) -> anyhow::Result<Self> {
        let dir = cluster.dir().join("e2e").join(name);
        fs::create_dir_all(&dir)?;
        fs::copy(cluster.kubeconfig(), dir.join("kubeconfig"))?;
        let stage = Self { cluster, clients, operator, dir };
        let answer = stage.say(&format!(
            "kubectl create namespace {name} && kubectl config set-context --current --namespace={name} && \
             kubectl wait --for=create serviceaccount/default"
        ))?;
        ensure!(answer.code == 0, "no namespace for {name}: {}", answer.lines.join("\n"));
        Ok(stage)
    }

    /// Types a command into a shell.
    fn say(&self, text: &str) -> anyhow::Result<Answer> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let ours = [self.cluster.programs().to_owned(), self.clients.programs()];
        let path = std::env::join_paths(ours.into_iter().chain(std::env::split_paths(&path)))?;
        let mut command = self.cluster.command("timeout");
        command
            .args([COMMAND_WITHIN, "bash", "-c", &format!("exec 2>&1\n{text}")])
            .current_dir(&self.dir)
            .env("PATH", path)
            .env("CLIENTS", self.clients.dir())
            .env("OPERATOR", self.operator)
            .env("HOME", &self.dir)
            .env("KUBECONFIG", self.dir.join("kubeconfig"))
            .env("RUNTIME", self.cluster.endpoint())
            .stdin(Stdio::null());
        let output = command.output().with_context(|| text.to_owned())?;
        Ok(Answer::new(&output.stdout, output.status.code().unwrap_or(-1)))
    }

    /// Types a command, again and again where that is asked for, and says what it answered last.
    fn answer(&self, command: &transcript::Command) -> anyhow::Result<Answer> {
        let until = now() + EVENTUALLY_WITHIN;
        loop {
            let answer = self.say(&command.text)?;
            if !command.eventually || command.accepts(&answer) || now() > until {
                return Ok(answer);
            }
            pause(Duration::from_millis(100));
        }
    }
}

fn play(
    cluster: &Cluster,
    clients: &Clients,
    operator: &Path,
    path: &Path,
    bless: bool,
) -> anyhow::Result<()> {
    let name = name(path);
    let stage = Stage::set(cluster, clients, operator, &name)?;
    let mut shift = 0;
    for step in transcript::read(path)? {
        match step {
            Step::Write { name, text } => fs::write(stage.dir.join(name), text)?,
            Step::Type(command) => {
                let answer = stage.answer(&command)?;
                if command.accepts(&answer) {
                    continue;
                }
                if !bless {
                    bail!("{}", Mismatch { file: path, command: &command, answer: &answer });
                }
                transcript::bless(path, &command, &answer, &mut shift)?;
            }
        }
    }
    host::run(cluster.kubectl().args(["delete", "namespace", &name, "--wait=false"]).stdout(Stdio::null()))
}

/// Ends the cluster's process and starts it again: the same containers run on, and new ones can be made.
fn restart(cluster: &mut Cluster, clients: &Clients, operator: &Path, signal: &str) -> anyhow::Result<()> {
    let before = containers(cluster)?;
    ensure!(!before.is_empty(), "no container to look after");
    let since = now();
    cluster.end_minicluster(signal)?;
    let ended = now().duration_since(since);
    cluster.start_minicluster()?;
    let name = format!("after{}", signal.to_lowercase());
    let stage = Stage::set(cluster, clients, operator, &name)?;
    let answer = stage.say(&format!("kubectl run {name} --image={} -- sleep 1000", demo::IMAGE))?;
    ensure!(answer.code == 0, "no pod after kill {signal}: {}", answer.lines.join("\n"));
    let answer = stage.say(&format!("kubectl wait --for=condition=Ready pod/{name} --timeout=30s"))?;
    ensure!(answer.code == 0, "no pod runs after kill {signal}: {}", answer.lines.join("\n"));
    stage.say(&format!("kubectl delete pod {name} --now"))?;
    let after = containers(cluster)?;
    ensure!(before == after, "kill {signal}: containers were\n{before}\nand are\n{after}");
    println!(
        "{:>20}  ended within {:.1} s; all containers run on",
        format!("kill {signal}"),
        ended.as_secs_f64()
    );
    Ok(())
}

/// Every container of the demo: who it is, its restarts, and its process as the runtime itself says.
fn containers(cluster: &Cluster) -> anyhow::Result<String> {
    let each =
        "{range .items[*].status.containerStatuses[*]}{.containerID} {.restartCount} {.ready}{'\\n'}{end}";
    let mut all = host::output(cluster.kubectl().args(["get", "pods", "-o", &format!("jsonpath={each}")]))?;
    let tasks = cluster.tasks()?;
    let ids: Vec<String> =
        all.lines().filter_map(|l| l.strip_prefix("containerd://")).map(str::to_owned).collect();
    for id in ids.iter().filter_map(|l| l.split(' ').next()) {
        let task = tasks.lines().find(|line| line.starts_with(id));
        all.push_str(task.with_context(|| format!("the runtime does not run {id}:\n{tasks}"))?);
        all.push('\n');
    }
    Ok(all)
}
