//! What a node says in place of what is so: for tests of those who believe it.
//!
//! A lie changes a status after it was found and before it is compared with what the API has, so that a kubelet sticks to
//! it as it sticks to the truth. Nothing else of the kubelet knows of it.

use std::{borrow::Cow, fmt, sync::Arc};

use k8s_openapi::api::core::v1::{NodeStatus, Pod, PodStatus};
use parking_lot::RwLock;

type AboutNode = Arc<dyn Fn(&mut NodeStatus) + Send + Sync>;
type AboutPods = Arc<dyn Fn(&Pod, &mut PodStatus) + Send + Sync>;

/// The lies of one node; at first there are none. Clones are the same.
#[derive(Clone, Default)]
pub struct Lies(Arc<RwLock<Told>>);

#[derive(Default)]
struct Told {
    node: Option<AboutNode>,
    pods: Option<AboutPods>,
}

impl Lies {
    /// What the node says of itself from now on.
    pub fn about_node(&self, lie: impl Fn(&mut NodeStatus) + Send + Sync + 'static) {
        self.0.write().node = Some(Arc::new(lie));
    }

    /// What it says of its pods from each one's next change on.
    pub fn about_pods(&self, lie: impl Fn(&Pod, &mut PodStatus) + Send + Sync + 'static) {
        self.0.write().pods = Some(Arc::new(lie));
    }

    /// The truth again.
    pub fn end(&self) {
        *self.0.write() = Told::default();
    }

    pub(crate) fn node(&self, status: &mut NodeStatus) {
        let lie = self.0.read().node.clone();
        if let Some(lie) = lie {
            lie(status);
        }
    }

    pub(crate) fn pod<'s>(&self, pod: &Pod, status: &'s PodStatus) -> Cow<'s, PodStatus> {
        let Some(lie) = self.0.read().pods.clone() else { return Cow::Borrowed(status) };
        let mut said = status.clone();
        lie(pod, &mut said);
        Cow::Owned(said)
    }
}

impl fmt::Debug for Lies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = self.0.read();
        f.debug_struct("Lies")
            .field("node", &told.node.is_some())
            .field("pods", &told.pods.is_some())
            .finish()
    }
}
