//! What an operator is doing with an object just now, and what keeps it from it. Pure.

use jiff::Timestamp;
use windlass::diagnostics::{ControllerState, Doing, WatchState};

use super::report::{Facts, keys};

/// One line for each thing that concerns the object or its family.
pub(super) fn doing(facts: &Facts, now: Timestamp) -> Vec<String> {
    let keys = keys(facts);
    let mut lines: Vec<String> =
        facts.doing.controllers.iter().flat_map(|controller| about(controller, &keys, now)).collect();
    lines.extend(facts.doing.watches.iter().filter_map(stands_still));
    let waits = facts.doing.leases.iter().filter(|lease| !lease.leads);
    lines.extend(waits.map(|lease| {
        format!("it waits for the lease {}, which {:?} holds: ask that replica", lease.lease, lease.holder)
    }));
    lines
}

fn about(controller: &ControllerState, keys: &[String], now: Timestamp) -> Vec<String> {
    let name = &controller.name;
    let mut lines = Vec::new();
    if !controller.started {
        lines.push(format!("{name} waits for its caches"));
    }
    for work in controller.in_flight.iter().filter(|work| keys.contains(&work.key)) {
        let (key, seconds) = (&work.key, seconds(work.since, now));
        lines.push(match work.held {
            false => format!("{name} works on {key} for {seconds} s"),
            true => format!("{name} holds {key} for {seconds} s, until its caches have what it wrote"),
        });
    }
    for wait in controller.retrying.iter().filter(|wait| keys.contains(&wait.key)) {
        let (key, failures, seconds) = (&wait.key, wait.failures, seconds(now, wait.until));
        lines.push(format!("{name} tries {key} again in {seconds} s, after {failures} failures"));
    }
    lines
}

fn stands_still(watch: &WatchState) -> Option<String> {
    let reason = watch.reason.as_deref().unwrap_or("it does not say why");
    (watch.state == Doing::Failing).then(|| format!("its watch of {} stands still: {reason}", watch.path))
}

fn seconds(from: Timestamp, to: Timestamp) -> i64 {
    to.duration_since(from).as_secs().max(0)
}
