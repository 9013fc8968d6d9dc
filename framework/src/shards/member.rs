//! A member at work: takes its Lease and renews it, follows the group, proposes rosters, and leaves.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::coordination::v1::{Lease as Record, LeaseSpec};
use kube::{
    Api,
    api::{DeleteParams, ObjectMeta, PostParams, Preconditions},
    core::{Expression, Selector},
};
use tokio::time::Instant;

use super::{
    Inner, LABEL, ROSTER, SEEN,
    roster::{self, Roster, Seat, Sight, Verdict},
};
use crate::{BoxError, CancellationToken, Informer, RunCx, Scope, clock, key, random::Source};

/// The wait between tries is up to this much longer, so that members do not try in step.
const JITTER: f64 = 0.5;
/// A look at the group comes at the latest after this, whatever was seen.
const LOOK: Duration = Duration::from_mins(1);

/// The own Lease, as it was written last.
struct Held {
    record: Record,
    /// Nobody counts this member out before this plus the Lease's duration.
    since: Instant,
}

/// What is remembered of the group from look to look.
#[derive(Default)]
struct Memory {
    sights: BTreeMap<String, Sight>,
    missing: BTreeMap<String, Instant>,
}

/// Shuts the gates when a member is dropped in the middle of its work.
struct Open<'a>(&'a Inner);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let mut core = self.0.core.lock();
        core.shut();
        std::mem::take(&mut core.cut).cancel();
    }
}

impl Inner {
    /// Is a member until told to stop; one that lost its Lease becomes one again.
    pub(super) async fn serve(&self, cx: RunCx) -> Result<(), BoxError> {
        let _open = Open(self);
        let random = cx.random.fork(&format!("shards {}", self.lease.identity));
        let leases = cx.informers.get::<Record>(self.scope());
        self.core.lock().metrics = Some(cx.metrics.shards(&self.lease.name));
        let me = self.me.clone();
        cx.metrics.board().shards(&self.lease.name, move || me.upgrade().map(|inner| inner.state()));
        let api = Api::<Record>::namespaced(cx.informers.client().clone(), &self.lease.namespace);
        tokio::select! {
            biased;
            () = cx.stop.cancelled() => return Ok(()),
            () = leases.synced() => {}
        }
        loop {
            let mut held = tokio::select! {
                biased;
                () = cx.stop.cancelled() => return Ok(()),
                held = self.join(&api, &random) => held,
            };
            tracing::info!(group = self.lease.name, member = self.member(), "joined the shards");
            let stopped = tokio::select! {
                biased;
                () = cx.stop.cancelled() => true,
                () = self.renew(&api, &mut held) => false,
                () = self.tend(&api, &leases, &random) => false,
            };
            // Well before anybody may count this member out.
            self.close(self.lease.margin().mul_f64(0.8)).await;
            if stopped {
                self.leave(&api, held).await;
                return Ok(());
            }
            tracing::warn!(group = self.lease.name, "lost the seat among the shards");
        }
    }

    /// The name of this member's Lease.
    fn member(&self) -> String {
        format!("{}-{:016x}", self.lease.name, key::fnv(key::FNV_OFFSET, self.lease.identity.as_bytes()))
    }

    fn scope(&self) -> Scope {
        let mine = Expression::Equal(LABEL.to_owned(), self.lease.name.clone());
        Scope::namespace(self.lease.namespace.clone()).labels(Selector::from(mine))
    }

    /// Takes the own Lease, for a life of its own.
    async fn join(&self, api: &Api<Record>, random: &Source) -> Held {
        loop {
            let since = Instant::now();
            let limit = self.lease.renew_deadline / 2;
            match tokio::time::timeout(limit, self.take(api)).await {
                Ok(Ok(record)) => {
                    self.core.lock().seat = Some(Seat {
                        name: record.metadata.name.clone().unwrap_or_default(),
                        life: life(&record),
                    });
                    self.changed.notify_one();
                    return Held { record, since };
                }
                Ok(Err(error)) => tracing::debug!(group = self.lease.name, %error, "not joined yet"),
                Err(_) => {}
            }
            tokio::time::sleep(random.jitter(self.lease.retry, JITTER)).await;
        }
    }

    async fn take(&self, api: &Api<Record>) -> kube::Result<Record> {
        let (name, params) = (self.member(), PostParams::default());
        match api.get_opt(&name).await? {
            None => api.create(&params, &self.record(Record::default(), 0, 0)).await,
            Some(was) => {
                let lives = was.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or(0);
                api.replace(&name, &params, &self.record(was, lives.wrapping_add(1), 0)).await
            }
        }
    }

    /// The own Lease as it is to be written.
    fn record(&self, was: Record, lives: i32, seen: u64) -> Record {
        let now = clock::micro_time();
        let same = was.spec.as_ref().is_some_and(|spec| spec.lease_transitions == Some(lives));
        let acquired = was.spec.and_then(|spec| spec.acquire_time).filter(|_| same);
        Record {
            metadata: ObjectMeta {
                name: Some(self.member()),
                namespace: Some(self.lease.namespace.clone()),
                labels: Some([(LABEL.to_owned(), self.lease.name.clone())].into()),
                annotations: Some([(SEEN.to_owned(), seen.to_string())].into()),
                ..was.metadata
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.lease.identity.clone()),
                lease_duration_seconds: i32::try_from(self.lease.duration.as_secs()).ok(),
                acquire_time: acquired.or_else(|| Some(now.clone())),
                renew_time: Some(now),
                lease_transitions: Some(lives),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Renews the Lease, and says in it which roster was seen; returns when that was impossible for too long, or when
    /// another has it.
    async fn renew(&self, api: &Api<Record>, held: &mut Held) {
        loop {
            let deadline = held.since + self.lease.renew_deadline;
            tokio::select! {
                biased;
                () = self.asked.notified() => {}
                () = tokio::time::sleep_until(deadline.min(Instant::now() + self.lease.retry)) => {}
            }
            let begun = Instant::now();
            if begun >= deadline {
                return;
            }
            let limit = deadline.min(begun + self.lease.renew_deadline / 2);
            match tokio::time::timeout_at(limit, self.write(api, held)).await {
                Ok(Ok(true)) => held.since = begun,
                Ok(Ok(false)) => return,
                Ok(Err(error)) => {
                    tracing::debug!(group = self.lease.name, %error, "the seat was not renewed");
                }
                Err(_) => {}
            }
        }
    }

    /// Writes the own Lease; false when it is not the same any more.
    async fn write(&self, api: &Api<Record>, held: &mut Held) -> kube::Result<bool> {
        let lives = held.record.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or(0);
        let seen = self.core.lock().seen;
        let next = self.record(held.record.clone(), lives, seen);
        match api.replace(&self.member(), &PostParams::default(), &next).await {
            Ok(written) => {
                held.record = written;
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
            // Perhaps an answer was lost: then it is as we wanted it.
            Err(kube::Error::Api(status)) if status.is_conflict() => match api.get_opt(&self.member()).await?
            {
                Some(now) if life(&now) == life(&held.record) => {
                    held.record = now;
                    self.asked.notify_one();
                    Err(kube::Error::Api(status))
                }
                _ => Ok(false),
            },
            Err(error) => Err(error),
        }
    }

    /// Follows the group, for as long as it is polled.
    async fn tend(&self, api: &Api<Record>, leases: &Informer<Record>, random: &Source) {
        let changed = self.changed.clone();
        let _subscription = leases.subscribe(move |_| changed.notify_one());
        let mut memory = Memory::default();
        loop {
            let (register, verdict) = self.look(leases, &mut memory);
            let roster = register.as_ref().map(read_roster).unwrap_or_default();
            let speaks = verdict.speaker.as_deref() == Some(self.member().as_str());
            let mut wait =
                verdict.next.map_or(LOOK, |at| at.saturating_duration_since(Instant::now())).min(LOOK);
            if speaks && (verdict.seats != roster.seats || !verdict.dead.is_empty()) {
                let limit = self.lease.renew_deadline;
                let proposal = self.propose(api, register, &roster, verdict, &mut memory);
                match tokio::time::timeout(limit, proposal).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(group = self.lease.name, %error, "no new roster"),
                    Err(_) => {}
                }
                wait = random.jitter(self.lease.retry, JITTER);
            }
            tokio::select! {
                biased;
                () = self.changed.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Takes in what the cache has of the group: the register, and what follows.
    fn look(&self, leases: &Informer<Record>, memory: &mut Memory) -> (Option<Record>, Verdict) {
        let (now, mut register, mut present) = (Instant::now(), None, Vec::new());
        for lease in leases.lister().all() {
            let name = lease.metadata.name.clone().unwrap_or_default();
            if name == self.lease.name {
                register = Some((*lease).clone());
                continue;
            }
            let revision = lease.metadata.resource_version.clone().unwrap_or_default();
            present.push(name.clone());
            let known = memory.sights.get(&name).filter(|sight| sight.revision == revision);
            let since = known.map_or(now, |sight| sight.since);
            memory.sights.insert(name, sight(&lease, revision, since));
        }
        memory.sights.retain(|name, _| present.contains(name));
        let roster = register.as_ref().map(read_roster).unwrap_or_default();
        memory
            .missing
            .retain(|name, _| !present.contains(name) && roster.seats.iter().any(|s| s.name == *name));
        for seat in roster.seats.iter().filter(|seat| !present.contains(&seat.name)) {
            memory.missing.entry(seat.name.clone()).or_insert(now);
        }
        self.take_in(&roster, memory);
        let verdict = roster::judge(&roster, &memory.sights, &memory.missing, self.lease.duration, now);
        (register, verdict)
    }

    fn take_in(&self, roster: &Roster, memory: &Memory) {
        let settled = roster.generation > 0 && roster::is_settled(roster, &memory.sights);
        let mut core = self.core.lock();
        let (gained, says) = core.look(roster, settled);
        if let Some(metrics) = &core.metrics {
            metrics.members.set(i64::try_from(roster.seats.len()).unwrap_or(i64::MAX));
        }
        let gates = core.gates();
        drop(core);
        if says {
            self.asked.notify_one();
        }
        if let Some(gained) = gained {
            tracing::debug!(
                group = self.lease.name,
                generation = roster.generation,
                "the shards are settled"
            );
            gates.iter().for_each(|gate| gate.gained(gained));
        }
    }

    /// Writes the next roster, once those who would be counted out for their silence were asked for.
    async fn propose(
        &self,
        api: &Api<Record>,
        register: Option<Record>,
        roster: &Roster,
        verdict: Verdict,
        memory: &mut Memory,
    ) -> kube::Result<()> {
        for name in &verdict.silent {
            let Some(sight) = memory.sights.get_mut(name) else { continue };
            // The watch will tell.
            let Some(live) = api.get_opt(name).await? else { return Ok(()) };
            let revision = live.metadata.resource_version.clone().unwrap_or_default();
            if revision != sight.revision {
                // The watch stands still, and not the member.
                *sight = self::sight(&live, revision, Instant::now());
                return Ok(());
            }
        }
        if verdict.seats != roster.seats {
            // Above everything that anybody has seen, in case that the register was lost.
            let seen = memory.sights.values().map(|sight| sight.seen).max().unwrap_or(0);
            let next = Roster { generation: roster.generation.max(seen) + 1, seats: verdict.seats };
            let record = self.register(register, &next);
            let params = PostParams::default();
            tracing::info!(
                group = self.lease.name,
                generation = next.generation,
                members = next.seats.len(),
                "a new roster"
            );
            match record.metadata.resource_version {
                None => api.create(&params, &record).await?,
                Some(_) => api.replace(&self.lease.name, &params, &record).await?,
            };
        }
        for name in &verdict.dead {
            let revision = memory.sights.get(name).map(|sight| sight.revision.clone());
            let preconditions = Some(Preconditions { resource_version: revision, uid: None });
            let params = DeleteParams { preconditions, ..DeleteParams::default() };
            // One that came back in between is left alone.
            let _ = api.delete(name, &params).await;
        }
        Ok(())
    }

    /// The Lease that holds the roster.
    fn register(&self, was: Option<Record>, roster: &Roster) -> Record {
        let text = serde_json::to_string(roster).unwrap_or_default();
        Record {
            metadata: ObjectMeta {
                name: Some(self.lease.name.clone()),
                namespace: Some(self.lease.namespace.clone()),
                labels: Some([(LABEL.to_owned(), self.lease.name.clone())].into()),
                annotations: Some([(ROSTER.to_owned(), text)].into()),
                ..was.map(|was| was.metadata).unwrap_or_default()
            },
            spec: Some(LeaseSpec {
                lease_transitions: i32::try_from(roster.generation).ok(),
                renew_time: Some(clock::micro_time()),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Begins nothing any more, waits for what is under way, and cuts off what takes longer than `limit`.
    async fn close(&self, limit: Duration) {
        self.core.lock().shut();
        let idle = async {
            while self.core.lock().is_busy_outside() {
                self.drained.notified().await;
            }
        };
        if tokio::time::timeout(limit, idle).await.is_err() {
            let cut = std::mem::replace(&mut self.core.lock().cut, CancellationToken::new());
            cut.cancel();
            while self.core.lock().is_busy_outside() {
                self.drained.notified().await;
            }
        }
    }

    /// Gives the seat back, so that nobody need wait for the Lease to run out.
    async fn leave(&self, api: &Api<Record>, held: Held) {
        if !self.lease.release_on_exit {
            return;
        }
        let mut record = held.record;
        if let Some(spec) = &mut record.spec {
            spec.holder_identity = Some(String::new());
            spec.renew_time = Some(clock::micro_time());
        }
        let (name, params) = (self.member(), PostParams::default());
        let write = api.replace(&name, &params, &record);
        if !matches!(tokio::time::timeout(self.lease.retry, write).await, Ok(Ok(_))) {
            tracing::warn!(group = self.lease.name, "the seat could not be given back and will run out");
        }
    }
}

/// Which of the times that a Lease was taken this is.
fn life(record: &Record) -> String {
    let lives = record.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or(0);
    format!("{}.{lives}", record.metadata.uid.as_deref().unwrap_or_default())
}

fn sight(record: &Record, revision: String, since: Instant) -> Sight {
    let spec = record.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0);
    let seen = record.metadata.annotations.as_ref().and_then(|notes| notes.get(SEEN)?.parse().ok());
    Sight {
        life: life(record),
        left: spec.holder_identity.unwrap_or_default().is_empty(),
        seen: seen.unwrap_or(0),
        trusted: Duration::from_secs(seconds),
        revision,
        since,
    }
}

fn read_roster(register: &Record) -> Roster {
    let text = register.metadata.annotations.as_ref().and_then(|notes| notes.get(ROSTER));
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}
