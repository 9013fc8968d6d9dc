//! A member: what the hub may do with it, and how it is known whether it can be reached.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::{Request, Response};
use kube::{Client, client::Body};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::Inner;
use crate::{
    BoxError, CachedClient, CancellationToken, Informer, Informers, Manager, Object, Scope, random::Source,
};

/// The longest wait for the head of an answer of a member.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a member is asked whether it is there, once it was.
const LOOK: Duration = Duration::from_secs(30);
/// How often while it was not, at first; doubled up to [`LOOK`].
const LOOK_FIRST: Duration = Duration::from_millis(500);
/// The longest wait for its answer.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
const JITTER: f64 = 0.2;

/// A cluster that is looked after. Cheap to clone.
#[derive(Clone)]
pub struct Member {
    /// Its name among the members.
    pub name: Arc<str>,
    /// What its provider says of it, such as region and tier.
    pub labels: BTreeMap<String, String>,
    /// Reads its caches and writes to it. Requests that nothing registered are refused.
    pub client: CachedClient,
    /// Its caches.
    pub informers: Informers,
    health: Arc<Mutex<Result<(), String>>>,
}

/// What happened to a member.
#[derive(Clone)]
pub enum ClusterChange {
    /// It is there from now on; it may not be ready yet.
    Joined(Member),
    /// It answers, and the caches of it that are in use are filled.
    Ready(Member),
    /// It does not answer any more; why, [`Member::ready`] says.
    NotReady(Member),
    /// It is there no longer. Its client is still good for a farewell.
    Left(Member),
}

impl ClusterChange {
    /// The member that it happened to.
    #[must_use]
    pub fn member(&self) -> &Member {
        match self {
            Self::Joined(member) | Self::Ready(member) | Self::NotReady(member) | Self::Left(member) => {
                member
            }
        }
    }
}

impl Member {
    pub(super) fn new(name: Arc<str>, labels: BTreeMap<String, String>, manager: &Manager) -> Self {
        let health = Arc::new(Mutex::new(Err("it was not reached yet".to_owned())));
        let (client, informers) = (manager.client().clone(), manager.informers().clone());
        Self { name, labels, client, informers, health }
    }

    /// Whether it answers and its caches are filled; an error is the reason why not.
    ///
    /// # Errors
    /// Why it is not ready.
    pub fn ready(&self) -> Result<(), String> {
        self.health.lock().clone()
    }

    /// The cache of a kind, once it has its first list.
    #[must_use]
    pub fn cache<K: Object>(&self, scope: Scope) -> Option<Informer<K>>
    where
        K::DynamicType: Default,
    {
        Some(self.informers.get::<K>(scope)).filter(Informer::is_synced)
    }

    /// Whether it is ready now, as it has just been found out.
    async fn look(&self) -> Result<(), String> {
        let asked = tokio::time::timeout(LOOK_TIMEOUT, self.client.raw().apiserver_version()).await;
        match asked {
            Err(_) => return Err(format!("it did not answer within {LOOK_TIMEOUT:?}")),
            Ok(Err(error)) => return Err(crate::sentence(&error)),
            Ok(Ok(_)) => {}
        }
        self.informers.all_synced().then_some(()).ok_or_else(|| "some caches are not filled yet".to_owned())
    }
}

/// A client whose requests are given up when there is no answer.
pub(super) fn bounded(client: Client) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |request: Request<Body>| {
        let client = client.clone();
        async move {
            let silent = || BoxError::from(format!("the cluster did not answer within {REQUEST_TIMEOUT:?}"));
            let answer = tokio::time::timeout(REQUEST_TIMEOUT, client.send(request)).await;
            let answer: Response<Body> = answer.map_err(|_| silent())??;
            Ok::<_, BoxError>(answer)
        }
    });
    Client::new(service, namespace)
}

/// What runs on a member.
pub(super) struct Running {
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Running {
    pub(super) fn start(all: &Arc<Inner>, manager: Manager, member: &Member, random: Source) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let name = member.name.clone();
        let runs = tokio::spawn(async move {
            if let Err(error) = manager.run(stopped).await {
                tracing::error!(cluster = &*name, %error, "what runs on a cluster ended");
            }
        });
        let looks = tokio::spawn(attend(Arc::downgrade(all), member.clone(), random.fork("health")));
        Self { stop, tasks: vec![runs, looks] }
    }

    /// Lets what is under way end.
    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        let mut tasks = std::mem::take(&mut self.tasks);
        if let Some(looks) = tasks.pop() {
            looks.abort();
        }
        for task in tasks {
            // What panicked was told by now.
            let _ = task.await;
        }
    }
}

/// Looks whether a member can be reached, for ever.
async fn attend(all: std::sync::Weak<Inner>, member: Member, random: Source) {
    let mut wait = LOOK_FIRST;
    loop {
        let found = member.look().await;
        let before = std::mem::replace(&mut *member.health.lock(), found.clone());
        let Some(all) = all.upgrade() else { return };
        match (before, &found) {
            (Err(_), Ok(())) => {
                tracing::info!(cluster = &*member.name, "a cluster is ready");
                all.tell(&ClusterChange::Ready(member.clone()));
            }
            (Ok(()), Err(why)) => {
                tracing::warn!(cluster = &*member.name, why, "a cluster is not ready");
                all.tell(&ClusterChange::NotReady(member.clone()));
            }
            _ => {}
        }
        drop(all);
        wait = if found.is_ok() { LOOK } else { wait };
        tokio::time::sleep(random.jitter(wait, JITTER)).await;
        wait = if found.is_ok() { LOOK_FIRST } else { (wait * 2).min(LOOK) };
    }
}
