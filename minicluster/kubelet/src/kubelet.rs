//! A kubelet, put together: its pods come in, its runtime's events come in, and each pod's worker does the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use kube::Client;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use windlass::Informers;

use crate::config::Config;
use crate::events::Events;
use crate::node;
use crate::objects::{Lookup, Nothing, Watched};
use crate::runtime::{Runtime, RuntimeEvent};
use crate::source::Pods;
use crate::volumes::Volumes;
use crate::volumes::token::Tokens;
use crate::worker::{Shared, Tasks};

/// Pause between two attempts to reach the runtime at the start.
const RUNTIME_RETRY: Duration = Duration::from_millis(500);
/// Time for status writes that are under way when the kubelet stops.
const DRAIN: Duration = Duration::from_secs(3);

/// The node agent of one node.
pub struct Kubelet {
    config: Config,
    client: Client,
    runtime: Arc<dyn Runtime>,
    pods: Pods,
    watched: Option<Arc<Watched>>,
}

/// A view into a running kubelet, for its node server.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Handle {
    /// A pod of this node by its name.
    #[cfg(feature = "cri")]
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<Arc<crate::worker::Cell>> {
        let cells = self.shared.cells.lock();
        let same = |cell: &&Arc<crate::worker::Cell>| {
            let pod = cell.pod();
            pod.metadata.name.as_deref() == Some(name) && pod.metadata.namespace.as_deref() == Some(namespace)
        };
        cells.values().filter(same).max_by_key(|c| c.pod().metadata.creation_timestamp.clone()).cloned()
    }
}

impl Kubelet {
    /// A kubelet whose pods come from `pods`: those of its own node ([`Pods::of_node`]), or all of them, shared with
    /// the kubelets of other hollow nodes ([`Pods::of_all`]). With a folder for files, what pods refer to is watched too.
    pub fn new(config: Config, informers: &Informers, pods: Pods, runtime: Arc<dyn Runtime>) -> Self {
        let watched = config.root_dir.is_some().then(|| Watched::new(informers));
        Self { config, client: informers.client().clone(), runtime, pods, watched }
    }

    /// Runs until `stop`. Containers keep running afterwards, to be adopted by the next kubelet.
    ///
    /// `ready` is called once, with what the node server needs, when the runtime has answered.
    pub async fn run(self, stop: CancellationToken, ready: impl FnOnce(Handle)) {
        let started = tokio::select! {
            biased;
            shared = self.start(stop.clone()) => shared,
            () = stop.cancelled() => return,
        };
        let Started { shared, pods, watched } = started;
        ready(Handle { shared: shared.clone() });
        let mut events = shared.runtime.events();
        let node = tokio::spawn(node::run(shared.clone()));
        if let Some(watched) = watched {
            let shared = Arc::downgrade(&shared);
            watched.on_change(move |is_secret, key| {
                if let Some(shared) = shared.upgrade() {
                    shared.reference_changed(is_secret, key.namespace().unwrap_or_default(), key.name());
                }
            });
        }
        let inbox = pods.inbox(&shared.config.node_name);
        #[cfg(feature = "cri")]
        own_tasks(&shared);
        adopt(&shared, &inbox).await;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                news = inbox.take() => apply(&shared, news),
                event = events.next() => match event {
                    Some(RuntimeEvent::Pod(uid)) => shared.poke_uid(&uid),
                    Some(RuntimeEvent::All) => shared.poke_all(),
                    None => events = shared.runtime.events(),
                },
            }
        }
        pods.leave(&shared.config.node_name);
        let _ = tokio::time::timeout(DRAIN, shared.tasks.idle()).await;
        node.abort();
    }

    /// Waits for the runtime and the caches.
    async fn start(self, stop: CancellationToken) -> Started {
        let mut told = false;
        let info = loop {
            match self.runtime.info().await {
                Ok(info) => break info,
                Err(error) if !told => {
                    tracing::warn!(%error, "the container runtime does not answer; waiting for it");
                    told = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(RUNTIME_RETRY).await;
        };
        self.pods.synced().await;
        if let Some(watched) = &self.watched {
            watched.synced().await;
        }
        let objects: Arc<dyn Lookup> = match &self.watched {
            Some(watched) => watched.clone(),
            None => Arc::new(Nothing),
        };
        let volumes = self
            .config
            .root_dir
            .clone()
            .map(|root| Volumes::new(root, objects.clone(), Tokens::new(self.client.clone())));
        let shared = Arc::new(Shared {
            events: Events::start(self.client.clone(), &self.config.node_name),
            pulls: Semaphore::new(self.config.parallel_pulls.max(1)),
            starts: Semaphore::new(self.config.parallel_starts.max(1)),
            config: self.config,
            client: self.client,
            runtime: self.runtime,
            runtime_name: info.name,
            objects,
            volumes,
            cells: Mutex::new(BTreeMap::new()),
            tasks: Tasks::default(),
            stop,
        });
        Started { shared, pods: self.pods, watched: self.watched }
    }
}

/// What only a real node does: the pods of its own folder, and logs that do not grow for ever.
#[cfg(feature = "cri")]
fn own_tasks(shared: &Arc<Shared>) {
    if let Some(folder) = shared.config.manifests.clone() {
        crate::manifests::start(shared, folder);
    }
    if shared.volumes.is_some() {
        tokio::spawn(crate::rotate::run(shared.clone()));
    }
}

struct Started {
    shared: Arc<Shared>,
    pods: Pods,
    watched: Option<Arc<Watched>>,
}

/// Takes up the pods there are; what the runtime holds and nobody asks for is taken down.
async fn adopt(shared: &Arc<Shared>, inbox: &crate::source::Inbox) {
    let known = tokio::time::timeout(Duration::ZERO, inbox.take()).await.unwrap_or_default();
    apply(shared, known);
    let wanted: BTreeSet<String> = shared.cells.lock().keys().cloned().collect();
    let held = shared.runtime.pods().await.unwrap_or_default();
    for id in held.iter().filter(|id| !wanted.contains(&id.uid)) {
        shared.orphan(id);
    }
    if let Some(volumes) = &shared.volumes {
        for uid in volumes.present() {
            if wanted.contains(&uid) || held.iter().any(|id| id.uid == uid) {
                continue;
            }
            forget_logs(&shared.config.log_root, &uid);
            if let Err(error) = volumes.remove(&uid).await {
                tracing::warn!(pod = uid, %error, "the files of a gone pod could not be removed");
            }
        }
    }
}

/// Removes the logs of a pod of this kubelet that went while nobody looked. Logs of pods it never had files of may be
/// another kubelet's.
fn forget_logs(root: &str, uid: &str) {
    let own = format!("_{uid}");
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|n| n.ends_with(&own)) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn apply(shared: &Arc<Shared>, news: BTreeMap<String, Option<Arc<k8s_openapi::api::core::v1::Pod>>>) {
    for (uid, pod) in news {
        match pod {
            Some(pod) => shared.upsert(pod),
            None => shared.gone(&uid),
        }
    }
}
