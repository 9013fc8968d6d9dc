//! The zone of the cluster: names to records. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;

use crate::view::{Endpoint, View};

/// How long answers may be kept, in seconds. Short: endpoints come and go.
const TTL: u32 = 5;
/// Version of the specification, told as TXT of `dns-version`.
const VERSION: &str = "1.1.0";
/// Weight and priority of SRV records; all endpoints are equal.
const PRIORITY: u16 = 0;
const WEIGHT: u16 = 100;

/// What the zone says to a question.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Not of this zone: ask elsewhere.
    Elsewhere,
    /// Records; possibly none of the type asked for.
    Found {
        /// Answers.
        records: Vec<Record>,
        /// What helps to use them.
        additional: Vec<Record>,
        /// A name of another zone that a CNAME leads to, still to be resolved.
        follow: Option<Name>,
    },
    /// No such name, or nothing of that type; the authority is in it.
    Nothing {
        /// `NXDomain` or `NoError`.
        code: ResponseCode,
        /// The zone's SOA.
        soa: Record,
    },
}

/// The zone of one cluster.
#[derive(Debug, Clone)]
pub struct Zone {
    domain: String,
    apex: Name,
}

/// A name resolved to what it stands for.
enum Target {
    Addresses(Vec<IpAddr>),
    Alias(String),
    Services(Vec<(Endpoint, String, u16)>),
    Text(&'static str),
    /// It exists, and has no records of its own.
    Empty,
}

/// A service without a cluster address.
pub(crate) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|s| s.cluster_ip.as_deref() == Some("None"))
}

impl Zone {
    /// The zone of a domain such as `cluster.local`.
    ///
    /// # Errors
    /// The domain is no name.
    pub fn new(domain: &str) -> Result<Self, hickory_proto::ProtoError> {
        let domain = domain.trim_end_matches('.').to_lowercase();
        let apex = Name::from_ascii(format!("{domain}."))?;
        Ok(Self { domain, apex })
    }

    /// Answers one question.
    pub fn answer(&self, view: &dyn View, name: &Name, kind: RecordType) -> Answer {
        let text = name.to_ascii().to_lowercase();
        let text = text.trim_end_matches('.');
        if let Some(ip) = reversed(text) {
            return self.pointer(view, name, ip, kind);
        }
        if text == self.domain {
            let soa = self.soa();
            return match kind {
                RecordType::SOA => Answer::Found { records: vec![soa], additional: Vec::new(), follow: None },
                _ => Answer::Nothing { code: ResponseCode::NoError, soa },
            };
        }
        let Some(inside) = text.strip_suffix(&self.domain).and_then(|t| t.strip_suffix('.')) else {
            return Answer::Elsewhere;
        };
        let labels: Vec<&str> = inside.split('.').collect();
        match self.resolve(view, &labels) {
            Some(target) => self.records(view, name, target, kind),
            None => Answer::Nothing { code: ResponseCode::NXDomain, soa: self.soa() },
        }
    }

    fn resolve(&self, view: &dyn View, labels: &[&str]) -> Option<Target> {
        match labels {
            ["dns-version"] => Some(Target::Text(VERSION)),
            ["svc"] | ["pod"] => Some(Target::Empty),
            [namespace, "svc" | "pod"] => view.namespace(namespace).then_some(Target::Empty),
            [service, namespace, "svc"] => self.service(view, namespace, service),
            [host, service, namespace, "svc"] if !host.starts_with('_') => {
                let endpoint = view.endpoints(namespace, service).into_iter().filter(|e| host_of(e) == *host);
                let found: Vec<_> = endpoint.map(|e| e.ip).collect();
                let headless = view.service(namespace, service).is_some_and(|s| is_headless(&s));
                (headless && !found.is_empty()).then_some(Target::Addresses(found))
            }
            [port, protocol, service, namespace, "svc"] => {
                let (port, protocol) = (port.strip_prefix('_')?, protocol.strip_prefix('_')?);
                self.ports(view, namespace, service, port, protocol)
            }
            [address, namespace, "pod"] if view.namespace(namespace) => {
                Some(Target::Addresses(vec![undashed(address)?]))
            }
            _ => None,
        }
    }

    fn service(&self, view: &dyn View, namespace: &str, name: &str) -> Option<Target> {
        let service = view.service(namespace, name)?;
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() == Some("ExternalName") {
            let name = spec.external_name.as_deref()?;
            return Some(match name.parse::<IpAddr>() {
                Ok(ip) => Target::Addresses(vec![ip]),
                Err(_) => Target::Alias(name.to_owned()),
            });
        }
        if is_headless(&service) {
            let ips: Vec<_> = view.endpoints(namespace, name).into_iter().map(|e| e.ip).collect();
            // A headless service nobody stands behind does not exist, by the specification.
            return (!ips.is_empty()).then_some(Target::Addresses(ips));
        }
        let ips = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).filter_map(|ip| ip.parse().ok());
        let mut ips: Vec<IpAddr> = ips.collect();
        ips.sort();
        ips.dedup();
        Some(Target::Addresses(ips))
    }

    fn ports(
        &self,
        view: &dyn View,
        namespace: &str,
        name: &str,
        port: &str,
        protocol: &str,
    ) -> Option<Target> {
        let service = view.service(namespace, name)?;
        let base = format!("{name}.{namespace}.svc.{}.", self.domain);
        let mut found = Vec::new();
        if is_headless(&service) {
            for e in view.endpoints(namespace, name) {
                let numbers = e
                    .ports
                    .iter()
                    .filter(|(n, p, _)| n == port && p == protocol)
                    .map(|(_, _, number)| *number);
                for number in numbers.collect::<Vec<_>>() {
                    found.push((e.clone(), format!("{}.{base}", host_of(&e)), number));
                }
            }
        } else {
            let spec = service.spec.as_ref()?;
            let ip = spec.cluster_ip.as_deref()?.parse().ok()?;
            for p in spec.ports.iter().flatten() {
                let same = p.name.as_deref() == Some(port)
                    && p.protocol.as_deref().unwrap_or("TCP").eq_ignore_ascii_case(protocol);
                if same {
                    let endpoint = Endpoint { ip, hostname: None, ports: Vec::new() };
                    found.push((endpoint, base.clone(), u16::try_from(p.port).ok()?));
                }
            }
        }
        (!found.is_empty()).then_some(Target::Services(found))
    }

    fn records(&self, view: &dyn View, name: &Name, target: Target, kind: RecordType) -> Answer {
        let mut records = Vec::new();
        let mut additional = Vec::new();
        let mut follow = None;
        match target {
            Target::Addresses(ips) => records.extend(ips.iter().filter_map(|ip| address(name, *ip, kind))),
            Target::Alias(to) => {
                let Ok(to) = Name::from_ascii(format!("{}.", to.trim_end_matches('.'))) else {
                    return Answer::Nothing { code: ResponseCode::ServFail, soa: self.soa() };
                };
                records.push(Record::from_rdata(name.clone(), TTL, RData::CNAME(CNAME(to.clone()))));
                if kind != RecordType::CNAME {
                    match self.answer(view, &to, kind) {
                        Answer::Elsewhere => follow = Some(to),
                        Answer::Found { records: more, follow: next, .. } => {
                            records.extend(more);
                            follow = next;
                        }
                        Answer::Nothing { .. } => {}
                    }
                }
            }
            Target::Services(list) if kind == RecordType::SRV => {
                for (endpoint, host, port) in list {
                    let Ok(host) = Name::from_ascii(&host) else { continue };
                    let srv = SRV::new(PRIORITY, WEIGHT, port, host.clone());
                    records.push(Record::from_rdata(name.clone(), TTL, RData::SRV(srv)));
                    let extra = address(&host, endpoint.ip, RecordType::ANY);
                    additional.extend(extra.filter(|r| !additional.contains(r)));
                }
            }
            Target::Text(text) if kind == RecordType::TXT => {
                records.push(Record::from_rdata(
                    name.clone(),
                    TTL,
                    RData::TXT(TXT::new(vec![text.to_owned()])),
                ));
            }
            Target::Services(_) | Target::Text(_) | Target::Empty => {}
        }
        if records.is_empty() {
            return Answer::Nothing { code: ResponseCode::NoError, soa: self.soa() };
        }
        Answer::Found { records, additional, follow }
    }

    fn pointer(&self, view: &dyn View, name: &Name, ip: IpAddr, kind: RecordType) -> Answer {
        let host = match view.service_at(ip) {
            Some(service) => {
                let meta = &service.metadata;
                let (name, namespace) = (meta.name.as_deref(), meta.namespace.as_deref());
                Some(format!(
                    "{}.{}.svc.{}.",
                    name.unwrap_or_default(),
                    namespace.unwrap_or_default(),
                    self.domain
                ))
            }
            None => view.endpoint_at(ip).map(|(namespace, service, e)| {
                format!("{}.{service}.{namespace}.svc.{}.", host_of(&e), self.domain)
            }),
        };
        let Some(host) = host.and_then(|h| Name::from_ascii(h).ok()) else { return Answer::Elsewhere };
        if !matches!(kind, RecordType::PTR | RecordType::ANY) {
            return Answer::Nothing { code: ResponseCode::NoError, soa: self.soa() };
        }
        let record = Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(host)));
        Answer::Found { records: vec![record], additional: Vec::new(), follow: None }
    }

    fn soa(&self) -> Record {
        let host = |label: &str| {
            Name::from_ascii(format!("{label}.{}.", self.domain)).unwrap_or_else(|_| Name::root())
        };
        let soa = SOA::new(host("ns.dns"), host("hostmaster"), 1, 7200, 1800, 86_400, TTL);
        Record::from_rdata(self.apex.clone(), TTL, RData::SOA(soa))
    }
}

/// The address record of a name, when its family is asked for.
fn address(name: &Name, ip: IpAddr, kind: RecordType) -> Option<Record> {
    let data = match (ip, kind) {
        (IpAddr::V4(ip), RecordType::A | RecordType::ANY) => RData::A(A(ip)),
        (IpAddr::V6(ip), RecordType::AAAA | RecordType::ANY) => RData::AAAA(AAAA(ip)),
        _ => return None,
    };
    Some(Record::from_rdata(name.clone(), TTL, data))
}

/// The label of an endpoint: its host name, or its address with dashes.
fn host_of(e: &Endpoint) -> String {
    e.hostname.clone().unwrap_or_else(|| e.ip.to_string().replace(['.', ':'], "-"))
}

/// `10-244-0-5` as an address.
fn undashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    v4.or_else(|| label.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6))
}

/// The address a reverse name stands for.
fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let parts: Vec<u8> = digits.split('.').map(|p| p.parse().ok()).collect::<Option<_>>()?;
        let [d, c, b, a] = parts.try_into().ok()?;
        return Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)));
    }
    let nibbles = name.strip_suffix(".ip6.arpa")?;
    let mut bits = 0_u128;
    let mut count = 0;
    for nibble in nibbles.split('.').rev() {
        bits = bits << 4 | u128::from_str_radix(nibble, 16).ok().filter(|n| *n < 16)?;
        count += 1;
    }
    (count == 32).then_some(IpAddr::V6(Ipv6Addr::from(bits)))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::sync::Arc;

    use expect_test::expect;
    use serde_json::json;

    use super::*;

    struct Fixture;

    impl View for Fixture {
        fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
            let spec = match (namespace, name) {
                ("shop", "web") => {
                    json!({"clusterIP": "10.96.0.5", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]})
                }
                ("shop", "db") => json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]}),
                ("shop", "out") => json!({"type": "ExternalName", "externalName": "example.com"}),
                ("shop", "alias") => {
                    json!({"type": "ExternalName", "externalName": "web.shop.svc.cluster.local"})
                }
                _ => return None,
            };
            let service = json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec});
            Some(Arc::new(serde_json::from_value(service).unwrap()))
        }
        fn endpoints(&self, _: &str, service: &str) -> Vec<Endpoint> {
            if service != "db" {
                return Vec::new();
            }
            let ports = vec![("sql".to_owned(), "tcp".to_owned(), 5432)];
            vec![
                Endpoint { ip: [10, 244, 0, 7].into(), hostname: Some("db-0".into()), ports: ports.clone() },
                Endpoint { ip: [10, 244, 0, 8].into(), hostname: None, ports },
            ]
        }
        fn namespace(&self, name: &str) -> bool {
            name == "shop"
        }
        fn service_at(&self, ip: IpAddr) -> Option<Arc<Service>> {
            (ip == IpAddr::from([10, 96, 0, 5])).then(|| self.service("shop", "web")).flatten()
        }
        fn endpoint_at(&self, ip: IpAddr) -> Option<(String, String, Endpoint)> {
            let found = self.endpoints("shop", "db").into_iter().find(|e| e.ip == ip)?;
            Some(("shop".into(), "db".into(), found))
        }
    }

    fn ask(name: &str, kind: RecordType) -> String {
        let zone = Zone::new("cluster.local").unwrap();
        let answer = zone.answer(&Fixture, &Name::from_ascii(name).unwrap(), kind);
        match answer {
            Answer::Elsewhere => "elsewhere".into(),
            Answer::Nothing { code, .. } => format!("{code:?}"),
            Answer::Found { records, additional, follow } => {
                let mut text: Vec<_> = records.iter().map(|r| format!("{}", r.data)).collect();
                text.extend(additional.iter().map(|r| format!("+ {} {}", r.name, r.data)));
                text.extend(follow.map(|f| format!("then {f}")));
                text.join(", ")
            }
        }
    }

    #[test]
    fn names_of_every_form() {
        use RecordType::{A, AAAA, CNAME, PTR, SRV, TXT};
        let questions = [
            ("web.shop.svc.cluster.local.", A),
            ("WEB.Shop.svc.cluster.local.", A),
            ("web.shop.svc.cluster.local.", AAAA),
            ("_http._tcp.web.shop.svc.cluster.local.", SRV),
            ("db.shop.svc.cluster.local.", A),
            ("db-0.db.shop.svc.cluster.local.", A),
            ("10-244-0-8.db.shop.svc.cluster.local.", A),
            ("_sql._tcp.db.shop.svc.cluster.local.", SRV),
            ("out.shop.svc.cluster.local.", CNAME),
            ("out.shop.svc.cluster.local.", A),
            ("alias.shop.svc.cluster.local.", A),
            ("10-244-0-5.shop.pod.cluster.local.", A),
            ("shop.svc.cluster.local.", A),
            ("nope.shop.svc.cluster.local.", A),
            ("nope.svc.cluster.local.", A),
            ("dns-version.cluster.local.", TXT),
            ("5.0.96.10.in-addr.arpa.", PTR),
            ("7.0.244.10.in-addr.arpa.", PTR),
            ("1.1.1.1.in-addr.arpa.", PTR),
            ("example.com.", A),
            ("web.shop.svc.cluster.local.shop.svc.cluster.local.", A),
        ];
        let mut shown = String::new();
        for (name, kind) in questions {
            let _ = writeln!(shown, "{name} {kind}: {}", ask(name, kind));
        }
        expect![[r#"
            web.shop.svc.cluster.local. A: 10.96.0.5
            WEB.Shop.svc.cluster.local. A: 10.96.0.5
            web.shop.svc.cluster.local. AAAA: NoError
            _http._tcp.web.shop.svc.cluster.local. SRV: 0 100 80 web.shop.svc.cluster.local., + web.shop.svc.cluster.local. 10.96.0.5
            db.shop.svc.cluster.local. A: 10.244.0.7, 10.244.0.8
            db-0.db.shop.svc.cluster.local. A: 10.244.0.7
            10-244-0-8.db.shop.svc.cluster.local. A: 10.244.0.8
            _sql._tcp.db.shop.svc.cluster.local. SRV: 0 100 5432 db-0.db.shop.svc.cluster.local., 0 100 5432 10-244-0-8.db.shop.svc.cluster.local., + db-0.db.shop.svc.cluster.local. 10.244.0.7, + 10-244-0-8.db.shop.svc.cluster.local. 10.244.0.8
            out.shop.svc.cluster.local. CNAME: example.com.
            out.shop.svc.cluster.local. A: example.com., then example.com.
            alias.shop.svc.cluster.local. A: web.shop.svc.cluster.local., 10.96.0.5
            10-244-0-5.shop.pod.cluster.local. A: 10.244.0.5
            shop.svc.cluster.local. A: NoError
            nope.shop.svc.cluster.local. A: NXDomain
            nope.svc.cluster.local. A: NXDomain
            dns-version.cluster.local. TXT: 1.1.0
            5.0.96.10.in-addr.arpa. PTR: web.shop.svc.cluster.local.
            7.0.244.10.in-addr.arpa. PTR: db-0.db.shop.svc.cluster.local.
            1.1.1.1.in-addr.arpa. PTR: elsewhere
            example.com. A: elsewhere
            web.shop.svc.cluster.local.shop.svc.cluster.local. A: NXDomain
        "#]].assert_eq(&shown);
    }
}
