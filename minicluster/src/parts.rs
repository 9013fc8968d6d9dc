//! The components behind the API server, each started with a client and its own configuration.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use minicluster_apiserver::Identity;
use tokio::task::JoinSet;
use windlass::CancellationToken;

use crate::{
    cluster::{self, ClusterError, Door},
    options::{Component, UpOptions},
};

/// Runs the built-in controllers.
pub async fn controllers(client: Client, ca_pem: Option<String>, stop: CancellationToken) {
    let _ = (client, ca_pem);
    stop.cancelled().await;
}

/// Runs the scheduler.
pub async fn scheduler(client: Client, stop: CancellationToken) {
    let _ = client;
    stop.cancelled().await;
}

/// Runs simulated nodes.
pub async fn hollow_nodes(client: Client, count: u32, stop: CancellationToken) {
    let _ = (client, count);
    stop.cancelled().await;
}

/// The name of this node.
pub fn node_name(options: &UpOptions) -> String {
    options.node_name.clone().unwrap_or_else(crate::node::host_name)
}

/// The address of this node, or loopback on a host without one.
pub fn host_ip(options: &UpOptions) -> IpAddr {
    options.node_ip.or_else(crate::node::host_ip).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Prints one line when the API is ready and one when the node is.
///
/// # Errors
/// [`ClusterError::Client`].
pub async fn say_when_ready(
    door: &Door,
    options: &UpOptions,
    stop: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<(), ClusterError> {
    if options.components.has(Component::Apiserver) {
        println!(
            "API ready at https://{}:{} (kubeconfig: {})",
            options.bind,
            options.secure_port,
            cluster::kubeconfig_path(options).display()
        );
    }
    if options.components.has(Component::Kubelet) {
        let client = door.client(Identity::system()).await?;
        let (name, stop) = (node_name(options), stop.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = node_ready(client, &name) => println!("Node {name} ready"),
                () = stop.cancelled() => return,
            }
            stop.cancelled().await;
        });
    }
    Ok(())
}

async fn node_ready(client: Client, name: &str) {
    let nodes: Api<Node> = Api::all(client);
    let ready = |node: Option<&Node>| {
        node.and_then(|n| n.status.as_ref()).and_then(|s| s.conditions.as_ref()).is_some_and(|conditions| {
            conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
        })
    };
    loop {
        match nodes.get_opt(name).await {
            Ok(node) if ready(node.as_ref()) => return,
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
