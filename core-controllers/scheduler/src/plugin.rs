//! What a plugin of one's own implements: upstream's extension points as methods that do nothing unless they are written.
//!
//! A plugin sees a pod and the nodes, and says what it thinks; only [`Plugin::pre_bind`], [`Plugin::bind`] and
//! [`Plugin::post_bind`] talk to anybody. The built-in plugins are no implementations of this trait but plain functions in
//! one table ([`crate::plugins`]). Upstream: `pkg/scheduler/framework`, v1.36; there a plugin is one interface a point.

use std::{
    any::{Any, TypeId},
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Node;
use windlass::{BoxError, Rules};

use crate::{
    cycle::{Cycle, Refusals},
    plugins::{Change, Normalize},
    pod::PodInfo,
    snapshot::Index,
    waiting::Waiting,
};

/// A plugin. It is asked at every point unless its profile says otherwise.
///
/// ```
/// use windlass_scheduler::{Cycle, Index, Plugin, Reject, Scheduler};
///
/// /// Keeps pods off nodes that wait to be drained.
/// struct NoDraining;
///
/// impl Plugin for NoDraining {
///     fn name(&self) -> &'static str {
///         "NoDraining"
///     }
///
///     fn filter(&self, cycle: &Cycle<'_>, at: Index) -> Result<(), Reject> {
///         match cycle.snapshot.label(at, "example.com/draining") {
///             Some("true") => Err(Reject::because("node(s) wait to be drained").unresolvable()),
///             _ => Ok(()),
///         }
///     }
/// }
///
/// let scheduler = Scheduler::builder().profile("careful").plugin(NoDraining).without("ImageLocality").build().unwrap();
/// assert_eq!(scheduler.profile("careful").unwrap().name(), "careful");
/// ```
pub trait Plugin: Send + Sync + 'static {
    /// Its name, as configurations and metrics have it; no other plugin's.
    fn name(&self) -> &'static str;

    /// What it needs from the API beyond what every scheduler does.
    fn needs(&self, _rules: &mut Rules) {}

    /// Which changes in the cluster may make a pod fit that it refused.
    fn woken_by(&self) -> &'static [Change] {
        Change::ALL
    }

    /// Whether this very change may help this pod (`QueueingHint`); asked about what [`Plugin::woken_by`] names.
    fn hint(&self, _pod: &PodInfo, _event: &Event<'_>) -> bool {
        true
    }

    /// `QueueSort`: what the queue is sorted by, the lowest first; by priority where it is `None`. All profiles share one
    /// queue, so that they should agree about it.
    fn rank(&self, _pod: &PodInfo) -> Option<i64> {
        None
    }

    /// `PreEnqueue`: whether the pod is to be scheduled at all yet. Asked again when the pod changes, and after the changes
    /// of [`Plugin::woken_by`]. As with upstream nothing is told to the pod.
    ///
    /// # Errors
    /// When it is held.
    fn pre_enqueue(&self, _pod: &PodInfo) -> Result<(), Reject> {
        Ok(())
    }

    /// `PreFilter`: looks at all nodes once, and keeps in `state` what [`Plugin::filter`] and [`Plugin::score`] will ask.
    ///
    /// # Errors
    /// When no node takes the pod.
    fn pre_filter(&self, _cycle: &Cycle<'_>, _state: &mut State) -> Result<PreFilter, Reject> {
        Ok(PreFilter::All)
    }

    /// `Filter`: whether a node can take the pod.
    ///
    /// # Errors
    /// When it cannot.
    fn filter(&self, _cycle: &Cycle<'_>, _at: Index) -> Result<(), Reject> {
        Ok(())
    }

    /// `PostFilter`: how to make room for a pod that no node takes. The first plan is taken.
    fn post_filter(&self, _cycle: &Cycle<'_>, _refusals: &Refusals) -> Option<Preemption> {
        None
    }

    /// `PreScore`: looks at all nodes that can take the pod.
    fn pre_score(&self, _cycle: &Cycle<'_>, _feasible: &[Index], _state: &mut State) {}

    /// `Score`: how well a node suits the pod; any range when [`Plugin::normalize`] says how it becomes 0 to
    /// [`SCORE_MAX`](crate::plugins::SCORE_MAX), into which it is cut anyway.
    fn score(&self, _cycle: &Cycle<'_>, _at: Index) -> i64 {
        0
    }

    /// `NormalizeScore`.
    fn normalize(&self) -> Normalize {
        Normalize::None
    }

    /// `Reserve`: told that the pod will go to this node, before anybody else is decided about.
    ///
    /// # Errors
    /// When it may not, after all.
    fn reserve(&self, _pod: &PodInfo, _node: &str) -> Result<(), Reject> {
        Ok(())
    }

    /// Told that it will not, whoever was against it; also where [`Plugin::reserve`] itself was, or was never asked.
    fn unreserve(&self, _pod: &PodInfo, _node: &str) {}

    /// `Permit`: lets the pod go, or holds it until [`Waiting::allow`] is called or its time has run out. Nothing else
    /// waits for it.
    fn permit(&self, _pod: &PodInfo, _node: &str, _waiting: &Waiting) -> Permit {
        Permit::Allow
    }

    /// `PreBind`: what has to be done before the pod is bound.
    fn pre_bind<'a>(&'a self, _binding: &'a Binding) -> BoxFuture<'a, Result<(), BindError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// `Bind`: binds the pod; `None` leaves it to the next, and in the end to `DefaultBinder`.
    fn bind<'a>(&'a self, _binding: &'a Binding) -> Option<BoxFuture<'a, Result<(), BindError>>> {
        None
    }

    /// `PostBind`: told that the pod was bound.
    fn post_bind<'a>(&'a self, _binding: &'a Binding) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Extension points, in the order in which they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Point {
    /// Before a pod is queued.
    PreEnqueue,
    /// What is first in the queue.
    QueueSort,
    /// Once before all filters.
    PreFilter,
    /// Each node.
    Filter,
    /// When no node takes the pod.
    PostFilter,
    /// Once before all scores.
    PreScore,
    /// Each node that takes the pod.
    Score,
    /// When a node is chosen.
    Reserve,
    /// Whether it may go now.
    Permit,
    /// Before it is bound.
    PreBind,
    /// Binding it.
    Bind,
    /// When it is bound.
    PostBind,
}

impl Point {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::PreEnqueue,
        Self::QueueSort,
        Self::PreFilter,
        Self::Filter,
        Self::PostFilter,
        Self::PreScore,
        Self::Score,
        Self::Reserve,
        Self::Permit,
        Self::PreBind,
        Self::Bind,
        Self::PostBind,
    ];
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// No, and why. Whose no it is need not be said: the plugin's name is put to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    pub(crate) reasons: Vec<Cow<'static, str>>,
    pub(crate) unresolvable: bool,
}

impl Reject {
    /// In words that are the same for many nodes, since they are counted: `node(s) were unschedulable`.
    pub fn because(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { reasons: vec![reason.into()], unresolvable: false }
    }

    /// Another reason.
    #[must_use]
    pub fn and(mut self, reason: impl Into<Cow<'static, str>>) -> Self {
        self.reasons.push(reason.into());
        self
    }

    /// Removing other pods would not help (`UnschedulableAndUnresolvable`).
    #[must_use]
    pub fn unresolvable(mut self) -> Self {
        self.unresolvable = true;
        self
    }
}

/// What a `PreFilter` has found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PreFilter {
    /// Each node has to be looked at.
    All,
    /// This pod is no concern of the plugin's: its filter is not asked (`Skip`).
    Skip,
    /// Only these nodes come into question.
    Only(Vec<Index>),
}

/// What a `Permit` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permit {
    /// Go.
    Allow,
    /// Wait, so long at most, and no longer than [`PERMIT_MAX`](crate::waiting::PERMIT_MAX).
    Wait(Duration),
    /// Do not.
    Reject(Reject),
}

/// How to make room on a node.
#[derive(Clone, Debug)]
pub struct Preemption {
    /// The node.
    pub node: Index,
    /// The pods that have to go, the most important first; none when the node will be free without that.
    pub victims: Vec<Arc<PodInfo>>,
}

/// A pod on its way to its node.
#[derive(Clone)]
pub struct Binding {
    /// The pod.
    pub pod: Arc<PodInfo>,
    /// The node.
    pub node: Arc<str>,
    /// The scheduler's own client, which may do what [`Plugin::needs`] named.
    pub client: kube::Client,
}

/// Why a pod was not bound.
#[derive(Debug)]
pub enum BindError {
    /// The node is not the right one: the pod waits for a change in the cluster.
    Rejected(Reject),
    /// Something failed: it is tried again after a while.
    Failed(BoxError),
}

impl From<Reject> for BindError {
    fn from(reject: Reject) -> Self {
        Self::Rejected(reject)
    }
}

impl From<kube::Error> for BindError {
    fn from(error: kube::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// A change in the cluster, with what changed.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// What sort of change.
    pub change: Change,
    /// The node that came or changed.
    pub node: Option<&'a Node>,
    /// The pod that was bound or has gone.
    pub pod: Option<&'a PodInfo>,
}

impl Event<'_> {
    /// A change of which no more is known.
    pub fn of(change: Change) -> Self {
        Self { change, node: None, pod: None }
    }
}

/// What plugins keep during one decision, by its type (`CycleState`).
#[derive(Default)]
pub struct State(BTreeMap<TypeId, Box<dyn Any + Send + Sync>>);

impl State {
    /// Keeps a value in place of the one of its type.
    pub fn put<T: Send + Sync + 'static>(&mut self, value: T) {
        self.0.insert(TypeId::of::<T>(), Box::new(value));
    }

    /// The value of a type.
    pub fn get<T: 'static>(&self) -> Option<&T> {
        self.0.get(&TypeId::of::<T>())?.downcast_ref()
    }
}
