//! Sharding: every replica works, and each key belongs to one of them.
//!
//! Replicas find each other by Leases that carry a label, one each. A Lease of the group's own name holds the roster: a
//! numbered list of members from which everybody computes the same owner for each key. Whoever sees first that it should
//! be another writes the next; the server's conflict check makes that one register for all.
//!
//! A member that sees a new roster stops taking keys that it lost, waits for their reconciles that are under way, and
//! then says so in its Lease. Keys that it gained it begins with when every member of the roster has said so. A member
//! that cannot renew its Lease stops working before anybody may count it out: as in leader election nobody compares
//! clocks, and a Lease is asked for once more before its member is counted out, so that a watch that stands still does
//! no harm. So a key is never reconciled by two at a time, and is never without an owner for long.
//!
//! It is the fencing of multicluster-runtime's shards, by one register instead of a Lease for each key or shard. What a
//! reconcile left in memory stays behind when its key moves, and a [`crate::Daemon`] is not shared: it runs on the leader.
//! As with every change of leader, the caches of who begins may be behind what the last owner wrote.

mod gate;
mod member;
mod roster;
mod selection;

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::sync::Notify;

use crate::{
    BoxError, CancellationToken, Lease, ManagerBuilder, Place, Rules, RunCx, Runnable, Verbs,
    diagnostics::ShardState,
};

pub(crate) use gate::{Gate, Pass};
use roster::{Roster, SLOTS, Seat, Slots};
pub(crate) use selection::Selection;

/// The label by which members of a group find each other.
const LABEL: &str = "windlass.dev/shards";
/// Where a member says which roster it has seen.
const SEEN: &str = "windlass.dev/shards-seen";
/// Where the roster is.
const ROSTER: &str = "windlass.dev/shards-roster";

/// What decides to whom an object belongs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShardBy {
    /// Its namespace and name.
    #[default]
    Key,
    /// Its namespace, so that the objects of one namespace stay together; what has none goes by its name.
    Namespace,
    /// Its uid. An object that follows another of the same name may belong to another replica. A server that can is asked
    /// for this replica's objects alone (KEP-5866, `ShardedListAndWatch`), so that memory and watches are divided, too.
    Uid,
}

/// Replicas that share the keys of their controllers. Cheap to clone; clones are one member.
///
/// ```
/// # use std::convert::Infallible;
/// use k8s_openapi::api::core::v1::ConfigMap;
/// # use kube::{Client, client::Body};
/// use windlass::{Action, Controller, Error, Manager, Reconcile, Request, Shards};
///
/// struct Greeter;
///
/// impl Reconcile<ConfigMap> for Greeter {
///     async fn reconcile(&self, _request: Request<ConfigMap>) -> Result<Action, Error> {
///         Ok(Action::Done)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # let nobody = tower::service_fn(|_: http::Request<Body>| std::future::pending::<Result<http::Response<Body>, Infallible>>());
/// # let client = Client::new(nobody, "default");
/// let mut manager = Manager::builder(client);
/// let shards = Shards::of(&manager, "greeters");
/// manager.add(Controller::<ConfigMap>::new("greeter").sharded(&shards).build(Greeter));
/// # }
/// ```
#[derive(Clone)]
pub struct Shards {
    inner: Arc<Inner>,
}

struct Inner {
    me: Weak<Self>,
    lease: Lease,
    core: Mutex<Core>,
    /// What was seen of the group may have changed.
    changed: Arc<Notify>,
    /// There is something to say in the Lease.
    asked: Notify,
    /// A reconcile has ended.
    drained: Notify,
}

/// Where this member stands.
struct Core {
    /// Set while the Lease is held.
    seat: Option<Seat>,
    roster: Roster,
    /// What the roster gives.
    owned: Slots,
    /// What may be worked on: given by the last roster that was settled, and by all that were seen since.
    held: Slots,
    /// Reconciles that are under way, by slot.
    busy: Box<[u32; SLOTS]>,
    /// The roster for which everything that it does not give was let go.
    seen: u64,
    settled: u64,
    /// Cuts off what is under way.
    cut: CancellationToken,
    gates: Vec<Weak<Gate>>,
    metrics: Option<ShardMetrics>,
}

/// The metrics of one group.
#[derive(Clone)]
pub(crate) struct ShardMetrics {
    pub(crate) members: Gauge,
    pub(crate) handovers: Counter,
}

impl Shards {
    /// Replicas that share a Lease's namespace, name and times. The name is that of the group; the identity has to be
    /// unlike that of every other replica, those of the past included.
    #[must_use]
    pub fn new(lease: Lease) -> Self {
        let core = Core {
            seat: None,
            roster: Roster::default(),
            owned: Slots::default(),
            held: Slots::default(),
            busy: Box::new([0; SLOTS]),
            seen: 0,
            settled: 0,
            cut: CancellationToken::new(),
            gates: Vec::new(),
            metrics: None,
        };
        let inner = Arc::new_cyclic(|me| Inner {
            me: me.clone(),
            lease,
            core: Mutex::new(core),
            changed: Arc::default(),
            asked: Notify::new(),
            drained: Notify::new(),
        });
        Self { inner }
    }

    /// The group of this name, in the namespace and under the identity of a manager's process.
    #[must_use]
    pub fn of(manager: &ManagerBuilder, group: &str) -> Self {
        Self::new(Lease::new(manager.namespace(), group, manager.identity()))
    }

    /// How long a member is trusted after its last sign of life, how long before that it stops working by itself, and how
    /// often it gives one. By default as for a [`Lease`]: 15 s, 10 s and 2 s.
    #[must_use]
    pub fn times(self, duration: Duration, renew_deadline: Duration, retry: Duration) -> Self {
        Self::new(Lease { duration, renew_deadline, retry, ..self.inner.lease.clone() })
    }

    /// Whether this replica may work on its share of the newest roster.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.inner.core.lock().is_settled()
    }

    /// What a controller's own watches ask for, if that can be said to a server.
    pub(crate) fn selection(&self, by: ShardBy) -> Option<Selection> {
        let changed = self.inner.changed.clone();
        (by == ShardBy::Uid).then(|| Selection::new(move || changed.notify_one()))
    }

    pub(crate) fn part(&self) -> Arc<dyn Runnable> {
        self.inner.clone()
    }
}

impl Runnable for Inner {
    fn name(&self) -> &str {
        &self.lease.name
    }

    fn needs_leader(&self) -> bool {
        false
    }

    fn needs(&self, rules: &mut Rules) {
        let verbs = Verbs::READ | Verbs::CREATE | Verbs::UPDATE | Verbs::DELETE;
        rules.allow_resource(Place::Own, "coordination.k8s.io", "leases", verbs);
    }

    fn run(&self, cx: RunCx) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(self.serve(cx))
    }
}

impl Inner {
    /// Where this member stands, for people.
    fn state(&self) -> ShardState {
        let core = self.core.lock();
        let slots = |of: &dyn Fn(u8) -> bool| (0..=u8::MAX).filter(|slot| of(*slot)).count();
        ShardState {
            group: self.lease.name.clone(),
            identity: self.lease.identity.clone(),
            roster: core.roster.generation,
            members: core.roster.seats.iter().map(|seat| seat.name.clone()).collect(),
            settled: core.is_settled(),
            owned: slots(&|slot| core.owned.contains(slot)),
            held: slots(&|slot| core.held.contains(slot)),
            busy: slots(&|slot| core.busy[usize::from(slot)] > 0),
        }
    }
}

impl Core {
    fn is_settled(&self) -> bool {
        self.seat.is_some() && self.settled > 0 && self.settled == self.roster.generation
    }

    /// Takes in a roster and what was seen of its members. Returns the slots that may be worked on from now on, if there
    /// are more, and whether there is something to say.
    fn look(&mut self, roster: &Roster, settled: bool) -> (Option<Slots>, bool) {
        let Some(seat) = &self.seat else { return (None, false) };
        if *roster != self.roster {
            self.owned = roster.slots(seat);
            self.held = self.held.and(self.owned);
            self.roster = roster.clone();
            self.gates().iter().for_each(|gate| gate.select(self.owned));
        }
        let may_say = self.roster.has(seat) && !self.is_busy_outside();
        let says = may_say && self.seen != self.roster.generation;
        if may_say {
            self.seen = self.roster.generation;
        }
        let fresh = settled
            && may_say
            && self.settled != self.roster.generation
            && self.gates().iter().all(|gate| gate.is_listed());
        if !fresh {
            return (None, says);
        }
        self.settled = self.roster.generation;
        let gained = self.owned.without(self.held);
        self.held = self.owned;
        if let Some(metrics) = &self.metrics {
            metrics.handovers.inc();
        }
        (Some(gained), says)
    }

    fn gates(&self) -> Vec<Arc<Gate>> {
        self.gates.iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether something is under way that may not be begun any more.
    fn is_busy_outside(&self) -> bool {
        (0..=u8::MAX).any(|slot| self.busy[usize::from(slot)] > 0 && !self.held.contains(slot))
    }

    /// Nothing may be begun from now on.
    fn shut(&mut self) {
        self.seat = None;
        (self.owned, self.held) = (Slots::default(), Slots::default());
        (self.seen, self.settled, self.roster) = (0, 0, Roster::default());
        if let Some(metrics) = &self.metrics {
            metrics.members.set(0);
        }
    }
}
