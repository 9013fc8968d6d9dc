//! The children of an object that have an order: what is made when what it needs is ready, and taken away the other way
//! round.
//!
//! A [`Dependent`] says what a child should look like, when it is ready, and which others have to be ready before it is
//! made. What to do is decided by `plan`, which is pure; [`Dependents`] does it: children are made by server-side apply
//! under the owner's control, in the same reconcile as far as readiness allows, and whatever has to be waited for triggers
//! the owner by its own change. A child that is not wanted takes those along that need it, as the workflows of the Java
//! operator SDK do. Objects that somebody else controls are never touched.

mod child;
mod plan;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::{Action, CachedClient, Controller, Error, Object, Reconcile, Request, condition, sentence};

pub use child::Dependent;
use child::{Child, Look};
use plan::{Links, Seen, Step};

/// How long a cleanup waits for what should have told it that it is gone.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// The children of objects of kind `K`, in their order. Cheap to clone.
///
/// ```
/// use std::collections::BTreeMap;
///
/// use k8s_openapi::api::{
///     apps::v1::Deployment,
///     core::v1::{ConfigMap, Service},
/// };
/// use windlass::{Action, Controller, Dependent, Dependents, Error, Finalized, Reconcile, Request};
///
/// /// Stands for a custom kind.
/// type Site = ConfigMap;
///
/// fn children() -> Dependents<Site> {
///     Dependents::builder()
///         .with(Dependent::new("web", |site: &Site| {
///             Some(Deployment { metadata: named(site), ..Deployment::default() })
///         })
///         .ready(|web: &Deployment| web.status.as_ref().is_some_and(|s| s.ready_replicas > Some(0))))
///         .with(Dependent::new("door", |site: &Site| {
///             let open = site.data.as_ref().is_some_and(|data| data.contains_key("open"));
///             open.then(|| Service { metadata: named(site), ..Service::default() })
///         })
///         .after("web"))
///         .build()
///         .expect("an order")
/// }
///
/// fn named(site: &Site) -> kube::core::ObjectMeta {
///     kube::core::ObjectMeta { name: site.metadata.name.clone(), ..Default::default() }
/// }
///
/// struct Sites(Dependents<Site>);
///
/// impl Reconcile<Site> for Sites {
///     async fn reconcile(&self, request: Request<Site>) -> Result<Action, Error> {
///         let Some(site) = request.object else { return Ok(Action::Done) };
///         let progress = self.0.reconcile(&*site, &request.client).await;
///         let _for_the_status = progress.condition("Ready");
///         progress.result()
///     }
/// }
///
/// let children = children();
/// let cleanup = children.cleanup();
/// let reconcile = Finalized { name: "harbour.dev/site", reconcile: Sites(children.clone()), cleanup };
/// let controller = Controller::<Site>::new("sites").dependents(&children).build(reconcile);
/// ```
pub struct Dependents<K: Object> {
    inner: Arc<Inner<K>>,
}

struct Inner<K: Object> {
    /// Every child after those that it needs.
    children: Vec<Box<dyn Child<K>>>,
    links: Vec<Links>,
}

impl<K: Object> Clone for Dependents<K> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

/// Gathers dependents.
pub struct DependentsBuilder<K: Object> {
    children: Vec<Box<dyn Child<K>>>,
}

/// Why dependents have no order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DependentsError {
    /// Two have one name.
    #[error("two dependents are called {0:?}")]
    Twice(&'static str),
    /// One comes after something that is not there.
    #[error("dependent {name:?} comes after {after:?}, which is none")]
    Unknown {
        /// The one.
        name: &'static str,
        /// What is not there.
        after: &'static str,
    },
    /// They wait for each other.
    #[error("dependents wait for each other: {}", .0.join(", "))]
    Circle(Vec<&'static str>),
}

/// What became of a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is as it should be, and ready.
    Ready,
    /// It is as it should be, and not ready yet.
    NotReady,
    /// It is not made before these are ready.
    Waits(Vec<&'static str>),
    /// It is not wanted, and stays until these are gone.
    Stays(Vec<&'static str>),
    /// It is being deleted.
    Going,
    /// It is not wanted, and not there.
    Absent,
    /// What should have been done failed.
    Failed(String),
}

/// How far the children of an object are.
#[derive(Debug)]
#[must_use = "a failure is only in here"]
pub struct Progress {
    states: Vec<(&'static str, State)>,
    error: Option<Error>,
}

impl<K: Object> Dependents<K>
where
    K::DynamicType: Default,
{
    /// No dependents yet.
    #[must_use]
    pub fn builder() -> DependentsBuilder<K> {
        DependentsBuilder { children: Vec::new() }
    }

    /// Makes what is wanted and possible, and takes away what is not wanted: everything, if the owner is being deleted. One
    /// that fails does not hold up the others.
    pub async fn reconcile(&self, owner: &K, client: &CachedClient) -> Progress {
        self.walk(owner, client, owner.meta().deletion_timestamp.is_none()).await
    }

    /// Takes all away, those that need others first.
    pub async fn take_away(&self, owner: &K, client: &CachedClient) -> Progress {
        self.walk(owner, client, false).await
    }

    /// A reconciler that takes all away, as the cleanup of [`crate::Finalized`].
    #[must_use]
    pub fn cleanup(&self) -> Cleanup<K> {
        Cleanup(self.clone())
    }

    async fn walk(&self, owner: &K, client: &CachedClient, wanted: bool) -> Progress {
        let Inner { children, links } = &*self.inner;
        let (mut looks, mut seen): (Vec<Look<'_>>, Vec<Seen>) = (Vec::new(), Vec::new());
        let (mut failed, mut error) = (BTreeMap::new(), None);
        for (at, child) in children.iter().enumerate() {
            let look = child.look(owner, client, wanted).await.unwrap_or_else(|failure| {
                failed.insert(at, sentence(&failure));
                error.get_or_insert(failure);
                Look::failed()
            });
            seen.push(look.seen);
            looks.push(look);
        }
        loop {
            let steps = plan::plan(links, &seen);
            let mut moved = false;
            for (at, step) in steps.iter().enumerate() {
                let done = match step {
                    Step::Apply => looks[at].apply.take(),
                    Step::Delete => looks[at].delete.take(),
                    _ => continue,
                };
                let Some(done) = done else { continue };
                moved = true;
                seen[at] = match done.await {
                    Ok(now) => now,
                    Err(failure) => {
                        failed.insert(at, sentence(&failure));
                        error.get_or_insert(failure);
                        Seen { failed: true, ..seen[at] }
                    }
                };
            }
            if !moved {
                let state = |(at, step): (usize, Step)| {
                    let failure = failed.get(&at).cloned().map(State::Failed);
                    (children[at].name(), failure.unwrap_or_else(|| self.state(step, seen[at])))
                };
                return Progress { states: steps.into_iter().enumerate().map(state).collect(), error };
            }
        }
    }

    fn state(&self, step: Step, seen: Seen) -> State {
        let names = |all: Vec<usize>| all.into_iter().map(|at| self.inner.children[at].name()).collect();
        match step {
            Step::Keep if seen.ready => State::Ready,
            Step::Keep | Step::Apply => State::NotReady,
            Step::Wait(all) => State::Waits(names(all)),
            Step::Stay(all) => State::Stays(names(all)),
            Step::Going | Step::Delete => State::Going,
            Step::Absent => State::Absent,
        }
    }
}

impl<K: Object> DependentsBuilder<K>
where
    K::DynamicType: Default,
{
    /// Adds a child.
    #[must_use]
    pub fn with<C: child::Writable>(mut self, dependent: Dependent<K, C>) -> Self
    where
        C::DynamicType: Default,
    {
        self.children.push(Box::new(dependent));
        self
    }

    /// The dependents, if they have an order.
    pub fn build(mut self) -> Result<Dependents<K>, DependentsError> {
        let links: Vec<(&'static str, Vec<&'static str>)> =
            self.children.iter().map(|child| (child.name(), child.after().to_vec())).collect();
        let order = plan::order(&links)?;
        let mut children: Vec<Option<Box<dyn Child<K>>>> = self.children.drain(..).map(Some).collect();
        let children: Vec<_> = order.iter().filter_map(|at| children[*at].take()).collect();
        let at = |name: &str| children.iter().position(|child| child.name() == name);
        let links = children
            .iter()
            .map(|child| Links { after: child.after().iter().filter_map(|name| at(name)).collect() })
            .collect();
        Ok(Dependents { inner: Arc::new(Inner { children, links }) })
    }
}

impl Progress {
    /// Every child and what became of it, each after those that it needs.
    #[must_use]
    pub fn states(&self) -> &[(&'static str, State)] {
        &self.states
    }

    /// Whether all that is wanted is ready, and all else gone.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.states.iter().all(|(_, state)| matches!(state, State::Ready | State::Absent))
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.states.iter().all(|(_, state)| *state == State::Absent)
    }

    /// What is waited for, as a condition of the owner: true when all is ready, and otherwise a line that says what is
    /// not and why.
    #[must_use]
    pub fn condition(&self, type_: &str) -> Condition {
        if self.is_ready() {
            return condition(type_, true, "Ready", "");
        }
        let lines: Vec<String> = self.states.iter().filter_map(|(name, state)| line(name, state)).collect();
        let reason = if self.error.is_some() {
            "Failed"
        } else if self.states.iter().any(|(_, state)| matches!(state, State::Going | State::Stays(_))) {
            "Deleting"
        } else {
            "Waiting"
        };
        condition(type_, false, reason, lines.join("; "))
    }

    /// The end of the reconcile: whatever is not ready triggers it again by its own change.
    pub fn result(self) -> Result<Action, Error> {
        self.error.map_or(Ok(Action::Done), Err)
    }
}

fn line(name: &str, state: &State) -> Option<String> {
    match state {
        State::Ready | State::Absent => None,
        State::NotReady => Some(format!("{name} is not ready")),
        State::Waits(all) => Some(format!("{name} waits for {}", all.join(", "))),
        State::Stays(all) => Some(format!("{name} stays until {} is gone", all.join(", "))),
        State::Going => Some(format!("{name} is being deleted")),
        State::Failed(why) => Some(format!("{name} failed: {why}")),
    }
}

/// Takes the dependents of an object away; see [`Dependents::cleanup`].
pub struct Cleanup<K: Object>(Dependents<K>);

impl<K: Object> Reconcile<K> for Cleanup<K>
where
    K::DynamicType: Default,
{
    async fn reconcile(&self, request: Request<K>) -> Result<Action, Error> {
        let Some(owner) = request.object else { return Ok(Action::Done) };
        let progress = self.0.take_away(&owner, &request.client).await;
        if progress.is_gone() {
            return Ok(Action::Done);
        }
        progress.result().map(|_| Action::RequeueAfter(LOOK_AGAIN))
    }
}

impl<K: Object> Controller<K>
where
    K::DynamicType: Default,
{
    /// Owns the kinds of these dependents: their changes trigger their owner, and they may be written.
    #[must_use]
    pub fn dependents(self, dependents: &Dependents<K>) -> Self {
        dependents.inner.children.iter().fold(self, |controller, child| child.register(controller))
    }
}
