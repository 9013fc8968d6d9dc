//! Who says which members there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use kube::Client;
use parking_lot::Mutex;

use super::Inner;
use crate::{BoxError, CancellationToken, Informers, Rules, RunCx, random::Source};

/// The wait before a provider that failed is run again; doubled each time up to [`AGAIN_MAX`].
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_mins(1);

/// Tells of members as they come and go.
pub trait Provider: Send + Sync + 'static {
    /// Shows in logs.
    fn name(&self) -> &str;

    /// What it needs from the hub.
    fn needs(&self, _rules: &mut Rules) {}

    /// Runs until it is dropped, which is when the hub's manager stops. It tells of every member that there is, then says
    /// [`ProviderCx::listed`], and then what changes. One that fails is run again after a while; members stay meanwhile.
    fn run(&self, cx: ProviderCx) -> BoxFuture<'_, Result<(), BoxError>>;
}

/// What a provider runs with.
#[derive(Clone)]
pub struct ProviderCx {
    /// The caches of the hub.
    pub informers: Informers,
    /// Randomness of its own.
    pub random: Source,
    all: Arc<Inner>,
    stop: CancellationToken,
}

impl ProviderCx {
    /// A member is there from now on, to be reached by this client. One of the same name is replaced.
    pub fn joined(&self, name: &str, client: Client, labels: BTreeMap<String, String>) {
        if !self.stop.is_cancelled() {
            self.all.join(name, client, labels);
        }
    }

    /// A member is there no longer.
    pub fn left(&self, name: &str) {
        if !self.stop.is_cancelled() {
            self.all.leave(name);
        }
    }

    /// Every member that there is has been told of: those that were not are gone, and controllers may begin.
    pub fn listed(&self, names: &BTreeSet<String>) {
        let known: Vec<Arc<str>> = self.all.members.lock().keys().cloned().collect();
        known.iter().filter(|name| !names.contains(&***name)).for_each(|name| self.left(name));
        self.all.listed.set(true);
    }
}

/// Runs the provider again and again.
pub(super) async fn supervise(all: &Arc<Inner>, cx: &RunCx) {
    let mut wait = AGAIN;
    loop {
        let provider = &all.provider;
        let random = cx.random.fork(provider.name());
        let own = ProviderCx {
            informers: cx.informers.clone(),
            random: random.clone(),
            all: all.clone(),
            stop: cx.stop.clone(),
        };
        let failure = match AssertUnwindSafe(provider.run(own)).catch_unwind().await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => crate::sentence(&*error),
            Err(_) => "it panicked".to_owned(),
        };
        tracing::warn!(provider = provider.name(), failure, ?wait, "a provider of clusters failed");
        tokio::time::sleep(random.jitter(wait, 0.1)).await;
        wait = (wait * 2).min(AGAIN_MAX);
    }
}

/// A provider that a [`ClusterSender`] feeds.
#[must_use]
pub fn channel() -> (ClusterSender, FromCode) {
    let shared: Arc<Mutex<State>> = Arc::default();
    (ClusterSender(shared.clone()), FromCode(shared))
}

/// Says which members there are. Cheap to clone.
#[derive(Clone)]
pub struct ClusterSender(Arc<Mutex<State>>);

/// Members that code tells of. Clones tell of the same.
#[derive(Clone)]
pub struct FromCode(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    members: BTreeMap<String, (Client, BTreeMap<String, String>)>,
    cx: Option<ProviderCx>,
}

impl ClusterSender {
    /// A member is there from now on.
    pub fn join(&self, name: &str, client: Client, labels: BTreeMap<String, String>) {
        let mut state = self.0.lock();
        state.members.insert(name.to_owned(), (client.clone(), labels.clone()));
        let cx = state.cx.clone();
        drop(state);
        if let Some(cx) = cx {
            cx.joined(name, client, labels);
        }
    }

    /// A member is there no longer.
    pub fn leave(&self, name: &str) {
        let mut state = self.0.lock();
        state.members.remove(name);
        let cx = state.cx.clone();
        drop(state);
        if let Some(cx) = cx {
            cx.left(name);
        }
    }
}

/// Nobody listens any more.
struct Deaf<'a>(&'a Mutex<State>);

impl Drop for Deaf<'_> {
    fn drop(&mut self) {
        let cx = self.0.lock().cx.take();
        drop(cx);
    }
}

impl Provider for FromCode {
    fn name(&self) -> &'static str {
        "clusters"
    }

    fn run(&self, cx: ProviderCx) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(async move {
            let _deaf = Deaf(&self.0);
            let members = {
                let mut state = self.0.lock();
                state.cx = Some(cx.clone());
                state.members.clone()
            };
            let names = members.keys().cloned().collect();
            for (name, (client, labels)) in members {
                cx.joined(&name, client, labels);
            }
            cx.listed(&names);
            std::future::pending().await
        })
    }
}
