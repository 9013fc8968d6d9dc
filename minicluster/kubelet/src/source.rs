//! Where a kubelet's pods come from: an inbox that keeps only the newest state of each pod, filled by one informer
//! for a node of its own, or by one informer shared among many hollow nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::Notify;
use windlass::{Delta, Informer, Informers, Scope, Subscription};

use crate::pod::uid;

/// The newest state of a pod: the object, or nothing when it is gone.
type News = BTreeMap<String, Option<Arc<Pod>>>;

/// Pods that changed and were not looked at yet; bounded by the number of pods.
#[derive(Default)]
pub(crate) struct Inbox {
    news: Mutex<News>,
    filled: Notify,
}

impl Inbox {
    fn put(&self, uid: &str, pod: Option<Arc<Pod>>) {
        self.news.lock().insert(uid.to_owned(), pod);
        self.filled.notify_one();
    }

    /// Waits for news.
    pub(crate) async fn take(&self) -> News {
        loop {
            let news = std::mem::take(&mut *self.news.lock());
            if !news.is_empty() {
                return news;
            }
            self.filled.notified().await;
        }
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// The pods of one or many nodes.
#[derive(Clone)]
pub struct Pods {
    informer: Informer<Pod>,
    inner: Arc<Dispatch>,
    _subscription: Arc<Subscription>,
}

#[derive(Default)]
struct Dispatch {
    inboxes: Mutex<BTreeMap<String, Arc<Inbox>>>,
}

impl Dispatch {
    fn deliver(&self, delta: &Delta<Pod>) {
        // A pod made anew under the same name is another pod.
        if let (Some(old), Some(new)) = (delta.old(), delta.new())
            && uid(old) != uid(new)
        {
            self.put(old, None);
        }
        match delta {
            Delta::Deleted { last, .. } => self.put(last, None),
            _ => self.put(delta.object(), Some(delta.object().clone())),
        }
    }

    fn put(&self, pod: &Arc<Pod>, news: Option<Arc<Pod>>) {
        let Some(node) = node_of(pod) else { return };
        let inbox = self.inboxes.lock().get(node).cloned();
        if let Some(inbox) = inbox {
            inbox.put(uid(pod), news);
        }
    }
}

impl Pods {
    /// The pods of one node, watched by a field selector.
    pub fn of_node(informers: &Informers, node: &str) -> Self {
        Self::from(informers.get(Scope::all().fields(format!("spec.nodeName={node}"))))
    }

    /// All pods, shared by the kubelets of many hollow nodes.
    pub fn of_all(informers: &Informers) -> Self {
        Self::from(informers.get(Scope::all()))
    }

    fn from(informer: Informer<Pod>) -> Self {
        let inner = Arc::new(Dispatch::default());
        let dispatch = inner.clone();
        let subscription = informer.subscribe(move |delta| dispatch.deliver(delta));
        Self { informer, inner, _subscription: Arc::new(subscription) }
    }

    /// The inbox of a node, with its present pods in it.
    pub(crate) fn inbox(&self, node: &str) -> Arc<Inbox> {
        let inbox = self.inner.inboxes.lock().entry(node.to_owned()).or_default().clone();
        for pod in self.informer.lister().all() {
            if node_of(&pod) == Some(node) {
                let id = uid(&pod).to_owned();
                inbox.news.lock().entry(id).or_insert(Some(pod));
                inbox.filled.notify_one();
            }
        }
        inbox
    }

    pub(crate) fn leave(&self, node: &str) {
        self.inner.inboxes.lock().remove(node);
    }

    /// Waits until the pods are known.
    pub async fn synced(&self) {
        self.informer.synced().await;
    }
}
