//! The DNS of the mini cluster: Services and pods by name, answered from the shared informers.
//!
//! [`zone`] is pure: a name and a view of the cluster make records, as the "Kubernetes DNS-Based Service Discovery"
//! specification (v1.1.0) lays down. [`server`] is the rim: UDP and TCP sockets, and whatever is not of the cluster
//! goes, byte for byte, to the node's own resolvers. Nothing is cached: the informers are the cache.

mod server;
mod view;
mod zone;

pub use server::{Config, Dns, DnsError};
pub use view::{Endpoint, Informed, View};
pub use zone::{Answer, Zone};
