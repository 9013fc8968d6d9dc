//! `cargo xtask up`: from a bare host to a running cluster with a page on it.
//!
//! `--once` puts the node, its containerd and the cluster into a network namespace of their own, with no route out, and
//! takes everything down again. Without it the cluster runs on the host itself until Ctrl-C.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::Args;

use crate::{demo, host};

const NODE_READY_WITHIN: Duration = Duration::from_secs(120);
/// What is promised of SIGTERM.
const STOP_WITHIN: Duration = Duration::from_secs(10);
const STATE: &str = "/run/minicluster-up";
const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Do everything once in a network namespace of its own, then stop and exit
    #[arg(long, conflicts_with = "detach")]
    once: bool,
    /// Leave the cluster running
    #[arg(long)]
    detach: bool,
    /// Use the debug build
    #[arg(long)]
    debug: bool,
}

/// A cluster that this process started, and what has to end with it.
pub(crate) struct Cluster {
    /// The network namespace everything runs in, or none.
    namespace: Option<String>,
    dir: PathBuf,
    runtime_socket: PathBuf,
    containerd: Option<Child>,
    minicluster: Option<Child>,
    binary: PathBuf,
    node_ip: String,
}

pub(crate) fn up(options: &Options) -> anyhow::Result<()> {
    host::prepare()?;
    let binary = build(!options.debug)?;
    let cluster = Cluster::start(&binary, options.once)?;
    demo::run(&cluster)?;
    if options.once {
        return cluster.stop();
    }
    let kubeconfig = cluster.kubeconfig();
    println!("\nexport KUBECONFIG={}", kubeconfig.display());
    println!("kubectl get pods -A");
    if options.detach {
        return cluster.detach();
    }
    println!("\nCtrl-C stops the cluster.");
    cluster.wait()
}

/// Ends what `--detach` left running.
pub(crate) fn down() -> anyhow::Result<()> {
    let state = Path::new(STATE);
    let Ok(pids) = fs::read_to_string(state) else {
        bail!("no cluster was left running by `cargo xtask up --detach`")
    };
    let mut lines = pids.lines();
    let binary = lines.next().unwrap_or_default().to_owned();
    for pid in lines {
        let _ = host::run(Command::new("kill").args(["-TERM", pid]));
        let gone = || !Path::new("/proc").join(pid).exists();
        let until = now() + STOP_WITHIN;
        while !gone() && now() < until {
            pause(Duration::from_millis(100));
        }
        if pid == pids.lines().nth(1).unwrap_or_default() {
            host::run(Command::new(&binary).args(["reset", "--data-dir", "/var/lib/minicluster/data"]))?;
        }
    }
    fs::remove_file(state)?;
    Ok(())
}

/// Builds the programs and says where `minicluster` is; the others are beside it.
pub(crate) fn build(release: bool) -> anyhow::Result<PathBuf> {
    host::prepare_build()?;
    let mut command = host::cargo();
    command.args([
        "build",
        "--package",
        "minicluster",
        "--package",
        "windlass-controllers",
        "--package",
        "windlass-cli",
    ]);
    if release {
        command.arg("--release");
    }
    host::run(&mut command)?;
    Ok(host::target().join(if release { "release" } else { "debug" }).join("minicluster"))
}

impl Cluster {
    /// Starts containerd where it does not run, then the cluster, and waits until its node is ready.
    pub(crate) fn start(binary: &Path, own_namespace: bool) -> anyhow::Result<Self> {
        let mut cluster = Self {
            namespace: None,
            dir: PathBuf::from("/var/lib/minicluster"),
            runtime_socket: PathBuf::from(CONTAINERD_SOCKET),
            containerd: None,
            minicluster: None,
            binary: binary.to_owned(),
            node_ip: "127.0.0.1".to_owned(),
        };
        if own_namespace {
            cluster.enter_namespace()?;
        }
        cluster.start_containerd()?;
        cluster.start_minicluster()?;
        Ok(cluster)
    }

    fn enter_namespace(&mut self) -> anyhow::Result<()> {
        let name = format!("minicluster-{}", std::process::id());
        let ip = |args: &[&str]| host::run(Command::new("ip").args(args));
        ip(&["netns", "add", &name])?;
        self.namespace = Some(name.clone());
        self.dir = std::env::temp_dir().join(&name);
        self.runtime_socket = self.dir.join("containerd.sock");
        let inside = |args: &[&str]| ip(&[&["-n", name.as_str()], args].concat());
        inside(&["link", "set", "lo", "up"])?;
        // A pair of interfaces with both ends in here: there is a default route, and it leads nowhere.
        inside(&["link", "add", "uplink", "type", "veth", "peer", "name", "uplink-end"])?;
        inside(&["address", "add", "10.99.0.1/24", "dev", "uplink"])?;
        inside(&["link", "set", "uplink", "up"])?;
        inside(&["link", "set", "uplink-end", "up"])?;
        inside(&["route", "add", "default", "dev", "uplink"])?;
        self.node_ip = "10.99.0.1".to_owned();
        host::run(self.command("sysctl").args(["-q", "-w", "net.ipv4.ip_forward=1"]))
    }

    /// A command in the cluster's network. Entering by `setns` alone keeps the cgroup mounts.
    pub(crate) fn command(&self, program: &str) -> Command {
        match &self.namespace {
            None => Command::new(program),
            Some(name) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{name}")).arg(program);
                command
            }
        }
    }

    /// `kubectl` as the admin.
    pub(crate) fn kubectl(&self) -> Command {
        let mut command = self.command("kubectl");
        command.arg("--kubeconfig").arg(self.kubeconfig());
        command
    }

    /// `minicluster` against this cluster's runtime.
    pub(crate) fn minicluster(&self, args: &[&str]) -> Command {
        let mut command = self.command(&self.binary.to_string_lossy());
        command.args(args).arg("--container-runtime-endpoint").arg(self.endpoint());
        command
    }

    /// The admin's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.join("data/admin.kubeconfig")
    }

    /// The node's own address.
    pub(crate) fn node_ip(&self) -> &str {
        &self.node_ip
    }

    /// Where the cluster keeps everything.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder of the programs.
    pub(crate) fn programs(&self) -> &Path {
        self.binary.parent().unwrap_or(Path::new("."))
    }

    /// What the container runtime runs: a line for each container with its process and state.
    pub(crate) fn tasks(&self) -> anyhow::Result<String> {
        let mut command = self.command("ctr");
        command.arg("--address").arg(&self.runtime_socket).args(["--namespace", "k8s.io", "tasks", "list"]);
        host::output(&mut command)
    }

    /// The socket of the container runtime, as programs are told.
    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.runtime_socket.display())
    }

    fn runtime_answers(&self) -> bool {
        let mut command = self.command("ctr");
        command.arg("--address").arg(&self.runtime_socket).arg("version");
        host::output(&mut command).is_ok()
    }

    fn start_containerd(&mut self) -> anyhow::Result<()> {
        fs::create_dir_all(self.dir.join("cni"))?;
        if self.runtime_answers() {
            return Ok(());
        }
        let dir = self.dir.display();
        // Inside containers and other restricted hosts a lower OOM score than one's own is refused.
        let config = format!(
            r#"version = 2
root = "{dir}/containerd"
state = "{dir}/containerd-state"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.10"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{dir}/cni"
"#,
            socket = self.runtime_socket.display()
        );
        let path = self.dir.join("containerd.toml");
        fs::write(&path, config)?;
        if let Some(parent) = self.runtime_socket.parent() {
            fs::create_dir_all(parent)?;
        }
        let log = fs::File::create(self.dir.join("containerd.log"))?;
        let mut command = self.command("containerd");
        command.arg("--config").arg(&path).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.containerd = Some(command.spawn().context("containerd")?);
        for _ in 0..100 {
            if self.runtime_answers() {
                return Ok(());
            }
            pause(Duration::from_millis(100));
        }
        bail!("containerd did not start within 10 s; see {dir}/containerd.log")
    }

    /// Starts the cluster's process, and waits until its node is ready.
    pub(crate) fn start_minicluster(&mut self) -> anyhow::Result<()> {
        let log_path = self.dir.join("minicluster.log");
        let log = fs::File::options().create(true).append(true).open(&log_path)?;
        let mut command = self.minicluster(&["up"]);
        command.arg("--data-dir").arg(self.dir.join("data")).arg("--cni-conf-dir").arg(self.dir.join("cni"));
        if self.namespace.is_some() {
            command.args(["--node-name", "node-1", "--node-ip", &self.node_ip]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().context("minicluster")?;
        let stdout = child.stdout.take().context("minicluster has no output")?;
        self.minicluster = Some(child);
        let (lines, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                println!("{line}");
                if lines.send(line).is_err() {
                    break;
                }
            }
        });
        let until = now() + NODE_READY_WITHIN;
        while let Ok(line) = receiver.recv_timeout(until.saturating_duration_since(now())) {
            if line.starts_with("Node ") {
                return Ok(());
            }
        }
        let said = fs::read_to_string(&log_path).unwrap_or_default();
        let last: Vec<&str> = said.lines().rev().take(5).collect();
        bail!("the node did not become ready; the last lines of {}:\n{}", log_path.display(), last.join("\n"))
    }

    fn detach(mut self) -> anyhow::Result<()> {
        let mut pids = vec![self.binary.display().to_string()];
        pids.extend(self.minicluster.take().map(|c| c.id().to_string()));
        pids.extend(self.containerd.take().map(|c| c.id().to_string()));
        fs::write(STATE, pids.join("\n"))?;
        std::mem::forget(self);
        println!("`cargo xtask down` ends it.");
        Ok(())
    }

    fn wait(mut self) -> anyhow::Result<()> {
        // Ctrl-C reaches the whole process group: the cluster stops by itself, and then this goes on.
        if let Some(child) = &mut self.minicluster {
            child.wait()?;
        }
        self.stop()
    }

    /// Stops the cluster gracefully and removes what it made.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        let graceful = self.end_minicluster("-TERM");
        self.clean();
        graceful
    }

    /// Ends the cluster's process by a signal. Told to terminate, it has to do so in time and without complaint.
    pub(crate) fn end_minicluster(&mut self, signal: &str) -> anyhow::Result<()> {
        let Some(mut child) = self.minicluster.take() else { return Ok(()) };
        if child.try_wait()?.is_none() {
            host::run(Command::new("kill").args([signal, &child.id().to_string()]))?;
        }
        let until = now() + STOP_WITHIN;
        loop {
            if let Some(status) = child.try_wait()? {
                ensure!(status.success() || signal == "-KILL", "minicluster ended with {status}");
                return Ok(());
            }
            if now() > until {
                child.kill()?;
                bail!("minicluster did not stop within {STOP_WITHIN:?}");
            }
            pause(Duration::from_millis(50));
        }
    }

    fn clean(&mut self) {
        let data = self.dir.join("data");
        let mut reset = self.minicluster(&["reset"]);
        let _ = reset.arg("--data-dir").arg(&data).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if let Some(mut child) = self.containerd.take() {
            let _ = host::run(Command::new("kill").args(["-TERM", &child.id().to_string()]));
            let _ = child.wait();
        }
        let Some(name) = self.namespace.take() else { return };
        // What a failed test left behind.
        let left = host::output(Command::new("ip").args(["netns", "pids", &name])).unwrap_or_default();
        for pid in left.lines() {
            let _ = Command::new("kill").args(["-KILL", pid]).status();
        }
        let _ = host::run(Command::new("ip").args(["netns", "delete", &name]));
        unmount_below(&self.dir);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.end_minicluster("-TERM");
        if self.containerd.is_some() || self.namespace.is_some() {
            self.clean();
        }
    }
}

/// Volumes in memory are mounts of the host.
fn unmount_below(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let prefix = format!("{}/", dir.display());
    for target in mounts.lines().rev().filter_map(|l| l.split(' ').nth(1)).filter(|t| t.starts_with(&prefix))
    {
        let _ = Command::new("umount").args(["-l", target]).status();
    }
}

/// xtask is no part of a cluster: it waits for other processes on the machine's own clock.
#[expect(clippy::disallowed_methods, reason = "waits for other processes")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[expect(clippy::disallowed_methods, reason = "waits for other processes")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
