//! A whole Kubernetes cluster in one process: for a machine, for a product, or for one test.
//!
//! [`cluster`] brings up the real thing and is the file to read first.

pub mod cluster;
mod host;
mod kubeconfig;
#[cfg(feature = "node")]
pub mod node;
pub mod options;
mod parts;
pub mod pki;
#[cfg(feature = "node")]
pub mod status;
mod storage;
pub mod test_cluster;
pub mod verbosity;

pub use test_cluster::TestCluster;
