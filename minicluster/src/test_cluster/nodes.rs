//! Hollow nodes of a test, and what runs on them.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use minicluster_kubelet::{
    self as kubelet, Kubelet, Lies, Pods,
    runtime::{
        SandboxConfig,
        hollow::{Behaviour, Frozen, HollowRuntime, Program, Script},
    },
};
use parking_lot::RwLock;
use windlass::{CancellationToken, Informers};
use windlass_crd::selector::LabelSelector;

pub use minicluster_kubelet::runtime::hollow::Process;

use super::{Identity, TestCluster};

/// A node and its kubelet.
pub(super) struct Node {
    pub(super) number: u32,
    pub(super) runtime: Arc<HollowRuntime>,
    pub(super) lies: Lies,
    pub(super) stop: CancellationToken,
}

/// What pods do, by their labels; the newest that fits counts.
#[derive(Clone, Default)]
pub(super) struct Scripts(Arc<RwLock<Vec<(LabelSelector, Option<String>, Behaviour)>>>);

impl Scripts {
    /// The same, to be changed without the other.
    pub(super) fn branch(&self) -> Self {
        Self(Arc::new(RwLock::new(self.0.read().clone())))
    }

    fn behaviour(&self, pod: &SandboxConfig, container: &str) -> Behaviour {
        let scripts = self.0.read();
        let fits = |(labels, name, _): &&(LabelSelector, Option<String>, Behaviour)| {
            labels.matches(&pod.labels) && name.as_ref().is_none_or(|name| name == container)
        };
        scripts.iter().rev().find(fits).map(|(_, _, behaviour)| behaviour.clone()).unwrap_or_default()
    }
}

/// Pods that match a selector, about to be told what they do.
#[must_use = "nothing is scripted until it is said what they do"]
pub struct ScriptedPods<'a> {
    cluster: &'a TestCluster,
    labels: LabelSelector,
    container: Option<String>,
}

impl ScriptedPods<'_> {
    /// Only containers of this name.
    pub fn container(mut self, name: &str) -> Self {
        self.container = Some(name.to_owned());
        self
    }

    /// Lets their containers run a program: an async function that may wait, log, become ready or sick, and whose
    /// result is the exit code. It counts for containers that are made from now on.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// # let cluster = minicluster::TestCluster::builder().hollow_nodes(1).start().await;
    /// # use std::time::Duration;
    /// cluster.pods("app=db").run(|process| async move {
    ///     process.set_ready(false);
    ///     tokio::time::sleep(Duration::from_secs(30)).await;
    ///     process.log("recovered");
    ///     process.set_ready(true);
    ///     process.stopped().await;
    ///     0
    /// });
    /// # }
    /// ```
    pub fn run<F, Fut>(self, program: F)
    where
        F: Fn(Process) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = i32> + Send + 'static,
    {
        self.behave(Behaviour { program: Some(Program::new(program)), ..Behaviour::default() });
    }

    /// Lets their containers do what a few numbers say.
    pub fn behave(self, behaviour: Behaviour) {
        self.cluster.scripts.0.write().push((self.labels, self.container, behaviour));
    }
}

impl TestCluster {
    /// Tells pods on hollow nodes what to do; a selector as kubectl's `-l`. What nobody tells anything runs for ever and
    /// is ready at once.
    ///
    /// # Panics
    /// When the selector does not parse.
    pub fn pods(&self, selector: &str) -> ScriptedPods<'_> {
        let labels = LabelSelector::parse(selector).unwrap_or_else(|e| panic!("{selector}: {e}"));
        ScriptedPods { cluster: self, labels, container: None }
    }

    /// Starts one more hollow node and returns its name.
    pub fn add_node(&mut self) -> String {
        let number = self.nodes.lock().values().map(|node| node.number + 1).max().unwrap_or(0);
        self.start_node(number);
        name(number)
    }

    /// Stops a hollow node's kubelet without a word, as a power cut does.
    pub fn lose_node(&self, name: &str) {
        if let Some(node) = self.nodes.lock().get(name) {
            node.stop.cancel();
        }
    }

    /// Turns a lost node on again. As after a power cut, nothing runs there any more; with `kept`, only its line was
    /// down, and everything still runs.
    ///
    /// # Panics
    /// When there is no such node.
    pub fn return_node(&mut self, name: &str, kept: bool) {
        self.lose_node(name);
        let node = self.nodes.lock().remove(name).unwrap_or_else(|| panic!("no node is called {name}"));
        match kept {
            true => self.run_node(node.number, node.runtime),
            false => self.start_node(node.number),
        }
    }

    /// What a hollow node says that is not so: of itself, and of its pods.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// # let cluster = minicluster::TestCluster::builder().hollow_nodes(1).start().await;
    /// // Whatever runs there, it says that nothing ever starts.
    /// cluster.lies("hollow-0").about_pods(|_, status| {
    ///     status.phase = Some("Pending".to_owned());
    ///     status.container_statuses = None;
    /// });
    /// # }
    /// ```
    ///
    /// # Panics
    /// When there is no such node.
    pub fn lies(&self, node: &str) -> Lies {
        let lies = self.nodes.lock().get(node).map(|node| node.lies.clone());
        lies.unwrap_or_else(|| panic!("no node is called {node}"))
    }

    /// What a container on a hollow node has logged; `None` when there is none.
    pub fn log(&self, namespace: &str, pod: &str, container: &str) -> Option<String> {
        self.nodes.lock().values().find_map(|node| node.runtime.log_of(namespace, pod, container))
    }

    pub(super) fn start_node(&mut self, number: u32) {
        let runtime = HollowRuntime::new(first_ip(number));
        runtime.set_script(self.script());
        self.run_node(number, Arc::new(runtime));
    }

    pub(super) fn thaw_node(&mut self, number: u32, frozen: &Frozen) {
        let runtime = HollowRuntime::thaw(frozen);
        // What this cluster's test tells pods from now on, not what the other's does.
        runtime.set_script(self.script());
        self.run_node(number, Arc::new(runtime));
    }

    fn script(&self) -> Script {
        let scripts = self.scripts.clone();
        Arc::new(move |pod, container| scripts.behaviour(pod, &container.name))
    }

    fn run_node(&mut self, number: u32, runtime: Arc<HollowRuntime>) {
        let (informers, pods) = self.kubelets();
        let stop = self.stop.child_token();
        let [_, _, high, low] = number.to_be_bytes();
        let config = kubelet::Config::hollow(&name(number), IpAddr::V4(Ipv4Addr::new(10, 0, high, low)));
        let lies = config.lies.clone();
        let kubelet = Kubelet::new(config, &informers, pods, Arc::clone(&runtime) as _);
        self.nodes.lock().insert(name(number), Node { number, runtime, lies, stop: stop.clone() });
        self.tasks.lock().spawn(kubelet.run(stop, |_| {}));
    }

    /// What all kubelets share.
    fn kubelets(&mut self) -> (Informers, Pods) {
        if self.informers.is_none() {
            let client = self.component("nodes", Identity::system());
            let informers = Informers::seeded(client, self.random.fork("kubelets"));
            let pods = Pods::of_all(&informers);
            self.informers = Some((informers, pods));
        }
        self.informers.clone().expect("made just now")
    }
}

fn name(number: u32) -> String {
    format!("hollow-{number}")
}

fn first_ip(number: u32) -> Ipv4Addr {
    let [_, _, high, low] = number.to_be_bytes();
    Ipv4Addr::new(100, 64 + (high & 63), low, 1)
}
