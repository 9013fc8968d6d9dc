//! Priority and fairness: who is served first when everybody comes at once.
//!
//! A request is classified by the first FlowSchema that fits it ([`rules`]), which names a priority level. A level has
//! seats; who finds none waits in one of its queues, chosen so that a flow that sends much fills few of them, and the
//! queues take turns by how much work they were given already ([`queues`]). Levels that are idle lend seats to those
//! that are not ([`limits`]). Lists take more seats than one ([`work`]). `exempt` is never kept waiting.
//!
//! Two things differ from upstream: a request that finds a seat free and nobody waiting is not counted against its
//! flow, and what watchers cost after a write takes no seats. Source: `k8s.io/apiserver/pkg/util/flowcontrol`, KEP-1040.

mod bootstrap;
mod limits;
mod meters;
mod queues;
mod rules;
mod work;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue, Response};
use minicluster_store::{Snapshot, Store};
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

pub(crate) use bootstrap::settle as bootstrap;
pub(crate) use meters::Meters;

use crate::{
    api::Api,
    authn::{Identity, MASTERS},
    body::Body,
    object,
    request::{Query, RequestInfo},
    status::{ApiError, ApiResult},
    view::{self, View},
};
use limits::Share;
use meters::SchemaMeters;
use queues::{Level, Queuing, Refusal, Seated};
use rules::Schema;

const SCHEMAS: &str = "/registry/flowschemas/";
const LEVELS: &str = "/registry/prioritylevelconfigurations/";

const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// How often seats are lent anew.
const BORROWING_PERIOD: Duration = Duration::from_secs(10);

/// The part of the time for a request that it may spend waiting.
const WAIT_PART: u32 = 4;

/// How many requests are served at once.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Sorts requests into levels; without, only the two bounds hold.
    pub enabled: bool,
    /// Requests at once that change nothing. With levels, the sum of both is what they share.
    pub max_requests_in_flight: u32,
    /// Requests at once that change something.
    pub max_mutating_requests_in_flight: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { enabled: true, max_requests_in_flight: 400, max_mutating_requests_in_flight: 200 }
    }
}

/// What the objects of the cluster say.
struct Compiled {
    schemas: Vec<Schema>,
    levels: BTreeMap<String, LevelSpec>,
}

struct LevelSpec {
    uid: String,
    exempt: bool,
    shares: i64,
    lendable_percent: i64,
    borrowing_percent: Option<i64>,
    /// `None`: who finds no seat is refused.
    queuing: Option<Queuing>,
}

impl LevelSpec {
    fn read(obj: &Value) -> Self {
        let spec = obj.get("spec").unwrap_or(&Value::Null);
        let exempt = object::text(spec, &["type"]) == "Exempt";
        let part = &spec[if exempt { "exempt" } else { "limited" }];
        let number = |key: &str| object::number(part, &[key]);
        let response = &part["limitResponse"];
        let bound = |key: &str, default: i64| {
            let given = object::number(response, &["queuing", key]).unwrap_or(default);
            usize::try_from(given.max(1)).unwrap_or(1)
        };
        let queues = (object::text(response, &["type"]) == "Queue").then(|| Queuing {
            queues: bound("queues", 64),
            hand: bound("handSize", 8),
            length: bound("queueLengthLimit", 50),
        });
        Self {
            uid: object::uid(obj).to_owned(),
            exempt,
            shares: number("nominalConcurrencyShares").unwrap_or(if exempt { 0 } else { 30 }),
            lendable_percent: number("lendablePercent").unwrap_or(0),
            borrowing_percent: number("borrowingLimitPercent"),
            queuing: queues,
        }
    }
}

fn compile(snapshot: &Snapshot, _: &'static [&'static str]) -> Compiled {
    let levels: BTreeMap<String, LevelSpec> = view::objects(snapshot, LEVELS)
        .map(|(_, obj)| (object::name(&obj).to_owned(), LevelSpec::read(&obj)))
        .collect();
    let mut schemas: Vec<Schema> = view::objects(snapshot, SCHEMAS)
        .map(|(_, obj)| Schema::read(&obj))
        .filter(|schema| levels.contains_key(&schema.level))
        .collect();
    schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
    Compiled { schemas, levels }
}

/// What is in force.
struct State {
    compiled: Arc<Compiled>,
    levels: BTreeMap<String, Arc<Level>>,
    /// For each schema, in order: its level and its counters.
    places: Vec<(Arc<Level>, Arc<SchemaMeters>, [HeaderValue; 2])>,
}

/// Decides who is served.
pub struct FlowControl {
    settings: Settings,
    compiled: View<Compiled>,
    state: ArcSwap<State>,
    changing: Mutex<()>,
    meters: Meters,
    sizes: work::Sizes,
    reading: Gauge,
    writing: Gauge,
}

/// A request that is being served; its seats are free again when this is dropped.
pub(crate) struct Permit {
    seated: Option<(Seated, Arc<SchemaMeters>, Instant)>,
    counted: Option<Gauge>,
    headers: Option<[HeaderValue; 2]>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(gauge) = &self.counted {
            gauge.dec();
        }
        if let Some((seated, meters, since)) = self.seated.take() {
            meters.ended(seated.seats(), since.elapsed());
        }
    }
}

impl Permit {
    /// Says in the answer what the request was taken for.
    pub(crate) fn mark(&self, response: &mut Response<Body>) {
        if let Some([schema, level]) = &self.headers {
            response.headers_mut().insert(SCHEMA_UID, schema.clone());
            response.headers_mut().insert(LEVEL_UID, level.clone());
        }
    }
}

impl FlowControl {
    pub(crate) fn new(store: &Store, settings: &Settings, meters: &Meters) -> Self {
        let compiled = View::new(store, &[SCHEMAS, LEVELS], compile);
        let empty = State {
            compiled: Arc::new(Compiled { schemas: Vec::new(), levels: BTreeMap::new() }),
            levels: BTreeMap::new(),
            places: Vec::new(),
        };
        Self {
            settings: settings.clone(),
            compiled,
            state: ArcSwap::from_pointee(empty),
            changing: Mutex::new(()),
            meters: meters.clone(),
            sizes: work::Sizes::default(),
            reading: Gauge::default(),
            writing: Gauge::default(),
        }
    }

    /// Lets a request in, at once or when its turn comes.
    ///
    /// # Errors
    /// 429.
    pub(crate) async fn enter(
        &self,
        user: &Identity,
        info: &RequestInfo,
        query: &Query,
        request_timeout: Duration,
    ) -> ApiResult<Permit> {
        if !self.settings.enabled {
            return self.enter_plainly(user, info);
        }
        let state = self.state();
        let found = state.compiled.schemas.iter().position(|schema| schema.fits(user, info));
        // The mandatory schemas fit everybody; without them, before the first start is over, nobody is kept out.
        let Some(at) = found else { return Ok(Permit { seated: None, counted: None, headers: None }) };
        let (schema, (level, meters, headers)) = (&state.compiled.schemas[at], &state.places[at]);
        let seats = work::seats(&self.sizes, info, query, level.seats_max());
        let began = Instant::now();
        let seated = match level.try_sit(seats) {
            Some(seated) => seated,
            None => {
                let flow = schema.flow(user, info);
                meters.waiting(1);
                let waited = timeout(request_timeout / WAIT_PART, level.sit(&flow, seats)).await;
                meters.waiting(-1);
                match waited.unwrap_or(Err(Refusal::TimeOut)) {
                    Ok(seated) => seated,
                    Err(refusal) => {
                        meters.refused(refusal, began.elapsed());
                        return Err(too_many());
                    }
                }
            }
        };
        meters.began(seats, began.elapsed());
        let seated = Some((seated, Arc::clone(meters), Instant::now()));
        Ok(Permit { seated, counted: None, headers: Some(headers.clone()) })
    }

    fn enter_plainly(&self, user: &Identity, info: &RequestInfo) -> ApiResult<Permit> {
        let (gauge, max) = match info.verb {
            "get" | "list" | "watch" | "head" | "options" => {
                (&self.reading, self.settings.max_requests_in_flight)
            }
            _ => (&self.writing, self.settings.max_mutating_requests_in_flight),
        };
        let before = gauge.inc();
        let permit = Permit { seated: None, counted: Some(gauge.clone()), headers: None };
        // Who may do anything can always put an end to what keeps everybody out. Zero: no bound.
        if max > 0 && before >= i64::from(max) && !user.is_in(MASTERS) {
            return Err(too_many());
        }
        Ok(permit)
    }

    /// Notes how large a collection was that somebody listed: the next list of it is judged by that.
    pub(crate) fn note_size(&self, prefix: &str, count: usize, bytes: usize) {
        self.sizes.note(prefix, count, bytes);
    }

    fn state(&self) -> arc_swap::Guard<Arc<State>> {
        let compiled = self.compiled.get();
        let state = self.state.load();
        if Arc::ptr_eq(&state.compiled, &compiled) {
            return state;
        }
        drop(state);
        let _changing = self.changing.lock();
        if !Arc::ptr_eq(&self.state.load().compiled, &compiled) {
            let next = self.next(&self.state.load(), compiled);
            self.state.store(Arc::new(next));
        }
        self.state.load()
    }

    /// The state by a new configuration; levels that stay keep their seats and queues.
    fn next(&self, before: &State, compiled: Arc<Compiled>) -> State {
        let total = i64::from(self.settings.max_requests_in_flight)
            + i64::from(self.settings.max_mutating_requests_in_flight);
        let shares: Vec<Share> = compiled
            .levels
            .values()
            .map(|spec| Share {
                shares: spec.shares,
                lendable_percent: spec.lendable_percent,
                borrowing_percent: spec.borrowing_percent,
            })
            .collect();
        let bounds = limits::nominal(total, &shares);
        let mut levels = BTreeMap::new();
        for ((name, spec), bounds) in compiled.levels.iter().zip(bounds) {
            let level = match before
                .levels
                .get(name)
                .filter(|level| level.is_like(spec.exempt, spec.queuing.as_ref()))
            {
                Some(level) => Arc::clone(level),
                None => Level::new(spec.exempt, spec.queuing.clone()),
            };
            level.bound(bounds);
            self.meters.limits(name, bounds);
            levels.insert(name.clone(), level);
        }
        let uid = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
        let places = compiled
            .schemas
            .iter()
            .map(|schema| {
                let meters = self.meters.of(&schema.level, &schema.name);
                let headers = [uid(&schema.uid), uid(&compiled.levels[&schema.level].uid)];
                (Arc::clone(&levels[&schema.level]), meters, headers)
            })
            .collect();
        State { compiled, levels, places }
    }

    /// Lends seats anew by what was wanted lately.
    fn lend(&self) {
        let state = self.state.load_full();
        let limited: Vec<(&String, &Arc<Level>)> =
            state.levels.iter().filter(|(_, level)| !level.is_exempt()).collect();
        let demands: Vec<limits::Demand> = limited.iter().map(|(_, level)| level.demand()).collect();
        for ((name, level), seats) in limited.into_iter().zip(limits::lent(&demands)) {
            level.lend(seats);
            self.meters.current_limit(name, seats);
        }
    }
}

fn too_many() -> ApiError {
    ApiError::too_many_requests("Too many requests, please try again later.", 1)
}

/// Keeps the configuration whole and the seats lent, for ever.
pub(crate) async fn run(api: &Arc<Api>) {
    if !api.flow.settings.enabled {
        return;
    }
    let lending = async {
        loop {
            sleep(BORROWING_PERIOD).await;
            api.flow.lend();
        }
    };
    tokio::join!(lending, bootstrap::keep(api));
}

#[cfg(test)]
mod tests;
