//! Wall time that follows tokio's clock.
//!
//! The process captures one pair of (wall time, monotonic time) at first use. From then on "now" is that wall time plus
//! what tokio's clock says has passed. Under `start_paused` the wall clock therefore stands still and jumps with
//! virtual time; outside any runtime it runs as usual. A step of the machine's own clock is never followed: leases and
//! grace periods measure what passed, not what the clock on the wall was set to.
//!
//! A simulation starts its wall clock where it wants ([`simulate`]), or two runs of one seed would differ by the fraction
//! of a second at which they happened to begin.

use std::{
    cell::RefCell,
    sync::OnceLock,
    thread::{self, ThreadId},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use tokio::time::Instant;

#[derive(Clone, Copy)]
struct Epoch {
    wall: Timestamp,
    instant: Instant,
}

thread_local! {
    /// The epoch of a simulation on this thread, and how many hold it.
    static SIMULATED: RefCell<Option<(Epoch, usize)>> = const { RefCell::new(None) };
}

fn epoch() -> Epoch {
    static EPOCH: OnceLock<Epoch> = OnceLock::new();
    let simulated = SIMULATED.with_borrow(|simulated| simulated.map(|(epoch, _)| epoch));
    simulated.unwrap_or_else(|| *EPOCH.get_or_init(capture))
}

/// Keeps the wall clock of a simulation; dropping the last one on a thread returns to the machine's.
#[must_use = "dropping it returns to the machine's wall clock"]
#[derive(Debug)]
pub struct Simulated {
    /// Dropped on another thread it changes nothing.
    thread: ThreadId,
}

impl Simulated {
    /// Sets the wall clock forward or back, as somebody does who puts it right. Does nothing on another thread.
    pub fn step(&self, by: SignedDuration) {
        if self.thread != thread::current().id() {
            return;
        }
        SIMULATED.with_borrow_mut(|simulated| {
            if let Some((epoch, _)) = simulated {
                epoch.wall = epoch.wall.saturating_add(by).unwrap_or(epoch.wall);
            }
        });
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        if self.thread != thread::current().id() {
            return;
        }
        SIMULATED.with_borrow_mut(|simulated| {
            *simulated = simulated.take().and_then(|(epoch, held)| Some((epoch, held.checked_sub(1)?)));
            simulated.take_if(|(_, held)| *held == 0);
        });
    }
}

/// Lets the wall clock of this thread start at `wall`, now. Where it is simulated already, it goes on as it is.
///
/// Made for a runtime that lives on one thread, with time paused.
pub fn simulate(wall: Timestamp) -> Simulated {
    SIMULATED.with_borrow_mut(|simulated| {
        simulated.get_or_insert((Epoch { wall, instant: Instant::now() }, 0)).1 += 1;
    });
    Simulated { thread: thread::current().id() }
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

    #[tokio::test(start_paused = true)]
    async fn a_simulation_starts_where_it_wants_and_ends_with_its_last_holder() {
        let wall: Timestamp = "2000-01-01T00:00:00Z".parse().unwrap();
        let first = simulate(wall);
        assert_eq!(now(), wall);
        tokio::time::advance(Duration::from_secs(7)).await;
        let second = simulate(wall);
        drop(first);
        assert_eq!(now(), "2000-01-01T00:00:07Z".parse().unwrap());
        drop(second);
        assert!(now() > wall + Duration::from_hours(24));
    }

    #[test]
    fn works_outside_any_runtime() {
        let (a, b) = (now(), now());
        assert!(b >= a);
        assert_eq!(time().0.subsec_nanosecond(), 0);
        assert_eq!(micro_time().0.subsec_nanosecond() % 1000, 0);
    }
}
