//! The store as a state machine: preconditions in, changes out. No I/O, no clock, no locks.
//!
//! The map is persistent (structure-sharing), so that the state before a batch is kept for the price of a pointer: it
//! is what readers see until the batch is durable, and what the core returns to when the engine refuses it.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock, atomic::AtomicU32},
};

use imbl::{OrdMap, OrdSet};

use crate::model::{Entry, Event, EventKind, LeaseId, Op, Outcome, Revision, StoreError, Txn};

/// The whole state at one revision.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) revision: Revision,
    pub(crate) entries: OrdMap<Arc<str>, Arc<Entry>>,
    pub(crate) leases: OrdMap<LeaseId, Lease>,
    pub(crate) next_lease: LeaseId,
    pub(crate) value_bytes: u64,
}

/// A lease and the keys that live as long as it does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lease {
    pub(crate) ttl_seconds: u64,
    pub(crate) keys: OrdSet<Arc<str>>,
}

impl State {
    /// Applies one transaction; appends what changed to `events`.
    pub(crate) fn stage(&mut self, txn: &Txn, events: &mut Vec<Event>) -> Result<Outcome, StoreError> {
        let holds =
            |c: &crate::Compare| self.entries.get(&c.key).map_or(0, |e| e.mod_revision) == c.mod_revision;
        if !txn.compares.iter().all(holds) {
            let current = txn.compares.iter().map(|c| self.entries.get(&c.key).cloned()).collect();
            return Ok(Outcome::Conflict { current });
        }
        self.check_leases(txn)?;
        let revision = self.revision + 1;
        let before = events.len();
        let entries = txn.ops.iter().map(|op| self.change(op, revision, events)).collect();
        if events.len() > before {
            self.revision = revision;
        }
        Ok(Outcome::Committed { revision: self.revision, entries })
    }

    fn check_leases(&self, txn: &Txn) -> Result<(), StoreError> {
        for op in &txn.ops {
            if let Op::Put { lease, .. } = op
                && *lease != 0
                && !self.leases.contains_key(lease)
            {
                return Err(StoreError::LeaseNotFound(*lease));
            }
        }
        Ok(())
    }

    fn change(&mut self, op: &Op, revision: Revision, events: &mut Vec<Event>) -> Option<Arc<Entry>> {
        let prev = self.entries.get(op.key()).cloned();
        if let Some(prev) = &prev {
            self.detach(prev);
            self.value_bytes -= prev.value.len() as u64;
        }
        match op {
            Op::Put { key, payload, lease } => {
                let entry = Arc::new(Entry {
                    key: prev.as_ref().map_or_else(|| Arc::clone(key), |p| Arc::clone(&p.key)),
                    value: payload.at(revision),
                    create_revision: prev.as_ref().map_or(revision, |p| p.create_revision),
                    mod_revision: revision,
                    version: prev.as_ref().map_or(1, |p| p.version + 1),
                    lease: *lease,
                    stamp: payload.stamp,
                    seal: AtomicU32::new(0),
                    tag: OnceLock::new(),
                });
                self.value_bytes += entry.value.len() as u64;
                self.entries.insert(Arc::clone(&entry.key), Arc::clone(&entry));
                if let Some(lease) = self.leases.get_mut(lease) {
                    lease.keys.insert(Arc::clone(&entry.key));
                }
                events.push(Event { revision, kind: EventKind::Put, entry: Arc::clone(&entry), prev });
                Some(entry)
            }
            Op::Delete { key } => {
                let prev = prev?;
                self.entries.remove(key);
                events.push(Event {
                    revision,
                    kind: EventKind::Delete,
                    entry: Arc::clone(&prev),
                    prev: Some(Arc::clone(&prev)),
                });
                Some(prev)
            }
        }
    }

    fn detach(&mut self, entry: &Entry) {
        if let Some(lease) = self.leases.get_mut(&entry.lease) {
            lease.keys.remove(&entry.key);
        }
    }

    /// Makes a lease; its keys are deleted when the caller revokes it.
    pub(crate) fn grant(&mut self, ttl_seconds: u64) -> LeaseId {
        self.next_lease += 1;
        self.leases.insert(self.next_lease, Lease { ttl_seconds, keys: OrdSet::new() });
        self.next_lease
    }

    /// Ends a lease and deletes its keys, all at one revision.
    pub(crate) fn revoke(&mut self, id: LeaseId, events: &mut Vec<Event>) {
        let Some(lease) = self.leases.remove(&id) else { return };
        let revision = self.revision + 1;
        let before = events.len();
        for key in &lease.keys {
            self.change(&Op::Delete { key: Arc::clone(key) }, revision, events);
        }
        if events.len() > before {
            self.revision = revision;
        }
    }

    /// Takes over what an engine had kept.
    pub(crate) fn restore(image: crate::Image) -> Self {
        let mut leases: BTreeMap<LeaseId, Lease> = image
            .leases
            .into_iter()
            .map(|(id, ttl_seconds)| (id, Lease { ttl_seconds, keys: OrdSet::new() }))
            .collect();
        let mut state = Self { revision: image.revision, next_lease: image.next_lease, ..Self::default() };
        for entry in image.entries {
            state.value_bytes += entry.value.len() as u64;
            if let Some(lease) = leases.get_mut(&entry.lease) {
                lease.keys.insert(Arc::clone(&entry.key));
            }
            state.entries.insert(Arc::clone(&entry.key), Arc::new(entry));
        }
        state.leases = leases.into_iter().collect();
        state
    }
}
