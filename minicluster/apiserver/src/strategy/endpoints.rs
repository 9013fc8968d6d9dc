//! Checks of what says where traffic goes: Endpoints and EndpointSlices.
//!
//! Source: `pkg/apis/discovery/validation`, `ValidateEndpoints`.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::Value;
use windlass_crd::{
    address,
    field::{self, Error, ErrorList, Path},
    name,
};

use super::{
    networking::PROTOCOLS,
    pod_spec::{labels, one_of_required, told},
};
use crate::object;

/// An address that traffic is sent to.
pub(super) fn endpoint_ip(given: &str, path: &Path, errors: &mut ErrorList) {
    let mut wrong = |why: String| errors.push(Error::invalid(path, given, why));
    let Some(ip) = address::read(given) else { return wrong("must be a valid IP address".to_owned()) };
    if ip.is_unspecified() {
        wrong(format!("may not be unspecified ({given})"));
    }
    if ip.is_loopback() {
        wrong("may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned());
    }
    let (local, multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.segments()[0] & 0xff0f == 0xff02),
    };
    if local {
        wrong("may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned());
    }
    if multicast {
        wrong("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned());
    }
}

/// Endpoints, given what stood in their place: what does not change is not checked again.
pub(super) fn endpoints(obj: &Value, old: Option<&Value>) -> ErrorList {
    let subsets = object::list(obj, &["subsets"]);
    if old.is_some_and(|old| object::list(old, &["subsets"]) == subsets) {
        return ErrorList::new();
    }
    let mut errors = ErrorList::new();
    for (i, subset) in subsets.iter().enumerate() {
        let path = field::root("subsets").index(i);
        let lists = ["addresses", "notReadyAddresses"];
        if lists.iter().all(|list| object::list(subset, &[list]).is_empty()) {
            errors.push(Error::required(&path, "must specify `addresses` or `notReadyAddresses`"));
        }
        for list in lists {
            for (j, one) in object::list(subset, &[list]).iter().enumerate() {
                endpoint_address(one, &path.child(list).index(j), &mut errors);
            }
        }
        let ports = object::list(subset, &["ports"]);
        for (j, port) in ports.iter().enumerate() {
            endpoint_port(port, ports.len() > 1, &path.child("ports").index(j), &mut errors);
        }
    }
    errors
}

fn endpoint_address(one: &Value, path: &Path, errors: &mut ErrorList) {
    let ip = object::text(one, &["ip"]);
    told(address::ip_faults(ip), &path.child("ip"), ip, errors);
    let host = object::text(one, &["hostname"]);
    if !host.is_empty() {
        told(name::dns1123_label_faults(host), &path.child("hostname"), host, errors);
    }
    node_name(one, path, errors);
    endpoint_ip(ip, &path.child("ip"), errors);
}

fn node_name(one: &Value, path: &Path, errors: &mut ErrorList) {
    if let Some(node) = object::at(one, &["nodeName"]).and_then(Value::as_str) {
        told(name::dns1123_subdomain_faults(node), &path.child("nodeName"), node, errors);
    }
}

fn endpoint_port(port: &Value, named: bool, path: &Path, errors: &mut ErrorList) {
    let given = object::text(port, &["name"]);
    if named && given.is_empty() {
        errors.push(Error::required(path.child("name"), ""));
    } else if !given.is_empty() {
        told(name::dns1123_label_faults(given), &path.child("name"), given, errors);
    }
    let number = object::number(port, &["port"]).unwrap_or(0);
    errors.extend(name::port_number(number).err().map(|why| Error::invalid(path.child("port"), number, why)));
    one_of_required(port, "protocol", &PROTOCOLS, path, errors);
    app_protocol(port, path, errors);
}

pub(super) fn app_protocol(port: &Value, path: &Path, errors: &mut ErrorList) {
    if let Some(given) = object::at(port, &["appProtocol"]).and_then(Value::as_str) {
        told(name::qualified_name_faults(given), &path.child("appProtocol"), given, errors);
    }
}

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const TOPOLOGY_MAX: usize = 16;
const HINTS_MAX: usize = 8;

/// An EndpointSlice, given what stood in its place.
pub(super) fn slice(obj: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    let kinds = ["FQDN", "IPv4", "IPv6"];
    one_of_required(obj, "addressType", &kinds, &field::EMPTY, &mut errors);
    slice_ports(object::list(obj, &["ports"]), &field::root("ports"), &mut errors);
    let endpoints = object::list(obj, &["endpoints"]);
    if old.is_some_and(|old| object::list(old, &["endpoints"]) == endpoints) {
        return errors;
    }
    let path = field::root("endpoints");
    if endpoints.len() > ENDPOINTS_MAX {
        errors.push(Error::too_many(path, endpoints.len(), ENDPOINTS_MAX));
        return errors;
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        slice_endpoint(endpoint, object::text(obj, &["addressType"]), &path.index(i), &mut errors);
    }
    errors
}

fn slice_ports(ports: &[Value], path: &Path, errors: &mut ErrorList) {
    if ports.len() > PORTS_MAX {
        errors.push(Error::too_many(path, ports.len(), PORTS_MAX));
        return;
    }
    let mut names = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        let given = object::text(port, &["name"]);
        if !given.is_empty() {
            told(name::dns1123_label_faults(given), &at.child("name"), given, errors);
        }
        if !names.insert(given) {
            errors.push(Error::duplicate(at.child("name"), given));
        }
        one_of_required(port, "protocol", &PROTOCOLS, &at, errors);
        app_protocol(port, &at, errors);
    }
}

fn slice_endpoint(endpoint: &Value, kind: &str, path: &Path, errors: &mut ErrorList) {
    let at = path.child("addresses");
    let addresses = object::list(endpoint, &["addresses"]);
    if addresses.is_empty() {
        errors.push(Error::required(&at, "must contain at least 1 address"));
    } else if addresses.len() > ADDRESSES_MAX {
        errors.push(Error::too_many(&at, addresses.len(), ADDRESSES_MAX));
    }
    for (i, given) in addresses.iter().filter_map(Value::as_str).enumerate() {
        slice_address(given, kind, &at, i, errors);
    }
    node_name(endpoint, path, errors);
    let topology = object::at(endpoint, &["deprecatedTopology"]);
    let count = topology.and_then(Value::as_object).map_or(0, serde_json::Map::len);
    if count > TOPOLOGY_MAX {
        errors.push(Error::too_many(path.child("deprecatedTopology"), count, TOPOLOGY_MAX));
    }
    labels(topology, &path.child("deprecatedTopology"), errors);
    if let Some(host) = object::at(endpoint, &["hostname"]).and_then(Value::as_str) {
        told(name::dns1123_label_faults(host), &path.child("hostname"), host, errors);
    }
    if let Some(given) = object::at(endpoint, &["hints"]) {
        let path = path.child("hints");
        if hints(given, "forZones", name::label_value_faults, &path, errors) {
            hints(given, "forNodes", name::dns1123_subdomain_faults, &path, errors);
        }
    }
}

fn slice_address(given: &str, kind: &str, path: &Path, i: usize, errors: &mut ErrorList) {
    let at = path.index(i);
    let faults = match kind {
        "IPv4" => address::ip_faults(given),
        "IPv6" => address::canonical_ip_faults(given),
        "FQDN" => {
            let trimmed = given.strip_suffix('.').unwrap_or(given);
            if given.is_empty() {
                errors.push(Error::required(&at, ""));
                return;
            }
            told(name::dns1123_subdomain_faults(trimmed), &at, trimmed, errors);
            if errors.is_empty() && trimmed.split('.').count() < 2 {
                let detail = "should be a domain with at least two segments separated by dots";
                errors.push(Error::invalid(&at, given, detail));
            }
            return;
        }
        _ => return,
    };
    if !faults.is_empty() {
        return told(faults, &at, given, errors);
    }
    if address::read(given).is_some_and(|ip| ip.is_ipv4() != (kind == "IPv4")) {
        errors.push(Error::invalid(path, given, format!("must be an {kind} address")));
    }
    endpoint_ip(given, &at, errors);
}

/// Which zones or nodes an endpoint is for. False: too many to look at.
fn hints(
    given: &Value,
    list: &'static str,
    faults: fn(&str) -> Vec<String>,
    path: &Path,
    errors: &mut ErrorList,
) -> bool {
    let (all, path) = (object::list(given, &[list]), path.child(list));
    if all.len() > HINTS_MAX {
        errors.push(Error::too_many(path, all.len(), HINTS_MAX));
        return false;
    }
    let mut seen = BTreeSet::new();
    for (i, one) in all.iter().map(|one| object::text(one, &["name"])).enumerate() {
        let at = path.index(i).child("name");
        if !seen.insert(one) {
            errors.push(Error::duplicate(&at, one));
        }
        told(faults(one), &at, one, errors);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn joined(errors: &[Error]) -> String {
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn slices_say_what_is_wrong() {
        let of = |kind: &str, address: &str| {
            joined(&slice(&json!({"addressType": kind, "endpoints": [{"addresses": [address]}]}), None))
        };
        assert_eq!(of("IPv4", "10.0.0.1"), "");
        assert_eq!(
            of("IPv4", "127.0.0.1"),
            "endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)"
        );
        assert_eq!(
            of("IPv6", "10.0.0.1"),
            "endpoints[0].addresses: Invalid value: \"10.0.0.1\": must be an IPv6 address"
        );
        assert_eq!(
            of("FQDN", "a"),
            "endpoints[0].addresses[0]: Invalid value: \"a\": should be a domain with at least two segments separated by dots"
        );
    }
}
