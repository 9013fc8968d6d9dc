//! The node agent of the mini cluster: it takes the pods bound to its node and makes a container runtime run them.
//!
//! Three layers, from pure to rim:
//!
//! - [`pod`]: what to do next and what to tell, as pure functions of a pod, the runtime's view and a memory.
//! - [`runtime`]: what is asked of a container runtime; [`runtime::hollow`] in memory, `cri` over the real protocol.
//! - the rest: one worker per pod that carries decisions out, probes, volumes, images, the node's own objects and the
//!   node server.
//!
//! The API is reached through a `kube::Client` and the shared informers only. Nothing here polls: a pod is looked at
//! again when its API object, its containers or something it refers to changed, or when a moment it waits for has
//! come.

#![cfg_attr(not(feature = "cri"), allow(dead_code, unused_imports, reason = "hollow nodes need less of it"))]

pub mod config;
#[cfg(feature = "cri")]
pub mod cri;
pub mod images;
pub mod logs;
pub mod pod;
pub mod probe;
pub mod runtime;
#[cfg(feature = "cri")]
pub mod server;
pub mod volumes;

mod events;
#[cfg(feature = "cri")]
mod files;
mod kubelet;
mod lies;
#[cfg(feature = "cri")]
mod manifests;
mod mirror;
mod node;
mod objects;
#[cfg(feature = "cri")]
mod rotate;
mod source;
mod worker;

pub use config::{Config, Machine};
pub use kubelet::{Handle, Kubelet};
pub use lies::Lies;
pub use source::Pods;
