//! NodeResourcesFit and NodeResourcesBalancedAllocation.

use std::borrow::Cow;

use super::{Refusal, SCORE_MAX};
use crate::{cycle::Cycle, snapshot::Index};

const FIT: &str = "NodeResourcesFit";

pub(super) fn fit(cycle: &Cycle<'_>, at: Index) -> Option<Refusal> {
    let (have, taken, want) =
        (&cycle.snapshot.allocatable[at], &cycle.snapshot.requested[at], &cycle.pod.requests);
    let mut reasons: Vec<Cow<'static, str>> = Vec::new();
    let mut too_big = false;
    if taken.pods + 1 > have.pods {
        reasons.push("Too many pods".into());
    }
    let mut check = |name: &str, want: i64, have: i64, taken: i64| {
        if want > 0 && want > have - taken {
            reasons.push(format!("Insufficient {name}").into());
            too_big |= want > have;
        }
    };
    check("cpu", want.milli_cpu, have.milli_cpu, taken.milli_cpu);
    check("memory", want.memory, have.memory, taken.memory);
    check("ephemeral-storage", want.ephemeral_storage, have.ephemeral_storage, taken.ephemeral_storage);
    for (name, amount) in &want.others {
        let of = |all: &std::collections::BTreeMap<String, i64>| all.get(name).copied().unwrap_or(0);
        check(name, *amount, of(&have.others), of(&taken.others));
    }
    // Where the node is too small for the pod alone, making room does not help.
    (!reasons.is_empty()).then_some(Refusal { plugin: FIT, reasons, final_: too_big })
}

/// CPU and memory as (wanted in total with this pod, allocatable).
fn usage(cycle: &Cycle<'_>, at: Index) -> [(i64, i64); 2] {
    let (have, taken, want) =
        (&cycle.snapshot.allocatable[at], &cycle.snapshot.scored[at], &cycle.pod.scored);
    [(taken.milli_cpu + want.milli_cpu, have.milli_cpu), (taken.memory + want.memory, have.memory)]
}

/// The emptier, the better.
pub(super) fn least_allocated(cycle: &Cycle<'_>, at: Index) -> i64 {
    let scores = usage(cycle, at)
        .map(|(used, have)| if have == 0 || used > have { 0 } else { (have - used) * SCORE_MAX / have });
    scores.iter().sum::<i64>() / 2
}

/// The fuller, the better.
pub(super) fn most_allocated(cycle: &Cycle<'_>, at: Index) -> i64 {
    let scores =
        usage(cycle, at).map(|(used, have)| if have == 0 { 0 } else { used.min(have) * SCORE_MAX / have });
    scores.iter().sum::<i64>() / 2
}

/// The more alike the used fractions of CPU and memory, the better.
pub(super) fn balanced(cycle: &Cycle<'_>, at: Index) -> i64 {
    let (have, taken, want) =
        (&cycle.snapshot.allocatable[at], &cycle.snapshot.requested[at], &cycle.pod.requests);
    if want.milli_cpu == 0 && want.memory == 0 {
        return 0;
    }
    #[expect(clippy::cast_precision_loss, reason = "a score needs two digits")]
    let fraction = |used: i64, have: i64| if have == 0 { 1.0 } else { (used as f64 / have as f64).min(1.0) };
    let cpu = fraction(taken.milli_cpu + want.milli_cpu, have.milli_cpu);
    let memory = fraction(taken.memory + want.memory, have.memory);
    let deviation = ((cpu - memory) / 2.0).abs();
    #[expect(clippy::cast_possible_truncation, reason = "between 0 and 100")]
    let score = ((1.0 - deviation) * 100.0) as i64;
    score
}
