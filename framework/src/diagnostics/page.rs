//! The page that people read: what matters first, columns that line up, ages instead of dates.

use std::fmt::{self, Write};

use jiff::Timestamp;

use super::{ControllerState, Diagnostics, Doing, LeaseState, ShardState, WatchState};

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.leases.iter().try_for_each(|lease| writeln!(f, "{}", leads(lease, self.at)))?;
        self.shards.iter().try_for_each(|shards| writeln!(f, "{}", shares(shards)))?;
        if !self.leases.is_empty() || !self.shards.is_empty() {
            writeln!(f)?;
        }
        if self.controllers.is_empty() {
            writeln!(f, "no controller runs here")?;
        }
        for controller in &self.controllers {
            f.write_str(&works(controller, self.at))?;
        }
        if !self.watches.is_empty() {
            writeln!(f)?;
            f.write_str(&table(&self.watches, self.at))?;
        }
        if self.more_watches > 0 {
            writeln!(f, "and {} more watches", self.more_watches)?;
        }
        for (name, cluster) in &self.clusters {
            writeln!(f, "\ncluster {name}")?;
            for line in cluster.to_string().lines() {
                writeln!(f, "{}{line}", if line.is_empty() { "" } else { "  " })?;
            }
        }
        Ok(())
    }
}

fn leads(lease: &LeaseState, at: Timestamp) -> String {
    let LeaseState { lease: name, identity, holder, leads, since } = lease;
    let age = between(*since, at);
    if *leads {
        return format!("leads by the lease {name} for {age}, as {identity}");
    }
    let holder = if holder.is_empty() { "nobody" } else { holder };
    format!("waits for the lease {name} for {age}, as {identity}; {holder} holds it")
}

fn shares(shards: &ShardState) -> String {
    let ShardState { group, identity, roster, members, settled, owned, held, busy } = shards;
    let settled = if *settled { "settled" } else { "not settled" };
    format!(
        "shares {group} with {} members by roster {roster}, {settled}, as {identity}: \
         {owned} of 256 slots, {held} of them held, {busy} busy",
        members.len()
    )
}

fn works(controller: &ControllerState, at: Timestamp) -> String {
    let ControllerState { name, workers, in_flight, retrying, scheduled, totals, .. } = controller;
    let held = in_flight.iter().filter(|key| key.held).count();
    let mut text = format!("{name}: ");
    if !controller.started {
        text += "waits for its caches; ";
    }
    let ready: usize = controller.ready.values().sum();
    let _ =
        write!(text, "{} of {workers} workers busy, {held} keys held, {ready} ready", in_flight.len() - held);
    if ready > 0 {
        let by: Vec<String> = controller.ready.iter().rev().map(|(p, n)| format!("{n} at {p}")).collect();
        let _ = write!(text, " ({})", by.join(", "));
    }
    let _ = writeln!(text, ", {scheduled} scheduled, {} retrying", retrying.len());
    let _ = writeln!(
        text,
        "  so far: {} succeeded, {} requeued, {} failed ({} terminal, {} panicked, {} timed out)",
        totals.succeeded, totals.requeued, totals.failed, totals.terminal, totals.panicked, totals.timed_out
    );
    for key in in_flight {
        let (age, name) = (between(key.since, at), &key.key);
        let _ = match key.held {
            false => writeln!(text, "  works on {name} for {age}"),
            true => writeln!(text, "  holds {name} for {age}, until the caches have what it wrote"),
        };
    }
    for key in retrying {
        let (name, failures, wait) = (&key.key, key.failures, between(at, key.until));
        let _ = write!(text, "  retries {name} in {wait}, after {failures} failures");
        let _ = match &key.error {
            Some(error) => writeln!(text, ": {error}"),
            None => writeln!(text),
        };
    }
    if controller.more_keys > 0 {
        let _ = writeln!(text, "  and {} more keys", controller.more_keys);
    }
    text
}

const HEAD: [&str; 8] =
    ["WATCH", "STATE", "OBJECTS", "REVISION", "LAST EVENT", "LAST HEARD", "RELISTS", "RESTARTS"];

fn table(watches: &[WatchState], at: Timestamp) -> String {
    let age = |then: Option<Timestamp>| then.map_or_else(|| "never".to_owned(), |then| between(then, at));
    let mut rows = vec![(HEAD.map(str::to_owned), None)];
    for watch in watches {
        let state = match watch.state {
            Doing::Listing => "listing",
            Doing::Watching => "watching",
            Doing::Failing => "failing",
        };
        let metadata = if watch.metadata_only { " (metadata)" } else { "" };
        let row = [
            format!("{}{metadata}", watch.path),
            state.to_owned(),
            watch.objects.to_string(),
            watch.revision.to_string(),
            age(watch.last_event),
            age(watch.last_heard),
            watch.relists.to_string(),
            watch.restarts.to_string(),
        ];
        rows.push((row, watch.reason.as_ref()));
    }
    let width = |column: usize| rows.iter().map(|(row, _)| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 8] = std::array::from_fn(width);
    let mut text = String::new();
    for (row, reason) in &rows {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
        if let Some(reason) = reason {
            let _ = writeln!(text, "  {reason}");
        }
    }
    text
}

/// How long it is from one moment to another, as kubectl would say it.
fn between(from: Timestamp, to: Timestamp) -> String {
    let millis = to.duration_since(from).as_millis().max(0);
    let seconds = millis / 1000;
    match seconds {
        0 => format!("{millis}ms"),
        1..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use expect_test::expect;

    use super::*;
    use crate::diagnostics::{InFlight, Retrying, Totals};

    #[test]
    fn a_page_for_people() {
        let at: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let ago = |seconds: i64| Timestamp::from_second(at.as_second() - seconds).unwrap();
        let watch = |path: &str, state, reason: Option<&str>| WatchState {
            kind: "Sail".to_owned(),
            path: path.to_owned(),
            metadata_only: false,
            state,
            reason: reason.map(str::to_owned),
            revision: 4711,
            objects: 12,
            skipped: 0,
            last_event: Some(ago(7)),
            last_heard: Some(ago(0)),
            relists: 0,
            restarts: 31,
        };
        let controller = ControllerState {
            name: "rigger".to_owned(),
            started: true,
            workers: 5,
            ready: BTreeMap::from([(0, 3), (-100, 40)]),
            scheduled: 9,
            in_flight: vec![
                InFlight { key: "sea/main".to_owned(), since: ago(130), held: false },
                InFlight { key: "sea/jib".to_owned(), since: ago(0), held: true },
            ],
            retrying: vec![Retrying {
                key: "sea/torn".to_owned(),
                failures: 7,
                until: ago(-40),
                error: Some("no cloth".to_owned()),
            }],
            more_keys: 2,
            totals: Totals { succeeded: 90, requeued: 3, failed: 8, panicked: 1, ..Totals::default() },
        };
        let member = Diagnostics {
            at,
            watches: vec![watch("/api/v1/secrets", Doing::Failing, Some("the server refused: Forbidden"))],
            ..Diagnostics::default()
        };
        let page = Diagnostics {
            at,
            leases: vec![LeaseState {
                lease: "sea/rigger".to_owned(),
                identity: "a_1".to_owned(),
                holder: "a_1".to_owned(),
                leads: true,
                since: ago(90_000),
            }],
            controllers: vec![controller],
            watches: vec![watch("/apis/harbour.dev/v1/sails?area>3", Doing::Watching, None)],
            clusters: BTreeMap::from([("north".to_owned(), member)]),
            ..Diagnostics::default()
        };
        expect![[r"
            leads by the lease sea/rigger for 25h, as a_1

            rigger: 1 of 5 workers busy, 1 keys held, 43 ready (3 at 0, 40 at -100), 9 scheduled, 1 retrying
              so far: 90 succeeded, 3 requeued, 8 failed (0 terminal, 1 panicked, 0 timed out)
              works on sea/main for 2m
              holds sea/jib for 0ms, until the caches have what it wrote
              retries sea/torn in 40s, after 7 failures: no cloth
              and 2 more keys

            WATCH                              STATE     OBJECTS  REVISION  LAST EVENT  LAST HEARD  RELISTS  RESTARTS
            /apis/harbour.dev/v1/sails?area>3  watching  12       4711      7s          0ms         0        31

            cluster north
              no controller runs here

              WATCH            STATE    OBJECTS  REVISION  LAST EVENT  LAST HEARD  RELISTS  RESTARTS
              /api/v1/secrets  failing  12       4711      7s          0ms         0        31
                the server refused: Forbidden
        "]]
        .assert_eq(&page.to_string());
        let json = serde_json::to_string(&page).unwrap();
        assert_eq!(serde_json::from_str::<Diagnostics>(&json).unwrap(), page);
    }
}
