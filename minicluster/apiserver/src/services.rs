//! Cluster IPs and node ports: given out when a Service is written, taken back when it goes.
//!
//! This server is the only one that opens the store, so what is in use is kept in memory and read from the Services at
//! start. A reservation that is not kept (the write failed) returns by itself. Source: `pkg/registry/core/service`.

use std::{collections::BTreeSet, net::Ipv4Addr, sync::Arc};

use ipnet::Ipv4Net;
use minicluster_store::Store;
use parking_lot::Mutex;
use serde_json::{Value, json};
use windlass_crd::field::{self, Error};

use crate::{
    api::Api,
    context::Context,
    object,
    status::{ApiError, ApiResult},
    view,
};

const PREFIX: &str = "/registry/services/specs/";

/// The allocators.
pub struct Services {
    cidr: Ipv4Net,
    ports: (u16, u16),
    used: Arc<Mutex<Used>>,
}

#[derive(Debug, Default)]
struct Used {
    ips: BTreeSet<Ipv4Addr>,
    ports: BTreeSet<(u16, String)>,
}

/// What a write has taken; returns by itself unless kept.
#[must_use]
#[derive(Default)]
pub struct Reservation {
    ips: Vec<Ipv4Addr>,
    ports: Vec<(u16, String)>,
    /// Given back once the write is durable.
    releases: Vec<Value>,
    used: Option<Arc<Mutex<Used>>>,
}

impl Reservation {
    /// The write succeeded.
    pub fn keep(mut self) {
        self.ips.clear();
        self.ports.clear();
        if let Some(used) = &self.used {
            let mut used = used.lock();
            for obj in self.releases.drain(..) {
                used.forget(&obj);
            }
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.ips.is_empty() && self.ports.is_empty() {
            return;
        }
        if let Some(used) = &self.used {
            let mut used = used.lock();
            for ip in &self.ips {
                used.ips.remove(ip);
            }
            for port in &self.ports {
                used.ports.remove(port);
            }
        }
    }
}

impl Used {
    fn learn(&mut self, service: &Value) {
        self.ips.extend(cluster_ip(service));
        self.ports.extend(node_ports(service));
    }

    fn forget(&mut self, service: &Value) {
        if let Some(ip) = cluster_ip(service) {
            self.ips.remove(&ip);
        }
        for port in node_ports(service) {
            self.ports.remove(&port);
        }
    }
}

fn cluster_ip(service: &Value) -> Option<Ipv4Addr> {
    object::text(service, &["spec", "clusterIP"]).parse().ok()
}

fn node_ports(service: &Value) -> Vec<(u16, String)> {
    let ports = object::list(service, &["spec", "ports"]).iter().filter_map(|p| {
        let number = u16::try_from(object::number(p, &["nodePort"])?).ok().filter(|n| *n > 0)?;
        Some((number, object::text(p, &["protocol"]).to_owned()))
    });
    let health = object::number(service, &["spec", "healthCheckNodePort"])
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n > 0)
        .map(|n| (n, "TCP".to_owned()));
    ports.chain(health).collect()
}

impl Services {
    /// Learns what is in use from the store.
    pub fn new(store: &Store, cidr: Ipv4Net, ports: (u16, u16)) -> Self {
        let mut used = Used::default();
        let snapshot = store.snapshot();
        for (_, service) in view::objects(&snapshot, PREFIX) {
            used.learn(&service);
        }
        Self { cidr, ports, used: Arc::new(Mutex::new(used)) }
    }

    /// The first address of the range, which belongs to the `kubernetes` Service.
    pub fn first_ip(&self) -> Ipv4Addr {
        self.cidr.hosts().next().unwrap_or_else(|| self.cidr.addr())
    }

    /// Completes a Service that is created, or updated from `old`; other kinds pass untouched.
    ///
    /// # Errors
    /// 422 when a wanted address or port is taken or out of range, or none is left.
    pub fn allocate(&self, cx: &Context, obj: &mut Value, old: Option<&Value>) -> ApiResult<Reservation> {
        if cx.resource.prefix != PREFIX || !cx.info.subresource.is_empty() {
            return Ok(Reservation::default());
        }
        let dry_run = cx.dry_run();
        let mut taken = Reservation::default();
        taken.used = Some(Arc::clone(&self.used));
        let refuse =
            |error: Error, obj: &Value| Err(ApiError::invalid(&cx.resource, object::name(obj), &[error]));
        let kind = object::text(obj, &["spec", "type"]).to_owned();
        if kind != "ExternalName"
            && let Err(error) = self.take_ip(cx, obj, old, &mut taken)
        {
            return refuse(error, obj);
        }
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer")
            && let Err(error) = self.take_ports(cx, obj, old, &mut taken)
        {
            return refuse(error, obj);
        }
        if let Some(old) = old {
            taken.releases.extend(given_up(obj, old));
        }
        if dry_run {
            taken.releases.clear();
        }
        Ok(taken)
    }

    fn take_ip(
        &self,
        cx: &Context,
        obj: &mut Value,
        old: Option<&Value>,
        taken: &mut Reservation,
    ) -> Result<(), Error> {
        let path = field::root("spec").child("clusterIPs");
        let asked = match object::text(obj, &["spec", "clusterIP"]) {
            "" => object::list(obj, &["spec", "clusterIPs"]).first().and_then(Value::as_str).unwrap_or(""),
            ip => ip,
        }
        .to_owned();
        if asked != "None"
            && old.is_none_or(|old| cluster_ip(old).map(|ip| ip.to_string()).as_deref() != Some(&asked))
        {
            let mut used = self.used.lock();
            let ip = if asked.is_empty() {
                self.free_ip(cx, &used)
                    .ok_or_else(|| Error::internal(&path, "failed to allocate a serviceIP: range is full"))?
            } else {
                let ip: Ipv4Addr = asked.parse().map_err(|_| {
                    Error::invalid(
                        path.index(0),
                        asked.as_str(),
                        "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                    )
                })?;
                if !self.cidr.contains(&ip) {
                    let why = format!(
                        "failed to allocate IP {ip}: the provided network does not match the current range"
                    );
                    return Err(Error::invalid(&path, json!([ip.to_string()]), why));
                }
                if used.ips.contains(&ip) {
                    let why = format!("failed to allocate IP {ip}: provided IP is already allocated");
                    return Err(Error::invalid(&path, json!([ip.to_string()]), why));
                }
                ip
            };
            used.ips.insert(ip);
            taken.ips.push(ip);
            object::set(obj, &["spec", "clusterIP"], ip.to_string());
        } else {
            object::set(obj, &["spec", "clusterIP"], asked);
        }
        let ip = object::text(obj, &["spec", "clusterIP"]).to_owned();
        object::set(obj, &["spec", "clusterIPs"], json!([ip]));
        if object::at(obj, &["spec", "ipFamilies"]).is_none() {
            object::set(obj, &["spec", "ipFamilies"], json!(["IPv4"]));
        }
        if object::at(obj, &["spec", "ipFamilyPolicy"]).is_none() {
            object::set(obj, &["spec", "ipFamilyPolicy"], "SingleStack");
        }
        Ok(())
    }

    /// A free address, away from the lower part of the range, which is left for addresses chosen by people
    /// (KEP-3070).
    fn free_ip(&self, cx: &Context, used: &Used) -> Option<Ipv4Addr> {
        let first = u32::from(self.cidr.network()) + 1;
        let count = u32::from(self.cidr.broadcast()).saturating_sub(first);
        let reserved = (count / 16).clamp(16.min(count), 256.min(count.max(1)));
        let upper = count.saturating_sub(reserved);
        let start = if upper > 0 { cx.api.random(u64::from(upper)) as u32 } else { 0 };
        let high = (0..upper).map(|i| first + reserved + (start + i) % upper);
        let low = (1..reserved.min(count)).map(|i| first + i);
        high.chain(low).map(Ipv4Addr::from).find(|ip| !used.ips.contains(ip))
    }

    fn take_ports(
        &self,
        cx: &Context,
        obj: &mut Value,
        old: Option<&Value>,
        taken: &mut Reservation,
    ) -> Result<(), Error> {
        let before: Vec<(u16, String)> = old.map(node_ports).unwrap_or_default();
        let allocates = object::at(obj, &["spec", "allocateLoadBalancerNodePorts"]).and_then(Value::as_bool)
            != Some(false)
            || object::text(obj, &["spec", "type"]) == "NodePort";
        let Some(ports) = obj.pointer_mut("/spec/ports").and_then(Value::as_array_mut) else { return Ok(()) };
        let mut used = self.used.lock();
        for (i, port) in ports.iter_mut().enumerate() {
            let path = field::root("spec").child("ports").index(i).child("nodePort");
            let protocol = object::text(port, &["protocol"]).to_owned();
            let asked = object::number(port, &["nodePort"]).unwrap_or(0);
            let number = if asked == 0 {
                if !allocates {
                    continue;
                }
                self.free_port(cx, &used, &protocol)
                    .ok_or_else(|| Error::internal(&path, "failed to allocate a nodePort: range is full"))?
            } else {
                let number = u16::try_from(asked).unwrap_or(0);
                if before.contains(&(number, protocol.clone())) {
                    continue;
                }
                if number < self.ports.0 || number > self.ports.1 {
                    let why = format!(
                        "provided port is not in the valid range. The range of valid ports is {}-{}",
                        self.ports.0, self.ports.1
                    );
                    return Err(Error::invalid(&path, asked, why));
                }
                if used.ports.contains(&(number, protocol.clone())) {
                    return Err(Error::invalid(&path, asked, "provided port is already allocated"));
                }
                number
            };
            used.ports.insert((number, protocol.clone()));
            taken.ports.push((number, protocol));
            object::set(port, &["nodePort"], number);
        }
        Ok(())
    }

    fn free_port(&self, cx: &Context, used: &Used, protocol: &str) -> Option<u16> {
        let count = u32::from(self.ports.1 - self.ports.0) + 1;
        let start = cx.api.random(u64::from(count)) as u32;
        (0..count)
            .map(|i| self.ports.0 + ((start + i) % count) as u16)
            .find(|p| !used.ports.contains(&(*p, protocol.to_owned())))
    }

    /// Takes back what a deleted object held.
    pub fn release(&self, cx: &Context, obj: &Value) {
        if cx.resource.prefix == PREFIX {
            self.used.lock().forget(obj);
        }
    }
}

/// What `old` held and `new` does not: a Service with just those, to be forgotten.
fn given_up(new: &Value, old: &Value) -> Option<Value> {
    let mut gone = json!({ "spec": {} });
    if cluster_ip(new) != cluster_ip(old) {
        gone["spec"]["clusterIP"] = object::text(old, &["spec", "clusterIP"]).into();
    }
    let kept = node_ports(new);
    let ports: Vec<Value> = node_ports(old)
        .into_iter()
        .filter(|p| !kept.contains(p))
        .map(|(n, p)| json!({ "nodePort": n, "protocol": p }))
        .collect();
    gone["spec"]["ports"] = ports.into();
    Some(gone)
}

/// One ready endpoint of a Service port, chosen at random.
pub(crate) fn endpoint(api: &Api, namespace: &str, service: &str, port_name: &str) -> Option<(String, u16)> {
    let snapshot = api.store.snapshot();
    let prefix = format!("/registry/endpointslices/{namespace}/");
    let mut all = Vec::new();
    for (_, slice) in view::objects(&snapshot, &prefix) {
        let owner =
            object::at(&slice, &["metadata", "labels"]).and_then(|l| l.get("kubernetes.io/service-name"));
        if owner.and_then(Value::as_str) != Some(service) {
            continue;
        }
        let port = object::list(&slice, &["ports"]).iter().find(|p| object::text(p, &["name"]) == port_name);
        let port = port.and_then(|p| object::number(p, &["port"]));
        let Some(port) = port.and_then(|p| u16::try_from(p).ok()) else { continue };
        for endpoint in object::list(&slice, &["endpoints"]) {
            let ready =
                object::at(endpoint, &["conditions", "ready"]).and_then(Value::as_bool) != Some(false);
            let address = object::list(endpoint, &["addresses"]).first().and_then(Value::as_str);
            if let (true, Some(address)) = (ready, address) {
                all.push((address.to_owned(), port));
            }
        }
    }
    let chosen = api.random(all.len() as u64) as usize;
    all.into_iter().nth(chosen)
}

/// Where a Service port given by its number leads: a ready endpoint.
pub(crate) fn endpoint_of_port(
    api: &Api,
    namespace: &str,
    service: &str,
    port: i64,
) -> Option<(String, u16)> {
    let entry = api.store.get(&format!("{PREFIX}{namespace}/{service}"))?;
    let obj: Value = serde_json::from_slice(&entry.value).ok()?;
    let ports = object::list(&obj, &["spec", "ports"]);
    let port = ports.iter().find(|p| object::number(p, &["port"]) == Some(port))?;
    endpoint(api, namespace, service, object::text(port, &["name"]))
}
