//! All nodes in columns, with the pods on them: kept by deltas, never rebuilt.
//!
//! A filter reads a few arrays at one index. Removing a node moves the last one into its place.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{Node, Taint};

use crate::{pod::PodInfo, resources::Amounts};

/// A node's place in the columns.
pub type Index = usize;

/// The nodes and their pods.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The nodes.
    pub nodes: Vec<Arc<Node>>,
    /// Their names.
    pub names: Vec<Arc<str>>,
    /// What each can give.
    pub allocatable: Vec<Amounts>,
    /// What is taken of it.
    pub requested: Vec<Amounts>,
    /// What is taken of it, as scoring counts.
    pub scored: Vec<Amounts>,
    /// The pods on each.
    pub pods: Vec<Vec<Arc<PodInfo>>>,
    /// How many pods on each have required anti-affinity.
    pub with_anti_affinity: Vec<u32>,
    /// True for nodes that are marked unschedulable.
    pub unschedulable: Vec<bool>,
    /// The images on each with their sizes in bytes.
    pub images: Vec<HashMap<String, i64>>,
    /// On how many nodes an image is.
    pub image_spread: HashMap<String, usize>,
    index: HashMap<Arc<str>, Index>,
    /// Where each pod is, by uid.
    places: HashMap<String, Arc<str>>,
    /// Pods that name a node which is not here (yet).
    strays: BTreeMap<Arc<str>, Vec<Arc<PodInfo>>>,
}

impl Snapshot {
    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Where a node is.
    pub fn find(&self, name: &str) -> Option<Index> {
        self.index.get(name).copied()
    }

    /// The value of a node's label.
    pub fn label(&self, at: Index, key: &str) -> Option<&str> {
        self.nodes[at].metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// The taints of a node.
    pub fn taints(&self, at: Index) -> &[Taint] {
        self.nodes[at].spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or(&[])
    }

    /// Adds or replaces a node.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name: Arc<str> = node.metadata.name.as_deref().unwrap_or("").into();
        let allocatable =
            node.status.as_ref().and_then(|s| s.allocatable.as_ref()).map(Amounts::of).unwrap_or_default();
        let unschedulable = node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false);
        let images = images(&node);
        for image in images.keys() {
            *self.image_spread.entry(image.clone()).or_default() += 1;
        }
        if let Some(at) = self.find(&name) {
            let old = std::mem::replace(&mut self.images[at], images);
            self.forget_images(&old);
            self.nodes[at] = node;
            self.allocatable[at] = allocatable;
            self.unschedulable[at] = unschedulable;
            return;
        }
        self.index.insert(Arc::clone(&name), self.nodes.len());
        self.nodes.push(node);
        self.names.push(Arc::clone(&name));
        self.allocatable.push(allocatable);
        self.requested.push(Amounts::default());
        self.scored.push(Amounts::default());
        self.pods.push(Vec::new());
        self.with_anti_affinity.push(0);
        self.unschedulable.push(unschedulable);
        self.images.push(images);
        for pod in self.strays.remove(&name).unwrap_or_default() {
            self.place(pod, &name);
        }
    }

    fn forget_images(&mut self, old: &HashMap<String, i64>) {
        for image in old.keys() {
            if let Some(count) = self.image_spread.get_mut(image) {
                *count -= 1;
                if *count == 0 {
                    self.image_spread.remove(image);
                }
            }
        }
    }

    /// Removes a node; its pods wait for it to come back, or to be deleted.
    pub fn remove_node(&mut self, name: &str) {
        let Some(at) = self.index.remove(name) else { return };
        self.nodes.swap_remove(at);
        let name = self.names.swap_remove(at);
        self.allocatable.swap_remove(at);
        self.requested.swap_remove(at);
        self.scored.swap_remove(at);
        self.with_anti_affinity.swap_remove(at);
        self.unschedulable.swap_remove(at);
        let images = self.images.swap_remove(at);
        self.forget_images(&images);
        let pods = self.pods.swap_remove(at);
        if !pods.is_empty() {
            self.strays.insert(name, pods);
        }
        if let Some(moved) = self.names.get(at) {
            self.index.insert(Arc::clone(moved), at);
        }
    }

    /// Puts a pod on a node, or moves or refreshes it there.
    pub fn set_pod(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove_pod(pod.uid());
        self.place(pod, node);
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        let Some(at) = self.find(node) else {
            let name: Arc<str> = node.into();
            self.places.insert(pod.uid().to_owned(), Arc::clone(&name));
            self.strays.entry(name).or_default().push(pod);
            return;
        };
        self.places.insert(pod.uid().to_owned(), Arc::clone(&self.names[at]));
        self.requested[at].add(&pod.requests);
        self.requested[at].pods += 1;
        self.scored[at].add(&pod.scored);
        self.with_anti_affinity[at] += u32::from(!pod.anti_affinity.is_empty());
        self.pods[at].push(pod);
    }

    /// Takes a pod off its node. False when it was on none.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(name) = self.places.remove(uid) else { return false };
        let Some(at) = self.find(&name) else {
            if let Some(strays) = self.strays.get_mut(&name) {
                strays.retain(|p| p.uid() != uid);
                if strays.is_empty() {
                    self.strays.remove(&name);
                }
            }
            return true;
        };
        let Some(i) = self.pods[at].iter().position(|p| p.uid() == uid) else { return false };
        let pod = self.pods[at].swap_remove(i);
        self.requested[at].sub(&pod.requests);
        self.requested[at].pods -= 1;
        self.scored[at].sub(&pod.scored);
        self.with_anti_affinity[at] -= u32::from(!pod.anti_affinity.is_empty());
        true
    }

    /// The node that a pod is on.
    pub fn node_of(&self, uid: &str) -> Option<&Arc<str>> {
        self.places.get(uid)
    }
}

fn images(node: &Node) -> HashMap<String, i64> {
    let images = node.status.as_ref().and_then(|s| s.images.as_ref());
    let named = images.into_iter().flatten().flat_map(|image| {
        let size = image.size_bytes.unwrap_or(0);
        image.names.iter().flatten().map(move |name| (name.clone(), size))
    });
    named.collect()
}
