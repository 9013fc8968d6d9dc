//! The host as its node sees it: name and address.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, UdpSocket},
};

/// The host's name, as upstream uses it for the node: lower case.
pub(crate) fn name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "node".to_owned(), |n| n.trim().to_lowercase())
}

/// The address from which this host would reach others; nothing is sent to find out.
pub(crate) fn ip() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // A documentation address (RFC 5737): connecting a UDP socket only asks the routing table.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    socket.local_addr().ok().map(|a| a.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
}
