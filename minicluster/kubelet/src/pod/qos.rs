//! The quality-of-service class of a pod, and the OOM score that follows from it.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use super::amount::{milli_of, value_of};

/// A pod's class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Every container has limits for CPU and memory, equal to its requests.
    Guaranteed,
    /// Some container asks for something.
    Burstable,
    /// No container asks for anything.
    BestEffort,
}

impl Class {
    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The class of a pod.
pub fn class(pod: &Pod) -> Class {
    let Some(spec) = &pod.spec else { return Class::BestEffort };
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let of_containers: Vec<_> = all.map(|c| c.resources.as_ref()).collect();
    let asked = match &spec.resources {
        Some(own) => vec![Some(own)],
        None => of_containers,
    };
    if asked.iter().all(|r| r.is_none_or(nothing)) {
        return Class::BestEffort;
    }
    if asked.iter().all(|r| r.is_some_and(guaranteed)) { Class::Guaranteed } else { Class::Burstable }
}

fn nothing(r: &ResourceRequirements) -> bool {
    ["cpu", "memory"]
        .iter()
        .all(|name| milli_of(r.requests.as_ref(), name) == 0 && milli_of(r.limits.as_ref(), name) == 0)
}

fn guaranteed(r: &ResourceRequirements) -> bool {
    ["cpu", "memory"].iter().all(|name| {
        let limit = milli_of(r.limits.as_ref(), name);
        let request = r.requests.as_ref().and_then(|a| a.get(*name)).map_or(limit, super::amount::milli);
        limit > 0 && request == limit
    })
}

/// The OOM score adjustment of a container: critical and guaranteed pods −997, best effort 1000, in between by the
/// share of the node's memory that was asked for.
pub fn oom_score_adj(pod: &Pod, container: &Container, node_memory: i64) -> i64 {
    let critical = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or_default() >= 2_000_000_000;
    match class(pod) {
        _ if critical => -997,
        Class::Guaranteed => -997,
        Class::BestEffort => 1000,
        Class::Burstable => {
            let resources = container.resources.as_ref();
            let asked = value_of(resources.and_then(|r| r.requests.as_ref()), "memory");
            let share = i128::from(asked) * 1000 / i128::from(node_memory.max(1));
            (1000 - i64::try_from(share).unwrap_or(1000)).clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: &str) -> Pod {
        serde_json::from_str(&format!(
            r#"{{"spec":{{"containers":[{{"name":"a","resources":{resources}}}]}}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn classes() {
        let cases = [
            ("{}", Class::BestEffort),
            (r#"{"requests":{"cpu":"1"}}"#, Class::Burstable),
            (r#"{"limits":{"cpu":"1","memory":"1Gi"}}"#, Class::Guaranteed),
            (
                r#"{"limits":{"cpu":"1","memory":"1Gi"},"requests":{"cpu":"1000m","memory":"1Gi"}}"#,
                Class::Guaranteed,
            ),
            (r#"{"limits":{"cpu":"1"}}"#, Class::Burstable),
            (r#"{"requests":{"example.com/gpu":"1"}}"#, Class::BestEffort),
        ];
        for (resources, expected) in cases {
            assert_eq!(class(&pod(resources)), expected, "{resources}");
        }
    }

    #[test]
    fn oom_scores_follow_the_share_of_memory() {
        let p = pod(r#"{"requests":{"memory":"1Gi"}}"#);
        let score = oom_score_adj(&p, &p.spec.as_ref().unwrap().containers[0], 4 << 30);
        assert_eq!(score, 750);
    }
}
