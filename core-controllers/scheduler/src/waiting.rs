//! Pods that have a node and that a `Permit` plugin holds. Upstream: `waiting_pods_map.go`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{plugin::Reject, plugins::Refusal, pod::PodInfo};

/// The longest that a plugin may hold a pod.
pub const PERMIT_MAX: Duration = Duration::from_mins(15);

/// The most pods that are held at a time; whoever comes then is refused.
pub const WAITING_MAX: usize = 10_000;

/// The pods that wait for permission, shared by all profiles.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<BTreeMap<String, Held>>);

#[derive(Debug)]
struct Held {
    pod: Arc<PodInfo>,
    node: Arc<str>,
    by: BTreeSet<&'static str>,
    decided: oneshot::Sender<Result<(), Refusal>>,
}

/// How long a pod is held, and by whom.
pub(crate) struct Hold {
    /// Each plugin, and how long it waits at most.
    pub(crate) by: Vec<(&'static str, Duration)>,
    decided: oneshot::Receiver<Result<(), Refusal>>,
}

impl Waiting {
    /// The pods that wait, with the nodes that are kept for them, by uid.
    pub fn pods(&self) -> Vec<(Arc<PodInfo>, Arc<str>)> {
        self.0.lock().values().map(|held| (Arc::clone(&held.pod), Arc::clone(&held.node))).collect()
    }

    /// A plugin has nothing against a pod any more. It goes once none has.
    pub fn allow(&self, uid: &str, plugin: &str) {
        let mut pods = self.0.lock();
        let Some(held) = pods.get_mut(uid) else { return };
        held.by.retain(|name| *name != plugin);
        if held.by.is_empty()
            && let Some(held) = pods.remove(uid)
        {
            // Nobody listens when its time ran out just now.
            let _ = held.decided.send(Ok(()));
        }
    }

    /// A plugin does not let a pod go.
    pub fn reject(&self, uid: &str, plugin: &'static str, why: Reject) {
        let Some(held) = self.0.lock().remove(uid) else { return };
        let _ = held.decided.send(Err(Refusal::of(plugin, why)));
    }

    /// Holds a pod; `None` when too many are.
    pub(crate) fn hold(
        &self,
        pod: &Arc<PodInfo>,
        node: &Arc<str>,
        by: Vec<(&'static str, Duration)>,
    ) -> Option<Hold> {
        let mut pods = self.0.lock();
        if pods.len() >= WAITING_MAX {
            return None;
        }
        let (sender, decided) = oneshot::channel();
        let names = by.iter().map(|(name, _)| *name).collect();
        let held = Held { pod: Arc::clone(pod), node: Arc::clone(node), by: names, decided: sender };
        pods.insert(pod.uid().to_owned(), held);
        Some(Hold { by, decided })
    }

    /// Waits until everybody allows it or somebody does not.
    pub(crate) async fn decided(&self, pod: &PodInfo, hold: Hold) -> Result<(), Refusal> {
        let Some((plugin, limit)) =
            hold.by.iter().map(|(name, wait)| (*name, (*wait).min(PERMIT_MAX))).min_by_key(|(_, wait)| *wait)
        else {
            return Ok(());
        };
        match tokio::time::timeout(limit, hold.decided).await {
            Ok(Ok(decided)) => decided,
            // The scheduler has stopped, and nobody will be told.
            Ok(Err(_)) => Err(Refusal::of(plugin, Reject::because("the scheduler stops"))),
            Err(_) => {
                self.0.lock().remove(pod.uid());
                let why = format!("rejected due to timeout after waiting {limit:?} at plugin {plugin}");
                Err(Refusal::of(plugin, Reject::because(why)))
            }
        }
    }
}
