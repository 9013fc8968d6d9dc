//! The service proxy of the mini cluster: Services and EndpointSlices become one nftables table.
//!
//! [`render`] is pure: it makes a [`Ruleset`] from objects. [`Proxy`] is the rim: it listens to the informers and hands
//! the difference between two rulesets to the kernel as one transaction of `nft`. Looking a packet up costs the same
//! with ten services as with ten thousand, because services are elements of verdict maps and not rules in a row.
//!
//! Follows kube-proxy's nftables mode (KEP-3866), with its table name, so that neither leaves rules behind for the other.

mod apply;
mod proxy;
mod render;
mod ruleset;
mod service;

pub use apply::ApplyError;
pub use proxy::{Config, Proxy};
pub use render::render;
pub use ruleset::{Ruleset, TABLE};
pub use service::{Endpoint, ServicePort, service_ports};
