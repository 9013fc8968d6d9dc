//! Looking at one object, and doing what was decided.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy},
    core::{DynamicObject, ObjectMeta, PartialObjectMeta},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use windlass::{EventType, Key, Recorder, discovery::Served};

use super::{
    Heap,
    decide::{Item, Owner, Verdict, decide},
    graph::{FOREGROUND, Node, ORPHAN, Uid},
    kinds::Kinds,
};

/// Owners known to be gone that are remembered; a uid never comes back.
const ABSENT: usize = 5000;

type Meta = PartialObjectMeta<DynamicObject>;

/// Why an object is looked at again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("no kind {0:?} is served")]
    UnknownKind(String),
}

pub(super) struct Actor {
    pub(super) client: Client,
    pub(super) kinds: Arc<Kinds>,
    pub(super) heap: Heap,
    pub(super) recorder: Recorder,
    pub(super) absent: Mutex<BTreeMap<(Uid, String), ()>>,
}

impl Actor {
    /// Looks at an object and does what has to be done about it.
    pub(super) async fn look(&self, uid: &Uid) -> Result<(), Failure> {
        let Some(node) = self.heap.graph.lock().get(uid).cloned() else { return Ok(()) };
        if node.deleting {
            return self.let_go(uid, &node).await;
        }
        if node.owners.is_empty() {
            return Ok(());
        }
        let api = self.api(&node)?;
        let Some(live) =
            api.get_opt(node.key.name()).await?.filter(|live| live.metadata.uid.as_ref() == Some(&uid.0))
        else {
            return Ok(());
        };
        let mut owners = Vec::new();
        for owner in live.metadata.owner_references.clone().unwrap_or_default() {
            let state = self.state(&owner, &node, uid).await?;
            owners.push((owner, state));
        }
        let item = self.item(uid, &live.metadata);
        match decide(item, &owners) {
            Verdict::Keep => Ok(()),
            Verdict::Disown(keep) => set_owners(&api, &live.metadata, &keep).await,
            Verdict::Delete(policy) => delete(&api, &live.metadata, policy).await,
            Verdict::BreakCircle => {
                let mut owners: Vec<OwnerReference> = owners.into_iter().map(|(owner, _)| owner).collect();
                owners.iter_mut().for_each(|owner| owner.block_owner_deletion = Some(false));
                set_owners(&api, &live.metadata, &owners).await?;
                let Some(live) = api.get_opt(node.key.name()).await? else { return Ok(()) };
                delete(&api, &live.metadata, PropagationPolicy::Foreground).await
            }
        }
    }

    /// An object on its way out: its dependents are orphaned, or wait no longer than they have to.
    async fn let_go(&self, uid: &Uid, node: &Node) -> Result<(), Failure> {
        if node.orphans {
            self.orphan(uid).await?;
            return self.remove_finalizer(uid, node, ORPHAN).await;
        }
        if !node.foreground {
            return Ok(());
        }
        let blockers = self.heap.graph.lock().blockers(uid);
        if blockers.is_empty() {
            return self.remove_finalizer(uid, node, FOREGROUND).await;
        }
        let waiting = |blocker: &Uid| self.heap.graph.lock().get(blocker).is_some_and(|n| !n.deleting);
        self.heap.look_at(blockers.into_iter().filter(waiting));
        Ok(())
    }

    async fn orphan(&self, uid: &Uid) -> Result<(), Failure> {
        let dependents: Vec<Node> = self.heap.graph.lock().dependents(uid).map(|(_, n)| n.clone()).collect();
        for node in dependents {
            let api = self.api(&node)?;
            let Some(live) = api.get_opt(node.key.name()).await? else { continue };
            let mut owners = live.metadata.owner_references.clone().unwrap_or_default();
            let before = owners.len();
            owners.retain(|owner| owner.uid != uid.0);
            if owners.len() != before {
                set_owners(&api, &live.metadata, &owners).await?;
            }
        }
        Ok(())
    }

    async fn remove_finalizer(&self, uid: &Uid, node: &Node, name: &str) -> Result<(), Failure> {
        let api = self.api(node)?;
        let live = api.get_opt(node.key.name()).await?;
        let Some(meta) = live.map(|live| live.metadata).filter(|meta| meta.uid.as_ref() == Some(&uid.0))
        else {
            return Ok(());
        };
        let mut finalizers = meta.finalizers.clone().unwrap_or_default();
        if !finalizers.iter().any(|f| f == name) {
            return Ok(());
        }
        finalizers.retain(|f| f != name);
        patch(&api, &meta, json!({"finalizers": finalizers})).await
    }

    fn item(&self, uid: &Uid, meta: &ObjectMeta) -> Item {
        let has = |name: &str| meta.finalizers.iter().flatten().any(|f| f == name);
        let graph = self.heap.graph.lock();
        let mut dependents = graph.dependents(uid).peekable();
        Item {
            orphans: has(ORPHAN),
            foreground: has(FOREGROUND),
            has_dependents: dependents.peek().is_some(),
            dependent_waits: dependents.any(|(_, node)| node.waits()),
        }
    }

    /// What is known of an owner: from the graph, or else from the server.
    async fn state(&self, owner: &OwnerReference, of: &Node, uid: &Uid) -> Result<Owner, Failure> {
        let id = Uid(owner.uid.clone());
        let namespace = of.key.namespace().unwrap_or_default().to_owned();
        if let Some(node) = self.heap.graph.lock().get(&id).filter(|node| could_own(node, owner, of)) {
            return Ok(if node.waits() { Owner::Waiting } else { Owner::Solid });
        }
        let known = (id, namespace);
        if self.absent.lock().contains_key(&known) {
            return Ok(Owner::Dangling);
        }
        let served = self.served(owner)?;
        if served.namespaced && of.key.namespace().is_none() {
            self.tell_invalid(owner, of, uid);
            return Ok(Owner::Dangling);
        }
        let key = Key::new(of.key.namespace().filter(|_| served.namespaced), &owner.name);
        let live = api(&self.client, &served, &key).get_opt(&owner.name).await?;
        match live.filter(|live| live.metadata.uid.as_ref() == Some(&owner.uid)) {
            None => {
                let mut absent = self.absent.lock();
                if absent.len() >= ABSENT {
                    absent.clear();
                }
                absent.insert(known, ());
                Ok(Owner::Dangling)
            }
            Some(live) if Node::new("", &live.metadata).waits() => Ok(Owner::Waiting),
            Some(_) => Ok(Owner::Solid),
        }
    }

    fn served(&self, owner: &OwnerReference) -> Result<Served, Failure> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let unknown = || Failure::UnknownKind(format!("{}, {}", owner.api_version, owner.kind));
        self.kinds.find(group, &owner.kind).ok_or_else(unknown)
    }

    fn api(&self, node: &Node) -> Result<Api<Meta>, Failure> {
        let served = self.kinds.named(&node.kind).ok_or_else(|| Failure::UnknownKind(node.kind.clone()))?;
        Ok(api(&self.client, &served, &node.key))
    }

    /// A cluster-scoped object cannot be owned by one in a namespace.
    fn tell_invalid(&self, owner: &OwnerReference, of: &Node, uid: &Uid) {
        let served = self.kinds.named(&of.kind);
        let reference = ObjectReference {
            api_version: served.as_ref().map(|s| s.api_resource().api_version),
            kind: served.map(|s| s.kind),
            name: Some(of.key.name().to_owned()),
            uid: Some(uid.0.clone()),
            ..ObjectReference::default()
        };
        let note = format!(
            "ownerRef [{}/{}, name: {}, uid: {}] does not exist in namespace {:?}",
            owner.api_version,
            owner.kind,
            owner.name,
            owner.uid,
            of.key.namespace().unwrap_or_default()
        );
        self.recorder.event_about(&reference, None, EventType::Warning, "OwnerRefInvalidNamespace", "", note);
    }
}

/// Whether the reference may mean this object: of that name, and in the same namespace or in none.
fn could_own(node: &Node, owner: &OwnerReference, of: &Node) -> bool {
    node.key.name() == owner.name
        && node.key.namespace().is_none_or(|namespace| Some(namespace) == of.key.namespace())
}

fn api(client: &Client, served: &Served, key: &Key) -> Api<Meta> {
    let resource = served.api_resource();
    match key.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

async fn delete(api: &Api<Meta>, meta: &ObjectMeta, policy: PropagationPolicy) -> Result<(), Failure> {
    let params = DeleteParams {
        propagation_policy: Some(policy),
        // Not if anybody has changed it, or its owners, since it was looked at.
        preconditions: Some(Preconditions {
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
        }),
        ..DeleteParams::default()
    };
    match api.delete(meta.name.as_deref().unwrap_or_default(), &params).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}

async fn set_owners(api: &Api<Meta>, meta: &ObjectMeta, owners: &[OwnerReference]) -> Result<(), Failure> {
    patch(api, meta, json!({"ownerReferences": owners})).await
}

/// Patches metadata of the object at the revision it was looked at.
async fn patch(api: &Api<Meta>, meta: &ObjectMeta, mut change: Value) -> Result<(), Failure> {
    change["uid"] = json!(meta.uid);
    change["resourceVersion"] = json!(meta.resource_version);
    let patch = Patch::Merge(json!({"metadata": change}));
    match api.patch(meta.name.as_deref().unwrap_or_default(), &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}
