//! Probes: when they run, what they count, and what follows from it.
//!
//! Each (container instance, probe) has a task of its own that ends with the instance. Thresholds are counted purely
//! ([`Counter`]); a changed outcome is written to the pod's memory and the pod is looked at again.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use windlass::clock;

use crate::events::Kind;
use crate::pod::{FailedProbe, Role};
use crate::runtime::ProbeKind;
use crate::worker::{Cell, Shared};

#[cfg(feature = "cri")]
pub mod dial;

/// Consecutive outcomes of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counter {
    successes: i32,
    failures: i32,
    success_threshold: i32,
    failure_threshold: i32,
}

impl Counter {
    /// Nothing seen yet.
    pub fn new(probe: &Probe) -> Self {
        Self {
            successes: 0,
            failures: 0,
            success_threshold: probe.success_threshold.unwrap_or(1).max(1),
            failure_threshold: probe.failure_threshold.unwrap_or(3).max(1),
        }
    }

    /// One more outcome; the verdict once a threshold is reached.
    pub fn count(&mut self, success: bool) -> Option<bool> {
        if success {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
            (self.successes >= self.success_threshold).then_some(true)
        } else {
            self.successes = 0;
            self.failures = self.failures.saturating_add(1);
            (self.failures >= self.failure_threshold).then_some(false)
        }
    }
}

/// The probes of a container.
pub fn probes(spec: &Container) -> impl Iterator<Item = (ProbeKind, &Probe)> {
    [
        (ProbeKind::Startup, spec.startup_probe.as_ref()),
        (ProbeKind::Liveness, spec.liveness_probe.as_ref()),
        (ProbeKind::Readiness, spec.readiness_probe.as_ref()),
    ]
    .into_iter()
    .filter_map(|(kind, probe)| Some((kind, probe?)))
}

fn seconds(value: Option<i32>, default: u64, least: u64) -> Duration {
    let asked = value.and_then(|v| u64::try_from(v).ok()).unwrap_or(default);
    Duration::from_secs(asked.max(least))
}

/// What a probe task needs to know.
pub(crate) struct Watched {
    pub(crate) role: Role,
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) kind: ProbeKind,
    pub(crate) started_at: jiff::Timestamp,
}

/// Probes one container instance until the task is aborted or a restart is due.
pub(crate) async fn run(shared: Arc<Shared>, cell: Arc<Cell>, watched: Watched, probe: Probe) {
    let period = seconds(probe.period_seconds, 10, 1);
    let initial = seconds(probe.initial_delay_seconds, 0, 0);
    tokio::time::sleep(clock::until(watched.started_at + initial)).await;
    let mut counter = Counter::new(&probe);
    loop {
        if due(&cell, &watched) {
            let outcome = once(&shared, &cell, &watched, &probe).await;
            if let Err(message) = &outcome {
                complain(&shared, &cell, &watched, message);
            }
            if let Some(verdict) = counter.count(outcome.is_ok())
                && settle(&shared, &cell, &watched, verdict)
            {
                return;
            }
        }
        tokio::time::sleep(period).await;
    }
}

/// Liveness and readiness wait for the start; startup is over once it succeeded.
fn due(cell: &Cell, watched: &Watched) -> bool {
    let started = cell.with_memory(|m| m.health(&watched.name, &watched.id).is_some_and(|h| h.started));
    match watched.kind {
        ProbeKind::Startup => !started,
        ProbeKind::Liveness | ProbeKind::Readiness => started,
    }
}

fn complain(shared: &Shared, cell: &Cell, watched: &Watched, message: &str) {
    let message = format!("{:?} probe failed: {message}", watched.kind);
    shared.events.container(&cell.pod(), watched.role, &watched.name, Kind::Warning, "Unhealthy", message);
}

/// Takes a verdict in; true when this probe has nothing more to do.
fn settle(shared: &Arc<Shared>, cell: &Arc<Cell>, watched: &Watched, verdict: bool) -> bool {
    let (changed, over) = cell.with_memory(|memory| {
        let health = &mut memory.container(&watched.name).health;
        if health.container_id != watched.id {
            return (false, true);
        }
        let before = health.clone();
        match (watched.kind, verdict) {
            (ProbeKind::Startup, true) => health.started = true,
            (ProbeKind::Startup, false) => health.failed = Some(FailedProbe::Startup),
            (ProbeKind::Liveness, true) => {}
            (ProbeKind::Liveness, false) => health.failed = Some(FailedProbe::Liveness),
            (ProbeKind::Readiness, ready) => health.ready = ready,
        }
        let over = health.failed.is_some() || (watched.kind == ProbeKind::Startup && verdict);
        (before != *health, over)
    });
    if changed {
        shared.poke(cell);
    }
    over
}

async fn once(shared: &Shared, cell: &Cell, watched: &Watched, probe: &Probe) -> Result<(), String> {
    let timeout = seconds(probe.timeout_seconds, 1, 1);
    if let Some(outcome) = shared.runtime.probe(&watched.id, watched.kind).await {
        return outcome;
    }
    let pod = cell.pod();
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        return match shared.runtime.exec_sync(&watched.id, &command, timeout).await {
            Ok(output) if output.exit_code == 0 => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()),
            Err(crate::runtime::RuntimeError::Timeout(_)) => {
                Err(format!("command timed out: {command:?} timed out after {}s", timeout.as_secs()))
            }
            Err(error) => Err(error.to_string()),
        };
    }
    network(&pod, cell, watched, probe, timeout).await
}

#[cfg(feature = "cri")]
async fn network(
    pod: &Pod,
    cell: &Cell,
    watched: &Watched,
    probe: &Probe,
    timeout: Duration,
) -> Result<(), String> {
    let ip = cell.pod_ips().first().cloned().unwrap_or_default();
    let spec = crate::pod::container(pod, &watched.name).map(|(_, c)| c.into_owned()).unwrap_or_default();
    let work = dial::probe(&spec, &ip, probe);
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| Err("context deadline exceeded".into()))
}

#[cfg(not(feature = "cri"))]
async fn network(_: &Pod, _: &Cell, _: &Watched, _: &Probe, _: Duration) -> Result<(), String> {
    Err("this kubelet has no network".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_needs_its_threshold_in_a_row() {
        let probe = Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Probe::default() };
        let mut counter = Counter::new(&probe);
        let outcomes = [true, false, false, true, true, false, false, false, false];
        let verdicts: Vec<_> = outcomes.iter().map(|o| counter.count(*o)).collect();
        let expected = [None, None, None, None, Some(true), None, None, Some(false), Some(false)];
        assert_eq!(verdicts, expected);
    }
}
