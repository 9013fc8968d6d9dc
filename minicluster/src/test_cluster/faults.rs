//! What goes wrong between programs and the API server: by chance and from one seed ([`Faults`]), or once, where a test
//! wants it ([`Fault`]).
//!
//! Only clients of [`TestCluster::component`](super::TestCluster::component) and the cluster's own parts meet faults; a
//! test's own client never does.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use http::{Method, Request};
use kube::client::Body as KubeBody;
use minicluster_apiserver::{
    Identity,
    request::{Query, RequestInfo},
    status::ApiError,
};
use parking_lot::Mutex;
use windlass::random::Source;

/// What an injected failure says.
const MESSAGE: &str = "a fault was injected";

/// How often what goes wrong. The default is never.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// Share of writes answered with 409 Conflict, from 0 to 1.
    pub conflicts: f64,
    /// Share of writes answered with 500, from 0 to 1.
    pub errors: f64,
    /// Share of writes that are done and answered with 500 all the same, from 0 to 1.
    pub lost_answers: f64,
    /// The longest that a request and its answer are under way, each; every one takes a time of its own up to this.
    pub delay: Duration,
    /// Share of watch frames after which the stream breaks off, from 0 to 1.
    pub broken_watches: f64,
}

impl Faults {
    /// A bad line of its own for every seed: some of it goes wrong often, some seldom, some not at all.
    #[must_use]
    pub fn drawn(seed: u64) -> Self {
        let source = Source::seeded(seed).fork("faults");
        // Half of the kinds stay away, so that each is also seen without the others.
        let share = |most: f64| if source.below(2) == 0 { 0.0 } else { most * source.unit() };
        Self {
            conflicts: share(0.3),
            errors: share(0.2),
            lost_answers: share(0.1),
            delay: Duration::from_millis(200).mul_f64(share(1.0)),
            broken_watches: share(0.2),
        }
    }

    /// What meets one request, drawn now.
    pub(super) fn draw(&self, random: &Source, call: &Call) -> Trouble {
        let writes = call.writes;
        let mut trouble = Trouble::default();
        if writes && random.unit() < self.conflicts {
            trouble.refusal = Some(Refusal::Conflict);
            return trouble;
        }
        if writes && random.unit() < self.errors {
            trouble.refusal = Some(Refusal::Error);
            return trouble;
        }
        trouble.loses_answer = writes && random.unit() < self.lost_answers;
        (trouble.there, trouble.back) =
            (self.delay.mul_f64(random.unit()), self.delay.mul_f64(random.unit()));
        trouble.breaks = if call.info.verb == "watch" { self.broken_watches } else { 0.0 };
        trouble
    }
}

/// What happens to one request.
#[derive(Clone, Default)]
pub(super) struct Trouble {
    pub(super) refusal: Option<Refusal>,
    pub(super) loses_answer: bool,
    pub(super) there: Duration,
    pub(super) back: Duration,
    /// Chance of a watch to end after each frame.
    pub(super) breaks: f64,
    /// Every frame of a watch comes this much later.
    pub(super) lag: Duration,
    /// Answered by what the cluster was when the fault was injected.
    pub(super) stale: Option<Arc<minicluster_apiserver::Api>>,
}

/// Why a request never gets where it wants to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Conflict,
    Expired,
    TooMany(u32),
    Error,
    Unavailable,
    /// Nothing answers; the client gives up in the end.
    Silence(Duration),
    /// The connection breaks.
    Cut,
}

impl Refusal {
    /// The answer; `None` where there is none.
    pub(super) fn answer(self, call: &Call) -> Option<ApiError> {
        let what = format!("{}.{}", call.info.resource, call.info.group);
        Some(match self {
            Self::Conflict => ApiError::conflict_of(what.trim_end_matches('.'), &call.info.name, MESSAGE),
            Self::Expired => ApiError::expired(format!("too old resource version: {MESSAGE}")),
            Self::TooMany(seconds) => ApiError::too_many_requests(MESSAGE, seconds),
            Self::Error => ApiError::internal(MESSAGE),
            Self::Unavailable => ApiError::unavailable(MESSAGE),
            Self::Silence(_) | Self::Cut => return None,
        })
    }
}

/// A request as faults look at it.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) user: String,
    pub(super) info: RequestInfo,
    pub(super) writes: bool,
}

impl Call {
    pub(super) fn of(request: &Request<KubeBody>, identity: Option<&Identity>) -> Self {
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let info = RequestInfo::new(request.method(), request.uri().path(), &query);
        let writes = matches!(*request.method(), Method::PUT | Method::PATCH | Method::POST | Method::DELETE);
        Self { user: identity.map(|i| i.name.clone()).unwrap_or_default(), info, writes }
    }
}

/// Something that goes wrong with certain requests, as often as a test wants.
///
/// ```
/// # use std::time::Duration;
/// use minicluster::test_cluster::Fault;
///
/// let twice = Fault::conflict().verb("update").resource("deployments").times(2);
/// let slow = Fault::slow_watch(Duration::from_secs(5)).resource("pods").of("system:kube-scheduler");
/// # let _ = (twice, slow);
/// ```
#[derive(Clone, Debug)]
pub struct Fault {
    effect: Effect,
    verb: Option<String>,
    resource: Option<String>,
    name: Option<String>,
    user: Option<String>,
    skip: u32,
    times: u32,
}

#[derive(Clone, Debug)]
pub(super) enum Effect {
    Refuse(Refusal),
    LoseAnswer,
    Delay(Duration),
    Lag(Duration),
    Break,
    Stale,
}

impl Fault {
    fn new(effect: Effect) -> Self {
        Self { effect, verb: None, resource: None, name: None, user: None, skip: 0, times: u32::MAX }
    }

    /// 409: somebody else was faster.
    pub fn conflict() -> Self {
        Self::new(Effect::Refuse(Refusal::Conflict))
    }

    /// 410: what is asked for is no longer kept. A watch has to begin anew with a list.
    pub fn expired() -> Self {
        Self::new(Effect::Refuse(Refusal::Expired))
    }

    /// 429, with `Retry-After` in seconds.
    pub fn too_many_requests(retry_after: u32) -> Self {
        Self::new(Effect::Refuse(Refusal::TooMany(retry_after)))
    }

    /// 500.
    pub fn error() -> Self {
        Self::new(Effect::Refuse(Refusal::Error))
    }

    /// 503.
    pub fn unavailable() -> Self {
        Self::new(Effect::Refuse(Refusal::Unavailable))
    }

    /// No answer at all; after `patience` the client's connection times out.
    pub fn silence(patience: Duration) -> Self {
        Self::new(Effect::Refuse(Refusal::Silence(patience)))
    }

    /// The connection breaks before the request arrives: a network partition. Watches that are open already go on; see
    /// [`TestCluster::drop_watches`](super::TestCluster::drop_watches).
    pub fn cut() -> Self {
        Self::new(Effect::Refuse(Refusal::Cut))
    }

    /// What was asked for is done, and the answer is a 500 all the same.
    pub fn lost_answer() -> Self {
        Self::new(Effect::LoseAnswer)
    }

    /// The request is under way this long.
    pub fn delay(time: Duration) -> Self {
        Self::new(Effect::Delay(time))
    }

    /// Every event of a watch comes this much later, in order. On one kind alone it puts kinds out of order: a Pod may be
    /// seen before the ReplicaSet that made it.
    pub fn slow_watch(time: Duration) -> Self {
        Self::new(Effect::Lag(time)).verb("watch")
    }

    /// A watch breaks off after its next event.
    pub fn broken_watch() -> Self {
        Self::new(Effect::Break).verb("watch")
    }

    /// Reads are answered by what the cluster was when the fault was injected, as by an API server that lags behind.
    /// Watches are not held back; with [`Fault::slow_watch`] they are.
    pub fn stale() -> Self {
        Self::new(Effect::Stale)
    }

    /// Only requests of this verb: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    #[must_use]
    pub fn verb(mut self, verb: &str) -> Self {
        self.verb = Some(verb.to_owned());
        self
    }

    /// Only requests about this resource: `pods`, `deployments/status`.
    #[must_use]
    pub fn resource(mut self, resource: &str) -> Self {
        self.resource = Some(resource.to_owned());
        self
    }

    /// Only requests about an object of this name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Only requests of this user.
    #[must_use]
    pub fn of(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// Not the first `count` requests that it is about.
    #[must_use]
    pub fn after(mut self, count: u32) -> Self {
        self.skip = count;
        self
    }

    /// At most this often.
    #[must_use]
    pub fn times(mut self, count: u32) -> Self {
        self.times = count;
        self
    }

    pub(super) fn is_stale(&self) -> bool {
        matches!(self.effect, Effect::Stale)
    }

    fn is_about(&self, call: &Call) -> bool {
        let info = &call.info;
        let reads = !call.writes && info.verb != "watch";
        let of = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|w| w == is);
        of(&self.verb, info.verb)
            && of(&self.resource, &info.resource_and_sub())
            && of(&self.name, &info.name)
            && of(&self.user, &call.user)
            && (reads || !self.is_stale())
    }
}

/// A fault that was injected, and how often it struck. It stays when this is dropped.
#[derive(Clone)]
pub struct Injected {
    rules: Rules,
    id: u64,
    hits: Arc<AtomicU32>,
}

impl fmt::Debug for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Injected").field("hits", &self.hits()).finish_non_exhaustive()
    }
}

impl Injected {
    /// How many requests met it.
    pub fn hits(&self) -> u32 {
        self.hits.load(Ordering::Relaxed)
    }

    /// From now on no request meets it.
    pub fn lift(&self) {
        self.rules.0.lock().1.retain(|rule| rule.id != self.id);
    }
}

/// The faults that were injected, oldest first.
#[derive(Clone, Default)]
pub(super) struct Rules(Arc<Mutex<(u64, Vec<Rule>)>>);

struct Rule {
    id: u64,
    fault: Fault,
    stale: Option<Arc<minicluster_apiserver::Api>>,
    seen: u32,
    hits: Arc<AtomicU32>,
}

impl Rules {
    pub(super) fn add(&self, fault: Fault, stale: Option<Arc<minicluster_apiserver::Api>>) -> Injected {
        let mut rules = self.0.lock();
        rules.0 += 1;
        let (id, hits) = (rules.0, Arc::<AtomicU32>::default());
        rules.1.push(Rule { id, fault, stale, seen: 0, hits: Arc::clone(&hits) });
        Injected { rules: self.clone(), id, hits }
    }

    /// Adds to a request's trouble what it meets.
    pub(super) fn meet(&self, call: &Call, trouble: &mut Trouble) {
        for rule in &mut self.0.lock().1 {
            if !rule.fault.is_about(call) {
                continue;
            }
            rule.seen += 1;
            if rule.seen <= rule.fault.skip || rule.hits.load(Ordering::Relaxed) >= rule.fault.times {
                continue;
            }
            rule.hits.fetch_add(1, Ordering::Relaxed);
            match rule.fault.effect {
                Effect::Refuse(refusal) => trouble.refusal = trouble.refusal.or(Some(refusal)),
                Effect::LoseAnswer => trouble.loses_answer = true,
                Effect::Delay(time) => trouble.there += time,
                Effect::Lag(time) => trouble.lag += time,
                Effect::Break => trouble.breaks = 1.0,
                Effect::Stale => trouble.stale.clone_from(&rule.stale),
            }
        }
    }
}
