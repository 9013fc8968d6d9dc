//! Who depends on whom, by uid. Pure: fed with what the watches see, it says whom to look at.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::ObjectMeta;
use windlass::Key;

/// An object of the cluster, whatever its kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Uid(pub(crate) String);

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

/// What is remembered of an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// Its kind, as a key of the table of kinds.
    pub(super) kind: String,
    pub(super) key: Key,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) deleting: bool,
    pub(super) foreground: bool,
    pub(super) orphans: bool,
}

impl Node {
    pub(super) fn new(kind: &str, meta: &ObjectMeta) -> Self {
        let has = |name: &str| meta.finalizers.iter().flatten().any(|f| f == name);
        Self {
            kind: kind.to_owned(),
            key: Key::new(meta.namespace.as_deref(), meta.name.as_deref().unwrap_or_default()),
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            foreground: has(FOREGROUND),
            orphans: has(ORPHAN),
        }
    }

    /// Whether it waits for its dependents to go first.
    pub(super) fn waits(&self) -> bool {
        self.deleting && self.foreground
    }

    fn blocks(&self, owner: &Uid) -> bool {
        self.owners.iter().any(|o| o.uid == owner.0 && o.block_owner_deletion == Some(true))
    }
}

/// All objects, and who depends on them.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    nodes: BTreeMap<Uid, Node>,
    dependents: BTreeMap<Uid, BTreeSet<Uid>>,
}

impl Graph {
    pub(super) fn get(&self, uid: &Uid) -> Option<&Node> {
        self.nodes.get(uid)
    }

    pub(super) fn dependents(&self, uid: &Uid) -> impl Iterator<Item = (&Uid, &Node)> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|uid| self.nodes.get_key_value(uid))
    }

    /// The dependents that the deletion of their owner in the foreground waits for.
    pub(super) fn blockers(&self, owner: &Uid) -> Vec<Uid> {
        self.dependents(owner).filter(|(_, node)| node.blocks(owner)).map(|(uid, _)| uid.clone()).collect()
    }

    /// Takes in an object as it is and returns whom to look at.
    pub(super) fn put(&mut self, uid: Uid, node: Node) -> Vec<Uid> {
        let old = self.nodes.get(&uid);
        if old == Some(&node) {
            return Vec::new();
        }
        let (before, after) = (owners(old), owners(Some(&node)));
        for gone in before.difference(&after) {
            self.unlink(gone, &uid);
        }
        for new in &after {
            self.dependents.entry(new.clone()).or_default().insert(uid.clone());
        }
        let mut look = BTreeSet::new();
        // An owner that waits may wait no longer when a reference to it goes or stops to block.
        look.extend(before.iter().filter(|o| self.nodes.get(o).is_some_and(Node::waits)).cloned());
        if !node.owners.is_empty() || (node.deleting && (node.foreground || node.orphans)) {
            look.insert(uid.clone());
        }
        self.nodes.insert(uid, node);
        look.into_iter().collect()
    }

    /// Takes out an object that is gone and returns whom to look at: who depended on it, and who waited for it.
    pub(super) fn remove(&mut self, uid: &Uid) -> Vec<Uid> {
        let old = self.nodes.remove(uid);
        let owners = owners(old.as_ref());
        for owner in &owners {
            self.unlink(owner, uid);
        }
        let mut look: BTreeSet<Uid> = self.dependents(uid).map(|(uid, _)| uid.clone()).collect();
        look.extend(owners.into_iter().filter(|o| self.nodes.get(o).is_some_and(Node::waits)));
        look.into_iter().collect()
    }

    fn unlink(&mut self, owner: &Uid, dependent: &Uid) {
        if let Some(set) = self.dependents.get_mut(owner) {
            set.remove(dependent);
            if set.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}

fn owners(node: Option<&Node>) -> BTreeSet<Uid> {
    node.into_iter().flat_map(|node| &node.owners).map(|owner| Uid(owner.uid.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(owners: &[&str], flags: &str) -> Node {
        let reference = |uid: &&str| OwnerReference {
            uid: (*uid).to_owned(),
            block_owner_deletion: Some(true),
            ..OwnerReference::default()
        };
        Node {
            kind: "pods".into(),
            key: Key::new(Some("default"), "x"),
            owners: owners.iter().map(reference).collect(),
            deleting: flags.contains('d'),
            foreground: flags.contains('f'),
            orphans: flags.contains('o'),
        }
    }

    fn uid(text: &str) -> Uid {
        Uid(text.to_owned())
    }

    #[test]
    fn the_graph_says_whom_to_look_at() {
        let mut graph = Graph::default();
        assert_eq!(graph.put(uid("owner"), node(&[], "")), []);
        assert_eq!(graph.put(uid("a"), node(&["owner"], "")), [uid("a")]);
        assert_eq!(graph.put(uid("a"), node(&["owner"], "")), [], "nothing changed");
        assert_eq!(graph.put(uid("b"), node(&["owner", "other"], "")), [uid("b")]);
        assert_eq!(graph.put(uid("owner"), node(&[], "df")), [uid("owner")], "it begins to wait");
        assert_eq!(graph.blockers(&uid("owner")), [uid("a"), uid("b")]);
        assert_eq!(graph.remove(&uid("a")), [uid("owner")], "it may wait no longer");
        assert_eq!(graph.put(uid("b"), node(&["other"], "")), [uid("b"), uid("owner")]);
        assert!(graph.blockers(&uid("owner")).is_empty());
        assert_eq!(graph.remove(&uid("owner")), []);
        assert_eq!(graph.remove(&uid("other")), [uid("b")], "an owner that was never seen");
    }
}
