//! Runs applications on the clusters of a fleet: a FleetApp in the hub becomes a Deployment in every member whose labels it
//! selects, and its status says how far each of them is.

mod api;
mod controller;

pub use api::{ClusterStatus, FleetApp, FleetAppSpec, FleetAppStatus};
pub use controller::{FleetApps, Removal, deployment, state, status};

use k8s_openapi::api::apps::v1::Deployment;
use windlass::{
    Controller, Description, Finalized, Informers, Key, Operator, Reconcile, Scope, Verbs,
    clusters::{ClusterChange, Clusters, Provider, Secrets},
};

/// Where the Secrets of the members are in the hub, and the operator's account in members.
pub const NAMESPACE: &str = "fleet-system";
/// Holds up the deletion of an application until it is gone from all members.
pub const FINALIZER: &str = "fleet.example.com/members";

/// The operator: its members are the Secrets of `fleet-system` that have the label `windlass.dev/cluster`.
pub fn operator() -> Operator {
    operator_of(|| Secrets::new(NAMESPACE), Removal)
}

/// The operator with members from elsewhere, and with another way to clean up.
pub fn operator_of<P: Provider, C: Reconcile<FleetApp>>(
    provider: impl Fn() -> P + Send + Sync + 'static,
    cleanup: impl Fn(Clusters) -> C + Send + Sync + 'static,
) -> Operator {
    Operator::new("fleet").crd::<FleetApp>().with(move |manager| {
        let members = members(provider());
        let reconcile = Finalized {
            name: FINALIZER,
            reconcile: FleetApps(members.clone()),
            cleanup: cleanup(members.clone()),
        };
        let controller = Controller::<FleetApp>::new("fleet")
            .clusters(&members, |change, hub| match change {
                // Until it is ready there is nothing to be done.
                ClusterChange::Joined(_) => Vec::new(),
                _ => all(hub),
            })
            .watches_members::<Deployment, _>(&members, Scope::all(), |_member, delta, _hub| {
                Some(delta.key())
            })
            .writes_status();
        manager.add(controller.build(reconcile));
    })
}

/// The members, and what is done in them.
fn members(provider: impl Provider) -> Clusters {
    Clusters::new(provider).may::<Deployment>(&Scope::all(), Verbs::READ | Verbs::APPLY | Verbs::DELETE)
}

/// The account that a member has to have for the operator.
pub fn member_account() -> Description {
    members(Secrets::new(NAMESPACE)).description("fleet")
}

/// Every application of the hub.
fn all(hub: &Informers) -> Vec<Key> {
    hub.get::<FleetApp>(Scope::all()).lister().all().iter().map(|app| Key::of(&**app)).collect()
}
