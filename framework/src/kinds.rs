//! The kinds that a server serves, followed as they come and go with their definitions.
//!
//! Discovery is asked again when a CustomResourceDefinition or an APIService changes, once it has been calm for a moment,
//! and a little later once more, since servers serve a kind some time after they say so. What could not be asked is
//! asked again, and does not make kinds go that were there.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use parking_lot::Mutex;

use crate::{
    Informers, Rules,
    definitions::Definitions,
    discovery::{self, Served},
};

/// The wait for more definitions to change before discovery is asked.
const CALM: Duration = Duration::from_secs(1);
/// The wait before discovery is asked once more after a change.
const SETTLED: Duration = Duration::from_secs(5);
/// The wait before asking again for what could not be discovered.
const AGAIN: Duration = Duration::from_secs(30);
/// The same while nothing is known at all; doubled each time up to [`AGAIN`].
const AGAIN_FIRST: Duration = Duration::from_secs(1);

/// A set of kinds that is kept up to date by whoever waits for its [changes](Kinds::changed).
///
/// ```no_run
/// use windlass::{Informers, Kinds};
///
/// # async fn follow(informers: &Informers) {
/// let kinds = Kinds::new(informers, |served| served.namespaced && served.can(&["list", "watch"]));
/// loop {
///     let change = kinds.changed().await;
///     for came in change.came {
///         println!("{} is served", came.name());
///     }
/// }
/// # }
/// ```
pub struct Kinds {
    informers: Informers,
    wanted: Box<dyn Fn(&Served) -> bool + Send + Sync>,
    _definitions: Arc<Definitions>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    current: BTreeSet<Served>,
    /// The count of changed definitions that `current` takes into account.
    stand: u64,
    /// Discovery has answered at least once.
    known: bool,
    failures: u32,
    /// When to ask again without being told.
    again: Option<Duration>,
}

/// How a set of kinds changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KindsChange {
    /// What is served now.
    pub came: Vec<Served>,
    /// What is served no longer, or otherwise than before.
    pub went: Vec<Served>,
}

impl KindsChange {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.came.is_empty() && self.went.is_empty()
    }
}

impl Kinds {
    /// The kinds that `wanted` picks; none are known before the first [`Kinds::refresh`] or [`Kinds::changed`]. Starts to
    /// watch definitions; needs a tokio runtime.
    #[must_use]
    pub fn new(informers: &Informers, wanted: impl Fn(&Served) -> bool + Send + Sync + 'static) -> Self {
        Self {
            informers: informers.clone(),
            wanted: Box::new(wanted),
            _definitions: informers.definitions(),
            state: Mutex::default(),
        }
    }

    /// What is needed to follow kinds, beyond what is done with them.
    pub fn needs(rules: &mut Rules) {
        Definitions::needs(rules);
    }

    /// The kinds as they were found last.
    #[must_use]
    pub fn all(&self) -> Vec<Served> {
        self.state.lock().current.iter().cloned().collect()
    }

    /// The kind of this group and kind, such as an owner reference names.
    #[must_use]
    pub fn find(&self, group: &str, kind: &str) -> Option<Served> {
        self.state.lock().current.iter().find(|s| s.group == group && s.kind == kind).cloned()
    }

    /// The kind of this name, such as `deployments.apps`.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Served> {
        self.state.lock().current.iter().find(|served| served.name() == name).cloned()
    }

    /// Asks the server now and says what is another than before. An error leaves the kinds as they were.
    pub async fn refresh(&self) -> kube::Result<KindsChange> {
        let stand = self.informers.redefined().get();
        let found = discovery::discover(self.informers.client()).await;
        let mut state = self.state.lock();
        let told = std::mem::replace(&mut state.stand, stand) != stand;
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                state.failures = state.failures.saturating_add(1);
                let first = AGAIN_FIRST.saturating_mul(1 << (state.failures - 1).min(8));
                state.again = Some(if state.known { AGAIN } else { first.min(AGAIN) });
                return Err(error);
            }
        };
        let complete = found.failures.is_empty();
        state.again = match (complete, told) {
            (false, _) => Some(AGAIN),
            (true, true) => Some(SETTLED),
            (true, false) => None,
        };
        (state.known, state.failures) = (true, 0);
        let wanted: BTreeSet<Served> = found.resources.into_iter().filter(|s| (self.wanted)(s)).collect();
        let came: Vec<Served> = wanted.difference(&state.current).cloned().collect();
        // A kind that could not be asked about may still be there; one that is served otherwise is not as it was.
        let replaced = |s: &Served| wanted.iter().any(|w| (&w.group, &w.plural) == (&s.group, &s.plural));
        let went: Vec<Served> = state
            .current
            .difference(&wanted)
            .filter(|served| complete || replaced(served))
            .cloned()
            .collect();
        state.current.retain(|served| !went.contains(served));
        state.current.extend(came.iter().cloned());
        Ok(KindsChange { came, went })
    }

    /// Waits until the kinds are others than before, or, when nothing is known yet, until they are known. Cancel-safe. Kinds
    /// change by this and by [`Kinds::refresh`] alone.
    pub async fn changed(&self) -> KindsChange {
        loop {
            self.due().await;
            let known = self.state.lock().known;
            match self.refresh().await {
                Ok(change) if known && change.is_empty() => {}
                Ok(change) => return change,
                Err(error) => tracing::warn!(%error, "discovery failed; the kinds stay as they are"),
            }
        }
    }

    /// Waits until there is a reason to ask.
    async fn due(&self) {
        let (again, stand, first) = {
            let state = self.state.lock();
            (state.again, state.stand, !state.known && state.failures == 0)
        };
        if first {
            return;
        }
        tokio::select! {
            biased;
            () = self.informers.redefined().wait_for(|now| now != stand) => tokio::time::sleep(CALM).await,
            () = tokio::time::sleep(again.unwrap_or_default()), if again.is_some() => {}
        }
    }
}
