//! All controllers in one process: what the `windlass-controllers` program runs, and what a whole cluster composes.

use std::net::SocketAddr;

use kube::Client;
use windlass::{BoxError, Lease, Manager, random::Source};

use crate::{Options, table};

/// The lease that only one controller manager of a cluster holds.
pub const LEASE: (&str, &str) = ("kube-system", "kube-controller-manager");

/// What a process of controllers is told at its start.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Which controllers, as in `--controllers`.
    pub controllers: Vec<String>,
    /// Hold the lease before doing anything, under this identity.
    pub leader_elect: Option<String>,
    /// Serve health and metrics here.
    pub admin: Option<SocketAddr>,
    /// The first of all random numbers; without one nobody can predict them.
    pub seed: Option<u64>,
    /// What the controllers are told.
    pub options: Options,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            controllers: vec!["*".to_owned()],
            leader_elect: None,
            admin: None,
            seed: None,
            options: Options::default(),
        }
    }
}

/// A manager with the chosen controllers.
///
/// # Errors
/// When a name is no controller's.
pub fn manager(client: Client, run: &RunOptions) -> Result<Manager, table::Unknown> {
    let entries = table::select(&run.controllers)?;
    let random = run.seed.map_or_else(Source::from_entropy, Source::seeded);
    let mut builder = Manager::seeded(client, random).field_manager("kube-controller-manager");
    for entry in entries {
        (entry.register)(&mut builder, &run.options);
    }
    if let Some(identity) = &run.leader_elect {
        builder = builder.leader_election(Lease::new(LEASE.0, LEASE.1, identity));
    }
    if let Some(address) = run.admin {
        builder = builder.admin(address);
    }
    Ok(builder.build())
}

/// Runs the chosen controllers until `shutdown` resolves.
///
/// # Errors
/// When a name is no controller's, or the admin address cannot be bound.
pub async fn run(
    client: Client,
    run: RunOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), BoxError> {
    manager(client, &run)?.run(shutdown).await
}
