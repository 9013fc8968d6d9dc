//! The proxy as it runs: woken by Services and EndpointSlices, it renders, compares and applies.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::Notify;
use windlass::{BoxError, Informer, RunCx, Runnable, Scope};

use crate::apply::{apply, forget_udp};
use crate::render::render;
use crate::ruleset::{Ruleset, TABLE};
use crate::service::{ServicePort, service_ports};

/// Changes that come within this time are applied together.
const GATHER: Duration = Duration::from_millis(20);
/// Pause after a transaction that was refused; doubles to [`MAX_RETRY`].
const RETRY: Duration = Duration::from_millis(500);
const MAX_RETRY: Duration = Duration::from_secs(30);

/// What a proxy is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node it runs on.
    pub node_name: String,
    /// Addresses of pods; traffic from elsewhere to a cluster address is masqueraded.
    pub cluster_cidr: Option<Ipv4Net>,
}

/// The service proxy of one node.
pub struct Proxy {
    config: Config,
}

impl Proxy {
    /// A proxy for this node. It works in the network namespace its process is in.
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// Takes the table away.
    ///
    /// # Errors
    /// What `nft` says.
    pub async fn clean_up() -> Result<(), crate::ApplyError> {
        apply(&format!("add table {TABLE}\ndelete table {TABLE}\n")).await
    }

    async fn keep(&self, services: &Informer<Service>, slices: &Informer<EndpointSlice>) {
        let changed = Arc::new(Notify::new());
        let (one, two) = (changed.clone(), changed.clone());
        let _services = services.subscribe(move |_| one.notify_one());
        let _slices = slices.subscribe(move |_| two.notify_one());
        tokio::join!(services.synced(), slices.synced());
        let mut applied: Option<(Ruleset, Vec<ServicePort>)> = None;
        let mut pause = RETRY;
        loop {
            let ports = self.ports(services, slices);
            let rules = render(&ports, self.config.cluster_cidr);
            let transaction = match &applied {
                Some((old, _)) => rules.changes_from(old),
                None => rules.whole(),
            };
            let result = if transaction.is_empty() { Ok(()) } else { apply(&transaction).await };
            match result {
                Ok(()) => {
                    if let Some((_, old)) = &applied {
                        forget_stale(old, &ports).await;
                    }
                    applied = Some((rules, ports));
                    pause = RETRY;
                    changed.notified().await;
                    tokio::time::sleep(GATHER).await;
                }
                Err(error) => {
                    // Somebody may have touched the table: the next attempt replaces all of it.
                    tracing::warn!(%error, "service rules were not applied; trying again");
                    applied = None;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_RETRY);
                }
            }
        }
    }

    fn ports(&self, services: &Informer<Service>, slices: &Informer<EndpointSlice>) -> Vec<ServicePort> {
        let services = services.lister().all();
        let slices = slices.lister().all();
        service_ports(services.iter().map(|s| &**s), slices.iter().map(|s| &**s), &self.config.node_name)
    }
}

impl Runnable for Proxy {
    fn name(&self) -> &str {
        "kube-proxy"
    }

    fn needs_leader(&self) -> bool {
        false
    }

    fn run(&self, cx: RunCx) -> BoxFuture<'_, Result<(), BoxError>> {
        async move {
            let services = cx.informers.get(Scope::all());
            let slices = cx.informers.get(Scope::all());
            tokio::select! {
                biased;
                () = self.keep(&services, &slices) => {}
                () = cx.stop.cancelled() => {}
            }
            Ok(())
        }
        .boxed()
    }
}

/// Forgets UDP flows that lead where they should no longer: to endpoints that went away, or past a service that has
/// endpoints only now.
async fn forget_stale(old: &[ServicePort], new: &[ServicePort]) {
    for (service, port, endpoint) in stale(old, new) {
        forget_udp(service, port, endpoint).await;
    }
}

type Flow = (Option<Ipv4Addr>, u16, Option<Ipv4Addr>);

fn stale(old: &[ServicePort], new: &[ServicePort]) -> BTreeSet<Flow> {
    let id = |p: &ServicePort| (p.service.clone(), p.name.clone());
    let mut flows = BTreeSet::new();
    let fronts = |p: &ServicePort| -> Vec<(Option<Ipv4Addr>, u16)> {
        let addresses = p.cluster_ips.iter().chain(&p.external_ips).map(|ip| (Some(*ip), p.port));
        addresses.chain((p.node_port != 0).then_some((None, p.node_port))).collect()
    };
    for before in old.iter().filter(|p| p.protocol == "udp") {
        let after = new.iter().find(|p| p.protocol == "udp" && id(p) == id(before));
        let kept = after.map(|p| p.endpoints.as_slice()).unwrap_or_default();
        for e in before.endpoints.iter().filter(|e| !kept.iter().any(|k| k.ip == e.ip && k.port == e.port)) {
            flows.extend(fronts(before).into_iter().map(|(ip, port)| (ip, port, Some(e.ip))));
        }
    }
    for after in new.iter().filter(|p| p.protocol == "udp" && !p.endpoints.is_empty()) {
        let before = old.iter().find(|p| p.protocol == "udp" && id(p) == id(after));
        if before.is_none_or(|p| p.endpoints.is_empty()) {
            flows.extend(fronts(after).into_iter().map(|(ip, port)| (ip, port, None)));
        }
    }
    flows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Endpoint;

    fn port(endpoints: &[u8]) -> ServicePort {
        let endpoint = |n: &u8| Endpoint { ip: Ipv4Addr::new(10, 244, 0, *n), port: 53, local: true };
        ServicePort {
            service: "kube-system/dns".into(),
            name: "dns".into(),
            protocol: "udp".into(),
            port: 53,
            node_port: 0,
            cluster_ips: vec![Ipv4Addr::new(10, 96, 0, 10)],
            external_ips: Vec::new(),
            affinity: None,
            internal_local: false,
            external_local: false,
            endpoints: endpoints.iter().map(endpoint).collect(),
        }
    }

    #[test]
    fn flows_are_forgotten_when_their_endpoint_goes_or_the_first_one_comes() {
        let service = Some(Ipv4Addr::new(10, 96, 0, 10));
        let gone = stale(&[port(&[2, 3])], &[port(&[3])]);
        assert_eq!(gone.into_iter().collect::<Vec<_>>(), [(service, 53, Some(Ipv4Addr::new(10, 244, 0, 2)))]);
        assert_eq!(stale(&[port(&[])], &[port(&[2])]).into_iter().collect::<Vec<_>>(), [(service, 53, None)]);
        assert!(stale(&[port(&[2])], &[port(&[2, 3])]).is_empty());
    }
}
