//! All controllers in one process: what the `windlass-controllers` program runs, and what a whole cluster composes.

use std::net::SocketAddr;

use kube::Client;
use windlass::{BoxError, CancellationToken, Lease, Manager, random::Source};
use windlass_scheduler::Scheduler;

use crate::{Options, table};

/// The lease that only one controller manager of a cluster holds.
pub const LEASE: (&str, &str) = ("kube-system", "kube-controller-manager");

/// What a process of controllers is told at its start.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Which controllers, as in `--controllers`.
    pub controllers: Vec<String>,
    /// Run the scheduler beside them.
    pub scheduler: bool,
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
            scheduler: false,
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

/// A manager with the scheduler, under a lease of its own: it is another component, and may move elsewhere alone.
fn scheduler(client: Client, run: &RunOptions) -> Manager {
    let random = run.seed.map_or_else(Source::from_entropy, Source::seeded).fork("scheduler");
    let mut builder = Manager::seeded(client, random).field_manager("kube-scheduler");
    builder.add(Scheduler::default());
    if let Some(identity) = &run.leader_elect {
        let (namespace, name) = windlass_scheduler::LEASE;
        builder = builder.leader_election(Lease::new(namespace, name, identity));
    }
    builder.build()
}

/// Runs the chosen controllers, and the scheduler if asked for, until `shutdown` resolves.
///
/// # Errors
/// When a name is no controller's, or the admin address cannot be bound.
pub async fn run(
    client: Client,
    run: RunOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), BoxError> {
    let controllers = manager(client.clone(), &run)?;
    if !run.scheduler {
        return controllers.run(shutdown).await;
    }
    let stop = CancellationToken::new();
    let scheduler = scheduler(client, &run).run(stop.clone().cancelled_owned());
    let controllers = async {
        let ended = controllers.run(shutdown).await;
        stop.cancel();
        ended
    };
    let (controllers, scheduler) = tokio::join!(controllers, scheduler);
    controllers.and(scheduler)
}
