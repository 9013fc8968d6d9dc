//! Static pods: the pods of a folder, run without the API's asking. Each shows in the API as a mirror pod.
//!
//! The folder is watched; a changed file is another pod (its uid is a hash of the file), so the old one is taken down
//! and the new one started.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Toleration};
use serde_json::Value;
use windlass::clock;

use crate::files::Changes;
use crate::mirror::{CONFIG_HASH, CONFIG_SEEN, CONFIG_SOURCE};
use crate::worker::Shared;

/// Largest manifest read.
const MAX_BYTES: u64 = 10 << 20;
/// Pause before a folder that cannot be read is tried again.
const RETRY: Duration = Duration::from_secs(20);
/// A file is often written in several steps.
const GATHER: Duration = Duration::from_millis(50);

/// Takes up the pods of a folder at once, and follows it until the kubelet stops.
pub(crate) fn start(shared: &Arc<Shared>, folder: PathBuf) {
    let mut known = BTreeMap::new();
    look(shared, &folder, &mut known);
    let shared = shared.clone();
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = follow(&shared, &folder, known) => {}
            () = shared.stop.cancelled() => {}
        }
    });
}

async fn follow(shared: &Arc<Shared>, folder: &Path, mut known: BTreeMap<String, Arc<Pod>>) {
    loop {
        // Watched before it is read, so that nothing falls between.
        let changes = match Changes::of(folder) {
            Ok(changes) => changes,
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "the folder of static pods cannot be watched");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        loop {
            look(shared, folder, &mut known);
            if changes.wait().await.is_err() {
                break;
            }
            tokio::time::sleep(GATHER).await;
        }
    }
}

/// Brings the node's static pods to what the folder holds.
fn look(shared: &Arc<Shared>, folder: &Path, known: &mut BTreeMap<String, Arc<Pod>>) {
    let found = read(folder, &shared.config.node_name);
    for uid in known.keys().filter(|uid| !found.contains_key(*uid)) {
        shared.remove_static(uid);
    }
    for (_, pod) in found.iter().filter(|(uid, _)| !known.contains_key(*uid)) {
        shared.add_static(pod.clone());
    }
    *known = found;
}

/// The pods of a folder by uid. A file that is no pod is told and left out.
fn read(folder: &Path, node: &str) -> BTreeMap<String, Arc<Pod>> {
    let mut pods = BTreeMap::new();
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for path in entries.map(|e| e.path()) {
        let hidden = path.file_name().and_then(|n| n.to_str()).is_none_or(|n| n.starts_with('.'));
        let size = path.metadata().map_or(u64::MAX, |m| m.len());
        if hidden || !path.is_file() || size > MAX_BYTES {
            continue;
        }
        let parsed =
            std::fs::read_to_string(&path).map_err(|e| e.to_string()).and_then(|text| parse(&text, node));
        match parsed {
            Ok(pod) => {
                pods.insert(pod.metadata.uid.clone().unwrap_or_default(), Arc::new(pod));
            }
            Err(error) => tracing::warn!(file = %path.display(), error, "a manifest is no pod"),
        }
    }
    pods
}

/// The pod of a manifest, completed as the API server would have, on this node.
fn parse(text: &str, node: &str) -> Result<Pod, String> {
    // Through JSON, which pods are read from anyway: another reader for all their types is four megabytes of program.
    let manifest: Value = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    let mut pod: Pod = serde_json::from_slice(manifest.to_string().as_bytes()).map_err(|e| e.to_string())?;
    let name = pod.metadata.name.clone().filter(|n| !n.is_empty()).ok_or("the pod has no name")?;
    let spec = pod.spec.as_mut().filter(|s| !s.containers.is_empty()).ok_or("the pod has no containers")?;
    let fnv = |seed: u64| {
        let bytes = node.bytes().chain(text.bytes());
        bytes.fold(seed, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
    };
    let uid = format!("{:016x}{:016x}", fnv(0xcbf2_9ce4_8422_2325), fnv(0x8422_2325_cbf2_9ce4));
    spec.node_name = Some(node.to_owned());
    spec.tolerations.get_or_insert_default().push(Toleration {
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..Toleration::default()
    });
    let meta = &mut pod.metadata;
    meta.name = Some(format!("{name}-{node}"));
    meta.namespace.get_or_insert_with(|| "default".into());
    meta.uid = Some(uid.clone());
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(CONFIG_HASH.into(), uid);
    annotations.insert(CONFIG_SOURCE.into(), "file".into());
    annotations.insert(CONFIG_SEEN.into(), clock::now().to_string());
    Ok(pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_becomes_a_pod_of_this_node() {
        let text =
            "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: a}]}\n";
        let pod = parse(text, "n1").unwrap();
        assert_eq!(pod.metadata.name.as_deref(), Some("web-n1"));
        assert_eq!(pod.spec.as_ref().unwrap().node_name.as_deref(), Some("n1"));
        let other = parse(&text.replace("image: a", "image: b"), "n1").unwrap();
        assert_ne!(pod.metadata.uid, other.metadata.uid);
        assert!(parse("kind: Pod\napiVersion: v1\nmetadata: {name: x}\n", "n1").is_err());
    }
}
