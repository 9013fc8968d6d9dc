//! NodeRestriction: what a kubelet may write.
//!
//! The Node authorizer has let the request through without seeing an object; here its content is held to the node that
//! asks: its own Node, mirror pods bound to it, the status of its pods, tokens for them, its lease, CSINode and slices.
//! Source: `plugin/pkg/admission/noderestriction`.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use windlass_crd::field::quote;

use super::{Operation, Plugin, certificates::Request, refuse};
use crate::{
    authz::{Attributes, mentions, node_of},
    context::Context,
    object,
    status::{ApiError, ApiResult},
};

const MIRROR: &str = "kubernetes.io/config.mirror";

/// Holds a write to the node that asks; others pass.
///
/// # Errors
/// 403 in upstream's words; 404 when the pod that is spoken of is not there.
pub(super) async fn restrict(
    cx: &Context,
    op: Operation,
    obj: Option<&Value>,
    old: Option<&Value>,
) -> ApiResult<()> {
    if op == Operation::Connect || !cx.api.config.admission.runs(Plugin::NodeRestriction) {
        return Ok(());
    }
    let Some(node) = node_of(&cx.user) else { return Ok(()) };
    let refuse = |why: String| Err(refuse(cx, obj, why));
    if node.is_empty() {
        return refuse(format!("could not determine node from user {}", quote(&cx.user.name)));
    }
    let found = match (cx.resource.group.as_ref(), cx.resource.plural.as_ref(), cx.info.subresource.as_str())
    {
        ("", "pods", "") => pod(cx, node, op, obj, old)?,
        ("", "pods", "status") => pod_status(node, op, obj, old),
        ("", "pods", "eviction") => eviction(cx, node)?,
        ("", "pods", sub) => Some(format!(
            "unexpected pod subresource {}, only 'status' and 'eviction' are allowed",
            quote(sub)
        )),
        ("", "nodes", _) => own_node(cx, node, op, obj, old),
        ("", "persistentvolumeclaims", "status") => claim_status(node, op, obj, old),
        ("", "persistentvolumeclaims", _) => Some("may only update PVC status".to_owned()),
        ("", "serviceaccounts", "token") if op == Operation::Create => token(cx, node, obj).await?,
        ("coordination.k8s.io", "leases", _) => lease(cx, node, obj),
        ("storage.k8s.io", "csinodes", _) => csi_node(cx, node, obj),
        ("resource.k8s.io", "resourceslices", _) => slice(node, op, obj, old),
        ("certificates.k8s.io", "certificatesigningrequests", _) if op == Operation::Create => {
            request(node, obj)
        }
        _ => None,
    };
    found.map_or(Ok(()), refuse)
}

/// The name of what the request is about: on create the URL has none.
fn target<'a>(cx: &'a Context, obj: Option<&'a Value>) -> &'a str {
    if cx.info.name.is_empty() { obj.map_or("", object::name) } else { &cx.info.name }
}

fn runs_on(pod: Option<&Value>) -> &str {
    pod.map_or("", |pod| object::text(pod, &["spec", "nodeName"]))
}

/// An object of the core group, as it is now.
fn stored(cx: &Context, group: &str, plural: &str, namespace: &str, name: &str) -> ApiResult<Value> {
    let resource = cx.api.registry.builtin(group, "v1", plural);
    let entry = cx.api.store.get(&resource.key(namespace, name));
    let entry = entry.ok_or_else(|| ApiError::not_found(&resource, name))?;
    Ok(object::decode(&resource, &entry.value))
}

/// Why a write of a pod is refused.
fn pod(
    cx: &Context,
    node: &str,
    op: Operation,
    obj: Option<&Value>,
    old: Option<&Value>,
) -> ApiResult<Option<String>> {
    let itself = quote(node);
    match op {
        Operation::Create => match obj {
            Some(pod) => mirror(cx, node, pod),
            None => Ok(None),
        },
        Operation::Delete if runs_on(old) != node => {
            Ok(Some(format!("node {itself} can only delete pods with spec.nodeName set to itself")))
        }
        Operation::Delete => Ok(None),
        _ => Ok(Some(format!(
            "unexpected operation \"UPDATE\", node {itself} can only create and delete mirror pods"
        ))),
    }
}

fn mirror(cx: &Context, node: &str, pod: &Value) -> ApiResult<Option<String>> {
    let itself = quote(node);
    if object::at(pod, &["metadata", "annotations"]).is_none_or(|all| all.get(MIRROR).is_none()) {
        return Ok(Some(format!(
            "pod does not have \"{MIRROR}\" annotation, node {itself} can only create mirror pods"
        )));
    }
    if runs_on(Some(pod)) != node {
        return Ok(Some(format!("node {itself} can only create pods with spec.nodeName set to itself")));
    }
    let owner = match object::list(pod, &["metadata", "ownerReferences"]) {
        [] => {
            return Ok(Some(format!(
                "node {itself} can only create pods with an owner reference set to itself"
            )));
        }
        [owner] => owner,
        _ => {
            let why =
                format!("node {itself} can only create pods with a single owner reference set to itself");
            return Ok(Some(why));
        }
    };
    if let Some(why) = mirror_owner(cx, node, owner)? {
        return Ok(Some(why));
    }
    Ok(referenced(pod).map(|what| match what {
        Ok(what) => format!("node {itself} can not create pods that reference {what}"),
        Err(why) => format!("error checking mirror pod for API references: {why}"),
    }))
}

fn mirror_owner(cx: &Context, node: &str, owner: &Value) -> ApiResult<Option<String>> {
    let (itself, text) = (quote(node), |field: &str| object::text(owner, &[field]));
    let is = |field: &str| owner.get(field).and_then(Value::as_bool) == Some(true);
    if text("apiVersion") != "v1" || text("kind") != "Node" || text("name") != node {
        return Ok(Some(format!("node {itself} can only create pods with an owner reference set to itself")));
    }
    if !is("controller") {
        let why =
            format!("node {itself} can only create pods with a controller owner reference set to itself");
        return Ok(Some(why));
    }
    if is("blockOwnerDeletion") {
        return Ok(Some(format!("node {itself} must not set blockOwnerDeletion on an owner reference")));
    }
    let found = stored(cx, "", "nodes", "", node)?;
    let (expected, got) = (text("uid"), object::uid(&found));
    Ok((expected != got).then(|| format!("node {node} UID mismatch: expected {expected} got {got}")))
}

/// Volumes that need no object of the API.
const SELF_CONTAINED: &[&str] = &[
    "awsElasticBlockStore",
    "azureDisk",
    "cephfs",
    "cinder",
    "downwardAPI",
    "emptyDir",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

/// Volumes that need one, and what it is.
const REFERRING: &[(&str, &str)] = &[
    ("configMap", "configmaps (via configmap volumes)"),
    ("secret", "secrets (via secret volumes)"),
    ("csi", "csidrivers (via CSI volumes)"),
    ("glusterfs", "endpoints (via glusterFS volumes)"),
    ("persistentVolumeClaim", "persistentvolumeclaims"),
    ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
    ("azureFile", "secrets (via azureFile volumes)"),
];

/// Sources of projected volumes that need an object.
const PROJECTED: &[(&str, &str)] = &[
    ("configMap", "configmaps (via projected volumes)"),
    ("secret", "secrets (via projected volumes)"),
    ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
    ("clusterTrustBundle", "clustertrustbundles"),
    ("podCertificate", "podcertificates"),
];

/// The first kind of API object that a pod refers to.
fn referenced(pod: &Value) -> Option<Result<&'static str, String>> {
    if !object::text(pod, &["spec", "serviceAccountName"]).is_empty() {
        return Some(Ok("serviceaccounts"));
    }
    let (mut secrets, mut maps) = (false, false);
    mentions(pod, |kind, name| match kind {
        _ if name.is_empty() => {}
        "secrets" => secrets = true,
        _ => maps = true,
    });
    if secrets || maps {
        return Some(Ok(if secrets { "secrets" } else { "configmaps" }));
    }
    if !object::list(pod, &["spec", "resourceClaims"]).is_empty() {
        return Some(Ok("resourceclaims"));
    }
    let empty = Map::new();
    object::list(pod, &["spec", "volumes"]).iter().find_map(|volume| {
        let fields = volume.as_object().unwrap_or(&empty);
        let has = |name: &str| fields.get(name).is_some_and(|value| !value.is_null());
        if SELF_CONTAINED.iter().any(|name| has(name)) {
            return None;
        }
        if let Some((_, what)) = REFERRING.iter().find(|(name, _)| has(name)) {
            return Some(Ok(*what));
        }
        let name = quote(object::text(volume, &["name"]));
        if !has("projected") {
            return Some(Err(format!("unknown volume type for volume  {name}")));
        }
        object::list(volume, &["projected", "sources"]).iter().find_map(|source| {
            match PROJECTED.iter().find(|(kind, _)| object::at(source, &[kind]).is_some()) {
                Some((_, what)) => Some(Ok(*what)),
                None if source.get("downwardAPI").is_some() => None,
                None => Some(Err(format!("unknown source for projected volume {name}"))),
            }
        })
    })
}

fn pod_status(node: &str, op: Operation, obj: Option<&Value>, old: Option<&Value>) -> Option<String> {
    let itself = quote(node);
    let (Operation::Update, Some(new), Some(old)) = (op, obj, old) else {
        return Some(format!("unexpected operation {}", quote(name_of(op))));
    };
    if runs_on(Some(old)) != node {
        let why =
            format!("node {itself} can only update pod status for pods with spec.nodeName set to itself");
        return Some(why);
    }
    let same = |path: &[&str]| object::at(new, path) == object::at(old, path);
    if !same(&["metadata", "labels"]) {
        return Some(format!("node {itself} cannot update labels through pod status"));
    }
    if object::list(new, &["status", "resourceClaimStatuses"])
        != object::list(old, &["status", "resourceClaimStatuses"])
    {
        return Some(format!("node {itself} cannot update resource claim statues"));
    }
    (!same(&["status", "extendedResourceClaimStatus"]))
        .then(|| format!("node {itself} cannot update extended resource claim status"))
}

fn name_of(op: Operation) -> &'static str {
    match op {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

fn eviction(cx: &Context, node: &str) -> ApiResult<Option<String>> {
    let pod = stored(cx, "", "pods", &cx.info.namespace, &cx.info.name)?;
    let own = runs_on(Some(&pod)) == node;
    Ok((!own).then(|| format!("node {node} can only evict pods with spec.nodeName set to itself")))
}

/// What of a claim a kubelet may write, as paths into it.
const CLAIM_FREE: &[&[&str]] = &[
    &["metadata", "resourceVersion"],
    &["metadata", "managedFields"],
    &["status", "capacity"],
    &["status", "conditions"],
    &["status", "allocatedResources"],
    &["status", "allocatedResourceStatuses"],
];

fn claim_status(node: &str, op: Operation, obj: Option<&Value>, old: Option<&Value>) -> Option<String> {
    let (Operation::Update, Some(new), Some(old)) = (op, obj, old) else {
        return Some(format!("unexpected operation {}", quote(name_of(op))));
    };
    let bare = |claim: &Value| {
        let mut claim = claim.clone();
        for path in CLAIM_FREE {
            object::remove(&mut claim, path);
        }
        claim
    };
    let (new, old) = (bare(new), bare(old));
    let differing: Vec<&str> =
        ["metadata", "spec", "status"].into_iter().filter(|f| new[*f] != old[*f]).collect();
    (!differing.is_empty()).then(|| {
        format!(
            "node {} is not allowed to update fields other than status.quantity and status.conditions: {}",
            quote(node),
            differing.join(", ")
        )
    })
}

fn own_node(
    cx: &Context,
    node: &str,
    op: Operation,
    obj: Option<&Value>,
    old: Option<&Value>,
) -> Option<String> {
    let (itself, asked) = (quote(node), target(cx, obj));
    if asked != node {
        return Some(format!("node {itself} is not allowed to modify node {}", quote(asked)));
    }
    let new = obj?;
    let source = object::at(new, &["spec", "configSource"]);
    let forbidden = forbidden_labels(new, old);
    let Some(old) = old.filter(|_| op == Operation::Update) else {
        if source.is_some() {
            return Some(format!("node {itself} is not allowed to create pods with a non-nil configSource"));
        }
        return (!forbidden.is_empty()).then(|| {
            format!("node {itself} is not allowed to set the following labels: {}", forbidden.join(", "))
        });
    };
    if source.is_some() && source != object::at(old, &["spec", "configSource"]) {
        return Some(format!(
            "node {itself} is not allowed to update configSource to a new non-nil configSource"
        ));
    }
    let same = |path: &[&str]| object::list(new, path) == object::list(old, path);
    if !same(&["spec", "taints"]) {
        return Some(format!("node {itself} is not allowed to modify taints"));
    }
    if !same(&["metadata", "ownerReferences"]) {
        return Some(format!("node {itself} is not allowed to modify ownerReferences"));
    }
    (!forbidden.is_empty()).then(|| format!("is not allowed to modify labels: {}", forbidden.join(", ")))
}

/// Labels that a kubelet may give its node, in the namespaces of Kubernetes.
const KUBELET_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

fn forbidden_labels(new: &Value, old: Option<&Value>) -> Vec<String> {
    let empty = Map::new();
    let labels = |node: Option<&Value>| {
        node.and_then(|node| object::at(node, &["metadata", "labels"])).and_then(Value::as_object).cloned()
    };
    let (new, old) = (labels(Some(new)).unwrap_or_default(), labels(old).unwrap_or(empty));
    let changed: BTreeSet<&String> =
        new.keys().chain(old.keys()).filter(|key| new.get(*key) != old.get(*key)).collect();
    changed.into_iter().filter(|label| is_forbidden(label)).cloned().collect()
}

fn is_forbidden(label: &str) -> bool {
    let Some((namespace, _)) = label.split_once('/') else { return false };
    let within = |suffix: &str| {
        namespace == suffix || namespace.strip_suffix(suffix).is_some_and(|head| head.ends_with('.'))
    };
    if within("node-restriction.kubernetes.io") {
        return true;
    }
    let kubelets =
        KUBELET_LABELS.contains(&label) || within("kubelet.kubernetes.io") || within("node.kubernetes.io");
    (within("kubernetes.io") || within("k8s.io")) && !kubelets
}

fn lease(cx: &Context, node: &str, obj: Option<&Value>) -> Option<String> {
    if cx.info.namespace != "kube-node-lease" {
        return Some("can only access leases in the \"kube-node-lease\" system namespace".to_owned());
    }
    (target(cx, obj) != node)
        .then(|| "can only access node lease with the same name as the requesting node".to_owned())
}

fn csi_node(cx: &Context, node: &str, obj: Option<&Value>) -> Option<String> {
    (target(cx, obj) != node)
        .then(|| "can only access CSINode with the same name as the requesting node".to_owned())
}

fn slice(node: &str, op: Operation, obj: Option<&Value>, old: Option<&Value>) -> Option<String> {
    let (verb, slice) = match op {
        Operation::Create => ("create", obj),
        Operation::Delete => ("delete", old),
        _ => return None,
    };
    (runs_on(slice) != node)
        .then(|| format!("can only {verb} ResourceSlice with the same NodeName as the requesting node"))
}

fn request(node: &str, obj: Option<&Value>) -> Option<String> {
    let obj = obj?;
    let signer = object::text(obj, &["spec", "signerName"]);
    if !matches!(signer, "kubernetes.io/kubelet-serving" | "kubernetes.io/kube-apiserver-client-kubelet") {
        return None;
    }
    match Request::parse(object::text(obj, &["spec", "request"])) {
        Err(why) => Some(format!("unable to parse csr: {why}")),
        Ok(request) if request.common_name == format!("system:node:{node}") => None,
        Ok(_) => Some(format!("can only create a node CSR with CN=system:node:{node}")),
    }
}

/// A token has to be for a pod of the node, and for an audience that the pod names.
async fn token(cx: &Context, node: &str, obj: Option<&Value>) -> ApiResult<Option<String>> {
    let none = Value::Null;
    let request = obj.unwrap_or(&none);
    let text = |field: &str| object::text(request, &["spec", "boundObjectRef", field]);
    let why = |why: &str| Ok(Some(why.to_owned()));
    if text("apiVersion") != "v1" || text("kind") != "Pod" || text("name").is_empty() {
        return why("node requested token not bound to a pod");
    }
    let uid = text("uid");
    if uid.is_empty() {
        return why("node requested token with a pod binding without a uid");
    }
    let pod = stored(cx, "", "pods", &cx.info.namespace, text("name"))?;
    if uid != object::uid(&pod) {
        return Ok(Some(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been \
             deleted and then recreated"
        )));
    }
    if runs_on(Some(&pod)) != node {
        return why("node requested token bound to a pod scheduled on a different node");
    }
    let audience = match object::list(request, &["spec", "audiences"]) {
        [] => "",
        [one] => one.as_str().unwrap_or(""),
        _ => return why("node may only request 0 or 1 audiences"),
    };
    audience_is_named(cx, &pod, audience).await
}

async fn audience_is_named(cx: &Context, pod: &Value, audience: &str) -> ApiResult<Option<String>> {
    let shown = quote(audience);
    match names_audience(cx, pod, audience) {
        Ok(true) => return Ok(None),
        Ok(false) => {}
        Err(why) => return Ok(Some(format!("error validating audience {shown}: {why}"))),
    }
    let asked = Attributes {
        verb: "request-serviceaccounts-token-audience",
        version: "v1",
        resource: audience,
        namespace: &cx.info.namespace,
        name: &cx.info.name,
        is_resource: true,
        ..Attributes::default()
    };
    let verdict = cx.api.authorizer.decide(&cx.api, &cx.user, &asked).await;
    if verdict.is_allowed() {
        return Ok(None);
    }
    let user = &cx.user.name;
    Ok(Some(match verdict.error {
        Some(error) => format!(
            "audience {shown} not found in pod spec volume, error authorizing {user} to request tokens for this \
             audience: {error}"
        ),
        None => format!(
            "audience {shown} not found in pod spec volume, {user} is not authorized to request tokens for this audience"
        ),
    }))
}

/// Whether a volume of the pod, or the driver behind it, asks for tokens with this audience.
fn names_audience(cx: &Context, pod: &Value, audience: &str) -> Result<bool, String> {
    let mut errors = Vec::new();
    for volume in object::list(pod, &["spec", "volumes"]) {
        let projected = object::list(volume, &["projected", "sources"]);
        if projected.iter().any(|source| {
            object::at(source, &["serviceAccountToken"])
                .is_some_and(|token| object::text(token, &["audience"]) == audience)
        }) {
            return Ok(true);
        }
        match driver_of(cx, pod, volume).and_then(|driver| driver_asks(cx, &driver, audience)) {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(error) => errors.push(error.message),
        }
    }
    crate::authz::aggregate(errors).map_or(Ok(false), Err)
}

/// Volumes of old that a driver serves now.
const MIGRATED: &[(&str, &str)] = &[
    ("awsElasticBlockStore", "ebs.csi.aws.com"),
    ("azureDisk", "disk.csi.azure.com"),
    ("azureFile", "file.csi.azure.com"),
    ("cinder", "cinder.csi.openstack.org"),
    ("gcePersistentDisk", "pd.csi.storage.gke.io"),
    ("portworxVolume", "pxd.portworx.com"),
    ("vsphereVolume", "csi.vsphere.vmware.com"),
];

/// The driver of a volume, or of the persistent volume behind its claim; empty for none.
fn driver_of(cx: &Context, pod: &Value, volume: &Value) -> ApiResult<String> {
    let claim = match object::text(volume, &["persistentVolumeClaim", "claimName"]) {
        "" if object::at(volume, &["ephemeral", "volumeClaimTemplate"]).is_some() => {
            format!("{}-{}", object::name(pod), object::text(volume, &["name"]))
        }
        name => name.to_owned(),
    };
    let driver = |spec: &Value| {
        let old = MIGRATED.iter().find(|(kind, _)| object::at(spec, &[kind]).is_some());
        match object::text(spec, &["csi", "driver"]) {
            "" => old.map_or_else(String::new, |(_, driver)| (*driver).to_owned()),
            driver => driver.to_owned(),
        }
    };
    if claim.is_empty() {
        return Ok(driver(volume));
    }
    let claim = stored(cx, "", "persistentvolumeclaims", object::namespace(pod), &claim)?;
    let bound = stored(cx, "", "persistentvolumes", "", object::text(&claim, &["spec", "volumeName"]))?;
    Ok(driver(&bound["spec"]))
}

fn driver_asks(cx: &Context, driver: &str, audience: &str) -> ApiResult<bool> {
    if driver.is_empty() {
        return Ok(false);
    }
    let found = stored(cx, "storage.k8s.io", "csidrivers", "", driver)?;
    let asked = object::list(&found, &["spec", "tokenRequests"]);
    Ok(asked.iter().any(|request| object::text(request, &["audience"]) == audience))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_of_kubernetes_are_not_for_kubelets_to_give() {
        for (label, forbidden) in [
            ("team", false),
            ("example.com/team", false),
            ("kubernetes.io/hostname", false),
            ("node.kubernetes.io/anything", false),
            ("x.kubelet.kubernetes.io/anything", false),
            ("kubernetes.io/role", true),
            ("node-role.kubernetes.io/control-plane", true),
            ("x.k8s.io/y", true),
            ("node-restriction.kubernetes.io/a", true),
            ("a.node-restriction.kubernetes.io/a", true),
            ("mykubernetes.io/a", false),
        ] {
            assert_eq!(is_forbidden(label), forbidden, "{label}");
        }
        let node = |labels: Value| json!({"metadata": {"labels": labels}});
        let (new, old) = (
            node(json!({"a.k8s.io/b": "1", "k8s.io/c": "2"})),
            node(json!({"k8s.io/c": "2", "k8s.io/d": "3"})),
        );
        assert_eq!(forbidden_labels(&new, Some(&old)), ["a.k8s.io/b", "k8s.io/d"]);
    }

    #[test]
    fn pods_that_refer_to_objects_are_seen() {
        for (spec, what) in [
            (json!({"volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "hostPath": {}}]}), ""),
            (json!({"volumes": [{"name": "v", "projected": {"sources": [{"downwardAPI": {}}]}}]}), ""),
            (json!({"serviceAccountName": "x"}), "serviceaccounts"),
            (json!({"imagePullSecrets": [{"name": "x"}]}), "secrets"),
            (
                json!({"containers": [{"env": [{"valueFrom": {"configMapKeyRef": {"name": "x"}}}]}]}),
                "configmaps",
            ),
            (json!({"volumes": [{"name": "v", "csi": {"driver": "d"}}]}), "csidrivers (via CSI volumes)"),
            (
                json!({"volumes": [{"name": "v", "ephemeral": {}}]}),
                "persistentvolumeclaims (via ephemeral volumes)",
            ),
            (
                json!({"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {}}]}}]}),
                "serviceaccounts (via projected volumes)",
            ),
        ] {
            let found = referenced(&json!({"spec": spec})).map(|found| found.unwrap()).unwrap_or_default();
            assert_eq!(found, what, "{spec}");
        }
        let unknown = json!({"spec": {"volumes": [{"name": "v", "new": {}}]}});
        assert_eq!(referenced(&unknown), Some(Err("unknown volume type for volume  \"v\"".to_owned())));
    }
}
