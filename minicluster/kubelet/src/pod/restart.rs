//! When a container that ended is started again, and how long that waits. Upstream: 10 s doubling to 5 min, forgotten
//! after 10 quiet minutes; `restartPolicy` of the pod, overridden by the container's own policy and rules.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::{Role, restart_policy};
use crate::runtime::{self, ContainerState};

/// First delay.
pub const INITIAL: Duration = Duration::from_secs(10);
/// Longest delay.
pub const MAX: Duration = Duration::from_secs(300);

/// A delay that doubles with each failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The delay in force.
    pub delay: Duration,
    /// When it was last raised.
    pub updated: Timestamp,
}

impl Backoff {
    /// The delay after a failure at `event`: doubled, or the first one when there was none or it was long ago.
    pub fn next(current: Option<Self>, event: Timestamp, now: Timestamp) -> Self {
        match current {
            Some(b) if !b.expired(event) => Self { delay: (b.delay * 2).min(MAX), updated: now },
            _ => Self { delay: INITIAL, updated: now },
        }
    }

    /// The moment until which a failure at `event` still waits; `None` when it does not.
    pub fn holds(&self, event: Timestamp, now: Timestamp) -> Option<Timestamp> {
        if self.expired(event) {
            return None;
        }
        let until = event + jiff::SignedDuration::try_from(self.delay).unwrap_or_default();
        (now < until).then_some(until)
    }

    fn expired(&self, event: Timestamp) -> bool {
        event.duration_since(self.updated) > jiff::SignedDuration::try_from(MAX * 2).unwrap_or_default()
    }
}

/// `10s`, `1m20s`, `5m0s`: durations as Go prints them in messages.
pub fn go_duration(d: Duration) -> String {
    let seconds = d.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

/// An instance that is not running is to be replaced by a new one.
pub fn restarts(pod: &Pod, role: Role, spec: &Container, last: Option<&runtime::Container>) -> bool {
    let Some(last) = last else { return true };
    match last.state {
        ContainerState::Running => return false,
        ContainerState::Created | ContainerState::Unknown => return role != Role::Ephemeral,
        ContainerState::Exited => {}
    }
    match role {
        Role::Ephemeral => return false,
        Role::Sidecar => return true,
        // An init container never runs again after success, whatever the policy.
        Role::Init if last.exit_code == 0 => return false,
        Role::Init | Role::App => {}
    }
    if let Some(true) = rule(spec, last.exit_code) {
        return true;
    }
    match spec.restart_policy.as_deref().unwrap_or_else(|| restart_policy(pod)) {
        "Never" => false,
        "OnFailure" => last.exit_code != 0,
        _ => true,
    }
}

/// What the first matching restart rule of the container says.
fn rule(spec: &Container, code: i32) -> Option<bool> {
    let matched = spec.restart_policy_rules.iter().flatten().find(|r| {
        let Some(codes) = &r.exit_codes else { return false };
        let listed = codes.values.iter().flatten().any(|v| *v == code);
        if codes.operator == "NotIn" { !listed } else { listed }
    })?;
    Some(matched.action == "Restart")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn delays_double_and_are_forgotten_after_ten_minutes() {
        let first = Backoff::next(None, at(0), at(0));
        let mut seen = vec![first.delay.as_secs()];
        let mut b = first;
        let mut now = 0;
        for _ in 0..6 {
            now += 5;
            b = Backoff::next(Some(b), at(now), at(now));
            seen.push(b.delay.as_secs());
        }
        assert_eq!(seen, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(Backoff::next(Some(b), at(now + 600), at(now + 600)).delay, MAX);
        assert_eq!(Backoff::next(Some(b), at(now + 601), at(now + 601)).delay, INITIAL);
    }

    #[test]
    fn a_failure_waits_its_delay_and_no_longer() {
        let b = Backoff { delay: Duration::from_secs(20), updated: at(100) };
        assert_eq!(b.holds(at(110), at(129)), Some(at(130)));
        assert_eq!(b.holds(at(110), at(130)), None);
    }

    #[test]
    fn durations_read_as_go_prints_them() {
        let shown = [10, 20, 80, 300, 3700].map(|s| go_duration(Duration::from_secs(s)));
        assert_eq!(shown, ["10s", "20s", "1m20s", "5m0s", "1h1m40s"]);
    }
}
