//! The framework against a scripted API server, under virtual time.

mod clusters;
mod controllers;
mod daemons;
mod dependents;
mod diagnostics;
mod fake;
mod informers;
mod leases;
mod operators;
mod regressions;
mod reports;
mod shards;
mod triggers;
