//! What a real node needs before its kubelet starts: the container runtime's network configuration, and images where
//! there is no registry.

pub mod image;

use std::{fs, io, path::Path};

use ipnet::Ipv4Net;
use minicluster_kubelet::{cri::Cri, runtime::Runtime};
use serde_json::json;

/// The file that tells the runtime how to connect pods.
pub const CNI_FILE: &str = "10-minicluster.conflist";

/// Where in the data directory it is kept which pod addresses are taken.
pub const POD_ADDRESSES: &str = "pod-addresses";

/// The bridge that pods of this node hang on.
pub const BRIDGE: &str = "minicluster0";

/// The path of the container runtime's socket.
///
/// # Errors
/// That there is none, and what to do.
pub fn runtime_socket(endpoint: &str) -> Result<&Path, String> {
    let socket = Path::new(endpoint.strip_prefix("unix://").unwrap_or(endpoint));
    if socket.exists() {
        return Ok(socket);
    }
    Err(format!(
        "there is no container runtime at {}: start containerd, or say with --container-runtime-endpoint where it is",
        socket.display()
    ))
}

/// The part of the pod range that belongs to the first node.
pub fn pod_cidr(cluster: Ipv4Net) -> Ipv4Net {
    if cluster.prefix_len() >= 24 {
        return cluster;
    }
    Ipv4Net::new(cluster.network(), 24).expect("24 is a prefix length")
}

/// Writes the network configuration: a bridge, addresses from the node's range, host ports, loopback. Which addresses
/// are taken is kept in `leases`: two clusters on one machine do not share a range.
///
/// # Errors
/// When the directory cannot be written.
pub fn write_cni(dir: &Path, pods: Ipv4Net, leases: &Path) -> io::Result<()> {
    let config = json!({
        "cniVersion": "0.4.0",
        "name": "minicluster",
        "plugins": [
            {
                "type": "bridge", "bridge": BRIDGE, "isGateway": true, "ipMasq": true, "hairpinMode": true,
                "promiscMode": false,
                "ipam": {
                    "type": "host-local", "dataDir": leases, "ranges": [[{ "subnet": pods.to_string() }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true },
        ],
    });
    let text = serde_json::to_vec_pretty(&config).expect("JSON into memory");
    let path = dir.join(CNI_FILE);
    if fs::read(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    let temporary = dir.join(".minicluster.tmp");
    fs::write(&temporary, &text)?;
    fs::rename(temporary, path)
}

/// Stops and removes every pod of the runtime that a kubelet made, and forgets the cluster's data.
///
/// # Errors
/// When the runtime does not answer, another process still runs the cluster, or the data cannot be removed.
pub async fn reset(endpoint: &str, data_dir: &Path) -> anyhow::Result<()> {
    runtime_socket(endpoint).map_err(anyhow::Error::msg)?;
    let runtime = Cri::new(endpoint);
    for pod in runtime.pods().await? {
        let view = runtime.observe(&pod.uid).await?;
        for sandbox in &view.sandboxes {
            runtime.stop_sandbox(&sandbox.id).await?;
            runtime.remove_sandbox(&sandbox.id).await?;
        }
    }
    let store = data_dir.join("store");
    if store.exists() {
        // Opening it proves that nobody else has it open.
        drop(minicluster_store::Store::open(&store)?);
    }
    for part in ["store", "pki", "admin.kubeconfig", POD_ADDRESSES] {
        let path = data_dir.join(part);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                anyhow::bail!("{} could not be removed: {error}", path.display())
            }
            _ => {}
        }
    }
    Ok(())
}
