//! `minicluster status`: what runs, who leads, which nodes there are, how large the store is.

use std::path::Path;

use anyhow::Context;
use comfy_table::{Table, presets};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Node};
use kube::{Api, Client, api::ListParams};

use crate::cluster;

/// The report, as text for a terminal.
///
/// # Errors
/// When there is no cluster in the data directory, or it does not answer.
pub async fn report(data_dir: &Path) -> anyhow::Result<String> {
    let path = data_dir.join("admin.kubeconfig");
    let mut config = cluster::read_kubeconfig(&path).await.with_context(|| {
        format!("{} (has `minicluster up` been run with this --data-dir?)", path.display())
    })?;
    config.default_retry = false;
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config)?;
    let version = client.apiserver_version().await.with_context(|| format!("{server} does not answer"))?;
    let mut out = format!("API server {} at {server}\n\n", version.git_version);

    let mut leases = table(&["LEASE", "HOLDER", "RENEWED"]);
    for lease in Api::<Lease>::namespaced(client.clone(), "kube-system").list(&ListParams::default()).await? {
        let spec = lease.spec.unwrap_or_default();
        let renewed = spec.renew_time.map(|t| t.0.to_string()).unwrap_or_default();
        leases.add_row([
            lease.metadata.name.unwrap_or_default(),
            spec.holder_identity.unwrap_or_default(),
            renewed,
        ]);
    }
    let mut nodes = table(&["NODE", "READY", "KUBELET", "RUNTIME"]);
    for node in Api::<Node>::all(client.clone()).list(&ListParams::default()).await? {
        let status = node.status.unwrap_or_default();
        let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready");
        let info = status.node_info.unwrap_or_default();
        nodes.add_row([
            node.metadata.name.unwrap_or_default(),
            ready.map_or_else(|| "Unknown".to_owned(), |c| c.status.clone()),
            info.kubelet_version,
            info.container_runtime_version,
        ]);
    }
    out.push_str(&format!("{leases}\n\n{nodes}\n\n"));
    out.push_str(&format!("Store: {}\n", bytes(size(&data_dir.join("store")))));
    Ok(out)
}

fn table(heading: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(heading.to_vec());
    table
}

/// Bytes that a folder occupies.
fn size(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size(&entry.path()),
        Ok(meta) => std::os::unix::fs::MetadataExt::blocks(&meta) * 512,
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

fn bytes(n: u64) -> String {
    match n {
        0 => "in memory".to_owned(),
        n if n < 1 << 20 => format!("{} KiB on disk", n >> 10),
        n => format!("{} MiB on disk", n >> 20),
    }
}
