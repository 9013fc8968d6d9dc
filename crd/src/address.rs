//! IP addresses and networks as fields of objects hold them: what is wrong with one, in upstream's words.
//!
//! Read sloppily, as Go once did: `010.0.0.1` is an address, and then told that it should not be. Source:
//! `k8s.io/apimachinery/pkg/util/validation/ip.go` (KEP-4858).

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

/// An address, zeros in front of its parts and all.
fn sloppy(value: &str) -> Option<IpAddr> {
    if let Ok(address) = value.parse() {
        return Some(address);
    }
    let parts: Vec<u8> = value
        .split('.')
        .map(|part| {
            let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            let short = part.trim_start_matches('0');
            let short = if short.is_empty() { "0" } else { short };
            if digits { short.parse().ok() } else { None }
        })
        .collect::<Option<_>>()?;
    let octets: [u8; 4] = parts.try_into().ok()?;
    Some(IpAddr::V4(Ipv4Addr::from(octets)))
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

/// An IPv4 address within IPv6 is one of IPv4, as in Go.
fn canonical(address: IpAddr) -> String {
    address.to_canonical().to_string()
}

/// The address that a text stands for, one of IPv4 within IPv6 as one of IPv4.
#[must_use]
pub fn read(value: &str) -> Option<IpAddr> {
    sloppy(value).map(|address| address.to_canonical())
}

/// Whether a text stands for an address.
#[must_use]
pub fn is_address(value: &str) -> bool {
    sloppy(value).is_some()
}

/// What is wrong with an address.
#[must_use]
pub fn ip_faults(value: &str) -> Vec<String> {
    let Some(address) = sloppy(value) else {
        return vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()];
    };
    if value.parse::<IpAddr>().is_err() {
        return vec!["must not have leading 0s".to_owned()];
    }
    if is_mapped(address) {
        return vec!["must not be an IPv4-mapped IPv6 address".to_owned()];
    }
    Vec::new()
}

/// What is wrong with an address that has to be in its one canonical form.
#[must_use]
pub fn canonical_ip_faults(value: &str) -> Vec<String> {
    let faults = ip_faults(value);
    match sloppy(value).map(canonical) {
        Some(form) if faults.is_empty() && form != value => {
            vec![format!("must be in canonical form (\"{form}\")")]
        }
        _ => faults,
    }
}

/// What is wrong with a network.
#[must_use]
pub fn cidr_faults(value: &str) -> Vec<String> {
    let bad = || vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()];
    let Some((ip, length)) = value.split_once('/') else { return bad() };
    let Some(address) = sloppy(ip) else { return bad() };
    let most = if address.is_ipv4() { 32 } else { 128 };
    let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
    match length.parse::<u8>() {
        Ok(bits) if digits && bits <= most => {
            let zeros = ip.parse::<IpAddr>().is_err() || (length.len() > 1 && length.starts_with('0'));
            if zeros {
                return vec!["must not have leading 0s in IP or prefix length".to_owned()];
            }
            if is_mapped(address) {
                return vec!["must not have an IPv4-mapped IPv6 address".to_owned()];
            }
            match IpNet::new(address, bits) {
                Ok(net) if net.network() == address => Vec::new(),
                _ => vec!["must not have bits set beyond the prefix length".to_owned()],
            }
        }
        _ => bad(),
    }
}

/// What is wrong with a network that has to be in its one canonical form.
#[must_use]
pub fn canonical_cidr_faults(value: &str) -> Vec<String> {
    let faults = cidr_faults(value);
    match value.parse::<IpNet>().map(|net| net.trunc().to_string()) {
        Ok(form) if faults.is_empty() && form != value => {
            vec![format!("must be in canonical form (\"{form}\")")]
        }
        _ => faults,
    }
}

/// Why several addresses are not one of each family, if they are not.
///
/// # Errors
/// The first that is no address, as upstream tells it.
pub fn is_dual_stack(values: &[&str]) -> Result<bool, String> {
    let (mut v4, mut v6) = (false, false);
    for (i, value) in values.iter().enumerate() {
        match sloppy(value).map(|address| address.to_canonical()) {
            None => return Err(format!("invalid IP[{i}]: {value}")),
            Some(IpAddr::V4(_)) => v4 = true,
            Some(IpAddr::V6(_)) => v6 = true,
        }
    }
    Ok(v4 && v6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_strict() {
        let cases = [
            ("10.0.0.1", ""),
            ("::1", ""),
            ("x", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
            ("10.0.0", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
            ("010.0.0.1", "must not have leading 0s"),
            ("::ffff:1.2.3.4", "must not be an IPv4-mapped IPv6 address"),
        ];
        for (value, expected) in cases {
            assert_eq!(ip_faults(value).join("; "), expected, "{value}");
        }
        assert_eq!(canonical_ip_faults("2001:DB8::1"), ["must be in canonical form (\"2001:db8::1\")"]);
    }

    #[test]
    fn networks_are_strict() {
        let cases = [
            ("10.0.0.0/8", ""),
            ("x", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
            ("10.0.0.0/33", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
            ("010.0.0.0/8", "must not have leading 0s in IP or prefix length"),
            ("::ffff:1.2.3.0/120", "must not have an IPv4-mapped IPv6 address"),
            ("10.0.0.1/8", "must not have bits set beyond the prefix length"),
        ];
        for (value, expected) in cases {
            assert_eq!(cidr_faults(value).join("; "), expected, "{value}");
        }
        assert_eq!(canonical_cidr_faults("2001:DB8::/64"), ["must be in canonical form (\"2001:db8::/64\")"]);
    }

    #[test]
    fn two_families_are_dual_stack() {
        assert_eq!(is_dual_stack(&["10.0.0.1", "::1"]), Ok(true));
        assert_eq!(is_dual_stack(&["10.0.0.1", "10.0.0.2"]), Ok(false));
        assert_eq!(is_dual_stack(&["x", "::1"]), Err("invalid IP[0]: x".to_owned()));
    }
}
