//! What a process does at this moment: each watch, each controller with its queue, leases and shards. Served at
//! `/diagnostics` for people and at `/diagnostics.json` for programs such as `windlass why`.
//!
//! Nothing is written down for it while the process works: it is read off when somebody asks, and what is read off has
//! bounds, so that it can be asked for in the middle of an incident.

mod page;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::clock;

/// Keys of one sort that are named for one controller; of more there is the number.
pub(crate) const KEYS_MAX: usize = 100;
/// Watches that are named; of more there is the number.
const WATCHES_MAX: usize = 1000;

/// What a process does at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostics {
    /// When this was so.
    pub at: Timestamp,
    /// Its leases.
    pub leases: Vec<LeaseState>,
    /// Its shares of what replicas share.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shards: Vec<ShardState>,
    /// Its controllers, in the order in which they started.
    pub controllers: Vec<ControllerState>,
    /// Its watches, by what they ask for.
    pub watches: Vec<WatchState>,
    /// Watches that are not named.
    #[serde(default)]
    pub more_watches: usize,
    /// The same of each member; see [`crate::clusters`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub clusters: BTreeMap<String, Self>,
}

/// Where a watch stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WatchState {
    /// The kind, such as `Pod`.
    pub kind: String,
    /// What is asked for: path and selectors.
    pub path: String,
    /// Whether metadata alone is asked for.
    #[serde(default)]
    pub metadata_only: bool,
    /// What it is doing.
    pub state: Doing,
    /// Why it stands still, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The revision that the cache stands at; zero before the first list.
    pub revision: u64,
    /// The objects that the cache holds of it.
    pub objects: usize,
    /// Objects that were skipped so far because they are not of their kind's shape.
    #[serde(default)]
    pub skipped: u64,
    /// When an object came last, be it new, changed or gone.
    pub last_event: Option<Timestamp>,
    /// When anything came last, bookmarks included: a watch of which nothing is heard for minutes is dead.
    pub last_heard: Option<Timestamp>,
    /// How often it was listed anew, after the first time.
    pub relists: u64,
    /// How often the watch was begun again: servers end each after some minutes, and connections break.
    pub restarts: u64,
}

/// What a watch is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Doing {
    /// It takes in what is there.
    Listing,
    /// It takes in what changes.
    Watching,
    /// Its last try failed, and the next one will come.
    Failing,
}

/// Where a controller stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ControllerState {
    /// Its name.
    pub name: String,
    /// Whether it works: its caches have their first list.
    pub started: bool,
    /// Keys that it reconciles at a time.
    pub workers: usize,
    /// Keys that are ready and wait for a worker, by priority.
    pub ready: BTreeMap<i16, usize>,
    /// Keys that wait for their time, be it after a failure or because they asked for it.
    pub scheduled: usize,
    /// Keys that are worked on, the oldest first.
    pub in_flight: Vec<InFlight>,
    /// Keys that wait after failures, the next first.
    pub retrying: Vec<Retrying>,
    /// Keys that are worked on, or wait after failures, and are not named.
    #[serde(default)]
    pub more_keys: usize,
    /// How reconciles ended so far.
    pub totals: Totals,
}

/// A key that is worked on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InFlight {
    /// The object: `namespace/name`, or its name alone.
    pub key: String,
    /// Since when.
    pub since: Timestamp,
    /// Whether its reconcile has ended, and it is held until the caches have what it wrote.
    #[serde(default)]
    pub held: bool,
}

/// A key that waits after failures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retrying {
    /// The object: `namespace/name`, or its name alone.
    pub key: String,
    /// How often it failed since it last succeeded.
    pub failures: u32,
    /// Until when it waits, unless something happens before.
    pub until: Timestamp,
    /// Why it failed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How a controller's reconciles ended since the process began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Well.
    pub succeeded: u64,
    /// Well, and asked to be called again.
    pub requeued: u64,
    /// Badly, panics and timeouts included.
    pub failed: u64,
    /// Badly, for good.
    pub terminal: u64,
    /// By a panic.
    pub panicked: u64,
    /// By taking too long.
    pub timed_out: u64,
}

/// Where a lease stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseState {
    /// Its namespace and name.
    pub lease: String,
    /// Who this process is.
    pub identity: String,
    /// Who holds it, as was seen last.
    pub holder: String,
    /// Whether this process leads.
    pub leads: bool,
    /// Since when it does, or does not.
    pub since: Timestamp,
}

/// Where a replica stands among those that share keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardState {
    /// The group.
    pub group: String,
    /// Who this process is.
    pub identity: String,
    /// The number of the newest roster that was seen.
    pub roster: u64,
    /// The members that it names.
    pub members: Vec<String>,
    /// Whether the replica may work on everything that the roster gives it.
    pub settled: bool,
    /// Of 256 slots: what the roster gives it, what it may work on, and those in which work is under way.
    pub owned: usize,
    /// See `owned`.
    pub held: usize,
    /// See `owned`.
    pub busy: usize,
}

type Ask<T> = Box<dyn Fn() -> Option<T> + Send>;

/// Who can be asked. What it was told of is forgotten when it is gone.
#[derive(Default)]
pub(crate) struct Board {
    watches: OnceLock<Box<dyn Fn() -> Vec<WatchState> + Send + Sync>>,
    controllers: Mutex<Vec<Ask<ControllerState>>>,
    shards: Mutex<BTreeMap<String, Ask<ShardState>>>,
    leases: Mutex<BTreeMap<String, LeaseState>>,
}

impl Board {
    /// Says how to ask for the watches of the process.
    pub(crate) fn watches(&self, ask: impl Fn() -> Vec<WatchState> + Send + Sync + 'static) {
        // They belong to one manager, which is built once.
        let _ = self.watches.set(Box::new(ask));
    }

    /// Asks a controller, as long as it answers.
    pub(crate) fn controller(&self, ask: impl Fn() -> Option<ControllerState> + Send + 'static) {
        self.controllers.lock().push(Box::new(ask));
    }

    /// Says how to ask for this replica's part in a group.
    pub(crate) fn shards(&self, group: &str, ask: impl Fn() -> Option<ShardState> + Send + 'static) {
        self.shards.lock().insert(group.to_owned(), Box::new(ask));
    }

    /// Notes where a lease stands.
    pub(crate) fn lease(&self, lease: &str, identity: &str, holder: &str, leads: bool) {
        let mut leases = self.leases.lock();
        let known = leases.get(lease).filter(|known| known.leads == leads).map(|known| known.since);
        let state = LeaseState {
            lease: lease.to_owned(),
            identity: identity.to_owned(),
            holder: holder.to_owned(),
            leads,
            since: known.unwrap_or_else(clock::now),
        };
        leases.insert(lease.to_owned(), state);
    }

    /// What those say that still run.
    fn controllers(&self) -> Vec<ControllerState> {
        let mut answers = Vec::new();
        self.controllers.lock().retain(|ask| {
            let answer = ask();
            let runs = answer.is_some();
            answers.extend(answer);
            runs
        });
        answers
    }

    /// All of it.
    pub(crate) fn read(&self) -> Diagnostics {
        let mut watches = self.watches.get().map(|ask| ask()).unwrap_or_default();
        watches.sort_by(|a, b| a.path.cmp(&b.path));
        let more_watches = watches.len().saturating_sub(WATCHES_MAX);
        watches.truncate(WATCHES_MAX);
        Diagnostics {
            at: clock::now(),
            leases: self.leases.lock().values().cloned().collect(),
            shards: self.shards.lock().values().filter_map(|ask| ask()).collect(),
            controllers: self.controllers(),
            watches,
            more_watches,
            clusters: BTreeMap::new(),
        }
    }
}

/// Who holds a lease, as its candidate sees it.
#[derive(Clone)]
pub(crate) struct LeaseSight {
    pub(crate) board: Arc<Board>,
    pub(crate) lease: String,
    pub(crate) identity: String,
}

impl LeaseSight {
    pub(crate) fn saw(&self, holder: &str, leads: bool) {
        self.board.lease(&self.lease, &self.identity, holder, leads);
    }
}
