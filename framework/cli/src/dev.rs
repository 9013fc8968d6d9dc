//! `windlass dev`: builds an operator and runs it, again after each change of its sources, and shows what happens.
//!
//! Against a kubeconfig's cluster, or against one of its own in memory, which ends with it. The operator's definitions are
//! installed before each start. A build that fails leaves the program that runs alone; a program that ends is started
//! again by the next change, and not before.

mod build;
mod show;
mod webhooks;

use std::{path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use clap::Args;
use kube::Client;
use minicluster::TestCluster;
use tokio::process::{Child, Command};
use windlass::{Description, Subscription};

use crate::{cluster::Cluster, project, test_cluster};

/// How long a program may take to end when it is told to.
const END_WITHIN: Duration = Duration::from_secs(10);
/// What operators log unless RUST_LOG says otherwise: every reconcile among it.
const LOG: &str = "info,windlass::pool=debug";

#[derive(Args)]
pub(crate) struct Options {
    /// The operator's folder
    #[arg(long, value_name = "DIR", default_value = ".")]
    project: PathBuf,
    #[command(flatten)]
    kubeconfig: Cluster,
    /// Run against a fresh cluster in memory
    #[arg(long, conflicts_with_all = ["kubeconfig", "context"])]
    cluster: bool,
    /// Hollow nodes of the cluster in memory
    #[arg(long, default_value_t = 1, requires = "cluster")]
    nodes: u32,
    /// Of the cluster in memory: write a kubeconfig [default: DIR/target/dev.kubeconfig]
    #[arg(long, value_name = "FILE", requires = "cluster")]
    write_kubeconfig: Option<PathBuf>,
    /// Further arguments of the operator, such as --admin=127.0.0.1:8080
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
}

pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    project::check(&options.project)?;
    let stage = Stage::set(options).await?;
    let mut sources = build::Sources::of(&options.project);
    let mut running: Option<Running> = None;
    let mut shown = Shown::default();
    let stopped = windlass::told_to_stop();
    tokio::pin!(stopped);
    loop {
        let renewed = tokio::select! {
            biased;
            () = &mut stopped => break,
            renewed = stage.renew(options, &mut running, &mut shown) => renewed,
        };
        if let Err(error) = renewed {
            println!("dev     {error:#}; waiting for a change");
        }
        let ended = async {
            match &mut running {
                Some(running) => running.child.wait().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = &mut stopped => break,
            () = sources.changed() => continue,
            status = ended => match status {
                Ok(status) => println!("dev     the operator ended with {status}; waiting for a change"),
                Err(error) => println!("dev     the operator cannot be waited for: {error}"),
            },
        }
        running = None;
        tokio::select! {
            biased;
            () = &mut stopped => break,
            () = sources.changed() => {}
        }
    }
    if let Some(running) = running {
        running.end().await;
    }
    Ok(())
}

/// The cluster that everything happens in.
struct Stage {
    client: Client,
    /// Where the operator finds it; without one it looks for itself.
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
    memory: Option<TestCluster>,
}

/// What goes on beside the operator, and is renewed with it.
#[derive(Default)]
struct Shown {
    events: Vec<Subscription>,
    led: Option<webhooks::Led>,
}

impl Stage {
    async fn set(options: &Options) -> anyhow::Result<Self> {
        if !options.cluster {
            let Cluster { kubeconfig, context } = options.kubeconfig.clone();
            let kubeconfig = kubeconfig.map(|file| file.canonicalize().unwrap_or(file));
            return Ok(Self {
                client: options.kubeconfig.client().await?,
                kubeconfig,
                context,
                memory: None,
            });
        }
        let cluster = test_cluster::start(&["*"], options.nodes, 1).await;
        let listening = cluster.listen(([127, 0, 0, 1], 0).into()).await?;
        let default = options.project.join("target/dev.kubeconfig");
        let file = options.write_kubeconfig.clone().unwrap_or(default);
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        }
        listening.write_kubeconfig(&file)?;
        let file = file.canonicalize()?;
        println!("dev     a cluster in memory: export KUBECONFIG={}", file.display());
        Ok(Self { client: cluster.client(), kubeconfig: Some(file), context: None, memory: Some(cluster) })
    }

    /// Builds the operator, installs what it brings, and puts it in the place of the one that runs.
    async fn renew(
        &self,
        options: &Options,
        running: &mut Option<Running>,
        shown: &mut Shown,
    ) -> anyhow::Result<()> {
        println!("dev     building");
        let program = build::build(&options.project).await?;
        let output = Command::new(&program).arg("describe").stderr(Stdio::inherit()).output().await;
        let output = output.with_context(|| program.display().to_string())?;
        ensure!(output.status.success(), "{} does not describe itself", program.display());
        let description: Description = serde_json::from_slice(&output.stdout)
            .context("it does not say of itself what an operator of Windlass says")?;
        description.install_definitions(&self.client).await?;
        description.install_policies(&self.client).await?;
        // Before anything can happen, and following the newest definitions.
        shown.events = show::everything(&self.client, &description).await;
        shown.led = self.memory.as_ref().map(|cluster| webhooks::lead(cluster, &description));
        if let Some(old) = running.take() {
            old.end().await;
        }
        let mut command = Command::new(&program);
        command.arg("run").args(&options.args).kill_on_drop(true);
        if let Some(file) = &self.kubeconfig {
            command.arg("--kubeconfig").arg(file);
        }
        if let Some(context) = &self.context {
            command.arg("--context").arg(context);
        }
        if std::env::var_os("RUST_LOG").is_none() {
            command.env("RUST_LOG", LOG);
        }
        let child = command.spawn().with_context(|| program.display().to_string())?;
        println!("dev     {} runs", description.name);
        if let Some(address) = admin(&options.args).filter(|_| description.metrics.is_none()) {
            println!("dev     what it does just now: curl http://{address}/diagnostics");
            println!("dev     and what an object waits for: windlass why KIND/NAME --admin {address}");
        }
        *running = Some(Running { child });
        Ok(())
    }
}

/// Where the operator is told to serve what it does.
fn admin(args: &[String]) -> Option<&str> {
    let after = args.iter().position(|arg| arg == "--admin").and_then(|at| args.get(at + 1));
    let address = args.iter().find_map(|arg| arg.strip_prefix("--admin="));
    // Port 0 is another one each time.
    address.or(after.map(String::as_str)).filter(|address| !address.ends_with(":0"))
}

/// An operator that runs.
struct Running {
    child: Child,
}

impl Running {
    /// Tells it to end, and makes it end when it does not.
    async fn end(mut self) {
        if let Some(id) = self.child.id() {
            let mut tell = Command::new("kill");
            let _ = tell.args(["-TERM", &id.to_string()]).status().await;
        }
        if tokio::time::timeout(END_WITHIN, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admin_server_is_found_among_the_arguments() {
        let found = |args: &str| {
            let args: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
            admin(&args).map(str::to_owned)
        };
        assert_eq!(found("--leader-elect --admin=127.0.0.1:8080").as_deref(), Some("127.0.0.1:8080"));
        assert_eq!(found("--admin 127.0.0.1:8080 --leader-elect").as_deref(), Some("127.0.0.1:8080"));
        assert_eq!(found("--admin=127.0.0.1:0"), None);
        assert_eq!(found("--admin"), None);
        assert_eq!(found(""), None);
    }
}
