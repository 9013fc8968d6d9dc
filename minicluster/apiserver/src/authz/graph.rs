//! What belongs to which node: pods by their `spec.nodeName`, and through them what they refer to.
//!
//! Kept by the store's events; a question is a look-up or two. An object is related to a node when
//!
//! * a pod of the node refers to it: its service account, secrets, config maps, volume and resource claims;
//! * it is the volume that such a claim is bound to, or a secret that this volume is mounted with;
//! * it names the node itself: an attachment, a slice of resources.
//!
//! Source: `plugin/pkg/auth/authorizer/node/graph.go`.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use serde_json::Value;

use crate::{object, view::Follow};

pub(super) const PODS: &str = "/registry/pods/";
pub(super) const VOLUMES: &str = "/registry/persistentvolumes/";
pub(super) const ATTACHMENTS: &str = "/registry/volumeattachments/";
pub(super) const SLICES: &str = "/registry/resourceslices/";

/// What the graph is made of.
pub(super) const PREFIXES: &[&str] = &[PODS, VOLUMES, ATTACHMENTS, SLICES];

const MIRROR: &str = "kubernetes.io/config.mirror";

/// The kinds that a node may be related to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Pod,
    ServiceAccount,
    Secret,
    ConfigMap,
    Claim,
    ResourceClaim,
    Volume,
    Attachment,
    Slice,
}

/// An object's namespace, empty for none, and name.
type Name = (String, String);

/// The relations.
#[derive(Debug, Default)]
pub(super) struct Graph {
    /// The node of each bound pod, and what the pod refers to in its namespace.
    pods: HashMap<Name, (String, Vec<(Kind, String)>)>,
    /// How many pods of each node refer to an object.
    uses: HashMap<(Kind, Name), HashMap<String, usize>>,
    /// The claim that a volume is bound to, and the secrets it is mounted with.
    volumes: HashMap<String, (Name, Vec<Name>)>,
    /// The volumes that are mounted with a secret.
    secrets: HashMap<Name, BTreeSet<String>>,
    attachments: HashMap<String, String>,
    slices: HashMap<String, String>,
}

impl Graph {
    /// True when the object is related to the node.
    pub(super) fn relates(&self, node: &str, kind: Kind, namespace: &str, name: &str) -> bool {
        let key = || (namespace.to_owned(), name.to_owned());
        let names = |map: &HashMap<String, String>| map.get(name).is_some_and(|owner| owner == node);
        match kind {
            Kind::Pod => self.pods.get(&key()).is_some_and(|(owner, _)| owner == node),
            Kind::Volume => {
                self.volumes.get(name).is_some_and(|(claim, _)| self.is_used(node, Kind::Claim, claim))
            }
            Kind::Attachment => names(&self.attachments),
            Kind::Slice => names(&self.slices),
            Kind::Secret => {
                let key = key();
                let mounted = || self.secrets.get(&key).into_iter().flatten();
                self.is_used(node, kind, &key)
                    || mounted().any(|volume| self.relates(node, Kind::Volume, "", volume))
            }
            _ => self.is_used(node, kind, &key()),
        }
    }

    fn is_used(&self, node: &str, kind: Kind, name: &Name) -> bool {
        self.uses.get(&(kind, name.clone())).is_some_and(|nodes| nodes.contains_key(node))
    }

    fn drop_pod(&mut self, pod: &Name) {
        let Some((node, references)) = self.pods.remove(pod) else { return };
        for (kind, name) in references {
            let key = (kind, (pod.0.clone(), name));
            let Some(nodes) = self.uses.get_mut(&key) else { continue };
            match nodes.get_mut(&node) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(nodes.remove(&node)),
            }
            if nodes.is_empty() {
                self.uses.remove(&key);
            }
        }
    }

    fn put_pod(&mut self, pod: Name, obj: &Value) {
        self.drop_pod(&pod);
        let node = object::text(obj, &["spec", "nodeName"]).to_owned();
        if node.is_empty() {
            return;
        }
        let references = references(obj, &pod.1);
        for (kind, name) in &references {
            let nodes = self.uses.entry((*kind, (pod.0.clone(), name.clone()))).or_default();
            *nodes.entry(node.clone()).or_default() += 1;
        }
        self.pods.insert(pod, (node, references));
    }

    fn drop_volume(&mut self, volume: &str) {
        let Some((_, secrets)) = self.volumes.remove(volume) else { return };
        for secret in secrets {
            let Some(volumes) = self.secrets.get_mut(&secret) else { continue };
            volumes.remove(volume);
            if volumes.is_empty() {
                self.secrets.remove(&secret);
            }
        }
    }

    fn put_volume(&mut self, volume: &str, obj: &Value) {
        self.drop_volume(volume);
        let Some(claim) = object::at(obj, &["spec", "claimRef"]) else { return };
        let text = |field: &str| object::text(claim, &[field]).to_owned();
        let claim = (text("namespace"), text("name"));
        let secrets = volume_secrets(obj, &claim.0);
        for secret in &secrets {
            self.secrets.entry(secret.clone()).or_default().insert(volume.to_owned());
        }
        self.volumes.insert(volume.to_owned(), (claim, secrets));
    }
}

fn split(key: &str) -> Name {
    let (namespace, name) = key.split_once('/').unwrap_or(("", key));
    (namespace.to_owned(), name.to_owned())
}

impl Follow for Graph {
    fn put(&mut self, prefix: &'static str, key: &str, value: &Bytes) {
        let Ok(obj) = serde_json::from_slice::<Value>(value) else { return };
        let node = object::text(&obj, &["spec", "nodeName"]).to_owned();
        match prefix {
            PODS => self.put_pod(split(key), &obj),
            VOLUMES => self.put_volume(key, &obj),
            ATTACHMENTS => drop(self.attachments.insert(key.to_owned(), node)),
            _ => drop(self.slices.insert(key.to_owned(), node)),
        }
    }

    fn remove(&mut self, prefix: &'static str, key: &str) {
        match prefix {
            PODS => self.drop_pod(&split(key)),
            VOLUMES => self.drop_volume(key),
            ATTACHMENTS => drop(self.attachments.remove(key)),
            _ => drop(self.slices.remove(key)),
        }
    }
}

/// Where in a volume the name of a secret in the pod's namespace stands.
const POD_VOLUME_SECRETS: &[&[&str]] = &[
    &["azureFile", "secretName"],
    &["cephfs", "secretRef", "name"],
    &["cinder", "secretRef", "name"],
    &["flexVolume", "secretRef", "name"],
    &["rbd", "secretRef", "name"],
    &["secret", "secretName"],
    &["scaleIO", "secretRef", "name"],
    &["iscsi", "secretRef", "name"],
    &["storageos", "secretRef", "name"],
    &["csi", "nodePublishSecretRef", "name"],
];

/// Where in a persistent volume a reference to a secret stands that the kubelet mounts it with.
const VOLUME_SECRETS: &[(&[&str], bool)] = &[
    (&["cephfs", "secretRef"], true),
    (&["cinder", "secretRef"], false),
    (&["flexVolume", "secretRef"], true),
    (&["rbd", "secretRef"], true),
    (&["scaleIO", "secretRef"], true),
    (&["iscsi", "secretRef"], true),
    (&["storageos", "secretRef"], false),
    (&["csi", "nodePublishSecretRef"], false),
    (&["csi", "nodeStageSecretRef"], false),
    (&["csi", "nodeExpandSecretRef"], false),
];

/// What the containers and volumes of a pod name: secrets and config maps, each once for each mention.
pub(crate) fn mentions(pod: &Value, mut found: impl FnMut(&'static str, &str)) {
    for secret in object::list(pod, &["spec", "imagePullSecrets"]) {
        found("secrets", object::text(secret, &["name"]));
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in object::list(pod, &["spec", list]) {
            for from in object::list(container, &["envFrom"]) {
                found("secrets", object::text(from, &["secretRef", "name"]));
                found("configmaps", object::text(from, &["configMapRef", "name"]));
            }
            for var in object::list(container, &["env"]) {
                found("secrets", object::text(var, &["valueFrom", "secretKeyRef", "name"]));
                found("configmaps", object::text(var, &["valueFrom", "configMapKeyRef", "name"]));
            }
        }
    }
    for volume in object::list(pod, &["spec", "volumes"]) {
        for path in POD_VOLUME_SECRETS {
            found("secrets", object::text(volume, path));
        }
        found("configmaps", object::text(volume, &["configMap", "name"]));
        for source in object::list(volume, &["projected", "sources"]) {
            found("secrets", object::text(source, &["secret", "name"]));
            found("configmaps", object::text(source, &["configMap", "name"]));
        }
    }
}

/// What a pod refers to in its namespace.
fn references(pod: &Value, pod_name: &str) -> Vec<(Kind, String)> {
    // A node must not be able to make a pod that opens other objects to it.
    if object::at(pod, &["metadata", "annotations"]).is_some_and(|a| a.get(MIRROR).is_some()) {
        return Vec::new();
    }
    let mut all: Vec<(Kind, String)> = Vec::new();
    let mut add = |kind: Kind, name: &str| {
        if !name.is_empty() && !all.iter().any(|(k, n)| *k == kind && n == name) {
            all.push((kind, name.to_owned()));
        }
    };
    add(Kind::ServiceAccount, object::text(pod, &["spec", "serviceAccountName"]));
    mentions(pod, |kind, name| add(if kind == "secrets" { Kind::Secret } else { Kind::ConfigMap }, name));
    for volume in object::list(pod, &["spec", "volumes"]) {
        add(Kind::Claim, object::text(volume, &["persistentVolumeClaim", "claimName"]));
        if volume.get("ephemeral").is_some() {
            add(Kind::Claim, &format!("{pod_name}-{}", object::text(volume, &["name"])));
        }
    }
    for claim in object::list(pod, &["spec", "resourceClaims"]) {
        add(Kind::ResourceClaim, object::text(claim, &["resourceClaimName"]));
    }
    // Claims made from templates are named in the status.
    for claim in object::list(pod, &["status", "resourceClaimStatuses"]) {
        add(Kind::ResourceClaim, object::text(claim, &["resourceClaimName"]));
    }
    add(
        Kind::ResourceClaim,
        object::text(pod, &["status", "extendedResourceClaimStatus", "resourceClaimName"]),
    );
    all
}

fn volume_secrets(volume: &Value, claim_namespace: &str) -> Vec<Name> {
    let Some(spec) = object::at(volume, &["spec"]) else { return Vec::new() };
    let mut all = Vec::new();
    let mut add = |namespace: &str, name: &str, falls_back: bool| {
        let namespace = if namespace.is_empty() && falls_back { claim_namespace } else { namespace };
        if !name.is_empty() {
            all.push((namespace.to_owned(), name.to_owned()));
        }
    };
    let azure = |field: &str| object::text(spec, &["azureFile", field]);
    add(azure("secretNamespace"), azure("secretName"), true);
    for (path, falls_back) in VOLUME_SECRETS {
        if let Some(reference) = object::at(spec, path) {
            add(object::text(reference, &["namespace"]), object::text(reference, &["name"]), *falls_back);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(node: &str, more: Value) -> Bytes {
        let mut spec = json!({"nodeName": node, "serviceAccountName": "robot", "containers": [{"env": [
            {"valueFrom": {"secretKeyRef": {"name": "env-secret"}}}], "envFrom": [{"configMapRef": {"name": "env-map"}}]}]});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        Bytes::from(json!({"spec": spec}).to_string())
    }

    #[test]
    fn a_node_is_related_to_what_its_pods_need() {
        let mut graph = Graph::default();
        let volumes = json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "scratch", "ephemeral": {}}, {"name": "s", "projected": {"sources": [{"secret": {"name": "projected"}}]}}],
            "resourceClaims": [{"name": "gpu", "resourceClaimName": "gpu-1"}], "imagePullSecrets": [{"name": "pull"}]});
        graph.put(PODS, "d/web", &pod("one", volumes));
        graph.put(PODS, "d/other", &pod("two", json!({})));
        let volume = json!({"spec": {"claimRef": {"namespace": "d", "name": "data"}, "csi": {
            "nodePublishSecretRef": {"namespace": "sys", "name": "mount"},
            "controllerExpandSecretRef": {"namespace": "sys", "name": "expand"}}}});
        graph.put(VOLUMES, "pv", &Bytes::from(volume.to_string()));
        graph.put(ATTACHMENTS, "va", &Bytes::from(json!({"spec": {"nodeName": "one"}}).to_string()));
        graph.put(SLICES, "sl", &Bytes::from(json!({"spec": {"nodeName": "two"}}).to_string()));
        let table = [
            (Kind::Pod, "d", "web", true, false),
            (Kind::Pod, "d", "other", false, true),
            (Kind::ServiceAccount, "d", "robot", true, true),
            (Kind::Secret, "d", "env-secret", true, true),
            (Kind::Secret, "d", "projected", true, false),
            (Kind::Secret, "d", "pull", true, false),
            (Kind::Secret, "e", "pull", false, false),
            (Kind::Secret, "sys", "mount", true, false),
            (Kind::Secret, "sys", "expand", false, false),
            (Kind::ConfigMap, "d", "env-map", true, true),
            (Kind::Claim, "d", "data", true, false),
            (Kind::Claim, "d", "web-scratch", true, false),
            (Kind::ResourceClaim, "d", "gpu-1", true, false),
            (Kind::Volume, "", "pv", true, false),
            (Kind::Attachment, "", "va", true, false),
            (Kind::Slice, "", "sl", false, true),
        ];
        for (kind, namespace, name, one, two) in table {
            assert_eq!(graph.relates("one", kind, namespace, name), one, "one {kind:?} {name}");
            assert_eq!(graph.relates("two", kind, namespace, name), two, "two {kind:?} {name}");
        }
        graph.remove(PODS, "d/web");
        for (kind, namespace, name, ..) in table.iter().filter(|(kind, ..)| *kind != Kind::Attachment) {
            assert!(!graph.relates("one", *kind, namespace, name), "{kind:?} {name}");
        }
        graph.remove(PODS, "d/other");
        for key in ["pv", "va", "sl"] {
            for prefix in &PREFIXES[1..] {
                graph.remove(prefix, key);
            }
        }
        assert!(
            graph.uses.is_empty()
                && graph.pods.is_empty()
                && graph.secrets.is_empty()
                && graph.volumes.is_empty()
        );
    }

    #[test]
    fn mirror_pods_open_nothing() {
        let mut graph = Graph::default();
        let mut mirror: Value = serde_json::from_slice(&pod("one", json!({}))).unwrap();
        mirror["metadata"] = json!({"annotations": {MIRROR: "x"}});
        graph.put(PODS, "d/m", &Bytes::from(mirror.to_string()));
        assert!(
            graph.relates("one", Kind::Pod, "d", "m")
                && !graph.relates("one", Kind::Secret, "d", "env-secret")
        );
    }
}
