//! The Kubernetes API server.
//!
//! Every kind, built-in or custom, takes the same road: one table says what is served ([`registry`], [`kinds`],
//! [`crds`]), one generic handler answers all verbs ([`read`], [`watch`], [`write`], [`delete`]), and what differs from
//! kind to kind is a small [`strategy`]. [`pipeline`] shows the whole road of a request; read it first.
//!
//! Objects are bytes until a decision needs a field: stored bytes are what clients are sent.
//!
//! What it never does: run a controller, hold a client, or let anything but itself open the store.

pub mod admission;
pub mod aggregation;
pub mod api;
pub mod audit;
pub mod authn;
pub mod authz;
mod autoscaling;
pub mod body;
pub mod bootstrap;
mod cel;
pub mod context;
pub mod crds;
pub mod decode;
pub mod delete;
pub mod discovery;
pub mod encodings;
mod events;
mod expiring;
pub mod files;
pub mod flow;
pub mod health;
pub mod kinds;
pub mod metrics;
pub mod negotiate;
pub mod nodes;
pub mod object;
pub mod openapi;
mod options;
mod outbound;
mod patch;
pub mod pipeline;
pub mod pipes;
pub mod read;
pub mod registry;
pub mod represent;
pub mod request;
pub mod reviews;
mod routes;
pub mod server;
pub mod services;
pub mod serving;
pub mod status;
pub mod strategy;
pub mod subresource;
pub mod table;
pub mod token;
pub mod validate;
pub mod view;
pub mod watch;
pub mod write;
mod yaml;

pub use api::{Api, Config, SetupError};
pub use authn::Identity;
pub use pipeline::InProcess;
