//! What a real node needs before its kubelet starts: the container runtime's network configuration, and images where
//! there is no registry.

pub mod image;

use std::{fs, io, path::Path};

use ipnet::Ipv4Net;
use serde_json::json;

/// The file that tells the runtime how to connect pods.
pub const CNI_FILE: &str = "10-minicluster.conflist";

/// The bridge that pods of this node hang on.
pub const BRIDGE: &str = "minicluster0";

/// The part of the pod range that belongs to the first node.
pub fn pod_cidr(cluster: Ipv4Net) -> Ipv4Net {
    if cluster.prefix_len() >= 24 {
        return cluster;
    }
    Ipv4Net::new(cluster.network(), 24).expect("24 is a prefix length")
}

/// Writes the network configuration: a bridge, addresses from the node's range, host ports, loopback.
///
/// # Errors
/// When the directory cannot be written.
pub fn write_cni(dir: &Path, pods: Ipv4Net) -> io::Result<()> {
    let config = json!({
        "cniVersion": "0.4.0",
        "name": "minicluster",
        "plugins": [
            {
                "type": "bridge", "bridge": BRIDGE, "isGateway": true, "ipMasq": true, "hairpinMode": true,
                "promiscMode": false,
                "ipam": {
                    "type": "host-local", "ranges": [[{ "subnet": pods.to_string() }]],
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
