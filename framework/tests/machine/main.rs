//! The framework against a scripted API server, under virtual time.

mod clusters;
mod controllers;
mod daemons;
mod dependents;
mod fake;
mod informers;
mod leases;
mod operators;
mod regressions;
mod reports;
mod shards;
mod triggers;
