//! Webhooks of an operator that runs beside its cluster: what the API server in memory sends to their Services is led to
//! the ports that the operator listens on.

use std::net::Ipv4Addr;

use minicluster::TestCluster;
use tokio::{io::copy_bidirectional, net::TcpStream, task::JoinSet};
use windlass::{Description, Endpoint};

/// The namespace that an operator believes itself in, as the kubeconfig says.
const NAMESPACE: &str = "default";

/// Leads connections on until it is dropped.
pub(super) struct Led(#[expect(dead_code, reason = "the tasks end with it")] JoinSet<()>);

/// Leads everything that is sent to the operator's Services to this machine.
pub(super) fn lead(cluster: &TestCluster, description: &Description) -> Led {
    let mut led = JoinSet::new();
    for Endpoint { service, port, listens, .. } in &description.webhooks {
        let mut connections = cluster.serve(NAMESPACE, service, *port);
        let listens = *listens;
        led.spawn(async move {
            let mut open = JoinSet::new();
            while let Some(mut from) = connections.recv().await {
                open.spawn(async move {
                    // Who asks is told by the end of the connection that nobody listens yet.
                    if let Ok(mut to) = TcpStream::connect((Ipv4Addr::LOCALHOST, listens)).await {
                        let _ = copy_bidirectional(&mut from, &mut to).await;
                    }
                });
                while open.try_join_next().is_some() {}
            }
        });
    }
    Led(led)
}
