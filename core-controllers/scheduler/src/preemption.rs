//! DefaultPreemption: which pods of lower priority have to go so that this one fits.
//!
//! Source: `pkg/scheduler/framework/plugins/defaultpreemption`. Disruption budgets are not consulted yet.

use std::sync::Arc;

use crate::{
    cycle::{Cycle, Refusals},
    plugin::{Point, Preemption},
    pod::PodInfo,
    profile::{Part, Profile},
    snapshot::{Index, Snapshot},
};

/// The most nodes that are tried.
const CANDIDATES_MAX: usize = 100;

/// What the first plugin that knows how to make room says.
pub(crate) fn first(
    profile: &Profile,
    pod: &PodInfo,
    snapshot: &mut Snapshot,
    refusals: &Refusals,
) -> Option<Preemption> {
    profile.at(Point::PostFilter).iter().find_map(|enabled| match &enabled.part {
        Part::Builtin(_) => plan(profile, pod, snapshot, refusals),
        Part::Own(plugin) => plugin.post_filter(&Cycle::begun(pod, snapshot, profile), refusals),
    })
}

/// The cheapest plan, if there is any.
pub(crate) fn plan(
    profile: &Profile,
    pod: &PodInfo,
    snapshot: &mut Snapshot,
    refusals: &Refusals,
) -> Option<Preemption> {
    let spec = pod.pod.spec.as_ref()?;
    if spec.preemption_policy.as_deref() == Some("Never") {
        return None;
    }
    let candidates: Vec<Index> = match &refusals.all {
        Some(refusal) if refusal.final_ => Vec::new(),
        Some(_) => (0..snapshot.len()).take(CANDIDATES_MAX).collect(),
        None => {
            let possible = refusals.by_node.iter().filter(|(_, r)| !r.final_);
            possible.map(|(at, _)| *at).take(CANDIDATES_MAX).collect()
        }
    };
    let plans = candidates.into_iter().filter_map(|at| victims(profile, pod, snapshot, at));
    plans.min_by_key(|plan| {
        let highest = plan.victims.iter().map(|v| v.priority()).max().unwrap_or(i32::MIN);
        let sum: i64 = plan.victims.iter().map(|v| i64::from(v.priority()) + i64::from(i32::MAX) + 1).sum();
        (highest, sum, plan.victims.len(), plan.node)
    })
}

/// The fewest and least important pods of one node whose absence lets the pod fit.
fn victims(profile: &Profile, pod: &PodInfo, snapshot: &mut Snapshot, at: Index) -> Option<Preemption> {
    let name = Arc::clone(&snapshot.names[at]);
    let mut lower: Vec<Arc<PodInfo>> =
        snapshot.pods[at].iter().filter(|p| p.priority() < pod.priority()).cloned().collect();
    if lower.is_empty() {
        return None;
    }
    let fits = |snapshot: &Snapshot| {
        Cycle::begin(pod, snapshot, profile).is_ok_and(|cycle| cycle.refusal(at).is_none())
    };
    for victim in &lower {
        snapshot.remove_pod(victim.uid());
    }
    let possible = fits(snapshot);
    // The most important come back first, as many as there is room for.
    lower.sort_by(|a, b| b.priority().cmp(&a.priority()).then_with(|| a.uid().cmp(b.uid())));
    let mut victims = Vec::new();
    for candidate in &lower {
        snapshot.set_pod(Arc::clone(candidate), &name);
        if possible && !fits(snapshot) {
            snapshot.remove_pod(candidate.uid());
            victims.push(Arc::clone(candidate));
        }
    }
    for victim in &victims {
        snapshot.set_pod(Arc::clone(victim), &name);
    }
    (possible && !victims.is_empty()).then_some(Preemption { node: at, victims })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cycle::{Decision, decide};

    #[test]
    fn the_least_important_pods_go_and_no_more_than_needed() {
        let mut snapshot = Snapshot::default();
        for name in ["a", "b"] {
            let node = json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "9"}}});
            snapshot.set_node(Arc::new(serde_json::from_value(node).unwrap()));
        }
        let pod = |name: &str, priority: i32, cpu: &str| {
            let pod = json!({"metadata": {"name": name, "uid": name}, "spec": {"priority": priority,
                "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
            PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap()))
        };
        snapshot.set_pod(pod("a1", 5, "1"), "a");
        snapshot.set_pod(pod("a2", 1, "1"), "a");
        snapshot.set_pod(pod("b1", 50, "2"), "b");
        let important = pod("p", 10, "1");
        let before = format!("{:?}", (&snapshot.requested, snapshot.pods[0].len()));
        let Decision::Unschedulable(refusals) =
            decide(&important, &snapshot, &mut 0, &windlass::random::Source::seeded(1))
        else {
            panic!("it fits")
        };
        let profile = Profile::standard();
        let plan = plan(profile, &important, &mut snapshot, &refusals).unwrap();
        assert_eq!(&*snapshot.names[plan.node], "a");
        assert_eq!(plan.victims.iter().map(|v| v.uid()).collect::<Vec<_>>(), ["a2"]);
        assert_eq!(format!("{:?}", (&snapshot.requested, snapshot.pods[0].len())), before);
        assert!(super::plan(profile, &pod("q", 0, "1"), &mut snapshot, &refusals).is_none());
    }
}
