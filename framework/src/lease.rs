//! Leader election over a Lease, with client-go's semantics.
//!
//! Who holds the lease may act; the others watch it. Nobody compares clocks: a candidate takes the lease when it has
//! itself seen no renewal for the lease's duration. A holder that cannot renew in time stops leading before anybody
//! else can start. On the way out the lease is given back, so that the next one need not wait.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease as Record, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Client,
    api::{Api, ObjectMeta, PostParams},
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{EventType, Recorder, clock, diagnostics::LeaseSight, random::Source};

/// Candidates wait up to this much longer between tries, so that they do not try in step.
const JITTER: f64 = 1.2;

/// A lease to be held by one of several replicas.
#[derive(Clone, Debug)]
pub struct Lease {
    /// Where the Lease object lives.
    pub namespace: String,
    /// The Lease object's name.
    pub name: String,
    /// Who this candidate is; unlike every other.
    pub identity: String,
    /// How long a holder is trusted after its last renewal.
    pub duration: Duration,
    /// A holder that could not renew for this long stops leading. Shorter than `duration`.
    pub renew_deadline: Duration,
    /// The time between tries.
    pub retry: Duration,
    /// Give the lease back when the process ends.
    pub release_on_exit: bool,
}

impl Lease {
    /// A lease with upstream's times: held 15 s, given up after 10 s without renewal, tried every 2 s.
    #[must_use]
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
            release_on_exit: true,
        }
    }

    /// How long the leader's part may take to stop after the lease was lost.
    pub(crate) fn margin(&self) -> Duration {
        self.duration.saturating_sub(self.renew_deadline)
    }

    /// Competes for the lease until told to stop; tells whether it is held.
    pub(crate) async fn elect(
        self,
        client: Client,
        random: Source,
        sight: LeaseSight,
        leading: watch::Sender<bool>,
        stop: CancellationToken,
    ) {
        let api = Api::namespaced(client.clone(), &self.namespace);
        let recorder = Recorder::new(client, &self.identity);
        let mut candidate = Candidate { lease: self, api, observed: None, leads: false, sight };
        candidate.tell();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = candidate.acquire(&random) => {}
            }
            tracing::info!(lease = candidate.lease.name, "became leader");
            candidate.announce(&recorder);
            candidate.lead(true);
            leading.send_replace(true);
            let stopped = tokio::select! {
                biased;
                () = stop.cancelled() => true,
                () = candidate.hold() => false,
            };
            candidate.lead(false);
            leading.send_replace(false);
            if stopped {
                candidate.release().await;
                return;
            }
            tracing::warn!(lease = candidate.lease.name, "lost the lease");
        }
    }
}

struct Candidate {
    lease: Lease,
    api: Api<Record>,
    observed: Option<Observed>,
    leads: bool,
    sight: LeaseSight,
}

/// The lease as it was last seen to change, and when that was by our own clock.
#[derive(Clone)]
struct Observed {
    record: Record,
    at: Instant,
}

/// What a look at the lease leads to.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Create,
    Take,
    Renew,
    Wait,
}

fn decide(me: &str, observed: Option<&Observed>, now: Instant) -> Decision {
    let Some(observed) = observed else { return Decision::Create };
    let spec = observed.record.spec.as_ref();
    let holder = spec.and_then(|s| s.holder_identity.as_deref()).unwrap_or_default();
    if holder == me {
        return Decision::Renew;
    }
    let trusted =
        spec.and_then(|s| s.lease_duration_seconds).and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
    if !holder.is_empty() && now < observed.at + Duration::from_secs(trusted) {
        return Decision::Wait;
    }
    Decision::Take
}

impl Candidate {
    /// Tries until the lease is held.
    async fn acquire(&mut self, random: &Source) {
        while !self.attempt().await {
            tokio::time::sleep(random.jitter(self.lease.retry, JITTER)).await;
        }
    }

    /// Renews until that was impossible for too long.
    async fn hold(&mut self) {
        let mut deadline = Instant::now() + self.lease.renew_deadline;
        loop {
            tokio::time::sleep(self.lease.retry).await;
            match tokio::time::timeout_at(deadline, self.attempt()).await {
                Ok(true) => deadline = Instant::now() + self.lease.renew_deadline,
                Ok(false) if Instant::now() < deadline && self.may_still_hold() => {}
                _ => return,
            }
        }
    }

    /// False once another holds the lease.
    fn may_still_hold(&self) -> bool {
        decide(&self.lease.identity, self.observed.as_ref(), Instant::now()) != Decision::Wait
    }

    /// One try to take or renew the lease; true if it is held afterwards.
    async fn attempt(&mut self) -> bool {
        let limit = self.lease.renew_deadline / 2;
        match tokio::time::timeout(limit, self.look_and_act()).await {
            Ok(Ok(held)) => held,
            Ok(Err(error)) => {
                tracing::debug!(lease = self.lease.name, %error, "the lease was not acquired or renewed");
                false
            }
            Err(_) => false,
        }
    }

    async fn look_and_act(&mut self) -> kube::Result<bool> {
        self.observe(self.api.get_opt(&self.lease.name).await?);
        let decision = decide(&self.lease.identity, self.observed.as_ref(), Instant::now());
        if decision == Decision::Wait {
            return Ok(false);
        }
        let record = self.next(&decision);
        let params = PostParams::default();
        let written = match decision {
            Decision::Create => self.api.create(&params, &record).await?,
            _ => self.api.replace(&self.lease.name, &params, &record).await?,
        };
        self.observe(Some(written));
        Ok(true)
    }

    fn lead(&mut self, leads: bool) {
        self.leads = leads;
        self.tell();
    }

    /// Says who holds the lease.
    fn tell(&self) {
        let spec = self.observed.as_ref().and_then(|seen| seen.record.spec.as_ref());
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        self.sight.saw(holder, self.leads);
    }

    fn observe(&mut self, record: Option<Record>) {
        self.take_in(record);
        self.tell();
    }

    fn take_in(&mut self, record: Option<Record>) {
        let Some(record) = record else {
            self.observed = None;
            return;
        };
        let unchanged = self.observed.as_ref().is_some_and(|seen| seen.record.spec == record.spec);
        let at = match &self.observed {
            Some(seen) if unchanged => seen.at,
            _ => Instant::now(),
        };
        self.observed = Some(Observed { record, at });
    }

    /// The lease as it is to be written.
    fn next(&self, decision: &Decision) -> Record {
        let now: MicroTime = clock::micro_time();
        let mut record = self.observed.as_ref().map(|seen| seen.record.clone()).unwrap_or_default();
        let was = record.spec.take().unwrap_or_default();
        let seconds = i32::try_from(self.lease.duration.as_secs()).unwrap_or(i32::MAX);
        let (acquired, transitions) = match decision {
            Decision::Renew => (was.acquire_time, was.lease_transitions),
            Decision::Create => (Some(now.clone()), Some(0)),
            Decision::Take | Decision::Wait => {
                (Some(now.clone()), Some(was.lease_transitions.unwrap_or(0) + 1))
            }
        };
        record.metadata = ObjectMeta {
            name: Some(self.lease.name.clone()),
            namespace: Some(self.lease.namespace.clone()),
            ..record.metadata
        };
        record.spec = Some(LeaseSpec {
            holder_identity: Some(self.lease.identity.clone()),
            lease_duration_seconds: Some(seconds),
            acquire_time: acquired,
            renew_time: Some(now),
            lease_transitions: transitions,
            ..LeaseSpec::default()
        });
        record
    }

    /// Gives the lease back.
    async fn release(&mut self) {
        let Some(observed) = self.observed.clone().filter(|_| self.lease.release_on_exit) else { return };
        let mut record = observed.record;
        let transitions = record.spec.as_ref().and_then(|s| s.lease_transitions);
        let now = clock::micro_time();
        record.spec = Some(LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: transitions,
            ..LeaseSpec::default()
        });
        let params = PostParams::default();
        let write = self.api.replace(&self.lease.name, &params, &record);
        if !matches!(tokio::time::timeout(self.lease.retry, write).await, Ok(Ok(_))) {
            tracing::warn!(lease = self.lease.name, "the lease could not be given back and will run out");
        }
    }

    fn announce(&self, recorder: &Recorder) {
        if let Some(observed) = &self.observed {
            let note = format!("{} became leader", self.lease.identity);
            recorder.event(&observed.record, EventType::Normal, "LeaderElection", note);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(holder: &str, at: Instant) -> Observed {
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        };
        Observed { record: Record { spec: Some(spec), ..Record::default() }, at }
    }

    #[test]
    fn decisions() {
        let at = Instant::now();
        let later = |seconds| at + Duration::from_secs(seconds);
        let other = seen("other", at);
        assert_eq!(decide("me", None, at), Decision::Create);
        assert_eq!(decide("me", Some(&other), later(14)), Decision::Wait);
        assert_eq!(decide("me", Some(&other), later(15)), Decision::Take);
        assert_eq!(decide("me", Some(&seen("me", at)), later(99)), Decision::Renew);
        assert_eq!(decide("me", Some(&seen("", at)), later(1)), Decision::Take, "given back");
    }
}
