//! Wall time that follows tokio's clock.
//!
//! The process captures one pair of (wall time, monotonic time) at first use. From then on "now" is that wall time plus
//! what tokio's clock says has passed. Under `start_paused` the wall clock therefore stands still and jumps with
//! virtual time; outside any runtime it runs as usual. A step of the machine's own clock is never followed: leases and
//! grace periods measure what passed, not what the clock on the wall was set to.

use std::{sync::OnceLock, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use tokio::time::Instant;

struct Epoch {
    wall: Timestamp,
    instant: Instant,
}

fn epoch() -> &'static Epoch {
    static EPOCH: OnceLock<Epoch> = OnceLock::new();
    EPOCH.get_or_init(capture)
}

#[expect(clippy::disallowed_methods, reason = "the one place where the machine's clock is read")]
fn capture() -> Epoch {
    let wall = Timestamp::try_from(std::time::SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH);
    Epoch { wall, instant: Instant::from_std(std::time::Instant::now()) }
}

/// The wall time, derived from tokio's clock.
#[must_use]
pub fn now() -> Timestamp {
    at(Instant::now())
}

/// The wall time that belongs to an instant of tokio's clock, past or future.
#[must_use]
pub fn at(instant: Instant) -> Timestamp {
    let epoch = epoch();
    let passed = if instant >= epoch.instant {
        signed(instant - epoch.instant)
    } else {
        -signed(epoch.instant - instant)
    };
    epoch.wall.checked_add(passed).unwrap_or(epoch.wall)
}

/// The wall time as a Kubernetes `Time`, cut to whole seconds as the API stores it.
#[must_use]
pub fn time() -> Time {
    Time(Timestamp::from_second(now().as_second()).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// The wall time as a Kubernetes `MicroTime`.
#[must_use]
pub fn micro_time() -> MicroTime {
    MicroTime(Timestamp::from_microsecond(now().as_microsecond()).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// How long ago `then` was; zero when it lies in the future.
#[must_use]
pub fn since(then: Timestamp) -> Duration {
    now().duration_since(then).try_into().unwrap_or(Duration::ZERO)
}

/// How long it is until `then`; zero when it has passed.
#[must_use]
pub fn until(then: Timestamp) -> Duration {
    then.duration_since(now()).try_into().unwrap_or(Duration::ZERO)
}

fn signed(d: Duration) -> SignedDuration {
    SignedDuration::try_from(d).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn wall_time_follows_virtual_time() {
        let before = now();
        assert_eq!(now(), before, "a paused clock stands still");
        tokio::time::advance(Duration::from_hours(5)).await;
        assert_eq!(now().duration_since(before), SignedDuration::from_hours(5));
        assert_eq!(since(before), Duration::from_hours(5));
        assert_eq!(until(before), Duration::ZERO);
    }

    #[test]
    fn works_outside_any_runtime() {
        let (a, b) = (now(), now());
        assert!(b >= a);
        assert_eq!(time().0.subsec_nanosecond(), 0);
        assert_eq!(micro_time().0.subsec_nanosecond() % 1000, 0);
    }
}
