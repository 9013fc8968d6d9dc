//! Requests and limits as cgroup values: milli-CPUs to shares and quota, memory to bytes.

use k8s_openapi::api::core::v1::{Container, Pod};

use super::amount::{Amounts, milli_of, value_of};
use crate::runtime::Resources;

/// Length of a CFS period in microseconds.
const PERIOD: i64 = 100_000;
/// Smallest quota the kernel takes, in microseconds.
const MIN_QUOTA: i64 = 1000;
/// Smallest number of shares the kernel takes.
const MIN_SHARES: i64 = 2;
/// Largest number of shares the kernel takes.
const MAX_SHARES: i64 = 262_144;

/// CPU shares of a request in milli-CPUs.
pub fn shares(milli: i64) -> i64 {
    (milli * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// CFS quota of a limit in milli-CPUs; zero means none.
pub fn quota(milli: i64) -> i64 {
    if milli == 0 { 0 } else { (milli * PERIOD / 1000).max(MIN_QUOTA) }
}

/// The limits of a container, without its OOM score.
pub fn limits(_pod: &Pod, container: &Container) -> Resources {
    let resources = container.resources.as_ref();
    let (requests, limits): (Option<&Amounts>, Option<&Amounts>) =
        (resources.and_then(|r| r.requests.as_ref()), resources.and_then(|r| r.limits.as_ref()));
    let limit = milli_of(limits, "cpu");
    let request = match requests.is_some_and(|r| r.contains_key("cpu")) {
        true => milli_of(requests, "cpu"),
        false => limit,
    };
    Resources {
        cpu_period: PERIOD,
        cpu_quota: quota(limit),
        cpu_shares: shares(request),
        memory_limit: value_of(limits, "memory"),
        oom_score_adj: 0,
    }
}

/// The two differ in something a running container can change. A runtime reports "no quota" as zero or −1.
pub fn differ(have: &Resources, wanted: &Resources) -> bool {
    have.cpu_quota.max(0) != wanted.cpu_quota.max(0)
        || shares_differ(have.cpu_shares, wanted.cpu_shares)
        || have.memory_limit.max(0) != wanted.memory_limit.max(0)
}

/// Shares pass through cgroup v2's weight scale and come back rounded.
fn shares_differ(have: i64, wanted: i64) -> bool {
    have != 0 && (have - wanted).abs() > wanted / 26 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_becomes_shares_and_quota() {
        let shown: Vec<_> = [0, 1, 100, 1000, 1_000_000].iter().map(|m| (shares(*m), quota(*m))).collect();
        assert_eq!(shown, [(2, 0), (2, 1000), (102, 10_000), (1024, 100_000), (262_144, 100_000_000)]);
    }

    #[test]
    fn a_cpu_limit_without_request_is_the_request() {
        let c: Container =
            serde_json::from_str(r#"{"name":"a","resources":{"limits":{"cpu":"500m","memory":"64Mi"}}}"#)
                .unwrap();
        let got = limits(&Pod::default(), &c);
        assert_eq!((got.cpu_shares, got.cpu_quota, got.memory_limit), (512, 50_000, 64 << 20));
    }
}
